#!/usr/bin/env bash
# The report page: its unit tests, and the built page in Chromium (export/web/test).
set -euo pipefail
cd "${top_srcdir:-.}/export/web"

skip() {
    echo "$1"
    exit 77
}

command -v npm >/dev/null || skip "npm is missing: apt-get install nodejs npm"
[ -n "${CHROMIUM:-}" ] || command -v chromium >/dev/null || skip "chromium is missing: apt-get install chromium"
[ -w . ] || skip "the sources are read-only, and npm writes beside them"

[ node_modules/.package-lock.json -nt package-lock.json ] || npm ci
status=0
output=$(npm test 2>&1) || status=$?
printf '%s\n' "$output"

# node's runner ends with `# pass N` or, on a terminal, `ℹ pass N`
count() { sed -n "s/^\(#\|ℹ\) $1 \([0-9]*\)\$/\2/p" <<<"$output" | tail -n 1; }
passed=$(count pass)
failed=$(count fail)
echo "${passed:-0} passed, ${failed:-1} failed"
exit "$status"
