/* `memscope run`: a command on libmemscope_malloc, and what its memory did.
 *
 * Nothing is printed between the command's start and its end, and its standard output is never touched. */
#include "cli/command.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/collect.h"
#include "cli/conf.h"
#include "cli/files.h"
#include "cli/launch.h"
#include "cli/leaks.h"
#include "cli/summary.h"
#include "cli/symbols.h"
#include "cli/text.h"
#include "tracking/knobs.h"

#define DIRECTORY_DEFAULT "MemoryAnalysis"
#define PAGES_MOST 50 /* a build starts thousands of processes: only the largest get a page unasked */
#define SITES_SHOWN 10
#define THREADS_SHOWN 5
#define TASKS_SHOWN 10
#define OTHERS_SHOWN 10

typedef struct ms_run_options {
    const char *directory, *mode, *conf, *interval, *library, *leaks;
    bool quiet, trace;
} ms_run_options_t;

static const ms_option_t options[] = {
    {.letter = 'o',
     .name = "output",
     .argument = "DIR",
     .offset = offsetof(ms_run_options_t, directory),
     .help = "write NAME.PID.memscope and NAME.PID.html there (default: " DIRECTORY_DEFAULT "); made if missing"},
    {.letter = 'm',
     .name = "mode",
     .argument = "MODE",
     .offset = offsetof(ms_run_options_t, mode),
     .help = "what is recorded, see `memscope conf mode`"},
    {.letter = 'c',
     .name = "conf",
     .argument = "KEY:VALUE,...",
     .offset = offsetof(ms_run_options_t, conf),
     .appends = true,
     .help = "further knobs, see `memscope conf`; they count more than those in MEMSCOPE_CONF"},
    {.letter = 'i',
     .name = "interval",
     .argument = "TIME",
     .offset = offsetof(ms_run_options_t, interval),
     .help = "record what is held this often while the program runs (100ms, 2s): a time axis, and data after a SIGKILL"},
    {.name = "trace",
     .offset = offsetof(ms_run_options_t, trace),
     .help = "log every allocation and free in NAME.PID.bin there, for `memscope show --events`: the knobs trace:on and, "
             "with more room than by default, buffer_size:4M"},
    {.name = "leaks",
     .argument = "live|scan",
     .implied = "live",
     .offset = offsetof(ms_run_options_t, leaks),
     .help = "list the blocks that are live in the end, by site, task and thread; --leaks=scan: and find out which of them "
             "nothing points to"},
    {.letter = 'q', .name = "quiet", .offset = offsetof(ms_run_options_t, quiet), .help = "print no summary"},
    {.name = "library",
     .argument = "FILE",
     .offset = offsetof(ms_run_options_t, library),
     .help = "preload this libmemscope_malloc.so instead of the one that belongs to this command"},
    {.name = NULL},
};

/* ---- before ---- */

/* Makes the directory and proves that files can be made there. NULL with a complaint, else its absolute path. */
static char *prepare_directory(const char *directory) {
    int error = *directory == '\0' ? ENOENT : ms_make_directories(directory);
    char *path = error == 0 ? realpath(directory, NULL) : NULL;
    if (error == 0 && path == NULL) error = errno;
    if (path != NULL) {
        char *probe = ms_format("%s/.memscope-XXXXXX", path);
        int file = mkstemp(probe);
        if (file < 0) error = errno;
        if (file >= 0) close(file);
        if (file >= 0) unlink(probe);
        free(probe);
    }
    if (error == 0 && strchr(path, ',') != NULL) {
        ms_complain("run: MEMSCOPE_CONF cannot name the directory %s: its path holds a comma; choose another with -o",
                    path);
        free(path);
        return NULL;
    }
    if (error == 0) return path;
    ms_complain("run: cannot write into the directory '%s': %s; choose another with -o", directory, strerror(error));
    free(path);
    return NULL;
}

/* Appends ",text" to *conf. */
static void append(char **conf, const char *text) {
    char *longer = ms_format("%s%s%s", *conf, **conf != '\0' ? "," : "", text);
    free(*conf);
    *conf = longer;
}

static void append_output(char **conf, const char *directory) {
    char *entry = ms_allocate(2 * strlen(directory) + 64), *to = entry;
    to += sprintf(to, "output:");
    for (const char *from = directory; *from != '\0'; from++) {
        if (*from == '%') *to++ = '%';
        *to++ = *from;
    }
    strcpy(to, "/%n.%p.memscope");
    append(conf, entry);
    free(entry);
}

static void ignore_complaint(void *context, const char *key, const char *value, const char *problem, const char *used) {
    (void)context, (void)key, (void)value, (void)problem, (void)used; /* the library says it, in the program */
}

static void read_conf(const char *text, ms_knob_values_t *values) {
    ms_knob_source_t sources[MS_KNOB_ID_COUNT];
    ms_knobs_reset(values, sources);
    ms_knobs_parse(text, MS_SOURCE_ENVIRONMENT, values, sources, ignore_complaint, NULL);
    if (values->conf[0] == '\0') return;
    ms_knobs_parse_file(values->conf, values, sources, ignore_complaint, NULL);
    ms_knobs_parse(text, MS_SOURCE_ENVIRONMENT, values, sources, ignore_complaint, NULL);
}

/* We read the .memscope file, whatever else is written. */
static void append_formats(char **conf, const ms_knob_values_t *values) {
    if (strstr(values->formats, "memscope") != NULL) return;
    char *entry = ms_format("formats:memscope+%s", values->formats);
    append(conf, entry);
    free(entry);
}

/* What --mode, --interval and --conf say, or NULL when it is wrong. */
static char *chosen_conf(const ms_command_t *self, const ms_run_options_t *given) {
    char *conf = ms_format("%s", "");
    if (given->mode != NULL) {
        char *mode = ms_format("mode:%s", given->mode);
        append(&conf, mode);
        free(mode);
    }
    if (given->interval != NULL) {
        char *interval = ms_format("interval:%s", given->interval);
        append(&conf, interval);
        free(interval);
    }
    if (given->trace) append(&conf, "trace:on,buffer_size:4M");
    if (given->leaks != NULL) {
        char *leaks = ms_format("leaks:%s", given->leaks);
        append(&conf, leaks);
        free(leaks);
    }
    if (given->conf != NULL) append(&conf, given->conf);
    char *searched = ms_format(",%s", conf);
    bool names_output = strstr(searched, ",output:") != NULL;
    free(searched);
    if (names_output) ms_command_usage(self, "the knob output is set by -o DIR, not by --conf");
    if (!names_output && ms_conf_is_good("run", conf)) return conf;
    free(conf);
    return NULL;
}

/* The whole MEMSCOPE_CONF of the command: the caller's, ours behind it (the later counts). */
static char *whole_conf(const char *chosen, const char *directory, ms_knob_values_t *values) {
    const char *caller = getenv("MEMSCOPE_CONF");
    char *conf = ms_format("%s", caller != NULL ? caller : "");
    if (*chosen != '\0') append(&conf, chosen);
    read_conf(conf, values);
    append_formats(&conf, values);
    append_output(&conf, directory);
    return conf;
}

/* ---- after ---- */

static void stamp(ms_model_t *model, int status) {
    if (model->process.count == 0) return;
    ms_process_row_t *process = model->process.rows;
    process->exit_status = WIFEXITED(status) ? (uint64_t)WEXITSTATUS(status) : MS_NULL;
    process->exit_signal = WIFSIGNALED(status) ? (uint64_t)WTERMSIG(status) : MS_NULL;
}

static void print_main(const ms_model_t *model) {
    fputc('\n', stderr);
    ms_print_headline(stderr, model);
    ms_print_warnings(stderr, model);
    ms_print_totals(stderr, model);
    ms_print_over_time(stderr, model);
    ms_print_sites(stderr, model, SITES_SHOWN, ms_telling_sort(model));
    ms_print_threads(stderr, model, THREADS_SHOWN);
    ms_print_tasks(stderr, model, TASKS_SHOWN);
    ms_print_trace(stderr, model);
    ms_print_leak_section(stderr, model, SITES_SHOWN);
}

/* Looks up names, keeps them in the file, writes the page beside it. `status` is of the main process, else NULL. */
static void finish_one(const ms_found_t *found, const int *status, ms_symbolizer_t *symbolizer, bool print) {
    ms_snapshot_file_t *file = ms_load(found->path);
    if (file == NULL) return;
    if (status != NULL) stamp(&file->model, *status);
    ms_symbolize(symbolizer, file);
    /* What was lost of a damaged file stays lost: the file keeps all its bytes. */
    if (file->complete) ms_write_model(&file->model, found->path, MS_WRITE_SNAPSHOT, NULL);
    char *page = ms_with_suffix(found->path, ".html");
    ms_write_model(&file->model, page, MS_WRITE_HTML, NULL);
    if (print) print_main(&file->model);
    free(page);
    ms_snapshot_file_free(file);
}

static void print_others(const ms_found_t *found, size_t count) {
    static const char *const header[] = {"~Other process", ">pid", ">allocated", ">peak", ">live"};
    size_t shown = count < OTHERS_SHOWN ? count : OTHERS_SHOWN;
    if (count == 0) return;
    ms_text_table_t *table = ms_text_table_new(header, 5);
    for (size_t i = 0; i < shown; i++) {
        ms_text_table_cell(table, "%s", found[i].name);
        ms_text_table_cell(table, "%llu", (unsigned long long)found[i].pid);
        ms_text_table_cell(table, "%s", ms_text_bytes(found[i].allocated_bytes).text);
        ms_text_table_cell(table, "%s", ms_text_bytes(found[i].peak_bytes).text);
        ms_text_table_cell(table, "%s", ms_text_bytes(found[i].live_bytes).text);
    }
    fputc('\n', stderr);
    ms_text_table_print(table, stderr, 0, ms_text_terminal_width(stderr));
    if (count > shown) fprintf(stderr, "  ... and %s more processes\n", ms_text_count(count - shown).text);
}

static void print_path(const char *label, const char *path) {
    char *safe = ms_text_safe(path);
    fprintf(stderr, "%s%s\n", label, safe);
    free(safe);
}

static void print_paths(const char *directory, const ms_found_t *found, size_t count) {
    char *page = ms_with_suffix(found[0].path, ".html");
    fputc('\n', stderr);
    print_path("data    ", found[0].path);
    if (access(page, F_OK) == 0) print_path("report  ", page);
    if (count > 1) {
        char *text = ms_format("%zu more file%s of this run's other processes %s in %s", count - 1,
                               count == 2 ? "" : "s", count == 2 ? "is" : "are", directory);
        print_path("        ", text);
        free(text);
    }
    if (count > PAGES_MOST)
        fprintf(stderr, "        %zu of them have no page yet: `memscope report` writes it\n", count - PAGES_MOST);
    free(page);
}

static void explain_missing(const char *command, const ms_outcome_t *outcome, const ms_knob_values_t *values) {
    ms_knob_values_t off;
    read_conf("mode:off", &off);
    char *why = ms_why_no_snapshot(command, outcome, values->mode == off.mode);
    ms_complain("%s wrote no snapshot: %s", command, why);
    free(why);
}

static void finish(const char *directory, const ms_listing_t *before, char **command, const ms_outcome_t *outcome,
                   const ms_knob_values_t *values, bool quiet) {
    size_t count;
    ms_found_t *found = ms_collect(directory, before, outcome->pid, &count);
    bool has_main = count > 0 && found[0].pid == (uint64_t)outcome->pid;
    ms_symbolizer_t *symbolizer = ms_symbolizer_open(&(ms_symbol_options_t){.sysroot = NULL});
    if (!has_main) explain_missing(command[0], outcome, values);
    if (!has_main && count > 0 && !quiet) fprintf(stderr, "The largest of the other processes of the run:\n");
    for (size_t i = 0; i < count && i < PAGES_MOST; i++) {
        bool is_main = i == 0 && has_main;
        finish_one(&found[i], is_main ? &outcome->status : NULL, symbolizer, !quiet && i == 0);
    }
    ms_symbolizer_close(symbolizer);
    if (!quiet && count > 0) {
        print_others(found + 1, count - 1);
        print_paths(directory, found, count);
    }
    ms_found_free(found, count);
}

/* ---- the command ---- */

static int cannot_start(const char *command, int error) {
    ms_complain("run: cannot execute '%s': %s", command, strerror(error));
    return error == ENOENT ? 127 : 126;
}

/* Everything is in place: from here on the command decides how we end. */
static ms_outcome_t launch_and_finish(char **command, const char *library, const char *directory, const char *chosen,
                                      bool quiet) {
    ms_knob_values_t values;
    char *conf = whole_conf(chosen, directory, &values);
    ms_listing_t *before = ms_listing_take(directory);
    ms_outcome_t outcome = ms_launch(command, library, conf);
    if (outcome.start_error == 0) finish(directory, before, command, &outcome, &values, quiet);
    ms_listing_free(before);
    free(conf);
    return outcome;
}

static int run(const ms_command_t *self, int count, char **arguments) {
    ms_run_options_t given = {.directory = DIRECTORY_DEFAULT};
    ms_outcome_t outcome = {.pid = -1};
    int status = MS_EXIT_OK;
    count = ms_command_options(self, count, arguments, &given, &status);
    if (count < 0) return status;
    if (count == 0) return ms_command_usage(self, "CMD is missing: name the program to run");
    char *chosen = chosen_conf(self, &given);
    char *library = chosen != NULL ? ms_find_library(given.library) : NULL;
    char *directory = library != NULL ? prepare_directory(given.directory) : NULL;
    bool ready = directory != NULL;
    if (ready) outcome = launch_and_finish(arguments, library, directory, chosen, given.quiet);
    free(directory);
    free(library);
    free(chosen);
    if (!ready) return MS_EXIT_USAGE;
    if (outcome.start_error != 0) return cannot_start(arguments[0], outcome.start_error);
    ms_end_like(outcome.status);
}

const ms_command_t ms_command_run = {
    .name = "run",
    .arguments = "[--] CMD [ARGS...]",
    .summary = "run a program and explain its memory",
    .help =
        "Runs CMD on libmemscope_malloc, its input, output, arguments and exit status untouched. When it has ended, "
        "its snapshot and that of every process it started are in DIR, with a page beside each, and a summary "
        "is printed on standard error.\n"
        "The exit status is CMD's; if a signal ended CMD, the same signal ends this command (128 + its number in a "
        "shell). 127: CMD was not found, 126: it could not be executed, 2: usage, or DIR cannot be written.",
    .options = options,
    .stops_at_argument = true,
    .run = run,
};
