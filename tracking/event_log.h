/* The event log's way out: a worker thread empties the rings of tracking/events.h into a .bin file (docs/format.md).
 *
 *     ms_event_log_start -> worker: take the slots of every ring, define what they name, encode, write; sleep
 *     ms_event_log_stop  -> epoch counts up, the worker empties the rings, writes the end and returns
 *
 * A file that does not take what it is given, now or at all, is tried again and again; meanwhile the rings fill up and
 * their threads drop and count. Nobody waits for it but ms_event_log_stop, and that for a second without progress at
 * most.
 *
 * After a fork the child has a log and a file of its own, which begin there.
 *
 * Start and stop hold MS_LOCK_EXPORT; everything else here is the worker's. */
#ifndef MS_TRACKING_EVENT_LOG_H
#define MS_TRACKING_EVENT_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "tracking/model.h"

#pragma GCC visibility push(hidden)

/* Into `directory`, NULL: where the knobs say. Returns 0 or an errno value: EALREADY while there is a log, EBUSY while
 * the last one cannot be ended. */
int ms_event_log_start(const char *directory);

/* 0 or an errno value: ESRCH if there is none, what kept the log from being written. */
int ms_event_log_stop(void);

/* Waits until what was logged before the call is in the file, or gets nowhere. */
void ms_event_log_flush(void);

/* Some ring needs the worker. Any thread. */
void ms_event_log_wake(void);

/* The row of this process's log, all of its sessions taken together; false if there was none. */
bool ms_event_log_row(ms_trace_row_t *row);

#pragma GCC visibility pop
#endif
