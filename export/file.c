/* See file.h. */
#include "export/file.h"

#include <errno.h>
#include <signal.h>
#include <time.h>

#include "export/html.h"
#include "export/json.h"
#include "export/msgpack.h"
#include "export/writer.h"

static int write_file(const ms_model_t *model, const char *path, ms_format_t format) {
    static int (*const export[])(const ms_model_t *, ms_writer_t *) = {
        [MS_FORMAT_MSGPACK] = ms_export_msgpack, [MS_FORMAT_JSON] = ms_export_json, [MS_FORMAT_HTML] = ms_export_html};
    ms_writer_t writer;
    int error = ms_writer_open(&writer, path, false);
    if (error == 0) error = export[format](model, &writer);
    int closed = ms_writer_close(&writer);
    return error != 0 ? error : closed;
}

/* The signals are held back, and those that came for us (they go to the thread that wrote) are taken away. */
int ms_export_guarded(int (*write)(void *context), void *context) {
    static const int raised[] = {SIGXFSZ, SIGPIPE};
    const struct timespec now = {0, 0};
    sigset_t held, pending, before;
    sigemptyset(&held);
    for (size_t i = 0; i < 2; i++) sigaddset(&held, raised[i]);
    sigpending(&pending);
    pthread_sigmask(SIG_BLOCK, &held, &before);

    int error = write(context);

    for (size_t i = 0; i < 2; i++) /* one that was pending before is not ours */
        if (sigismember(&pending, raised[i])) sigdelset(&held, raised[i]);
    if (error == EFBIG || error == EPIPE)
        while (sigtimedwait(&held, NULL, &now) > 0 || errno == EINTR) continue;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

typedef struct {
    const ms_model_t *model;
    const char *path;
    ms_format_t format;
} ms_file_t;

static int write_file_of(void *context) {
    const ms_file_t *file = context;
    return write_file(file->model, file->path, file->format);
}

int ms_export_file(const ms_model_t *model, const char *path, ms_format_t format) {
    ms_file_t file = {model, path, format};
    return ms_export_guarded(write_file_of, &file);
}
