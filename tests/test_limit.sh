#!/usr/bin/env bash
# A process whose control group (cgroup) limits its memory gets ENOMEM, is not killed, and goes on. Tried in a directory of
# plain files that looks like a group, always; and in groups of a kernel, version 2 and version 1, where User Mode Linux is
# installed (Debian: user-mode-linux) and runs, a kernel that is a program and leaves this machine's groups alone.
# With MEMSCOPE_STRESS all scenarios are tried there too, with a larger limit.
set -euo pipefail
# shellcheck source=tests/common.sh
. "${top_srcdir:?}/tests/common.sh"
subject=${top_builddir:?}/tests/limit_subject
MIB=1048576

# ---- a group of plain files

# group NAME LIMIT: makes one of version 2.
group() {
    mkdir -p "$work/$1"
    echo "$2" >"$work/$1/memory.max"
    echo 0 >"$work/$1/memory.current"
    printf 'anon 0\ninactive_file 0\nactive_file 0\nslab_reclaimable 0\n' >"$work/$1/memory.stat"
}

# files SCENARIO CONF DIRECTORY: runs it there, its output in $out.
files() {
    status=0
    out=$(LIMIT_DIRECTORY=$3 MEMSCOPE_CONF=$2,cgroup_limit:$3 "$subject" "$1" 2>&1) || status=$?
}

# got LEAST MOST: what the program says it got, in MiB, and that it went on.
got() {
    local amount=${out#got }
    amount=${amount%% *}
    [ "$status" = 0 ] && [[ $out == *"went on" ]] && [ "$amount" -ge "$1" ] && [ "$amount" -le "$2" ]
}

# expect NAME COMMAND...
expect() {
    local name=$1 bad=0
    shift
    "$@" || bad=1
    [ "$bad" = 0 ] || echo "$name: status $status: $out"
    count "$name" "$bad"
}

group v2 $((32 * MIB))
for conf in $(backends | sed 's/^/backend:/') mode:exact mode:exact,backend:system; do
    for scenario in large medium small late late-medium threads descriptors child; do
        files $scenario "$conf" "$work/v2"
        expect "$scenario, $conf" got 20 32
    done
    files grow "$conf" "$work/v2"
    expect "grow, $conf" got 18 32
    files huge "$conf" "$work/v2"
    expect "huge, $conf" got 0 0
done

# Version 1, whose files have other names.
mkdir "$work/v1"
echo $((32 * MIB)) >"$work/v1/memory.limit_in_bytes"
ln -s memory.current "$work/v1/memory.usage_in_bytes"
echo 0 >"$work/v1/memory.current"
files large mode:hybrid "$work/v1"
expect "version 1" got 20 32

# Cache of files can be dropped, and does not count; what is used besides does.
sed -i "s/inactive_file 0/inactive_file $((30 * MIB))/" "$work/v2/memory.stat"
files large mode:hybrid "$work/v2"
expect "file cache" got 50 62
group full $((64 * MIB))
echo $((60 * MIB)) >"$work/full/memory.current"
status=0
out=$(MEMSCOPE_CONF=cgroup_limit:$work/full "$subject" ask 2>&1) || status=$?
expect "a group that others have filled" [ "$out" = "got 3 MiB" ]
echo $((20 * MIB)) >"$work/v1/memory.kmem.usage_in_bytes"
echo $((30 * MIB)) >"$work/v1/memory.current"
status=0
out=$(MEMSCOPE_CONF=cgroup_limit:$work/v1 "$subject" ask 2>&1) || status=$?
expect "version 1, what the kernel uses" [ "$out" = "got 21 MiB" ]

# No limit, or none that can be read, is none: also without a limit's directory, and where the knob says so.
there() { [ "$status" = 0 ] && [[ $out == *"got 256 MiB"*"went on" ]]; }
group none max
files huge mode:hybrid "$work/none"
expect "max" there
status=0
out=$(MEMSCOPE_CONF=cgroup_limit:$work/missing "$subject" huge 2>&1) || status=$?
expect "no such group" there
expect "no such group, said so" test "$(grep -c "^memscope: MEMSCOPE_CONF: cgroup_limit:$work/missing: no limit can be read there" <<<"$out")" = 1
status=0
out=$(MEMSCOPE_CONF=cgroup_limit:off "$subject" huge 2>&1) || status=$?
expect "off" there

# What lies untouched counts as used for ten seconds, not longer. The shim turns the clock.
group sparse $((64 * MIB))
status=0
out=$(LIMIT_DIRECTORY=$work/sparse MEMSCOPE_CONF=cgroup_limit:$work/sparse \
    LD_PRELOAD=$top_builddir/tests/.libs/clock_shim.so "$subject" sparse 2>&1) || status=$?
expect "sparse" [ "$out" = "soon refused, later there" ]

files half mode:hybrid "$work/sparse"
expect "half of a block" [ "$out" = "more refused, less there" ]

# ---- where the group is. A shim shows other files of /proc and /sys.

# place NAME LIMIT [FILE]: a group of that name in the hierarchy below $root.
place() {
    mkdir -p "$root$1"
    : >"$root$1/cgroup.procs"
    echo "$2" >"$root$1/${3:-memory.max}"
}

# found NAME EXPECTED: the limit that a process sees there. /proc/self/cgroup comes from stdin; place() was before.
found() {
    cat >"$root/proc/self/cgroup"
    status=0
    out=$(LIMIT_ROOT=$root LD_PRELOAD=$top_builddir/tests/.libs/rooted_shim.so "$subject" limit 2>&1) || status=$?
    out=$(grep -o '"cgroup_limit_bytes": *[a-z0-9]*' <<<"$out" | head -n 1)
    expect "$1" [ "${out##*[ :]}" = "$2" ]
    new_root
}
roots=0
new_root() {
    roots=$((roots + 1))
    root=$work/root$roots
    mkdir -p "$root/proc/self"
}
new_root
v1limit=memory.limit_in_bytes

place /sys/fs/cgroup/a/b/c max
place /sys/fs/cgroup/a/b $((30 * MIB))
place /sys/fs/cgroup/a $((20 * MIB))
found "version 2: the least of those above" $((20 * MIB)) <<<"0::/a/b/c"

place /sys/fs/cgroup 1000000
found "version 2: the root of a container" 1000000 <<<"0::/"

place /sys/fs/cgroup/memory/x $((30 * MIB)) $v1limit
place /sys/fs/cgroup/memory 9223372036854771712 $v1limit
place /sys/fs/cgroup/y $((10 * MIB))
place /sys/fs/cgroup/unified/y $((10 * MIB))
found "hybrid: memory is of version 1" $((30 * MIB)) <<'END'
5:memory_of_another:/y
4:cpu,memory:/x
1:name=memory:/y
0::/y
END

mkdir -p "$root/sys/fs/cgroup"
place /sys/fs/cgroup/unified/y $((22 * MIB))
found "hybrid: memory is of version 2" $((22 * MIB)) <<'END'
4:cpuset:/x
1:name=systemd:/y
0::/y
END

place /sys/fs/cgroup/memory 9223372036854771712 $v1limit
found "version 1: no limit" null <<<"4:memory:/"

# A container that is shown the name its group has outside: what is mounted is its part of the hierarchy.
place /sys/fs/cgroup/memory $((40 * MIB)) $v1limit
place /sys/fs/cgroup/memory/sub $((11 * MIB)) $v1limit
cat >"$root/proc/self/mountinfo" <<'END'
1 0 0:1 / / rw - overlay overlay rw,lowerdir=/a:/b
2 1 0:2 /docker/ab /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory
3 1 0:3 /docker/abc /sys/fs/cgroup/cpu ro master:9 - cgroup cgroup rw,cpu
4 1 0:4 /docker/abc /sys/fs/cgroup/memory ro,nosuid master:9 - cgroup cgroup rw,memory
END
found "version 1: a group in a container" $((11 * MIB)) <<<"4:memory:/docker/abc/sub"

# Mounted elsewhere; a table with lines that are longer than what is read at once.
place "/mnt/c g/h" $((13 * MIB))
{
    for i in 1 2 3; do printf '%d 0 0:1 / /mnt/%04000d rw - cgroup2 x rw,%06000d\n' $i $i $i; done
    for ((i = 0; i < 300; i++)); do printf '%d 1 0:2 / /tmp/%d rw shared:7 - tmpfs tmpfs rw\n' $i $i; done
    printf '4 1 0:4 / %s rw - cgroup2 cgroup rw,nsdelegate\n' '/mnt/c\040g'
    echo '5 1 0:5 / /mnt/other rw'
} >"$root/proc/self/mountinfo"
found "version 2: mounted elsewhere" $((13 * MIB)) <<<"0::/h"

# What is not above the group does not count, and what makes no sense is nothing.
place /sys/fs/cgroup $((10 * MIB))
found "a group outside of the namespace" null <<<"0::/../x"
place /sys/fs/cgroup $((10 * MIB))
found "a group that is not to be seen" null <<<"0::/gone"
place /sys/fs/cgroup/a $((10 * MIB))
found "a name that is too long" null <<<"0::/$(printf 'a%.0s' {1..2000})"
place /sys/fs/cgroup/a "nonsense"
found "a limit that is no number" null <<<"0::/a"
place /sys/fs/cgroup $((10 * MIB))
found "no groups" null </dev/null
for text in "" ":" "::" "0:" "0::" "0:memory" ":memory:" $'\n\n'; do
    place /sys/fs/cgroup $((10 * MIB))
    echo " - - cgroup2 -" >"$root/proc/self/mountinfo"
    found "not a list of groups: $text" null <<<"$text"
done
mkdir "$root/proc/self/cgroup" # cannot be read, nor written
out=$(LIMIT_ROOT=$root LD_PRELOAD=$top_builddir/tests/.libs/rooted_shim.so "$subject" huge 2>&1) || status=$?
expect "unreadable" there

# What is found that way is kept to.
place /sys/fs/cgroup/a $((64 * MIB))
rmdir "$root/proc/self/cgroup"
echo "0::/a" >"$root/proc/self/cgroup"
echo 0 >"$root/sys/fs/cgroup/a/memory.current"
out=$(LIMIT_ROOT=$root LD_PRELOAD=$top_builddir/tests/.libs/rooted_shim.so "$subject" ask 2>&1) || status=$?
expect "the group that was found" [ "$out" = "got 63 MiB" ]

# ---- groups of a kernel

uml=$(command -v linux.uml || true)
if [ -z "$uml" ]; then
    echo "skipped: groups of a kernel need linux.uml (Debian: user-mode-linux)"
    finish
    exit
fi

if [ -n "${MEMSCOPE_STRESS:-}" ]; then
    patience=200 limit=64 scenarios="large medium small late late-medium grow huge child threads descriptors" kernel_backends=$(backends)
else
    patience=60 limit=24 scenarios="large late-medium threads" kernel_backends=
fi
runs=0
for _ in $scenarios $kernel_backends; do runs=$((runs + 1)); done

cat >"$work/init" <<INIT
#!/bin/bash
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /mnt
echo BOOTED
if [ "\$version" = 2 ]; then
    groups=/sys/fs/cgroup limit=memory.max
    mount -t cgroup2 cgroup2 \$groups
    echo +memory >\$groups/cgroup.subtree_control
    mkdir \$groups/outer
    echo +memory >\$groups/outer/cgroup.subtree_control
else
    mount -t tmpfs tmpfs /sys/fs/cgroup
    groups=/sys/fs/cgroup/memory limit=memory.limit_in_bytes
    mkdir \$groups
    mount -t cgroup -o memory memory \$groups
    mkdir \$groups/outer
fi
echo $((limit * MIB)) >\$groups/outer/\$limit # the limit that applies is not the group's own
# run NAME CONF SCENARIO: in a group inside that one.
run() {
    mkdir -p \$groups/outer/inner
    (
        echo \$BASHPID >\$groups/outer/inner/cgroup.procs
        MEMSCOPE_CONF=\$2 exec "$subject" \$3
    ) >/mnt/out 2>&1
    echo "RUN \$1, \$2, \$3: status \$? \$(tr '\n' ' ' </mnt/out)"
    while ! rmdir \$groups/outer/inner; do sleep 0.1; done
}
for scenario in $scenarios; do run "version \$version" mode:hybrid \$scenario; done
for backend in ${kernel_backends//$'\n'/ }; do run "version \$version" backend:\$backend,mode:exact late; done
run "version \$version" cgroup_limit:off locked
echo ALL DONE
echo o >/proc/sysrq-trigger
sleep 60
INIT
chmod +x "$work/init"

# boot VERSION: what it prints is in uml.VERSION.
boot() {
    timeout -k 5 "$patience" env TMPDIR="$work" "$uml" mem=192M rootfstype=hostfs rootflags=/ ro init="$work/init" version="$1" \
        uml_dir="$work" umid="uml$1" con=null con0=null,fd:1 ssl=null quiet </dev/null >"$work/uml.$1" 2>&1 || true
}
boot 2 &
boot 1 &
wait
for version in 2 1; do
    status=0 out=$(grep -a "^RUN" "$work/uml.$version" | tr -d '\r' || true)
    echo "$out"
    if ! grep -qa "^BOOTED" "$work/uml.$version"; then
        echo "skipped: version $version, $uml does not start here"
    elif ! grep -qa "^ALL DONE" "$work/uml.$version"; then
        echo "skipped: version $version, $uml takes too long here"
    else
        expect "version $version, off: the kernel kills" grep -q "off, locked: status 137 *\$" <<<"$out"
        expect "version $version, ENOMEM and on" [ "$(grep -c 'status 0 .*went on *$' <<<"$out")" = "$runs" ]
    fi
done
finish
