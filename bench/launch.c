/* Runs a command and writes what it cost: the bench's stopwatch.
 *
 *     launch [-n TIMES] [-e NAME=VALUE]... REPORT COMMAND [ARGUMENT]...
 *
 * REPORT receives one line: wall ns, user us, system us, peak RSS KiB, minor faults, voluntary and involuntary context
 * switches, and the wait status; of the last run, except wall, user and system, which are sums over TIMES runs.
 *
 * Why not from Python: Linux keeps the larger RSS from before exec in ru_maxrss, so a child of a big process looks at
 * least as big as its parent. This program stays under every program it measures, and it is not itself preloaded: -e
 * sets the environment of the command only. The command dies with this process. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef struct cost {
    int64_t wall_ns, user_us, system_us;
    long rss_kib, faults, waits, preempted;
    int status;
} cost_t;

enum { MAX_ENV = 16 };

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void fail(const char *what) {
    fprintf(stderr, "launch: %s: %s\n", what, strerror(errno));
    _exit(127);
}

static void run_child(char **command, char **settings, int count) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (int i = 0; i < count; i++) putenv(settings[i]);
    execvp(command[0], command);
    fail(command[0]);
}

static void run_once(char **command, char **settings, int count, cost_t *cost) {
    struct rusage usage;
    int64_t start = now_ns();
    pid_t child = fork();
    if (child < 0) fail("fork");
    if (child == 0) run_child(command, settings, count);
    while (wait4(child, &cost->status, 0, &usage) < 0)
        if (errno != EINTR) fail("wait4");
    cost->wall_ns += now_ns() - start;
    cost->user_us += (int64_t)usage.ru_utime.tv_sec * 1000000 + usage.ru_utime.tv_usec;
    cost->system_us += (int64_t)usage.ru_stime.tv_sec * 1000000 + usage.ru_stime.tv_usec;
    cost->rss_kib = usage.ru_maxrss;
    cost->faults = usage.ru_minflt;
    cost->waits = usage.ru_nvcsw;
    cost->preempted = usage.ru_nivcsw;
}

static void write_report(const char *path, const cost_t *cost) {
    FILE *file = fopen(path, "we");
    if (!file) fail(path);
    fprintf(file, "%lld %lld %lld %ld %ld %ld %ld %d\n", (long long)cost->wall_ns, (long long)cost->user_us,
            (long long)cost->system_us, cost->rss_kib, cost->faults, cost->waits, cost->preempted, cost->status);
    if (fclose(file) != 0) fail(path);
}

int main(int argc, char **argv) {
    char *settings[MAX_ENV];
    int count = 0, option;
    long times = 1;
    while ((option = getopt(argc, argv, "+n:e:")) != -1) {
        if (option == 'n')
            times = strtol(optarg, NULL, 10);
        else if (option == 'e' && count < MAX_ENV)
            settings[count++] = optarg;
        else
            return 2;
    }
    if (argc - optind < 2 || times < 1) {
        fprintf(stderr, "usage: launch [-n TIMES] [-e NAME=VALUE]... REPORT COMMAND [ARGUMENT]...\n");
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    cost_t cost = {0};
    for (long i = 0; i < times && cost.status == 0; i++) run_once(argv + optind + 1, settings, count, &cost);
    write_report(argv[optind], &cost);
    return 0;
}
