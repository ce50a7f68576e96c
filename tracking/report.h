/* The few numbers that malloc's own statistics calls need, without building a snapshot. */
#ifndef MS_TRACKING_REPORT_H
#define MS_TRACKING_REPORT_H

#include <stdint.h>

#include "memscope/memscope.h"

typedef struct ms_summary {
    uint64_t live_bytes, live_blocks;
    uint64_t slab_bytes;                /* address space held for slabs */
    uint64_t large_blocks, large_bytes; /* live large blocks, and what they and the cache hold */
} ms_summary_t;

ms_summary_t ms_summary(void);

/* memscope_process_usage() for a thread that has no arena and needs none. */
void ms_process_usage(memscope_usage_t *usage);

/* The process's peak differs from the true one by at most this many bytes. */
uint64_t ms_peak_error(void);

/* The same of a thread's peak. */
uint64_t ms_thread_peak_error(uint64_t unseen_turn, uint64_t freed_by_others);

/* The process's peak to be stated, and its error, where `live` bytes are stated to be live. */
uint64_t ms_process_peak(uint64_t live, uint64_t *error);

/* Gives back whatever is free. 1 if there was something to give, as malloc_trim(). */
int ms_trim(void);

#endif
