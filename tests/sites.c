/* Scripts for what mode exact knows of sites, each with its own truth. Usage: sites SCRIPT THREADS SEED SNAPSHOT.json
 *     turns   one thread acts at a time, whose turn it is: the order of all events is known, and with it every number
 *     storm   all threads at once: parts must add up to the whole
 *     time    blocks that live for known times, sites that grow and sites that do not
 * The truth goes to standard output as JSON: a row a site, named by the address of the function that is the site.
 * Nothing but the script allocates between the first step and the snapshot. */
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "memscope/memscope.h"
#include "tests/support.h"

enum { SITES = 6, RESIZE = SITES - 1, THREADS_MOST = 8, BLOCKS = 400, STEPS = 6000, BUCKETS = 32 };

typedef struct truth {
    int64_t live_bytes, live_blocks, peak_bytes, at_peak_bytes, at_peak_blocks;
    uint64_t allocated_bytes, allocated_blocks, freed_bytes, freed_blocks, temporary_bytes, temporary_blocks;
    uint64_t sizes[BUCKETS];
    bool allocated_by[THREADS_MOST], freed_by[THREADS_MOST];
} truth_t;

typedef struct block {
    void *memory;
    size_t size;
    int site, owner;
} block_t;

static truth_t truth[SITES];
static block_t blocks[THREADS_MOST][BLOCKS];
static void *last[THREADS_MOST]; /* allocated last by this thread, while it lives */
static int64_t live, peak;
static int thread_count;
static uint64_t seed;
static _Atomic int turn;
static pthread_barrier_t barrier;

/* ---- the sites: each function has one call that is one */

#define SITE(name, call)                                            \
    __attribute__((noinline)) static void *name(void *old, size_t size) { \
        void *memory = call;                                        \
        (void)old;                                                  \
        __asm__ volatile("# " #name : "+r"(memory)); /* not alike */ \
        return memory;                                              \
    }
SITE(site_malloc, malloc(size))
SITE(site_calloc, calloc(1, size))
SITE(site_aligned, memalign(256, size))
SITE(site_other, malloc(size))
SITE(site_new, malloc(size))
SITE(site_realloc, realloc(old, size))
static void *(*const site[SITES])(void *, size_t) = {site_malloc, site_calloc, site_aligned,
                                                    site_other,  site_new,    site_realloc};

/* ---- the model */

static uint32_t bucket_of(uint64_t value) {
    uint32_t bucket = 0;
    for (; value; value >>= 1) bucket++;
    return bucket < BUCKETS ? bucket : BUCKETS - 1;
}

static void model_allocated(int self, int at, const block_t *block) {
    truth_t *t = &truth[at];
    t->allocated_bytes += block->size;
    t->allocated_blocks++;
    t->live_bytes += (int64_t)block->size;
    t->live_blocks++;
    t->sizes[bucket_of(block->size)]++;
    t->allocated_by[self] = true;
    if (t->live_bytes > t->peak_bytes) t->peak_bytes = t->live_bytes;
    last[self] = block->memory;
    live += (int64_t)block->size;
    if (live <= peak) return;
    peak = live;
    for (int i = 0; i < SITES; i++) {
        truth[i].at_peak_bytes = truth[i].live_bytes;
        truth[i].at_peak_blocks = truth[i].live_blocks;
    }
}

static void model_freed(int self, const block_t *block) {
    truth_t *t = &truth[block->site];
    t->freed_bytes += block->size;
    t->freed_blocks++;
    t->live_bytes -= (int64_t)block->size;
    t->live_blocks--;
    t->freed_by[self] = true;
    live -= (int64_t)block->size;
    if (last[self] == block->memory && block->owner == self) {
        t->temporary_bytes += block->size;
        t->temporary_blocks++;
    }
    for (int i = 0; i < THREADS_MOST; i++)
        if (last[i] == block->memory) last[i] = NULL;
}

/* ---- steps */

static size_t draw_size(uint64_t *random, bool small) {
    static const size_t sizes[] = {0, 1, 24, 100, 1000, 1024, 1025, 5000, 20000, 32768, 40000, 200000, 1500000};
    uint64_t r = support_random(random);
    return sizes[r % (small ? 9 : r % 7 == 0 ? 13 : 9)] + (r >> 32) % 20;
}

static void make(int self, block_t *block, uint64_t *random) {
    int at = (int)(support_random(random) % RESIZE);
    block->size = draw_size(random, false);
    block->memory = site[at](NULL, block->size);
    if (!block->memory) abort();
    block->site = at;
    block->owner = self;
}

/* Between sizes of slabs: it stays, or the old and the new block are there at once. */
static void resize(int self, block_t *block, uint64_t *random) {
    block_t old = *block;
    block->size = draw_size(random, true) + 1;
    block->memory = site[RESIZE](old.memory, block->size);
    block->site = RESIZE;
    block->owner = self;
    if (thread_count < 0) return; /* storm */
    if (block->memory == old.memory) {
        last[self] = NULL;
        model_freed(self, &old);
        model_allocated(self, RESIZE, block);
    } else {
        model_allocated(self, RESIZE, block);
        model_freed(self, &old);
    }
}

static void step(int self, uint64_t *random, bool modelled) {
    block_t *block = &blocks[support_random(random) % (uint64_t)thread_count][support_random(random) % BLOCKS];
    if (!block->memory) {
        make(self, block, random);
        if (modelled) model_allocated(self, block->site, block);
    } else if (support_random(random) % 4 == 0 && block->size <= 32000) {
        resize(self, block, random);
    } else {
        if (modelled) model_freed(self, block);
        free(block->memory);
        block->memory = NULL;
    }
    if (support_random(random) % 8) return;
    block_t passing;
    make(self, &passing, random);
    if (modelled) model_allocated(self, passing.site, &passing);
    if (modelled) model_freed(self, &passing);
    free(passing.memory);
}

static void *take_turns(void *argument) {
    int self = (int)(intptr_t)argument;
    pthread_barrier_wait(&barrier);
    for (int i = 0; i < STEPS / thread_count; i++) {
        while (atomic_load(&turn) % thread_count != self) sched_yield();
        step(self, &seed, true);
        atomic_fetch_add(&turn, 1);
    }
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier); /* the snapshot is taken */
    return NULL;
}

/* Its own blocks only, but every one of them may be freed by the neighbour: handed over in a slot. */
static _Atomic(void *) slots[64];

static void *storm(void *argument) {
    int self = (int)(intptr_t)argument;
    uint64_t random = seed + (uint64_t)self;
    pthread_barrier_wait(&barrier);
    for (int i = 0; i < STEPS; i++) {
        void *memory = site[support_random(&random) % RESIZE](NULL, draw_size(&random, false));
        if (support_random(&random) % 3 == 0) memory = site[RESIZE](memory, 1 + draw_size(&random, true));
        free(atomic_exchange(&slots[support_random(&random) % 64], memory));
    }
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    return NULL;
}

/* ---- time */

static void *kept[512];

static void pass(long milliseconds) {
    struct timespec left = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    while (nanosleep(&left, &left) != 0) continue;
}

/* site 0 has one block from the start, site 1 grows evenly, site 2 had a burst, site 3's blocks live for 60 ms and more. */
static void time_script(void) {
    void *burst[64];
    kept[0] = site[0](NULL, 100000);
    for (int i = 0; i < 64; i++) burst[i] = site[2](NULL, 1000);
    for (int i = 0; i < 64; i++) free(burst[i]);
    for (int i = 0; i < 40; i++) {
        void *waiting = i % 8 == 0 ? site[3](NULL, 10) : NULL;
        for (int n = 0; n < 8; n++) {
            kept[1 + i * 8 + n] = site[1](NULL, 1000);
            pass(8);
        }
        free(waiting);
    }
}

/* ---- the truth */

static int popcount(const bool *set) {
    int count = 0;
    for (int i = 0; i < THREADS_MOST; i++) count += set[i];
    return count;
}

static void print_truth(int64_t before) {
    printf("{\"live_before\": %ld, \"peak\": %ld, \"sites\": [", (long)before, (long)(before + peak));
    for (int i = 0; i < SITES; i++) {
        const truth_t *t = &truth[i];
        printf("%s\n{\"address\": %lu, \"live_bytes\": %ld, \"live_blocks\": %ld, \"peak_bytes\": %ld, \"at_peak_bytes\": %ld, "
               "\"at_peak_blocks\": %ld, \"allocated_bytes\": %lu, \"allocated_blocks\": %lu, \"freed_bytes\": %lu, "
               "\"freed_blocks\": %lu, \"temporary_bytes\": %lu, \"temporary_blocks\": %lu, \"allocating_threads\": %d, "
               "\"freeing_threads\": %d, \"sizes\": [",
               i ? "," : "", (unsigned long)(uintptr_t)site[i], (long)t->live_bytes, (long)t->live_blocks,
               (long)t->peak_bytes, (long)t->at_peak_bytes, (long)t->at_peak_blocks, t->allocated_bytes,
               t->allocated_blocks, t->freed_bytes, t->freed_blocks, t->temporary_bytes, t->temporary_blocks,
               popcount(t->allocated_by), popcount(t->freed_by));
        for (int b = 0; b < BUCKETS; b++) printf("%s%lu", b ? ", " : "", t->sizes[b]);
        printf("]}");
    }
    printf("\n]}\n");
}

int main(int argc, char **argv) {
    if (argc != 5) return 2;
    thread_count = atoi(argv[2]);
    seed = strtoull(argv[3], NULL, 10);
    if (thread_count < 1 || thread_count > THREADS_MOST) return 2;
    bool storms = strcmp(argv[1], "storm") == 0, timed = strcmp(argv[1], "time") == 0;
    static char buffer[65536];
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    pthread_t threads[THREADS_MOST];
    pthread_barrier_init(&barrier, NULL, (unsigned)thread_count + 1);
    for (int i = 0; !timed && i < thread_count; i++)
        if (pthread_create(&threads[i], NULL, storms ? storm : take_turns, (void *)(intptr_t)i) != 0) return 3;
    memscope_usage_t usage;
    if (memscope_process_usage(&usage) != 0) return 3;
    int64_t before = (int64_t)usage.live_bytes;
    if (timed) time_script();
    if (!timed) pthread_barrier_wait(&barrier);
    if (!timed) pthread_barrier_wait(&barrier);
    int error = memscope_export_json(argv[4]);
    if (!timed) pthread_barrier_wait(&barrier);
    for (int i = 0; !timed && i < thread_count; i++) pthread_join(threads[i], NULL);
    print_truth(before);
    return error != 0;
}
