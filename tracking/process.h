/* What is known of the process as a whole: configuration as the slow paths read it, counters that many threads write
 * on slow paths, start-up. */
#ifndef MS_TRACKING_PROCESS_H
#define MS_TRACKING_PROCESS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "tracking/knobs.h"

#pragma GCC visibility push(hidden) /* no detour through the GOT */

/* What a site is taken for. */
typedef enum { MS_SITES_NONE, MS_SITES_SAMPLED, MS_SITES_EVERY } ms_sites_t;

typedef struct ms_process {
    /* set once by ms_process_start(), then read only */
    ms_knob_values_t knobs; /* but for sample_bytes (tracking/sampling.h) */
    ms_sites_t sites;
    bool track_tasks;
    bool full_stacks;       /* else the caller's return address */
    bool can_unwind;        /* from the constructor on: before it the loader may not know its own objects yet */
    bool paranoid;          /* junk, guard or quarantine */
    bool always_slow;       /* junk, guard, quarantine, sites of every block, or sample_rate: every call takes the slow path */
    uint64_t start_ns;      /* monotonic */
    uint64_t start_unix_ns;

    /* any thread, on slow paths */
    _Alignas(16) _Atomic(int64_t) live_bytes; /* settled; threads may hold changes back, see peak_error */
    _Atomic(int64_t) peak_bytes;              /* mode exact changes both in one step (tracking/exact.c) */
    _Atomic(int64_t) window_peak_bytes;       /* since the newest checkpoint (tracking/checkpoint.h) */
    _Atomic(uint64_t) failed_allocations;
    _Atomic(bool) interrupted;          /* a signal handler has been where the thread was: in this library */
    _Atomic(uint64_t) handler_refusals; /* calls by signal handlers not carried out, for the thread held a lock */
    _Atomic(uint64_t) clock_steps_back; /* times the monotonic clock was found behind itself */
    _Atomic(uint64_t) compared_stacks;  /* with libunwind's, check_stacks */
    _Atomic(uint64_t) different_stacks;
    _Atomic(uint64_t) origin_mismatches;
    _Atomic(uint64_t) header_failures;
    _Atomic(uint64_t) unknown_frees;
    _Atomic(uint64_t) folded_tasks;
} ms_process_t;
extern ms_process_t ms_process;
extern ms_knob_source_t ms_process_knob_sources[MS_KNOB_ID_COUNT];

/* Makes *peak at least `live`. */
static inline void ms_raise_peak(_Atomic(int64_t) *peak, int64_t live) {
    int64_t seen = atomic_load_explicit(peak, memory_order_relaxed);
    while (live > seen &&
           !atomic_compare_exchange_weak_explicit(peak, &seen, live, memory_order_relaxed, memory_order_relaxed))
        continue;
}

/* Reads the configuration and draws the secrets. Called once by the first thread that allocates,
 * before anything else; allocates nothing. */
void ms_process_start(void);

/* Milliseconds since the start, 0 in test mode. */
uint64_t ms_process_milliseconds(void);
uint64_t ms_process_elapsed_ns(void);

#pragma GCC visibility pop
#endif
