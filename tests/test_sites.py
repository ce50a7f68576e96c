"""What mode exact knows of each site against the truth of scripted programs (tests/sites.c): shares of the process's
peak, own peaks, temporary blocks, threads, histograms, growth; by caller and by whole stack, one thread and several."""
import json
import os
import subprocess
import sys
import tempfile

PROGRAM = os.path.join(os.environ["top_builddir"], "tests", "sites")
SUMS = ["allocated_bytes", "allocated_blocks", "freed_bytes", "freed_blocks", "live_bytes", "live_blocks", "at_peak_bytes",
        "at_peak_blocks", "temporary_bytes", "temporary_blocks"]
FUNCTION_BYTES = 96  # of a site's function, at most

wrong = 0
where = ""


def equal(what, got, truth):
    global wrong
    if got != truth:
        wrong += 1
        print(f"FAILED: {where}: {what}: {got}, truth {truth}")


def run(conf, *arguments):
    global where
    where = f"{' '.join(arguments)} under {conf}"
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "snapshot.json")
        done = subprocess.run([PROGRAM, *arguments, path], env={**os.environ, "MEMSCOPE_CONF": conf}, capture_output=True,
                              text=True, timeout=240, check=False)
        equal("exit status and stderr", (done.returncode, done.stderr), (0, ""))
        with open(path, encoding="utf-8") as file:
            return json.load(file), json.loads(done.stdout)


def rows_of(snapshot, truth, number):
    """Those whose innermost frame lies in the function of this site."""
    addresses = [row["address"] for row in truth["sites"]]
    end = min([address for address in addresses if address > addresses[number]] + [addresses[number] + FUNCTION_BYTES])
    return [row for row in snapshot["sites"] if row["stack"] and addresses[number] < row["stack"][0] <= end]


def added(rows, column):
    lists = [row[column] for row in rows]
    return [sum(values[i] for values in lists if i < len(values)) for i in range(32)]


def check_whole(snapshot):
    """What holds in every quiet snapshot of mode exact: the parts are the whole."""
    sites, totals = snapshot["sites"], snapshot["totals"]
    equal("sum of shares of the peak", sum(row["at_peak_bytes"] for row in sites), totals["peak_bytes"])
    for row in sites:
        name = f"site {row['id']}"
        equal(f"{name}: sizes", sum(row["sizes"]), row["allocated_blocks"])
        equal(f"{name}: lifetimes", sum(row["lifetimes"]), row["freed_blocks"])
        equal(f"{name}: ages", sum(row["ages"]), row["live_blocks"])
        equal(f"{name}: bytes by age", sum(row["age_bytes"]), row["live_bytes"])
        equal(f"{name}: peak not below live or share", row["peak_bytes"] >= max(row["live_bytes"], row["at_peak_bytes"]), True)
        equal(f"{name}: temporary within freed", row["temporary_blocks"] <= row["freed_blocks"], True)
        equal(f"{name}: threads", (row["allocating_threads"] > 0, row["freeing_threads"] > 0),
              (row["allocated_blocks"] > 0, row["freed_blocks"] > 0))


def check_turns(snapshot, truth, by_caller):
    equal("peak", snapshot["totals"]["peak_bytes"], truth["peak"])
    for number, true_row in enumerate(truth["sites"]):
        rows = rows_of(snapshot, truth, number)
        for column in SUMS:
            equal(f"site {number}: {column}", sum(row[column] for row in rows), true_row[column])
        equal(f"site {number}: sizes", added(rows, "sizes"), true_row["sizes"])
        if by_caller and len(rows) == 1:
            for column in ("peak_bytes", "allocating_threads", "freeing_threads"):
                equal(f"site {number}: {column}", rows[0][column], true_row[column])


def first_bucket(values):
    return next(i for i, value in enumerate(values) if value)


def check_time(snapshot, truth):
    once, grows, burst, waits = (rows_of(snapshot, truth, number)[0] for number in range(4))
    seconds = (snapshot["process"]["elapsed_ns"] - once["first_ns"]) / 1e9
    slack = 3 * snapshot["data_quality"]["clock_resolution_ns"] / 1e6  # ms
    rate = grows["live_bytes"] / seconds
    equal("one block does not grow", abs(once["growth_bytes_per_s"]) * seconds < 0.01 * once["live_bytes"], True)
    equal("even growth has its slope", 0.5 * rate < grows["growth_bytes_per_s"] < 2 * rate, True)
    equal("a burst does not grow", burst["growth_bytes_per_s"] * seconds < 0.1 * burst["peak_bytes"], True)
    equal("ages of what grows are spread", sum(value > 0 for value in grows["ages"]) > 3, True)
    equal("the oldest is the first", 2 ** (first_bucket(once["ages"])) > (seconds * 1000 - slack) / 2, True)
    equal("blocks that waited", (sum(waits["lifetimes"]), 2 ** first_bucket(waits["lifetimes"]) > 64 - slack), (5, True))
    equal("first and last", (grows["first_ns"] <= grows["last_ns"], grows["last_ns"] - grows["first_ns"] >
                             (319 * 8 - slack) * 1e6), (True, True))


def main():
    passed = failed = 0

    def count(before):
        nonlocal passed, failed
        passed, failed = passed + (wrong == before), failed + (wrong > before)

    for conf in ("mode:exact,stacks:caller", "mode:exact", "mode:exact,backend:system,stack_depth:3"):
        for threads in ("1", "2", "5"):
            for seed in ("1", "2", "3"):
                before = wrong
                snapshot, truth = run(conf, "turns", threads, seed)
                check_whole(snapshot)
                check_turns(snapshot, truth, "caller" in conf)
                count(before)
    for conf in ("mode:exact,stacks:caller", "mode:exact", "mode:exact,quarantine:64K,junk:on"):
        for threads in ("2", "8"):
            before = wrong
            check_whole(run(conf, "storm", threads, "7")[0])
            count(before)
    before = wrong
    snapshot, truth = run("mode:exact,stacks:caller", "time", "1", "1")
    check_whole(snapshot)
    check_time(snapshot, truth)
    count(before)
    print(f"{passed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
