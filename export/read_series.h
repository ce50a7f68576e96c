/* The records `series` and `delta` of a .memscope file, back into rows. Uses malloc, like the reader it belongs to. */
#ifndef MS_EXPORT_READ_SERIES_H
#define MS_EXPORT_READ_SERIES_H

#include <stdbool.h>

#include "export/unpack.h"
#include "tracking/model.h"

typedef struct ms_series_reader ms_series_reader_t;

ms_series_reader_t *ms_series_reader_new(void); /* NULL: no memory */
void ms_series_reader_free(ms_series_reader_t *reader);

/* A body of a record `series`. False when it is none, and then deltas have no meaning until the next. */
bool ms_series_read_start(ms_series_reader_t *reader, ms_unpack_t body);

/* A record was lost: differences that follow are to nobody knows what. */
void ms_series_read_gap(ms_series_reader_t *reader);

/* A row of defaults at the end of a table, NULL when there is no memory. */
typedef void *(*ms_add_row_t)(void *context, ms_table_id_t table);

typedef enum { MS_DELTA_READ, MS_DELTA_SKIPPED /* behind a gap */, MS_DELTA_DAMAGED } ms_delta_result_t;

/* A body of a record `delta`: adds its rows. Memory stays in proportion to the body. */
ms_delta_result_t ms_series_read_delta(ms_series_reader_t *reader, ms_unpack_t body, ms_add_row_t add_row,
                                       void *context);

#endif
