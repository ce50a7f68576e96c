"""Every knob of tracking/knobs.def changes behaviour, refuses bad values with one line and the default, and shows in
the data. A knob without a function knob_NAME below fails."""
import contextlib
import fcntl
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

BUILD, SOURCE = os.environ["top_builddir"], os.environ["top_srcdir"]
PROBE = os.path.join(BUILD, "tests", "knob_probe")

results = {"passed": 0, "failed": 0}


def check(condition, message):
    results["passed" if condition else "failed"] += 1
    if not condition:
        print(f"FAILED: {message}")


def knobs():
    """name -> (kind, list of the remaining arguments as written)"""
    with open(os.path.join(SOURCE, "tracking", "knobs.def"), encoding="utf-8") as file:
        text = re.sub(r"/\*.*?\*/", "", file.read(), flags=re.S)
    found = {}
    for kind, arguments in re.findall(r"^MS_KNOB_(\w+)\((.*?)\)$", text, flags=re.S | re.M):
        parts = [part.strip() for part in re.findall(r'\s*((?:"(?:[^"\\]|\\.)*"\s*)+|[^,]+)(?:,|$)', arguments)]
        found[parts[0]] = (kind, [part.strip('"') for part in parts[1:]])
    return found


def probe(conf, what="work", snapshot=True, program=PROBE, prefix=()):
    """(output, stderr, exit status, snapshot or None)"""
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "snapshot.json")
        command = [*prefix, program, what] + ([path] if snapshot else [])
        done = subprocess.run(command, env={**os.environ, "MEMSCOPE_CONF": conf}, cwd=directory, timeout=120,
                              capture_output=True, text=True, check=False)
        data = None
        if snapshot and os.path.exists(path) and os.path.getsize(path):
            with open(path, encoding="utf-8") as file:
                data = json.load(file)
        return done.stdout, done.stderr, done.returncode, data


def snapshot(conf, what="work"):
    _, errors, status, data = probe(conf, what)
    check(status == 0 and errors == "" and data is not None, f"{conf}: exit status {status}, stderr {errors!r}")
    return data if data is not None else probe("mode:hybrid", what)[3]


def files_left(conf):
    """What the run leaves in its directory, by name, and the process id."""
    with tempfile.TemporaryDirectory() as directory:
        with subprocess.Popen([PROBE, "usable"], env={**os.environ, "MEMSCOPE_CONF": conf}, cwd=directory,
                              stdout=subprocess.DEVNULL) as process:
            process.wait(timeout=120)
        left = {}
        for where, _, names in os.walk(directory):
            for name in names:
                path = os.path.join(where, name)
                with open(path, "rb") as file:
                    left[os.path.relpath(path, directory)] = file.read()
        return left, process.pid


# ---- one function a knob

def knob_mode():
    off, exact, sampled, task, hybrid = (snapshot(f"mode:{mode}") for mode in ("off", "exact", "sampled", "task", "hybrid"))
    for mode, data in (("off", off), ("exact", exact), ("sampled", sampled), ("task", task), ("hybrid", hybrid)):
        check(data["process"]["mode"] == mode, f"mode:{mode} is told as {data['process']['mode']}")
        check(mode == "off" or data["totals"]["allocated_blocks"] > 40000, f"mode:{mode} counts {data['totals']}")
    check(exact["data_quality"]["site_counts"] == "exact", "mode:exact has no exact sites")
    check(hybrid["data_quality"]["site_counts"] == "sampled", "mode:hybrid has no sampled sites")
    check(sampled["data_quality"]["sampled_events"] > 0, "mode:sampled samples nothing")
    check(task["data_quality"]["site_counts"] == "none", "mode:task has sites")
    for mode, data in (("exact", exact), ("task", task), ("hybrid", hybrid)):
        check(sum(row["name"] == "child" for row in data["tasks"]) == 20, f"mode:{mode} lacks tasks")
    for mode, data in (("off", off), ("sampled", sampled)):
        check(not any(row["name"] == "child" for row in data["tasks"]), f"mode:{mode} has tasks")


def knob_backend():
    with open(os.path.join(BUILD, "config.h"), encoding="utf-8") as file:
        config = file.read()
    for name in ("jemalloc", "mimalloc", "system"):
        if name == "system" or f"#define MS_HAVE_{name.upper()} 1" in config:
            used = snapshot(f"backend:{name}")["process"]["backend"]
            check(used == name, f"backend:{name} is not used but {used}")
    if "#define MS_HAVE_JEMALLOC 1" in config:
        used = snapshot("mode:hybrid")["process"]["backend"]
        check(used == "system (jemalloc from 64 MiB)", f"a small program is not on the system backing but on {used}")
        for conf in ("mode:hybrid", "backend:jemalloc"):
            output, _, _, data = probe(conf, "grow")
            check(data["process"]["backend"] == "jemalloc", f"{conf}: a large heap is not on jemalloc")
            check("errno kept" in output, f"{conf}: the start of jemalloc is seen in errno")


def stack_lengths(conf):
    return [len(row["stack"] or []) for row in snapshot(conf)["sites"] if row["id"]]


def knob_stacks():
    check(snapshot("mode:exact,stacks:none")["data_quality"]["site_counts"] == "none", "stacks:none has sites")
    check(set(stack_lengths("mode:exact,stacks:caller")) == {1}, "stacks:caller has other than one frame")
    check(max(stack_lengths("mode:exact,stacks:full")) >= 6, "stacks:full has no deep stack")


def knob_stack_depth():
    check(max(stack_lengths("mode:exact,stacks:full,stack_depth:7")) == 7, "stack_depth:7 is not held")
    data = snapshot("mode:exact,stacks:full,stack_depth:7")
    check(data["data_quality"]["truncated_stacks"] > 0, "truncated stacks are not counted")


def knob_check_stacks():
    check(snapshot("mode:exact")["data_quality"]["compared_stacks"] == 0, "stacks are compared without check_stacks")
    if not any(os.path.exists(f"{directory}/libunwind.so.8") for directory in ("/usr/lib/x86_64-linux-gnu", "/usr/lib64")):
        return
    quality = snapshot("mode:exact,check_stacks:on")["data_quality"]
    check(quality["compared_stacks"] > 1000, f"check_stacks:on compares {quality['compared_stacks']} stacks")
    check(quality["different_stacks"] == 0, f"{quality['different_stacks']} stacks differ from libunwind's")


def knob_sample_bytes():
    # 6.3 MB in 40,000 blocks: means of 96 and 12 samples; six standard deviations
    for gap, low, high in ((65536, 38, 155), (524288, 1, 34)):
        events = [snapshot(f"mode:hybrid,sample_bytes:{gap}")["data_quality"]["sampled_events"] for _ in range(2)]
        check(all(low <= count <= high for count in events), f"sample_bytes:{gap} samples {events}")
    data = snapshot("mode:hybrid,sample_bytes:64K")
    check(data["data_quality"]["sample_bytes"] == 65536, "sample_bytes:64K is not told")


def knob_sample_rate():
    data = snapshot("mode:hybrid,sample_rate:0.1")
    blocks, events = data["totals"]["allocated_blocks"], data["data_quality"]["sampled_events"]
    deviation = (blocks * 0.1 * 0.9) ** 0.5
    check(abs(events - blocks * 0.1) < 6 * deviation + 2, f"sample_rate:0.1 samples {events} of {blocks}")


def knob_max_tracked_tasks():
    data = snapshot("mode:hybrid,max_tracked_tasks:5")
    named = [row for row in data["tasks"] if row["name"] in ("parent", "child")]
    check(len(named) == 5, f"max_tracked_tasks:5 has {len(named)} rows")
    check(data["data_quality"]["folded_tasks"] == 35, f"folded tasks: {data['data_quality']['folded_tasks']}")
    check(any(row["state"] == "other" for row in data["tasks"]), "there is no row `other'")


def knob_enable_task_hierarchy():
    for word, expected in (("on", 20), ("off", 0)):
        data = snapshot(f"mode:hybrid,enable_task_hierarchy:{word}")
        parents = sum(1 for row in data["tasks"] if row["name"] == "child" and row["parent"])
        check(parents == expected, f"enable_task_hierarchy:{word}: {parents} parents")


def knob_output():
    left, _ = files_left("mode:hybrid")
    check(not left, f"without output there is {list(left)}")
    left, pid = files_left("output:a-%p-%n-%%")
    check(list(left) == [f"a-{pid}-knob_probe-%.memscope"], f"output:a-%p-%n-%% leaves {list(left)}")
    left, _ = files_left("output:named.json")
    check(list(left) == ["named.json"] and b'"totals"' in left.get("named.json", b""), f"output:named.json leaves {list(left)}")
    left, _ = files_left("output:named.html")
    check(list(left) == ["named.html"] and b"<html" in left.get("named.html", b"").lower(), f"output:named.html leaves {list(left)}")
    for conf in ("output:a/b/%n", "mode:exact,leaks:scan,output:%n,formats:memscope+json+html", "interval:10ms,output:%n"):
        out, errors, status, _ = probe(conf, "leave", snapshot=False)
        check((out, errors, status) == ("leaving\n", "", 0), f"{conf}: exit() in a small thread: {status}, {errors!r}")
    for path in ("/proc/nonexistent/file", "/dev/full"):
        conf = f"output:{path}"
        out, errors, status, _ = probe(conf, "usable", snapshot=False)
        check(status == 0 and "done" in out, f"{conf}: exit status {status}")
        check(errors.startswith("memscope: ") and errors.count("\n") == 1 and path in errors, f"{conf}: {errors!r}")
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "pipe.json")
        os.mkfifo(path)
        out, errors, status, _ = probe(f"output:{path}", "usable", snapshot=False)
        check(status == 0 and errors == f"memscope: cannot write {path}: nobody reads it\n", f"a pipe without a reader: {errors!r}")
        with subprocess.Popen(["cat", path], stdout=subprocess.PIPE) as reader:
            out, errors, status, _ = probe(f"output:{path}", "usable", snapshot=False)
            data = json.loads(reader.communicate(timeout=120)[0])
        check(status == 0 and errors == "" and data["totals"], f"a pipe with a reader: exit status {status}, {errors!r}")
        path = os.path.join(directory, "socket.json")
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path)
            out, errors, status, _ = probe(f"output:{path}", "usable", snapshot=False)
        check(errors == f"memscope: cannot write {path}: No such device or address\n", f"a socket: {errors!r}")
        path = os.path.join(directory, "leased.json")
        with open(path, "w", encoding="utf-8"):
            pass
        leased = os.open(path, os.O_RDONLY)
        before = signal.signal(signal.SIGIO, lambda *_: fcntl.fcntl(leased, fcntl.F_SETLEASE, fcntl.F_UNLCK))
        with contextlib.suppress(OSError):  # not every file system has leases
            fcntl.fcntl(leased, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        out, errors, status, _ = probe(f"output:{path}", "usable", snapshot=False)
        signal.signal(signal.SIGIO, before)
        os.close(leased)
        check(errors == "" and os.path.getsize(path) > 0, f"a file that is let go of when it is asked for: {errors!r}")


def knob_formats():
    left, _ = files_left("output:x,formats:json+html+memscope")
    check(sorted(left) == ["x.html", "x.json", "x.memscope"], f"three formats leave {sorted(left)}")
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "taken")
        os.mkdir(f"{path}.json")
        out, errors, status, _ = probe(f"output:{path},formats:json+json", "usable", snapshot=False)
        check(status == 0 and errors.count("cannot write") == 1, f"a format named twice: {errors!r}")
    left, _ = files_left("output:x,formats:json")
    check(list(left) == ["x.json"], f"formats:json leaves {list(left)}")
    for words in ("xml", "json+xml"):
        complains(f"formats:{words},output:x", f"formats:{words}", "memscope|json|html", "using memscope")
        left, _ = files_left(f"output:x,formats:{words}")
        check(list(left) == ["x.memscope"], f"formats:{words} leaves {list(left)}")


def knob_leaks():
    off, live, scan = (snapshot(f"mode:exact,leaks:{word}") for word in ("off", "live", "scan"))
    check(not off["leaks"] and not off["leak_checks"], "leaks:off lists blocks")
    check({row["kind"] for row in live["leaks"]} == {"live"}, f"leaks:live: {live['leaks']}")
    check(sum(row["bytes"] for row in live["leaks"]) == live["totals"]["live_bytes"], "leaks:live does not list all that lives")
    check("live" not in {row["kind"] for row in scan["leaks"]} and scan["leaks"], f"leaks:scan: {scan['leaks']}")
    check([data["leak_checks"][0]["method"] for data in (live, scan)] == ["live", "scan"], "leak_checks names the wrong method")


def knob_trace():
    left, _ = files_left("trace:on,buffer_size:16M,output:x")
    check(sorted(left) == ["x.bin", "x.memscope"] and left["x.bin"][2:10] == b"memscope", f"trace:on leaves {sorted(left)}")
    left, _ = files_left("trace:off,output:x")
    check(sorted(left) == ["x.memscope"], f"trace:off leaves {sorted(left)}")
    check(snapshot("trace:on,buffer_size:16M")["trace"]["events"] >= 80000 and snapshot("trace:off")["trace"] is None, "trace:on logs no events")


def knob_trace_output():
    left, pid = files_left("trace:on,trace_output:sub/%n-%p")
    check(list(left) == [f"sub/knob_probe-{pid}.bin"], f"trace_output with a directory leaves {list(left)}")
    left, pid = files_left("trace:on,trace_output:%n-%p,output:x")
    check(sorted(left) == sorted([f"knob_probe-{pid}.bin", "x.memscope"]), f"trace_output leaves {sorted(left)}")
    out, errors, status, _ = probe("trace:on,trace_output:/proc/nonexistent/x", "usable", snapshot=False)
    check(status == 0 and "done" in out and errors.count("\n") == 1 and "trace_output" in errors, f"trace_output: {errors!r}")


def knob_buffer_size():
    # a full disk: what does not fit the rings, and the writer's own buffer, is dropped
    for size, drops in (("4K", True), ("64M", False)):
        row = probe(f"trace:on,trace_output:/dev/full,buffer_size:{size}")[3]["trace"]
        check((row["dropped_events"] > 0) == drops, f"buffer_size:{size} drops {row['dropped_events']}")


def knob_max_events():
    row = probe("trace:on,max_events:100")[3]["trace"]
    check(row["events"] == 100 and row["over_max_events"] >= 79900, f"max_events:100: {row}")


def knob_interval():
    """How records come about and what they say: test_interval.py."""
    for text, rows in (("off", False), ("20ms", True), ("1min", True), ("3600s", True)):
        left, _ = files_left(f"output:x.memscope,interval:{text}")
        check((b"delta" in left.get("x.memscope", b"")) == rows, f"interval:{text} leaves {sorted(left)}")
    values = {row["name"]: row["value"] for row in snapshot("")["knobs"]}
    check(values["interval"] == "off", f"interval is {values['interval']}")
    out, errors, status, _ = probe("interval:1500ms", snapshot=False)
    check(status == 0 and errors.count("\n") == 1 and "interval:1500ms" in errors, f"interval without output: {errors!r}")


def knob_on_mismatch():
    _, errors, status, data = probe("on_mismatch:count", "mismatch")
    check(status == 0 and not errors and data["data_quality"]["origin_mismatches"] == 1, f"on_mismatch:count: {errors!r}")
    _, errors, status, data = probe("on_mismatch:warn", "mismatch")
    check(status == 0 and errors.startswith("memscope: ") and errors.count("\n") == 1, f"on_mismatch:warn: {errors!r}")
    _, errors, status, _ = probe("on_mismatch:abort", "mismatch", snapshot=False)
    check(status == -6 and errors.startswith("memscope: ") and errors.count("\n") == 1, f"on_mismatch:abort: {status} {errors!r}")


def knob_junk():
    out = probe("junk:on", "junk", snapshot=False)[0].split("\n")
    check(out[:4] == ["new a5 a5", "freed 5a 5a", "calloc 00", "large 01 01 a5 a5"], f"junk:on: {out}")
    out = probe("junk:off", "junk", snapshot=False)[0].split("\n")
    check(out[0] != "new a5 a5" and out[1] != "freed 5a 5a" and out[2] == "calloc 00", f"junk:off: {out}")


def knob_guard():
    check(probe("guard:on", "usable", snapshot=False)[0].startswith("usable 61\n"), "guard:on gives slack away")
    # what it finds: tests/crimes
    check(probe("guard:off", "usable", snapshot=False)[0] != "", "guard:off")


def knob_quarantine():
    def reused(conf):
        word = probe(conf, "reuse", snapshot=False)[0].split()[1]
        return 10 ** 9 if word == "never" else int(word)
    soon, later, much_later = reused(""), reused("quarantine:64K"), reused("quarantine:1M")
    check(soon < 500 <= later < much_later, f"reuse after {soon}, {later} with 64K, {much_later} with 1M")


def knob_cgroup_limit():
    with tempfile.TemporaryDirectory() as directory:
        for name, number in (("max", 64 << 20), ("current", 1 << 20)):
            with open(os.path.join(directory, f"memory.{name}"), "w", encoding="utf-8") as file:
                file.write(f"{number}\n")
        limited, free = snapshot(f"cgroup_limit:{directory}", "ask"), snapshot("cgroup_limit:off", "ask")
        out, _, status, _ = probe(f"cgroup_limit:{directory}", "ask", snapshot=False)
        check(status == 0 and "first there, second refused" in out, f"64 MiB are not 80: {out}")
        out, _, status, _ = probe("cgroup_limit:off", "ask", snapshot=False)
        check(status == 0 and "first there, second there" in out, f"off refuses: {out}")
        complains(f"cgroup_limit:{directory}/none", f"cgroup_limit:{directory}/none", "auto, off or the directory")
        complains("cgroup_limit:of", "cgroup_limit:of", "auto, off or the directory")
    check(limited["process"]["cgroup_limit_bytes"] == 64 << 20, str(limited["process"]["cgroup_limit_bytes"]))
    check(limited["data_quality"]["cgroup_refusals"] > 0 and limited["data_quality"]["failed_allocations"] == 1, "not counted")
    check(free["data_quality"]["cgroup_refusals"] == 0, "off counts refusals")


def knob_test_mode():
    changing = {"pid", "parent_pid", "rss_bytes", "peak_rss_bytes", "cpu_user_ns", "cpu_system_ns", "minor_faults", "major_faults",
                "voluntary_switches", "involuntary_switches", "read_bytes", "written_bytes", "command_line"}

    def steady():
        _, _, _, data = probe("test_mode:on,sample_bytes:10000", prefix=("setarch", "-R"))
        data["process"] = {key: value for key, value in data["process"].items() if key not in changing}
        for row in data["threads"]:
            row["tid"] = row["cpu_ns"] = 0
        data["memory"]["backing_resident_bytes"] = 0
        data["modules"] = []  # the kernel places vdso and vvar anew
        return data
    first, second = steady(), steady()
    for table, rows in first.items():
        check(rows == second[table], f"test_mode:on: {table} differs from run to run: {rows} {second[table]}"[:600])
    check(first["data_quality"]["clock"] == "fixed", "the clock is not fixed")
    check(snapshot("test_mode:off")["data_quality"]["clock"] != "fixed", "the clock is fixed")


def knob_conf():
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "knobs.conf")
        with open(path, "w", encoding="utf-8") as file:
            file.write("# a comment\n\nmode:exact\n  max_tracked_tasks:7   # behind a value\n")
        data = snapshot(f"conf:{path}")
        values = {row["name"]: (row["value"], row["source"]) for row in data["knobs"]}
        check(values["mode"] == ("exact", "file") and values["max_tracked_tasks"] == ("7", "file"), f"conf: {values}")
        for conf in (f"conf:{path},mode:task", f"mode:task,conf:{path}"):
            check(snapshot(conf)["process"]["mode"] == "task", f"{conf}: the file wins over the environment")
        with open(path, "w", encoding="utf-8") as file:
            file.write("mode:exact\nnonsense:1\n")
        out, errors, status, _ = probe(f"conf:{path}", "usable", snapshot=False)
        check(status == 0 and errors.count("\n") == 1 and "nonsense" in errors, f"a bad line in a file: {errors!r}")
        pipe = os.path.join(directory, "pipe")
        os.mkfifo(pipe)
        out, errors, status, _ = probe(f"conf:{pipe}", "usable", snapshot=False)
        check(status == 0 and errors == f"memscope: conf:{pipe}: nobody writes to this pipe; ignored\n", f"{errors!r}")
        with subprocess.Popen(["tee", pipe], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as writer:
            writer.stdin.write(b"mode:exact\n")
            writer.stdin.flush()
            check(snapshot(f"conf:{pipe}")["process"]["mode"] == "exact", "conf: what is written to a pipe is lost")
            writer.stdin.close()
        for line in ("mode:exact,guard:on", "output:a,b.json", "mode:exact,"):
            with open(path, "w", encoding="utf-8") as file:
                file.write(f"{line}  # one\nmode:task # two, with a comma\n")
            complains(f"conf:{path}", line, path, "comma")
            check(probe(f"conf:{path}")[3]["process"]["mode"] == "task", f"{line} in a file: the next line is lost")
        with open(path, "w", encoding="utf-8") as file:
            file.write("cgroup_limit:/nonexistent\n")
        complains(f"conf:{path}", path, "cgroup_limit:/nonexistent")
        out, errors, status, _ = probe(f"conf:{path},cgroup_limit:off", "usable", snapshot=False)
        check(status == 0 and errors == "", f"cgroup_limit:off over a file's: {errors!r}")
    _, errors, status, _ = probe("conf:/nonexistent", "usable", snapshot=False)
    check(status == 0 and errors.count("\n") == 1 and "/nonexistent" in errors, f"a missing file: {errors!r}")


# ---- all of them

def bad_values(kind, arguments):
    if kind == "CHOICE":
        return ["nonsense", "", arguments[1].split("|")[0] + "x"]
    if kind in ("BYTES", "COUNT"):
        low, high = int(arguments[1]), int(arguments[2])
        return ["banana", "", "-1", "1x", str(high + 1), "99999999999999999999999"] + ([str(low - 1)] if low > 0 else [])
    if kind == "DURATION":
        return ["banana", "", "0", "0s", "100", "-1s", "1x", "1 s", "9ms", "3601s", "61min", "99999999999999999999s"]
    if kind == "RATIO":
        return ["banana", "", "-0.1", "1.1", "nan", "0.0000000001"]
    if kind == "WORDS":
        words = arguments[1].split("|")
        return ["nonsense", "", words[0] + "x", words[0] + "+", f"{words[0]}++{words[1]}", f"{words[1]}+nonsense", "|".join(words)]
    if kind == "BOOL":
        return ["maybe", "", "2"]
    return []


def complains(conf, *words):
    out, errors, status, _ = probe(conf, "usable", snapshot=False)
    check(status == 0 and "done" in out, f"{conf}: the program did not run on: {status}")
    check(errors.startswith("memscope: ") and errors.count("\n") == 1, f"{conf}: not one line on stderr: {errors!r}")
    for word in words:
        check(word in errors, f"{conf}: `{word}' is not in {errors!r}")


def check_bad_values(all_knobs):
    for name, (kind, arguments) in all_knobs.items():
        for value in bad_values(kind, arguments):
            complains(f"{name}:{value}", name, arguments[0] if kind not in ("BOOL", "DURATION") else "")
    complains("nonsense:1", "nonsense")
    complains("mode", "mode")
    complains("Mode:off", "Mode")
    out, errors, status, data = probe("nonsense:1,mode:exact,stack_depth:banana")
    check(errors.count("\n") == 2 and data["process"]["mode"] == "exact", f"good knobs beside bad ones: {errors!r}")
    for conf in ("", ",", "mode:off,", ",,mode:off"):
        out, errors, status, _ = probe(conf, "usable", snapshot=False)
        check(status == 0 and "done" in out, f"{conf!r}: exit status {status}, {errors!r}")
    complains("x" * 5000 + ":1")
    out, errors, status, _ = probe(":".join(["a"] * 2000), "usable", snapshot=False)
    check(status == 0 and "done" in out, "a long row of colons")


def check_listed(all_knobs):
    """The data name every knob with its value and where it came from."""
    values = {row["name"]: row for row in snapshot("stack_depth:9")["knobs"]}
    check(set(values) == set(all_knobs), f"knobs in the data: {sorted(values)}")
    check(values["stack_depth"]["value"] == "9" and values["stack_depth"]["source"] == "environment", str(values["stack_depth"]))
    check(values["guard"]["source"] == "default", str(values["guard"]))


def run_as_nobody(program, conf):
    return subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", program, "usable"], check=False,
                          env={**os.environ, "MEMSCOPE_CONF": conf}, capture_output=True, text=True)


def check_set_uid():
    """MEMSCOPE_CONF means nothing to a set-uid program; to the same program without the bit it does. The program is
    linked statically, so that the directories of the build need not be open to others."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        print("skipped: set-uid programs (needs root and setpriv)")
        return
    directory = tempfile.mkdtemp(dir="/var/tmp")
    try:
        program, output = os.path.join(directory, "probe"), os.path.join(directory, "out")
        os.mkdir(output)
        os.chmod(directory, 0o755)
        os.chmod(output, 0o777)
        linked = subprocess.run([*os.environ["CC"].split(), "-static", "-fno-builtin", f"-I{SOURCE}/include", "-o", program,
                                 f"{SOURCE}/tests/knob_probe.c", f"{BUILD}/.libs/libmemscope_malloc.a", "-lpthread"],
                                capture_output=True, text=True, check=False)
        check(linked.returncode == 0, f"static linking: {linked.stderr}")
        conf = f"mode:exact,nonsense:1,output:{output}/x"
        done = run_as_nobody(program, conf)
        check(done.returncode == 0 and "nonsense" in done.stderr, f"plain: status {done.returncode}, {done.stderr!r}")
        check(os.listdir(output) == ["x.memscope"], f"a plain program wrote {os.listdir(output)}")
        shutil.rmtree(output)
        os.mkdir(output)
        os.chmod(output, 0o777)
        os.chmod(program, 0o4755)
        done = run_as_nobody(program, conf)
        check(done.returncode == 0 and done.stderr == "", f"set-uid: status {done.returncode}, {done.stderr!r}")
        check(os.listdir(output) == [], f"a set-uid program wrote {os.listdir(output)}")
    finally:
        shutil.rmtree(directory)


def check_unread_lines():
    """A line that nobody reads, or that a file has no room for, ends no program."""
    def without_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))

    for conf in ("bad:1", "output:/dev/full"):
        environment = {**os.environ, "MEMSCOPE_CONF": conf}
        read, write = os.pipe()
        os.close(read)
        done = subprocess.run([PROBE, "usable"], env=environment, stdout=subprocess.PIPE, stderr=write, text=True, check=False)
        os.close(write)
        check(done.returncode == 0 and "done" in done.stdout, f"{conf}, no reader: status {done.returncode}")
        with tempfile.TemporaryFile() as full:
            done = subprocess.run([PROBE, "usable"], env=environment, stdout=subprocess.PIPE, stderr=full, text=True,
                                  preexec_fn=without_room, check=False)
        check(done.returncode == 0 and "done" in done.stdout, f"{conf}, no room: status {done.returncode}")


def main():
    all_knobs = knobs()
    check(len(all_knobs) >= 10, f"knobs.def was not understood: {sorted(all_knobs)}")
    chosen = sys.argv[1:] or [*all_knobs, "bad_values", "listed", "set_uid", "unread_lines"]
    for name in chosen:
        if name == "bad_values":
            check_bad_values(all_knobs)
        elif name == "listed":
            check_listed(all_knobs)
        elif name == "set_uid":
            check_set_uid()
        elif name == "unread_lines":
            check_unread_lines()
        elif f"knob_{name}" in globals():
            globals()[f"knob_{name}"]()
        else:
            check(False, f"knob {name} has no test of what it changes")
    print(f"{results['passed']} passed, {results['failed']} failed")
    return results["failed"] > 0


if __name__ == "__main__":
    sys.exit(main())
