/* memscope/check.h without Check: a failure is one line and abort(). Its lines are known to test_assertions.c. */
#include <stdlib.h>

#include "memscope/check.h"

void plain_leak(void);
void plain_fine(void);

static void *kept;

/* This function must stay where it is. */
void plain_leak(void) {
    memscope_checkpoint_t *start = memscope_checkpoint();
    char *forgotten = malloc(31);
    MEMSCOPE_TRACK(forgotten);
    kept = forgotten;
    memscope_assert_no_leaks(start);
}

void plain_fine(void) {
    memscope_checkpoint_t *start = memscope_checkpoint();
    free(malloc(31));
    memscope_assert_no_leaks(start);
    memscope_assert_max_allocated_blocks(start, 1);
    memscope_assert_no_growth(10, free(malloc(100)), kept = NULL);
    memscope_checkpoint_free(start);
}
