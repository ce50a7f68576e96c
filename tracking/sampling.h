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

/* In the child of a fork, whose threads from now on draw other numbers than its parent's and its siblings'; in test mode the
 * same ones. `number` is not theirs. */
void ms_sampling_child(uint64_t number);

/* The thread that forked, in the child. `at_rest`: none of our code was interrupted by it, and the gap under way, which the
 * child has from its parent, is drawn anew. */
void ms_sampling_restart(struct ms_arena *arena, bool at_rest);

/* The block just counted: is it sampled? Draws the next gap if so. */
bool ms_sampling_hit(struct ms_arena *arena);

/* Blocks that a block of this size stands for which was just hit in this arena: as of the gap that ended in it, whatever
 * the mean gap is now. */
double ms_sampling_weight(struct ms_arena *arena, size_t size);

/* Another mean gap, from now on for the calling thread, for others from their next due event on. Neither a weight nor a
 * chance of what was allocated before changes: what is left of an exponential gap is as long as a new one, so that a gap
 * may be drawn anew, with another mean, at any moment that does not depend on where it would have ended. */
void ms_sampling_change(struct ms_arena *arena, uint64_t sample_bytes);

/* Natural logarithm of x > 0 and e^x for x <= 0 to about 1e-12, without libm, which nobody else here needs. */
double ms_ln(double x);
double ms_exp_negative(double x);

#endif
