/* Which live blocks can still be reached: a conservative search from the roots (tracking/roots.h) through the blocks.
 * Every aligned word that could be an address of a block counts as one.
 *
 *     reachable   from the roots by pointers to the starts of blocks
 *     possible    the same, but only with a pointer into the middle of a block somewhere on the way
 *     definite    nothing points to it, or only blocks that it leads to itself (a cycle): one block of each such group
 *     indirect    only lost blocks lead to it
 *
 * These are memcheck's kinds, found as memcheck finds them: blocks that are left over are taken as heads of groups in
 * the order of their addresses; whoever is reached from another head is a head no longer. That leaves one head for every
 * strongly connected component that nothing outside points into.
 *
 * The search has memory of its own, a byte a block and a stack as deep as there are blocks, and does not recurse. It
 * holds MS_LOCK_SLABS: other threads go on, but whoever needs a slab waits. Blocks smaller than a page are read where
 * they are, larger ones through ms_roots_copy(): a program may have protected or unmapped a page of its own. */
#ifndef MS_TRACKING_REACH_H
#define MS_TRACKING_REACH_H

#include "tracking/roots.h"
#include "tracking/walk.h"

typedef enum { MS_LEAK_LIVE, MS_LEAK_REACHABLE, MS_LEAK_POSSIBLE, MS_LEAK_INDIRECT, MS_LEAK_DEFINITE, MS_LEAK_KINDS } ms_leak_kind_t;
extern const char *const ms_leak_kind_names[MS_LEAK_KINDS]; /* live: not examined */

typedef struct ms_reach_report {
    ms_walk_counts_t counts;
    ms_roots_report_t roots;
    uint64_t heap_bytes; /* of blocks, read */
    uint64_t unreadable_bytes; /* of blocks */
} ms_reach_report_t;

/* Called once for every block that was live from the start to the end, under MS_LOCK_SLABS. */
typedef void ms_reach_visit_t(void *context, const ms_walk_block_t *block, ms_leak_kind_t kind);

/* 0, ENOMEM, or ENOTSUP: this process may not read its own memory. Under MS_LOCK_THREADS. */
int ms_reach(ms_roots_t *roots, ms_reach_visit_t *visit, void *context, ms_reach_report_t *report);

#endif
