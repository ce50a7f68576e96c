/* Which snapshots a run wrote.
 *
 * The run's processes inherit MEMSCOPE_CONF and write DIR/NAME.PID.memscope each. Of the files that are new or changed
 * since the run began, those are left out that another `memscope run` in the same directory answers for: a file that
 * bears an exit status already, a process below it, or below another `memscope` that is running. */
#ifndef MS_CLI_COLLECT_H
#define MS_CLI_COLLECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* The *.memscope files of a directory at one time. */
typedef struct ms_listing ms_listing_t;
ms_listing_t *ms_listing_take(const char *directory);
void ms_listing_free(ms_listing_t *listing);

typedef struct ms_found {
    char *path;
    char *name; /* of the program */
    uint64_t pid, parent_pid;
    uint64_t allocated_bytes, peak_bytes, live_bytes;
    bool stamped; /* has an exit status or signal */
} ms_found_t;

/* The run's snapshots, that of `main_pid` first, then by allocated bytes, the most first. Unreadable ones are
 * complained about. */
ms_found_t *ms_collect(const char *directory, const ms_listing_t *before, pid_t main_pid, size_t *count);
void ms_found_free(ms_found_t *found, size_t count);

#endif
