/* Crimes against the heap end as crimes.def says: by the signal, after exactly one line "memscope: ..." on stderr that
 * names the crime and the address. Each is committed in a process of its own, by this same program. */
#define _GNU_SOURCE /* pipe2 */
#include <fcntl.h>
#include <regex.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/crimes/crimes.h"
#include "tests/support.h"

extern char **environ;

typedef struct outcome {
    char address[64], errors[4096];
    int status;
} outcome_t;

static void read_all(int fd, char *text, size_t bytes) {
    size_t length = 0;
    ssize_t got;
    while (length < bytes - 1 && (got = read(fd, text + length, bytes - 1 - length)) > 0) length += (size_t)got;
    text[length] = 0;
    close(fd);
}

static void commit(size_t number, const char *conf, outcome_t *outcome) {
    int out[2], err[2];
    char index[24];
    char *const argv[] = {(char[]){"crime"}, index, NULL};
    pid_t pid;
    posix_spawn_file_actions_t actions;
    snprintf(index, sizeof index, "%zu", number);
    setenv("MEMSCOPE_CONF", conf, 1);
    ck_assert(pipe2(out, O_CLOEXEC) == 0 && pipe2(err, O_CLOEXEC) == 0);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, err[1], STDERR_FILENO);
    ck_assert_int_eq(posix_spawn(&pid, "/proc/self/exe", &actions, NULL, argv, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(out[1]);
    close(err[1]);
    read_all(out[0], outcome->address, sizeof outcome->address);
    read_all(err[0], outcome->errors, sizeof outcome->errors);
    ck_assert_int_eq(waitpid(pid, &outcome->status, 0), pid);
}

static bool is_one_line(const char *text) {
    const char *end = strchr(text, '\n');
    return strncmp(text, "memscope: ", 10) == 0 && end && end[1] == 0;
}

static bool matches(const char *text, const char *pattern) {
    regex_t regex;
    ck_assert_int_eq(regcomp(&regex, pattern, REG_EXTENDED | REG_NOSUB), 0);
    bool found = regexec(&regex, text, 0, NULL, 0) == 0;
    regfree(&regex);
    return found;
}

/* What is wrong with how the crime ended, or NULL. */
static const char *verdict(const crime_t *crime, const outcome_t *outcome) {
    if (crime->signal && !WIFSIGNALED(outcome->status)) return "was not caught";
    if (crime->signal && WTERMSIG(outcome->status) != crime->signal) return "ended by another signal";
    if (!crime->signal && (!WIFEXITED(outcome->status) || WEXITSTATUS(outcome->status) != 0)) return "did not run on";
    if (!crime->line) return outcome->errors[0] ? "wrote to stderr" : NULL;
    if (!is_one_line(outcome->errors)) return "did not write exactly one line `memscope: ...'";
    if (!matches(outcome->errors, crime->line)) return "wrote another line";
    if (!strstr(outcome->errors, outcome->address)) return "did not name the address";
    return NULL;
}

/* The header of a sampled block lies away from its neighbours, so that some crimes do no harm and others look like
 * another crime; but none may end in anything worse than a line and abort(). */
static const char *verdict_of_sampled(const crime_t *crime, const outcome_t *outcome) {
    (void)crime;
    if (WIFEXITED(outcome->status)) return NULL;
    if (WTERMSIG(outcome->status) != SIGABRT) return "ended by another signal";
    return is_one_line(outcome->errors) ? NULL : "did not write exactly one line `memscope: ...'";
}

typedef const char *verdict_t(const crime_t *crime, const outcome_t *outcome);

/* All crimes under one configuration, so that one missed crime does not hide the others. */
static void check_all(const char *conf, verdict_t *judge) {
    int bad = 0;
    for (size_t i = 0; i < crime_count; i++) {
        outcome_t outcome;
        char knobs[128];
        snprintf(knobs, sizeof knobs, "%s%s%s", conf, crimes[i].knobs[0] ? "," : "", crimes[i].knobs);
        commit(i, knobs, &outcome);
        const char *wrong = judge(&crimes[i], &outcome);
        if (!wrong) continue;
        bad++;
        printf("%s(%#jx) under %s: %s; status %#x, address %s, expected /%s/, wrote: %s\n", crimes[i].name,
               (uintmax_t)crimes[i].argument, knobs, wrong, (unsigned)outcome.status, outcome.address,
               crimes[i].line ? crimes[i].line : "", outcome.errors);
    }
    fflush(stdout);
    ck_assert_msg(bad == 0, "%d of %zu crimes did not end as they should", bad, crime_count);
}

START_TEST(on_each_backing) {
    char conf[64]; /* no samples: a sampled block has a header more, which would decide some lines by chance */
    snprintf(conf, sizeof conf, "backend:%s,sample_bytes:1G", support_backends()[_i]);
    check_all(conf, verdict);
}
END_TEST

START_TEST(in_mode_exact) {
    check_all("mode:exact", verdict);
}
END_TEST

START_TEST(with_every_block_sampled) {
    check_all("sample_bytes:1", verdict_of_sampled);
}
END_TEST

START_TEST(in_mode_off) {
    check_all("mode:off", verdict);
}
END_TEST

static Suite *suite(void) {
    const TTest *tests[] = {in_mode_exact, with_every_block_sampled, in_mode_off};
    Suite *suite = SUPPORT_SUITE("crimes", tests);
    TCase *each = tcase_create("on_each_backing");
    int count = 0;
    while (support_backends()[count]) count++;
    tcase_set_timeout(each, 240);
    tcase_add_loop_test(each, on_each_backing, 0, count);
    suite_add_tcase(suite, each);
    return suite;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        setenv("MEMSCOPE_CONF", "", 1); /* this process itself commits nothing */
        return support_main(suite, support_modes_default);
    }
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    alarm(60); /* a hang is one way not to be caught */
    const crime_t *crime = &crimes[strtoul(argv[1], NULL, 10)];
    crime->commit(crime->argument);
    return 0;
}
