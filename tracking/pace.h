/* How often and how much the interval records may be written: an hour of them stays under a budget of bytes, and the
 * thread that writes them under a share of its time.
 *
 * Both are buckets that fill steadily and that every record empties by what it cost. An empty bucket raises the level:
 * rows kept are halved first, then the time between records is doubled. Buckets half full lower it again. */
#ifndef MS_TRACKING_PACE_H
#define MS_TRACKING_PACE_H

#include <stdint.h>

#define MS_PACE_HOUR_BYTES ((int64_t)6 << 20)  /* that flow in, an hour */
#define MS_PACE_BURST_BYTES ((int64_t)1 << 20) /* that a full bucket holds */
#define MS_PACE_CPU_SHARE 50                   /* one part in so many of the time */
#define MS_PACE_BURST_NS ((int64_t)200000000)
#define MS_PACE_ROWS 32 /* of each table, at level 0 */

typedef struct ms_pace {
    uint64_t wanted_ns, last_ns;
    int64_t bytes, cpu_ns;             /* in the buckets */
    int64_t bytes_floor, cpu_floor_ns; /* below it the level rises again */
    uint32_t level;
} ms_pace_t;

void ms_pace_start(ms_pace_t *pace, uint64_t interval_ns, uint64_t now_ns);
void ms_pace_spent(ms_pace_t *pace, uint64_t now_ns, uint64_t bytes, uint64_t cpu_ns);
uint64_t ms_pace_interval(const ms_pace_t *pace); /* ns until the next record */
uint32_t ms_pace_rows(const ms_pace_t *pace);

#endif
