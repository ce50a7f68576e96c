/* Stack capture against libunwind, frame by frame, in every kind of frame a C or C++ program on Linux makes; and
 * against itself: the stack read back from the table must be the plain walk's, recursion collapsed, whatever was
 * captured before.
 *
 * The program has its own ms_os_* so that memory can be made to fail. */
#define _GNU_SOURCE
#include "alloc/os.h"
#include "tests/collapse.h"
#include "tests/support.h"
#include "tracking/stacks.h"
#include "tracking/unwind.h"
#include "tracking/unwind_table.h"

#define UNW_LOCAL_ONLY
#include <alloca.h>
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <libunwind.h>
#include <link.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

enum { DEPTH = 200, ROOM = DEPTH + 16 };

/* Memory. */
static _Atomic int memory_fails;
static void (*before_failing)(void); /* called once, by whoever maps more than a chunk of nodes, and gets nothing */

void *ms_os_map_metadata(size_t bytes) {
    if (memory_fails) return NULL;
    if (before_failing != NULL && bytes > MS_STACK_CHUNK * sizeof(ms_stack_node_t)) {
        void (*first)(void) = before_failing;
        before_failing = NULL;
        first();
        return NULL;
    }
    void *start = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return start == MAP_FAILED ? NULL : start;
}

void ms_os_purge(void *start, size_t bytes) {
    madvise(start, bytes, MADV_DONTNEED);
}

/* What leaves the memory is a matter of tests/test_os.c. */
void ms_os_forget_file(const void *start, size_t bytes) {
    (void)start, (void)bytes;
}

/* splitmix64 */
static uint64_t random_next(uint64_t *random) {
    *random += 0x9e3779b97f4a7c15u;
    uint64_t z = *random;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* One stack taken three ways. */
typedef struct {
    uintptr_t pcs[ROOM];
    unsigned count;
} frames_t;

static __thread ms_unwind_thread_t *state;
static __thread unsigned depth_limit = DEPTH;
static __thread uint64_t compared;

static void start(void) {
    if (ms_stack_table.max_nodes == 0) {
        ck_assert(ms_stacks_init(MS_STACK_MOST));
        ck_assert(ms_unwind_init());
    }
    if (state == NULL) state = ms_os_map_metadata(sizeof(*state));
    depth_limit = DEPTH;
    compared = 0;
}

static void check_equal(const char *what, const frames_t *left, const frames_t *right, ms_unwind_end_t end) {
    unsigned i = 0;
    while (i < left->count && i < right->count && left->pcs[i] == right->pcs[i]) i++;
    if (i == left->count && i == right->count) return;
    ck_abort_msg("%s: frame %u of %u and %u: %#lx, %#lx; ended: %s", what, i, left->count, right->count,
                 (unsigned long)(i < left->count ? left->pcs[i] : 0),
                 (unsigned long)(i < right->count ? right->pcs[i] : 0), ms_unwind_end_meaning[end]);
}

/* A stack of the table beside a plain walk. */
static void check_site(const char *what, const frames_t *site, const frames_t *walk, ms_unwind_end_t end) {
    frames_t collapsed = *walk;
    collapsed.count = collapse(collapsed.pcs, collapsed.count);
    check_equal(what, site, &collapsed, end);
}

static void read_back(uint32_t site, frames_t *frames) {
    uint64_t pcs[ROOM];
    frames->count = (unsigned)ms_stack_pcs(site, pcs, ROOM);
    for (unsigned i = 0; i < frames->count; i++) frames->pcs[i] = pcs[i];
}

/* False: libunwind does not find pc at all. */
static bool take_with_libunwind(uintptr_t pc, frames_t *frames) {
    static __thread void *raw[20000];
    int taken = unw_backtrace(raw, 20000), first = 0;
    while (first < taken && (uintptr_t)raw[first] != pc) first++;
    frames->count = 0;
    for (int i = first; i < taken && frames->count < depth_limit; i++) frames->pcs[frames->count++] = (uintptr_t)raw[i];
    return first < taken;
}

/* Takes and compares the stack that starts with the caller. */
static __attribute__((noinline)) void take(void) {
    frames_t site, walk, other;
    ms_unwind_end_t end;
    uintptr_t pc, sp, fp;
    MS_UNWIND_CALLER(pc, sp, fp);
    errno = 77;
    read_back(ms_unwind_site(state, pc, sp, fp, depth_limit), &site);
    walk.count = ms_unwind_pcs(state, pc, sp, fp, walk.pcs, depth_limit, &end);
    ck_assert_int_eq(errno, 77);
    ck_assert(take_with_libunwind(pc, &other));
    check_site("site and walk", &site, &walk, end);
    check_equal("walk and libunwind", &walk, &other, end);
    compared++;
}

/* Without libunwind, for places where it cannot go. */
static __attribute__((noinline)) unsigned take_ours(ms_unwind_end_t *end) {
    frames_t site, walk;
    uintptr_t pc, sp, fp;
    MS_UNWIND_CALLER(pc, sp, fp);
    read_back(ms_unwind_site(state, pc, sp, fp, depth_limit), &site);
    walk.count = ms_unwind_pcs(state, pc, sp, fp, walk.pcs, depth_limit, end);
    check_site("site and walk", &site, &walk, *end);
    return walk.count;
}

/* A tree of calls through frames of every kind: plain, large, saved registers, alloca (CFA from rbp), realigned. */
#define NO_TAIL_CALL __asm__ volatile("" ::: "memory")
typedef void level_fn(unsigned left, uint64_t path);
static level_fn level_plain, level_large, level_alloca, level_aligned, level_busy;

static void descend(unsigned left, uint64_t path) {
    static level_fn *const levels[] = {level_plain, level_large, level_alloca, level_aligned,
                                       level_busy,  level_plain, level_busy,   level_plain};
    if (left == 0) {
        take();
    } else if (path & 8) {
        levels[path & 7](left - 1, path >> 4 | path << 60);
    } else {
        levels[path & 7](left - 1, path >> 4 | path << 60);
        if ((path & 0x70) == 0) take();
    }
    NO_TAIL_CALL;
}

static __attribute__((noinline)) void level_plain(unsigned left, uint64_t path) {
    descend(left, path);
}

static __attribute__((noinline)) void level_large(unsigned left, uint64_t path) {
    volatile char room[5000];
    room[path % sizeof room] = 1;
    descend(left, path);
}

static __attribute__((noinline)) void level_alloca(unsigned left, uint64_t path) {
    volatile char *room = alloca(path % 300 + 1);
    room[0] = 1;
    descend(left, path);
    room[0] = 2;
}

static __attribute__((noinline)) void level_aligned(unsigned left, uint64_t path) {
    volatile char aligned[64] __attribute__((aligned(64)));
    volatile char *room = alloca(path % 100 + 1);
    aligned[0] = room[0] = 1;
    descend(left, path);
    room[0] = aligned[0];
}

static __attribute__((noinline)) void level_busy(unsigned left, uint64_t path) {
    uint64_t a = path * 3, b = path * 5, c = path * 7, d = path * 11, e = path * 13, f = path * 17;
    __asm__ volatile("" : "+r"(a), "+r"(b), "+r"(c), "+r"(d), "+r"(e), "+r"(f));
    descend(left, path);
    __asm__ volatile("" ::"r"(a), "r"(b), "r"(c), "r"(d), "r"(e), "r"(f));
}

static void descend_often(unsigned times, uint64_t seed) {
    uint64_t path = 0;
    for (unsigned i = 0; i < times; i++) {
        uint64_t random = random_next(&seed);
        if (random % 3 == 0) path = random_next(&seed); /* else the stack before, or a near relative */
        if (random % 3 == 1) path ^= (uint64_t)1 << (random >> 8) % 60;
        descend((unsigned)(random >> 16) % 40, path);
    }
}

START_TEST(every_kind_of_frame) {
    start();
    descend_often(3000, 1);
    ck_assert_uint_ge(compared, 3000);
    ck_assert_uint_gt(state->stats.reused, state->stats.captures / 2);
    ck_assert_uint_eq(state->stats.ends[MS_UNWIND_END_root], state->stats.captures);
}
END_TEST

static __attribute__((noinline)) void recurse(unsigned left) {
    if (left > 0) recurse(left - 1);
    take();
    NO_TAIL_CALL;
}

START_TEST(deep_recursion_keeps_the_innermost_frames) {
    start();
    depth_limit = 64;
    recurse(1000);
    depth_limit = DEPTH;
    recurse(1000);
    depth_limit = 1;
    recurse(10);
    ck_assert_uint_gt(state->stats.ends[MS_UNWIND_END_depth], 1000);
}
END_TEST

/* Circles of calls. The frames at the end of one, and the ones it was cut at, make a few stacks; its depth makes none.
 */
typedef void circle_fn(unsigned left);
static circle_fn circle_self, circle_of_two, circle_of_three;
static _Atomic unsigned turns; /* no tail calls, no functions found to be the same */

static __attribute__((noinline)) void circle_self(unsigned left) {
    if (left > 0) circle_self(left - 1);
    take();
    turns++;
}

static __attribute__((noinline)) void back_of_two(unsigned left) {
    if (left > 0) circle_of_two(left - 1);
    turns += 2;
}

static __attribute__((noinline)) void circle_of_two(unsigned left) {
    if (left > 0) back_of_two(left - 1);
    take();
    turns++;
}

static __attribute__((noinline)) void last_of_three(unsigned left) {
    if (left > 0) circle_of_three(left - 1);
    take();
    turns += 3;
}

static __attribute__((noinline)) void middle_of_three(unsigned left) {
    if (left > 0) last_of_three(left - 1);
    turns += 2;
}

static __attribute__((noinline)) void circle_of_three(unsigned left) {
    if (left > 0) middle_of_three(left - 1);
    take();
    turns++;
}

START_TEST(recursion_makes_no_stacks_with_its_depth) {
    start();
    static circle_fn *const circles[] = {circle_self, circle_of_two, circle_of_three};
    for (unsigned i = 0; i < 3; i++) {
        uint32_t before = 0;
        static const unsigned depths[] = {30, 150, 1500, 3000}; /* whole, whole, cut at depth_limit */
        for (volatile unsigned j = 0; j < 4; j++) {             /* not unrolled: every call from the same place */
            if (j == 1 || j == 3) before = ms_stack_count();
            circles[i](depths[j]);
            if (j == 1 || j == 3) ck_assert_uint_eq(ms_stack_count(), before);
        }
    }
}
END_TEST

static int compare_ints(const void *a, const void *b) {
    take();
    return *(const int *)a - *(const int *)b;
}

START_TEST(callbacks_of_libc) {
    start();
    int numbers[50];
    for (int i = 0; i < 50; i++) numbers[i] = i * 29 % 53;
    qsort(numbers, 50, sizeof(int), compare_ints);
    int key = 7;
    ck_assert_ptr_nonnull(bsearch(&key, numbers, 50, sizeof(int), compare_ints));
    ck_assert_uint_gt(compared, 50);
}
END_TEST

typedef void callback_t(void);
void cxx_sort(callback_t *call);
void cxx_function(callback_t *call);
void cxx_catch(callback_t *call);
void cxx_destructor(callback_t *call);
void cxx_virtual(callback_t *call);

START_TEST(frames_of_cxx) {
    start();
    cxx_sort(take);
    ck_assert_uint_gt(compared, 100);
    cxx_function(take);
    cxx_catch(take);
    cxx_destructor(take);
    cxx_virtual(take);
}
END_TEST

/* Signals. */
static void on_signal(int number) {
    (void)number;
    take();
}

static void catch_signal(int number, void (*handler)(int), int flags) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
    ck_assert_int_eq(sigaction(number, &action, NULL), 0);
}

static __attribute__((noinline)) void raise_deep(unsigned left) {
    if (left > 0) {
        raise_deep(left - 1);
    } else {
        raise(SIGUSR1);
    }
    take();
}

START_TEST(signal_frames) {
    start();
    catch_signal(SIGUSR1, on_signal, 0);
    for (unsigned i = 0; i < 20; i++) raise_deep(i);
    char *alternate = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    stack_t stack = {.ss_sp = alternate, .ss_size = 1 << 16};
    ck_assert_int_eq(sigaltstack(&stack, NULL), 0);
    catch_signal(SIGUSR1, on_signal, SA_ONSTACK);
    for (unsigned i = 0; i < 20; i++) raise_deep(i);
    ck_assert_uint_ge(compared, 40);
    ck_assert_uint_eq(state->stats.ends[MS_UNWIND_END_root], state->stats.captures);
}
END_TEST

/* A signal at every instruction of some code: prologues, epilogues, procedure linkage table, lazy binding, vDSO, and
 * the hand-written parts of libc. */
static struct {
    uint64_t instructions, wrong;
    frames_t walk, other; /* of the first wrong one; asserting in the handler would disturb what is stepped through */
    ms_unwind_end_t end;
} stepped;

static void on_step(int number, siginfo_t *info, void *context) {
    (void)number, (void)info;
    static frames_t walk, other;
    ms_unwind_end_t end;
    uintptr_t pc, sp, fp;
    MS_UNWIND_CALLER(pc, sp, fp); /* the frame that returns from the signal */
    walk.count = ms_unwind_pcs(state, pc, sp, fp, walk.pcs, depth_limit, &end);
    bool found = take_with_libunwind(pc, &other);
    bool right = found && end == MS_UNWIND_END_root && walk.count == other.count && walk.count >= 2 &&
                 memcmp(walk.pcs, other.pcs, walk.count * sizeof(walk.pcs[0])) == 0 &&
                 walk.pcs[1] == (uintptr_t)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
    if (!right && stepped.wrong++ == 0) {
        stepped.walk = walk;
        stepped.other = other;
        stepped.end = end;
    }
    stepped.instructions++;
}

/* Not inlined and with a frame pointer, so that the pushes in here do not disturb what .eh_frame says. */
static __attribute__((noinline)) void set_trap_flag(bool on) {
    __asm__ volatile("" ::"r"(__builtin_frame_address(0)));
    __asm__ volatile("lea -128(%%rsp), %%rsp\n\t"
                     "pushf\n\t"
                     "andq $~0x100, (%%rsp)\n\t"
                     "orq %0, (%%rsp)\n\t"
                     "popf\n\t"
                     "lea 128(%%rsp), %%rsp" ::"r"(on ? (uint64_t)0x100 : 0)
                     : "cc", "memory");
}

static int compare_plainly(const void *a, const void *b) {
    return *(const int *)a - *(const int *)b;
}

static __attribute__((noinline)) void work_to_step_through(void) {
    int numbers[6] = {5, 2, 8, 1, 9, 3};
    char text[64];
    struct timespec now;
    qsort(numbers, 6, sizeof(int), compare_plainly);
    snprintf(text, sizeof text, "%d %.3f %s", numbers[0], 2.5, "text");
    clock_gettime(CLOCK_MONOTONIC, &now); /* vDSO */
    strtod(text, NULL);
    memmove(text + 1, text, 40);
}

START_TEST(every_instruction) {
    start();
    struct sigaction action = {.sa_sigaction = on_step, .sa_flags = SA_SIGINFO};
    ck_assert_int_eq(sigaction(SIGTRAP, &action, NULL), 0);
    set_trap_flag(true);
    work_to_step_through();
    set_trap_flag(false);
    ck_assert_uint_gt(stepped.instructions, 1000);
    check_equal("at an instruction: walk and libunwind", &stepped.walk, &stepped.other, stepped.end);
    ck_assert_uint_eq(stepped.wrong, 0);
}
END_TEST

/* Handlers that allocate, at any moment of a capture. */
static _Atomic unsigned handled;

static void on_timer(int number) {
    (void)number;
    uintptr_t pc, sp, fp;
    uint64_t pcs[ROOM];
    MS_UNWIND_CALLER(pc, sp, fp);
    uint32_t site = ms_unwind_site(state, pc, sp, fp, depth_limit);
    size_t count = ms_stack_pcs(site, pcs, ROOM);
    if (count == 0 || pcs[0] != pc) abort();
    handled++;
}

static __attribute__((noinline)) void capture_deep(unsigned left, uint64_t path) {
    if (left > 0) {
        if (path & 1) {
            capture_deep(left - 1, path >> 1);
        } else {
            capture_deep(left - 1, path >> 1);
        }
    } else {
        ms_unwind_end_t end;
        frames_t site, walk;
        uintptr_t pc, sp, fp;
        MS_UNWIND_CALLER(pc, sp, fp);
        for (int i = 0; i < 50; i++) {
            read_back(ms_unwind_site(state, pc, sp, fp, depth_limit), &site);
            walk.count = ms_unwind_pcs(state, pc, sp, fp, walk.pcs, depth_limit, &end);
            check_site("under signals: site and walk", &site, &walk, end);
        }
    }
    NO_TAIL_CALL;
}

START_TEST(signals_inside_a_capture) {
    start();
    catch_signal(SIGALRM, on_timer, SA_RESTART);
    struct itimerval often = {{0, 50}, {0, 50}}, never = {0};
    setitimer(ITIMER_REAL, &often, NULL);
    uint64_t random = 5;
    while (handled < 2000) capture_deep(25, random_next(&random));
    setitimer(ITIMER_REAL, &never, NULL);
    ck_assert_uint_eq(state->busy, 0);
}
END_TEST

START_TEST(a_capture_left_by_longjmp) {
    start();
    ms_unwind_end_t end;
    level_large(0, 1);                                          /* a capture from further down */
    state->busy = (uintptr_t)__builtin_frame_address(0) - 2000; /* what longjmp out of a handler leaves */
    ck_assert_uint_gt(take_ours(&end), 2);
    ck_assert_uint_eq(state->stats.ends[MS_UNWIND_END_reentered], 0);
    state->busy = (uintptr_t)__builtin_frame_address(0) + 2000; /* what a handler on the same stack finds */
    uintptr_t pc, sp, fp;
    uint64_t pcs[ROOM];
    MS_UNWIND_HERE(pc, sp, fp);
    uint32_t site = ms_unwind_site(state, pc, sp, fp, DEPTH);
    ck_assert_uint_eq(ms_stack_pcs(site, pcs, ROOM), 1);
    ck_assert_uint_eq(pcs[0], pc);
    ck_assert_uint_eq(state->stats.ends[MS_UNWIND_END_reentered], 1);
    state->busy = 0;
    take();
}
END_TEST

/* Fibers: stacks of their own between pages that must not be touched. */
enum { FIBERS = 4, FIBER_BYTES = 65536 };
static ucontext_t scheduler, fibers[FIBERS];

static void fiber_main(int number) {
    for (unsigned i = 0; i < 200; i++) {
        descend(i % 12, (uint64_t)number * 977 + i * i * 31);
        swapcontext(&fibers[number], &scheduler);
    }
}

START_TEST(fibers_end_at_their_own_root) {
    start();
    for (int i = 0; i < FIBERS; i++) {
        char *guarded = mmap(NULL, FIBER_BYTES + 2 * MS_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        ck_assert_int_eq(mprotect(guarded + MS_PAGE, FIBER_BYTES, PROT_READ | PROT_WRITE), 0);
        getcontext(&fibers[i]);
        fibers[i].uc_stack = (stack_t){.ss_sp = guarded + MS_PAGE, .ss_size = FIBER_BYTES};
        fibers[i].uc_link = &scheduler;
        makecontext(&fibers[i], (void (*)(void))(uintptr_t)fiber_main, 1, i);
    }
    for (int turn = 0; turn < 200; turn++) {
        for (int i = 0; i < FIBERS; i++) {
            swapcontext(&scheduler, &fibers[i]);
            descend(3, (uint64_t)turn);
        }
    }
    ck_assert_uint_gt(compared, 1000);
    ck_assert_uint_eq(state->stats.ends[MS_UNWIND_END_bad_stack], 0);
}
END_TEST

/* Code in no module: the frame calls `take_ours` through eleven bytes made at run time. */
typedef unsigned jit_fn(unsigned (*call)(ms_unwind_end_t *), ms_unwind_end_t *end);

START_TEST(generated_code_ends_the_stack) {
    start();
    static const uint8_t code[] = {0x48, 0x83, 0xec, 0x08, 0x48, 0x89, 0xf8,
                                   0x48, 0x89, 0xf7,                          /* sub 8,rsp; rax=rdi; rdi=rsi */
                                   0xff, 0xd0, 0x48, 0x83, 0xc4, 0x08, 0xc3}; /* call rax; add 8,rsp; ret */
    void *page = mmap(NULL, MS_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(page, code, sizeof code);
    ck_assert_int_eq(mprotect(page, MS_PAGE, PROT_READ | PROT_EXEC), 0);
    jit_fn *generated = (jit_fn *)(uintptr_t)page;
    ms_unwind_end_t end;
    for (int i = 0; i < 100; i++) {
        ck_assert_uint_eq(generated(take_ours, &end), 1);
        ck_assert_int_eq(end, MS_UNWIND_END_foreign_code);
        take();
    }
}
END_TEST

/* Registers that are wrong in every way a torn-down stack can make them. */
START_TEST(wrong_registers_do_no_harm) {
    start();
    uint64_t random = 9;
    uintptr_t pcs[ROOM];
    for (int i = 0; i < 300000; i++) {
        uintptr_t pc, sp, fp;
        ms_unwind_end_t end;
        MS_UNWIND_HERE(pc, sp, fp);
        uint64_t choice = random_next(&random);
        uintptr_t near = random_next(&random) % 20000;
        if (choice & 1) pc += near;
        if (choice & 2) pc = (uintptr_t)&qsort + near * 16;
        if (choice & 4) fp = sp + near;
        if (choice & 8) fp = random_next(&random);
        if (choice & 16) fp = (uintptr_t)&random & ~(uintptr_t)7;
        if (choice & 32) sp += near % 512 * 8;
        if ((choice & 0xff00) == 0) pc = random_next(&random);
        unsigned count = ms_unwind_pcs(state, pc, sp, fp, pcs, DEPTH, &end);
        ck_assert_uint_ge(count, 1);
        if (choice & 64) ms_unwind_site(state, pc, sp, fp, DEPTH);
    }
}
END_TEST

/* Libraries that come and go: twins of the same layout whose frames differ in size, at the same address. libunwind is
 * no oracle here, it remembers rows of libraries that are gone; the stack around the call is known. */
static frames_t around; /* taken right before the call, by the function that calls */

static __attribute__((noinline)) void take_around(void) {
    ms_unwind_end_t end;
    uintptr_t pc, sp, fp;
    MS_UNWIND_CALLER(pc, sp, fp);
    around.count = ms_unwind_pcs(state, pc, sp, fp, around.pcs, DEPTH, &end);
}

static __attribute__((noinline)) void take_in_twin(void) {
    frames_t site, walk;
    ms_unwind_end_t end;
    uintptr_t pc, sp, fp;
    MS_UNWIND_CALLER(pc, sp, fp);
    read_back(ms_unwind_site(state, pc, sp, fp, DEPTH), &site);
    walk.count = ms_unwind_pcs(state, pc, sp, fp, walk.pcs, DEPTH, &end);
    check_site("site and walk", &site, &walk, end);
    ck_assert_uint_eq(walk.count, around.count + 1);
    ck_assert_uint_lt(walk.pcs[1] - around.pcs[0], 100); /* the next call of the same function */
    for (unsigned i = 1; i < around.count; i++) ck_assert_uint_eq(walk.pcs[i + 1], around.pcs[i]);
    compared++;
}

static const char twin_source[] = "void twin(void (*call)(void), unsigned path) {\n"
                                  "    volatile char room[ROOM];\n"
                                  "    room[path % ROOM] = 1;\n"
                                  "    call();\n"
                                  "    room[0] = room[1];\n"
                                  "}\n";
typedef void twin_fn(void (*call)(void), unsigned path);

static void compile_twin(const char *directory, const char *name, const char *room, const char *build_id) {
    char command[1024];
    const char *compiler = getenv("CC");
    snprintf(command, sizeof command,
             "%s -x c - -DROOM=%s -O1 -fPIC -shared -nostartfiles -fomit-frame-pointer %s -o %s/%s.so",
             compiler ? compiler : "cc", room, build_id, directory, name);
    FILE *pipe = popen(command, "w");
    ck_assert_ptr_nonnull(pipe);
    fputs(twin_source, pipe);
    ck_assert_int_eq(pclose(pipe), 0);
}

static __attribute__((noinline)) void call_twin(const char *directory, const char *name) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s.so", directory, name);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    ck_assert_msg(library != NULL, "%s", dlerror());
    union {
        void *object;
        twin_fn *function;
    } twin = {dlsym(library, "twin")};
    for (unsigned i = 0; i < 5; i++) {
        take_around();
        twin.function(take_in_twin, i);
    }
    dlclose(library);
}

static void libraries_come_and_go(const char *build_id) {
    char directory[] = "/tmp/memscope-unwind-XXXXXX", path[64];
    ck_assert_ptr_nonnull(mkdtemp(directory));
    compile_twin(directory, "small", "200", build_id);
    compile_twin(directory, "large", "1000", build_id);
    for (int i = 0; i < 20; i++) call_twin(directory, i % 3 == 1 ? "large" : "small");
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s.so", directory, i ? "small" : "large");
        unlink(path);
    }
    rmdir(directory);
    ck_assert_uint_eq(compared, 100);
}

START_TEST(libraries_with_a_build_id) {
    start();
    libraries_come_and_go("-Wl,--build-id=sha1");
}
END_TEST

START_TEST(libraries_without_a_build_id) {
    start();
    libraries_come_and_go("-Wl,--build-id=none");
}
END_TEST

/* Threads. */
static void *thread_main(void *argument) {
    start();
    descend_often(40, (uintptr_t)argument % 10);
    return (void *)(uintptr_t)compared;
}

START_TEST(hundred_threads) {
    start();
    pthread_t threads[100];
    for (uintptr_t i = 0; i < 100; i++) ck_assert_int_eq(pthread_create(&threads[i], NULL, thread_main, (void *)i), 0);
    for (int i = 0; i < 100; i++) {
        void *result;
        pthread_join(threads[i], &result);
        ck_assert_uint_ge((uintptr_t)result, 40);
    }
}
END_TEST

START_TEST(a_state_handed_to_another_thread) {
    start();
    descend_often(50, 3);
    ms_unwind_thread_t *shared = state;
    ms_unwind_thread_reset(shared);
    ck_assert_uint_eq(shared->depth, 0);
    descend_often(50, 3);
}
END_TEST

START_TEST(child_of_a_fork) {
    start();
    descend_often(20, 4);
    pid_t child = fork();
    if (child == 0) {
        descend_often(20, 5);
        _exit(compared > 30 ? 0 : 1);
    }
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
}
END_TEST

/* Leaving out the allocator's own frames: an entry point with one, two or three of them above the capture. */
static __attribute__((noinline)) void own_frame(unsigned left, uintptr_t caller) {
    volatile char room[48];
    room[left] = 1;
    if (left > 0) {
        own_frame(left - 1, caller);
    } else {
        frames_t site, other;
        uintptr_t pc, sp, fp;
        MS_UNWIND_HERE(pc, sp, fp);
        ck_assert(ms_unwind_to(state, caller, &pc, &sp, &fp));
        ck_assert_uint_eq(pc, caller);
        read_back(ms_unwind_site(state, pc, sp, fp, DEPTH), &site);
        ck_assert(take_with_libunwind(caller, &other));
        check_site("from the caller on", &site, &other, MS_UNWIND_END_root);
        compared++;
    }
    room[0] = room[1];
}

static __attribute__((noinline)) void entry_point(unsigned own_frames) {
    own_frame(own_frames, (uintptr_t)__builtin_return_address(0));
    NO_TAIL_CALL;
}

static __attribute__((noinline)) void call_entry_point(unsigned left, uint64_t path) {
    if (left > 0) {
        call_entry_point(left - 1, path);
    } else if (path & 1) {
        entry_point(path >> 1 & 3);
    } else {
        volatile char *room = alloca(path % 200 + 1); /* rbp matters */
        room[0] = 1;
        entry_point(path >> 1 & 3);
    }
    NO_TAIL_CALL;
}

START_TEST(own_frames_are_left_out) {
    start();
    uint64_t random = 13;
    for (int i = 0; i < 2000; i++) call_entry_point(random_next(&random) % 8, random_next(&random));
    ck_assert_uint_eq(compared, 2000);
    uintptr_t pc, sp, fp;
    MS_UNWIND_HERE(pc, sp, fp);
    ck_assert(!ms_unwind_to(state, 12345, &pc, &sp, &fp));
}
END_TEST

/* Corrupt unwind information. */
static int copy_eh(struct dl_phdr_info *info, size_t size, void *argument) {
    (void)size;
    ms_eh_t *eh = argument;
    uintptr_t wanted = (uintptr_t)&copy_eh;
    bool holds = false;
    const ElfW(Phdr) *index = NULL;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        if (p->p_type == PT_LOAD && wanted - info->dlpi_addr - p->p_vaddr < p->p_memsz) holds = true;
        if (p->p_type == PT_GNU_EH_FRAME) index = p;
    }
    if (!holds || index == NULL) return 0;
    uintptr_t at = info->dlpi_addr + index->p_vaddr;
    int32_t to_frames;
    memcpy(&to_frames, (const char *)at + 4, sizeof to_frames);
    uintptr_t frames = at + 4 + (uintptr_t)(intptr_t)to_frames;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        uintptr_t segment = info->dlpi_addr + p->p_vaddr;
        if (p->p_type != PT_LOAD || frames - segment >= p->p_filesz) continue;
        eh->frames = (ms_eh_bytes_t){(const uint8_t *)frames, segment + p->p_filesz - frames, frames};
    }
    eh->index = (ms_eh_bytes_t){(const uint8_t *)at, index->p_memsz, at};
    return 1;
}

static ms_eh_bytes_t copied(const ms_eh_bytes_t *from) {
    uint8_t *bytes = malloc(from->size); /* exactly as large, for AddressSanitizer and valgrind */
    memcpy(bytes, from->bytes, from->size);
    return (ms_eh_bytes_t){bytes, from->size, from->address};
}

static void corrupt(const ms_eh_bytes_t *bytes, uint64_t *random) {
    uint8_t *at = (uint8_t *)(uintptr_t)bytes->bytes;
    for (unsigned n = 1 + random_next(random) % 40; n > 0; n--) {
        uint64_t value = random_next(random);
        at[random_next(random) % bytes->size] = (uint8_t)(value & 0x100 ? value : value & 0x200 ? 0xff : value & 0x3f);
    }
}

START_TEST(corrupt_unwind_information) {
    ms_eh_t original = {0};
    dl_iterate_phdr(copy_eh, &original);
    ck_assert_uint_gt(original.frames.size, 0);
    ms_eh_t copy = {copied(&original.index), copied(&original.frames)};
    uint64_t random = 11;
    uintptr_t code = (uintptr_t)&level_plain;
    unsigned found = 0;
    for (unsigned i = 0; i < 20000; i++) {
        uintptr_t pc = code - 8000 + i;
        int bx, other_bx;
        ms_row_t row = ms_row_compile(&copy, pc, &bx);
        ck_assert_uint_eq(row, ms_row_compile(&original, pc, &other_bx));
        ck_assert_int_eq(bx, other_bx);
        found += ms_row_kind(row) == MS_ROW_SP;
    }
    ck_assert_uint_gt(found, 1000);
    for (unsigned i = 0; i < 3000; i++) {
        corrupt(&copy.frames, &random);
        if (i % 4 == 0) corrupt(&copy.index, &random);
        for (unsigned n = 0; n < 30; n++) {
            int bx;
            ms_row_t row = ms_row_compile(&copy, code - 8000 + random_next(&random) % 30000, &bx);
            ck_assert_uint_ne(ms_row_kind(row), 0);
        }
        if (i % 50 == 0) {
            memcpy((void *)(uintptr_t)copy.frames.bytes, original.frames.bytes, original.frames.size);
            memcpy((void *)(uintptr_t)copy.index.bytes, original.index.bytes, original.index.size);
        }
        ms_eh_t cut = copy; /* and cut short */
        cut.frames.size = random_next(&random) % copy.frames.size;
        cut.index.size = random_next(&random) % copy.index.size;
        int bx;
        ms_row_compile(&cut, code, &bx);
    }
    free((void *)(uintptr_t)copy.frames.bytes);
    free((void *)(uintptr_t)copy.index.bytes);
}
END_TEST

/* The stack table. */
static uint64_t table_pc(uint64_t seed, unsigned level) {
    uint64_t random = seed * 64 + level;
    return (random_next(&random) >> 17) | 1;
}

static uint32_t table_stack(uint64_t seed) {
    uintptr_t pcs[4];
    for (unsigned i = 0; i < 4; i++) pcs[i] = table_pc(i < 2 ? seed : seed / 16, i);
    return ms_stack_intern(pcs, 4);
}

START_TEST(a_million_stacks_and_the_cap) {
    start();
    enum { STACKS = 1000000, NODES = 1000000 };
    ms_stack_table.max_nodes = ms_stack_table.next + NODES;
    uint64_t before = ms_stack_overflow();
    uint32_t *ids = malloc(STACKS * sizeof(uint32_t));
    unsigned others = 0;
    for (unsigned i = 0; i < STACKS; i++) {
        ids[i] = table_stack(i);
        others += ids[i] == MS_STACK_OTHER;
    }
    ck_assert_uint_gt(others, 0);
    ck_assert_uint_eq(ms_stack_overflow(), before + others);
    ck_assert_uint_eq(ms_stack_table.next, ms_stack_table.max_nodes);
    for (unsigned i = 0; i < STACKS; i++) {
        ck_assert_uint_eq(table_stack(i), ids[i]);
        uint64_t pcs[4];
        size_t count = ms_stack_pcs(ids[i], pcs, 4);
        ck_assert_uint_eq(count, ids[i] == MS_STACK_OTHER ? 0 : 4);
        for (unsigned level = 0; level < count; level++) {
            ck_assert_uint_eq(pcs[level], table_pc(level < 2 ? i : i / 16, level));
        }
    }
    ck_assert_uint_eq(ms_stack_child(MS_STACK_OTHER, 4711), MS_STACK_OTHER);
    ck_assert_uint_eq(ms_stack_pcs(MS_STACK_NONE, NULL, 0), 0);
    ck_assert_uint_eq(ms_stack_pcs(UINT32_MAX, NULL, 0), 0);
    ms_stack_table.max_nodes = MS_STACK_MOST;
    free(ids);
}
END_TEST

/* Every stack of up to nine calls from three places, and what is left of it, told in another way. */
START_TEST(recursion_stands_in_a_stack_once) {
    start();
    for (unsigned length = 1, words = 3; length <= 9; length++, words *= 3) {
        for (unsigned word = 0; word < words; word++) {
            uintptr_t pcs[9];
            uint64_t got[9];
            for (unsigned i = 0, letters = word; i < length; i++, letters /= 3) pcs[i] = 4711 + letters % 3;
            uint32_t site = ms_stack_intern(pcs, length);
            ck_assert_uint_eq(site, ms_stack_intern(pcs, length));
            unsigned left = collapse(pcs, length);
            ck_assert_uint_eq(ms_stack_pcs(site, got, 9), left);
            ck_assert_mem_eq(pcs, got, left * sizeof pcs[0]);
        }
    }
}
END_TEST

enum { RACERS = 8, RACE_STACKS = 60000, RACE_SEED = 5000000 };

static void *race(void *argument) {
    uint32_t *ids = argument;
    for (unsigned i = 0; i < RACE_STACKS; i++) ids[i] = table_stack(RACE_SEED + i);
    return NULL;
}

START_TEST(threads_that_add_the_same_stacks) {
    start();
    static uint32_t ids[RACERS][RACE_STACKS];
    pthread_t threads[RACERS];
    uint32_t from = ms_stack_table.next;
    for (int i = 0; i < RACERS; i++) pthread_create(&threads[i], NULL, race, ids[i]);
    for (int i = 0; i < RACERS; i++) pthread_join(threads[i], NULL);
    for (int i = 1; i < RACERS; i++) ck_assert_mem_eq(ids[0], ids[i], sizeof ids[0]);
    unsigned used = 0;
    for (uint32_t id = from; id < ms_stack_table.next; id++) {
        used += ms_stack_table.chunks[id / MS_STACK_CHUNK][id % MS_STACK_CHUNK].pc != 0;
    }
    /* a node that others may have found while the index was replaced keeps its frame: at most one of each thread and index */
    unsigned expected = RACE_STACKS * 2 + (RACE_STACKS / 16) * 2;
    ck_assert_uint_ge(used, expected);
    ck_assert_uint_le(used - expected, RACERS * 16);
}
END_TEST

/* What another thread does while one waits for the memory of a larger index: it makes that index, gives back the old one's
 * memory, and adds the same stack. The one that waited then finds the old index empty and puts its own node there, where
 * whoever came as early as it finds it. */
static uint64_t contested;
static uint32_t others_id;

static void add_contested(void) {
    others_id = ms_stack_child(MS_STACK_NONE, contested);
}

START_TEST(a_node_others_may_have_found_keeps_its_frame) {
    start();
    uint32_t own = MS_STACK_NONE, left_behind;
    contested = 7000000001;
    do { /* again where the stack's place is in the old index's first page, which stays */
        others_id = MS_STACK_NONE;
        before_failing = add_contested;
        while (others_id == MS_STACK_NONE) own = ms_stack_child(MS_STACK_NONE, contested += 2);
        ck_assert_uint_eq(own, others_id);
        left_behind = ms_stack_table.next - 1;
    } while (left_behind == others_id);
    uint64_t pc = 0;
    ck_assert_uint_eq(ms_stack_pcs(left_behind, &pc, 1), 1);
    ck_assert_uint_eq(pc, contested);
}
END_TEST

START_TEST(no_memory) {
    start();
    take();
    memory_fails = 1;
    ck_assert(!ms_unwind_init());
    uintptr_t pc, sp, fp;
    uint64_t pcs[ROOM];
    MS_UNWIND_HERE(pc, sp, fp);
    uint32_t site = ms_unwind_site(state, pc, sp, fp, DEPTH);
    ck_assert_uint_eq(ms_stack_pcs(site, pcs, ROOM), 1);
    ck_assert_uint_eq(state->stats.ends[MS_UNWIND_END_no_memory], 1);
    uint64_t others = 0;
    for (unsigned i = 0; i < 300000; i++) others += table_stack(20000000 + i) == MS_STACK_OTHER;
    ck_assert_uint_gt(others, 0);
    memory_fails = 0;
    ck_assert(ms_unwind_init());
    for (unsigned i = 0; i < 1000; i++) ck_assert_uint_ne(table_stack(30000000 + i), MS_STACK_OTHER);
    take();
}
END_TEST

/* ThreadSanitizer delivers signals late and does not like a test to assert in a handler; libunwind, at the end of a
 * thread, crashes in its mutexes. */
#if defined(__SANITIZE_THREAD__)
#define THREADS_SANITIZED 1
#elif defined(__has_feature)
#define THREADS_SANITIZED __has_feature(thread_sanitizer)
#else
#define THREADS_SANITIZED 0
#endif

static bool runs_here(const TTest *test) {
    return !THREADS_SANITIZED || (test != every_instruction && test != hundred_threads && test != signal_frames);
}

int main(void) {
    static const TTest *const *const tests[] = {&every_kind_of_frame,
                                                &deep_recursion_keeps_the_innermost_frames,
                                                &recursion_makes_no_stacks_with_its_depth,
                                                &callbacks_of_libc,
                                                &frames_of_cxx,
                                                &signal_frames,
                                                &every_instruction,
                                                &signals_inside_a_capture,
                                                &a_capture_left_by_longjmp,
                                                &fibers_end_at_their_own_root,
                                                &generated_code_ends_the_stack,
                                                &wrong_registers_do_no_harm,
                                                &libraries_with_a_build_id,
                                                &libraries_without_a_build_id,
                                                &hundred_threads,
                                                &a_state_handed_to_another_thread,
                                                &child_of_a_fork,
                                                &own_frames_are_left_out,
                                                &corrupt_unwind_information,
                                                &a_million_stacks_and_the_cap,
                                                &recursion_stands_in_a_stack_once,
                                                &threads_that_add_the_same_stacks,
                                                &a_node_others_may_have_found_keeps_its_frame,
                                                &no_memory};
    Suite *suite = suite_create("unwind");
    for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
        if (!runs_here(*tests[i])) continue;
        TCase *tcase = tcase_create((*tests[i])->name);
        tcase_set_timeout(tcase, 300);
        tcase_add_test(tcase, *tests[i]);
        suite_add_tcase(suite, tcase);
    }
    return support_run(suite);
}
