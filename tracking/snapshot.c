#include "tracking/snapshot.h"
#include "alloc/backend.h"
#include "alloc/large.h"
#include "alloc/limit.h"
#include "alloc/lock.h"
#include "alloc/os.h"
#include "alloc/paranoia.h"
#include "alloc/thread.h"
#include "tracking/event_log.h"
#include "tracking/leaks.h"
#include "tracking/process.h"
#include "tracking/report.h"
#include "tracking/sites.h"
#include "tracking/stacks.h"
#include "tracking/tasks.h"
#include "tracking/unwind.h"
#include "tracking/variables.h"

#include <errno.h>
#include <string.h>

/* ---- memory */

typedef struct ms_region_piece {
    struct ms_region_piece *older;
    size_t bytes;
} ms_region_piece_t;

#define PIECE ((size_t)256 << 10)

void *ms_region_alloc(ms_region_t *region, size_t bytes) {
    bytes = (bytes + 15) & ~(size_t)15;
    if (!region->pieces || region->used + bytes > region->pieces->bytes) {
        size_t piece_bytes = bytes + sizeof(ms_region_piece_t) > PIECE
                                 ? (bytes + sizeof(ms_region_piece_t) + MS_PAGE - 1) & ~(size_t)(MS_PAGE - 1)
                                 : PIECE;
        ms_region_piece_t *piece = ms_os_map(piece_bytes, MS_PAGE);
        if (!piece) return NULL;
        *piece = (ms_region_piece_t){.older = region->pieces, .bytes = piece_bytes};
        region->pieces = piece;
        region->used = sizeof *piece;
    }
    void *memory = (char *)region->pieces + region->used;
    region->used += bytes;
    return memory;
}

const char *ms_region_text(ms_region_t *region, const char *text, size_t length) {
    char *copy = ms_region_alloc(region, length + 1);
    if (copy) memcpy(copy, text, length);
    return copy;
}

void ms_region_free(ms_region_t *region) {
    ms_region_piece_t *piece = region->pieces;
    while (piece) {
        ms_region_piece_t *older = piece->older;
        ms_os_unmap(piece, piece->bytes);
        piece = older;
    }
}

static const char *text_of(ms_snapshot_t *snapshot, const char *text) {
    return text ? ms_region_text(&snapshot->region, text, strlen(text)) : NULL;
}

/* Room for `count` rows of a table, none of them in it yet. */
#define ROWS(snapshot, table, count) \
    ((snapshot)->model.table.rows = ms_region_alloc(&(snapshot)->region, ((count) + 1) * sizeof *(snapshot)->model.table.rows))
#define ADD_ROW(snapshot, table) (&(snapshot)->model.table.rows[(snapshot)->model.table.count++])

#define NULL_REASONS 128

void ms_snapshot_null(ms_snapshot_t *snapshot, const char *table, const char *column, const char *reason) {
    if (snapshot->model.null_reasons.count == NULL_REASONS) return;
    ms_null_reasons_row_t *row = ADD_ROW(snapshot, null_reasons);
    *row = (ms_null_reasons_row_t){.table = table, .column = column, .reason = reason};
}

/* ---- threads */

static void set_usage(ms_threads_row_t *row, const ms_flow_t *own, const ms_flow_t *others) {
    row->allocated_bytes = own->allocated_bytes;
    row->allocated_blocks = own->allocated_blocks;
    row->freed_bytes = ms_freed_of(own->allocated_bytes, own->freed_bytes + others->freed_bytes);
    row->freed_blocks = ms_freed_of(own->allocated_blocks, own->freed_blocks + others->freed_blocks);
    row->live_bytes = row->allocated_bytes - row->freed_bytes;
    row->live_blocks = row->allocated_blocks - row->freed_blocks;
    row->freed_by_others_bytes = others->freed_bytes;
    row->freed_by_others_blocks = others->freed_blocks;
}

/* Bytes and blocks of other threads that this one freed. */
static ms_flow_t foreign_frees(const ms_thread_t *thread) {
    ms_flow_t flow = {.freed_bytes = thread->foreign_freed_bytes, .freed_blocks = thread->foreign_freed_blocks};
    for (const ms_arena_t *arena = ms_arena_first(); arena; arena = arena->next)
        if (arena->thread == thread) {
            flow.freed_bytes += ms_read(&arena->foreign_freed_bytes);
            flow.freed_blocks += ms_read(&arena->foreign_freed_blocks);
        }
    return flow;
}

/* What was freed of threads whose code went to somebody else. */
static ms_flow_t freed_of_folded(void) {
    ms_flow_t sum = {0};
    for (uint32_t code = 0, count = ms_thread_code_count(); code < count; code++) {
        const ms_thread_t *freer = ms_thread_of_code(code);
        for (uint32_t of = 0; freer && freer->freed && of < count; of++) {
            const ms_cell_t *cell = ms_cell_find(freer->freed, of);
            const ms_thread_t *owner = ms_thread_of_code(of);
            if (!cell || (of != MS_CODE_FOLDED && owner && ms_read(&cell->owner) == owner->id)) continue;
            sum.freed_bytes += ms_read(&cell->freed_bytes);
            sum.freed_blocks += ms_read(&cell->freed_blocks);
        }
    }
    return sum;
}

const char *ms_thread_state_name(const ms_thread_t *thread) {
    if (thread->code == MS_CODE_FOLDED) return "folded";
    return thread->state == MS_THREAD_RUNNING ? "running" : "ended";
}

static void add_thread(ms_snapshot_t *snapshot, const ms_thread_t *thread) {
    bool is_folded = thread->code == MS_CODE_FOLDED, running = thread->state == MS_THREAD_RUNNING;
    ms_flow_t own = ms_thread_own_flow(thread), foreign = foreign_frees(thread);
    ms_flow_t others = is_folded ? freed_of_folded() : ms_thread_freed_by_others(thread);
    if (is_folded && own.allocated_blocks == 0 && foreign.freed_blocks == 0) return;
    ms_threads_row_t *row = ADD_ROW(snapshot, threads);
    set_usage(row, &own, &others);
    row->id = thread->id;
    row->tid = thread->tid;
    row->name = is_folded ? MS_FOLDED_NAME : ms_region_text(&snapshot->region, thread->name, strnlen(thread->name, 16));
    row->state = ms_thread_state_name(thread);
    row->start_ns = thread->start_ns;
    row->end_ns = running ? MS_NULL : is_folded ? 0 : thread->end_ns;
    row->frees_made_bytes = own.freed_bytes + foreign.freed_bytes;
    row->frees_made_blocks = own.freed_blocks + foreign.freed_blocks;
    row->peak_bytes = running && thread->arena ? ms_read(&thread->arena->peak_bytes) : thread->peak_bytes;
    if (row->peak_bytes < row->live_bytes) row->peak_bytes = row->live_bytes;
    const ms_arena_t *arena = thread->arena;
    uint64_t unseen_turn = running && arena ? ms_read(&arena->unseen_turn) : thread->unseen_turn;
    uint64_t unseen_now = running && arena ? ms_arena_unsettled_gain(arena) : 0;
    if (unseen_now > unseen_turn) unseen_turn = unseen_now;
    row->peak_error_bytes = is_folded ? MS_NULL : ms_thread_peak_error(unseen_turn, others.freed_bytes);
    row->slabs = arena ? arena->slab_count - atomic_load_explicit(&arena->reclaimed_slabs, memory_order_relaxed) : 0;
    row->cpu_ns = running ? MS_NULL : thread->cpu_ns;
}

static bool fill_threads(ms_snapshot_t *snapshot) {
    uint32_t count = ms_thread_code_count();
    if (!ROWS(snapshot, threads, count)) return false;
    for (uint32_t code = 0; code < count; code++) {
        const ms_thread_t *thread = ms_thread_of_code(code);
        if (thread && (code == MS_CODE_FOLDED || thread->state != MS_THREAD_UNUSED)) add_thread(snapshot, thread);
    }
    ms_snapshot_null(snapshot, "threads", "cpu_ns", "only a thread itself can read its CPU clock; known once it has ended");
    return true;
}

static size_t count_cross_frees(uint32_t count) {
    size_t rows = 0;
    for (uint32_t code = 0; code < count; code++) {
        const ms_thread_t *freer = ms_thread_of_code(code);
        for (uint32_t of = 0; freer && freer->freed && of < count; of++) {
            const ms_cell_t *cell = ms_cell_find(freer->freed, of);
            rows += cell && ms_read(&cell->freed_blocks);
        }
    }
    return rows;
}

static bool fill_cross_frees(ms_snapshot_t *snapshot) {
    uint32_t count = ms_thread_code_count();
    size_t room = count_cross_frees(count) + 64; /* other threads go on */
    if (!ROWS(snapshot, cross_frees, room)) return false;
    for (uint32_t code = 0; code < count; code++) {
        const ms_thread_t *freer = ms_thread_of_code(code);
        for (uint32_t of = 0; freer && freer->freed && of < count; of++) {
            const ms_cell_t *cell = ms_cell_find(freer->freed, of);
            if (!cell || !ms_read(&cell->freed_blocks) || snapshot->model.cross_frees.count == room) continue;
            const ms_thread_t *owner = ms_thread_of_code(of);
            bool same = owner && owner->id == ms_read(&cell->owner);
            *ADD_ROW(snapshot, cross_frees) = (ms_cross_frees_row_t){.owner_thread = same ? owner->id : 0,
                                                                     .freeing_thread = freer->id,
                                                                     .bytes = ms_read(&cell->freed_bytes),
                                                                     .blocks = ms_read(&cell->freed_blocks)};
        }
    }
    return true;
}

/* ---- tasks */

static void add_task(ms_snapshot_t *snapshot, const ms_task_t *task, uint32_t index) {
    ms_cell_t sum = ms_task_sum(index);
    if (index < MS_TASK_FIRST && sum.allocated_blocks == 0 && index != MS_TASK_NONE) return;
    int64_t peak = ms_task_peak(task);
    bool ended = task->state == MS_TASK_ENDED;
    ms_tasks_row_t *row = ADD_ROW(snapshot, tasks);
    *row = (ms_tasks_row_t){
        .id = atomic_load_explicit(&task->id, memory_order_relaxed),
        .parent = task->parent ? task->parent : MS_NULL,
        .name = ms_region_text(&snapshot->region, task->name, strnlen(task->name, MS_TASK_NAME)),
        .state = index == MS_TASK_OTHER ? "other" : ended ? "ended" : "active",
        .start_ns = task->start_ns,
        .end_ns = ended ? task->end_ns : MS_NULL,
        .allocated_bytes = sum.allocated_bytes,
        .allocated_blocks = sum.allocated_blocks,
        .freed_bytes = ms_freed_of(sum.allocated_bytes, sum.freed_bytes),
        .freed_blocks = ms_freed_of(sum.allocated_blocks, sum.freed_blocks),
        .peak_error_bytes = ms_task_peak_error(index),
        .enters = sum.enters,
        .handed_off_bytes = sum.handed_off_bytes,
        .handed_off_blocks = sum.handed_off_blocks,
        .outlived_bytes = ended ? task->outlived_bytes : MS_NULL,
        .outlived_blocks = ended ? task->outlived_blocks : MS_NULL,
    };
    row->live_bytes = row->allocated_bytes - row->freed_bytes;
    row->live_blocks = row->allocated_blocks - row->freed_blocks;
    row->peak_bytes = (uint64_t)peak > row->live_bytes ? (uint64_t)peak : row->live_bytes;
}

static bool fill_tasks(ms_snapshot_t *snapshot) {
    uint32_t count = ms_task_index_count();
    if (!ROWS(snapshot, tasks, count)) return false;
    for (uint32_t index = 0; index < count; index++) {
        const ms_task_t *task = ms_task_of_index(index);
        if (task && task->state != MS_TASK_UNUSED) add_task(snapshot, task, index);
    }
    ms_snapshot_null(snapshot, "tasks", "outlived_bytes", "the task has not ended");
    ms_snapshot_null(snapshot, "tasks", "outlived_blocks", "the task has not ended");
    return true;
}

/* ---- sites */

uint64_t ms_square_root(unsigned __int128 value) {
    unsigned __int128 root = 0;
    for (unsigned __int128 bit = (unsigned __int128)1 << 63; bit; bit >>= 1)
        if ((root | bit) * (root | bit) <= value) root |= bit;
    return (uint64_t)root;
}

/* The sum of count_variance() in tracking/sites.c. */
static uint64_t live_error(const ms_cell_t *sum) {
    __int128 variance = (__int128)(int64_t)sum->handed_off_blocks * ((__int128)1 << 32) + (int64_t)sum->handed_off_bytes;
    return variance < 0 ? 0 : ms_square_root((unsigned __int128)variance);
}

static void set_site_usage(ms_sites_row_t *row, const ms_cell_t *sum, bool estimated) {
    uint32_t shift = estimated ? MS_WEIGHT_SHIFT : 0;
    uint64_t half = estimated ? (uint64_t)1 << (MS_WEIGHT_SHIFT - 1) : 0;
    row->allocated_bytes = sum->allocated_bytes;
    row->allocated_blocks = (sum->allocated_blocks + half) >> shift;
    row->freed_bytes = ms_freed_of(row->allocated_bytes, sum->freed_bytes);
    row->freed_blocks = ms_freed_of(row->allocated_blocks, (sum->freed_blocks + half) >> shift);
    row->live_bytes = row->allocated_bytes - row->freed_bytes;
    row->live_blocks = row->allocated_blocks - row->freed_blocks;
    row->peak_bytes = MS_NULL;
    row->samples = estimated ? sum->owner : 0;
    row->estimated = estimated;
    row->live_error_bytes = estimated ? live_error(sum) : MS_NULL;
    ms_snapshot_not_exact(row);
    ms_snapshot_not_estimated(row);
}

ms_pcs_t ms_stack_in_place(uint32_t id) {
    size_t depth = ms_stack_pcs(id, NULL, 0);
    return (ms_pcs_t){.count = depth < MS_PCS_MOST ? depth : MS_PCS_MOST, .read = ms_stack_pcs, .id = id};
}

void ms_site_describe(ms_sites_row_t *row, uint32_t id) {
    const ms_variable_t *record = ms_variable_of_site(id);
    row->id = id;
    if (!record) {
        row->kind = id == MS_STACK_NONE      ? "none"
                    : id == MS_STACK_OTHER   ? "other"
                    : ms_process.full_stacks ? "stack"
                                             : "caller";
        return;
    }
    const memscope_variable_t *variable = &record->named;
    row->kind = "variable";
    row->variable = variable->name;
    row->type = variable->type;
    row->function = variable->function;
    row->file = variable->file;
    row->line = variable->line;
}

static bool add_stack_site(ms_snapshot_t *snapshot, uint32_t id) {
    ms_cell_t sum = ms_site_sum(id);
    if (sum.allocated_blocks == 0) return true;
    ms_sites_row_t *row = ADD_ROW(snapshot, sites);
    ms_site_describe(row, id);
    row->stack = ms_stack_in_place(id);
    if (ms_process.sites == MS_SITES_EVERY) return ms_snapshot_exact_site(snapshot, row, id);
    set_site_usage(row, &sum, ms_process.sites == MS_SITES_SAMPLED);
    return true;
}

static bool add_variable_site(ms_snapshot_t *snapshot, uint32_t id) {
    const ms_variable_t *record = ms_variable_of_site(id);
    ms_cell_t sum = ms_site_sum(id);
    if (sum.allocated_blocks == 0 && atomic_load_explicit(&record->times, memory_order_relaxed)) return true; /* a region's */
    ms_sites_row_t *row = ADD_ROW(snapshot, sites);
    ms_site_describe(row, id);
    row->variable = text_of(snapshot, row->variable);
    row->type = text_of(snapshot, row->type);
    row->function = text_of(snapshot, row->function);
    row->file = text_of(snapshot, row->file);
    if (ms_process.sites == MS_SITES_EVERY) return ms_snapshot_exact_site(snapshot, row, id);
    set_site_usage(row, &sum, false);
    return true;
}

/* Blocks without a caller. */
static bool add_siteless(ms_snapshot_t *snapshot) {
    if (ms_site_sum(0).allocated_blocks == 0) return true;
    ms_sites_row_t *row = ADD_ROW(snapshot, sites);
    ms_site_describe(row, MS_STACK_NONE);
    return ms_snapshot_exact_site(snapshot, row, MS_STACK_NONE);
}

static bool fill_sites(ms_snapshot_t *snapshot) {
    uint32_t stacks = atomic_load_explicit(&ms_stack_table.next, memory_order_acquire);
    uint32_t variables = ms_variable_count();
    if (!ROWS(snapshot, sites, (size_t)stacks + variables + 2)) return false;
    for (uint32_t id = MS_STACK_OTHER; id < stacks; id++)
        if (!add_stack_site(snapshot, id)) return false;
    for (uint32_t i = 0; i < variables; i++)
        if (!add_variable_site(snapshot, MS_SITE_VARIABLES + i)) return false;
    bool exact = ms_process.sites == MS_SITES_EVERY;
    if (exact && (!add_siteless(snapshot) || !ms_snapshot_ages(snapshot, MS_SITE_VARIABLES + variables))) return false;
    ms_snapshot_exact_reasons(snapshot, exact);
    ms_snapshot_null(snapshot, "sites", "live_error_bytes", "the count is exact");
    return true;
}

/* ---- variables: what they own and what they name that is no block */

static void add_scopes(ms_snapshot_t *snapshot, const ms_variable_t *variable) {
    ms_scope_counts_t counts = ms_variable_scopes(variable);
    if (counts.begun == 0) return;
    bool known = counts.freed_blocks != 0;
    *ADD_ROW(snapshot, scopes) = (ms_scopes_row_t){
        .site = variable->named.site,
        .begun = counts.begun,
        .ended = counts.ended,
        .outlived_blocks = counts.outlived_blocks,
        .outlived_bytes = counts.outlived_bytes,
        .freed_blocks = counts.freed_blocks,
        .lifetime_min_ns = known ? counts.lifetime_min_ns : MS_NULL,
        .lifetime_mean_ns = known ? counts.lifetime_sum_ns / counts.freed_blocks : MS_NULL,
        .lifetime_max_ns = known ? counts.lifetime_max_ns : MS_NULL,
    };
}

static void add_region(ms_snapshot_t *snapshot, const ms_variable_t *variable) {
    uint64_t times = atomic_load_explicit(&variable->times, memory_order_relaxed);
    if (times == 0) return;
    *ADD_ROW(snapshot, regions) = (ms_regions_row_t){
        .site = variable->named.site,
        .variable = text_of(snapshot, variable->named.name),
        .type = text_of(snapshot, variable->named.type),
        .function = text_of(snapshot, variable->named.function),
        .file = text_of(snapshot, variable->named.file),
        .line = variable->named.line,
        .start = atomic_load_explicit(&variable->start, memory_order_relaxed),
        .bytes = atomic_load_explicit(&variable->bytes, memory_order_relaxed),
        .thread = atomic_load_explicit(&variable->thread, memory_order_relaxed),
        .times = times,
    };
}

static bool fill_variables(ms_snapshot_t *snapshot) {
    uint32_t count = ms_variable_count();
    if (!ROWS(snapshot, scopes, count) || !ROWS(snapshot, regions, count)) return false;
    for (uint32_t i = 0; i < count; i++) {
        const ms_variable_t *variable = ms_variable_of_site(MS_SITE_VARIABLES + i);
        add_scopes(snapshot, variable);
        add_region(snapshot, variable);
    }
    static const char *const lifetimes[] = {"lifetime_min_ns", "lifetime_mean_ns", "lifetime_max_ns"};
    for (size_t i = 0; i < 3; i++) ms_snapshot_null(snapshot, "scopes", lifetimes[i], "none of its blocks has been freed");
    return true;
}

/* ---- size classes, totals, memory */

static ms_size_classes_row_t class_row(uint32_t class) {
    bool is_large = class == MS_CLASS_LARGE;
    ms_size_classes_row_t row = {.index = class,
                                 .payload_bytes = is_large ? 0 : ms_class_payload(class),
                                 .block_bytes = is_large ? 0 : ms_class_stride(class)};
    for (const ms_arena_t *arena = ms_arena_first(); arena; arena = arena->next) {
        row.allocated_blocks += ms_arena_allocations(arena, class);
        row.freed_blocks += ms_arena_frees(arena, class) + ms_read(&arena->remote_freed[class]);
    }
    if (!is_large) row.freed_blocks += atomic_load_explicit(&ms_quarantined[class], memory_order_relaxed);
    row.freed_blocks = ms_freed_of(row.allocated_blocks, row.freed_blocks);
    row.live_blocks = row.allocated_blocks - row.freed_blocks;
    return row;
}

static bool fill_classes(ms_snapshot_t *snapshot) {
    if (!ROWS(snapshot, size_classes, MS_CLASS_COUNT)) return false;
    for (uint32_t class = 0; class < MS_CLASS_COUNT; class++) {
        ms_size_classes_row_t row = class_row(class);
        if (row.allocated_blocks) *ADD_ROW(snapshot, size_classes) = row;
    }
    return true;
}

static bool fill_totals(ms_snapshot_t *snapshot) {
    ms_totals_row_t *row = ROWS(snapshot, totals, 1);
    if (!row) return false;
    snapshot->model.totals.count = 1;
    for (size_t i = 0; i < snapshot->model.threads.count; i++) {
        const ms_threads_row_t *thread = &snapshot->model.threads.rows[i];
        row->allocated_bytes += thread->allocated_bytes;
        row->allocated_blocks += thread->allocated_blocks;
        row->freed_bytes += thread->freed_bytes;
        row->freed_blocks += thread->freed_blocks;
    }
    row->live_bytes = row->allocated_bytes - row->freed_bytes;
    row->live_blocks = row->allocated_blocks - row->freed_blocks;
    row->peak_bytes = ms_process_peak(row->live_bytes, &row->peak_error_bytes);
    return true;
}

/* Slab space that was cut into blocks; a slab without any in use that still has its pages counts as it last was. */
static uint64_t carved_bytes(void) {
    uint64_t bytes = 0;
    ms_lock(MS_LOCK_SLABS);
    for (const ms_group_t *group = ms_group_first(); group; group = group->all)
        for (uint32_t i = 0; group->start && i < MS_GROUP_BYTES >> group->slab_shift; i++)
            if (!(group->free_mask >> i & 1) || group->slabs[i].dirty)
                bytes += group->slabs[i].carved * ms_class_stride(group->slabs[i].class);
    ms_unlock(MS_LOCK_SLABS);
    return bytes;
}

static uint64_t at_least_zero(uint64_t value) { return (int64_t)value < 0 ? 0 : value; }

static bool fill_memory(ms_snapshot_t *snapshot) {
    ms_memory_row_t *row = ROWS(snapshot, memory, 1);
    if (!row) return false;
    snapshot->model.memory.count = 1;
    const ms_totals_row_t *totals = snapshot->model.totals.rows;
    ms_large_totals_t large = ms_large_totals();
    uint64_t slab_bytes = ms_slab_mapped_bytes(), carved = carved_bytes(), live_strides = 0, small_blocks = 0;
    uint64_t unused = ms_large_unused_bytes();
    for (size_t i = 0; i < snapshot->model.size_classes.count; i++) {
        const ms_size_classes_row_t *class = &snapshot->model.size_classes.rows[i];
        live_strides += class->live_blocks * class->block_bytes;
        if (class->block_bytes) small_blocks += class->live_blocks;
    }
    row->live_bytes = totals->live_bytes;
    row->header_bytes = 16 * (small_blocks + large.live_blocks);
    row->mapped_bytes = slab_bytes + large.live_mapped_bytes + large.cached_bytes;
    row->slack_bytes = at_least_zero(live_strides + large.live_mapped_bytes - unused - row->header_bytes - row->live_bytes);
    row->free_bytes = at_least_zero(carved - live_strides) + large.cached_bytes;
    row->uncarved_bytes = at_least_zero(slab_bytes - carved) + unused;
    row->metadata_bytes = ms_os_metadata_bytes();
    row->backing_resident_bytes = ms_backend_resident();
    if (row->backing_resident_bytes == MS_NULL)
        ms_snapshot_null(snapshot, "memory", "backing_resident_bytes", "this backing does not tell");
    return true;
}

/* ---- knobs, data quality */

static bool fill_knobs(ms_snapshot_t *snapshot) {
    if (!ROWS(snapshot, knobs, MS_KNOB_ID_COUNT)) return false;
    for (int id = 0; id < MS_KNOB_ID_COUNT; id++) {
        char number[32];
        *ADD_ROW(snapshot, knobs) =
            (ms_knobs_row_t){.name = ms_knob_info[id].name,
                             .value = text_of(snapshot, ms_knob_text(&ms_process.knobs, (ms_knob_id_t)id, number)),
                             .source = ms_knob_source_names[ms_process_knob_sources[id]]};
    }
    return true;
}

static void fill_cut_stacks(ms_data_quality_row_t *row) {
    for (const ms_arena_t *arena = ms_arena_first(); arena; arena = arena->next) {
        for (int end = 0; arena->unwind && end < MS_UNWIND_END_COUNT; end++) {
            uint64_t stacks = arena->unwind->stats.ends[end];
            bool is_followed = end == MS_UNWIND_END_root || end == MS_UNWIND_END_depth;
            if (end != MS_UNWIND_END_root) row->truncated_stacks += stacks;
            if (!is_followed) row->unfollowed_stacks += stacks;
        }
    }
}

static uint64_t sampled_blocks(void) {
    uint64_t sampled = 0;
    for (const ms_arena_t *arena = ms_arena_first(); arena; arena = arena->next) sampled += arena->sampled_blocks;
    return sampled;
}

static size_t running_threads(const ms_snapshot_t *snapshot) {
    size_t running = 0;
    for (size_t i = 0; i < snapshot->model.threads.count; i++)
        running += snapshot->model.threads.rows[i].state[0] == 'r';
    return running;
}

static bool fill_quality(ms_snapshot_t *snapshot) {
    ms_data_quality_row_t *row = ROWS(snapshot, data_quality, 1);
    if (!row) return false;
    snapshot->model.data_quality.count = 1;
    static const char *const counts[] = {"none", "sampled", "exact"};
    bool sites = ms_process.sites != MS_SITES_NONE;
    *row = (ms_data_quality_row_t){
        .allocation_events = snapshot->model.totals.rows->allocated_blocks,
        .free_events = snapshot->model.totals.rows->freed_blocks,
        .sampled_events = sampled_blocks(),
        .dropped_events = ms_cells_dropped(),
        .folded_threads = ms_thread_of_code(MS_CODE_FOLDED)->end_ns,
        .folded_tasks = ms_process.folded_tasks,
        .folded_sites = sites ? ms_stack_overflow() : 0,
        .compared_stacks = ms_process.compared_stacks,
        .different_stacks = ms_process.different_stacks,
        .handler_refusals = ms_process.handler_refusals,
        .clock_steps_back = ms_process.clock_steps_back,
        .header_check_failures = ms_process.header_failures,
        .origin_mismatches = ms_process.origin_mismatches,
        .unknown_frees = ms_process.unknown_frees,
        .failed_allocations = ms_process.failed_allocations,
        .cgroup_refusals = ms_limit_refusals(),
        .sample_bytes = ms_process.sites == MS_SITES_SAMPLED && !ms_process.knobs.sample_rate ? ms_process.knobs.sample_bytes : 0,
        .own_memory_bytes = ms_os_metadata_bytes(),
        .own_cpu_ns = MS_NULL,
        .site_counts = counts[ms_process.sites],
        .unwinder = !sites ? "none" : ms_process.full_stacks ? "eh_frame" : "caller",
        .clock = ms_process.knobs.test_mode ? "fixed" : "monotonic_coarse",
        .clock_resolution_ns = ms_process.knobs.test_mode ? 0 : ms_os_monotonic_step_ns(),
        .consistency = running_threads(snapshot) <= 1 ? "quiescent" : "concurrent",
        .complete = true,
    };
    fill_cut_stacks(row);
    ms_snapshot_null(snapshot, "data_quality", "own_cpu_ns", "reading a clock twice per call would cost more than the call");
    return true;
}

/* ---- event log */

static bool fill_trace(ms_snapshot_t *snapshot) {
    ms_trace_row_t *row = ROWS(snapshot, trace, 1);
    if (!row) return false;
    snapshot->model.trace.count = ms_event_log_row(row);
    if (snapshot->model.trace.count) row->path = text_of(snapshot, row->path);
    return true;
}

/* ---- all of it */

typedef bool fill_fn(ms_snapshot_t *snapshot, const char *reason, ms_roots_t *roots);

static bool fill_counts(ms_snapshot_t *snapshot, const char *reason, ms_roots_t *roots) {
    (void)reason, (void)roots;
    return ROWS(snapshot, null_reasons, NULL_REASONS) && fill_threads(snapshot) && fill_totals(snapshot) &&
           fill_tasks(snapshot) && fill_sites(snapshot);
}

static bool fill(ms_snapshot_t *snapshot, const char *reason, ms_roots_t *roots) {
    return fill_counts(snapshot, reason, roots) && fill_cross_frees(snapshot) && fill_variables(snapshot) &&
           fill_classes(snapshot) && fill_memory(snapshot) && fill_knobs(snapshot) && fill_trace(snapshot) &&
           fill_quality(snapshot) &&
           ms_snapshot_calibration(snapshot, MS_SITE_STACKS_MAX) && ms_snapshot_leaks(snapshot, roots) &&
           ms_snapshot_process(snapshot, reason) && ms_snapshot_modules(snapshot);
}

/* The snapshot lies in its own region. stack 0: no search for what can be reached. */
static __attribute__((noinline)) ms_snapshot_t *take_once(fill_fn *fill_tables, const char *reason, uintptr_t stack) {
    ms_arena_t *arena = ms_arena_enter();
    ms_arena_settle(arena);
    ms_arena_flush_task(arena);
    ms_arena_leave(arena);
    ms_region_t region = {0};
    ms_snapshot_t *snapshot = ms_region_alloc(&region, sizeof *snapshot);
    if (!snapshot) return NULL;
    snapshot->region = region;
    ms_roots_t roots;
    bool scan = stack && ms_process.knobs.leaks == MS_LEAKS_SCAN, filled = !scan || ms_roots_take(&roots, stack);
    ms_lock(MS_LOCK_EXPORT);
    ms_lock(MS_LOCK_TASKS);
    ms_lock(MS_LOCK_THREADS);
    ms_thread_agree();
    filled = filled && fill_tables(snapshot, reason, scan ? &roots : NULL);
    ms_unlock(MS_LOCK_THREADS);
    ms_unlock(MS_LOCK_TASKS);
    ms_unlock(MS_LOCK_EXPORT);
    if (scan) ms_roots_free(&roots);
    if (filled) return snapshot;
    ms_snapshot_free(snapshot);
    errno = ENOMEM;
    return NULL;
}

static ms_snapshot_t *take(fill_fn *fill_tables, const char *reason, uintptr_t stack) {
    ms_snapshot_t *snapshot = take_once(fill_tables, reason, stack);
    if (snapshot || !ms_trim()) return snapshot;
    return take_once(fill_tables, reason, stack); /* where address space ends, what is kept for the program goes first */
}

ms_snapshot_t *ms_snapshot_identity(const char *reason) {
    ms_region_t region = {0};
    ms_snapshot_t *snapshot = ms_region_alloc(&region, sizeof *snapshot);
    if (!snapshot) return NULL;
    snapshot->region = region;
    if (ROWS(snapshot, null_reasons, NULL_REASONS) && fill_knobs(snapshot) && ms_snapshot_process(snapshot, reason) &&
        ms_snapshot_modules(snapshot))
        return snapshot;
    ms_snapshot_free(snapshot);
    return NULL;
}

ms_snapshot_t *ms_snapshot_take(const char *reason) {
    uintptr_t stack;
    MS_ROOTS_HERE(stack);
    ms_snapshot_t *snapshot = take(fill, reason, stack);
    __asm__ volatile("" : : : "memory"); /* no jump into take(): our frame has to last */
    return snapshot;
}

ms_snapshot_t *ms_snapshot_counts(void) { return take(fill_counts, "call", 0); }

bool ms_snapshot_quality(ms_snapshot_t *snapshot) {
    static ms_totals_row_t nothing;
    snapshot->model.totals.rows = &nothing;
    bool filled = fill_quality(snapshot);
    if (filled) snapshot->model.data_quality.rows->consistency = "concurrent";
    snapshot->model.totals.rows = NULL;
    return filled;
}

void ms_snapshot_free(ms_snapshot_t *snapshot) {
    ms_region_t region = snapshot->region;
    ms_region_free(&region);
}
