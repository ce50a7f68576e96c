#!/usr/bin/env bash
# Programs that do not take a preloaded library run as if it were not there: set-uid, statically linked, 32-bit. dlopen() of
# the library when the program runs already works where the loader has room for its thread-local variables, else the
# loader says so.
set -euo pipefail
# shellcheck source=tests/common.sh
. "${top_srcdir:?}/tests/common.sh"
lib=${MEMSCOPE_LIB:?}
cd "$work"
chmod 755 .

# quiet NAME WANTED COMMAND...: output, errors and status as wanted, and no file.
quiet() {
    local name=$1 wanted=$2 bad=0 status=0
    shift 2
    MEMSCOPE_CONF="mode:exact,output:$work/written.%p" LD_PRELOAD=$lib "$@" >out 2>err || status=$?
    [ "$(cat out) $(grep -v 'cannot be preloaded' err || true)$status" = "$wanted 0" ] || { bad=1; cat out err; }
    [ -z "$(find . -name 'written.*.memscope')" ] || { bad=1; echo "it wrote a file"; }
    rm -f written.*
    count "$name" "$bad"
}

cat >hello.c <<'C'
#include <stdio.h>
#include <stdlib.h>
int main(void) { free(malloc(100)); puts("hello"); return 0; }
C
# shellcheck disable=SC2086  # CC is a command with arguments
$CC -O1 -fno-builtin -static hello.c -o static
quiet "a statically linked program" hello ./static

cat >atfork.c <<'C'
#include <pthread.h>
#include <stdlib.h>
int main(void) { free(malloc(100)); return pthread_atfork(NULL, NULL, NULL); }
C
bad=0
# shellcheck disable=SC2086
$CC -O1 -fno-builtin -static atfork.c "$top_builddir/.libs/libmemscope_malloc.a" -lpthread -o atfork && ./atfork || bad=1
count "pthread_atfork() of a static program that forks nowhere" "$bad"

cat >own.c <<'C'
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static char memory[1 << 20];
static size_t used;
void *malloc(size_t size) { return used += 64, memory + (used += (size + 63) / 64 * 64) - (size + 63) / 64 * 64; }
void free(void *block) { if (block && ((char *)block < memory || (char *)block >= memory + sizeof memory)) puts("foreign"), abort(); }
void *realloc(void *block, size_t size) { void *fresh = malloc(size); return block ? memcpy(fresh, block, size / 2) : fresh; }
void *calloc(size_t count, size_t size) { return malloc(count * size); }
int main(void) { free(reallocarray(reallocarray(NULL, 10, 10), 20, 10)); puts("hello"); return 0; }
C
# shellcheck disable=SC2086
$CC -O1 -fno-builtin own.c -o own
bad=0
[ "$(LD_PRELOAD=$lib ./own 2>&1)" = hello ] || bad=1
count "a program with a malloc of its own, but for reallocarray()" "$bad"

cat >bare.c <<'C'
void _start(void) {
    __asm__ volatile("int $0x80" : : "a"(4), "b"(1), "c"("hello\n"), "d"(6) : "memory");
    __asm__ volatile("int $0x80" : : "a"(1), "b"(0));
}
C
# shellcheck disable=SC2086
if $CC -m32 -O1 -fno-pie -no-pie -fno-stack-protector -nostdlib -static bare.c -o bare 2>log && ./bare >out 2>&1; then
    quiet "a 32-bit program" hello ./bare
else
    echo "skipped: 32-bit programs cannot be made or run here"
fi

# Linked to the library and set-uid: whoever starts it must not make it write files as somebody else.
# shellcheck disable=SC2086
$CC -O1 -fno-builtin -static hello.c "$top_builddir/.libs/libmemscope_malloc.a" -lpthread -o linked
MEMSCOPE_CONF="output:$work/seen" ./linked >out
bad=0
[ -s seen.memscope ] || bad=1
count "the linked program heeds MEMSCOPE_CONF" "$bad"
if [ "$(id -u)" = 0 ] && cp "$(command -v id)" own_id && chmod 4755 own_id linked &&
    [ "$(setpriv --reuid=65534 --clear-groups ./own_id -un 2>log)" = root ]; then
    chmod 777 .
    quiet "a set-uid program" root setpriv --reuid=65534 --clear-groups ./own_id -un
    quiet "a set-uid program that is linked to the library" hello setpriv --reuid=65534 --clear-groups ./linked
else
    echo "skipped: set-uid programs cannot be made here"
fi

cat >late.c <<'C'
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static void *(*take)(size_t);
static void (*give)(void *);
static void *work(void *unused) {
    for (size_t i = 0; i < 3000; i++) give(memset(take(i * 20), 1, i * 20));
    return unused;
}
int main(int argc, char **argv) {
    pthread_t threads[3];
    void *handle = dlopen(argv[1], RTLD_NOW | (argc > 2 ? RTLD_GLOBAL : 0));
    if (!handle) return puts(dlerror()), 0;
    *(void **)&take = dlsym(handle, "malloc");
    *(void **)&give = dlsym(handle, "free");
    for (int i = 0; i < 3; i++) pthread_create(&threads[i], NULL, work, NULL);
    work(NULL);
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    free(malloc(100)); /* libc's */
    dlclose(handle);
    return puts("worked"), 0;
}
C
# shellcheck disable=SC2086
$CC -O1 -fno-builtin late.c -o late -lpthread
for scope in "" global; do
    for room in 512 8192; do
        bad=0 status=0
        GLIBC_TUNABLES=glibc.rtld.optional_static_tls=$room ./late "$lib" ${scope:+"$scope"} >out 2>&1 || status=$?
        [ "$status" = 0 ] && [ "$(wc -l <out)" = 1 ] || bad=1
        grep -qx worked out || { [ "$room" = 512 ] && grep -q 'static TLS' out; } || bad=1
        [ "$bad" = 0 ] || cat out
        count "dlopen, $room bytes of room, $scope" "$bad"
    done
done
finish
