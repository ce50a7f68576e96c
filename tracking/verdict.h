/* A verdict on a site in a word, from numbers that mode exact counts: does what it allocated and still holds grow?
 *
 * With y(t) the site's live bytes since its first allocation, over the time T since then:
 *
 *     rise   what y rose in that time along the least-squares line: slope * T. A steady growth from nothing: rise = peak
 *     mean   of y. A step of height h after the share f of T: mean = (1 - f) h, rise = 6 f (1 - f) h
 *
 *     insufficient data   sites are not counted, or T < 100 ms, or it seems to grow but allocated fewer than 8 blocks
 *     one-off    9 in 10 blocks live, all allocated and freed within a tenth of T: it worked once and kept the result
 *     growing    live >= 3/4 peak, rise >= peak / 2, not in one step, active in the last quarter of T
 *     burst      live >= 3/4 peak, and most of it came in one step (rise >= 0.77 of what a step with this mean would have,
 *                or mean < peak / 10), or it grew but has not been active in the last quarter of T
 *     bounded    all else: it fell back from its peak, or stays about where it was
 *
 * The slope and the share of the blocks that survive stand beside the verdict: a slow leak under a large constant amount
 * has a slope though its verdict is bounded. */
#ifndef MS_TRACKING_VERDICT_H
#define MS_TRACKING_VERDICT_H

#include <stdint.h>

#define MS_VERDICT_LEAST_MS 100u
#define MS_VERDICT_LEAST_BLOCKS 8u

typedef struct ms_verdict_facts {
    uint64_t allocated_blocks, live_blocks;
    double live, peak, mean;   /* bytes */
    double slope;              /* bytes a second; not a number: not known */
    uint64_t first_ms, last_ms, now_ms; /* first allocation, last allocation or free, the snapshot */
} ms_verdict_facts_t;

/* "growing", "bounded", "burst", "one-off" or "insufficient data". */
const char *ms_verdict(const ms_verdict_facts_t *facts);

/* What can be said without the facts. */
#define MS_VERDICT_NONE "insufficient data"

#endif
