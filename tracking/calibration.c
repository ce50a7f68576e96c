#include "tracking/calibration.h"
#include "alloc/arena.h"
#include "alloc/os.h"

#include <errno.h>
#include <stdbool.h>

#define BUCKETS 8192u
typedef _Atomic(ms_sample_pair_t *) bucket_t;
static _Atomic(bucket_t *) table; /* NULL until the first sample */
static MS_FAR ms_class_moves_t moves[MS_CLASS_COUNT];

static bucket_t *buckets(void) {
    bucket_t *now = atomic_load_explicit(&table, memory_order_acquire);
    if (now) return now;
    bucket_t *fresh = ms_os_map_metadata(BUCKETS * sizeof *fresh);
    if (!fresh) return NULL;
    return atomic_compare_exchange_strong(&table, &now, fresh) ? fresh : now; /* the loser's stays unused */
}

static ms_sample_pair_t *find(ms_sample_pair_t *pair, const ms_sample_pair_t *end, uint32_t site, uint32_t class) {
    while (pair != end && (pair->site != site || pair->class != class)) pair = pair->next;
    return pair != end ? pair : NULL;
}

/* NULL without memory: the pair's samples are then not calibrated. */
static __attribute__((noinline)) ms_sample_pair_t *look_up(const ms_arena_t *arena, uint32_t site, uint32_t class) {
    bucket_t *all = buckets();
    if (!all) return NULL;
    /* ids count up, so this spreads well, and few sites touch few pages */
    bucket_t *bucket = &all[(site + class) & (BUCKETS - 1)];
    ms_sample_pair_t *first = atomic_load_explicit(bucket, memory_order_acquire); /* pairs with the exchange below */
    ms_sample_pair_t *pair = find(first, NULL, site, class);
    if (pair) return pair;
    ms_sample_pair_t *fresh = ms_os_map_metadata(sizeof *fresh);
    if (!fresh) return NULL;
    fresh->site = site;
    fresh->class = class;
    fresh->owner = arena;
    fresh->next = first;
    while (!atomic_compare_exchange_strong(bucket, &first, fresh)) {
        pair = find(first, fresh->next, site, class);
        if (pair) return pair; /* another thread was faster: ours stays unused */
        fresh->next = first;
    }
    return fresh;
}

static inline __attribute__((always_inline)) ms_sample_pair_t *pair_of(ms_arena_t *arena, uint32_t site, uint32_t class) {
    ms_sample_pair_t *last = arena->sample_pair;
    if (last && last->site == site && last->class == class) return last;
    int saved = errno;
    ms_sample_pair_t *pair = look_up(arena, site, class);
    errno = saved;
    if (pair) arena->sample_pair = pair;
    return pair;
}

static void add_own(_Atomic(double) *sum, double amount) {
    atomic_store_explicit(sum, atomic_load_explicit(sum, memory_order_relaxed) + amount, memory_order_relaxed);
}

static void add_shared(_Atomic(double) *sum, double amount) {
    double seen = atomic_load_explicit(sum, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(sum, &seen, seen + amount, memory_order_relaxed, memory_order_relaxed))
        continue;
}

/* `sign` 1: a sample more; -1: one less. */
static inline __attribute__((always_inline)) void add(ms_weights_t *weights, size_t size, double weight, int sign, bool own) {
    void (*add_to)(_Atomic(double) *, double) = own ? add_own : add_shared;
    if (own)
        atomic_store_explicit(&weights->samples, atomic_load_explicit(&weights->samples, memory_order_relaxed) + sign,
                              memory_order_relaxed);
    else
        atomic_fetch_add_explicit(&weights->samples, sign, memory_order_relaxed);
    add_to(&weights->blocks, sign * weight);
    add_to(&weights->bytes, sign * weight * (double)size);
    add_to(&weights->variance, sign * weight * (weight - 1));
}

static MS_COLD ms_sample_flow_t *others_of(ms_sample_pair_t *pair) {
    ms_sample_flow_t *others = atomic_load_explicit(&pair->others, memory_order_acquire); /* pairs with the exchange below */
    if (others) return others;
    int saved = errno;
    ms_sample_flow_t *fresh = ms_os_map_metadata(sizeof *fresh);
    errno = saved;
    if (!fresh) return NULL;
    return atomic_compare_exchange_strong(&pair->others, &others, fresh) ? fresh : others; /* the loser's stays unused */
}

static MS_COLD void add_to_others(ms_sample_pair_t *pair, size_t size, double weight, bool freed) {
    ms_sample_flow_t *others = others_of(pair);
    if (others) add(freed ? &others->freed : &others->allocated, size, weight, 1, false);
}

static inline void count(ms_arena_t *arena, uint32_t site, uint32_t class, size_t size, double weight, bool freed) {
    ms_sample_pair_t *pair = pair_of(arena, site, class);
    if (!pair) return;
    if (ms_likely(pair->owner == arena))
        add(freed ? &pair->own.freed : &pair->own.allocated, size, weight, 1, true);
    else
        add_to_others(pair, size, weight, freed);
}

static void count_move(_Atomic(uint64_t) *out, _Atomic(uint64_t) *in, bool moved) {
    if (!moved) return;
    atomic_fetch_add_explicit(out, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(in, 1, memory_order_relaxed);
}

void ms_calibration_allocated(ms_arena_t *arena, uint32_t site, uint32_t natural, uint32_t actual, size_t size, double weight) {
    count(arena, site, natural, size, weight, false);
    count_move(&moves[natural].out, &moves[actual].in, natural != actual);
}

void ms_calibration_freed(ms_arena_t *arena, uint32_t site, uint32_t natural, uint32_t actual, size_t size, double weight) {
    count(arena, site, natural, size, weight, true);
    count_move(&moves[natural].out_freed, &moves[actual].in_freed, natural != actual);
}

MS_COLD void ms_calibration_taken_back(ms_arena_t *arena, uint32_t site, uint32_t natural, size_t size, double weight) {
    ms_sample_pair_t *pair = pair_of(arena, site, natural);
    ms_sample_flow_t *flow = !pair ? NULL : pair->owner == arena ? &pair->own : others_of(pair);
    if (flow) add(&flow->allocated, size, weight, -1, flow == &pair->own);
}

void ms_calibration_named(uint32_t natural) { atomic_fetch_add_explicit(&moves[natural].in, 1, memory_order_relaxed); }
void ms_calibration_named_freed(uint32_t actual) {
    atomic_fetch_add_explicit(&moves[actual].in_freed, 1, memory_order_relaxed);
}

void ms_calibration_walk(void (*visit)(void *context, const ms_sample_pair_t *pair), void *context) {
    bucket_t *all = atomic_load_explicit(&table, memory_order_acquire);
    for (uint32_t i = 0; all && i < BUCKETS; i++)
        for (const ms_sample_pair_t *pair = atomic_load_explicit(&all[i], memory_order_acquire); pair; pair = pair->next)
            visit(context, pair);
}

const ms_class_moves_t *ms_calibration_moves(uint32_t class) { return &moves[class]; }
