/* Variables: what the MEMSCOPE_TRACK family of memscope.h names.
 *
 * A variable is a static record of the program; its copy here has a number, and MS_SITE_VARIABLES + number is the site
 * of the blocks it names. It may also name a region (memory that is no block of ours, never touched) and own blocks for
 * the length of a scope.
 *
 * An owned block has a record, found by the block's address, from the start of its scope to the end of the scope and of
 * the block, whichever is later. Every free and every move of a named block passes here (ms_owned_*), so a record never
 * stands for another block that got the same address later.
 *
 * Variables and records belong to MS_LOCK_SITES; what a region's row shows and the count of variables are read without.
 */
#ifndef MS_TRACKING_VARIABLES_H
#define MS_TRACKING_VARIABLES_H

#include <stdatomic.h>
#include <stdint.h>

#include "alloc/arena.h"
#include "memscope/memscope.h"

/* Of the scopes that a variable opened. */
typedef struct ms_scope_counts {
    uint64_t begun, ended;
    uint64_t outlived_blocks, outlived_bytes; /* still live when their scope ended */
    uint64_t freed_blocks;                    /* blocks whose lifetime is known: freed, in the scope or later */
    uint64_t lifetime_min_ns, lifetime_max_ns, lifetime_sum_ns; /* start of the scope to the free */
} ms_scope_counts_t;

typedef struct ms_variable {
    memscope_variable_t named; /* texts are copies: they stay when a library is unloaded */
    /* region, as named last; written by any thread */
    _Atomic(uintptr_t) start;
    _Atomic(uint64_t) bytes, thread, times;
    ms_scope_counts_t scopes; /* MS_LOCK_SITES */
} ms_variable_t;

/* The variable behind a site id, NULL if it is none. */
ms_variable_t *ms_variable_of_site(uint32_t site);
uint32_t ms_variable_count(void);

/* A consistent copy. */
ms_scope_counts_t ms_variable_scopes(const ms_variable_t *variable);

/* Records of owned blocks; 0: frees need not look. */
extern _Atomic(uint64_t) ms_owned_count;

/* The block with this payload and site is about to be freed, or now lies somewhere else. */
void ms_owned_freed_slow(const void *payload);
void ms_owned_moved_slow(const void *from, const void *to);

static inline void ms_owned_freed(const void *payload) {
    if (ms_unlikely(atomic_load_explicit(&ms_owned_count, memory_order_relaxed))) ms_owned_freed_slow(payload);
}
static inline void ms_owned_moved(const void *from, const void *to) {
    if (ms_unlikely(atomic_load_explicit(&ms_owned_count, memory_order_relaxed))) ms_owned_moved_slow(from, to);
}

#endif
