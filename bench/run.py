#!/usr/bin/env python3
"""Runs the benches: every allocator in turn (A B C A B C), then medians, ratios and a report. See README.md.

Standard library only. Owns a temporary directory with the inputs, removed at the end. The JSON it writes holds every
single measurement; report.py makes table, HTML and Markdown of it, and of nothing else."""
import argparse
import fnmatch
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

import report  # noqa: E402  (beside this file)
from real import programs, server  # noqa: E402

TIMEOUT = 300
QUICK_BUDGET = 150  # seconds after which --quick begins no further round
MEMSCOPE = "libmemscope_malloc.so"

# name, library, Debian package, MEMSCOPE_CONF, when: in --quick too, in a full run, or only when named
VARIANTS = (
    ("glibc", "libc.so.6", "libc6", None, "quick"),
    ("jemalloc", "libjemalloc.so.2", "libjemalloc2", None, "quick"),
    ("mimalloc", "libmimalloc.so.2", "libmimalloc2.0", None, "quick"),
    ("tcmalloc", "libtcmalloc_minimal.so.4", "libtcmalloc-minimal4", None, "quick"),
    ("memscope", MEMSCOPE, None, "", "quick"),
    ("memscope-off", MEMSCOPE, None, "mode:off", "quick"),
    ("memscope-task", MEMSCOPE, None, "mode:task", "full"),
    ("memscope-sampled", MEMSCOPE, None, "mode:sampled", "full"),
    ("memscope-exact", MEMSCOPE, None, "mode:exact", "full"),
    ("memscope+mimalloc", MEMSCOPE, None, "backend:mimalloc", "full"),
    ("memscope+system", MEMSCOPE, None, "backend:system", "full"),
    ("heaptrack", "libc.so.6", "heaptrack", None, "named"),
    ("heaptrack-recorder", "/usr/lib/heaptrack/libheaptrack_preload.so", "libheaptrack", None, "named"),
)
WRAPPERS = {"heaptrack": ["sh", os.path.join(HERE, "heaptrack.sh")]}  # commands that run the program
SETTINGS = {"heaptrack-recorder": ["DUMP_HEAPTRACK_OUTPUT=/dev/null"]}


def say(text, end="\n"):
    print(text, end=end, file=sys.stderr, flush=True)


def output_of(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


# ---- what there is to compare ---------------------------------------------------------------------------------------


def peer_libraries():
    """soname -> path, as the dynamic linker would find it."""
    found = {}
    for line in output_of("/sbin/ldconfig", "-p").splitlines():
        name, arrow, path = line.partition(" => ")
        if arrow and "x86-64" in name:
            found.setdefault(name.split()[0], path)
    return found


def memscope_library(build):
    for path in (os.path.join(build, ".libs", MEMSCOPE), os.path.join(build, MEMSCOPE)):
        if os.path.exists(path):
            return os.path.abspath(path)
    return None


def conf_complaint(library, conf):
    """What the library says about its configuration; a backend that is not built in is such a complaint."""
    environment = {**os.environ, "LD_PRELOAD": library, "MEMSCOPE_CONF": conf}
    done = subprocess.run(["/bin/true"], env=environment, capture_output=True, text=True)
    return done.stderr.strip() or (f"exit status {done.returncode}" if done.returncode else "")


def find_variants(build, wanted, quick):
    """The variants to run, each with where its library is, or with the reason why it is skipped."""
    peers, variants = peer_libraries(), []
    others = [(name, MEMSCOPE, None, "", None) for name in wanted or () if name.startswith("memscope@")]
    for name, library, package, conf, when in (*VARIANTS, *others):
        if name not in wanted if wanted is not None else when not in (("quick",) if quick else ("quick", "full")):
            continue
        path = memscope_library(name.partition("@")[2] or build) if conf is not None else peers.get(library, library)
        version = output_of("dpkg-query", "-W", "-f", "${Version}", package) if package else None
        skipped = None
        if path is None or not os.path.exists(path) or package and not version:
            skipped = f"{library} is not " + ("built" if conf is not None else f"installed: apt-get install {package}")
        elif conf:
            skipped = conf_complaint(path, conf) or None
        variants.append({"name": name, "library": library, "path": path, "conf": conf,
                         "peer": conf is None and when != "named", "version": version or None, "skipped": skipped})
        if skipped:
            say(f"skipped: {name}: {skipped}")
    return variants


def preload_settings(variant):
    """glibc is preloaded too: redis-server is linked to jemalloc, and would use that."""
    settings = ["-e", f"LD_PRELOAD={variant['path']}"]
    settings += [word for setting in SETTINGS.get(variant["name"], ()) for word in ("-e", setting)]
    return settings + (["-e", f"MEMSCOPE_CONF={variant['conf']}"] if variant["conf"] else [])


# ---- measuring one run ----------------------------------------------------------------------------------------------


class Stopwatch:
    """Runs commands through the launch program and reads its report."""

    def __init__(self, build, where):
        self.launch = os.path.join(build, "bench", "launch")
        self.report = os.path.join(where, "cost")
        self.output = os.path.join(where, "output")

    def command(self, variant, command, environment=None, times=1):
        extra = [word for name, value in (environment or {}).items() for word in ("-e", f"{name}={value}")]
        return [self.launch, "-n", str(times), *extra, *preload_settings(variant), self.report,
                *WRAPPERS.get(variant["name"], ()), *command]

    def cost(self, times=1):
        with open(self.report) as file:
            wall, user, system, rss, faults, _waits, _preempted, status = map(int, file.read().split())
        if status:
            raise RuntimeError(f"signal {status & 127}" if status & 127 else f"exit status {status >> 8}")
        return {"wall": wall / 1e9 / times, "cpu": (user + system) / 1e6 / times, "system": system / 1e6 / times,
                "rss": rss, "faults": faults}

    def run(self, variant, command, environment=None, stdin=None, times=1):
        """The cost of a run, and what it printed as a path."""
        for leftover in (self.report, self.output):
            if os.path.exists(leftover):
                os.unlink(leftover)
        with open(stdin or os.devnull, "rb") as source, open(self.output, "wb") as sink:
            done = subprocess.run(self.command(variant, command, environment, times), stdin=source, stdout=sink,
                                  stderr=subprocess.PIPE, timeout=TIMEOUT)
        try:
            return self.cost(times)
        except (OSError, RuntimeError) as error:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise RuntimeError(f"{error}{': ' + said[-1] if said else ''}") from None

    def digest(self):
        with open(self.output, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()[:16]


class Bench:
    """One row: group, name, unit of `value`, and measure(variant) -> a sample; prepare() once before."""

    def __init__(self, group, name, meaning, unit, measure, prepare=None):
        self.group, self.name, self.meaning, self.unit = group, name, meaning, unit
        self.measure, self.prepare = measure, prepare


def table_of(program):
    """Names and meanings, as `PROGRAM list` prints them."""
    for line in output_of(program, "list").splitlines():
        name, _, meaning = line.partition(" ")
        yield name, meaning.strip()


def real_benches(watch, where, scale):
    def measure(program, variant):
        if program.server:
            return server.measure(watch, program, variant, where, scale)
        sample = watch.run(variant, program.command, program.environment, program.stdin or None)
        return {**sample, "value": sample["wall"], "digest": watch.digest()}

    def bench(program):
        return Bench("real", program.name, program.meaning, "s", lambda v: measure(program, v), program.make)

    found = programs.all_programs(where, scale)
    for program in found:
        if not program.command:
            say(f"skipped: {program.name}: not installed")
    return [bench(program) for program in found if program.command]


def synthetic_benches(watch, build, scale):
    program = os.path.join(build, "bench", "synth")

    def measure(name, variant):
        sample = watch.run(variant, [program, name, str(scale)])
        return {**sample, "value": sample["wall"], "digest": watch.digest()}

    def bench(name, meaning):
        return Bench("synthetic", name, meaning, "s", lambda variant: measure(name, variant))

    return [bench(name, meaning) for name, meaning in table_of(program)]


def micro_benches(watch, build, scale):
    """A micro case prints its own result, and `-` where the allocator has no such thing."""
    program = os.path.join(build, "bench", "micro")

    def measure(name, variant):
        sample = watch.run(variant, [program, name, str(scale)])
        with open(watch.output) as file:
            value, unit = file.read().split(None, 1)
        return {**sample, "value": None if value == "-" else float(value), "unit": unit.strip()}

    def group(name):
        return "memory" if name.endswith("-rss") else "growth" if name.startswith("grow-1M") else "micro"

    def bench(name, meaning):
        return Bench(group(name), name, meaning, "", lambda variant: measure(name, variant))

    return [bench(name, meaning) for name, meaning in table_of(program)]


def start_up_bench(watch, times):
    def measure(variant):
        sample = watch.run(variant, ["/bin/true"], times=times)
        return {**sample, "value": sample["wall"] * 1e3}

    return Bench("start", "start-up", f"/bin/true, mean of {times} runs", "ms", measure)


# ---- the run --------------------------------------------------------------------------------------------------------


def collect(benches, variants, rounds, budget):
    """Rounds outside, variants inside: a slow minute of the machine hits every variant of a row alike. Each round begins
    with another variant, as the first one after another program is slower than the same one later (about 1 %)."""
    variants = [variant for variant in variants if not variant["skipped"]]
    rows = [{"group": b.group, "name": b.name, "meaning": b.meaning, "unit": b.unit, "samples": {}, "errors": {}}
            for b in benches]
    start, total = time.monotonic(), rounds * len(benches)
    for turn in range(rounds):
        for number, (bench, row) in enumerate(zip(benches, rows)):
            if turn > 0 and budget and time.monotonic() - start > budget:
                continue
            say(f"\r\x1b[K[{turn * len(benches) + number + 1}/{total}] {time.monotonic() - start:4.0f} s  "
                f"round {turn + 1}  {bench.group}/{bench.name}", end="")
            first = turn % len(variants) if variants else 0
            for variant in variants[first:] + variants[:first]:
                measure_into(row, bench, variant)
    say(f"\r\x1b[K{time.monotonic() - start:.0f} s, {len(benches)} benches")
    return rows


def measure_into(row, bench, variant):
    name = variant["name"]
    if name in row["errors"]:
        return
    try:
        sample = bench.measure(variant)
        expected = row.setdefault("digest", sample.get("digest"))
        if sample.pop("digest", None) != expected:
            raise RuntimeError("its output differs from the first allocator's")
    except (RuntimeError, subprocess.SubprocessError, OSError, ValueError) as error:
        row["errors"][name] = str(error)
        say(f"\r\x1b[KERROR: {bench.group}/{bench.name} with {name}: {error}")
        return
    row["unit"] = sample.pop("unit", row["unit"]) if sample["value"] is not None else row["unit"]
    row["samples"].setdefault(name, []).append(sample)


def machine():
    with open("/proc/cpuinfo") as file:
        model = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), None)
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    system = platform.freedesktop_os_release().get("PRETTY_NAME")
    return {"cpu": model, "cores": os.cpu_count(), "memory_gib": round(pages / 2**30, 1), "kernel": platform.release(),
            "system": system, "load_before": os.getloadavg()[0]}


def program_versions():
    packages = ["sqlite3", "python3", "redis-server", "gcc", "perl", "lua5.4", "jq", "gawk", "git", "libc6"]
    return {name: output_of("dpkg-query", "-W", "-f", "${Version}", name) or None for name in packages}


def arguments():
    parser = argparse.ArgumentParser(description="Measures memscope beside other allocators.")
    parser.add_argument("--build", default=".", help="the build directory (default: here)")
    parser.add_argument("--quick", action="store_true",
                        help="short runs, fewer variants, two rounds: under three minutes")
    parser.add_argument("--only", metavar="PATTERN", default="*", help="rows to run, like 'synthetic/*' or '*pair-64*'")
    parser.add_argument("--rounds", type=int, help="how often each row is run (default: 5; quick: 2)")
    parser.add_argument("--scale", type=float, help="length of each run (default: 1; quick: 0.15)")
    parser.add_argument("--variants", help="names joined by commas, the last two only so: " + ", ".join(v[0] for v in VARIANTS) +
                        "; memscope@DIR is the library in another build directory")
    parser.add_argument("--json", metavar="FILE", help="write all measurements")
    parser.add_argument("--html", metavar="FILE", help="write a page with bars")
    parser.add_argument("--markdown", metavar="RESULTS", help="run nothing: print Markdown made of a JSON file")
    return parser.parse_args()


def chosen_benches(options, where, scale):
    watch = Stopwatch(options.build, where)
    benches = (real_benches(watch, where, scale) + synthetic_benches(watch, options.build, scale)
               + micro_benches(watch, options.build, scale) + [start_up_bench(watch, 50 if options.quick else 500)])
    chosen = [bench for bench in benches if fnmatch.fnmatch(f"{bench.group}/{bench.name}", options.only)]
    for bench in chosen:
        if bench.prepare:
            say(f"\r\x1b[Kmaking the input of {bench.name}", end="")
            bench.prepare()
    return chosen


STEERING = ("LD_PRELOAD", "MEMSCOPE", "MALLOC_", "MIMALLOC_", "TCMALLOC_", "GLIBC_TUNABLES", "PYTHON", "LC_")


def clean_environment():
    for name in list(os.environ):
        if name.startswith(STEERING):
            del os.environ[name]
    os.environ["LC_ALL"] = "C.UTF-8"


def measure_all(options):
    scale = options.scale or (0.15 if options.quick else 1)
    variants = find_variants(options.build, options.variants and options.variants.split(","), options.quick)
    results = {"memscope_bench": 1, "date": time.strftime("%Y-%m-%d %H:%M:%S %z"), "quick": options.quick,
               "scale": scale, "commit": output_of("git", "-C", HERE, "describe", "--always", "--dirty") or None,
               "machine": machine(), "programs": program_versions(), "variants": variants}
    with tempfile.TemporaryDirectory(prefix="memscope-bench-") as where:
        benches = chosen_benches(options, where, scale)
        if not benches:
            sys.exit(f"run.py: no row matches {options.only}")
        results["rows"] = collect(benches, variants, options.rounds or (2 if options.quick else 5),
                                  QUICK_BUDGET if options.quick else None)
    for variant in variants:
        variant.pop("path")
    return results


def write(path, text):
    with open(path, "w") as file:
        file.write(text)
    say(f"wrote {path}")


def main():
    options = arguments()
    if options.markdown:
        with open(options.markdown) as file:
            print(report.markdown(json.load(file)))
        return 0
    options.build = os.path.abspath(options.build)
    if not os.path.exists(os.path.join(options.build, "bench", "launch")):
        sys.exit(f"run.py: the bench programs are not built in {options.build}: make bench")
    clean_environment()
    results = measure_all(options)
    print(report.table(results))
    if options.json:
        write(options.json, json.dumps(results, indent=1))
    if options.html:
        write(options.html, report.html(results))
    return 1 if any(row["errors"] for row in results["rows"]) else 0


if __name__ == "__main__":
    sys.exit(main())
