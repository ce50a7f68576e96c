#define _GNU_SOURCE
#include "tracking/worker.h"
#include "alloc/os.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define STACK_BYTES ((size_t)256 << 10) /* address space; the program's static TLS is cut from it */

static ms_worker_t *workers; /* all, newest first; written by starters, one at a time */
static bool handles_fork;

/* Waits while *word is `value`, at most `ns`. Spurious returns are fine for all callers. */
static void futex_wait(_Atomic(uint32_t) *word, uint32_t value, uint64_t ns) {
    int saved = errno;
    struct timespec time = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, &time, NULL, 0);
    errno = saved;
}

static void futex_wake(_Atomic(uint32_t) *word) {
    int saved = errno;
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    errno = saved;
}

/* ---- the last thread: libc ends a process when its last thread ends, and would wait for ours for ever */

#define LOOK_NS 500000000u /* longest sleep without looking whether the program is still there */

static unsigned running_count(void) {
    unsigned count = 0;
    for (const ms_worker_t *worker = workers; worker; worker = worker->next)
        count += atomic_load(&worker->state) == MS_WORKER_RUNNING;
    return count;
}

/* Whether only workers are left, and the first thread, which stays a zombie after pthread_exit(). proc(5): the state comes
 * behind the name, the number of threads 17 words later. */
static bool is_program_gone(void) {
    char line[512];
    if (!ms_os_read_text("/proc/self/stat", line, sizeof line)) return false;
    const char *word = strrchr(line, ')');
    if (!word || word[1] != ' ' || word[2] != 'Z') return false;
    for (int words = 0; words < 18; words++)
        if (!(word = strchr(word + 1, ' '))) return false;
    unsigned threads = 0;
    for (word++; *word >= '0' && *word <= '9'; word++) threads = threads * 10 + (unsigned)(*word - '0');
    return threads == 1 + running_count();
}

/* Ends the worker with the program. libc calls exit() in the last thread: that one must be a usual one again. */
static void look_around(ms_worker_t *worker) {
    uint64_t now = ms_os_monotonic_ns();
    if (now - worker->looked_ns < LOOK_NS) return;
    worker->looked_ns = now;
    int saved = errno;
    if (is_program_gone()) {
        sigset_t all;
        sigfillset(&all);
        pthread_sigmask(SIG_UNBLOCK, &all, NULL);
        atomic_store(&worker->alone, 1);
        atomic_store(&worker->stopping, 1);
    }
    errno = saved;
}

static void *thread(void *argument) {
    ms_worker_t *worker = argument;
    atomic_store_explicit(&worker->tid, (uint32_t)ms_os_thread_id(), memory_order_relaxed);
    prctl(PR_SET_NAME, worker->name);
    worker->body(worker);
    atomic_store_explicit(&worker->state, MS_WORKER_IDLE, memory_order_release); /* pairs with ms_worker_stop() */
    futex_wake(&worker->state);
    return NULL;
}

bool ms_worker_is_thread(uint32_t tid) {
    for (const ms_worker_t *worker = workers; worker; worker = worker->next)
        if (atomic_load_explicit(&worker->tid, memory_order_relaxed) == tid) return true;
    return false;
}

/* The child has the thread that forked only. Workers list themselves anew if their `in_child` starts them. */
static void fork_child(void) {
    for (ms_worker_t *worker = workers; worker; worker = worker->next) {
        if (atomic_exchange(&worker->state, MS_WORKER_IDLE) != MS_WORKER_RUNNING) continue;
        atomic_store(&worker->stopping, 0);
        if (worker->in_child) worker->in_child(worker);
    }
}

static int create(ms_worker_t *worker, size_t stack_bytes) {
    pthread_attr_t attributes;
    pthread_t id;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    int error = stack_bytes ? pthread_attr_setstacksize(&attributes, stack_bytes) : 0;
    if (!error) error = pthread_create(&id, &attributes, thread, worker);
    pthread_attr_destroy(&attributes);
    return error;
}

int ms_worker_start(ms_worker_t *worker) {
    if (atomic_load(&worker->state) != MS_WORKER_IDLE) return EBUSY;
    if (!handles_fork) handles_fork = pthread_atfork(NULL, NULL, fork_child) == 0;
    if (!worker->listed) {
        worker->listed = true;
        worker->next = workers;
        workers = worker;
    }
    atomic_store(&worker->stopping, 0);
    atomic_store(&worker->alone, 0);
    atomic_store(&worker->bell, MS_BELL_SILENT);
    atomic_store(&worker->state, MS_WORKER_RUNNING);
    sigset_t before;
    ms_os_block_signals(&before);
    int error = create(worker, STACK_BYTES);
    if (error == EINVAL) error = create(worker, 0); /* more static TLS than that */
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error) atomic_store(&worker->state, MS_WORKER_IDLE);
    return error;
}

/* The clock is CLOCK_MONOTONIC_COARSE: slices are longer than its ticks. */
bool ms_worker_stop(ms_worker_t *worker, uint64_t patience_ns) {
    atomic_store_explicit(&worker->stopping, 1, memory_order_release);
    futex_wake(&worker->stopping);
    ms_worker_ring(worker);
    uint64_t since = ms_os_monotonic_ns();
    uint32_t seen = atomic_load(&worker->progress);
    while (atomic_load_explicit(&worker->state, memory_order_acquire) == MS_WORKER_RUNNING) {
        uint32_t now = atomic_load(&worker->progress);
        if (now != seen) {
            seen = now;
            since = ms_os_monotonic_ns();
        } else if (ms_os_monotonic_ns() - since > patience_ns) {
            return false;
        }
        futex_wait(&worker->state, MS_WORKER_RUNNING, 20000000);
    }
    return true;
}

void ms_worker_sleep(ms_worker_t *worker, uint64_t ns) {
    uint32_t silent = MS_BELL_SILENT;
    if (ns > LOOK_NS) ns = LOOK_NS;
    if (atomic_compare_exchange_strong(&worker->bell, &silent, MS_BELL_ASLEEP))
        futex_wait(&worker->bell, MS_BELL_ASLEEP, ns);
    atomic_store(&worker->bell, MS_BELL_SILENT);
    look_around(worker);
}

void ms_worker_pause(ms_worker_t *worker, uint64_t ns) {
    futex_wait(&worker->stopping, 0, ns > LOOK_NS ? LOOK_NS : ns);
    look_around(worker);
}

void ms_worker_ring(ms_worker_t *worker) {
    if (atomic_load_explicit(&worker->bell, memory_order_relaxed) == MS_BELL_RUNG) return;
    if (atomic_exchange(&worker->bell, MS_BELL_RUNG) == MS_BELL_ASLEEP) futex_wake(&worker->bell);
}
