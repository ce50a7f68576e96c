#!/usr/bin/env bash
# Instructions of one step of the loops in instructions.c, counted by callgrind, for memscope's modes and its peers.
#
#     bench/instructions.sh [-b BUILD] [VARIANT...]     a table; all variants unless named; memscope:KNOB:VALUE,... too
#     bench/instructions.sh [-b BUILD] --record         the default mode, in the form of alloc/instructions.txt
#
# count = (instructions inside measured() with the case - with its empty loop) / steps - 2 for each call: the caller's
# call instruction and the move of its argument. So it is the PLT entry and everything behind it, slow paths and sampled
# allocations with their share (200 rounds), after 20 rounds of warm-up. A noisy machine cannot blur it.
# memscope runs with test_mode:1 (fixed seeds), so that the sampled allocations are the same in every run.
set -euo pipefail

build=.
if [ "${1-}" = -b ]; then build=$2; shift 2; fi
loops=$build/bench/instructions
memscope=$build/.libs/libmemscope_malloc.so
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

command -v valgrind >"$work/valgrind" || { echo 'valgrind is missing: apt-get install valgrind' >&2; exit 77; }
[ -x "$loops" ] || { echo "$loops is not built: make bench-instructions" >&2; exit 1; }

# count LIBRARY CONF CASE: instructions inside measured()
count() {
    local out=$work/callgrind.out
    rm -f "$out"
    if ! env LD_PRELOAD="$1" MEMSCOPE_CONF="$2" valgrind --tool=callgrind --callgrind-out-file="$out" \
        --toggle-collect=measured "$loops" "$3" 2>"$work/said" >&2; then
        cat "$work/said" >&2
        exit 1
    fi
    sed -n 's/^\(summary\|totals\): //p' "$out" | head -n 1
}

# each_case LIBRARY CONF: a line NAME COUNT for every case
each_case() {
    local name empty steps calls all
    while read -r name empty steps calls; do
        [ -s "$work/$empty" ] || count '' '' "$empty" >"$work/$empty"
        all=$(count "$1" "$2" "$name")
        awk -v all="$all" -v none="$(<"$work/$empty")" -v steps="$steps" -v calls="$calls" -v name="$name" \
            'BEGIN { printf "%s %.1f\n", name, (all - none) / steps - 2 * calls }'
    done < <(LD_PRELOAD="$1" MEMSCOPE_CONF="$2" "$loops" list)
}

variant() {
    case $1 in
    glibc) each_case '' '' ;;
    jemalloc) each_case libjemalloc.so.2 '' ;;
    mimalloc) each_case libmimalloc.so.2 '' ;;
    tcmalloc) each_case libtcmalloc_minimal.so.4 '' ;;
    memscope) each_case "$memscope" test_mode:1 ;;
    memscope:*) each_case "$memscope" "test_mode:1,${1#memscope:}" ;;
    memscope-*) each_case "$memscope" "test_mode:1,mode:${1#memscope-}" ;;
    *) echo "no such variant: $1" >&2; exit 2 ;;
    esac
}

if [ "${1-}" = --record ]; then
    echo '# Instructions per call in the default mode; tests/test_instructions.sh fails when one grows by more than 1.'
    echo '# Written by make record-instructions; bench/instructions.sh says what is counted.'
    echo "compiler $(${CC:-cc} -dM -E -x c /dev/null |
        awk '$2 == "__GNUC__" { gcc = $3 } $2 == "__clang_major__" { clang = $3 }
             END { print clang ? "clang-" clang : "gcc-" gcc }')"
    variant memscope
    exit
fi

[ $# -gt 0 ] || {
    set -- glibc jemalloc mimalloc tcmalloc
    [ ! -e "$memscope" ] || set -- "$@" memscope memscope-off memscope-task memscope-sampled memscope-exact
}
for name; do variant "$name" >"$work/table.$name"; done
printf '%-20s' case
printf '%18s' "$@"
echo
cat "$work"/table.* | awk '!seen[$1]++ { print $1 }' | while read -r case; do
    printf '%-20s' "$case"
    for name; do printf '%18s' "$(grep "^$case " "$work/table.$name" | cut -d' ' -f2 || echo -)"; done
    echo
done
