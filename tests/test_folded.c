/* More threads than there are numbers for them, each of which leaves blocks behind: the last ones share rows, and what
 * they allocate is as good as any. Run once, in the default configuration: it takes seconds. */
#define _GNU_SOURCE /* memmem */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "memscope/memscope.h"
#include "tests/support.h"

enum { THREADS = 67000, LEFT = 4 }; /* 65,534 have a number of their own */

static void *left[THREADS][LEFT];

static void *leave_blocks(void *argument) {
    void **mine = argument;
    mine[0] = malloc(40);
    mine[1] = malloc(40); /* the first one attached the thread */
    mine[2] = aligned_alloc(64, 100);
    mine[3] = realloc(malloc(3000), 5000);
    for (int i = 0; i < LEFT; i++) support_fill(mine[i], 40, (uint64_t)(uintptr_t)mine);
    free(malloc(200));
    return NULL;
}

/* Not the row of threads without any: those take the slow way at every call. */
static void expect_rows_of_their_own(void) {
    char path[] = "/tmp/memscope-folded-XXXXXX";
    int file = mkstemp(path);
    ck_assert_int_ge(file, 0);
    ck_assert_int_eq(memscope_export_json(path), 0);
    unlink(path);
    size_t size = (size_t)lseek(file, 0, SEEK_END), rows = 0;
    char *text = mmap(NULL, size, PROT_READ, MAP_PRIVATE, file, 0);
    ck_assert_ptr_ne(text, MAP_FAILED);
    close(file);
    static const char name[] = "ended threads)\""; /* of the row of threads without any */
    ck_assert_ptr_null(memmem(text, size, name, sizeof name - 1));
    for (size_t i = 0; i + 10 <= size; i++) rows += memcmp(text + i, "\"start_ns\"", 10) == 0;
    munmap(text, size);
    ck_assert_uint_gt(rows, 61000);
}

START_TEST(threads_without_a_number_allocate) {
    memscope_usage_t before, after;
    ck_assert_int_eq(memscope_process_usage(&before), 0);
    for (size_t i = 0; i < THREADS; i++) {
        pthread_t thread;
        ck_assert_int_eq(pthread_create(&thread, NULL, leave_blocks, left[i]), 0);
        ck_assert_int_eq(pthread_join(thread, NULL), 0);
    }
    expect_rows_of_their_own();
    for (size_t i = 0; i < THREADS; i++)
        for (int k = 0; k < LEFT; k++) {
            ck_assert(support_holds(left[i][k], 40, (uint64_t)(uintptr_t)left[i]));
            free(left[i][k]);
        }
    ck_assert_int_eq(memscope_process_usage(&after), 0);
    /* glibc keeps what it allocated for a thread's stack for the next one */
    ck_assert_uint_lt(after.live_blocks, before.live_blocks + 10);
    ck_assert_uint_ge(after.allocated_blocks - before.allocated_blocks, (uint64_t)THREADS * (LEFT + 2));
}
END_TEST

int main(void) {
    const TTest *tests[] = {threads_without_a_number_allocate};
    return support_run(SUPPORT_SUITE("folded", tests));
}
