/* Checkpoints against a script: what was allocated between two of them, by whom, and the most that was live. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "memscope/memscope.h"
#include "tests/support.h"

#define MIB ((size_t)1 << 20)

static bool mode_is(const char *mode) {
    const char *conf = getenv("MEMSCOPE_CONF");
    return conf && strstr(conf, mode);
}

/* ---- sums of what a visit saw */

enum { PARTS = 4, KEPT = 8 };

typedef struct seen {
    memscope_difference_t sum[PARTS], kept[KEPT]; /* kept: those with the name asked for */
    size_t rows[PARTS], kept_count;
    const char *name;
    memscope_part_t last_part;
    int64_t last_growth;
    bool estimated, deep;
} seen_t;

static int see(void *context, const memscope_difference_t *difference) {
    seen_t *seen = context;
    memscope_difference_t *sum = &seen->sum[difference->part];
    ck_assert_int_ge(difference->part, seen->last_part); /* part after part, the largest growth first */
    if (difference->part == seen->last_part && seen->rows[difference->part] > 0)
        ck_assert_int_le(difference->live_bytes, seen->last_growth);
    seen->last_part = difference->part;
    seen->last_growth = difference->live_bytes;
    seen->rows[difference->part]++;
    sum->allocated_bytes += difference->allocated_bytes;
    sum->allocated_blocks += difference->allocated_blocks;
    sum->live_bytes += difference->live_bytes;
    sum->live_blocks += difference->live_blocks;
    seen->estimated |= difference->estimated;
    seen->deep |= difference->depth > 1 && difference->stack[0] != 0;
    if (seen->name && difference->name && strcmp(seen->name, difference->name) == 0 && seen->kept_count < KEPT)
        seen->kept[seen->kept_count++] = *difference;
    return 0;
}

static seen_t diff(const memscope_checkpoint_t *before, const memscope_checkpoint_t *after, const char *name) {
    seen_t seen = {.name = name};
    ck_assert_int_eq(memscope_checkpoint_diff(before, after, see, &seen), 0);
    ck_assert_uint_eq(seen.rows[MEMSCOPE_PART_PROCESS], 1);
    return seen;
}

static void check_numbers(const memscope_difference_t *row, int64_t allocated_bytes, int64_t allocated_blocks,
                          int64_t live_bytes, int64_t live_blocks) {
    ck_assert_int_eq(row->allocated_bytes, allocated_bytes);
    ck_assert_int_eq(row->allocated_blocks, allocated_blocks);
    ck_assert_int_eq(row->live_bytes, live_bytes);
    ck_assert_int_eq(row->live_blocks, live_blocks);
}

static void check_sums(const seen_t *seen) {
    const memscope_difference_t *all = &seen->sum[MEMSCOPE_PART_PROCESS];
    for (int part = MEMSCOPE_PART_TASK; part < PARTS; part++) {
        if (part == MEMSCOPE_PART_TASK && mode_is("mode:off")) continue;
        if (part == MEMSCOPE_PART_SITE && !mode_is("mode:exact")) continue;
        check_numbers(&seen->sum[part], all->allocated_bytes, all->allocated_blocks, all->live_bytes, all->live_blocks);
    }
}

static void *allocate_in_thread(void *unused) {
    pthread_setname_np(pthread_self(), "allocator");
    free(malloc(5000));
    return unused ? unused : malloc(700);
}

START_TEST(differences_by_part) {
    static char *named[3], *in_task[4];
    memscope_task_t task = memscope_task_create("the task", 0);
    void *from_thread, *early = malloc(1234);
    memscope_checkpoint_t *before = memscope_checkpoint();
    memscope_token_t token = memscope_task_enter(task);
    for (int i = 0; i < 4; i++) in_task[i] = malloc(100);
    free(in_task[0]);
    memscope_task_leave(token);
    for (int i = 0; i < 3; i++) {
        char *variable = malloc(1000);
        ck_assert_int_eq(MEMSCOPE_TRACK(variable), 0);
        named[i] = variable;
    }
    free(named[2]);
    free(early);
    pthread_t thread;
    pthread_create(&thread, NULL, allocate_in_thread, NULL);
    pthread_join(thread, &from_thread);
    memscope_checkpoint_t *after = memscope_checkpoint();

    seen_t seen = diff(before, after, "the task");
    check_sums(&seen);
    if (!mode_is("mode:off")) {
        ck_assert_uint_eq(seen.kept_count, 1);
        check_numbers(&seen.kept[0], 400, 4, 300, 3);
        ck_assert_uint_eq(seen.kept[0].id, task);
    }
    seen = diff(before, after, "variable");
    ck_assert_uint_eq(seen.kept_count, 1);
    check_numbers(&seen.kept[0], 3000, 3, 2000, 2);
    ck_assert_str_eq(seen.kept[0].type, "char *");
    ck_assert(!seen.kept[0].estimated && seen.kept[0].live_bytes_now == 2000 && seen.kept[0].line > 0);
    seen = diff(before, after, "allocator");
    ck_assert_uint_eq(seen.kept_count, 1);
    ck_assert_int_ge(seen.kept[0].allocated_bytes, 5700);
    ck_assert_int_ge(seen.kept[0].live_bytes, 700);
    ck_assert(seen.deep || !mode_is("mode:exact"));

    for (int i = 0; i < 2; i++) free(named[i]);
    seen = diff(after, NULL, "variable");
    check_sums(&seen);
    check_numbers(&seen.kept[0], 0, 0, -2000, -2);
    seen = diff(before, before, NULL);
    ck_assert_uint_eq(seen.rows[MEMSCOPE_PART_TASK] + seen.rows[MEMSCOPE_PART_THREAD] + seen.rows[MEMSCOPE_PART_SITE],
                      0);
    check_numbers(&seen.sum[MEMSCOPE_PART_PROCESS], 0, 0, 0, 0);
    memscope_usage_t usage;
    seen = diff(NULL, NULL, NULL);
    memscope_process_usage(&usage);
    check_sums(&seen);
    ck_assert_uint_eq((uint64_t)seen.sum[MEMSCOPE_PART_PROCESS].live_bytes, usage.live_bytes);
    memscope_checkpoint_free(before);
    memscope_checkpoint_free(after);
    memscope_checkpoint_free(NULL);
}
END_TEST

static int nothing(void *context, const memscope_difference_t *difference) {
    return context == NULL && difference == NULL;
}

static int stop_at_third(void *context, const memscope_difference_t *difference) {
    free(malloc(10)); /* a visit may allocate */
    ck_assert_ptr_nonnull(difference);
    return ++*(int *)context == 3 ? 42 : 0;
}

START_TEST(a_visit_ends_when_it_says) {
    int visits = 0;
    free(malloc(100));
    ck_assert_int_eq(memscope_checkpoint_diff(NULL, NULL, stop_at_third, &visits), 42);
    ck_assert_int_eq(visits, 3);
}
END_TEST

START_TEST(checkpoints_are_not_in_the_heap) {
    memscope_usage_t before, after;
    memscope_process_usage(&before);
    memscope_checkpoint_t *first = memscope_checkpoint(), *second = memscope_checkpoint();
    int ended = memscope_checkpoint_diff(first, second, nothing, NULL);
    memscope_checkpoint_free(first);
    memscope_checkpoint_free(second);
    memscope_process_usage(&after);
    ck_assert_int_eq(ended, 0);
    ck_assert_uint_eq(after.allocated_blocks, before.allocated_blocks);
    size_t space = support_address_space();
    for (int i = 0; i < 100; i++) memscope_checkpoint_free(memscope_checkpoint());
    ck_assert_uint_le(support_address_space(), space + MIB);
}
END_TEST

/* ---- peaks */

static void hold(size_t bytes) {
    char *block = malloc(bytes);
    memset(block, 1, bytes);
    free(block);
}

static void check_peak(const memscope_checkpoint_t *checkpoint, uint64_t live_before, uint64_t expected) {
    uint64_t error, peak = memscope_checkpoint_peak(checkpoint, &error) - live_before;
    if (mode_is("mode:exact")) ck_assert_uint_eq(error, 0);
    ck_assert_uint_le(error, MIB);
    ck_assert_uint_le(peak, expected + error);
    ck_assert_uint_ge(peak + error, expected);
}

START_TEST(peaks_of_nested_regions) {
    memscope_usage_t usage;
    hold(50 * MIB);
    memscope_process_usage(&usage);
    uint64_t live = usage.live_bytes;
    memscope_checkpoint_t *outer = memscope_checkpoint();
    hold(10 * MIB);
    memscope_checkpoint_t *inner = memscope_checkpoint();
    check_peak(inner, live, 0);
    hold(3 * MIB);
    check_peak(inner, live, 3 * MIB);
    check_peak(outer, live, 10 * MIB);
    hold(20 * MIB);
    check_peak(inner, live, 20 * MIB);
    memscope_checkpoint_t *last = memscope_checkpoint();
    memscope_checkpoint_free(inner);
    hold(5 * MIB);
    check_peak(last, live, 5 * MIB);
    check_peak(outer, live, 20 * MIB);
    check_peak(NULL, live, 50 * MIB);
    memscope_checkpoint_free(outer);
    memscope_checkpoint_free(last);
}
END_TEST

START_TEST(a_realloc_that_copies_is_two_blocks) {
    if (!mode_is("mode:exact")) return;
    void *volatile block = malloc(5000);
    memscope_checkpoint_t *before = memscope_checkpoint();
    memscope_usage_t usage;
    memscope_process_usage(&usage);
    block = realloc(block, 20000);
    ck_assert_uint_eq(memscope_checkpoint_peak(before, NULL), usage.live_bytes + 20000);
    free(block);
    memscope_checkpoint_free(before);
}
END_TEST

/* ---- arguments that are none */

START_TEST(arguments_that_are_none) {
    ck_assert_int_eq(memscope_export_msgpack(NULL), EINVAL);
    ck_assert_int_eq(memscope_export_json(NULL), EINVAL);
    ck_assert_int_eq(memscope_export_html(NULL), EINVAL);
    ck_assert_int_eq(memscope_export_comprehensive(NULL, "name"), EINVAL);
    ck_assert_int_eq(memscope_export_comprehensive("/tmp", NULL), EINVAL);
    ck_assert_int_eq(memscope_export_comprehensive("/tmp", ""), EINVAL);
    memscope_task_t other = memscope_task_for_key(NULL, "a"); /* one row for all without a key, which does not end */
    ck_assert_uint_eq(memscope_task_for_key(NULL, "b"), other);
    ck_assert_int_eq(memscope_task_end(other, NULL), ESRCH);
}
END_TEST

/* ---- while others allocate, and over a fork */

static _Atomic int stop;

static void *churn(void *unused) {
    while (!stop) {
        memscope_task_t task = memscope_task_create("churn", 0);
        memscope_token_t token = memscope_task_enter(task);
        char *churned = malloc(100);
        MEMSCOPE_TRACK(churned);
        MEMSCOPE_OWN(churned);
        churned = realloc(churned, 3000);
        free(churned);
        memscope_task_leave(token);
        memscope_task_end(task, NULL);
    }
    return unused;
}

static void compare_often(int times) {
    memscope_checkpoint_t *first = memscope_checkpoint();
    for (int i = 0; i < times; i++) {
        memscope_checkpoint_t *next = memscope_checkpoint();
        ck_assert_int_eq(memscope_checkpoint_diff(first, next, nothing, NULL), 0);
        ck_assert_uint_gt(memscope_checkpoint_peak(first, NULL), 0);
        memscope_checkpoint_free(first);
        first = next;
    }
    memscope_checkpoint_free(first);
}

static void *compare_in_thread(void *unused) {
    compare_often(10);
    return unused;
}

START_TEST(others_go_on) {
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, i < 2 ? churn : compare_in_thread, NULL);
    compare_often(10);
    for (int i = 0; i < 3; i++) {
        int status;
        pid_t child = fork();
        if (child == 0) {
            compare_often(3);
            _exit(0);
        }
        ck_assert(waitpid(child, &status, 0) == child && status == 0);
    }
    stop = 1;
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
}
END_TEST

/* ---- estimates say so */

START_TEST(samples_are_marked) {
    if (!mode_is("mode:hybrid")) return;
    void *blocks[200];
    memscope_checkpoint_t *before = memscope_checkpoint();
    for (int i = 0; i < 200; i++) blocks[i] = malloc(100000);
    seen_t seen = diff(before, NULL, NULL);
    int64_t part = seen.sum[MEMSCOPE_PART_SITE].live_bytes, whole = 200 * 100000;
    ck_assert(seen.estimated);
    ck_assert_int_ge(part, whole / 4); /* 20 MB in samples of 512 KiB: 16 % standard error */
    ck_assert_int_le(part, whole * 4);
    ck_assert_int_eq(seen.sum[MEMSCOPE_PART_PROCESS].live_bytes, whole);
    for (int i = 0; i < 200; i++) free(blocks[i]);
    memscope_checkpoint_free(before);
}
END_TEST

static Suite *suite(void) {
    const TTest *tests[] = {
        differences_by_part, a_visit_ends_when_it_says, checkpoints_are_not_in_the_heap, peaks_of_nested_regions,
        a_realloc_that_copies_is_two_blocks, arguments_that_are_none, others_go_on, samples_are_marked};
    return SUPPORT_SUITE("checkpoints", tests);
}

int main(void) {
    return support_main(suite, support_modes_few);
}
