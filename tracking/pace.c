#include "tracking/pace.h"

#define LEVELS_OF_ROWS 2 /* 32, 16, 8 rows */
#define LEVEL_MOST 16
#define INTERVAL_MOST_NS ((uint64_t)60 * 1000000000u)

void ms_pace_start(ms_pace_t *pace, uint64_t interval_ns, uint64_t now_ns) {
    *pace = (ms_pace_t){
        .wanted_ns = interval_ns, .last_ns = now_ns, .bytes = MS_PACE_BURST_BYTES, .cpu_ns = MS_PACE_BURST_NS};
}

uint64_t ms_pace_interval(const ms_pace_t *pace) {
    uint64_t interval = pace->wanted_ns;
    for (uint32_t i = LEVELS_OF_ROWS; i < pace->level && interval < INTERVAL_MOST_NS; i++) interval *= 2;
    return interval;
}

uint32_t ms_pace_rows(const ms_pace_t *pace) {
    uint32_t level = pace->level < LEVELS_OF_ROWS ? pace->level : LEVELS_OF_ROWS;
    return (uint32_t)MS_PACE_ROWS >> level;
}

static void fill(int64_t *bucket, int64_t flow, int64_t most) {
    *bucket = *bucket + flow < most ? *bucket + flow : most;
}

void ms_pace_spent(ms_pace_t *pace, uint64_t now_ns, uint64_t bytes, uint64_t cpu_ns) {
    uint64_t passed = now_ns > pace->last_ns ? now_ns - pace->last_ns : 0;
    pace->last_ns = now_ns;
    fill(&pace->bytes, (int64_t)((double)passed * (double)MS_PACE_HOUR_BYTES / 3600e9), MS_PACE_BURST_BYTES);
    fill(&pace->cpu_ns, (int64_t)(passed / MS_PACE_CPU_SHARE), MS_PACE_BURST_NS);
    pace->bytes -= (int64_t)bytes;
    pace->cpu_ns -= (int64_t)cpu_ns;
    if ((pace->bytes < pace->bytes_floor || pace->cpu_ns < pace->cpu_floor_ns) && pace->level < LEVEL_MOST) {
        pace->level++;
        pace->bytes_floor = (pace->bytes < 0 ? pace->bytes : 0) - MS_PACE_BURST_BYTES / 32;
        pace->cpu_floor_ns = (pace->cpu_ns < 0 ? pace->cpu_ns : 0) - MS_PACE_BURST_NS / 8;
    } else if (pace->level > 0 && pace->bytes > MS_PACE_BURST_BYTES / 2 && pace->cpu_ns > MS_PACE_BURST_NS / 2) {
        pace->level--;
        pace->bytes_floor = pace->cpu_floor_ns = 0;
    }
}
