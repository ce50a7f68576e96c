/* Poisson sampling over bytes: every byte allocated is hit with probability 1/R, independently; a block is sampled if
 * one of its bytes is. Gaps between hits are exponential with mean R, drawn per thread as -ln(u) * R, so the fast path
 * only counts down. A sampled block of Z bytes was hit with probability p = 1 - e^(-Z/R) and stands for 1/p blocks
 * (Horvitz and Thompson 1952). With sample_rate, p is that rate for every block. */
#ifndef MS_TRACKING_SAMPLING_H
#define MS_TRACKING_SAMPLING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ms_arena;

uint64_t ms_sampling_seed(uint32_t arena_index); /* the same in every run in test mode */

/* Draws the first gap of a thread. */
void ms_sampling_start(struct ms_arena *arena);

/* The block just counted: is it sampled? Draws the next gap if so. */
bool ms_sampling_hit(struct ms_arena *arena);

/* Blocks that a sampled block of this size stands for. */
double ms_sampling_weight(size_t size);

/* Natural logarithm of x > 0 and e^x for x <= 0 to about 1e-12, without libm, which nobody else here needs. */
double ms_ln(double x);
double ms_exp_negative(double x);

#endif
