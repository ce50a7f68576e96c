/* What one stack capture costs, beside libunwind's unw_backtrace: nanoseconds by depth, for a stack that repeats, one
 * whose innermost call alternates, and one that differs from its outermost frame on each time.
 *
 *     micro_unwind [DEPTH...]     (5 20 60); one line a measurement: NAME DEPTH NANOSECONDS
 *
 * CPU time of the thread, median of 11 batches. What the calls between captures cost is measured by the same code
 * with a capture that does nothing, and taken off. */
#define _GNU_SOURCE
#include "alloc/os.h"
#include "bench/bench.h"
#include "tracking/stacks.h"
#include "tracking/unwind.h"

#define UNW_LOCAL_ONLY
#include <libunwind.h>
#include <sys/mman.h>

enum { BATCHES = 11, ROUNDS = 2000, MAX_DEPTH = 200 };

static ms_unwind_thread_t state;
static uint64_t sink;
static const char *measured;

void ms_os_purge(void *start, size_t bytes) {
    madvise(start, bytes, MADV_DONTNEED);
}

void *ms_os_map_metadata(size_t bytes) {
    void *start = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return start == MAP_FAILED ? NULL : start;
}

typedef void capture_fn(void);

static __attribute__((noinline)) void capture_nothing(void) {
    __asm__ volatile("" ::: "memory");
}

static __attribute__((noinline)) void capture_ours(void) {
    uintptr_t pc, sp, fp;
    MS_UNWIND_CALLER(pc, sp, fp);
    sink += ms_unwind_site(&state, pc, sp, fp, MAX_DEPTH);
}

static __attribute__((noinline)) void capture_pcs(void) {
    uintptr_t pc, sp, fp, pcs[MAX_DEPTH];
    ms_unwind_end_t end;
    MS_UNWIND_CALLER(pc, sp, fp);
    sink += ms_unwind_pcs(&state, pc, sp, fp, pcs, MAX_DEPTH, &end);
}

static __attribute__((noinline)) void capture_libunwind(void) {
    void *pcs[MAX_DEPTH];
    sink += (uint64_t)unw_backtrace(pcs, MAX_DEPTH);
}

/* A chain of calls `left` deep. Each level takes its function and its call site from two bits of `path`. */
typedef struct {
    capture_fn *capture;
    int captures; /* at the bottom of one descent */
    int alternate;
} run_t;

typedef void level_fn(const run_t *run, unsigned left, uint64_t path);
static level_fn level_a, level_b;

static __attribute__((noinline)) void bottom(const run_t *run) {
    for (int i = 0; i < run->captures; i += 2) {
        run->capture();
        if (run->alternate) {
            run->capture();
        } else {
            i--;
        }
    }
}

static inline void descend(const run_t *run, unsigned left, uint64_t path) {
    if (left == 0) {
        bottom(run);
    } else if (path & 1) {
        (path & 2 ? level_a : level_b)(run, left - 1, path >> 2 | path << 62);
    } else {
        (path & 2 ? level_a : level_b)(run, left - 1, path >> 2 | path << 62);
    }
    __asm__ volatile("" ::: "memory"); /* no tail calls */
}

static __attribute__((noinline)) void level_a(const run_t *run, unsigned left, uint64_t path) {
    descend(run, left, path);
}

static __attribute__((noinline)) void level_b(const run_t *run, unsigned left, uint64_t path) {
    char room[88];
    __asm__ volatile("" ::"r"(room) : "memory", "rbx", "r12", "r13");
    descend(run, left, path);
}

static double batch(const run_t *run, unsigned depth, int descents, int changing) {
    uint64_t random = 42;
    double start = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    for (int i = 0; i < descents; i++) {
        uint64_t path = changing ? random_next(&random) & 0xff : 42;
        level_a(run, depth, path * 0x0101010101010101u);
    }
    return (clock_ns(CLOCK_THREAD_CPUTIME_ID) - start) / descents / run->captures;
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median_batch(run_t run, unsigned depth, int changing) {
    double values[BATCHES];
    int descents = changing ? ROUNDS : 1;
    if (!changing) run.captures = ROUNDS;
    batch(&run, depth, descents, changing);
    for (int i = 0; i < BATCHES; i++) values[i] = batch(&run, depth, descents, changing);
    qsort(values, BATCHES, sizeof(values[0]), compare_doubles);
    return values[BATCHES / 2];
}

static void measure(const char *name, capture_fn *capture, unsigned depth, int alternate, int changing) {
    run_t run = {capture, 1, alternate};
    run_t idle = {capture_nothing, 1, alternate};
    unsigned levels = depth > 5 ? depth - 5 : 0; /* bottom, level_a, batch, median_batch, measure, main and below it */
    if (measured != NULL && strcmp(measured, name) != 0) return;
    double ns = median_batch(run, levels, changing) - median_batch(idle, levels, changing);
    printf("%-24s %3u %8.1f\n", name, depth, ns);
}

static void measure_depth(unsigned depth) {
    measure("repeated", capture_ours, depth, 0, 0);
    measure("alternating leaf", capture_ours, depth, 1, 0);
    measure("changing", capture_ours, depth, 0, 1);
    measure("changing, walk only", capture_pcs, depth, 0, 1);
    measure("libunwind repeated", capture_libunwind, depth, 0, 0);
    measure("libunwind changing", capture_libunwind, depth, 0, 1);
}

int main(int argc, char **argv) {
    if (!ms_unwind_init() || !ms_stacks_init(MS_STACK_MOST)) bench_die("no memory");
    measured = getenv("MICRO_UNWIND_ONLY");
    if (argc < 2) {
        measure_depth(5);
        measure_depth(20);
        measure_depth(60);
    }
    for (int i = 1; i < argc; i++) measure_depth((unsigned)atoi(argv[i]));
    uint64_t captures = state.stats.captures;
    printf("captures %llu, completed from the last stack %llu, stacks %u, rows compiled %llu",
           (unsigned long long)captures, (unsigned long long)state.stats.reused, ms_stack_count(),
           (unsigned long long)state.stats.rows_compiled);
    for (int i = 0; i < MS_UNWIND_END_COUNT; i++) {
        if (state.stats.ends[i])
            printf("; %s: %llu", ms_unwind_end_meaning[i], (unsigned long long)state.stats.ends[i]);
    }
    printf("\n");
    return sink == 0;
}
