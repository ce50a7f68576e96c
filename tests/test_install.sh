#!/usr/bin/env bash
# What `make install` leaves works from there: headers, pkg-config, the shared and the static library, the command.
# The oracle is a program that knows what it allocates.
set -euo pipefail
unset MAKEFLAGS MFLAGS MAKEOVERRIDES
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
prefix=$work/usr

make -s -C "${top_builddir:?}" install prefix="$prefix" >"$work/install.log" 2>&1 || { cat "$work/install.log"; exit 1; }
for file in lib/libmemscope_malloc.so lib/libmemscope_malloc.a lib/pkgconfig/memscope.pc include/memscope/memscope.h \
    include/memscope/memscope.hpp bin/memscope share/man/man1/memscope.1 share/man/man3/memscope.3 \
    share/man/man5/memscope.conf.5; do
    [ -e "$prefix/$file" ] || { echo "not installed: $file"; exit 1; }
done

cat >"$work/hello.c" <<'C'
#include <memscope/memscope.h>
#include <stdlib.h>

int main(void) {
    memscope_usage_t before, after;
    memscope_thread_usage(&before);
    char *volatile block = malloc(12345);
    memscope_thread_usage(&after);
    free(block);
    return after.allocated_bytes - before.allocated_bytes == 12345 ? 0 : 1;
}
C
cat >"$work/hello.cpp" <<'CPP'
#include <memscope/memscope.hpp>

int main() {
    memscope_usage_t before, after;
    memscope_thread_usage(&before);
    char *volatile block = new char[12345];
    memscope_thread_usage(&after);
    delete[] block;
    return after.allocated_bytes - before.allocated_bytes == 12345 ? 0 : 1;
}
CPP

# The .pc names the configured prefix; here the tree lies elsewhere.
pc() { pkg-config --define-variable=prefix="$prefix" "$@" "$prefix/lib/pkgconfig/memscope.pc"; }
read -ra cflags <<<"$(pc --cflags)"
read -ra libs <<<"$(pc --libs)"
cxx=${CXX:-c++}

${CC:-cc} -Wall -Werror "${cflags[@]}" "$work/hello.c" -o "$work/shared" "${libs[@]}"
LD_LIBRARY_PATH=$prefix/lib "$work/shared" || { echo "the shared library did not count 12345 bytes"; exit 1; }
$cxx -std=c++20 -Wall -Werror "${cflags[@]}" "$work/hello.cpp" -o "$work/cxx" "${libs[@]}"
LD_LIBRARY_PATH=$prefix/lib "$work/cxx" || { echo "the shared library did not count 12345 bytes of new[]"; exit 1; }
${CC:-cc} "${cflags[@]}" "$work/hello.c" -o "$work/static" "$prefix/lib/libmemscope_malloc.a"
"$work/static" || { echo "the static library did not count 12345 bytes"; exit 1; }
${CC:-cc} -static "${cflags[@]}" "$work/hello.c" -o "$work/all_static" "$prefix/lib/libmemscope_malloc.a"
"$work/all_static" || { echo "the fully static program did not count 12345 bytes"; exit 1; }

cd "$work"
status=0
echo 'int main(void) { return 7; }' >seven.c
${CC:-cc} seven.c -o seven
"$prefix/bin/memscope" run -o data -- ./seven >"$work/out" 2>"$work/err" || status=$?
[ "$status" = 7 ] || { echo "memscope run gave $status for exit 7"; cat "$work/err"; exit 1; }
[ ! -s "$work/out" ] || { echo "memscope run wrote to the program's stdout"; exit 1; }
compgen -G 'data/seven.*.memscope' >/dev/null || { echo "no snapshot was written"; cat "$work/err"; exit 1; }
"$prefix/bin/memscope" show data/seven.*.memscope >/dev/null
