/* Does what a knob is said to change and tells what happened, a word a line: for test_knobs.py.
 * Usage: knob_probe WHAT [PATH] */
#include <errno.h>
#include <limits.h>
#include <malloc.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "memscope/memscope.h"

extern void operator_delete(void *block) __asm__("_ZdlPv");

static void *volatile kept;
static const unsigned char *volatile bytes;

/* A workload with a few call sites, tasks and depths. */
static __attribute__((noinline)) void *allocate_here(size_t size) {
    void *volatile block = malloc(size);
    return block;
}
static __attribute__((noinline)) void *allocate_there(size_t size) {
    void *volatile block = malloc(size);
    return block;
}
static __attribute__((noinline)) void *descend(int depth, size_t size) {
    void *volatile block = depth ? descend(depth - 1, size) : allocate_there(size);
    return block;
}

static void workload(void) {
    for (size_t i = 0; i < 20000; i++) {
        free(allocate_here(100));
        free(allocate_there(200));
    }
    kept = descend(40, 300000);
    for (size_t i = 0; i < 20; i++) {
        memscope_task_t parent = memscope_task_create("parent", 0);
        memscope_task_t child = memscope_task_create("child", parent);
        memscope_token_t token = memscope_task_enter(child);
        kept = allocate_here(1000);
        memscope_task_leave(token);
    }
}

/* Is what malloc returns filled, and what was freed? */
static void junk(void) {
    kept = malloc(64);
    bytes = kept;
    printf("new %02x %02x\n", bytes[0], bytes[63]);
    free(kept);
    printf("freed %02x %02x\n", bytes[8], bytes[63]);
    kept = calloc(1, 64);
    bytes = kept;
    printf("calloc %02x\n", bytes[63]);
    unsigned char *large = malloc(2 << 20);
    memset(large, 1, 2 << 20);
    static const size_t sizes[] = {6 << 20, 5 << 20, 9 << 20};
    for (int i = 0; i < 3; i++) large = realloc(large, sizes[i]);
    printf("large %02x %02x %02x %02x\n", large[0], large[(2 << 20) - 1], large[2 << 20], large[(9 << 20) - 1]);
    free(large);
}

/* After how many allocations a freed block comes back. */
static void reuse(void) {
    void *first = malloc(64);
    free(first);
    for (int i = 1; i <= 200000; i++) {
        kept = malloc(64);
        if (kept == first) {
            printf("reused %d\n", i);
            return;
        }
        free(kept);
    }
    printf("reused never\n");
}

static void usable(void) {
    kept = malloc(61);
    printf("usable %zu\n", malloc_usable_size(kept));
}

static void mismatch(void) {
    operator_delete(malloc(10));
}

/* What two blocks of 40 MiB, one after the other, get. */
static void ask(void) {
    void *first = malloc((size_t)40 << 20), *second = malloc((size_t)40 << 20);
    printf("first %s, second %s\n", first ? "there" : "refused", second ? "there" : "refused");
    free(first);
    free(second);
}

/* A heap that outgrows the size from which it needs another backing, whose start is no failure of any malloc. */
static void grow(void) {
    bool kept_errno = true;
    for (size_t i = 0; i < 1500; i++) {
        errno = 4711;
        kept = malloc(65536);
        kept_errno &= kept && errno == 4711;
    }
    printf("errno %s\n", kept_errno ? "kept" : "changed");
}

/* exit() in a thread with the smallest stack there may be. */
static void *leave(void *unused) {
    printf("leaving\n");
    exit(*(int *)unused);
}

static void leave_from_thread(void) {
    pthread_attr_t attributes;
    pthread_t thread;
    int status = 0;
    pthread_attr_init(&attributes);
    if (pthread_attr_setstacksize(&attributes, PTHREAD_STACK_MIN) != 0) exit(2);
    if (pthread_create(&thread, &attributes, leave, &status) == 0) pthread_join(thread, NULL);
    exit(3);
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    if (strcmp(what, "work") == 0) workload();
    if (strcmp(what, "junk") == 0) junk();
    if (strcmp(what, "reuse") == 0) reuse();
    if (strcmp(what, "usable") == 0) usable();
    if (strcmp(what, "mismatch") == 0) mismatch();
    if (strcmp(what, "ask") == 0) ask();
    if (strcmp(what, "leave") == 0) leave_from_thread();
    if (strcmp(what, "grow") == 0) grow();
    printf("done\n");
    if (argc > 2) return memscope_export_json(argv[2]);
    return 0;
}
