/* A large block that two threads freed at the same moment is found out before it is used twice. What two threads do
 * within a few instructions is done here in all orders there are, one after the other; what alloc/large.c calls of the
 * rest of the malloc is a stub. And what the cache of large blocks gives out again. */
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

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

/* Tensors and vectors for SIMD ask for it: through the lock each time they took four times as long. */
START_TEST(one_aligned_to_a_cache_line_is_as_any_other) {
    ms_large_kept_t kept = {.limit = 1 << 20, .alone = 1 << 20};
    ms_large_t *aligned = ms_large_allocate(size, 64, 0), *more = ms_large_allocate(size, 128, 0);
    ck_assert(aligned && more);
    ck_assert_uint_eq((uintptr_t)aligned->payload % 64, 0);
    ck_assert_uint_eq((uintptr_t)more->payload % 128, 0);
    ms_large_claim_own(aligned);
    ms_large_release(&kept, aligned);
    ms_large_claim_own(more);
    ms_large_release(&kept, more);
    ck_assert_uint_eq(kept.count, 1);
    ck_assert_ptr_eq(ms_large_take(&kept, size, 0), aligned);
    ms_large_claim_own(aligned);
    ms_large_release(&full, aligned);
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

START_TEST(of_a_mapping_the_rest_serves_too) {
    ms_large_t *old = allocated(24 * MIB);
    char *base = old->base;
    size_t before = ms_large_mapped_bytes();
    release_marked(old);
    ms_large_t *less = allocated(14 * MIB);
    ck_assert_ptr_eq(less->base, base);
    ck_assert(is_marked(less, less->size));
    ck_assert_uint_le(less->used, less->mapped);
    ck_assert_uint_le(less->mapped, 16 * MIB);
    ms_large_t *rest = allocated(6 * MIB), *small = allocated(100 << 10);
    ck_assert_ptr_eq(rest->base, base + less->mapped);
    ck_assert_ptr_eq(small->base, rest->base + rest->mapped);
    ck_assert(is_marked(rest, rest->size) && is_marked(small, small->size));
    ck_assert_uint_eq(ms_large_mapped_bytes(), before);
    release_marked(less);
    release_marked(small);
    release_marked(rest); /* between the two: they are one again */
    ms_large_t *whole = allocated(24 * MIB);
    ck_assert_ptr_eq(whole->base, base);
    ck_assert(is_marked(whole, whole->size));
    ck_assert_uint_eq(ms_large_mapped_bytes(), before);
    release_marked(whole);
}
END_TEST

/* Where memory is limited, what was asked for lately and not touched yet counts: a part of it as the whole. */
START_TEST(when_a_mapping_grew_is_known_of_its_parts) {
    ms_large_t *old = allocated(24 * MIB);
    old->grown_ns = 77;
    release_marked(old);
    ms_large_t *part = allocated(9 * MIB), *rest = allocated(6 * MIB);
    ck_assert_uint_eq(part->grown_ns, 77);
    ck_assert_uint_eq(rest->grown_ns, 77);
    part->grown_ns = 0;
    release_marked(rest);
    release_marked(part);
    old = allocated(24 * MIB);
    ck_assert_uint_eq(old->grown_ns, 77);
    release_marked(old);
}
END_TEST

/* What is used all the time does not keep the rest of a burst: that goes back after a second. */
START_TEST(a_part_in_use_keeps_no_rest) {
    release_marked(allocated(24 * MIB));
    uint64_t freed_ns = ms_os_monotonic_ns();
    usleep(20000); /* the clock is a coarse one */
    for (int i = 0; i < 3; i++) release_marked(allocated(3 * MIB));
    ck_assert_uint_gt(ms_large_totals().cached_bytes, 20 * MIB);
    ms_large_decay(freed_ns + MS_DECAY_NS + 1);
    ck_assert_uint_lt(ms_large_totals().cached_bytes, 4 * MIB);
}
END_TEST

/* Blocks of sizes at random, each full of its own byte, against a model of who has which address. */
START_TEST(mappings_split_and_joined_hold_what_is_written) {
    enum { COUNT = 24, STEPS = 3000 };
    ms_large_t *blocks[COUNT] = {NULL};
    uint64_t state = 1;
    for (int step = 0; step < STEPS; step++) {
        size_t at = support_random(&state) % COUNT;
        if (blocks[at]) {
            const unsigned char *byte = blocks[at]->payload;
            size_t wrong = 0;
            for (size_t i = 0; i < blocks[at]->size; i += 4096) wrong += byte[i] != at;
            ck_assert_uint_eq(wrong + (byte[blocks[at]->size - 1] != at), 0);
            ms_large_claim_own(blocks[at]);
            ms_large_release(&full, blocks[at]);
        }
        size_t least = (size_t)(40 << 10) << support_random(&state) % 7;
        blocks[at] = allocated(least + support_random(&state) % least);
        for (size_t i = 0; i < blocks[at]->size; i += 4096) ((unsigned char *)blocks[at]->payload)[i] = (unsigned char)at;
        ((unsigned char *)blocks[at]->payload)[blocks[at]->size - 1] = (unsigned char)at;
        for (size_t i = 0; step % 16 == 0 && i < COUNT; i++)
            for (size_t j = 0; blocks[i] && j < COUNT; j++)
                ck_assert(i == j || !blocks[j] || blocks[i]->base >= blocks[j]->base + blocks[j]->mapped ||
                          blocks[j]->base >= blocks[i]->base + blocks[i]->mapped);
    }
    for (size_t i = 0; i < COUNT; i++) {
        ms_large_claim_own(blocks[i]);
        ms_large_release(&full, blocks[i]);
    }
}
END_TEST

/* What is too much goes to the byte, of whatever mapping is the oldest. */
START_TEST(of_a_joined_mapping_only_what_is_too_much_goes) {
    enum { COUNT = 9 };
    ms_large_t *blocks[COUNT], *whole = allocated(27 * MIB);
    release_marked(whole);
    for (size_t i = 0; i < COUNT; i++) blocks[i] = allocated(3 * MIB - 4096);
    for (size_t i = 0; i < COUNT; i++) release_marked(blocks[i]);
    uint64_t before = ms_large_totals().cached_bytes;
    ck_assert_uint_eq(before, 28 * MIB); /* rounded */
    ms_large_shed(5 * MIB);
    ck_assert_uint_le(ms_large_totals().cached_bytes, before - 5 * MIB);
    ck_assert_uint_ge(ms_large_totals().cached_bytes, before - 6 * MIB);
    whole = allocated(21 * MIB - 4096);
    ck_assert(!whole->zeroed && is_marked(whole, whole->size));
    release_marked(whole);
}
END_TEST

START_TEST(what_is_free_behind_a_block_is_what_it_grows_into) {
    ms_large_t *grows = allocated(24 * MIB), *other;
    release_marked(grows);
    ck_assert_ptr_eq(allocated(6 * MIB), grows);
    char *base = grows->base;
    size_t before = ms_large_mapped_bytes();
    memset(grows->payload, 0x77, grows->size);
    for (size_t size = 7 * MIB; size <= 20 * MIB; size += MIB) {
        ck_assert(ms_large_resize(grows, size));
        ck_assert_ptr_eq(grows->base, base);
        ck_assert_uint_ge(grows->mapped, size);
        ck_assert_uint_eq(ms_large_mapped_bytes(), before);
    }
    for (size_t i = 0; i < 10; i++) { /* by a byte more than there is, and by a few */
        size_t mapped = grows->mapped;
        ck_assert(ms_large_resize(grows, mapped - MS_LARGE_HEAD + 1 + i));
        ck_assert_ptr_eq(grows->base, base);
        ck_assert_uint_eq(grows->mapped, mapped + MS_PAGE);
    }
    const unsigned char *byte = grows->payload;
    ck_assert_uint_eq(byte[6 * MIB - 1], 0x77);
    ck_assert_uint_eq(byte[6 * MIB + 4096], 0x5a);
    ck_assert_ptr_eq((other = allocated(2 * MIB))->base, base + grows->mapped);
    release_marked(grows);
    release_marked(other);
}
END_TEST

START_TEST(what_shrinks_leaves_the_rest_to_others) {
    ms_large_t *shrinks = allocated(24 * MIB);
    size_t before = ms_large_mapped_bytes();
    memset(shrinks->payload, 0x77, shrinks->size);
    char *base = shrinks->base;
    for (size_t size = 9 * MIB; size > 50000; size /= 3) {
        ck_assert(ms_large_resize(shrinks, size));
        ck_assert_ptr_eq(shrinks->base, base);
        ck_assert_uint_le(shrinks->mapped, size + size / 4);
        ck_assert_uint_eq(ms_large_mapped_bytes(), before);
    }
    ms_large_t *other = allocated(20 * MIB);
    ck_assert_ptr_eq(other->base, base + shrinks->mapped);
    ck_assert_uint_eq(((unsigned char *)other->payload)[other->size - 1], 0x77);
    release_marked(shrinks);
    release_marked(other);
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
    ck_assert_uint_le(touched, COUNT * 8 * MIB);
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
    ck_assert_uint_le(ms_large_mapped_bytes(), most);
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
                            one_aligned_to_a_cache_line_is_as_any_other,
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
                                  of_a_mapping_the_rest_serves_too, when_a_mapping_grew_is_known_of_its_parts,
                                  a_part_in_use_keeps_no_rest, mappings_split_and_joined_hold_what_is_written,
                                  of_a_joined_mapping_only_what_is_too_much_goes,
                                  what_is_free_behind_a_block_is_what_it_grows_into, what_shrinks_leaves_the_rest_to_others,
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
