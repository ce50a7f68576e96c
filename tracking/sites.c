#include "tracking/sites.h"
#include "alloc/large.h"
#include "alloc/os.h"
#include "alloc/thread.h"
#include "tracking/calibration.h"
#include "tracking/events.h"
#include "tracking/exact.h"
#include "tracking/check_stacks.h"
#include "tracking/process.h"
#include "tracking/stacks.h"
#include "tracking/unwind.h"

static uint32_t capture_stack(ms_arena_t *arena, const ms_caller_t *from) {
    uintptr_t caller = (uintptr_t)from->pc, pc = caller, sp = from->sp, fp = from->fp;
    if (!arena->unwind) arena->unwind = ms_os_map_metadata(sizeof *arena->unwind);
    if (!arena->unwind) return ms_stack_child(MS_STACK_NONE, caller);
    if (sp == 0) {
        MS_UNWIND_HERE(pc, sp, fp);
        if (!ms_unwind_to(arena->unwind, caller, &pc, &sp, &fp)) return ms_unwind_caller_alone(arena->unwind, caller);
    }
    uint32_t site = ms_unwind_site(arena->unwind, pc, sp, fp, (unsigned)ms_process.knobs.stack_depth);
    if (ms_unlikely(ms_process.knobs.check_stacks)) ms_check_stack(arena->unwind, pc, site);
    return site;
}

uint32_t ms_site_capture(ms_arena_t *arena, const ms_caller_t *from) {
    if (!from->pc) return MS_STACK_NONE;
    bool whole = ms_process.full_stacks && ms_process.can_unwind;
    return whole ? capture_stack(arena, from) : ms_stack_child(MS_STACK_NONE, (uintptr_t)from->pc);
}

MS_COLD ms_cell_t *ms_site_cell_slow(ms_arena_t *arena, uint32_t site) {
    static ms_cell_t nowhere; /* without memory for the table; nobody sums it */
    if (!arena->sites) __atomic_store_n(&arena->sites, ms_os_map_metadata(sizeof(ms_cells_t)), __ATOMIC_RELEASE);
    return arena->sites ? ms_cell(arena->sites, site) : &nowhere;
}

void ms_site_count_alloc(ms_arena_t *arena, uint32_t site, size_t size) {
    ms_cell_t *cell = ms_site_cell(arena, site);
    ms_count(&cell->allocated_bytes, size);
    ms_count(&cell->allocated_blocks, 1);
}

void ms_site_count_free(ms_arena_t *arena, uint32_t site, size_t size) {
    ms_cell_t *cell = ms_site_cell(arena, site);
    ms_count(&cell->freed_bytes, size);
    ms_count(&cell->freed_blocks, 1);
}

/* A sampled block's part in the variance of the estimated live bytes, in bytes squared: with p = 1/weight its
 * Horvitz-Thompson term is size^2 * (1 - p) / p^2. While the block lives it stands in the cell's handed_off_bytes, what
 * exceeds 32 bits in handed_off_blocks: the square of a large sample_bytes fills 64 bits soon. */
static void count_variance(ms_cell_t *cell, size_t size, double weight, uint64_t sign) {
    double term = (double)size * (double)size * weight * (weight - 1);
    if (term > 0x1p94) term = 0x1p94;
    int64_t high = (int64_t)(term * 0x1p-32), low = (int64_t)(term - (double)high * 0x1p32); /* signed: one instruction */
    ms_count(&cell->handed_off_bytes, sign * (uint64_t)low);
    ms_count(&cell->handed_off_blocks, sign * (uint64_t)high);
}

static uint64_t scaled(double weight, double unit) {
    return (uint64_t)(weight * unit + 0.5);
}

/* `sign` 1: it is there; -1: it has become another site's. */
static inline __attribute__((always_inline)) void count_sample(ms_arena_t *arena, uint32_t site, size_t size,
                                                               double weight, uint64_t sign) {
    ms_cell_t *cell = ms_site_cell(arena, site);
    ms_count(&cell->allocated_bytes, sign * scaled(weight, (double)size));
    ms_count(&cell->allocated_blocks, sign * scaled(weight, 1 << MS_WEIGHT_SHIFT));
    count_variance(cell, size, weight, sign);
    ms_count(&cell->owner, sign);
}

void ms_site_count_sample(ms_arena_t *arena, uint32_t site, size_t size, double weight) {
    count_sample(arena, site, size, weight, 1);
}

void ms_site_count_sample_free(ms_arena_t *arena, uint32_t site, size_t size, double weight) {
    ms_cell_t *cell = ms_site_cell(arena, site);
    ms_count(&cell->freed_bytes, scaled(weight, (double)size));
    ms_count(&cell->freed_blocks, scaled(weight, 1 << MS_WEIGHT_SHIFT));
    count_variance(cell, size, weight, -(uint64_t)1);
    ms_count(&cell->enters, 1); /* sampled blocks freed */
}

ms_cell_t ms_site_sum(uint32_t site) {
    ms_cell_t sum = {0};
    for (const ms_arena_t *arena = ms_arena_first(); arena; arena = arena->next)
        if (arena->sites) ms_cell_add(&sum, arena->sites, site);
    return sum;
}

static MS_COLD void take_sample_back(ms_arena_t *arena, uint32_t site, uint32_t natural, size_t size, double weight) {
    count_sample(arena, site, size, weight, -(uint64_t)1);
    ms_calibration_taken_back(arena, site, natural, size, weight);
}

/* A block without a site gets one at which it is counted. What a sample of it counts for at its stack goes: the block
 * would stand in two rows. Returns the size class of its like. */
static uint32_t leave_samples(ms_arena_t *arena, const ms_block_facts_t *block) {
    if (block->large) {
        ms_large_t *large = block->large;
        if (!large->sample_site) return MS_CLASS_LARGE;
        take_sample_back(arena, large->sample_site, large->sample_class, block->size, large->sample_weight);
        large->sample_site = 0;
        return large->sample_class;
    }
    ms_extension_t *extension = block->base;
    if (!(ms_facts_flags(block->facts) & MS_FLAG_EXTENDED) || !extension->sample_site) return block->slab->class;
    take_sample_back(arena, extension->sample_site, extension->sample_class, block->size,
                     (double)extension->sample_weight);
    extension->sample_site = 0;
    return extension->sample_class;
}

static void move_counts(ms_arena_t *arena, uint32_t from, uint32_t to, const ms_block_facts_t *block) {
    if (from) {
        ms_cell_t *cell = ms_site_cell(arena, from);
        ms_count(&cell->allocated_bytes, -(uint64_t)block->size);
        ms_count(&cell->allocated_blocks, -(uint64_t)1);
    } else {
        ms_calibration_named(leave_samples(arena, block));
    }
    ms_site_count_alloc(arena, to, block->size);
}

/* The counts of one arena may become negative by this (unsigned: wrap around); sums over arenas never do. */
void ms_site_retag(const ms_block_facts_t *block, uint32_t site) {
    uint32_t before = ms_facts_site(block->facts);
    if (site == before) return;
    ms_arena_t *arena = ms_arena_enter();
    if (ms_process.sites == MS_SITES_EVERY)
        ms_exact_renamed(arena, before, site, block->base, block->size);
    else
        move_counts(arena, before, site, block);
    ms_trace_look(arena);
    if (ms_unlikely(arena->tracing)) ms_trace_named(arena, ms_block_payload(block), block->size, site);
    ms_arena_leave(arena);
    ms_facts_t facts = block->facts;
    facts.word0 = (facts.word0 & (((uint64_t)1 << MS_WORD0_SITE_SHIFT) - 1)) | ms_word0(site, 0, 0);
    facts.identity |= ms_identity_flag(MS_FLAG_SPECIAL);
    ms_close(block->header, facts);
}
