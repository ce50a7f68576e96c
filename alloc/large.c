#include "alloc/large.h"
#include "alloc/lock.h"
#include "alloc/os.h"
#include "tracking/header.h"

#include <errno.h>
#include <string.h>

/* The cache has a bin for each size that rounded() can give. */
#define CACHE_BLOCK_MAX ((size_t)32 << 20) /* larger ones go back at once */
#define CACHE_MIN_EXPONENT 12 /* a page: aligned blocks may be as small */
#define BINS ((25 - CACHE_MIN_EXPONENT + 1) * 8)
#define CACHE_BYTES ((size_t)32 << 20)     /* at least this much may be kept */
#define DECAY_NS 1000000000u               /* and for this long */
#define RECENT 64

static struct {
    ms_large_t **buckets; /* chains by payload */
    size_t bucket_count;  /* a power of two */
    ms_large_t *unused;   /* descriptors */
    ms_large_totals_t totals;
    ms_large_t *bins[BINS];            /* newest first */
    uint64_t filled[(BINS + 63) / 64]; /* bit per bin that is not empty */
    ms_large_t *newest, *oldest;       /* of the cache */
    uintptr_t recent[RECENT]; /* payloads freed last */
    size_t recent_next;
} large; /* MS_LOCK_LARGE */

static size_t round_up(size_t value, size_t unit) { return (value + unit - 1) & ~(unit - 1); }

/* Room is made in eighths of a doubling, so that freed memory fits the next request of about that size and small
 * growth happens in place. The pages behind what is used are not touched. */
static size_t rounded(size_t bytes) {
    if (bytes > CACHE_BLOCK_MAX) return round_up(bytes, MS_PAGE);
    size_t step = (size_t)1 << (63 - __builtin_clzll(bytes - 1) - 3);
    return round_up(bytes, step < MS_PAGE ? MS_PAGE : step);
}

static ms_large_t **bucket_of(const void *payload) {
    uint64_t hash = ((uintptr_t)payload >> 4) * 0x9e3779b97f4a7c15u;
    return &large.buckets[hash >> 32 & (large.bucket_count - 1)];
}

/* Grows the table by doubling; without memory the chains just get longer. The old table is not returned: all of them
 * together are as large as the newest. */
static bool grow_table(void) {
    size_t count = large.bucket_count ? large.bucket_count * 2 : 256;
    ms_large_t **old = large.buckets, **fresh = ms_os_map_metadata(count * sizeof(ms_large_t *));
    if (!fresh) return old != NULL;
    size_t old_count = large.bucket_count;
    large.buckets = fresh;
    large.bucket_count = count;
    for (size_t i = 0; i < old_count; i++)
        for (ms_large_t *block = old[i], *next; block; block = next) {
            next = block->next;
            ms_large_t **bucket = bucket_of(block->payload);
            block->next = *bucket;
            *bucket = block;
        }
    return true;
}

static void count_live(const ms_large_t *block, int64_t sign) {
    large.totals.live_blocks += (uint64_t)sign;
    large.totals.live_mapped_bytes += (uint64_t)sign * block->mapped;
    large.totals.live_requested_bytes += (uint64_t)sign * block->size;
}

static bool table_insert(ms_large_t *block) {
    if (large.totals.live_blocks >= large.bucket_count && !grow_table()) return false;
    ms_large_t **bucket = bucket_of(block->payload);
    block->next = *bucket;
    *bucket = block;
    count_live(block, 1);
    return true;
}

static ms_large_t **table_slot(const void *payload) {
    if (!large.bucket_count) return NULL;
    for (ms_large_t **slot = bucket_of(payload); *slot; slot = &(*slot)->next)
        if ((*slot)->payload == payload) return slot;
    return NULL;
}

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

static void cache_remove(ms_large_t *block) {
    uint32_t bin = bin_of(block->mapped);
    *(block->previous ? &block->previous->next : &large.bins[bin]) = block->next;
    if (block->next) block->next->previous = block->previous;
    if (!large.bins[bin]) large.filled[bin / 64] &= ~((uint64_t)1 << bin % 64);
    *(block->older ? &block->older->newer : &large.oldest) = block->newer;
    *(block->newer ? &block->newer->older : &large.newest) = block->older;
    large.totals.cached_bytes -= block->mapped;
}

static void cache_insert(ms_large_t *block) {
    uint32_t bin = bin_of(block->mapped);
    block->freed_ns = ms_os_monotonic_ns();
    block->zeroed = false;
    block->previous = NULL;
    block->next = large.bins[bin];
    if (block->next) block->next->previous = block;
    large.bins[bin] = block;
    large.filled[bin / 64] |= (uint64_t)1 << bin % 64;
    block->newer = NULL;
    block->older = large.newest;
    *(large.newest ? &large.newest->newer : &large.oldest) = block;
    large.newest = block;
    large.totals.cached_bytes += block->mapped;
}

static void cache_drop_oldest(void) {
    ms_large_t *block = large.oldest;
    cache_remove(block);
    give_back(block);
    descriptor_free(block);
}

/* The newest block, it is warm, of the first bin that fits: at most a quarter larger than asked for. */
static ms_large_t *cache_take(size_t bytes) {
    if (bytes > CACHE_BLOCK_MAX) return NULL;
    uint32_t first = bin_of(rounded(bytes));
    for (uint32_t bin = first; bin < first + 3 && bin < BINS; bin++)
        if (large.filled[bin / 64] >> bin % 64 & 1) {
            ms_large_t *block = large.bins[bin];
            if (block->mapped < bytes) continue;
            cache_remove(block);
            return block;
        }
    return NULL;
}

static bool may_be_cached(const ms_large_t *block) {
    return block->mapped <= CACHE_BLOCK_MAX && block->mapped == rounded(block->mapped);
}

static void cache_put(ms_large_t *block) {
    size_t budget = large.totals.live_mapped_bytes / 2;
    if (budget < CACHE_BYTES) budget = CACHE_BYTES;
    cache_insert(block);
    while (large.totals.cached_bytes > budget) cache_drop_oldest();
}

static bool map_new(ms_large_t *block, size_t bytes) {
    bool direct = bytes >= MS_DIRECT_MIN;
    block->mapped = rounded(bytes);
    block->backend = direct ? NULL : ms_backend_current();
    block->base = direct ? ms_os_map(block->mapped, MS_PAGE)
                         : ms_backend_allocate(block->backend, block->mapped, MS_PAGE);
    block->zeroed = direct || block->backend == &ms_backend_system;
    return block->base != NULL;
}

ms_large_t *ms_large_allocate(size_t size, size_t alignment) {
    size_t padding = alignment > 16 ? alignment : 0;
    if (size > PTRDIFF_MAX - 2 * MS_PAGE - padding) {
        errno = ENOMEM;
        return NULL;
    }
    size_t bytes = sizeof(ms_header_t) + padding + size;
    ms_lock(MS_LOCK_LARGE);
    ms_large_t *block = cache_take(bytes);
    if (!block && (block = descriptor_new()) && !map_new(block, bytes)) {
        descriptor_free(block);
        block = NULL;
    }
    if (block) {
        block->payload = (void *)round_up((uintptr_t)block->base + sizeof(ms_header_t), alignment);
        block->size = size;
        block->sample_site = 0;
        block->born_ns = ms_os_monotonic_ns();
        if (!table_insert(block)) {
            give_back(block);
            descriptor_free(block);
            block = NULL;
        }
    }
    ms_unlock(MS_LOCK_LARGE);
    if (!block) errno = ENOMEM;
    return block;
}

ms_large_t *ms_large_find(const void *payload) {
    ms_lock(MS_LOCK_LARGE);
    ms_large_t **slot = table_slot(payload), *block = slot ? *slot : NULL;
    ms_unlock(MS_LOCK_LARGE);
    return block;
}

ms_large_t *ms_large_remove(const void *payload) {
    ms_lock(MS_LOCK_LARGE);
    ms_large_t **slot = table_slot(payload), *block = slot ? *slot : NULL;
    if (block) {
        *slot = block->next;
        count_live(block, -1);
        large.recent[large.recent_next++ % RECENT] = (uintptr_t)payload;
    }
    ms_unlock(MS_LOCK_LARGE);
    return block;
}

/* Unmapping what is larger takes the kernel up to a second, in which others need the lock. */
void ms_large_release(ms_large_t *block) {
    bool cached = may_be_cached(block);
    if (!cached) give_back(block);
    ms_lock(MS_LOCK_LARGE);
    if (cached)
        cache_put(block);
    else
        descriptor_free(block);
    ms_unlock(MS_LOCK_LARGE);
}

static bool remap(ms_large_t *block, size_t padding, size_t mapped) {
    char *base = ms_os_remap(block->base, block->mapped, mapped);
    if (!base) return false;
    block->base = base;
    block->mapped = mapped;
    block->payload = base + padding + sizeof(ms_header_t);
    return true;
}

/* Whether a resize to `bytes` from base may keep the mapping as it is: it fits and wastes at most half. */
static bool fits(const ms_large_t *block, size_t bytes) { return bytes <= block->mapped && bytes > block->mapped / 2; }

bool ms_large_resize(ms_large_t *block, size_t size) {
    if (size > PTRDIFF_MAX - 2 * MS_PAGE) return false;
    size_t padding = (size_t)((char *)block->payload - block->base) - sizeof(ms_header_t);
    size_t bytes = padding + sizeof(ms_header_t) + size;
    bool direct = !block->backend && padding == 0 && bytes >= MS_DIRECT_MIN;
    if (!fits(block, bytes) && !direct) return false;
    ms_lock(MS_LOCK_LARGE);
    ms_large_t **slot = table_slot(block->payload);
    *slot = block->next;
    count_live(block, -1);
    bool done = fits(block, bytes) || remap(block, padding, rounded(bytes));
    if (done) block->size = size;
    table_insert(block); /* cannot fail: it was in the table a moment ago */
    ms_unlock(MS_LOCK_LARGE);
    return done;
}

bool ms_large_recently_freed(const void *payload) {
    bool found = false;
    ms_lock(MS_LOCK_LARGE);
    for (size_t i = 0; i < RECENT; i++) found |= large.recent[i] == (uintptr_t)payload;
    ms_unlock(MS_LOCK_LARGE);
    return found;
}

void ms_large_trim(void) {
    ms_lock(MS_LOCK_LARGE);
    while (large.oldest) cache_drop_oldest();
    ms_unlock(MS_LOCK_LARGE);
}

void ms_large_decay(uint64_t now_ns) {
    ms_lock(MS_LOCK_LARGE);
    while (large.oldest && large.oldest->freed_ns + DECAY_NS < now_ns) cache_drop_oldest();
    ms_unlock(MS_LOCK_LARGE);
}

ms_large_totals_t ms_large_totals(void) {
    ms_lock(MS_LOCK_LARGE);
    ms_large_totals_t totals = large.totals;
    ms_unlock(MS_LOCK_LARGE);
    return totals;
}

void ms_large_shed(size_t bytes) {
    ms_lock(MS_LOCK_LARGE);
    size_t target = large.totals.cached_bytes > bytes ? large.totals.cached_bytes - bytes : 0;
    while (large.totals.cached_bytes > target) cache_drop_oldest();
    ms_unlock(MS_LOCK_LARGE);
}

uint64_t ms_large_mapped_bytes(void) {
    return __atomic_load_n(&large.totals.live_mapped_bytes, __ATOMIC_RELAXED) +
           __atomic_load_n(&large.totals.cached_bytes, __ATOMIC_RELAXED);
}

void ms_large_walk(void (*visit)(void *context, const ms_large_t *block), void *context) {
    ms_lock(MS_LOCK_LARGE);
    for (size_t i = 0; i < large.bucket_count; i++)
        for (const ms_large_t *block = large.buckets[i]; block; block = block->next) visit(context, block);
    ms_unlock(MS_LOCK_LARGE);
}
