/* Threads: a thousand at once, many one after the other, memory that only other threads free, what a dead thread
 * leaves behind, and what malloc_trim gives back. Memory is judged by the kernel's count of resident pages. */
#include <limits.h>
#include <malloc.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "memscope/memscope.h"
#include "tests/support.h"

#pragma weak memscope_export_json
#pragma weak memscope_export_msgpack
#pragma weak memscope_process_usage
#pragma weak memscope_set_sample_bytes
#pragma weak memscope_task_create
#pragma weak memscope_task_current
#pragma weak memscope_task_end
#pragma weak memscope_task_enter
#pragma weak memscope_task_leave
#pragma weak memscope_task_usage
#pragma weak memscope_thread_usage

#define MIB ((size_t)1 << 20)

static const size_t sizes[] = {16, 24, 48, 64, 100, 200, 500, 1000, 3000, 10000};
#define SIZE(i) sizes[(i) % (sizeof sizes / sizeof sizes[0])]

static pthread_t start(void *(*body)(void *), void *argument) {
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 64 << 10);
    ck_assert_int_eq(pthread_create(&thread, &attributes, body, argument), 0);
    pthread_attr_destroy(&attributes);
    return thread;
}

static void *join(pthread_t thread) {
    void *result;
    ck_assert_int_eq(pthread_join(thread, &result), 0);
    return result;
}

/* ---- a thousand threads alive at once, each with blocks the first thread frees */
enum { THOUSAND = 1000, OWN = 8 };
static pthread_barrier_t all_here;

static void *one_of_many(void *argument) {
    void **blocks = argument;
    for (size_t i = 0; i < OWN; i++) {
        blocks[i] = malloc(SIZE(i));
        support_fill(blocks[i], SIZE(i), (uintptr_t)blocks + i);
    }
    pthread_barrier_wait(&all_here);
    pthread_barrier_wait(&all_here);
    for (size_t i = 0; i < OWN; i += 2) {
        if (!support_holds(blocks[i], SIZE(i), (uintptr_t)blocks + i)) abort();
        free(blocks[i]);
    }
    return blocks;
}

START_TEST(a_thousand_threads_at_once) {
    static pthread_t threads[THOUSAND];
    static void *blocks[THOUSAND][OWN];
    size_t before = support_rss();
    pthread_barrier_init(&all_here, NULL, THOUSAND + 1);
    for (size_t i = 0; i < THOUSAND; i++) threads[i] = start(one_of_many, blocks[i]);
    pthread_barrier_wait(&all_here);
    /* stacks and a few blocks: a peer that reserves megabytes a thread fails here */
    ck_assert_uint_lt(support_rss(), before + 700 * MIB);
    pthread_barrier_wait(&all_here);
    for (size_t i = 0; i < THOUSAND; i++) ck_assert_ptr_eq(join(threads[i]), blocks[i]);
    for (size_t i = 0; i < THOUSAND; i++)
        for (size_t b = 1; b < OWN; b += 2) {
            ck_assert(support_holds(blocks[i][b], SIZE(b), (uintptr_t)blocks[i] + b));
            free(blocks[i][b]);
        }
}
END_TEST

/* ---- threads that come and go, each leaving one block to be freed by another */
static void *short_life(void *argument) {
    void *kept[20];
    for (size_t i = 0; i < 20; i++) kept[i] = malloc(SIZE(i + (uintptr_t)argument));
    for (size_t i = 1; i < 20; i++) free(kept[i]);
    return kept[0];
}

START_TEST(threads_come_and_go) {
    size_t count = support_stress() ? 100000 : 5000, warm = 0;
    for (size_t i = 0; i < count; i += 4) {
        pthread_t threads[4];
        for (size_t t = 0; t < 4; t++) threads[t] = start(short_life, (void *)(i + t));
        for (size_t t = 0; t < 4; t++) free(join(threads[t]));
        if (i == count / 5 / 4 * 4) warm = support_rss();
    }
    ck_assert_uint_lt(support_rss(), warm + 16 * MIB);
}
END_TEST

/* ---- a producer whose blocks only a consumer frees */
enum { QUEUE = 1024 };
static void *queue[QUEUE];
static sem_t filled, vacant;

static void *consume(void *unused) {
    for (size_t at = 0;; at++) {
        sem_wait(&filled);
        void *block = queue[at % QUEUE];
        sem_post(&vacant);
        if (!block) return unused;
        free(block);
    }
}

static void put(size_t at, void *block) {
    sem_wait(&vacant);
    queue[at % QUEUE] = block;
    sem_post(&filled);
}

START_TEST(memory_freed_only_by_others_stays_bounded) {
    size_t count = support_stress() ? 20000000 : 1000000, before = support_rss();
    sem_init(&filled, 0, 0);
    sem_init(&vacant, 0, QUEUE);
    pthread_t consumer = start(consume, NULL);
    for (size_t i = 0; i < count; i++) {
        char *block = malloc(SIZE(i));
        block[0] = 1;
        put(i, block);
    }
    put(count, NULL);
    join(consumer);
    /* a thousand blocks in flight are 1.5 MB; what went through is more than a gigabyte */
    ck_assert_uint_lt(support_rss(), before + 64 * MIB);
}
END_TEST

/* ---- a thread allocates much, others free it, again and again */
static _Atomic(void *) chain;

static void *allocate_chain(void *argument) {
    for (size_t i = 0; i < (uintptr_t)argument; i++) {
        void **block = malloc(200);
        *block = chain;
        chain = block;
    }
    return NULL;
}

static void free_chain(void) {
    for (void **block = chain; block;) {
        void **next = *block;
        free(block);
        block = next;
    }
    chain = NULL;
}

static sem_t work, done;
static void *allocate_on_demand(void *unused) {
    for (;;) {
        sem_wait(&work);
        if (atomic_load(&chain) == (void *)&work) return unused;
        allocate_chain((void *)100000);
        sem_post(&done);
    }
}

START_TEST(a_living_owner_reuses_what_others_freed) {
    size_t after_first = 0;
    sem_init(&work, 0, 0);
    sem_init(&done, 0, 0);
    pthread_t owner = start(allocate_on_demand, NULL);
    for (int round = 0; round < 20; round++) {
        sem_post(&work);
        sem_wait(&done);
        free_chain();
        if (round == 2) after_first = support_rss();
    }
    atomic_store(&chain, &work);
    sem_post(&work);
    join(owner);
    ck_assert_uint_lt(support_rss(), after_first + 24 * MIB); /* a round is 20 MB, there were 17 more */
}
END_TEST

START_TEST(arenas_of_dead_threads_are_adopted) {
    size_t after_first = 0;
    for (int round = 0; round < 20; round++) {
        join(start(allocate_chain, (void *)100000));
        free_chain();
        if (round == 2) after_first = support_rss();
    }
    ck_assert_uint_lt(support_rss(), after_first + 24 * MIB);
}
END_TEST

/* A thread that calls nothing but free, and that in a destructor of its thread-specific data, has an arena too. */
static pthread_key_t freeing_key;
static void *leave_to_destructor(void *block) {
    pthread_setspecific(freeing_key, block);
    return NULL;
}

START_TEST(arenas_used_in_destructors_only_are_adopted) {
    size_t after_some = 0;
    free(malloc(1)); /* our key comes first */
    ck_assert_int_eq(pthread_key_create(&freeing_key, free), 0);
    for (int i = 0; i < 3000; i++) {
        join(start(leave_to_destructor, malloc(100)));
        if (i == 500) after_some = support_rss();
    }
    pthread_key_delete(freeing_key);
    ck_assert_uint_lt(support_rss(), after_some + 8 * MIB);
}
END_TEST

/* One that has given its arena back and allocates in a destructor of the last round gets no other: nothing would call for that
 * one. */
static void allocate_last(void *block) {
    static __thread int rounds;
    if (++rounds < PTHREAD_DESTRUCTOR_ITERATIONS) {
        pthread_setspecific(freeing_key, block);
        return;
    }
    free(block);
    free(malloc(50));
}

static void *allocate_and_leave(void *block) {
    free(malloc(10));
    return leave_to_destructor(block);
}

START_TEST(last_destructors_leave_no_arenas) {
    size_t after_some = 0;
    free(malloc(1)); /* our key comes first */
    ck_assert_int_eq(pthread_key_create(&freeing_key, allocate_last), 0);
    for (int i = 0; i < 3000; i++) {
        join(start(allocate_and_leave, malloc(100)));
        if (i == 500) after_some = support_rss();
    }
    pthread_key_delete(freeing_key);
    ck_assert_uint_lt(support_rss(), after_some + 8 * MIB);
}
END_TEST

/* Several of them at once share what they allocate from. */
static void allocate_much_last(void *block) {
    static __thread int rounds;
    uint64_t state = (uintptr_t)block;
    void *blocks[20] = {NULL};
    if (++rounds < PTHREAD_DESTRUCTOR_ITERATIONS) {
        pthread_setspecific(freeing_key, block);
        return;
    }
    for (size_t i = 0; i < 60000; i++) {
        size_t at = support_random(&state) % 20;
        if (blocks[at] && !support_holds(blocks[at], SIZE(at), (uintptr_t)blocks[at])) abort();
        free(blocks[at]);
        blocks[at] = malloc(SIZE(at));
        support_fill(blocks[at], SIZE(at), (uintptr_t)blocks[at]);
    }
    for (size_t at = 0; at < 20; at++) free(blocks[at]);
    free(block);
}

START_TEST(last_destructors_share_an_arena) {
    pthread_t threads[4];
    free(malloc(1)); /* our key comes first */
    ck_assert_int_eq(pthread_key_create(&freeing_key, allocate_much_last), 0);
    for (size_t i = 0; i < 4; i++) threads[i] = start(allocate_and_leave, malloc(100));
    for (size_t i = 0; i < 4; i++) join(threads[i]);
    pthread_key_delete(freeing_key);
}
END_TEST

/* Whichever thread takes the heap to where a backing starts may have a small stack: some 7 KiB beside the thread-local variables
 * of what this program is linked with. */
static void *grow_heap(void *unused) {
    static void *blocks[5000];
    for (size_t i = 0; i < 5000; i++)
        if (!(blocks[i] = malloc(16384))) abort();
    for (size_t i = 0; i < 5000; i++) free(blocks[i]);
    return unused;
}

static void *call_each(void *unused) {
    memscope_leaks_t leaks;
    if (!support_is_memscope()) return unused;
    if (memscope_export_msgpack("/dev/null") || memscope_export_json("/dev/null") || memscope_export_html("/dev/null")) abort();
    if (memscope_leaks(&leaks)) abort();
    return unused;
}

START_TEST(a_small_stack_is_enough) {
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    ck_assert_int_eq(pthread_attr_setstacksize(&attributes, PTHREAD_STACK_MIN + 4096), 0);
    ck_assert_int_eq(pthread_create(&thread, &attributes, grow_heap, NULL), 0);
    join(thread);
    ck_assert_int_eq(pthread_attr_setstacksize(&attributes, PTHREAD_STACK_MIN), 0);
    ck_assert_int_eq(pthread_create(&thread, &attributes, call_each, NULL), 0);
    pthread_attr_destroy(&attributes);
    join(thread);
}
END_TEST

/* Of many keys each thread's values lie in a block that libc allocates, also when a backing sets one; and at some point
 * there is none left. The heap is large enough for the default backing. */
static void *use_large_blocks(void *unused) {
    void *blocks[100];
    for (size_t i = 0; i < 100; i++) {
        size_t size = 40000 + i * 9000;
        blocks[i] = malloc(size);
        if (!blocks[i]) abort();
        support_fill(blocks[i], 100, size);
    }
    for (size_t i = 0; i < 100; i++) {
        if (!support_holds(blocks[i], 100, 40000 + i * 9000)) abort();
        free(blocks[i]);
    }
    return unused;
}

static void run_with_keys(int keys) {
    pthread_key_t new_key;
    void *heap[100];
    while (keys-- > 0 && pthread_key_create(&new_key, NULL) == 0) continue;
    for (int i = 0; i < 100; i++) heap[i] = malloc(900000);
    for (int round = 0; round < 20; round++) {
        pthread_t threads[4];
        pthread_attr_t attributes;
        pthread_attr_init(&attributes);
        pthread_attr_setstacksize(&attributes, 16 * MIB); /* libc keeps few of these, and unmaps the others */
        for (int i = 0; i < 4; i++) ck_assert_int_eq(pthread_create(&threads[i], &attributes, use_large_blocks, NULL), 0);
        for (int i = 0; i < 4; i++) join(threads[i]);
        pthread_attr_destroy(&attributes);
    }
    for (int i = 0; i < 100; i++) free(heap[i]);
}

START_TEST(programs_with_many_keys) {
    run_with_keys(40);
}
END_TEST

START_TEST(programs_with_all_keys) {
    run_with_keys(PTHREAD_KEYS_MAX);
}
END_TEST

START_TEST(a_dead_thread_gives_memory_back) {
    size_t before = support_rss();
    join(start(allocate_chain, (void *)500000)); /* 100 MB */
    ck_assert_uint_gt(support_rss(), before + 80 * MIB);
    free_chain();
    malloc_trim(0);
    ck_assert_uint_lt(support_rss(), before + 24 * MIB);
}
END_TEST

/* A thread that sleeps after it allocated much: what others free of it does not wait for it to wake up. Small blocks and
 * medium ones, and a few that stay, so that not every slab can go. */
static sem_t asleep, wake_up;
static void *kept_blocks[64];

static void *allocate_and_sleep(void *size) {
    for (size_t i = 0, count = 100 * MIB / (uintptr_t)size; i < count; i++) {
        void **block = malloc((uintptr_t)size);
        memset(block, 1, (uintptr_t)size);
        *block = chain;
        chain = block;
        if (i % (count / 64 + 1) == 0) kept_blocks[i / (count / 64 + 1)] = memset(malloc((uintptr_t)size), 7, (uintptr_t)size);
    }
    sem_post(&asleep);
    sem_wait(&wake_up);
    for (int i = 0; i < 64; i++) {
        if (kept_blocks[i] && ((char *)kept_blocks[i])[(uintptr_t)size - 1] != 7) abort();
        free(kept_blocks[i]);
        kept_blocks[i] = NULL;
    }
    allocate_chain((void *)100000); /* what it has left is in order */
    return NULL;
}

START_TEST(a_sleeping_owner_gives_memory_back) {
    static const size_t of[] = {200, 1000, 24, 5000, 20000};
    sem_init(&asleep, 0, 0);
    sem_init(&wake_up, 0, 0);
    for (size_t s = 0; s < sizeof of / sizeof of[0]; s++) {
        size_t before = support_rss();
        pthread_t owner = start(allocate_and_sleep, (void *)of[s]);
        sem_wait(&asleep);
        ck_assert_uint_gt(support_rss(), before + 80 * MIB);
        free_chain();
        size_t freed = support_rss();
        malloc_trim(0);
        ck_assert_msg(support_rss() < before + 32 * MIB, "blocks of %zu: %zu bytes more than before, before trim %zu",
                      of[s], support_rss() - before, freed - before);
        sem_post(&wake_up);
        join(owner);
        free_chain();
        malloc_trim(0);
    }
}
END_TEST

/* A thread that ends leaves its free blocks to one that starts soon after. If none does, they go back all the same. */
enum { LEAVERS = 8 };
static pthread_barrier_t all_have_theirs;

static void *leave_free_blocks(void *unused) {
    static __thread void *mine[800];
    for (size_t i = 0; i < 800; i++) mine[i] = memset(malloc(250), 1, 250);
    pthread_barrier_wait(&all_have_theirs);
    for (size_t i = 0; i < 800; i++) free(mine[i]);
    return unused;
}

START_TEST(what_threads_leave_goes_back) {
    pthread_t threads[LEAVERS];
    pthread_barrier_init(&all_have_theirs, NULL, LEAVERS);
    for (size_t i = 0; i < LEAVERS; i++) threads[i] = start(leave_free_blocks, NULL);
    for (size_t i = 0; i < LEAVERS; i++) join(threads[i]);
    size_t after = support_rss();
    for (int tries = 0; support_rss() + MIB > after; tries++) {
        ck_assert_msg(tries < 400, "%zu bytes then, now %zu", after, support_rss());
        usleep(50000);
        for (size_t i = 0; i < 1000; i++) free(malloc(1000));
    }
}
END_TEST

/* Little is freed of many threads that have ended, too little for a look at once; some time later it is home. */
enum { DEAD = 200, EACH_LEFT = 40 };
static void *left_blocks[DEAD][EACH_LEFT];

static void *leave_live_blocks(void *argument) {
    void **mine = argument;
    for (size_t i = 0; i < EACH_LEFT; i++) mine[i] = memset(malloc(1000), 1, 1000);
    pthread_barrier_wait(&all_have_theirs); /* each has an arena of its own */
    return NULL;
}

START_TEST(what_is_freed_of_dead_threads_goes_back) {
    pthread_t threads[DEAD];
    pthread_barrier_init(&all_have_theirs, NULL, DEAD);
    for (size_t i = 0; i < DEAD; i++) threads[i] = start(leave_live_blocks, left_blocks[i]);
    for (size_t i = 0; i < DEAD; i++) join(threads[i]);
    for (size_t i = 0; i < DEAD; i++)
        for (size_t k = 0; k < EACH_LEFT; k++) free(left_blocks[i][k]);
    size_t after = support_rss();
    for (int tries = 0; support_rss() + 4 * MIB > after; tries++) { /* of 8 */
        ck_assert_msg(tries < 400, "%zu bytes then, now %zu", after, support_rss());
        usleep(50000);
        for (size_t i = 0; i < 1000; i++) free(malloc(1000));
    }
}
END_TEST

/* Nobody asks for medium blocks any more either. */
START_TEST(medium_blocks_go_back_unasked) {
    enum { COUNT = 1000, MEDIUM = 20000 };
    static void *blocks[COUNT];
    for (size_t i = 0; i < COUNT; i++) blocks[i] = memset(malloc(MEDIUM), 1, MEDIUM);
    size_t before = support_rss();
    for (size_t i = 0; i < COUNT; i++) free(blocks[i]);
    for (int tries = 0; support_rss() + 12 * MIB > before; tries++) { /* of 20 */
        ck_assert_msg(tries < 400, "%zu bytes then, now %zu", before, support_rss());
        usleep(50000);
        for (size_t i = 0; i < 1000; i++) free(malloc(1000));
    }
}
END_TEST

START_TEST(trim_gives_small_blocks_back) {
    size_t before = support_rss();
    for (int round = 0; round < 3; round++) {
        allocate_chain((void *)500000);
        ck_assert_uint_gt(support_rss(), before + 80 * MIB);
        free_chain();
        malloc_trim(0);
        ck_assert_uint_lt(support_rss(), before + 24 * MIB);
    }
}
END_TEST

/* So does their address space, as far as nothing lives there; round 0: one block in 3 MiB stays until it is over. */
START_TEST(trim_gives_address_space_back) {
    size_t before = support_data(), resident = support_rss();
    for (int round = 0; round < 2; round++) {
        allocate_chain((void *)500000);
        ck_assert_uint_gt(support_data(), before + 80 * MIB);
        void **kept = NULL;
        for (size_t i = 0; chain; i++) {
            void **block = chain;
            chain = *block;
            if (round == 0 && i % 15000 == 7000) {
                *block = kept;
                kept = block;
            } else {
                free(block);
            }
        }
        malloc_trim(0);
        ck_assert_uint_lt(support_rss(), resident + 24 * MIB);
        chain = kept;
        free_chain();
        malloc_trim(0);
        ck_assert_uint_lt(support_data(), before + 24 * MIB);
    }
}
END_TEST

/* Slabs change from class to class in their threads while all blocks are walked; test_walk has the very moment. */
static atomic_bool walked_enough;
static void *change_classes(void *seed) {
    uint32_t state = (uint32_t)(uintptr_t)seed;
    void *blocks[400];
    while (!atomic_load(&walked_enough)) {
        state = state * 1664525 + 1013904223;
        size_t size = 8 + (state >> 16) % 1000, count = 25 << (state >> 8) % 5;
        for (size_t i = 0; i < count; i++) blocks[i] = memset(malloc(size), 3, size);
        for (size_t i = 0; i < count; i++) free(blocks[i]);
    }
    return NULL;
}

START_TEST(slabs_change_while_they_are_walked) {
    pthread_t threads[3];
    void *kept[100];
    for (size_t i = 0; i < 100; i++) kept[i] = malloc(10 * i + 1);
    for (size_t i = 0; i < 3; i++) threads[i] = start(change_classes, (void *)(i + 1));
    for (int walks = 0; walks < 100; walks++) {
        memscope_leaks_t leaks;
        ck_assert_int_eq(memscope_leaks(&leaks), 0);
        uint64_t found = leaks.reachable.blocks + leaks.possible.blocks;
        ck_assert_uint_ge(found, 100);
        ck_assert_uint_le(found + leaks.definite.blocks + leaks.indirect.blocks, 20000); /* threads go on while it looks */
    }
    atomic_store(&walked_enough, true);
    for (size_t i = 0; i < 3; i++) join(threads[i]);
    for (size_t i = 0; i < 100; i++) free(kept[i]);
}
END_TEST

/* Medium and large blocks go back as well, without being asked from some size on. */
START_TEST(trim_gives_large_blocks_back) {
    static const size_t large[] = {20000, 50000, 300000, 900000, 5000000};
    for (size_t s = 0; s < sizeof large / sizeof large[0]; s++) {
        size_t before = support_rss(), count = 100 * MIB / large[s];
        void **blocks = calloc(count, sizeof *blocks);
        for (size_t i = 0; i < count; i++) memset(blocks[i] = malloc(large[s]), 1, large[s]);
        ck_assert_uint_gt(support_rss(), before + 80 * MIB);
        for (size_t i = 0; i < count; i++) free(blocks[i]);
        free(blocks);
        malloc_trim(0);
        ck_assert_msg(support_rss() < before + 24 * MIB, "blocks of %zu: %zu bytes more than before", large[s],
                      support_rss() - before);
    }
}
END_TEST

/* Large blocks in turn do not pile up either, asked or not. */
START_TEST(large_blocks_do_not_pile_up) {
    size_t before = support_rss();
    for (size_t i = 0; i < 2000; i++) {
        size_t size = 100000 + i * 1000;
        char *block = malloc(size);
        memset(block, 1, size);
        free(block);
    }
    ck_assert_uint_lt(support_rss(), before + 64 * MIB);
}
END_TEST

/* ---- large blocks freed last stay with their thread for the next request; bytes are those obtained for large blocks */
static const size_t large_sizes[] = {40000, 100000, 300000, 1000000, 1500000};
enum { LARGE_SIZES = sizeof large_sizes / sizeof large_sizes[0] };
static pthread_barrier_t turn;

static void touch_large_blocks(void) {
    for (size_t s = 0; s < LARGE_SIZES; s++) {
        void *blocks[2];
        for (int i = 0; i < 2; i++) memset(blocks[i] = malloc(large_sizes[s]), 1, large_sizes[s]);
        for (int i = 0; i < 2; i++) free(blocks[i]);
    }
}

static size_t large_bytes(void) { return mallinfo2().hblkhd; }

static size_t large_bytes_after_trim(void) {
    malloc_trim(0);
    return large_bytes();
}

static void work_a_little(void) { /* what makes a thread look at what it keeps */
    for (size_t i = 0; i < 4000; i++) free(malloc(2000));
}

static void *keep_and_end(void *unused) {
    touch_large_blocks();
    work_a_little();
    touch_large_blocks();
    return unused;
}

static void *keep_and_wait(void *unused) {
    keep_and_end(NULL);
    pthread_barrier_wait(&turn); /* trimmed by another thread meanwhile */
    pthread_barrier_wait(&turn);
    work_a_little();
    pthread_barrier_wait(&turn); /* and again */
    pthread_barrier_wait(&turn);
    return unused;
}

START_TEST(kept_large_blocks_go_back) {
    if (!support_is_memscope()) return;
    size_t before = large_bytes_after_trim();
    keep_and_end(NULL);
    ck_assert_uint_gt(large_bytes(), before);
    ck_assert_uint_eq(large_bytes_after_trim(), before);

    join(start(keep_and_end, NULL));
    ck_assert_uint_eq(large_bytes_after_trim(), before);

    pthread_barrier_init(&turn, NULL, 2);
    pthread_t thread = start(keep_and_wait, NULL);
    pthread_barrier_wait(&turn);
    malloc_trim(0);
    pthread_barrier_wait(&turn);
    pthread_barrier_wait(&turn);
    ck_assert_uint_eq(large_bytes_after_trim(), before); /* while the thread lives on */
    pthread_barrier_wait(&turn);
    join(thread);
    pthread_barrier_destroy(&turn);
}
END_TEST

/* ---- one size after the other: what the last one left makes room for the next */
enum { IN_TURN = 400, TURNS = 3 };

static void use_one_size(size_t size, uint64_t seed) {
    static void *blocks[IN_TURN];
    for (size_t i = 0; i < IN_TURN; i++) support_fill(blocks[i] = malloc(size), size, seed + i);
    for (size_t i = IN_TURN; i-- > 0;) {
        ck_assert(support_holds(blocks[i], size, seed + i));
        free(blocks[i]);
    }
}

START_TEST(sizes_in_turn_share_memory) {
    if (!support_is_memscope()) return;
    malloc_trim(0);
    size_t before = mallinfo2().arena, needed = IN_TURN * 1024;
    for (uint64_t turn = 0; turn < TURNS; turn++)
        for (size_t size = 8; size <= 1000; size += 16) use_one_size(size, turn << 32 | size << 16);
    ck_assert_uint_le(mallinfo2().arena, before + needed + 2 * MIB); /* all sizes together: 13 MiB */
}
END_TEST

/* The same where another thread freed the blocks that were there before, so many that it gave their slabs back itself. */
enum { FREED_BY_OTHERS = 6 * MIB };

static void *free_all(void *blocks) {
    for (void **block = blocks; *block; block++) free(*block);
    return NULL;
}

static void leave_one_size(size_t size) {
    static void *blocks[FREED_BY_OTHERS / 64 + 1];
    size_t count = FREED_BY_OTHERS / (size + 64);
    for (size_t i = 0; i < count; i++) support_fill(blocks[i] = malloc(size), size, i);
    blocks[count] = NULL;
    pthread_t thread;
    ck_assert_int_eq(pthread_create(&thread, NULL, free_all, blocks), 0);
    pthread_join(thread, NULL);
}

START_TEST(sizes_in_turn_share_memory_that_others_gave_back) {
    if (!support_is_memscope()) return;
    for (size_t size = 8; size <= 1000; size += 16) leave_one_size(size);
    malloc_trim(0);
    size_t before = mallinfo2().arena, needed = IN_TURN * 1024;
    for (size_t size = 8; size <= 1000; size += 16) use_one_size(size, size);
    ck_assert_uint_le(mallinfo2().arena, before + needed + 2 * MIB);
}
END_TEST

/* A slab full of pages goes to a size of which there is one block: the pages behind it do not stay. */
static bool is_resident(const void *address) {
    unsigned char state = 0;
    uintptr_t page = (uintptr_t)address & ~(uintptr_t)4095;
    return mincore((void *)page, 4096, &state) == 0 && state & 1;
}

START_TEST(a_lone_block_keeps_no_slab_of_pages) {
    if (!support_is_memscope()) return;
    enum { MANY = 2000 };
    static void *blocks[MANY];
    for (size_t i = 0; i < MANY; i++) memset(blocks[i] = malloc(2000), 1, 2000);
    for (size_t i = 0; i < MANY; i++) free(blocks[i]);
    char *lone = malloc(7000);
    memset(lone, 1, 7000);
    ck_assert(is_resident(lone));
    ck_assert(!is_resident(lone + 32768)); /* in the same slab of 64 KiB: it is the slab's first block */
    free(lone);
}
END_TEST

/* ---- what is free serves other sizes and other threads at once. Bytes are those obtained for slabs. */
enum { TAKEN = 20 * MIB };
static void *taken_blocks[TAKEN / 64];

static void take_all_of(size_t size, size_t bytes) {
    for (size_t i = 0; i < bytes / size; i++) taken_blocks[i] = malloc(size);
}

/* The first block of every `every` stays to the last. */
static void free_all_of(size_t size, size_t bytes, size_t every) {
    for (int last = 0; last < 2; last++)
        for (size_t i = 0; i < bytes / size; i++)
            if ((i % every == 0) == last) free(taken_blocks[i]);
}

static size_t slab_bytes(void) { return mallinfo2().arena; }

static void *take_other_size(void *bytes) {
    take_all_of(500, (uintptr_t)bytes);
    return NULL;
}

/* How much must be obtained for so many bytes of another size. */
static size_t slabs_for_others(size_t bytes, bool by_another_thread) {
    size_t before = slab_bytes();
    if (by_another_thread)
        join(start(take_other_size, (void *)bytes));
    else
        take_other_size((void *)bytes);
    size_t after = slab_bytes();
    free_all_of(500, bytes, bytes);
    malloc_trim(0);
    return after - before;
}

/* One block stays, so that its class is in use. */
START_TEST(free_blocks_serve_other_sizes) {
    if (!support_is_memscope()) return;
    for (int by_another_thread = 0; by_another_thread < 2; by_another_thread++) {
        void *kept = malloc(1000);
        take_all_of(1000, TAKEN);
        free_all_of(1000, TAKEN, TAKEN);
        ck_assert_uint_le(slabs_for_others(TAKEN, by_another_thread), 3 * MIB);
        free(kept);
    }
}
END_TEST

/* Blocks up to 8 KiB, larger ones, and those over 32 KiB lie apart: pages that are free in one place go back as another grows. */
static size_t grown_by(size_t before, size_t size, size_t bytes) {
    take_all_of(size, bytes);
    for (size_t i = 0; i < bytes / size; i++) memset(taken_blocks[i], 1, size);
    size_t now = support_rss();
    free_all_of(size, bytes, bytes);
    return now > before ? now - before : 0;
}

START_TEST(free_pages_make_room_for_other_kinds) {
    enum { MUCH = 7 * MIB, MORE = 5 * MIB }; /* as much may go back at once */
    if (!support_is_memscope()) return;
    static const size_t first[] = {20000, 500, 500}, then[] = {500, 20000, 600000};
    for (size_t i = 0; i < sizeof first / sizeof *first; i++) {
        malloc_trim(0);
        size_t before = support_rss();
        grown_by(before, first[i], MUCH);
        ck_assert_uint_lt(grown_by(before, then[i], MUCH), MUCH + MORE); /* both: 14 MiB */
        usleep(300000); /* until as much may go again */
    }
}
END_TEST

/* The owner has ended, and what is freed of it is too little to be looked through for slabs. */
static void *take_some(void *bytes) {
    take_all_of(1000, (uintptr_t)bytes);
    return NULL;
}

START_TEST(blocks_of_dead_threads_serve_others) {
    if (!support_is_memscope()) return;
    malloc_trim(0);
    join(start(take_some, (void *)(3 * MIB)));
    free_all_of(1000, 3 * MIB, 3 * MIB);
    free(malloc(200)); /* what waits to be sent goes off */
    ck_assert_uint_le(slabs_for_others(3 * MIB, false), MIB + MIB / 2);
}
END_TEST

/* What a thread leaves to the next one is little: in bytes, and in slabs that they lie in. */
static void *take_and_leave_many_sizes(void *unused) {
    enum { SIZES = 24, EACH = 128 << 10 };
    static void *blocks[SIZES][EACH / 16];
    for (size_t s = 0; s < SIZES; s++)
        for (size_t i = 0; i < EACH / (400 + s * 16); i++) blocks[s][i] = malloc(400 + s * 16);
    for (size_t s = 0; s < SIZES; s++)
        for (size_t i = 0; i < EACH / (400 + s * 16); i++) free(blocks[s][i]);
    return unused;
}

static void *take_and_leave_many_slabs(void *unused) {
    take_all_of(1000, 7 * MIB);
    free_all_of(1000, 7 * MIB, 64);
    return unused;
}

START_TEST(threads_leave_little_to_the_next) {
    void *(*const ways[])(void *) = {take_and_leave_many_sizes, take_and_leave_many_slabs};
    if (!support_is_memscope()) return;
    for (size_t way = 0; way < 2; way++) {
        malloc_trim(0);
        join(start(ways[way], NULL));
        ck_assert_uint_le(slabs_for_others(3 * MIB, false), MIB + MIB / 2);
    }
}
END_TEST

/* A thread that sleeps has little in its inbox: that goes back when somebody asks. */
static void *take_some_and_sleep(void *bytes) {
    take_some(bytes);
    sem_post(&asleep);
    sem_wait(&wake_up);
    return NULL;
}

START_TEST(trim_empties_inboxes) {
    if (!support_is_memscope()) return;
    sem_init(&asleep, 0, 0);
    sem_init(&wake_up, 0, 0);
    malloc_trim(0);
    pthread_t owner = start(take_some_and_sleep, (void *)(3 * MIB));
    sem_wait(&asleep);
    size_t before = slab_bytes();
    free_all_of(1000, 3 * MIB, 3 * MIB);
    malloc_trim(0);
    size_t after = slab_bytes();
    sem_post(&wake_up);
    join(owner);
    ck_assert_uint_le(after + MIB, before);
}
END_TEST

/* A pool: each thread in turn handles a request of 2 MiB in blocks of many sizes, frees all of it, and waits. */
enum { POOL = 64, REQUEST = 2 << 20 };
static sem_t handled, pool_ends;
static void *handle_and_wait(void *number) {
    static void *blocks[REQUEST / 16];
    uint64_t state = (uint64_t)(uintptr_t)number + 1;
    size_t count = 0;
    for (size_t bytes = 0; bytes < REQUEST; count++) {
        size_t size = 16 + support_random(&state) % (support_random(&state) % 4 ? 500 : 2000);
        memset(blocks[count] = malloc(size), 1, size);
        bytes += size;
    }
    while (count > 0) free(blocks[--count]);
    sem_post(&handled);
    sem_wait(&pool_ends);
    return NULL;
}

START_TEST(threads_that_wait_keep_little) {
    if (!support_is_memscope()) return;
    pthread_t threads[POOL];
    size_t before = support_rss();
    sem_init(&handled, 0, 0);
    sem_init(&pool_ends, 0, 0);
    for (size_t i = 0; i < POOL; i++) {
        ck_assert_int_eq(pthread_create(&threads[i], NULL, handle_and_wait, (void *)i), 0);
        sem_wait(&handled);
    }
    size_t kept = support_rss() - before;
    for (size_t i = 0; i < POOL; i++) sem_post(&pool_ends);
    for (size_t i = 0; i < POOL; i++) join(threads[i]);
    ck_assert_uint_lt(kept, (size_t)POOL * REQUEST * 3 / 4); /* the first sixteen may keep all */
}
END_TEST

START_TEST(blocks_of_sleeping_threads_serve_others) {
    if (!support_is_memscope()) return;
    sem_init(&asleep, 0, 0);
    sem_init(&wake_up, 0, 0);
    malloc_trim(0);
    pthread_t owner = start(take_some_and_sleep, (void *)TAKEN);
    sem_wait(&asleep);
    free_all_of(1000, TAKEN, TAKEN);
    size_t more = slabs_for_others(TAKEN, false);
    sem_post(&wake_up);
    join(owner);
    ck_assert_uint_le(more, TAKEN / 2); /* it is looked through now and then */
}
END_TEST

/* What others freed comes home with the next request, for its own size and for others. */
static void *free_some(void *bytes) {
    free_all_of(1000, (uintptr_t)bytes, (uintptr_t)bytes);
    return NULL;
}

START_TEST(blocks_freed_by_others_serve_the_owner) {
    if (!support_is_memscope()) return;
    for (int other_size = 0; other_size < 2; other_size++) {
        malloc_trim(0);
        take_some((void *)(3 * MIB));
        join(start(free_some, (void *)(3 * MIB)));
        void *kept = malloc(1000);
        size_t before = slab_bytes();
        if (!other_size) take_some((void *)(3 * MIB));
        size_t more = other_size ? slabs_for_others(3 * MIB, false) : slab_bytes() - before;
        if (!other_size) free_some((void *)(3 * MIB));
        free(kept);
        ck_assert_uint_le(more, MIB + MIB / 2);
    }
}
END_TEST

/* Nothing that is free as a whole stays. */
START_TEST(trim_leaves_no_free_slabs) {
    if (!support_is_memscope()) return;
    malloc_trim(0);
    size_t before = slab_bytes();
    for (int round = 0; round < 4; round++) {
        size_t size = round % 2 ? 20000 : 1000; /* both kinds of slabs */
        take_all_of(size, TAKEN);
        free_all_of(size, TAKEN, TAKEN);
        malloc_trim(0);
        ck_assert_uint_le(slab_bytes(), before);
    }
}
END_TEST

/* Of large blocks a part of what is live may be kept, or of what was live lately; not what the slabs grow by. */
START_TEST(some_large_blocks_are_kept) {
    enum { LARGE = 200, LARGE_SIZE = 1000000 };
    static void *large[LARGE];
    if (!support_is_memscope()) return;
    size_t before = large_bytes_after_trim();
    for (size_t i = 0; i < LARGE; i++) large[i] = malloc(LARGE_SIZE);
    for (size_t i = 0; i < LARGE / 10; i++) free(large[i]);
    size_t kept = large_bytes();
    take_all_of(1000, TAKEN);
    ck_assert_uint_lt(large_bytes(), kept - 10 * MIB);
    free_all_of(1000, TAKEN, TAKEN);
    for (size_t i = LARGE / 10; i < LARGE; i++) free(large[i]);
    ck_assert_uint_lt(large_bytes(), before + 40 * MIB);
}
END_TEST

/* Nobody asks for them any more: within seconds they go back, wherever they wait. */
START_TEST(large_blocks_go_back_unasked) {
    if (!support_is_memscope()) return;
    size_t before = large_bytes_after_trim();
    keep_and_end(NULL);
    ck_assert_uint_gt(large_bytes(), before);
    for (int tries = 0; large_bytes() > before; tries++) {
        ck_assert_msg(tries < 400, "%zu bytes more than before", large_bytes() - before);
        usleep(50000);
        work_a_little();
    }
}
END_TEST

/* Every block tells its size and contents, whoever has it. */
typedef struct traded {
    size_t size;
    uint64_t seed;
    char contents[];
} traded_t;
static _Atomic(traded_t *) traded[32];
enum { TRADERS = 4 };

static traded_t *traded_new(uint64_t *state) {
    size_t size = 30000 + support_random(state) % (support_random(state) % 8 ? 300000 : 3000000);
    traded_t *block = support_random(state) % 2 ? malloc(size) : calloc(1, size);
    block->size = size;
    block->seed = support_random(state);
    support_fill(block->contents, size - sizeof *block, block->seed);
    return block;
}

static void traded_drop(traded_t *block) {
    if (block && !support_holds(block->contents, block->size - sizeof *block, block->seed)) abort();
    free(block);
}

static void *trade(void *argument) {
    uint64_t state = (uintptr_t)argument;
    pthread_barrier_wait(&turn); /* all are there at once, both times */
    for (size_t i = 0; i < 3000; i++) {
        traded_t *block = atomic_exchange(&traded[support_random(&state) % 32], traded_new(&state));
        size_t size = 30000 + support_random(&state) % (i % 2 ? 600000 : 6000000);
        if (!block || i % 3 || size < block->size) {
            traded_drop(block);
            continue;
        }
        block = realloc(block, size);
        if (!support_holds(block->contents, block->size - sizeof *block, block->seed)) abort();
        free(block);
    }
    return NULL;
}

static void trade_in_threads(void) {
    pthread_t threads[TRADERS];
    for (size_t i = 0; i < TRADERS; i++) threads[i] = start(trade, (void *)(i + 1));
    for (size_t i = 0; i < TRADERS; i++) join(threads[i]);
    for (size_t i = 0; i < 32; i++) traded_drop(atomic_exchange(&traded[i], NULL));
}

static bool is_counted(void) {
    const char *conf = getenv("MEMSCOPE_CONF");
    return support_is_memscope() && !(conf && strstr(conf, "mode:off"));
}

START_TEST(large_blocks_change_hands) {
    memscope_usage_t before = {0}, after = {0};
    bool counted = is_counted();
    pthread_barrier_init(&turn, NULL, TRADERS);
    trade_in_threads(); /* what libc allocates for its first threads stays */
    if (counted) ck_assert_int_eq(memscope_process_usage(&before), 0);
    trade_in_threads();
    pthread_barrier_destroy(&turn);
    if (!counted) return;
    ck_assert_int_eq(memscope_process_usage(&after), 0);
    ck_assert_uint_eq(after.live_bytes, before.live_bytes);
    ck_assert_uint_eq(after.live_blocks, before.live_blocks);
    ck_assert_uint_ge(after.allocated_blocks - before.allocated_blocks, TRADERS * 600);
}
END_TEST

/* A size of which there is much gets its pages several at a time, and not many more than it uses. */
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
static bool kernel_populates(void) {
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    bool does = madvise(page, 4096, MADV_POPULATE_WRITE) == 0;
    munmap(page, 4096);
    return does;
}

START_TEST(pages_come_several_at_a_time) {
    enum { BLOCKS = 16000, SIZE = 1000, FIRST = BLOCKS / 2 };
    static char *blocks[BLOCKS];
    if (!support_is_memscope() || !kernel_populates()) return;
    memset(blocks, 0, sizeof blocks);
    size_t before = support_rss(), ahead = 0;
    for (size_t i = 0; i < BLOCKS; i++) {
        blocks[i] = malloc(SIZE);
        blocks[i][0] = 1;
        if (i >= FIRST) ahead += is_resident(blocks[i] + 8192); /* two pages on */
    }
    ck_assert_uint_gt(ahead, (BLOCKS - FIRST) / 2);
    ck_assert_uint_lt(support_rss(), before + (size_t)BLOCKS * (SIZE + SIZE / 8) + MIB);
    for (size_t i = 0; i < BLOCKS; i++) free(blocks[i]);
}
END_TEST

/* Of memory that is new, realloc() takes the pages that it fills, and calloc() none. */
START_TEST(new_memory_is_not_touched_without_need) {
    if (!support_is_memscope()) return;
    malloc_trim(0);
    char *block = malloc(200000);
    memset(block, 1, 200000);
    char *grown = realloc(block, 900000);
    bool moved = grown != block;
    for (size_t i = 0; i < 200000; i++) ck_assert_int_eq(grown[i], 1);
    if (moved) ck_assert(!is_resident(grown + 300000));
    free(grown);
    malloc_trim(0);
    char *zeros = calloc(1, 900000);
    const char *conf = getenv("MEMSCOPE_CONF");
    if (conf && strstr(conf, "backend:system")) ck_assert(!is_resident(zeros + 300000)); /* others do not say what is new */
    for (size_t i = 0; i < 900000; i++) ck_assert_int_eq(zeros[i], 0);
    free(zeros);
}
END_TEST

/* The process's own count agrees when everything is freed, whoever did it. */
static void *free_half(void *argument) {
    void **blocks = argument;
    for (size_t i = 0; i < 1000; i += 2) free(blocks[i]);
    return NULL;
}

START_TEST(nothing_is_live_after_all_is_freed) {
    static void *blocks[1000];
    memscope_usage_t before = {0}, after = {0};
    if (!is_counted()) return;
    join(start(free_half, blocks)); /* what libc allocates for its first thread stays */
    ck_assert_int_eq(memscope_process_usage(&before), 0);
    for (size_t i = 0; i < 1000; i++) blocks[i] = malloc(SIZE(i));
    join(start(free_half, blocks));
    for (size_t i = 1; i < 1000; i += 2) free(blocks[i]);
    ck_assert_int_eq(memscope_process_usage(&after), 0);
    ck_assert_uint_eq(after.live_bytes, before.live_bytes);
    ck_assert_uint_eq(after.live_blocks, before.live_blocks);
}
END_TEST

/* Sums taken while threads count: a block that came and went meanwhile must not make them negative. */
static _Atomic(bool) churning;
static void *_Atomic churned[16];

static void *churn(void *task) {
    uint64_t state = (uintptr_t)task;
    while (atomic_load(&churning)) {
        memscope_token_t token = memscope_task_enter(*(memscope_task_t *)task);
        for (int i = 0; i < 50; i++) free(malloc(support_random(&state) % 2000));
        free(malloc(3 * MIB));
        free(atomic_exchange(&churned[support_random(&state) % 16], malloc(500)));
        memscope_task_leave(token);
    }
    return NULL;
}

START_TEST(sums_of_moving_counts_stay_sane) {
    static memscope_task_t tasks[3];
    pthread_t threads[3];
    if (!support_is_memscope()) return;
    atomic_store(&churning, true);
    for (size_t i = 0; i < 3; i++) {
        tasks[i] = memscope_task_create("churn", 0);
        threads[i] = start(churn, &tasks[i]);
    }
    for (int round = 0; round < 4000; round++) {
        memscope_usage_t usage[2];
        ck_assert_int_eq(memscope_process_usage(&usage[0]), 0);
        ck_assert_int_eq(memscope_task_usage(tasks[round % 3], &usage[1]), 0);
        for (int i = 0; i < 2; i++) {
            ck_assert_uint_lt(usage[i].live_bytes, 1000 * MIB);
            ck_assert_uint_lt(usage[i].live_blocks, 1000000);
        }
    }
    atomic_store(&churning, false);
    for (size_t i = 0; i < 3; i++) join(threads[i]);
    for (size_t i = 0; i < 16; i++) free(atomic_exchange(&churned[i], NULL));
}
END_TEST

/* By the short way too, which the task entered last takes: with an arena that is new, and with none. */
static void *enter_what_cannot_be(void *unused) {
    memscope_task_t task = memscope_task_create("ended", 0);
    for (int round = 0; round < 2; round++) {
        memscope_task_t others[] = {0, UINT64_MAX, UINT64_MAX - 1, 4711, task + ((uint64_t)1 << 32)};
        for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
            memscope_token_t token = memscope_task_enter(others[i]);
            ck_assert_uint_eq(memscope_task_current(), 0);
            memscope_task_leave(token);
        }
        memscope_task_leave(memscope_task_enter(task));
    }
    memscope_token_t outer = memscope_task_enter(task), inner = memscope_task_enter(task);
    memscope_task_leave(inner);
    ck_assert_uint_eq(memscope_task_current(), is_counted() ? task : 0);
    memscope_task_leave(outer);
    ck_assert_uint_eq(memscope_task_current(), 0);
    const memscope_task_t other = 1; /* what every task is for which there is no room */
    for (int round = 0; round < 2; round++) {
        outer = memscope_task_enter(other);
        ck_assert_uint_eq(memscope_task_current(), is_counted() ? other : 0);
        memscope_task_leave(outer);
    }
    memscope_task_leave(memscope_task_enter(task));
    if (is_counted()) ck_assert_int_eq(memscope_task_end(task, NULL), 0);
    memscope_task_enter(task);
    ck_assert_uint_eq(memscope_task_current(), 0);
    return unused;
}

static void *enter_first(void *unused) {
    memscope_task_leave(memscope_task_enter(0));
    return enter_what_cannot_be(unused);
}

START_TEST(only_tasks_that_exist_are_entered) {
    if (!support_is_memscope()) return;
    for (int round = 0; round < 3; round++) {
        join(start(enter_first, NULL));
        join(start(enter_what_cannot_be, NULL));
    }
}
END_TEST

static void *free_it(void *block) {
    free(block);
    return NULL;
}

/* A task that is entered again and again has neither the blocks from before it was entered nor those from after it was left. */
START_TEST(the_short_ways_leave_outside_what_is_outside) {
    if (!is_counted()) return;
    memscope_task_t task = memscope_task_create("inside", 0);
    for (int round = 0; round < 2; round++) memscope_task_leave(memscope_task_enter(task));
    void *outside = malloc(100);
    memscope_token_t token = memscope_task_enter(task);
    void *inside = malloc(200);
    memscope_task_leave(token);
    join(start(free_it, outside)); /* another thread believes the header */
    memscope_usage_t usage;
    ck_assert_int_eq(memscope_task_usage(task, &usage), 0);
    ck_assert_uint_eq(usage.allocated_blocks, 1);
    ck_assert_uint_eq(usage.allocated_bytes, 200);
    ck_assert_uint_eq(usage.freed_blocks, 0);
    join(start(free_it, inside));
    ck_assert_int_eq(memscope_task_usage(task, &usage), 0);
    ck_assert_uint_eq(usage.live_blocks, 0);
}
END_TEST

/* A thread that has its arena from another one, which ended in a task, is in none, and allocates for itself in that task. */
static void *use_task(void *task) {
    enum { COUNT = 100 };
    void *blocks[COUNT];
    free(malloc(100)); /* it has the arena now */
    ck_assert_uint_eq(memscope_task_current(), 0);
    memscope_task_leave(memscope_task_enter(*(memscope_task_t *)task)); /* the next time is the short way */
    memscope_token_t token = memscope_task_enter(*(memscope_task_t *)task);
    for (size_t i = 0; i < COUNT; i++) blocks[i] = malloc(100);
    memscope_task_leave(token);
    for (size_t i = 0; i < COUNT; i++) free(blocks[i]); /* outside: who allocated is looked at */
    memscope_usage_t usage;
    ck_assert_int_eq(memscope_thread_usage(&usage), 0);
    ck_assert_uint_lt(usage.live_blocks, COUNT);
    ck_assert_int_eq(memscope_task_usage(*(memscope_task_t *)task, &usage), 0);
    ck_assert_uint_eq(usage.live_blocks, 0);
    void *left = malloc(100); /* which has the thread's number, so that the next one gets another */
    memscope_task_enter(*(memscope_task_t *)task);
    return left;
}

START_TEST(an_adopted_arena_enters_for_its_own_thread) {
    if (!is_counted()) return;
    memscope_task_t task = memscope_task_create("handed on", 0);
    void *left[4];
    for (int round = 0; round < 4; round++) left[round] = join(start(use_task, &task));
    for (int round = 0; round < 4; round++) free(left[round]);
}
END_TEST

/* Nothing in malloc is a cancellation point, not even where it looks into a file first: a thread would end with a lock. */
static _Atomic(bool) went_through;

static void *allocate_cancelled(void *unused) {
    pthread_cancel(pthread_self());
    char *block = malloc(40000);
    for (size_t size = 50000; size < 300 * MIB; size *= 2) block = realloc(block, size);
    free(block);
    if (support_is_memscope()) memscope_export_msgpack("/dev/null"); /* nor in an export: it would leave half a file, and it open */
    atomic_store(&went_through, true);
    pthread_testcancel();
    return unused;
}

START_TEST(a_cancelled_thread_ends_outside) {
    void *result = NULL;
    pthread_t thread = start(allocate_cancelled, NULL);
    ck_assert_int_eq(pthread_join(thread, &result), 0);
    ck_assert_ptr_eq(result, PTHREAD_CANCELED);
    ck_assert(atomic_load(&went_through));
    void *block = malloc(100 * MIB); /* the locks are free */
    ck_assert_ptr_nonnull(block);
    free(block);
    if (support_is_memscope()) ck_assert_int_eq(memscope_export_msgpack("/dev/null"), 0);
}
END_TEST

/* Nor is a search for leaks, which reads files with locks held. */
static void *search_cancelled(void *unused) {
    memscope_leaks_t leaks;
    pthread_cancel(pthread_self());
    if (support_is_memscope()) memscope_leaks(&leaks);
    atomic_store(&went_through, true);
    pthread_testcancel();
    return unused;
}

START_TEST(a_cancelled_thread_searches_to_the_end) {
    void *result = NULL;
    atomic_store(&went_through, false);
    ck_assert_int_eq(pthread_join(start(search_cancelled, NULL), &result), 0);
    ck_assert_ptr_eq(result, PTHREAD_CANCELED);
    ck_assert(atomic_load(&went_through));
    ck_assert_ptr_eq(join(start(search_cancelled, NULL)), PTHREAD_CANCELED); /* the locks are free */
}
END_TEST

/* Nor does an export leave a thread that cannot be cancelled. */
START_TEST(exports_leave_a_thread_cancellable) {
    if (!support_is_memscope()) return;
    static const int states[] = {PTHREAD_CANCEL_DISABLE, PTHREAD_CANCEL_ENABLE};
    for (int i = 0; i < 2; i++) {
        int state;
        pthread_setcancelstate(states[i], NULL);
        ck_assert_int_eq(memscope_export_msgpack("/dev/null"), 0);
        ck_assert_int_eq(pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &state), 0);
        ck_assert_int_eq(state, states[i]);
    }
}
END_TEST

/* ---- what a snapshot says */
static char *exported_json(void) {
    char path[] = "/tmp/memscope-threads-XXXXXX";
    int file = mkstemp(path);
    ck_assert_int_ge(file, 0);
    ck_assert_int_eq(memscope_export_json(path), 0);
    unlink(path);
    off_t end = lseek(file, 0, SEEK_END);
    char *text = calloc(1, (size_t)end + 1);
    ck_assert_int_eq(pread(file, text, (size_t)end, 0), end);
    close(file);
    return text;
}

static uint64_t number_after(const char *text, const char *key) {
    const char *at = text ? strstr(text, key) : NULL;
    ck_assert_msg(at != NULL, "no %s", key);
    return strtoull(at + strlen(key), NULL, 10);
}

/* A thread that is gone has the name it had in the end, and the time that it took. */
enum { WORK_NS = 20000000 };

static void *work_and_change_name(void *unused) {
    struct timespec used = {0};
    free(malloc(100)); /* from here on it has a row */
    prctl(PR_SET_NAME, "the late name");
    while (used.tv_sec == 0 && used.tv_nsec < WORK_NS) {
        for (size_t i = 0; i < 1000; i++) free(malloc(100));
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
    }
    return unused;
}

START_TEST(an_ended_thread_keeps_name_and_time) {
    if (!is_counted()) return;
    join(start(work_and_change_name, NULL));
    char *text = exported_json(), *row = strstr(text, "\"name\": \"the late name\"");
    ck_assert_ptr_nonnull(row);
    ck_assert_uint_ge(number_after(row, "\"cpu_ns\": "), WORK_NS);
    free(text);
}
END_TEST

/* Those that have no row of their own any more have their time in the row of all of them, as a sum. */
static void *come_and_go(void *unused) {
    free(malloc(100));
    return unused;
}

START_TEST(threads_without_a_row_keep_their_time) {
    enum { WORKERS = 2, OTHERS = 600 }; /* more than keep their rows */
    if (!is_counted()) return;
    for (int i = 0; i < WORKERS; i++) join(start(work_and_change_name, NULL));
    for (int i = 0; i < OTHERS; i++) join(start(come_and_go, NULL));
    char *text = exported_json(), *row = strstr(text, "\"(signal handlers, ended threads)\"");
    ck_assert_ptr_null(strstr(text, "\"the late name\""));
    ck_assert_uint_ge(number_after(row, "\"cpu_ns\": "), WORKERS * WORK_NS);
    free(text);
}
END_TEST

/* Room behind a block was never asked for, or was and went back: it is no slack, once the block is small. */
START_TEST(what_a_block_shrank_by_is_gone) {
    if (!is_counted()) return;
    char *block = malloc(64 * MIB);
    ck_assert_ptr_nonnull(block);
    for (size_t size = 64 * MIB; size >= 4 * MIB; size /= 4) {
        ck_assert_ptr_nonnull(block = realloc(block, size));
        char *text = exported_json(), *memory = strstr(text, "\"memory\": {");
        ck_assert_uint_lt(number_after(memory, "\"slack_bytes\": "), 8 * MIB);
        ck_assert_uint_lt(number_after(memory, "\"uncarved_bytes\": "), 128 * MIB);
        free(text);
    }
    free(block);
}
END_TEST

/* A sampled block that grows where it is was freed as that one, and is no sample from then on: what else is live at its site stays. */
START_TEST(a_sampled_block_that_grows_is_freed_once) {
    enum { GROW = 4, STAY = 4 };
    char *sampled[GROW + STAY];
    if (!is_counted() || memscope_set_sample_bytes(1) != 0) return;
    for (size_t i = 0; i < GROW + STAY; i++) ck_assert_ptr_nonnull(sampled[i] = malloc(5 * MIB));
    ck_assert_int_eq(memscope_set_sample_bytes((uint64_t)1 << 40), 0);
    for (size_t i = 0; i < GROW; i++) {
        ck_assert_ptr_nonnull(sampled[i] = realloc(sampled[i], 7 * MIB));
        free(sampled[i]);
    }
    char *text = exported_json(), *row = strstr(text, "\"sites\": [");
    ck_assert_ptr_nonnull(row);
    char *end = strstr(row, "\n  ]");
    ck_assert_ptr_nonnull(end);
    *end = '\0';
    uint64_t live = 0;
    for (; (row = strstr(row, "\"live_bytes\": ")) != NULL; row++) live += number_after(row, "\"live_bytes\": ");
    ck_assert_uint_ge(live, STAY * 5 * MIB);
    free(text);
    for (size_t i = GROW; i < GROW + STAY; i++) free(sampled[i]);
}
END_TEST

static Suite *suite(void) {
    const TTest *tests[] = {a_thousand_threads_at_once,
                            threads_that_wait_keep_little,
                            threads_come_and_go,
                            memory_freed_only_by_others_stays_bounded,
                            a_living_owner_reuses_what_others_freed,
                            arenas_of_dead_threads_are_adopted,
                            arenas_used_in_destructors_only_are_adopted,
                            last_destructors_leave_no_arenas,
                            pages_come_several_at_a_time,
                            new_memory_is_not_touched_without_need,
                            only_tasks_that_exist_are_entered,
                            the_short_ways_leave_outside_what_is_outside,
                            an_adopted_arena_enters_for_its_own_thread,
                            last_destructors_share_an_arena,
                            a_small_stack_is_enough,
                            programs_with_many_keys,
                            programs_with_all_keys,
                            a_dead_thread_gives_memory_back,
                            a_sleeping_owner_gives_memory_back,
                            what_threads_leave_goes_back,
                            what_is_freed_of_dead_threads_goes_back,
                            medium_blocks_go_back_unasked,
                            trim_gives_small_blocks_back, trim_gives_address_space_back, slabs_change_while_they_are_walked,
                            trim_gives_large_blocks_back,
                            large_blocks_do_not_pile_up,
                            kept_large_blocks_go_back,
                            sizes_in_turn_share_memory,
                            sizes_in_turn_share_memory_that_others_gave_back,
                            a_lone_block_keeps_no_slab_of_pages,
                            free_pages_make_room_for_other_kinds,
                            free_blocks_serve_other_sizes,
                            blocks_of_dead_threads_serve_others,
                            threads_leave_little_to_the_next,
                            trim_empties_inboxes,
                            blocks_of_sleeping_threads_serve_others,
                            blocks_freed_by_others_serve_the_owner,
                            trim_leaves_no_free_slabs,
                            some_large_blocks_are_kept,
                            large_blocks_go_back_unasked,
                            large_blocks_change_hands,
                            nothing_is_live_after_all_is_freed,
                            sums_of_moving_counts_stay_sane,
                            a_cancelled_thread_ends_outside,
                            a_cancelled_thread_searches_to_the_end,
                            exports_leave_a_thread_cancellable,
                            an_ended_thread_keeps_name_and_time,
                            threads_without_a_row_keep_their_time,
                            what_a_block_shrank_by_is_gone,
                            a_sampled_block_that_grows_is_freed_once};
    return SUPPORT_SUITE("threads", tests);
}

int main(void) {
    return support_main(suite, support_modes_few);
}
