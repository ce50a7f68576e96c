/* `memscope diff`: what changed from one snapshot to another. */
#include "cli/diff.h"

#include <stdio.h>
#include <string.h>

#include "cli/command.h"
#include "cli/files.h"
#include "cli/summary.h"
#include "cli/symbols.h"

#define TOP_DEFAULT 20
#define TOP_MOST 1000000

typedef struct ms_diff_options {
    const char *format, *output, *sort, *top, *by;
    ms_symbol_options_t symbols;
} ms_diff_options_t;

static const ms_option_t options[] = {
    {.letter = 'f',
     .name = "format",
     .argument = "text|html|json",
     .offset = offsetof(ms_diff_options_t, format),
     .help = "what to write (default: text)"},
    {.letter = 'o',
     .name = "output",
     .argument = "OUT",
     .offset = offsetof(ms_diff_options_t, output),
     .help = "where to, for html and json: a file, or - for standard output (the default)"},
    {.letter = 's',
     .name = "sort",
     .argument = "live|allocated|peak",
     .offset = offsetof(ms_diff_options_t, sort),
     .help = "whose change is shown and put in order (default: live, or allocated when hardly anything is live)"},
    {.letter = 'n',
     .name = "top",
     .argument = "N",
     .offset = offsetof(ms_diff_options_t, top),
     .help = "show this many rows of each table of the text (default: 20)"},
    {.name = "by",
     .argument = "function|stack|line",
     .offset = offsetof(ms_diff_options_t, by),
     .help =
         "which sites are the same: those with the same function, the same functions in the whole stack (the default; "
         "right for a program that was built anew), or the same lines there"},
    MS_SYMBOL_OPTIONS(ms_diff_options_t),
    {.name = NULL},
};

static ms_diff_by_t by_of(const char *word) {
    if (word == NULL || strcmp(word, "stack") == 0) return MS_DIFF_BY_STACK;
    return strcmp(word, "line") == 0 ? MS_DIFF_BY_LINE : MS_DIFF_BY_FUNCTION;
}

static ms_diff_measure_t sort_of(const char *word, const ms_snapshot_file_t *a, const ms_snapshot_file_t *b) {
    if (word == NULL)
        return ms_telling_sort(&a->model) == MS_SORT_LIVE || ms_telling_sort(&b->model) == MS_SORT_LIVE
                   ? MS_DIFF_live_bytes
                   : MS_DIFF_allocated_bytes;
    if (strcmp(word, "live") == 0) return MS_DIFF_live_bytes;
    return strcmp(word, "peak") == 0 ? MS_DIFF_peak_bytes : MS_DIFF_allocated_bytes;
}

static int write_diff(const ms_diff_t *diff, const ms_diff_options_t *given, size_t top) {
    bool page = given->format != NULL && strcmp(given->format, "html") == 0;
    if (given->format == NULL || strcmp(given->format, "text") == 0) {
        ms_diff_print(stdout, diff, top);
        return ms_finish_stdout() ? MS_EXIT_OK : MS_EXIT_USAGE;
    }
    ms_document_t document = {.write = ms_diff_json, .data = diff, .page = page};
    return ms_write_document(&document, given->output != NULL ? given->output : "-") == 0 ? MS_EXIT_OK : MS_EXIT_USAGE;
}

static int compare(char **paths, const ms_diff_options_t *given, size_t top) {
    ms_snapshot_file_t *a = ms_load(paths[0]), *b = ms_load(paths[1]);
    int status = MS_EXIT_USAGE;
    if (a != NULL && b != NULL) {
        ms_symbolizer_t *symbolizer = ms_symbolizer_open(&given->symbols);
        ms_symbolize(symbolizer, a);
        ms_symbolize(symbolizer, b);
        ms_symbolizer_close(symbolizer);
        ms_diff_t *diff = ms_diff_make(a, b, by_of(given->by), sort_of(given->sort, a, b));
        diff->path[0] = paths[0];
        diff->path[1] = paths[1];
        status = write_diff(diff, given, top);
        ms_diff_free(diff);
    }
    ms_snapshot_file_free(a);
    ms_snapshot_file_free(b);
    return status;
}

static int run_diff(const ms_command_t *self, int count, char **arguments) {
    ms_diff_options_t given = {.format = NULL};
    uint64_t top = TOP_DEFAULT;
    int status = MS_EXIT_OK;
    count = ms_command_options(self, count, arguments, &given, &status);
    if (count < 0) return status;
    if (count != 2) return ms_command_usage(self, "name two .memscope files, A and B");
    bool text = given.format == NULL || strcmp(given.format, "text") == 0;
    if (text && given.output != NULL) return ms_command_usage(self, "-o is for --format html and json");
    if (!text && given.top != NULL) return ms_command_usage(self, "--top is for text; html and json hold all rows");
    if (given.top != NULL && !ms_command_number(self, "top", given.top, TOP_MOST, &top)) return MS_EXIT_USAGE;
    for (int i = 0; i < 2 && given.output != NULL; i++)
        if (ms_is_same_file(arguments[i], given.output))
            return ms_command_usage(self, "%s would replace a snapshot it is made from", given.output);
    return compare(arguments, &given, (size_t)top);
}

const ms_command_t ms_command_diff = {
    .name = "diff",
    .arguments = "A B",
    .summary = "compare two snapshots: sites, tasks, threads, size classes",
    .help =
        "Reads two .memscope files and says what changed from A to B: totals, sites, variables, tasks, threads and "
        "size "
        "classes, the largest change first.\n"
        "Rows are matched by what they mean, so that A and B may be of different runs, processes and builds: sites by "
        "the functions of their stacks, tasks by the path of their names, threads by name. Rows of one file that mean "
        "the same are added up. Changes of estimates within two standard errors are marked with a question mark.",
    .options = options,
    .run = run_diff,
};
