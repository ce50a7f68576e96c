/* Slabs: stretches of address space cut into blocks of one size class.
 *
 * A group is 1 MiB of the backing, aligned to 1 MiB, cut into 16 slabs of 64 KiB or 4 of 256 KiB. What is known of a
 * slab stands in its group's descriptor, outside the slab: blocks use the whole slab, an overflow cannot reach it,
 * and descriptors of neighbouring slabs do not compete for the same cache set. malloc and free of the owning thread
 * never look at it; a map from addresses to groups leads there from any pointer.
 *
 * A slab belongs to one arena (its owner) from ms_slab_acquire() to ms_slab_release(); only the owner's thread
 * changes it. The group table and free slabs belong to MS_LOCK_SLABS. */
#ifndef MS_ALLOC_SLAB_H
#define MS_ALLOC_SLAB_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "alloc/os.h"
#include "alloc/size_class.h"
#include "tracking/header.h"

#pragma GCC visibility push(hidden) /* no detour through the GOT */

#define MS_GROUP_SHIFT 20
#define MS_GROUP_BYTES ((size_t)1 << MS_GROUP_SHIFT)

struct ms_arena;

/* Free memory goes back to the system when nobody wanted it for so long: slabs, large blocks, what ended threads left. A heap
 * that breathes does not fault the same pages in again and again. */
#define MS_DECAY_NS 1000000000u

#define MS_SLAB_BLOCKS_MAX ((1u << MS_SLAB_SHIFT) / 32)

/* Invariant: carved = free_blocks (set in `free`) + blocks out (live, in the arena's list or on their way home). */
typedef struct ms_slab {
    char *start;           /* of the first block: its header */
    uint32_t free_blocks;  /* bits set in `free` */
    uint32_t carved;       /* blocks cut so far, from the start */
    uint32_t capacity;     /* blocks that fit behind `start` */
    uint16_t class;
    bool listed;           /* in its arena's heap of slabs with room */
    bool dirty;            /* touched since it was mapped or purged */
    uintptr_t touched_end; /* blocks were cut up to here since it was mapped or purged */
    uint64_t freed_ns;     /* when it became free, monotonic */
    uint64_t taken_ns;     /* when it was acquired, if there may be a limit (alloc/limit.h); 0: all of it was touched since */
    _Atomic(struct ms_arena *) arena;  /* NULL: free or spare */
    const struct ms_arena *last_arena; /* free: whose it was; only compared */
    _Atomic(uint32_t) dressings;       /* odd while start, class and capacity change */
    struct ms_slab *next, *previous;  /* in the heap of the class's slabs with room; free and dirty: the pool's list */
    struct ms_slab *child;            /* in the heap */
    /* MS_LOCK_SORTED: blocks that wait here (alloc/reclaim.h), linked by word0, their number; slabs with some */
    void *sorted_blocks;
    uint32_t sorted_count;
    struct ms_slab *sorted_next, *sorted_previous;
    uint64_t free[MS_SLAB_BLOCKS_MAX / 64]; /* bit per block, in order of addresses; their headers say so too */
} ms_slab_t;

typedef struct ms_group {
    char *start;
    struct ms_span *span; /* it lies in */
    uint32_t slab_shift;
    uint32_t free_mask;             /* bit per free slab */
    uint64_t taken_ns;              /* latest of its slabs' */
    struct ms_group *next, *previous; /* groups of this shift with free slabs */
    struct ms_group *all;             /* every group, newest first */
    ms_slab_t slabs[MS_GROUP_BYTES >> MS_SLAB_SHIFT];
} ms_group_t;

/* End of every list of free blocks: the payload address of a header that never passes ms_header_is_free(), so that
 * malloc's one check answers "empty" and "corrupted" alike. */
extern ms_header_t ms_list_end_header[2];
#define ms_list_end ((void *)&ms_list_end_header[1])

/* An empty slab for `class`, now owned by `arena`; NULL: no memory. */
ms_slab_t *ms_slab_acquire(struct ms_arena *arena, uint32_t class);
/* The same, but only one that was the arena's before, among those freed last: NULL if there is none. */
ms_slab_t *ms_slab_acquire_own(struct ms_arena *arena, uint32_t class);
/* Whether ms_slab_acquire() takes no memory from the system: there is a free slab whose pages are still there. */
bool ms_slab_is_at_hand(uint32_t class);
/* A slab with no block in use is spare: neither in use nor in the pool, its arena keeps it for any class. No lock. */
void ms_slab_make_spare(ms_slab_t *slab);
void ms_slab_take_spare(ms_slab_t *slab, struct ms_arena *arena, uint32_t class);
void ms_slab_count_untouched(ms_os_census_t *census, uint64_t now_ns); /* of slabs in use */
/* The pages of an empty slab behind its first `bytes` go back to the system; false: there were none. Its owner. */
bool ms_slab_narrow(ms_slab_t *slab, size_t bytes);
/* No block of the arena's slab is in use any more, or it was spare. */
void ms_slab_release(ms_slab_t *slab, const struct ms_arena *arena);

/* Large blocks grow by so many bytes: as much of free slabs goes back, within limits, so that the peak does not rise. */
void ms_slab_exchange(size_t bytes);
/* Gives all free slabs' memory back. */
void ms_slab_trim(void);
/* Gives back what has been free for a second. */
void ms_slab_decay(uint64_t now_ns);

/* Walks every group ever made: the first, and the next one. Groups without slabs in use may have start == NULL. */
ms_group_t *ms_group_first(void);

/* Slab space obtained from the backing, bytes. */
uint64_t ms_slab_mapped_bytes(void);

/* ---- from an address to its group: a two-level table over address bits 20..46, read without a lock */
#define MS_MAP_LEAF_BITS 13
typedef struct ms_group_leaf {
    _Atomic(ms_group_t *) group[1u << MS_MAP_LEAF_BITS];
} ms_group_leaf_t;
extern _Atomic(ms_group_leaf_t *) ms_group_map[1u << (47 - MS_GROUP_SHIFT - MS_MAP_LEAF_BITS)];

static inline ms_group_t *ms_group_of(const void *address) {
    uintptr_t number = (uintptr_t)address >> MS_GROUP_SHIFT;
    if (number >> (47 - MS_GROUP_SHIFT)) return NULL;
    /* acquire: pairs with the release in map_group(), the descriptor is complete */
    ms_group_leaf_t *leaf = atomic_load_explicit(&ms_group_map[number >> MS_MAP_LEAF_BITS], memory_order_acquire);
    return leaf ? atomic_load_explicit(&leaf->group[number & ((1u << MS_MAP_LEAF_BITS) - 1)], memory_order_acquire)
                : NULL;
}

/* The slab of the group that holds the block with this payload address, NULL if it lies outside. The header is what is looked
 * up: the payload of an empty block may be the first byte after the slab. */
static inline ms_slab_t *ms_slab_in(ms_group_t *group, const void *payload) {
    size_t offset = (size_t)((uintptr_t)payload - sizeof(ms_header_t) - (uintptr_t)group->start);
    return offset < MS_GROUP_BYTES ? &group->slabs[offset >> group->slab_shift] : NULL;
}

/* The same of whatever group it is, NULL if it lies in no slab in use. By ms_slab_in(), memscope_track() took two instructions more. */
static inline ms_slab_t *ms_slab_of(const void *payload) {
    const char *header = (const char *)payload - sizeof(ms_header_t);
    ms_group_t *group = ms_group_of(header);
    if (!group) return NULL;
    return &group->slabs[(size_t)(header - group->start) >> group->slab_shift];
}

#pragma GCC visibility pop
#endif
