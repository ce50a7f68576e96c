/* The knob check_stacks: every stack beside libunwind's. For tests of memscope itself; no program depends on libunwind. */
#ifndef MS_TRACKING_CHECK_STACKS_H
#define MS_TRACKING_CHECK_STACKS_H

#include "tracking/unwind.h"

/* Opens libunwind; without it says so, and nothing is compared. From the library's constructor. */
void ms_check_stacks_init(void);

/* Compares the stack just captured into `state`, whose innermost frame is `pc`, and counts (ms_process.compared_stacks,
 * different_stacks). Ours may end where it says why (depth, code without unwind information); then only its frames count. */
void ms_check_stack(const ms_unwind_thread_t *state, uintptr_t pc, uint32_t site);

#endif
