/* A snapshot: the model (tracking/model.h) filled from the counters of the running process, in memory of its own.
 *
 * Taking one holds MS_LOCK_EXPORT, _TASKS and _THREADS: threads do not start or end meanwhile, malloc and free go on. */
#ifndef MS_TRACKING_SNAPSHOT_H
#define MS_TRACKING_SNAPSHOT_H

#include <stdbool.h>
#include <stddef.h>

#include "tracking/model.h"

struct ms_thread;

/* Memory of a snapshot: pieces straight from the system, given back all at once. */
typedef struct ms_region {
    struct ms_region_piece *pieces; /* newest first */
    size_t used;                    /* of the newest */
} ms_region_t;

/* Zeroed; NULL when there is no memory. */
void *ms_region_alloc(ms_region_t *region, size_t bytes);
const char *ms_region_text(ms_region_t *region, const char *text, size_t length);
void ms_region_free(ms_region_t *region);
/* All of a file, NUL-terminated; NULL if it cannot be read. By open, read and close alone. */
char *ms_region_file(ms_region_t *region, const char *path, size_t *bytes);

/* One line of /proc/self/maps: start-end perms offset dev inode path. */
typedef struct ms_mapping {
    uint64_t start, end, offset;
    bool readable, executable;
    const char *path; /* in the line; "" of anonymous memory */
} ms_mapping_t;
bool ms_mapping_parse(char *line, ms_mapping_t *mapping);
uint64_t ms_parse_hex(char **at); /* leaves *at behind the digits */

typedef struct memscope_snapshot {
    ms_model_t model;
    ms_region_t region;
} ms_snapshot_t;

/* `reason` is "exit" or "call". NULL with errno ENOMEM. */
ms_snapshot_t *ms_snapshot_take(const char *reason);
/* Only threads, totals, tasks and sites. */
ms_snapshot_t *ms_snapshot_counts(void);

/* What says whose data it is, alone: process, knobs, modules. Takes no lock. */
ms_snapshot_t *ms_snapshot_identity(const char *reason);
/* Adds data_quality as far as it is known without any counts. */
bool ms_snapshot_quality(ms_snapshot_t *snapshot);
void ms_snapshot_free(ms_snapshot_t *snapshot);

/* A site's stack for a row that is written before the process ends: not copied. */
ms_pcs_t ms_stack_in_place(uint32_t id);
/* What a site is, but for its stack: id, kind, and what is known of a variable. Texts are where they are. */
void ms_site_describe(ms_sites_row_t *row, uint32_t id);
const char *ms_thread_state_name(const struct ms_thread *thread);

/* Rounded down: standard errors need no libm. */
uint64_t ms_square_root(unsigned __int128 value);

/* What the program was called as: base name of its first argument. */
const char *ms_program_name(void);

/* What is known of sites in mode exact (tracking/snapshot_exact.c): a site's counts and all else; once the rows are there,
 * its live blocks by age; for a row that is not exact, that it is not; and why something is null. False: no memory. */
bool ms_snapshot_exact_site(ms_snapshot_t *snapshot, ms_sites_row_t *row, uint32_t site);
bool ms_snapshot_ages(ms_snapshot_t *snapshot, uint32_t site_limit);
void ms_snapshot_not_exact(ms_sites_row_t *row);
void ms_snapshot_not_estimated(ms_sites_row_t *row);
void ms_snapshot_exact_reasons(ms_snapshot_t *snapshot, bool exact);

/* Calibrated estimates of the sites and the evidence for them, once sites and size classes are there
 * (tracking/snapshot_calibration.c). False: no memory. */
bool ms_snapshot_calibration(ms_snapshot_t *snapshot, uint32_t site_limit);

/* Notes why a value is null. */
void ms_snapshot_null(ms_snapshot_t *snapshot, const char *table, const char *column, const char *reason);

/* The parts that come from the kernel (tracking/snapshot_process.c). */
bool ms_snapshot_process(ms_snapshot_t *snapshot, const char *reason);
bool ms_snapshot_modules(ms_snapshot_t *snapshot);
#define MS_MODULES_NS 1000000000u /* who follows what is mapped looks so often */

#endif
