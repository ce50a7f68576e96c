#define _GNU_SOURCE
#include "tracking/event_log.h"
#include "alloc/lock.h"
#include "alloc/os.h"
#include "alloc/thread.h"
#include "export/msgpack.h"
#include "export/writer.h"
#include "tracking/events.h"
#include "tracking/path.h"
#include "tracking/process.h"
#include "tracking/sites.h"
#include "tracking/snapshot.h"
#include "tracking/stacks.h"
#include "tracking/tasks.h"
#include "tracking/variables.h"
#include "tracking/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BATCH 2048u                    /* slots of a ring that make one record at most */
#define OUT_ENOUGH ((size_t)256 << 10) /* bytes encoded before they are written */
#define LOOK_NS 100000000u             /* between two looks at rings that nobody says are filling */
#define RETRY_NS 10000000u             /* before a pipe is tried again */
#define RETRY_ERROR_NS 250000000u      /* before a full disk is */
#define REFUSALS_MOST 100u             /* RETRY_NS apart, when it is to end: a pipe nobody reads, a full disk */
#define PATIENCE_NS 5000000000u        /* at the end, for a disk that does not answer */
#define NEW_SITES 64u                  /* defined by one record */
#define SITES (2u * (1u << 20))        /* ids of stacks and of variables */
#define TASKS (1u << 20)               /* slots of the task table */
#define MODULES 4096u

/* What the file defines so far, and room to work in. Mapped by the first start; purged by the others. */
typedef struct memory {
    uint64_t sites[SITES / 64]; /* bit: defined */
    uint64_t tasks[TASKS];      /* by slot: id defined last */
    uint64_t modules[MODULES][2];
    ms_sites_row_t new_sites[NEW_SITES];
    uint64_t pcs[NEW_SITES][MS_PCS_MOST];
    unsigned char body[MS_EVENTS_HEAD_BYTES + BATCH * MS_EVENT_BYTES];
} memory_t;
_Static_assert(MS_SITE_VARIABLES + MS_SITE_VARIABLES_MAX <= SITES && MS_SITE_STACKS_MAX <= MS_SITE_VARIABLES, "bits");

static struct {
    /* MS_LOCK_EXPORT */
    ms_path_t pattern; /* of the path; expanded when the file is opened */
    uint64_t start_ns, end_ns;
    ms_trace_counts_t before;   /* counts when the session began */
    uint64_t earlier_unwritten; /* of sessions before */
    bool ever;

    /* the worker's while it runs */
    memory_t *memory;
    int fd;       /* -1: not open yet */
    dev_t device; /* what it was opened on: programs close descriptors they do not know, and open others there */
    ino_t inode;
    char path[MS_PATH_ROOM + 16], real_path[MS_PATH_ROOM]; /* as it was made; wherever the program goes */
    int error;                                             /* errno of the last try, 0: all is well */
    bool complained, ended;
    uint32_t refusals; /* since it was told to end, in a row */
    ms_writer_t rows;  /* into `out` */
    unsigned char *out;
    size_t out_room, out_used, out_sent;
    uint64_t out_events; /* in `out` */
    uint64_t records;
    uint32_t module_count, new_site_count;
    uint64_t modules_at_ns;

    /* the record being encoded */
    ms_event_codec_t codec;
    uint64_t first_time, first_task;
    uint64_t count, counted, integers; /* events; those that are not MS_EVENT_LOST */
    unsigned char *body_end;

    _Atomic(uint64_t) written; /* events in the file */
    _Atomic(uint32_t) passes;  /* of which all is in the file */
    _Atomic(uint32_t) abandon; /* return although the file does not take the rest */
} log_ = {.fd = -1};

static void work(ms_worker_t *worker);
static void in_child(ms_worker_t *worker);
static ms_worker_t worker = {.name = "memscope-log", .body = work, .in_child = in_child};

void ms_event_log_wake(void) {
    ms_worker_ring(&worker);
}

/* ---- the file */

/* The path without what makes it different from others. */
static void choose_pattern(const char *directory) {
    const ms_knob_values_t *knobs = &ms_process.knobs;
    log_.pattern.length = 0;
    if (directory)
        ms_path_add(ms_path_add(&log_.pattern, directory), "/%n.%p");
    else if (knobs->trace_output[0])
        ms_path_add(&log_.pattern, knobs->trace_output);
    else
        ms_path_add(&log_.pattern, knobs->output[0] ? knobs->output : "MemoryAnalysis/%n.%p");
    ms_path_cut(&log_.pattern, ".memscope");
    ms_path_cut(&log_.pattern, ".json");
    ms_path_cut(&log_.pattern, ".html");
}

/* A pipe nobody reads yet, or a slow one, must not hold us up: O_NONBLOCK, which files on disk ignore. */
static int open_at(const char *path, int flags) {
    struct stat file;
    log_.fd = ms_path_step_aside(ms_open_aside(path, O_WRONLY | O_NONBLOCK | flags));
    if (log_.fd < 0 || fstat(log_.fd, &file) != 0) return errno;
    log_.device = file.st_dev;
    log_.inode = file.st_ino;
    strcpy(log_.path, path);
    char link[64] = "/proc/self/fd/", digits[24];
    ssize_t length = readlink(strcat(link, ms_os_decimal(digits, (uint64_t)log_.fd)), log_.real_path, MS_PATH_ROOM - 1);
    log_.real_path[length < 0 ? 0 : length] = '\0';
    return 0;
}

static bool is_ours(int fd) {
    struct stat file;
    return fd >= 0 && fstat(fd, &file) == 0 && file.st_dev == log_.device && file.st_ino == log_.inode;
}

static void close_file(void) {
    if (is_ours(log_.fd)) close(log_.fd);
    log_.fd = -1;
}

/* After the program closed our descriptor: the same file again. Whatever stands there now is the program's. */
static int open_again(void) {
    log_.fd = ms_path_step_aside(ms_open_aside(log_.real_path, O_WRONLY | O_APPEND | O_NONBLOCK));
    if (log_.fd < 0) return errno;
    if (is_ours(log_.fd)) return 0;
    close(log_.fd);
    log_.fd = -1;
    return ESTALE;
}

/* The path, and the directories it leads through. 0 or the errno value. */
static int prepare_path(ms_path_t *base) {
    base->length = 0;
    ms_path_expand(base, log_.pattern.text);
    if (ms_path_is_special(base->text)) return 0;
    ms_path_cut(base, ".bin");
    return ms_path_make_directories(base->text);
}

/* 0 or the errno value. A file that is there stays as it is: ours gets a number. */
static int open_file(void) {
    ms_path_t path;
    int error = prepare_path(&path);
    const size_t base = path.length;
    if (ms_path_is_special(path.text)) return open_at(path.text, 0);
    for (uint64_t number = 1; !error && number < 100000; number++) {
        char digits[24];
        path.text[path.length = base] = '\0';
        if (number > 1) ms_path_add(ms_path_add(&path, "."), ms_os_decimal(digits, number));
        error = open_at(ms_path_add(&path, ".bin")->text, O_CREAT | O_EXCL);
        if (error != EEXIST) return error;
        error = 0;
    }
    return error ? error : EEXIST;
}

static int open_if_needed(void) {
    if (is_ours(log_.fd)) return 0;
    log_.fd = -1;
    return log_.path[0] ? open_again() : open_file();
}

static void complain(void) {
    if (log_.complained) return;
    log_.complained = true;
    const char *path = log_.fd >= 0 ? log_.path : log_.pattern.text;
    ms_os_say("event log ", path, ": ", strerrordesc_np(log_.error), "; events are dropped until it can be written",
              NULL);
}

/* Writes what is encoded. False: some of it is left, log_.error says why; EAGAIN: not yet. */
static bool send(void) {
    if (log_.out_used > 0 && (log_.error = open_if_needed()) != 0) {
        if (log_.error != ENXIO) complain();
        return false;
    }
    while (log_.out_sent < log_.out_used) {
        ssize_t n = write(log_.fd, log_.out + log_.out_sent, log_.out_used - log_.out_sent);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            log_.error = n < 0 ? errno : EIO;
            if (log_.error != EAGAIN) complain();
            return false;
        }
        log_.out_sent += (size_t)n;
        atomic_fetch_add(&worker.progress, 1);
        log_.refusals = 0;
    }
    log_.error = 0;
    log_.out_used = log_.out_sent = 0;
    atomic_fetch_add(&log_.written, log_.out_events);
    log_.out_events = 0;
    return true;
}

/* The drain of log_.rows. */
static int append(void *context, const void *bytes, size_t n) {
    (void)context;
    if (n > log_.out_room - log_.out_used) {
        size_t room = 2 * log_.out_room + ((n + MS_PAGE - 1) & ~(size_t)(MS_PAGE - 1));
        unsigned char *out = ms_os_remap(log_.out, log_.out_room, room);
        if (!out) return ENOMEM;
        log_.out = out;
        log_.out_room = room;
    }
    memcpy(log_.out + log_.out_used, bytes, n);
    log_.out_used += n;
    return 0;
}

/* ---- definitions */

static void put_rows(ms_table_id_t table, const void *rows, size_t count, uint64_t columns) {
    log_.records += ms_export_rows(&log_.rows, table, rows, count, columns, false);
}

/* Modules that the file does not have yet. */
static void define_modules(const ms_snapshot_t *snapshot) {
    for (size_t i = 0; i < snapshot->model.modules.count; i++) {
        const ms_modules_row_t *row = &snapshot->model.modules.rows[i];
        uint32_t known = 0;
        while (known < log_.module_count &&
               (log_.memory->modules[known][0] != row->start || log_.memory->modules[known][1] != row->end))
            known++;
        if (known < log_.module_count || known == MODULES) continue;
        log_.memory->modules[known][0] = row->start;
        log_.memory->modules[known][1] = row->end;
        log_.module_count++;
        put_rows(MS_TABLE_modules, row, 1, MS_ALL_COLUMNS);
    }
    log_.modules_at_ns = ms_os_monotonic_ns();
}

static void look_for_modules(void) {
    ms_snapshot_t *snapshot = ms_snapshot_identity("trace");
    if (!snapshot) return;
    define_modules(snapshot);
    ms_snapshot_free(snapshot);
}

static bool is_in_module(uint64_t pc) {
    for (uint32_t i = 0; i < log_.module_count; i++)
        if (pc - log_.memory->modules[i][0] < log_.memory->modules[i][1] - log_.memory->modules[i][0]) return true;
    return false;
}

/* Code was loaded since the modules were looked at; once a second at most. */
static void follow_dlopen(const uint64_t *pcs, size_t count) {
    if (ms_os_monotonic_ns() - log_.modules_at_ns < MS_MODULES_NS) return;
    for (size_t i = 0; i < count; i++)
        if (!is_in_module(pcs[i])) {
            look_for_modules();
            return;
        }
}

static void put_new_sites(void) {
    if (log_.new_site_count)
        put_rows(MS_TABLE_sites, log_.memory->new_sites, log_.new_site_count,
                 ms_export_columns(MS_TABLE_sites, "id kind stack variable type function file line"));
    log_.new_site_count = 0;
}

static void define_site(uint32_t site) {
    if (site >= SITES || log_.memory->sites[site / 64] >> site % 64 & 1) return;
    log_.memory->sites[site / 64] |= (uint64_t)1 << site % 64;
    if (log_.new_site_count == NEW_SITES) put_new_sites();
    uint64_t *pcs = log_.memory->pcs[log_.new_site_count];
    ms_sites_row_t *row = &log_.memory->new_sites[log_.new_site_count++];
    *row = (ms_sites_row_t){0};
    ms_site_describe(row, site);
    if (site >= MS_SITE_VARIABLES) return;
    size_t depth = ms_stack_pcs(site, pcs, MS_PCS_MOST);
    if (depth > MS_PCS_MOST) depth = MS_PCS_MOST;
    row->stack = (ms_pcs_t){.pcs = pcs, .count = depth};
    follow_dlopen(pcs, depth);
}

/* A task, its parents first. */
static void define_task(uint64_t id) {
    uint32_t slot = (uint32_t)id;
    if (id == MS_TASK_NONE || slot >= TASKS || log_.memory->tasks[slot] == id) return;
    log_.memory->tasks[slot] = id;
    const ms_task_t *task = ms_task_find(id);
    ms_tasks_row_t row = {.id = id, .parent = MS_NULL, .state = "active"};
    if (task) { /* else it has ended and its slot is another's */
        if (task->parent) define_task(row.parent = task->parent);
        row.name = task->name;
        row.start_ns = task->start_ns;
    }
    put_rows(MS_TABLE_tasks, &row, 1, ms_export_columns(MS_TABLE_tasks, "id parent name state start_ns"));
}

static void define_thread(const ms_thread_t *thread) {
    char name[sizeof thread->name + 1] = "";
    memcpy(name, thread->name, sizeof thread->name);
    ms_threads_row_t row = {.id = thread->id,
                            .tid = thread->tid,
                            .name = thread->code == MS_CODE_FOLDED ? MS_FOLDED_NAME : name,
                            .state = ms_thread_state_name(thread),
                            .start_ns = thread->start_ns,
                            .end_ns = thread->state == MS_THREAD_ENDED ? thread->end_ns : MS_NULL};
    put_rows(MS_TABLE_threads, &row, 1, ms_export_columns(MS_TABLE_threads, "id tid name state start_ns end_ns"));
}

/* The record may be another thread's by now: then the id is all that is left. */
static void define_thread_of_code(uint64_t id, uint32_t code) {
    const ms_thread_t *thread = ms_thread_of_code(code);
    ms_thread_t copy = {.id = id, .code = code};
    ms_lock(MS_LOCK_THREADS);
    if (thread && thread->id == id) copy = *thread;
    ms_unlock(MS_LOCK_THREADS);
    define_thread(&copy);
}

static void put_trace_row(bool at_end) {
    ms_trace_counts_t now = ms_trace_counts();
    /* a thread that was just logging when the log was stopped may come too late */
    uint64_t events = atomic_load(&log_.written) + log_.out_events;
    uint64_t late = now.events - log_.before.events - events;
    ms_trace_row_t row = {
        .path = log_.path,
        .clock_start_ns = ms_process.knobs.test_mode ? 0 : ms_process.start_ns,
        .start_ns = log_.start_ns,
        .end_ns = at_end ? ms_process_elapsed_ns() : MS_NULL,
        .events = at_end ? events : 0,
        .dropped_events = at_end ? now.dropped - log_.before.dropped + late : 0,
        .over_max_events = at_end ? now.over - log_.before.over : 0,
        .buffer_bytes = ms_process.knobs.buffer_size,
        .max_events = ms_process.knobs.max_events,
    };
    put_rows(MS_TABLE_trace, &row, 1, MS_ALL_COLUMNS);
}

/* ---- events */

static void begin_record(const ms_ring_t *ring, uint64_t time) {
    log_.first_time = time;
    log_.first_task = ring->log_task;
    log_.count = log_.counted = log_.integers = 0;
    log_.body_end = log_.memory->body + MS_EVENTS_HEAD_BYTES;
    ms_events_begin(&log_.codec, ring->log_thread, ring->log_task, time);
}

static void end_record(void) {
    if (log_.count == 0) return;
    put_new_sites();
    unsigned char *events = log_.memory->body + MS_EVENTS_HEAD_BYTES;
    unsigned char *body =
        ms_events_head(events, log_.codec.last.thread, log_.first_task, log_.first_time, log_.count, log_.integers);
    log_.records += ms_export_record(&log_.rows, "events", body, (size_t)(log_.body_end - body));
    log_.out_events += log_.counted;
    log_.count = 0;
}

static void add_event(const ms_ring_t *ring, const ms_event_t *event) {
    if (ring->log_thread == MS_RING_NO_THREAD) return; /* of a session before, by a thread that slept through its end */
    if (log_.count == 0) begin_record(ring, event->time);
    if (event->site) define_site(event->site);
    log_.body_end = ms_events_put(&log_.codec, event, log_.body_end, &log_.integers);
    log_.count++;
    log_.counted += event->kind != MS_EVENT_LOST;
}

static void add_lost(ms_ring_t *ring, uint64_t dropped, uint64_t over) {
    ring->seen_dropped += dropped;
    ring->seen_over += over;
    ms_event_t event = {.kind = MS_EVENT_LOST, .time = log_.codec.last.time, .address = dropped, .size = over};
    if (dropped || over) add_event(ring, &event);
}

static uint64_t since_start(uint64_t time) {
    return time > ms_process.start_ns ? time - ms_process.start_ns : 0;
}

static void take_slot(ms_ring_t *ring, const ms_event_slot_t *slot) {
    uint32_t kind = slot->address & 15;
    uint64_t address = slot->address & ~(uint64_t)15;
    ms_event_t event = {.kind = (ms_event_kind_t)kind, .address = address, .size = slot->size, .site = slot->site};
    switch (kind) {
    case MS_SLOT_THREAD:
        end_record();
        ring->log_thread = slot->time;
        ring->log_task = MS_TASK_NONE;
        define_thread_of_code(slot->time, (uint32_t)(slot->address >> 4));
        return;
    case MS_SLOT_TASK:
        define_task(ring->log_task = slot->time);
        return;
    case MS_SLOT_LOST:
        add_lost(ring, slot->time, address >> 4);
        return;
    case MS_SLOT_SIZE:
        ring->log_size = slot->time;
        return;
    default:
        break;
    }
    event.time = since_start(slot->time);
    event.task = ring->log_task;
    event.thread = ring->log_thread;
    if (slot->size == UINT32_MAX) event.size = ring->log_size;
    add_event(ring, &event);
}

/* Up to BATCH slots. True: there were some. */
static bool take_ring(ms_ring_t *ring) {
    uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
    /* acquire: the slots are filled; pairs with the release in put() */
    uint64_t slots = atomic_load_explicit(&ring->head, memory_order_acquire) - tail;
    if (slots == 0) return false;
    if (slots > BATCH) slots = BATCH;
    uint64_t at = tail % ring->capacity;
    for (uint64_t i = 0; i < slots; i++) {
        take_slot(ring, &ring->slots[at]);
        if (++at == ring->capacity) at = 0;
    }
    end_record();
    /* release: the slots may be filled anew; pairs with the acquire in has_room() */
    atomic_store_explicit(&ring->tail, tail + slots, memory_order_release);
    atomic_fetch_add(&worker.progress, 1);
    return true;
}

/* Every ring until it is empty or `out` is full. True: something was taken. */
static bool take_rings(void) {
    bool any = false;
    for (ms_ring_t *ring = ms_ring_first(); ring; ring = ring->next)
        while (log_.out_used < OUT_ENOUGH && take_ring(ring)) {
            any = true;
            ms_writer_flush(&log_.rows);
        }
    return any;
}

/* ---- the worker */

static void put_beginning(void) {
    log_.records += ms_export_first(&log_.rows);
    ms_snapshot_t *snapshot = ms_snapshot_identity("trace");
    if (snapshot) {
        const ms_model_t *model = &snapshot->model;
        put_rows(MS_TABLE_process, model->process.rows, 1, MS_ALL_COLUMNS);
        put_rows(MS_TABLE_knobs, model->knobs.rows, model->knobs.count, MS_ALL_COLUMNS);
        define_modules(snapshot);
        ms_snapshot_free(snapshot);
    }
    put_trace_row(false);
    ms_writer_flush(&log_.rows);
}

static void put_last_losses(void) {
    for (ms_ring_t *ring = ms_ring_first(); ring; ring = ring->next) {
        if (ring->log_thread == MS_RING_NO_THREAD) continue;
        log_.codec.last.time = ms_process_elapsed_ns();
        add_lost(ring, ms_read(&ring->dropped) - ring->seen_dropped, ms_read(&ring->over) - ring->seen_over);
        end_record();
    }
}

static void put_end(void) {
    log_.ended = true;
    put_last_losses();
    look_for_modules();
    for (uint32_t code = 0, count = ms_thread_code_count(); code < count; code++) {
        const ms_thread_t *thread = ms_thread_of_code(code);
        if (thread && thread->state != MS_THREAD_UNUSED) define_thread_of_code(thread->id, code);
    }
    put_trace_row(true);
    log_.records += ms_export_end(&log_.rows, log_.records);
    ms_writer_flush(&log_.rows);
}

/* One turn. False: it is over. */
static bool turn(void) {
    bool stopping = ms_worker_is_stopping(&worker), moved = false;
    uint64_t before = log_.records;
    if (!send()) {
        ms_worker_pause(&worker, log_.error == EAGAIN || log_.error == ENXIO ? RETRY_NS : RETRY_ERROR_NS);
        if (stopping) usleep(RETRY_NS / 1000); /* no pause once it is to stop */
        if (stopping && ++log_.refusals > REFUSALS_MOST) return false;
        return !atomic_load(&log_.abandon);
    }
    if (log_.ended) return false;
    bool events = ms_trace_counts().events > log_.before.events;
    if (log_.records == 0 && stopping && !events && log_.fd < 0)
        return false; /* a child that did nothing leaves no file */
    if (log_.records == 0 && (stopping || events)) put_beginning();
    moved = take_rings();
    if (log_.rows.error) { /* no memory: what was taken is lost, and counted, since it is not in `written` */
        log_.rows.error = 0;
        log_.out_events = 0;
    }
    if (moved || log_.records != before) return true;
    if (!stopping) {
        atomic_fetch_add(&log_.passes, 1);
        ms_worker_sleep(&worker, LOOK_NS);
        return true;
    }
    put_end();
    return true;
}

static void finish(void) {
    while (turn()) continue;
    close_file();
}

/* Once the program's threads have ended, what is left is done when libc has called exit(): that frees and allocates
 * too. */
static void work(ms_worker_t *self) {
    while (!atomic_load(&self->alone))
        if (!turn()) break;
    if (!atomic_load(&self->alone)) close_file();
}

/* ---- sessions */

static bool prepare_memory(void) {
    if (!log_.memory) log_.memory = ms_os_map(sizeof(memory_t) / MS_PAGE * MS_PAGE + MS_PAGE, MS_PAGE);
    if (!log_.out) log_.out = ms_os_map(log_.out_room = 2 * OUT_ENOUGH, MS_PAGE);
    if (!log_.memory || !log_.out) return false;
    if (!log_.rows.buffer) return ms_writer_sink(&log_.rows, append, NULL) == 0;
    return true;
}

/* Everything as at the beginning of a file; what the rings still hold is of another. */
static void reset_session(void) {
    ms_os_clear(log_.memory, sizeof(memory_t));
    log_.rows.used = 0;
    log_.rows.error = 0;
    log_.out_used = log_.out_sent = 0;
    log_.out_events = log_.records = log_.count = 0;
    log_.module_count = log_.new_site_count = 0;
    log_.error = 0;
    log_.refusals = 0;
    log_.complained = log_.ended = false;
    log_.path[0] = '\0';
    log_.start_ns = ms_process_elapsed_ns();
    log_.end_ns = MS_NULL;
    log_.before = ms_trace_counts();
    atomic_store(&log_.written, 0);
    atomic_store(&log_.abandon, 0);
    for (ms_ring_t *ring = ms_ring_first(); ring; ring = ring->next) {
        atomic_store(&ring->tail, atomic_load(&ring->head));
        ring->seen_dropped = ms_read(&ring->dropped);
        ring->seen_over = ms_read(&ring->over);
        ring->log_thread = MS_RING_NO_THREAD;
    }
}

static void in_child(ms_worker_t *self) {
    close_file();
    if (!ms_trace_is_on()) return;
    log_.out = NULL; /* the worker may have been moving it */
    bool ready = prepare_memory();
    if (ready) reset_session();
    /* by 2: the arena tells anew what it told the parent's log; by 1: tracing is off */
    atomic_fetch_add(&ms_trace_epoch, ready && ms_worker_start(self) == 0 ? 2 : 1);
}

static MS_COLD int make_directories(void) {
    ms_path_t base;
    return prepare_path(&base);
}

/* `begun`: trace:on; the rings have been filling since the process started. */
static int start(const char *directory, bool begun) {
    if (ms_trace_is_on() && !begun) return EALREADY;
    if (atomic_load(&worker.state) != MS_WORKER_IDLE) return EBUSY;
    if (!prepare_memory()) return ENOMEM;
    choose_pattern(directory);
    if (!begun) reset_session();
    log_.end_ns = MS_NULL;
    /* by the knob: not before there is something to write, so that who starts another program at once leaves no empty
     * file */
    int error = begun ? make_directories() : open_file();
    if (error && error != ENXIO) return error;
    error = ms_worker_start(&worker);
    if (error) return error;
    log_.ever = true;
    if (!begun) atomic_fetch_add(&ms_trace_epoch, 1);
    return 0;
}

int ms_event_log_start(const char *directory) {
    int saved = errno;
    bool begun = !directory && ms_trace_is_on() && !log_.ever;
    ms_lock(MS_LOCK_EXPORT);
    int error = start(directory, begun);
    if (error && begun) atomic_fetch_add(&ms_trace_epoch, 1);
    ms_unlock(MS_LOCK_EXPORT);
    errno = saved;
    return error;
}

static uint64_t session_events(void) {
    return ms_trace_counts().events - log_.before.events;
}

/* Counts those that did not get into the file as dropped. */
static int end_session(void) {
    bool ended = ms_worker_stop(&worker, PATIENCE_NS);
    if (!ended) {
        atomic_store(&log_.abandon, 1);
        ended = ms_worker_stop(&worker, PATIENCE_NS / 4);
    }
    if (ended && atomic_load(&worker.alone)) finish();
    log_.end_ns = ms_process_elapsed_ns();
    uint64_t events = session_events(), written = atomic_load(&log_.written);
    ms_trace_counts_t now = ms_trace_counts();
    uint64_t dropped = now.dropped - log_.before.dropped + events - written, over = now.over - log_.before.over;
    log_.earlier_unwritten += events - written;
    char numbers[3][24];
    if (dropped || over)
        ms_os_say("event log ", log_.path[0] ? log_.path : log_.pattern.text, ": ", ms_os_decimal(numbers[0], written),
                  " events; ", ms_os_decimal(numbers[1], dropped), " dropped (buffer_size), ",
                  ms_os_decimal(numbers[2], over), " over max_events", NULL);
    return ended ? log_.error : ETIMEDOUT;
}

int ms_event_log_stop(void) {
    int saved = errno, error = ESRCH;
    ms_lock(MS_LOCK_EXPORT);
    if (ms_trace_is_on()) {
        atomic_fetch_add(&ms_trace_epoch, 1);
        error = end_session();
    }
    ms_unlock(MS_LOCK_EXPORT);
    errno = saved;
    return error;
}

void ms_event_log_flush(void) {
    uint32_t passes = atomic_load(&log_.passes);
    for (int tries = 0; tries < 100 && ms_trace_is_on() && atomic_load(&log_.passes) - passes < 2; tries++) {
        ms_event_log_wake();
        usleep(10000);
    }
}

bool ms_event_log_row(ms_trace_row_t *row) {
    if (!log_.ever) return false;
    ms_trace_counts_t now = ms_trace_counts();
    *row = (ms_trace_row_t){
        .path = log_.path,
        .clock_start_ns = ms_process.knobs.test_mode ? 0 : ms_process.start_ns,
        .start_ns = log_.start_ns,
        .end_ns = log_.end_ns,
        .events = now.events - log_.earlier_unwritten,
        .dropped_events = now.dropped + log_.earlier_unwritten,
        .over_max_events = now.over,
        .buffer_bytes = ms_process.knobs.buffer_size,
        .max_events = ms_process.knobs.max_events,
    };
    return true;
}
