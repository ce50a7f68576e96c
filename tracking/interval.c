#define _GNU_SOURCE
#include "tracking/interval.h"
#include "alloc/os.h"
#include "export/crc32.h"
#include "export/file.h"
#include "export/msgpack.h"
#include "tracking/interval_rows.h"
#include "tracking/path.h"
#include "tracking/process.h"
#include "tracking/report.h"
#include "tracking/worker.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define KEYS_MOST 16384         /* sites, tasks or threads followed in one file */
#define RECORDS_PER_START 600   /* after damage, values are known again behind so many records */
#define PATIENCE_NS 5000000000u /* at exit, for a disk that does not answer */

typedef enum {
    FILE_NONE, /* not taken yet */
    FILE_OURS,
    FILE_LOST,   /* gone, or no longer as we left it: nothing more is written to it */
    FILE_OTHERS, /* another process writes to it */
} file_state_t;

/* Bytes of one record and all that goes with it, to be written by one call. */
typedef struct bytes {
    char *start;
    size_t used, room;
} bytes_t;

static MS_FAR struct recorder {
    char given[MS_PATH_ROOM], path[MS_PATH_ROOM]; /* as the snapshot at exit names it, and absolute */
    ms_interval_path_t *path_again;
    file_state_t state;
    dev_t device;
    ino_t inode;
    off_t size;    /* of whole records */
    int lock_fd;   /* keeps others from taking the file; -1: none */
    bool is_child; /* of a fork: its first record comes after an interval, programs exec before */

    ms_series_t series;
    ms_pace_t pace;
    uint64_t records;      /* in the file */
    uint64_t until_start;  /* deltas until values are written whole again; 0: the next one */
    uint32_t modules;      /* checksum of the code mapped when the modules in the file were written; 0: none are */
    uint64_t modules_ns;   /* when that was looked at */
    uint64_t last_time_ns; /* of the last record */
    bytes_t bytes;         /* kept from record to record */
    bool stuck;            /* the thread did not stop when asked to */
    uint64_t ticks, missed, dropped, dropped_rows, clock_steps, cpu_ns;
} recorder;

static int bytes_add(void *context, const void *from, size_t count) {
    bytes_t *bytes = context;
    if (bytes->room - bytes->used < count) {
        size_t room = (bytes->used + count + ((size_t)256 << 10)) & ~(size_t)(MS_PAGE - 1);
        char *wider = bytes->start ? ms_os_remap(bytes->start, bytes->room, room) : ms_os_map(room, MS_PAGE);
        if (!wider) return ENOMEM;
        bytes->start = wider;
        bytes->room = room;
    }
    memcpy(bytes->start + bytes->used, from, count);
    bytes->used += count;
    return 0;
}

/* ---- the file */

static bool is_same_file(const struct stat *file) {
    return file->st_dev == recorder.device && file->st_ino == recorder.inode;
}

/* Kept open for its lock alone, out of the way of the program's descriptors. Without locks on this file system the file
 * is taken all the same. */
static bool file_lock(int file) {
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(file, F_OFD_SETLK, &whole) != 0 && (errno == EAGAIN || errno == EACCES)) return false;
    recorder.lock_fd = ms_path_step_aside(fcntl(file, F_DUPFD_CLOEXEC, 3));
    return true;
}

static file_state_t file_take(void) {
    struct stat status;
    int file = ms_open_aside(recorder.path, O_RDWR | O_CREAT | O_NONBLOCK);
    if (file < 0) return FILE_NONE;
    file_state_t state = FILE_LOST;
    if (fstat(file, &status) != 0 || !S_ISREG(status.st_mode)) {
        ms_os_say("interval: ", recorder.path, " is no regular file: only the snapshot at exit is written to it", NULL);
    } else if (!file_lock(file)) {
        ms_os_say("interval: another process writes to ", recorder.path,
                  ": nothing of this one is written; %p in output gives each a file of its own", NULL);
        state = FILE_OTHERS;
    } else if (ftruncate(file, 0) == 0) {
        recorder.device = status.st_dev;
        recorder.inode = status.st_ino;
        recorder.size = 0;
        state = FILE_OURS;
    }
    close(file);
    return state;
}

/* The file, to append to; -1 with errno. Somebody else's changes end the records. */
static int file_open(void) {
    struct stat status;
    int file = ms_open_aside(recorder.path, O_WRONLY | O_APPEND | O_NONBLOCK);
    if (file < 0) return -1;
    if (fstat(file, &status) == 0 && is_same_file(&status) && status.st_size == recorder.size) return file;
    close(file);
    recorder.state = FILE_LOST;
    ms_os_say("interval: ", recorder.path, " was changed by somebody else: no more records are written to it", NULL);
    errno = ESTALE;
    return -1;
}

/* All of it or nothing. */
static bool file_append(const bytes_t *bytes) {
    int file = file_open();
    size_t written = 0;
    if (file < 0) return false;
    while (written < bytes->used) {
        ssize_t more = write(file, bytes->start + written, bytes->used - written);
        if (more < 0 && errno == EINTR) continue;
        if (more <= 0) break;
        written += (size_t)more;
    }
    if (written == bytes->used)
        recorder.size += (off_t)written;
    else if (ftruncate(file, recorder.size) != 0)
        recorder.state = FILE_LOST; /* half a record would hide what follows */
    close(file);
    return written == bytes->used;
}

/* ---- the process */

static uint64_t resident_bytes(void) {
    char text[128];
    if (!ms_os_read_text("/proc/self/statm", text, sizeof text)) return MS_NULL;
    const char *at = strchr(text, ' ');
    uint64_t pages = 0;
    for (at = at ? at + 1 : ""; *at >= '0' && *at <= '9'; at++) pages = pages * 10 + (uint64_t)(*at - '0');
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* Time of the next record. The clock of test mode stands still, except here, where an interval has passed. */
static uint64_t time_of_record(void) {
    uint64_t now = ms_process.knobs.test_mode ? recorder.ticks * ms_process.knobs.interval : ms_process_elapsed_ns();
    if (now < recorder.last_time_ns) {
        recorder.clock_steps++;
        now = recorder.last_time_ns;
    }
    return now;
}

static void sample_of(ms_samples_row_t *row, uint64_t time_ns, const memscope_usage_t *usage) {
    *row = (ms_samples_row_t){
        .time_ns = time_ns,
        .live_bytes = usage->live_bytes,
        .live_blocks = usage->live_blocks,
        .allocated_bytes = usage->allocated_bytes,
        .allocated_blocks = usage->allocated_blocks,
        .rss_bytes = resident_bytes(),
        .peak_bytes = usage->peak_bytes,
        .peak_error_bytes = usage->peak_error_bytes,
        .own_memory_bytes = ms_os_metadata_bytes() + recorder.series.mapped_bytes,
        .own_cpu_ns = recorder.cpu_ns,
        .interval_ns = ms_pace_interval(&recorder.pace),
        .rows_kept = ms_pace_rows(&recorder.pace),
        .missed_records = recorder.missed,
        .dropped_records = recorder.dropped,
        .dropped_rows = recorder.dropped_rows,
        .clock_steps = recorder.clock_steps,
    };
}

/* ---- a record */

/* A checksum of what is mapped as code from files. The loader's own count of changes is behind a lock that a fork does
 * not make anew in the child. */
static uint32_t code_mapped(void) {
    ms_region_t region = {0};
    size_t bytes;
    char *maps = ms_region_file(&region, "/proc/self/maps", &bytes);
    uint32_t sum = 0;
    for (char *line = maps, *next; line && *line; line = next) {
        size_t length = strcspn(line, "\n");
        ms_mapping_t mapping;
        next = line + length + (line[length] != '\0');
        line[length] = '\0';
        if (ms_mapping_parse(line, &mapping) && mapping.executable && *mapping.path) sum = ms_crc32(sum, line, length);
    }
    ms_region_free(&region);
    return sum;
}

/* The modules, when they are not those in the file; looked at once a second at most. */
static void put_modules(ms_writer_t *writer, uint64_t *records) {
    uint64_t now = ms_os_monotonic_ns();
    if (recorder.modules && now - recorder.modules_ns < MS_MODULES_NS) return;
    recorder.modules_ns = now;
    uint32_t sum = code_mapped();
    if (sum == recorder.modules) return;
    ms_snapshot_t part = {.region = {0}};
    if (ms_snapshot_modules(&part)) {
        *records += ms_export_rows(writer, MS_TABLE_modules, part.model.modules.rows, part.model.modules.count,
                                   MS_ALL_COLUMNS, true);
        recorder.modules = sum;
    }
    ms_region_free(&part.region);
}

/* What a file begins with: who this is. */
static void put_identity(ms_writer_t *writer, uint64_t *records) {
    static const ms_table_id_t tables[] = {MS_TABLE_process, MS_TABLE_data_quality, MS_TABLE_null_reasons,
                                           MS_TABLE_knobs};
    *records += ms_export_first(writer);
    ms_snapshot_t *snapshot = ms_snapshot_identity("interval");
    if (!snapshot) return;
    ms_snapshot_quality(snapshot);
    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++) {
        size_t count;
        const void *rows = ms_model_rows(&snapshot->model, tables[i], &count);
        *records += ms_export_rows(writer, tables[i], rows, count, MS_ALL_COLUMNS, false);
    }
    ms_snapshot_free(snapshot);
}

static void put_descriptions(ms_writer_t *writer, const ms_interval_rows_t *rows, ms_region_t *region,
                             uint64_t *records) {
    ms_descriptions_t *found = ms_region_alloc(region, sizeof *found);
    if (!found) return;
    ms_interval_describe(rows, region, found);
    *records += ms_export_rows(
        writer, MS_TABLE_sites, found->sites, found->site_count,
        ms_export_columns(MS_TABLE_sites, "id kind stack variable type function file line estimated"), false);
    *records += ms_export_rows(writer, MS_TABLE_tasks, found->tasks, found->task_count,
                               ms_export_columns(MS_TABLE_tasks, "id parent name state start_ns"), false);
    *records += ms_export_rows(writer, MS_TABLE_threads, found->threads, found->thread_count,
                               ms_export_columns(MS_TABLE_threads, "id tid name state start_ns"), false);
}

static void stage_kept(const ms_kept_rows_t *kept) {
    for (uint32_t i = 0; i < kept->count; i++)
        if (!ms_series_stage(&recorder.series, kept->table, &kept->rows[i])) recorder.dropped_rows++;
}

static void put_delta(ms_writer_t *writer, const ms_samples_row_t *sample, const ms_interval_rows_t *rows,
                      uint64_t *records) {
    if (recorder.until_start == 0) {
        ms_series_start(&recorder.series, writer);
        recorder.until_start = RECORDS_PER_START;
        ++*records;
    }
    recorder.until_start--;
    ms_series_stage(&recorder.series, MS_TABLE_samples, sample);
    stage_kept(&rows->sites);
    stage_kept(&rows->tasks);
    stage_kept(&rows->threads);
    ms_series_put(&recorder.series, writer);
    ++*records;
}

/* What was staged is in the file, and so is what it means. */
static void delta_is_written(uint64_t records, uint64_t time_ns) {
    for (size_t i = 0; i < recorder.series.staged_count; i++) {
        const ms_series_staged_t *staged = &recorder.series.staged[i];
        recorder.series.tables[staged->table].keys[staged->key].described = true;
    }
    ms_series_commit(&recorder.series);
    recorder.records += records;
    recorder.last_time_ns = time_ns;
}

static void delta_is_lost(void) {
    ms_series_drop(&recorder.series);
    recorder.until_start = 0; /* a start, or modules, may have been lost with it */
    recorder.modules = 0;
    recorder.dropped++;
}

static void fill_bytes(bytes_t *bytes, const ms_samples_row_t *sample, const ms_interval_rows_t *rows,
                       ms_region_t *region, uint64_t *records, int *error) {
    ms_writer_t writer;
    if ((*error = ms_writer_sink(&writer, bytes_add, bytes)) == 0) {
        if (recorder.records == 0) put_identity(&writer, records);
        put_modules(&writer, records);
        put_descriptions(&writer, rows, region, records);
        put_delta(&writer, sample, rows, records);
    }
    int closed = ms_writer_close(&writer);
    if (*error == 0) *error = closed;
}

static void record(uint64_t time_ns) {
    bytes_t *bytes = &recorder.bytes;
    ms_region_t region = {0};
    ms_interval_rows_t *rows = ms_region_alloc(&region, sizeof *rows);
    if (!rows) {
        recorder.dropped++;
        return;
    }
    ms_samples_row_t sample;
    memscope_usage_t usage;
    ms_process_usage(&usage);
    ms_interval_rows_init(rows, &recorder.series, time_ns, ms_pace_rows(&recorder.pace));
    ms_interval_collect(rows, &region);
    sample_of(&sample, time_ns, &usage);
    uint64_t records = 0;
    int error;
    bytes->used = 0;
    fill_bytes(bytes, &sample, rows, &region, &records, &error);
    ms_region_free(&region);
    if (error == 0 && file_append(bytes))
        delta_is_written(records, time_ns);
    else
        delta_is_lost();
    uint64_t cpu_ns = ms_os_thread_cpu_ns();
    ms_pace_spent(&recorder.pace, ms_os_monotonic_ns(), bytes->used, cpu_ns - recorder.cpu_ns);
    recorder.cpu_ns = cpu_ns;
}

static void tick(void) {
    if (recorder.state == FILE_NONE) recorder.state = file_take();
    if (recorder.state == FILE_NONE) recorder.dropped++;
    if (recorder.state == FILE_OURS) record(time_of_record());
    recorder.ticks++;
}

/* ---- the thread */

static void body(ms_worker_t *worker) {
    uint64_t due = ms_os_monotonic_ns();
    if (recorder.is_child) due += ms_process.knobs.interval;
    while (!ms_worker_is_stopping(worker) && recorder.state != FILE_LOST && recorder.state != FILE_OTHERS) {
        uint64_t now = ms_os_monotonic_ns();
        if (now < due && due - now <= 2 * ms_pace_interval(&recorder.pace)) { /* farther off: the clock went back */
            ms_worker_sleep(worker, due - now);
            continue;
        }
        tick();
        atomic_fetch_add(&worker->progress, 1);
        uint64_t interval = ms_pace_interval(&recorder.pace), after = ms_os_monotonic_ns();
        due = (now < due ? now : due) + interval;
        if (after < due) continue;
        recorder.missed += (after - due) / interval;
        due = after + interval - (after - due) % interval;
    }
}

static void in_child(ms_worker_t *worker);
static ms_worker_t writer_thread = {.name = "memscope", .body = body, .in_child = in_child};

/* A recorder that has nothing yet, for this file. */
static void prepare(const char *path, ms_interval_path_t *path_again) {
    memset(&recorder, 0, sizeof recorder);
    recorder.lock_fd = -1;
    recorder.path_again = path_again;
    recorder.series.keys_max = KEYS_MOST;
    ms_pace_start(&recorder.pace, ms_process.knobs.interval, ms_os_monotonic_ns());
    char *to = recorder.path;
    strcpy(recorder.given, path);
    if (*path != '/') {
        if (!getcwd(to, MS_PATH_ROOM - strlen(path) - 1)) *to = '\0';
        to += strlen(to);
        *to++ = '/';
    }
    strcpy(to, path);
}

/* The descriptor of the parent's file is closed if it still is that. */
static void forget_file(void) {
    struct stat status;
    if (recorder.lock_fd >= 0 && fstat(recorder.lock_fd, &status) == 0 && is_same_file(&status))
        close(recorder.lock_fd);
    recorder.lock_fd = -1;
    recorder.state = FILE_NONE;
}

/* The parent's thread may have been anywhere: what it had is left where it is. */
static void in_child(ms_worker_t *worker) {
    static MS_FAR char path[MS_PATH_ROOM]; /* fork() may have been called on a stack of 8 KiB */
    int saved = errno;
    ms_interval_path_t *path_again = recorder.path_again;
    forget_file();
    if (path_again(path, sizeof path) && strcmp(path, recorder.given) != 0) {
        prepare(path, path_again);
        recorder.is_child = true;
        if (ms_worker_start(worker) != 0) recorder.state = FILE_LOST;
    } else {
        recorder.state = FILE_OTHERS;
    }
    errno = saved;
}

void ms_interval_start(const char *path, ms_interval_path_t *path_again) {
    prepare(path, path_again);
    int error = ms_worker_start(&writer_thread);
    if (error) ms_os_say("interval: no thread for the records: ", strerrordesc_np(error), NULL);
    if (error) recorder.state = FILE_LOST;
}

/* ---- the end */

static ms_sample_row_t last_row(uint64_t time_ns, uint64_t id, const uint64_t live[2], const uint64_t allocated[2]) {
    return (ms_sample_row_t){.time_ns = time_ns,
                             .id = id,
                             .live_bytes = live[0],
                             .live_blocks = live[1],
                             .allocated_bytes = allocated[0],
                             .allocated_blocks = allocated[1]};
}

/* Ids that were written once get their last values, as the snapshot has them. */
#define STAGE_LAST(series_table, table)                                                                         \
    for (size_t i = 0; i < model->table.count; i++) {                                                           \
        const ms_##table##_row_t *from = &model->table.rows[i];                                                 \
        const ms_series_key_t *key = ms_series_key(&recorder.series, MS_TABLE_##series_table, from->id, false); \
        const uint64_t live[2] = {from->live_bytes, from->live_blocks};                                         \
        const uint64_t allocated[2] = {from->allocated_bytes, from->allocated_blocks};                          \
        ms_sample_row_t row = last_row(time_ns, from->id, live, allocated);                                     \
        bool moved = key && (memcmp(key->values, live, sizeof live) != 0 ||                                     \
                             memcmp(key->values + 2, allocated, sizeof allocated) != 0);                        \
        if (key && key->described && moved) ms_series_stage(&recorder.series, MS_TABLE_##series_table, &row);   \
    }

static void put_last(const ms_model_t *model, ms_writer_t *writer, uint64_t *records) {
    ms_samples_row_t sample;
    memscope_usage_t usage = {
        .allocated_bytes = model->totals.rows->allocated_bytes,
        .allocated_blocks = model->totals.rows->allocated_blocks,
        .live_bytes = model->totals.rows->live_bytes,
        .live_blocks = model->totals.rows->live_blocks,
        .peak_bytes = model->totals.rows->peak_bytes,
        .peak_error_bytes = model->totals.rows->peak_error_bytes,
    };
    uint64_t time_ns = time_of_record();
    static const ms_interval_rows_t none;
    sample_of(&sample, time_ns, &usage);
    STAGE_LAST(site_samples, sites)
    STAGE_LAST(task_samples, tasks)
    STAGE_LAST(thread_samples, threads)
    if (recorder.series.staged_count > 0) recorder.series.staged_time_ns = time_ns;
    put_delta(writer, &sample, &none, records);
}

typedef struct last {
    const ms_model_t *model;
    int file;
} last_t;

static int write_last(void *context) {
    const last_t *last = context;
    ms_writer_t writer;
    uint64_t records = 0;
    int error = ms_writer_fd(&writer, last->file);
    if (error == 0) {
        if (recorder.records == 0) put_identity(&writer, &records);
        put_last(last->model, &writer, &records);
        error = ms_export_rest(last->model, &writer, recorder.records + records, true);
    }
    int closed = ms_writer_close(&writer);
    return error != 0 ? error : closed;
}

static int complete_file(const ms_snapshot_t *snapshot, int file) {
    last_t last = {&snapshot->model, file};
    int error = ms_export_guarded(write_last, &last);
    if (error != 0 && ftruncate(file, recorder.size) != 0) error = errno; /* the records stay readable */
    close(file);
    return error;
}

void ms_interval_stop(void) {
    if (recorder.path_again && !recorder.stuck) recorder.stuck = !ms_worker_stop(&writer_thread, PATIENCE_NS);
}

bool ms_interval_finish(const ms_snapshot_t *snapshot, const char *path, int *error) {
    *error = 0;
    if (!recorder.path_again || strcmp(path, recorder.given) != 0) return false;
    ms_interval_stop();
    if (recorder.stuck) {
        ms_os_say("interval: the disk does not answer: ", recorder.path, " ends with its last record", NULL);
        return true;
    }
    if (recorder.state == FILE_NONE) recorder.state = file_take(); /* it all took less than a record */
    if (recorder.state == FILE_OTHERS) return true;
    if (recorder.state != FILE_OURS) return false;
    int file = file_open();
    if (file < 0) return errno == ESTALE;
    *error = complete_file(snapshot, file);
    recorder.state = FILE_LOST;
    return true;
}
