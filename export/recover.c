/* See recover.h. */
#include "export/recover.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Rows of the three tables with their ids, sorted; their series have the same columns. */
typedef ms_site_samples_row_t ms_sample_row_t;
_Static_assert(sizeof(ms_sample_row_t) == sizeof(ms_task_samples_row_t), "one row for all");
_Static_assert(sizeof(ms_sample_row_t) == sizeof(ms_thread_samples_row_t), "one row for all");

typedef struct {
    uint64_t id;
    uint64_t *usage; /* of the row: allocated bytes and blocks, freed, live */
    uint64_t *peak;
} ms_owner_t;

static int by_id(const void *a, const void *b) {
    const ms_owner_t *left = a, *right = b;
    return left->id < right->id ? -1 : left->id > right->id;
}

static void set_usage(uint64_t *usage, const ms_sample_row_t *row) {
    usage[0] = row->allocated_bytes;
    usage[1] = row->allocated_blocks;
    usage[2] = row->allocated_bytes - row->live_bytes;
    usage[3] = row->allocated_blocks - row->live_blocks;
    usage[4] = row->live_bytes;
    usage[5] = row->live_blocks;
}

#define USAGE_IS_SIX_WORDS(type) \
    _Static_assert(offsetof(type, live_blocks) - offsetof(type, allocated_bytes) == 5 * sizeof(uint64_t), #type)
USAGE_IS_SIX_WORDS(ms_totals_row_t);
USAGE_IS_SIX_WORDS(ms_sites_row_t);
USAGE_IS_SIX_WORDS(ms_tasks_row_t);
USAGE_IS_SIX_WORDS(ms_threads_row_t);

/* Later samples of an id overwrite earlier ones. */
static void apply(ms_owner_t *owners, size_t count, const ms_sample_row_t *samples, size_t sample_count) {
    if (count == 0) return;
    qsort(owners, count, sizeof *owners, by_id);
    for (size_t i = 0; i < sample_count; i++) {
        ms_owner_t wanted = {.id = samples[i].id};
        const ms_owner_t *owner = bsearch(&wanted, owners, count, sizeof *owners, by_id);
        if (owner == NULL) continue;
        set_usage(owner->usage, &samples[i]);
        if (*owner->peak < samples[i].live_bytes) *owner->peak = samples[i].live_bytes; /* no null is */
    }
}

#define RECOVER(file, table, series)                                                                                   \
    do {                                                                                                               \
        ms_model_t *of = &(file)->model;                                                                               \
        ms_owner_t *owners = calloc(of->table.count + 1, sizeof *owners);                                              \
        for (size_t i = 0; owners != NULL && i < of->table.count; i++)                                                 \
            owners[i] =                                                                                                \
                (ms_owner_t){of->table.rows[i].id, &of->table.rows[i].allocated_bytes, &of->table.rows[i].peak_bytes}; \
        if (owners != NULL)                                                                                            \
            apply(owners, of->table.count, (const ms_sample_row_t *)of->series.rows, of->series.count);                \
        free(owners);                                                                                                  \
    } while (0)

static void recover_totals(ms_snapshot_file_t *file, const ms_samples_row_t *last) {
    if (file->model.totals.count > 0) return; /* the snapshot's own came through */
    ms_totals_row_t *totals = ms_snapshot_file_alloc(file, sizeof *totals);
    if (totals == NULL) return;
    ms_sample_row_t row = {.live_bytes = last->live_bytes,
                           .live_blocks = last->live_blocks,
                           .allocated_bytes = last->allocated_bytes,
                           .allocated_blocks = last->allocated_blocks};
    set_usage(&totals->allocated_bytes, &row);
    totals->peak_bytes = last->peak_bytes;
    totals->peak_error_bytes =
        last->peak_error_bytes == MS_NULL ? 0 : last->peak_error_bytes; /* a file of an older library */
    file->model.totals.rows = totals;
    file->model.totals.count = 1;
}

static void recover_process(ms_model_t *model, const ms_samples_row_t *last) {
    if (model->process.count > 0) {
        ms_process_row_t *process = model->process.rows;
        process->snapshot_unix_ns += last->time_ns - process->elapsed_ns;
        process->elapsed_ns = last->time_ns;
        process->rss_bytes = last->rss_bytes;
    }
    if (model->data_quality.count > 0) {
        ms_data_quality_row_t *quality = model->data_quality.rows;
        quality->allocation_events = last->allocated_blocks;
        quality->free_events = last->allocated_blocks - last->live_blocks;
        quality->own_memory_bytes = last->own_memory_bytes;
    }
}

void ms_snapshot_recover(ms_snapshot_file_t *file) {
    if (file->complete || file->model.samples.count == 0) return;
    const ms_samples_row_t *last = &file->model.samples.rows[file->model.samples.count - 1];
    recover_totals(file, last);
    recover_process(&file->model, last);
    RECOVER(file, sites, site_samples);
    RECOVER(file, tasks, task_samples);
    RECOVER(file, threads, thread_samples);
    char was[sizeof file->warning];
    memcpy(was, file->warning, sizeof was);
    snprintf(file->warning, sizeof file->warning,
             "no snapshot at its end (killed, or still running): shown is what was recorded "
             "up to %.3f s; %.120s",
             (double)last->time_ns / 1e9, was);
}
