/* Programs with known leaks of every kind. `leak_subject SCENARIO` does one and returns from main; tests/test_leaks.py
 * knows what each leaves behind. Lost pointers must really be gone: scenarios run below main, and what they leave on the
 * stack is wiped before it ends. */
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

typedef struct node {
    struct node *next, *other;
    char room[48];
} node_t; /* 64 bytes */

static void *kept[16]; /* roots */
static char *middle[4];
static __thread void *own;

#define NOINLINE __attribute__((noinline))

static NOINLINE void *block(size_t bytes) {
    void *memory = calloc(1, bytes);
    if (!memory) abort();
    return memory;
}

static NOINLINE node_t *ring(int length) {
    node_t *first = block(sizeof *first), *last = first;
    for (int i = 1; i < length; i++, last = last->next) last->next = block(sizeof *last);
    last->next = first;
    return first;
}

/* reachable 1000 + 77, possible 500 + 33, definite 100, definite 64 -> indirect 64 -> indirect 10 */
static NOINLINE void kinds(void) {
    kept[0] = block(1000);
    *(void **)kept[0] = block(77);
    middle[0] = (char *)block(500) + 104;
    *(void **)middle[0] = block(33);
    block(100);
    node_t *head = block(sizeof *head);
    head->next = block(sizeof *head);
    head->next->next = block(10);
}

/* A ring of 1,000; one that points to itself; two rings, one of which leads to the other; a ring that leads to a kept
 * block, and a kept ring. */
static NOINLINE void cycles(void) {
    ring(1000);
    ring(1);
    node_t *from = ring(5), *to = ring(7);
    from->other = to;
    kept[0] = block(300);
    ring(3)->other = kept[0];
    kept[1] = ring(4);
}

/* Two heads lead to one block; a head points to the head of another group, which was found first or later. */
static NOINLINE void shared(void) {
    node_t *one = block(sizeof *one), *two = block(sizeof *two), *tail = block(sizeof *tail);
    one->next = two->next = tail;
    node_t *group[4];
    for (int i = 0; i < 4; i++) group[i] = block(sizeof *group[i]);
    group[0]->next = group[1];
    group[2]->next = group[1];
    group[2]->other = group[3];
    group[3]->next = group[0];
}

/* 100,000 in a row: a search that recursed would need a stack as deep. */
static NOINLINE void deep(void) {
    for (int kind = 0; kind < 2; kind++) {
        node_t *last = block(sizeof *last);
        if (kind == 0) kept[0] = last;
        for (int i = 1; i < 100000; i++, last = last->next) last->next = block(sizeof *last);
    }
}

/* Blocks beyond the slabs, with pointers far inside; one grown by realloc. */
static NOINLINE void large(void) {
    char *lost = block(100000);
    *(void **)(lost + 99992) = block(200000);
    kept[0] = block(3000000);
    *(void **)((char *)kept[0] + 2500000) = block(40000);
    kept[1] = realloc(block(50000), 5000000);
    *(void **)((char *)kept[1] + 4999992) = block(48);
    middle[0] = (char *)block(70000) + 69999;
    middle[1] = (char *)block(60000) + 60000; /* one past the end is not inside */
}

/* reachable 100 + 64 + 5000 + 0, definite 32 + 0 */
static NOINLINE void aligned(void) {
    if (posix_memalign(&kept[0], 256, 100) || posix_memalign(&kept[1], 4096, 5000)) abort();
    memset(kept[0], 0, 100);
    memset(kept[1], 0, 5000);
    *(void **)((char *)kept[1] + 4096) = block(64);
    kept[2] = block(0);
    block(0);
    void *lost;
    if (posix_memalign(&lost, 1024, 32)) abort();
    lost = NULL;
    __asm__ volatile("" : : "r"(lost) : "memory");
}

/* Freed blocks are no leaks and lead nowhere: definite 64. */
static NOINLINE void freed(void) {
    for (int i = 0; i < 1000; i++) free(block((size_t)i));
    node_t *head = block(sizeof *head);
    head->next = block(sizeof *head);
    kept[0] = head;
    free(head); /* its `next` may still stand there */
    void *big = block(100000);
    free(big);
}

/* ---- threads: what they hold while they wait */

static sem_t ready, never;
static pthread_key_t key;

static NOINLINE void *wait_with(void *argument) {
    void *volatile on_stack = block(111);
    own = block(222);
    pthread_setspecific(key, block(333));
    sem_post(&ready);
    while (sem_wait(&never) != 0) continue;
    return argument ? argument : on_stack;
}

static NOINLINE void *lose_and_end(void *argument) {
    block(1000);
    return argument;
}

/* Three threads wait, each with 111 on its stack, 222 in a thread-local variable, 333 as a key's value and its argument of
 * 444; five threads have ended, each lost 1000. The main thread has 555 in a thread-local variable. */
static NOINLINE void threads(void) {
    pthread_t thread;
    sem_init(&ready, 0, 0);
    sem_init(&never, 0, 0);
    pthread_key_create(&key, NULL);
    own = block(555);
    for (int i = 0; i < 5; i++) {
        if (pthread_create(&thread, NULL, lose_and_end, NULL)) abort();
        pthread_join(thread, NULL);
    }
    for (int i = 0; i < 3; i++) {
        if (pthread_create(&thread, NULL, wait_with, block(444))) abort();
        sem_wait(&ready);
    }
}

/* ---- blocks that another thread freed, given out again and never written: what stands in them is nobody's pointer */

enum { HANDED = 64, HANDED_BYTES = 200 };
static uintptr_t handed[HANDED]; /* complements, which point nowhere */
static void *handed_kept[HANDED];

static NOINLINE void *free_handed(void *argument) {
    for (int i = 0; i < HANDED; i++) free((void *)~handed[i]);
    return argument;
}

static NOINLINE int handed_index(const void *memory) {
    for (int i = 0; i < HANDED; i++)
        if (handed[i] == ~(uintptr_t)memory) return i;
    return -1;
}

/* Of every 16 that come back the first 8 are lost: definite 32 * 200, reachable 32 * 200. */
static NOINLINE void handed_over(void) {
    static void *others[1000];
    int back = 0, count = 0;
    pthread_t thread;
    for (int i = 0; i < HANDED; i++) handed[i] = ~(uintptr_t)block(HANDED_BYTES);
    if (pthread_create(&thread, NULL, free_handed, NULL) || pthread_join(thread, NULL)) abort();
    while (back < HANDED && count < 1000) {
        void *memory = malloc(HANDED_BYTES);
        int index = handed_index(memory);
        if (index < 0) others[count++] = memory;
        if (index >= 0) back++;
        if (index % 16 >= 8) handed_kept[index] = memory;
    }
    if (back < HANDED) abort();
    while (count > 0) free(others[--count]);
    memset(others, 0, sizeof others);
}

/* ---- a fiber whose stack is a block */

static ucontext_t outside, inside;

static NOINLINE void in_fiber(void) {
    void *volatile on_stack = block(600);
    own = NULL;
    swapcontext(&inside, &outside);
    free(on_stack);
}

static NOINLINE void fiber(void) {
    getcontext(&inside);
    kept[0] = inside.uc_stack.ss_sp = block(65536);
    inside.uc_stack.ss_size = 65536;
    makecontext(&inside, in_fiber, 0);
    swapcontext(&outside, &inside);
}

/* The process ends inside a fiber: main's own stack still counts. */
static NOINLINE void exit_in_fiber_now(void) {
    void *volatile on_stack = block(600);
    exit(on_stack == NULL);
}

static NOINLINE void exit_in_fiber(void) {
    void *volatile below = block(700);
    getcontext(&inside);
    void *stack = inside.uc_stack.ss_sp = block(65536);
    inside.uc_stack.ss_size = 65536;
    makecontext(&inside, exit_in_fiber_now, 0);
    kept[0] = stack;
    swapcontext(&outside, &inside);
    free(below);
}

/* Pages of a block that nobody may read, and pages that are gone; a pointer stands behind them. */
static NOINLINE void guarded(void) {
    char *pages;
    for (int i = 0; i < 2; i++) {
        if (posix_memalign((void **)&pages, 4096, i ? 1 << 20 : 16384)) abort();
        memset(pages, 0, i ? 1 << 20 : 16384);
        *(void **)(pages + 8192) = block(50);
        if (mprotect(pages + 4096, 4096, PROT_NONE)) abort();
        if (i == 1 && munmap(pages + 12288, 4096)) abort();
        kept[i] = pages;
    }
    pages = NULL;
    block(60);
}

/* What the call says, in place of the table at exit. */
#ifdef WITH_MEMSCOPE
#include "memscope/memscope.h"

static void call(void) {
    memscope_leaks_t leaks;
    kinds();
    int error = memscope_leaks(&leaks);
    printf("%d %lu %lu %lu %lu %lu %lu %lu %lu\n", error, leaks.definite.bytes, leaks.definite.blocks, leaks.indirect.bytes,
           leaks.indirect.blocks, leaks.possible.bytes, leaks.possible.blocks, leaks.reachable.bytes, leaks.reachable.blocks);
}
#endif

static NOINLINE void wipe(void) {
    char room[16384];
    memset(room, 0, sizeof room);
    __asm__ volatile("" : : "r"(room) : "memory");
}

int main(int count, char **arguments) {
    static const struct {
        const char *name;
        void (*run)(void);
    } scenarios[] = {
        {"kinds", kinds},     {"cycles", cycles},
        {"shared", shared},   {"deep", deep},
        {"large", large},     {"aligned", aligned},
        {"freed", freed},     {"threads", threads},
        {"fiber", fiber},     {"exit_in_fiber", exit_in_fiber},
        {"guarded", guarded}, {"handed_over", handed_over},
#ifdef WITH_MEMSCOPE
        {"call", call},
#endif
    };
    for (size_t i = 0; count > 1 && i < sizeof scenarios / sizeof scenarios[0]; i++)
        if (strcmp(scenarios[i].name, arguments[1]) == 0) {
            scenarios[i].run();
            wipe();
            return 0;
        }
    return 2;
}
