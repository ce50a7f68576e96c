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


def snapshot(directory, conf, *arguments):
    path = os.path.join(directory, "snapshot.json")
    environment = {**os.environ, "MEMSCOPE_CONF": conf}
    subprocess.run([PROGRAM, path, *arguments], env=environment, check=True, timeout=120)
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def has_names(data):
    return any(row["kind"] == "variable" for row in data["sites"])


def scores(data, mean_gap):
    """How far the sums over sites are off, in their standard errors: live bytes, and bytes and blocks allocated."""
    sites, totals = data["sites"], data["totals"]
    assert sites and all(row["estimated"] == (row["kind"] != "variable") for row in sites)
    samples, events = sum(row["samples"] for row in sites), data["data_quality"]["sampled_events"]
    assert samples < events if has_names(data) else samples == events  # a block that is named is no sample any more
    estimate = {column: sum(row[column] for row in sites) for column in ("live_bytes", "allocated_bytes")}
    error = math.sqrt(sum(row["live_error_bytes"] ** 2 for row in sites if row["estimated"]))
    live = (estimate["live_bytes"] - totals["live_bytes"]) / error
    if mean_gap is None:  # by count
        return live, 0
    at_most = math.sqrt(mean_gap * totals["allocated_bytes"])  # a block of z bytes adds z^2 (1 - p) / p < z R
    return live, (estimate["allocated_bytes"] - totals["allocated_bytes"]) / at_most


def check_calibration(data):
    """The factors follow from the evidence beside them, and calibrated classes of calibrated sites are exact."""
    classes = {row["index"]: row for row in data["size_classes"]}
    calibrated = data["calibration"]
    assert sum(row["samples"] for row in calibrated) == sum(row["samples"] for row in data["sites"])
    assert sum(row["exact_blocks"] for row in calibrated) <= data["totals"]["allocated_blocks"]
    for row in calibrated:
        large = row["payload_bytes"] == 0
        for prefix, samples in (("", row["samples"]), ("live_", row["live_samples"])):
            factor = row[f"{prefix}factor"]
            expected = samples * row[f"{prefix}exact_blocks"] / (row[f"{prefix}estimated_blocks"] or 1)
            if abs(expected - 10) > 1e-6:
                assert (factor is None) == (large or expected < 10), row
            if factor is not None:
                assert abs(factor * row[f"{prefix}estimated_blocks"] / row[f"{prefix}exact_blocks"] - 1) < 1e-9, row
        if row["index"] in classes and not has_names(data):  # at most as many as there were samples lie elsewhere
            assert abs(row["exact_blocks"] - classes[row["index"]]["allocated_blocks"]) <= data["data_quality"]["sampled_events"]
    estimated = sum(row["allocated_blocks"] for row in data["sites"])
    corrected = sum(row["calibrated_allocated_blocks"] for row in data["sites"] if row["estimated"])
    expected = sum(row["estimated_blocks"] * (row["factor"] or 1) for row in calibrated)
    assert abs(corrected - expected) <= len(data["sites"]) + 1, (corrected, expected, estimated)


def errors(data):
    """Squared errors of the live blocks' sum over sites: as sampled, and calibrated; and the latter in standard errors."""
    truth = data["totals"]["live_bytes"]
    off = sum(row["live_bytes"] for row in data["sites"]) - truth
    calibrated = sum(row["calibrated_live_bytes" if row["estimated"] else "live_bytes"] for row in data["sites"]) - truth
    return off ** 2, calibrated ** 2


def judge(conf, mean_gap, *arguments):
    with tempfile.TemporaryDirectory() as directory:
        snapshots = [snapshot(directory, conf, *arguments) for _ in range(RUNS)]
    runs = [scores(data, mean_gap) for data in snapshots]
    for data in snapshots:
        check_calibration(data)
    plain, calibrated = (math.sqrt(sum(parts) / RUNS) for parts in zip(*map(errors, snapshots)))
    live, allocated = zip(*runs)
    mean, spread = sum(live) / RUNS, math.sqrt(sum(score ** 2 for score in live) / RUNS)
    allocated_mean = sum(allocated) / RUNS
    good = abs(mean) < 5 / math.sqrt(RUNS) and 0.4 < spread < 1.9 and abs(allocated_mean) < 5 / math.sqrt(RUNS)
    good = good and (calibrated < plain or mean_gap == 65536)  # which has too few samples a class
    print(f"{'ok' if good else 'FAILED'}: {conf}: live bytes {mean:+.2f} standard errors off on average, spread {spread:.2f}; "
          f"allocated bytes {allocated_mean:+.2f}; live bytes off by {plain:.0f}, calibrated {calibrated:.0f}")
    return good


def judge_few():
    """Of classes with about as many samples as a factor needs, some have one and some have none; none of it is bias."""
    ratios, runs = [], 2 * RUNS
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(runs):
            data = snapshot(directory, "mode:sampled,sample_bytes:65536", "few")
            check_calibration(data)
            ratios.append([sum(row[f"{which}{column}"] for row in data["sites"]) / data["totals"][column]
                           for column in ("live_bytes", "allocated_bytes") for which in ("", "calibrated_")])
    good = True
    for column, values in zip(("live", "live, calibrated", "allocated", "allocated, calibrated"), zip(*ratios)):
        mean = sum(values) / runs
        error = math.sqrt(sum((value - mean) ** 2 for value in values) / (runs - 1) / runs)
        good = good and abs(mean - 1) <= 5 * error + 1e-6
        print(f"few samples: {column} bytes: {mean:.4f} of the truth, standard error {error:.4f}")
    return good


def check_whole():
    """Where every block is a sample of itself, the estimates are the counts: of the process and of every class."""
    with tempfile.TemporaryDirectory() as directory:
        data = snapshot(directory, "mode:sampled,sample_rate:1", "name")
    for column in ("allocated_bytes", "allocated_blocks", "live_bytes", "live_blocks"):
        found, truth = sum(row[column] for row in data["sites"]), data["totals"][column]
        assert found == truth, (column, found, truth)
    for row in data["calibration"]:
        for prefix in ("", "live_"):
            assert row[f"{prefix}exact_blocks"] == row[f"{prefix}estimated_blocks"] == row[f"{prefix}samples"], row
            assert row[f"{prefix}estimated_error_blocks"] == 0 and row[f"{prefix}factor"] in (None, 1), row
    check_calibration(data)


def main():
    check_whole()
    good = [judge_few(),
            judge("mode:sampled,sample_bytes:4096", 4096), judge("mode:hybrid,sample_bytes:65536", 65536),
            judge("mode:sampled,sample_bytes:100,stack_depth:1", 100), judge("mode:sampled,sample_rate:0.05", None),
            judge("mode:sampled,sample_bytes:4096", 30000, "change"), judge("mode:sampled,sample_bytes:4096", 4096, "name")]
    return not all(good)


if __name__ == "__main__":
    sys.exit(main())
