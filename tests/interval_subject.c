/* What test_interval.py runs: allocates by script, so that every number is known. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "memscope/memscope.h"

static void *volatile kept[4096];

static void pause_ms(long ms) {
    struct timespec time = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&time, &time) != 0 && errno == EINTR) continue;
}

static __attribute__((noinline)) void grow(int i) { kept[i] = malloc(1000); }
static __attribute__((noinline)) void large(int i) { kept[i] = malloc(100000); }

/* 60 steps of 5 ms: a block of 1000 each, every tenth of 100,000, which the next step frees. */
static int steps(void) {
    memscope_task_t task = memscope_task_create("stepper", 0);
    for (int i = 0; i < 60; i++) {
        memscope_token_t token = memscope_task_enter(task);
        grow(i);
        memscope_task_leave(token);
        if (i % 10 == 1) free(kept[1000]);
        if (i % 10 == 0) large(1000);
        pause_ms(5);
    }
    return 0;
}

static _Noreturn void forever(void) {
    for (int i = 0;; i = (i + 1) % 4096) {
        free(kept[i]);
        grow(i);
        if (i % 64 == 0) pause_ms(1);
    }
}

/* The child allocates what the parent never does, and lives on for some records. */
static int child(const char *how) {
    grow(0);
    pause_ms(60);
    pid_t pid = fork();
    if (pid == 0) {
        large(1);
        pause_ms(100);
        if (strcmp(how, "_exit") == 0) _exit(0);
        if (strcmp(how, "exec") == 0) execl("/bin/true", "true", NULL);
        return 0;
    }
    int status;
    waitpid(pid, &status, 0);
    printf("%d %d\n", (int)pid, status);
    grow(2);
    return 0;
}

/* Work while the disk is full: a file may grow no more. */
static int limited(rlim_t bytes) {
    struct rlimit limit = {bytes, bytes};
    signal(SIGXFSZ, SIG_DFL);
    setrlimit(RLIMIT_FSIZE, &limit);
    for (int i = 0; i < 60; i++) {
        grow(i);
        pause_ms(5);
    }
    return 0;
}

/* A program whose standard streams are closed and that writes to them all the same. */
static _Atomic(int) closed_end;

static void *write_to_closed(void *unused) {
    while (!closed_end)
        for (int fd = 0; fd <= 2; fd++)
            if (write(fd, "stray", 5) == 5) closed_end = 2;
    return unused;
}

static int closed(void) {
    pthread_t thread;
    for (int fd = 0; fd <= 2; fd++) close(fd);
    pthread_create(&thread, NULL, write_to_closed, NULL);
    for (int i = 0; i < 300 && closed_end == 0; i++) {
        grow(i % 60);
        pause_ms(5);
    }
    int end = closed_end;
    if (end == 0) closed_end = 1;
    pthread_join(thread, NULL);
    return end;
}

/* ---- a busy hour: threads, tasks and deep stacks, all of them changing all the time */

static uint64_t next_random(uint64_t *state) {
    *state ^= *state << 13, *state ^= *state >> 7, *state ^= *state << 17;
    return *state;
}

static __attribute__((noinline)) void *descend(unsigned depth, size_t size) {
    void *block = depth == 0 ? malloc(size) : descend(depth - 1, size);
    __asm__ volatile("" : : "r"(block));
    return block;
}

static uint64_t seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (uint64_t)now.tv_sec;
}

static uint64_t end_of_hour;

static void *busy(void *argument) {
    uint64_t state = 88172645463325252u + (uintptr_t)argument;
    enum { BLOCKS = 2000 };
    void **blocks = calloc(BLOCKS, sizeof *blocks);
    memscope_task_t tasks[25];
    for (int i = 0; i < 25; i++) tasks[i] = memscope_task_create("request", 0);
    while (seconds() < end_of_hour) {
        for (int i = 0; i < 40; i++) {
            memscope_token_t token = memscope_task_enter(tasks[next_random(&state) % 25]);
            size_t at = next_random(&state) % BLOCKS;
            free(blocks[at]);
            blocks[at] = descend(next_random(&state) % 200, next_random(&state) % 4000);
            memscope_task_leave(token);
        }
        pause_ms(1);
    }
    return NULL;
}

static int hour(long length) {
    pthread_t threads[16];
    end_of_hour = seconds() + (uint64_t)length;
    for (uintptr_t i = 0; i < 16; i++) pthread_create(&threads[i], NULL, busy, (void *)i);
    for (int i = 0; i < 16; i++) pthread_join(threads[i], NULL);
    return 0;
}

int main(int count, char **arguments) {
    const char *what = count > 1 ? arguments[1] : "", *how = count > 2 ? arguments[2] : "";
    if (strcmp(what, "steps") == 0) return steps();
    if (strcmp(what, "forever") == 0) forever();
    if (strcmp(what, "child") == 0) return child(how);
    if (strcmp(what, "limited") == 0) return limited((rlim_t)atol(how));
    if (strcmp(what, "closed") == 0) return closed();
    if (strcmp(what, "hour") == 0) return hour(*how ? atol(how) : 3600);
    return 2;
}
