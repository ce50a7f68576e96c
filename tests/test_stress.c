/* Random operations against a model on several threads that pass each other blocks: nothing may overlap, lose contents
 * or be miscounted. The seed is printed; MEMSCOPE_SEED repeats a run (as far as threads repeat), MEMSCOPE_SECONDS sets
 * its length (default 1 second, 60 in `make check-stress`). */
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "memscope/memscope.h"
#include "tests/heap_model.h"
#include "tests/support.h"

#pragma weak memscope_task_create
#pragma weak memscope_task_enter
#pragma weak memscope_task_leave
#pragma weak memscope_task_usage
#pragma weak memscope_process_usage
#pragma weak memscope_export_msgpack

enum { THREADS = 4, SLOTS = 400, MAIL = 64, RECORDS = THREADS * SLOTS + MAIL };

static heap_record_t records[RECORDS];
static _Atomic(uint32_t) mail[MAIL]; /* indices of records on their way */
static uint32_t held[THREADS][SLOTS];
static memscope_task_t task;
static struct timespec deadline;

typedef struct worker {
    uint64_t random;
    uint32_t *slots;
    heap_counts_t counts;
    uint64_t operations;
} worker_t;

static bool time_is_up(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec > deadline.tv_sec || (now.tv_sec == deadline.tv_sec && now.tv_nsec >= deadline.tv_nsec);
}

static void fill_slot(worker_t *worker, heap_record_t *record) {
    uint64_t random = support_random(&worker->random), seed = support_random(&worker->random);
    size_t alignment = (size_t)1 << (random >> 8) % (random % 8 ? 9 : 17);
    if (alignment < sizeof(void *)) alignment = sizeof(void *);
    heap_allocate(record, &worker->counts, (heap_entry_t)(random % HEAP_ENTRIES), heap_size(seed), alignment, seed);
}

static void operate(worker_t *worker) {
    uint64_t random = support_random(&worker->random);
    uint32_t *slot = &worker->slots[(random >> 16) % SLOTS];
    heap_record_t *record = &records[*slot];
    switch (random % 16) {
    case 0:
    case 1:
        *slot = atomic_exchange(&mail[(random >> 40) % MAIL], *slot);
        return;
    case 2:
    case 3:
        if (record->block) heap_resize(record, &worker->counts, heap_size(support_random(&worker->random)));
        return;
    case 4:
        if (record->block) { /* what usable_size grants may be used */
            memset((char *)record->block + record->size, 0x77, malloc_usable_size(record->block) - record->size);
            heap_verify(record, "after use of the slack");
        }
        return;
    default:
        if (record->block)
            heap_free(record, &worker->counts, (unsigned)(random >> 8));
        else
            fill_slot(worker, record);
    }
}

static void *work(void *argument) {
    worker_t *worker = argument;
    memscope_token_t token = {0};
    if (support_is_memscope()) token = memscope_task_enter(task);
    while (worker->operations % 256 || !time_is_up()) {
        operate(worker);
        worker->operations++;
    }
    for (size_t i = 0; i < SLOTS; i++)
        if (records[worker->slots[i]].block && support_random(&worker->random) % 2)
            heap_free(&records[worker->slots[i]], &worker->counts, 0);
    if (support_is_memscope()) memscope_task_leave(token);
    return NULL;
}

static void set_deadline(void) {
    const char *given = getenv("MEMSCOPE_SECONDS");
    clock_gettime(CLOCK_MONOTONIC, &deadline);
    deadline.tv_sec += given ? atol(given) : support_stress() ? 60 : 1;
}

static bool counts_tasks(void) {
    const char *conf = getenv("MEMSCOPE_CONF");
    return support_is_memscope() && (!conf || (!strstr(conf, "mode:off") && !strstr(conf, "mode:sampled")));
}

/* The task owns exactly what the threads did in it. */
static void check_counts(const heap_counts_t *sum, uint64_t live_bytes, uint64_t live_blocks) {
    memscope_usage_t usage;
    ck_assert_uint_eq(sum->allocated_bytes - sum->freed_bytes, live_bytes);
    ck_assert_uint_eq(sum->allocated_blocks - sum->freed_blocks, live_blocks);
    if (!counts_tasks()) return;
    ck_assert_int_eq(memscope_task_usage(task, &usage), 0);
    ck_assert_uint_eq(usage.allocated_bytes, sum->allocated_bytes);
    ck_assert_uint_eq(usage.allocated_blocks, sum->allocated_blocks);
    ck_assert_uint_eq(usage.freed_bytes, sum->freed_bytes);
    ck_assert_uint_eq(usage.freed_blocks, sum->freed_blocks);
    ck_assert_uint_eq(usage.live_bytes, live_bytes);
    ck_assert_uint_eq(usage.live_blocks, live_blocks);
}

/* Counters are written plainly by the one thread that may, and read by others as they stand, which ThreadSanitizer does
 * not take for an answer. */
#if defined __SANITIZE_THREAD__
#define READS_COUNTERS false
#else
#define READS_COUNTERS support_is_memscope()
#endif

/* Meanwhile another thread reads what they count, and asks for memory back. Live numbers are below what there can be. */
static void look_on(void) {
    for (unsigned round = 0; !time_is_up(); round++) {
        memscope_usage_t usage[2] = {{0}, {0}};
        if (round % 8 == 1) malloc_trim(0);
        if (READS_COUNTERS) {
            ck_assert_int_eq(memscope_process_usage(&usage[0]), 0);
            ck_assert_int_eq(memscope_task_usage(task, &usage[1]), 0);
            if (round % 8 == 5) ck_assert_int_eq(memscope_export_msgpack("/dev/null"), 0);
        }
        for (int i = 0; i < 2; i++) ck_assert_uint_lt(usage[i].live_bytes, (uint64_t)1 << 34);
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    }
}

static void add_counts(heap_counts_t *sum, const heap_counts_t *counts) {
    sum->allocated_bytes += counts->allocated_bytes;
    sum->allocated_blocks += counts->allocated_blocks;
    sum->freed_bytes += counts->freed_bytes;
    sum->freed_blocks += counts->freed_blocks;
}

START_TEST(random_operations_on_threads) {
    static worker_t workers[THREADS];
    pthread_t threads[THREADS];
    heap_counts_t sum = {0, 0, 0, 0};
    uint64_t seed = support_seed(), operations = 0, live_bytes = 0, live_blocks = 0;
    if (support_is_memscope()) task = memscope_task_create("stress", 0);
    set_deadline();
    for (uint32_t i = 0; i < MAIL; i++) mail[i] = THREADS * SLOTS + i;
    for (uint32_t t = 0; t < THREADS; t++) {
        for (uint32_t i = 0; i < SLOTS; i++) held[t][i] = t * SLOTS + i;
        workers[t] = (worker_t){.random = seed + t, .slots = held[t]};
        ck_assert_int_eq(pthread_create(&threads[t], NULL, work, &workers[t]), 0);
    }
    look_on();
    for (size_t t = 0; t < THREADS; t++) {
        ck_assert_int_eq(pthread_join(threads[t], NULL), 0);
        add_counts(&sum, &workers[t].counts);
        operations += workers[t].operations;
    }
    for (size_t i = 0; i < RECORDS; i++) {
        if (!records[i].block) continue;
        live_bytes += records[i].size;
        live_blocks++;
    }
    check_counts(&sum, live_bytes, live_blocks);
    for (size_t i = 0; i < RECORDS; i++)
        if (records[i].block) heap_free(&records[i], &sum, (unsigned)i);
    check_counts(&sum, 0, 0);
    printf("%llu operations\n", (unsigned long long)operations);
    fflush(stdout);
}
END_TEST

static Suite *suite(void) {
    const TTest *tests[] = {random_operations_on_threads};
    return SUPPORT_SUITE("stress", tests);
}

int main(void) {
    static const char *const checked[] = {
        "off", "exact", "hybrid", "hybrid,junk:on", "hybrid,junk:on,guard:on,quarantine:1M", NULL};
    return support_main(suite, support_stress() ? support_modes_all : checked);
}
