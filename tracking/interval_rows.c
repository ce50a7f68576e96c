#include "tracking/interval_rows.h"
#include "alloc/lock.h"
#include "alloc/thread.h"
#include "tracking/process.h"
#include "tracking/sites.h"
#include "tracking/stacks.h"
#include "tracking/tasks.h"
#include "tracking/variables.h"

#include <string.h>

#define THREADS_AT_ONCE 16 /* under one hold of the lock */
#define THREADS_MANY 256   /* above, only threads that allocated since their last row are looked at */

void ms_interval_rows_init(ms_interval_rows_t *rows, ms_series_t *series, uint64_t time_ns, uint32_t most) {
    rows->series = series;
    rows->time_ns = time_ns;
    rows->sites.table = MS_TABLE_site_samples;
    rows->tasks.table = MS_TABLE_task_samples;
    rows->threads.table = MS_TABLE_thread_samples;
    rows->sites.count = rows->tasks.count = rows->threads.count = 0;
    rows->sites.most = rows->tasks.most = rows->threads.most = most;
}

/* ---- the rows that changed most */

static uint64_t distance(uint64_t a, uint64_t b) {
    return a > b ? a - b : b - a;
}

/* How much a row differs from what was written of its id last; 0: not at all. Live bytes are what people look at. */
static uint64_t weight_of(const ms_interval_rows_t *rows, const ms_kept_rows_t *kept, const ms_sample_row_t *row) {
    static const uint64_t nothing[4];
    const ms_series_key_t *key = ms_series_key(rows->series, kept->table, row->id, false);
    const uint64_t *was = key ? key->values : nothing;
    uint64_t live = distance(row->live_bytes, was[0]), allocated = distance(row->allocated_bytes, was[2]);
    bool moved = live || allocated || row->live_blocks != was[1] || row->allocated_blocks != was[3];
    return moved ? live + allocated / 16 + 1 : 0;
}

static void consider(const ms_interval_rows_t *rows, ms_kept_rows_t *kept, const ms_sample_row_t *row) {
    uint64_t weight = weight_of(rows, kept, row);
    if (weight == 0) return;
    uint32_t at = kept->count;
    if (at == kept->most) { /* the lightest goes, if it is lighter */
        at = 0;
        for (uint32_t i = 1; i < kept->count; i++)
            if (kept->weight[i] < kept->weight[at]) at = i;
        if (kept->weight[at] >= weight) return;
    } else {
        kept->count++;
    }
    kept->rows[at] = *row;
    kept->weight[at] = weight;
}

static ms_sample_row_t row_of(const ms_interval_rows_t *rows, uint64_t id, const ms_cell_t *sum) {
    ms_sample_row_t row = {.time_ns = rows->time_ns,
                           .id = id,
                           .allocated_bytes = sum->allocated_bytes,
                           .allocated_blocks = sum->allocated_blocks};
    row.live_bytes = sum->allocated_bytes - ms_freed_of(sum->allocated_bytes, sum->freed_bytes);
    row.live_blocks = sum->allocated_blocks - ms_freed_of(sum->allocated_blocks, sum->freed_blocks);
    return row;
}

/* ---- sites */

static void consider_site(ms_interval_rows_t *rows, uint32_t id) {
    ms_cell_t sum = ms_site_sum(id);
    if (sum.allocated_blocks == 0) return;
    if (ms_process.sites == MS_SITES_SAMPLED && id < MS_SITE_VARIABLES) { /* rounded as in a snapshot */
        uint64_t half = (uint64_t)1 << (MS_WEIGHT_SHIFT - 1);
        sum.allocated_blocks = (sum.allocated_blocks + half) >> MS_WEIGHT_SHIFT;
        sum.freed_blocks = (sum.freed_blocks + half) >> MS_WEIGHT_SHIFT;
    }
    ms_sample_row_t row = row_of(rows, id, &sum);
    consider(rows, &rows->sites, &row);
}

static void collect_sites(ms_interval_rows_t *rows) {
    uint32_t stacks = atomic_load_explicit(&ms_stack_table.next, memory_order_acquire);
    if (ms_process.sites == MS_SITES_EVERY) consider_site(rows, 0);
    for (uint32_t id = MS_STACK_OTHER; id < stacks; id++) consider_site(rows, id);
    for (uint32_t i = 0, count = ms_variable_count(); i < count; i++) consider_site(rows, MS_SITE_VARIABLES + i);
}

/* ---- tasks */

static uint64_t task_id(uint32_t index) {
    const ms_task_t *task = ms_task_of_index(index);
    return task && task->state != MS_TASK_UNUSED ? atomic_load_explicit(&task->id, memory_order_acquire) : UINT64_MAX;
}

/* A slot may change hands while it is summed: its row then waits for the next record. */
static void collect_tasks(ms_interval_rows_t *rows) {
    for (uint32_t index = 0, count = ms_task_index_count(); index < count; index++) {
        uint64_t id = task_id(index);
        if (id == UINT64_MAX) continue;
        ms_cell_t sum = ms_task_sum(index);
        ms_sample_row_t row = row_of(rows, id, &sum);
        if (task_id(index) == id) consider(rows, &rows->tasks, &row);
    }
    const ms_series_table_t *written = &rows->series->tables[MS_TABLE_task_samples];
    for (uint32_t i = 0; i < written->count; i++) { /* tasks that have given up their slot: all they had was freed */
        const ms_series_key_t *key = &written->keys[i];
        if (key->values[0] == 0 || ms_task_find(key->id)) continue;
        ms_sample_row_t row = {.time_ns = rows->time_ns,
                               .id = key->id,
                               .allocated_bytes = key->values[2],
                               .allocated_blocks = key->values[3]};
        consider(rows, &rows->tasks, &row);
    }
}

/* ---- threads */

static void consider_thread(ms_interval_rows_t *rows, uint32_t code, bool many, unsigned char *seen) {
    const ms_thread_t *thread = ms_thread_of_code(code);
    if (!thread || thread->state == MS_THREAD_UNUSED) return;
    const ms_series_key_t *key = ms_series_key(rows->series, MS_TABLE_thread_samples, thread->id, false);
    if (key && seen) seen[key - rows->series->tables[MS_TABLE_thread_samples].keys] = 1;
    ms_flow_t own = ms_thread_own_flow(thread);
    if (many && own.allocated_blocks == (key ? key->values[3] : 0)) return;
    ms_flow_t others = ms_thread_freed_by_others(thread);
    ms_cell_t sum = {.allocated_bytes = own.allocated_bytes,
                     .allocated_blocks = own.allocated_blocks,
                     .freed_bytes = own.freed_bytes + others.freed_bytes,
                     .freed_blocks = own.freed_blocks + others.freed_blocks};
    ms_sample_row_t row = row_of(rows, thread->id, &sum);
    consider(rows, &rows->threads, &row);
}

static void collect_threads(ms_interval_rows_t *rows, ms_region_t *region) {
    const ms_series_table_t *written = &rows->series->tables[MS_TABLE_thread_samples];
    unsigned char *seen = ms_region_alloc(region, written->count + 1);
    uint32_t count = ms_thread_code_count();
    for (uint32_t code = MS_CODE_FOLDED + 1; code < count;) {
        ms_lock(MS_LOCK_THREADS);
        for (uint32_t i = 0; i < THREADS_AT_ONCE && code < count; i++)
            consider_thread(rows, code++, count > THREADS_MANY, seen);
        ms_unlock(MS_LOCK_THREADS);
    }
    for (uint32_t i = 0; seen && i < written->count; i++) { /* threads folded since: nothing of theirs lives */
        const ms_series_key_t *key = &written->keys[i];
        if (seen[i] || key->values[0] == 0) continue;
        ms_sample_row_t row = {.time_ns = rows->time_ns,
                               .id = key->id,
                               .allocated_bytes = key->values[2],
                               .allocated_blocks = key->values[3]};
        consider(rows, &rows->threads, &row);
    }
}

void ms_interval_collect(ms_interval_rows_t *rows, ms_region_t *region) {
    if (ms_process.sites != MS_SITES_NONE) collect_sites(rows);
    if (ms_process.track_tasks) collect_tasks(rows);
    collect_threads(rows, region);
}

/* ---- what ids mean */

static const char *text_of(ms_region_t *region, const char *text, size_t most) {
    return text ? ms_region_text(region, text, strnlen(text, most)) : NULL;
}

static void describe_site(uint32_t id, ms_sites_row_t *row) {
    bool is_variable = id >= MS_SITE_VARIABLES;
    *row = (ms_sites_row_t){.estimated = ms_process.sites == MS_SITES_SAMPLED && !is_variable};
    ms_site_describe(row, id);
    if (!is_variable) row->stack = ms_stack_in_place(id);
}

static bool describe_task(ms_region_t *region, uint64_t id, ms_tasks_row_t *row) {
    ms_lock(MS_LOCK_TASKS);
    const ms_task_t *task = ms_task_find(id);
    if (task)
        *row = (ms_tasks_row_t){.id = id,
                                .parent = task->parent ? task->parent : MS_NULL,
                                .name = text_of(region, task->name, MS_TASK_NAME),
                                .state = id == MS_TASK_OTHER            ? "other"
                                         : task->state == MS_TASK_ENDED ? "ended"
                                                                        : "active",
                                .start_ns = task->start_ns};
    ms_unlock(MS_LOCK_TASKS);
    return task != NULL;
}

static bool describe_thread(ms_region_t *region, uint64_t id, ms_threads_row_t *row) {
    bool found = false;
    ms_lock(MS_LOCK_THREADS);
    for (uint32_t code = MS_CODE_FOLDED + 1; !found && code < ms_thread_code_count(); code++) {
        const ms_thread_t *thread = ms_thread_of_code(code);
        found = thread && thread->state != MS_THREAD_UNUSED && thread->id == id;
        if (found)
            *row = (ms_threads_row_t){.id = id,
                                      .tid = thread->tid,
                                      .name = text_of(region, thread->name, sizeof thread->name),
                                      .state = ms_thread_state_name(thread),
                                      .start_ns = thread->start_ns};
    }
    ms_unlock(MS_LOCK_THREADS);
    return found;
}

static bool is_described(const ms_interval_rows_t *rows, ms_table_id_t table, uint64_t id) {
    const ms_series_key_t *key = ms_series_key(rows->series, table, id, false);
    return key && key->described;
}

void ms_interval_describe(const ms_interval_rows_t *rows, ms_region_t *region, ms_descriptions_t *descriptions) {
    descriptions->site_count = descriptions->task_count = descriptions->thread_count = 0;
    for (uint32_t i = 0; i < rows->sites.count; i++)
        if (!is_described(rows, MS_TABLE_site_samples, rows->sites.rows[i].id))
            describe_site((uint32_t)rows->sites.rows[i].id, &descriptions->sites[descriptions->site_count++]);
    for (uint32_t i = 0; i < rows->tasks.count; i++)
        if (!is_described(rows, MS_TABLE_task_samples, rows->tasks.rows[i].id))
            descriptions->task_count +=
                describe_task(region, rows->tasks.rows[i].id, &descriptions->tasks[descriptions->task_count]);
    for (uint32_t i = 0; i < rows->threads.count; i++)
        if (!is_described(rows, MS_TABLE_thread_samples, rows->threads.rows[i].id))
            descriptions->thread_count +=
                describe_thread(region, rows->threads.rows[i].id, &descriptions->threads[descriptions->thread_count]);
}
