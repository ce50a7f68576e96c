/* A library to preload: every malloc, calloc and realloc of a real program takes its stack four times, and the four are
 * compared:
 *
 *     site     ms_unwind_site, read back from the stack table   (with the shortcut, recursion collapsed)
 *     walk     ms_unwind_pcs                                    (without)
 *     other    libunwind's unw_backtrace
 *
 * At exit the counts go to the file named by UNWIND_COMPARE, one line each, with the first differing stacks behind
 * them. Allocation itself is glibc's. The guard `inside` keeps what libunwind or the report allocates out of the count.
 */
#define _GNU_SOURCE
#include "alloc/os.h"
#include "tests/collapse.h"
#include "tracking/stacks.h"
#include "tracking/unwind.h"

#define UNW_LOCAL_ONLY
#include <fcntl.h>
#include <libunwind.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { DEPTH = 200, SHOWN = 12 };

extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t count, size_t bytes);
extern void *__libc_realloc(void *block, size_t bytes);

typedef struct {
    uintptr_t pcs[DEPTH + 1];
    unsigned count;
} taken_t;

#define COUNTS(X)                                                                                  \
    X(captures)        /* stacks taken by all three */                                             \
    X(site_differs)    /* the shortcut or the table gave other frames than the plain walk */       \
    X(same)            /* walk == other */                                                         \
    X(ours_ends_early) /* ours is the inner part of libunwind's, and says why it ended */          \
    X(ours_goes_on)    /* libunwind's is the inner part of ours */                                 \
    X(different)       /* a frame differs */                                                       \
    X(ours_cut)        /* of ours_ends_early: walk ended for another reason than root and depth */ \
    X(frames)
static struct {
#define COUNT(name) _Atomic uint64_t name;
    COUNTS(COUNT)
#undef COUNT
} counts;

static _Atomic int shown;
static __thread int inside;
static __thread ms_unwind_thread_t *state;
static char report[1 << 16];
static _Atomic unsigned report_used;

void ms_os_purge(void *start, size_t bytes) {
    madvise(start, bytes, MADV_DONTNEED);
}

/* What leaves the memory is a matter of tests/test_os.c. */
void ms_os_forget_file(const void *start, size_t bytes) {
    (void)start, (void)bytes;
}

void *ms_os_map_metadata(size_t bytes) {
    void *start = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return start == MAP_FAILED ? NULL : start;
}

__attribute__((format(printf, 1, 2))) static void say(const char *format, ...) {
    char line[256];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    unsigned at = atomic_fetch_add(&report_used, (unsigned)length);
    if (length > 0 && at + (unsigned)length < sizeof report) memcpy(report + at, line, (size_t)length);
}

static void show(const char *what, const taken_t *ours, const taken_t *other, ms_unwind_end_t end) {
    if (atomic_fetch_add(&shown, 1) >= SHOWN) return;
    say("%s: %s\n", what, ms_unwind_end_meaning[end]);
    for (unsigned i = 0; i < ours->count || i < other->count; i++) {
        say("  %2u %#14lx %#14lx\n", i, i < ours->count ? ours->pcs[i] : 0, i < other->count ? other->pcs[i] : 0);
    }
}

static void compare(const taken_t *ours, const taken_t *other, ms_unwind_end_t end) {
    unsigned common = 0;
    while (common < ours->count && common < other->count && ours->pcs[common] == other->pcs[common]) common++;
    counts.frames += ours->count;
    if (common == ours->count && common == other->count) {
        counts.same++;
    } else if (common == ours->count) {
        counts.ours_ends_early++;
        counts.ours_cut += end != MS_UNWIND_END_root && end != MS_UNWIND_END_depth;
        show("ours ends early", ours, other, end);
    } else if (common == other->count) {
        counts.ours_goes_on++;
        show("ours goes on", ours, other, end);
    } else {
        counts.different++;
        show("different", ours, other, end);
    }
}

static void check_site(uint32_t site, const taken_t *walk, ms_unwind_end_t end) {
    uint64_t pcs[DEPTH];
    taken_t kept = {.count = (unsigned)ms_stack_pcs(site, pcs, DEPTH)};
    for (unsigned i = 0; i < kept.count; i++) kept.pcs[i] = pcs[i];
    taken_t collapsed = *walk;
    collapsed.count = collapse(collapsed.pcs, collapsed.count);
    if (kept.count == collapsed.count && memcmp(kept.pcs, collapsed.pcs, kept.count * sizeof(kept.pcs[0])) == 0) return;
    counts.site_differs++;
    show("site differs", &kept, &collapsed, end);
}

static __attribute__((noinline)) void take(uintptr_t pc, uintptr_t sp, uintptr_t fp) {
    taken_t walk, other;
    void *raw[DEPTH + 8];
    ms_unwind_end_t end;
    if (state == NULL) state = ms_os_map_metadata(sizeof(*state));
    uint32_t site = ms_unwind_site(state, pc, sp, fp, DEPTH);
    walk.count = ms_unwind_pcs(state, pc, sp, fp, walk.pcs, DEPTH, &end);
    int taken = unw_backtrace(raw, DEPTH + 8), first = 0;
    while (first < taken && (uintptr_t)raw[first] != pc) first++;
    other.count = 0;
    for (int i = first; i < taken && other.count < DEPTH; i++) other.pcs[other.count++] = (uintptr_t)raw[i];
    counts.captures++;
    check_site(site, &walk, end);
    compare(&walk, &other, end);
}

#define TAKE                                                  \
    do {                                                      \
        uintptr_t pc, sp, fp;                                 \
        if (inside++ == 0 && ms_stack_table.max_nodes != 0) { \
            MS_UNWIND_CALLER(pc, sp, fp);                     \
            take(pc, sp, fp);                                 \
        }                                                     \
        inside--;                                             \
    } while (0)

void *malloc(size_t bytes) {
    TAKE;
    return __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes) {
    TAKE;
    return __libc_calloc(count, bytes);
}

void *realloc(void *block, size_t bytes) {
    TAKE;
    return __libc_realloc(block, bytes);
}

__attribute__((constructor)) static void start(void) {
    inside++;
    if (ms_unwind_init()) ms_stacks_init(MS_STACK_MOST);
    inside--;
}

__attribute__((destructor)) static void finish(void) {
    inside++;
    const char *name = getenv("UNWIND_COMPARE");
    int file = name == NULL ? -1 : open(name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (file < 0) return;
#define COUNT(name) dprintf(file, "%s %lu\n", #name, (unsigned long)counts.name);
    COUNTS(COUNT)
#undef COUNT
    dprintf(file, "stacks %u\n", ms_stack_count());
    for (int i = 0; state != NULL && i < MS_UNWIND_END_COUNT; i++) {
        if (state->stats.ends[i]) dprintf(file, "end %lu %s\n", state->stats.ends[i], ms_unwind_end_meaning[i]);
    }
    if (state != NULL) {
        dprintf(file, "reused %lu walked %lu compiled %lu\n", state->stats.reused, state->stats.frames_walked,
                state->stats.rows_compiled);
    }
    unsigned used = report_used < sizeof report ? report_used : sizeof report;
    if (used > 0 && write(file, report, used) > 0) { /* what the addresses above mean */
        int maps = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
        for (ssize_t n; (n = read(maps, report, sizeof report)) > 0;) {
            if (write(file, report, (size_t)n) < 0) break;
        }
        close(maps);
    }
    close(file);
    inside--;
}
