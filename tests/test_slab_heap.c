/* The heap of slabs against a model: an array of flags in which the lowest one set is looked for. */
#include <stdlib.h>

#include "alloc/slab_heap.h"
#include "tests/support.h"

enum { SLABS = 500, STEPS = 200000 };

static ms_slab_t slabs[SLABS];
static char memory[SLABS]; /* only addresses */
static bool in_heap[SLABS];

static ms_slab_t *lowest(void) {
    for (int i = 0; i < SLABS; i++)
        if (in_heap[i]) return &slabs[i];
    return NULL;
}

static void start(void) {
    for (int i = 0; i < SLABS; i++) {
        slabs[i].start = &memory[i];
        in_heap[i] = false;
    }
}

/* Phases that mostly add, mostly take the lowest and mostly take any, so that every shape of heap comes by. */
START_TEST(lowest_first) {
    uint64_t random = 7;
    ms_slab_t *root = NULL;
    start();
    for (int step = 0; step < STEPS; step++) {
        int i = (int)(support_random(&random) % SLABS);
        int phase = step / 1000 % 3;
        if (phase == 1 && root && support_random(&random) % 4) i = (int)(root - slabs);
        if (phase == 0 && in_heap[i] && support_random(&random) % 4) continue;
        if (in_heap[i])
            ms_slab_heap_remove(&root, &slabs[i]);
        else
            ms_slab_heap_add(&root, &slabs[i]);
        in_heap[i] = !in_heap[i];
        ck_assert_ptr_eq(root, lowest());
    }
}
END_TEST

START_TEST(unravel_gives_each_once) {
    uint64_t random = 11;
    for (int round = 0; round < 200; round++) {
        ms_slab_t *root = NULL;
        start();
        for (int step = 0; step < round * 5; step++) {
            int i = (int)(support_random(&random) % SLABS);
            if (in_heap[i])
                ms_slab_heap_remove(&root, &slabs[i]);
            else
                ms_slab_heap_add(&root, &slabs[i]);
            in_heap[i] = !in_heap[i];
        }
        for (const ms_slab_t *slab = ms_slab_heap_unravel(&root); slab; slab = slab->next) {
            ck_assert(in_heap[slab - slabs]);
            in_heap[slab - slabs] = false;
        }
        ck_assert_ptr_null(lowest());
        ck_assert_ptr_null(root);
    }
}
END_TEST

int main(void) {
    const TTest *tests[] = {lowest_first, unravel_gives_each_once};
    return support_run(SUPPORT_SUITE("slab heap", tests));
}
