/* Verdicts on sites whose history is known: each shape of live bytes over time is played second by second, its slope and
 * mean are worked out from all moments, and the word is compared with what the shape is. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support.h"
#include "tracking/verdict.h"

#define MOMENTS 2000 /* milliseconds from the first allocation to the snapshot */

typedef double shape_t(double t, uint64_t *random); /* live blocks, t from 0 to 1 */

static double linear(double t, uint64_t *random) { return (void)random, 1 + 1000 * t; }
static double noisy_growth(double t, uint64_t *random) { return 1 + 1000 * t + (double)(support_random(random) % 200); }
static double root(double t, uint64_t *random) { return (void)random, 1 + 1000 * sqrt(t); }
static double square(double t, uint64_t *random) { return (void)random, 10 + 1000 * t * t; }
static double stairs(double t, uint64_t *random) { return (void)random, 100 + 100 * floor(10 * t); }
static double constant(double t, uint64_t *random) { return (void)t, (void)random, 500; }
static double noise(double t, uint64_t *random) { return (void)t, 1 + (double)(support_random(random) % 1000); }
static double saw(double t, uint64_t *random) { return (void)random, 1 + 1000 * (20 * t - floor(20 * t)); }
static double fills_up(double t, uint64_t *random) { return (void)random, 1000 * (1 - exp(-20 * t)) + 1; }
static double falls(double t, uint64_t *random) { return (void)random, 1001 - 1000 * t; }
static double nothing_left(double t, uint64_t *random) { return (void)random, t < 0.99 ? 1000 * t : 0; }
static double step_early(double t, uint64_t *random) { return (void)random, t < 0.3 ? 50 : 1000; }
static double step_middle(double t, uint64_t *random) { return (void)random, t < 0.5 ? 50 : 1000; }
static double step_late(double t, uint64_t *random) { return (void)random, t < 0.85 ? 50 : 1000; }
static double spike_at_the_end(double t, uint64_t *random) { return (void)random, t < 0.97 ? 20 : 1000; }
static double grew_and_stopped(double t, uint64_t *random) { return (void)random, t < 0.6 ? 1 + 1000 * t : 601; }

/* What a counter of this site would have: a change is an allocation or a free of 100 bytes. */
static ms_verdict_facts_t play(shape_t *shape, uint64_t seed) {
    ms_verdict_facts_t facts = {.first_ms = 7000, .now_ms = 7000 + MOMENTS};
    uint64_t random = seed, live = 0;
    double sum = 0, moment = 0;
    for (uint64_t ms = 0; ms < MOMENTS; ms++) {
        uint64_t blocks = (uint64_t)shape((double)ms / MOMENTS, &random);
        if (blocks > live) facts.allocated_blocks += blocks - live;
        if (blocks != live) facts.last_ms = 7000 + ms;
        live = blocks;
        if (100.0 * (double)blocks > facts.peak) facts.peak = 100.0 * (double)blocks;
        sum += 100.0 * (double)blocks;
        moment += ((double)ms + 0.5 - MOMENTS / 2) * 100.0 * (double)blocks;
    }
    facts.live_blocks = live;
    facts.live = 100.0 * (double)live;
    facts.mean = sum / MOMENTS;
    facts.slope = 12 * moment / ((double)MOMENTS * MOMENTS * MOMENTS) * 1000;
    return facts;
}

static void judged(shape_t *shape, const char *name, const char *word) {
    for (uint64_t seed = 1; seed <= 20; seed++) {
        ms_verdict_facts_t facts = play(shape, seed);
        ck_assert_msg(strcmp(ms_verdict(&facts), word) == 0, "%s: %s, seed %lu", name, ms_verdict(&facts), seed);
    }
}
#define JUDGED(shape, word) judged(shape, #shape, word)

START_TEST(growth) {
    JUDGED(linear, "growing");
    JUDGED(noisy_growth, "growing");
    JUDGED(root, "growing");
    JUDGED(square, "growing");
    JUDGED(stairs, "growing");
}
END_TEST

START_TEST(bounds) {
    JUDGED(noise, "bounded");
    JUDGED(saw, "bounded");
    JUDGED(fills_up, "bounded");
    JUDGED(falls, "bounded");
    JUDGED(nothing_left, "bounded");
}
END_TEST

START_TEST(bursts) {
    JUDGED(step_early, "burst");
    JUDGED(step_middle, "burst");
    JUDGED(step_late, "burst");
    JUDGED(spike_at_the_end, "burst");
    JUDGED(grew_and_stopped, "burst");
}
END_TEST

START_TEST(once) {
    JUDGED(constant, "one-off");
}
END_TEST

START_TEST(too_little_is_no_verdict) {
    ms_verdict_facts_t facts = play(linear, 1);
    facts.allocated_blocks = facts.live_blocks = MS_VERDICT_LEAST_BLOCKS - 1;
    ck_assert_str_eq(ms_verdict(&facts), "insufficient data");
    facts = play(linear, 1);
    facts.slope = NAN;
    ck_assert_str_eq(ms_verdict(&facts), "insufficient data");
    facts = play(linear, 1);
    facts.now_ms = facts.first_ms + MS_VERDICT_LEAST_MS - 1;
    ck_assert_str_eq(ms_verdict(&facts), "insufficient data");
    facts = play(linear, 1);
    facts.now_ms = facts.first_ms - 1; /* a clock that went backwards */
    ck_assert_str_eq(ms_verdict(&facts), "insufficient data");
    facts = (ms_verdict_facts_t){.first_ms = UINT64_MAX};
    ck_assert_str_eq(ms_verdict(&facts), "insufficient data");
}
END_TEST

int main(void) {
    const TTest *tests[] = {growth, bounds, bursts, once, too_little_is_no_verdict};
    return support_run(SUPPORT_SUITE("verdict", tests));
}
