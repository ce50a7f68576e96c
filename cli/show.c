/* `memscope show`: a snapshot as text. */
#include "cli/command.h"

#include <stdio.h>
#include <string.h>

#include "cli/events.h"
#include "cli/files.h"
#include "cli/leaks.h"
#include "cli/summary.h"
#include "cli/symbols.h"

#define TOP_DEFAULT 20
#define TOP_MOST 10000
#define LIMIT_DEFAULT 1000

typedef struct ms_show_options {
    const char *top, *sort, *limit, *thread, *task;
    bool events;
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
     .help = "which sites come first (default: live, or allocated when little is live); sites whose peak was not "
             "recorded come last"},
    {.name = "events",
     .offset = offsetof(ms_show_options_t, events),
     .help = "FILE is an event log (.bin): print its events in order of time, those of several files together"},
    {.name = "limit",
     .argument = "N",
     .offset = offsetof(ms_show_options_t, limit),
     .help = "print this many events (default: 1000)"},
    {.name = "thread",
     .argument = "ID",
     .offset = offsetof(ms_show_options_t, thread),
     .help = "only events of the threads with this number or name"},
    {.name = "task",
     .argument = "ID",
     .offset = offsetof(ms_show_options_t, task),
     .help = "only events of the tasks with this number or name; 0: outside any"},
    MS_SYMBOL_OPTIONS(ms_show_options_t),
    {.name = NULL},
};

static ms_sort_t sort_of(const char *word, const ms_model_t *model) {
    if (word == NULL) return ms_telling_sort(model);
    if (strcmp(word, "live") == 0) return MS_SORT_LIVE;
    return strcmp(word, "peak") == 0 ? MS_SORT_PEAK : MS_SORT_ALLOCATED;
}

static int show_one(const char *path, ms_symbolizer_t *symbolizer, size_t top, const char *sort) {
    ms_snapshot_file_t *file = ms_load(path);
    if (file == NULL) return MS_EXIT_USAGE;
    const ms_model_t *model = &file->model;
    ms_symbolize(symbolizer, file);
    ms_print_headline(stdout, model);
    ms_print_process(stdout, model);
    ms_print_totals(stdout, model);
    ms_print_memory(stdout, model);
    ms_print_over_time(stdout, model);
    ms_print_threads(stdout, model, top);
    ms_print_tasks(stdout, model, top);
    ms_print_stacks(stdout, model, top, sort_of(sort, model));
    ms_print_leak_section(stdout, model, top);
    ms_print_scopes(stdout, model, top);
    ms_print_regions(stdout, model, top);
    ms_print_size_classes(stdout, model, top);
    ms_print_quality(stdout, model);
    ms_print_trace(stdout, model);
    ms_snapshot_file_free(file);
    return MS_EXIT_OK;
}

static int show_snapshots(int count, char **arguments, ms_symbolizer_t *symbolizer, size_t top, const char *sort) {
    int status = MS_EXIT_OK;
    for (int i = 0; i < count; i++) {
        if (i > 0) printf("\n");
        int one = show_one(arguments[i], symbolizer, top, sort);
        if (one != MS_EXIT_OK) status = one;
    }
    return status;
}

static int show(const ms_command_t *self, int count, char **arguments) {
    ms_show_options_t given = {.top = NULL};
    uint64_t top = TOP_DEFAULT, limit = LIMIT_DEFAULT;
    int status = MS_EXIT_OK;
    count = ms_command_options(self, count, arguments, &given, &status);
    if (count < 0) return status;
    if (count == 0) return ms_command_usage(self, "FILE is missing: name a .memscope file");
    if (given.top != NULL && !ms_command_number(self, "top", given.top, TOP_MOST, &top)) return MS_EXIT_USAGE;
    if (given.limit != NULL && !ms_command_number(self, "limit", given.limit, UINT64_MAX, &limit)) return MS_EXIT_USAGE;
    if (!given.events && (given.limit || given.thread || given.task))
        return ms_command_usage(self, "--limit, --thread and --task choose events: add --events");
    ms_symbolizer_t *symbolizer = ms_symbolizer_open(&given.symbols);
    ms_events_options_t events = {.limit = limit, .thread = given.thread, .task = given.task};
    status = given.events ? ms_print_events(stdout, arguments, (size_t)count, &events, symbolizer)
                          : show_snapshots(count, arguments, symbolizer, (size_t)top, given.sort);
    ms_symbolizer_close(symbolizer);
    return ms_finish_stdout() ? status : MS_EXIT_USAGE;
}

const ms_command_t ms_command_show = {
    .name = "show",
    .arguments = "FILE...",
    .summary = "print snapshots as text",
    .help =
        "Reads .memscope files and prints them: the result in words, totals, where the memory is, how it came about over "
        "time (knob interval), threads, tasks, the top sites with their stacks, what variables own, size classes, and how "
        "good the data is. With --events it reads event logs (.bin files) and prints their events.",
    .options = options,
    .run = show,
};
