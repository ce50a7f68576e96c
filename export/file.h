/* A snapshot into a file, in one call. Safe in process and at exit: no heap, no stdio, no lock. */
#ifndef MS_EXPORT_FILE_H
#define MS_EXPORT_FILE_H

#include "tracking/model.h"

typedef enum { MS_FORMAT_MSGPACK, MS_FORMAT_JSON, MS_FORMAT_HTML } ms_format_t;

/* Writes the model to exactly `path`, truncated first; missing directories are not made. Returns 0 or the errno value
 * of what failed. What was written before a failure stays; a directory at `path` is left alone (EISDIR), and so is a pipe
 * that nobody reads within a second (ENXIO). */
int ms_export_file(const ms_model_t *model, const char *path, ms_format_t format);

/* Calls `write`, which returns 0 or an errno value. A file over RLIMIT_FSIZE or a pipe nobody reads raises a signal that
 * ends the process: within, both are only errors. */
int ms_export_guarded(int (*write)(void *context), void *context);

#endif
