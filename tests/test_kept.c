/* A large block that two threads freed at the same moment is found out before it is used twice. What two threads do
 * within a few instructions is done here in all orders there are, one after the other; what alloc/large.c calls of the
 * rest of the malloc is a stub. */
#include <check.h>
#include <setjmp.h>
#include <stdlib.h>

#include "alloc/arena.h"
#include "alloc/backend.h"
#include "alloc/large.h"
#include "alloc/limit.h"
#include "alloc/lock.h"
#include "alloc/thread.h"

_Atomic(ms_limit_state_t) ms_limit_state = MS_LIMIT_NONE;
bool ms_limit_begin_slow(size_t bytes) {
    return bytes != 0;
}
void ms_limit_end_slow(size_t bytes) {
    (void)bytes;
}
bool ms_limit_take_locked(size_t bytes) {
    return bytes != 0;
}

const ms_backend_t ms_backend_system;
void *ms_backend_allocate(size_t bytes, size_t alignment, const ms_backend_t **from) {
    *from = &ms_backend_system;
    return ms_os_map(bytes, alignment);
}
void ms_backend_release(const ms_backend_t *backend, void *start, size_t bytes, size_t alignment) {
    (void)backend, (void)alignment;
    ms_os_unmap(start, bytes);
}

void ms_lock(ms_lock_rank_t rank) {
    (void)rank;
}
void ms_unlock(ms_lock_rank_t rank) {
    (void)rank;
}

ms_arena_t *ms_arena_first(void) {
    static ms_arena_t arena;
    return &arena;
}

static jmp_buf fault;
_Noreturn void ms_fault_freed_at_once(const void *payload) {
    ck_assert_ptr_nonnull(payload);
    longjmp(fault, 1);
}
#define FINDS(what)                                    \
    do {                                               \
        if (setjmp(fault) == 0) {                      \
            what;                                      \
            ck_abort_msg("%s did not find it", #what); \
        }                                              \
    } while (0)

/* What the owner of the block and the other thread keep; `full` has no room for it. */
static ms_large_kept_t owners, others, full;
static ms_large_t *block;
static size_t size = 40000; /* of each test's block another, as what a test leaves behind is damaged */

static void start(void) {
    owners = others = (ms_large_kept_t){.limit = 1 << 20, .alone = 1 << 20};
    full = (ms_large_kept_t){.limit = 0};
    size += 10000;
    block = ms_large_allocate(size, 16, 0);
    ck_assert(block && ms_large_is_live(block));
}

static void end(void) {
    block->state = MS_LARGE_GONE;
}

static void owner_frees(void) {
    ms_large_claim_own(block);
    ck_assert(ms_large_keep(&owners, block));
}

static ms_large_t *taken_by_owner(void) {
    return ms_large_take_newest(&owners, size);
}

START_TEST(freed_once_is_used_again) {
    for (int round = 0; round < 3; round++) {
        ms_large_kept_t *kept = round % 2 ? &others : &owners;
        ms_large_claim_own(block);
        ck_assert(ms_large_keep(kept, block));
        ck_assert_ptr_eq(ms_large_take_newest(kept, size), block);
        ck_assert_uint_eq(kept->count, 0);
    }
    ck_assert(ms_large_claim(block));
    ms_large_release(&full, block);
    ck_assert(!ms_large_find(block->payload));
    ck_assert_ptr_eq(ms_large_allocate(size, 16, 0), block);
    ck_assert_ptr_eq(ms_large_find(block->payload), block);
    ck_assert(ms_large_claim(block));
    ms_large_release(&full, block);
    ms_large_trim();
}
END_TEST

/* The owner's store and the other's compare-and-swap have both succeeded. */

START_TEST(both_keep_and_the_first_asks) {
    ck_assert(ms_large_claim(block));
    owner_frees();
    ck_assert(ms_large_keep(&others, block));
    FINDS(taken_by_owner());
}
END_TEST

START_TEST(both_keep_and_the_first_asks_when_it_is_used) {
    ck_assert(ms_large_claim(block));
    owner_frees();
    ck_assert(ms_large_keep(&others, block));
    ck_assert_ptr_eq(ms_large_take_newest(&others, size), block);
    FINDS(taken_by_owner());
}
END_TEST

START_TEST(the_other_gives_it_back) {
    ck_assert(ms_large_claim(block));
    owner_frees();
    ms_large_release(&full, block);
    FINDS(taken_by_owner());
}
END_TEST

START_TEST(the_other_gives_it_back_when_it_is_used) {
    ck_assert(ms_large_claim(block));
    owner_frees();
    ck_assert_ptr_eq(taken_by_owner(), block);
    FINDS(ms_large_release(&full, block));
}
END_TEST

/* The other has done with it before the owner, who saw it live, stores. */
static void other_is_faster(void) {
    ck_assert(ms_large_claim(block));
    ms_large_release(&full, block);
}

START_TEST(it_is_in_the_cache_and_kept) {
    other_is_faster();
    owner_frees();
    FINDS(ms_large_allocate(size, 16, 0));
}
END_TEST

START_TEST(it_is_in_the_cache_and_used) {
    other_is_faster();
    owner_frees();
    ck_assert_ptr_eq(taken_by_owner(), block);
    FINDS(ms_large_allocate(size, 16, 0));
}
END_TEST

START_TEST(it_is_in_the_cache_which_is_emptied) {
    other_is_faster();
    owner_frees();
    FINDS(ms_large_trim());
}
END_TEST

START_TEST(both_give_it_back) {
    other_is_faster();
    ms_large_claim_own(block);
    FINDS(ms_large_release(&full, block));
}
END_TEST

START_TEST(both_give_it_back_later) {
    other_is_faster();
    owner_frees();
    FINDS(ms_large_unkeep(&owners));
}
END_TEST

int main(void) {
    const TTest *tests[] = {freed_once_is_used_again,
                            both_keep_and_the_first_asks,
                            both_keep_and_the_first_asks_when_it_is_used,
                            the_other_gives_it_back,
                            the_other_gives_it_back_when_it_is_used,
                            it_is_in_the_cache_and_kept,
                            it_is_in_the_cache_and_used,
                            it_is_in_the_cache_which_is_emptied,
                            both_give_it_back,
                            both_give_it_back_later};
    Suite *suite = suite_create("kept");
    TCase *tcase = tcase_create("keepers");
    tcase_add_checked_fixture(tcase, start, end);
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++) tcase_add_test(tcase, tests[i]);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed > 0;
}
