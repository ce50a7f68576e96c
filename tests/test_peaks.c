/* Peaks against a script whose true peaks are known: requests that fail, blocks that grow in place, memory that others
 * free, threads that have ended. A peak may differ from the truth by the error it states, and here by what the test and
 * libc keep besides (ROOM). */
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "memscope/memscope.h"
#include "tests/support.h"

#define MIB ((size_t)1 << 20)
#define ROOM MIB

static const char *conf(void) { return getenv("MEMSCOPE_CONF") ? getenv("MEMSCOPE_CONF") : ""; }

static memscope_usage_t process_usage(void) {
    memscope_usage_t usage;
    ck_assert_int_eq(memscope_process_usage(&usage), 0);
    return usage;
}

static memscope_usage_t thread_usage(void) {
    memscope_usage_t usage;
    ck_assert_int_eq(memscope_thread_usage(&usage), 0);
    return usage;
}

static void check_peak(const memscope_usage_t *usage, uint64_t expected) {
    ck_assert_uint_ge(usage->peak_bytes + usage->peak_error_bytes + ROOM, expected);
    ck_assert_uint_le(usage->peak_bytes, expected + usage->peak_error_bytes + ROOM);
}

static void check_here(uint64_t expected) {
    memscope_usage_t process = process_usage(), thread = thread_usage();
    check_peak(&process, expected);
    check_peak(&thread, expected);
}

START_TEST(failed_requests_raise_no_peak) {
    const size_t sizes[] = {(size_t)1 << 47, ((size_t)1 << 47) + 1, PTRDIFF_MAX, SIZE_MAX};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        volatile size_t size = sizes[i];
        ck_assert_ptr_null(malloc(size));
        void *block = malloc(2 * MIB);
        ck_assert_ptr_null(realloc(block, size));
        free(block);
    }
    check_here(2 * MIB);
}
END_TEST

START_TEST(growing_in_place_is_no_sum) {
    if (strstr(conf(), "junk") || strstr(conf(), "quarantine")) return; /* copies */
    char *block = malloc(64 * MIB);
    for (size_t size = 64 * MIB; size <= 72 * MIB; size += MIB / 4) ck_assert_ptr_nonnull(block = realloc(block, size));
    check_here(72 * MIB);
    char *small = malloc(20000);
    for (size_t i = 0; i < 1000; i++) ck_assert_ptr_nonnull(small = realloc(small, 20000 + i % 5));
    check_here(72 * MIB);
    free(small);
    free(block);
    check_here(72 * MIB);
}
END_TEST

/* ---- blocks that another thread frees */

enum { BLOCKS = 1000, ROUNDS = 200 };
static void *blocks[BLOCKS];

static void *free_all(void *unused) {
    for (size_t i = 0; i < BLOCKS; i++) free(blocks[i]);
    return unused;
}

static void in_thread(void *(*body)(void *)) {
    pthread_t thread;
    ck_assert_int_eq(pthread_create(&thread, NULL, body, NULL), 0);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
}

START_TEST(handing_blocks_over_does_not_lower_a_peak) {
    for (int round = 0; round < ROUNDS; round++) {
        for (size_t i = 0; i < BLOCKS; i++) blocks[i] = i % 2 ? malloc(200) : memalign(128, 100);
        in_thread(free_all);
    }
    char *large = malloc(8 * MIB);
    memset(large, 1, 8 * MIB);
    free(large);
    memscope_usage_t usage = thread_usage();
    check_peak(&usage, 8 * MIB);
}
END_TEST

static void *allocate_all(void *unused) {
    for (size_t i = 0; i < BLOCKS; i++) blocks[i] = malloc(10000);
    return unused;
}

/* The tenant before left 10 MB, which come home to its successor's arena. */
static void *succeed(void *unused) {
    free(malloc(1));
    in_thread(free_all);
    for (size_t i = 0; i < BLOCKS; i++) blocks[i] = malloc(8000);
    for (size_t i = 0; i < BLOCKS; i++) free(blocks[i]);
    memscope_usage_t usage = thread_usage();
    check_peak(&usage, 8000 * BLOCKS);
    return unused;
}

/* One thread allocates, another does nothing but free: what it freed is gone from everybody's peak. */
enum { QUEUE = 16 };
static void *queue[QUEUE];
static _Atomic size_t queued, taken;
static size_t queue_rounds;
static void *free_what_comes(void *unused) {
    for (size_t i = 0; i < queue_rounds; i++) {
        while (atomic_load(&queued) <= i) sched_yield();
        free(queue[i % QUEUE]);
        atomic_store(&taken, i + 1);
    }
    return unused;
}

static void hand_over(size_t size, size_t rounds) {
    pthread_t thread;
    atomic_store(&queued, 0);
    atomic_store(&taken, 0);
    queue_rounds = rounds;
    ck_assert_int_eq(pthread_create(&thread, NULL, free_what_comes, NULL), 0);
    for (size_t i = 0; i < rounds; i++) {
        while (i - atomic_load(&taken) >= QUEUE) sched_yield();
        ck_assert_ptr_nonnull(queue[i % QUEUE] = malloc(size));
        atomic_store(&queued, i + 1);
    }
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
}

START_TEST(a_thread_that_only_frees_raises_no_peak) {
    const size_t sizes[] = {1000, 20000, 65536, MIB};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        hand_over(sizes[i], 400 * MIB / sizes[i]);
        memscope_usage_t process = process_usage(), thread = thread_usage();
        ck_assert_uint_le(process.peak_bytes, (QUEUE + 1) * sizes[i] + process.peak_error_bytes + ROOM);
        ck_assert_uint_le(process.peak_error_bytes, 3 * MIB); /* of two threads, a block each and a quantum */
        ck_assert_uint_le(thread.peak_bytes, (QUEUE + 1) * sizes[i] + ROOM);
    }
}
END_TEST

/* What another thread takes over by realloc() is this one's no more. */
static void *grow_to_101(void *block) { return realloc(block, 101 * MIB); }

START_TEST(what_others_resize_is_theirs) {
    pthread_t thread;
    void *grown, *block = malloc(100 * MIB);
    ck_assert_ptr_nonnull(block);
    ck_assert_int_eq(pthread_create(&thread, NULL, grow_to_101, block), 0);
    ck_assert_int_eq(pthread_join(thread, &grown), 0);
    ck_assert_ptr_nonnull(grown);
    block = malloc(60 * MIB);
    memscope_usage_t usage = thread_usage();
    check_peak(&usage, 100 * MIB);
    free(block);
    free(grown);
}
END_TEST

/* Threads that take 100 MiB each, one after the other, and then wait: what they keep for themselves is in the error. */
static pthread_barrier_t all_done;
static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
static void *take_much_and_wait(void *unused) {
    void *mine[100];
    pthread_mutex_lock(&one_at_a_time);
    for (size_t i = 0; i < 100; i++) mine[i] = malloc(MIB);
    for (size_t i = 0; i < 100; i++) free(mine[i]);
    pthread_mutex_unlock(&one_at_a_time);
    pthread_barrier_wait(&all_done);
    return unused;
}

START_TEST(threads_that_wait_raise_no_peak) {
    enum { THREADS = 8 };
    pthread_t threads[THREADS];
    ck_assert_int_eq(pthread_barrier_init(&all_done, NULL, THREADS + 1), 0);
    for (int i = 0; i < THREADS; i++) ck_assert_int_eq(pthread_create(&threads[i], NULL, take_much_and_wait, NULL), 0);
    pthread_barrier_wait(&all_done);
    for (int i = 0; i < THREADS; i++) ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
    memscope_usage_t process = process_usage();
    check_peak(&process, 100 * MIB);
    ck_assert_uint_le(process.peak_error_bytes, 100 * MIB);
}
END_TEST

/* The tenant before had a large block that another thread freed meanwhile. */
static pthread_barrier_t freed_by_others;
static void *_Atomic large_one;

static void *have_one_freed(void *unused) {
    atomic_store(&large_one, malloc(16 * MIB));
    pthread_barrier_wait(&freed_by_others);
    pthread_barrier_wait(&freed_by_others);
    return unused;
}

static void *succeed_with_a_large_one(void *unused) {
    free(malloc(8 * MIB));
    memscope_usage_t usage = thread_usage();
    check_peak(&usage, 8 * MIB);
    return unused;
}

START_TEST(what_others_freed_of_the_last_tenant_is_forgotten) {
    pthread_t thread;
    pthread_barrier_init(&freed_by_others, NULL, 2);
    ck_assert_int_eq(pthread_create(&thread, NULL, have_one_freed, NULL), 0);
    pthread_barrier_wait(&freed_by_others);
    free(atomic_load(&large_one));
    pthread_barrier_wait(&freed_by_others);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    in_thread(succeed_with_a_large_one);
    pthread_barrier_destroy(&freed_by_others);
}
END_TEST

START_TEST(an_adopted_arena_starts_from_nothing) {
    for (int round = 0; round < 3; round++) {
        in_thread(allocate_all);
        in_thread(succeed);
    }
}
END_TEST

/* ---- what ran outside any task before there was one */

START_TEST(no_task_has_the_peak_of_before_the_first_task) {
    const char *conf = getenv("MEMSCOPE_CONF");
    if (!conf || strstr(conf, "mode:off")) return;
    in_thread(allocate_all); /* 10 MB by a thread that is gone */
    char *large = malloc(20 * MIB);
    free(large);
    memscope_task_t task = memscope_task_create("first", 0);
    memscope_task_leave(memscope_task_enter(task));
    in_thread(free_all);
    memscope_usage_t usage;
    ck_assert_int_eq(memscope_task_usage(0, &usage), 0);
    check_peak(&usage, 20 * MIB + BLOCKS * 10000);
    char *larger = malloc(40 * MIB);
    free(larger);
    free(malloc(MIB));
    ck_assert_int_eq(memscope_task_usage(0, &usage), 0);
    check_peak(&usage, 40 * MIB);
}
END_TEST

/* ---- tasks take turns, each time for less than is allocated between two looks at a peak */

static bool tracks_tasks(void) {
    const char *conf = getenv("MEMSCOPE_CONF");
    return support_is_memscope() && conf && !strstr(conf, "mode:off");
}

START_TEST(turns_of_tasks_hide_no_peak) {
    enum { TURNS = 100000, SIZE = 500, TASKS = 10 };
    static void *turn_blocks[TURNS];
    memscope_task_t tasks[TASKS];
    if (!tracks_tasks()) return;
    for (size_t i = 0; i < TASKS; i++) tasks[i] = memscope_task_create("turns", 0);
    uint64_t before = process_usage().live_bytes;
    for (size_t i = 0; i < TURNS; i++) {
        memscope_token_t token = memscope_task_enter(tasks[i % TASKS]);
        turn_blocks[i] = malloc(SIZE);
        memscope_task_leave(token);
    }
    for (size_t i = 0; i < TURNS; i++) {
        memscope_token_t token = memscope_task_enter(tasks[i % TASKS]);
        free(turn_blocks[i]);
        memscope_task_leave(token);
    }
    memscope_usage_t process = process_usage(), task;
    ck_assert_uint_ge(process.peak_bytes + process.peak_error_bytes, before + TURNS * SIZE);
    ck_assert_uint_le(process.peak_error_bytes, 131072);
    ck_assert_int_eq(memscope_task_usage(tasks[0], &task), 0);
    ck_assert_uint_le(task.peak_bytes, TURNS / TASKS * SIZE);
    ck_assert_uint_ge(task.peak_bytes + task.peak_error_bytes, TURNS / TASKS * SIZE);
}
END_TEST

/* A small task is entered the short way after a large one, which may allocate more between two looks. */
START_TEST(a_large_task_hides_no_peak_of_a_small_one) {
    enum { LARGE = 4 << 20, SMALL = 30000, ROUNDS = 10 };
    if (!tracks_tasks()) return;
    for (int round = 0; round < ROUNDS; round++) {
        memscope_task_t large = memscope_task_create("large", 0), small = memscope_task_create("small", 0);
        memscope_token_t outer = memscope_task_enter(large);
        memscope_task_leave(memscope_task_enter(small)); /* the one entered last */
        void *block = malloc(LARGE);
        memscope_task_leave(outer);
        memscope_token_t token = memscope_task_enter(small);
        free(malloc(SMALL));
        memscope_task_leave(token);
        memscope_usage_t usage;
        ck_assert_int_eq(memscope_task_usage(small, &usage), 0);
        ck_assert_uint_ge(usage.peak_bytes + usage.peak_error_bytes, SMALL);
        free(block);
    }
}
END_TEST

/* ---- the sampling interval changes, each time before a peak is looked at */

START_TEST(changes_of_sampling_hide_no_peak) {
    enum { CHANGES = 20000, SIZE = 500 };
    static void *blocks_between[CHANGES];
    uint64_t before = process_usage().live_bytes;
    for (size_t i = 0; i < CHANGES; i++) {
        blocks_between[i] = malloc(SIZE);
        memscope_set_sample_bytes(i % 2 ? 1 << 30 : 1 << 29); /* ENOTSUP where nothing is sampled */
    }
    for (size_t i = 0; i < CHANGES; i++) {
        free(blocks_between[i]);
        memscope_set_sample_bytes(i % 2 ? 1 << 30 : 1 << 29);
    }
    memscope_usage_t process = process_usage();
    ck_assert_uint_ge(process.peak_bytes + process.peak_error_bytes, before + CHANGES * SIZE);
    ck_assert_uint_le(process.peak_error_bytes, 131072);
}
END_TEST

/* ---- threads that each do so little that they come to no settle */

enum { FEW = 8, LITTLE = 480, LITTLE_SIZE = 64 };
static void *little[FEW][LITTLE];
static pthread_barrier_t step;
static memscope_task_t shared_task;
#define NEAR ((uint64_t)16 << 10) /* what threads cost libc, and the test */

static void little_take(size_t i) {
    for (size_t k = 0; k < LITTLE; k++) ck_assert_ptr_nonnull(little[i][k] = malloc(LITTLE_SIZE));
}
static void little_free(size_t i) {
    for (size_t k = 0; k < LITTLE; k++) free(little[i][k]);
}

static void *hold_a_little(void *number) {
    memscope_token_t token = memscope_task_enter(shared_task);
    little_take((size_t)number);
    pthread_barrier_wait(&step); /* all is live */
    pthread_barrier_wait(&step);
    pthread_barrier_wait(&step); /* and gone */
    memscope_task_leave(token);
    return NULL;
}

static void *take_a_little_in_turn(void *number) {
    memscope_token_t token = memscope_task_enter(shared_task);
    for (size_t turn = 0; turn < FEW; turn++) {
        pthread_barrier_wait(&step);
        if (turn != (size_t)number) continue;
        little_take(turn);
        little_free(turn);
    }
    pthread_barrier_wait(&step);
    pthread_barrier_wait(&step); /* none has left the task */
    memscope_task_leave(token);
    return NULL;
}

static void start_few(pthread_t *threads, void *(*run)(void *)) {
    shared_task = memscope_task_create("shared", 0);
    ck_assert_int_eq(pthread_barrier_init(&step, NULL, FEW + 1), 0);
    for (size_t i = 0; i < FEW; i++) ck_assert_int_eq(pthread_create(&threads[i], NULL, run, (void *)i), 0);
}

static memscope_usage_t task_usage(void) {
    memscope_usage_t usage = {.peak_bytes = 0};
    memscope_task_usage(shared_task, &usage);
    return usage;
}

static bool counts_tasks(void) { return !strstr(conf(), "mode:off"); }

START_TEST(what_threads_hold_unsettled_is_in_the_error) {
    const uint64_t all = (uint64_t)FEW * LITTLE * LITTLE_SIZE;
    pthread_t threads[FEW];
    start_few(threads, hold_a_little);
    pthread_barrier_wait(&step);
    if (_i) ck_assert_uint_ge(process_usage().peak_bytes, all); /* whoever asks then is told, and it stays so */
    pthread_barrier_wait(&step);
    for (size_t i = 0; i < FEW; i++) little_free(i);
    memscope_usage_t process = process_usage(), task = task_usage();
    ck_assert_uint_ge(process.peak_bytes + process.peak_error_bytes, all);
    if (_i) ck_assert_uint_ge(process.peak_bytes, all);
    uint64_t error;
    ck_assert_uint_ge(memscope_checkpoint_peak(NULL, &error) + error, all);
    if (counts_tasks()) ck_assert_uint_ge(task.peak_bytes + task.peak_error_bytes, all);
    pthread_barrier_wait(&step);
    for (size_t i = 0; i < FEW; i++) ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
}
END_TEST

/* In the modes that look at each call the error is 0. */
START_TEST(what_threads_freed_unsettled_is_in_the_error) {
    uint64_t before = process_usage().live_bytes;
    pthread_t threads[FEW];
    start_few(threads, take_a_little_in_turn);
    for (int turn = 0; turn <= FEW; turn++) pthread_barrier_wait(&step);
    memscope_usage_t process = process_usage(), task = task_usage();
    pthread_barrier_wait(&step);
    for (size_t i = 0; i < FEW; i++) ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
    ck_assert_uint_le(process.peak_bytes, process.peak_error_bytes + before + LITTLE * LITTLE_SIZE + NEAR);
    ck_assert_uint_le(task.peak_bytes, task.peak_error_bytes + LITTLE * LITTLE_SIZE + 1024);
}
END_TEST

static void *free_all_little(void *unused) {
    for (size_t size = 0; size < FEW; size++) {
        pthread_barrier_wait(&step);
        little_free(size);
        pthread_barrier_wait(&step);
    }
    return unused;
}

/* Of each size in turn, so that no list is refilled with them. */
START_TEST(what_others_freed_of_a_thread_is_in_its_error) {
    pthread_t thread;
    ck_assert_int_eq(pthread_barrier_init(&step, NULL, 2), 0);
    ck_assert_int_eq(pthread_create(&thread, NULL, free_all_little, NULL), 0);
    size_t bytes = (size_t)LITTLE * LITTLE_SIZE;
    for (size_t size = 0; size < FEW; size++) {
        for (size_t k = 0; k < LITTLE; k++) ck_assert_ptr_nonnull(little[size][k] = malloc(LITTLE_SIZE + 16 * size));
        for (size_t k = 0; k < LITTLE; k++) free(little[size][k]);
    }
    uint64_t before = thread_usage().peak_bytes;
    for (size_t size = 0; size < FEW; size++) {
        for (size_t k = 0; k < LITTLE; k++) ck_assert_ptr_nonnull(little[size][k] = malloc(LITTLE_SIZE + 16 * size));
        bytes = LITTLE * (LITTLE_SIZE + 16 * size);
        pthread_barrier_wait(&step);
        pthread_barrier_wait(&step);
    }
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    memscope_usage_t usage = thread_usage();
    ck_assert_uint_le(usage.peak_bytes, usage.peak_error_bytes + (before > bytes ? before : bytes) + NEAR);
}
END_TEST

/* Threads that take much in turn, while the peak is asked for again and again: a sum over threads is of no one moment. */
static _Atomic(bool) asking;
static void *take_and_give(void *unused) {
    enum { MUCH = 8192 };
    void **mine = calloc(MUCH, sizeof *mine);
    while (asking) {
        pthread_mutex_lock(&one_at_a_time);
        for (size_t i = 0; i < MUCH; i++) mine[i] = malloc(1000);
        for (size_t i = 0; i < MUCH; i++) free(mine[i]);
        pthread_mutex_unlock(&one_at_a_time);
        sched_yield();
    }
    free(mine);
    return unused;
}

START_TEST(asking_raises_no_peak) {
    enum { THREADS = 3 };
    pthread_t threads[THREADS];
    uint64_t last = 0, truth = process_usage().live_bytes + 8192 * (1000 + THREADS * sizeof(void *)) + NEAR;
    asking = true;
    for (int i = 0; i < THREADS; i++) ck_assert_int_eq(pthread_create(&threads[i], NULL, take_and_give, NULL), 0);
    for (size_t i = 0; i < 200000; i++) {
        memscope_usage_t now = process_usage();
        ck_assert_uint_le(now.peak_bytes, truth + now.peak_error_bytes);
        ck_assert_uint_ge(now.peak_bytes + now.peak_error_bytes, last);
        last = now.peak_bytes;
    }
    asking = false;
    for (int i = 0; i < THREADS; i++) ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
}
END_TEST

/* ---- what is counted can be read at any moment */

static _Atomic(bool) reading;

static void *count_on(void *unused) {
    memscope_task_t task = memscope_task_create("count", 0);
    for (size_t i = 0; reading; i++) {
        memscope_token_t token = memscope_task_enter(task);
        free(malloc(i % 3000));
        memscope_task_leave(token);
        free(malloc(i % 5000));
    }
    return unused;
}

START_TEST(what_was_allocated_never_becomes_less) {
    pthread_t thread;
    uint64_t last = 0;
    reading = true;
    ck_assert_int_eq(pthread_create(&thread, NULL, count_on, NULL), 0);
    for (size_t i = 0; i < 300000; i++) {
        uint64_t now = process_usage().allocated_bytes;
        ck_assert_uint_ge(now, last);
        last = now;
    }
    reading = false;
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
}
END_TEST

static Suite *suite(void) {
    const TTest *tests[] = {failed_requests_raise_no_peak, growing_in_place_is_no_sum,
                            handing_blocks_over_does_not_lower_a_peak, a_thread_that_only_frees_raises_no_peak,
                            what_others_resize_is_theirs, threads_that_wait_raise_no_peak, what_others_freed_of_the_last_tenant_is_forgotten,
                            an_adopted_arena_starts_from_nothing,
                            no_task_has_the_peak_of_before_the_first_task, turns_of_tasks_hide_no_peak,
                            a_large_task_hides_no_peak_of_a_small_one, changes_of_sampling_hide_no_peak,
                            what_threads_freed_unsettled_is_in_the_error, what_others_freed_of_a_thread_is_in_its_error,
                            asking_raises_no_peak, what_was_allocated_never_becomes_less};
    Suite *made = SUPPORT_SUITE("peaks", tests);
    TCase *tcase = tcase_create("asked or not");
    tcase_set_timeout(tcase, 300);
    tcase_add_loop_test(tcase, what_threads_hold_unsettled_is_in_the_error, 0, 2);
    suite_add_tcase(made, tcase);
    return made;
}

int main(void) {
    static const char *const modes[] = {"off", "exact", "hybrid", "hybrid,junk:on", "hybrid,quarantine:16K", NULL};
    return support_main(suite, modes);
}
