/* memscope: a malloc that knows where every byte went. The C API.
 *
 * Linking libmemscope_malloc (or preloading it) is enough: the library initialises itself at the first allocation
 * and is steered by MEMSCOPE_CONF, see memscope.conf(5). The calls below add names, tasks and reports.
 *
 * Sizes are bytes, times nanoseconds. Calls that can fail return 0 or a positive errno value. Unless said otherwise
 * a call may be made from any thread, does not lock on the calling thread's fast path, and must not be made from a
 * signal handler. */
#ifndef MEMSCOPE_MEMSCOPE_H
#define MEMSCOPE_MEMSCOPE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default) /* the library itself is built with -fvisibility=hidden */

#define MEMSCOPE_VERSION_MAJOR 0
#define MEMSCOPE_VERSION_MINOR 1
#define MEMSCOPE_VERSION_PATCH 0

/* Version of the library that runs, "0.1.0". */
const char *memscope_version(void);

/* Optional and idempotent: the library initialises itself. Returns 0. Safe from any thread. */
int memscope_init(void);

/* ---- statistics ------------------------------------------------------------------------------------------- */

/* What was asked for and given back. `live` is allocated minus freed; a free counts for whoever allocated. */
typedef struct memscope_usage {
    uint64_t allocated_bytes, allocated_blocks;
    uint64_t freed_bytes, freed_blocks;
    uint64_t live_bytes, live_blocks;
    uint64_t peak_bytes;       /* largest live_bytes seen; both blocks while a realloc copies */
    uint64_t peak_error_bytes; /* the true peak differs from peak_bytes by at most this */
} memscope_usage_t;

/* The whole process, the calling thread, a task. Exact when no other thread is allocating; otherwise correct to the
 * events in flight. memscope_task_usage: ESRCH if the task is unknown. After some 61,000 threads that each left a block, a new
 * one may go on with the numbers of one that ended. */
int memscope_process_usage(memscope_usage_t *usage);
int memscope_thread_usage(memscope_usage_t *usage);

/* Sets the mean gap in bytes between sampled allocations (the knob sample_bytes; 1 to 2^40) from now on. Each block keeps
 * the weight of the moment at which it was sampled, so estimates stay free of bias. Other threads follow when they have
 * allocated another 128 KiB at most. EINVAL if `bytes` is out of range, ENOTSUP if the mode does not sample by bytes. */
int memscope_set_sample_bytes(uint64_t bytes);

/* ---- tasks ------------------------------------------------------------------------------------------------ */

/* A task: a fiber, a coroutine, an async request. 0 is "no task". Ids are never reused in a process. */
typedef uint64_t memscope_task_t;

/* What memscope_task_enter() replaced; give it to memscope_task_leave(). */
typedef struct memscope_token {
    uint64_t previous;
} memscope_token_t;

#define MEMSCOPE_PARENT_CURRENT ((memscope_task_t)-1) /* the task current in the calling thread */

/* A new task under `parent` (0: a root). The name is copied (63 bytes are kept). Always succeeds: beyond the knob
 * max_tracked_tasks, and in modes without tasks, the returned task shares the row `other`. */
memscope_task_t memscope_task_create(const char *name, memscope_task_t parent);

/* The task with this key (a waker, a coroutine frame), created on first use. The key is forgotten at
 * memscope_task_end(). NULL is no key: the task shares the row `other`. Takes a lock. */
memscope_task_t memscope_task_for_key(const void *key, const char *name);

/* Makes `task` current in the calling thread; memscope_task_leave(token) restores what was before. Calls nest, and a
 * task may be entered on another thread each time. A few nanoseconds, no lock. Unknown and ended tasks count as
 * `no task`, also when they are what was before. One that ends while it is current stays so until it is left. */
memscope_token_t memscope_task_enter(memscope_task_t task);
void memscope_task_leave(memscope_token_t token);
memscope_task_t memscope_task_current(void);

/* The task is over; what it still owns is its outlived memory, written to *usage if that is not NULL. Later frees
 * still count for it. ESRCH if the task is unknown or ended. */
int memscope_task_end(memscope_task_t task, memscope_usage_t *usage);
int memscope_task_usage(memscope_task_t task, memscope_usage_t *usage);

/* ---- variables -------------------------------------------------------------------------------------------- */

/* One for each use of a macro below in the source; do not touch the fields. */
typedef struct memscope_variable {
    const char *name, *type, *function, *file;
    uint32_t line;
    uint32_t site; /* given at first use */
} memscope_variable_t;

/* Names the block at `pointer` (which malloc, new, ... returned) after `variable`; the name follows it through
 * realloc until it is freed. EINVAL if the pointer is not a live block of ours (a stack or foreign address, one inside a
 * block, a freed one): nothing is changed, and no memory in front of it is read. ENOMEM if there are too many variables.
 * The block must not be freed or resized by another thread meanwhile. */
int memscope_track(const void *pointer, memscope_variable_t *variable);

/* Records that the `bytes` from `start` on are what `variable` names; they are neither read nor written. The last range
 * and how often there was one are kept for each variable. EINVAL if there is no such range. Takes no lock. */
int memscope_track_region(const volatile void *start, size_t bytes, memscope_variable_t *variable);

/* What MEMSCOPE_TRACK_SMART calls: memscope_track() of the pointer at `object`, or a region. */
int memscope_track_smart(const volatile void *object, size_t bytes, int is_pointer, memscope_variable_t *variable);

/* A stretch of the program in which a variable owns a block. */
typedef struct memscope_scope {
    void *record; /* NULL: owns nothing */
    int error;    /* of memscope_scope_begin() */
} memscope_scope_t;

/* memscope_track(), and from now on the variable owns the block. If the block is still live at memscope_scope_end() (the
 * same block: it may have been resized meanwhile) it has outlived its scope, which the table `scopes` of the data counts;
 * otherwise the ownership has ended in order. The time from here to the free is the block's lifetime, measured whether
 * the free comes before or after the end. Neither call moves or frees anything. Both take a lock. */
memscope_scope_t memscope_scope_begin(const void *pointer, memscope_variable_t *variable);
void memscope_scope_end(memscope_scope_t *scope);

/* The macros. C++ has its own, of the same meaning, in memscope.hpp.
 *
 * MEMSCOPE_TRACK(p)             memscope_track() of a pointer
 * MEMSCOPE_TRACK_SMART(x)       x a pointer: names the block it points at; any other object (scalar, array, struct):
 *                               names the object's memory as a region. Chosen at compile time; x is an lvalue
 * MEMSCOPE_TRACK_AS(x, type)    the same, for types that C has no name for in an expression: x must have this type,
 *                               which the compiler checks (a void pointer may be given any pointer type)
 *     These three are expressions of type int: 0 or an errno value.
 * MEMSCOPE_OWNED(type, x, init) declares `type x = init`, which owns the block it points at until x goes out of scope
 * MEMSCOPE_OWN(x)               the same for a pointer that is declared already
 *     These two are declarations; the scope is the variable memscope_scope_x. A longjmp() past the end of the block, and
 *     in C without -fexceptions the end of the thread, leave a scope open: it counts as begun, not as ended.
 *
 * The type is the declared one, for the scalar types of C, pointers to them, pointers to those, and arrays of them; the
 * types of other expressions are unknown in C (null in the data) unless given by MEMSCOPE_TRACK_AS. */
#ifndef __cplusplus
#define MEMSCOPE_TYPE_ROWS_(type) type: #type, type *: #type " *", const type *: "const " #type " *", type **: #type " **"
#define MEMSCOPE_ARRAY_ROWS_(type)                                                                           \
    type *: #type " []", const type *: "const " #type " []", type **: #type " *[]", const type **: "const " #type " *[]"
#define MEMSCOPE_TYPES_(ROWS)                                                                                \
    ROWS(_Bool), ROWS(char), ROWS(signed char), ROWS(unsigned char), ROWS(short), ROWS(unsigned short), ROWS(int), \
        ROWS(unsigned int), ROWS(long), ROWS(unsigned long), ROWS(long long), ROWS(unsigned long long), ROWS(float), \
        ROWS(double), ROWS(long double)
#define MEMSCOPE_TYPE_OF_(x)                                                                                 \
    _Generic((x), MEMSCOPE_TYPES_(MEMSCOPE_TYPE_ROWS_), void *: "void *", const void *: "const void *",      \
        void **: "void **", default: (const char *)0)
#define MEMSCOPE_ARRAY_TYPE_OF_(x)                                                                           \
    _Generic((x), MEMSCOPE_TYPES_(MEMSCOPE_ARRAY_ROWS_), void **: "void *[]", default: (const char *)0)

/* An array is what becomes a pointer in an expression without being one. */
#define MEMSCOPE_DECAYS_(x) (!__builtin_types_compatible_p(__typeof__(x), __typeof__(((void)0, (x)))))
#define MEMSCOPE_IS_ARRAY_(x) (__builtin_classify_type(x) == 5 && MEMSCOPE_DECAYS_(x))
#define MEMSCOPE_IS_POINTER_(x) (__builtin_classify_type(x) == 5 && !MEMSCOPE_DECAYS_(x))
#define MEMSCOPE_SMART_TYPE_OF_(x)                                                                           \
    __builtin_choose_expr(MEMSCOPE_IS_ARRAY_(x), MEMSCOPE_ARRAY_TYPE_OF_(x), MEMSCOPE_TYPE_OF_(x))

#define MEMSCOPE_VARIABLE_(variable, name, type)                                                             \
    static memscope_variable_t variable = {name, type, __func__, __FILE__, __LINE__, 0}
#define MEMSCOPE_SMART_(x, type)                                                                             \
    MEMSCOPE_VARIABLE_(memscope_variable_here, #x, type);                                                    \
    memscope_track_smart(&(x), sizeof(x), MEMSCOPE_IS_POINTER_(x), &memscope_variable_here)

#define MEMSCOPE_TRACK(pointer)                                                                              \
    (__extension__({                                                                                         \
        MEMSCOPE_VARIABLE_(memscope_variable_here, #pointer, MEMSCOPE_TYPE_OF_(pointer));                    \
        memscope_track((pointer), &memscope_variable_here);                                                  \
    }))
#define MEMSCOPE_TRACK_SMART(x) (__extension__({ MEMSCOPE_SMART_(x, MEMSCOPE_SMART_TYPE_OF_(x)); }))
#define MEMSCOPE_TRACK_AS(x, declared)                                                                       \
    (__extension__({                                                                                         \
        _Static_assert(__builtin_types_compatible_p(__typeof__(x), __typeof__(declared)) ||                  \
                           (__builtin_types_compatible_p(__typeof__(x), void *) &&                           \
                            __builtin_classify_type(*(__typeof__(declared) *)0) == 5),                       \
                       #x " is not of type " #declared);                                                     \
        MEMSCOPE_SMART_(x, #declared);                                                                       \
    }))
#define MEMSCOPE_OWN_(x, type)                                                                               \
    MEMSCOPE_VARIABLE_(memscope_variable_##x, #x, type);                                                     \
    memscope_scope_t memscope_scope_##x __attribute__((cleanup(memscope_scope_end), unused)) =               \
        memscope_scope_begin(x, &memscope_variable_##x)
#define MEMSCOPE_OWN(x) MEMSCOPE_OWN_(x, MEMSCOPE_TYPE_OF_(x))
#define MEMSCOPE_OWNED(type, x, ...)                                                                         \
    type x = (__VA_ARGS__);                                                                                  \
    MEMSCOPE_OWN_(x, #type)
#endif

/* ---- leaks ------------------------------------------------------------------------------------------------ */

typedef struct memscope_amount {
    uint64_t bytes, blocks;
} memscope_amount_t;

/* Every live block is of one kind, as for memcheck: nothing points to it (definite), only lost blocks lead to it
 * (indirect), only pointers into the middle of blocks lead to it (possible), or it can be reached from variables,
 * stacks and registers (reachable). Of a cycle that nothing points to, one block is definite. */
typedef struct memscope_leaks {
    memscope_amount_t definite, indirect, possible, reachable;
    uint64_t unsettled_blocks; /* left out: another thread was just writing their headers */
} memscope_leaks_t;

/* Searches the memory of the process for pointers to live blocks, now. Other threads go on; those that need memory from
 * the system wait. Their stacks are read as they stand, their registers are not. ENOMEM, or ENOTSUP where the process
 * may not read its own memory. The knob `leaks` puts the same, by site, task and thread, into every snapshot. */
int memscope_leaks(memscope_leaks_t *leaks);

/* ---- snapshots and exports -------------------------------------------------------------------------------- */

/* The state of the process now, held until memscope_snapshot_free(). Takes the registry lock; other threads go on
 * allocating. NULL with errno ENOMEM if there is no memory for it. */
typedef struct memscope_snapshot memscope_snapshot_t;
memscope_snapshot_t *memscope_snapshot(void);
void memscope_snapshot_free(memscope_snapshot_t *snapshot);
void memscope_snapshot_usage(const memscope_snapshot_t *snapshot, memscope_usage_t *usage);
uint64_t memscope_snapshot_total_memory_usage(const memscope_snapshot_t *snapshot); /* live bytes */
size_t memscope_snapshot_active_task_count(const memscope_snapshot_t *snapshot);
size_t memscope_snapshot_thread_count(const memscope_snapshot_t *snapshot);

/* ---- checkpoints -------------------------------------------------------------------------------------------- */

/* The numbers of the process, of every task, thread and site now, to be compared later; held until
 * memscope_checkpoint_free(). NULL with errno ENOMEM. Any number may be held; each costs 56 bytes a row. */
typedef struct memscope_checkpoint memscope_checkpoint_t;
memscope_checkpoint_t *memscope_checkpoint(void);
void memscope_checkpoint_free(memscope_checkpoint_t *checkpoint);

/* Most bytes that were live at once since the checkpoint (NULL: since the process started). *error_bytes, unless that is
 * NULL: the truth differs by at most this, 0 in mode exact (with stacks:none it is not). */
uint64_t memscope_checkpoint_peak(const memscope_checkpoint_t *checkpoint, uint64_t *error_bytes);

typedef enum memscope_part {
    MEMSCOPE_PART_PROCESS, /* id 0 */
    MEMSCOPE_PART_TASK,    /* memscope_task_t */
    MEMSCOPE_PART_THREAD,  /* number of the thread, as in exports */
    MEMSCOPE_PART_SITE,    /* id of the site, as in exports; 0: blocks without one */
} memscope_part_t;

/* What changed of a part from one checkpoint to the other. */
typedef struct memscope_difference {
    memscope_part_t part;
    uint64_t id;
    const char *name;                 /* of the task, thread or variable; NULL for other sites */
    const char *type, *function, *file; /* of a variable; type is NULL where C cannot tell */
    uint32_t line;
    const uint64_t *stack; /* of another site: return addresses, innermost first */
    size_t depth;          /* how many */
    int64_t allocated_bytes, allocated_blocks, live_bytes, live_blocks; /* later minus earlier */
    uint64_t live_bytes_now;   /* at the later one */
    int estimated;             /* 1: scaled from samples (sites in modes sampled and hybrid); 0: counted */
    uint64_t live_error_bytes; /* standard error of live_bytes, at most; 0 when counted */
} memscope_difference_t;

/* Called for one difference after the other; its texts are valid during the call. Anything but 0 ends the visit. */
typedef int (*memscope_visit_t)(void *context, const memscope_difference_t *difference);

/* Visits what changed between two checkpoints: first the process, always; then tasks, threads and sites of which anything
 * changed, those whose live bytes grew most first. after NULL: until now. before NULL: all there is. A task or thread
 * folded into `other` meanwhile shows as gone, and its numbers there. Returns 0, what the visit ended with, or ENOMEM. No
 * lock is held during a visit, which may allocate. */
int memscope_checkpoint_diff(const memscope_checkpoint_t *before, const memscope_checkpoint_t *after,
                             memscope_visit_t visit, void *context);

/* What the macros of memscope/check.h ask. */
typedef enum memscope_limit {
    MEMSCOPE_LIMIT_LEAKS,            /* live blocks, since the checkpoint */
    MEMSCOPE_LIMIT_GROWTH,           /* live bytes, since the checkpoint */
    MEMSCOPE_LIMIT_LIVE,             /* live bytes of the process */
    MEMSCOPE_LIMIT_PEAK,             /* memscope_checkpoint_peak() above what was live at the checkpoint */
    MEMSCOPE_LIMIT_ALLOCATED_BLOCKS, /* blocks allocated since the checkpoint */
} memscope_limit_t;

/* 0 if the number is at most `most`; ERANGE if it is more, ENOMEM if there is no memory to look. Then the buffer of `room`
 * bytes holds a line that begins with `what` and names the sites that have most of it. */
int memscope_check(memscope_limit_t limit, const memscope_checkpoint_t *since, uint64_t most, const char *what,
                   char *message, size_t room);

/* Writes "memscope: FILE:LINE: MESSAGE" to stderr and aborts. */
void memscope_check_failed(const char *file, int line, const char *message) __attribute__((noreturn));

/* Writes a snapshot to exactly this path (truncated first). Returns 0 or the errno value of what failed, EINVAL for NULL,
 * ENXIO for a pipe that nobody reads within a second. */
int memscope_export_msgpack(const char *path);
int memscope_export_json(const char *path);
int memscope_export_html(const char *path);

/* ---- event log -------------------------------------------------------------------------------------------- */

/* Starts the event log: from now on every allocation, free and resize of every thread is written to DIRECTORY/NAME.PID.bin
 * (MessagePack, docs/format.md; directories are made, a file that exists is kept and the log gets a number). NULL: where
 * the knobs trace_output and output say. What a thread logs faster than it can be written is dropped and counted.
 *
 * The caller's next call of malloc or free is logged. Another thread follows at its next call that has something due: when
 * it has allocated another 128 KiB or freed another 2,048 blocks of one size class, at most. Until then its events are
 * missing, and not counted as dropped. A thread that writes the log runs until memscope_stop_tracing().
 *
 * Returns 0 or an errno value: EALREADY while there is a log, EBUSY while the last one cannot be ended, what kept the file
 * from being opened. Any thread; locks. */
int memscope_trace_all(const char *directory);

/* Ends the log: no thread logs what it does after the call. Waits until everything is in the file, but no longer than a
 * second in which nothing can be written; the file then ends early and what is missing counts as dropped. Threads take the
 * fast paths again from their next call on. Returns 0 or an errno value: ESRCH if there is no log, what kept it from being
 * written. Any thread; locks. The log also ends with the process. */
int memscope_stop_tracing(void);

/* Writes a snapshot to DIRECTORY/NAME.memscope, .json and .html (truncated first; directories are made), and, while there
 * is an event log, what was logged so far to its file. Returns 0 or the errno value of what failed, EINVAL for NULL or an
 * empty name. */
int memscope_export_comprehensive(const char *directory, const char *name);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
