/* Memory that other threads freed for a thread that does not come for it.
 *
 * Blocks freed by others wait in their owner's inbox until it refills a list. One that sleeps, or never allocates again,
 * would keep them for ever. So whoever posts to an inbox with more than MS_RECLAIM_MIN sorts what is in it by slabs, where it
 * waits from then on: a slab all of whose blocks are there is nobody's any more. No list of the owner holds one of its blocks,
 * and it is in no list of slabs with room (those have free blocks, or blocks not cut yet); so it goes to the pool without the
 * owner knowing. A block is looked at once by others, and the one who posts never has to look at more than that. */
#ifndef MS_ALLOC_RECLAIM_H
#define MS_ALLOC_RECLAIM_H

#include "alloc/arena.h"

#define MS_RECLAIM_MIN ((uint64_t)4 << 20) /* bytes in an inbox that nobody minds */

/* `bytes` more lie in the inbox. */
void ms_reclaim_posted(ms_arena_t *owner, size_t bytes);

/* Sorts what is in the inbox, and gives the slabs to the pool that have come home as a whole. Under MS_LOCK_THREADS. */
void ms_reclaim(ms_arena_t *owner);

/* Sorted blocks of one slab, linked like an inbox; NULL: there are none. They are counted as drained already. The arena's own
 * thread, or under MS_LOCK_THREADS. */
void *ms_reclaim_take(ms_arena_t *owner);

/* While is_sorted_now is set: until nobody sorts, and all that others freed is in the inbox, with its slabs, or counted. */
void ms_reclaim_wait(void);

#endif
