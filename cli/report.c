/* `memscope report`: a page or JSON from data written earlier. */
#include "cli/command.h"

#include <stdlib.h>
#include <string.h>

#include "cli/files.h"
#include "cli/symbols.h"

typedef struct ms_report_options {
    const char *format, *output, *view;
    ms_symbol_options_t symbols;
} ms_report_options_t;

static const ms_option_t options[] = {
    {.letter = 'f',
     .name = "format",
     .argument = "html|json",
     .offset = offsetof(ms_report_options_t, format),
     .help = "what to write (default: html)"},
    {.letter = 'o',
     .name = "output",
     .argument = "OUT",
     .offset = offsetof(ms_report_options_t, output),
     .help =
         "where to: a file, - for standard output, or a directory (default: FILE with .memscope replaced by .html or "
         ".json)"},
    {.name = "view",
     .argument = "complete|threads|tasks|sites|variables",
     .offset = offsetof(ms_report_options_t, view),
     .help = "what the page shows first (default: complete)"},
    MS_SYMBOL_OPTIONS(ms_report_options_t),
    {.name = NULL},
};

static char *output_path(const char *input, const char *output, const char *suffix) {
    if (output == NULL) return ms_with_suffix(input, suffix);
    if (strcmp(output, "-") == 0 || !ms_is_directory(output)) return ms_format("%s", output);
    char *name = ms_with_suffix(ms_base_name(input), suffix), *path = ms_format("%s/%s", output, name);
    free(name);
    return path;
}

static int report_one(const char *input, const ms_report_options_t *given, ms_symbolizer_t *symbolizer) {
    bool json = given->format != NULL && strcmp(given->format, "json") == 0;
    char *output = output_path(input, given->output, json ? ".json" : ".html");
    if (ms_is_same_file(input, output)) {
        ms_complain("report: %s would replace the snapshot it is made from; choose another name with -o", output);
        free(output);
        return MS_EXIT_USAGE;
    }
    ms_snapshot_file_t *file = ms_load(input);
    if (file == NULL) {
        free(output);
        return MS_EXIT_USAGE;
    }
    ms_symbolize(symbolizer, file);
    int error = ms_write_model(&file->model, output, json ? MS_WRITE_JSON : MS_WRITE_HTML, given->view);
    free(output);
    ms_snapshot_file_free(file);
    return error == 0 ? MS_EXIT_OK : MS_EXIT_USAGE;
}

static int report(const ms_command_t *self, int count, char **arguments) {
    ms_report_options_t given = {.format = NULL};
    int status = MS_EXIT_OK;
    count = ms_command_options(self, count, arguments, &given, &status);
    if (count < 0) return status;
    if (count == 0) return ms_command_usage(self, "FILE is missing: name a .memscope file");
    bool json = given.format != NULL && strcmp(given.format, "json") == 0;
    if (json && given.view != NULL) return ms_command_usage(self, "--view is for --format html");
    if (count > 1 && given.output != NULL && !ms_is_directory(given.output))
        return ms_command_usage(self, "with several FILEs, -o '%s' must be a directory that exists", given.output);
    ms_symbolizer_t *symbolizer = ms_symbolizer_open(&given.symbols);
    for (int i = 0; i < count; i++) {
        int one = report_one(arguments[i], &given, symbolizer);
        if (one != MS_EXIT_OK) status = one;
    }
    ms_symbolizer_close(symbolizer);
    return status;
}

const ms_command_t ms_command_report = {
    .name = "report",
    .arguments = "FILE...",
    .summary = "turn snapshots into HTML pages or JSON",
    .help =
        "Reads .memscope files, looks up the names of their code addresses, and writes for each one page that needs "
        "no network, or JSON.",
    .options = options,
    .run = report,
};
