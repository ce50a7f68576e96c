/* What headers say: since when a block lives, where the list of its class is, and its site. Statically linked, for what the
 * library hides. */
#include <check.h>
#include <malloc.h>
#include <stdlib.h>

#include "alloc/arena.h"
#include "alloc/thread.h"
#include "memscope/memscope.h"
#include "tests/support.h"
#include "tracking/process.h"

static uint32_t age_now(void) { return (uint32_t)(ms_arena_current->birth >> MS_WORD0_AGE_SHIFT); }

/* Blocks made before are older than those made from now on. */
static void grow_older(void) {
    uint64_t before = ms_process_milliseconds();
    while (ms_process_milliseconds() == before) continue;
    ms_arena_t *arena = ms_arena_enter();
    ms_arena_dress(arena);
    ms_arena_leave(arena);
    ck_assert_uint_gt(age_now(), ms_age_encode(before));
}

static ms_block_facts_t found(const void *payload) {
    ms_block_facts_t block;
    ck_assert_ptr_nonnull(payload);
    ck_assert(ms_block_find(payload, &block));
    return block;
}

static void *checked(void *payload, uint32_t born) {
    ms_block_facts_t block = found(payload);
    ck_assert_uint_ge(ms_facts_age(block.facts), born);
    ck_assert_uint_le(ms_facts_age(block.facts), age_now());
    if (block.large) return payload; /* a sampled one of the largest class: its weight has no room in a slab */
    bool exact = ms_process.sites == MS_SITES_EVERY;
    ck_assert_int_eq(ms_facts_site(block.facts) != 0, exact);
    ck_assert_int_eq((ms_facts_flags(block.facts) & MS_FLAG_SPECIAL) != 0, exact);
    if (!exact) ck_assert_uint_eq(ms_plain_list(block.base), ms_list_of(block.slab->class));
    return payload;
}

enum { EACH = 4 }; /* the first one takes the long way to fill the list */

START_TEST(blocks_know_their_list_and_age) {
    static char *blocks[MS_SMALL_CLASSES][EACH];
    for (uint32_t class = 1; class < MS_SMALL_CLASSES; class++) {
        size_t size = ms_class_payload(class);
        grow_older();
        for (int i = 0; i < EACH; i++) blocks[class][i] = checked(malloc(size), age_now());
        for (int i = 0; i < EACH; i++) free(checked(memalign(64, size / 2), age_now()));
    }
    for (uint32_t class = 1; class < MS_SMALL_CLASSES; class++) {
        size_t size = ms_class_payload(class), next = class + 1 < MS_SMALL_CLASSES ? size + 1 : 1;
        grow_older();
        uint32_t born = age_now();
        for (int i = 0; i < EACH; i++) blocks[class][i] = checked(realloc(blocks[class][i], size - 1), born);
        for (int i = 0; i < EACH; i++) blocks[class][i] = checked(realloc(blocks[class][i], next), born);
        for (int i = 0; i < EACH; i++) free(blocks[class][i]);
    }
}
END_TEST

START_TEST(a_name_takes_the_place_of_the_list) {
    static memscope_variable_t variable = {"named", "char *", "test", __FILE__, __LINE__, 0};
    for (uint32_t class = 1; class + 1 < MS_SMALL_CLASSES; class++) {
        size_t size = ms_class_payload(class);
        char *block = malloc(size);
        ck_assert_int_eq(memscope_track(block, &variable), 0);
        ck_assert_uint_eq(ms_facts_site(found(block).facts), variable.site);
        block = realloc(block, size - 1);
        ck_assert_uint_eq(ms_facts_site(found(block).facts), variable.site);
        block = realloc(block, size + 1);
        ck_assert_uint_eq(ms_facts_site(found(block).facts), variable.site);
        free(block);
    }
}
END_TEST

START_TEST(a_block_of_no_bytes_is_special) {
    void *block = malloc(0);
    ck_assert_uint_ne(ms_facts_flags(found(block).facts) & MS_FLAG_SPECIAL, 0);
    free(block);
}
END_TEST

static Suite *suite(void) {
    const TTest *tests[] = {blocks_know_their_list_and_age, a_name_takes_the_place_of_the_list, a_block_of_no_bytes_is_special};
    return SUPPORT_SUITE("header", tests);
}

int main(void) {
    return support_main(suite, support_modes_few);
}
