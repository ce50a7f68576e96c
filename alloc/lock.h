/* Locks with ranks: a thread takes them in rising order only (checked in debug builds), and fork(), where there are
 * other threads, takes them all in that order, so that a child never inherits a change that one of them half did.
 *
 * No lock is taken by malloc and free of blocks up to 32 KiB unless a slab must be fetched or returned. */
#ifndef MS_ALLOC_LOCK_H
#define MS_ALLOC_LOCK_H

#include <stdbool.h>

typedef enum {
    MS_LOCK_EXPORT,  /* one snapshot or file at a time */
    MS_LOCK_STRAY,   /* the arena of threads that have none (alloc/thread.c) */
    MS_LOCK_TASKS,   /* task table: create, end, keys */
    MS_LOCK_THREADS, /* arenas, their pool, thread records */
    MS_LOCK_SITES,   /* variables and sites without a stack */
    MS_LOCK_SORTED,  /* what others freed, by slabs (alloc/reclaim.h) */
    MS_LOCK_LARGE,   /* list and cache of large blocks */
    MS_LOCK_SLABS,   /* slab groups */
    MS_LOCK_BACKEND, /* calls into the backing */
    MS_LOCK_LOOK,    /* a file of the kernel's is open that tells which pages were touched */
    MS_LOCK_COUNT
} ms_lock_rank_t;

/* The arena of a thread that holds one is hidden from its signal handlers (alloc/thread.h). */
void ms_lock(ms_lock_rank_t rank);
void ms_unlock(ms_lock_rank_t rank);

/* Whether this thread holds or is about to hold a lock that malloc may need: a signal handler must not wait for it. */
bool ms_lock_is_held(void);
bool ms_lock_is_any_held(void); /* whatever it is needed for: to take one more may be to wait for itself */

/* fork() with other threads: every lock, in rank order; released in the parent, made anew in the child. In between
 * ms_lock() and ms_unlock() do nothing in the thread that forks: handlers of other libraries may run after ours and
 * allocate. */
void ms_lock_all(void);
void ms_unlock_all(void);
void ms_lock_renew_all(void);

#endif
