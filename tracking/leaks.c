#include "tracking/leaks.h"
#include "alloc/lock.h"
#include "alloc/os.h"
#include "alloc/thread.h"
#include "memscope/memscope.h"
#include "tracking/process.h"
#include "tracking/stacks.h"
#include "tracking/tasks.h"

#include <errno.h>
#include <string.h>

#define QUARTERS 4
#define ROWS_FIRST 1024u
#define ROWS_MOST (1u << 20) /* further combinations share one row */

typedef struct row {
    uint32_t site, task, code; /* as the header has them */
    uint32_t kind;
    uint64_t blocks, bytes, largest;
    uint64_t first_ms, last_ms;
    uint64_t born[QUARTERS]; /* bytes */
    double estimated;        /* bytes, 0: not sampled */
} row_t; /* empty: blocks is 0 */

/* Rows in a hash table with room for twice as many. */
typedef struct rows {
    row_t *rows;
    uint32_t room, used; /* room: a power of two */
    uint64_t elapsed_ms; /* at the start of the walk */
    uint64_t folded;
    bool no_memory;
} rows_t;

static row_t *slot_of(const rows_t *rows, uint32_t site, uint32_t task, uint32_t code, uint32_t kind) {
    uint64_t hash = ((uint64_t)site << 32 | task) * 0x9e3779b97f4a7c15u ^ ((uint64_t)code << 3 | kind) * 0xd6e8feb86659fd93u;
    for (uint32_t at = (uint32_t)(hash >> 32);; at++) {
        row_t *row = &rows->rows[at & (rows->room - 1)];
        if (!row->blocks || (row->site == site && row->task == task && row->code == code && row->kind == kind)) return row;
    }
}

/* Called with locks of the walk held: memory comes from the system. */
static bool grow(rows_t *rows) {
    rows_t wider = *rows;
    wider.room = rows->room ? rows->room * 2 : ROWS_FIRST;
    wider.rows = ms_os_map(wider.room * sizeof(row_t), MS_PAGE);
    if (!wider.rows) return false;
    for (uint32_t i = 0; i < rows->room; i++) {
        const row_t *row = &rows->rows[i];
        if (row->blocks) *slot_of(&wider, row->site, row->task, row->code, row->kind) = *row;
    }
    if (rows->rows) ms_os_unmap(rows->rows, rows->room * sizeof(row_t));
    *rows = wider;
    return true;
}

static void rows_free(rows_t *rows) {
    if (rows->rows) ms_os_unmap(rows->rows, rows->room * sizeof(row_t));
}

static void add_to(row_t *row, const ms_walk_block_t *block, uint64_t elapsed_ms) {
    uint64_t quarter = block->born_ms * QUARTERS / (elapsed_ms + 1);
    if (row->blocks == 0 || block->born_ms < row->first_ms) row->first_ms = block->born_ms;
    if (block->born_ms > row->last_ms) row->last_ms = block->born_ms;
    if (block->size > row->largest) row->largest = block->size;
    row->born[quarter < QUARTERS ? quarter : QUARTERS - 1] += block->size;
    row->blocks++;
    row->bytes += block->size;
    row->estimated += block->weight * (double)block->size;
}

static void add_block(void *context, const ms_walk_block_t *block, ms_leak_kind_t kind) {
    rows_t *rows = context;
    if (rows->used * 2 >= rows->room && !grow(rows) && (!rows->room || rows->used + 1 >= rows->room)) {
        rows->no_memory = true;
        return;
    }
    row_t *row = slot_of(rows, block->site, block->task, block->code, kind);
    if (!row->blocks && rows->used >= ROWS_MOST) {
        row = slot_of(rows, MS_STACK_OTHER, MS_TASK_OTHER, MS_CODE_FOLDED, kind);
        rows->folded++;
    }
    if (!row->blocks) {
        *row = (row_t){.site = block->site, .task = block->task, .code = block->code, .kind = kind};
        if (rows->used >= ROWS_MOST) *row = (row_t){.site = MS_STACK_OTHER, .task = MS_TASK_OTHER, .kind = kind};
        rows->used++;
    }
    add_to(row, block, rows->elapsed_ms);
}

static void add_live(void *context, const ms_walk_block_t *block) { add_block(context, block, MS_LEAK_LIVE); }

/* ---- the tables */

static uint64_t ns(uint64_t milliseconds) { return milliseconds * 1000000; }

static ms_leaks_row_t model_row(const row_t *row) {
    const ms_task_t *task = ms_task_of_index(row->task);
    const ms_thread_t *thread = ms_thread_of_code(row->code);
    return (ms_leaks_row_t){
        .site = row->site,
        .task = task ? atomic_load_explicit(&task->id, memory_order_relaxed) : 0,
        .thread = thread ? thread->id : 0,
        .kind = ms_leak_kind_names[row->kind],
        .blocks = row->blocks,
        .bytes = row->bytes,
        .estimated_bytes = row->estimated > 0 ? (uint64_t)(row->estimated + 0.5) : MS_NULL,
        .largest_bytes = row->largest,
        .first_born_ns = ns(row->first_ms),
        .last_born_ns = ns(row->last_ms),
        .born_1_bytes = row->born[0],
        .born_2_bytes = row->born[1],
        .born_3_bytes = row->born[2],
        .born_4_bytes = row->born[3],
    };
}

static bool set_rows(ms_snapshot_t *snapshot, const rows_t *rows) {
    ms_leaks_row_t *table = ms_region_alloc(&snapshot->region, (rows->used + 1) * sizeof *table);
    if (!table) return false;
    size_t count = 0;
    for (uint32_t i = 0; i < rows->room; i++)
        if (rows->rows[i].blocks) table[count++] = model_row(&rows->rows[i]);
    snapshot->model.leaks.rows = table;
    snapshot->model.leaks.count = count;
    ms_snapshot_null(snapshot, "leaks", "estimated_bytes", "the blocks are counted, or their site is not known");
    return true;
}

static const char *failure_text(int error) {
    return error == 0         ? NULL
           : error == ENOTSUP ? "the process may not read its own memory (process_vm_readv)"
                              : "no memory for the search";
}

static bool set_check(ms_snapshot_t *snapshot, const ms_reach_report_t *report, bool scanned, int error, uint64_t folded) {
    ms_leak_checks_row_t *row = ms_region_alloc(&snapshot->region, sizeof *row);
    if (!row) return false;
    const ms_roots_report_t *roots = &report->roots;
    *row = (ms_leak_checks_row_t){
        .method = scanned ? "scan" : "live",
        .failure = failure_text(error),
        .blocks = report->counts.blocks,
        .bytes = report->counts.bytes,
        .unsettled_blocks = report->counts.unsettled,
        .folded_blocks = folded,
        .consistency = snapshot->model.data_quality.rows->consistency,
        .global_bytes = scanned ? roots->global_bytes : MS_NULL,
        .stack_bytes = scanned ? roots->stack_bytes : MS_NULL,
        .heap_bytes = scanned ? report->heap_bytes : MS_NULL,
        .unreadable_bytes = scanned ? roots->unreadable_bytes + report->unreadable_bytes : MS_NULL,
        .threads = scanned ? roots->threads : MS_NULL,
        .threads_scanned = scanned ? roots->threads_scanned : MS_NULL,
        .threads_running = scanned ? roots->threads_running : MS_NULL,
    };
    snapshot->model.leak_checks.rows = row;
    snapshot->model.leak_checks.count = 1;
    static const char *const columns[] = {"global_bytes", "stack_bytes",     "heap_bytes",     "unreadable_bytes",
                                          "threads",      "threads_scanned", "threads_running"};
    for (size_t i = 0; !scanned && i < sizeof columns / sizeof columns[0]; i++)
        ms_snapshot_null(snapshot, "leak_checks", columns[i], "no search was made");
    return true;
}

bool ms_snapshot_leaks(ms_snapshot_t *snapshot, ms_roots_t *roots) {
    if (ms_process.knobs.leaks == MS_LEAKS_OFF) return true;
    rows_t rows = {.elapsed_ms = ms_process_milliseconds()};
    ms_reach_report_t report = {.heap_bytes = 0};
    int error = roots ? ms_reach(roots, add_block, &rows, &report) : 0;
    bool scanned = roots && error == 0;
    if (!scanned) report.counts = ms_walk(add_live, &rows); /* what can be said without a search */
    bool done = !rows.no_memory && set_rows(snapshot, &rows) && set_check(snapshot, &report, scanned, error, rows.folded);
    rows_free(&rows);
    return done;
}

/* ---- the call */

static void add_kind(void *context, const ms_walk_block_t *block, ms_leak_kind_t kind) {
    memscope_leaks_t *leaks = context;
    memscope_amount_t *const amounts[MS_LEAK_KINDS] = {NULL, &leaks->reachable, &leaks->possible, &leaks->indirect,
                                                       &leaks->definite};
    amounts[kind]->blocks++;
    amounts[kind]->bytes += block->size;
}

/* Apart from the call itself, whose frame is searched too: what lies in ours was somebody else's before. */
static __attribute__((noinline)) int count_kinds(memscope_leaks_t *leaks, uintptr_t stack) {
    ms_roots_t roots;
    ms_reach_report_t report;
    if (!ms_roots_take(&roots, stack)) return ENOMEM;
    ms_lock(MS_LOCK_EXPORT); /* files are read: nor is it a cancellation point */
    ms_lock(MS_LOCK_THREADS);
    int error = ms_reach(&roots, add_kind, leaks, &report);
    ms_unlock(MS_LOCK_THREADS);
    ms_unlock(MS_LOCK_EXPORT);
    ms_roots_free(&roots);
    leaks->unsettled_blocks = report.counts.unsettled;
    return error;
}

int memscope_leaks(memscope_leaks_t *leaks) {
    uintptr_t stack;
    MS_ROOTS_HERE(stack);
    int saved = errno;
    *leaks = (memscope_leaks_t){.unsettled_blocks = 0};
    int error = count_kinds(leaks, stack);
    errno = saved; /* also keeps the registers saved above until here */
    return error;
}
