/* Checks that cost too much to be always on: knobs junk, guard and quarantine. Called only when one of them is set. */
#ifndef MS_ALLOC_PARANOIA_H
#define MS_ALLOC_PARANOIA_H

#include <stdbool.h>
#include <stddef.h>

#include "alloc/arena.h"

void ms_paranoia_cut(void *payload, size_t bytes);   /* a block was cut from a slab */
void ms_paranoia_taken(void *payload, size_t bytes); /* a free block is about to be used again: was it written to? */
void ms_paranoia_born(void *payload);                /* a block is handed out: fill it and its slack */
void ms_paranoia_resized(void *payload, size_t before); /* a large block stayed: fill what it has more, and its slack */
void ms_paranoia_dies(const void *payload, const ms_block_facts_t *block); /* it is being freed: is its slack intact? */
bool ms_paranoia_keep(ms_arena_t *arena, const ms_block_facts_t *block);   /* true: it stays in quarantine */
void ms_paranoia_dead(const ms_block_facts_t *block); /* its memory goes to a free list: fill it */
void ms_paranoia_flush(ms_arena_t *arena);           /* empties the quarantine */

extern _Atomic(uint64_t) ms_quarantined[MS_SMALL_CLASSES]; /* blocks in quarantine: freed, but on no list yet */

#endif
