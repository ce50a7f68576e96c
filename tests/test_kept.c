/* A large block that two threads freed at the same moment is found out before it is used twice. What two threads do
 * within a few instructions is done here in all orders there are, one after the other; what alloc/large.c calls of the
 * rest of the malloc is a stub. And what the cache of large blocks gives out again. */
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "alloc/arena.h"
#include "alloc/backend.h"
#include "alloc/large.h"
#include "alloc/limit.h"
#include "alloc/lock.h"
#include "alloc/slab.h"
#include "alloc/thread.h"
#include "tests/support.h"
#include "tracking/process.h"

_Atomic(ms_limit_state_t) ms_limit_state = MS_LIMIT_NONE;
ms_process_t ms_process;

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

void ms_slab_exchange(size_t bytes) {
    (void)bytes;
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

/* ---- the cache: what one size left serves another */

#define MIB ((size_t)1 << 20)
static ms_large_t *live; /* so that the cache may hold an eighth of it */
static uint64_t at_start;

static void start_cache(void) {
    full = (ms_large_kept_t){.limit = 0};
    ms_large_trim();
    at_start = ms_large_mapped_bytes();
    live = ms_large_allocate(256 * MIB, 16, 0);
    ck_assert_ptr_nonnull(live);
}

static ms_large_t *allocated(size_t bytes) {
    ms_large_t *made = ms_large_allocate(bytes, 16, 0);
    ck_assert_ptr_nonnull(made);
    ck_assert_uint_ge(made->mapped, bytes + 16);
    return made;
}

/* Its bytes say so if they are still there. */
static void release_marked(ms_large_t *old) {
    memset(old->payload, 0x5a, old->size);
    ms_large_claim_own(old);
    ms_large_release(&full, old);
    ck_assert(!ms_large_find(old->payload));
}

static bool is_marked(const ms_large_t *made, size_t bytes) {
    const unsigned char *byte = made->payload;
    for (size_t i = 0; i < bytes; i += 1000)
        if (byte[i] != 0x5a) return false;
    return true;
}

static void end_cache(void) {
    ms_large_claim_own(live);
    ms_large_release(&full, live);
    ms_large_trim();
    ck_assert_uint_eq(ms_large_mapped_bytes(), at_start);
}

START_TEST(one_up_to_twice_as_large_serves) {
    ms_large_t *old = allocated(600 << 10);
    release_marked(old);
    ms_large_t *small = allocated(250 << 10), *half = allocated(350 << 10);
    ck_assert_ptr_ne(small, old);
    ck_assert_ptr_eq(half, old);
    ck_assert(is_marked(half, half->size));
    release_marked(small);
    release_marked(half);
}
END_TEST

START_TEST(the_smallest_that_fits_serves) {
    ms_large_t *first = allocated(700 << 10), *second = allocated(500 << 10);
    release_marked(second);
    release_marked(first);
    ck_assert_ptr_eq(allocated(400 << 10), second);
    ck_assert_ptr_eq(allocated(400 << 10), first);
    release_marked(first);
    release_marked(second);
}
END_TEST

START_TEST(of_a_mapping_the_rest_goes_back) {
    ms_large_t *old = allocated(24 * MIB);
    size_t before = ms_large_mapped_bytes();
    release_marked(old);
    ms_large_t *less = allocated(14 * MIB);
    ck_assert_ptr_eq(less, old);
    ck_assert(is_marked(less, less->size));
    ck_assert_uint_le(less->used, less->mapped);
    ck_assert_uint_le(less->mapped, 16 * MIB);
    ck_assert_uint_le(ms_large_mapped_bytes(), before - 8 * MIB);
    release_marked(less);
}
END_TEST

/* Buffers of sizes at random: pages given back and faulted in again cost five times the writing of them. */
START_TEST(the_rest_that_is_asked_for_again_stays) {
    ms_large_t *old = allocated(24 * MIB), *less;
    for (int misses = 0;; misses++) {
        release_marked(old);
        ck_assert_ptr_eq(less = allocated(14 * MIB), old);
        if (less->mapped >= 24 * MIB) break;
        ck_assert_int_lt(misses, 5); /* 2, 4, 8, 16, 32 MiB have proved useful */
        release_marked(less);
        ck_assert_ptr_eq(allocated(24 * MIB), old);
    }
    ms_large_t *other = allocated(24 * MIB); /* 16 MiB have: of one block that is live the rest stays, not of two */
    release_marked(other);
    ck_assert_ptr_eq(allocated(14 * MIB), other);
    ck_assert_uint_le(other->mapped, 16 * MIB);
    size_t mapped = less->mapped;
    ck_assert(ms_large_resize(less, 23 * MIB)); /* in place */
    ck_assert_uint_eq(less->mapped, mapped);
    release_marked(less);
    ck_assert_ptr_eq(allocated(14 * MIB), less); /* the other is none now */
    ck_assert_uint_ge(less->mapped, 24 * MIB);
    release_marked(other);
    release_marked(less);
}
END_TEST

START_TEST(a_mapping_that_is_too_small_grows) {
    ms_large_t *old = allocated(10 * MIB);
    release_marked(old);
    ms_large_t *large = allocated(25 * MIB), *more = allocated(15 * MIB);
    ck_assert_ptr_ne(large, old); /* more than twice */
    ck_assert_ptr_eq(more, old);
    ck_assert(is_marked(more, 10 * MIB));
    ck_assert_ptr_eq(ms_large_find(more->payload), more);
    release_marked(more);
    release_marked(large);
}
END_TEST

START_TEST(one_that_cannot_grow_stays_in_the_cache) {
    struct rlimit before, none;
    ms_large_t *old = allocated(10 * MIB);
    release_marked(old);
    uint64_t mapped = ms_large_mapped_bytes();
    ck_assert_int_eq(getrlimit(RLIMIT_AS, &before), 0);
    none = (struct rlimit){.rlim_cur = 4096, .rlim_max = before.rlim_max};
    ck_assert_int_eq(setrlimit(RLIMIT_AS, &none), 0);
    ms_large_t *more = ms_large_allocate(15 * MIB, 16, 0);
    ck_assert_int_eq(setrlimit(RLIMIT_AS, &before), 0);
    ck_assert_ptr_null(more);
    ck_assert_uint_eq(ms_large_mapped_bytes(), mapped);
    ck_assert_ptr_eq(allocated(10 * MIB), old);
    ck_assert(is_marked(old, old->size));
    release_marked(old);
}
END_TEST

START_TEST(what_grows_by_half_takes_pages_that_are_there) {
    ms_large_t *grows = allocated(4 * MIB), *slowly = allocated(8 * MIB), *old = allocated(11 * MIB);
    memset(grows->payload, 0x77, grows->size);
    memset(slowly->payload, 0x77, slowly->size);
    const char *there = old->base, *left = grows->base;
    release_marked(old);
    ck_assert(ms_large_resize(slowly, 11 * MIB)); /* by three eighths: the kernel moves it */
    ck_assert(slowly->base != there);
    ck_assert(ms_large_resize(grows, 10 * MIB));
    ck_assert_ptr_eq(grows->base, there);
    ck_assert_uint_eq(grows->size, 10 * MIB);
    ck_assert_ptr_eq(ms_large_find(grows->payload), grows);
    const unsigned char *byte = grows->payload;
    size_t same = 0;
    while (same < 4 * MIB && byte[same] == 0x77) same++;
    ck_assert_uint_eq(same, 4 * MIB);
    ck_assert_uint_eq(byte[4 * MIB + 4096], 0x5a);
    ck_assert_ptr_eq(allocated(4 * MIB), old); /* what it left */
    ck_assert_ptr_eq(old->base, left);
    release_marked(old);
    ck_assert(ms_large_resize(grows, 16 * MIB)); /* nothing in the cache is as large */
    ck_assert(grows->base != left);
    release_marked(slowly);
    release_marked(grows);
}
END_TEST

/* They may live for ever: of pages that were touched they take little more than they need. */
START_TEST(what_grows_takes_not_much_more_than_it_needs) {
    enum { COUNT = 12 };
    ms_large_t *grown[COUNT];
    size_t touched = 0;
    for (size_t i = 0; i < COUNT; i++) {
        ms_large_t *old = allocated(16 * MIB);
        grown[i] = allocated(4 * MIB);
        memset(grown[i]->payload, 0x77, grown[i]->size);
        release_marked(old);
        ck_assert(ms_large_resize(grown[i], 7 * MIB));
        touched += grown[i]->used;
    }
    ck_assert_uint_le(touched, COUNT * 7 * MIB + 16 * MIB); /* half of 32 MiB at most */
    for (size_t i = 0; i < COUNT; i++) release_marked(grown[i]);
}
END_TEST

/* A program that frees much and asks for it again, in turn: once that is known, all of it waits, and no more than was live together. */
START_TEST(what_was_live_together_waits_for_the_next_turn) {
    enum { COUNT = 16, TURNS = 12 };
    ms_large_t *blocks[COUNT];
    for (size_t i = 0; i < COUNT; i++) blocks[i] = allocated(5 * MIB);
    uint64_t most = ms_large_mapped_bytes();
    for (int turn = 0, fresh = COUNT; fresh; turn++) {
        ck_assert_int_lt(turn, TURNS);
        for (size_t i = 0; i < COUNT; i++) {
            ms_large_claim_own(blocks[i]);
            ms_large_release(&full, blocks[i]);
        }
        fresh = 0;
        for (size_t i = 0; i < COUNT; i++) fresh += (blocks[i] = allocated(5 * MIB))->zeroed;
        ck_assert_uint_le(ms_large_mapped_bytes(), most + most / 8);
    }
    for (size_t i = 0; i < COUNT; i++) release_marked(blocks[i]);
    ck_assert_uint_eq(ms_large_mapped_bytes(), most);
    ms_large_t *other = allocated(48 * MIB);
    ck_assert_uint_le(ms_large_mapped_bytes(), most + most / 8);
    ck_assert_uint_lt(ms_large_mapped_bytes(), most + 48 * MIB);
    ck_assert_uint_gt(ms_large_totals().cached_bytes, 32 * MIB);
    while (ms_large_totals().live_mapped_bytes < most) ck_assert(ms_large_resize(other, other->mapped + MIB)); /* by a little each time */
    ck_assert_uint_le(ms_large_totals().cached_bytes, ms_large_totals().live_mapped_bytes / 8);
    release_marked(other);
}
END_TEST

/* Where what is mapped is limited, what waits here is what the program's own mmap() and the stacks of threads do not get. */
START_TEST(a_limit_of_what_is_mapped_is_not_used_up) {
    enum { COUNT = 16, TURNS = 12 };
    ms_large_t *blocks[COUNT];
    struct rlimit before, limit;
    ck_assert_int_eq(getrlimit(RLIMIT_DATA, &before), 0);
    limit = (struct rlimit){.rlim_cur = (rlim_t)1 << 40, .rlim_max = before.rlim_max};
    ck_assert_int_eq(setrlimit(RLIMIT_DATA, &limit), 0);
    for (int turn = 0; turn < TURNS; turn++) {
        for (size_t i = 0; i < COUNT; i++) blocks[i] = allocated(9 * MIB);
        for (size_t i = 0; i < COUNT; i++) release_marked(blocks[i]);
    }
    ck_assert_int_eq(setrlimit(RLIMIT_DATA, &before), 0);
    ck_assert_uint_le(ms_large_totals().cached_bytes, 32 * MIB);
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
    const TTest *cache_tests[] = {one_up_to_twice_as_large_serves, the_smallest_that_fits_serves,
                                  of_a_mapping_the_rest_goes_back, the_rest_that_is_asked_for_again_stays,
                                  a_mapping_that_is_too_small_grows, one_that_cannot_grow_stays_in_the_cache,
                                  what_grows_by_half_takes_pages_that_are_there,
                                  what_grows_takes_not_much_more_than_it_needs, what_was_live_together_waits_for_the_next_turn,
                                  a_limit_of_what_is_mapped_is_not_used_up};
    tcase = tcase_create("cache");
    tcase_add_checked_fixture(tcase, start_cache, end_cache);
    for (size_t i = 0; i < sizeof cache_tests / sizeof cache_tests[0]; i++) tcase_add_test(tcase, cache_tests[i]);
    suite_add_tcase(suite, tcase);
    return support_run(suite);
}
