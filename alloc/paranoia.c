#include "alloc/paranoia.h"
#include "alloc/fault.h"
#include "tracking/process.h"

#include <string.h>

#define BORN 0xa5
#define DEAD 0x5a
#define SLACK 0xf5
#define SLACK_MAX 4096 /* of a large block, this much behind the requested bytes is guarded */

_Atomic(uint64_t) ms_quarantined[MS_SMALL_CLASSES];

/* First byte that differs from `value`, or bytes. */
static size_t first_change(const unsigned char *start, unsigned char value, size_t bytes) {
    if (bytes == 0 || (*start == value && memcmp(start, start + 1, bytes - 1) == 0)) return bytes; /* as nearly always */
    size_t at = 0;
    while (at < bytes && start[at] == value) at++;
    return at;
}

void ms_paranoia_cut(void *payload, size_t bytes) {
    if (ms_process.knobs.junk) memset(payload, DEAD, bytes);
}

void ms_paranoia_taken(void *payload, size_t bytes) {
    if (!ms_process.knobs.junk) return;
    size_t changed = first_change(payload, DEAD, bytes);
    if (changed < bytes) ms_fault_write_after_free(payload, bytes, changed);
}

/* The bytes between the requested ones and the end of the block. */
static unsigned char *slack_of(const void *payload, const ms_block_facts_t *block, size_t *bytes) {
    unsigned char *start = (unsigned char *)(uintptr_t)payload + block->size;
    if (block->large) {
        *bytes = (size_t)((unsigned char *)block->large->base + block->large->mapped - start);
        if (*bytes > SLACK_MAX) *bytes = SLACK_MAX;
    } else {
        *bytes = (size_t)((unsigned char *)block->base + ms_class_payload(block->slab->class) - start);
    }
    return start;
}

static void fill(void *payload, size_t from) {
    ms_block_facts_t block;
    size_t bytes;
    if (!ms_block_find(payload, &block)) return;
    unsigned char *slack = slack_of(payload, &block, &bytes);
    if (ms_process.knobs.guard) memset(slack, SLACK, bytes);
    if (ms_process.knobs.junk && from < block.size) memset((char *)payload + from, BORN, block.size - from);
}

void ms_paranoia_born(void *payload) { fill(payload, 0); }
void ms_paranoia_resized(void *payload, size_t before) { fill(payload, before); }

void ms_paranoia_dies(const void *payload, const ms_block_facts_t *block) {
    if (!ms_process.knobs.guard) return;
    size_t bytes;
    const unsigned char *slack = slack_of(payload, block, &bytes);
    size_t changed = first_change(slack, SLACK, bytes);
    if (changed < bytes) ms_fault_overflow(payload, block, changed);
}

void ms_paranoia_dead(const ms_block_facts_t *block) {
    if (ms_process.knobs.junk) memset(block->base, DEAD, ms_class_payload(block->slab->class));
}

/* In quarantine a block looks like one on its way home. */
static void let_oldest_go(ms_arena_t *arena) {
    void *payload = arena->quarantine_first;
    ms_header_t *header = ms_header_of(payload);
    ms_facts_t facts = ms_open(header);
    arena->quarantine_first = ms_facts_next(facts);
    ms_slab_t *slab = ms_slab_of(payload);
    size_t bytes = ms_class_payload(slab->class);
    arena->quarantine_bytes -= bytes;
    atomic_fetch_sub_explicit(&ms_quarantined[slab->class], 1, memory_order_relaxed);
    if (ms_process.knobs.junk) ms_paranoia_taken(payload, bytes);
    size_t size = ms_facts_size(facts) - ms_facts_unrequested(facts);
    ms_block_facts_t block = {.base = payload, .header = header, .facts = facts, .size = size, .slab = slab};
    ms_release_memory(arena, &block);
}

bool ms_paranoia_keep(ms_arena_t *arena, const ms_block_facts_t *block) {
    if (!ms_process.knobs.quarantine) return false;
    ms_paranoia_dead(block);
    ms_close(ms_header_of(block->base), ms_block_facts_freed(block, NULL));
    if (arena->quarantine_first) {
        ms_facts_t last = ms_open(ms_header_of(arena->quarantine_last));
        last.word0 = ms_word0_remote(block->base, ms_facts_size(last));
        ms_close(ms_header_of(arena->quarantine_last), last);
    } else {
        arena->quarantine_first = block->base;
    }
    arena->quarantine_last = block->base;
    arena->quarantine_bytes += ms_class_payload(block->slab->class);
    atomic_fetch_add_explicit(&ms_quarantined[block->slab->class], 1, memory_order_relaxed);
    while (arena->quarantine_bytes > ms_process.knobs.quarantine) let_oldest_go(arena);
    return true;
}

void ms_paranoia_flush(ms_arena_t *arena) {
    while (arena->quarantine_first) let_oldest_go(arena);
}
