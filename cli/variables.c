/* What variables own and what they name that is no block. */
#include "cli/summary.h"

#include <stdlib.h>

#include "cli/files.h"
#include "cli/site_name.h"
#include "cli/text.h"

static const ms_sites_row_t *site_of(const ms_model_t *model, uint64_t id) {
    for (size_t i = 0; i < model->sites.count; i++)
        if (model->sites.rows[i].id == id && ms_site_is_variable(&model->sites.rows[i])) return &model->sites.rows[i];
    return NULL;
}

static char *place_name(const char *name, const char *type, const char *function, const char *file, uint64_t line) {
    const ms_sites_row_t row = {
        .kind = "variable", .variable = name, .type = type, .function = function, .file = file, .line = line};
    return ms_site_name(NULL, &row);
}

/* What outlived its scope with most bytes first. */
static int scope_order(const void *a, const void *b) {
    const ms_scopes_row_t *left = *(const ms_scopes_row_t *const *)a, *right = *(const ms_scopes_row_t *const *)b;
    if (left->outlived_bytes != right->outlived_bytes) return left->outlived_bytes > right->outlived_bytes ? -1 : 1;
    if (left->begun != right->begun) return left->begun > right->begun ? -1 : 1;
    return left->site < right->site ? -1 : left->site > right->site;
}

static void scope_row(ms_text_table_t *table, const ms_model_t *model, const ms_scopes_row_t *row) {
    const ms_sites_row_t *site = site_of(model, row->site);
    char *name = site != NULL ? ms_site_name(model, site) : ms_format("site %llu", (unsigned long long)row->site);
    ms_text_table_cell(table, "%s", name);
    ms_text_table_cell(table, "%s", ms_text_count(row->begun).text);
    ms_text_table_cell(table, "%s", ms_text_count(row->begun - row->ended).text);
    ms_text_table_cell(table, "%s", ms_text_count(row->outlived_blocks).text);
    ms_text_table_cell(table, "%s", ms_text_bytes(row->outlived_bytes).text);
    ms_text_table_cell(table, "%s",
                       row->lifetime_min_ns == MS_NULL ? "-" : ms_text_duration(row->lifetime_min_ns).text);
    ms_text_table_cell(table, "%s",
                       row->lifetime_mean_ns == MS_NULL ? "-" : ms_text_duration(row->lifetime_mean_ns).text);
    ms_text_table_cell(table, "%s",
                       row->lifetime_max_ns == MS_NULL ? "-" : ms_text_duration(row->lifetime_max_ns).text);
    free(name);
}

void ms_print_scopes(FILE *out, const ms_model_t *model, size_t top) {
    static const char *const header[] = {"~Owned blocks", ">scopes",   ">open", ">outlived",
                                         ">bytes",        ">shortest", ">mean", ">longest"};
    size_t count = model->scopes.count, shown = count < top ? count : top;
    if (count == 0) return;
    const ms_scopes_row_t **rows = ms_allocate(count * sizeof *rows);
    for (size_t i = 0; i < count; i++) rows[i] = &model->scopes.rows[i];
    qsort(rows, count, sizeof *rows, scope_order);
    ms_text_table_t *table = ms_text_table_new(header, sizeof header / sizeof header[0]);
    for (size_t i = 0; i < shown; i++) scope_row(table, model, rows[i]);
    fputc('\n', out);
    ms_text_table_print(table, out, 0, ms_text_terminal_width(out));
    if (count > shown) fprintf(out, "  ... and %s more variables\n", ms_text_count(count - shown).text);
    free(rows);
}

static int region_order(const void *a, const void *b) {
    const ms_regions_row_t *left = *(const ms_regions_row_t *const *)a, *right = *(const ms_regions_row_t *const *)b;
    if (left->bytes != right->bytes) return left->bytes > right->bytes ? -1 : 1;
    return left->site < right->site ? -1 : left->site > right->site;
}

static void region_row(ms_text_table_t *table, const ms_regions_row_t *row) {
    char *name = place_name(row->variable, row->type, row->function, row->file, row->line);
    ms_text_table_cell(table, "%s", name);
    ms_text_table_cell(table, "%s", ms_text_bytes(row->bytes).text);
    ms_text_table_cell(table, "0x%llx", (unsigned long long)row->start);
    ms_text_table_cell(table, "%llu", (unsigned long long)row->thread);
    ms_text_table_cell(table, "%s", ms_text_count(row->times).text);
    free(name);
}

void ms_print_regions(FILE *out, const ms_model_t *model, size_t top) {
    static const char *const header[] = {"~Named memory", ">size", ">address", ">thread", ">times"};
    size_t count = model->regions.count, shown = count < top ? count : top;
    if (count == 0) return;
    const ms_regions_row_t **rows = ms_allocate(count * sizeof *rows);
    for (size_t i = 0; i < count; i++) rows[i] = &model->regions.rows[i];
    qsort(rows, count, sizeof *rows, region_order);
    ms_text_table_t *table = ms_text_table_new(header, sizeof header / sizeof header[0]);
    for (size_t i = 0; i < shown; i++) region_row(table, rows[i]);
    fputc('\n', out);
    ms_text_table_print(table, out, 0, ms_text_terminal_width(out));
    if (count > shown) fprintf(out, "  ... and %s more variables\n", ms_text_count(count - shown).text);
    free(rows);
}
