#!/usr/bin/env bash
# The sequences the fuzzer found, and every pair of operations, on each backing and with every check that knobs add.
set -euo pipefail
# shellcheck source=tests/common.sh
. "${top_srcdir:?}/tests/common.sh"
confs=(mode:off mode:exact junk:on,guard:on,quarantine:64K)
for backend in $(backends); do confs+=("backend:$backend"); done
for conf in "${confs[@]}"; do
    bad=0
    MEMSCOPE_CONF=$conf "${top_builddir:?}/tests/fuzz_replay" "$top_srcdir"/tests/corpus/* || bad=1
    count "corpus under $conf" "$bad"
done
bad=0
"$top_builddir/tests/fuzz_rows_replay" "$top_srcdir"/tests/corpus_rows/* || bad=1
count "corpus of unwind information" "$bad"
finish
