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
    uint64_t peak_bytes;       /* largest live_bytes seen */
    uint64_t peak_error_bytes; /* the true peak differs from peak_bytes by at most this */
} memscope_usage_t;

/* The whole process, the calling thread, a task. Exact when no other thread is allocating; otherwise correct to the
 * events in flight. memscope_task_usage: ESRCH if the task is unknown. */
int memscope_process_usage(memscope_usage_t *usage);
int memscope_thread_usage(memscope_usage_t *usage);

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
 * memscope_task_end(). Takes a lock. */
memscope_task_t memscope_task_for_key(const void *key, const char *name);

/* Makes `task` current in the calling thread; memscope_task_leave(token) restores what was before. Calls nest, and a
 * task may be entered on another thread each time. A few nanoseconds, no lock. Unknown and ended tasks count as
 * `no task`. */
memscope_token_t memscope_task_enter(memscope_task_t task);
void memscope_task_leave(memscope_token_t token);
memscope_task_t memscope_task_current(void);

/* The task is over; what it still owns is its outlived memory, written to *usage if that is not NULL. Later frees
 * still count for it. ESRCH if the task is unknown or ended. */
int memscope_task_end(memscope_task_t task, memscope_usage_t *usage);
int memscope_task_usage(memscope_task_t task, memscope_usage_t *usage);

/* ---- variables -------------------------------------------------------------------------------------------- */

/* One per MEMSCOPE_TRACK in the source; do not touch the fields. */
typedef struct memscope_variable {
    const char *name, *type, *function, *file;
    uint32_t line;
    uint32_t site; /* given at first use */
} memscope_variable_t;

/* Names the block at `pointer` (which malloc, new, ... returned) after `variable`; the name follows it through
 * realloc until it is freed. EINVAL if the pointer is not a live block of ours (a stack or foreign address): nothing
 * is changed. The block must not be freed or resized by another thread meanwhile. */
int memscope_track(const void *pointer, memscope_variable_t *variable);

/* MEMSCOPE_TRACK(p): memscope_track() with the variable's name, function, file and line. In C++ (memscope.hpp) also its
 * type, which C has no way to tell. A statement or an expression of type int. */
#ifndef __cplusplus
#define MEMSCOPE_TRACK(pointer)                                                                              \
    (__extension__({                                                                                         \
        static memscope_variable_t memscope_variable_here = {#pointer, NULL, NULL, __FILE__, __LINE__, 0};   \
        memscope_variable_here.function = __func__;                                                          \
        memscope_track((pointer), &memscope_variable_here);                                                  \
    }))
#endif

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

/* Writes a snapshot to exactly this path (truncated first). Returns 0 or the errno value of what failed. */
int memscope_export_msgpack(const char *path);
int memscope_export_json(const char *path);
int memscope_export_html(const char *path);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
