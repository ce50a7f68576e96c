#!/usr/bin/env bash
# Stacks of real programs, built by others and without frame pointers: every malloc of each is captured with and without
# the shortcut and by libunwind (tests/unwind_compare.c), and no two may differ.
set -euo pipefail
# shellcheck source=tests/common.sh
. "${top_srcdir:?}/tests/common.sh"

library=${top_builddir:?}/tests/.libs/unwind_compare.so

# compare NAME COMMAND...: runs it under the library and adds up the counts of all its processes.
compare() {
    local name=$1 bad=0
    shift
    if ! command -v "$1" >/dev/null; then
        echo "$name: not here, left out"
        return
    fi
    : >"$work/counts"
    UNWIND_COMPARE=$work/counts LD_PRELOAD=$library PYTHONMALLOC=malloc "$@" >"$work/out" 2>&1 || bad=1
    awk -v name="$name" '
        $2 ~ /^[0-9]+$/ { n[$1] += $2 }
        END {
            printf "%s: %d captures, %d frames, %d the same as libunwind, %d shorter, %d longer, %d different, ",
                name, n["captures"], n["frames"], n["same"], n["ours_ends_early"], n["ours_goes_on"], n["different"]
            printf "%d changed by the shortcut\n", n["site_differs"]
            exit n["captures"] == 0 || n["same"] != n["captures"] || n["site_differs"] > 0
        }' "$work/counts" || bad=1
    [ "$bad" = 0 ] || head -n 60 "$work/counts"
    count "$name" "$bad"
}

cat >"$work/input.py" <<'END'
import json, re, threading
data = json.loads(json.dumps({str(i): [i, i * 2.5, {"a": None}] for i in range(500)}))
re.compile("(a|b)*c{2,5}").match("ababcc")
sorted(data, key=lambda key: int(key))
threads = [threading.Thread(target=lambda: [str(i) for i in range(200)]) for _ in range(5)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
END
cat >"$work/input.pl" <<'END'
my %h;
$h{"k$_"} = [map { $_ * 2 } 1 .. 5] for 1 .. 1000;
my $n = join(",", sort { $h{$a}[0] <=> $h{$b}[0] } keys %h);
my $s = "ab" x 1000;
$s =~ s/(a)(b)/$2$1/g;
eval { die { a => 1 } };
sub f { my $n = shift; return $n ? [f($n - 1)] : [] }
f(50);
END
cat >"$work/input.cc" <<'END'
#include <map>
#include <string>
int main() {
    std::map<std::string, int> m;
    m["a"] = 1;
    return m.size() == 1 ? 0 : 1;
}
END
cat >"$work/input.sql" <<'END'
create table t(a, b, c);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 2000)
    insert into t select i, hex(randomblob(8)), i % 7 from n;
create index x on t(b);
select count(*), c from t group by c;
select * from t where b like 'A%' order by b limit 10;
END

compare python3 /usr/bin/python3 "$work/input.py"
compare perl perl "$work/input.pl"
compare sqlite3 sqlite3 -init "$work/input.sql" :memory: ""
# shellcheck disable=SC2086  # CXX is a command with arguments
compare "C++ compiler" $CXX -O1 -c "$work/input.cc" -o "$work/input.o"
# shellcheck disable=SC2016  # for the other bash to expand
compare bash bash -c 'f() { local n=$1; ((n == 0)) || f $((n - 1)); }; for i in 1 2 3; do a=$(echo $i); f 20; done'
compare git git --version
finish
