#!/usr/bin/env bash
# The fast paths do not grow: callgrind's counts (bench/instructions.sh) beside those recorded in alloc/instructions.txt.
# The recorded counts are of one compiler at -O2 without extras; another build skips. After a change that is worth its
# instructions: make record-instructions.
set -euo pipefail

: "${top_srcdir:?run by make check}" "${top_builddir:?}"
recorded=$top_srcdir/alloc/instructions.txt
skip() { echo "skipped: $1"; exit 77; }

command -v valgrind >/dev/null || skip 'valgrind is missing: apt-get install valgrind'
[ -e "$recorded" ] || skip 'no alloc/instructions.txt: make record-instructions'
grep -q '^#define MS_DEBUG 0' "$top_builddir/config.h" || skip 'a debug build'
grep -Eq '^(SANITIZE|COVERAGE)_CFLAGS = *[^ ]' "$top_builddir/Makefile" && skip 'an instrumented build'
grep -Eq '^CFLAGS = .*-O2' "$top_builddir/Makefile" || skip 'not built with -O2'

now=$(bash "$top_srcdir/bench/instructions.sh" -b "$top_builddir" --record)
compiler() { sed -n 's/^compiler //p' "$1"; }
[ "$(compiler "$recorded")" = "$(compiler <(echo "$now"))" ] || skip "recorded with $(compiler "$recorded")"

awk '/^#/ || $1 == "compiler" { next }
    NR == FNR { allowed[$1] = $2; next }
    !($1 in allowed) { printf "%s is not in alloc/instructions.txt\n", $1; failed = 1; next }
    $2 > allowed[$1] + 1 { printf "%s: %s instructions, recorded are %s\n", $1, $2, allowed[$1]; failed = 1 }
    { printf "%-20s %s (recorded %s)\n", $1, $2, allowed[$1] }
    END { exit failed }' "$recorded" <(echo "$now")
