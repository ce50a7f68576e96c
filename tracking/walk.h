/* A walk over the heap: every live block and what its header says, with no trace kept of anything that happened.
 *
 *     ms_walk -> large blocks, under MS_LOCK_LARGE
 *             -> each group of slabs, under MS_LOCK_SLABS -> ms_walk_read, block by block
 *
 * Other threads go on: malloc and free wait for a walk only where they fetch or return a slab or a large block, and
 * then for one group of slabs at most. What is found is therefore not one moment's state. A block that lives through
 * the whole walk is visited exactly once; one that comes or goes meanwhile may be visited or not; one that is resized
 * in place counts with one of its sizes. Blocks in free lists, in quarantine, on their way home to another thread and
 * in the cache of large blocks are not live: their headers say so. */
#ifndef MS_TRACKING_WALK_H
#define MS_TRACKING_WALK_H

#include <stddef.h>
#include <stdint.h>

#include "alloc/slab.h"

typedef struct ms_walk_block {
    void *payload;    /* what the program got */
    size_t size;      /* requested bytes */
    uint32_t task;    /* index of its task */
    uint32_t code;    /* of the thread that allocated it */
    uint32_t site;    /* id, 0: not recorded */
    uint32_t class;   /* size class; MS_CLASS_LARGE */
    double weight;    /* blocks this one stands for, where it was sampled; 0: its site, if any, is counted */
    uint64_t born_ms; /* since the start of the process, as coarse as the header's age */
} ms_walk_block_t;

typedef struct ms_walk_counts {
    uint64_t blocks, bytes; /* visited */
    uint64_t unsettled;     /* headers that were being written, or are damaged: left out */
} ms_walk_counts_t;

/* Called with a lock held: it must not allocate from this malloc, nor free. */
typedef void ms_walk_visit_t(void *context, const ms_walk_block_t *block);

ms_walk_counts_t ms_walk(ms_walk_visit_t *visit, void *context);

/* The same for large blocks alone. */
ms_walk_counts_t ms_walk_large(ms_walk_visit_t *visit, void *context);

typedef enum { MS_WALK_FREE, MS_WALK_LIVE, MS_WALK_UNSETTLED } ms_walk_state_t;

/* The block with this base payload (header + 16) of a slab in use whose blocks are of `class`, under MS_LOCK_SLABS.
 * *block is written if it is live. */
ms_walk_state_t ms_walk_read(const char *base, uint32_t class, ms_walk_block_t *block);

/* A slab as it was at one moment; its thread may give it another class meanwhile, as long as no block of it is in use. */
typedef struct ms_walk_slab {
    const char *start;
    uint32_t class, carved; /* blocks cut from it so far, 0: it is not in use */
} ms_walk_slab_t;

/* Under MS_LOCK_SLABS. */
ms_walk_slab_t ms_walk_slab(const ms_slab_t *slab);

#endif
