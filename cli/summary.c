/* See summary.h. Owns nothing but the index arrays a section sorts. A ONE table may be missing (a file cut short): its
 * section is then left out. */
#include "cli/summary.h"

#include <stdlib.h>
#include <string.h>

#include "cli/files.h"
#include "cli/site_name.h"
#include "cli/text.h"

#define BAR_WIDTH 40
#define WIDEST_TEXT 100
#define CROSS_FREES_SHOWN 5
#define MUCH_LIVE 10    /* live bytes are worth a look from a tenth of the peak on */
#define SAMPLES_LEAST 8 /* behind an estimate that is worth a sentence */

static size_t text_width(FILE *out) {
    size_t width = ms_text_terminal_width(out);
    return width > WIDEST_TEXT ? WIDEST_TEXT : width;
}

static void print_safe(FILE *out, size_t indent, char *text) {
    char *safe = ms_text_safe(text);
    ms_text_wrap(out, indent, text_width(out), safe);
    free(safe);
    free(text);
}

/* Why a value is null, or "unknown". */
static const char *why_null(const ms_model_t *model, const char *table, const char *column) {
    for (size_t i = 0; i < model->null_reasons.count; i++) {
        const ms_null_reasons_row_t *row = &model->null_reasons.rows[i];
        if (row->table != NULL && row->column != NULL && row->reason != NULL && strcmp(row->table, table) == 0 &&
            strcmp(row->column, column) == 0)
            return row->reason;
    }
    return "unknown";
}

static const char *plural(uint64_t count) {
    return count == 1 ? "" : "s";
}

/* ---- order ---- */

static uint64_t known(uint64_t value) {
    return value == MS_NULL ? 0 : value;
}

static uint64_t sort_key(const ms_sites_row_t *site, ms_sort_t sort) {
    return sort == MS_SORT_LIVE   ? site->live_bytes
           : sort == MS_SORT_PEAK ? known(site->peak_bytes)
                                  : site->allocated_bytes;
}

static int site_order(const void *a, const void *b, void *context) {
    const ms_sites_row_t *left = *(const ms_sites_row_t *const *)a, *right = *(const ms_sites_row_t *const *)b;
    uint64_t left_key = sort_key(left, *(ms_sort_t *)context), right_key = sort_key(right, *(ms_sort_t *)context);
    if (left_key != right_key) return left_key > right_key ? -1 : 1;
    if (left->allocated_bytes != right->allocated_bytes) return left->allocated_bytes > right->allocated_bytes ? -1 : 1;
    return left->id < right->id ? -1 : left->id > right->id;
}

static const ms_sites_row_t **sorted_sites(const ms_model_t *model, ms_sort_t sort) {
    const ms_sites_row_t **sites = ms_allocate(model->sites.count * sizeof *sites);
    for (size_t i = 0; i < model->sites.count; i++) sites[i] = &model->sites.rows[i];
    if (model->sites.count > 0) qsort_r(sites, model->sites.count, sizeof *sites, site_order, &sort);
    return sites;
}

/* ---- headline ---- */

ms_sort_t ms_telling_sort(const ms_model_t *model) {
    if (model->totals.count == 0) return MS_SORT_LIVE;
    const ms_totals_row_t *totals = model->totals.rows;
    return totals->live_bytes >= totals->peak_bytes / MUCH_LIVE && totals->live_bytes > 0 ? MS_SORT_LIVE
                                                                                          : MS_SORT_ALLOCATED;
}

static char *ending(const ms_model_t *model) {
    const ms_process_row_t *process = model->process.rows;
    if (process->exit_signal != MS_NULL)
        return ms_format("was ended by signal %llu (%s)", (unsigned long long)process->exit_signal,
                         strsignal((int)process->exit_signal));
    if (process->exit_status != MS_NULL)
        return ms_format("ended with status %llu", (unsigned long long)process->exit_status);
    return ms_format("wrote this snapshot (%s)", process->reason != NULL ? process->reason : "reason unknown");
}

static char *too_few_samples(const ms_model_t *model) {
    uint64_t count = 0;
    for (size_t i = 0; i < model->sites.count; i++) count += model->sites.rows[i].samples;
    return ms_format(" %s block%s sampled, too few to say where most of it comes from; mode:exact records every block.",
                     count == 0 ? "No" : ms_text_count(count).text, count <= 1 ? " was" : "s were");
}

/* The site that comes first, unless it is an estimate with hardly a sample behind it, or larger than the whole. */
static char *largest_part(const ms_model_t *model, ms_sort_t sort) {
    const ms_sites_row_t **sites = sorted_sites(model, sort), *site = model->sites.count > 0 ? sites[0] : NULL;
    free(sites);
    if (site == NULL || (site->stack.count == 0 && !ms_site_is_variable(site))) return NULL;
    uint64_t part = sort_key(site, sort);
    uint64_t whole = sort == MS_SORT_LIVE ? model->totals.rows->live_bytes : model->totals.rows->allocated_bytes;
    if (part == 0 || part > whole || (site->estimated && site->samples < SAMPLES_LEAST)) return NULL;
    char *name = ms_site_name(model, site);
    char *text = ms_format(" The largest part of what %s, %s%s (%s), comes from %s.",
                           sort == MS_SORT_LIVE ? "is live" : "was allocated", site->estimated ? "about " : "",
                           ms_text_bytes(part).text, ms_text_share(part, whole).text, name);
    free(name);
    return text;
}

static char *most_of(const ms_model_t *model) {
    const char *counts = model->data_quality.count > 0 ? model->data_quality.rows->site_counts : NULL;
    bool sampled = counts != NULL && strcmp(counts, "sampled") == 0;
    char *text = largest_part(model, ms_telling_sort(model));
    if (text == NULL && sampled) text = largest_part(model, MS_SORT_ALLOCATED);
    if (text == NULL && sampled && model->totals.rows->allocated_bytes > 0) text = too_few_samples(model);
    return text != NULL ? text : ms_format("%s", "");
}

void ms_print_headline(FILE *out, const ms_model_t *model) {
    if (model->process.count == 0 || model->totals.count == 0) {
        fprintf(out, "The data ends before it says what the process was and how much it allocated.\n");
        return;
    }
    const ms_process_row_t *process = model->process.rows;
    const ms_totals_row_t *totals = model->totals.rows;
    char *end = ending(model), *most = most_of(model);
    char *error = totals->peak_error_bytes == 0 ? ms_format("%s", "")
                                                : ms_format(" (+- %s)", ms_text_bytes(totals->peak_error_bytes).text);
    print_safe(out, 0,
               ms_format("%s (pid %llu) %s after %s. It allocated %s in %s block%s and held %s at its peak%s; %s in %s "
                         "block%s %s live when the snapshot was taken.%s",
                         process->name != NULL ? process->name : "?", (unsigned long long)process->pid, end,
                         process->elapsed_ns == 0 ? "less than a tick of its clock"
                                                  : ms_text_duration(process->elapsed_ns).text,
                         ms_text_bytes(totals->allocated_bytes).text, ms_text_count(totals->allocated_blocks).text,
                         plural(totals->allocated_blocks), ms_text_bytes(totals->peak_bytes).text, error,
                         ms_text_bytes(totals->live_bytes).text, ms_text_count(totals->live_blocks).text,
                         plural(totals->live_blocks), totals->live_blocks == 1 ? "was" : "were", most));
    free(error);
    free(end);
    free(most);
}

/* ---- process, totals, memory ---- */

typedef enum { AS_BYTES, AS_COUNT, AS_DURATION } ms_measure_t;

static void process_value(ms_text_table_t *table, const ms_model_t *model, const char *column, const char *label,
                          uint64_t value, ms_measure_t measure) {
    ms_quantity_t q = measure == AS_BYTES   ? ms_text_bytes(value)
                      : measure == AS_COUNT ? ms_text_count(value)
                                            : ms_text_duration(value);
    ms_text_table_cell(table, "%s", label);
    ms_text_table_cell(table, "%s", value == MS_NULL ? why_null(model, "process", column) : q.text);
}

static void process_text(ms_text_table_t *table, const char *label, const char *value) {
    if (value == NULL) return;
    ms_text_table_cell(table, "%s", label);
    ms_text_table_cell(table, "%s", value);
}

void ms_print_process(FILE *out, const ms_model_t *model) {
    static const char *const header[] = {"<Process", "~"};
    if (model->process.count == 0) return;
    const ms_process_row_t *process = model->process.rows;
    ms_text_table_t *table = ms_text_table_new(header, 2);
    process_text(table, "command", process->command_line);
    process_text(table, "executable", process->executable);
    process_text(table, "started", ms_text_wall_clock(process->start_unix_ns).text);
    process_text(table, "snapshot", ms_text_wall_clock(process->snapshot_unix_ns).text);
    process_text(table, "taken for", process->reason);
    process_text(table, "mode", process->mode);
    process_text(table, "backend", process->backend);
    process_text(table, "library", process->memscope_version);
    process_value(table, model, "rss_bytes", "resident", process->rss_bytes, AS_BYTES);
    process_value(table, model, "peak_rss_bytes", "peak resident", process->peak_rss_bytes, AS_BYTES);
    process_value(table, model, "cpu_user_ns", "user CPU", process->cpu_user_ns, AS_DURATION);
    process_value(table, model, "cpu_system_ns", "system CPU", process->cpu_system_ns, AS_DURATION);
    process_value(table, model, "minor_faults", "minor faults", process->minor_faults, AS_COUNT);
    process_value(table, model, "major_faults", "major faults", process->major_faults, AS_COUNT);
    process_value(table, model, "read_bytes", "read", process->read_bytes, AS_BYTES);
    process_value(table, model, "written_bytes", "written", process->written_bytes, AS_BYTES);
    fputc('\n', out);
    ms_text_table_print(table, out, 0, ms_text_terminal_width(out));
}

static void usage_row(ms_text_table_t *table, const char *label, uint64_t bytes, uint64_t blocks) {
    ms_text_table_cell(table, "%s", label);
    ms_text_table_cell(table, "%s", ms_text_bytes(bytes).text);
    ms_text_table_cell(table, "%s", ms_text_count(bytes).text);
    ms_text_table_cell(table, "%s", blocks == MS_NULL ? "" : ms_text_count(blocks).text);
}

void ms_print_totals(FILE *out, const ms_model_t *model) {
    static const char *const header[] = {"<Totals", ">size", ">bytes", ">blocks"};
    if (model->totals.count == 0) return;
    const ms_totals_row_t *totals = model->totals.rows;
    ms_text_table_t *table = ms_text_table_new(header, 4);
    usage_row(table, "allocated", totals->allocated_bytes, totals->allocated_blocks);
    usage_row(table, "freed", totals->freed_bytes, totals->freed_blocks);
    usage_row(table, "live", totals->live_bytes, totals->live_blocks);
    usage_row(table, "peak", totals->peak_bytes, MS_NULL);
    if (totals->peak_error_bytes > 0) usage_row(table, "peak, +-", totals->peak_error_bytes, MS_NULL);
    fputc('\n', out);
    ms_text_table_print(table, out, 0, ms_text_terminal_width(out));
}

static void memory_row(ms_text_table_t *table, const char *label, uint64_t bytes, uint64_t whole) {
    char bar[BAR_WIDTH + 1];
    size_t length = whole == 0 || bytes == MS_NULL ? 0 : (size_t)((double)bytes / (double)whole * BAR_WIDTH + 0.5);
    if (length > BAR_WIDTH) length = BAR_WIDTH;
    memset(bar, '#', length);
    bar[length] = '\0';
    ms_text_table_cell(table, "%s", label);
    ms_text_table_cell(table, "%s", ms_text_bytes(bytes).text);
    ms_text_table_cell(table, "%s", ms_text_share(bytes, whole).text);
    ms_text_table_cell(table, "%s", bar);
}

void ms_print_memory(FILE *out, const ms_model_t *model) {
    static const char *const header[] = {"<Memory", ">size", ">of mapped", "~"};
    if (model->memory.count == 0) return;
    const ms_memory_row_t *memory = model->memory.rows;
    ms_text_table_t *table = ms_text_table_new(header, 4);
    memory_row(table, "live blocks", memory->live_bytes, memory->mapped_bytes);
    memory_row(table, "rounding (slack)", memory->slack_bytes, memory->mapped_bytes);
    memory_row(table, "block headers", memory->header_bytes, memory->mapped_bytes);
    memory_row(table, "free blocks", memory->free_bytes, memory->mapped_bytes);
    memory_row(table, "never handed out", memory->uncarved_bytes, memory->mapped_bytes);
    memory_row(table, "= mapped for blocks", memory->mapped_bytes, memory->mapped_bytes);
    memory_row(table, "memscope's tables", memory->metadata_bytes, memory->mapped_bytes);
    if (memory->backing_resident_bytes != MS_NULL)
        memory_row(table, "resident, backing", memory->backing_resident_bytes, memory->mapped_bytes);
    if (model->process.count > 0)
        memory_row(table, "resident, process", model->process.rows->rss_bytes, memory->mapped_bytes);
    fputc('\n', out);
    ms_text_table_print(table, out, 0, ms_text_terminal_width(out));
}

/* ---- threads ---- */

static int thread_order(const void *a, const void *b) {
    const ms_threads_row_t *left = *(const ms_threads_row_t *const *)a, *right = *(const ms_threads_row_t *const *)b;
    if (left->allocated_bytes != right->allocated_bytes) return left->allocated_bytes > right->allocated_bytes ? -1 : 1;
    return left->id < right->id ? -1 : left->id > right->id;
}

static void thread_row(ms_text_table_t *table, const ms_threads_row_t *thread) {
    ms_text_table_cell(table, "%llu", (unsigned long long)thread->id);
    ms_text_table_cell(table, "%s", thread->name != NULL ? thread->name : "?");
    ms_text_table_cell(table, "%s", thread->state != NULL ? thread->state : "?");
    ms_text_table_cell(table, "%s", ms_text_bytes(thread->allocated_bytes).text);
    ms_text_table_cell(table, "%s", ms_text_count(thread->allocated_blocks).text);
    ms_text_table_cell(table, "%s", ms_text_bytes(thread->live_bytes).text);
    ms_text_table_cell(table, "%s", ms_text_bytes(thread->peak_bytes).text);
    ms_text_table_cell(table, "%s", ms_text_bytes(thread->freed_by_others_bytes).text);
}

static void print_more(FILE *out, size_t shown, size_t count, const char *what) {
    if (count > shown) fprintf(out, "  ... and %s more %s\n", ms_text_count(count - shown).text, what);
}

static int cross_order(const void *a, const void *b) {
    const ms_cross_frees_row_t *left = *(const ms_cross_frees_row_t *const *)a;
    const ms_cross_frees_row_t *right = *(const ms_cross_frees_row_t *const *)b;
    return left->bytes > right->bytes ? -1 : left->bytes < right->bytes;
}

static void print_cross_frees(FILE *out, const ms_model_t *model) {
    size_t count = model->cross_frees.count, shown = count < CROSS_FREES_SHOWN ? count : CROSS_FREES_SHOWN;
    const ms_cross_frees_row_t **rows = ms_allocate(count * sizeof *rows);
    for (size_t i = 0; i < count; i++) rows[i] = &model->cross_frees.rows[i];
    if (count > 0) qsort(rows, count, sizeof *rows, cross_order);
    for (size_t i = 0; i < shown; i++)
        fprintf(out, "  thread %llu freed %s in %s block%s that thread %llu had allocated\n",
                (unsigned long long)rows[i]->freeing_thread, ms_text_bytes(rows[i]->bytes).text,
                ms_text_count(rows[i]->blocks).text, plural(rows[i]->blocks),
                (unsigned long long)rows[i]->owner_thread);
    print_more(out, shown, count, "pairs of threads");
    free(rows);
}

void ms_print_threads(FILE *out, const ms_model_t *model, size_t top) {
    static const char *const header[] = {">Thread", "~name", "<state", ">allocated",
                                         ">blocks", ">live", ">peak",  ">freed by others"};
    size_t count = model->threads.count, shown = count < top ? count : top;
    if (count == 0) return;
    const ms_threads_row_t **rows = ms_allocate(count * sizeof *rows);
    for (size_t i = 0; i < count; i++) rows[i] = &model->threads.rows[i];
    qsort(rows, count, sizeof *rows, thread_order);
    ms_text_table_t *table = ms_text_table_new(header, 8);
    for (size_t i = 0; i < shown; i++) thread_row(table, rows[i]);
    fputc('\n', out);
    ms_text_table_print(table, out, 0, ms_text_terminal_width(out));
    print_more(out, shown, count, "threads");
    print_cross_frees(out, model);
    free(rows);
}

/* ---- size classes ---- */

static int class_order(const void *a, const void *b) {
    const ms_size_classes_row_t *left = *(const ms_size_classes_row_t *const *)a;
    const ms_size_classes_row_t *right = *(const ms_size_classes_row_t *const *)b;
    if (left->allocated_blocks != right->allocated_blocks)
        return left->allocated_blocks > right->allocated_blocks ? -1 : 1;
    return left->index < right->index ? -1 : left->index > right->index;
}

static void class_row(ms_text_table_t *table, const ms_size_classes_row_t *row) {
    if (row->payload_bytes == 0)
        ms_text_table_cell(table, "large");
    else
        ms_text_table_cell(table, "%s", ms_text_count(row->payload_bytes).text);
    ms_text_table_cell(table, "%s", row->block_bytes == 0 ? "" : ms_text_count(row->block_bytes).text);
    ms_text_table_cell(table, "%s", ms_text_count(row->allocated_blocks).text);
    ms_text_table_cell(table, "%s", ms_text_count(row->freed_blocks).text);
    ms_text_table_cell(table, "%s", ms_text_count(row->live_blocks).text);
}

void ms_print_size_classes(FILE *out, const ms_model_t *model, size_t top) {
    static const char *const header[] = {">Size class", ">with header", ">allocated", ">freed", ">live"};
    size_t count = 0;
    const ms_size_classes_row_t **rows = ms_allocate(model->size_classes.count * sizeof *rows);
    for (size_t i = 0; i < model->size_classes.count; i++)
        if (model->size_classes.rows[i].allocated_blocks > 0) rows[count++] = &model->size_classes.rows[i];
    if (count > 0) {
        qsort(rows, count, sizeof *rows, class_order);
        size_t shown = count < top ? count : top;
        ms_text_table_t *table = ms_text_table_new(header, 5);
        for (size_t i = 0; i < shown; i++) class_row(table, rows[i]);
        fputc('\n', out);
        ms_text_table_print(table, out, 0, ms_text_terminal_width(out));
        print_more(out, shown, count, "size classes");
    }
    free(rows);
}

/* ---- sites ---- */

static void site_quantity(ms_text_table_t *table, const ms_sites_row_t *site, uint64_t bytes) {
    ms_text_table_cell(table, "%s%s", site->estimated && bytes != MS_NULL ? "~" : "",
                       bytes == MS_NULL ? "-" : ms_text_bytes(bytes).text);
}

static void site_row(ms_text_table_t *table, const ms_model_t *model, const ms_sites_row_t *site) {
    site_quantity(table, site, site->live_bytes);
    site_quantity(table, site, site->allocated_bytes);
    ms_text_table_cell(table, "%s%s", site->estimated ? "~" : "", ms_text_count(site->allocated_blocks).text);
    char *name = ms_site_chain(model, site);
    ms_text_table_cell(table, "%s", name);
    free(name);
}

static const char *sort_words(ms_sort_t sort) {
    return sort == MS_SORT_LIVE ? "live bytes" : sort == MS_SORT_PEAK ? "peak bytes" : "allocated bytes";
}

void ms_print_sites(FILE *out, const ms_model_t *model, size_t top, ms_sort_t sort) {
    static const char *const header[] = {">live", ">allocated", ">blocks", "~Site"};
    size_t shown = model->sites.count < top ? model->sites.count : top;
    if (shown == 0) return;
    const ms_sites_row_t **sites = sorted_sites(model, sort);
    ms_text_table_t *table = ms_text_table_new(header, 4);
    bool estimated = false;
    for (size_t i = 0; i < shown; i++) {
        site_row(table, model, sites[i]);
        estimated |= sites[i]->estimated;
    }
    fprintf(out, "\nSites by %s%s\n", sort_words(sort), estimated ? " (~: estimated from samples)" : "");
    ms_text_table_print(table, out, 0, ms_text_terminal_width(out));
    print_more(out, shown, model->sites.count, "sites");
    free(sites);
}

static void print_site(FILE *out, const ms_model_t *model, const ms_sites_row_t *site, size_t number) {
    char *name = ms_site_name(model, site), *safe = ms_text_safe(name);
    const char *about = site->estimated ? "about " : "";
    fprintf(out, "\n  %zu. %s\n      live %s%s", number, safe, about, ms_text_bytes(site->live_bytes).text);
    if (site->live_error_bytes != MS_NULL && site->estimated)
        fprintf(out, " +- %s", ms_text_bytes(site->live_error_bytes).text);
    fprintf(out, " in %s block%s, allocated %s%s in %s block%s", ms_text_count(site->live_blocks).text,
            plural(site->live_blocks), about, ms_text_bytes(site->allocated_bytes).text,
            ms_text_count(site->allocated_blocks).text, plural(site->allocated_blocks));
    if (site->peak_bytes != MS_NULL) fprintf(out, ", peak %s", ms_text_bytes(site->peak_bytes).text);
    if (site->samples > 0) fprintf(out, ", %s sample%s", ms_text_count(site->samples).text, plural(site->samples));
    fputc('\n', out);
    ms_print_verdict(out, site);
    ms_print_facts(out, site);
    ms_print_stack(out, model, site);
    free(safe);
    free(name);
}

void ms_print_stacks(FILE *out, const ms_model_t *model, size_t top, ms_sort_t sort) {
    size_t count = model->sites.count, shown = count < top ? count : top;
    if (count == 0) return;
    const ms_sites_row_t **sites = sorted_sites(model, sort);
    fprintf(out, "\nSites by %s\n", sort_words(sort));
    for (size_t i = 0; i < shown; i++) print_site(out, model, sites[i], i + 1);
    print_more(out, shown, count, "sites");
    free(sites);
}

/* ---- data quality ---- */

static void warn(FILE *out, uint64_t count, const char *one, const char *many) {
    if (count > 0) fprintf(out, "  ! %s %s\n", ms_text_count(count).text, count == 1 ? one : many);
}

void ms_print_warnings(FILE *out, const ms_model_t *model) {
    if (model->data_quality.count == 0) return;
    const ms_data_quality_row_t *quality = model->data_quality.rows;
    if (!quality->complete) fprintf(out, "  ! the data is not complete: the file ends early or is damaged\n");
    warn(out, quality->header_check_failures, "block header was found corrupted", "block headers were found corrupted");
    warn(out, quality->origin_mismatches, "block was freed by another family than allocated it (new/free)",
         "blocks were freed by another family than allocated them (new/free)");
    warn(out, quality->failed_allocations, "request was answered with NULL", "requests were answered with NULL");
    warn(out, quality->cgroup_refusals, "time the cgroup's memory limit left no room", "times the cgroup's memory limit left no room");
    warn(out, quality->dropped_events, "event was lost: a table was full", "events were lost: a table was full");
    warn(out, quality->unknown_frees, "block that was freed belongs to no thread here",
         "blocks that were freed belong to no thread here");
    warn(out, quality->folded_threads, "ended thread is folded into one row", "ended threads are folded into one row");
    warn(out, quality->folded_tasks, "task is folded into the task `other`", "tasks are folded into the task `other`");
    warn(out, quality->folded_sites, "stack found the table of sites full: its blocks count for the site `other`",
         "stacks found the table of sites full: their blocks count for the site `other`");
    warn(out, quality->handler_refusals, "call by a signal handler was refused", "calls by signal handlers were refused");
    warn(out, quality->replaced_modules, "unloaded module has another one at its addresses: names may be wrong",
         "unloaded modules have others at their addresses: names may be wrong");
    warn(out, quality->clock_steps_back, "time the clock went back", "times the clock went back");
    warn(out, quality->different_stacks, "stack differs from libunwind's", "stacks differ from libunwind's");
    warn(out, quality->truncated_stacks, "stack is cut short", "stacks are cut short");
    warn(out, quality->unfollowed_stacks, "of them at a frame that cannot be followed", "of them at frames that cannot be followed");
}

void ms_print_quality(FILE *out, const ms_model_t *model) {
    static const char *const header[] = {"<Data quality", "~"};
    if (model->data_quality.count == 0) return;
    const ms_data_quality_row_t *quality = model->data_quality.rows;
    ms_text_table_t *table = ms_text_table_new(header, 2);
    process_text(table, "allocations seen", ms_text_count(quality->allocation_events).text);
    process_text(table, "frees seen", ms_text_count(quality->free_events).text);
    process_text(table, "sites", quality->site_counts);
    process_text(table, "sampled", ms_text_count(quality->sampled_events).text);
    if (quality->sample_bytes > 0) process_text(table, "one sample every", ms_text_bytes(quality->sample_bytes).text);
    process_text(table, "stacks taken by", quality->unwinder);
    process_text(table, "clock", quality->clock);
    process_text(table, "consistency", quality->consistency);
    process_text(table, "memscope's memory", ms_text_bytes(quality->own_memory_bytes).text);
    process_text(table, "memscope's time",
                 quality->own_cpu_ns == MS_NULL ? why_null(model, "data_quality", "own_cpu_ns")
                                                : ms_text_duration(quality->own_cpu_ns).text);
    fputc('\n', out);
    ms_text_table_print(table, out, 0, ms_text_terminal_width(out));
    ms_print_warnings(out, model);
}

void ms_print_trace(FILE *out, const ms_model_t *model) {
    if (model->trace.count == 0) return;
    const ms_trace_row_t *trace = model->trace.rows;
    char *path = ms_text_safe(trace->path);
    fprintf(out, "\nevents  %s: %s logged", path, ms_text_count(trace->events).text);
    if (trace->dropped_events > 0) fprintf(out, ", %s dropped (see buffer_size)", ms_text_count(trace->dropped_events).text);
    if (trace->over_max_events > 0)
        fprintf(out, ", %s more than max_events", ms_text_count(trace->over_max_events).text);
    fputc('\n', out);
    free(path);
}
