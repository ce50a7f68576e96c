/* See summary.h: what is printed of one site below its numbers. */
#include "cli/summary.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/site_name.h"
#include "cli/symbols.h"
#include "cli/text.h"

#define PERIOD_MOST 64   /* frames of the longest circle of calls that is looked for */
#define WORTH_FOLDING 3u /* frames left out at least */
#define RANGES_SHOWN 4u  /* of a distribution */
#define NS_PER_MS 1000000u

/* ---- the stack */

/* Recursion: how often in a row the `period` frames from `at` on are there, for the shortest period that is. */
static uint64_t repetitions(const ms_pcs_t *stack, uint64_t at, uint64_t *period) {
    const uint64_t *pcs = stack->pcs + at;
    uint64_t left = stack->count - at;
    for (*period = 1; *period <= PERIOD_MOST && 2 * *period <= left; ++*period) {
        uint64_t times = 1;
        while ((times + 1) * *period <= left && memcmp(pcs, pcs + times * *period, *period * sizeof *pcs) == 0) times++;
        if ((times - 1) * *period >= WORTH_FOLDING) return times;
    }
    return 1;
}

static void print_frame(FILE *out, const ms_model_t *model, uint64_t pc) {
    size_t count;
    const ms_symbols_row_t *rows = ms_symbols_of(model, pc, &count);
    for (size_t k = 0; k < count; k++) {
        char *text = ms_frame_text(&rows[k], true), *safe = ms_text_safe(text);
        fprintf(out, "      %s%s\n", safe, k + 1 < count ? " (inlined)" : "");
        free(safe);
        free(text);
    }
    if (rows == NULL) fprintf(out, "      0x%llx\n", (unsigned long long)pc);
}

static void print_repetition(FILE *out, uint64_t period, uint64_t more) {
    const char *what = period == 1 ? "call" : "calls";
    fprintf(out, "      (recursion: the last %s%s%s %s more time%s)\n", period == 1 ? "" : ms_text_count(period).text,
            period == 1 ? "" : " ", what, ms_text_count(more).text, more == 1 ? "" : "s");
}

void ms_print_stack(FILE *out, const ms_model_t *model, const ms_sites_row_t *site) {
    const ms_pcs_t *stack = &site->stack;
    for (uint64_t i = 0; i < stack->count;) {
        uint64_t period, times = repetitions(stack, i, &period);
        if (times == 1) {
            print_frame(out, model, stack->pcs[i++]);
            continue;
        }
        for (uint64_t k = 0; k < period; k++) print_frame(out, model, stack->pcs[i + k]);
        print_repetition(out, period, times - 1);
        i += times * period;
    }
}

/* ---- what mode exact knows */

/* "insufficient data" is said where something could have been known: sites are counted. */
void ms_print_verdict(FILE *out, const ms_sites_row_t *site) {
    if (site->verdict == NULL || site->estimated || site->first_ns == MS_NULL) return;
    char *safe = ms_text_safe(site->verdict);
    fprintf(out, "      %s", safe);
    free(safe);
    double slope = site->growth_bytes_per_s;
    if (isfinite(slope) && fabs(slope) < 1e18)
        fprintf(out, ": %s%s/s", slope < 0 ? "-" : "+", ms_text_bytes((uint64_t)fabs(slope)).text);
    if (isfinite(site->survivors))
        fprintf(out, "%s %.0f%% of its blocks survive", isfinite(slope) ? "," : ":", 100 * site->survivors);
    fputc('\n', out);
}

typedef ms_quantity_t unit_fn(uint64_t value);

static ms_quantity_t milliseconds(uint64_t value) {
    return ms_text_duration(value * NS_PER_MS);
}

/* Element n of a list is what lies in 2^(n-1) .. 2^n - 1. */
static void print_range(FILE *out, uint64_t bucket, unit_fn *unit) {
    if (bucket == 0)
        fprintf(out, "under %s", unit(1).text);
    else if (bucket == 1)
        fputs(unit(1).text, out);
    else
        fprintf(out, "%s to %s", unit((uint64_t)1 << (bucket - 1)).text, unit(((uint64_t)1 << bucket) - 1).text);
}

/* The fullest ranges, in order. */
static void print_distribution(FILE *out, const char *title, const ms_list_t *list, unit_fn *unit) {
    uint64_t all = 0, shown = 0, printed = 0;
    for (uint64_t i = 0; i < list->count; i++) all += list->values[i];
    if (all == 0 || list->count > 64) return;
    fprintf(out, "      %s ", title);
    for (uint64_t i = 0; i < list->count; i++) {
        uint64_t fuller = 0;
        for (uint64_t k = 0; k < list->count; k++)
            fuller += list->values[k] > list->values[i] || (list->values[k] == list->values[i] && k < i);
        if (list->values[i] == 0 || fuller >= RANGES_SHOWN) continue;
        if (printed++) fputs(", ", out);
        print_range(out, i, unit);
        fprintf(out, " %s", ms_text_share(list->values[i], all).text);
        shown += list->values[i];
    }
    if (shown < all) fprintf(out, ", others %s", ms_text_share(all - shown, all).text);
    fputc('\n', out);
}

void ms_print_facts(FILE *out, const ms_sites_row_t *site) {
    if (site->at_peak_bytes != MS_NULL)
        fprintf(out,
                "      of the process's peak %s in %s block%s; %s temporary block%s; threads: %s allocated, %s freed\n",
                ms_text_bytes(site->at_peak_bytes).text, ms_text_count(site->at_peak_blocks).text,
                site->at_peak_blocks == 1 ? "" : "s", ms_text_count(site->temporary_blocks).text,
                site->temporary_blocks == 1 ? "" : "s", ms_text_count(site->allocating_threads).text,
                ms_text_count(site->freeing_threads).text);
    print_distribution(out, "sizes:", &site->sizes, ms_text_bytes);
    print_distribution(out, "lifetimes:", &site->lifetimes, milliseconds);
    print_distribution(out, "ages:", &site->ages, milliseconds);
}
