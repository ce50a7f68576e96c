/* Each function commits one crime and writes the address it is about to stdout just before: the line on stderr must
 * name it. Blocks go through volatile pointers, so that the compiler neither sees nor removes the crime. */
#include "tests/crimes/crimes.h"

#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

extern void *operator_new(size_t size) __asm__("_Znwm");
extern void *operator_new_array(size_t size) __asm__("_Znam");
extern void operator_delete(void *block) __asm__("_ZdlPv");
extern void operator_delete_sized(void *block, size_t size) __asm__("_ZdlPvm");
extern void free_sized(void *block, size_t size);
extern void operator_delete_array(void *block) __asm__("_ZdaPv");

static void *volatile victim;
static char *volatile target;
static volatile size_t amount; /* hides sizes from the compiler's own checks */

static void tell(void *address) {
    char text[32];
    int length = snprintf(text, sizeof text, "%p", address);
    if (write(STDOUT_FILENO, text, (size_t)length) != length) _exit(3);
}

static void *choose(size_t size) {
    victim = malloc(size);
    tell(victim);
    return victim;
}

static void run_thread(void *(*body)(void *), void *argument) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, body, argument) != 0 || pthread_join(thread, NULL) != 0) _exit(3);
}

/* ---- free twice */
static void double_free(intptr_t size) {
    choose((size_t)size);
    free(victim);
    free(victim);
}

static void double_free_later(intptr_t size) {
    enum { OTHERS = 300 };
    void *others[OTHERS];
    choose((size_t)size);
    for (size_t i = 0; i < OTHERS; i++) others[i] = malloc((size_t)size);
    free(victim);
    for (size_t i = 0; i < OTHERS; i++) free(others[i]);
    free(victim);
}

/* The second owner frees a block that the first one's late free has already taken away. */
static void double_free_after_reuse(intptr_t size) {
    choose((size_t)size);
    free(victim);
    void *volatile again = malloc((size_t)size);
    free(victim);
    free(again);
}

/* The slabs of the first blocks are those of other sizes when the last of them is freed once more. */
static void double_free_after_other_sizes(intptr_t which) {
    static const struct {
        size_t count, size, others, other_size;
    } cases[] = {{400, 100, 3, 60}, {60, 600, 600, 24}, {1000, 24, 1, 1000}};
    enum { MOST = 1000 };
    void *blocks[MOST];
    for (size_t i = 0; i < cases[which].count; i++) blocks[i] = memset(malloc(cases[which].size), 1, cases[which].size);
    for (size_t i = 0; i < cases[which].count; i++) free(blocks[i]);
    victim = blocks[cases[which].count - 1];
    for (size_t i = 0; i < cases[which].others; i++) target = malloc(cases[which].other_size);
    tell(victim);
    free(victim);
}

static void double_free_aligned(intptr_t size) {
    victim = memalign(256, (size_t)size);
    tell(victim);
    free(victim);
    free(victim);
}

static void *free_body(void *block) {
    free(block);
    return NULL;
}
static void double_free_by_two_threads(intptr_t size) {
    choose((size_t)size);
    run_thread(free_body, victim);
    free(victim);
}

static pthread_barrier_t barrier;
static void *allocate_and_stay(void *size) {
    choose((size_t)(intptr_t)size);
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    return NULL;
}
static void double_free_of_others_block(intptr_t size) {
    pthread_t thread;
    pthread_barrier_init(&barrier, NULL, 2);
    if (pthread_create(&thread, NULL, allocate_and_stay, (void *)size) != 0) _exit(3);
    pthread_barrier_wait(&barrier);
    free(victim);
    free(victim);
}

/* Two threads free the same large block at the same moment, as far as that can be had. */
static void *free_with_the_other(void *block) {
    pthread_barrier_wait(&barrier);
    free(block);
    return NULL;
}
static void double_free_at_once(intptr_t size) {
    pthread_t thread;
    choose((size_t)size);
    pthread_barrier_init(&barrier, NULL, 2);
    if (pthread_create(&thread, NULL, free_with_the_other, victim) != 0) _exit(3);
    free_with_the_other(victim);
    pthread_join(thread, NULL);
}

static void *allocate_body(void *size) {
    choose((size_t)(intptr_t)size);
    return NULL;
}
static void double_free_of_dead_threads_block(intptr_t size) {
    run_thread(allocate_body, (void *)size);
    free(victim);
    free(victim);
}

static void double_delete(intptr_t size) {
    victim = operator_new((size_t)size);
    tell(victim);
    operator_delete(victim);
    operator_delete(victim);
}

/* ---- free what malloc never returned */
static void free_this(void *address) {
    victim = address;
    tell(victim);
    free(victim);
}

static void free_address(intptr_t address) {
    free_this((void *)address);
}

static void free_stack(intptr_t unused) {
    char local[256];
    memset(local, 0, sizeof local);
    free_this((void *)(((uintptr_t)local + 32 + (uintptr_t)unused) & ~(uintptr_t)15));
}

static void free_global(intptr_t unused) {
    static _Alignas(16) char global[256];
    free_this(global + 64 + unused);
}

static void free_constant(intptr_t unused) {
    static const _Alignas(16) char constant[256] = "a constant";
    free_this((void *)((uintptr_t)constant + 16 + (uintptr_t)unused));
}

/* With offset 0 the header would lie in front of the mapping. */
static void free_mapping(intptr_t offset) {
    char *pages = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(pages, 4096, PROT_NONE);
    free_this(pages + 4096 + offset);
}

/* Unreadable memory right next to a live block's slab, where an allocator may believe everything is its own. */
static void free_beside_heap(intptr_t unused) {
    enum { STEP = 1 << 16, STEPS = 1 << 14 };
    char *start = malloc(64);
    for (intptr_t i = 1; i < STEPS; i++) {
        char *wanted = (char *)(((uintptr_t)start & ~(uintptr_t)(STEP - 1)) - (uintptr_t)i * STEP);
        char *hole = mmap(wanted, STEP, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        if (hole == wanted) free_this(hole + 4096 + unused);
        if (hole != MAP_FAILED) munmap(hole, STEP);
    }
    free_this(start + 16);
}

/* The last page of a slab with one block. */
static void free_where_no_block_was(intptr_t unused) {
    uintptr_t block = (uintptr_t)malloc(900);
    free_this((void *)((block & ~(uintptr_t)0xffff) + 0xf000 + (uintptr_t)unused));
}

static void realloc_where_no_block_was(intptr_t unused) {
    uintptr_t block = (uintptr_t)malloc(900);
    victim = (void *)((block & ~(uintptr_t)0xffff) + 0xf000 + (uintptr_t)unused);
    tell(victim);
    victim = realloc(victim, 10);
}

static void free_interior(intptr_t offset) {
    char *block = malloc(256);
    memset(block, 0, 256);
    free_this(block + offset);
}

static void free_interior_of_large(intptr_t offset) {
    char *block = calloc(1, 4u << 20);
    free_this(block + offset);
}

/* Of one below 1 MiB, which is not a mapping of its own; others lie around it. */
static void realloc_interior_of_large(intptr_t offset) {
    char *blocks[3];
    for (size_t i = 0; i < 3; i++) blocks[i] = malloc(100000);
    tell(blocks[1] + offset);
    victim = realloc(blocks[1] + offset, amount + 10);
}

/* The start of the room an aligned block was cut from, as far as one can guess it. */
static void free_base_of_aligned(intptr_t unused) {
    char *block = memalign(4096, 100);
    free_this(block - 32 + unused);
}

static void free_base_of_large_aligned(intptr_t unused) {
    char *block = memalign(4096, 2000000);
    free_this(block - 32 + unused);
}

static void realloc_address(intptr_t address) {
    tell((void *)address);
    victim = realloc((void *)address, amount + 100);
}

static void usable_size_of_address(intptr_t address) {
    tell((void *)address);
    amount = malloc_usable_size((void *)address);
}

/* ---- use a handle that was freed */
static void realloc_of_freed(intptr_t size) {
    choose((size_t)size);
    free(victim);
    victim = realloc(victim, (size_t)size * 2);
}

static void usable_size_of_freed(intptr_t size) {
    choose((size_t)size);
    free(victim);
    amount = malloc_usable_size(victim);
}

/* ---- write in front of a block */
static void write_in_front(void *block, size_t bytes) {
    target = (char *)((uintptr_t)block - bytes);
    for (size_t i = 0; i < bytes; i++) target[i] = 'A';
}

static void smash(intptr_t bytes) {
    write_in_front(choose(64), (size_t)bytes);
    free(victim);
}

static void smash_and_realloc(intptr_t bytes) {
    write_in_front(choose(64), (size_t)bytes);
    victim = realloc(victim, 1000);
}

static void smash_large(intptr_t bytes) {
    write_in_front(choose(100000), (size_t)bytes);
    free(victim);
}

static void smash_aligned(intptr_t bytes) {
    victim = memalign(1024, 100);
    tell(victim);
    write_in_front(victim, (size_t)bytes);
    free(victim);
}

static void flip(void *block, intptr_t position) {
    target = (char *)((uintptr_t)block - 16) + position;
    *target = (char)~*target;
}

static void flip_header_byte(intptr_t position) {
    flip(choose(64), position);
    free(victim);
}

static void flip_large_header_byte(intptr_t position) {
    flip(choose(100000), position);
    free(victim);
}

static void flip_aligned_header_byte(intptr_t position) {
    victim = memalign(1024, 100);
    tell(victim);
    flip(victim, position);
    free(victim);
}

static void flip_remote_header_byte(intptr_t position) {
    run_thread(allocate_body, (void *)(intptr_t)64);
    flip(victim, position);
    free(victim);
}

/* Takes blocks until the damaged one would come up again. */
static void allocate_many(size_t size) {
    for (size_t i = 0; i < 5000; i++) target = malloc(size);
}

static void flip_free_byte(intptr_t position) {
    choose(64);
    free(victim);
    flip(victim, position);
    allocate_many(64);
}

/* ---- write behind a block */

/* Two of many blocks of `size` with nothing between them but the second one's header; sets victim to the second. */
static char *find_neighbours(size_t size) {
    enum { COUNT = 400 };
    static char *blocks[COUNT];
    for (size_t i = 0; i < COUNT; i++) blocks[i] = malloc(size);
    for (size_t i = 0; i < COUNT; i++)
        for (size_t j = 0; j < COUNT; j++)
            if (blocks[j] == blocks[i] + malloc_usable_size(blocks[i]) + 16) {
                victim = blocks[j];
                tell(victim);
                return blocks[i];
            }
    static const char none[] = "no two blocks are neighbours\n";
    (void)!write(STDERR_FILENO, none, sizeof none - 1);
    _exit(3);
}

static void write_behind(char *block, size_t bytes) {
    target = block + malloc_usable_size(block);
    for (size_t i = 0; i < bytes; i++) target[i] = (char)(bytes == 1 ? ~target[i] : 'A' + (char)i);
}

static void overflow_into_next(intptr_t bytes) {
    write_behind(find_neighbours(64), (size_t)bytes);
    free(victim);
}

static void overflow_into_free(intptr_t bytes) {
    char *first = find_neighbours(64);
    free(victim);
    write_behind(first, (size_t)bytes);
    allocate_many(64);
}

static void overflow_slack(intptr_t size) {
    target = choose((size_t)size);
    target[size + (intptr_t)amount] = 1;
    free(victim);
}

static void overflow_slack_and_realloc(intptr_t size) {
    target = choose((size_t)size);
    target[size + (intptr_t)amount] = 1;
    victim = realloc(victim, (size_t)size * 10);
}

static void realloc_and_overflow_slack(intptr_t size) {
    target = victim = realloc(malloc((size_t)size), (size_t)size * 10 + 1);
    tell(victim);
    target[size * 10 + 1] = 1;
    free(victim);
}

static void use_usable_size(intptr_t size) {
    choose((size_t)size);
    memset(victim, 'x', malloc_usable_size(victim));
    victim = realloc(victim, (size_t)size * 3);
    memset(victim, 'y', malloc_usable_size(victim));
    free(victim);
}

/* ---- write to freed memory */
static void write_after_free(intptr_t offset) {
    target = choose(64);
    free(victim);
    target[offset] = 1;
    for (size_t i = 0; i < 5000; i++) { /* the block leaves a quarantine too */
        void *volatile block = malloc(64);
        free(block);
    }
    allocate_many(64);
}

/* ---- the wrong family */
static void malloc_delete(intptr_t size) {
    operator_delete(choose((size_t)size));
}
static void malloc_delete_array(intptr_t size) {
    operator_delete_array(choose((size_t)size));
}

static void *choose_new(void *block) {
    victim = block;
    tell(block);
    return block;
}
static void new_free(intptr_t size) {
    free(choose_new(operator_new((size_t)size)));
}
static void new_delete_array(intptr_t size) {
    operator_delete_array(choose_new(operator_new((size_t)size)));
}
static void new_array_delete(intptr_t size) {
    operator_delete(choose_new(operator_new_array((size_t)size)));
}
static void new_realloc(intptr_t size) {
    victim = realloc(choose_new(operator_new((size_t)size)), (size_t)size * 100);
}

/* A size other than the one that was asked for. */
static void sized_free(intptr_t said) {
    free_sized(choose(64), (size_t)said);
}
static void sized_delete(intptr_t said) {
    operator_delete_sized(choose_new(operator_new(64)), (size_t)said);
}

static void innocent(intptr_t unused) {
    static const size_t sizes[] = {0, 1, 60, 1000, 1025, 30000, 40000, 3000000};
    tell(NULL);
    for (size_t round = 0; round < 200; round++)
        for (size_t i = (size_t)unused; i < sizeof sizes / sizeof sizes[0]; i++) {
            void *blocks[] = {malloc(sizes[i]), calloc(1, sizes[i]), memalign(128, sizes[i])};
            for (size_t b = 0; b < 3; b++) memset(blocks[b], 'x', sizes[i]);
            blocks[0] = realloc(blocks[0], sizes[i] + 10);
            for (size_t b = 0; b < 3; b++) free(blocks[b]);
            operator_delete(operator_new(sizes[i]));
            operator_delete_array(operator_new_array(sizes[i]));
        }
}

const crime_t crimes[] = {
#define MS_CRIME(function, argument, knobs, line, signal) \
    {#function, function, (intptr_t)(argument), knobs, line, signal},
#include "tests/crimes/crimes.def"
#undef MS_CRIME
};
const size_t crime_count = sizeof crimes / sizeof crimes[0];
