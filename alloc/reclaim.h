/* Memory that other threads freed for a thread that does not come for it.
 *
 * Blocks freed by others wait in their owner's inbox until it refills a list. One that sleeps, or never allocates again,
 * would keep them for ever. So whoever posts to an inbox that has grown beyond a limit looks into it: a slab all of whose
 * blocks are there is nobody's any more. No list of the owner holds one of its blocks, and it is in no list of slabs with
 * room (those have free blocks, or blocks not cut yet); so it can go to the pool without the owner knowing. Blocks of
 * other slabs go back into the inbox, and the limit is raised to twice what they are: every block is looked at a few
 * times at most, however often others post. */
#ifndef MS_ALLOC_RECLAIM_H
#define MS_ALLOC_RECLAIM_H

#include "alloc/arena.h"

#define MS_RECLAIM_MIN ((uint64_t)4 << 20) /* bytes in an inbox that nobody minds */

/* `bytes` more lie in the inbox. */
void ms_reclaim_posted(ms_arena_t *owner, size_t bytes);

/* Gives the slabs to the pool that are in the inbox as a whole. Under MS_LOCK_THREADS. */
void ms_reclaim(ms_arena_t *owner);

#endif
