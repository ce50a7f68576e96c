/* See files.h. Holds no state. */
#include "cli/files.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "cli/text.h"
#include "export/html.h"
#include "export/json.h"
#include "export/msgpack.h"
#include "export/recover.h"
#include "export/writer.h"

#define GZIP_WINDOW (15 + 16) /* zlib: largest window, with a gzip header */

/* ---- memory and messages ---- */

void ms_out_of_memory(void) {
    static const char line[] = "memscope: out of memory\n";
    (void)!write(STDERR_FILENO, line, sizeof line - 1);
    _exit(MS_EXIT_USAGE);
}

void *ms_allocate(size_t bytes) {
    void *memory = calloc(1, bytes == 0 ? 1 : bytes);
    if (memory == NULL) ms_out_of_memory();
    return memory;
}

void *ms_reallocate(void *memory, size_t bytes) {
    memory = realloc(memory, bytes == 0 ? 1 : bytes);
    if (memory == NULL) ms_out_of_memory();
    return memory;
}

static char *format_arguments(const char *format, va_list arguments) {
    char *text;
    if (vasprintf(&text, format, arguments) < 0) ms_out_of_memory();
    return text;
}

char *ms_format(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    char *text = format_arguments(format, arguments);
    va_end(arguments);
    return text;
}

void ms_complain(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    char *text = format_arguments(format, arguments), *safe = ms_text_safe(text);
    va_end(arguments);
    fflush(stdout);
    fprintf(stderr, "memscope: %s\n", safe);
    free(safe);
    free(text);
}

bool ms_finish_stdout(void) {
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout)) return true;
    ms_complain("cannot write to standard output: %s", strerror(errno != 0 ? errno : EIO));
    return false;
}

/* ---- paths ---- */

const char *ms_base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash == NULL ? path : slash + 1;
}

char *ms_with_suffix(const char *path, const char *suffix) {
    static const char ending[] = ".memscope";
    size_t length = strlen(path), ending_length = sizeof ending - 1;
    if (strlen(ms_base_name(path)) > ending_length && strcmp(path + length - ending_length, ending) == 0)
        length -= ending_length;
    return ms_format("%.*s%s", (int)length, path, suffix);
}

bool ms_is_directory(const char *path) {
    struct stat status;
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

bool ms_is_same_file(const char *a, const char *b) {
    struct stat left, right;
    return stat(a, &left) == 0 && stat(b, &right) == 0 && left.st_dev == right.st_dev && left.st_ino == right.st_ino;
}

int ms_make_directories(const char *path) {
    char *copy = ms_format("%s", path);
    int error = 0;
    for (char *slash = copy + (*copy == '/'); error == 0 && slash != NULL; *slash++ = '/') {
        slash = strchr(slash, '/');
        if (slash != NULL) *slash = '\0';
        if (*copy != '\0' && mkdir(copy, 0777) != 0 && errno != EEXIST) error = errno;
        if (slash == NULL) break;
    }
    if (error == 0 && !ms_is_directory(path)) error = ENOTDIR;
    free(copy);
    return error;
}

/* ---- reading ---- */

ms_snapshot_file_t *ms_load_any(const char *path) {
    char error[512];
    ms_snapshot_file_t *file = ms_read_file(path, error, sizeof error);
    if (file == NULL)
        ms_complain("%s", error);
    if (file != NULL) ms_snapshot_recover(file);
    if (file != NULL && file->warning[0] != '\0')
        ms_complain("%s: %s", path, file->warning);
    return file;
}

ms_snapshot_file_t *ms_load(const char *path) {
    ms_snapshot_file_t *file = ms_load_any(path);
    const ms_model_t *model = file != NULL ? &file->model : NULL;
    bool is_log = model != NULL && model->process.count > 0 && model->totals.count == 0 &&
                  model->process.rows->reason != NULL && strcmp(model->process.rows->reason, "trace") == 0;
    if (!is_log) return file;
    ms_complain("%s: an event log: `memscope show --events` prints it; give the .memscope file of the same process for "
                "everything else",
                path);
    ms_snapshot_file_free(file);
    return NULL;
}

/* ---- writing ---- */

typedef struct ms_bytes {
    z_stream deflate;
    unsigned char *bytes;
    size_t used, capacity;
} ms_bytes_t;

static int deflate_more(ms_bytes_t *gzip, int flush) {
    int status = Z_OK;
    do {
        if (gzip->capacity - gzip->used < 65536) {
            gzip->capacity += gzip->capacity / 2 + 131072;
            gzip->bytes = ms_reallocate(gzip->bytes, gzip->capacity);
        }
        gzip->deflate.next_out = gzip->bytes + gzip->used;
        gzip->deflate.avail_out = (uInt)65536;
        status = deflate(&gzip->deflate, flush);
        gzip->used += 65536 - gzip->deflate.avail_out;
    } while (status == Z_OK && (gzip->deflate.avail_in > 0 || flush == Z_FINISH));
    return status == Z_OK || status == Z_STREAM_END || status == Z_BUF_ERROR ? 0 : EIO;
}

/* A writer's drain, so n is at most MS_WRITER_BYTES or one row's text: it fits zlib's 32 bits piece by piece. */
static int deflate_drain(void *context, const void *bytes, size_t n) {
    ms_bytes_t *gzip = context;
    for (const unsigned char *from = bytes; n > 0;) {
        uInt piece = n > 1u << 30 ? 1u << 30 : (uInt)n;
        gzip->deflate.next_in = (z_const Bytef *)(uintptr_t)from;
        gzip->deflate.avail_in = piece;
        int error = deflate_more(gzip, Z_NO_FLUSH);
        if (error != 0) return error;
        from += piece;
        n -= piece;
    }
    return 0;
}

/* The page takes the element with this id, behind everything else, as the name of its first view. */
static void put_view(ms_writer_t *writer, const char *view) {
    if (view == NULL) return;
    ms_writer_text(writer, "<script type=\"text/plain\" id=\"memscope-view\">");
    ms_writer_text(writer, view);
    ms_writer_text(writer, "</script>\n");
}

static int write_page(const ms_document_t *document, ms_writer_t *writer) {
    ms_bytes_t gzip = {.capacity = 0};
    ms_writer_t sink;
    if (deflateInit2(&gzip.deflate, Z_DEFAULT_COMPRESSION, Z_DEFLATED, GZIP_WINDOW, 8, Z_DEFAULT_STRATEGY) != Z_OK)
        ms_out_of_memory();
    int error = ms_writer_sink(&sink, deflate_drain, &gzip);
    if (error == 0) error = document->write(document->data, &sink);
    int close_error = ms_writer_close(&sink);
    if (error == 0) error = close_error;
    if (error == 0) error = deflate_more(&gzip, Z_FINISH);
    deflateEnd(&gzip.deflate);
    if (error == 0) error = ms_export_html_bytes(gzip.bytes, gzip.used, writer);
    if (error == 0) put_view(writer, document->view);
    free(gzip.bytes);
    return error;
}

/* Goes on after opening the writer, which gave `error`. */
static int write_and_close(const ms_document_t *document, ms_writer_t *writer, int error) {
    if (error == 0) error = document->page ? write_page(document, writer) : document->write(document->data, writer);
    int close_error = ms_writer_close(writer);
    return error != 0 ? error : close_error;
}

/* What exists and is no regular file keeps its nature: it is opened, not replaced. */
static bool is_special(const char *path) {
    struct stat status;
    return stat(path, &status) == 0 && !S_ISREG(status.st_mode);
}

static int write_beside(const ms_document_t *document, const char *path) {
    ms_writer_t writer;
    char *target = realpath(path, NULL); /* a symbolic link stays; what it points to is replaced */
    if (target == NULL) target = ms_format("%s", path);
    int directory = (int)(ms_base_name(target) - target); /* its name may already be as long as names can be */
    char *beside = ms_format("%.*s.memscope-%ld.tmp", directory, target, (long)getpid());
    int error = write_and_close(document, &writer, ms_writer_open(&writer, beside, true));
    if (error == 0 && rename(beside, target) != 0) error = errno;
    if (error != 0) unlink(beside);
    free(beside);
    free(target);
    return error;
}

int ms_write_document(const ms_document_t *document, const char *path) {
    ms_writer_t writer;
    int error;
    bool standard_output = strcmp(path, "-") == 0;
    if (standard_output)
        error = write_and_close(document, &writer, ms_writer_fd(&writer, STDOUT_FILENO));
    else if (is_special(path))
        error = write_and_close(document, &writer, ms_writer_open(&writer, path, true));
    else
        error = write_beside(document, path);
    if (error != 0) ms_complain("cannot write %s: %s", standard_output ? "to standard output" : path, strerror(error));
    return error;
}

static int model_as_msgpack(const void *model, ms_writer_t *writer) {
    return ms_export_msgpack(model, writer);
}

static int model_as_json(const void *model, ms_writer_t *writer) {
    return ms_export_json(model, writer);
}

int ms_write_model(const ms_model_t *model, const char *path, ms_write_format_t format, const char *view) {
    ms_document_t document = {
        .write = format == MS_WRITE_JSON ? model_as_json : model_as_msgpack,
        .data = model,
        .page = format == MS_WRITE_HTML,
        .view = view,
    };
    return ms_write_document(&document, path);
}
