/* The C entry points against what their manual pages promise: size x alignment x entry point, contents, limits. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/userfaultfd.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/entries.h"
#include "tests/support.h"

static const size_t sizes[] = {0,      1,       2,       7,       8,       9,      15,    16,    17,    24,    31,
                               32,     33,      47,      48,      49,      63,     64,    65,    100,   127,   128,
                               129,    255,     256,     257,     511,     513,    1000,  1008,  1023,  1024,  1025,
                               1152,   1153,    2048,    3000,    4080,    4095,   4096,  4097,  8191,  8192,  8193,
                               16384,  20000,   32752,   32767,   32768,   32769,  40000, 65520, 65536, 65537, 98304,
                               262144, 1048560, 1048575, 1048576, 1048577, 3000000};
#define SIZE_COUNT (sizeof sizes / sizeof sizes[0])

/* Requests nobody can meet; near the top, where size + header + alignment wraps around. */
static const size_t too_big[] = {SIZE_MAX,
                                 SIZE_MAX - 1,
                                 SIZE_MAX - 14,
                                 SIZE_MAX - 15,
                                 SIZE_MAX - 16,
                                 SIZE_MAX - 31,
                                 SIZE_MAX - 32,
                                 SIZE_MAX - 63,
                                 SIZE_MAX - 64,
                                 SIZE_MAX - 127,
                                 SIZE_MAX - 4094,
                                 SIZE_MAX - 4095,
                                 SIZE_MAX - 4096,
                                 SIZE_MAX - 8191,
                                 SIZE_MAX - 65535,
                                 SIZE_MAX - ((size_t)1 << 20),
                                 SIZE_MAX - ((size_t)1 << 21),
                                 SIZE_MAX - ((size_t)1 << 30),
                                 (size_t)PTRDIFF_MAX + 4096,
                                 (size_t)PTRDIFF_MAX + 2,
                                 (size_t)PTRDIFF_MAX + 1,
                                 (size_t)PTRDIFF_MAX,
                                 (size_t)PTRDIFF_MAX - 15,
                                 (size_t)PTRDIFF_MAX - 4095,
                                 (size_t)1 << 62,
                                 (size_t)1 << 48};
#define TOO_BIG_COUNT (sizeof too_big / sizeof too_big[0])

/* A C23 function of the running malloc, or NULL on a libc without it. */
#define C23(result, name, ...)                             \
    extern result name(__VA_ARGS__) __attribute__((weak)); \
    result name(__VA_ARGS__)
C23(void, free_sized, void *block, size_t size);
C23(void, free_aligned_sized, void *block, size_t alignment, size_t size);
C23(void, cfree, void *block);

#define fail_at(entry, alignment, size, what) \
    ck_abort_msg("%s, alignment %zu, size %zu: %s", (entry)->name, (size_t)(alignment), (size_t)(size), what)

static bool only_zeros(const void *block, size_t bytes) {
    const unsigned char *p = block;
    for (size_t i = 0; i < bytes; i++)
        if (p[i] != 0) return false;
    return true;
}

/* Three blocks at once: the second must not touch the first, the third not the hole the second leaves. */
static void check_entry(const entry_t *entry, size_t alignment, size_t size) {
    size_t promised = entry->alignment ? entry->alignment : alignment < 16 ? 16 : alignment;
    void *blocks[3];
    size_t usable[3];
    for (size_t i = 0; i < 3; i++) {
        blocks[i] = entry->allocate(alignment, size);
        if (!blocks[i]) fail_at(entry, alignment, size, strerror(errno));
        if ((uintptr_t)blocks[i] % promised != 0) fail_at(entry, alignment, size, "misaligned");
        usable[i] = malloc_usable_size(blocks[i]);
        if (usable[i] < size) fail_at(entry, alignment, size, "malloc_usable_size below the request");
        if (entry->zeroed && !only_zeros(blocks[i], size)) fail_at(entry, alignment, size, "not zeroed");
        support_fill(blocks[i], usable[i], size + i);
    }
    for (size_t i = 0; i < 3; i++) {
        size_t at = (i + 1) % 3;
        if (!support_holds(blocks[at], usable[at], size + at)) fail_at(entry, alignment, size, "overwritten");
        free(blocks[at]);
    }
}

START_TEST(sizes_alignments_entries) {
    for (size_t e = 0; e < entry_count; e++)
        for (size_t s = 0; s < SIZE_COUNT; s++) {
            if (entries[e].alignment) {
                check_entry(&entries[e], 0, sizes[s]);
                continue;
            }
            size_t smallest = entries[e].needs_multiple ? sizeof(void *) : 1;
            for (size_t alignment = smallest; alignment <= (size_t)1 << 22; alignment *= 2)
                if (sizes[s] <= 65537 || alignment >= 4096) check_entry(&entries[e], alignment, sizes[s]);
        }
}
END_TEST

START_TEST(pvalloc_rounds_up) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    void *block = pvalloc(1);
    ck_assert_ptr_nonnull(block);
    ck_assert_uint_ge(malloc_usable_size(block), page);
    memset(block, 1, page);
    free(block);
    block = pvalloc(page + 1);
    ck_assert_uint_ge(malloc_usable_size(block), 2 * page);
    free(block);
}
END_TEST

static void check_realloc(const entry_t *entry, size_t from, size_t to) {
    size_t kept = from < to ? from : to;
    void *block = entry->allocate(64, from);
    ck_assert_ptr_nonnull(block);
    support_fill(block, kept, from + to);
    void *moved = realloc(block, to);
    if (!moved) fail_at(entry, from, to, "realloc failed");
    if (!support_holds(moved, kept, from + to)) fail_at(entry, from, to, "realloc lost the contents");
    if ((uintptr_t)moved % 16 != 0) fail_at(entry, from, to, "realloc misaligned");
    size_t usable = malloc_usable_size(moved);
    if (usable < to) fail_at(entry, from, to, "realloc: usable size below the request");
    support_fill(moved, usable, to);
    if (!support_holds(moved, usable, to)) fail_at(entry, from, to, "realloc: block does not hold what is written");
    free(moved);
}

START_TEST(realloc_keeps_contents) {
    for (size_t e = 0; e < entry_count; e++)
        for (size_t from = 0; from < SIZE_COUNT; from += 1 + e % 3)
            for (size_t to = 1; to < SIZE_COUNT; to += 2) check_realloc(&entries[e], sizes[from], sizes[to]);
}
END_TEST

START_TEST(realloc_grows_and_shrinks) {
    size_t mib = (size_t)1 << 20;
    char *block = malloc(mib);
    support_fill(block, 4096, 1);
    for (size_t size = mib; size < 64 * mib;) {
        size_t grown = size % 3 == 0 ? size + size / 10 : size * 2;
        grown += grown % 7; /* sizes that are no multiple of a page */
        block = realloc(block, grown);
        ck_assert_ptr_nonnull(block);
        ck_assert(support_holds(block, 4096, 1));
        memset(block + size, (int)(size % 251), grown - size);
        ck_assert_int_eq((unsigned char)block[grown - 1], (int)(size % 251));
        ck_assert_int_eq((unsigned char)block[size], (int)(size % 251));
        size = grown;
    }
    for (size_t size = 32 * mib; size >= 16; size /= 2) {
        unsigned char last = (unsigned char)block[size - 1];
        block = realloc(block, size);
        ck_assert_ptr_nonnull(block);
        ck_assert_int_eq((unsigned char)block[size - 1], last);
    }
    free(block);
}
END_TEST

/* Small steps through every size class and over the border between slabs and large blocks. */
START_TEST(realloc_by_small_steps) {
    unsigned char *block = NULL;
    for (size_t size = 1; size < 70000; size += 1 + size / 64) {
        block = realloc(block, size);
        ck_assert_ptr_nonnull(block);
        block[size - 1] = (unsigned char)(size % 253);
        for (size_t back = 1; back < size; back += 1 + back / 64)
            ck_assert_msg(block[back - 1] == back % 253, "size %zu lost byte %zu", size, back - 1);
    }
    free(block);
}
END_TEST

/* A copy of 256 MiB touches 65,536 pages on each side; moving the mapping touches none. */
START_TEST(realloc_of_large_blocks_does_not_copy) {
    struct rusage before, after;
    size_t size = (size_t)256 << 20;
    char *block = malloc(size);
    ck_assert_ptr_nonnull(block);
    block[0] = 1;
    getrusage(RUSAGE_SELF, &before);
    block = realloc(block, size * 2);
    ck_assert_ptr_nonnull(block);
    getrusage(RUSAGE_SELF, &after);
    ck_assert_int_eq(block[0], 1);
    ck_assert_int_lt(after.ru_minflt - before.ru_minflt, 5000);
    free(block);
}
END_TEST

/* Blocks that grow and shrink again and again, so that mappings are reused, kept, moved and given room. */
START_TEST(realloc_at_random_keeps_contents) {
    enum { BLOCKS = 12 };
    uint64_t state = support_seed();
    struct { void *block; size_t size; uint64_t seed; } live[BLOCKS] = {0};
    for (size_t i = 0; i < 3000; i++) {
        size_t b = support_random(&state) % BLOCKS, old = live[b].size;
        size_t size = old && support_random(&state) % 4 ? old + old / 10 : 1 + support_random(&state) % 2000000;
        if (size > 8000000) size = 20000;
        /* what stays of the old contents has a length of its own */
        size_t stays = old < size ? old : size;
        if (stays) support_fill(live[b].block, stays, i);
        live[b].block = realloc(live[b].block, size);
        ck_assert_ptr_nonnull(live[b].block);
        ck_assert_uint_ge(malloc_usable_size(live[b].block), size);
        ck_assert_msg(!stays || support_holds(live[b].block, stays, i), "%zu to %zu", old, size);
        live[b].size = size;
        live[b].seed = i;
        support_fill(live[b].block, size, i);
        size_t other = support_random(&state) % BLOCKS;
        if (live[other].size) ck_assert(support_holds(live[other].block, live[other].size, live[other].seed));
    }
    for (size_t b = 0; b < BLOCKS; b++) free(live[b].block);
}
END_TEST

START_TEST(realloc_that_fails_leaves_the_block) {
    static const size_t from[] = {1, 100, 5000, 40000, 2000000};
    volatile size_t many = SIZE_MAX / 2; /* volatile: the compiler would warn */
    for (size_t f = 0; f < sizeof from / sizeof from[0]; f++) {
        void *block = malloc(from[f]);
        support_fill(block, from[f], f);
        for (size_t i = 0; i < TOO_BIG_COUNT; i++) {
            errno = 0;
            ck_assert_ptr_null(realloc(block, too_big[i]));
            ck_assert_int_eq(errno, ENOMEM);
            ck_assert(support_holds(block, from[f], f));
        }
        errno = 0;
        ck_assert_ptr_null(reallocarray(block, many, 3));
        ck_assert_int_eq(errno, ENOMEM);
        ck_assert(support_holds(block, from[f], f));
        free(block);
    }
}
END_TEST

/* As in glibc, which programs written for it count on: realloc(p, 0) frees. */
START_TEST(realloc_to_nothing_frees) {
    size_t before = mallinfo2().uordblks;
    ck_assert_ptr_null(realloc(malloc(100), 0));
    ck_assert_ptr_null(realloc(malloc(100000), 0));
    if (support_is_memscope()) ck_assert_uint_eq(mallinfo2().uordblks, before);
    free(realloc(NULL, 0));
}
END_TEST

START_TEST(calloc_zeroes_reused_memory) {
    for (size_t s = 0; s < SIZE_COUNT; s++)
        for (int round = 0; round < 4; round++) {
            void *dirty[8];
            for (size_t i = 0; i < 8; i++) {
                dirty[i] = malloc(sizes[s]);
                memset(dirty[i], 0xff, malloc_usable_size(dirty[i]));
            }
            for (size_t i = 0; i < 8; i++) free(dirty[i]);
            for (size_t i = 0; i < 8; i++) {
                dirty[i] = i % 2 ? calloc(1, sizes[s]) : calloc(sizes[s], 1);
                ck_assert_msg(only_zeros(dirty[i], sizes[s]), "calloc of %zu is not zeroed", sizes[s]);
                memset(dirty[i], 0xff, sizes[s]);
            }
            for (size_t i = 0; i < 8; i++) free(dirty[i]);
        }
}
END_TEST

/* What grows in small steps is copied when it needs a larger class, or is sampled: not at each settle of the counters. */
static int moves_of_growth(size_t from, size_t to, size_t step) {
    int moves = 0;
    char *block = malloc(from);
    for (size_t size = from; size < to; size += step) {
        char *grown = realloc(block, size);
        ck_assert_ptr_nonnull(grown);
        moves += grown != block;
        block = grown;
    }
    free(block);
    return moves;
}

START_TEST(growth_in_small_steps_copies_seldom) {
    if (!support_is_memscope()) return;
    ck_assert_int_lt(moves_of_growth(10000, 20000, 16), 80);
    for (int round = 0; round < 4; round++) ck_assert_int_lt(moves_of_growth(100000, 400000, 1024), 60);
}
END_TEST

/* Large blocks taken in turn, thinly used: zero they are, and nobody touched the rest of their pages for it. Sizes differ: so do
 * the pages in which they end. */
static size_t thin_use(size_t most, uint64_t *state) {
    for (int round = 0; round < 200; round++) {
        size_t size = most - support_random(state) % (most / 8);
        char *one = calloc(1, size), *other = calloc(1, size);
        ck_assert(one && other && only_zeros(one + size / 2, 4096) && only_zeros(other, 4096));
        one[0] = one[size / 2 + 1] = other[1] = 'x';
        free(one);
        free(other);
    }
    char *block = calloc(1, most), *page = block - (uintptr_t)block % 4096 + 4096;
    unsigned char *there = malloc(most / 4096);
    ck_assert_int_eq(mincore(page, most - 4096, there), 0);
    size_t touched = 0;
    for (size_t i = 0; i < most / 4096 - 1; i++) touched += there[i] & 1;
    ck_assert(only_zeros(block, most));
    free(there);
    free(block);
    return touched;
}

START_TEST(calloc_of_large_blocks_touches_little) {
    static const size_t sizes[] = {(size_t)320 << 10, (size_t)1 << 20, (size_t)3 << 20, (size_t)16 << 20};
    uint64_t state = 1;
    ck_assert_int_eq(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), 0);
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        void *live = malloc(8 * sizes[s]); /* so much is live that what is freed now is used again */
        size_t touched = thin_use(sizes[s], &state);
        ck_assert_msg(touched < sizes[s] / 4096 / 4, "%zu pages of a block of %zu were touched", touched, sizes[s]);
        free(live);
        malloc_trim(0);
    }
}
END_TEST

/* All of them is zero, whatever the last user touched: everything, or runs of pages with gaps between that are short and long. */
static void touch_some(char *block, size_t size, uint64_t *state) {
    for (size_t page = 0, pages = size / 4096; page < pages; page += 1 + support_random(state) % 40)
        for (size_t run = support_random(state) % 12; run-- > 0 && page < pages; page++) block[page * 4096 + 1000] = 'x';
    block[0] = 'x';
    if (support_random(state) % 2) block[size - 1] = 'x';
}

START_TEST(calloc_of_large_blocks_clears_all) {
    static const size_t of[] = {256 << 10, 700001, (1 << 20) + 4079, 8 << 20, (8 << 20) + 1, (9 << 20) + 4079, (12 << 20) + 4080,
                                (16 << 20) + 5000};
    uint64_t state = 1;
    void *live = malloc((size_t)256 << 20); /* so much is live that what is freed now is used again */
    ck_assert_ptr_nonnull(live);
    ck_assert_int_eq(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), 0);
    for (size_t s = 0; s < sizeof of / sizeof of[0]; s++)
        for (int round = 0; round < 12; round++) {
            if (round % 4) malloc_trim(0); /* the next is new, and nobody touched it */
            char *block = malloc(of[s]);
            ck_assert_ptr_nonnull(block);
            if (round % 3)
                touch_some(block, of[s], &state);
            else
                memset(block, 'x', of[s]);
            free(block);
            size_t size = of[s] - support_random(&state) % (of[s] / 16);
            ck_assert_ptr_nonnull(block = calloc(1, size));
            ck_assert_msg(only_zeros(block, size), "calloc of %zu is not zeroed", size);
            free(block);
        }
    free(live);
}
END_TEST

/* Whoever serves page faults has something for every page that is not there, unless he is told that it was dropped: as one who
 * restores a process and copies its memory when it is asked for. */
static int faults;
static struct uffdio_range dropped[64];
static size_t drops;

static void *serve_faults(void *unused) {
    static char junk[4096] __attribute__((aligned(4096)));
    memset(junk, 'x', sizeof junk);
    for (struct uffd_msg event; read(faults, &event, sizeof event) == sizeof event;) {
        if (event.event == UFFD_EVENT_REMOVE) {
            dropped[drops % 64].start = event.arg.remove.start;
            dropped[drops++ % 64].len = event.arg.remove.end - event.arg.remove.start;
            continue;
        }
        uint64_t page = event.arg.pagefault.address & ~(uint64_t)4095;
        bool is_zero = false;
        for (size_t i = 0; i < drops && i < 64; i++) is_zero |= page - dropped[i].start < dropped[i].len;
        struct uffdio_zeropage zero = {.range = {.start = page, .len = 4096}};
        struct uffdio_copy copy = {.dst = page, .src = (uintptr_t)junk, .len = 4096};
        if (is_zero)
            ioctl(faults, UFFDIO_ZEROPAGE, &zero);
        else
            ioctl(faults, UFFDIO_COPY, &copy);
    }
    return unused;
}

START_TEST(calloc_of_pages_that_others_fill_is_zero) {
    size_t size = 301001;
    void *live = malloc((size_t)256 << 20); /* so much is live that what is freed now is used again */
    char *block = malloc(size);
    ck_assert(live && block);
    uintptr_t first = ((uintptr_t)block + 4095) & ~(uintptr_t)4095, end = ((uintptr_t)block + size + 4095) & ~(uintptr_t)4095;
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_EVENT_REMOVE};
    struct uffdio_register pages = {.range = {.start = first, .len = end - first}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    faults = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    pthread_t server;
    if (faults >= 0 && ioctl(faults, UFFDIO_API, &api) == 0 && pthread_create(&server, NULL, serve_faults, NULL) == 0) {
        free(block);
        madvise((void *)first, end - first, MADV_DONTNEED);
        if (ioctl(faults, UFFDIO_REGISTER, &pages) == 0) {
            block = calloc(1, size);
            ck_assert_msg(only_zeros(block, size), "what somebody put there");
            ioctl(faults, UFFDIO_UNREGISTER, &pages.range);
            free(block);
        }
    } else {
        free(block);
    }
    free(live);
}
END_TEST

static void check_refused(const entry_t *entry, size_t alignment, size_t size) {
    errno = 0;
    void *block = entry->allocate(alignment, size);
    if (block) fail_at(entry, alignment, size, "was not refused");
    if (errno != ENOMEM) fail_at(entry, alignment, size, "errno is not ENOMEM");
}

START_TEST(impossible_sizes_are_refused) {
    for (size_t e = 0; e < entry_count; e++)
        for (size_t i = 0; i < TOO_BIG_COUNT; i++) {
            check_refused(&entries[e], 16, too_big[i]);
            if (entries[e].alignment) continue;
            for (size_t alignment = 32; alignment <= (size_t)1 << 30; alignment *= 32)
                check_refused(&entries[e], alignment, too_big[i]);
        }
}
END_TEST

/* Memory and swap of the machine in bytes; 0 where the kernel promises more than it has, to anybody. */
static size_t machine_bytes(void) {
    char line[128];
    size_t total = 0;
    int policy = 1;
    FILE *file = fopen("/proc/sys/vm/overcommit_memory", "r");
    if (!file || fscanf(file, "%d", &policy) != 1) policy = 1;
    if (file) fclose(file);
    file = policy == 1 ? NULL : fopen("/proc/meminfo", "r");
    while (file && fgets(line, sizeof line, file)) {
        unsigned long kib;
        if (sscanf(line, "MemTotal: %lu", &kib) == 1 || sscanf(line, "SwapTotal: %lu", &kib) == 1) total += kib << 10;
    }
    if (file) fclose(file);
    return total;
}

/* More than there could ever be is refused at once, not by a kill when it is touched. */
START_TEST(more_than_the_machine_has_is_refused) {
    size_t machine = machine_bytes();
    if (machine == 0) return;
    for (size_t bytes = machine * 2; bytes <= (size_t)1 << 50; bytes *= 2)
        for (size_t e = 0; e < entry_count; e++) check_refused(&entries[e], 64, bytes);
    char *block = malloc(3 << 20);
    block[0] = 'x';
    errno = 0;
    ck_assert_ptr_null(realloc(block, machine * 2));
    ck_assert_int_eq(errno, ENOMEM);
    ck_assert_int_eq(block[0], 'x');
    free(block);
}
END_TEST

START_TEST(products_that_overflow_are_refused) {
    static const size_t factors[][2] = {{SIZE_MAX, 2},
                                        {2, SIZE_MAX},
                                        {SIZE_MAX / 2 + 1, 2},
                                        {SIZE_MAX / 16 + 1, 16}, /* wraps to 0 */
                                        {((size_t)1 << 32) + 1, (size_t)1 << 32},
                                        {(size_t)1 << 32, (size_t)1 << 31},
                                        {SIZE_MAX / 10, 11},
                                        {(size_t)3037000500u, (size_t)3037000500u}};
    for (size_t i = 0; i < sizeof factors / sizeof factors[0]; i++) {
        errno = 0;
        ck_assert_ptr_null(calloc(factors[i][0], factors[i][1]));
        ck_assert_int_eq(errno, ENOMEM);
        errno = 0;
        ck_assert_ptr_null(reallocarray(NULL, factors[i][0], factors[i][1]));
        ck_assert_int_eq(errno, ENOMEM);
    }
}
END_TEST

START_TEST(impossible_alignments_are_refused) {
    static const size_t bad[] = {0, 1, 2, 3, 4, 6, 7, 9, 12, 20, 24, 40, 48, 1000, 4097, SIZE_MAX, SIZE_MAX / 2};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        void *untouched = &untouched;
        ck_assert_int_eq(posix_memalign(&untouched, bad[i], 64), EINVAL);
        ck_assert_ptr_eq(untouched, &untouched);
    }
    for (size_t e = 0; e < entry_count; e++)
        for (int shift = 47; shift < 64 && !entries[e].alignment; shift++) {
            errno = 0;
            void *block = entries[e].allocate((size_t)1 << shift, 8);
            if (block) fail_at(&entries[e], (size_t)1 << shift, 8, "was not refused");
            ck_assert(errno == ENOMEM || errno == EINVAL);
        }
}
END_TEST

START_TEST(posix_memalign_that_fails_leaves_all) {
    void *untouched = &untouched;
    for (size_t i = 0; i < TOO_BIG_COUNT; i++) {
        errno = 4711;
        ck_assert_int_eq(posix_memalign(&untouched, 64, too_big[i]), ENOMEM);
        ck_assert_ptr_eq(untouched, &untouched);
        ck_assert_int_eq(errno, 4711);
    }
}
END_TEST

/* As in glibc. */
START_TEST(memalign_rounds_alignments_up) {
    static const size_t given[][2] = {{3, 16}, {17, 32}, {24, 32}, {33, 64}, {100, 128}, {3000, 4096}, {5000, 8192}};
    for (size_t i = 0; i < sizeof given / sizeof given[0]; i++) {
        void *blocks[8];
        for (size_t b = 0; b < 8; b++) {
            blocks[b] = memalign(given[i][0], 40);
            ck_assert_ptr_nonnull(blocks[b]);
            ck_assert_uint_eq((uintptr_t)blocks[b] % given[i][1], 0);
            support_fill(blocks[b], 40, b);
        }
        for (size_t b = 0; b < 8; b++) {
            ck_assert(support_holds(blocks[b], 40, b));
            free(blocks[b]);
        }
    }
}
END_TEST

/* There is no power of two that large, so it is not a question of memory. */
START_TEST(alignments_beyond_all_powers_are_invalid) {
    volatile size_t beyond[] = {((size_t)1 << 63) + 1, SIZE_MAX - 1, SIZE_MAX}; /* volatile: the compiler would warn */
    for (size_t i = 0; i < sizeof beyond / sizeof beyond[0]; i++) {
        errno = 0;
        ck_assert_ptr_null(memalign(beyond[i], 8));
        ck_assert_int_eq(errno, EINVAL);
    }
}
END_TEST

START_TEST(aligned_alloc_wants_a_power_of_two) {
    static const size_t bad[] = {3, 6, 7, 12, 24, 100, 4097, SIZE_MAX};
    if (!support_is_memscope()) return; /* glibc before 2.38 rounds up */
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        errno = 0;
        ck_assert_ptr_null(aligned_alloc(bad[i], 64));
        ck_assert_int_eq(errno, EINVAL);
    }
}
END_TEST

static void *free_in_thread(void *block) {
    errno = 4711;
    free(block);
    return (void *)(intptr_t)errno;
}

START_TEST(free_preserves_errno) {
    for (size_t s = 0; s < SIZE_COUNT; s++)
        for (int aligned = 0; aligned < 2; aligned++) {
            void *block = aligned ? memalign(4096, sizes[s]) : malloc(sizes[s]);
            errno = 4711;
            free(block);
            ck_assert_int_eq(errno, 4711);
        }
    errno = 4711;
    free(NULL);
    free(malloc((size_t)64 << 20));
    ck_assert_int_eq(errno, 4711);
    for (size_t s = 0; s < SIZE_COUNT; s += 7) {
        pthread_t thread;
        void *result;
        ck_assert_int_eq(pthread_create(&thread, NULL, free_in_thread, malloc(sizes[s])), 0);
        ck_assert_int_eq(pthread_join(thread, &result), 0);
        ck_assert_int_eq((intptr_t)result, 4711);
    }
}
END_TEST

START_TEST(success_preserves_errno) {
    for (size_t e = 0; e < entry_count; e++)
        for (size_t s = 0; s < SIZE_COUNT; s++) {
            errno = 4711;
            void *block = entries[e].allocate(64, sizes[s]);
            if (support_is_memscope()) ck_assert_msg(errno == 4711, "%s(%zu) changed errno", entries[e].name, sizes[s]);
            free(block);
        }
    for (size_t from = 0; from < SIZE_COUNT && support_is_memscope(); from++)
        for (size_t to = 1; to < SIZE_COUNT; to += 3) {
            void *block = malloc(sizes[from]);
            errno = 4711;
            block = realloc(block, sizes[to]);
            ck_assert_msg(errno == 4711, "realloc from %zu to %zu changed errno", sizes[from], sizes[to]);
            free(block);
        }
}
END_TEST

static int by_address(const void *a, const void *b) {
    uintptr_t x = *(const uintptr_t *)a, y = *(const uintptr_t *)b;
    return x < y ? -1 : x > y;
}

START_TEST(empty_blocks_are_unique) {
    enum { COUNT = 2000 };
    static uintptr_t blocks[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
        blocks[i] = (uintptr_t)entries[i % entry_count].allocate(16, 0);
        ck_assert_uint_ne(blocks[i], 0);
    }
    qsort(blocks, COUNT, sizeof blocks[0], by_address);
    for (size_t i = 1; i < COUNT; i++) ck_assert_uint_ne(blocks[i - 1], blocks[i]);
    for (size_t i = 0; i < COUNT; i++) free((void *)blocks[i]);
}
END_TEST

typedef struct extent {
    uintptr_t start;
    size_t usable;
} extent_t;

/* Sizes and alignments all mixed, so that what one block leaves behind is what another one of other shape gets. */
START_TEST(live_blocks_do_not_overlap) {
    enum { COUNT = 10000 };
    static extent_t blocks[COUNT];
    uint64_t state = support_seed();
    for (size_t round = 0; round < 5; round++) {
        for (size_t i = 0; i < COUNT; i++) {
            if (round > 0 && support_random(&state) % 2) continue;
            free((void *)blocks[i].start);
            size_t size = support_random(&state) % (i % 16 == 0 ? 100000 : i % 4 == 0 ? 30000 : 300);
            size_t alignment = (size_t)16 << support_random(&state) % (i % 8 ? 4 : 12);
            void *block = entries[support_random(&state) % entry_count].allocate(alignment, size);
            blocks[i] = (extent_t){(uintptr_t)block, malloc_usable_size(block)};
            support_fill(block, blocks[i].usable, blocks[i].start);
        }
        qsort(blocks, COUNT, sizeof blocks[0], by_address);
        for (size_t i = 1; i < COUNT; i++)
            ck_assert_uint_le(blocks[i - 1].start + blocks[i - 1].usable, blocks[i].start);
        for (size_t i = 0; i < COUNT; i++)
            ck_assert(support_holds((void *)blocks[i].start, blocks[i].usable, blocks[i].start));
    }
    for (size_t i = 0; i < COUNT; i++) free((void *)blocks[i].start);
}
END_TEST

START_TEST(frees_of_nothing_and_of_known_size) {
    free(NULL);
    ck_assert_uint_eq(malloc_usable_size(NULL), 0);
    if (!free_sized || !free_aligned_sized || !cfree) {
        ck_assert(!support_is_memscope());
        return;
    }
    free_sized(NULL, 0);
    free_aligned_sized(NULL, 64, 0);
    cfree(NULL);
    for (size_t s = 0; s < SIZE_COUNT; s++) {
        free_sized(malloc(sizes[s]), sizes[s]);
        free_aligned_sized(aligned_alloc(256, sizes[s]), 256, sizes[s]);
        cfree(malloc(sizes[s]));
    }
}
END_TEST

START_TEST(memory_is_reused) {
    size_t before = support_rss();
    for (size_t i = 0; i < 400000; i++) {
        size_t size = sizes[i % (SIZE_COUNT - 4)];
        char *block = malloc(size);
        if (size) block[size / 2] = 1;
        free(block);
    }
    ck_assert_uint_lt(support_rss(), before + ((size_t)48 << 20));
}
END_TEST

#pragma GCC diagnostic ignored "-Wdeprecated-declarations" /* mallinfo() is */
START_TEST(statistics_calls) {
    size_t mib = (size_t)1 << 20;
    struct mallinfo2 before = mallinfo2();
    void *block = malloc(3 * mib);
    struct mallinfo2 after = mallinfo2();
    ck_assert_uint_ge(after.uordblks + after.hblkhd, before.uordblks + before.hblkhd + 3 * mib);
    struct mallinfo old = mallinfo();
    ck_assert_int_ge(old.uordblks + old.hblkhd, (int)(3 * mib));
    free(block);
    size_t much = (size_t)3 << 30; /* nobody touches it; a small machine refuses it */
    if (support_is_memscope() && (block = malloc(much)) != NULL) {
        after = mallinfo2();
        ck_assert_uint_ge(after.hblkhd, much);
        ck_assert_uint_eq(after.uordblks + after.fordblks, after.arena + after.hblkhd);
        old = mallinfo();
        ck_assert_int_eq(old.hblkhd, INT_MAX); /* as much as it can say */
        ck_assert_int_eq(old.uordblks, INT_MAX);
        free(block);
    }
    int accepted = mallopt(M_MMAP_THRESHOLD, 1 << 20);
    ck_assert(accepted == 0 || accepted == 1);
    int trimmed = malloc_trim(0);
    ck_assert(trimmed == 0 || trimmed == 1);
}
END_TEST

/* Of all sizes, so that what is kept for reuse is now many small ones, now few large ones, and full. */
START_TEST(freed_large_blocks_are_not_lost) {
    enum { COUNT = 12 };
    size_t before = mallinfo2().hblks;
    for (size_t round = 0; round < 1000; round++) {
        void *blocks[COUNT];
        for (size_t i = 0; i < COUNT; i++) {
            size_t doubling = (size_t)32768 << rand() % 6;
            ck_assert_ptr_nonnull(blocks[i] = malloc(doubling + 1 + (size_t)rand() % doubling));
        }
        for (size_t i = 0; i < COUNT; i++) free(blocks[i]);
    }
    ck_assert_uint_le(mallinfo2().hblks, before);
}
END_TEST

START_TEST(printed_statistics) {
    char *text = NULL;
    size_t length = 0;
    FILE *stream = open_memstream(&text, &length);
    ck_assert_int_eq(malloc_info(0, stream), 0);
    fclose(stream);
    ck_assert_ptr_eq(strstr(text, "<malloc version="), text);
    ck_assert_ptr_nonnull(strstr(text, "</malloc>"));
    free(text);
    errno = 0;
    ck_assert_int_ne(malloc_info(1, stderr), 0);

    int pipe_ends[2], saved = dup(STDERR_FILENO);
    char line[64];
    ck_assert_int_eq(pipe(pipe_ends), 0);
    dup2(pipe_ends[1], STDERR_FILENO);
    malloc_stats();
    dup2(saved, STDERR_FILENO);
    ck_assert_int_gt(read(pipe_ends[0], line, sizeof line), 0);
}
END_TEST

/* The names inside libc that old programs and static libraries call. */
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t), *__libc_valloc(size_t), *__libc_pvalloc(size_t);
extern void *__libc_reallocarray(void *, size_t, size_t);
#pragma weak __libc_reallocarray
extern void __libc_free(void *);

START_TEST(libc_names) {
    void *blocks[] = {__libc_malloc(100),       __libc_calloc(10, 10), __libc_realloc(NULL, 100),
                      __libc_memalign(64, 100), __libc_valloc(100),    __libc_pvalloc(100)};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) {
        ck_assert_ptr_nonnull(blocks[i]);
        ck_assert_uint_ge(malloc_usable_size(blocks[i]), 100);
        support_fill(blocks[i], 100, i);
    }
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) {
        ck_assert(support_holds(blocks[i], 100, i));
        if (i % 2)
            free(blocks[i]);
        else
            __libc_free(blocks[i]);
    }
    volatile size_t many = SIZE_MAX / 16 + 1; /* times 16 it wraps to 0 */
    errno = 0;
    ck_assert_ptr_null(__libc_calloc(many, 16));
    ck_assert_int_eq(errno, ENOMEM);
    if (!__libc_reallocarray) return;
    errno = 0;
    ck_assert_ptr_null(__libc_reallocarray(NULL, many, 16));
    ck_assert_int_eq(errno, ENOMEM);
}
END_TEST

static Suite *suite(void) {
    const TTest *tests[] = {sizes_alignments_entries,
                            pvalloc_rounds_up,
                            realloc_keeps_contents,
                            realloc_grows_and_shrinks,
                            realloc_by_small_steps,
                            realloc_of_large_blocks_does_not_copy,
                            realloc_that_fails_leaves_the_block,
                            realloc_at_random_keeps_contents,
                            realloc_to_nothing_frees,
                            calloc_zeroes_reused_memory,
                            growth_in_small_steps_copies_seldom,
                            calloc_of_large_blocks_touches_little,
                            calloc_of_large_blocks_clears_all,
                            calloc_of_pages_that_others_fill_is_zero,
                            impossible_sizes_are_refused,
                            more_than_the_machine_has_is_refused,
                            products_that_overflow_are_refused,
                            impossible_alignments_are_refused,
                            posix_memalign_that_fails_leaves_all,
                            memalign_rounds_alignments_up,
                            alignments_beyond_all_powers_are_invalid,
                            aligned_alloc_wants_a_power_of_two,
                            free_preserves_errno,
                            success_preserves_errno,
                            empty_blocks_are_unique,
                            live_blocks_do_not_overlap,
                            frees_of_nothing_and_of_known_size,
                            memory_is_reused,
                            statistics_calls,
                            freed_large_blocks_are_not_lost,
                            printed_statistics,
                            libc_names};
    return SUPPORT_SUITE("malloc", tests);
}

int main(void) {
    return support_main(suite, support_modes_few);
}
