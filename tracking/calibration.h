/* Calibration of sampled sites. How many blocks of each size class there were is known exactly; what the samples of a
 * class stand for is an estimate of the same number. Their quotient, one factor a class, corrects what the samples of each
 * site stand for: ratio estimation with poststrata (Saerndal, Swensson, Wretman 1992, chapter 7). It takes out of every
 * site the part of the error that all sites of a class share.
 *
 * A pair is a site and a class. A sampled block needs room for its weight and so may lie in a larger class than its like;
 * pairs count it in the class of its like (`natural`), and moves are counted to correct the exact number. So are blocks that
 * are named: no sample stands for them.
 *
 * A pair has an owner, the arena that sampled it first, whose thread alone writes its counters; other threads share counters
 * of their own, with atomic operations (eight of them for a sampled block and its free took as long as all the rest of it).
 * No lock. Pairs are never removed. */
#ifndef MS_TRACKING_CALIBRATION_H
#define MS_TRACKING_CALIBRATION_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

struct ms_arena;

/* Of sampled blocks, when they are allocated and when they are freed. */
typedef struct ms_weights {
    _Atomic(int64_t) samples; /* below 0 where a sample is taken back that another arena counted */
    _Atomic(double) blocks;   /* sum of the weights */
    _Atomic(double) bytes;    /* sum of weight * size */
    _Atomic(double) variance; /* sum of weight * (weight - 1): of `blocks` */
} ms_weights_t;

typedef struct ms_sample_flow {
    ms_weights_t allocated, freed;
} ms_sample_flow_t;

typedef struct ms_sample_pair {
    uint32_t site, class;
    struct ms_sample_pair *next; /* in its bucket, older */
    const struct ms_arena *owner;
    _Atomic(ms_sample_flow_t *) others; /* of all other arenas; NULL: none yet */
    ms_sample_flow_t own;
} ms_sample_pair_t;

typedef struct ms_class_moves { /* blocks held by another class than their like's; in, too: named ones */
    _Atomic(uint64_t) in, in_freed, out, out_freed;
} ms_class_moves_t;

/* A sampled block comes or goes; its like lie in class `natural`, itself in `actual`. */
void ms_calibration_allocated(struct ms_arena *arena, uint32_t site, uint32_t natural, uint32_t actual, size_t size, double weight);
void ms_calibration_freed(struct ms_arena *arena, uint32_t site, uint32_t natural, uint32_t actual, size_t size, double weight);

/* A live sampled block is named, and no sample any more. */
void ms_calibration_taken_back(struct ms_arena *arena, uint32_t site, uint32_t natural, size_t size, double weight);

/* A block, sampled or not, has got a name, or was allocated with one; a named block is freed. */
void ms_calibration_named(uint32_t natural);
void ms_calibration_named_freed(uint32_t actual);

/* Calls `visit` for every pair. */
void ms_calibration_walk(void (*visit)(void *context, const ms_sample_pair_t *pair), void *context);
const ms_class_moves_t *ms_calibration_moves(uint32_t class);

#endif
