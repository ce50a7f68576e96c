/* Sites: where blocks were allocated. A site id is a stack (tracking/stacks.h; a single caller is a stack of one frame)
 * or, from MS_SITE_VARIABLES on, a variable (tracking/variables.h).
 *
 * The site in a block's header is counted exactly. A sampled block has no site in its header; its stack and weight
 * stand in front of its payload (ms_extension_t, ms_large_t), and the counts of that stack are estimates. A block that
 * is named is no sample any more: it stands in one row. */
#ifndef MS_TRACKING_SITES_H
#define MS_TRACKING_SITES_H

#include <stdint.h>

#include "alloc/arena.h"

#define MS_SITE_STACKS_MAX (1u << 20) /* ids below: stacks */
#define MS_SITE_VARIABLES (1u << 20)  /* ids from here: variables */
#define MS_SITE_VARIABLES_MAX (1u << 20)

/* Weighted blocks are counted in units of 2^-16 blocks, so that rounding adds no bias. */
#define MS_WEIGHT_SHIFT 16

/* The stack, or the caller alone, that led to the entry point; 0 if there is none to take. Registers that are not known are
 * found by unwinding our own frames. */
uint32_t ms_site_capture(ms_arena_t *arena, const ms_caller_t *from);

/* The calling thread's cell for the site. Never NULL. */
ms_cell_t *ms_site_cell_slow(ms_arena_t *arena, uint32_t site);
static inline ms_cell_t *ms_site_cell(ms_arena_t *arena, uint32_t site) {
    return ms_likely(arena->sites != NULL) ? ms_cell(arena->sites, site) : ms_site_cell_slow(arena, site);
}

void ms_site_count_alloc(ms_arena_t *arena, uint32_t site, size_t size);
void ms_site_count_free(ms_arena_t *arena, uint32_t site, size_t size);
void ms_site_count_sample(ms_arena_t *arena, uint32_t site, size_t size, double weight);
void ms_site_count_sample_free(ms_arena_t *arena, uint32_t site, size_t size, double weight);

/* Gives a live block another site; its bytes move along. */
void ms_site_retag(const ms_block_facts_t *block, uint32_t site);

/* Sum of a site's cells over all arenas. */
ms_cell_t ms_site_sum(uint32_t site);

#endif
