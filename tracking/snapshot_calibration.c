/* Estimates of sampled sites, corrected by what is known exactly of their size classes (tracking/calibration.h). */
#include "tracking/calibration.h"
#include "alloc/size_class.h"
#include "tracking/process.h"
#include "tracking/snapshot.h"

#define SAMPLES_LEAST 10.0 /* expected: a factor from fewer has an error of a third or more of its own */

/* Plain copies of ms_weights_t. */
typedef struct weights {
    double samples, blocks, bytes, variance;
} weights_t;

typedef struct class_sums {
    weights_t allocated, live;
    double factor, live_factor; /* 1: not calibrated */
} class_sums_t;

typedef struct site_sums {
    double allocated_bytes, allocated_blocks, live_bytes, live_variance; /* calibrated; bytes squared */
} site_sums_t;

typedef struct calibration {
    class_sums_t classes[MS_CLASS_COUNT];
    uint32_t *row_of; /* site -> row + 1, 0: none */
    uint32_t limit;
    site_sums_t *sites; /* by row */
} calibration_t;

/* Square root by Newton's method, which is exact enough after its steps stop falling; no libm here. */
static double square_root(double value) {
    if (!(value > 0)) return 0;
    double root = value > 1 ? value : 1;
    for (double next = 0.5 * (root + value / root); next < root; next = 0.5 * (root + value / root)) root = next;
    return root;
}

static double positive(double value) { return value > 0 ? value : 0; }

static void add(weights_t *sum, const weights_t *part) {
    sum->samples += part->samples;
    sum->blocks += part->blocks;
    sum->bytes += part->bytes;
    sum->variance += part->variance;
}

static void add_weights(weights_t *sum, const ms_weights_t *weights) {
    weights_t part = {(double)atomic_load_explicit(&weights->samples, memory_order_relaxed),
                      atomic_load_explicit(&weights->blocks, memory_order_relaxed),
                      atomic_load_explicit(&weights->bytes, memory_order_relaxed),
                      atomic_load_explicit(&weights->variance, memory_order_relaxed)};
    add(sum, &part);
}

typedef struct flow {
    weights_t allocated, freed;
} flow_t;

static flow_t flow_of(const ms_sample_pair_t *pair) {
    flow_t sum = {0};
    const ms_sample_flow_t *parts[] = {&pair->own, atomic_load_explicit(&pair->others, memory_order_acquire)};
    for (size_t i = 0; i < 2 && parts[i]; i++) {
        add_weights(&sum.allocated, &parts[i]->allocated);
        add_weights(&sum.freed, &parts[i]->freed);
    }
    return sum;
}

/* Sums of doubles that came and went again leave rounding behind. */
static weights_t live_of(const flow_t *flow) {
    weights_t all = flow->allocated, gone = flow->freed;
    if (all.samples <= gone.samples) return (weights_t){0};
    return (weights_t){all.samples - gone.samples, positive(all.blocks - gone.blocks), positive(all.bytes - gone.bytes),
                       positive(all.variance - gone.variance)};
}

static void add_to_class(void *context, const ms_sample_pair_t *pair) {
    calibration_t *calibration = context;
    flow_t flow = flow_of(pair);
    weights_t allocated = flow.allocated, live = live_of(&flow);
    add(&calibration->classes[pair->class].allocated, &allocated);
    add(&calibration->classes[pair->class].live, &live);
}

/* Of a part of a class, blocks `part` of which the class's total is corrected to be exact: each sampled block of the part
 * deviates from the class's mean by 1 - R, each other one by R, where R is the part's share of the class. */
static double variance_in_class(const weights_t *part, const weights_t *class, double factor) {
    if (factor == 1) return part->variance;
    double share = part->blocks / class->blocks;
    return factor * factor * (part->variance * (1 - share) * (1 - share) +
                              positive(class->variance - part->variance) * share * share);
}

static void add_to_site(void *context, const ms_sample_pair_t *pair) {
    calibration_t *calibration = context;
    uint32_t row = pair->site < calibration->limit ? calibration->row_of[pair->site] : 0;
    if (!row) return;
    const class_sums_t *class = &calibration->classes[pair->class];
    site_sums_t *site = &calibration->sites[row - 1];
    flow_t flow = flow_of(pair);
    weights_t allocated = flow.allocated, live = live_of(&flow);
    site->allocated_bytes += allocated.bytes * class->factor;
    site->allocated_blocks += allocated.blocks * class->factor;
    site->live_bytes += live.bytes * class->live_factor;
    if (live.blocks <= 0) return;
    double size = live.bytes / live.blocks; /* within a class they are nearly the same */
    site->live_variance += size * size * variance_in_class(&live, &class->live, class->live_factor);
}

/* Whether there is one depends on how many samples were to be expected, not on how many came: otherwise it would be where there
 * are many that too many are corrected, and where there are few that too few are not. A sample of weight w was expected once in
 * w blocks, so that of the exact blocks, at the mean weight, samples * factor were. */
static double factor_of(const weights_t *estimated, uint64_t exact, bool is_large) {
    if (is_large || estimated->blocks <= 0) return __builtin_nan("");
    double factor = (double)exact / estimated->blocks;
    return estimated->samples * factor < SAMPLES_LEAST ? __builtin_nan("") : factor;
}

static double or_one(double factor) { return __builtin_isnan(factor) ? 1 : factor; }

static uint64_t read_moved(const _Atomic(uint64_t) *counter) {
    return atomic_load_explicit(counter, memory_order_relaxed);
}

/* Sums are read while threads go on counting. */
static uint64_t less(uint64_t count, uint64_t part) { return count > part ? count - part : 0; }

/* Writes the class's row and its factors. */
static void calibrate_class(ms_snapshot_t *snapshot, class_sums_t *sums, const ms_size_classes_row_t *class) {
    const ms_class_moves_t *moves = ms_calibration_moves((uint32_t)class->index);
    bool is_large = class->index == MS_CLASS_LARGE;
    uint64_t exact = less(class->allocated_blocks + read_moved(&moves->out), read_moved(&moves->in));
    uint64_t freed = less(class->freed_blocks + read_moved(&moves->out_freed), read_moved(&moves->in_freed));
    ms_calibration_row_t *row = &snapshot->model.calibration.rows[snapshot->model.calibration.count++];
    *row = (ms_calibration_row_t){
        .index = class->index,
        .payload_bytes = class->payload_bytes,
        .samples = (uint64_t)sums->allocated.samples,
        .exact_blocks = exact,
        .estimated_blocks = sums->allocated.blocks,
        .estimated_error_blocks = square_root(sums->allocated.variance),
        .factor = factor_of(&sums->allocated, exact, is_large),
        .live_samples = (uint64_t)sums->live.samples,
        .live_exact_blocks = exact > freed ? exact - freed : 0,
        .live_estimated_blocks = sums->live.blocks,
        .live_estimated_error_blocks = square_root(sums->live.variance),
    };
    row->live_factor = factor_of(&sums->live, row->live_exact_blocks, is_large);
    sums->factor = or_one(row->factor);
    sums->live_factor = or_one(row->live_factor);
}

void ms_snapshot_not_estimated(ms_sites_row_t *row) {
    row->calibrated_allocated_bytes = row->calibrated_allocated_blocks = MS_NULL;
    row->calibrated_live_bytes = row->calibrated_live_error_bytes = MS_NULL;
}

static void set_site(ms_sites_row_t *row, const site_sums_t *sums) {
    row->calibrated_allocated_bytes = (uint64_t)(sums->allocated_bytes + 0.5);
    row->calibrated_allocated_blocks = (uint64_t)(sums->allocated_blocks + 0.5);
    row->calibrated_live_bytes = (uint64_t)(sums->live_bytes + 0.5);
    row->calibrated_live_error_bytes = (uint64_t)(square_root(sums->live_variance) + 0.5);
}

/* A class whose every block was sampled away into others has no row of its own in size_classes. */
static const ms_size_classes_row_t *class_of(const ms_snapshot_t *snapshot, uint32_t index, ms_size_classes_row_t *none) {
    for (size_t i = 0; i < snapshot->model.size_classes.count; i++)
        if (snapshot->model.size_classes.rows[i].index == index) return &snapshot->model.size_classes.rows[i];
    *none = (ms_size_classes_row_t){.index = index, .payload_bytes = index == MS_CLASS_LARGE ? 0 : ms_class_payload(index)};
    return none;
}

bool ms_snapshot_calibration(ms_snapshot_t *snapshot, uint32_t site_limit) {
    static const char *const columns[] = {"calibrated_allocated_bytes", "calibrated_allocated_blocks",
                                          "calibrated_live_bytes", "calibrated_live_error_bytes"};
    for (size_t i = 0; i < sizeof columns / sizeof columns[0]; i++)
        ms_snapshot_null(snapshot, "sites", columns[i], "the count is exact");
    if (ms_process.sites != MS_SITES_SAMPLED) return true;
    size_t rows = snapshot->model.sites.count;
    calibration_t *calibration = ms_region_alloc(&snapshot->region, sizeof *calibration);
    snapshot->model.calibration.rows =
        ms_region_alloc(&snapshot->region, MS_CLASS_COUNT * sizeof *snapshot->model.calibration.rows);
    if (!calibration || !snapshot->model.calibration.rows) return false;
    calibration->row_of = ms_region_alloc(&snapshot->region, site_limit * sizeof *calibration->row_of);
    calibration->sites = ms_region_alloc(&snapshot->region, (rows + 1) * sizeof *calibration->sites);
    calibration->limit = site_limit;
    if (!calibration->row_of || !calibration->sites) return false;
    for (size_t i = 0; i < rows; i++) {
        const ms_sites_row_t *row = &snapshot->model.sites.rows[i];
        if (row->estimated && row->id < site_limit) calibration->row_of[row->id] = (uint32_t)i + 1;
    }
    ms_calibration_walk(add_to_class, calibration);
    for (uint32_t class = 0; class < MS_CLASS_COUNT; class++) {
        ms_size_classes_row_t none;
        class_sums_t *sums = &calibration->classes[class];
        if (sums->allocated.samples > 0) calibrate_class(snapshot, sums, class_of(snapshot, class, &none));
    }
    ms_calibration_walk(add_to_site, calibration);
    for (size_t i = 0; i < rows; i++)
        if (snapshot->model.sites.rows[i].estimated) set_site(&snapshot->model.sites.rows[i], &calibration->sites[i]);
    return true;
}
