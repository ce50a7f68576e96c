/* A comparison as one JSON object, which the page reads too: "diff" (the number of this layout), the two sides,
 * "totals", "frames" (functions, which the sites' stacks are numbers of), "measures", then a key a section. Of each
 * measure there are a, b, change, percent of a, error, limit and significant; null stands for what is not known, or for
 * a percentage of 0. */
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "cli/diff.h"
#include "cli/files.h"
#include "cli/symbols.h"
#include "export/json.h"
#include "export/number.h"

#define LAYOUT 1
#define NO_FRAME 0 /* in `numbers`: the row has not been used yet; else its number + 1 */

/* The functions used by stacks, in the order of their first use. */
typedef struct ms_frames {
    size_t *numbers[2]; /* for each row of a side's symbols */
    const ms_symbols_row_t **used;
    size_t count;
} ms_frames_t;

static void put_format(ms_writer_t *writer, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void put_format(ms_writer_t *writer, const char *format, ...) {
    char text[128];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    ms_writer_put(writer, text, (size_t)length);
}

static void put_number(ms_writer_t *writer, double value) {
    char text[MS_F64_TEXT];
    if (isfinite(value))
        ms_writer_put(writer, text, ms_number_f64(text, value));
    else
        ms_writer_text(writer, "null");
}

static void put_key(ms_writer_t *writer, const char *key) {
    put_format(writer, ", \"%s\": ", key);
}

static void put_text(ms_writer_t *writer, const char *key, const char *text) {
    put_key(writer, key);
    ms_json_string(writer, text);
}

static void put_change(ms_writer_t *writer, const ms_change_t *change) {
    int significant = ms_change_is_significant(change);
    if (!change->known) {
        ms_writer_text(writer, "null");
        return;
    }
    put_format(writer, "{\"a\": %" PRId64 ", \"b\": %" PRId64 ", \"change\": %" PRId64 ", \"percent\": ", change->a,
               change->b, ms_change_of(change));
    put_number(writer, change->a == 0 ? NAN : 100 * (double)ms_change_of(change) / fabs((double)change->a));
    ms_writer_text(writer, ", \"error\": ");
    put_number(writer, change->error);
    ms_writer_text(writer, ", \"limit\": ");
    put_number(writer, change->limit);
    put_format(writer, ", \"significant\": %s}", significant < 0 ? "null" : significant > 0 ? "true" : "false");
}

/* ---- stacks ---- */

static void use_frame(ms_frames_t *frames, const ms_model_t *model, int side, const ms_symbols_row_t *row) {
    size_t *number = &frames->numbers[side][row - model->symbols.rows];
    if (*number != NO_FRAME) return;
    frames->used[frames->count++] = row;
    *number = frames->count;
}

/* Numbers the functions of every stack that will be written. */
static ms_frames_t number_frames(const ms_diff_t *diff) {
    ms_frames_t frames = {.count = 0};
    size_t most = 0;
    for (int side = 0; side < 2; side++) {
        size_t count = diff->file[side]->model.symbols.count;
        frames.numbers[side] = ms_allocate(count * sizeof *frames.numbers[side]);
        most += count;
    }
    frames.used = ms_allocate(most * sizeof *frames.used);
    for (size_t i = 0; i < diff->sections[MS_DIFF_SITES].count; i++) {
        const ms_diff_row_t *row = &diff->sections[MS_DIFF_SITES].rows[i];
        const ms_model_t *model = &diff->file[row->side]->model;
        for (uint64_t k = 0; k < row->site->stack.count; k++) {
            size_t count;
            const ms_symbols_row_t *symbols = ms_symbols_of(model, row->site->stack.pcs[k], &count);
            for (size_t n = 0; n < count; n++) use_frame(&frames, model, row->side, &symbols[n]);
        }
    }
    return frames;
}

static void put_frames(ms_writer_t *writer, const ms_frames_t *frames) {
    ms_writer_text(writer, ",\n  \"frames\": [");
    for (size_t i = 0; i < frames->count; i++) {
        const ms_symbols_row_t *row = frames->used[i];
        ms_writer_text(writer, i == 0 ? "\n    {\"function\": " : ",\n    {\"function\": ");
        ms_json_string(writer, row->function);
        put_text(writer, "file", row->file);
        put_format(writer, ", \"line\": %" PRIu64, row->line);
        put_text(writer, "module", row->module);
        put_format(writer, ", \"offset\": %" PRIu64 "}", row->offset);
    }
    ms_writer_text(writer, "]");
}

static void put_stack(ms_writer_t *writer, const ms_diff_t *diff, const ms_diff_row_t *row, const ms_frames_t *frames) {
    const ms_model_t *model = &diff->file[row->side]->model;
    const char *comma = "";
    put_text(writer, "kind", row->site->kind);
    put_key(writer, "stack");
    ms_writer_text(writer, "[");
    for (uint64_t k = 0; k < row->site->stack.count; k++) {
        size_t count;
        const ms_symbols_row_t *symbols = ms_symbols_of(model, row->site->stack.pcs[k], &count);
        for (size_t n = 0; n < count; n++, comma = ", ")
            put_format(writer, "%s%zu", comma, frames->numbers[row->side][&symbols[n] - model->symbols.rows] - 1);
    }
    ms_writer_text(writer, "]");
}

/* ---- rows ---- */

static void put_row(ms_writer_t *writer, const ms_diff_t *diff, const ms_diff_row_t *row, const ms_frames_t *frames) {
    ms_writer_text(writer, "{\"name\": ");
    ms_json_string(writer, row->name);
    put_format(writer, ", \"rows_a\": %zu, \"rows_b\": %zu", row->rows[0], row->rows[1]);
    put_format(writer, ", \"estimated\": %s", row->estimated ? "true" : "false");
    if (row->site != NULL) put_stack(writer, diff, row, frames);
    for (ms_diff_measure_t m = 0; m < MS_DIFF_MEASURES; m++) {
        put_key(writer, ms_diff_measure_info[m].name);
        put_change(writer, &row->change[m]);
    }
    ms_writer_text(writer, "}");
}

static void put_section(ms_writer_t *writer, const ms_diff_t *diff, const ms_diff_section_t *section,
                        const ms_frames_t *frames) {
    put_format(writer, ",\n  \"%s\": {\"sort\": \"%s\", \"rest\": ", section->name,
               ms_diff_measure_info[section->sort].name);
    if (section->has_rest)
        put_row(writer, diff, &section->rest, frames);
    else
        ms_writer_text(writer, "null");
    ms_writer_text(writer, ", \"rows\": [");
    for (size_t i = 0; i < section->count && writer->error == 0; i++) {
        ms_writer_text(writer, i == 0 ? "\n    " : ",\n    ");
        put_row(writer, diff, &section->rows[i], frames);
    }
    ms_writer_text(writer, "]}");
}

static void put_side(ms_writer_t *writer, const ms_diff_t *diff, int side) {
    const ms_snapshot_file_t *file = diff->file[side];
    const ms_model_t *model = &file->model;
    put_format(writer, ",\n  \"%c\": {\"file\": ", "ab"[side]);
    ms_json_string(writer, diff->path[side]);
    put_format(writer, ", \"complete\": %s", file->complete && model->data_quality.rows->complete ? "true" : "false");
    put_text(writer, "warning", file->warning[0] != '\0' ? file->warning : NULL);
    put_text(writer, "site_counts", model->data_quality.rows->site_counts);
    if (model->process.count > 0) {
        const ms_process_row_t *process = model->process.rows;
        put_text(writer, "name", process->name);
        put_text(writer, "command_line", process->command_line);
        put_text(writer, "mode", process->mode);
        put_format(writer, ", \"pid\": %" PRIu64 ", \"snapshot_unix_ns\": %" PRIu64 ", \"elapsed_ns\": %" PRIu64,
                   process->pid, process->snapshot_unix_ns, process->elapsed_ns);
    }
    ms_writer_text(writer, "}");
}

static void put_measures(ms_writer_t *writer) {
    ms_writer_text(writer, ",\n  \"measures\": [");
    for (size_t m = 0; m < MS_DIFF_MEASURES; m++) {
        const ms_diff_measure_info_t *info = &ms_diff_measure_info[m];
        put_format(writer, "%s\n    {\"name\": \"%s\", \"label\": \"%s\", \"unit\": \"%s\"}", m == 0 ? "" : ",",
                   info->name, info->label, info->unit);
    }
    ms_writer_text(writer, "]");
}

static void put_totals(ms_writer_t *writer, const ms_diff_t *diff) {
    ms_writer_text(writer, ",\n  \"totals\": [");
    for (size_t i = 0; i < diff->total_count; i++) {
        const ms_diff_total_t *total = &diff->totals[i];
        put_format(writer, "%s\n    {\"name\": \"%s\"", i == 0 ? "" : ",", total->name);
        put_text(writer, "label", total->label);
        put_text(writer, "unit", total->unit);
        put_key(writer, "value");
        put_change(writer, &total->change);
        ms_writer_text(writer, "}");
    }
    ms_writer_text(writer, "]");
}

int ms_diff_json(const void *data, ms_writer_t *writer) {
    static const char *const words[] = {"function", "stack", "line"};
    const ms_diff_t *diff = data;
    ms_frames_t frames = number_frames(diff);
    put_format(writer, "{\"diff\": %d, \"by\": \"%s\", \"sort\": \"%s\"", LAYOUT, words[diff->by],
               ms_diff_measure_info[diff->sort].name);
    for (int side = 0; side < 2; side++) put_side(writer, diff, side);
    put_measures(writer);
    put_totals(writer, diff);
    put_frames(writer, &frames);
    for (int id = 0; id < MS_DIFF_SECTIONS; id++) put_section(writer, diff, &diff->sections[id], &frames);
    ms_writer_text(writer, "\n}\n");
    for (int side = 0; side < 2; side++) free(frames.numbers[side]);
    free(frames.used);
    return writer->error;
}
