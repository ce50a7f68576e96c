/* Stack capture: the whole call stack of the running thread as one stack id (tracking/stacks.h), cheap enough for every
 * allocation, in programs built without frame pointers.
 *
 * How. A frame is three registers: pc (a return address), sp (the stack pointer once that call has returned: its CFA)
 * and fp (rbp). One row compiled from .eh_frame (unwind_table.h) says where the next outer frame's three are. Rows are
 * cached by pc in a table of the process.
 *
 * The repeated-stack shortcut. The thread keeps its last stack as an array of frames, outermost first, each with its
 * stack id. A capture walks outwards only until it meets a kept frame with the same pc, sp and fp; if the words of
 * memory that led from there to the outermost frame last time still hold the same values, the rest of the stack is the
 * same and the kept id stands for it; only the inner, changed frames are interned.
 * Why that is right: walking is a function of a frame's three registers, of the words it reads (a return address, a
 * saved rbp, rarely a saved CFA) and of the rows. Same registers, same words, same rows: same walk. rbp is compared only
 * where it matters: where an outer frame's row uses it before some row reloads it from memory.
 * Where it could be fooled: the rows. A module that was unloaded between two captures and replaced by another at the
 * same address, while every word compared still holds what it held, would keep the old outer frames. Rows themselves
 * are never stale: see unwind_table.h.
 *
 * What it never does: allocate, lock, call the loader except _dl_find_object (lock-free, async-signal-safe), or read
 * memory it has not seen to be readable. Words are read only at addresses that rise from frame to frame, start at sp,
 * and lie in pages that are known: the page of sp, on which this code runs, and pages above it that were probed, once
 * each, by a system call that fails instead of faulting. The known range belongs to one stack; when sp leaves it (a
 * fiber, an alternate signal stack) it starts anew, so another stack is never read by accident.
 *
 * A stack deeper than max_depth keeps its innermost frames. Recursion counts frame by frame there and is kept so by the
 * thread; the stack table has it once. A recursion deeper than max_depth is one more stack, without what called it.
 *
 * Signals: a capture inside a capture (a handler that allocates) answers with the caller alone and is counted. One that
 * was left for good by longjmp is noticed by the next capture and forgotten.
 *
 * Owner of ms_unwind_thread_t: the thread whose arena it lies in. Statistics are plain counters with that one writer. */
#ifndef MS_TRACKING_UNWIND_H
#define MS_TRACKING_UNWIND_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MS_UNWIND_MAX_DEPTH 256u /* frames of a stack at most; max_depth is clamped to it */

/* Why a walk ended. All but ROOT leave a stack cut short. */
#define MS_UNWIND_ENDS(X)                                                                                    \
    X(root, "outermost frame reached")                                                                       \
    X(depth, "stack_depth reached")                                                                          \
    X(foreign_code, "code in no module: generated at run time, or a torn-down stack")                        \
    X(no_row, "module without unwind information for this code")                                             \
    X(bad_row, "unwind information that is corrupt or of a kind this unwinder does not follow")               \
    X(bad_stack, "next frame not above this one, or not in readable memory")                                 \
    X(reentered, "signal handler inside a capture: caller only")                                             \
    X(no_memory, "no memory for the table of rows")
typedef enum {
#define MS_UNWIND_END_NAME(name, meaning) MS_UNWIND_END_##name,
    MS_UNWIND_ENDS(MS_UNWIND_END_NAME)
#undef MS_UNWIND_END_NAME
        MS_UNWIND_END_COUNT
} ms_unwind_end_t;

typedef struct ms_unwind_stats {
    uint64_t captures;                 /* calls of ms_unwind_site and ms_unwind_caller_alone */
    uint64_t reused;                   /* of those, stacks completed from the last one */
    uint64_t frames_walked;            /* frames found by a row */
    uint64_t rows_compiled;            /* rows that were not in the table */
    uint64_t ends[MS_UNWIND_END_COUNT]; /* captures by how their stack ended; sum == captures */
} ms_unwind_stats_t;

/* A frame of the kept stack. Invariant, outermost frame at index 0: frames[i].sp < frames[i-1].sp. */
typedef struct ms_unwind_frame {
    uintptr_t pc;
    uintptr_t sp;
    uintptr_t fp;
    uint32_t stack;    /* stack id of the frames 0 .. i */
    int16_t fp_words;  /* rbp was reloaded from frames[i-1].sp - 8 * fp_words; 0: it was not, or does not matter */
    uint8_t cfa_words; /* the sp of frame i-1 was read from fp - 8 * cfa_words; 0: it was computed */
    uint8_t fp_matters;
} ms_unwind_frame_t;
_Static_assert(sizeof(ms_unwind_frame_t) == 32, "8 KiB per thread");
_Static_assert(offsetof(ms_unwind_frame_t, cfa_words) == offsetof(ms_unwind_frame_t, fp_words) + 2, "read together");

/* A way out of the allocator's own frames, found once by their rows: from pc the caller's registers are at these
 * distances (bytes above sp), provided that the return addresses on the way are these. */
#define MS_UNWIND_PATHS 4u
#define MS_UNWIND_PATH_STEPS 6u
typedef struct ms_unwind_path {
    uintptr_t pc;
    uint32_t sp_bytes; /* to the caller's sp */
    uint32_t fp_bytes; /* to the caller's saved rbp; 0: still in rbp */
    uint32_t steps;    /* own frames; the last return address is the caller */
    uint32_t distance[MS_UNWIND_PATH_STEPS];
    uintptr_t returns[MS_UNWIND_PATH_STEPS];
} ms_unwind_path_t;

typedef struct ms_unwind_thread {
    _Atomic uintptr_t busy; /* sp of the capture under way, 0: none. Only this thread writes, its signal handlers read */
    uint32_t depth;         /* frames kept */
    uint8_t end;            /* ms_unwind_end_t of the kept stack */
    uint16_t epoch;         /* counts captures given up for dead */
    uint16_t reentries;     /* captures refused because of one under way */
    uint16_t taken;         /* frames of the last stack, kept or not, recursion frame by frame */
    uintptr_t known_low;    /* memory known to be readable: known_low <= address < known_high */
    uintptr_t known_high;
    ms_unwind_stats_t stats;
    uint32_t next_path; /* paths[next_path % MS_UNWIND_PATHS] is replaced next */
    ms_unwind_path_t paths[MS_UNWIND_PATHS];
    ms_unwind_frame_t frames[MS_UNWIND_MAX_DEPTH];
} ms_unwind_thread_t;
_Static_assert(sizeof(ms_unwind_thread_t) <= 8192 + 768, "about two pages; only touched as deep as stacks are");

/* Once, in the library's initialisation, while the process has one thread: maps the table of rows (512 KiB of address
 * space, touched as used). False: no memory, captures then hold the caller alone. */
bool ms_unwind_init(void);

/* Zeroed memory is a valid state. Call this when a state passes to another thread (arena adopted); statistics stay. */
void ms_unwind_thread_reset(ms_unwind_thread_t *state);

/* Registers of the calling function's caller, as they will be when the calling function returns: what the three
 * arguments of a capture have to be for a stack that starts with the caller. The calling function gets a frame pointer
 * and must not be inlined (exported functions and MS_COLD ones are not). */
#define MS_UNWIND_CALLER(pc, sp, fp)                                                                         \
    do {                                                                                                     \
        const uintptr_t *ms_frame = (const uintptr_t *)__builtin_frame_address(0);                           \
        (fp) = ms_frame[0];                                                                                  \
        (pc) = ms_frame[1];                                                                                  \
        (sp) = (uintptr_t)(ms_frame + 2);                                                                    \
    } while (0)

/* Registers right here, in the calling function (inlined or not): a capture from them starts with the calling function.
 * Combine with ms_unwind_to() to leave out the allocator's own frames. */
#define MS_UNWIND_HERE(pc, sp, fp)                                                                           \
    __asm__ volatile("lea 0(%%rip), %0\n\tmov %%rsp, %1\n\tmov %%rbp, %2" : "=&r"(pc), "=&r"(sp), "=&r"(fp))

/* Steps *pc, *sp, *fp outwards until *pc == caller, the return address of the exported entry point
 * (__builtin_return_address(0) there). A few nanoseconds: the thread remembers the last few ways. False: not met within
 * MS_UNWIND_PATH_STEPS frames, registers undefined. */
bool ms_unwind_to(ms_unwind_thread_t *state, uintptr_t caller, uintptr_t *pc, uintptr_t *sp, uintptr_t *fp);

/* The stack whose innermost frame is the return address pc, with sp and fp as they are once it is returned to. `sp` must
 * lie on the stack this code runs on. Preserves errno. */
uint32_t ms_unwind_site(ms_unwind_thread_t *state, uintptr_t pc, uintptr_t sp, uintptr_t fp, unsigned max_depth);

/* Where ms_unwind_to() answered false: the caller's return address alone, counted as a capture cut short. */
uint32_t ms_unwind_caller_alone(ms_unwind_thread_t *state, uintptr_t caller);

/* The same walk without shortcut and stack table: writes return addresses, innermost first, and why it ended. */
unsigned ms_unwind_pcs(ms_unwind_thread_t *state, uintptr_t pc, uintptr_t sp, uintptr_t fp, uintptr_t *pcs, unsigned max,
                       ms_unwind_end_t *end);

extern const char *const ms_unwind_end_meaning[MS_UNWIND_END_COUNT];

#endif
