#include "tracking/checkpoint.h"
#include "alloc/lock.h"
#include "tracking/process.h"
#include "tracking/stacks.h"
#include "tracking/variables.h"

#include <errno.h>
#include <string.h>

/* ---- sorting: qsort() may allocate */

typedef bool precedes_fn(const void *a, const void *b);

static void swap(char *a, char *b, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) {
        char byte = a[i];
        a[i] = b[i];
        b[i] = byte;
    }
}

/* The larger child goes up until the row that came to `at` has found its place (heapsort, J. W. J. Williams 1964). */
static void sift(char *rows, size_t count, size_t bytes, size_t at, precedes_fn *precedes) {
    for (size_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && precedes(rows + child * bytes, rows + (child + 1) * bytes)) child++;
        if (!precedes(rows + at * bytes, rows + child * bytes)) return;
        swap(rows + at * bytes, rows + child * bytes, bytes);
    }
}

static void sort(void *all, size_t count, size_t bytes, precedes_fn *precedes) {
    char *rows = all;
    for (size_t at = count / 2; at-- > 0;) sift(rows, count, bytes, at, precedes);
    for (size_t last = count; last-- > 1;) {
        swap(rows, rows + last * bytes, bytes);
        sift(rows, last, bytes, 0, precedes);
    }
}

/* ---- from a snapshot */

static bool id_precedes(const void *a, const void *b) {
    return ((const ms_counts_t *)a)->id < ((const ms_counts_t *)b)->id;
}

#define COUNTS_OF(row)                                                                      \
    .allocated_bytes = (row)->allocated_bytes, .allocated_blocks = (row)->allocated_blocks, \
    .live_bytes = (row)->live_bytes, .live_blocks = (row)->live_blocks

static const char *name_of(ms_checkpoint_t *checkpoint, const char *name) {
    return name ? ms_region_text(&checkpoint->region, name, strlen(name)) : NULL;
}

static bool make_room(ms_checkpoint_t *checkpoint, memscope_part_t part, size_t count) {
    ms_counts_t *rows = ms_region_alloc(&checkpoint->region, (count + 1) * sizeof *rows);
    checkpoint->parts[part].rows = rows;
    checkpoint->parts[part].count = count;
    return rows != NULL;
}

static bool keep(ms_checkpoint_t *checkpoint, const ms_model_t *model) {
    if (!make_room(checkpoint, MEMSCOPE_PART_PROCESS, 1) ||
        !make_room(checkpoint, MEMSCOPE_PART_TASK, model->tasks.count) ||
        !make_room(checkpoint, MEMSCOPE_PART_THREAD, model->threads.count) ||
        !make_room(checkpoint, MEMSCOPE_PART_SITE, model->sites.count))
        return false;
    checkpoint->parts[MEMSCOPE_PART_PROCESS].rows[0] =
        (ms_counts_t){COUNTS_OF(model->totals.rows), .live_error_bytes = MS_NULL};
    for (size_t i = 0; i < model->tasks.count; i++) {
        const ms_tasks_row_t *row = &model->tasks.rows[i];
        checkpoint->parts[MEMSCOPE_PART_TASK].rows[i] = (ms_counts_t){
            COUNTS_OF(row), .id = row->id, .live_error_bytes = MS_NULL, .name = name_of(checkpoint, row->name)};
    }
    for (size_t i = 0; i < model->threads.count; i++) {
        const ms_threads_row_t *row = &model->threads.rows[i];
        checkpoint->parts[MEMSCOPE_PART_THREAD].rows[i] = (ms_counts_t){
            COUNTS_OF(row), .id = row->id, .live_error_bytes = MS_NULL, .name = name_of(checkpoint, row->name)};
    }
    for (size_t i = 0; i < model->sites.count; i++) {
        const ms_sites_row_t *row = &model->sites.rows[i];
        checkpoint->parts[MEMSCOPE_PART_SITE].rows[i] =
            (ms_counts_t){COUNTS_OF(row), .id = row->id, .live_error_bytes = row->live_error_bytes};
    }
    for (int part = 0; part < MS_PARTS; part++)
        sort(checkpoint->parts[part].rows, checkpoint->parts[part].count, sizeof(ms_counts_t), id_precedes);
    return true;
}

static void let_go(ms_checkpoint_t *checkpoint) {
    ms_region_t region = checkpoint->region;
    ms_region_free(&region);
}

static ms_checkpoint_t *counts_now(void) {
    ms_snapshot_t *snapshot = ms_snapshot_counts();
    if (!snapshot) return NULL;
    ms_region_t region = {0};
    ms_checkpoint_t *checkpoint = ms_region_alloc(&region, sizeof *checkpoint);
    if (checkpoint) {
        checkpoint->region = region;
        if (!keep(checkpoint, &snapshot->model)) {
            let_go(checkpoint);
            checkpoint = NULL;
        }
    }
    ms_snapshot_free(snapshot);
    if (!checkpoint) errno = ENOMEM;
    return checkpoint;
}

/* ---- the peak since a checkpoint */

static ms_checkpoint_t *newest;

/* Gives what was seen since the newest checkpoint to all, and starts anew at what is live. Under MS_LOCK_EXPORT. */
static void close_window(void) {
    int64_t live = atomic_load(&ms_process.live_bytes), seen = atomic_exchange(&ms_process.window_peak_bytes, live);
    for (ms_checkpoint_t *checkpoint = newest; checkpoint; checkpoint = checkpoint->older)
        if (seen > checkpoint->peak_bytes) checkpoint->peak_bytes = seen;
}

static void watch(ms_checkpoint_t *checkpoint) {
    ms_lock(MS_LOCK_EXPORT);
    close_window();
    checkpoint->peak_bytes = (int64_t)checkpoint->parts[MEMSCOPE_PART_PROCESS].rows->live_bytes;
    checkpoint->watched = true;
    checkpoint->older = newest;
    if (newest) newest->newer = checkpoint;
    newest = checkpoint;
    ms_unlock(MS_LOCK_EXPORT);
}

static void unwatch(ms_checkpoint_t *checkpoint) {
    ms_lock(MS_LOCK_EXPORT);
    if (checkpoint->older) checkpoint->older->newer = checkpoint->newer;
    *(checkpoint->newer ? &checkpoint->newer->older : &newest) = checkpoint->older;
    ms_unlock(MS_LOCK_EXPORT);
}

memscope_checkpoint_t *memscope_checkpoint(void) {
    ms_checkpoint_t *checkpoint = counts_now();
    if (checkpoint) watch(checkpoint);
    return checkpoint;
}

void memscope_checkpoint_free(memscope_checkpoint_t *checkpoint) {
    if (!checkpoint) return;
    if (checkpoint->watched) unwatch(checkpoint);
    let_go(checkpoint);
}

uint64_t memscope_checkpoint_peak(const memscope_checkpoint_t *checkpoint, uint64_t *error_bytes) {
    memscope_usage_t usage;
    memscope_process_usage(&usage); /* settles this thread */
    if (error_bytes) *error_bytes = usage.peak_error_bytes;
    if (!checkpoint) return usage.peak_bytes;
    ms_lock(MS_LOCK_EXPORT);
    close_window();
    uint64_t peak = (uint64_t)checkpoint->peak_bytes;
    ms_unlock(MS_LOCK_EXPORT);
    return peak > usage.live_bytes ? peak : usage.live_bytes;
}

/* ---- differences */

typedef struct differences {
    ms_region_t region;
    memscope_difference_t *rows;
    size_t count, room;
} differences_t;

/* The variance of a difference of two estimates is at most the sum of theirs: what both saw is counted twice. */
static uint64_t error_of(const ms_counts_t *before, const ms_counts_t *after) {
    unsigned __int128 a = before->live_error_bytes, b = after->live_error_bytes;
    return ms_square_root((a == MS_NULL ? 0 : a * a) + (b == MS_NULL ? 0 : b * b));
}

static void add(differences_t *all, memscope_part_t part, const ms_counts_t *before, const ms_counts_t *after) {
    const ms_counts_t nothing = {.live_error_bytes = MS_NULL};
    const ms_counts_t *known = after ? after : before;
    if (!before) before = &nothing;
    if (!after) after = &nothing;
    memscope_difference_t *row = &all->rows[all->count];
    *row = (memscope_difference_t){
        .part = part,
        .id = known->id,
        .name = known->name,
        .allocated_bytes = (int64_t)(after->allocated_bytes - before->allocated_bytes),
        .allocated_blocks = (int64_t)(after->allocated_blocks - before->allocated_blocks),
        .live_bytes = (int64_t)(after->live_bytes - before->live_bytes),
        .live_blocks = (int64_t)(after->live_blocks - before->live_blocks),
        .live_bytes_now = after->live_bytes,
        .estimated = known->live_error_bytes != MS_NULL,
        .live_error_bytes = error_of(before, after),
    };
    bool changed = row->allocated_bytes || row->allocated_blocks || row->live_bytes || row->live_blocks;
    all->count += changed || part == MEMSCOPE_PART_PROCESS;
}

/* What a site is called: a variable, or a stack. */
static bool name_site(ms_region_t *region, memscope_difference_t *row) {
    const ms_variable_t *variable = ms_variable_of_site((uint32_t)row->id);
    if (variable) {
        row->name = variable->named.name;
        row->type = variable->named.type;
        row->function = variable->named.function;
        row->file = variable->named.file;
        row->line = variable->named.line;
        return true;
    }
    row->depth = row->id ? ms_stack_pcs((uint32_t)row->id, NULL, 0) : 0;
    uint64_t *pcs = ms_region_alloc(region, (row->depth + 1) * sizeof *pcs);
    if (!pcs) return false;
    ms_stack_pcs((uint32_t)row->id, pcs, row->depth);
    row->stack = pcs;
    return true;
}

static bool grows_less(const void *a, const void *b) {
    const memscope_difference_t *left = a, *right = b; /* the largest growth first */
    if (left->live_bytes != right->live_bytes) return left->live_bytes > right->live_bytes;
    return left->allocated_bytes > right->allocated_bytes;
}

/* Both are sorted by id. */
static bool compare_part(differences_t *all, memscope_part_t part, const ms_checkpoint_t *before,
                         const ms_checkpoint_t *after) {
    const ms_counts_t *a = before ? before->parts[part].rows : NULL, *b = after->parts[part].rows;
    const ms_counts_t *a_end = before ? a + before->parts[part].count : NULL, *b_end = b + after->parts[part].count;
    size_t first = all->count;
    while (a < a_end || b < b_end) {
        bool only_a = b == b_end || (a < a_end && a->id < b->id), only_b = a == a_end || (b < b_end && b->id < a->id);
        add(all, part, only_b ? NULL : a, only_a ? NULL : b);
        a += !only_b;
        b += !only_a;
    }
    for (size_t i = first; i < all->count; i++)
        if (part == MEMSCOPE_PART_SITE && !name_site(&all->region, &all->rows[i])) return false;
    sort(all->rows + first, all->count - first, sizeof *all->rows, grows_less);
    return true;
}

static bool compare(differences_t *all, const ms_checkpoint_t *before, const ms_checkpoint_t *after) {
    for (int part = 0; part < MS_PARTS; part++)
        all->room += after->parts[part].count + (before ? before->parts[part].count : 0);
    all->rows = ms_region_alloc(&all->region, (all->room + 1) * sizeof *all->rows);
    for (int part = 0; all->rows && part < MS_PARTS; part++)
        if (!compare_part(all, (memscope_part_t)part, before, after)) return false;
    return all->rows != NULL;
}

int memscope_checkpoint_diff(const memscope_checkpoint_t *before, const memscope_checkpoint_t *after,
                             memscope_visit_t visit, void *context) {
    ms_checkpoint_t *now = after ? NULL : counts_now();
    if (!after && !now) return ENOMEM;
    differences_t all = {.count = 0};
    int result = compare(&all, before, after ? after : now) ? 0 : ENOMEM;
    for (size_t i = 0; result == 0 && i < all.count; i++) result = visit(context, &all.rows[i]);
    ms_region_free(&all.region);
    if (now) let_go(now);
    return result;
}
