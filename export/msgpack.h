/* The snapshot as MessagePack records, the .memscope format of docs/format.md. Generic over ms_table_info[].
 *
 * Safe in process: no heap, no stdio; the packer is msgpack-c's inline one over our own writer. A record's length and
 * checksum come before its body, so a body is packed twice: once to measure, once to write. The model must
 * not change meanwhile. */
#ifndef MS_EXPORT_MSGPACK_H
#define MS_EXPORT_MSGPACK_H

#include "export/writer.h"
#include "tracking/model.h"

#define MS_FORMAT_VERSION 1 /* "format" of the first record */

/* Writes the whole stream: memscope, rows..., end. Returns 0 or the writer's sticky errno. */
int ms_export_msgpack(const ms_model_t *model, ms_writer_t *writer);

#endif
