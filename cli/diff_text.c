/* A comparison as text; see diff.h. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/diff.h"
#include "cli/files.h"
#include "cli/text.h"

/* ---- signed quantities ---- */

static ms_quantity_t quantity(int64_t value, const char *unit, bool with_plus) {
    uint64_t size = value < 0 ? -(uint64_t)value : (uint64_t)value;
    ms_quantity_t plain = strcmp(unit, "bytes") == 0 ? ms_text_bytes(size)
                          : strcmp(unit, "ns") == 0  ? ms_text_duration(size)
                                                     : ms_text_count(size);
    ms_quantity_t q;
    snprintf(q.text, sizeof q.text, "%s%.40s", value < 0 ? "-" : with_plus && value > 0 ? "+" : "", plain.text);
    return q;
}

static ms_quantity_t percentage(const ms_change_t *change) {
    ms_quantity_t q = {"-"};
    double percent = change->a == 0 ? 0 : 100 * (double)ms_change_of(change) / fabs((double)change->a);
    if (change->a == 0 && change->b != 0)
        return (ms_quantity_t){"new"};
    else if (change->a != 0 && change->b == 0)
        return (ms_quantity_t){"gone"};
    else if (fabs(percent) >= 1000 && fabs(percent) < 1e15) /* +8,323% */
        snprintf(q.text, sizeof q.text, "%c%.40s%%", percent < 0 ? '-' : '+', ms_text_count((uint64_t)fabs(percent)).text);
    else if (change->a != 0)
        snprintf(q.text, sizeof q.text, ms_change_of(change) == 0 ? "%.1f%%" : "%+.1f%%", percent);
    return q;
}

/* ---- rows ---- */

static void change_cells(ms_text_table_t *table, const ms_change_t *change, const char *unit, bool estimated) {
    const char *about = estimated ? "~" : "";
    ms_text_table_cell(table, "%s%s", about, quantity(change->a, unit, false).text);
    ms_text_table_cell(table, "%s%s", about, quantity(change->b, unit, false).text);
    ms_text_table_cell(table, "%s%s%s", about, quantity(ms_change_of(change), unit, true).text,
                       ms_change_is_significant(change) == 0 && ms_change_of(change) != 0 ? " ?" : "");
    ms_text_table_cell(table, "%s", percentage(change).text);
}

static void error_cell(ms_text_table_t *table, const ms_change_t *change, const char *unit) {
    if (isnan(change->error) || change->error >= 0x1p63) /* such numbers are in damaged files only */
        ms_text_table_cell(table, "unknown");
    else
        ms_text_table_cell(table, "%s", change->error <= 0 ? "" : quantity((int64_t)change->error, unit, false).text);
}

static void add_row(ms_text_table_t *table, const ms_diff_section_t *section, const ms_diff_row_t *row, bool errors) {
    const ms_change_t *change = &row->change[section->sort];
    const char *unit = ms_diff_measure_info[section->sort].unit;
    change_cells(table, change, unit, row->estimated);
    if (errors) error_cell(table, change, unit);
    const char *many = "";
    ms_quantity_t counts = {""};
    if (row->rows[0] > 1 || row->rows[1] > 1) {
        snprintf(counts.text, sizeof counts.text, " (%zu and %zu together)", row->rows[0], row->rows[1]);
        many = counts.text;
    }
    ms_text_table_cell(table, "%s%s", row->name, many);
}

static bool differs(const ms_diff_section_t *section, const ms_diff_row_t *row) {
    const ms_change_t *change = &row->change[section->sort];
    return change->known && ms_change_of(change) != 0;
}

/* ---- sections ---- */

static void print_totals(FILE *out, const ms_diff_t *diff) {
    static const char *const header[] = {"<Totals", ">A", ">B", ">change", ">%"};
    ms_text_table_t *table = ms_text_table_new(header, 5);
    for (size_t i = 0; i < diff->total_count; i++) {
        const ms_diff_total_t *total = &diff->totals[i];
        if (!total->change.known) continue;
        ms_text_table_cell(table, "%s", total->label);
        change_cells(table, &total->change, total->unit, false);
    }
    fputc('\n', out);
    ms_text_table_print(table, out, 0, ms_text_terminal_width(out));
}

static void print_rows(FILE *out, const ms_diff_section_t *section, size_t shown, bool errors) {
    static const char *const with_errors[] = {">A", ">B", ">change", ">%", ">+-", "~"};
    static const char *const exact[] = {">A", ">B", ">change", ">%", "~"};
    ms_text_table_t *table = errors ? ms_text_table_new(with_errors, 6) : ms_text_table_new(exact, 5);
    for (size_t i = 0; i < shown; i++) add_row(table, section, &section->rows[i], errors);
    if (section->has_rest && differs(section, &section->rest)) add_row(table, section, &section->rest, errors);
    ms_text_table_print(table, out, 0, ms_text_terminal_width(out));
}

static void print_section(FILE *out, const ms_diff_section_t *section, const char *title, const char *rows,
                          size_t top) {
    size_t changed = 0;
    bool errors = false, unsure = false;
    if (section->count == 0) return;
    while (changed < section->count && differs(section, &section->rows[changed])) changed++;
    size_t shown = changed < top ? changed : top;
    for (size_t i = 0; i < shown; i++) {
        const ms_change_t *change = &section->rows[i].change[section->sort];
        errors |= isnan(change->error) || change->error > 0;
        unsure |= ms_change_is_significant(change) == 0;
    }
    fprintf(out, "\n%s by change of %s: ", title, ms_diff_measure_info[section->sort].label);
    if (changed == 0)
        fprintf(out, "none of %s differs\n", ms_text_count(section->count).text);
    else
        fprintf(out, "%s of %s differ%s%s\n", ms_text_count(changed).text, ms_text_count(section->count).text,
                errors ? "; ~: estimated from samples" : "", unsure ? "; ?: not significant, it may be chance" : "");
    if (changed > 0 || (section->has_rest && differs(section, &section->rest))) print_rows(out, section, shown, errors);
    if (changed > shown) fprintf(out, "  ... and %s more %s\n", ms_text_count(changed - shown).text, rows);
}

/* ---- the whole ---- */

static void print_side(FILE *out, const ms_diff_t *diff, int side) {
    const ms_model_t *model = &diff->file[side]->model;
    char *about = NULL;
    if (model->process.count > 0) {
        const ms_process_row_t *process = model->process.rows;
        about = ms_format("%s (pid %llu), %s, mode %s, after %s", process->name != NULL ? process->name : "?",
                          (unsigned long long)process->pid, ms_text_wall_clock(process->snapshot_unix_ns).text,
                          process->mode != NULL ? process->mode : "?", ms_text_duration(process->elapsed_ns).text);
    }
    char *text = ms_format("%c  %s%s%s%s", "AB"[side], diff -> path[side], about != NULL ? ": " : "",
                           about != NULL ? about : "", model->data_quality.rows->complete ? "" : " (not complete)");
    char *safe = ms_text_safe(text);
    fprintf(out, "%s\n", safe);
    free(safe);
    free(text);
    free(about);
}

static const ms_diff_row_t *largest_site(const ms_diff_t *diff) {
    const ms_diff_section_t *sites = &diff->sections[MS_DIFF_SITES];
    bool is_asked_for = sites->sort == diff->sort || sites->sort == MS_DIFF_at_peak_bytes;
    for (size_t i = 0; i < sites->count && is_asked_for && differs(sites, &sites->rows[i]); i++)
        if (ms_change_is_significant(&sites->rows[i].change[sites->sort]) > 0) return &sites->rows[i];
    return NULL;
}

static void print_headline(FILE *out, const ms_diff_t *diff) {
    const ms_diff_measure_info_t *measure = &ms_diff_measure_info[diff->sort];
    const ms_change_t *change = &diff->totals[diff->sort].change;
    const ms_diff_row_t *site = largest_site(diff);
    if (!change->known) {
        fprintf(out, "The data of a side ends before its totals.\n");
        return;
    }
    char *most =
        site == NULL
            ? ms_format("%s", "")
            : ms_format(
                  " The largest change of a site, %s%s, is that of %s.", site->estimated ? "about " : "",
                  quantity(ms_change_of(&site->change[diff->sections[MS_DIFF_SITES].sort]), measure->unit, true).text,
                  site->name);
    char *text =
        ms_format("From A to B, %s memory changed by %s: from %s to %s.%s", measure->label,
                  quantity(ms_change_of(change), measure->unit, true).text,
                  quantity(change->a, measure->unit, false).text, quantity(change->b, measure->unit, false).text, most);
    char *safe = ms_text_safe(text);
    size_t width = ms_text_terminal_width(out);
    ms_text_wrap(out, 0, width > 100 ? 100 : width, safe);
    free(safe);
    free(text);
    free(most);
}

void ms_diff_print(FILE *out, const ms_diff_t *diff, size_t top) {
    for (int side = 0; side < 2; side++) print_side(out, diff, side);
    fputc('\n', out);
    print_headline(out, diff);
    print_totals(out, diff);
    print_section(out, &diff->sections[MS_DIFF_SITES], "Sites", "sites", top);
    print_section(out, &diff->sections[MS_DIFF_VARIABLES], "Variables", "variables", top);
    print_section(out, &diff->sections[MS_DIFF_TASKS], "Tasks", "tasks", top);
    print_section(out, &diff->sections[MS_DIFF_THREADS], "Threads", "threads", top);
    print_section(out, &diff->sections[MS_DIFF_CLASSES], "Size classes", "size classes", top);
}
