/* What the interval records say of sites, tasks and threads: the rows that changed most since they were last written,
 * and what their ids mean. Numbers are the sums a snapshot takes; only MS_LOCK_THREADS is held, for a few threads at a
 * time. */
#ifndef MS_TRACKING_INTERVAL_ROWS_H
#define MS_TRACKING_INTERVAL_ROWS_H

#include <stdint.h>

#include "export/series.h"
#include "tracking/model.h"
#include "tracking/pace.h"
#include "tracking/snapshot.h"

/* The three tables have the same columns. */
typedef ms_site_samples_row_t ms_sample_row_t;
_Static_assert(sizeof(ms_sample_row_t) == sizeof(ms_task_samples_row_t), "one row for all");
_Static_assert(sizeof(ms_sample_row_t) == sizeof(ms_thread_samples_row_t), "one row for all");

typedef struct ms_kept_rows {
    ms_table_id_t table;
    ms_sample_row_t rows[MS_PACE_ROWS];
    uint64_t weight[MS_PACE_ROWS]; /* how much they changed */
    uint32_t count, most;
} ms_kept_rows_t;

/* Rows that the next record is to hold; `series` knows what was written last. */
typedef struct ms_interval_rows {
    ms_series_t *series;
    uint64_t time_ns;
    ms_kept_rows_t sites, tasks, threads;
} ms_interval_rows_t;

void ms_interval_rows_init(ms_interval_rows_t *rows, ms_series_t *series, uint64_t time_ns, uint32_t most);
/* Memory for names in `region` only. */
void ms_interval_collect(ms_interval_rows_t *rows, ms_region_t *region);

/* Rows of the tables sites, tasks and threads that say what the ids of the kept rows mean, those not described yet. */
typedef struct ms_descriptions {
    ms_sites_row_t sites[MS_PACE_ROWS];
    ms_tasks_row_t tasks[MS_PACE_ROWS];
    ms_threads_row_t threads[MS_PACE_ROWS];
    uint32_t site_count, task_count, thread_count;
} ms_descriptions_t;
void ms_interval_describe(const ms_interval_rows_t *rows, ms_region_t *region, ms_descriptions_t *descriptions);

#endif
