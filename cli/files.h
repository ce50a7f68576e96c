/* What the commands share: memory that is there or ends the command, one-line errors, snapshots read, files written.
 *
 * A file is written beside its place and renamed into it, so that nobody sees half of one; a device or a pipe (and
 * "-", standard output) is written directly. */
#ifndef MS_CLI_FILES_H
#define MS_CLI_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "export/read.h"
#include "export/writer.h"
#include "tracking/model.h"

/* Exit statuses of the command. */
enum { MS_EXIT_OK = 0, MS_EXIT_CHECK_FAILED = 1, MS_EXIT_USAGE = 2 };

_Noreturn void ms_out_of_memory(void);
void *ms_allocate(size_t bytes); /* zeroed */
void *ms_reallocate(void *memory, size_t bytes);
char *ms_format(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* One line on standard error, "memscope: ..."; control characters in it are made visible. */
void ms_complain(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Flushes standard output. False, with a complaint, when what was printed did not all get out. */
bool ms_finish_stdout(void);

/* Reads a snapshot, complaining about what is wrong with it. NULL when it cannot be read. */
ms_snapshot_file_t *ms_load(const char *path);

/* The same, and event logs (.bin) too, which ms_load() refuses. */
ms_snapshot_file_t *ms_load_any(const char *path);

/* `path` with its ending .memscope replaced by `suffix` (or `suffix` appended). To be freed. */
char *ms_with_suffix(const char *path, const char *suffix);

/* The part behind the last slash. */
const char *ms_base_name(const char *path);

bool ms_is_directory(const char *path);

/* Whether the two paths are one file, which writing the one would replace. */
bool ms_is_same_file(const char *a, const char *b);

/* Makes the directory and its parents. Returns 0 or errno (ENOTDIR when a file is in the way). */
int ms_make_directories(const char *path);

typedef enum { MS_WRITE_SNAPSHOT, MS_WRITE_JSON, MS_WRITE_HTML } ms_write_format_t;

/* Writes the model to `path`, "-" for standard output. `view`: what the page shows first, NULL for its own choice.
 * Returns 0 or errno, having complained. */
int ms_write_model(const ms_model_t *model, const char *path, ms_write_format_t format, const char *view);

/* Anything else: `write` puts `data` into a writer and returns 0 or errno. */
typedef struct ms_document {
    int (*write)(const void *data, ms_writer_t *writer);
    const void *data;
    bool page;        /* what it writes goes, compressed, into the page */
    const char *view; /* as above */
} ms_document_t;

int ms_write_document(const ms_document_t *document, const char *path);

#endif
