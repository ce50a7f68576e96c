/* The parts of the table of sites that only mode exact knows (tracking/exact.h). */
#include "tracking/exact.h"
#include "tracking/process.h"
#include "tracking/snapshot.h"
#include "tracking/verdict.h"
#include "tracking/walk.h"

#include <string.h>

#define NS_PER_MS 1000000u

static uint64_t at_least_zero(uint64_t value) { return (int64_t)value < 0 ? 0 : value; }

/* Without the empty buckets at the end. Sums read while others count may be below 0 for a moment. */
static bool set_list(ms_snapshot_t *snapshot, ms_list_t *list, const uint64_t *buckets) {
    uint32_t count = MS_LOG2_BUCKETS;
    while (count && at_least_zero(buckets[count - 1]) == 0) count--;
    uint64_t *values = ms_region_alloc(&snapshot->region, (count + 1) * sizeof *values);
    if (!values) return false;
    for (uint32_t i = 0; i < count; i++) values[i] = at_least_zero(buckets[i]);
    *list = (ms_list_t){values, count};
    return true;
}

static void set_survivors(ms_sites_row_t *row) {
    row->survivors = row->allocated_blocks ? (double)row->live_blocks / (double)row->allocated_blocks : __builtin_nan("");
}

void ms_snapshot_not_exact(ms_sites_row_t *row) {
    row->at_peak_bytes = row->at_peak_blocks = MS_NULL;
    row->temporary_bytes = row->temporary_blocks = MS_NULL;
    row->allocating_threads = row->freeing_threads = MS_NULL;
    row->first_ns = row->last_ns = MS_NULL;
    row->growth_bytes_per_s = __builtin_nan("");
    row->verdict = MS_VERDICT_NONE;
    set_survivors(row);
}

static void set_verdict(ms_sites_row_t *row, const ms_exact_sum_t *sum, uint64_t now_ms) {
    bool used = sum->first_ms != UINT64_MAX;
    uint64_t span_ms = used && now_ms > sum->first_ms ? now_ms - sum->first_ms : 0;
    ms_verdict_facts_t facts = {.allocated_blocks = row->allocated_blocks,
                                .live_blocks = row->live_blocks,
                                .live = (double)row->live_bytes,
                                .peak = (double)row->peak_bytes,
                                .mean = span_ms ? sum->area / (double)span_ms : 0,
                                .slope = row->growth_bytes_per_s,
                                .first_ms = sum->first_ms,
                                .last_ms = sum->last_ms,
                                .now_ms = now_ms};
    row->verdict = used ? ms_verdict(&facts) : MS_VERDICT_NONE;
    set_survivors(row);
}

bool ms_snapshot_exact_site(ms_snapshot_t *snapshot, ms_sites_row_t *row, uint32_t site) {
    ms_exact_sum_t sum;
    uint64_t now = ms_process_milliseconds();
    ms_exact_sum(site, now, &sum);
    row->allocated_bytes = sum.allocated_bytes;
    row->allocated_blocks = sum.allocated_blocks;
    row->freed_bytes = ms_freed_of(sum.allocated_bytes, sum.freed_bytes);
    row->freed_blocks = ms_freed_of(sum.allocated_blocks, sum.freed_blocks);
    row->live_bytes = row->allocated_bytes - row->freed_bytes;
    row->live_blocks = row->allocated_blocks - row->freed_blocks;
    row->peak_bytes = sum.peak_bytes;
    row->at_peak_bytes = at_least_zero(sum.at_peak_bytes);
    row->at_peak_blocks = at_least_zero(sum.at_peak_blocks);
    row->temporary_bytes = sum.temporary_bytes;
    row->temporary_blocks = sum.temporary_blocks;
    row->allocating_threads = sum.allocating_threads;
    row->freeing_threads = sum.freeing_threads;
    bool used = sum.first_ms != UINT64_MAX;
    row->first_ns = used ? sum.first_ms * NS_PER_MS : MS_NULL;
    row->last_ns = used ? sum.last_ms * NS_PER_MS : MS_NULL;
    row->growth_bytes_per_s = ms_exact_growth(&sum, now);
    row->live_error_bytes = MS_NULL;
    ms_snapshot_not_estimated(row);
    set_verdict(row, &sum, now);
    return set_list(snapshot, &row->sizes, sum.sizes) && set_list(snapshot, &row->lifetimes, sum.lifetimes);
}

/* ---- ages: no counter can know them, the live blocks do */

typedef struct ages {
    ms_region_t *region;
    uint64_t now_ms;
    uint32_t *row_of; /* site -> row + 1, 0: none */
    uint32_t limit;   /* sites below this */
    uint64_t *(*of_row)[2]; /* row -> its blocks and its bytes by age; NULL: no live block met */
} ages_t;

static void count_age(void *context, const ms_walk_block_t *block) {
    ages_t *ages = context;
    uint32_t row = block->site < ages->limit ? ages->row_of[block->site] : 0;
    if (!row) return;
    uint64_t **lists = ages->of_row[row - 1];
    if (!lists[0]) {
        lists[0] = ms_region_alloc(ages->region, 2 * MS_LOG2_BUCKETS * sizeof **lists);
        if (!lists[0]) return;
        lists[1] = lists[0] + MS_LOG2_BUCKETS;
    }
    uint32_t bucket = ms_log2_bucket(ages->now_ms > block->born_ms ? ages->now_ms - block->born_ms : 0);
    lists[0][bucket]++;
    lists[1][bucket] += block->size;
}

bool ms_snapshot_ages(ms_snapshot_t *snapshot, uint32_t site_limit) {
    static const uint64_t none[MS_LOG2_BUCKETS];
    size_t rows = snapshot->model.sites.count;
    ages_t ages = {.region = &snapshot->region, .now_ms = ms_process_milliseconds(), .limit = site_limit};
    ages.row_of = ms_region_alloc(ages.region, site_limit * sizeof *ages.row_of);
    ages.of_row = ms_region_alloc(ages.region, (rows + 1) * sizeof *ages.of_row);
    if (!ages.row_of || !ages.of_row) return false;
    for (size_t i = 0; i < rows; i++) ages.row_of[snapshot->model.sites.rows[i].id] = (uint32_t)i + 1;
    ms_walk(count_age, &ages);
    for (size_t i = 0; i < rows; i++) {
        ms_sites_row_t *row = &snapshot->model.sites.rows[i];
        const uint64_t *blocks = ages.of_row[i][0] ? ages.of_row[i][0] : none;
        const uint64_t *bytes = ages.of_row[i][1] ? ages.of_row[i][1] : none;
        if (!set_list(snapshot, &row->ages, blocks) || !set_list(snapshot, &row->age_bytes, bytes)) return false;
    }
    return true;
}

void ms_snapshot_exact_reasons(ms_snapshot_t *snapshot, bool exact) {
    if (exact) {
        ms_snapshot_null(snapshot, "sites", "growth_bytes_per_s", "first allocation less than 100 ms ago: too few moments");
        return;
    }
    static const char *const columns[] = {"peak_bytes",        "at_peak_bytes",      "at_peak_blocks",  "temporary_bytes",
                                          "temporary_blocks",  "allocating_threads", "freeing_threads", "first_ns",
                                          "last_ns",           "growth_bytes_per_s", "sizes",           "lifetimes",
                                          "ages",              "age_bytes"};
    for (size_t i = 0; i < sizeof columns / sizeof columns[0]; i++)
        ms_snapshot_null(snapshot, "sites", columns[i], "recorded in mode exact, where every block has its site, if stacks are taken (not stacks:none)");
}
