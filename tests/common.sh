# shellcheck shell=bash
# For the shell tests of the malloc: a directory that goes away, counts, the backings that were built in.
work=$(mktemp -d)
started=()
clean_up() {
    local pid
    for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
    rm -rf "$work"
}
trap clean_up EXIT

passed=0
failed=0

# count NAME BAD: one check, failed unless BAD is 0.
count() {
    if [ "$2" = 0 ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED: $1"
    fi
}

finish() {
    echo "$passed passed, $failed failed"
    [ "$failed" = 0 ]
}

backends() {
    local name
    for name in jemalloc mimalloc; do
        ! grep -q "^#define MS_HAVE_${name^^} 1" "${top_builddir:?}/config.h" || echo "$name"
    done
    echo system
}
