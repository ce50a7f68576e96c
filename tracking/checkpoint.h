/* Checkpoints: the numbers of a snapshot, kept small, to be compared later.
 *
 * A checkpoint is made of the same rows as a snapshot (tracking/snapshot.h), of which it keeps ids and numbers, and the
 * names of tasks and threads. It lies in memory of its own. Between checkpoints the process's peak is watched:
 * ms_process.window_peak_bytes is the largest live bytes since the newest of them; whoever makes a checkpoint first
 * gives that to the older ones. The list of checkpoints belongs to MS_LOCK_EXPORT. */
#ifndef MS_TRACKING_CHECKPOINT_H
#define MS_TRACKING_CHECKPOINT_H

#include "memscope/memscope.h"
#include "tracking/snapshot.h"

/* One row: a task, a thread, a site or the process. */
typedef struct ms_counts {
    uint64_t id;
    uint64_t allocated_bytes, allocated_blocks;
    uint64_t live_bytes, live_blocks;
    uint64_t live_error_bytes; /* standard error of live_bytes; MS_NULL: counted, not estimated */
    const char *name;          /* of a task or thread */
} ms_counts_t;

#define MS_PARTS 4 /* memscope_part_t */

typedef struct memscope_checkpoint {
    ms_region_t region; /* the checkpoint lies in it */
    struct {
        ms_counts_t *rows; /* by id */
        size_t count;
    } parts[MS_PARTS];
    int64_t peak_bytes; /* largest live bytes from this checkpoint to the next one */
    bool watched;       /* in the list */
    struct memscope_checkpoint *older, *newer;
} ms_checkpoint_t;

#endif
