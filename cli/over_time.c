/* The section "Over time" of summary.h: what was recorded while the program ran, as one line and a small table. */
#include "cli/summary.h"

#include <stdlib.h>
#include <string.h>

#include "cli/files.h"
#include "cli/site_name.h"
#include "cli/text.h"

#define LINE_WIDTH 60
#define MOMENTS 8
#define GROWING_SHOWN 5

/* The last sample at or before a moment; the first if there is none. */
static const ms_samples_row_t *sample_at(const ms_model_t *model, uint64_t time_ns) {
    size_t low = 0, high = model->samples.count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (model->samples.rows[middle].time_ns <= time_ns)
            low = middle + 1;
        else
            high = middle;
    }
    return &model->samples.rows[low > 0 ? low - 1 : 0];
}

/* Live bytes from the first to the last record, eight heights a column. */
static void print_line(FILE *out, const ms_model_t *model, uint64_t first_ns, uint64_t span_ns) {
    static const char *const heights[] = {"\u2581", "\u2582", "\u2583", "\u2584",
                                          "\u2585", "\u2586", "\u2587", "\u2588"};
    uint64_t most = 1;
    for (size_t i = 0; i < model->samples.count; i++)
        if (model->samples.rows[i].live_bytes > most) most = model->samples.rows[i].live_bytes;
    fputs("live ", out);
    for (uint64_t i = 0; i < LINE_WIDTH; i++) {
        double share = (double)sample_at(model, first_ns + span_ns / (LINE_WIDTH - 1) * i)->live_bytes / (double)most;
        fputs(heights[(size_t)(share * 7.999)], out);
    }
    fprintf(out, " up to %s\n", ms_text_bytes(most).text);
}

/* Change per second, with its sign. */
static ms_quantity_t rate(uint64_t from, uint64_t to, uint64_t ns) {
    ms_quantity_t text;
    double change = ((double)to - (double)from) * 1e9 / (double)(ns == 0 ? 1 : ns);
    double size = change < 0 ? -change : change;
    uint64_t a_second = size < 0x1p63 ? (uint64_t)size : UINT64_C(1) << 63;
    snprintf(text.text, sizeof text.text, "%s%.40s/s",
             a_second == 0 ? ""
             : change > 0  ? "+"
                           : "-",
             ms_text_bytes(a_second).text);
    return text;
}

static void print_moments(FILE *out, const ms_model_t *model, uint64_t first_ns, uint64_t span_ns) {
    static const char *const header[] = {">time", ">live", ">blocks", ">allocated", ">resident", ">growth"};
    ms_text_table_t *table = ms_text_table_new(header, 6);
    const ms_samples_row_t *before = &model->samples.rows[0], *shown = NULL;
    for (uint64_t i = 0; i < MOMENTS; i++) {
        const ms_samples_row_t *row = i + 1 == MOMENTS ? &model->samples.rows[model->samples.count - 1]
                                                       : sample_at(model, first_ns + span_ns / (MOMENTS - 1) * i);
        if (row == shown) continue;
        ms_text_table_cell(table, "%s", ms_text_duration(row->time_ns).text);
        ms_text_table_cell(table, "%s", ms_text_bytes(row->live_bytes).text);
        ms_text_table_cell(table, "%s", ms_text_count(row->live_blocks).text);
        ms_text_table_cell(table, "%s", ms_text_bytes(row->allocated_bytes).text);
        ms_text_table_cell(table, "%s", ms_text_bytes(row->rss_bytes).text);
        ms_text_table_cell(
            table, "%s",
            shown == NULL ? "" : rate(before->live_bytes, row->live_bytes, row->time_ns - before->time_ns).text);
        shown = before = row;
    }
    ms_text_table_print(table, out, 0, ms_text_terminal_width(out));
}

/* What lives more of a site at its last record than at its first. */
typedef struct ms_growth {
    uint64_t id, first_bytes, last_bytes, first_ns, last_ns;
} ms_growth_t;

static int by_site(const void *a, const void *b) {
    const ms_growth_t *left = a, *right = b;
    return left->id < right->id ? -1 : left->id > right->id;
}

static int by_growth(const void *a, const void *b) {
    const ms_growth_t *left = a, *right = b;
    int64_t left_change = (int64_t)(left->last_bytes - left->first_bytes);
    int64_t right_change = (int64_t)(right->last_bytes - right->first_bytes);
    return left_change > right_change ? -1 : left_change < right_change ? 1 : by_site(a, b);
}

static size_t find_growth(const ms_model_t *model, ms_growth_t *sites) {
    for (size_t i = 0; i < model->sites.count; i++)
        sites[i] = (ms_growth_t){.id = model->sites.rows[i].id, .first_ns = UINT64_MAX};
    if (model->sites.count > 0) qsort(sites, model->sites.count, sizeof *sites, by_site);
    for (size_t i = 0; i < model->site_samples.count; i++) {
        const ms_site_samples_row_t *row = &model->site_samples.rows[i];
        ms_growth_t wanted = {.id = row->id}, *site;
        site = model->sites.count > 0 ? bsearch(&wanted, sites, model->sites.count, sizeof *sites, by_site) : NULL;
        if (site == NULL) continue;
        if (site->first_ns == UINT64_MAX) {
            site->first_ns = row->time_ns;
            site->first_bytes = row->live_bytes;
        }
        site->last_ns = row->time_ns;
        site->last_bytes = row->live_bytes;
    }
    if (model->sites.count > 0) qsort(sites, model->sites.count, sizeof *sites, by_growth);
    size_t growing = 0;
    while (growing < model->sites.count && sites[growing].last_bytes > sites[growing].first_bytes) growing++;
    return growing;
}

static const ms_sites_row_t *site_of(const ms_model_t *model, uint64_t id) {
    const ms_sites_row_t *site = model->sites.rows;
    while (site->id != id) site++;
    return site;
}

static void print_growing(FILE *out, const ms_model_t *model) {
    static const char *const header[] = {">grew by", ">growth", "~Site that grew"};
    ms_growth_t *sites = ms_allocate(model->sites.count * sizeof *sites);
    size_t growing = find_growth(model, sites), shown = growing < GROWING_SHOWN ? growing : GROWING_SHOWN;
    if (shown > 0) {
        ms_text_table_t *table = ms_text_table_new(header, 3);
        for (size_t i = 0; i < shown; i++) {
            char *name = ms_site_chain(model, site_of(model, sites[i].id));
            ms_text_table_cell(table, "%s", ms_text_bytes(sites[i].last_bytes - sites[i].first_bytes).text);
            ms_text_table_cell(
                table, "%s",
                rate(sites[i].first_bytes, sites[i].last_bytes, sites[i].last_ns - sites[i].first_ns).text);
            ms_text_table_cell(table, "%s", name);
            free(name);
        }
        ms_text_table_print(table, out, 0, ms_text_terminal_width(out));
        if (growing > shown) fprintf(out, "  ... and %s more sites\n", ms_text_count(growing - shown).text);
    }
    free(sites);
}

static void print_losses(FILE *out, const ms_samples_row_t *last) {
    if (last->missed_records > 0)
        fprintf(out, "  ! %s records are missing: the writer could not come by\n",
                ms_text_count(last->missed_records).text);
    if (last->dropped_records > 0)
        fprintf(out, "  ! %s records could not be written\n", ms_text_count(last->dropped_records).text);
    if (last->dropped_rows > 0)
        fprintf(out, "  ! %s rows were left out: too many ids\n", ms_text_count(last->dropped_rows).text);
    if (last->clock_steps > 0)
        fprintf(out, "  ! the clock went backwards %s times\n", ms_text_count(last->clock_steps).text);
}

void ms_print_over_time(FILE *out, const ms_model_t *model) {
    if (model->samples.count < 2) return;
    const ms_samples_row_t *first = &model->samples.rows[0], *last = &model->samples.rows[model->samples.count - 1];
    uint64_t span_ns = last->time_ns > first->time_ns ? last->time_ns - first->time_ns : 0;
    fprintf(out, "\nOver time: %s records, every %s", ms_text_count(model->samples.count).text,
            ms_text_duration(first->interval_ns).text);
    if (last->interval_ns != first->interval_ns)
        fprintf(out, ", then every %s", ms_text_duration(last->interval_ns).text);
    fputc('\n', out);
    print_line(out, model, first->time_ns, span_ns);
    print_moments(out, model, first->time_ns, span_ns);
    print_growing(out, model);
    print_losses(out, last);
}
