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
PY

rm $data.html
make -s -C "$build" html DIR="$work/MemoryAnalysis" BASE=basic_usage
[ -s $data.html ]
