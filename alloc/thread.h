/* Threads and their arenas.
 *
 *     (first allocation) -> RUNNING -> (pthread key destructor) -> arena to the pool, record ended
 *     next thread        -> adopts an arena from the pool, blocks and all
 *
 * A thread has a record with a code of 16 bits, which every block it allocates carries. Records of ended threads stay;
 * when there are many, the oldest whose blocks are all freed gives its code to a new thread, and its numbers go to the
 * folded record 0. When codes run out, a thread that adopts an arena goes on with the record of the last one that had it: all
 * blocks with its code are this arena's. Such a row is of several threads, one after the other, with the name of the last. Beyond
 * 65,534 codes in use, threads share record 0, and their calls are slow.
 *
 * Records, pool and list of arenas belong to MS_LOCK_THREADS; the numbers of a running thread are its arena's. */
#ifndef MS_ALLOC_THREAD_H
#define MS_ALLOC_THREAD_H

#include <pthread.h>

#include "alloc/arena.h"

#define MS_CODE_FOLDED 0u
#define MS_FOLDED_NAME "(signal handlers, ended threads)" /* whose work has no row of its own */
#define MS_CODE_MAX 65534u

/* Another libc in the process (dlmopen(), LD_AUDIT, dlopen() in a static program) numbers its keys from 0, too, and both keep
 * values in the same words of a thread: ours is the last of those that need no memory, mimalloc's the one before. Who makes a key
 * holds the lower ones meanwhile. */
#define MS_LAST_PLAIN_KEY 31u
unsigned ms_thread_hold_keys(pthread_key_t *held, pthread_key_t below); /* how many */
void ms_thread_release_keys(const pthread_key_t *held, unsigned count);

typedef enum { MS_THREAD_UNUSED, MS_THREAD_RUNNING, MS_THREAD_ENDED } ms_thread_state_t;

typedef struct ms_thread {
    uint64_t id;          /* 1, 2, ...; 0: the folded record */
    uint32_t code;
    uint32_t tid;
    uintptr_t pointer;    /* its thread pointer: stack and thread-local variables are found from it */
    char name[16];
    ms_thread_state_t state;
    uint64_t start_ns, end_ns; /* since the start of the process */
    ms_arena_t *arena;    /* while running */
    ms_arena_t *home;     /* when ended: the arena it had */
    ms_flow_t final;      /* when ended: what it allocated and what it freed of its own */
    uint64_t foreign_freed_bytes, foreign_freed_blocks; /* when ended: other threads' blocks it freed */
    uint64_t peak_bytes, unseen_turn, cpu_ns; /* when ended */
    ms_cells_t *freed;    /* what it freed of other threads, by code; cell.owner is that thread's id */
    struct ms_thread *next_freer; /* of those with a `freed` */
    struct ms_thread *older, *newer; /* ended threads */
    bool cut_off;         /* by a fork, and ms_thread_agree() has not looked at it yet */
} ms_thread_t;

#pragma GCC visibility push(hidden) /* no detour through the GOT */

/* The thread's arena while a slow path changes it. ms_arena_current is the empty one meanwhile, so that a signal handler
 * that allocates finds no list, comes to ms_arena_try_enter() as well, and gets the stray arena. */
extern __thread ms_arena_t *ms_arena_hidden __attribute__((tls_model("initial-exec")));

/* The arena to work with on a slow path: the thread's own, or, for a thread that has none any more, the stray arena
 * with its lock held. Never NULL. Every ms_arena_enter() needs its ms_arena_leave(). */
ms_arena_t *ms_arena_enter(void);
void ms_arena_leave(ms_arena_t *arena);

/* The same for malloc and free, which a signal handler may call: NULL when the code it interrupted holds a lock, so that
 * nothing can be done here and now. */
ms_arena_t *ms_arena_try_enter(void);

/* Signals. A slow path that changes the arena hides it from handlers of this thread: they get the stray arena instead, in
 * the middle of no change. ms_arena_enter() hides it; the slow paths that the fast ones reach with the arena in hand do so
 * themselves. True: it is hidden now and was not before, ms_arena_show() is due. */
static inline void ms_arena_hide_current(ms_arena_t *arena) { /* which it is, and not the empty one */
    ms_arena_hidden = arena;
    atomic_signal_fence(memory_order_seq_cst);
    ms_arena_current = &ms_arena_empty;
    atomic_signal_fence(memory_order_seq_cst);
}
static inline bool ms_arena_hide(ms_arena_t *arena) {
    if (ms_arena_current != arena || arena == &ms_arena_empty) return false;
    ms_arena_hide_current(arena);
    return true;
}
static inline void ms_arena_show(ms_arena_t *arena) {
    atomic_signal_fence(memory_order_seq_cst);
    ms_arena_current = arena;
    atomic_signal_fence(memory_order_seq_cst);
    ms_arena_hidden = NULL;
}

/* The record of a code, NULL if it was never given out. Any thread. */
ms_thread_t *ms_thread_of_code(uint32_t code);
uint32_t ms_thread_code_count(void); /* codes below this may be in use */

/* Own numbers of a record: its arena's while it runs. Under MS_LOCK_THREADS. */
ms_flow_t ms_thread_own_flow(const ms_thread_t *thread);
/* All blocks of the thread freed by others. Under MS_LOCK_THREADS. */
ms_flow_t ms_thread_freed_by_others(const ms_thread_t *thread);

/* In a child of fork, before totals are read: a thread of the parent may have been cut off between two counts. The first call looks
 * at all that those threads freed of each other's, which most children need not do. Under MS_LOCK_THREADS. */
void ms_thread_agree(void);

/* Blocks of `code` were freed here, by a thread whose they are not. */
void ms_thread_count_foreign_free(ms_arena_t *arena, uint32_t code, size_t size);
void ms_thread_large_is_gone(uint32_t code, size_t size); /* that thread's, freed by another: it counts towards its peak no more */

ms_arena_t *ms_arena_first(void); /* all arenas, linked by next; never removed */

/* Drains and flushes every arena without a thread, and gives back what other arenas' inboxes hold in whole slabs. */
void ms_thread_trim_orphans(void);
void ms_thread_decay(uint64_t now_ns); /* what threads left a second ago goes back; now_ns: ms_os_monotonic_ns() */
/* Blocks went to an orphan's inbox: its memory must be given back by somebody, now or, if it is little, by ms_thread_decay(). */
void ms_thread_posted_to_orphan(ms_arena_t *orphan, bool much);

/* Registers fork handlers; from the library's constructor. */
void ms_thread_init_fork(void);

/* Sets what new blocks of the arena look like after its thread, age or task changed. */
void ms_arena_dress(ms_arena_t *arena);

#pragma GCC visibility pop
#endif
