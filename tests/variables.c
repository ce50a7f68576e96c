/* Names, regions and scopes as a script; test_variables.py knows what the snapshot it writes must say.
 * Usage: variables OUT.json */
#define _GNU_SOURCE
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "memscope/memscope.h"

#define EXPECT(condition)                             \
    do {                                              \
        if (!(condition)) fail(#condition, __LINE__); \
    } while (0)

static void fail(const char *what, int line) {
    fprintf(stderr, "variables.c:%d: %s\n", line, what);
    exit(1);
}

struct node {
    struct node *next;
    int value;
};

/* ---- pointers that are no live block of ours: every one is refused, and nothing is read in front of any */

static void refused(void) {
    static char fixed[64];
    char local[64], *block = malloc(100), *large = malloc(1 << 20), *freed = malloc(200);
    char *page = mmap(NULL, 3 * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT(page != MAP_FAILED && mprotect(page + 4096, 4096, PROT_READ | PROT_WRITE) == 0);
    free(freed);
    const uintptr_t wild[] = {(uintptr_t)NULL,
                              (uintptr_t)fixed,
                              (uintptr_t)local,
                              (uintptr_t)block + 16,
                              (uintptr_t)block + 1,
                              (uintptr_t)block - 16,
                              (uintptr_t)large + 16,
                              (uintptr_t)large + 4096,
                              (uintptr_t)freed,
                              (uintptr_t)page,
                              (uintptr_t)page + 4096,
                              (uintptr_t)page + 8192,
                              (uintptr_t)&refused,
                              1,
                              16,
                              UINTPTR_MAX,
                              UINTPTR_MAX - 15,
                              (uintptr_t)1 << 47,
                              (uintptr_t)1 << 63};
    for (size_t i = 0; i < sizeof wild / sizeof wild[0]; i++) {
        char *refused_pointer;
        memcpy(&refused_pointer, &wild[i], sizeof refused_pointer);
        EXPECT(MEMSCOPE_TRACK(refused_pointer) == EINVAL);
        EXPECT(MEMSCOPE_TRACK_SMART(refused_pointer) == EINVAL);
        MEMSCOPE_OWN(refused_pointer);
        EXPECT(memscope_scope_refused_pointer.error == EINVAL);
    }
    EXPECT(memscope_track_region(NULL, 10, NULL) == EINVAL);
    EXPECT(memscope_track_region(local, SIZE_MAX, NULL) == EINVAL);
    munmap(page, 3 * 4096);
    free(block);
    free(large);
}

/* ---- a name follows its block through every way of resizing; each ends at a size of its own */

static char *resized(char *block, const size_t *sizes) {
    size_t before = malloc_usable_size(block);
    memset(block, 'x', before);
    for (; *sizes; sizes++) {
        block = realloc(block, *sizes);
        EXPECT(block && block[0] == 'x' && block[(before < *sizes ? before : *sizes) - 1] == 'x');
        memset(block, 'x', *sizes);
        before = *sizes;
    }
    return block;
}
#define RESIZED(name, start, ...)      \
    char *name = start;                \
    EXPECT(MEMSCOPE_TRACK(name) == 0); \
    name = resized(name, (const size_t[]){__VA_ARGS__, 0})

static void *resize_elsewhere(void *block) {
    return realloc(block, 333);
}

static void resizes(void) {
    RESIZED(in_place, malloc(100), 101, 102, 100, 99);
    RESIZED(to_larger_class, malloc(100), 200, 900, 5000, 30001);
    RESIZED(to_smaller_class, malloc(30000), 9000, 901, 17);
    RESIZED(to_large, malloc(1000), 40002);
    RESIZED(large_in_place, malloc(100000), 100001, 99999);
    RESIZED(large_grows, malloc(100000), 200000, 1 << 21, 5 << 20, 9000003);
    RESIZED(large_shrinks, malloc(8 << 20), 4 << 20, 70004);
    RESIZED(large_to_small, malloc(5 << 20), 105);
    RESIZED(zeroed, calloc(10, 10), 206);
    RESIZED(aligned, aligned_alloc(256, 512), 1007);
    RESIZED(aligned_large, aligned_alloc(4096, 1 << 17), 300008);
    char *by_another = malloc(50);
    pthread_t thread;
    void *back = NULL;
    EXPECT(MEMSCOPE_TRACK(by_another) == 0);
    EXPECT(pthread_create(&thread, NULL, resize_elsewhere, by_another) == 0 && pthread_join(thread, &back) == 0);
    by_another = reallocarray(back, 3, 111);
    EXPECT(by_another != NULL);
}

/* ---- types and regions */

static int counter;
static struct node list[3];

static void regions(void) {
    static double table[4][2];
    static const char *words[5];
    short number = 1;
    const volatile unsigned char flags = 3;
    char *const text = strdup("text");
    void *opaque = calloc(1, sizeof(struct node));
    struct node *head = malloc(sizeof *head), **slot = &head;
    for (int i = 0; i < 7; i++) EXPECT(MEMSCOPE_TRACK_SMART(counter) == 0);
    EXPECT(MEMSCOPE_TRACK_SMART(table) == 0 && MEMSCOPE_TRACK_SMART(words) == 0 && MEMSCOPE_TRACK_SMART(list) == 0);
    EXPECT(MEMSCOPE_TRACK_SMART(number) == 0 && MEMSCOPE_TRACK_SMART(flags) == 0);
    EXPECT(MEMSCOPE_TRACK_SMART(text) == 0 && MEMSCOPE_TRACK_AS(*slot, struct node *) == 0);
    EXPECT(MEMSCOPE_TRACK_AS(opaque, struct node *) == 0 && MEMSCOPE_TRACK_AS(list[1], struct node) == 0);
    printf("counter %zu\ntable %zu\nwords %zu\nlist %zu\n", (size_t)&counter, (size_t)table, (size_t)words,
           (size_t)list);
    EXPECT(list[1].next == NULL && counter == 0 && number == 1); /* nobody touched them */
}

/* ---- scopes */

static char *kept[4];

static void free_in_order(void) {
    MEMSCOPE_OWNED(char *, in_order, malloc(300));
    memset(in_order, 1, 300);
    free(in_order);
}

static void outlive(int i) {
    MEMSCOPE_OWNED(char *, outlives, malloc(1000 + (size_t)i));
    kept[i] = outlives;
}

/* What is owned is the block, wherever it lies and whoever frees it: not the pointer. */
static void resize_and_outlive(void) {
    char *wanders = malloc(10);
    MEMSCOPE_OWN(wanders);
    for (size_t size = 20; size <= 5 << 20; size *= 2) wanders = realloc(wanders, size);
    kept[2] = wanders = realloc(wanders, 77);
}

static void *free_it(void *block) {
    free(block);
    return NULL;
}

static void freed_by_another(void) {
    pthread_t thread;
    MEMSCOPE_OWNED(char *, handed_over, malloc(400));
    EXPECT(pthread_create(&thread, NULL, free_it, handed_over) == 0 && pthread_join(thread, NULL) == 0);
    char *same_address = malloc(400); /* likely, and another block */
    EXPECT(MEMSCOPE_TRACK(same_address) == 0);
    kept[3] = same_address;
}

static void nested(void) {
    MEMSCOPE_OWNED(char *, outer, malloc(500));
    { MEMSCOPE_OWN(outer); }
    free(outer);
}

static void many(void) {
    enum { COUNT = 20000 };
    static memscope_variable_t variable = {"many", "char *", "many", __FILE__, __LINE__, 0};
    static memscope_scope_t scopes[COUNT];
    static void *blocks[COUNT];
    for (int i = 0; i < COUNT; i++) scopes[i] = memscope_scope_begin(blocks[i] = malloc(24), &variable);
    for (int i = 0; i < COUNT; i += 2) free(blocks[i]);
    for (int i = 0; i < COUNT; i++) memscope_scope_end(&scopes[i]);
    for (int i = 1; i < COUNT; i += 2) free(blocks[i]);
    memscope_scope_end(&scopes[0]); /* once only */
}

static void *in_thread(void *unused) {
    for (int i = 0; i < 1000; i++) {
        MEMSCOPE_OWNED(char *, shared_name, malloc(32 + (size_t)i % 3));
        free(shared_name);
    }
    return unused;
}

static void threads(void) {
    pthread_t thread[8];
    for (int i = 0; i < 8; i++) EXPECT(pthread_create(&thread[i], NULL, in_thread, NULL) == 0);
    for (int i = 0; i < 8; i++) EXPECT(pthread_join(thread[i], NULL) == 0);
}

static long long now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* How long it lived, as seen from inside and from outside. */
static void slow(void) {
    const struct timespec wait = {.tv_nsec = 5000000};
    long long before = now_ns();
    MEMSCOPE_OWNED(char *, slow_one, malloc(9));
    long long inside = now_ns();
    EXPECT(nanosleep(&wait, NULL) == 0);
    inside = now_ns() - inside;
    free(slow_one);
    printf("slow_one_least %lld\nslow_one_most %lld\n", inside, now_ns() - before);
}

/* The child's scopes are its own. */
static void forked(void) {
    int status;
    MEMSCOPE_OWNED(char *, inherited, malloc(600));
    pid_t child = fork();
    if (child == 0) {
        free(inherited);
        in_thread(NULL);
        threads();
        memscope_scope_end(&memscope_scope_inherited);
        _exit(0);
    }
    EXPECT(child > 0 && waitpid(child, &status, 0) == child && status == 0);
}

int main(int count, char **arguments) {
    if (count != 2) return 2;
    refused();
    resizes();
    regions();
    free_in_order();
    outlive(0);
    outlive(1);
    resize_and_outlive();
    freed_by_another();
    nested();
    many();
    threads();
    slow();
    forked();
    free(kept[1]);
    MEMSCOPE_OWNED(char *, still_open, malloc(700));
    EXPECT(memscope_export_json(arguments[1]) == 0);
    free(still_open);
    return 0;
}
