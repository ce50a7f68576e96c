/* Large blocks: over 32 KiB, or with an alignment that no slab gives.
 *
 * What is known of one stands in a descriptor outside the block, found by its payload address in a hash table, so that
 * a wild pointer is never followed and an overflow cannot reach it. The block itself carries the usual header.
 *
 *     base                            a multiple of the page size
 *     base + padding                  the header (padding only for alignments over 16)
 *     payload = header + 16
 *     base + mapped                   end
 *
 * Up to 1 MiB the memory comes from the backing, above it is a mapping of its own that mremap() can grow. Freed memory
 * stays in a cache for a second, at most half as much as is live or 32 MiB. Everything belongs to MS_LOCK_LARGE. */
#ifndef MS_ALLOC_LARGE_H
#define MS_ALLOC_LARGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "alloc/backend.h"

#define MS_DIRECT_MIN ((size_t)1 << 20) /* mappings of their own from here */

typedef struct ms_large {
    void *payload;
    char *base;
    size_t mapped;               /* bytes from base */
    size_t size;                 /* requested bytes */
    const ms_backend_t *backend; /* NULL: a mapping of its own */
    uint64_t born_ns;            /* monotonic */
    uint32_t sample_site;        /* stack of a sampled block, 0: not sampled */
    double sample_weight;        /* blocks it stands for */
    bool zeroed;                 /* fresh from the system: all zero */
    struct ms_large *next;       /* in its hash chain, its bin of the cache, or among unused descriptors */
    struct ms_large *previous;   /* in its bin */
    struct ms_large *older, *newer; /* in the cache, by time of freeing */
    uint64_t freed_ns;           /* in the cache: since when */
} ms_large_t;

/* A block that is in the table, header not yet written; NULL with errno ENOMEM. size <= PTRDIFF_MAX. */
ms_large_t *ms_large_allocate(size_t size, size_t alignment);

/* The block with this payload, NULL if there is none. It may go away as soon as the caller's right to it ends. */
ms_large_t *ms_large_find(const void *payload);

/* Takes the block out of the table; of two threads that free the same block only one gets it. */
ms_large_t *ms_large_remove(const void *payload);
/* Gives a removed block's memory to the cache or back. */
void ms_large_release(ms_large_t *block);

/* Makes a live block `size` bytes long without copying, moving it if it must. False: not possible, nothing changed.
 * The header moves along and must be written anew. */
bool ms_large_resize(ms_large_t *block, size_t size);

/* True if a block with this payload was among the last ones freed. */
bool ms_large_recently_freed(const void *payload);

void ms_large_trim(void); /* empties the cache */
void ms_large_shed(size_t bytes); /* the slabs grew: as much of the cache goes, so that the peak does not rise */
void ms_large_decay(uint64_t now_ns); /* gives back what has been in the cache for a second */

typedef struct ms_large_totals {
    uint64_t live_blocks, live_mapped_bytes, live_requested_bytes, cached_bytes;
} ms_large_totals_t;
ms_large_totals_t ms_large_totals(void);
uint64_t ms_large_mapped_bytes(void); /* live and cached, without the lock: a moment old */

/* Calls `visit` for every live block, under the lock. */
void ms_large_walk(void (*visit)(void *context, const ms_large_t *block), void *context);

#endif
