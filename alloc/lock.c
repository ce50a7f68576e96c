#include "alloc/lock.h"
#include "config.h"

#include <pthread.h>
#include <stdbool.h>
#if MS_DEBUG
#include <stdlib.h>
#include "alloc/os.h"
#endif

/* One cache line each: threads that wait for one do not slow the others. */
static struct {
    pthread_mutex_t mutex;
    char apart[64 - sizeof(pthread_mutex_t) % 64];
} locks[MS_LOCK_COUNT] = {[0 ... MS_LOCK_COUNT - 1] = {.mutex = PTHREAD_MUTEX_INITIALIZER}};

/* The thread between the two halves of a fork(): handlers of others that run meanwhile may call malloc and free. */
static __thread bool holds_all __attribute__((tls_model("initial-exec")));

#if MS_DEBUG
static __thread unsigned held __attribute__((tls_model("initial-exec"))); /* bit per rank */

static void check_rank(ms_lock_rank_t rank) {
    if (held >> rank == 0) return;
    ms_os_say("lock taken out of rank order", NULL);
    abort();
}
#endif

void ms_lock(ms_lock_rank_t rank) {
    if (holds_all) return;
#if MS_DEBUG
    check_rank(rank);
    held |= 1u << rank;
#endif
    pthread_mutex_lock(&locks[rank].mutex);
}

void ms_unlock(ms_lock_rank_t rank) {
    if (holds_all) return;
#if MS_DEBUG
    held &= ~(1u << rank);
#endif
    pthread_mutex_unlock(&locks[rank].mutex);
}

void ms_lock_all(void) {
    for (int rank = 0; rank < MS_LOCK_COUNT; rank++) ms_lock((ms_lock_rank_t)rank);
    holds_all = true;
}

void ms_unlock_all(void) {
    holds_all = false;
    for (int rank = MS_LOCK_COUNT - 1; rank >= 0; rank--) ms_unlock((ms_lock_rank_t)rank);
}

void ms_lock_renew_all(void) {
    holds_all = false;
#if MS_DEBUG
    held = 0;
#endif
    for (int rank = 0; rank < MS_LOCK_COUNT; rank++) pthread_mutex_init(&locks[rank].mutex, NULL);
}
