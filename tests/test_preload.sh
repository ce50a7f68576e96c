#!/usr/bin/env bash
# Programs nobody here wrote give byte for byte the same output, errors and exit status with the library preloaded as
# without it: on each backing, and with every block recorded. Each run works in a directory of its own name.
set -euo pipefail
# shellcheck source=tests/common.sh
. "${top_srcdir:?}/tests/common.sh"
lib=${MEMSCOPE_LIB:?}
here=$top_srcdir/tests/workloads

# The programs: run_NAME does a deterministic piece of work in the current directory. MEMSCOPE_PRELOAD is what the
# program itself is to be run with; the shell around it is not preloaded.
with() { env ${MEMSCOPE_PRELOAD:+LD_PRELOAD="$MEMSCOPE_PRELOAD"} "$@"; }
run_python3() { with /usr/bin/python3 "$here/work.py"; }
run_python3_malloc() { PYTHONMALLOC=malloc with /usr/bin/python3 "$here/work.py"; }
run_perl() { with perl "$here/work.pl"; }
run_node() { with node "$here/work.js"; }
run_lua5.4() { with lua5.4 "$here/work.lua"; }
run_gcc() { with gcc -O1 -fno-diagnostics-color -S -o - "$here/work.c"; }
run_gcc_ok() { sed s/undeclared_on_purpose/0/ "$here/work.c" >ok.c && with gcc -O2 -c ok.c -o ok.o && sha256sum ok.o; }
run_g++() { printf '#include <map>\n#include <string>\nstd::map<std::string,int> m; int main(){m["a"]=1; return (int)m.size();}\n' >x.cc
    with g++ -O1 -S -o - x.cc; }
run_sqlite3() { with sqlite3 -batch :memory: <"$here/work.sql"; }
run_sqlite3_file() { with sqlite3 -batch data.db <"$here/work.sql"; sha256sum data.db; }
run_jq() { with jq -c '[range(20000)] | map({key: tostring, value: (. * 7)}) | from_entries | to_entries | map(.value) | add, error("end")' -n; }
run_gawk() { with gawk 'BEGIN { for (i = 0; i < 100000; i++) a[i % 5000] = a[i % 5000] i; n = asorti(a, s); for (i = 1; i <= n; i += 100) t = t s[i] length(a[s[i]]); print n, length(t), t; exit 7 }'; }
run_bash() { with bash -c 'declare -A a; for i in {1..20000}; do a[$((i % 700))]+="$i,"; done; for k in {0..699..50}; do echo "$k ${#a[$k]}"; done; x=$(echo sub | tr a-z A-Z); echo "$x"; exit 8'; }
run_tar_xz() { mkdir -p d && for i in 1 2 3; do seq 1 $((i * 9000)) >d/$i; done
    with tar --sort=name --mtime=@0 --owner=0 --group=0 -cf x.tar d && with xz -T2 -k x.tar && with xz -dc x.tar.xz | sha256sum && sha256sum x.tar x.tar.xz; }
run_sort() { seq 1 60000 | with sort -R --random-source=/dev/zero | with sort -n --parallel=2 -S 2M | sha256sum; }
run_git() { export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null GIT_AUTHOR_DATE='2020-01-01 00:00 +0000' \
        GIT_COMMITTER_DATE='2020-01-01 00:00 +0000' GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
    with git init -q -b main . && for i in 1 2 3 4 5; do seq $i 3000 >"file$i" && with git add . && with git commit -qm "commit $i"; done
    with git repack -adq && with git log --stat --format=%H && with git fsck && with git diff HEAD~3 | sha256sum; with git show nothing; }
run_redis() { local i status=0
    MALLOC_CONF='' with redis-server --port 0 --unixsocket "$PWD/s" --save '' --appendonly no --daemonize no >log 2>&1 &
    local server=$!
    for ((i = 0; i < 200; i++)); do redis-cli -s "$PWD/s" ping >/dev/null 2>&1 && break; sleep 0.05; done
    { for ((i = 0; i < 3000; i++)); do echo "SET k$i $i$i$i"; echo "RPUSH l$((i % 50)) v$i"; done
      for ((i = 0; i < 3000; i += 2)); do echo "DEL k$i"; done; echo DBSIZE; echo "LRANGE l7 0 -1"; echo "GET k77"; echo "NOSUCH"; } |
        with redis-cli -s "$PWD/s" | sha256sum
    redis-cli -s "$PWD/s" shutdown nosave >/dev/null 2>&1 || true
    wait "$server" || status=$?
    return "$status"; }
programs=(python3 python3_malloc perl node lua5.4 gcc gcc_ok g++ sqlite3 sqlite3_file jq gawk bash tar_xz sort git redis)

# run NAME CONF: in a directory that has the same path each time, since programs print it.
run() {
    local name=$1 conf=$2 out=$3
    rm -rf "$work/here" && mkdir "$work/here"
    # shellcheck disable=SC2031
    (cd "$work/here" && export MEMSCOPE_CONF=$conf && timeout 120 bash -c "$functions; run_$name" >"$out.out" 2>"$out.err" </dev/null
     echo $? >"$out.status") || true
}

functions=$(declare -f with; for name in "${programs[@]}"; do declare -f "run_$name"; done)
export here
confs=(mode:exact)
for backend in $(backends); do confs+=("mode:hybrid,backend:$backend"); done
bad=0
MEMSCOPE_PRELOAD=$lib MEMSCOPE_CONF=nonsense:1 with gawk 'BEGIN { }' 2>&1 | grep -q '^memscope: ' || bad=1
count "the library is in the programs" "$bad"
for name in "${programs[@]}"; do
    command=${name%%_*}
    [ "$command" = redis ] && command=redis-server
    command -v "$command" >/dev/null || { echo "skipped: $command is not installed"; continue; }
    unset MEMSCOPE_PRELOAD
    run "$name" "" "$work/$name.plain"
    bad=0
    [ -s "$work/$name.plain.out" ] || [ -s "$work/$name.plain.err" ] || bad=1
    count "$name says something" "$bad"
    export MEMSCOPE_PRELOAD=$lib
    for conf in "${confs[@]}"; do
        run "$name" "$conf" "$work/$name.ours"
        bad=0
        for part in out err status; do
            cmp "$work/$name.plain.$part" "$work/$name.ours.$part" || { bad=1; head -c 600 "$work/$name.ours.$part"; }
        done
        count "$name, $conf" "$bad"
    done
done

# Little address space from the start: the programs may fail, but of their own accord, never by a signal.
export MEMSCOPE_PRELOAD=$lib
for kib in 20000 40000 80000 160000; do
    for command in "ls /" "gawk BEGIN{print}" "perl -e print" "sqlite3 -version"; do
        status=0
        # shellcheck disable=SC2086
        (ulimit -v "$kib" && with $command) >"$work/out" 2>&1 || status=$?
        bad=0
        [ "$status" -lt 128 ] || { bad=1; echo "status $status"; tail -n 3 "$work/out"; }
        count "$command in $kib KiB of address space" "$bad"
    done
done
finish
