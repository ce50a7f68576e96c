/* The slabs of one class that have room, lowest address first: memory fills from one end, so that blocks allocated together
 * lie together and slabs at the other end become empty. A pairing heap (Fredman, Sedgewick, Sleator, Tarjan 1986): adding
 * takes constant time, removing amortised logarithmic. Only the thread that runs the arena uses it. */
#ifndef MS_ALLOC_SLAB_HEAP_H
#define MS_ALLOC_SLAB_HEAP_H

#include "alloc/slab.h"

#pragma GCC visibility push(hidden)

void ms_slab_heap_add(ms_slab_t **root, ms_slab_t *slab);
void ms_slab_heap_remove(ms_slab_t **root, ms_slab_t *slab);
/* Takes the heap apart: all its slabs, linked by `next`. */
ms_slab_t *ms_slab_heap_unravel(ms_slab_t **root);

#pragma GCC visibility pop
#endif
