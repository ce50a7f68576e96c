/* The table of live blocks by site, task, thread and kind (model.def: leaks, leak_checks), made from a walk over the heap
 * or from a search for what can be reached. */
#ifndef MS_TRACKING_LEAKS_H
#define MS_TRACKING_LEAKS_H

#include "tracking/reach.h"
#include "tracking/snapshot.h"

/* The knob's words. */
enum { MS_LEAKS_OFF, MS_LEAKS_LIVE, MS_LEAKS_SCAN };

/* Adds the tables if the knob says so. `roots`: for a search, else NULL. Under MS_LOCK_TASKS and MS_LOCK_THREADS.
 * False: no memory. */
bool ms_snapshot_leaks(ms_snapshot_t *snapshot, ms_roots_t *roots);

#endif
