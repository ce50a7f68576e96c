#!/usr/bin/env bash
# Every entry point and every memscope_* call as the first of a process, a thread, a constructor, and as the last: after
# the destructors of thread-local objects and keys, in atexit, in a destructor. Each backing; and linked statically.
set -euo pipefail
# shellcheck source=tests/common.sh
. "${top_srcdir:?}/tests/common.sh"

# try NAME CONF PROGRAM: all places and calls; a hang ends after a generous while.
try() {
    local place call bad=0
    while read -r place call; do
        if ! MEMSCOPE_CONF=$2 timeout 60 "$3" "$place" "$call" >"$work/out" 2>&1; then
            echo "$1: $place $call: $(tail -c 300 "$work/out")"
            bad=$((bad + 1))
        fi
    done < <("$3" list)
    count "$1" "$bad"
}

program=${top_builddir:?}/tests/first_call
CPP="$CC -E" sh "$top_srcdir/scripts/exports.sh" "$top_srcdir" | LC_ALL=C sort >"$work/exported"
"$program" list | awk '{print $2}' | LC_ALL=C sort -u >"$work/tried"
bad=0
diff "$work/exported" "$work/tried" || bad=1
count "every exported name is tried" "$bad"
for backend in $(backends); do try "first calls, $backend" "backend:$backend" "$program"; done
try "first calls, mode:exact" mode:exact "$program"

# shellcheck disable=SC2086  # CC is a command with arguments
if $CC -std=gnu17 -O2 -fno-builtin -static -I"$top_srcdir" -I"$top_srcdir/include" "$top_srcdir/tests/first_call.c" \
    "$top_builddir/.libs/libmemscope_malloc.a" -lpthread -o "$work/static" >"$work/link" 2>&1; then
    try "first calls, linked statically" "" "$work/static"
    try "first calls, linked statically, mode:exact" mode:exact "$work/static"
else
    cat "$work/link"
    count "first calls, linked statically" 1
fi
finish
