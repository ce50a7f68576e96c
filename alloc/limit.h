/* The memory limit of the control group (cgroup) the process is in: a request that it leaves no room for is answered
 * with ENOMEM, where the kernel would hand out addresses and kill somebody of the group when they are touched.
 *
 * What takes memory from the system asks first: a slab, a large block's mapping, growth of one. `room` is what the
 * group's limits left at the last look, less what was taken since; when it is used up, or a second old, the files of
 * the group are read again. A look counts as used what the group uses, without what the kernel can drop (files' cache),
 * and the bytes that were handed out in the last MS_SPARSE_NS and not touched yet: a program that touches what it
 * gets, be it after it has got all of it, finds no limit by being killed. What lies untouched for longer is taken for
 * sparse.
 *
 * Without a limit nothing is read again and nothing is counted. A process whose heap is below 4 MiB does not even look.
 * docs/decisions/0014-cgroup-limits.md says what is promised and what is not. */
#ifndef MS_ALLOC_LIMIT_H
#define MS_ALLOC_LIMIT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "alloc/os.h"

#pragma GCC visibility push(hidden)

typedef enum { MS_LIMIT_UNKNOWN, MS_LIMIT_NONE, MS_LIMIT_SET } ms_limit_state_t;
extern _Atomic(ms_limit_state_t) ms_limit_state; /* written under MS_LOCK_LARGE */

bool ms_limit_begin_slow(size_t bytes);
void ms_limit_end_slow(size_t bytes);

/* Nobody needs to ask. */
static inline bool ms_limit_is_none(void) {
    return ms_likely(atomic_load_explicit(&ms_limit_state, memory_order_relaxed) == MS_LIMIT_NONE);
}

/* Whether `bytes` more may be used. After a yes, as soon as whoever looks finds them among what was handed out,
 * ms_limit_end() is due. errno stays. Locks up to MS_LOCK_THREADS may be held. */
static inline bool ms_limit_begin(size_t bytes) {
    return ms_limit_is_none() || ms_limit_begin_slow(bytes);
}
static inline void ms_limit_end(size_t bytes) {
    if (!ms_limit_is_none()) ms_limit_end_slow(bytes);
}

/* The same at one go, under MS_LOCK_LARGE up to where they are found. */
bool ms_limit_take_locked(size_t bytes);

#define MS_SPARSE_NS 10000000000
static inline bool ms_limit_is_recent(uint64_t then_ns, uint64_t now_ns) {
    return (int64_t)(now_ns - then_ns) <= MS_SPARSE_NS; /* `then` may have come after `now` */
}

/* The smallest limit of the group and those above it, bytes; UINT64_MAX: none. Reads it anew. */
uint64_t ms_limit_bytes(void);
uint64_t ms_limit_refusals(void); /* times the answer was no */

void ms_limit_after_fork(void); /* the child may be in another group */

#pragma GCC visibility pop
#endif
