"""Valgrind's count of a program's allocations, frees and bytes is the truth for programs of Debian: ours, with the
library preloaded, must be the same to the last byte. Programs that copy their environment would see different variables,
so the ones here do not."""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

LIBRARY = os.environ["MEMSCOPE_LIB"]
WORK = os.path.join(os.environ["top_srcdir"], "tests", "workloads")
SQL = "CREATE TABLE t(a, b); INSERT INTO t VALUES(1, 'x'), (2, 'y'); SELECT a, hex(b) FROM t ORDER BY b DESC; SELECT * FROM none;"
PROGRAMS = [
    ["ls", "-l", "/usr/lib"],
    ["sort", os.path.join(WORK, "work.sql")],
    ["grep", "-rn", "numbers", WORK],
    ["sed", "-n", "s/[a-z]*(i.*)/x/p", os.path.join(WORK, "work.sql")],
    ["sqlite3", ":memory:", SQL],
    ["lua5.4", os.path.join(WORK, "small.lua")],
    ["jq", "-n", "[range(300)] | map(tostring) | add | length"],
    ["xz", "-c", os.path.join(WORK, "work.py")],
    ["diff", "-u", os.path.join(WORK, "work.py"), os.path.join(WORK, "work.sql")],
    ["find", WORK, "-name", "*.sql", "-newer", WORK],
    ["tar", "-c", "-C", WORK, "."],
    ["bzip2", "-c", os.path.join(WORK, "work.sql")],
    ["od", "-A", "x", "-t", "x1z", os.path.join(WORK, "work.py")],
    ["bc", "-l"],
    ["objdump", "-h", "/bin/ls"],
]


def environment(**extra):
    """The same few variables for both, so that what libc makes of them is the same."""
    return {"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": "/nonexistent", **extra}


def valgrind_counts(command, directory):
    log = os.path.join(directory, "valgrind")
    subprocess.run(["valgrind", "--run-libc-freeres=no", "--run-cxx-freeres=no", f"--log-file={log}", *command], check=False,
                   env=environment(), stdin=subprocess.DEVNULL, capture_output=True, timeout=240)
    with open(log, encoding="utf-8") as file:
        found = re.search(r"total heap usage: ([\d,]+) allocs, ([\d,]+) frees, ([\d,]+) bytes", file.read())
    return tuple(int(number.replace(",", "")) for number in found.groups())


def our_snapshot(command, directory, mode):
    output = os.path.join(directory, "ours.json")
    subprocess.run(command, env=environment(LD_PRELOAD=LIBRARY, MEMSCOPE_CONF=f"mode:{mode},output:{output},formats:json"),
                   stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=240)
    with open(output, encoding="utf-8") as file:
        snapshot = json.load(file)
    os.remove(output)
    return snapshot


def flow(rows):
    return tuple(sum(row[column] for row in rows) for column in ("allocated_blocks", "freed_blocks", "allocated_bytes"))


def complaint(snapshot, truth):
    """What differs from valgrind's blocks, frees and bytes; in mode exact the sites' sums too, and their shares of the peak."""
    if flow([snapshot["totals"]]) != truth:
        return f"blocks, frees, bytes {flow([snapshot['totals']])}, valgrind {truth}"
    if snapshot["process"]["mode"] != "exact":
        return None
    sites, peak = snapshot["sites"], snapshot["totals"]["peak_bytes"]
    if flow(sites) != truth:
        return f"sites: blocks, frees, bytes {flow(sites)}, valgrind {truth}"
    shares = sum(row["at_peak_bytes"] for row in sites)
    if shares != peak or sum(sum(row["sizes"]) for row in sites) != truth[0] or sum(sum(row["lifetimes"]) for row in sites) != truth[1]:
        return f"shares of the peak {shares} of {peak}, or histograms, do not add up"
    return None


def errors_beside(command):
    """What valgrind complains of where our malloc is preloaded and replaced by valgrind's: blocks of the one freed by the other."""
    with tempfile.TemporaryDirectory() as directory:
        log = os.path.join(directory, "valgrind")
        subprocess.run(["valgrind", "-q", f"--log-file={log}", *command], check=True, stdout=subprocess.DEVNULL,
                       env=dict(os.environ, LD_PRELOAD=os.environ["MEMSCOPE_LIB"]))
        with open(log, encoding="utf-8") as lines:
            return lines.read()


def main():
    if shutil.which("valgrind") is None:
        print("valgrind is not installed")
        return 77
    passed = failed = 0
    found = errors_beside(["ls", "/"])
    passed, failed = passed + (not found), failed + bool(found)
    if found:
        print(f"FAILED: ls under valgrind and the malloc: {found}")
    for command in PROGRAMS:
        if shutil.which(command[0]) is None:
            print(f"skipped: {command[0]} is not installed")
            continue
        with tempfile.TemporaryDirectory() as directory:
            truth = valgrind_counts(command, directory)
            for mode in ("exact", "hybrid", "task", "sampled"):
                found = complaint(our_snapshot(command, directory, mode), truth)
                passed, failed = passed + (found is None), failed + (found is not None)
                if found:
                    print(f"FAILED: {command[0]}, mode:{mode}: {found}")
    print(f"{passed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
