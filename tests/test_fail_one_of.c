/* Debug builds fail one of K requests for memory from the system or the backing (MEMSCOPE_FAIL_ONE_OF=K:SEED). Threads
 * that use every function meanwhile, and pass each other blocks, see a NULL with ENOMEM now and then, and nothing else:
 * what is there stays as it is.
 *
 * They run in a process of their own, without Check, whose blocks may not be refused. */
#define _GNU_SOURCE /* memfd_create */
#include <malloc.h>
#include <pthread.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "memscope/memscope.h"
#include "tests/heap_model.h"
#include "tests/support.h"

extern char **environ;

/* ---- the process whose requests fail */
enum { THREADS = 4, SLOTS = 300, MAIL = 64, OPERATIONS = 15000 };

static heap_record_t records[THREADS * SLOTS + MAIL];
static _Atomic(uint32_t) mail[MAIL]; /* indices of records on their way */
static uint64_t seed_of_all;

typedef struct {
    heap_record_t *record;
    heap_counts_t *counts;
    uint64_t random, seed;
} operation_t;

static void operate(const operation_t *it) {
    if (!it->record->block) {
        size_t alignment = (size_t)16 << (it->random >> 8) % 9;
        heap_allocate(it->record, it->counts, (heap_entry_t)(it->random % HEAP_ENTRIES), heap_size(it->seed), alignment,
                      it->seed);
    } else if (it->random % 4 == 0) {
        heap_resize(it->record, it->counts, heap_size(it->seed) + 1);
    } else {
        heap_free(it->record, it->counts, (unsigned)(it->random >> 8));
    }
}

static void *work(void *argument) {
    uint32_t first = (uint32_t)(uintptr_t)argument * SLOTS, slots[SLOTS];
    uint64_t random = seed_of_all + first;
    heap_counts_t counts = {0, 0, 0, 0};
    memscope_token_t token = memscope_task_enter(memscope_task_create("work", 0));
    for (uint32_t i = 0; i < SLOTS; i++) slots[i] = first + i;
    for (int i = 0; i < OPERATIONS; i++) {
        uint32_t *slot = &slots[support_random(&random) % SLOTS];
        if (i % 8 == 0) *slot = atomic_exchange(&mail[support_random(&random) % MAIL], *slot);
        operate(&(operation_t){&records[*slot], &counts, support_random(&random), support_random(&random)});
        if (i % 4000 == 0) malloc_trim(0);
    }
    memscope_task_leave(token);
    return NULL;
}

static int scenario(const char *seed) {
    pthread_t threads[THREADS];
    alarm(200);
    heap_may_refuse = true;
    seed_of_all = strtoull(seed, NULL, 10);
    for (uint32_t i = 0; i < MAIL; i++) mail[i] = THREADS * SLOTS + i;
    size_t started = 0;
    for (size_t tries = 0; started < THREADS && tries < 1000; tries++) /* its thread-local memory may be refused */
        started += pthread_create(&threads[started], NULL, work, (void *)started) == 0;
    for (size_t i = 0; i < started; i++)
        if (pthread_join(threads[i], NULL) != 0) return 2;
    heap_counts_t counts = {0, 0, 0, 0};
    for (size_t i = 0; i < sizeof records / sizeof records[0]; i++)
        if (records[i].block) heap_free(&records[i], &counts, (unsigned)i);
    (void)memscope_export_json("/dev/null");
    char line[64];
    int length = snprintf(line, sizeof line, "refusals: %lu\n", (unsigned long)heap_refusals);
    return started == THREADS && write(STDERR_FILENO, line, (size_t)length) == length ? 0 : 3;
}

/* ---- who looks on */
static int run_with(unsigned one_of, uint64_t seed, char *told, size_t room) {
    char failures[64], number[32];
    snprintf(failures, sizeof failures, "%u:%lu", one_of, (unsigned long)seed);
    snprintf(number, sizeof number, "%lu", (unsigned long)seed);
    setenv("MEMSCOPE_FAIL_ONE_OF", failures, 1);
    char *const argv[] = {(char[]){"scenario"}, number, NULL};
    pid_t pid;
    int status, file = memfd_create("stderr", 0);
    ck_assert_int_ge(file, 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, file, STDERR_FILENO);
    ck_assert_int_eq(posix_spawn(&pid, "/proc/self/exe", &actions, NULL, argv, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ssize_t length = pread(file, told, room - 1, 0);
    told[length > 0 ? length : 0] = '\0';
    close(file);
    unsetenv("MEMSCOPE_FAIL_ONE_OF");
    return status;
}

START_TEST(one_of_many_fails) {
    static const unsigned one_of[] = {50, 50, 50, 7, 2};
    uint64_t seed = support_seed() % 1000000007u;
    unsigned long refusals = 0;
    for (size_t i = 0; i < sizeof one_of / sizeof one_of[0]; i++) {
        char told[4096];
        int status = run_with(one_of[i], seed + i, told, sizeof told);
        ck_assert_msg(status == 0, "one of %u: status %#x: %s", one_of[i], (unsigned)status, told);
        ck_assert_msg(strstr(told, "memscope: MEMSCOPE_FAIL_ONE_OF\n"), "one of %u: none failed", one_of[i]);
        const char *count = strstr(told, "refusals: ");
        if (count) refusals += strtoul(count + strlen("refusals: "), NULL, 10);
    }
    printf("%lu refusals\n", refusals);
    ck_assert_uint_gt(refusals, 0);
}
END_TEST

static Suite *suite(void) {
    const TTest *tests[] = {one_of_many_fails};
    return SUPPORT_SUITE("fail_one_of", tests);
}

int main(int argc, char **argv) {
    return argc == 2 ? scenario(argv[1]) : support_main(suite, support_modes_few);
}
