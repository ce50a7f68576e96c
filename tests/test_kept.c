/* A large block that two threads freed at the same moment is found out before it is used twice. What two threads do within a few
 * instructions is done here in all orders there are, one after the other; what alloc/large.h calls of the rest of the malloc is a
 * stub. */
#include <check.h>
#include <signal.h>
#include <stdlib.h>

#include "alloc/large.h"

void ms_large_set_used(ms_large_t *block, size_t bytes) { block->used = bytes; }
_Noreturn void ms_fault_freed_at_once(const void *payload) {
    (void)payload;
    abort();
}

static ms_large_kept_t kept[2];
static ms_large_t block;

static void start(void) {
    for (int i = 0; i < 2; i++) kept[i] = (ms_large_kept_t){.limit = 1 << 20, .alone = 1 << 20};
    block = (ms_large_t){.mapped = 65536, .state = MS_LARGE_LIVE};
}

START_TEST(freed_once_is_used_again) {
    for (int round = 0; round < 3; round++) {
        if (round) ms_large_set_live(&block, 60000, 60016);
        ms_large_claim_own(&block);
        ck_assert(ms_large_keep(&kept[round % 2], &block));
        ck_assert_ptr_eq(ms_large_take_newest(&kept[round % 2], 60000), &block);
        ck_assert_uint_eq(kept[round % 2].count, 0);
    }
}
END_TEST

/* The owner's store and the other's compare-and-swap have both succeeded. */
static void free_at_once(void) {
    ck_assert(ms_large_claim(&block));
    ms_large_claim_own(&block);
    ck_assert(ms_large_keep(&kept[0], &block));
    ck_assert(ms_large_keep(&kept[1], &block));
}

START_TEST(first_keeper_asks) {
    free_at_once();
    ms_large_take_newest(&kept[0], 60000);
}
END_TEST

START_TEST(first_keeper_asks_when_it_is_used) {
    free_at_once();
    ck_assert_ptr_eq(ms_large_take_newest(&kept[1], 60000), &block);
    ms_large_take_newest(&kept[0], 60000);
}
END_TEST

START_TEST(the_other_gave_it_back) {
    free_at_once();
    kept[1].count = 0;
    block.keeper = &kept[0]; /* as if it had written first */
    block.state = MS_LARGE_GONE;
    ms_large_take_newest(&kept[0], 60000);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("kept");
    TCase *tcase = tcase_create("keepers");
    tcase_add_checked_fixture(tcase, start, NULL);
    tcase_add_test(tcase, freed_once_is_used_again);
    tcase_add_test_raise_signal(tcase, first_keeper_asks, SIGABRT);
    tcase_add_test_raise_signal(tcase, first_keeper_asks_when_it_is_used, SIGABRT);
    tcase_add_test_raise_signal(tcase, the_other_gave_it_back, SIGABRT);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed > 0;
}
