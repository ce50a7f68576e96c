#include "tracking/sampling.h"
#include "alloc/arena.h"
#include "alloc/os.h"
#include "tracking/process.h"

#include <string.h>

#define NO_SAMPLE (INT64_MAX / 2) /* bytes until the next sample when there is no sampling */
#define LN2 0.693147180559945309417

/* 1 / n: a chain of divisions takes the processor 200 cycles where multiplications take 60. */
static const double inverse[] = {0,       1.0,     1.0 / 2, 1.0 / 3,  1.0 / 4,  1.0 / 5,  1.0 / 6,
                                 1.0 / 7, 1.0 / 8, 1.0 / 9, 1.0 / 10, 1.0 / 11, 1.0 / 12, 1.0 / 13};

/* x = m * 2^e with m in [sqrt(1/2), sqrt(2)); ln m = 2 artanh((m-1)/(m+1)), whose series in s = ((m-1)/(m+1))^2 <
 * 0.0295 has an error below 1e-14 after nine terms. */
double ms_ln(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint64_t least = 0x3fe6a09e667f3bcdu; /* sqrt(1/2) */
    int exponent = (int)((int64_t)(bits - least) >> 52); /* without a branch: the processor guessed it wrong every other time */
    bits -= (uint64_t)exponent << 52;
    double m;
    memcpy(&m, &bits, sizeof m);
    double t = (m - 1) / (m + 1), s = t * t, s2 = s * s, s4 = s2 * s2;
    /* in pairs, which the processor adds up side by side (Estrin 1960): a third of the time */
    double low = (1 + s * (1.0 / 3)) + s2 * (1.0 / 5 + s * (1.0 / 7));
    double high = (1.0 / 9 + s * (1.0 / 11)) + s2 * (1.0 / 13 + s * (1.0 / 15));
    return 2 * t * (low + s4 * (high + s4 * (1.0 / 17))) + exponent * LN2;
}

/* e^x = 2^k * e^r with |r| <= ln2/2; Taylor to the 13th power is below 1e-15. */
double ms_exp_negative(double x) {
    if (x < -700) return 0;
    int k = (int)(x / LN2 - 0.5);
    double r = x - k * LN2, sum = 1;
    for (int n = 13; n > 0; n--) sum = 1 + sum * (r * inverse[n]);
    uint64_t bits = (uint64_t)(k + 1023) << 52;
    double scale;
    memcpy(&scale, &bits, sizeof scale);
    return sum * scale;
}

/* splitmix64 (Steele, Lea, Flood 2014) */
static uint64_t mixed(uint64_t z) {
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

uint64_t ms_sampling_seed(uint32_t arena_index) {
    uint64_t seed = ms_process.knobs.test_mode ? 0x6d656d73636f7065u : ms_os_random();
    return mixed(seed + arena_index); /* not a multiple of the generator's step, or arenas would draw the same numbers in turn */
}

static uint64_t random_next(ms_arena_t *arena) { return mixed(arena->random += 0x9e3779b97f4a7c15u); }

/* Uniform in (0, 1]. */
static double random_unit(ms_arena_t *arena) {
    return (double)((random_next(arena) >> 11) + 1) * 0x1p-53;
}

/* Cut to whole bytes: for a whole number n, P(cut gap >= n) = P(gap >= n) = e^(-n/R). */
static int64_t draw_gap(ms_arena_t *arena) {
    arena->sample_mean = __atomic_load_n(&ms_process.knobs.sample_bytes, __ATOMIC_RELAXED);
    double gap = -ms_ln(random_unit(arena)) * (double)arena->sample_mean;
    return gap < 1e18 ? (int64_t)gap : (int64_t)1e18;
}

static uint64_t child_offset; /* to the numbers of the arenas as the parent left them; 0: not the child of a fork */

void ms_sampling_start(ms_arena_t *arena) {
    if (!ms_process.knobs.test_mode) arena->random += child_offset;
    arena->sample_left = ms_process.sites == MS_SITES_SAMPLED ? draw_gap(arena) : NO_SAMPLE;
}

MS_COLD void ms_sampling_child(uint64_t number) { child_offset = mixed(child_offset + mixed(number)); }

MS_COLD void ms_sampling_restart(ms_arena_t *arena, bool at_rest) {
    if (ms_process.knobs.test_mode) return;
    arena->random += child_offset;
    if (!at_rest || ms_process.sites != MS_SITES_SAMPLED) return;
    int64_t gap = draw_gap(arena);
    arena->sample_left = arena->countdown_set - arena->countdown + gap; /* what was counted down comes off it later */
    if (gap < arena->countdown) ms_arena_lower_countdown(arena, gap);
}

bool ms_sampling_hit(ms_arena_t *arena) {
    if (ms_process.sites != MS_SITES_SAMPLED) {
        arena->sample_left = NO_SAMPLE;
        return false;
    }
    if (ms_process.knobs.sample_rate) return random_unit(arena) * 1e9 <= (double)ms_process.knobs.sample_rate;
    bool hit = arena->sample_left < 0;
    arena->hit_mean = arena->sample_mean;
    bool changed = arena->sample_mean != __atomic_load_n(&ms_process.knobs.sample_bytes, __ATOMIC_RELAXED);
    if (hit || changed) arena->sample_left = draw_gap(arena);
    return hit;
}

void ms_sampling_change(ms_arena_t *arena, uint64_t sample_bytes) {
    __atomic_store_n(&ms_process.knobs.sample_bytes, sample_bytes, __ATOMIC_RELAXED);
    arena->sample_left = draw_gap(arena);
}

static double weight_of(size_t size, uint64_t mean) {
    double x = (double)size / (double)mean;
    double p = x < 1e-5 ? x - x * x / 2 : 1 - ms_exp_negative(-x); /* 1 - e^-x cancels for small x */
    return 1 / p;
}

MS_RARE double ms_sampling_weight(ms_arena_t *arena, size_t size) {
    if (ms_process.knobs.sample_rate) return 1e9 / (double)ms_process.knobs.sample_rate;
    if (arena->weighed_size == size && arena->weighed_mean == arena->hit_mean) return arena->weight; /* sizes repeat */
    arena->weighed_size = size;
    arena->weighed_mean = arena->hit_mean;
    return arena->weight = weight_of(size, arena->hit_mean);
}
