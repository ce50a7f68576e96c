/* Mode exact: what is known of a site beyond its counts. Every block has a site there (0 for the few without a caller),
 * and every malloc and free passes through ms_exact_allocated() and ms_exact_freed().
 *
 *     cell (tracking/cells.h)   one per arena and site, one writer: counts, share of the process's peak
 *     detail, behind the cell   one per arena and site, one writer: all else
 *     level, in one detail      one per site, written by all threads: live bytes and their peak
 *
 * The share of the peak. The process's live bytes and their peak are one pair, changed in one step (ms_process.level):
 * steps have an order. A new peak is a larger number than any before, so the peak's value names it. A step learns the
 * peak that stood before it; if the cell has not seen that one, it was set after the cell's last change, and what the
 * cell holds now is its share of it: noted before the change. A reader does the same with the last peak. So each peak's
 * shares add up to it, to the byte, with any number of threads and with signal handlers that allocate, and no peak costs more than
 * the step that sets it.
 *
 * Growth: live bytes of a site are a step function of time y(t). Least squares over all moments since the site's first
 * allocation needs the integrals of y and of t*y only; both are sums over the arenas, and move on when the clock has.
 *
 * Histograms have a bucket per doubling. What falls into the first bucket a cell ever used is not counted but implied:
 * most sites allocate blocks of one size class, and need no array. */
#ifndef MS_TRACKING_EXACT_H
#define MS_TRACKING_EXACT_H

#include <stdatomic.h>
#include <stdint.h>

#include "alloc/arena.h"

#define MS_LOG2_BUCKETS 32u

/* 0 for 0, n for 2^(n-1) .. 2^n - 1; the last one for all larger numbers too. */
static inline uint32_t ms_log2_bucket(uint64_t value) {
    uint32_t bucket = value ? 64 - (uint32_t)__builtin_clzll(value) : 0;
    return bucket < MS_LOG2_BUCKETS ? bucket : MS_LOG2_BUCKETS - 1;
}

typedef struct ms_exact_level {
    _Atomic(int64_t) live_bytes, peak_bytes; /* any thread */
} ms_exact_level_t;

typedef struct ms_exact_detail {
    uint32_t allocated_by, freed_by;              /* tenant of the arena that did so last */
    uint32_t allocating_threads, freeing_threads; /* tenants that did */
    uint64_t temporary_bytes, temporary_blocks;
    double area, moment;                          /* integrals of live bytes and of time * live bytes, ms, to changed_ms */
    uint64_t first_ms, changed_ms;                /* first and last change of this cell */

    ms_exact_level_t *level;                      /* of the site */
    ms_exact_level_t own_level;                   /* if this detail was the site's first */
    uint64_t *sizes, *lifetimes;                  /* MS_LOG2_BUCKETS blocks each, the first bucket implied; NULL: one bucket */
    uint8_t size_bucket, lifetime_bucket;         /* the implied ones + 1; 0: none yet */
} ms_exact_detail_t;
_Static_assert(sizeof(ms_exact_detail_t) <= 128, "two cache lines, the first for every event");

/* The block at `base` (the payload its slab or descriptor knows) is born, dies, or is named: its header still holds the
 * former site. Under the arena's thread. */
void ms_exact_allocated(ms_arena_t *arena, uint32_t site, const void *base, size_t size);
void ms_exact_freed(ms_arena_t *arena, uint32_t site, const void *base, size_t size, uint32_t age);
void ms_exact_renamed(ms_arena_t *arena, uint32_t from, uint32_t to, const void *base, size_t size);

/* The next block freed is none that was just allocated (realloc in place: the next allocation is the resize). */
static inline void ms_exact_not_temporary(ms_arena_t *arena) { arena->last_block = NULL; }

/* A site's numbers over all arenas. */
typedef struct ms_exact_sum {
    uint64_t allocated_bytes, allocated_blocks, freed_bytes, freed_blocks;
    uint64_t at_peak_bytes, at_peak_blocks, peak_bytes;
    uint64_t temporary_bytes, temporary_blocks;
    uint64_t allocating_threads, freeing_threads;
    uint64_t first_ms, last_ms;    /* first allocation, last change */
    double area, moment;           /* to the moment given */
    uint64_t sizes[MS_LOG2_BUCKETS], lifetimes[MS_LOG2_BUCKETS];
} ms_exact_sum_t;
void ms_exact_sum(uint32_t site, uint64_t now_ms, ms_exact_sum_t *sum);

/* Slope of the live bytes from first_ms to now_ms in bytes a second; not a number below MS_GROWTH_LEAST_MS. */
#define MS_GROWTH_LEAST_MS 100u
double ms_exact_growth(const ms_exact_sum_t *sum, uint64_t now_ms);

#endif
