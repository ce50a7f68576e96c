/* Every macro of memscope/check.h passes where it must, fails where it must, and says exactly what it must. The tests of
 * an inner suite, in Check's fork mode, are the subjects; main() judges their results, in several modes. Compiled as C
 * and as C++ (test_assertions_cxx.cc); the subjects without Check are in assertions_plain.c. */
#ifdef __cplusplus
#include "memscope/memscope.hpp" /* Check's macros (fail) do not go with C++'s headers behind them */
#endif
#include <check.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "memscope/check.h"
#ifdef __cplusplus
#define NAMED(type, name, bytes) type name = static_cast<type>(malloc(bytes)); MEMSCOPE_TRACK(name)
extern "C" void plain_leak(void);
extern "C" void plain_fine(void);
#else
#define NAMED(type, name, bytes) type name = malloc(bytes); MEMSCOPE_TRACK(name)
void plain_leak(void);
void plain_fine(void);
#endif

#define MIB ((size_t)1 << 20)

static void *kept[8]; /* so that nothing is optimised away */

/* ---- what the subjects do; LINE_x is the line before the function */

enum { LINE_leak = __LINE__ + 1 };
static void leak(void) {
    NAMED(char *, leaked, 120);
    kept[0] = leaked;
}

enum { LINE_twice = __LINE__ + 1 };
static void twice(int times) {
    for (int i = 0; i < times; i++) {
        NAMED(int *, pair, 24);
        kept[1 + i] = pair;
    }
}

enum { LINE_pass_through = __LINE__ + 1 };
static void pass_through(size_t bytes, int times) {
    for (int i = 0; i < times; i++) {
        NAMED(char *, passing, bytes);
        free(passing);
    }
}

/* ---- subjects */

START_TEST(no_leaks_passes) {
    kept[7] = malloc(50);
    memscope_checkpoint_t *start = memscope_checkpoint();
    pass_through(1000, 3);
    free(kept[7]);
    memscope_assert_no_leaks(start);
    memscope_checkpoint_free(start);
}
END_TEST

START_TEST(no_leaks_fails) {
    memscope_checkpoint_t *start = memscope_checkpoint();
    leak();
    twice(2);
    memscope_assert_no_leaks(start);
}
END_TEST

START_TEST(no_leaks_without_a_name) {
    memscope_checkpoint_t *start = memscope_checkpoint();
    kept[0] = malloc(77);
    memscope_assert_no_leaks(start);
}
END_TEST

START_TEST(max_live_passes) {
    kept[0] = malloc(MIB);
    memscope_assert_max_live(100 * MIB);
}
END_TEST

START_TEST(max_live_fails) {
    NAMED(char *, huge, 300 * MIB);
    kept[0] = huge;
    memscope_assert_max_live(100 * MIB);
}
END_TEST

START_TEST(max_peak_passes) {
    pass_through(50 * MIB, 1);
    memscope_checkpoint_t *start = memscope_checkpoint();
    pass_through(10 * MIB, 2);
    memscope_assert_max_peak(start, 11 * MIB);
    memscope_assert_max_peak(NULL, 70 * MIB);
    memscope_checkpoint_free(start);
}
END_TEST

START_TEST(max_peak_passes_exactly) {
    memscope_checkpoint_t *start = memscope_checkpoint();
    pass_through(10 * MIB, 2);
    const char *conf = getenv("MEMSCOPE_CONF");
    memscope_assert_max_peak(start, conf && strstr(conf, "exact") ? 10 * MIB : 11 * MIB);
}
END_TEST

START_TEST(max_peak_fails) {
    memscope_checkpoint_t *start = memscope_checkpoint();
    pass_through(10 * MIB, 2);
    memscope_assert_max_peak(start, 9437184);
}
END_TEST

START_TEST(max_blocks_passes) {
    memscope_checkpoint_t *start = memscope_checkpoint();
    pass_through(16, 10);
    memscope_assert_max_allocated_blocks(start, 10);
}
END_TEST

START_TEST(max_blocks_fails) {
    memscope_checkpoint_t *start = memscope_checkpoint();
    pass_through(16, 10);
    memscope_assert_max_allocated_blocks(start, 9);
}
END_TEST

START_TEST(no_growth_passes) {
    memscope_assert_no_growth(20, pass_through(100, 2));
    memscope_assert_no_growth(3, if (!kept[0]) leak());
}
END_TEST

START_TEST(no_growth_fails) {
    memscope_assert_no_growth(5, leak());
}
END_TEST

/* ---- what they must say. "..." stands for anything; %d, in order, for the lines of the functions named behind */

typedef struct subject {
    const TTest *const *test;
    const char *message; /* NULL: passes */
    int line[2];
    const char *exact_message; /* in mode exact, if it is another there */
} subject_t;

static const subject_t *subjects(size_t *count) {
    static const subject_t all[] = {
        {&no_leaks_passes, NULL, {0}, NULL},
        {&no_leaks_fails,
         "memscope_assert_no_leaks(start): 3 blocks more are live than at the checkpoint; most: leaked in leak "
         "test_assertions.c:%d 120 bytes, pair in twice test_assertions.c:%d 48 bytes",
         {LINE_leak + 1, LINE_twice + 2},
         NULL},
        {&no_leaks_without_a_name,
         "memscope_assert_no_leaks(start): 1 block more is live than at the checkpoint; MEMSCOPE_CONF=mode:exact names the "
         "sites",
         {0},
         "memscope_assert_no_leaks(start): 1 block more is live than at the checkpoint; most: test_assertions... 77 bytes"},
        {&max_live_passes, NULL, {0}, NULL},
        {&max_live_fails,
         "memscope_assert_max_live(100 * MIB): ... bytes are live (104857600 allowed); most: ...huge in ... 314572800 bytes...",
         {0},
         NULL},
        {&max_peak_passes, NULL, {0}, NULL},
        {&max_peak_passes_exactly, NULL, {0}, NULL},
        {&max_peak_fails,
         "memscope_assert_max_peak(start, 9437184): ... bytes more than at the checkpoint were live at once (9437184 "
         "allowed)...; most: passing in pass_through test_assertions.c:%d 20971520 bytes",
         {LINE_pass_through + 2},
         "memscope_assert_max_peak(start, 9437184): 10485760 bytes more than at the checkpoint were live at once (9437184 "
         "allowed); most: passing in pass_through test_assertions.c:%d 20971520 bytes"},
        {&max_blocks_passes, NULL, {0}, NULL},
        {&max_blocks_fails,
         "memscope_assert_max_allocated_blocks(start, 9): 10 blocks were allocated (9 allowed); most: passing in pass_through "
         "test_assertions.c:%d 160 bytes",
         {LINE_pass_through + 2},
         NULL},
        {&no_growth_passes, NULL, {0}, NULL},
        {&no_growth_fails,
         "memscope_assert_no_growth(5, leak()): 600 bytes more are live than at the checkpoint; most: leaked in leak "
         "test_assertions.c:%d 600 bytes",
         {LINE_leak + 1},
         NULL},
    };
    *count = sizeof all / sizeof all[0];
    return all;
}

/* Whether the text is the pattern, in which "..." stands for anything. */
static bool fits(const char *text, const char *pattern) {
    const char *gap = strstr(pattern, "...");
    if (!gap) return strcmp(text, pattern) == 0;
    if (strncmp(text, pattern, (size_t)(gap - pattern)) != 0) return false;
    for (text += gap - pattern;; text++) {
        if (fits(text, gap + 3)) return true;
        if (!*text) return false;
    }
}

static int judge(const subject_t *subject, TestResult *result, const char *conf) {
    char expected[1024] = "";
    bool exact = strstr(conf, "exact") != NULL;
    const char *pattern = exact && subject->exact_message ? subject->exact_message : subject->message;
    int kind = tr_rtype(result);
    if (!pattern && kind == CK_PASS) return 0;
    if (pattern) snprintf(expected, sizeof expected, pattern, subject->line[0], subject->line[1]);
    if (pattern && kind == CK_FAILURE && fits(tr_msg(result), expected)) return 0;
    printf("FAILED: %s: %s\n  result %d: %s\n  expected: %s\n", conf, (*subject->test)->name, kind, tr_msg(result),
           pattern ? expected : "to pass");
    return 1;
}

/* What a function writes to stderr before it aborts; "" if it returns. */
static void said(void (*function)(void), char *text, size_t room, int *status) {
    int ends[2];
    if (pipe(ends) != 0) exit(1);
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        function();
        _exit(0);
    }
    close(ends[1]);
    ssize_t got, length = 0;
    while ((got = read(ends[0], text + length, room - 1 - (size_t)length)) > 0) length += got;
    text[length] = '\0';
    close(ends[0]);
    waitpid(child, status, 0);
}

static int judge_plain(const char *conf) {
    static const char expected[] = "memscope: ...assertions_plain.c:17: memscope_assert_no_leaks(start): 1 block more is live "
                                   "than at the checkpoint; most: forgotten in plain_leak assertions_plain.c:15 31 bytes\n";
    char text[2048];
    int status, failed = 0;
    said(plain_fine, text, sizeof text, &status);
    failed += status != 0 || text[0] != '\0';
    said(plain_leak, text, sizeof text, &status);
    failed += !WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT || !fits(text, expected);
    if (failed) printf("FAILED: %s: without Check: %s", conf, text);
    return failed;
}

static int judge_all(const char *conf) {
    size_t count;
    const subject_t *all = subjects(&count);
    Suite *suite = suite_create("subjects");
    TCase *tcase = tcase_create("subjects");
    tcase_set_timeout(tcase, 300);
    for (size_t i = 0; i < count; i++) tcase_add_test(tcase, *all[i].test);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_FORK);
    srunner_run_all(runner, CK_SILENT);
    TestResult **results = srunner_results(runner);
    int failed = judge_plain(conf);
    for (size_t i = 0; i < count; i++) failed += judge(&all[i], results[i], conf);
    printf("%s: %zu subjects, %d failures\n", conf, count + 2, failed);
    srunner_free(runner);
    return failed;
}

int main(int count, char **arguments) {
    /* no samples: where one falls, and so which sites are named, would be chance */
    static const char *const confs[] = {"mode:exact", "mode:exact,backend:system", "mode:off", "mode:task",
                                        "mode:hybrid,sample_bytes:1024G"};
    if (count > 1) return judge_all(arguments[1]) != 0;
    int failed = 0;
    for (size_t i = 0; i < sizeof confs / sizeof confs[0]; i++) {
        int status;
        pid_t child = fork();
        if (child == 0) {
            setenv("MEMSCOPE_CONF", confs[i], 1);
            execl("/proc/self/exe", arguments[0], confs[i], (char *)NULL);
            _exit(127);
        }
        waitpid(child, &status, 0);
        failed += status != 0;
    }
    return failed != 0;
}
