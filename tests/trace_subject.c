/* Programs whose event log test_trace.py reads. Usage: trace_subject WHAT [N [THREADS]] */
#define _GNU_SOURCE
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "memscope/memscope.h"

#define KEPT 200

static long operations;
static _Atomic(void *) shared[64]; /* what one thread allocates and another frees */

static uint32_t next(uint32_t *state) {
    return (*state = *state * 1664525u + 1013904223u) >> 8;
}

static __attribute__((noinline)) void *small(uint32_t size) {
    void *volatile block = malloc(size % 900);
    return block;
}

static __attribute__((noinline)) void *any(uint32_t choice, uint32_t size) {
    switch (choice % 8) {
    case 0:
        return calloc(1 + size % 3, size % 2000);
    case 1:
        return memalign(64u << choice % 5, size % 5000);
    case 2:
        return malloc(size % 100000);
    case 3:
        return choice % 512 == 3 ? malloc(1000000 + size % 3000000) : malloc(size % 40);
    default:
        return small(size);
    }
}

/* Everything malloc offers, in tasks, with blocks that other threads free. */
static void *mix(void *argument) {
    uint32_t state = (uint32_t)(uintptr_t)argument;
    void *kept[KEPT] = {NULL};
    char name[32];
    snprintf(name, sizeof name, "task %u", state);
    memscope_task_t task = memscope_task_create(name, 0), inner = memscope_task_create("inner", task);
    memscope_token_t token = {0};
    for (long i = 0; i < operations; i++) {
        uint32_t choice = next(&state), slot = next(&state) % KEPT, size = next(&state);
        if (i % 97 == 10) token = memscope_task_enter(i % 2 ? task : inner);
        if (choice % 16 == 0) {
            free(atomic_exchange(&shared[slot % 64], any(choice, size)));
        } else if (choice % 4 == 0) {
            void *bigger = realloc(kept[slot], 1 + size % (choice % 256 ? 3000 : 3000000));
            kept[slot] = bigger;
        } else {
            free(kept[slot]);
            kept[slot] = any(choice, size);
        }
        if (i % 97 == 60) memscope_task_leave(token);
    }
    for (int i = 0; i < KEPT; i += 1 + (state & 1)) free(kept[i]);
    return NULL;
}

static void run(void *(*body)(void *), int threads) {
    pthread_t id[1000];
    for (int i = 0; i < threads; i++) pthread_create(&id[i], NULL, body, (void *)(uintptr_t)(i + 1));
    for (int i = 0; i < threads; i++) pthread_join(id[i], NULL);
}

static void script(int threads) {
    mix((void *)(uintptr_t)4711);
    run(mix, threads);
    char *named = malloc(321);
    MEMSCOPE_TRACK(named);
    void *volatile wide = malloc((size_t)5 << 30); /* more than 32 bits of size */
    wide = realloc(wide, (size_t)6 << 30);
}

/* Children of a process with a log. */
static void forked(void) {
    void *volatile before = malloc(1000);
    for (int child = 0; child < 2; child++) {
        if (fork() == 0) {
            free(before);
            mix((void *)(uintptr_t)(child + 10));
            exit(0);
        }
    }
    while (wait(NULL) > 0) continue;
}

/* Until all that was logged is in the file: nobody can close it in the middle of a write unseen. */
static void wait_for_quiet(const char *log) {
    struct stat file;
    off_t size = -1;
    for (int looks = 0; looks < 5; looks++) {
        if (stat(log, &file) != 0 || file.st_size == 0 || file.st_size != size) looks = 0;
        size = file.st_size;
        usleep(100000);
    }
}

/* A daemon leaves its directory, closes what it does not know and opens files of its own, which must stay its own. */
static int daemon_like(void) {
    struct stat file;
    char name[16];
    mix((void *)(uintptr_t)1);
    if (mkdir("elsewhere", 0777) != 0 || chdir("elsewhere") != 0) return 1;
    for (int round = 0; round < 3; round++) {
        int last = -1;
        wait_for_quiet("../log.bin");
        for (int fd = 3; fd < 1000; fd++) close(fd);
        for (int i = 0; last < 400; i++) {
            snprintf(name, sizeof name, "own%d", i);
            last = open(name, O_RDWR | O_CREAT, 0666);
            if (last < 0) return 2;
        }
        mix((void *)(uintptr_t)(round + 2));
        for (int fd = 3; fd <= last; fd++)
            if (fstat(fd, &file) == 0 && file.st_size != 0) return 3;
    }
    return 0;
}

/* The first thread ends, then the last: libc ends the process. The same in a child of a thread that forks. */
static void *last(void *unused) {
    usleep(20000);
    mix((void *)(uintptr_t)5);
    return unused;
}

static void *fork_and_return(void *unused) {
    int status;
    pid_t child = fork();
    if (child == 0) return last(unused); /* there is no other thread there */
    if (waitpid(child, &status, 0) != child || status != 0) _exit(4);
    return unused;
}

static void say_bye(void) {
    printf("bye\n");
}

static void end_last(void *(*body)(void *)) {
    pthread_t id;
    atexit(say_bye);
    pthread_create(&id, NULL, body, NULL);
    pthread_detach(id);
    pthread_exit(NULL);
}

static void *forever(void *argument) {
    while (operations > 0) mix(argument);
    return NULL;
}

static void endless(void) {
    pthread_t id;
    pthread_create(&id, NULL, forever, (void *)(uintptr_t)7);
    printf("ready\n");
    fflush(stdout);
    pause();
}

/* The log of a part of a program: what is in it is known. */
static _Atomic(int) phase, turns;
static void *follower(void *argument) {
    (void)argument;
    while (atomic_load(&phase) < 2) { /* follows after 128 KiB */
        free(small(100));
        if (atomic_load(&phase) == 1) atomic_fetch_add(&turns, 1);
    }
    for (int i = 0; i < 1000; i++) free(small(3));
    return NULL;
}

static int switched(const char *directory) {
    pthread_t id;
    void *volatile old = malloc(5000);
    pthread_create(&id, NULL, follower, NULL);
    for (int i = 0; i < 10000; i++) free(small(50));
    memscope_task_t task = memscope_task_create("entered before", 0);
    memscope_task_leave(memscope_task_enter(task));
    int error = memscope_trace_all(directory);
    if (error) return error;
    if (memscope_trace_all(directory) == 0) return 99;
    memscope_task_leave(memscope_task_enter(task));
    memscope_token_t token = memscope_task_enter(task); /* the short way */
    for (int i = 0; i < 1234; i++) free(small(77));
    memscope_task_leave(token);
    free(old);
    atomic_store(&phase, 1);
    while (atomic_load(&turns) < 1400) usleep(1000);
    atomic_store(&phase, 2);
    pthread_join(id, NULL);
    error = memscope_stop_tracing();
    for (int i = 0; i < 10000; i++) free(small(50));
    if (memscope_stop_tracing() == 0) return 98;
    if (!error) error = memscope_trace_all(directory); /* a second log, a second file */
    for (int i = 0; i < 10; i++) free(small(77));
    return error ? error : memscope_stop_tracing();
}

/* A pair of threads switch the log on and off while others work. */
static void *toggle(void *argument) {
    for (int i = 0; i < 40; i++) {
        memscope_trace_all(argument);
        usleep(1000);
        memscope_stop_tracing();
    }
    return NULL;
}

static void toggled(const char *directory, int threads) {
    pthread_t id[2];
    for (int i = 0; i < 2; i++) pthread_create(&id[i], NULL, toggle, (void *)(uintptr_t)directory);
    run(mix, threads);
    for (int i = 0; i < 2; i++) pthread_join(id[i], NULL);
}

int main(int count, char **arguments) {
    const char *what = count > 1 ? arguments[1] : "";
    int threads = count > 3 ? atoi(arguments[3]) : 3;
    operations = count > 2 ? atol(arguments[2]) : 20000;
    if (strcmp(what, "script") == 0) script(threads);
    if (strcmp(what, "mix") == 0) run(mix, threads);
    if (strcmp(what, "fork") == 0) forked();
    if (strcmp(what, "endless") == 0) endless();
    if (strcmp(what, "locked") == 0) mlockall(MCL_CURRENT | MCL_FUTURE); /* or what is allowed of it */
    if (strcmp(what, "locked") == 0 || strcmp(what, "switch") == 0) return switched("logs");
    if (strcmp(what, "last") == 0) end_last(last);
    if (strcmp(what, "forked last") == 0) end_last(fork_and_return);
    if (strcmp(what, "daemon") == 0) return daemon_like();
    if (strcmp(what, "toggle") == 0) toggled("logs", threads);
    if (strcmp(what, "comprehensive") == 0) {
        int error = memscope_trace_all("out");
        mix((void *)(uintptr_t)1);
        return error ? error : memscope_export_comprehensive("out", "all");
    }
    return 0;
}
