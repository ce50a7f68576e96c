/* `memscope show`: a snapshot as text. */
#include "cli/command.h"

#include <stdio.h>
#include <string.h>

#include "cli/files.h"
#include "cli/summary.h"
#include "cli/symbols.h"

#define TOP_DEFAULT 20
#define TOP_MOST 10000

typedef struct ms_show_options {
    const char *top, *sort;
    ms_symbol_options_t symbols;
} ms_show_options_t;

static const ms_option_t options[] = {
    {.letter = 'n',
     .name = "top",
     .argument = "N",
     .offset = offsetof(ms_show_options_t, top),
     .help = "show this many rows of each table (default: 20)"},
    {.letter = 's',
     .name = "sort",
     .argument = "live|allocated|peak",
     .offset = offsetof(ms_show_options_t, sort),
     .help = "which sites come first (default: live); sites whose peak was not recorded come last"},
    MS_SYMBOL_OPTIONS(ms_show_options_t),
    {.name = NULL},
};

static ms_sort_t sort_of(const char *word) {
    if (word == NULL || strcmp(word, "live") == 0) return MS_SORT_LIVE;
    return strcmp(word, "peak") == 0 ? MS_SORT_PEAK : MS_SORT_ALLOCATED;
}

static int show_one(const char *path, ms_symbolizer_t *symbolizer, size_t top, ms_sort_t sort) {
    ms_snapshot_file_t *file = ms_load(path);
    if (file == NULL) return MS_EXIT_USAGE;
    const ms_model_t *model = &file->model;
    ms_symbolize(symbolizer, file);
    ms_print_headline(stdout, model);
    ms_print_process(stdout, model);
    ms_print_totals(stdout, model);
    ms_print_memory(stdout, model);
    ms_print_threads(stdout, model, top);
    ms_print_tasks(stdout, model, top);
    ms_print_stacks(stdout, model, top, sort);
    ms_print_size_classes(stdout, model, top);
    ms_print_quality(stdout, model);
    ms_snapshot_file_free(file);
    return MS_EXIT_OK;
}

static int show(const ms_command_t *self, int count, char **arguments) {
    ms_show_options_t given = {.top = NULL};
    uint64_t top = TOP_DEFAULT;
    int status = MS_EXIT_OK;
    count = ms_command_options(self, count, arguments, &given, &status);
    if (count < 0) return status;
    if (count == 0) return ms_command_usage(self, "FILE is missing: name a .memscope file");
    if (given.top != NULL && !ms_command_number(self, "top", given.top, TOP_MOST, &top)) return MS_EXIT_USAGE;
    ms_symbolizer_t *symbolizer = ms_symbolizer_open(&given.symbols);
    for (int i = 0; i < count; i++) {
        if (i > 0) printf("\n");
        int one = show_one(arguments[i], symbolizer, (size_t)top, sort_of(given.sort));
        if (one != MS_EXIT_OK) status = one;
    }
    ms_symbolizer_close(symbolizer);
    return ms_finish_stdout() ? status : MS_EXIT_USAGE;
}

const ms_command_t ms_command_show = {
    .name = "show",
    .arguments = "FILE...",
    .summary = "print snapshots as text",
    .help =
        "Reads .memscope files and prints them: the result in words, totals, where the memory is, threads, tasks, the "
        "top sites with their stacks, size classes, and how good the data is.",
    .options = options,
    .run = show,
};
