/* Large blocks: over 32 KiB, or with an alignment that no slab gives.
 *
 * What is known of one stands in a descriptor outside the block, found by its payload address in a hash table, so that
 * a wild pointer is never followed and an overflow cannot reach it. The block itself carries the usual header.
 *
 *     base                            a multiple of the page size
 *     base + padding + 48             the header (padding only for alignments over 64)
 *     payload = header + 16
 *     base + mapped                   end
 *
 * Up to 1 MiB the memory comes from the backing or from a mapping in the cache, above it is a mapping of its own that mremap() can
 * grow.
 *
 *     new --> LIVE <--> KEPT          by the thread that allocates or frees, without a lock
 *               |        |
 *               +--> cached or gone   MS_LOCK_LARGE
 *
 * LIVE and KEPT blocks are in the table and their memory is there: whoever finds a block by a right pointer may read its
 * header without a lock. KEPT ones are a few that one arena freed last and will hand out next (ms_large_kept_t). All
 * that is freed besides waits in a cache for a second: an eighth of what is live or what has proved useful, 1 to 32 MiB; and up to
 * 32 times that, at most 128 MiB, more, as far as it and what is live are together no more than what was live lately. In the cache mappings that lie side by
 * side become one, what is too large is split, and live blocks leave there what they shrink by and grow into what follows them.
 * Table and cache belong to MS_LOCK_LARGE; the table is read without it, and a reader who finds nothing asks again under the lock. */
#ifndef MS_ALLOC_LARGE_H
#define MS_ALLOC_LARGE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "alloc/backend.h"
#include "alloc/os.h"
#include "tracking/header.h"

#define MS_DIRECT_MIN ((size_t)1 << 20) /* mappings of their own from here */
#define MS_LARGE_HEAD ((size_t)64) /* so that what asks for a cache line's alignment is as any other block */

typedef enum { MS_LARGE_GONE, MS_LARGE_LIVE, MS_LARGE_KEPT } ms_large_state_t;

/* Descriptors are never unmapped. While the block is live its fields belong to the program's thread that has it, KEPT
 * to the arena's thread; payload and state are read by others. */
typedef struct ms_large {
    _Atomic(void *) payload;
    _Atomic(ms_large_state_t) state;
    uint32_t sample_site;        /* stack of a sampled block, 0: not sampled */
    size_t size;                 /* requested bytes */
    size_t mapped;               /* bytes from base */
    size_t used;                 /* bytes from base that were ever asked for: behind them are no pages */
    size_t touched;              /* bytes from base that are known to have been touched (alloc/limit.h) */
    uint64_t grown_ns;           /* when `used` last grew, if there may be a limit */
    char *base;
    double sample_weight;        /* blocks it stands for */
    uint32_t sample_class;       /* class of its like that are not sampled */
    bool zeroed;                 /* fresh from the system: all zero */
    const ms_backend_t *backend; /* NULL: a mapping of its own */
    struct ms_large *next;       /* in its bin of the cache, or among unused descriptors */
    struct ms_large *previous;   /* in its bin */
    struct ms_large *older, *newer; /* in the cache, by time of freeing */
    struct ms_large *same_start, *same_end; /* in the cache, a mapping of its own: the next in the list of its hash */
    const struct ms_large_kept *keeper; /* KEPT: who keeps it */
    uint64_t freed_ns;           /* in the cache: since when */
} ms_large_t;

/* What an arena keeps of the large blocks freed by its thread, in the order of freeing. Only that thread looks, except
 * at the sums. Invariant: bytes = sum of mapped. */
#define MS_KEPT_BLOCKS 8
typedef struct ms_large_kept {
    uint32_t count;
    uint32_t tick;  /* quarters of a second in which the thread came by */
    uint64_t bytes;
    size_t limit;   /* of bytes; 0: not known yet */
    size_t alone;   /* the same while nothing is kept; >= limit */
    ms_large_t *last; /* taken last: most often the next one freed; NULL: none yet */
    uint64_t next_tick_ns;
    uint64_t trims; /* ms_large_trim() calls seen */
    struct {
        size_t mapped;
        ms_large_t *block;
        uint32_t tick; /* when it was freed */
    } entry[MS_KEPT_BLOCKS];
} ms_large_kept_t;

/* A live block, header not yet written; NULL: no memory. size <= PTRDIFF_MAX. Memory is made for `room` bytes if
 * that is more and to be had. */
ms_large_t *ms_large_allocate(size_t size, size_t alignment, size_t room);
void ms_large_set_used(ms_large_t *block, size_t bytes);
static inline void ms_large_set_live(ms_large_t *block, size_t size, size_t bytes) {
    block->size = size;
    block->sample_site = 0;
    if (ms_unlikely(bytes > block->used)) ms_large_set_used(block, bytes);
    atomic_store_explicit(&block->state, MS_LARGE_LIVE, memory_order_release); /* pairs with ms_large_is_live() */
}
static inline bool ms_large_is_live(const ms_large_t *block) {
    return atomic_load_explicit(&block->state, memory_order_acquire) == MS_LARGE_LIVE;
}

/* The same from what the arena keeps, NULL if nothing fits. No lock. */
ms_large_t *ms_large_take(ms_large_kept_t *kept, size_t size, size_t room);

/* The arena's own thread changes the sums; others read them. */
static inline void ms_large_kept_add(ms_large_kept_t *kept, int sign, size_t mapped) {
    __atomic_store_n(&kept->count, kept->count + (uint32_t)sign, __ATOMIC_RELAXED);
    __atomic_store_n(&kept->bytes, kept->bytes + (uint64_t)sign * mapped, __ATOMIC_RELAXED);
}

/* Two threads that free a block at the same moment may both keep it; the one that wrote last does. Or one gives it
 * back, to the cache, while the other keeps it or does the same: that is found when either is to go on with it
 * (alloc/large.c). */
_Noreturn void ms_fault_freed_at_once(const void *payload); /* alloc/fault.c */
static inline void ms_large_check_kept(const ms_large_kept_t *kept, const ms_large_t *block) {
    if (ms_unlikely(block->keeper != kept || atomic_load_explicit(&block->state, memory_order_relaxed) != MS_LARGE_KEPT))
        ms_fault_freed_at_once(atomic_load_explicit(&block->payload, memory_order_relaxed));
}

/* The kept block freed last if it fits: it wastes at most a quarter. */
static inline ms_large_t *ms_large_take_newest(ms_large_kept_t *kept, size_t size) {
    if (kept->count == 0) return NULL;
    size_t mapped = kept->entry[kept->count - 1].mapped, bytes = MS_LARGE_HEAD + size;
    if (mapped - bytes > mapped / 4) return NULL; /* also if it is smaller */
    ms_large_t *block = kept->entry[kept->count - 1].block;
    ms_large_check_kept(kept, block);
    ms_large_kept_add(kept, -1, mapped);
    ms_large_set_live(block, size, bytes);
    return kept->last = block;
}

/* A loop that takes and frees one block has it kept, however large, where many of its size would be too much. */
static inline bool ms_large_has_room(const ms_large_kept_t *kept, size_t mapped) {
    return kept->bytes + mapped <= (kept->count ? kept->limit : kept->alone) && kept->count < MS_KEPT_BLOCKS;
}
/* Keeps a claimed block of a payload right behind its header if there is room. */
static inline bool ms_large_keep(ms_large_kept_t *kept, ms_large_t *block) {
    size_t mapped = block->mapped;
    uint32_t count = kept->count;
    block->zeroed = false;
    if (!ms_large_has_room(kept, mapped)) return false;
    block->keeper = kept;
    kept->entry[count].mapped = mapped;
    kept->entry[count].block = block;
    kept->entry[count].tick = kept->tick;
    ms_large_kept_add(kept, 1, mapped);
    return true;
}

/* The live block with this payload, NULL if there is none. It may go away as soon as the caller's right to it ends. */
ms_large_t *ms_large_find(const void *payload);
/* The same without a lock; NULL does not say that there is none. */
ms_large_t *ms_large_find_fast(const void *payload);

/* The block is live no more; of two threads that free the same block only one gets true. */
static inline bool ms_large_claim(ms_large_t *block) {
    ms_large_state_t live = MS_LARGE_LIVE;
    return atomic_compare_exchange_strong_explicit(&block->state, &live, MS_LARGE_KEPT, memory_order_acq_rel,
                                                   memory_order_relaxed);
}
/* The same for a block seen live that the current thread allocated, without an atomic operation: if another thread frees it at
 * this very moment, that is found when the block is to be used again (ms_large_check_kept()). */
static inline void ms_large_claim_own(ms_large_t *block) {
    atomic_store_explicit(&block->state, MS_LARGE_KEPT, memory_order_release);
}
/* Gives a claimed block's memory to what the arena keeps, to the cache or back. */
void ms_large_release(ms_large_kept_t *kept, ms_large_t *block);

/* All that the arena keeps goes to the cache. */
void ms_large_unkeep(ms_large_kept_t *kept);
/* Now and then, by the arena's thread: what was kept for a second goes back, or all of it after a trim by another thread. */
void ms_large_tend(ms_large_kept_t *kept, uint64_t now_ns);

/* Makes a live block `size` bytes long without copying, moving it if it must. False: not possible, nothing changed.
 * The header moves along and must be written anew. No lock if the block stays. */
bool ms_large_resize(ms_large_t *block, size_t size);

/* True if a block with this payload is kept or was among the last ones that left the table. */
bool ms_large_recently_freed(const void *payload);

void ms_large_trim(void); /* empties the cache */
void ms_large_shed(size_t bytes); /* the slabs grew: as much of the cache goes, so that the peak does not rise */
void ms_large_decay(uint64_t now_ns); /* gives back what has been in the cache for a second */

typedef struct ms_large_totals {
    uint64_t live_blocks, live_mapped_bytes, cached_bytes; /* cached: kept ones too */
} ms_large_totals_t;
ms_large_totals_t ms_large_totals(void);
uint64_t ms_large_unused_bytes(void); /* of live blocks' mappings: never asked for */
uint64_t ms_large_mapped_bytes(void); /* live and cached, without the lock: a moment old */
void ms_large_count_untouched(ms_os_census_t *census, uint64_t now_ns); /* of live blocks; under MS_LOCK_LARGE */

/* Calls `visit` for every live block, under the lock; others may free and allocate kept ones meanwhile. */
void ms_large_walk(void (*visit)(void *context, const ms_large_t *block), void *context);

#endif
