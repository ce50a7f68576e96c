#!/usr/bin/env python3
"""Instructions and cache misses of whole programs under each allocator, simulated by callgrind: the same on a noisy machine
as on a quiet one, and the same twice.

    bench/simulate.py [--build BUILD] [--only PATTERN] [--scale S] [--variants NAMES]

The programs are run.py's real and synthetic ones, without redis; the caches a first level of 48 KiB and a last one of 2 MiB,
what a core of today has to itself. Kernel, TLB and waiting for other cores are not in it. Standard library only."""
import argparse
import concurrent.futures
import fnmatch
import math
import os
import re
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import run  # noqa: E402  (beside this file)

CACHES = ("--I1=32768,8,64", "--D1=49152,12,64", "--LL=2097152,16,64")
COLUMNS = ("instructions", "first-level misses", "last-level misses")
DEFAULT = "glibc,jemalloc,mimalloc,mimalloc+16,memscope"
PADS = {"mimalloc+8": "pad8.so", "mimalloc+16": "pad16.so"}


class Simulator(run.Stopwatch):
    """Runs a program in callgrind; each call may come from another thread."""

    def run(self, variant, command, environment=None, stdin=None, times=1):
        with tempfile.TemporaryDirectory(dir=os.path.dirname(self.report)) as where:
            counts, output = os.path.join(where, "counts"), os.path.join(where, "output")
            settings = {"LD_PRELOAD": variant["path"], "MEMSCOPE_CONF": variant["conf"] or "", **(environment or {})}
            with open(stdin or os.devnull, "rb") as source, open(output, "wb") as sink:
                done = subprocess.run(["valgrind", "--tool=callgrind", "--cache-sim=yes", *CACHES,
                                       f"--callgrind-out-file={counts}", *command], env={**os.environ, **settings},
                                      stdin=source, stdout=sink, stderr=subprocess.PIPE, text=True)
            if done.returncode:
                raise RuntimeError(f"exit status {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
            return {"wall": self.read(counts)}

    @staticmethod
    def read(path):
        with open(path) as file:
            lines = dict(re.findall(r"^(events|summary|totals): (.*)$", file.read(), re.MULTILINE))
        count = dict(zip(lines["events"].split(), map(int, lines.get("summary", lines.get("totals")).split())))
        return (count["Ir"], count["D1mr"] + count["D1mw"], count["DLmr"] + count["DLmw"] + count["ILmr"])

    def digest(self):
        return None


def find_variants(build, names):
    """run.py's, and mimalloc with room for a header."""
    variants = run.find_variants(build, [name for name in names if name not in PADS], False)
    mimalloc = run.peer_libraries().get("libmimalloc.so.2")
    for name in set(names) & set(PADS):
        pad = os.path.join(build, "bench", PADS[name])
        if mimalloc and os.path.exists(pad):
            variants.append({"name": name, "path": f"{pad} {mimalloc}", "conf": None, "skipped": None})
    found = {variant["name"]: variant for variant in variants if not variant["skipped"]}
    return [found[name] for name in names if name in found]


def simulate(benches, variants):
    """(bench, variant) -> counts, two at a time."""
    def one(pair):
        bench, variant = pair
        run.say(f"\r\x1b[K{bench.group}/{bench.name} with {variant['name']}", end="")
        return bench.measure(variant)["value"]

    pairs = [(bench, variant) for bench in benches for variant in variants]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        counts = list(pool.map(one, pairs))
    run.say("\r\x1b[K", end="")
    return {(bench.name, variant["name"]): count for (bench, variant), count in zip(pairs, counts)}


def table(benches, variants, counts):
    """Of the first variant millions, of the others the ratio to it; geometric means below."""
    names = [variant["name"] for variant in variants]
    for column, title in enumerate(COLUMNS):
        print(f"\n| {title} | {names[0]}, millions | " + " | ".join(names[1:]) + " |")
        print("|---|" + "---|" * len(names))
        ratios = {name: [] for name in names[1:]}
        for bench in benches:
            first = counts[bench.name, names[0]][column]
            cells = [f"{first / 1e6:.3f}"]
            for name in names[1:]:
                ratios[name].append(counts[bench.name, name][column] / first)
                cells.append(f"{ratios[name][-1]:.2f}")
            print(f"| {bench.name} | " + " | ".join(cells) + " |")
        means = (math.exp(sum(map(math.log, values)) / len(values)) for values in ratios.values())
        print("| geometric mean | | " + " | ".join(f"{mean:.2f}" for mean in means) + " |")


def main():
    parser = argparse.ArgumentParser(description="Instructions and simulated cache misses of whole programs.")
    parser.add_argument("--build", default=".", help="the build directory (default: here)")
    parser.add_argument("--only", metavar="PATTERN", default="real/*", help="rows to run (default: 'real/*')")
    parser.add_argument("--scale", type=float, default=0.05, help="length of each run (default: 0.05)")
    parser.add_argument("--variants", default=DEFAULT, help=f"as in run.py, and {', '.join(PADS)} (default: {DEFAULT})")
    options = parser.parse_args()
    options.build = os.path.abspath(options.build)
    if not run.output_of("valgrind", "--version"):
        sys.exit("simulate.py: valgrind is missing: apt-get install valgrind")
    run.clean_environment()
    variants = find_variants(options.build, options.variants.split(","))
    if not variants:
        sys.exit("simulate.py: none of these allocators is here: " + options.variants)
    with tempfile.TemporaryDirectory(prefix="memscope-bench-") as where:
        watch = Simulator(options.build, where)
        found = run.real_benches(watch, where, options.scale) + run.synthetic_benches(watch, options.build, options.scale)
        benches = [bench for bench in found
                   if bench.name != "redis" and fnmatch.fnmatch(f"{bench.group}/{bench.name}", options.only)]
        if not benches:
            sys.exit(f"simulate.py: no row matches {options.only}")
        for bench in benches:
            if bench.prepare:
                bench.prepare()
        table(benches, variants, simulate(benches, variants))
    return 0


if __name__ == "__main__":
    sys.exit(main())
