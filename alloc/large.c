#include "alloc/large.h"
#include "alloc/arena.h"
#include "alloc/limit.h"
#include "alloc/lock.h"
#include "alloc/os.h"
#include "alloc/slab.h"
#include "alloc/thread.h"
#include "tracking/header.h"
#include "tracking/process.h"

#include <errno.h>
#include <string.h>

/* The cache has a bin for each size that rounded() can give, and what is larger, up to the next. */
#define CACHE_BLOCK_MAX ((size_t)32 << 20) /* larger ones go back at once */
#define CACHE_MIN_EXPONENT 12 /* a page: aligned blocks may be as small */
#define DOUBLINGS (25 - CACHE_MIN_EXPONENT + 1)
#define DOUBLING 8u /* bins */
#define BINS (DOUBLINGS * DOUBLING)
#define CACHE_LEAST ((size_t)1 << 20) /* an eighth of what is live may be kept, or as much as has proved useful: */
#define CACHE_MOST ((size_t)32 << 20)    /* between these, and for MS_DECAY_NS */
#define CACHE_BEYOND ((size_t)128 << 20) /* and so much more where no peak rises for it */
#define SPLIT_LEAST ((size_t)32 << 10)   /* a mapping is not split into smaller ones */
#define CUT_LEAST ((size_t)256 << 10)    /* nor is less of one given back */
#define BOUNDS_SHIFT 9
#define RECENT 64

/* Open addressing, linear probing, at most half full if memory allows. Removing moves what follows back, so that a
 * reader without the lock may miss a block, but never takes one for another. */
typedef struct table {
    size_t mask; /* slots - 1, a power of two less one */
    _Atomic(ms_large_t *) slot[];
} table_t;

static struct {
    _Atomic(table_t *) table;
    uint64_t blocks;        /* in the table */
    uint64_t mapped_bytes;  /* of these */
    uint64_t most_mapped;   /* at one time, lately: */
    uint64_t decayed_ns;    /* when it was last brought nearer to what is mapped */
    uint64_t cached_bytes;
    ms_large_t *unused;     /* descriptors */
    ms_large_t *bins[BINS];            /* newest first */
    ms_large_t *newest, *oldest;       /* of the cache */
    ms_large_t *starts[1 << BOUNDS_SHIFT], *ends[1 << BOUNDS_SHIFT]; /* its own mappings, by where they start and end */
    uintptr_t recent[RECENT]; /* payloads freed last */
    size_t recent_next;
    size_t useful;             /* bytes that the cache may hold whatever is live */
    uint64_t missed_ns;        /* when that changed */
    uint64_t dropped_ns;       /* when the cache last dropped something for lack of room, */
    size_t dropped[DOUBLINGS]; /* and how many bytes by and by, since the last miss, of blocks of each size */
    uint64_t looked_ns;        /* for limits of the address space */
    bool unlimited;            /* it has none */
} large = {.useful = CACHE_LEAST}; /* MS_LOCK_LARGE */

static _Atomic(uint64_t) trims;

static size_t round_up(size_t value, size_t unit) { return (value + unit - 1) & ~(unit - 1); }

/* Room is made in eighths of a doubling, so that freed memory fits the next request of about that size and small
 * growth happens in place. The pages behind what is used are not touched. */
static size_t rounded(size_t bytes) {
    if (bytes > CACHE_BLOCK_MAX) return round_up(bytes, MS_PAGE);
    size_t step = (size_t)1 << (63 - __builtin_clzll(bytes - 1) - 3);
    return round_up(bytes, step < MS_PAGE ? MS_PAGE : step);
}

/* ---- the table */

static void *payload_of(const ms_large_t *block) { return atomic_load_explicit(&block->payload, memory_order_relaxed); }

static size_t hash(const void *payload) { return (((uintptr_t)payload >> 4) * 0x9e3779b97f4a7c15u) >> 32; }

static void table_put(table_t *table, ms_large_t *block) {
    size_t at = hash(payload_of(block)) & table->mask;
    while (atomic_load_explicit(&table->slot[at], memory_order_relaxed)) at = (at + 1) & table->mask;
    atomic_store_explicit(&table->slot[at], block, memory_order_release); /* pairs with lookup(): the block is complete */
}

/* Doubles the table. The old one is not returned, someone may be reading it: all of them together are as large as the
 * newest. */
static bool grow_table(table_t *old) {
    size_t slots = old ? (old->mask + 1) * 2 : 512;
    table_t *fresh = ms_os_map_metadata(sizeof *fresh + slots * sizeof fresh->slot[0]);
    if (!fresh) return old && large.blocks < old->mask;
    fresh->mask = slots - 1;
    for (size_t i = 0; old && i <= old->mask; i++) {
        ms_large_t *block = atomic_load_explicit(&old->slot[i], memory_order_relaxed);
        if (block) table_put(fresh, block);
    }
    atomic_store_explicit(&large.table, fresh, memory_order_release);
    return true;
}

static void mapped_add(uint64_t bytes) {
    __atomic_store_n(&large.mapped_bytes, large.mapped_bytes + bytes, __ATOMIC_RELAXED);
    if (large.mapped_bytes > large.most_mapped) __atomic_store_n(&large.most_mapped, large.mapped_bytes, __ATOMIC_RELAXED);
}

static bool table_insert(ms_large_t *block) {
    table_t *table = atomic_load_explicit(&large.table, memory_order_relaxed);
    if ((!table || large.blocks * 2 > table->mask) && !grow_table(table)) return false;
    table_put(atomic_load_explicit(&large.table, memory_order_relaxed), block);
    __atomic_store_n(&large.blocks, large.blocks + 1, __ATOMIC_RELAXED);
    mapped_add(block->mapped);
    return true;
}

/* The slot of `at` is empty now: what would have gone there moves back, and so on. */
static void close_gap(table_t *table, size_t at) {
    for (size_t next = (at + 1) & table->mask;; next = (next + 1) & table->mask) {
        ms_large_t *block = atomic_load_explicit(&table->slot[next], memory_order_relaxed);
        if (!block) break;
        size_t home = hash(payload_of(block)) & table->mask;
        if (((next - home) & table->mask) < ((next - at) & table->mask)) continue; /* its home lies behind the gap */
        atomic_store_explicit(&table->slot[at], block, memory_order_release);
        at = next;
    }
    atomic_store_explicit(&table->slot[at], NULL, memory_order_relaxed);
}

static void table_remove(ms_large_t *block) {
    table_t *table = atomic_load_explicit(&large.table, memory_order_relaxed);
    size_t at = hash(payload_of(block)) & table->mask;
    for (ms_large_t *found; (found = atomic_load_explicit(&table->slot[at], memory_order_relaxed)) != block;
         at = (at + 1) & table->mask)
        if (ms_unlikely(!found)) ms_fault_freed_at_once(payload_of(block)); /* somebody else removed it */
    close_gap(table, at);
    __atomic_store_n(&large.blocks, large.blocks - 1, __ATOMIC_RELAXED);
    mapped_add(-(uint64_t)block->mapped);
}

/* Live or kept, NULL: not seen. */
static ms_large_t *lookup(const void *payload) {
    table_t *table = atomic_load_explicit(&large.table, memory_order_acquire);
    if (!table) return NULL;
    for (size_t at = hash(payload);; at++) {
        /* acquire: pairs with table_put() and close_gap() */
        ms_large_t *block = atomic_load_explicit(&table->slot[at & table->mask], memory_order_acquire);
        if (!block || payload_of(block) == payload) return block;
    }
}

static bool is_live(const ms_large_t *block) { return block && ms_large_is_live(block); }

ms_large_t *ms_large_find_fast(const void *payload) {
    ms_large_t *block = lookup(payload);
    return is_live(block) ? block : NULL;
}

ms_large_t *ms_large_find(const void *payload) {
    ms_large_t *block = lookup(payload);
    if (!block) {
        ms_lock(MS_LOCK_LARGE);
        block = lookup(payload);
        ms_unlock(MS_LOCK_LARGE);
    }
    return is_live(block) ? block : NULL;
}

/* ---- the cache */

static ms_large_t *descriptor_new(void) {
    ms_large_t *block = large.unused;
    if (block)
        large.unused = block->next;
    else
        block = ms_os_map_metadata(sizeof *block);
    return block;
}

static void descriptor_free(ms_large_t *block) {
    block->next = large.unused;
    large.unused = block;
}

static void give_back(const ms_large_t *block) {
    if (block->backend)
        ms_backend_release(block->backend, block->base, block->mapped, MS_PAGE);
    else
        ms_os_unmap(block->base, block->mapped);
}

static uint32_t bin_of(size_t mapped) {
    uint32_t exponent = 63 - (uint32_t)__builtin_clzll(mapped);
    if (exponent < CACHE_MIN_EXPONENT) return 0;
    return (exponent - CACHE_MIN_EXPONENT) * 8 + (uint32_t)(mapped >> (exponent - 3) & 7);
}

static void cached_add(uint64_t bytes) {
    __atomic_store_n(&large.cached_bytes, large.cached_bytes + bytes, __ATOMIC_RELAXED);
}

static ms_large_t **bucket(ms_large_t **buckets, const char *address) {
    return &buckets[((uintptr_t)address / MS_PAGE * 0x9e3779b97f4a7c15u) >> (64 - BOUNDS_SHIFT)];
}

/* A mapping of its own in the cache that starts, or ends, at an address; NULL: none. */
static ms_large_t *cached_from(const char *start) {
    ms_large_t *block = *bucket(large.starts, start);
    while (block && block->base != start) block = block->same_start;
    return block;
}
static ms_large_t *cached_up_to(const char *end) {
    ms_large_t *block = *bucket(large.ends, end);
    while (block && block->base + block->mapped != end) block = block->same_end;
    return block;
}

/* What the cache finds a block by: its size, and where it starts and ends. */
static void index_add(ms_large_t *block) {
    uint32_t bin = bin_of(block->mapped);
    block->previous = NULL;
    block->next = large.bins[bin];
    if (block->next) block->next->previous = block;
    large.bins[bin] = block;
    cached_add(block->mapped);
    if (block->backend) return;
    ms_large_t **starts = bucket(large.starts, block->base), **ends = bucket(large.ends, block->base + block->mapped);
    block->same_start = *starts;
    *starts = block;
    block->same_end = *ends;
    *ends = block;
}

static void index_remove(ms_large_t *block) {
    *(block->previous ? &block->previous->next : &large.bins[bin_of(block->mapped)]) = block->next;
    if (block->next) block->next->previous = block->previous;
    cached_add(-(uint64_t)block->mapped);
    if (block->backend) return;
    ms_large_t **at = bucket(large.starts, block->base);
    while (*at != block) at = &(*at)->same_start;
    *at = block->same_start;
    at = bucket(large.ends, block->base + block->mapped);
    while (*at != block) at = &(*at)->same_end;
    *at = block->same_end;
}

static void cache_remove(ms_large_t *block) {
    if (ms_unlikely(atomic_load_explicit(&block->state, memory_order_relaxed) != MS_LARGE_GONE))
        ms_fault_freed_at_once(payload_of(block)); /* somebody claimed it after it was retired */
    index_remove(block);
    *(block->older ? &block->older->newer : &large.oldest) = block->newer;
    *(block->newer ? &block->newer->older : &large.newest) = block->older;
}

/* As one freed just now. */
static void cache_insert(ms_large_t *block) {
    block->freed_ns = ms_os_monotonic_ns();
    block->zeroed = false;
    index_add(block);
    block->newer = NULL;
    block->older = large.newest;
    *(large.newest ? &large.newest->newer : &large.oldest) = block;
    large.newest = block;
}

/* In the place of another, which was in the cache. */
static void cache_replace(const ms_large_t *old, ms_large_t *block) {
    block->freed_ns = old->freed_ns;
    block->zeroed = false;
    index_add(block);
    block->older = old->older;
    block->newer = old->newer;
    *(block->older ? &block->older->newer : &large.oldest) = block;
    *(block->newer ? &block->newer->older : &large.newest) = block;
}

/* `block`, one of two that meet in memory, not in the index, becomes both. What lies behind `used` or `touched` of the front counts as used,
 * and not as known to be touched. */
static void become_both(ms_large_t *block, const ms_large_t *front, const ms_large_t *back) {
    size_t touched = front->touched == front->mapped ? front->mapped + back->touched : front->touched;
    size_t used = front->mapped + back->used, mapped = front->mapped + back->mapped;
    uint64_t grown_ns = front->grown_ns > back->grown_ns ? front->grown_ns : back->grown_ns;
    block->base = front->base;
    block->mapped = mapped;
    block->touched = touched;
    __atomic_store_n(&block->used, used, __ATOMIC_RELAXED);
    __atomic_store_n(&block->grown_ns, grown_ns, __ATOMIC_RELAXED);
}

/* Where memory is limited, what was not asked for is not to count as if it had been. */
static bool may_be_front(const ms_large_t *block) { return block->mapped - block->used < MS_PAGE || ms_limit_is_none(); }

static bool may_join(const ms_large_t *front, const ms_large_t *back) {
    return front && back && front->mapped + back->mapped <= CACHE_BLOCK_MAX && may_be_front(front);
}

/* Two of the cache that meet become one, which is as old as the larger of them: what is in use all the time keeps nothing else. */
static ms_large_t *cache_join(ms_large_t *front, ms_large_t *back) {
    ms_large_t *stays = front->mapped > back->mapped ? front : back, *goes = stays == front ? back : front;
    cache_remove(goes);
    index_remove(stays);
    become_both(stays, front, back);
    index_add(stays);
    descriptor_free(goes);
    return stays;
}

static void join_neighbours(ms_large_t *block) {
    ms_large_t *front = cached_up_to(block->base);
    if (may_join(front, block)) block = cache_join(front, block);
    ms_large_t *back = cached_from(block->base + block->mapped);
    if (may_join(block, back)) cache_join(block, back);
}

static size_t behind(size_t bytes, size_t mapped) { return bytes > mapped ? bytes - mapped : 0; }

static void shorten(ms_large_t *block, size_t mapped) {
    block->mapped = mapped;
    block->used -= behind(block->used, mapped);
    block->touched -= behind(block->touched, mapped);
}

/* What a mapping of its own has behind `mapped` becomes another, in no list; NULL: it is too little. */
static ms_large_t *split(ms_large_t *block, size_t mapped) {
    if (block->backend || block->mapped < mapped + SPLIT_LEAST) return NULL;
    ms_large_t *rest = descriptor_new();
    if (!rest) return NULL;
    rest->base = block->base + mapped;
    rest->mapped = block->mapped - mapped;
    rest->used = behind(block->used, mapped);
    rest->touched = behind(block->touched, mapped);
    rest->grown_ns = block->grown_ns;
    rest->backend = NULL;
    shorten(block, mapped);
    return rest;
}

/* The same goes back to the system. */
static void cut(ms_large_t *block, size_t mapped) {
    ms_os_unmap(block->base + mapped, block->mapped - mapped);
    shorten(block, mapped);
}

/* What a mapping that grew was never asked for goes back to the system. */
static void cut_unused(ms_large_t *block) {
    size_t needed = rounded(block->used);
    if (needed < block->mapped - block->mapped / 4) cut(block, needed);
}

/* Out of the cache, as large as is asked for: the rest stays. */
static ms_large_t *cache_take_from(ms_large_t *block, size_t bytes) {
    cache_remove(block);
    ms_large_t *rest = split(block, rounded(bytes));
    if (rest) cache_replace(block, rest);
    return block;
}

static void cache_drop_oldest(void) {
    ms_large_t *block = large.oldest;
    cache_remove(block);
    give_back(block);
    descriptor_free(block);
}

/* Makes a mapping of its own, in the cache, larger: what it has too little is less than a new one would have to be filled with. False:
 * nothing was changed. */
static bool enlarge(ms_large_t *block, size_t bytes) {
    size_t mapped = rounded(bytes);
    int saved = errno;
    char *base = ms_os_remap(block->base, block->mapped, mapped);
    errno = saved; /* without it the malloc may well succeed */
    if (!base) return false;
    cache_remove(block);
    block->base = base;
    block->mapped = mapped;
    return true;
}

/* A program that frees and asks for the same sizes in turn gets a larger cache, one that grows does not: a cache that is as
 * large from the start made the peak RSS of nine small programs 1.33 of glibc's instead of 1.22. */
static void note_miss(size_t bytes) {
    if (bytes > CACHE_BLOCK_MAX) return;
    uint64_t now = ms_os_monotonic_ns();
    if (now - large.dropped_ns > MS_DECAY_NS / 4) return;
    size_t wanted = bytes / 2; /* which could have grown to it */
    for (size_t i = bin_of(wanted) / DOUBLING; i < DOUBLINGS && wanted; i++) {
        size_t served = large.dropped[i] < wanted ? large.dropped[i] : wanted;
        large.dropped[i] -= served;
        wanted -= served;
    }
    if (wanted) return;
    large.missed_ns = now;
    if (large.useful < CACHE_MOST) __atomic_store_n(&large.useful, 2 * large.useful, __ATOMIC_RELAXED);
}

/* First what fits, the smallest of it, the newest, which is warm; of a mapping of its own what is too much stays, any other wastes at
 * most half. Then a mapping of its own that is smaller, by a doubling at most, and grows. */
static ms_large_t *cache_take(size_t bytes) {
    if (bytes > CACHE_BLOCK_MAX) return NULL;
    uint32_t wanted = bin_of(bytes);
    for (uint32_t bin = wanted; bin < BINS; bin++) {
        ms_large_t *block = large.bins[bin];
        if (!block || block->mapped < bytes || (block->backend && bin > wanted + DOUBLING)) continue;
        return cache_take_from(block, bytes);
    }
    for (uint32_t bin = wanted; bytes >= MS_DIRECT_MIN && bin > wanted - DOUBLING; bin--) {
        ms_large_t *block = large.bins[bin];
        if (!block || block->backend || block->mapped >= bytes || !enlarge(block, bytes)) continue;
        note_miss(bytes);
        return block;
    }
    return NULL;
}

static bool may_be_cached(const ms_large_t *block) {
    return block->mapped <= CACHE_BLOCK_MAX && (!block->backend || block->mapped == rounded(block->mapped));
}

/* Ten times a second, two system calls. */
static bool address_space_is_free(void) {
    uint64_t now = ms_os_monotonic_ns();
    if (now - large.looked_ns > MS_DECAY_NS / 10) {
        large.looked_ns = now;
        large.unlimited = ms_os_address_space_is_free();
    }
    return large.unlimited;
}

/* What the cache may hold. CACHE_BEYOND, or 32 times what has proved useful, only together with what is live no more than was live
 * lately, and where address space is not what others are refused then. */
static size_t cache_budget(void) {
    size_t budget = large.mapped_bytes / 8 > large.useful ? large.mapped_bytes / 8 : large.useful;
    size_t room = behind(large.most_mapped, large.mapped_bytes + budget), most = 32 * large.useful;
    if (large.cached_bytes <= budget || room == 0 || !address_space_is_free()) return budget;
    if (most > CACHE_BEYOND) most = CACHE_BEYOND;
    return budget + (room < most ? room : most);
}

static void note_drop(const ms_large_t *block, size_t bytes) {
    uint64_t now = ms_os_monotonic_ns();
    if (now - large.dropped_ns > MS_DECAY_NS / 4) memset(large.dropped, 0, sizeof large.dropped);
    large.dropped_ns = now;
    large.dropped[bin_of(block->mapped) / DOUBLING] += bytes;
}

/* What waits longest goes, of a mapping of its own only what is too much. `miss`: what is asked for again soon should have been kept. */
static void cache_shrink(size_t target, bool miss) {
    while (large.cached_bytes > target) {
        ms_large_t *block = large.oldest;
        size_t excess = round_up(large.cached_bytes - target, CUT_LEAST);
        bool whole = block->backend || block->mapped < excess + CUT_LEAST;
        if (miss) note_drop(block, whole ? block->mapped : excess);
        if (whole) {
            cache_drop_oldest();
        } else {
            index_remove(block);
            cut(block, block->mapped - excess);
            index_add(block);
        }
    }
}

static void cache_limit(void) { cache_shrink(cache_budget(), true); }

/* It is counted and found as what of it was used. */
static void cache_put(ms_large_t *block) {
    if (!block->backend) cut_unused(block);
    cache_insert(block);
    if (!block->backend) join_neighbours(block);
    cache_limit();
}

/* ---- allocating and freeing under the lock */

static bool map_new(ms_large_t *block, size_t bytes) {
    bool direct = bytes >= MS_DIRECT_MIN;
    block->mapped = rounded(bytes);
    block->used = block->touched = 0;
    block->backend = NULL;
    block->base = direct ? ms_os_map(block->mapped, MS_PAGE)
                         : ms_backend_allocate(block->mapped, MS_PAGE, &block->backend);
    block->zeroed = direct || block->backend == &ms_backend_system;
    return block->base != NULL;
}

void ms_large_set_used(ms_large_t *block, size_t bytes) {
    if (bytes <= block->used) return;
    __atomic_store_n(&block->used, bytes, __ATOMIC_RELAXED);
    if (!ms_limit_is_none()) __atomic_store_n(&block->grown_ns, ms_os_monotonic_ns(), __ATOMIC_RELAXED);
}

/* MS_LOCK_LARGE. A block with `bytes`, of which the first `used` are asked for now; in no list and not in the table. */
static MS_RARE ms_large_t *obtain(size_t bytes, size_t used) {
    ms_large_t *block = cache_take(bytes);
    size_t had = block ? block->used : 0;
    if (used > had && !ms_limit_take_locked(used - had)) {
        if (block) cache_insert(block);
        return NULL;
    }
    if (block) return block;
    note_miss(bytes);
    if (!(block = descriptor_new())) return NULL;
    if (map_new(block, bytes)) return block;
    descriptor_free(block);
    return NULL;
}

ms_large_t *ms_large_allocate(size_t size, size_t alignment, size_t room) {
    size_t padding = alignment > MS_LARGE_HEAD ? alignment : 0;
    if (size > PTRDIFF_MAX - 2 * MS_PAGE - padding) return NULL;
    size_t bytes = MS_LARGE_HEAD + padding + size;
    ms_lock(MS_LOCK_LARGE);
    ms_large_t *block = room > size && ms_os_address_space_is_free() ? obtain(bytes + room - size, bytes) : NULL;
    if (!block) block = obtain(bytes, bytes);
    if (block) {
        if (bytes > block->used) ms_slab_exchange(bytes - block->used);
        uintptr_t payload = round_up((uintptr_t)block->base + MS_LARGE_HEAD, alignment);
        atomic_store_explicit(&block->payload, (void *)payload, memory_order_relaxed);
        if (table_insert(block)) {
            ms_large_set_live(block, size, bytes);
            cache_limit();
        } else {
            give_back(block);
            descriptor_free(block);
            block = NULL;
        }
    }
    ms_unlock(MS_LOCK_LARGE);
    return block;
}

/* MS_LOCK_LARGE. Out of the table; what may be cached is. True: the caller gives the memory back and then descriptor_free(). */
static bool retire(ms_large_t *block) {
    table_remove(block);
    if (ms_unlikely(atomic_exchange_explicit(&block->state, MS_LARGE_GONE, memory_order_relaxed) != MS_LARGE_KEPT))
        ms_fault_freed_at_once(payload_of(block)); /* somebody else keeps it and has given it out again */
    large.recent[large.recent_next++ % RECENT] = (uintptr_t)payload_of(block);
    if (!may_be_cached(block)) return true;
    cache_put(block);
    return false;
}

/* Unmapping what is not cached takes the kernel up to a second, in which others need the lock. */
static void retire_unkept(ms_large_t *block) {
    ms_lock(MS_LOCK_LARGE);
    bool goes = retire(block);
    ms_unlock(MS_LOCK_LARGE);
    if (!goes) return;
    give_back(block);
    ms_lock(MS_LOCK_LARGE);
    descriptor_free(block);
    ms_unlock(MS_LOCK_LARGE);
}

/* ---- what an arena keeps */

#define KEPT_ARENA_MAX ((size_t)4 << 20)   /* by one; by all together half of what the cache has proved to be useful for */
#define KEPT_ARENA_MIN ((size_t)256 << 10) /* by one of very many */
#define KEPT_ALONE_MAX ((size_t)2 << 20)   /* a block where nothing else is kept */
#define KEPT_TICK_NS (MS_DECAY_NS / 4)

/* The newest block, it is warm, that wastes at most a quarter. */
ms_large_t *ms_large_take(ms_large_kept_t *kept, size_t size, size_t room) {
    size_t bytes = MS_LARGE_HEAD + size, wanted = MS_LARGE_HEAD + (room > size ? room : size);
    for (uint32_t i = kept->count; i-- > 0;) {
        size_t mapped = kept->entry[i].mapped;
        if (mapped < wanted || (mapped > 2 * (size_t)MS_PAGE + bytes && mapped - wanted > mapped / 4)) continue;
        ms_large_t *block = kept->entry[i].block;
        ms_large_check_kept(kept, block);
        ms_large_kept_add(kept, -1, mapped);
        for (; i < kept->count; i++) kept->entry[i] = kept->entry[i + 1];
        ms_large_set_live(block, size, bytes);
        return block;
    }
    return NULL;
}

/* The oldest `count` blocks leave the table. */
static void kept_drop(ms_large_kept_t *kept, uint32_t count) {
    ms_lock(MS_LOCK_LARGE);
    for (uint32_t i = 0; i < count; i++) {
        ms_large_check_kept(kept, kept->entry[i].block);
        ms_large_kept_add(kept, -1, kept->entry[i].mapped);
        retire(kept->entry[i].block); /* kept ones are small enough to be cached */
    }
    ms_unlock(MS_LOCK_LARGE);
    for (uint32_t i = 0; i < kept->count; i++) kept->entry[i] = kept->entry[i + count];
}

/* All arenas share half of what the cache has proved to be useful for; if each has but one block, the whole, or as much as was live
 * lately. */
static void set_kept_limit(ms_large_kept_t *kept) {
    size_t useful = __atomic_load_n(&large.useful, __ATOMIC_RELAXED), most = __atomic_load_n(&large.most_mapped, __ATOMIC_RELAXED);
    size_t arenas = (size_t)ms_arena_first()->index + 1, share = useful / 2 / (arenas + 1);
    if (most > CACHE_MOST) most = CACHE_MOST;
    size_t alone = (useful > most ? useful : most) / arenas;
    kept->limit = share > KEPT_ARENA_MAX ? KEPT_ARENA_MAX : share < KEPT_ARENA_MIN ? KEPT_ARENA_MIN : share;
    if (alone > KEPT_ALONE_MAX) alone = KEPT_ALONE_MAX;
    kept->alone = alone > kept->limit ? alone : kept->limit;
}

/* Others only go for one that takes at most half of the room. */
static bool may_be_kept(const ms_large_kept_t *kept, const ms_large_t *block) {
    return (block->mapped <= kept->limit / 2 || ms_large_has_room(kept, block->mapped)) &&
           (char *)payload_of(block) == block->base + MS_LARGE_HEAD && may_be_cached(block);
}

void ms_large_release(ms_large_kept_t *kept, ms_large_t *block) {
    block->zeroed = false;
    if (kept->limit) set_kept_limit(kept); /* it may have room now: a miss comes after a release like this one */
    if (!may_be_kept(kept, block)) {
        retire_unkept(block);
        return;
    }
    while (!ms_large_keep(kept, block)) kept_drop(kept, (kept->count + 1) / 2); /* alone it has room */
}

void ms_large_unkeep(ms_large_kept_t *kept) {
    if (kept->count) kept_drop(kept, kept->count);
}

void ms_large_tend(ms_large_kept_t *kept, uint64_t now_ns) {
    uint64_t seen = atomic_load_explicit(&trims, memory_order_relaxed);
    if (seen != kept->trims) ms_large_unkeep(kept);
    kept->trims = seen;
    if (now_ns < kept->next_tick_ns) return;
    kept->next_tick_ns = now_ns + KEPT_TICK_NS;
    kept->tick++;
    set_kept_limit(kept);
    uint32_t idle = 0;
    while (idle < kept->count && kept->tick - kept->entry[idle].tick > 4) idle++;
    if (idle) kept_drop(kept, idle);
}

/* ---- resizing */

static bool remap(ms_large_t *block, size_t mapped) {
    char *base = ms_os_remap(block->base, block->mapped, mapped);
    if (!base) return false;
    block->base = base;
    block->mapped = mapped;
    atomic_store_explicit(&block->payload, base + MS_LARGE_HEAD, memory_order_relaxed);
    return true;
}

/* A mapping that grew will grow again, and moving it costs the kernel more than reserving address space: three times what
 * is used measured 0.7 of glibc's time for growing to 1 GiB by 10 %, twice 1.0. */
static size_t growing(size_t bytes) {
    bool spare = bytes < ((size_t)1 << 40) && ms_os_address_space_is_free() && !ms_os_memory_is_locked();
    return rounded(spare ? 3 * bytes : bytes);
}

/* Whether a resize to `size`, `bytes` from base, may keep the mapping as it is: it fits, and grows or wastes at most half. What is
 * used may be what an earlier block there used. */
static bool fits(const ms_large_t *block, size_t size, size_t bytes) {
    return bytes <= block->mapped && (size >= block->size || bytes > block->used / 2);
}

/* MS_LOCK_LARGE. A mapping of the cache in which so much fits, and of which as much as is used was touched. */
static ms_large_t *cache_take_warm(size_t bytes, size_t used) {
    if (bytes > CACHE_BLOCK_MAX) return NULL;
    for (uint32_t bin = bin_of(bytes); bin < BINS; bin++) {
        ms_large_t *block = large.bins[bin];
        if (!block || block->backend || block->mapped < bytes || block->used < used) continue;
        return cache_take_from(block, bytes);
    }
    return NULL;
}

/* What grows by two fifths or more, as by 1.5 and rounded down, takes pages that are there, and its own go to the cache: the kernel
 * needs longer for a new page than it takes to copy two. Not with junk and the like: who kept the old address is found where nothing
 * is mapped. */
static bool change_mapping(ms_large_t *block, size_t bytes) {
    if (2 * block->used > 5 * (bytes - block->used) || !may_be_cached(block) || ms_process.paranoid) return false;
    ms_lock(MS_LOCK_LARGE);
    ms_large_t *warm = cache_take_warm(bytes, block->used);
    ms_unlock(MS_LOCK_LARGE);
    if (!warm) return false;
    memcpy(warm->base, block->base, block->used);
    ms_lock(MS_LOCK_LARGE);
    table_remove(block);
    const ms_large_t old = *block;
    block->base = warm->base;
    block->mapped = warm->mapped;
    block->used = warm->used;
    block->touched = warm->touched;
    if (warm->grown_ns > block->grown_ns) __atomic_store_n(&block->grown_ns, warm->grown_ns, __ATOMIC_RELAXED);
    atomic_store_explicit(&block->payload, block->base + MS_LARGE_HEAD, memory_order_relaxed);
    table_insert(block); /* cannot fail: it was in the table a moment ago */
    warm->base = old.base;
    warm->mapped = old.mapped;
    warm->used = old.used;
    warm->touched = old.touched;
    warm->grown_ns = old.grown_ns;
    cache_put(warm);
    ms_unlock(MS_LOCK_LARGE);
    return true;
}

/* Into what is free behind it. */
static bool grow_in_place(ms_large_t *block, size_t bytes) {
    if (bytes > CACHE_BLOCK_MAX || ms_process.paranoid || !may_be_front(block)) return false;
    ms_lock(MS_LOCK_LARGE);
    ms_large_t *back = cached_from(block->base + block->mapped);
    bool does = back && block->mapped + back->mapped >= bytes;
    if (does) {
        cache_take_from(back, round_up(bytes - block->mapped, MS_PAGE));
        mapped_add(back->mapped);
        become_both(block, block, back);
        descriptor_free(back);
    }
    ms_unlock(MS_LOCK_LARGE);
    return does;
}

/* What a block has too much goes to the cache, and to the system where nobody is to find it by an old address. */
static void shrink(ms_large_t *block, size_t bytes) {
    ms_lock(MS_LOCK_LARGE);
    size_t had = block->mapped;
    cut_unused(block);
    if (block->mapped > rounded(bytes)) {
        bool goes = ms_process.paranoid || block->mapped - rounded(bytes) > CACHE_BLOCK_MAX;
        ms_large_t *rest = goes ? NULL : split(block, rounded(bytes));
        if (rest)
            cache_put(rest);
        else
            cut(block, rounded(bytes));
    }
    mapped_add(-(uint64_t)(had - block->mapped));
    ms_unlock(MS_LOCK_LARGE);
}

bool ms_large_resize(ms_large_t *block, size_t size) {
    if (size > PTRDIFF_MAX - 2 * MS_PAGE) return false;
    size_t padding = (size_t)((char *)payload_of(block) - block->base) - MS_LARGE_HEAD;
    size_t bytes = padding + MS_LARGE_HEAD + size;
    bool done = fits(block, size, bytes);
    if (!done && !block->backend && bytes <= block->mapped) {
        shrink(block, bytes);
        done = true;
    }
    if (!done && (block->backend || padding != 0 || bytes < MS_DIRECT_MIN)) return false;
    size_t more = bytes > block->used ? bytes - block->used : 0;
    if (more && !ms_limit_begin(more)) {
        errno = ENOMEM;
        return false;
    }
    if (!done && bytes > block->mapped) done = grow_in_place(block, bytes) || change_mapping(block, bytes);
    if (!done) {
        ms_lock(MS_LOCK_LARGE);
        table_remove(block);
        done = remap(block, growing(bytes)) || (errno != EFAULT && remap(block, rounded(bytes))); /* EFAULT: it was joined */
        table_insert(block); /* cannot fail: it was in the table a moment ago */
        cache_limit();
        ms_unlock(MS_LOCK_LARGE);
    }
    if (done) {
        block->size = size;
        if (more) ms_slab_exchange(more);
        ms_large_set_used(block, bytes);
    }
    if (more) ms_limit_end(more);
    return done;
}

/* ---- others */

bool ms_large_recently_freed(const void *payload) {
    ms_lock(MS_LOCK_LARGE);
    bool found = lookup(payload) && !is_live(lookup(payload));
    for (size_t i = 0; i < RECENT; i++) found |= large.recent[i] == (uintptr_t)payload;
    ms_unlock(MS_LOCK_LARGE);
    return found;
}

void ms_large_trim(void) {
    atomic_fetch_add_explicit(&trims, 1, memory_order_relaxed);
    ms_lock(MS_LOCK_LARGE);
    while (large.oldest) cache_drop_oldest();
    ms_unlock(MS_LOCK_LARGE);
}

void ms_large_decay(uint64_t now_ns) {
    ms_lock(MS_LOCK_LARGE);
    while (large.oldest && large.oldest->freed_ns + MS_DECAY_NS < now_ns) cache_drop_oldest();
    if (now_ns - large.decayed_ns > MS_DECAY_NS) {
        large.decayed_ns = now_ns;
        __atomic_store_n(&large.most_mapped, large.most_mapped - (large.most_mapped - large.mapped_bytes) / 2, __ATOMIC_RELAXED);
    }
    if (large.useful > CACHE_LEAST && now_ns - large.missed_ns > MS_DECAY_NS) {
        large.missed_ns = now_ns;
        __atomic_store_n(&large.useful, large.useful / 2, __ATOMIC_RELAXED);
    }
    if (large.oldest) cache_limit();
    ms_unlock(MS_LOCK_LARGE);
}

/* Kept blocks are in the table, but free; counted without stopping their arenas. */
ms_large_totals_t ms_large_totals(void) {
    ms_lock(MS_LOCK_LARGE);
    uint64_t kept_blocks = 0, kept_bytes = 0;
    for (const ms_arena_t *arena = ms_arena_first(); arena; arena = arena->next) {
        kept_blocks += __atomic_load_n(&arena->kept.count, __ATOMIC_RELAXED);
        kept_bytes += __atomic_load_n(&arena->kept.bytes, __ATOMIC_RELAXED);
    }
    ms_large_totals_t totals = {.live_blocks = large.blocks > kept_blocks ? large.blocks - kept_blocks : 0,
                                .live_mapped_bytes = large.mapped_bytes > kept_bytes ? large.mapped_bytes - kept_bytes : 0,
                                .cached_bytes = large.cached_bytes + kept_bytes};
    ms_unlock(MS_LOCK_LARGE);
    return totals;
}

uint64_t ms_large_unused_bytes(void) {
    uint64_t bytes = 0;
    ms_lock(MS_LOCK_LARGE);
    const table_t *table = atomic_load_explicit(&large.table, memory_order_relaxed);
    for (size_t i = 0; table && i <= table->mask; i++) {
        const ms_large_t *block = atomic_load_explicit(&table->slot[i], memory_order_relaxed);
        if (is_live(block)) bytes += block->mapped - __atomic_load_n(&block->used, __ATOMIC_RELAXED);
    }
    ms_unlock(MS_LOCK_LARGE);
    return bytes;
}

/* What was touched is found from the first byte not known to be. */
static void count_untouched(ms_large_t *block, ms_os_census_t *census) {
    size_t used = __atomic_load_n(&block->used, __ATOMIC_RELAXED), known = block->touched, first = 0;
    if (known >= used) return;
    size_t left = ms_os_census_add(census, block->base + known, used - known, &first);
    if (left != MS_OS_UNSEEN) block->touched = left ? known + first : used;
}

void ms_large_count_untouched(ms_os_census_t *census, uint64_t now_ns) {
    const table_t *table = atomic_load_explicit(&large.table, memory_order_relaxed);
    for (size_t i = 0; table && i <= table->mask; i++) {
        ms_large_t *block = atomic_load_explicit(&table->slot[i], memory_order_relaxed);
        if (is_live(block) && ms_limit_is_recent(__atomic_load_n(&block->grown_ns, __ATOMIC_RELAXED), now_ns))
            count_untouched(block, census);
    }
}

void ms_large_shed(size_t bytes) {
    ms_lock(MS_LOCK_LARGE);
    if (large.oldest) cache_shrink(behind(large.cached_bytes, bytes), false);
    ms_unlock(MS_LOCK_LARGE);
}

uint64_t ms_large_mapped_bytes(void) {
    return __atomic_load_n(&large.mapped_bytes, __ATOMIC_RELAXED) +
           __atomic_load_n(&large.cached_bytes, __ATOMIC_RELAXED);
}

void ms_large_walk(void (*visit)(void *context, const ms_large_t *block), void *context) {
    ms_lock(MS_LOCK_LARGE);
    const table_t *table = atomic_load_explicit(&large.table, memory_order_relaxed);
    for (size_t i = 0; table && i <= table->mask; i++) {
        const ms_large_t *block = atomic_load_explicit(&table->slot[i], memory_order_relaxed);
        if (is_live(block)) visit(context, block);
    }
    ms_unlock(MS_LOCK_LARGE);
}
