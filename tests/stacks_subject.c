/* Programs for test_stacks.py, linked to the library:
 *
 *     stacks_subject many N          N distinct call stacks, each with a block that stays for a moment
 *     stacks_subject recursion N     a function that calls itself, two that call each other, N calls deep, allocate
 *     stacks_subject unload A B      a function `twin` of library A allocates, A is unloaded; then B, if there is one
 *     stacks_subject backwards       the clock goes back while blocks come and go
 *     stacks_subject signals         a handler allocates while the stacks of others are taken
 *     stacks_subject damaged         allocates while a return address is none
 *     stacks_subject entries         every entry point gives blocks of all sizes, which are freed
 *     stacks_subject torn            allocates while its stacks are being left: longjmp, pthread_exit, cancellation */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "tests/entries.h"

static void *volatile kept;

static void expect(int condition, const char *what) {
    if (condition) return;
    fprintf(stderr, "%s\n", what);
    exit(1);
}

/* ---- a stack for each number: at each level one of two calls, by one bit; every level its own function */
static __attribute__((noinline)) void level_0(unsigned bits) {
    free(kept);
    kept = malloc(bits % 100);
    __asm__ volatile("" ::: "memory");
}

#define LEVEL(level, next)                                                             \
    static __attribute__((noinline)) void level_##level(unsigned bits) {               \
        if (bits & 1) {                                                                \
            level_##next(bits >> 1);                                                   \
            __asm__ volatile("# " #level " after a one" ::: "memory"); /* two calls */ \
        } else {                                                                       \
            level_##next(bits >> 1);                                                   \
        }                                                                              \
        __asm__ volatile("# " #level ::: "memory");                                    \
    }                                                                                  \
    _Static_assert((level) == (next) + 1, "a chain")
LEVEL(1, 0);
LEVEL(2, 1);
LEVEL(3, 2);
LEVEL(4, 3);
LEVEL(5, 4);
LEVEL(6, 5);
LEVEL(7, 6);
LEVEL(8, 7);
LEVEL(9, 8);
LEVEL(10, 9);
LEVEL(11, 10);
LEVEL(12, 11);
LEVEL(13, 12);
LEVEL(14, 13);
LEVEL(15, 14);
LEVEL(16, 15);
LEVEL(17, 16);
LEVEL(18, 17);
LEVEL(19, 18);
LEVEL(20, 19);
LEVEL(21, 20);
LEVEL(22, 21);

static int many(unsigned count) {
    for (unsigned i = 0; i < count; i++) level_22(i);
    return 0;
}

/* ---- recursion, and what stands for it: at each level a block of 24 bytes is kept, one of 40 comes and goes */
struct kept {
    struct kept *next;
    char room[16];
};

static __attribute__((noinline)) struct kept *deep(unsigned left, struct kept *list) {
    struct kept *block = malloc(sizeof *block);
    expect(block != NULL, "malloc");
    block->next = list;
    free(malloc(40));
    struct kept *all = left > 1 ? deep(left - 1, block) : block;
    __asm__ volatile("" : "+r"(all)::"memory");
    return all;
}

static __attribute__((noinline)) struct kept *other_way(unsigned left, struct kept *list);

static __attribute__((noinline)) struct kept *one_way(unsigned left, struct kept *list) {
    struct kept *block = malloc(sizeof *block);
    expect(block != NULL, "malloc");
    block->next = list;
    free(malloc(40));
    struct kept *all = left > 1 ? other_way(left - 1, block) : block;
    __asm__ volatile("" : "+r"(all)::"memory");
    return all;
}

static struct kept *other_way(unsigned left, struct kept *list) {
    struct kept *all = one_way(left, list);
    __asm__ volatile("" : "+r"(all)::"memory");
    return all;
}

static void *recurse(void *levels) {
    unsigned count = (unsigned)(uintptr_t)levels;
    kept = one_way(count, deep(count, NULL));
    return NULL;
}

static int recursion(unsigned levels) {
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    expect(pthread_attr_setstacksize(&attributes, 256 << 20) == 0, "pthread_attr_setstacksize");
    expect(pthread_create(&thread, &attributes, recurse, (void *)(uintptr_t)levels) == 0, "pthread_create");
    expect(pthread_join(thread, NULL) == 0, "pthread_join");
    return 0;
}

/* ---- libraries */
typedef void *twin_t(size_t bytes);

static void use(const char *path, size_t bytes) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    expect(library != NULL, "dlopen");
    twin_t *twin;
    *(void **)&twin = dlsym(library, "twin");
    kept = twin(bytes);
    expect(kept != NULL && dlclose(library) == 0, "twin or dlclose");
}

static int unload(char **libraries) {
    for (size_t i = 0; libraries[i]; i++) use(libraries[i], 1000 + i);
    return 0;
}

/* ---- the clock: this definition is found before libc's */
static _Atomic(long) seconds_back;

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = (int)syscall(SYS_clock_gettime, clock, now);
    now->tv_sec -= seconds_back;
    return result;
}

static int backwards(void) {
    struct timespec pause = {0, 3000000};
    for (int round = 0; round < 400; round++) {
        void *blocks[300];
        for (size_t i = 0; i < 300; i++) blocks[i] = malloc(i * 97);
        for (size_t i = 0; i < 300; i++) free(blocks[i]);
        if (round % 100 == 50) seconds_back += 5;
        if (round % 4 == 0) nanosleep(&pause, NULL);
    }
    return 0;
}

/* ---- stacks being left */
static jmp_buf out;

static __attribute__((noinline)) void jump(unsigned levels) {
    volatile char room[200];
    room[levels] = 1;
    kept = realloc(kept, 100 + levels);
    if (levels > 0)
        jump(levels - 1);
    else if (kept != NULL) /* always: the compiler need not know */
        longjmp(out, 1);
    room[0] = room[1];
}

static void clean_up(void *block) {
    free(block);
    free(malloc(333));
}

static void *leaves(void *how) {
    void *block = malloc(500);
    pthread_cleanup_push(clean_up, block);
    if (how) pthread_exit(strdup("left"));
    for (;;) {
        free(malloc(70));
        pthread_testcancel();
    }
    pthread_cleanup_pop(0);
    return NULL;
}

static __attribute__((noinline)) void jump_and_land(unsigned levels) {
    if (setjmp(out) == 0) jump(levels);
    free(malloc(70));
}

static int torn(void) {
    for (unsigned i = 0; i < 500; i++) jump_and_land(i % 30);
    for (uintptr_t i = 0; i < 60; i++) {
        pthread_t thread;
        void *result;
        expect(pthread_create(&thread, NULL, leaves, (void *)(i % 2)) == 0, "pthread_create");
        if (i % 2 == 0) pthread_cancel(thread);
        expect(pthread_join(thread, &result) == 0, "pthread_join");
        if (i % 2) free(result);
    }
    return 0;
}

/* ---- signals inside a capture */
static volatile sig_atomic_t handled;

static void on_timer(int number) {
    (void)number;
    free(malloc(55)); /* may be NULL: refused */
    handled++;
}

static __attribute__((noinline)) void take_deep(unsigned left, unsigned bits) {
    if (left == 0)
        level_22(bits);
    else
        take_deep(left - 1, bits);
    __asm__ volatile("" ::: "memory");
}

static int signals(void) {
    struct sigaction action = {.sa_handler = on_timer, .sa_flags = SA_RESTART};
    struct itimerval often = {{0, 100}, {0, 100}}, never = {{0, 0}, {0, 0}};
    expect(sigaction(SIGALRM, &action, NULL) == 0 && setitimer(ITIMER_REAL, &often, NULL) == 0, "setitimer");
    for (unsigned i = 0; handled < 1000; i++) take_deep(150, i << 12 | i % 4096);
    setitimer(ITIMER_REAL, &never, NULL);
    return 0;
}

/* ---- a stack that leads nowhere */
static __attribute__((noinline)) void damage(void) {
    uintptr_t *returns_to = (uintptr_t *)__builtin_frame_address(0) + 1, saved = *returns_to;
    *(volatile uintptr_t *)returns_to = 4711;
    free(kept);
    kept = malloc(66);
    *(volatile uintptr_t *)returns_to = saved;
}

static int damaged(void) {
    for (int i = 0; i < 10; i++) damage();
    return 0;
}

/* ---- entry points */
static __attribute__((noinline)) int each_entry(void) {
    static const size_t sizes[] = {100, 1000, 5000, 30000, 100000, 3000000}, alignments[] = {16, 64, 4096};
    for (size_t entry = 0; entry < entry_count; entry++)
        for (size_t size = 0; size < sizeof sizes / sizeof *sizes; size++)
            for (size_t alignment = 0; alignment < sizeof alignments / sizeof *alignments; alignment++)
                for (int time = 0; time < 10; time++) {
                    void *block = entries[entry].allocate(alignments[alignment], sizes[size]);
                    expect(block != NULL, entries[entry].name);
                    free(block);
                }
    return 0;
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    if (strcmp(what, "many") == 0 && argc == 3) return many((unsigned)strtoul(argv[2], NULL, 10));
    if (strcmp(what, "recursion") == 0 && argc == 3) return recursion((unsigned)strtoul(argv[2], NULL, 10));
    if (strcmp(what, "unload") == 0) return unload(argv + 2);
    if (strcmp(what, "backwards") == 0) return backwards();
    if (strcmp(what, "signals") == 0) return signals();
    if (strcmp(what, "damaged") == 0) return damaged();
    if (strcmp(what, "torn") == 0) return torn();
    if (strcmp(what, "entries") == 0) return each_entry();
    fprintf(stderr,
            "stacks_subject many N | recursion N | unload A [B] | backwards | signals | damaged | torn | entries\n");
    return 2;
}
