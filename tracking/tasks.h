/* Tasks: what a fiber, coroutine or request allocates, whoever frees it.
 *
 * A task is a slot of a table; its index stands in the header of every block allocated while it was current, and its
 * bytes and blocks are counted in the cells of that index, one per arena. Its public id is generation * 2^32 + index.
 * When max_tracked_tasks slots are in use, the oldest ended task without live blocks gives up its slot, and its numbers
 * count for the task `other` from then on (each cell names the id it counts for); if there is none, new tasks are
 * `other`.
 *
 * The table belongs to MS_LOCK_TASKS; a slot's id and live_bytes are read without it. */
#ifndef MS_TRACKING_TASKS_H
#define MS_TRACKING_TASKS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "alloc/arena.h"

#define MS_TASK_NONE 0u  /* outside any task */
#define MS_TASK_OTHER 1u /* the tasks without a slot of their own */
#define MS_TASK_FIRST 2u
#define MS_TASK_NAME 64

typedef enum { MS_TASK_UNUSED, MS_TASK_ACTIVE, MS_TASK_ENDED } ms_task_state_t;

typedef struct ms_task {
    _Atomic(uint64_t) id;
    _Atomic(uint64_t) open_id;    /* its id while it can be entered */
    uint64_t parent;              /* id, 0: root */
    uint64_t start_ns, end_ns;    /* since the start of the process */
    _Atomic(int64_t) live_bytes;  /* settled */
    _Atomic(int64_t) peak_bytes;
    _Atomic(int64_t) unseen_loss; /* most that a thread in it freed between two settles */
    int64_t quantum;              /* bytes it may allocate before its peak is looked at again */
    uint64_t outlived_bytes, outlived_blocks; /* when it ended */
    const void *key;              /* memscope_task_for_key(), NULL: none */
    struct ms_task *next_key;     /* chain of its hash bucket */
    struct ms_task *older, *newer; /* ended tasks */
    ms_task_state_t state;
    char name[MS_TASK_NAME];
} ms_task_t;
extern ms_task_t ms_task_none __attribute__((visibility("hidden"))); /* what runs outside any; it cannot be entered */

/* The task with this id, NULL if there is none (any more). Any thread, no lock. */
ms_task_t *ms_task_find(uint64_t id);
ms_task_t *ms_task_of_index(uint32_t index); /* NULL if never used */
extern _Atomic(uint32_t) ms_task_indices __attribute__((visibility("hidden")));
static inline uint32_t ms_task_index_count(void) { return atomic_load_explicit(&ms_task_indices, memory_order_acquire); }

/* False until the first task is created: what runs outside any is the whole process then. */
static inline bool ms_task_is_any(void) { return ms_task_index_count() != MS_TASK_FIRST; }

/* Numbers of a task summed over all arenas; MS_TASK_OTHER includes the numbers of slots that changed hands. */
ms_cell_t ms_task_sum(uint32_t index);

/* The calling thread's cell for the task index, with the numbers of a former task of that index moved to `other`. */
ms_cell_t *ms_task_cell(ms_arena_t *arena, uint32_t index);

/* A block of task `index` was freed in this arena while another task was current. */
void ms_task_count_foreign_free(ms_arena_t *arena, uint32_t index, size_t size);

/* Adds the change of the current task's live bytes since the last time to the task, and raises its peak. */
void ms_task_settle(ms_arena_t *arena);
/* The same before the thread ends, also if it waits for the first task otherwise. */
void ms_task_settle_last(ms_arena_t *arena);

int64_t ms_task_peak(const ms_task_t *task); /* bytes */
/* The task's peak differs from the true one by at most this. */
uint64_t ms_task_peak_error(uint32_t index);

/* Bytes the current task may allocate before its peak is looked at again. */
int64_t ms_task_quantum(const ms_arena_t *arena);

#endif
