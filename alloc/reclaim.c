#include "alloc/reclaim.h"
#include "alloc/fault.h"
#include "alloc/lock.h"

static void slab_comes(ms_arena_t *owner, ms_slab_t *slab) {
    ms_slab_t *first = atomic_load_explicit(&owner->sorted, memory_order_relaxed);
    slab->sorted_previous = NULL;
    slab->sorted_next = first;
    if (first) first->sorted_previous = slab;
    atomic_store_explicit(&owner->sorted, slab, memory_order_relaxed);
}

/* What was with it is the caller's. */
static void *slab_leaves(ms_arena_t *owner, ms_slab_t *slab) {
    void *blocks = slab->sorted_blocks;
    if (slab->sorted_next) slab->sorted_next->sorted_previous = slab->sorted_previous;
    if (slab->sorted_previous)
        slab->sorted_previous->sorted_next = slab->sorted_next;
    else
        atomic_store_explicit(&owner->sorted, slab->sorted_next, memory_order_relaxed);
    slab->sorted_blocks = NULL;
    slab->sorted_count = 0;
    return blocks;
}

static void let_go(ms_arena_t *owner, ms_slab_t *slab) {
    slab_leaves(owner, slab);
    atomic_fetch_add_explicit(&owner->reclaimed_slabs, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&owner->reclaimed_cut[slab->class], slab->capacity, memory_order_relaxed);
    ms_slab_release(slab, owner);
}

static void sort(ms_arena_t *owner, void *payload, ms_facts_t facts) {
    ms_slab_t *slab = ms_slab_of(payload);
    if (ms_unlikely(!ms_facts_are_remote(facts) || ms_class_of(ms_facts_size(facts)) != slab->class))
        ms_fault_free_list(payload, slab->class);
    facts.word0 = ms_word0_remote(slab->sorted_blocks, ms_facts_size(facts));
    ms_close(ms_header_of(payload), facts);
    if (slab->sorted_count++ == 0) slab_comes(owner, slab);
    slab->sorted_blocks = payload;
    if (slab->sorted_count == slab->capacity) let_go(owner, slab);
}

void ms_reclaim(ms_arena_t *owner) {
    uint64_t gone = 0;
    ms_lock(MS_LOCK_SORTED);
    atomic_store_explicit(&owner->is_sorted_now, true, memory_order_relaxed);
    /* acquire: pairs with the release in ms_arena_post(), headers are complete */
    void *payload = atomic_exchange_explicit(&owner->inbox, NULL, memory_order_acq_rel);
    atomic_store_explicit(&owner->inbox_bytes, 0, memory_order_relaxed);
    for (void *next; payload; payload = next) {
        ms_facts_t facts = ms_open(ms_header_of(payload));
        next = ms_facts_next(facts);
        ms_fetch_ahead(payload);
        if (ms_facts_code(facts) == owner->code) gone += ms_facts_size(facts) - ms_facts_unrequested(facts);
        sort(owner, payload, facts);
    }
    atomic_fetch_add_explicit(&owner->reclaimed_bytes, gone, memory_order_relaxed);
    atomic_store_explicit(&owner->is_sorted_now, false, memory_order_relaxed);
    ms_unlock(MS_LOCK_SORTED);
}

void ms_reclaim_wait(void) {
    ms_lock(MS_LOCK_SORTED);
    ms_unlock(MS_LOCK_SORTED);
}

void *ms_reclaim_take(ms_arena_t *owner) {
    if (ms_likely(!atomic_load_explicit(&owner->sorted, memory_order_relaxed))) return NULL;
    ms_lock(MS_LOCK_SORTED);
    ms_slab_t *slab = atomic_load_explicit(&owner->sorted, memory_order_relaxed);
    void *blocks = slab ? slab_leaves(owner, slab) : NULL;
    ms_unlock(MS_LOCK_SORTED);
    return blocks;
}

static MS_COLD void look(ms_arena_t *owner) {
    ms_lock(MS_LOCK_THREADS);
    if (atomic_load_explicit(&owner->inbox_bytes, memory_order_relaxed) >= MS_RECLAIM_MIN) ms_reclaim(owner);
    ms_unlock(MS_LOCK_THREADS);
}

void ms_reclaim_posted(ms_arena_t *owner, size_t bytes) {
    uint64_t waiting = atomic_fetch_add_explicit(&owner->inbox_bytes, bytes, memory_order_relaxed) + bytes;
    if (ms_unlikely(waiting >= MS_RECLAIM_MIN)) look(owner);
}
