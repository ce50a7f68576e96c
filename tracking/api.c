#define _GNU_SOURCE
/* The public calls that are not of tasks or variables, and what happens when the library is loaded and unloaded. */
#include "alloc/backend.h"
#include "alloc/large.h"
#include "alloc/lock.h"
#include "alloc/os.h"
#include "alloc/thread.h"
#include "config.h"
#include "export/file.h"
#include "export/writer.h"
#include "memscope/memscope.h"
#include "tracking/check_stacks.h"
#include "tracking/event_log.h"
#include "tracking/events.h"
#include "tracking/interval.h"
#include "tracking/path.h"
#include "tracking/process.h"
#include "tracking/report.h"
#include "tracking/sampling.h"
#include "tracking/snapshot.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

const char *memscope_version(void) { return VERSION; }

int memscope_init(void) {
    ms_arena_leave(ms_arena_enter());
    return 0;
}

/* ---- usage */

static void settle_here(void) {
    ms_arena_t *arena = ms_arena_enter();
    ms_arena_settle(arena);
    ms_arena_leave(arena);
}

ms_summary_t ms_summary(void) {
    memscope_usage_t usage;
    memscope_process_usage(&usage);
    ms_large_totals_t large = ms_large_totals();
    return (ms_summary_t){
        .live_bytes = usage.live_bytes,
        .live_blocks = usage.live_blocks,
        .slab_bytes = ms_slab_mapped_bytes(),
        .large_blocks = large.live_blocks,
        .large_bytes = large.live_mapped_bytes + large.cached_bytes,
    };
}

int ms_trim(void) {
    uint64_t before = ms_slab_mapped_bytes() + ms_large_totals().cached_bytes;
    ms_arena_t *arena = ms_arena_enter();
    ms_arena_give_all_back(arena);
    ms_arena_leave(arena);
    return ms_slab_mapped_bytes() + ms_large_totals().cached_bytes < before;
}

/* Frees made by a thread: of its own blocks and of others'. */
static ms_flow_t flow_through(const ms_thread_t *thread) {
    ms_flow_t flow = ms_thread_own_flow(thread);
    flow.freed_bytes += thread->foreign_freed_bytes;
    flow.freed_blocks += thread->foreign_freed_blocks;
    return flow;
}

static ms_flow_t process_flow(void) {
    ms_flow_t sum = {0};
    ms_lock(MS_LOCK_THREADS);
    ms_thread_agree();
    for (uint32_t code = 0, count = ms_thread_code_count(); code < count; code++) {
        const ms_thread_t *thread = ms_thread_of_code(code);
        if (!thread) continue;
        ms_flow_add(&sum, flow_through(thread));
    }
    for (const ms_arena_t *arena = ms_arena_first(); arena; arena = arena->next)
        if (arena->thread) {
            sum.freed_bytes += ms_read(&arena->foreign_freed_bytes);
            sum.freed_blocks += ms_read(&arena->foreign_freed_blocks);
        }
    ms_unlock(MS_LOCK_THREADS);
    return sum;
}

static void usage_of(memscope_usage_t *usage, const ms_flow_t *flow, uint64_t peak, uint64_t error) {
    *usage = (memscope_usage_t){
        .allocated_bytes = flow->allocated_bytes,
        .allocated_blocks = flow->allocated_blocks,
        .freed_bytes = ms_freed_of(flow->allocated_bytes, flow->freed_bytes),
        .freed_blocks = ms_freed_of(flow->allocated_blocks, flow->freed_blocks),
        .peak_error_bytes = error,
    };
    usage->live_bytes = usage->allocated_bytes - usage->freed_bytes;
    usage->live_blocks = usage->allocated_blocks - usage->freed_blocks;
    usage->peak_bytes = peak > usage->live_bytes ? peak : usage->live_bytes;
}

uint64_t ms_peak_error(void) {
    if (ms_process.always_slow) return 0;
    uint64_t turn = 0, others = 0, arenas = 0;
    for (const ms_arena_t *arena = ms_arena_first(); arena; arena = arena->next) {
        uint64_t gain = ms_read(&arena->unseen_gain), loss = ms_read(&arena->unseen_loss);
        uint64_t gain_now = ms_arena_unsettled_gain(arena), loss_now = ms_arena_unsettled_loss(arena);
        if (gain_now > gain) gain = gain_now;
        if (loss_now > loss) loss = loss_now;
        arenas += gain != 0 || loss != 0;
        turn += ms_read(&arena->unseen_turn);
        others += gain + loss;
    }
    return arenas > 1 ? others : turn; /* a thread alone sees all of its own changes when it looks */
}

/* A sum over all threads may show more than any of them saw, and what was stated once stays. It is of no one moment, blocks come
 * and go while it is made: what it is above the peak seen is in the error, and more than that it may not be. */
uint64_t ms_process_peak(uint64_t live, uint64_t *error) {
    static _Atomic(int64_t) stated;
    uint64_t seen = (uint64_t)atomic_load(&ms_process.peak_bytes), most = seen + ms_peak_error();
    ms_raise_peak(&stated, (int64_t)(live < most ? live : most));
    uint64_t peak = (uint64_t)atomic_load(&stated);
    if (peak < seen) peak = seen;
    if (peak > most) peak = most;
    *error = most - seen + (peak - seen);
    return peak;
}

void ms_process_usage(memscope_usage_t *usage) {
    ms_flow_t flow = process_flow();
    usage_of(usage, &flow, 0, 0);
    usage->peak_bytes = ms_process_peak(usage->live_bytes, &usage->peak_error_bytes);
}

int memscope_process_usage(memscope_usage_t *usage) {
    settle_here();
    ms_process_usage(usage);
    return 0;
}

/* Blocks that others freed count until they have left their outboxes, or the quarantine. */
uint64_t ms_thread_peak_error(uint64_t unseen_turn, uint64_t freed_by_others) {
    uint64_t one = ms_process.always_slow ? ms_process.knobs.quarantine : MS_OUTBOX_BYTES;
    uint64_t most = ms_arena_first()->index * one; /* of all other arenas */
    return (ms_process.always_slow ? 0 : unseen_turn) + (freed_by_others < most ? freed_by_others : most);
}

int memscope_thread_usage(memscope_usage_t *usage) {
    ms_arena_t *arena = ms_arena_enter();
    ms_arena_settle(arena);
    ms_lock(MS_LOCK_THREADS);
    ms_flow_t flow = ms_thread_own_flow(arena->thread), others = ms_thread_freed_by_others(arena->thread);
    ms_unlock(MS_LOCK_THREADS);
    flow.freed_bytes += others.freed_bytes;
    flow.freed_blocks += others.freed_blocks;
    usage_of(usage, &flow, arena->peak_bytes, ms_thread_peak_error(arena->unseen_turn, others.freed_bytes));
    ms_arena_leave(arena);
    return 0;
}

int memscope_set_sample_bytes(uint64_t bytes) {
    const ms_knob_info_t *knob = &ms_knob_info[MS_KNOB_sample_bytes];
    if (bytes < knob->min || bytes > knob->max) return EINVAL;
    ms_arena_t *arena = ms_arena_enter();
    bool by_bytes = ms_process.sites == MS_SITES_SAMPLED && !ms_process.knobs.sample_rate;
    if (by_bytes) {
        ms_arena_settle(arena);
        ms_arena_rearm(arena); /* what was counted down so far is the old gap's */
        ms_sampling_change(arena, bytes);
        ms_arena_rearm(arena);
        ms_process_knob_sources[MS_KNOB_sample_bytes] = MS_SOURCE_API;
    }
    ms_arena_leave(arena);
    return by_bytes ? 0 : ENOTSUP;
}

/* ---- snapshots and exports */

memscope_snapshot_t *memscope_snapshot(void) { return ms_snapshot_take("call"); }

void memscope_snapshot_free(memscope_snapshot_t *snapshot) {
    if (snapshot) ms_snapshot_free(snapshot);
}

void memscope_snapshot_usage(const memscope_snapshot_t *snapshot, memscope_usage_t *usage) {
    const ms_totals_row_t *row = snapshot->model.totals.rows;
    ms_flow_t flow = {row->allocated_bytes, row->allocated_blocks, row->freed_bytes, row->freed_blocks};
    usage_of(usage, &flow, row->peak_bytes, row->peak_error_bytes);
}

uint64_t memscope_snapshot_total_memory_usage(const memscope_snapshot_t *snapshot) {
    return snapshot->model.totals.rows->live_bytes;
}

size_t memscope_snapshot_active_task_count(const memscope_snapshot_t *snapshot) {
    size_t active = 0;
    for (size_t i = 0; i < snapshot->model.tasks.count; i++) {
        const ms_tasks_row_t *row = &snapshot->model.tasks.rows[i];
        active += row->id != 0 && row->state[0] == 'a';
    }
    return active;
}

size_t memscope_snapshot_thread_count(const memscope_snapshot_t *snapshot) {
    size_t running = 0;
    for (size_t i = 0; i < snapshot->model.threads.count; i++)
        running += snapshot->model.threads.rows[i].state[0] == 'r';
    return running;
}

/* Where address space ends, what is kept for the program makes room for the writer's buffers. */
static int write_file(const ms_snapshot_t *snapshot, const char *path, ms_format_t format) {
    int error = ms_export_file(&snapshot->model, path, format);
    return error == ENOMEM && ms_trim() ? ms_export_file(&snapshot->model, path, format) : error;
}

/* A thread that is cancelled would leave half a file, its descriptor and the snapshot: it writes to the end first. */
static int defer_cancel(void) {
    int before = PTHREAD_CANCEL_ENABLE;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
    return before;
}

static int export_to(const char *path, ms_format_t format) {
    if (!path) return EINVAL;
    int saved = errno, cancel = defer_cancel();
    ms_snapshot_t *snapshot = ms_snapshot_take("call");
    int error = snapshot ? write_file(snapshot, path, format) : ENOMEM;
    if (snapshot) ms_snapshot_free(snapshot);
    pthread_setcancelstate(cancel, NULL);
    errno = saved;
    return error;
}

int memscope_export_msgpack(const char *path) { return export_to(path, MS_FORMAT_MSGPACK); }
int memscope_export_json(const char *path) { return export_to(path, MS_FORMAT_JSON); }
int memscope_export_html(const char *path) { return export_to(path, MS_FORMAT_HTML); }

static const struct {
    const char *name, *ending;
    ms_format_t format;
} formats[] = {{"memscope", ".memscope", MS_FORMAT_MSGPACK}, {"json", ".json", MS_FORMAT_JSON}, {"html", ".html", MS_FORMAT_HTML}};
#define FORMATS (sizeof formats / sizeof formats[0])

/* ---- event log */

int memscope_trace_all(const char *directory) {
    int error = ms_event_log_start(directory);
    ms_arena_t *arena = ms_arena_enter();
    ms_trace_look(arena);
    ms_arena_leave(arena);
    return error;
}

int memscope_stop_tracing(void) { return ms_event_log_stop(); }

int memscope_export_comprehensive(const char *directory, const char *name) {
    if (!directory || !name || !*name) return EINVAL;
    ms_event_log_flush();
    int saved = errno, error = 0, cancel = defer_cancel();
    ms_snapshot_t *snapshot = ms_snapshot_take("call");
    if (!snapshot) error = ENOMEM;
    for (size_t which = 0; which < FORMATS && !error; which++) {
        ms_path_t path = {.length = 0};
        ms_path_add(ms_path_add(ms_path_add(&path, directory), "/"), name);
        if (which == 0) error = ms_path_make_directories(path.text);
        if (!error) error = write_file(snapshot, ms_path_add(&path, formats[which].ending)->text, formats[which].format);
    }
    if (snapshot) ms_snapshot_free(snapshot);
    pthread_setcancelstate(cancel, NULL);
    errno = saved;
    return error;
}

/* ---- at exit */

/* The format whose ending the path has, FORMATS if it has none. */
static size_t format_of_ending(const ms_path_t *path) {
    size_t which = 0;
    while (which < FORMATS && !ms_path_ends(path, formats[which].ending)) which++;
    return which;
}

static void write_format(const ms_snapshot_t *snapshot, const ms_path_t *path, size_t which) {
    int error;
    bool recorded = formats[which].format == MS_FORMAT_MSGPACK && ms_interval_finish(snapshot, path->text, &error);
    if (!recorded) error = write_file(snapshot, path->text, formats[which].format);
    const char *why = error == ENXIO && ms_is_pipe(path->text) ? "nobody reads it" : strerrordesc_np(error);
    if (error) ms_os_say("cannot write ", path->text, ": ", why, NULL);
}

/* Whether the knob `formats` has this word. */
static bool has_format(const char *name) {
    size_t length = strlen(name);
    for (const char *word = ms_process.knobs.formats; word; word = strchr(word, '+')) {
        word += *word == '+';
        if (strncmp(word, name, length) == 0 && (word[length] == '+' || word[length] == '\0')) return true;
    }
    return false;
}

/* The first format of the knob that there is, for what can take only one. */
static size_t first_format(void) {
    for (size_t which = 0; which < FORMATS; which++)
        if (strncmp(ms_process.knobs.formats, formats[which].name, strlen(formats[which].name)) == 0) return which;
    return 0;
}

/* What the knob `output` names. The one format that is written there: that of the path's ending, unless `formats` was set; to a
 * device or pipe, which is written to as it is, the first of the knob without an ending. FORMATS: each of the knob is, with an
 * ending of its own. */
static size_t output_path(ms_path_t *path) {
    path->length = 0;
    ms_path_expand(path, ms_process.knobs.output);
    size_t ending = format_of_ending(path);
    if (ms_path_is_special(path->text)) return ending < FORMATS ? ending : first_format();
    if (ending == FORMATS || ms_process_knob_sources[MS_KNOB_formats] == MS_SOURCE_DEFAULT) return ending;
    ms_path_cut(path, formats[ending].ending);
    return FORMATS;
}

/* The path of the .memscope file that write_snapshot() will write; false: none, or a device. */
static bool snapshot_path(char *text, size_t bytes) {
    ms_path_t path;
    size_t one = output_path(&path);
    if (ms_path_is_special(path.text)) return false;
    if (one < FORMATS ? formats[one].format != MS_FORMAT_MSGPACK : !has_format("memscope")) return false;
    if (one == FORMATS) ms_path_add(&path, ".memscope");
    if (path.length >= bytes) return false;
    memcpy(text, path.text, path.length + 1);
    return true;
}

static __attribute__((noinline)) void start_records(void) {
    char path[MS_PATH_ROOM], interval[32];
    ms_knob_text(&ms_process.knobs, MS_KNOB_interval, interval);
    if (ms_process.knobs.output[0] && snapshot_path(path, sizeof path))
        ms_interval_start(path, snapshot_path);
    else
        ms_os_say("interval:", interval, ": no records are written, output names no .memscope file", NULL);
}

static bool output_refused; /* and said so */

/* Said when the program starts, before hours of work: it could not be written at the end. */
static void check_output(void) {
    ms_path_t path = {.length = 0};
    ms_path_expand(&path, ms_process.knobs.output);
    int saved = errno, error = ms_path_make_directories(path.text);
    char *slash = strrchr(path.text, '/');
    bool special = ms_path_is_special(path.text);
    if (slash) slash[slash == path.text] = '\0';
    if (!error && !special && access(slash ? path.text : ".", W_OK | X_OK) != 0) error = errno;
    output_refused = error != 0;
    if (error)
        ms_os_say("output:", ms_process.knobs.output, ": nothing can be written to ", slash ? path.text : ".", ": ",
                  strerrordesc_np(error), NULL);
    errno = saved;
}

/* Once in a process. No room for the path on the stack: a thread that calls exit() may have 16 KiB in all. */
static MS_COLD void write_snapshot(const ms_snapshot_t *snapshot) {
    static MS_FAR ms_path_t path;
    size_t one = output_path(&path), length = path.length;
    if (one < FORMATS) write_format(snapshot, &path, one);
    for (size_t which = 0; which < FORMATS && one == FORMATS; which++) {
        if (!has_format(formats[which].name)) continue;
        path.length = length;
        write_format(snapshot, ms_path_add(&path, formats[which].ending), which);
    }
}

static void begin_trace(void) {
    int error = ms_event_log_start(NULL);
    if (error && error != EALREADY)
        ms_os_say("trace:on: ", strerrordesc_np(error), ": no event log can be written; trace_output says where to", NULL);
}

static void write_at_exit(void) {
    if (!ms_process.knobs.output[0] || output_refused) return;
    int saved = errno;
    ms_interval_stop();
    ms_snapshot_t *snapshot = ms_snapshot_take("exit");
    if (!snapshot) {
        ms_os_say("no memory for the snapshot at exit", NULL);
    } else {
        write_snapshot(snapshot);
        ms_snapshot_free(snapshot);
    }
    errno = saved;
}

static MS_RARE __attribute__((constructor)) void library_loaded(void) {
    memscope_init();
    ms_process.can_unwind = true;
    ms_thread_init_fork();
    if (ms_process.knobs.check_stacks && ms_process.sites != MS_SITES_NONE && ms_process.full_stacks) ms_check_stacks_init();
    if (ms_process.knobs.output[0]) check_output();
    if (ms_process.knobs.trace) begin_trace();
    if (ms_process.knobs.interval && !output_refused) start_records();
    ms_backend_id_t id = (ms_backend_id_t)ms_process.knobs.backend;
    const ms_backend_t *backend = ms_backend_get(id);
    char name[32];
    ms_knob_text(&ms_process.knobs, MS_KNOB_backend, name);
    if (!backend)
        ms_os_say("backend:", name, ": not built in; using ", ms_backend_current()->name, NULL);
    else if (id == MS_BACKEND_MIMALLOC && backend->prepare() == MS_BACKEND_READY)
        ms_backend_select(backend);
    else if (id == MS_BACKEND_MIMALLOC)
        ms_os_say("backend:mimalloc: ", MS_MIMALLOC_SONAME, " cannot be opened; using ", ms_backend_current()->name, NULL);
    if (ms_os_opens_nothing) { /* later: so what is read from files is read now */
        ms_os_address_space_is_free();
        ms_arena_start_backend();
    }
}

/* exit() was called by a signal handler that interrupted this thread while it held a lock: nobody releases that any
 * more, and what it guards is half changed. */
static bool exits_inside_lock(void) {
    if (!ms_lock_is_any_held()) return false;
    if (ms_trace_is_on() || (ms_process.knobs.output[0] && !output_refused))
        ms_os_say("exit() was called by a signal handler that interrupted malloc: nothing is written at exit", NULL);
    return true;
}

static __attribute__((destructor)) void library_unloaded(void) {
    if (exits_inside_lock()) return;
    if (ms_trace_is_on()) ms_event_log_stop(); /* asked here: its code need not come into memory for a no */
    write_at_exit();
}
