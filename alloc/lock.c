#include "alloc/lock.h"
#include "alloc/os.h"
#include "alloc/thread.h"
#include "config.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#if MS_DEBUG
#include <stdlib.h>
#endif

/* One cache line each: threads that wait for one do not slow the others. */
static struct {
    pthread_mutex_t mutex;
    char apart[64 - sizeof(pthread_mutex_t) % 64];
} locks[MS_LOCK_COUNT] = {[0 ... MS_LOCK_COUNT - 1] = {.mutex = PTHREAD_MUTEX_INITIALIZER}};

/* The thread between the two halves of a fork(): handlers of others that run meanwhile may call malloc and free. Handlers of
 * signals may not: where locks say nothing, one would find what the other has half changed. They wait. */
static __thread bool holds_all __attribute__((tls_model("initial-exec")));
static sigset_t signals_before; /* all locks */

static __thread unsigned held __attribute__((tls_model("initial-exec"))); /* bit per rank */

/* Files are read and written under MS_LOCK_EXPORT: a thread that is cancelled there would end with the lock. */
static int cancel_state; /* MS_LOCK_EXPORT: of the thread that holds it, before */

bool ms_lock_is_held(void) { return !holds_all && (held & ~(1u << MS_LOCK_EXPORT)) != 0; }
bool ms_lock_is_any_held(void) { return !holds_all && held != 0; }

#if MS_DEBUG
static void check_rank(ms_lock_rank_t rank) {
    if (held >> rank == 0) return;
    ms_os_say("lock taken out of rank order", NULL);
    abort();
}
#endif

/* A signal handler that allocates while the thread holds a lock must come to ms_arena_try_enter(), which refuses it. With
 * MS_LOCK_EXPORT alone it may go on. */
static __thread ms_arena_t *hidden_for_locks __attribute__((tls_model("initial-exec")));

static ms_arena_t *hide_arena(void) {
    ms_arena_t *arena = ms_arena_current;
    return ms_arena_hide(arena) ? arena : NULL;
}

static void show_arena(void) {
    ms_arena_t *arena = hidden_for_locks;
    hidden_for_locks = NULL;
    if (arena) ms_arena_show(arena);
}

void ms_lock(ms_lock_rank_t rank) {
    if (holds_all) return;
#if MS_DEBUG
    check_rank(rank);
#endif
    ms_arena_t *hidden = rank != MS_LOCK_EXPORT && !ms_lock_is_held() ? hide_arena() : NULL;
    atomic_signal_fence(memory_order_seq_cst);
    held |= 1u << rank;
    atomic_signal_fence(memory_order_seq_cst);
    if (hidden) hidden_for_locks = hidden;
    int before = PTHREAD_CANCEL_ENABLE;
    if (rank == MS_LOCK_EXPORT) pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
    pthread_mutex_lock(&locks[rank].mutex);
    if (rank == MS_LOCK_EXPORT) cancel_state = before;
}

void ms_unlock(ms_lock_rank_t rank) {
    if (holds_all) return;
    int before = rank == MS_LOCK_EXPORT ? cancel_state : PTHREAD_CANCEL_DISABLE;
    pthread_mutex_unlock(&locks[rank].mutex);
    atomic_signal_fence(memory_order_seq_cst);
    held &= ~(1u << rank);
    if (!ms_lock_is_held()) show_arena();
    if (rank == MS_LOCK_EXPORT) pthread_setcancelstate(before, NULL);
}

void ms_lock_all(void) {
    for (int rank = 0; rank < MS_LOCK_COUNT; rank++) ms_lock((ms_lock_rank_t)rank);
    if (!holds_all) ms_os_block_signals(&signals_before); /* a handler past ours may fork */
    holds_all = true;
    show_arena();
}

void ms_unlock_all(void) {
    sigset_t before = signals_before;
    hidden_for_locks = hide_arena();
    atomic_signal_fence(memory_order_seq_cst);
    holds_all = false;
    for (int rank = MS_LOCK_COUNT - 1; rank >= 0; rank--) ms_unlock((ms_lock_rank_t)rank);
    sigprocmask(SIG_SETMASK, &before, NULL);
}

void ms_lock_renew_all(void) {
    for (int rank = 0; rank < MS_LOCK_COUNT; rank++) pthread_mutex_init(&locks[rank].mutex, NULL);
    held = 0;
    atomic_signal_fence(memory_order_seq_cst);
    holds_all = false;
    pthread_setcancelstate(cancel_state, NULL);
    sigprocmask(SIG_SETMASK, &signals_before, NULL);
}
