#include "alloc/reclaim.h"
#include "alloc/fault.h"
#include "alloc/lock.h"

#define LEAVING UINT32_MAX /* ms_slab_t.home of a slab on its way to the pool */

/* Of the list that was in the inbox. */
typedef struct {
    void *first, *last; /* blocks that go back */
    uint64_t bytes;     /* of them */
    ms_slab_t *leaving; /* linked by next */
} sorted_t;

static void *next_of(const void *payload) { return ms_facts_next(ms_open(ms_header_of(payload))); }

/* Each slab learns how many of its blocks are in the list. */
static void count_homes(void *payload) {
    for (; payload; payload = next_of(payload)) {
        ms_fetch_ahead(payload);
        ms_slab_t *slab = ms_slab_of(payload);
        ms_facts_t facts = ms_open(ms_header_of(payload));
        if (ms_unlikely(!ms_facts_are_remote(facts) || ms_class_of(ms_facts_size(facts)) != slab->class))
            ms_fault_free_list(payload, slab->class);
        slab->home++;
    }
}

static void link_behind(void *payload, void *next) {
    ms_header_t *header = ms_header_of(payload);
    ms_facts_t facts = ms_open(header);
    facts.word0 = ms_word0_remote(next, ms_facts_size(facts));
    ms_close(header, facts);
}

static void keep(sorted_t *sorted, void *payload, const ms_slab_t *slab) {
    if (sorted->last)
        link_behind(sorted->last, payload);
    else
        sorted->first = payload;
    sorted->last = payload;
    sorted->bytes += ms_class_stride(slab->class);
}

static void sort(ms_arena_t *owner, void *payload, sorted_t *sorted) {
    uint64_t gone = 0;
    for (void *next; payload; payload = next) {
        next = next_of(payload);
        ms_slab_t *slab = ms_slab_of(payload);
        if (slab->home == slab->capacity) {
            slab->home = LEAVING;
            slab->next = sorted->leaving;
            sorted->leaving = slab;
        }
        if (slab->home != LEAVING) {
            keep(sorted, payload, slab);
            continue;
        }
        ms_facts_t facts = ms_open(ms_header_of(payload));
        if (ms_facts_code(facts) == owner->code) gone += ms_facts_size(facts) - ms_facts_unrequested(facts);
    }
    if (sorted->last) link_behind(sorted->last, NULL);
    for (void *kept = sorted->first; kept; kept = next_of(kept)) ms_slab_of(kept)->home = 0;
    atomic_fetch_add_explicit(&owner->reclaimed_bytes, gone, memory_order_relaxed);
}

static void put_back(ms_arena_t *owner, const sorted_t *sorted) {
    if (!sorted->first) return;
    void *first = atomic_load_explicit(&owner->inbox, memory_order_relaxed);
    do link_behind(sorted->last, first);
    /* release: pairs with the acquire in ms_arena_drain() */
    while (!atomic_compare_exchange_weak_explicit(&owner->inbox, &first, sorted->first, memory_order_release,
                                                  memory_order_relaxed));
}

static void let_go(ms_arena_t *owner, ms_slab_t *slab) {
    for (ms_slab_t *next; slab; slab = next) {
        next = slab->next;
        slab->home = 0;
        atomic_fetch_add_explicit(&owner->reclaimed_slabs, 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&owner->reclaimed_cut[slab->class], slab->capacity, memory_order_relaxed);
        ms_slab_release(slab, owner);
    }
}

void ms_reclaim(ms_arena_t *owner) {
    sorted_t sorted = {0};
    /* acquire: pairs with the release in ms_arena_post(), headers are complete */
    void *list = atomic_exchange_explicit(&owner->inbox, NULL, memory_order_acquire);
    count_homes(list);
    sort(owner, list, &sorted);
    put_back(owner, &sorted);
    let_go(owner, sorted.leaving);
    uint64_t limit = 2 * sorted.bytes < MS_RECLAIM_MIN ? MS_RECLAIM_MIN : 2 * sorted.bytes;
    atomic_store_explicit(&owner->inbox_limit, limit, memory_order_relaxed);
    atomic_store_explicit(&owner->inbox_bytes, sorted.bytes, memory_order_relaxed);
}

static MS_COLD void look(ms_arena_t *owner) {
    ms_lock(MS_LOCK_THREADS);
    uint64_t waiting = atomic_load_explicit(&owner->inbox_bytes, memory_order_relaxed);
    if (waiting >= MS_RECLAIM_MIN && waiting >= atomic_load_explicit(&owner->inbox_limit, memory_order_relaxed))
        ms_reclaim(owner);
    ms_unlock(MS_LOCK_THREADS);
}

void ms_reclaim_posted(ms_arena_t *owner, size_t bytes) {
    uint64_t waiting = atomic_fetch_add_explicit(&owner->inbox_bytes, bytes, memory_order_relaxed) + bytes;
    if (ms_likely(waiting < MS_RECLAIM_MIN)) return;
    if (waiting >= atomic_load_explicit(&owner->inbox_limit, memory_order_relaxed)) look(owner);
}
