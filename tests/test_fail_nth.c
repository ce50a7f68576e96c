/* Debug builds fail the Nth request for memory from the system or the backing (MEMSCOPE_FAIL_NTH). For every N a
 * program starts, uses every entry point and every part of memscope, and must see nothing but a refusal with ENOMEM
 * at worst: it never crashes, hangs, or loses what it has. */
#define _GNU_SOURCE /* memfd_create */
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "memscope/memscope.h"
#include "tests/entries.h"
#include "tests/support.h"

extern char **environ;

enum { LAST = 1000 }; /* more than the scenario below makes: a run before it has no failure, and is the last */

static void expect(bool condition, int status) {
    if (!condition) _exit(status);
}

static void use_entry(const entry_t *entry) {
    static const size_t sizes[] = {100, 5000, 20000, 40000, 300000, 3000000};
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        errno = 0;
        void *block = entry->allocate(256, sizes[s]);
        if (!block) {
            expect(errno == ENOMEM, 10);
            continue;
        }
        support_fill(block, sizes[s], s);
        void *grown = realloc(block, sizes[s] * 3);
        if (!grown) {
            expect(errno == ENOMEM, 11);
            expect(support_holds(block, sizes[s], s), 12);
            free(block);
            continue;
        }
        expect(memcmp(grown, grown, 1) == 0 && malloc_usable_size(grown) >= sizes[s] * 3, 13);
        free(grown);
    }
}

static void *in_thread(void *entry) {
    use_entry(entry);
    return NULL;
}

static int scenario(const entry_t *entry) {
    alarm(60);
    memscope_task_t task = memscope_task_create("task", 0);
    memscope_token_t token = memscope_task_enter(task);
    use_entry(entry);
    pthread_t thread;
    if (pthread_create(&thread, NULL, in_thread, (void *)(uintptr_t)entry) == 0) pthread_join(thread, NULL);
    memscope_task_leave(token);
    memscope_task_end(task, NULL);
    memscope_snapshot_t *snapshot = memscope_snapshot();
    memscope_snapshot_free(snapshot);
    int error = memscope_export_json("/dev/null");
    expect(error == 0 || error == ENOMEM, 20);
    malloc_trim(0);
    use_entry(entry); /* at most one request fails: this time or the last, not both */
    void *block = entry->allocate(64, 1000), *again = entry->allocate(64, 1000);
    expect(block != NULL || again != NULL, 21);
    free(block);
    free(again);
    return 0;
}

/* The status; `failed` says whether the library told of a request that failed. */
static int run_with(size_t entry, int n, bool *failed) {
    char number[16], index[16];
    snprintf(number, sizeof number, "%d", n);
    snprintf(index, sizeof index, "%zu", entry);
    setenv("MEMSCOPE_FAIL_NTH", number, 1);
    char *const argv[] = {(char[]){"scenario"}, index, NULL};
    pid_t pid;
    int status;
    int told = memfd_create("stderr", 0);
    ck_assert_int_ge(told, 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, told, STDERR_FILENO);
    ck_assert_int_eq(posix_spawn(&pid, "/proc/self/exe", &actions, NULL, argv, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    char text[4096] = "";
    ck_assert_int_ge(pread(told, text, sizeof text - 1, 0), 0);
    close(told);
    *failed = strstr(text, "memscope: MEMSCOPE_FAIL_NTH\n") != NULL;
    unsetenv("MEMSCOPE_FAIL_NTH");
    return status;
}

START_TEST(every_request_in_turn) {
    int bad = 0;
    for (size_t entry = 0; entry < entry_count; entry++) {
        bool failed = true;
        for (int n = 1; failed; n++) {
            ck_assert_msg(n <= LAST, "%s: a request fails whatever N is", entries[entry].name);
            int status = run_with(entry, n, &failed);
            ck_assert_msg(failed || n > 20, "%s: none of the first %d requests fails", entries[entry].name, n);
            if (status == 0) continue;
            printf("%s, MEMSCOPE_FAIL_NTH=%d: status %#x\n", entries[entry].name, n, (unsigned)status);
            bad++;
        }
    }
    fflush(stdout);
    ck_assert_int_eq(bad, 0);
}
END_TEST

static Suite *suite(void) {
    const TTest *tests[] = {every_request_in_turn};
    return SUPPORT_SUITE("fail_nth", tests);
}

int main(int argc, char **argv) {
    if (argc == 2) return scenario(&entries[strtoul(argv[1], NULL, 10)]);
    static const char *const modes[] = {"exact", "hybrid", NULL};
    return support_main(suite, modes);
}
