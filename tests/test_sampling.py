#!/usr/bin/env python3
"""Sampled sites against the exact totals beside them: over many runs the estimates scatter around the truth, and by as
much as their standard errors say. The limits are wide enough for chance to fail the test once in some 100,000 times."""
import json
import math
import os
import subprocess
import sys
import tempfile

PROGRAM = os.path.join(os.environ["top_builddir"], "tests", "sampled")
RUNS = 30


def snapshot(directory, conf):
    path = os.path.join(directory, "snapshot.json")
    environment = {**os.environ, "MEMSCOPE_CONF": conf}
    subprocess.run([PROGRAM, path], env=environment, check=True, timeout=120)
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def scores(data, mean_gap):
    """How far the sums over sites are off, in their standard errors: live bytes, and bytes and blocks allocated."""
    sites, totals = data["sites"], data["totals"]
    assert sites and all(row["estimated"] for row in sites)
    assert sum(row["samples"] for row in sites) == data["data_quality"]["sampled_events"]
    estimate = {column: sum(row[column] for row in sites) for column in ("live_bytes", "allocated_bytes")}
    error = math.sqrt(sum(row["live_error_bytes"] ** 2 for row in sites))
    live = (estimate["live_bytes"] - totals["live_bytes"]) / error
    if mean_gap is None:  # by count
        return live, 0
    at_most = math.sqrt(mean_gap * totals["allocated_bytes"])  # a block of z bytes adds z^2 (1 - p) / p < z R
    return live, (estimate["allocated_bytes"] - totals["allocated_bytes"]) / at_most


def judge(conf, mean_gap):
    with tempfile.TemporaryDirectory() as directory:
        runs = [scores(snapshot(directory, conf), mean_gap) for _ in range(RUNS)]
    live, allocated = zip(*runs)
    mean, spread = sum(live) / RUNS, math.sqrt(sum(score ** 2 for score in live) / RUNS)
    allocated_mean = sum(allocated) / RUNS
    good = abs(mean) < 5 / math.sqrt(RUNS) and 0.4 < spread < 1.9 and abs(allocated_mean) < 5 / math.sqrt(RUNS)
    print(f"{'ok' if good else 'FAILED'}: {conf}: live bytes {mean:+.2f} standard errors off on average, spread {spread:.2f}; "
          f"allocated bytes {allocated_mean:+.2f}")
    return good


def main():
    good = [judge("mode:sampled,sample_bytes:4096", 4096), judge("mode:hybrid,sample_bytes:65536", 65536),
            judge("mode:sampled,sample_bytes:100,stack_depth:1", 100), judge("mode:sampled,sample_rate:0.05", None)]
    return not all(good)


if __name__ == "__main__":
    sys.exit(main())
