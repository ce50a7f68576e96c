/* The snapshot as one JSON object: "format", then a key a table. ONE tables are an object or null, MANY tables an
 * array, one row a line. Generic over ms_table_info[]; safe in process (no heap, no stdio). */
#ifndef MS_EXPORT_JSON_H
#define MS_EXPORT_JSON_H

#include "export/writer.h"
#include "tracking/model.h"

/* Returns 0 or the writer's sticky errno. 64-bit counts are written as integers, exactly. */
int ms_export_json(const ms_model_t *model, ms_writer_t *writer);

/* `text` as a JSON string in quotes, escaped, invalid UTF-8 replaced by U+FFFD; null for NULL. */
void ms_json_string(ms_writer_t *writer, const char *text);

#endif
