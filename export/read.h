/* Reads .memscope files (docs/format.md) back into the model. For the command and tests, never in process: uses malloc.
 *
 * The file object owns the model's rows, strings and stacks until ms_snapshot_file_free(). A reader of format 1 takes
 * tables and columns by name: unknown ones are ignored; missing columns are 0, NULL, false, or MS_NULL for N64.
 * Hostile bytes are safe: no crash, and memory stays proportional to the size of the file. */
#ifndef MS_EXPORT_READ_H
#define MS_EXPORT_READ_H

#include <stdbool.h>
#include <stddef.h>

#include "export/unpack.h"
#include "tracking/model.h"

typedef struct ms_snapshot_file {
    ms_model_t model;  /* a ONE table has count 1, or 0 when the file lost it; data_quality always has its row */
    bool complete;     /* the end record was there and every record intact; equals model.data_quality.rows->complete
                          unless the producer itself wrote complete:false */
    char warning[240]; /* one line on what is missing or was ignored, "" when nothing was */
    struct ms_snapshot_memory *memory; /* private */
} ms_snapshot_file_t;

/* Reads the file at `path` ("-" is not special). NULL with one line in `error`, "PATH: what is wrong; what to do", for
 * what cannot be read: missing, a directory, empty, foreign, of a newer format, cut inside its first record, no memory.
 * A file cut later, or with damaged records, is returned with complete false and a warning. */
ms_snapshot_file_t *ms_read_file(const char *path, char *error, size_t error_bytes);

/* The same from n bytes in memory, which may go away afterwards; `name` stands in messages. */
ms_snapshot_file_t *ms_read_bytes(const char *name, const void *bytes, size_t n, char *error, size_t error_bytes);

void ms_snapshot_file_free(ms_snapshot_file_t *file); /* NULL is fine */

/* Zeroed memory, aligned for anything, that lives as long as the file: for rows and strings added to the model.
 * NULL when there is none. */
void *ms_snapshot_file_alloc(ms_snapshot_file_t *file, size_t bytes);

/* ---- record by record, for streams of other kinds than the model's */

typedef struct ms_record {
    ms_token_t kind;
    uint64_t crc;
    ms_unpack_t body;
} ms_record_t;

/* Takes the next record's envelope. False when the bytes end inside it or it is no record. */
bool ms_record_next(ms_unpack_t *bytes, ms_record_t *record);

/* The body has the checksum it should and is one MessagePack object; from here on its counts can be believed. */
bool ms_record_is_intact(const ms_record_t *record);

#endif
