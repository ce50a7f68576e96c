/* Recursion taken out of an array of frames, innermost first: what a stack of the table has to be (tracking/stacks.h),
 * told in another way, for tests. */
#ifndef MS_TESTS_COLLAPSE_H
#define MS_TESTS_COLLAPSE_H

#include <stdint.h>
#include <string.h>

/* Collapses pcs in place; how many are left. */
static inline unsigned collapse(uintptr_t *pcs, unsigned count) {
    unsigned from = count; /* pcs[from .. count) is done, and lies at the end */
    for (unsigned left = count; left > 0; left--) {
        pcs[--from] = pcs[left - 1];
        for (unsigned period = 1; period <= 3 && from + 2 * period <= count; period++) {
            if (memcmp(&pcs[from], &pcs[from + period], period * sizeof pcs[0]) != 0) continue;
            from += period;
            break;
        }
    }
    memmove(pcs, &pcs[from], (count - from) * sizeof pcs[0]);
    return count - from;
}

#endif
