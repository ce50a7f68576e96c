/* The sampler by itself (tracking/sampling.c, compiled in) with fixed seeds: how often blocks of a size are chosen,
 * what the chosen ones stand for, and its logarithm and exponential against libm's. Whole runs: tests/test_sampled.py.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/arena.h"
#include "alloc/os.h"
#include "tests/support.h"
#include "tracking/process.h"
#include "tracking/sampling.h"

/* What the sampler needs of the rest of the library. */
ms_process_t ms_process;
uint64_t ms_os_random(void) {
    return 1;
}

#define MEAN 4096

static const size_t sizes[] = {1, 2, 16, 100, 1000, MEAN, 3 * MEAN, 12 * MEAN};
#define SIZES (sizeof sizes / sizeof sizes[0])

static ms_arena_t *arena_new(uint32_t index) {
    static ms_arena_t arena;
    ms_process = (ms_process_t){.sites = MS_SITES_SAMPLED, .knobs = {.sample_bytes = MEAN, .test_mode = 1}};
    memset(&arena, 0, sizeof arena);
    arena.random = ms_sampling_seed(index);
    ms_sampling_start(&arena);
    return &arena;
}

/* As alloc/arena.c counts: a block's bytes come off, and below 0 the sampler is asked. */
static bool is_sampled(ms_arena_t *arena, size_t size) {
    arena->sample_left -= (int64_t)size;
    return arena->sample_left < 0 && ms_sampling_hit(arena);
}

static double chance(size_t size) {
    return -expm1(-(double)size / MEAN);
}

START_TEST(logarithm_is_libms) {
    for (double x = 0x1p-53; x < 4; x *= 1.0001)
        ck_assert_double_le(fabs(ms_ln(x) - log(x)), 1e-12 * fmax(1, fabs(log(x))));
    ck_assert_double_eq(ms_ln(1), 0);
}
END_TEST

START_TEST(exponential_is_libms) {
    ck_assert_double_eq(ms_exp_negative(0), 1);
    ck_assert_double_eq(ms_exp_negative(-1e9), 0);
    for (double x = 1e-9; x < 700; x *= 1.0001) ck_assert_double_le(fabs(ms_exp_negative(-x) / exp(-x) - 1), 1e-12);
}
END_TEST

START_TEST(weight_is_the_inverse_of_the_chance) {
    ms_arena_t *arena = arena_new(0);
    arena->hit_mean = MEAN;
    for (size_t size = 1; size < (size_t)1 << 40; size += size / 7 + 1) {
        double weight = ms_sampling_weight(arena, size);
        ck_assert_double_le(fabs(weight * chance(size) - 1), 1e-9);
    }
}
END_TEST

/* Sum over the sizes of the squared deviation over its variance; 8 degrees of freedom: above 50 once in 25 million. */
static double chi_square(const uint64_t *hits, uint64_t blocks) {
    double sum = 0;
    for (size_t s = 0; s < SIZES; s++) {
        double expected = (double)blocks * chance(sizes[s]), off = (double)hits[s] - expected;
        sum += off * off / (expected * (1 - chance(sizes[s])));
    }
    return sum;
}

START_TEST(blocks_of_one_size_are_hit_by_chance) {
    enum { BLOCKS = 300000 };
    for (uint32_t seed = 0; seed < 5; seed++) {
        uint64_t hits[SIZES] = {0};
        for (size_t s = 0; s < SIZES; s++) {
            ms_arena_t *arena = arena_new(seed * 100 + (uint32_t)s);
            for (int i = 0; i < BLOCKS; i++) hits[s] += is_sampled(arena, sizes[s]);
        }
        ck_assert_double_le(chi_square(hits, BLOCKS), 50);
    }
}
END_TEST

/* A block's chance depends on its size alone, whatever came before it. */
START_TEST(blocks_among_others_are_hit_by_chance) {
    enum { BLOCKS = 200000 };
    for (uint32_t seed = 0; seed < 5; seed++) {
        uint64_t hits[SIZES] = {0}, order = seed;
        ms_arena_t *arena = arena_new(seed);
        for (int i = 0; i < BLOCKS; i++)
            for (size_t s = 0, first = support_random(&order); s < SIZES; s++) {
                size_t which = (first + s) % SIZES;
                hits[which] += is_sampled(arena, sizes[which]);
            }
        ck_assert_double_le(chi_square(hits, BLOCKS), 50);
    }
}
END_TEST

/* Bytes and blocks that the sampled ones stand for, against those there were. */
START_TEST(estimates_have_no_bias) {
    enum { BLOCKS = 100000, SEEDS = 20 };
    double bytes_off = 0, blocks_off = 0, bytes_variance = 0, blocks_variance = 0;
    for (uint32_t seed = 0; seed < SEEDS; seed++) {
        ms_arena_t *arena = arena_new(seed);
        uint64_t random = seed;
        for (int i = 0; i < BLOCKS; i++) {
            size_t size = 1 + support_random(&random) % ((size_t)1 << support_random(&random) % 16);
            double weight = is_sampled(arena, size) ? ms_sampling_weight(arena, size) : 0, p = chance(size);
            bytes_off += (weight - 1) * (double)size;
            blocks_off += weight - 1;
            bytes_variance += (double)size * (double)size * (1 - p) / p;
            blocks_variance += (1 - p) / p;
        }
    }
    ck_assert_double_le(fabs(bytes_off), 4 * sqrt(bytes_variance));
    ck_assert_double_le(fabs(blocks_off), 4 * sqrt(blocks_variance));
}
END_TEST

/* Each run's relative error in its standard errors: within three but for chance (0.27 %), and none on average. */
START_TEST(errors_stay_within_three_sigma) {
    enum { BLOCKS = 20000, SEEDS = 400 };
    double sum = 0;
    int outside = 0;
    for (uint32_t seed = 0; seed < SEEDS; seed++) {
        ms_arena_t *arena = arena_new(seed);
        double off = 0, variance = 0;
        for (int i = 0; i < BLOCKS; i++) {
            size_t size = sizes[(size_t)i % SIZES];
            double weight = is_sampled(arena, size) ? ms_sampling_weight(arena, size) : 0, p = chance(size);
            off += (weight - 1) * (double)size;
            variance += (double)size * (double)size * (1 - p) / p;
        }
        sum += off / sqrt(variance);
        outside += fabs(off) > 3 * sqrt(variance);
    }
    ck_assert_double_le(fabs(sum), 3 * sqrt(SEEDS));
    ck_assert_int_le(outside, 6);
}
END_TEST

START_TEST(empty_and_huge_blocks) {
    ms_arena_t *arena = arena_new(0);
    for (int i = 0; i < 1000000; i++) ck_assert(!is_sampled(arena, 0)); /* no byte that could be hit */
    for (int i = 0; i < 1000; i++) {
        ck_assert(is_sampled(arena, (size_t)1 << 46));
        ck_assert_double_eq(ms_sampling_weight(arena, (size_t)1 << 46), 1);
    }
}
END_TEST

/* Every thread's first block, and the one after it: a new gap is as good as one under way, in each of many threads. */
START_TEST(first_allocations_are_hit_by_chance) {
    enum { THREADS = 300000 };
    uint64_t first[SIZES] = {0}, second[SIZES] = {0};
    for (uint32_t thread = 0; thread < THREADS; thread++) {
        for (size_t s = 0; s < SIZES; s++) {
            ms_arena_t *arena = arena_new(thread * SIZES + (uint32_t)s);
            first[s] += is_sampled(arena, sizes[s]);
            second[s] += is_sampled(arena, sizes[s]);
        }
    }
    ck_assert_double_le(chi_square(first, THREADS), 50);
    ck_assert_double_le(chi_square(second, THREADS), 50);
}
END_TEST

/* The mean gap changes at random moments, by this thread and, seen at its next due event, by others. Every block is hit
 * with the chance of the mean in force, and what the samples stand for stays right. */
START_TEST(a_change_of_the_mean_adds_no_bias) {
    enum { BLOCKS = 200000, SEEDS = 20, MEANS = 4 };
    static const uint64_t means[MEANS] = {100, MEAN, 50000, 1000000};
    double off = 0, variance = 0, hits = 0, expected = 0, spread = 0;
    for (uint32_t seed = 0; seed < SEEDS; seed++) {
        ms_arena_t *arena = arena_new(seed);
        uint64_t random = seed;
        for (int i = 0; i < BLOCKS; i++) {
            size_t size = 1 + support_random(&random) % ((size_t)1 << support_random(&random) % 14);
            uint64_t mean = means[support_random(&random) % MEANS];
            if (support_random(&random) % 50 == 0) ms_sampling_change(arena, mean);
            if (support_random(&random) % 50 == 0) {
                ms_process.knobs.sample_bytes = mean;
                ck_assert(arena->sample_left < 0 || !ms_sampling_hit(arena)); /* due, and not for a sample */
            }
            double p = -expm1(-(double)size / (double)arena->sample_mean);
            bool hit = is_sampled(arena, size);
            off += ((hit ? ms_sampling_weight(arena, size) : 0) - 1) * (double)size;
            variance += (double)size * (double)size * (1 - p) / p;
            hits += hit;
            expected += p;
            spread += p * (1 - p);
        }
    }
    ck_assert_double_le(fabs(off), 4 * sqrt(variance));
    ck_assert_double_le(fabs(hits - expected), 4 * sqrt(spread));
}
END_TEST

START_TEST(a_rate_is_a_rate_by_count) {
    enum { BLOCKS = 1000000 };
    static const uint64_t rates[] = {1000, 1000000, 250000000, 1000000000}; /* billionths */
    for (size_t r = 0; r < sizeof rates / sizeof rates[0]; r++) {
        ms_arena_t *arena = arena_new((uint32_t)r);
        ms_process.knobs.sample_rate = rates[r];
        uint64_t hits = 0;
        for (int i = 0; i < BLOCKS; i++) hits += ms_sampling_hit(arena); /* every block is asked about */
        double p = (double)rates[r] / 1e9, expected = BLOCKS * p;
        ck_assert_double_le(fabs((double)hits - expected), 5 * sqrt(expected * (1 - p)));
        ck_assert_double_le(fabs(ms_sampling_weight(arena, 100) * p - 1), 1e-12);
    }
}
END_TEST

START_TEST(no_sampling_samples_nothing) {
    ms_arena_t *arena = arena_new(0);
    ms_process.sites = MS_SITES_NONE;
    ms_sampling_start(arena);
    for (int i = 0; i < 1000; i++) ck_assert(!is_sampled(arena, (size_t)1 << 47));
}
END_TEST

int main(void) {
    const TTest *tests[] = {logarithm_is_libms,
                            exponential_is_libms,
                            weight_is_the_inverse_of_the_chance,
                            blocks_of_one_size_are_hit_by_chance,
                            blocks_among_others_are_hit_by_chance,
                            estimates_have_no_bias,
                            errors_stay_within_three_sigma,
                            empty_and_huge_blocks,
                            first_allocations_are_hit_by_chance,
                            a_change_of_the_mean_adds_no_bias,
                            a_rate_is_a_rate_by_count,
                            no_sampling_samples_nothing};
    return support_run(SUPPORT_SUITE("sampling", tests));
}
