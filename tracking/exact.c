#include "tracking/exact.h"
#include "alloc/os.h"
#include "alloc/thread.h"
#include "tracking/process.h"
#include "tracking/sites.h"

#include <errno.h>
#include <sys/single_threaded.h>

/* ---- levels: libc says when no other thread can be there, and says otherwise before it makes one. A signal handler that
 * allocates is like one: what it counts between a load and a store would be lost. Of the first to do so it is, should it hit just
 * there. */

static inline bool alone(void) {
    return ms_likely(__libc_single_threaded) && ms_likely(!atomic_load_explicit(&ms_process.interrupted, memory_order_relaxed));
}

typedef struct level_pair {
    int64_t live, peak;
} level_pair_t;

_Static_assert(offsetof(ms_process_t, peak_bytes) == offsetof(ms_process_t, live_bytes) + 8, "one pair");
_Static_assert(offsetof(ms_process_t, live_bytes) % 16 == 0, "for cmpxchg16b");

/* *pair = wanted if it is *seen; else *seen = *pair. Both words at once. */
static inline bool pair_exchange(void *pair, level_pair_t *seen, level_pair_t wanted) {
    bool done;
    __asm__ volatile("lock cmpxchg16b %1"
                     : "=@ccz"(done), "+m"(*(level_pair_t *)pair), "+a"(seen->live), "+d"(seen->peak)
                     : "b"(wanted.live), "c"(wanted.peak)
                     : "memory");
    return done;
}

/* Adds to the process's live bytes and raises their peak, in one step; returns the peak before it. */
static inline int64_t process_add(int64_t change) {
    level_pair_t seen = {atomic_load_explicit(&ms_process.live_bytes, memory_order_relaxed),
                         atomic_load_explicit(&ms_process.peak_bytes, memory_order_relaxed)};
    level_pair_t wanted;
    do {
        wanted.live = seen.live + change;
        wanted.peak = wanted.live > seen.peak ? wanted.live : seen.peak;
        if (alone()) {
            atomic_store_explicit(&ms_process.live_bytes, wanted.live, memory_order_relaxed);
            atomic_store_explicit(&ms_process.peak_bytes, wanted.peak, memory_order_relaxed);
            break;
        }
        /* the two loads above may be of different moments: the exchange then fails and tells */
    } while (!pair_exchange(&ms_process.live_bytes, &seen, wanted));
    ms_raise_peak(&ms_process.window_peak_bytes, wanted.live);
    return seen.peak;
}

static inline void level_add(ms_exact_level_t *level, int64_t change) {
    if (alone()) {
        int64_t live = atomic_load_explicit(&level->live_bytes, memory_order_relaxed) + change;
        atomic_store_explicit(&level->live_bytes, live, memory_order_relaxed);
        if (live > atomic_load_explicit(&level->peak_bytes, memory_order_relaxed))
            atomic_store_explicit(&level->peak_bytes, live, memory_order_relaxed);
        return;
    }
    int64_t live = atomic_fetch_add_explicit(&level->live_bytes, change, memory_order_relaxed) + change;
    ms_raise_peak(&level->peak_bytes, live);
}

/* ---- details */

#define LEVEL_CHUNK 4096u
typedef _Atomic(ms_exact_level_t *) level_slot_t;
static MS_FAR _Atomic(level_slot_t *) levels[MS_CELL_LIMIT / LEVEL_CHUNK]; /* by site */

static ms_exact_detail_t nowhere = {.level = &nowhere.own_level}; /* without memory; nobody sums it */

/* The site's level: that of the detail that came first, which is `mine` if there was none. */
static ms_exact_level_t *level_of(uint32_t site, ms_exact_level_t *mine) {
    _Atomic(level_slot_t *) *place = &levels[site / LEVEL_CHUNK];
    level_slot_t *chunk = atomic_load_explicit(place, memory_order_acquire);
    if (!chunk) {
        level_slot_t *mapped = ms_os_map_metadata(LEVEL_CHUNK * sizeof *mapped);
        if (!mapped) return &nowhere.own_level;
        /* release: pairs with the acquire above; the loser's chunk stays unused */
        if (atomic_compare_exchange_strong(place, &chunk, mapped)) chunk = mapped;
    }
    ms_exact_level_t *first = NULL;
    return atomic_compare_exchange_strong(&chunk[site % LEVEL_CHUNK], &first, mine) ? mine : first;
}

static MS_COLD ms_exact_detail_t *detail_make(ms_arena_t *arena, ms_cell_t *cell, uint32_t site) {
    int saved = errno;
    ms_exact_detail_t *detail = site < MS_CELL_LIMIT ? ms_os_map_metadata(sizeof *detail) : NULL;
    if (detail) detail->level = level_of(site, &detail->own_level);
    errno = saved;
    if (!detail) return &nowhere;
    detail->first_ms = detail->changed_ms = arena->now_ms;
    __atomic_store_n(&cell->detail, detail, __ATOMIC_RELEASE); /* pairs with ms_exact_sum() */
    return detail;
}

static inline ms_exact_detail_t *detail_of(ms_arena_t *arena, ms_cell_t *cell, uint32_t site) {
    return ms_likely(cell->detail != NULL) ? cell->detail : detail_make(arena, cell, site);
}

static inline void add_real(double *sum, double amount) {
    double value = *sum + amount;
    __atomic_store(sum, &value, __ATOMIC_RELAXED);
}

static inline uint64_t live_of(const ms_cell_t *cell) { return cell->allocated_bytes - cell->freed_bytes; }

/* Time passes with what is live in the cell. */
static inline void advance(ms_exact_detail_t *detail, const ms_cell_t *cell, uint64_t now) {
    uint64_t since = detail->changed_ms;
    if (ms_likely(now <= since)) return;
    double area = (double)(int64_t)live_of(cell) * (double)(now - since);
    add_real(&detail->area, area);
    add_real(&detail->moment, area * 0.5 * (double)(now + since));
    __atomic_store_n(&detail->changed_ms, now, __ATOMIC_RELAXED);
}

/* Before a cell changes: its share of a peak it has not seen. */
static inline void note_share(ms_cell_t *cell, int64_t peak) {
    if (cell->seen_peak == peak) return;
    __atomic_store_n(&cell->at_peak_bytes, live_of(cell), __ATOMIC_RELAXED);
    __atomic_store_n(&cell->at_peak_blocks, cell->allocated_blocks - cell->freed_blocks, __ATOMIC_RELAXED);
    __atomic_store_n(&cell->seen_peak, peak, __ATOMIC_RELAXED);
}

static MS_COLD void bucket_add(uint64_t **buckets, uint32_t bucket, uint64_t amount) {
    int saved = errno;
    if (!*buckets) __atomic_store_n(buckets, ms_os_map_metadata(MS_LOG2_BUCKETS * sizeof **buckets), __ATOMIC_RELEASE);
    errno = saved;
    if (*buckets) ms_count(&(*buckets)[bucket], amount);
}

static inline void count_bucket(uint64_t **buckets, uint8_t *implied, uint32_t bucket, uint64_t amount) {
    if (ms_likely(*implied == bucket + 1)) return;
    if (*implied == 0)
        __atomic_store_n(implied, (uint8_t)(bucket + 1), __ATOMIC_RELAXED);
    else
        bucket_add(buckets, bucket, amount);
}

static inline void count_thread(uint32_t *last, uint32_t *threads, uint32_t tenant) {
    if (ms_likely(*last == tenant)) return;
    *last = tenant;
    __atomic_store_n(threads, *threads + 1, __ATOMIC_RELAXED);
}

/* ---- events */

void ms_exact_allocated(ms_arena_t *arena, uint32_t site, const void *base, size_t size) {
    ms_cell_t *cell = ms_site_cell(arena, site);
    ms_exact_detail_t *detail = detail_of(arena, cell, site);
    int64_t peak = process_add((int64_t)size);
    advance(detail, cell, arena->now_ms);
    note_share(cell, peak);
    ms_count(&cell->allocated_bytes, size);
    ms_count(&cell->allocated_blocks, 1);
    level_add(detail->level, (int64_t)size);
    count_bucket(&detail->sizes, &detail->size_bucket, ms_log2_bucket(size), 1);
    count_thread(&detail->allocated_by, &detail->allocating_threads, arena->tenant);
    arena->last_block = base;
    arena->last_peak = peak;
}

void ms_exact_freed(ms_arena_t *arena, uint32_t site, const void *base, size_t size, uint32_t age) {
    ms_cell_t *cell = ms_site_cell(arena, site);
    ms_exact_detail_t *detail = detail_of(arena, cell, site);
    uint64_t now = arena->now_ms, born = ms_age_decode(age);
    int64_t peak = process_add(-(int64_t)size);
    advance(detail, cell, now);
    note_share(cell, peak);
    ms_count(&cell->freed_bytes, size);
    ms_count(&cell->freed_blocks, 1);
    level_add(detail->level, -(int64_t)size);
    count_bucket(&detail->lifetimes, &detail->lifetime_bucket, ms_log2_bucket(now > born ? now - born : 0), 1);
    count_thread(&detail->freed_by, &detail->freeing_threads, arena->tenant);
    if (arena->last_block != base) return;
    arena->last_block = NULL;
    ms_count(&detail->temporary_bytes, size);
    ms_count(&detail->temporary_blocks, 1);
}

/* A block that is named right after it was allocated, which is usual, takes its share of the peak along. */
void ms_exact_renamed(ms_arena_t *arena, uint32_t from, uint32_t to, const void *base, size_t size) {
    ms_cell_t *before = ms_site_cell(arena, from), *after = ms_site_cell(arena, to);
    ms_exact_detail_t *left = detail_of(arena, before, from), *entered = detail_of(arena, after, to);
    int64_t peak = process_add(0);
    advance(left, before, arena->now_ms);
    advance(entered, after, arena->now_ms);
    note_share(before, peak);
    note_share(after, peak);
    uint32_t bucket = ms_log2_bucket(size);
    ms_count(&before->allocated_bytes, -(uint64_t)size);
    ms_count(&before->allocated_blocks, -(uint64_t)1);
    level_add(left->level, -(int64_t)size);
    count_bucket(&left->sizes, &left->size_bucket, bucket, -(uint64_t)1);
    ms_count(&after->allocated_bytes, size);
    ms_count(&after->allocated_blocks, 1);
    level_add(entered->level, (int64_t)size);
    count_bucket(&entered->sizes, &entered->size_bucket, bucket, 1);
    count_thread(&entered->allocated_by, &entered->allocating_threads, arena->tenant);
    if (arena->last_block != base || arena->last_peak == peak) return; /* not in the peak for sure */
    ms_count(&before->at_peak_bytes, -(uint64_t)size);
    ms_count(&before->at_peak_blocks, -(uint64_t)1);
    ms_count(&after->at_peak_bytes, size);
    ms_count(&after->at_peak_blocks, 1);
}

/* ---- sums */

static void sum_buckets(uint64_t *sums, const uint64_t *const *buckets, uint32_t implied, uint64_t all) {
    const uint64_t *counted = __atomic_load_n(buckets, __ATOMIC_ACQUIRE);
    for (uint32_t i = 0; counted && i < MS_LOG2_BUCKETS; i++) {
        uint64_t count = ms_read(&counted[i]);
        sums[i] += count;
        all -= count;
    }
    if (implied) sums[implied - 1] += all;
}

static void sum_detail(ms_exact_sum_t *sum, const ms_cell_t *cell, const ms_exact_detail_t *detail, uint64_t now) {
    double area, moment;
    __atomic_load(&detail->area, &area, __ATOMIC_RELAXED);
    __atomic_load(&detail->moment, &moment, __ATOMIC_RELAXED);
    uint64_t since = ms_read(&detail->changed_ms);
    double rest = now > since ? (double)(int64_t)live_of(cell) * (double)(now - since) : 0;
    sum->area += area + rest;
    sum->moment += moment + rest * 0.5 * (double)(now + since);
    sum->temporary_bytes += ms_read(&detail->temporary_bytes);
    sum->temporary_blocks += ms_read(&detail->temporary_blocks);
    sum->allocating_threads += detail->allocating_threads;
    sum->freeing_threads += detail->freeing_threads;
    if (detail->first_ms < sum->first_ms) sum->first_ms = detail->first_ms;
    if (since > sum->last_ms) sum->last_ms = since;
    sum->peak_bytes = (uint64_t)atomic_load_explicit(&detail->level->peak_bytes, memory_order_relaxed);
    sum_buckets(sum->sizes, (const uint64_t *const *)&detail->sizes, detail->size_bucket, ms_read(&cell->allocated_blocks));
    sum_buckets(sum->lifetimes, (const uint64_t *const *)&detail->lifetimes, detail->lifetime_bucket,
                ms_read(&cell->freed_blocks));
}

void ms_exact_sum(uint32_t site, uint64_t now_ms, ms_exact_sum_t *sum) {
    *sum = (ms_exact_sum_t){.first_ms = UINT64_MAX};
    int64_t peak = atomic_load_explicit(&ms_process.peak_bytes, memory_order_relaxed);
    for (const ms_arena_t *arena = ms_arena_first(); arena; arena = arena->next) {
        const ms_cell_t *cell = arena->sites ? ms_cell_find(arena->sites, site) : NULL;
        if (!cell) continue;
        bool seen = cell->seen_peak == peak;
        sum->allocated_bytes += ms_read(&cell->allocated_bytes);
        sum->allocated_blocks += ms_read(&cell->allocated_blocks);
        sum->freed_bytes += ms_read(&cell->freed_bytes);
        sum->freed_blocks += ms_read(&cell->freed_blocks);
        sum->at_peak_bytes += seen ? ms_read(&cell->at_peak_bytes) : live_of(cell);
        sum->at_peak_blocks += seen ? ms_read(&cell->at_peak_blocks) : cell->allocated_blocks - cell->freed_blocks;
        const ms_exact_detail_t *detail = __atomic_load_n(&cell->detail, __ATOMIC_ACQUIRE);
        if (detail) sum_detail(sum, cell, detail, now_ms);
    }
}

/* With a and b the ends and y the live bytes, the slope of the line that minimises the integral of its squared distance to
 * y is 12 / (b - a)^3 * integral of (t - (a + b) / 2) * y dt. */
double ms_exact_growth(const ms_exact_sum_t *sum, uint64_t now_ms) {
    if (sum->first_ms > now_ms || now_ms - sum->first_ms < MS_GROWTH_LEAST_MS) return __builtin_nan("");
    double width = (double)(now_ms - sum->first_ms), middle = 0.5 * (double)(now_ms + sum->first_ms);
    return 12 * (sum->moment - middle * sum->area) / (width * width * width) * 1000;
}
