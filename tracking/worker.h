/* A thread of the library's own, for what must not be done in the program's threads: writing to a file that may be
 * slow.
 *
 *     IDLE -> ms_worker_start -> RUNNING -> (stopping set, body returns) -> IDLE
 *     the program's last thread ended -> stopping set, and libc ends the process when the last worker has returned
 *     fork: in the child every worker that was running is IDLE again, and its `in_child` is called, which may start it
 *
 * A worker blocks every signal, has a small stack, and calls nothing that allocates: it never gets an arena and stands
 * in no table of threads. What the C library allocates to make a thread (one block of a few hundred bytes) counts for
 * the thread that starts it. The owner of a worker calls start and stop one at a time. */
#ifndef MS_TRACKING_WORKER_H
#define MS_TRACKING_WORKER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#pragma GCC visibility push(hidden)

typedef enum { MS_WORKER_IDLE, MS_WORKER_RUNNING } ms_worker_state_t;

typedef enum { MS_BELL_SILENT, MS_BELL_RUNG, MS_BELL_ASLEEP } ms_worker_bell_t;

typedef struct ms_worker {
    /* the owner, before the first start */
    const char *name;                           /* of the thread, at most 15 bytes */
    void (*body)(struct ms_worker *worker);     /* returns soon after `stopping` was set */
    void (*in_child)(struct ms_worker *worker); /* after a fork while it ran, in the child; may be NULL */

    _Atomic(uint32_t) state;    /* ms_worker_state_t; a futex */
    _Atomic(uint32_t) stopping; /* the body is to return; a futex */
    _Atomic(uint32_t) bell;     /* ms_worker_bell_t; a futex */
    _Atomic(uint32_t) progress; /* the body counts up while it gets somewhere */
    _Atomic(uint32_t) tid;      /* of its last thread, 0: none yet; kept when that ends */
    uint64_t looked_ns;         /* the worker's: when it last looked whether the program is still there */
    _Atomic(uint32_t) alone;    /* the program has ended: nobody but the body knows when enough was tried */
    struct ms_worker *next;     /* all that were ever started */
    bool listed;
} ms_worker_t;

/* 0 or the errno value: EBUSY while it runs, what pthread_create says. Not from a fork handler of `before`. */
int ms_worker_start(ms_worker_t *worker);

/* Asks the body to return and waits for it, but no longer than `patience_ns` without progress. False: it still runs. */
bool ms_worker_stop(ms_worker_t *worker, uint64_t patience_ns);

/* For the body: sleeps until the bell is rung, or was since the last sleep, or the time is over, or half a second. */
void ms_worker_sleep(ms_worker_t *worker, uint64_t ns);

/* For the body: waits for the time to be over, deaf to the bell; returns earlier only if it is to return. */
void ms_worker_pause(ms_worker_t *worker, uint64_t ns);

/* Whether a thread is, or last was, one of ours: what lies on its stack is no data of the program. */
bool ms_worker_is_thread(uint32_t tid);

/* Wakes the body. Any thread; a system call only if the body sleeps. */
void ms_worker_ring(ms_worker_t *worker);

static inline bool ms_worker_is_stopping(const ms_worker_t *worker) {
    return atomic_load_explicit(&worker->stopping, memory_order_acquire);
}

#pragma GCC visibility pop
#endif
