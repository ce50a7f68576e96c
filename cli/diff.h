/* Two snapshots compared: what changed from A to B, for the process and for each site, task, thread and size class.
 *
 * Rows are matched by what they mean, for ids and addresses are of one run only: sites by the functions of their stacks
 * (a frame without a name by its module's build-id and its offset there), tasks by the path of their names, threads by
 * name, size classes by size. Rows of one snapshot that mean the same are added up. What only one side has is 0 on the
 * other. Invariants, for every section but the variables (which are among the sites): the changes of its rows and of
 * its rest add up to the change of the process; comparing B with A gives the same numbers with the other sign.
 *
 * The comparison borrows from both files until ms_diff_free(). */
#ifndef MS_CLI_DIFF_H
#define MS_CLI_DIFF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "export/read.h"
#include "export/writer.h"

typedef enum {
#define MS_MEASURE(name, label, unit) MS_DIFF_##name,
#include "cli/diff.def"
#undef MS_MEASURE
    MS_DIFF_MEASURES
} ms_diff_measure_t;

typedef struct ms_diff_measure_info {
    const char *name, *label, *unit;
} ms_diff_measure_info_t;
extern const ms_diff_measure_info_t ms_diff_measure_info[MS_DIFF_MEASURES];

/* Which sites are one: those with the same telling function; with the same functions in the whole stack; with the same
 * functions, files and lines there. */
typedef enum { MS_DIFF_BY_FUNCTION, MS_DIFF_BY_STACK, MS_DIFF_BY_LINE } ms_diff_by_t;

typedef struct ms_change {
    bool known;   /* false: a side has not measured it */
    int64_t a, b; /* of counts: modulo 2^64, so that sums are exact whatever a damaged file holds */
    double error; /* standard error of b - a; 0: both are exact; NAN: estimated, the error is not known */
    double
        limit; /* b - a may be chance up to here: two standard errors, and how far peaks may be off; NAN: not known */
} ms_change_t;

int64_t ms_change_of(const ms_change_t *change);
/* 1: more than may be chance; 0: not; -1: it is not known how far it may be off. */
int ms_change_is_significant(const ms_change_t *change);

typedef struct ms_diff_row {
    char *name;
    size_t rows[2];             /* how many of A's and of B's are in it */
    bool estimated;             /* from samples, on one side at least */
    const ms_sites_row_t *site; /* sites: the largest one in it; NULL otherwise */
    int side;                   /* whose: 0 A's, 1 B's */
    ms_change_t change[MS_DIFF_MEASURES];
} ms_diff_row_t;

typedef enum {
    MS_DIFF_SITES,
    MS_DIFF_VARIABLES,
    MS_DIFF_TASKS,
    MS_DIFF_THREADS,
    MS_DIFF_CLASSES,
    MS_DIFF_SECTIONS
} ms_diff_section_id_t;

typedef struct ms_diff_section {
    const char *name;    /* as in the model: "sites", ... */
    ms_diff_row_t *rows; /* the largest change of `sort` first */
    size_t count;
    ms_diff_measure_t sort; /* the measure asked for, or the nearest one that this section has */
    bool has_rest;          /* false: variables, or the totals of a side are lost */
    ms_diff_row_t rest;     /* what the process has beyond the sum of the rows */
} ms_diff_section_t;

typedef struct ms_diff_total {
    const char *name, *label, *unit;
    ms_change_t change;
} ms_diff_total_t;

typedef struct ms_diff {
    const ms_snapshot_file_t *file[2];
    const char *path[2];
    ms_diff_by_t by;
    ms_diff_measure_t sort;
    ms_diff_total_t *totals;
    size_t total_count;
    ms_diff_section_t sections[MS_DIFF_SECTIONS];
} ms_diff_t;

/* Symbols must have been looked up in both. */
ms_diff_t *ms_diff_make(const ms_snapshot_file_t *a, const ms_snapshot_file_t *b, ms_diff_by_t by,
                        ms_diff_measure_t sort);
void ms_diff_free(ms_diff_t *diff);

/* diff_match.c: rows of one key are one; the key is to be freed. The names are for people. */
char *ms_site_key(const ms_model_t *model, const ms_sites_row_t *site, ms_diff_by_t by);
char *ms_site_key_name(const ms_model_t *model, const ms_sites_row_t *site, ms_diff_by_t by);
char **ms_task_paths(const ms_model_t *model); /* one a row of tasks; each, and the array, to be freed */
const char *ms_thread_key(const ms_threads_row_t *thread);

/* diff_text.c: at most `top` rows a section. diff_json.c: everything; a document of cli/files.h. */
void ms_diff_print(FILE *out, const ms_diff_t *diff, size_t top);
int ms_diff_json(const void *diff, ms_writer_t *writer);

#endif
