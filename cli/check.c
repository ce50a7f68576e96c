/* `memscope check`: limits that a snapshot must keep, for continuous integration. */
#include "cli/check.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/command.h"
#include "cli/diff.h"
#include "cli/files.h"
#include "cli/leaks.h"
#include "cli/site_name.h"
#include "cli/symbols.h"
#include "cli/text.h"

#define SITES_SHOWN 3
#define CHECKS_MOST 16
#define TOLERANCE_DEFAULT 0.05

typedef struct ms_check_options {
    const char *peak, *live, *growth, *temporary, *baseline, *tolerance, *kinds, *suppressions, *junit;
    bool no_leaks;
    ms_symbol_options_t symbols;
} ms_check_options_t;

static const ms_option_t options[] = {
    {.name = "max-peak",
     .argument = "SIZE",
     .offset = offsetof(ms_check_options_t, peak),
     .help = "the most that may be live at once, like 64M"},
    {.name = "max-live",
     .argument = "SIZE",
     .offset = offsetof(ms_check_options_t, live),
     .help = "the most that may be live when the snapshot is taken"},
    {.name = "no-leaks",
     .offset = offsetof(ms_check_options_t, no_leaks),
     .help = "no lost blocks; needs data of `memscope run --leaks=scan` (after --leaks: no live blocks)"},
    {.name = "kinds",
     .argument = "KIND,...",
     .offset = offsetof(ms_check_options_t, kinds),
     .appends = true,
     .help = "what counts for --no-leaks: definite, indirect, possible, reachable, live (default: definite,indirect)"},
    {.name = "suppressions",
     .argument = "FILE",
     .offset = offsetof(ms_check_options_t, suppressions),
     .appends = true,
     .help = "leave out leaks that lines leak:PATTERN in FILE match, as for LeakSanitizer; may be given more than once"},
    {.name = "max-growth",
     .argument = "RATE",
     .offset = offsetof(ms_check_options_t, growth),
     .help = "the fastest that a site with the verdict growing may grow, like 10K/s; needs mode:exact"},
    {.name = "max-temporary",
     .argument = "SHARE",
     .offset = offsetof(ms_check_options_t, temporary),
     .help = "the largest share of blocks freed before the thread's next allocation, like 20%; needs mode:exact"},
    {.name = "baseline",
     .argument = "OLD",
     .offset = offsetof(ms_check_options_t, baseline),
     .help = "peak, live bytes, allocated bytes and blocks may not be more than in the snapshot OLD"},
    {.name = "tolerance",
     .argument = "SHARE",
     .offset = offsetof(ms_check_options_t, tolerance),
     .help = "except by this share (default: 5%)"},
    {.name = "junit", .argument = "OUT", .offset = offsetof(ms_check_options_t, junit), .help = "also write JUnit XML to OUT"},
    MS_SYMBOL_OPTIONS(ms_check_options_t),
    {.name = NULL},
};

/* ---- what is asked for ---- */

typedef struct limits {
    const ms_check_options_t *given; /* which of them there are */
    double peak, live, growth, temporary, tolerance;
    unsigned kinds; /* 0: the default */
    ms_suppressions_t *suppressions;
    ms_snapshot_file_t *baseline;
} limits_t;

/* A number of bytes, "64M", "1.5 GiB"; `per_second`: "/s" may follow. */
static bool parse_size(const ms_command_t *self, const char *option, const char *text, bool per_second, double *value) {
    static const char units[] = "KMGT";
    char *end;
    if (text == NULL) return true;
    *value = strtod(text, &end);
    bool good = end != text && *text != '-' && *text != '+' && isfinite(*value);
    while (*end == ' ') end++;
    const char *unit = *end != '\0' ? strchr(units, *end >= 'a' ? *end - 32 : *end) : NULL;
    if (unit != NULL) *value = ldexp(*value, 10 * (int)(unit - units + 1));
    if (unit != NULL) end++;
    if (unit != NULL && *end == 'i') end++;
    if (*end == 'B') end++;
    if (per_second && strcmp(end, "/s") == 0) end += 2;
    if (good && *end == '\0') return true;
    ms_command_usage(self, "--%s '%s' is not a size like %s", option, text, per_second ? "10K/s" : "64M");
    return false;
}

static bool parse_share(const ms_command_t *self, const char *option, const char *text, double *value) {
    char *end;
    if (text == NULL) return true;
    *value = strtod(text, &end);
    bool good = end != text && *text != '-' && *text != '+' && isfinite(*value);
    if (*end == '%') *value /= 100;
    if (*end == '%') end++;
    if (good && *end == '\0') return true;
    ms_command_usage(self, "--%s '%s' is not a share like 5%% or 0.05", option, text);
    return false;
}

static bool read_limits(const ms_command_t *self, const ms_check_options_t *given, limits_t *limits) {
    *limits = (limits_t){.given = given, .tolerance = TOLERANCE_DEFAULT};
    if (!parse_size(self, "max-peak", given->peak, false, &limits->peak) ||
        !parse_size(self, "max-live", given->live, false, &limits->live) ||
        !parse_size(self, "max-growth", given->growth, true, &limits->growth) ||
        !parse_share(self, "max-temporary", given->temporary, &limits->temporary) ||
        !parse_share(self, "tolerance", given->tolerance, &limits->tolerance))
        return false;
    if (given->kinds != NULL && (limits->kinds = ms_kinds_of(given->kinds)) == 0) return false;
    if (given->suppressions != NULL && (limits->suppressions = ms_suppressions_read(given->suppressions)) == NULL)
        return false;
    return given->baseline == NULL || (limits->baseline = ms_load(given->baseline)) != NULL;
}

static void limits_free(limits_t *limits) {
    ms_suppressions_free(limits->suppressions);
    ms_snapshot_file_free(limits->baseline);
}

/* ---- results ---- */

size_t ms_suite_outcomes(const ms_suite_t *suite, ms_outcome_kind_t outcome) {
    size_t count = 0;
    for (size_t i = 0; i < suite->count; i++) count += suite->checks[i].outcome == outcome;
    return count;
}

static __attribute__((format(printf, 4, 5))) ms_check_t *add_check(ms_suite_t *suite, const char *name,
                                                                   ms_outcome_kind_t outcome, const char *format, ...) {
    ms_check_t *check = &suite->checks[suite->count++];
    va_list arguments;
    va_start(arguments, format);
    if (vasprintf(&check->text, format, arguments) < 0) ms_out_of_memory();
    va_end(arguments);
    check->name = name;
    check->outcome = outcome;
    return check;
}

static void add_detail(ms_check_t *check, char *text) {
    check->details = ms_reallocate(check->details, (check->detail_count + 1) * sizeof *check->details);
    check->details[check->detail_count++] = text;
}

static const char *plural(uint64_t count) {
    return count == 1 ? "" : "s";
}

static ms_quantity_t bytes_text(double bytes) {
    return ms_text_bytes(bytes < 0x1p63 ? (uint64_t)bytes : (uint64_t)1 << 63);
}

/* ---- sites behind a number ---- */

typedef double measure_t(const ms_sites_row_t *site);
static double live_of(const ms_sites_row_t *site) { return (double)site->live_bytes; }
static double share_of_peak(const ms_sites_row_t *site) {
    return site->at_peak_bytes != MS_NULL ? (double)site->at_peak_bytes : 0;
}
static double temporary_of(const ms_sites_row_t *site) {
    return site->temporary_blocks != MS_NULL ? (double)site->temporary_blocks : 0;
}
static double growth_of(const ms_sites_row_t *site) {
    bool grows = site->verdict != NULL && strcmp(site->verdict, "growing") == 0 && isfinite(site->growth_bytes_per_s);
    return grows ? site->growth_bytes_per_s : 0;
}

static int by_measure(const void *a, const void *b, void *context) {
    measure_t *measure = *(measure_t **)context;
    double left = measure(*(const ms_sites_row_t *const *)a), right = measure(*(const ms_sites_row_t *const *)b);
    return left > right ? -1 : left < right;
}

/* Sites above `least`, the largest first; *count of them. To be freed. */
static const ms_sites_row_t **sites_above(const ms_model_t *model, measure_t *measure, double least, size_t *count) {
    const ms_sites_row_t **sites = ms_allocate((model->sites.count + 1) * sizeof *sites);
    *count = 0;
    for (size_t i = 0; i < model->sites.count; i++)
        if (measure(&model->sites.rows[i]) > least) sites[(*count)++] = &model->sites.rows[i];
    if (*count > 0) qsort_r(sites, *count, sizeof *sites, by_measure, &measure);
    return sites;
}

/* "1.5 MiB  f < g" of the largest sites; `unit`: what follows the number, NULL: bytes. */
static void add_sites(ms_check_t *check, const ms_model_t *model, measure_t *measure, double least, const char *unit) {
    size_t count;
    const ms_sites_row_t **sites = sites_above(model, measure, least, &count);
    for (size_t i = 0; i < count && i < SITES_SHOWN; i++) {
        char *name = ms_site_chain(model, sites[i]);
        double value = measure(sites[i]);
        const char *number = unit != NULL && *unit != '/' ? ms_text_count((uint64_t)value).text : bytes_text(value).text;
        add_detail(check, ms_format("%s%s%s  %s", sites[i]->estimated ? "~" : "", number, unit != NULL ? unit : "", name));
        free(name);
    }
    free(sites);
}

/* ---- the checks ---- */

static void check_peak(ms_suite_t *suite, const ms_model_t *model, double limit) {
    const ms_totals_row_t *totals = model->totals.rows;
    bool failed = (double)totals->peak_bytes > limit;
    char *error = totals->peak_error_bytes > 0 ? ms_format(" (+- %s)", ms_text_bytes(totals->peak_error_bytes).text)
                                               : ms_format("%s", "");
    ms_check_t *check = add_check(suite, "peak", failed ? MS_CHECK_FAILED : MS_CHECK_OK, "%s%s, limit %s",
                                  ms_text_bytes(totals->peak_bytes).text, error, bytes_text(limit).text);
    if (failed) add_sites(check, model, share_of_peak, 0, NULL);
    free(error);
}

static void check_live(ms_suite_t *suite, const ms_model_t *model, double limit) {
    const ms_totals_row_t *totals = model->totals.rows;
    bool failed = (double)totals->live_bytes > limit;
    ms_check_t *check = add_check(suite, "live", failed ? MS_CHECK_FAILED : MS_CHECK_OK, "%s in %s block%s, limit %s",
                                  ms_text_bytes(totals->live_bytes).text, ms_text_count(totals->live_blocks).text,
                                  plural(totals->live_blocks), bytes_text(limit).text);
    if (failed) add_sites(check, model, live_of, 0, NULL);
}

static void check_leaks(ms_suite_t *suite, const ms_model_t *model, const limits_t *limits) {
    if (model->leak_checks.count == 0) {
        add_check(suite, "leaks", MS_CHECK_UNKNOWN, "the data has no list of live blocks: use `memscope run --leaks=scan`");
        return;
    }
    const ms_leak_checks_row_t *made = model->leak_checks.rows;
    unsigned kinds = limits->kinds != 0 ? limits->kinds : ms_kinds_default(model);
    ms_leaks_t *leaks = ms_leaks_make(model, kinds, limits->suppressions);
    char *words = ms_leaks_words(leaks, kinds);
    char *suppressed = limits->suppressions == NULL
                           ? ms_format("%s", "")
                           : ms_format("; suppressed: %s in %s block%s", ms_text_bytes(leaks->suppressed.bytes).text,
                                       ms_text_count(leaks->suppressed.blocks).text, plural(leaks->suppressed.blocks));
    ms_outcome_kind_t outcome = leaks->sum.blocks > 0   ? MS_CHECK_FAILED
                                : made->failure != NULL ? MS_CHECK_UNKNOWN
                                                        : MS_CHECK_OK;
    ms_check_t *check = add_check(suite, "leaks", outcome, "%s%s%s%s", *words != '\0' ? words : "none", suppressed,
                                  made->failure != NULL ? "; no search was made: " : "",
                                  made->failure != NULL ? made->failure : "");
    for (size_t i = 0; i < leaks->found && i < SITES_SHOWN; i++) {
        const ms_leak_t *leak = &leaks->leaks[i];
        char *name = ms_leak_name(model, leak);
        add_detail(check, ms_format("%s in %s block%s  %s", ms_text_bytes(leak->sum.bytes).text,
                                    ms_text_count(leak->sum.blocks).text, plural(leak->sum.blocks), name));
        free(name);
    }
    free(suppressed);
    free(words);
    ms_leaks_free(leaks);
}

/* Whether sites have what only mode exact counts. */
static bool has_exact_sites(const ms_model_t *model) {
    return model->data_quality.count > 0 && model->data_quality.rows->site_counts != NULL &&
           strcmp(model->data_quality.rows->site_counts, "exact") == 0;
}

static void check_growth(ms_suite_t *suite, const ms_model_t *model, double limit) {
    size_t growing, too_fast;
    if (!has_exact_sites(model)) {
        add_check(suite, "growth", MS_CHECK_UNKNOWN, "sites are not counted in this data: use mode:exact");
        return;
    }
    free(sites_above(model, growth_of, 0, &growing));
    free(sites_above(model, growth_of, limit, &too_fast));
    ms_check_t *check = add_check(suite, "growth", too_fast > 0 ? MS_CHECK_FAILED : MS_CHECK_OK,
                                  "%zu site%s grow%s, %zu of them faster than %s/s", growing, plural(growing),
                                  growing == 1 ? "s" : "", too_fast, bytes_text(limit).text);
    add_sites(check, model, growth_of, limit, "/s");
}

static void check_temporary(ms_suite_t *suite, const ms_model_t *model, double limit) {
    double temporary = 0, allocated = (double)model->totals.rows->allocated_blocks;
    if (!has_exact_sites(model)) {
        add_check(suite, "temporary", MS_CHECK_UNKNOWN, "sites are not counted in this data: use mode:exact");
        return;
    }
    for (size_t i = 0; i < model->sites.count; i++) temporary += temporary_of(&model->sites.rows[i]);
    double share = allocated > 0 ? temporary / allocated : 0;
    ms_check_t *check = add_check(suite, "temporary", share > limit ? MS_CHECK_FAILED : MS_CHECK_OK,
                                  "%s of %s blocks (%.1f%%), limit %.1f%%", ms_text_count((uint64_t)temporary).text,
                                  ms_text_count((uint64_t)allocated).text, 100 * share, 100 * limit);
    if (share > limit) add_sites(check, model, temporary_of, 0, " blocks");
}

/* ---- against an earlier snapshot ---- */

static const struct {
    const char *name;
    ms_diff_measure_t measure;
    bool bytes;
} baselines[] = {{"baseline peak", MS_DIFF_peak_bytes, true},
                 {"baseline live", MS_DIFF_live_bytes, true},
                 {"baseline allocated", MS_DIFF_allocated_bytes, true},
                 {"baseline blocks", MS_DIFF_allocated_blocks, false}};

static uint64_t total_of(const ms_totals_row_t *totals, ms_diff_measure_t measure) {
    return measure == MS_DIFF_peak_bytes        ? totals->peak_bytes
           : measure == MS_DIFF_live_bytes      ? totals->live_bytes
           : measure == MS_DIFF_allocated_bytes ? totals->allocated_bytes
                                                : totals->allocated_blocks;
}

static void add_changed_sites(ms_check_t *check, const limits_t *limits, const ms_snapshot_file_t *file, size_t which) {
    ms_diff_measure_t measure = baselines[which].measure;
    ms_diff_t *diff = ms_diff_make(limits->baseline, file, MS_DIFF_BY_STACK, measure);
    const ms_diff_section_t *sites = &diff->sections[MS_DIFF_SITES];
    for (size_t i = 0; i < sites->count && check->detail_count < SITES_SHOWN; i++) {
        const ms_change_t *change = &sites->rows[i].change[sites->sort];
        int64_t more = ms_change_of(change);
        if (!change->known || more <= 0) continue;
        ms_quantity_t amount = baselines[which].bytes ? ms_text_bytes((uint64_t)more) : ms_text_count((uint64_t)more);
        add_detail(check, ms_format("+%s%s%s  %s", sites->rows[i].estimated ? "~" : "", amount.text,
                                    baselines[which].bytes ? "" : " blocks", sites->rows[i].name));
    }
    ms_diff_free(diff);
}

static void check_baseline(ms_suite_t *suite, const ms_snapshot_file_t *file, const limits_t *limits) {
    if (limits->baseline->model.totals.count == 0) {
        add_check(suite, "baseline", MS_CHECK_UNKNOWN, "%s has no totals", limits->given->baseline);
        return;
    }
    const ms_totals_row_t *old = limits->baseline->model.totals.rows, *now = file->model.totals.rows;
    for (size_t i = 0; i < sizeof baselines / sizeof baselines[0]; i++) {
        double before = (double)total_of(old, baselines[i].measure), after = (double)total_of(now, baselines[i].measure);
        bool is_peak = baselines[i].measure == MS_DIFF_peak_bytes;
        double error = is_peak ? (double)old->peak_error_bytes + (double)now->peak_error_bytes : 0;
        bool failed = after > before * (1 + limits->tolerance) + error;
        char *change = before > 0 ? ms_format("%+.1f%%", 100 * (after / before - 1)) : ms_format("%s", "it was 0");
        ms_quantity_t old_text = baselines[i].bytes ? bytes_text(before) : ms_text_count((uint64_t)before);
        ms_quantity_t new_text = baselines[i].bytes ? bytes_text(after) : ms_text_count((uint64_t)after);
        ms_check_t *check = add_check(suite, baselines[i].name, failed ? MS_CHECK_FAILED : MS_CHECK_OK,
                                      "%s, was %s (%s), tolerance %.1f%%", new_text.text, old_text.text, change,
                                      100 * limits->tolerance);
        if (failed) add_changed_sites(check, limits, file, i);
        free(change);
    }
}

/* ---- a file ---- */

static void run_checks(ms_suite_t *suite, const ms_snapshot_file_t *file, const limits_t *limits) {
    const ms_model_t *model = &file->model;
    const ms_check_options_t *given = limits->given;
    if (model->totals.count == 0) {
        add_check(suite, "data", MS_CHECK_UNKNOWN, "the totals are lost: the file is damaged");
        return;
    }
    if (given->peak != NULL) check_peak(suite, model, limits->peak);
    if (given->live != NULL) check_live(suite, model, limits->live);
    if (given->no_leaks) check_leaks(suite, model, limits);
    if (given->growth != NULL) check_growth(suite, model, limits->growth);
    if (given->temporary != NULL) check_temporary(suite, model, limits->temporary);
    if (given->baseline != NULL) check_baseline(suite, file, limits);
}

static void print_suite(const ms_suite_t *suite) {
    static const char *const words[] = {"ok", "FAILED", "unknown"};
    for (size_t i = 0; i < suite->count; i++) {
        const ms_check_t *check = &suite->checks[i];
        char *safe = ms_text_safe(check->text);
        printf("%-8s%-20s%s\n", words[check->outcome], check->name, safe);
        free(safe);
        for (size_t k = 0; k < check->detail_count; k++) {
            safe = ms_text_safe(check->details[k]);
            printf("          %s\n", safe);
            free(safe);
        }
    }
}

static bool check_file(ms_suite_t *suite, const char *path, const limits_t *limits, ms_symbolizer_t *symbolizer) {
    ms_snapshot_file_t *file = ms_load(path);
    if (file == NULL) return false;
    const ms_process_row_t *process = file->model.process.count > 0 ? file->model.process.rows : NULL;
    *suite = (ms_suite_t){.path = path,
                          .program = ms_format("%s", process != NULL && process->name != NULL ? process->name : "unknown"),
                          .elapsed_ns = process != NULL ? process->elapsed_ns : 0,
                          .unix_ns = process != NULL ? process->snapshot_unix_ns : 0,
                          .checks = ms_allocate(CHECKS_MOST * sizeof *suite->checks)};
    ms_symbolize(symbolizer, file);
    run_checks(suite, file, limits);
    ms_snapshot_file_free(file);
    return true;
}

static void suite_free(ms_suite_t *suite) {
    for (size_t i = 0; i < suite->count; i++) {
        for (size_t k = 0; k < suite->checks[i].detail_count; k++) free(suite->checks[i].details[k]);
        free(suite->checks[i].details);
        free(suite->checks[i].text);
    }
    free(suite->checks);
    free(suite->program);
}

/* The worst of all: 2 when something could not be checked, else 1 when something failed. */
static int status_of(const ms_suites_t *suites, int status) {
    for (size_t i = 0; i < suites->count; i++) {
        bool failed = ms_suite_outcomes(&suites->suites[i], MS_CHECK_FAILED) > 0;
        bool unknown = ms_suite_outcomes(&suites->suites[i], MS_CHECK_UNKNOWN) > 0;
        int one = unknown ? MS_EXIT_USAGE : failed ? MS_EXIT_CHECK_FAILED : MS_EXIT_OK;
        if (one > status) status = one;
    }
    return status;
}

static int check_files(char **paths, size_t count, const limits_t *limits) {
    ms_suites_t suites = {.suites = ms_allocate(count * sizeof *suites.suites)};
    ms_symbolizer_t *symbolizer = ms_symbolizer_open(&limits->given->symbols);
    int status = MS_EXIT_OK;
    if (limits->baseline != NULL) ms_symbolize(symbolizer, limits->baseline);
    for (size_t i = 0; i < count; i++) {
        ms_suite_t *suite = &suites.suites[suites.count];
        if (!check_file(suite, paths[i], limits, symbolizer)) {
            status = MS_EXIT_USAGE;
            continue;
        }
        char *safe = ms_text_safe(paths[i]);
        if (count > 1) printf("%s%s:\n", suites.count > 0 ? "\n" : "", safe);
        free(safe);
        print_suite(suite);
        suites.count++;
    }
    ms_symbolizer_close(symbolizer);
    status = status_of(&suites, status);
    ms_document_t document = {.write = ms_junit, .data = &suites};
    if (limits->given->junit != NULL && ms_write_document(&document, limits->given->junit) != 0) status = MS_EXIT_USAGE;
    for (size_t i = 0; i < suites.count; i++) suite_free(&suites.suites[i]);
    free(suites.suites);
    return ms_finish_stdout() ? status : MS_EXIT_USAGE;
}

static int check(const ms_command_t *self, int count, char **arguments) {
    ms_check_options_t given = {.peak = NULL};
    int status = MS_EXIT_OK;
    count = ms_command_options(self, count, arguments, &given, &status);
    if (count < 0) return status;
    if (count == 0) return ms_command_usage(self, "FILE is missing: name a .memscope file");
    if (given.peak == NULL && given.live == NULL && !given.no_leaks && given.growth == NULL && given.temporary == NULL &&
        given.baseline == NULL)
        return ms_command_usage(self, "nothing to check: name a limit, like --max-peak 64M or --no-leaks");
    if (given.tolerance != NULL && given.baseline == NULL) return ms_command_usage(self, "--tolerance is for --baseline");
    if ((given.kinds != NULL || given.suppressions != NULL) && !given.no_leaks)
        return ms_command_usage(self, "--kinds and --suppressions are for --no-leaks");
    for (int i = 0; i < count && given.junit != NULL; i++)
        if (ms_is_same_file(arguments[i], given.junit))
            return ms_command_usage(self, "--junit %s would replace the snapshot that is checked", given.junit);
    limits_t limits;
    status = MS_EXIT_USAGE;
    if (read_limits(self, &given, &limits)) status = check_files(arguments, (size_t)count, &limits);
    limits_free(&limits);
    return status;
}

const ms_command_t ms_command_check = {
    .name = "check",
    .arguments = "FILE...",
    .summary = "hold snapshots to limits, for continuous integration",
    .help =
        "Reads .memscope files and holds them to the limits given. One line a check says ok or FAILED, with the numbers "
        "and, when it failed, the sites behind them.\n"
        "The exit status is 0 when all checks passed, 1 when one failed, 2 when one could not be made: a file cannot be "
        "read, or what it takes was not recorded.",
    .options = options,
    .run = check,
};
