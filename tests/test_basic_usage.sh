#!/usr/bin/env bash
# examples/basic_usage writes its three files, its numbers add up to the truth it prints, and `make html` makes the page
# again from the data alone.
set -euo pipefail
unset MAKEFLAGS MFLAGS MAKEOVERRIDES
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
build=$(cd "${top_builddir:?}" && pwd)
text=$(cd "${top_srcdir:?}" && pwd)/COPYING
cd "$work"

"$build/examples/basic_usage" "$text" >out
data=MemoryAnalysis/basic_usage
[ -s $data.memscope ] && [ -s $data.json ] && [ -s $data.html ]
[ "$(tail -n 1 out)" = "$(LC_ALL=C grep -oE '[A-Za-z]+' "$text" | wc -l) words" ]

"$PYTHON" - $data.json out <<'PY'
import json, re, sys
data, out = json.load(open(sys.argv[1])), open(sys.argv[2]).read()
told = [(int(b), int(n)) for b, n in re.findall(r"leaves (\d+) bytes in (\d+) blocks", out)]
tasks = {task["name"]: task for task in data["tasks"]}
parts = [tasks[f"count part {i}"] for i in range(1, 5)]
assert [(p["outlived_bytes"], p["outlived_blocks"]) for p in parts] == told, (parts, told)
assert all(p["live_bytes"] == b for p, (b, _) in zip(parts, told))
assert all(p["parent"] == tasks["count words"]["id"] for p in parts)
variables = {site["variable"]: site for site in data["sites"] if site["kind"] == "variable"}
assert variables["words"]["live_blocks"] == 4 and variables["words"]["live_bytes"] == 4 * 1024 * 8, variables
assert variables["text"]["live_blocks"] == 1
assert variables["words"]["type"] is None and variables["text"]["type"] == "char *" and variables["*at"]["type"] == "word_t *"
assert variables["*at"]["live_blocks"] == sum(n for _, n in told) - 4, variables["*at"]  # each part: its words, and `words`
scopes = {variables[name]["id"]: name for name in ("lower", "result")}
scopes = {scopes[row["site"]]: row for row in data["scopes"]}
total = int(re.search(r"^(\d+) words$", out, re.M).group(1))
lower, result = scopes["lower"], scopes["result"]
assert lower["begun"] == lower["ended"] == lower["freed_blocks"] == total and lower["outlived_blocks"] == 0, lower
assert 0 < lower["lifetime_min_ns"] <= lower["lifetime_mean_ns"] <= lower["lifetime_max_ns"], lower
assert result["ended"] == result["outlived_blocks"] == 4 and result["freed_blocks"] == 0, result
regions = {row["variable"]: row for row in data["regions"]}
assert regions["worker->total"]["times"] == 4 and regions["worker->total"]["type"] == "unsigned long"
assert regions["longest"]["bytes"] == 32 and regions["longest"]["type"] == "char *[]"
PY

rm $data.html
make -s -C "$build" html DIR="$work/MemoryAnalysis" BASE=basic_usage
[ -s $data.html ]
