/* The knob `interval`: records of what the process holds, appended to its .memscope file while it runs by a thread of
 * the library's own, and completed by the snapshot at exit. docs/decisions/0007-interval-records.md says why so.
 *
 *     start -> (the thread) take the file -> record, record, ... -> finish: the last record, the snapshot, the end
 *     fork: the child has a file of its own (%p in the path) and a thread for it, or leaves the file to its parent
 *
 * The file is opened for each record: programs that close descriptors they do not know, or reuse them, neither stop the
 * records nor get them into files of theirs. What is written belongs to the writer thread until it has stopped. */
#ifndef MS_TRACKING_INTERVAL_H
#define MS_TRACKING_INTERVAL_H

#include <stdbool.h>
#include <stddef.h>

#include "tracking/snapshot.h"

/* From the library's constructor, if the knob is set. `path` is that of the .memscope file the process writes when it
 * ends; `path_again` tells what it is in a child. */
typedef bool ms_interval_path_t(char *path, size_t bytes);
void ms_interval_start(const char *path, ms_interval_path_t *path_again);

/* No more records, from the last thread's point of view: before the snapshot at exit is taken. */
void ms_interval_stop(void);

/* The snapshot at exit goes to `path`: true if that was ours to write, with 0 or the errno value in *error; or if the
 * file is another process's. False: write it as if there were no records. */
bool ms_interval_finish(const ms_snapshot_t *snapshot, const char *path, int *error);

#endif
