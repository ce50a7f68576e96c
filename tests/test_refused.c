/* The kernel refuses what it is asked for, at random: three in ten of the mappings, half of the moves, one in five of the
 * unmappings, three in ten of the advices. Four threads use every function meanwhile. All that may come of it is a NULL with
 * ENOMEM; a block that is there holds what was written to it, errno stays where nothing failed, and afterwards all goes on.
 *
 * The four functions are this program's own: it comes before libc where the library looks for them. */
#define _GNU_SOURCE
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "memscope/memscope.h"
#include "tests/support.h"

enum { THREADS = 4, SLOTS = 600, OPERATIONS = 3000 };

static _Atomic bool refusing;
static _Atomic uint64_t draws, refused, nulls;
static uint64_t seed_of_all;

static bool refuse(unsigned percent) {
    if (!atomic_load(&refusing)) return false;
    uint64_t state = atomic_fetch_add(&draws, 0x9e3779b97f4a7c15u);
    if (support_random(&state) % 100 >= percent) return false;
    atomic_fetch_add(&refused, 1);
    return true;
}

static long failing(int error) {
    errno = error;
    return -1;
}

void *mmap(void *address, size_t bytes, int protection, int flags, int file, off_t offset) {
    return (void *)(refuse(30) ? failing(ENOMEM) : syscall(SYS_mmap, address, bytes, protection, flags, file, offset));
}
int munmap(void *start, size_t bytes) {
    return (int)(refuse(20) ? failing(ENOMEM) : syscall(SYS_munmap, start, bytes));
}
int madvise(void *start, size_t bytes, int advice) {
    return (int)(refuse(30) ? failing(EAGAIN) : syscall(SYS_madvise, start, bytes, advice));
}
void *mremap(void *start, size_t bytes, size_t wanted, int flags, ...) {
    return (void *)(refuse(50) ? failing(ENOMEM) : syscall(SYS_mremap, start, bytes, wanted, flags, NULL));
}

typedef struct {
    void *block;
    size_t size;
    uint64_t seed;
} slot_t;

static size_t draw_size(uint64_t *state) {
    static const size_t most[] = {200, 200, 1100, 1100, 9000, 40000, 300000, 6000000};
    uint64_t kind = support_random(state) % 32;
    return support_random(state) % most[kind < 8 ? kind : kind % 5];
}

/* The block a function gave, or did not; errno was 0 before. */
static void take(slot_t *slot, void *block, size_t size, uint64_t seed) {
    *slot = (slot_t){block, size, seed};
    if (block) {
        if (errno != 0) _exit(16);
        support_fill(block, size, seed);
        return;
    }
    if (errno != ENOMEM) _exit(10);
    atomic_fetch_add(&nulls, 1);
}

static void give(slot_t *slot) {
    if (slot->block && !support_holds(slot->block, slot->size, slot->seed)) _exit(11);
    errno = 4711;
    free(slot->block);
    if (errno != 4711) _exit(17);
    slot->block = NULL;
}

static void resize(slot_t *slot, size_t size, uint64_t seed) {
    if (slot->block && !support_holds(slot->block, slot->size, slot->seed)) _exit(12);
    void *block = realloc(slot->block, size + 1);
    if (block)
        take(slot, block, size + 1, seed);
    else if (errno != ENOMEM || (slot->block && !support_holds(slot->block, slot->size, slot->seed)))
        _exit(13);
    else
        atomic_fetch_add(&nulls, 1);
}

static void zeroed(slot_t *slot, size_t size, uint64_t seed) {
    unsigned char *block = calloc(1, size);
    for (size_t at = 0; block && at < size; at += size / 64 + 1)
        if (block[at] != 0) _exit(14);
    take(slot, block, size, seed);
}

static void aligned(slot_t *slot, size_t size, uint64_t seed) {
    void *block = NULL;
    size_t alignment = (size_t)16 << seed % 9;
    errno = posix_memalign(&block, alignment, size);
    if ((uintptr_t)block % alignment != 0) _exit(15);
    take(slot, block, size, seed);
}

static void *use(void *seed) {
    static slot_t all[THREADS][SLOTS];
    slot_t *slots = all[(uintptr_t)seed % THREADS];
    uint64_t state = seed_of_all + (uintptr_t)seed;
    for (int i = 0; i < OPERATIONS; i++) {
        slot_t *slot = &slots[support_random(&state) % SLOTS];
        size_t size = draw_size(&state);
        uint64_t draw = support_random(&state);
        errno = 0;
        if (draw % 6 == 0) {
            resize(slot, size, draw);
            continue;
        }
        give(slot);
        errno = 0;
        if (draw % 6 == 1) zeroed(slot, size, draw);
        if (draw % 6 == 2) aligned(slot, size, draw);
        if (draw % 6 == 3 || draw % 6 == 4) take(slot, malloc(size), size, draw);
        if (draw % 1000 == 5) malloc_trim(0);
    }
    for (int i = 0; i < SLOTS; i++) give(&slots[i]);
    return NULL;
}

START_TEST(what_the_kernel_refuses_is_enomem) {
    atomic_store(&draws, seed_of_all = support_seed());
    atomic_store(&refusing, true);
    for (uintptr_t round = 0; round < 3; round++) {
        pthread_t threads[THREADS];
        uintptr_t made = 0; /* a thread whose stack is refused is not there */
        while (made < THREADS && pthread_create(&threads[made], NULL, use, (void *)(round * THREADS + made)) == 0) made++;
        for (uintptr_t i = 0; i < made; i++) pthread_join(threads[i], NULL);
        if (made == 0) use((void *)(round * THREADS));
    }
    atomic_store(&refusing, false);
    if (support_is_memscope()) ck_assert_uint_gt(refused, 0);
    for (size_t size = 1; size < (size_t)4 << 20; size += 1 + size / 3) {
        void *block = malloc(size);
        ck_assert_ptr_nonnull(block);
        free(block);
    }
    memscope_usage_t usage;
    memscope_process_usage(&usage);
    ck_assert_uint_ge(usage.allocated_blocks, usage.freed_blocks);
    printf("%lu requests refused, %lu NULLs\n", (unsigned long)refused, (unsigned long)nulls);
}
END_TEST

static Suite *suite(void) {
    const TTest *tests[] = {what_the_kernel_refuses_is_enomem};
    return SUPPORT_SUITE("refused", tests);
}

/* A backing that nobody named starts when the heap has grown: while the kernel refuses. */
static int start_meanwhile(void) {
    for (int times = 0; times < 8; times++) {
        pid_t pid = fork();
        if (pid == 0) {
            setenv("MEMSCOPE_CONF", "mode:hybrid", 1);
            execl("/proc/self/exe", "test_refused", NULL);
            _exit(127);
        }
        int status;
        if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0) return 1;
    }
    return 0;
}

int main(void) {
    bool alone = getenv("MEMSCOPE_CONF") || !support_is_memscope();
    return support_main(suite, support_modes_few) || (!alone && start_meanwhile());
}
