"""Every number of a snapshot against the count a scripted program made of its own requests (tests/exact.c), in each
mode that counts and on each backing; and parts against wholes."""
import json
import os
import subprocess
import sys
import tempfile

BUILD = os.environ["top_builddir"]
PROGRAM = os.path.join(BUILD, "tests", "exact")
FLOW = ["allocated_bytes", "allocated_blocks", "freed_bytes", "freed_blocks", "live_bytes", "live_blocks"]

wrong = 0  # comparisons that failed; what is counted at the end are the runs of a script
where = ""


def check(condition, message):
    global wrong
    if not condition:
        wrong += 1
        print(f"FAILED: {where}: {message}")


def equal(what, got, truth):
    check(got == truth, f"{what}: {got}, truth {truth}")


def backends():
    with open(os.path.join(BUILD, "config.h"), encoding="utf-8") as file:
        text = file.read()
    return [name for name in ("jemalloc", "mimalloc") if f"#define MS_HAVE_{name.upper()} 1" in text] + ["system"]


def with_live(truth):
    row = dict(truth)
    for unit in ("bytes", "blocks"):
        row[f"live_{unit}"] = row[f"allocated_{unit}"] - row[f"freed_{unit}"]
    return row


def by(rows, key):
    return {row[key]: row for row in rows}


def total(rows, column):
    return sum(row[column] for row in rows)


def check_sums(snapshot):
    """What holds in any snapshot of a quiet process."""
    totals, mode = snapshot["totals"], snapshot["process"]["mode"]
    for column in FLOW:
        equal(f"threads' {column}", total(snapshot["threads"], column), totals[column])
        if mode in ("exact", "task", "hybrid"):
            equal(f"tasks' {column}", total(snapshot["tasks"], column), totals[column])
        if mode == "exact":
            equal(f"sites' {column}", total(snapshot["sites"], column), totals[column])
        if column.endswith("blocks"):
            equal(f"size classes' {column}", total(snapshot["size_classes"], column), totals[column])
    for table in ("threads", "tasks", "sites", "size_classes"):
        for row in snapshot[table]:
            for unit in ("bytes", "blocks"):
                if f"live_{unit}" in row and not row.get("estimated"):
                    equal(f"live {unit} of {table} row", row[f"live_{unit}"], row[f"allocated_{unit}"] - row[f"freed_{unit}"])
    equal("cross-freed bytes", total(snapshot["cross_frees"], "bytes"), total(snapshot["threads"], "freed_by_others_bytes"))
    equal("cross-freed blocks", total(snapshot["cross_frees"], "blocks"), total(snapshot["threads"], "freed_by_others_blocks"))
    equal("frees made", total(snapshot["threads"], "frees_made_blocks"), totals["freed_blocks"])
    equal("bytes freed", total(snapshot["threads"], "frees_made_bytes"), totals["freed_bytes"])
    equal("live bytes in memory", snapshot["memory"]["live_bytes"], totals["live_bytes"])
    memory = snapshot["memory"]
    parts = sum(memory[part] for part in ("live_bytes", "slack_bytes", "header_bytes", "free_bytes", "uncarved_bytes"))
    equal("mapped bytes", memory["mapped_bytes"], parts)
    check(totals["peak_bytes"] + totals["peak_error_bytes"] >= totals["live_bytes"], "peak below the live bytes")
    quality = snapshot["data_quality"]
    equal("allocation events", quality["allocation_events"], totals["allocated_blocks"])
    equal("free events", quality["free_events"], totals["freed_blocks"])
    for column in ("dropped_events", "header_check_failures", "unknown_frees"):
        equal(column, quality[column], 0)
    if snapshot["leak_checks"]:
        check_leaks(snapshot)


def check_leaks(snapshot):
    """The walk over the heap finds block by block what the counters say, for each thread, task and site."""
    rows, totals, mode = snapshot["leaks"], snapshot["totals"], snapshot["process"]["mode"]
    equal("unsettled blocks", snapshot["leak_checks"][0]["unsettled_blocks"], 0)
    for column in ("bytes", "blocks"):
        equal(f"live {column} walked", total(rows, column), totals[f"live_{column}"])
        equal(f"{column} of the check", snapshot["leak_checks"][0][column], totals[f"live_{column}"])
        for key, table in (("thread", "threads"), ("task", "tasks"), ("site", "sites")):
            walked = {}
            for row in rows:
                walked[row[key]] = walked.get(row[key], 0) + row[column]
            if (key == "task" and mode == "sampled") or (key == "site" and mode != "exact"):
                continue
            counted = {row["id"]: row[f"live_{column}"] for row in snapshot[table] if row[f"live_{column}"]}
            equal(f"live {column} walked by {key}", {id: amount for id, amount in walked.items() if amount}, counted)
    for row in rows:
        quarters = sum(row[f"born_{quarter}_bytes"] for quarter in (1, 2, 3, 4))
        check(quarters == row["bytes"] and row["first_born_ns"] <= row["last_born_ns"] and row["kind"] == "live", f"row {row}")


def difference(after, before, columns):
    return {column: after[column] - (before[column] if before else 0) for column in columns}


def check_totals(before, after, truth):
    rows = [with_live(row) for row in truth["threads"]]
    change = difference(after["totals"], before["totals"], FLOW)
    equal("totals", change, {column: total(rows, column) for column in FLOW})
    if not truth["peaks"]:
        return
    peak, error = after["totals"]["peak_bytes"], after["totals"]["peak_error_bytes"]
    true_peak = max(before["totals"]["peak_bytes"], before["totals"]["live_bytes"] + truth["peak_above_before"])
    check(peak <= true_peak + before["totals"]["peak_error_bytes"] and true_peak <= peak + error,
          f"peak {peak} + {error}, truth {true_peak}")
    if after["process"]["mode"] == "exact":
        equal("error of the peak in mode exact", error, 0)


def check_threads(before, after, truth):
    columns = FLOW + ["frees_made_bytes", "frees_made_blocks", "freed_by_others_bytes", "freed_by_others_blocks"]
    rows, earlier = by(after["threads"], "tid"), by(before["threads"], "tid")
    for true_row in map(with_live, truth["threads"]):
        tid = true_row["tid"]
        if tid == 0 or (true_row["allocated_blocks"] == 0 and tid not in rows):
            continue
        check(tid in rows, f"no row for thread {tid}")
        if tid in rows:
            change = difference(rows[tid], earlier.get(tid), columns)
            equal(f"thread {tid}", change, {column: true_row[column] for column in columns})


def check_tasks(before, after, truth):
    if after["process"]["mode"] not in ("exact", "task", "hybrid"):
        return
    rows, earlier = by(after["tasks"], "id"), by(before["tasks"], "id")
    columns = FLOW + ["handed_off_bytes", "handed_off_blocks"]
    for true_row in map(with_live, truth["tasks"]):
        task = true_row["id"]
        check(task in rows, f"no row for task {task}")
        if task not in rows:
            continue
        row = rows[task]
        change = difference(row, earlier.get(task), columns)
        equal(f"task {task}", change, {column: true_row[column] for column in columns})
        if task == 0:
            continue
        equal(f"parent of task {task}", row["parent"] or 0, true_row["parent"])
        equal(f"enters of task {task}", row["enters"], true_row["enters"])
        equal(f"state of task {task}", row["state"], "ended" if true_row["ended"] else "active")
        if true_row["ended"]:
            equal(f"outlived bytes of task {task}", row["outlived_bytes"], true_row["outlived_bytes"])
            equal(f"outlived blocks of task {task}", row["outlived_blocks"], true_row["outlived_blocks"])
        else:
            equal(f"outlived bytes of task {task}", row["outlived_bytes"], None)
        if truth["peaks"]:
            peak, error, true_peak = row["peak_bytes"], row["peak_error_bytes"], true_row["peak_bytes"]
            check(abs(peak - true_peak) <= error, f"peak of task {task}: {peak} +- {error}, truth {true_peak}")
            if after["process"]["mode"] == "exact":
                equal(f"error of the peak of task {task}", error, 0)


def pairs(snapshot):
    tids = {row["id"]: row["tid"] for row in snapshot["threads"]}
    return {(tids[row["owner_thread"]], tids[row["freeing_thread"]]): (row["bytes"], row["blocks"])
            for row in snapshot["cross_frees"]}


def check_cross_frees(before, after, truth):
    earlier, rows = pairs(before), pairs(after)
    change = {}
    for pair, (size, blocks) in rows.items():
        old = earlier.get(pair, (0, 0))
        if (size, blocks) != old:
            change[pair] = (size - old[0], blocks - old[1])
    true_rows = {(row["owner"], row["freeing"]): (row["freed_bytes"], row["freed_blocks"]) for row in truth["cross_frees"]}
    equal("cross frees", change, true_rows)


def check_sizes(before, after, truth):
    """A sampled block, and any under guard, needs room of its own, so only the other modes know each block's class."""
    plain = not any(row["value"] not in ("off", "0") for row in after["knobs"] if row["name"] in ("guard", "junk", "quarantine"))
    if not truth["sizes_count"] or after["process"]["mode"] not in ("exact", "task") or not plain:
        return
    earlier = by(before["size_classes"], "index")
    small = sorted((row for row in after["size_classes"] if row["payload_bytes"]), key=lambda row: row["payload_bytes"])
    large = [row for row in after["size_classes"] if not row["payload_bytes"] and row["index"]]
    largest = max([32768] + [row["payload_bytes"] for row in small])
    true_rows = {}
    for entry in truth["sizes"]:
        if not entry["allocated"]:
            continue
        fitting = [row for row in small if row["payload_bytes"] >= entry["size"]]
        row = large[0] if entry["size"] > largest and large else fitting[0]
        counts = true_rows.setdefault(row["index"], {"allocated_blocks": 0, "freed_blocks": 0})
        counts["allocated_blocks"] += entry["allocated"]
        counts["freed_blocks"] += entry["freed"]
    for row in after["size_classes"]:
        if row["index"] in true_rows:
            change = difference(row, earlier.get(row["index"]), ["allocated_blocks", "freed_blocks"])
            equal(f"size class of {row['payload_bytes']}", change, true_rows[row["index"]])


def load(directory, name):
    with open(os.path.join(directory, name), encoding="utf-8") as file:
        return json.load(file)


def run(script, conf):
    global where
    where = f"{script} under {conf}"
    with tempfile.TemporaryDirectory() as directory:
        done = subprocess.run([PROGRAM, script, directory], env={**os.environ, "MEMSCOPE_CONF": conf}, timeout=240,
                              capture_output=True, text=True, errors="replace", check=False)
        check(done.returncode == 0 and done.stderr == "", f"exit status {done.returncode}, stderr: {done.stderr}")
        if not os.path.exists(os.path.join(directory, "after.json")):
            return
        before, after = load(directory, "before.json"), load(directory, "after.json")
        check_sums(before)
        check_sums(after)
        if script == "many" or not os.path.exists(os.path.join(directory, "truth.json")):
            return
        truth = load(directory, "truth.json")
        for judge in (check_totals, check_threads, check_tasks, check_cross_frees, check_sizes):
            judge(before, after, truth)
        qualities = [snapshot["data_quality"]["failed_allocations"] for snapshot in (before, after)]
        equal("failed allocations", qualities[1] - qualities[0], truth["failed"])


def check_reasons(script):
    """A reason that something is null must not say that it is there in the mode there is."""
    global where
    where = "null_reasons under mode:exact,stacks:none"
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run([PROGRAM, script, directory], env={**os.environ, "MEMSCOPE_CONF": "mode:exact,stacks:none"}, timeout=240,
                       stdout=subprocess.DEVNULL, check=True)
        reasons = {(row["table"], row["column"]): row["reason"] for row in load(directory, "after.json")["null_reasons"]}
    for column in ("peak_bytes", "at_peak_bytes", "ages"):
        reason = reasons["sites", column]
        check("stacks:none" in reason, f"{column}: {reason}")


def main():
    scripts = subprocess.run([PROGRAM, "list"], capture_output=True, text=True, check=True).stdout.split()
    confs = [f"mode:{mode},leaks:live" for mode in ("exact", "task", "sampled")]
    confs += [f"mode:hybrid,backend:{backend}" for backend in backends()]
    confs += ["mode:hybrid,sample_bytes:1,leaks:live", "mode:exact,leaks:live,junk:on,guard:on,quarantine:1M"]
    if len(sys.argv) > 1:
        scripts, confs = sys.argv[1:2], sys.argv[2:] or confs
    runs = failed = 0
    for conf in confs:
        for script in scripts:
            if "mode:sampled" not in conf or script not in ("tasks", "migrate"):
                before = wrong
                run(script, conf)
                runs += 1
                failed += wrong > before
    before = wrong
    check_reasons(scripts[0])
    runs += 1
    failed += wrong > before
    print(f"{runs - failed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
