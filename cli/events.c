/* See events.h. A cursor for every thread of every file stands at its next event; a heap of cursors gives the earliest.
 */
#include "cli/events.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/files.h"
#include "cli/site_name.h"
#include "cli/text.h"
#include "export/event_codec.h"

typedef struct log_file {
    const char *path;
    const unsigned char *bytes;
    size_t size;
    ms_snapshot_file_t *tables;
    uint64_t clock; /* its times + clock compare with other files' */
    uint64_t damaged;
} log_file_t;

typedef struct cursor {
    log_file_t *file;
    uint64_t thread;
    ms_unpack_t *records; /* bodies, in order */
    size_t count, room, next;
    ms_events_body_t body;
    bool open;
    ms_event_t event;
} cursor_t;

typedef struct logs {
    log_file_t *files;
    size_t file_count;
    cursor_t *cursors; /* of all files */
    size_t count, room;
    cursor_t **heap;
    size_t heap_count;
} logs_t;

/* ---- opening */

static bool map_file(log_file_t *file) {
    struct stat status;
    int fd = open(file->path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    bool regular = fd >= 0 && fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
    void *bytes = MAP_FAILED;
    if (regular && status.st_size > 0) bytes = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (fd < 0 || (regular && status.st_size > 0 && bytes == MAP_FAILED))
        ms_complain("%s: %s", file->path, strerror(errno));
    else if (bytes == MAP_FAILED)
        ms_complain("%s: no event log; give a .bin file, as `memscope run --trace` writes it", file->path);
    if (fd >= 0) close(fd);
    if (bytes == MAP_FAILED) return false;
    file->bytes = bytes;
    file->size = (size_t)status.st_size;
    return true;
}

static cursor_t *cursor_of(logs_t *logs, log_file_t *file, uint64_t thread) {
    for (size_t i = logs->count; i-- > 0 && logs->cursors[i].file == file;)
        if (logs->cursors[i].thread == thread) return &logs->cursors[i];
    if (logs->count == logs->room) {
        logs->room = 2 * logs->room + 16;
        logs->cursors = ms_reallocate(logs->cursors, logs->room * sizeof *logs->cursors);
    }
    logs->cursors[logs->count] = (cursor_t){.file = file, .thread = thread};
    return &logs->cursors[logs->count++];
}

static void add_record(logs_t *logs, log_file_t *file, ms_unpack_t bytes) {
    ms_events_body_t body;
    if (!ms_events_open(&body, bytes)) {
        file->damaged++;
        return;
    }
    cursor_t *cursor = cursor_of(logs, file, body.codec.last.thread);
    if (cursor->count == cursor->room) {
        cursor->room = 2 * cursor->room + 16;
        cursor->records = ms_reallocate(cursor->records, cursor->room * sizeof *cursor->records);
    }
    cursor->records[cursor->count++] = bytes;
}

static bool open_file(logs_t *logs, log_file_t *file) {
    if (!map_file(file)) return false;
    file->tables = ms_load_any(file->path);
    if (file->tables == NULL) return false;
    if (file->tables->model.trace.count > 0) file->clock = file->tables->model.trace.rows->clock_start_ns;
    ms_unpack_t at = {file->bytes, file->bytes + file->size};
    ms_record_t record;
    while (ms_record_next(&at, &record))
        if (ms_token_is(&record.kind, "events") && ms_record_is_intact(&record)) add_record(logs, file, record.body);
    return true;
}

/* ---- the heap, earliest on top */

static uint64_t time_of(const cursor_t *cursor) {
    return cursor->event.time + cursor->file->clock;
}

static bool is_before(const cursor_t *a, const cursor_t *b) {
    return time_of(a) != time_of(b) ? time_of(a) < time_of(b) : a < b;
}

static void sift_down(logs_t *logs, size_t at) {
    for (;;) {
        size_t least = at;
        for (size_t child = 2 * at + 1; child <= 2 * at + 2 && child < logs->heap_count; child++)
            if (is_before(logs->heap[child], logs->heap[least])) least = child;
        if (least == at) return;
        cursor_t *swapped = logs->heap[at];
        logs->heap[at] = logs->heap[least];
        logs->heap[least] = swapped;
        at = least;
    }
}

/* Stands at the next event; false: there is none. */
static bool advance(cursor_t *cursor) {
    for (;;) {
        bool damaged = false;
        if (cursor->open && ms_events_next(&cursor->body, &cursor->event, &damaged)) return true;
        cursor->file->damaged += damaged;
        if (cursor->next == cursor->count) return false;
        cursor->open = ms_events_open(&cursor->body, cursor->records[cursor->next++]);
    }
}

static void build_heap(logs_t *logs) {
    logs->heap = ms_allocate(logs->count * sizeof *logs->heap);
    for (size_t i = 0; i < logs->count; i++)
        if (advance(&logs->cursors[i])) logs->heap[logs->heap_count++] = &logs->cursors[i];
    for (size_t i = logs->heap_count; i-- > 0;) sift_down(logs, i);
}

/* ---- names */

/* Of several rows with one id the last counts. */
static const char *thread_name(const ms_model_t *model, uint64_t id) {
    for (size_t i = model->threads.count; i-- > 0;)
        if (model->threads.rows[i].id == id && model->threads.rows[i].name) return model->threads.rows[i].name;
    return "";
}

static const char *task_name(const ms_model_t *model, uint64_t id) {
    for (size_t i = model->tasks.count; id != 0 && i-- > 0;)
        if (model->tasks.rows[i].id == id && model->tasks.rows[i].name) return model->tasks.rows[i].name;
    return "";
}

static const ms_sites_row_t *site_of(const ms_model_t *model, uint64_t id) {
    for (size_t i = 0; id != 0 && i < model->sites.count; i++)
        if (model->sites.rows[i].id == id) return &model->sites.rows[i];
    return NULL;
}

static bool is_named(const char *asked, uint64_t id, const char *name) {
    char *end;
    if (asked == NULL || strcmp(asked, name) == 0) return true;
    return strtoull(asked, &end, 10) == id && *asked >= '0' && *asked <= '9' && *end == '\0';
}

/* ---- printing */

static void print_site(FILE *out, const ms_model_t *model, uint32_t id) {
    const ms_sites_row_t *site = site_of(model, id);
    if (site == NULL) return;
    char *name = ms_site_name(model, site), *safe = ms_text_safe(name);
    fprintf(out, "  %s", safe);
    free(safe);
    free(name);
}

static void print_who(FILE *out, const logs_t *logs, const cursor_t *cursor) {
    const ms_event_t *event = &cursor->event;
    const ms_model_t *model = &cursor->file->tables->model;
    char *thread = ms_text_safe(thread_name(model, event->thread)), *task = ms_text_safe(task_name(model, event->task));
    fprintf(out, "%16.9f", (double)event->time / 1e9);
    if (logs->file_count > 1 && model->process.count > 0) fprintf(out, "  %7" PRIu64, model->process.rows->pid);
    fprintf(out, "  %4" PRIu64 " %-15s", event->thread, thread);
    if (event->task != 0) fprintf(out, "  [%s]", *task ? task : "task");
    free(thread);
    free(task);
}

static void print_event(FILE *out, const logs_t *logs, const cursor_t *cursor) {
    static const char *const words[] = {"alloc", "free", "resize from", "resize to", "name"};
    const ms_event_t *event = &cursor->event;
    print_who(out, logs, cursor);
    if (event->kind == MS_EVENT_LOST) {
        fprintf(out, "  lost %" PRIu64 " dropped, %" PRIu64 " over max_events\n", event->address, event->size);
        return;
    }
    fprintf(out, "  %-11s  %10" PRIu64 "  0x%" PRIx64, words[event->kind], event->size, event->address);
    print_site(out, &cursor->file->tables->model, event->site);
    fputc('\n', out);
}

static void print_all(FILE *out, logs_t *logs, const ms_events_options_t *options) {
    uint64_t printed = 0, more = 0;
    fprintf(out, "%16s  %sthread               event          bytes  address\n", "seconds",
            logs->file_count > 1 ? "    pid  " : "");
    while (logs->heap_count > 0 && !ferror(out)) {
        cursor_t *cursor = logs->heap[0];
        const ms_model_t *model = &cursor->file->tables->model;
        const ms_event_t *event = &cursor->event;
        bool wanted =
            is_named(options->thread, event->thread, options->thread ? thread_name(model, event->thread) : "") &&
            is_named(options->task, event->task, options->task ? task_name(model, event->task) : "");
        if (wanted && printed < options->limit) {
            print_event(out, logs, cursor);
            printed++;
        } else {
            more += wanted;
        }
        if (!advance(cursor)) logs->heap[0] = logs->heap[--logs->heap_count];
        sift_down(logs, 0);
    }
    if (more > 0) fprintf(out, "... and %s more events (--limit)\n", ms_text_count(more).text);
}

static void close_all(logs_t *logs) {
    for (size_t i = 0; i < logs->count; i++) free(logs->cursors[i].records);
    for (size_t i = 0; i < logs->file_count; i++) {
        ms_snapshot_file_free(logs->files[i].tables);
        if (logs->files[i].bytes) munmap((void *)(uintptr_t)logs->files[i].bytes, logs->files[i].size);
    }
    free(logs->heap);
    free(logs->cursors);
    free(logs->files);
}

int ms_print_events(FILE *out, char **paths, size_t count, const ms_events_options_t *options,
                    ms_symbolizer_t *symbolizer) {
    logs_t logs = {.files = ms_allocate(count * sizeof(log_file_t)), .file_count = count};
    int status = MS_EXIT_OK;
    for (size_t i = 0; i < count; i++) {
        logs.files[i].path = paths[i];
        if (!open_file(&logs, &logs.files[i]))
            status = MS_EXIT_USAGE;
        else
            ms_symbolize(symbolizer, logs.files[i].tables);
    }
    if (status == MS_EXIT_OK) {
        build_heap(&logs);
        print_all(out, &logs, options);
    }
    for (size_t i = 0; i < count; i++)
        if (logs.files[i].damaged > 0)
            ms_complain("%s: %" PRIu64 " records are damaged and left out", paths[i], logs.files[i].damaged);
    close_all(&logs);
    return status;
}
