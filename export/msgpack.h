/* The snapshot as MessagePack records, the .memscope format of docs/format.md. Generic over ms_table_info[].
 *
 * Safe in process: no heap, no stdio; the packer is msgpack-c's inline one over our own writer. A record's length and
 * checksum come before its body, so a body is packed into the writer's buffer and goes out when it is whole. */
#ifndef MS_EXPORT_MSGPACK_H
#define MS_EXPORT_MSGPACK_H

#include "export/writer.h"
#include "tracking/model.h"

#define MS_FORMAT_VERSION 1 /* "format" of the first record */

/* Writes the whole stream: memscope, rows..., end. Returns 0 or the writer's sticky errno. */
int ms_export_msgpack(const ms_model_t *model, ms_writer_t *writer);

/* ---- the stream in pieces, for a file that is written while the program runs */

#define MS_ALL_COLUMNS (~(uint64_t)0)

/* All but the last return the number of records written. */
uint64_t ms_export_first(ms_writer_t *writer);                 /* the record that begins a file */
uint64_t ms_export_end(ms_writer_t *writer, uint64_t records); /* the one that ends it, `records` before it */

/* The columns with these names, separated by spaces, as a set. */
uint64_t ms_export_columns(ms_table_id_t id, const char *names);

/* Rows of a table with some of its columns. `anew`: they stand for all that was written of the table before, even if there
 * are none. */
uint64_t ms_export_rows(ms_writer_t *writer, ms_table_id_t id, const void *rows, size_t count, uint64_t columns,
                         bool anew);

/* A record of any kind whose body is packed already. Returns 1. */
uint64_t ms_export_record(ms_writer_t *writer, const char *kind, const void *body, size_t bytes);

/* All tables but the series, and the end, behind `records` records. Returns the writer's error. */
int ms_export_rest(const ms_model_t *model, ms_writer_t *writer, uint64_t records, bool anew);

#endif
