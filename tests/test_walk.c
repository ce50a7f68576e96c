/* What a walk over the heap sees of a slab that its owner takes for another class at this very moment: the slab as it
 * was or as it is, or none, never the blocks of one class counted in strides of another. Statically linked, for what
 * the library hides. */
#include <check.h>
#include <pthread.h>
#include <stdatomic.h>

#include "alloc/arena.h"
#include "alloc/slab.h"
#include "tests/support.h"
#include "tracking/walk.h"

enum { CLASSES = 3, VIEWS = 20000 };
static const size_t sizes[CLASSES] = {16, 240, 7000};

static ms_arena_t owner;
static ms_slab_t *slab;
static ms_walk_slab_t expected[CLASSES]; /* full of blocks */
static atomic_bool enough;

static void dress(size_t as) {
    ms_slab_take_spare(slab, &owner, ms_class_of(sizes[as]));
    __atomic_store_n(&slab->carved, slab->capacity, __ATOMIC_RELEASE);
}

static void *change(void *unused) {
    for (size_t turn = 0; !atomic_load(&enough); turn++) dress(turn % CLASSES);
    return unused;
}

/* Which of the expected ones it is, or with no blocks yet; CLASSES: none of them. */
static size_t which(const ms_walk_slab_t *view) {
    for (size_t i = 0; i < CLASSES; i++)
        if (view->class == expected[i].class && view->start == expected[i].start &&
            (view->carved == expected[i].carved || view->carved == 0))
            return i;
    return CLASSES;
}

START_TEST(a_slab_is_seen_as_of_one_moment) {
    pthread_t thread;
    size_t seen[CLASSES] = {0};
    slab = ms_slab_acquire(&owner, ms_class_of(sizes[0]));
    ck_assert_ptr_nonnull(slab);
    for (size_t i = 0; i < CLASSES; i++) {
        dress(i);
        expected[i] = ms_walk_slab(slab);
        ck_assert_uint_eq(expected[i].class, ms_class_of(sizes[i]));
        ck_assert_uint_eq(expected[i].carved, slab->capacity);
    }
    ck_assert_int_eq(pthread_create(&thread, NULL, change, NULL), 0);
    while (seen[0] < VIEWS || seen[1] < VIEWS || seen[2] < VIEWS) {
        ms_walk_slab_t view = ms_walk_slab(slab);
        if (!view.start) continue;
        size_t at = which(&view);
        ck_assert_msg(at < CLASSES, "class %u with %u blocks from %p", view.class, view.carved,
                      (const void *)view.start);
        seen[at]++;
    }
    atomic_store(&enough, true);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    ms_slab_release(slab, &owner);
}
END_TEST

START_TEST(a_slab_without_owner_is_not_seen) {
    slab = ms_slab_acquire(&owner, ms_class_of(sizes[0]));
    dress(0);
    ck_assert_uint_gt(ms_walk_slab(slab).carved, 0);
    ms_slab_make_spare(slab);
    ck_assert_uint_eq(ms_walk_slab(slab).carved, 0);
    dress(1);
    ck_assert_uint_gt(ms_walk_slab(slab).carved, 0);
    ms_slab_release(slab, &owner);
    ck_assert_uint_eq(ms_walk_slab(slab).carved, 0);
}
END_TEST

static Suite *suite(void) {
    const TTest *tests[] = {a_slab_is_seen_as_of_one_moment, a_slab_without_owner_is_not_seen};
    return SUPPORT_SUITE("walk", tests);
}

int main(void) {
    return support_main(suite, support_modes_default);
}
