/* See diff.h. Every row of either snapshot becomes an entry with a key; entries are sorted by key, and a run of equal
 * keys is one row of the comparison. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/diff.h"
#include "cli/files.h"
#include "cli/site_name.h"
#include "cli/text.h"

/* What a row, or the rows of one key of one side, have of each measure. */
typedef struct ms_amounts {
    uint64_t value[MS_DIFF_MEASURES];
    bool unknown[MS_DIFF_MEASURES];
    double variance[MS_DIFF_MEASURES]; /* of an estimate; NAN: not known */
    double off[MS_DIFF_MEASURES];      /* the true value differs by at most this */
} ms_amounts_t;

typedef struct ms_entry {
    char *key;
    int side;
    size_t index; /* in its table */
    bool estimated;
    const ms_sites_row_t *site;
    ms_amounts_t amounts;
} ms_entry_t;

typedef struct ms_entries {
    ms_entry_t *entries;
    size_t count, capacity;
} ms_entries_t;

const ms_diff_measure_info_t ms_diff_measure_info[MS_DIFF_MEASURES] = {
#define MS_MEASURE(name, label, unit) {#name, label, unit},
#include "cli/diff.def"
#undef MS_MEASURE
};

/* ---- changes ---- */

int64_t ms_change_of(const ms_change_t *change) {
    return (int64_t)((uint64_t)change->b - (uint64_t)change->a);
}

int ms_change_is_significant(const ms_change_t *change) {
    if (!change->known || isnan(change->limit)) return -1;
    return fabs((double)ms_change_of(change)) > change->limit;
}

static ms_change_t make_change(const ms_amounts_t *a, const ms_amounts_t *b, ms_diff_measure_t m) {
    ms_change_t change = {
        .known = !a->unknown[m] && !b->unknown[m],
        .a = (int64_t)a->value[m],
        .b = (int64_t)b->value[m],
        .error = sqrt(a->variance[m] + b->variance[m]),
    };
    change.limit = 2 * change.error + a->off[m] + b->off[m];
    return change;
}

/* ---- amounts ---- */

#define TAKE_USAGE(amounts, row)                                               \
    do {                                                                       \
        (amounts)->value[MS_DIFF_live_bytes] = (row)->live_bytes;              \
        (amounts)->value[MS_DIFF_live_blocks] = (row)->live_blocks;            \
        (amounts)->value[MS_DIFF_allocated_bytes] = (row)->allocated_bytes;    \
        (amounts)->value[MS_DIFF_allocated_blocks] = (row)->allocated_blocks;  \
        (amounts)->value[MS_DIFF_freed_bytes] = (row)->freed_bytes;            \
        (amounts)->value[MS_DIFF_freed_blocks] = (row)->freed_blocks;          \
        (amounts)->value[MS_DIFF_peak_bytes] = (row)->peak_bytes;              \
        (amounts)->unknown[MS_DIFF_peak_bytes] = (row)->peak_bytes == MS_NULL; \
        (amounts)->unknown[MS_DIFF_at_peak_bytes] = true;                      \
    } while (0)

/* Of a Poisson sample over bytes with mean gap R, a block of s bytes hit with probability p = 1 - e^(-s/R) adds
 * s^2 (1 - p) / p to the variance of the sum, which is at most R s: so R times the sum is at least its variance. The
 * number of blocks has no such bound; nor is there one for another kind of sample (gap 0). */
static double byte_variance(uint64_t gap, uint64_t bytes) {
    return gap == 0 ? NAN : (double)gap * (double)bytes;
}

static ms_amounts_t site_amounts(const ms_model_t *model, const ms_sites_row_t *site) {
    ms_amounts_t amounts = {.value = {0}};
    TAKE_USAGE(&amounts, site);
    amounts.value[MS_DIFF_at_peak_bytes] = site->at_peak_bytes;
    amounts.unknown[MS_DIFF_at_peak_bytes] = site->at_peak_bytes == MS_NULL;
    if (!site->estimated) return amounts;
    uint64_t gap = model->data_quality.count > 0 ? model->data_quality.rows->sample_bytes : 0;
    double live = site->live_error_bytes == MS_NULL ? NAN : (double)site->live_error_bytes;
    for (int m = 0; m < MS_DIFF_MEASURES; m++) amounts.variance[m] = NAN;
    amounts.variance[MS_DIFF_live_bytes] = live * live;
    amounts.variance[MS_DIFF_allocated_bytes] = byte_variance(gap, site->allocated_bytes);
    amounts.variance[MS_DIFF_freed_bytes] = byte_variance(gap, site->freed_bytes);
    return amounts;
}

static ms_amounts_t class_amounts(const ms_size_classes_row_t *row) {
    ms_amounts_t amounts = {.value = {0}};
    for (int m = 0; m < MS_DIFF_MEASURES; m++) amounts.unknown[m] = true;
    amounts.value[MS_DIFF_live_blocks] = row->live_blocks;
    amounts.value[MS_DIFF_allocated_blocks] = row->allocated_blocks;
    amounts.value[MS_DIFF_freed_blocks] = row->freed_blocks;
    amounts.unknown[MS_DIFF_live_blocks] = amounts.unknown[MS_DIFF_allocated_blocks] = false;
    amounts.unknown[MS_DIFF_freed_blocks] = false;
    return amounts;
}

static ms_amounts_t process_amounts(const ms_model_t *model) {
    ms_amounts_t amounts = {.value = {0}};
    if (model->totals.count > 0) {
        TAKE_USAGE(&amounts, model->totals.rows);
        amounts.value[MS_DIFF_at_peak_bytes] = model->totals.rows->peak_bytes;
        amounts.unknown[MS_DIFF_at_peak_bytes] = false;
        amounts.off[MS_DIFF_peak_bytes] = (double)model->totals.rows->peak_error_bytes;
        amounts.off[MS_DIFF_at_peak_bytes] = amounts.off[MS_DIFF_peak_bytes];
    } else {
        for (int m = 0; m < MS_DIFF_MEASURES; m++) amounts.unknown[m] = true;
    }
    return amounts;
}

/* Peaks were at different times: their sum says nothing. */
static void add_amounts(ms_amounts_t *sum, const ms_amounts_t *more, bool first) {
    for (int m = 0; m < MS_DIFF_MEASURES; m++) {
        sum->value[m] += more->value[m];
        sum->unknown[m] |= more->unknown[m] || (m == MS_DIFF_peak_bytes && !first);
        sum->variance[m] += more->variance[m];
        sum->off[m] += more->off[m];
    }
}

/* What is left of the process without `rows`. */
static void take_amounts(ms_amounts_t *rest, const ms_amounts_t *rows) {
    for (int m = 0; m < MS_DIFF_MEASURES; m++) {
        rest->value[m] -= rows->value[m];
        rest->unknown[m] |= rows->unknown[m] || m == MS_DIFF_peak_bytes;
        rest->variance[m] += rows->variance[m];
    }
}

/* ---- entries ---- */

static ms_entry_t *add_entry(ms_entries_t *entries, int side, size_t index, char *key) {
    if (entries->count == entries->capacity) {
        entries->capacity = entries->capacity == 0 ? 64 : 2 * entries->capacity;
        entries->entries = ms_reallocate(entries->entries, entries->capacity * sizeof *entries->entries);
    }
    ms_entry_t *entry = &entries->entries[entries->count++];
    *entry = (ms_entry_t){.key = key, .side = side, .index = index};
    return entry;
}

static void add_sites(ms_entries_t *entries, const ms_diff_t *diff, int side, bool variables_only) {
    const ms_model_t *model = &diff->file[side]->model;
    for (size_t i = 0; i < model->sites.count; i++) {
        const ms_sites_row_t *site = &model->sites.rows[i];
        if (variables_only && !ms_site_is_variable(site)) continue;
        ms_entry_t *entry = add_entry(entries, side, i, ms_site_key(model, site, diff->by));
        entry->site = site;
        entry->estimated = site->estimated;
        entry->amounts = site_amounts(model, site);
    }
}

static void add_tasks(ms_entries_t *entries, const ms_model_t *model, int side) {
    char **paths = ms_task_paths(model);
    for (size_t i = 0; i < model->tasks.count; i++) {
        const ms_tasks_row_t *task = &model->tasks.rows[i];
        ms_entry_t *entry = add_entry(entries, side, i, paths[i]);
        TAKE_USAGE(&entry->amounts, task);
        entry->amounts.off[MS_DIFF_peak_bytes] = (double)task->peak_error_bytes;
    }
    free(paths);
}

static void add_threads(ms_entries_t *entries, const ms_model_t *model, int side) {
    for (size_t i = 0; i < model->threads.count; i++) {
        const ms_threads_row_t *thread = &model->threads.rows[i];
        ms_entry_t *entry = add_entry(entries, side, i, ms_format("%s", ms_thread_key(thread)));
        TAKE_USAGE(&entry->amounts, thread);
    }
}

static void add_classes(ms_entries_t *entries, const ms_model_t *model, int side) {
    for (size_t i = 0; i < model->size_classes.count; i++) {
        const ms_size_classes_row_t *row = &model->size_classes.rows[i];
        char *key = row->payload_bytes == 0 ? ms_format("large blocks")
                                            : ms_format("up to %s B", ms_text_count(row->payload_bytes).text);
        add_entry(entries, side, i, key)->amounts = class_amounts(row);
    }
}

static void add_rows(ms_entries_t *entries, const ms_diff_t *diff, ms_diff_section_id_t id, int side) {
    const ms_model_t *model = &diff->file[side]->model;
    switch (id) {
    case MS_DIFF_SITES:
    case MS_DIFF_VARIABLES:
        add_sites(entries, diff, side, id == MS_DIFF_VARIABLES);
        break;
    case MS_DIFF_TASKS:
        add_tasks(entries, model, side);
        break;
    case MS_DIFF_THREADS:
        add_threads(entries, model, side);
        break;
    case MS_DIFF_CLASSES:
        add_classes(entries, model, side);
        break;
    case MS_DIFF_SECTIONS:
        break;
    }
}

static int by_key(const void *a, const void *b) {
    const ms_entry_t *left = a, *right = b;
    int order = strcmp(left->key, right->key);
    if (order != 0) return order;
    if (left->side != right->side) return left->side - right->side;
    return left->index < right->index ? -1 : left->index > right->index;
}

/* ---- rows ---- */

/* The largest site of the later side that has one. */
static const ms_entry_t *shown_entry(const ms_entry_t *entries, size_t count, ms_diff_measure_t sort) {
    const ms_entry_t *shown = &entries[0];
    for (size_t i = 1; i < count; i++)
        if (entries[i].side > shown->side || entries[i].amounts.value[sort] > shown->amounts.value[sort])
            shown = &entries[i];
    return shown;
}

/* The row of `count` entries with one key; what they have is taken off `rest`. */
static ms_diff_row_t make_row(const ms_diff_t *diff, const ms_entry_t *entries, size_t count, ms_amounts_t rest[2]) {
    ms_amounts_t sides[2] = {{.value = {0}}};
    ms_diff_row_t row = {.name = NULL};
    for (size_t i = 0; i < count; i++) {
        int side = entries[i].side;
        add_amounts(&sides[side], &entries[i].amounts, row.rows[side] == 0);
        take_amounts(&rest[side], &entries[i].amounts);
        row.rows[side]++;
        row.estimated |= entries[i].estimated;
    }
    for (ms_diff_measure_t m = 0; m < MS_DIFF_MEASURES; m++) row.change[m] = make_change(&sides[0], &sides[1], m);
    const ms_entry_t *shown = shown_entry(entries, count, diff->sort);
    row.site = shown->site;
    row.side = shown->side;
    row.name = shown->site == NULL ? ms_format("%s", shown->key)
                                   : ms_site_key_name(&diff->file[shown->side]->model, shown->site, diff->by);
    return row;
}

static bool has_measure(const ms_diff_section_t *section, ms_diff_measure_t m) {
    for (size_t i = 0; i < section->count; i++)
        if (section->rows[i].change[m].known) return true;
    return false;
}

/* The measure asked for, of peaks the shares of the process's; where nobody has it, live bytes for peaks, blocks for
 * bytes. */
static ms_diff_measure_t nearest_measure(const ms_diff_section_t *section, ms_diff_measure_t wanted) {
    if (wanted == MS_DIFF_peak_bytes && has_measure(section, MS_DIFF_at_peak_bytes)) return MS_DIFF_at_peak_bytes;
    if (has_measure(section, wanted)) return wanted;
    if (wanted == MS_DIFF_peak_bytes) wanted = MS_DIFF_live_bytes;
    if (has_measure(section, wanted)) return wanted;
    return wanted == MS_DIFF_allocated_bytes ? MS_DIFF_allocated_blocks : MS_DIFF_live_blocks;
}

static double size_of(const ms_change_t *change) {
    return change->known ? fabs((double)ms_change_of(change)) : -1;
}

static int by_change(const void *a, const void *b, void *context) {
    ms_diff_measure_t m = *(const ms_diff_measure_t *)context;
    const ms_diff_row_t *left = a, *right = b;
    double left_size = size_of(&left->change[m]), right_size = size_of(&right->change[m]);
    if (left_size != right_size) return left_size > right_size ? -1 : 1;
    if (left->change[m].b != right->change[m].b) return left->change[m].b > right->change[m].b ? -1 : 1;
    return strcmp(left->name, right->name);
}

static void make_section(ms_diff_t *diff, ms_diff_section_id_t id, const char *name) {
    ms_diff_section_t *section = &diff->sections[id];
    ms_entries_t entries = {.count = 0};
    ms_amounts_t rest[2];
    section->name = name;
    for (int side = 0; side < 2; side++) {
        add_rows(&entries, diff, id, side);
        rest[side] = process_amounts(&diff->file[side]->model);
    }
    if (entries.count > 0) qsort(entries.entries, entries.count, sizeof *entries.entries, by_key);
    section->rows = ms_allocate(entries.count * sizeof *section->rows);
    for (size_t i = 0, end; i < entries.count; i = end) {
        for (end = i + 1; end < entries.count && strcmp(entries.entries[i].key, entries.entries[end].key) == 0;) end++;
        section->rows[section->count] = make_row(diff, &entries.entries[i], end - i, rest);
        section->rest.estimated |= section->rows[section->count++].estimated;
    }
    for (size_t i = 0; i < entries.count; i++) free(entries.entries[i].key);
    free(entries.entries);
    section->sort = nearest_measure(section, diff->sort);
    if (section->count > 0) qsort_r(section->rows, section->count, sizeof *section->rows, by_change, &section->sort);
    section->has_rest =
        id != MS_DIFF_VARIABLES && diff->file[0]->model.totals.count > 0 && diff->file[1]->model.totals.count > 0;
    section->rest.name = ms_format("(the rest)");
    for (ms_diff_measure_t m = 0; m < MS_DIFF_MEASURES; m++)
        section->rest.change[m] = make_change(&rest[0], &rest[1], m);
}

/* ---- totals ---- */

static ms_diff_total_t make_total(const char *name, const char *label, const char *unit, uint64_t a, uint64_t b) {
    bool known = a != MS_NULL && b != MS_NULL;
    return (ms_diff_total_t){name, label, unit, {.known = known, .a = (int64_t)a, .b = (int64_t)b}};
}

static void make_totals(ms_diff_t *diff) {
    const ms_model_t *a = &diff->file[0]->model, *b = &diff->file[1]->model;
    ms_amounts_t sides[2] = {process_amounts(a), process_amounts(b)};
    size_t most = MS_DIFF_MEASURES;
#define MS_TOTAL(table, column, label, unit) most++;
#include "cli/diff.def"
#undef MS_TOTAL
    diff->totals = ms_allocate(most * sizeof *diff->totals);
    for (ms_diff_measure_t m = 0; m < MS_DIFF_MEASURES; m++) {
        const ms_diff_measure_info_t *info = &ms_diff_measure_info[m];
        if (m == MS_DIFF_at_peak_bytes) continue; /* of the process it is the peak */
        diff->totals[diff->total_count++] =
            (ms_diff_total_t){info->name, info->label, info->unit, make_change(&sides[0], &sides[1], m)};
    }
#define MS_TOTAL(table, column, label, unit)                                                   \
    diff->totals[diff->total_count++] =                                                        \
        make_total(#column, label, unit, a->table.count > 0 ? a->table.rows->column : MS_NULL, \
                   b->table.count > 0 ? b->table.rows->column : MS_NULL);
#include "cli/diff.def"
#undef MS_TOTAL
}

/* ---- the whole ---- */

ms_diff_t *ms_diff_make(const ms_snapshot_file_t *a, const ms_snapshot_file_t *b, ms_diff_by_t by,
                        ms_diff_measure_t sort) {
    static const char *const names[MS_DIFF_SECTIONS] = {"sites", "variables", "tasks", "threads", "size_classes"};
    ms_diff_t *diff = ms_allocate(sizeof *diff);
    *diff = (ms_diff_t){.file = {a, b}, .by = by, .sort = sort};
    make_totals(diff);
    for (ms_diff_section_id_t id = 0; id < MS_DIFF_SECTIONS; id++) make_section(diff, id, names[id]);
    return diff;
}

void ms_diff_free(ms_diff_t *diff) {
    for (int id = 0; id < MS_DIFF_SECTIONS; id++) {
        ms_diff_section_t *section = &diff->sections[id];
        for (size_t i = 0; i < section->count; i++) free(section->rows[i].name);
        free(section->rows);
        free(section->rest.name);
    }
    free(diff->totals);
    free(diff);
}
