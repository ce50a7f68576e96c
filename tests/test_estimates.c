/* What sampled sites say against what is counted. Where the rate is 1 every block is sampled and stands for itself: the
 * sums over sites are then those of the process. */
#include <malloc.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "memscope/memscope.h"
#include "tests/support.h"

static bool mode_is(const char *mode) {
    const char *conf = getenv("MEMSCOPE_CONF");
    return conf && strstr(conf, mode);
}

/* ---- a block that has a name stands at its variable, and there only */

typedef struct sums {
    int64_t allocated_bytes, allocated_blocks, live_bytes, live_blocks;
} sums_t;

static int see(void *context, const memscope_difference_t *difference) {
    if (difference->part != MEMSCOPE_PART_PROCESS && difference->part != MEMSCOPE_PART_SITE) return 0;
    sums_t *sums = context; /* of the process less of all sites */
    int64_t sign = difference->part == MEMSCOPE_PART_PROCESS ? 1 : -1;
    sums->allocated_bytes += sign * difference->allocated_bytes;
    sums->allocated_blocks += sign * difference->allocated_blocks;
    sums->live_bytes += sign * difference->live_bytes;
    sums->live_blocks += sign * difference->live_blocks;
    return 0;
}

static void check_sums(int line) {
    sums_t sums = {0};
    ck_assert_int_eq(memscope_checkpoint_diff(NULL, NULL, see, &sums), 0);
    ck_assert_msg(!sums.allocated_bytes && !sums.allocated_blocks && !sums.live_bytes && !sums.live_blocks,
                  "line %d: the process less its sites: %ld bytes, %ld blocks allocated, %ld bytes, %ld blocks live",
                  line, (long)sums.allocated_bytes, (long)sums.allocated_blocks, (long)sums.live_bytes,
                  (long)sums.live_blocks);
}
#define CHECK_SUMS() check_sums(__LINE__)

enum { BLOCKS = 16 };
static const size_t sizes[BLOCKS] = {0,     1,     16,    100,   1000,   1024,    1100,    8000,
                                     32700, 32768, 33000, 70000, 200000, 1 << 20, 3 << 20, 64};
static void *blocks[BLOCKS];

static void allocate_all(void) {
    for (int i = 0; i < BLOCKS; i++) {
        size_t alignment = i % 5 == 4 ? (size_t)64 << i : 16;
        blocks[i] = alignment > 16 ? memalign(alignment, sizes[i]) : i % 3 ? malloc(sizes[i]) : calloc(1, sizes[i]);
    }
}

static void name_all(void) {
    for (int i = 0; i < BLOCKS; i++) {
        void *named = blocks[i];
        ck_assert_int_eq(MEMSCOPE_TRACK(named), 0);
        if (i % 4) continue;
        void *named_again = named;
        ck_assert_int_eq(MEMSCOPE_TRACK(named_again), 0);
        ck_assert_int_eq(MEMSCOPE_TRACK(named_again), 0);
    }
}

static void resize_all(size_t divisor, size_t factor) {
    for (int i = 0; i < BLOCKS; i++) {
        void *moved = realloc(blocks[i], malloc_usable_size(blocks[i]) / divisor * factor + 1);
        ck_assert_ptr_nonnull(moved);
        blocks[i] = moved;
    }
}

static void free_all(void) {
    for (int i = 0; i < BLOCKS; i++) free(blocks[i]);
}

static void *in_thread(void *function) {
    void (*call)(void);
    memcpy(&call, &function, sizeof call);
    call();
    return NULL;
}

static void by_another(void (*call)(void)) {
    pthread_t thread;
    void *argument;
    memcpy(&argument, &call, sizeof argument);
    ck_assert_int_eq(pthread_create(&thread, NULL, in_thread, argument), 0);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
}

START_TEST(sites_with_names_add_up) {
    if (!mode_is("exact") && !mode_is("sample_rate:1")) return;
    for (int round = 0; round < 6; round++) {
        allocate_all();
        CHECK_SUMS();
        round % 2 ? by_another(name_all) : name_all();
        CHECK_SUMS();
        resize_all(1, 1);
        CHECK_SUMS();
        resize_all(1, 2);
        CHECK_SUMS();
        if (round % 3 == 1) name_all();
        resize_all(5, 1);
        CHECK_SUMS();
        round < 3 ? by_another(free_all) : free_all();
        CHECK_SUMS();
    }
}
END_TEST

/* ---- children of fork draw samples of their own */

enum { CHILDREN = 100, HALF_BYTES = 1 << 20, HALF_MEAN = 1512775 /* such a block is hit with a chance of 1/2 */ };

static int add_sites(void *context, const memscope_difference_t *difference) {
    if (difference->part == MEMSCOPE_PART_SITE) *(int64_t *)context += difference->allocated_bytes;
    return 0;
}

static void *is_sampled(void *unused) {
    (void)unused;
    int64_t sampled = 0;
    memscope_checkpoint_t *before = memscope_checkpoint();
    void *block = malloc(HALF_BYTES);
    bool good = before && block && memscope_checkpoint_diff(before, NULL, add_sites, &sampled) == 0;
    return (void *)(uintptr_t)(good ? sampled >= HALF_BYTES : 2);
}

static void *is_sampled_in_thread(void *unused) {
    pthread_t thread;
    void *sampled = (void *)(uintptr_t)2;
    if (pthread_create(&thread, NULL, is_sampled, unused) == 0) pthread_join(thread, &sampled);
    return sampled;
}

/* All children allocate the same. Outside of the limits once in a billion. */
static void check_children(void *(*call)(void *)) {
    int hits = 0;
    for (int i = 0; i < CHILDREN; i++) {
        int status;
        pid_t child = fork();
        if (child == 0) _exit((int)(uintptr_t)call(NULL));
        ck_assert(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) < 2);
        hits += WEXITSTATUS(status);
    }
    if (mode_is("test_mode"))
        ck_assert(hits == 0 || hits == CHILDREN);
    else
        ck_assert_msg(hits >= 20 && hits <= 80, "of %d children %d", CHILDREN, hits);
}

START_TEST(children_draw_samples_of_their_own) {
    if (mode_is("exact") || mode_is("sample_rate")) return;
    ck_assert_int_eq(memscope_set_sample_bytes(HALF_MEAN), 0);
    check_children(is_sampled);
    check_children(is_sampled_in_thread);
    is_sampled_in_thread(NULL); /* leaves its arena, and a process that is not single-threaded */
    check_children(is_sampled);
    check_children(is_sampled_in_thread);
}
END_TEST

static Suite *suite(void) {
    const TTest *tests[] = {sites_with_names_add_up, children_draw_samples_of_their_own};
    return SUPPORT_SUITE("estimates", tests);
}

int main(void) {
    static const char *const modes[] = {"exact",   "sampled,sample_rate:1", "hybrid,sample_rate:1",
                                        "sampled", "sampled,test_mode:on",  NULL};
    return support_main(suite, modes);
}
