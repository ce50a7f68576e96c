#include "tracking/walk.h"
#include "alloc/arena.h"
#include "alloc/large.h"
#include "alloc/lock.h"
#include "alloc/thread.h"
#include "tracking/header.h"

/* A header is read while its owner may be writing it. Its two words only fit together if both are of one writing: a
 * pair torn apart opens to facts that are no block's, and is read again. */
#define READS 3

static ms_header_t header_copy(const char *payload) {
    const ms_header_t *header = ms_header_of(payload);
    ms_header_t copy;
    copy.word1 = __atomic_load_n(&header->word1, __ATOMIC_ACQUIRE);
    copy.word0 = __atomic_load_n(&header->word0, __ATOMIC_ACQUIRE);
    return copy;
}

/* What every live block's facts have in common, whatever holds it. */
static bool facts_are_live(ms_facts_t facts) {
    uint32_t flags = ms_facts_flags(facts);
    return ms_facts_can_be(facts) && (flags & (MS_FLAG_LIVE | MS_FLAG_INNER)) == MS_FLAG_LIVE &&
           (flags & MS_FLAG_ORIGIN) < MS_ORIGIN_COUNT && ms_facts_code(facts) < ms_thread_code_count();
}

static void set_common(ms_walk_block_t *block, ms_facts_t facts) {
    block->task = ms_facts_task(facts);
    block->code = ms_facts_code(facts);
    block->site = ms_facts_site(facts);
    block->weight = 0;
}

/* What an extended block keeps in front of its inner payload. False: it is not (or no longer) there. */
static bool set_extended(ms_walk_block_t *block, const char *base, size_t whole) {
    const ms_extension_t *extension = (const void *)base;
    uint32_t inner = __atomic_load_n(&extension->inner, __ATOMIC_RELAXED);
    uint32_t size = __atomic_load_n(&extension->size, __ATOMIC_RELAXED);
    if (inner < sizeof *extension || inner > whole || size > whole - inner) return false;
    block->payload = (char *)(uintptr_t)base + inner;
    block->size = size;
    uint32_t sample = extension->sample_site;
    if (sample == 0) return true;
    if (block->site == 0) block->site = sample;
    if (block->site == sample) block->weight = (double)extension->sample_weight;
    return true;
}

static ms_walk_state_t read_once(const char *base, uint32_t class, ms_walk_block_t *block) {
    ms_header_t copy = header_copy(base);
    if (ms_header_is_free(&copy)) return MS_WALK_FREE;
    ms_facts_t facts = ms_open_at(copy, base);
    uint32_t flags = ms_facts_flags(facts);
    size_t size = ms_facts_size(facts);
    if (size > MS_SMALL_MAX || ms_class_of(size) != class || flags & MS_FLAG_LARGE) return MS_WALK_UNSETTLED;
    if (ms_facts_are_remote(facts)) return MS_WALK_FREE;
    if (!facts_are_live(facts)) return MS_WALK_UNSETTLED;
    *block = (ms_walk_block_t){.payload = (void *)(uintptr_t)base,
                               .size = size,
                               .class = class,
                               .born_ms = ms_age_decode(ms_facts_age(facts))};
    set_common(block, facts);
    if (flags & MS_FLAG_EXTENDED && !set_extended(block, base, size)) return MS_WALK_UNSETTLED;
    return MS_WALK_LIVE;
}

ms_walk_state_t ms_walk_read(const char *base, uint32_t class, ms_walk_block_t *block) {
    ms_walk_state_t state = read_once(base, class, block);
    for (int reads = 1; state == MS_WALK_UNSETTLED && reads < READS; reads++) state = read_once(base, class, block);
    return state;
}

ms_walk_slab_t ms_walk_slab(const ms_slab_t *slab) {
    ms_walk_slab_t none = {.class = 1};
    uint32_t dressings = atomic_load_explicit(&slab->dressings, memory_order_acquire);
    ms_walk_slab_t view = {.start = __atomic_load_n(&slab->start, __ATOMIC_RELAXED),
                           .class = __atomic_load_n(&slab->class, __ATOMIC_RELAXED),
                           .carved = __atomic_load_n(&slab->carved, __ATOMIC_ACQUIRE)};
    bool used = atomic_load_explicit(&slab->arena, memory_order_relaxed) != NULL;
    atomic_thread_fence(memory_order_acquire);
    bool whole = !(dressings & 1) && atomic_load_explicit(&slab->dressings, memory_order_relaxed) == dressings;
    return used && whole ? view : none;
}

typedef struct walk {
    ms_walk_visit_t *visit;
    void *context;
    ms_walk_counts_t counts;
} walk_t;

static void visit_live(walk_t *walk, const ms_walk_block_t *block) {
    walk->counts.blocks++;
    walk->counts.bytes += block->size;
    walk->visit(walk->context, block);
}

static void walk_slab(walk_t *walk, const ms_slab_t *slab) {
    ms_walk_slab_t view = ms_walk_slab(slab);
    size_t stride = ms_class_stride(view.class);
    const char *base = view.start + sizeof(ms_header_t);
    for (uint32_t i = 0; i < view.carved; i++, base += stride) {
        ms_walk_block_t block;
        ms_walk_state_t state = ms_walk_read(base, view.class, &block);
        if (state == MS_WALK_LIVE) visit_live(walk, &block);
        walk->counts.unsettled += state == MS_WALK_UNSETTLED;
    }
}

/* The header of a large block is written after the block is in the table, and may not be there yet. */
static void walk_large_block(void *context, const ms_large_t *large) {
    walk_t *walk = context;
    char *payload = atomic_load_explicit(&large->payload, memory_order_relaxed);
    ms_header_t copy = header_copy(payload);
    ms_facts_t facts = ms_open_at(copy, payload);
    if (!facts_are_live(facts) || !(ms_facts_flags(facts) & MS_FLAG_LARGE) || ms_facts_size(facts)) {
        walk->counts.unsettled += !ms_header_is_free(&copy);
        return;
    }
    ms_walk_block_t block = {.payload = payload,
                             .size = __atomic_load_n(&large->size, __ATOMIC_RELAXED),
                             .class = MS_CLASS_LARGE,
                             .born_ms = ms_age_decode(ms_facts_age(facts))};
    set_common(&block, facts);
    if (large->sample_site && block.site == 0) {
        block.site = large->sample_site;
        block.weight = large->sample_weight;
    }
    visit_live(walk, &block);
}

ms_walk_counts_t ms_walk_large(ms_walk_visit_t *visit, void *context) {
    walk_t walk = {.visit = visit, .context = context};
    ms_large_walk(walk_large_block, &walk);
    return walk.counts;
}

ms_walk_counts_t ms_walk(ms_walk_visit_t *visit, void *context) {
    walk_t walk = {.visit = visit, .context = context};
    ms_large_walk(walk_large_block, &walk);
    for (const ms_group_t *group = ms_group_first(); group; group = group->all) { /* descriptors stay for ever */
        ms_lock(MS_LOCK_SLABS);
        for (uint32_t i = 0; group->start && i < MS_GROUP_BYTES >> group->slab_shift; i++) walk_slab(&walk, &group->slabs[i]);
        ms_unlock(MS_LOCK_SLABS);
    }
    return walk.counts;
}
