/* See leaks.h, and the command `memscope leaks`. */
#include "cli/leaks.h"

#include <stdlib.h>
#include <string.h>

#include "cli/command.h"
#include "cli/files.h"
#include "cli/site_name.h"
#include "cli/summary.h"
#include "cli/symbols.h"
#include "cli/text.h"

#define TOP_DEFAULT 20
#define TOP_MOST 1000000
#define LOST (MS_KIND_BIT(MS_KIND_DEFINITE) | MS_KIND_BIT(MS_KIND_INDIRECT))

const char *const ms_kind_names[MS_KINDS] = {"definite", "indirect", "possible", "reachable", "live"};

/* ---- kinds ---- */

static int kind_of(const char *name, size_t length) {
    for (int kind = 0; kind < MS_KINDS; kind++)
        if (strlen(ms_kind_names[kind]) == length && strncmp(ms_kind_names[kind], name, length) == 0) return kind;
    return -1;
}

unsigned ms_kinds_of(const char *words) {
    unsigned kinds = 0;
    for (const char *word = words;; word++) {
        size_t length = strcspn(word, ",");
        int kind = kind_of(word, length);
        if (kind < 0) {
            ms_complain("'%.*s' is no kind of leak: definite, indirect, possible, reachable and live are", (int)length, word);
            return 0;
        }
        kinds |= MS_KIND_BIT(kind);
        word += length;
        if (*word == '\0') return kinds;
    }
}

static bool has_search(const ms_model_t *model) {
    return model->leak_checks.count > 0 && model->leak_checks.rows->method != NULL &&
           strcmp(model->leak_checks.rows->method, "scan") == 0;
}

unsigned ms_kinds_default(const ms_model_t *model) {
    return has_search(model) ? LOST : MS_KIND_BIT(MS_KIND_LIVE);
}

/* ---- adding up ---- */

static void add(ms_amount_t *sum, uint64_t bytes, uint64_t blocks) {
    sum->bytes += bytes;
    sum->blocks += blocks;
}

static int by_id(const void *a, const void *b) {
    const ms_sites_row_t *left = *(const ms_sites_row_t *const *)a, *right = *(const ms_sites_row_t *const *)b;
    return left->id < right->id ? -1 : left->id > right->id;
}

static const ms_sites_row_t **sites_by_id(const ms_model_t *model) {
    const ms_sites_row_t **sites = ms_allocate((model->sites.count + 1) * sizeof *sites);
    for (size_t i = 0; i < model->sites.count; i++) sites[i] = &model->sites.rows[i];
    if (model->sites.count > 0) qsort(sites, model->sites.count, sizeof *sites, by_id);
    return sites;
}

static const ms_sites_row_t *site_of(const ms_sites_row_t **sites, size_t count, uint64_t id) {
    const ms_sites_row_t wanted = {.id = id}, *key = &wanted;
    const ms_sites_row_t **found = id == 0 || count == 0 ? NULL : bsearch(&key, sites, count, sizeof *sites, by_id);
    return found != NULL ? *found : NULL;
}

static int by_site(const void *a, const void *b) {
    const ms_leaks_row_t *left = *(const ms_leaks_row_t *const *)a, *right = *(const ms_leaks_row_t *const *)b;
    return left->site < right->site ? -1 : left->site > right->site;
}

static int by_weight(const void *a, const void *b) {
    const ms_leak_t *left = a, *right = b;
    if ((left->suppressed_by != NULL) != (right->suppressed_by != NULL)) return left->suppressed_by != NULL ? 1 : -1;
    if (left->sum.bytes != right->sum.bytes) return left->sum.bytes > right->sum.bytes ? -1 : 1;
    if (left->sum.blocks != right->sum.blocks) return left->sum.blocks > right->sum.blocks ? -1 : 1;
    uint64_t left_id = left->site != NULL ? left->site->id : 0, right_id = right->site != NULL ? right->site->id : 0;
    return left_id < right_id ? -1 : left_id > right_id;
}

/* What belongs to no kind asked for comes behind all that does: its sum is 0. */
static void sum_up(ms_leaks_t *leaks, unsigned kinds) {
    for (size_t i = 0; i < leaks->count; i++) {
        ms_leak_t *leak = &leaks->leaks[i];
        for (int kind = 0; kind < MS_KINDS; kind++) {
            if (leak->suppressed_by == NULL) add(&leaks->kinds[kind], leak->kinds[kind].bytes, leak->kinds[kind].blocks);
            if ((kinds & MS_KIND_BIT(kind)) != 0) add(&leak->sum, leak->kinds[kind].bytes, leak->kinds[kind].blocks);
        }
        add(leak->suppressed_by != NULL ? &leaks->suppressed : &leaks->sum, leak->sum.bytes, leak->sum.blocks);
        leaks->found += leak->suppressed_by == NULL && leak->sum.blocks > 0;
    }
}

ms_leaks_t *ms_leaks_make(const ms_model_t *model, unsigned kinds, const ms_suppressions_t *suppressions) {
    size_t count = model->leaks.count;
    uint64_t last = 0;
    ms_leaks_t *leaks = ms_allocate(sizeof *leaks);
    const ms_leaks_row_t **rows = ms_allocate((count + 1) * sizeof *rows);
    const ms_sites_row_t **sites = sites_by_id(model);
    leaks->leaks = ms_allocate((count + 1) * sizeof *leaks->leaks);
    for (size_t i = 0; i < count; i++) rows[i] = &model->leaks.rows[i];
    if (count > 0) qsort(rows, count, sizeof *rows, by_site);
    for (size_t i = 0; i < count; i++) {
        int kind = rows[i]->kind != NULL ? kind_of(rows[i]->kind, strlen(rows[i]->kind)) : -1;
        if (kind < 0) continue; /* of a newer library */
        if (leaks->count == 0 || rows[i]->site != last) {
            ms_leak_t *leak = &leaks->leaks[leaks->count++];
            leak->site = site_of(sites, model->sites.count, rows[i]->site);
            leak->suppressed_by = ms_suppressed_by(suppressions, model, leak->site);
            last = rows[i]->site;
        }
        add(&leaks->leaks[leaks->count - 1].kinds[kind], rows[i]->bytes, rows[i]->blocks);
    }
    free(sites);
    free(rows);
    sum_up(leaks, kinds);
    if (leaks->count > 0) qsort(leaks->leaks, leaks->count, sizeof *leaks->leaks, by_weight);
    return leaks;
}

void ms_leaks_free(ms_leaks_t *leaks) {
    free(leaks->leaks);
    free(leaks);
}

/* ---- words ---- */

static const char *plural(uint64_t count) {
    return count == 1 ? "" : "s";
}

char *ms_leaks_words(const ms_leaks_t *leaks, unsigned kinds) {
    char *text = ms_format("%s", "");
    for (int kind = 0; kind < MS_KINDS; kind++) {
        const ms_amount_t *amount = &leaks->kinds[kind];
        if ((kinds & MS_KIND_BIT(kind)) == 0 || amount->blocks == 0) continue;
        char *longer = ms_format("%s%s%s %s in %s block%s", text, *text != '\0' ? ", " : "", ms_kind_names[kind],
                                 ms_text_bytes(amount->bytes).text, ms_text_count(amount->blocks).text,
                                 plural(amount->blocks));
        free(text);
        text = longer;
    }
    return text;
}

char *ms_leak_name(const ms_model_t *model, const ms_leak_t *leak) {
    return leak->site != NULL ? ms_site_chain(model, leak->site) : ms_format("(site not recorded)");
}

static const char *verdict_of(const ms_leak_t *leak) {
    return leak->site != NULL && leak->site->verdict != NULL ? leak->site->verdict : "-";
}

static void print_head(FILE *out, const ms_model_t *model, const ms_leaks_t *leaks) {
    const ms_leak_checks_row_t *check = model->leak_checks.rows;
    char *words = ms_leaks_words(leaks, ~0u);
    fprintf(out, "Leaks (%s): %s\n", has_search(model) ? "by a search for pointers" : "all that lives",
            *words != '\0' ? words : "none");
    if (leaks->suppressed.blocks > 0)
        fprintf(out, "  suppressed: %s in %s block%s\n", ms_text_bytes(leaks->suppressed.bytes).text,
                ms_text_count(leaks->suppressed.blocks).text, plural(leaks->suppressed.blocks));
    if (check->failure != NULL) fprintf(out, "  ! no search was made: %s\n", check->failure);
    if (check->unsettled_blocks > 0)
        fprintf(out, "  ! %s blocks left out: their headers were being written\n",
                ms_text_count(check->unsettled_blocks).text);
    if (check->threads != MS_NULL && check->threads_scanned < check->threads)
        fprintf(out, "  ! the stacks of %s of %s threads could not be searched\n",
                ms_text_count(check->threads - check->threads_scanned).text, ms_text_count(check->threads).text);
    if (check->unreadable_bytes != MS_NULL && check->unreadable_bytes > 0)
        fprintf(out, "  ! %s could not be read\n", ms_text_bytes(check->unreadable_bytes).text);
    free(words);
}

static void print_table(FILE *out, const ms_model_t *model, const ms_leaks_t *leaks, size_t shown) {
    static const char *const header[] = {">bytes", ">blocks", "<verdict", "~Site"};
    ms_text_table_t *table = ms_text_table_new(header, 4);
    for (size_t i = 0; i < shown; i++) {
        const ms_leak_t *leak = &leaks->leaks[i];
        char *name = ms_leak_name(model, leak);
        ms_text_table_cell(table, "%s", ms_text_bytes(leak->sum.bytes).text);
        ms_text_table_cell(table, "%s", ms_text_count(leak->sum.blocks).text);
        ms_text_table_cell(table, "%s", verdict_of(leak));
        ms_text_table_cell(table, "%s", name);
        free(name);
    }
    ms_text_table_print(table, out, 2, ms_text_terminal_width(out));
}

static void print_stacks(FILE *out, const ms_model_t *model, const ms_leaks_t *leaks, size_t shown) {
    for (size_t i = 0; i < shown; i++) {
        const ms_leak_t *leak = &leaks->leaks[i];
        char *name = leak->site != NULL ? ms_site_name(model, leak->site) : ms_leak_name(model, leak);
        char *safe = ms_text_safe(name);
        fprintf(out, "\n  %zu. %s in %s block%s: %s\n", i + 1, ms_text_bytes(leak->sum.bytes).text,
                ms_text_count(leak->sum.blocks).text, plural(leak->sum.blocks), safe);
        if (leak->site != NULL) ms_print_verdict(out, leak->site);
        if (leak->site != NULL) ms_print_stack(out, model, leak->site);
        free(safe);
        free(name);
    }
}

void ms_print_leaks(FILE *out, const ms_model_t *model, const ms_leaks_t *leaks, size_t top, bool stacks) {
    size_t shown = leaks->found < top ? leaks->found : top;
    print_head(out, model, leaks);
    if (shown > 0 && stacks)
        print_stacks(out, model, leaks, shown);
    else if (shown > 0)
        print_table(out, model, leaks, shown);
    if (leaks->found > shown) fprintf(out, "  ... and %s more sites\n", ms_text_count(leaks->found - shown).text);
}

void ms_print_leak_section(FILE *out, const ms_model_t *model, size_t top) {
    if (model->leak_checks.count == 0) return;
    ms_leaks_t *leaks = ms_leaks_make(model, ms_kinds_default(model), NULL);
    fputc('\n', out);
    ms_print_leaks(out, model, leaks, top, false);
    ms_leaks_free(leaks);
}

/* ---- the command ---- */

typedef struct ms_leaks_options {
    const char *kinds, *suppressions, *top;
    ms_symbol_options_t symbols;
} ms_leaks_options_t;

static const ms_option_t options[] = {
    {.letter = 'n',
     .name = "top",
     .argument = "N",
     .offset = offsetof(ms_leaks_options_t, top),
     .help = "show this many sites (default: 20)"},
    {.letter = 'k',
     .name = "kinds",
     .argument = "KIND,...",
     .offset = offsetof(ms_leaks_options_t, kinds),
     .appends = true,
     .help = "which blocks: definite, indirect, possible, reachable, live (default: definite,indirect after leaks:scan, "
             "live after leaks:live)"},
    {.name = "suppressions",
     .argument = "FILE",
     .offset = offsetof(ms_leaks_options_t, suppressions),
     .appends = true,
     .help = "leave out what lines leak:PATTERN in FILE match, as for LeakSanitizer; may be given more than once"},
    MS_SYMBOL_OPTIONS(ms_leaks_options_t),
    {.name = NULL},
};

static int leaks_of(const char *path, ms_symbolizer_t *symbolizer, unsigned kinds, const ms_suppressions_t *suppressions,
                    size_t top) {
    ms_snapshot_file_t *file = ms_load(path);
    if (file == NULL) return MS_EXIT_USAGE;
    int status = MS_EXIT_OK;
    if (file->model.leak_checks.count == 0) {
        ms_complain("%s has no list of live blocks: run the program with `memscope run --leaks=scan`, or MEMSCOPE_CONF=leaks:scan",
                    path);
        status = MS_EXIT_USAGE;
    } else {
        ms_symbolize(symbolizer, file);
        if (kinds == 0) kinds = ms_kinds_default(&file->model);
        ms_leaks_t *leaks = ms_leaks_make(&file->model, kinds, suppressions);
        ms_print_leaks(stdout, &file->model, leaks, top, true);
        ms_leaks_free(leaks);
    }
    ms_snapshot_file_free(file);
    return status;
}

static int run_leaks(const ms_command_t *self, int count, char **arguments) {
    ms_leaks_options_t given = {.top = NULL};
    uint64_t top = TOP_DEFAULT;
    int status = MS_EXIT_OK;
    count = ms_command_options(self, count, arguments, &given, &status);
    if (count < 0) return status;
    if (count == 0) return ms_command_usage(self, "FILE is missing: name a .memscope file");
    if (given.top != NULL && !ms_command_number(self, "top", given.top, TOP_MOST, &top)) return MS_EXIT_USAGE;
    unsigned kinds = given.kinds != NULL ? ms_kinds_of(given.kinds) : 0;
    if (given.kinds != NULL && kinds == 0) return MS_EXIT_USAGE;
    ms_suppressions_t *suppressions = given.suppressions != NULL ? ms_suppressions_read(given.suppressions) : NULL;
    if (given.suppressions != NULL && suppressions == NULL) return MS_EXIT_USAGE;
    ms_symbolizer_t *symbolizer = ms_symbolizer_open(&given.symbols);
    for (int i = 0; i < count; i++) {
        char *safe = ms_text_safe(arguments[i]);
        if (count > 1) printf("%s%s:\n", i > 0 ? "\n" : "", safe);
        free(safe);
        int one = leaks_of(arguments[i], symbolizer, kinds, suppressions, (size_t)top);
        if (one != MS_EXIT_OK) status = one;
    }
    ms_symbolizer_close(symbolizer);
    ms_suppressions_free(suppressions);
    return ms_finish_stdout() ? status : MS_EXIT_USAGE;
}

const ms_command_t ms_command_leaks = {
    .name = "leaks",
    .arguments = "FILE...",
    .summary = "print what is still live, or lost, by site",
    .help =
        "Reads .memscope files of programs that ran with the knob leaks (`memscope run --leaks=scan`) and prints the "
        "blocks that nothing points to any more: how much, where it was allocated, and whether that site's memory grows.",
    .options = options,
    .run = run_leaks,
};
