#include "tracking/tasks.h"
#include "alloc/lock.h"
#include "alloc/os.h"
#include "alloc/thread.h"
#include "memscope/memscope.h"
#include "tracking/process.h"
#include "tracking/report.h"

#include <errno.h>
#include <string.h>

#define CHUNK 64u
#define CHUNKS 16384u /* 1,048,576 slots */
#define KEY_BUCKETS 4096u

/* Bytes a thread may allocate in a task between two looks at its peak: 1/64 of it, within these. */
#define QUANTUM_MIN 4096
#define QUANTUM_MAX 65536

static MS_FAR _Atomic(ms_task_t *) chunks[CHUNKS];
_Atomic(uint32_t) ms_task_indices = MS_TASK_FIRST;
static ms_task_t other = {.id = MS_TASK_OTHER, .open_id = MS_TASK_OTHER, .quantum = QUANTUM_MIN, .state = MS_TASK_ACTIVE, .name = "other"};
ms_task_t ms_task_none = {.open_id = UINT64_MAX, .state = MS_TASK_ACTIVE, .name = "(no task)"};

/* MS_LOCK_TASKS */
static ms_task_t *oldest_ended, *newest_ended;
static ms_task_t **key_buckets;

static inline ms_task_t *task_of_index(uint32_t index) {
    if (ms_likely(index >= MS_TASK_FIRST)) {
        if (ms_unlikely(index >= ms_task_index_count())) return NULL;
        ms_task_t *chunk = atomic_load_explicit(&chunks[index / CHUNK], memory_order_acquire);
        return chunk ? &chunk[index % CHUNK] : NULL;
    }
    return index == MS_TASK_NONE ? &ms_task_none : &other;
}

ms_task_t *ms_task_of_index(uint32_t index) { return task_of_index(index); }

ms_task_t *ms_task_find(uint64_t id) {
    ms_task_t *task = task_of_index((uint32_t)id);
    return task && atomic_load_explicit(&task->id, memory_order_acquire) == id ? task : NULL;
}

/* ---- cells */

static void move_cell(ms_cell_t *to, ms_cell_t *from) {
    to->allocated_bytes += from->allocated_bytes;
    to->allocated_blocks += from->allocated_blocks;
    to->freed_bytes += from->freed_bytes;
    to->freed_blocks += from->freed_blocks;
    to->handed_off_bytes += from->handed_off_bytes;
    to->handed_off_blocks += from->handed_off_blocks;
    to->enters += from->enters;
}

ms_cell_t *ms_task_cell(ms_arena_t *arena, uint32_t index) {
    if (!arena->tasks) {
        ms_cells_t *cells = ms_os_map_metadata(sizeof *cells);
        __atomic_store_n(&arena->tasks, cells, __ATOMIC_RELEASE);
    }
    static ms_cell_t nowhere; /* without memory for the table; nobody sums it */
    if (!arena->tasks) return &nowhere;
    ms_cell_t *cell = ms_cell(arena->tasks, index);
    ms_task_t *task = ms_task_of_index(index);
    uint64_t id = task ? atomic_load_explicit(&task->id, memory_order_relaxed) : index;
    if (ms_unlikely(cell->owner != id)) {
        if (cell->owner != 0) { /* the slot changed hands: what stands here is of a task that is `other` now */
            ms_cell_t copy = *cell;
            memset(cell, 0, sizeof *cell);
            ms_cell_t *rest = ms_cell(arena->tasks, MS_TASK_OTHER);
            rest->owner = MS_TASK_OTHER;
            move_cell(rest, &copy);
        }
        cell->owner = id;
    }
    return cell;
}

static void add_index(ms_cell_t *sum, const ms_arena_t *arena, uint32_t index, uint64_t id) {
    const ms_cell_t *cell = arena->tasks ? ms_cell_find(arena->tasks, index) : NULL;
    uint64_t owner = cell ? ms_read(&cell->owner) : 0;
    if (cell && owner == id) ms_cell_add(sum, arena->tasks, index);
}

/* What arenas still count under indexes whose task has changed since. */
static void add_stale(ms_cell_t *sum, const ms_arena_t *arena) {
    for (uint32_t index = MS_TASK_FIRST, count = ms_task_index_count(); arena->tasks && index < count; index++) {
        const ms_cell_t *cell = ms_cell_find(arena->tasks, index);
        const ms_task_t *task = ms_task_of_index(index);
        if (!cell || !task) continue;
        uint64_t owner = ms_read(&cell->owner);
        if (owner && owner != atomic_load_explicit(&task->id, memory_order_relaxed))
            ms_cell_add(sum, arena->tasks, index);
    }
}

/* The flow since the last flush belongs to the current task and is not in its cell yet. */
static void add_current(ms_cell_t *sum, const ms_arena_t *arena) {
    ms_flow_t flow = ms_arena_flow(arena);
    sum->allocated_bytes += flow.allocated_bytes - arena->mark.allocated_bytes;
    sum->allocated_blocks += flow.allocated_blocks - arena->mark.allocated_blocks;
    sum->freed_bytes += flow.freed_bytes - arena->mark.freed_bytes;
    sum->freed_blocks += flow.freed_blocks - arena->mark.freed_blocks;
}

/* One arena's part, read again if its owner moved numbers meanwhile. */
static void add_arena(ms_cell_t *sum, const ms_arena_t *arena, uint32_t index, uint64_t id) {
    ms_cell_t part = {0};
    for (uint64_t at, tries = 0; ms_arena_read_begin(arena, &at, &tries);) {
        part = (ms_cell_t){0};
        if (index == MS_TASK_NONE) {
            if (arena->tasks) ms_cell_add(&part, arena->tasks, index);
            part.freed_bytes += ms_read(&arena->untasked_freed_bytes);
            part.freed_blocks += ms_read(&arena->untasked_freed_blocks);
        } else {
            add_index(&part, arena, index, id);
        }
        if (index == MS_TASK_OTHER) add_stale(&part, arena);
        if (ms_arena_task(arena) == index) add_current(&part, arena);
        if (ms_arena_read_done(arena, at)) break;
    }
    move_cell(sum, &part);
}

ms_cell_t ms_task_sum(uint32_t index) {
    ms_cell_t sum = {0};
    const ms_task_t *task = ms_task_of_index(index);
    uint64_t id = task ? atomic_load_explicit(&task->id, memory_order_relaxed) : 0;
    for (const ms_arena_t *arena = ms_arena_first(); arena; arena = arena->next) add_arena(&sum, arena, index, id);
    return sum;
}

/* The cell of the current task. That of the task entered last, and that of no task, are at hand. */
static inline ms_cell_t *current_cell(ms_arena_t *arena) {
    uint64_t id = arena->task_id;
    if (ms_likely(id && arena->cell_id == id)) return arena->cell;
    if (id) return ms_task_cell(arena, (uint32_t)id);
    if (ms_unlikely(!arena->none_cell)) arena->none_cell = ms_task_cell(arena, MS_TASK_NONE);
    return arena->none_cell;
}

void ms_arena_flush_task(ms_arena_t *arena) {
    if (!ms_flow_moved(arena)) return;
    ms_flow_t flow = ms_arena_bytes(arena), *mark = &arena->mark;
    flow.allocated_blocks = arena->allocated_blocks;
    flow.freed_blocks = arena->freed_blocks;
    ms_cell_t *cell = current_cell(arena);
    ms_arena_sequence_begin(arena);
    ms_count(&cell->allocated_bytes, flow.allocated_bytes - mark->allocated_bytes);
    ms_count(&cell->allocated_blocks, flow.allocated_blocks - mark->allocated_blocks);
    ms_count(&cell->freed_bytes, flow.freed_bytes - mark->freed_bytes);
    ms_count(&cell->freed_blocks, flow.freed_blocks - mark->freed_blocks);
    *mark = flow;
    ms_arena_sequence_end(arena);
}

static int64_t part_of_peak(const ms_task_t *task) {
    int64_t part = task ? atomic_load_explicit(&task->peak_bytes, memory_order_relaxed) / 64 : 0;
    return part < QUANTUM_MIN ? QUANTUM_MIN : part > QUANTUM_MAX ? QUANTUM_MAX : part;
}

/* What runs outside any task is shared by all threads: frees of its blocks by others wait for the next settle. */
static void settle_untasked(ms_arena_t *arena) {
    uint64_t freed = arena->untasked_freed_bytes - arena->untasked_settled_bytes;
    if (!freed) return;
    arena->untasked_settled_bytes = arena->untasked_freed_bytes;
    atomic_fetch_sub_explicit(&ms_task_none.live_bytes, (int64_t)freed, memory_order_relaxed);
}

/* Until there is a task, what runs outside any is the whole process, whose peak is known: the first task's creation hands
 * it on, and a thread's first settle after that brings everything so far. */
static bool is_all_untasked(void) { return !ms_task_is_any(); }

int64_t ms_task_peak(const ms_task_t *task) {
    bool all = task == &ms_task_none && is_all_untasked();
    return atomic_load_explicit(all ? &ms_process.peak_bytes : &task->peak_bytes, memory_order_relaxed);
}

void ms_task_settle(ms_arena_t *arena) {
    if (!is_all_untasked()) ms_task_settle_last(arena);
}

void ms_task_settle_last(ms_arena_t *arena) {
    settle_untasked(arena);
    ms_flow_t flow = ms_arena_bytes(arena);
    int64_t lost = (int64_t)(flow.freed_bytes - arena->task_settled.freed_bytes);
    int64_t delta = (int64_t)(flow.allocated_bytes - arena->task_settled.allocated_bytes) - lost;
    arena->task_settled = flow;
    ms_task_t *task = ms_task_of_index(ms_arena_task(arena));
    if (!task) return;
    ms_raise_peak(&task->unseen_loss, lost);
    if (delta == 0) return;
    int64_t live = atomic_fetch_add_explicit(&task->live_bytes, delta, memory_order_relaxed) + delta;
    if (delta > 0) ms_raise_peak(&task->peak_bytes, live);
    __atomic_store_n(&task->quantum, part_of_peak(task), __ATOMIC_RELAXED); /* read by whoever enters the task */
}

void ms_task_count_foreign_free(ms_arena_t *arena, uint32_t index, size_t size) {
    bool handed_off = index != ms_arena_task(arena);
    if (ms_likely(index == MS_TASK_NONE && !handed_off)) {
        ms_count(&arena->untasked_freed_bytes, size);
        ms_count(&arena->untasked_freed_blocks, 1);
        return;
    }
    ms_cell_t *cell = ms_task_cell(arena, index);
    ms_count(&cell->freed_bytes, size);
    ms_count(&cell->freed_blocks, 1);
    if (handed_off) {
        ms_count(&cell->handed_off_bytes, size);
        ms_count(&cell->handed_off_blocks, 1);
    }
    ms_task_t *task = ms_task_of_index(index);
    if (task) atomic_fetch_sub_explicit(&task->live_bytes, (int64_t)size, memory_order_relaxed);
}

int64_t ms_task_quantum(const ms_arena_t *arena) {
    return part_of_peak(ms_task_of_index(ms_arena_task(arena)));
}

static bool was_entered_in(const ms_arena_t *arena, uint32_t index, uint64_t id) {
    const ms_cell_t *cell = arena->tasks ? ms_cell_find(arena->tasks, index) : NULL;
    return cell && ms_read(&cell->owner) == id && ms_read(&cell->enters) != 0;
}

/* A thread alone in the task sees all of its own changes when it looks, and others' frees of its blocks come at once.
 * Of more threads each may have allocated a quantum that the others do not see yet, or freed something. */
uint64_t ms_task_peak_error(uint32_t index) {
    if (ms_process.always_slow) return 0;
    if (index == MS_TASK_NONE) return ms_peak_error();
    const ms_task_t *task = ms_task_of_index(index);
    uint64_t quantum = (uint64_t)part_of_peak(task), threads = 0;
    uint64_t loss = task ? (uint64_t)atomic_load_explicit(&task->unseen_loss, memory_order_relaxed) : 0;
    uint64_t id = task ? atomic_load_explicit(&task->id, memory_order_relaxed) : index;
    for (const ms_arena_t *arena = ms_arena_first(); arena; arena = arena->next) {
        threads += was_entered_in(arena, index, id);
        if (ms_arena_task(arena) != index) continue;
        int64_t now = (int64_t)(ms_read(&arena->freed_bytes) - ms_read(&arena->task_settled.freed_bytes));
        if (now > (int64_t)loss) loss = (uint64_t)now;
    }
    return threads > 1 ? threads * (quantum + loss) : quantum;
}

/* ---- the table */

static void ended_remove(ms_task_t *task) {
    *(task->older ? &task->older->newer : &oldest_ended) = task->newer;
    *(task->newer ? &task->newer->older : &newest_ended) = task->older;
}

static void ended_push(ms_task_t *task) {
    task->older = newest_ended;
    task->newer = NULL;
    *(newest_ended ? &newest_ended->newer : &oldest_ended) = task;
    newest_ended = task;
}

static ms_task_t *slot_new(uint32_t *index) {
    *index = ms_task_index_count();
    if (*index - MS_TASK_FIRST >= ms_process.knobs.max_tracked_tasks || *index / CHUNK >= CHUNKS) return NULL;
    _Atomic(ms_task_t *) *chunk = &chunks[*index / CHUNK];
    ms_task_t *tasks = atomic_load_explicit(chunk, memory_order_relaxed);
    if (!tasks) {
        tasks = ms_os_map_metadata(CHUNK * sizeof *tasks);
        if (!tasks) return NULL;
        atomic_store_explicit(chunk, tasks, memory_order_release); /* pairs with ms_task_of_index() */
    }
    if (is_all_untasked()) atomic_store(&ms_task_none.peak_bytes, atomic_load(&ms_process.peak_bytes));
    atomic_store_explicit(&ms_task_indices, *index + 1, memory_order_release);
    return &tasks[*index % CHUNK];
}

static bool is_current_somewhere(uint64_t id) {
    for (const ms_arena_t *arena = ms_arena_first(); arena; arena = arena->next)
        if (ms_read(&arena->task_id) == id) return true;
    return false;
}

static ms_task_t *slot_reuse(uint32_t *index) {
    for (int tries = 0; tries < 4 && oldest_ended; tries++) {
        ms_task_t *task = oldest_ended;
        ended_remove(task);
        *index = (uint32_t)atomic_load(&task->id);
        ms_cell_t sum = ms_task_sum(*index);
        bool unused = sum.allocated_blocks == sum.freed_blocks && !is_current_somewhere(atomic_load(&task->id));
        if (unused) {
            atomic_fetch_add_explicit(&ms_process.folded_tasks, 1, memory_order_relaxed);
            return task;
        }
        ended_push(task);
    }
    return NULL;
}

static void copy_name(char *to, const char *name) {
    size_t length = name ? strnlen(name, MS_TASK_NAME - 1) : 0;
    if (length) memcpy(to, name, length);
    to[length] = '\0';
}

/* Under MS_LOCK_TASKS. */
static ms_task_t *create(const char *name, uint64_t parent) {
    uint32_t index;
    ms_task_t *task = slot_new(&index);
    if (!task) task = slot_reuse(&index);
    if (!task) {
        atomic_fetch_add_explicit(&ms_process.folded_tasks, 1, memory_order_relaxed);
        return &other;
    }
    uint64_t id = ((atomic_load(&task->id) >> 32) << 32) + ((uint64_t)1 << 32) + index;
    task->state = MS_TASK_ACTIVE;
    task->parent = ms_process.knobs.enable_task_hierarchy ? parent : 0;
    task->start_ns = ms_process_elapsed_ns();
    task->end_ns = task->outlived_bytes = task->outlived_blocks = 0;
    task->key = NULL;
    task->quantum = QUANTUM_MIN;
    atomic_store(&task->unseen_loss, 0);
    atomic_store(&task->live_bytes, 0);
    atomic_store(&task->peak_bytes, 0);
    copy_name(task->name, name);
    atomic_store_explicit(&task->id, id, memory_order_release);
    atomic_store_explicit(&task->open_id, id, memory_order_release);
    return task;
}

memscope_task_t memscope_task_create(const char *name, memscope_task_t parent) {
    ms_arena_leave(ms_arena_enter());
    if (!ms_process.track_tasks) return MS_TASK_OTHER;
    if (parent == MEMSCOPE_PARENT_CURRENT) parent = memscope_task_current();
    ms_lock(MS_LOCK_TASKS);
    uint64_t id = atomic_load(&create(name, parent)->id);
    ms_unlock(MS_LOCK_TASKS);
    return id;
}

static ms_task_t **key_slot(const void *key) {
    uint64_t hash = ((uintptr_t)key >> 4) * 0x9e3779b97f4a7c15u;
    ms_task_t **slot = &key_buckets[hash >> 40 & (KEY_BUCKETS - 1)];
    while (*slot && (*slot)->key != key) slot = &(*slot)->next_key;
    return slot;
}

memscope_task_t memscope_task_for_key(const void *key, const char *name) {
    ms_arena_leave(ms_arena_enter());
    if (!ms_process.track_tasks || !key) return MS_TASK_OTHER;
    uint64_t parent = memscope_task_current(), id = MS_TASK_OTHER;
    ms_lock(MS_LOCK_TASKS);
    if (!key_buckets) key_buckets = ms_os_map_metadata(KEY_BUCKETS * sizeof *key_buckets);
    if (key_buckets) {
        ms_task_t **slot = key_slot(key), *task = *slot;
        if (!task && (task = create(name, parent)) != &other) {
            task->key = key;
            task->next_key = NULL;
            *slot = task;
        }
        id = atomic_load(&task->id);
    }
    ms_unlock(MS_LOCK_TASKS);
    return id;
}

/* ---- the current task */

memscope_task_t memscope_task_current(void) { return ms_arena_current->task_id; }

static MS_COLD void flush_before_switch(ms_arena_t *arena) {
    ms_task_settle(arena);
    ms_arena_flush_task(arena);
}

/* The task's peak is looked at after its quantum at the latest. */
static inline void keep_quantum(ms_arena_t *arena, const ms_task_t *task) {
    int64_t quantum = __atomic_load_n(&task->quantum, __ATOMIC_RELAXED);
    if (ms_unlikely(arena->countdown > quantum)) ms_arena_lower_countdown(arena, quantum);
}

static inline void switch_to(ms_arena_t *arena, uint64_t id, const ms_task_t *task) {
    if (ms_flow_moved(arena)) flush_before_switch(arena);
    ms_arena_expect_in(arena, id, arena->expect);
    arena->task_id = id;
    if (id) keep_quantum(arena, task);
}

static MS_COLD ms_cell_t *cell_looked_up(ms_arena_t *arena, uint64_t id, const ms_task_t *task) {
    arena->cell = ms_task_cell(arena, (uint32_t)id);
    ms_arena_expect_in(arena, id, arena->cell_expect);
    arena->cell_task = task;
    arena->cell_id = id;
    return arena->cell;
}

/* The arena of a thread that can have a current task; NULL for one that is ending. */
static inline ms_arena_t *tasking_arena(void) {
    ms_arena_t *arena = ms_arena_current;
    if (ms_unlikely(arena == &ms_arena_empty)) {
        ms_arena_leave(ms_arena_enter());
        arena = ms_arena_current;
    }
    return ms_process.track_tasks && arena != &ms_arena_empty ? arena : NULL;
}

static inline bool may_be_entered(const ms_task_t *task, uint64_t id) {
    return atomic_load_explicit(&task->open_id, memory_order_acquire) == id;
}

static __attribute__((noinline)) memscope_token_t enter_any(memscope_task_t id) {
    ms_arena_t *arena = tasking_arena();
    if (ms_unlikely(!arena)) return (memscope_token_t){0};
    memscope_token_t token = {arena->task_id};
    const ms_task_t *task = task_of_index((uint32_t)id);
    if (ms_unlikely(!task || !may_be_entered(task, id))) id = 0;
    if (id != arena->task_id) switch_to(arena, id, task);
    if (id) {
        ms_cell_t *cell = ms_likely(arena->cell_id == id) ? arena->cell : cell_looked_up(arena, id, task);
        ms_count(&cell->enters, 1);
    }
    return token;
}

static __attribute__((noinline)) void leave_any(memscope_token_t token) {
    ms_arena_t *arena = tasking_arena();
    uint64_t id = token.previous;
    if (ms_unlikely(!arena) || id == arena->task_id) return;
    const ms_task_t *task = id ? ms_task_find(id) : NULL;
    if (!task || !may_be_entered(task, id)) id = 0; /* it ended meanwhile */
    if (id != arena->task_id) switch_to(arena, id, task);
}

/* The short ways: into the task entered last, where nothing was counted since the last switch, and back out of every task.
 * The empty arena, and one of a thread that cannot have a task, has entered ms_task_none. */
MS_HOT memscope_token_t memscope_task_enter(memscope_task_t id) {
    ms_arena_t *arena = ms_arena_current;
    memscope_token_t token = {arena->task_id};
    if (ms_unlikely(arena->cell_id != id) || ms_flow_moved(arena))
        return ms_process.track_tasks ? enter_any(id) : (memscope_token_t){0};
    const ms_task_t *task = arena->cell_task;
    if (ms_unlikely(!may_be_entered(task, id))) return enter_any(id);
    ms_arena_set_task(arena, id, arena->cell_expect);
    keep_quantum(arena, task);
    ms_count(&arena->cell->enters, 1);
    return token;
}

MS_HOT void memscope_task_leave(memscope_token_t token) {
    ms_arena_t *arena = ms_arena_current;
    if (ms_unlikely(token.previous == arena->task_id)) return;
    if (ms_unlikely(token.previous != 0) || ms_flow_moved(arena))
        leave_any(token);
    else
        ms_arena_set_task(arena, 0, arena->untasked_expect);
}

/* ---- numbers */

static void fill_usage(const ms_task_t *task, uint32_t index, memscope_usage_t *usage) {
    ms_cell_t sum = ms_task_sum(index);
    int64_t peak = ms_task_peak(task);
    *usage = (memscope_usage_t){
        .allocated_bytes = sum.allocated_bytes,
        .allocated_blocks = sum.allocated_blocks,
        .freed_bytes = ms_freed_of(sum.allocated_bytes, sum.freed_bytes),
        .freed_blocks = ms_freed_of(sum.allocated_blocks, sum.freed_blocks),
        .peak_error_bytes = ms_task_peak_error(index),
    };
    usage->live_bytes = usage->allocated_bytes - usage->freed_bytes;
    usage->live_blocks = usage->allocated_blocks - usage->freed_blocks;
    usage->peak_bytes = (uint64_t)peak > usage->live_bytes ? (uint64_t)peak : usage->live_bytes;
}

int memscope_task_usage(memscope_task_t id, memscope_usage_t *usage) {
    const ms_task_t *task = ms_task_find(id);
    if (!task) return ESRCH;
    ms_arena_t *arena = ms_arena_enter();
    ms_task_settle(arena);
    ms_arena_leave(arena);
    fill_usage(task, (uint32_t)id, usage);
    return 0;
}

int memscope_task_end(memscope_task_t id, memscope_usage_t *usage) {
    ms_task_t *task = ms_task_find(id);
    if (!task || (uint32_t)id < MS_TASK_FIRST) return ESRCH;
    memscope_usage_t outlived;
    memscope_task_usage(id, &outlived);
    ms_lock(MS_LOCK_TASKS);
    bool active = atomic_load(&task->id) == id && task->state == MS_TASK_ACTIVE;
    if (active) {
        task->state = MS_TASK_ENDED;
        atomic_store_explicit(&task->open_id, 0, memory_order_relaxed);
        task->end_ns = ms_process_elapsed_ns();
        task->outlived_bytes = outlived.live_bytes;
        task->outlived_blocks = outlived.live_blocks;
        if (task->key) *key_slot(task->key) = task->next_key;
        task->key = NULL;
        ended_push(task);
    }
    ms_unlock(MS_LOCK_TASKS);
    if (!active) return ESRCH;
    if (usage) *usage = outlived;
    return 0;
}
