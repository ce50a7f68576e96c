#include "tracking/verdict.h"

#include <stdbool.h>

static bool worked_once(const ms_verdict_facts_t *facts, uint64_t span_ms) {
    return (facts->last_ms - facts->first_ms) * 10 <= span_ms && facts->live_blocks * 10 >= facts->allocated_blocks * 9;
}

/* Of what stands near its peak: whether it came in one step. */
static bool stepped(const ms_verdict_facts_t *facts, double rise) {
    double share = facts->mean / facts->peak;
    return share < 0.1 || rise >= 0.77 * 6 * share * (1 - share) * facts->peak;
}

const char *ms_verdict(const ms_verdict_facts_t *facts) {
    uint64_t span_ms = facts->now_ms - facts->first_ms;
    if (facts->slope != facts->slope || facts->now_ms < facts->first_ms || span_ms < MS_VERDICT_LEAST_MS ||
        facts->last_ms < facts->first_ms)
        return MS_VERDICT_NONE;
    if (facts->live_blocks == 0 || facts->peak <= 0) return "bounded";
    if (worked_once(facts, span_ms)) return "one-off";
    double rise = facts->slope * (double)span_ms / 1000;
    if (facts->live < 0.75 * facts->peak) return "bounded";
    bool rose = rise >= 0.5 * facts->peak;
    if ((rose || facts->mean < 0.1 * facts->peak) && stepped(facts, rise)) return "burst";
    if (!rose) return "bounded";
    if (facts->allocated_blocks < MS_VERDICT_LEAST_BLOCKS) return MS_VERDICT_NONE;
    bool idle = (facts->now_ms - facts->last_ms) * 4 > span_ms;
    return idle ? "burst" : "growing";
}
