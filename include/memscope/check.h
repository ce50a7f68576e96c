/* Assertions about memory, for tests. In C and C++, with Check (include <check.h> before this header, in C++ after
 * those of the language: a failure is that of the test) or without it (a failure is one line on stderr, then abort()).
 *
 *     memscope_checkpoint_t *start = memscope_checkpoint();
 *     parse(text);
 *     memscope_assert_no_leaks(start);
 *     memscope_assert_max_peak(start, 64 << 10);
 *     memscope_checkpoint_free(start);
 *
 * The message of a failure names the sites and variables that have most of what is too much. MEMSCOPE_CONF=mode:exact
 * knows them all; other modes name what they know. They look at the process, so no other thread should be allocating.
 * What libraries keep from their first use (a stream's buffer) is live like anything else: use them once before. */
#ifndef MEMSCOPE_CHECK_H
#define MEMSCOPE_CHECK_H

#include "memscope/memscope.h"

#ifdef CHECK_H
#define MEMSCOPE_FAIL_(message) ck_abort_msg("%s", message)
#else
#define MEMSCOPE_FAIL_(message) memscope_check_failed(__FILE__, __LINE__, message)
#endif

#define MEMSCOPE_ASSERT_(what, limit, since, most)                                                 \
    do {                                                                                           \
        char memscope_message_[1024];                                                              \
        if (memscope_check(limit, since, most, what, memscope_message_, sizeof memscope_message_)) \
            MEMSCOPE_FAIL_(memscope_message_);                                                     \
    } while (0)

/* No more blocks are live than at the checkpoint. (Of what is replaced by as many others this says nothing.) */
#define memscope_assert_no_leaks(checkpoint) \
    MEMSCOPE_ASSERT_("memscope_assert_no_leaks(" #checkpoint ")", MEMSCOPE_LIMIT_LEAKS, checkpoint, 0)

/* At most so many bytes are live in the process. */
#define memscope_assert_max_live(bytes)                                                                             \
    MEMSCOPE_ASSERT_("memscope_assert_max_live(" #bytes ")", MEMSCOPE_LIMIT_LIVE, (const memscope_checkpoint_t *)0, \
                     bytes)

/* Since the checkpoint, at no time were more than so many bytes live in addition to those of then. NULL: since the
 * process started, all of them. Exact in mode exact, otherwise to the error that the message states. */
#define memscope_assert_max_peak(checkpoint, bytes) \
    MEMSCOPE_ASSERT_("memscope_assert_max_peak(" #checkpoint ", " #bytes ")", MEMSCOPE_LIMIT_PEAK, checkpoint, bytes)

/* At most so many blocks were allocated since the checkpoint, freed or not. A resize counts as one. */
#define memscope_assert_max_allocated_blocks(checkpoint, blocks)                           \
    MEMSCOPE_ASSERT_("memscope_assert_max_allocated_blocks(" #checkpoint ", " #blocks ")", \
                     MEMSCOPE_LIMIT_ALLOCATED_BLOCKS, checkpoint, blocks)

/* Runs a statement once, so that caches are filled, then `rounds` times more: no more bytes are live after that than
 * after the first. */
#define memscope_assert_no_growth(rounds, ...)                                                                   \
    do {                                                                                                         \
        memscope_checkpoint_t *memscope_first_ = 0;                                                              \
        for (unsigned long memscope_round_ = 0; memscope_round_ <= (unsigned long)(rounds); memscope_round_++) { \
            if (memscope_round_ == 1) memscope_first_ = memscope_checkpoint();                                   \
            __VA_ARGS__;                                                                                         \
        }                                                                                                        \
        MEMSCOPE_ASSERT_("memscope_assert_no_growth(" #rounds ", " #__VA_ARGS__ ")", MEMSCOPE_LIMIT_GROWTH,      \
                         memscope_first_, 0);                                                                    \
        memscope_checkpoint_free(memscope_first_);                                                               \
    } while (0)

#endif
