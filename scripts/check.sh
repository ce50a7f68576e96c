#!/usr/bin/env bash
# Installs what is missing, builds with gcc and with clang (warnings are errors), runs every test.
# Its last line is `N passed, N failed`. Needs Debian 12, root or sudo. Can be run again.
set -euo pipefail
# shellcheck source=scripts/common.sh
. "$(dirname "$0")/common.sh"
cd "$top"

passed=0
failed=0
logs=$top/build-check/logs

# step NAME COMMAND...: one test; its output goes to a log, of which the end is shown when it fails.
step() {
    local name=$1 log
    shift
    log=$logs/${name//[^a-zA-Z0-9]/_}.log
    say "$name"
    if "$@" >"$log" 2>&1 </dev/null; then
        passed=$((passed + 1))
        return 0
    fi
    failed=$((failed + 1))
    tail -n 40 "$log"
    echo "FAILED: $name (all of it: $log)"
    return 1
}

finish() {
    printf '\n%d passed, %d failed\n' "$passed" "$failed"
    [ "$failed" = 0 ]
    exit
}

# show_failed LOG: why, so that nobody needs the machine it failed on.
show_failed() {
    tail -n 60 "$1"
    echo "FAILED: $1"
}

# count_tests BUILD: adds up what `make check` left: the checks of a Check program, `N passed, N failed` of a script
# that counts, one for any other test.
count_tests() {
    local trs log result counts
    while IFS= read -r trs; do
        log=${trs%.trs}.log
        result=$(sed -n 's/^:test-result: //p' "$trs" | head -n 1)
        counts=$(sed -n -e 's/^[0-9]*%: Checks: \([0-9]*\), Failures: \([0-9]*\), Errors: \([0-9]*\)$/\1 \2 \3/p' \
            -e 's/^\([0-9]*\) passed, \([0-9]*\) failed$/+ \1 \2/p' "$log" |
            awk '$1 == "+" { p += $2; f += $3; n++; next } { p += $1 - $2 - $3; f += $2 + $3; n++ } END { if (n) print p, f }')
        case $result:$counts in
            SKIP:*) echo "skipped: ${log#"$1"/}: $(tail -n 2 "$log" | head -n 1)" ;;
            PASS:) passed=$((passed + 1)) ;;
            PASS:*) passed=$((passed + ${counts% *})) failed=$((failed + ${counts#* })) ;;
            *:) failed=$((failed + 1)) && show_failed "$log" ;;
            *)
                passed=$((passed + ${counts% *}))
                [ "${counts#* }" != 0 ] || counts="x 1"
                failed=$((failed + ${counts#* }))
                show_failed "$log"
                ;;
        esac
    done < <(find "$1" -name '*.trs' -not -path '*/memscope-[0-9]*' | LC_ALL=C sort)
}

need_packages "${packages_build[@]}" "${packages_quickstart[@]}" "${packages_check[@]}"
need_npm
mkdir -p "$logs"
bootstrap

step "shellcheck" shellcheck -x scripts/*.sh .ci/run || true

step "configure with gcc" configure_in build-check/gcc CC=gcc CXX=g++ --enable-werror || finish
step "build with gcc" make -C build-check/gcc -j"$jobs" || finish
say "make check"
find build-check/gcc -name '*.trs' -delete
status=0
timeout 1300 make -C build-check/gcc -j"$jobs" -k check >"$logs/make_check.log" 2>&1 </dev/null || status=$?
grep -E '^(PASS|FAIL|ERROR|SKIP|XFAIL):' "$logs/make_check.log" || tail -n 40 "$logs/make_check.log"
before=$((passed + failed)) failed_before=$failed
count_tests build-check/gcc
if [ "$status" = 124 ]; then
    echo "FAILED: make check took longer than 21 minutes" && failed=$((failed + 1))
elif [ $((passed + failed)) = "$before" ]; then
    echo "FAILED: make check ran no test" && failed=$((failed + 1))
elif [ "$status" != 0 ] && [ "$failed" = "$failed_before" ]; then
    tail -n 40 "$logs/make_check.log"
    echo "FAILED: make check" && failed=$((failed + 1))
fi

# Where invariants and the order of locks are checked, tests run that take many of them.
debug_tests='tests/test_variables.py tests/test_trace.py tests/test_sites.py tests/test_basic_usage.sh tests/test_malloc
    tests/test_fork tests/test_threads tests/test_process'
if step "configure with clang" configure_in build-check/clang CC=clang CXX=clang++ --enable-werror --enable-debug; then
    if step "build with clang" make -C build-check/clang -j"$jobs" check TESTS=; then
        step "tests of a debug build" make -C build-check/clang -j"$jobs" -k check TESTS="${debug_tests//$'\n'/}" || true
    fi
fi

step "distcheck" make -C build-check/gcc -j"$jobs" distcheck TESTS='tests/test_exports.sh tests/test_install.sh' || true

finish
