/* The snapshot model: plain tables of plain rows, the one thing that passes from tracking to export and on to the
 * command. Whoever builds a model owns its memory; writers only read it.
 *
 * Everything here is generated from model.def. A generic writer or reader loops over ms_table_info[]. */
#ifndef MS_TRACKING_MODEL_H
#define MS_TRACKING_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MS_NULL UINT64_MAX /* an N64 that could not be measured */

/* A stack. Inside the process it may stay where it is: copies of all would be the larger part of a snapshot. */
#define MS_PCS_MOST 256u
typedef struct ms_pcs {
    const uint64_t *pcs; /* innermost first; NULL: read() writes them */
    uint64_t count;      /* of a stack that is read, MS_PCS_MOST at most */
    size_t (*read)(uint32_t id, uint64_t *pcs, size_t max);
    uint32_t id;
} ms_pcs_t;

/* The addresses of the stack, in `room` or elsewhere. */
static inline const uint64_t *ms_pcs_of(const ms_pcs_t *stack, uint64_t room[MS_PCS_MOST]) {
    if (stack->pcs != NULL || stack->count == 0) return stack->pcs;
    for (size_t i = stack->read(stack->id, room, stack->count); i < stack->count; i++) room[i] = 0;
    return room;
}

/* A LIST; values NULL: it could not be measured. */
typedef struct ms_list {
    const uint64_t *values;
    uint64_t count;
} ms_list_t;

typedef enum { MS_TYPE_U64, MS_TYPE_N64, MS_TYPE_STR, MS_TYPE_BOOL, MS_TYPE_F64, MS_TYPE_PCS, MS_TYPE_LIST } ms_type_t;
typedef enum { MS_SHAPE_ONE, MS_SHAPE_MANY, MS_SHAPE_SERIES } ms_shape_t;

#define MS_CTYPE_U64 uint64_t
#define MS_CTYPE_N64 uint64_t
#define MS_CTYPE_STR const char *
#define MS_CTYPE_BOOL bool
#define MS_CTYPE_F64 double
#define MS_CTYPE_PCS ms_pcs_t
#define MS_CTYPE_LIST ms_list_t

/* One struct a table: ms_process_row_t, ms_threads_row_t, ... */
#define MS_TABLE(table, shape) typedef struct ms_##table##_row {
#define MS_COLUMN(table, type, name, unit, meaning) MS_CTYPE_##type name;
#define MS_END(table) } ms_##table##_row_t;
#include "tracking/model.def"
#undef MS_TABLE
#undef MS_COLUMN
#undef MS_END

/* One number a table: MS_TABLE_process, ... */
typedef enum {
#define MS_TABLE(table, shape) MS_TABLE_##table,
#define MS_COLUMN(table, type, name, unit, meaning)
#define MS_END(table)
#include "tracking/model.def"
#undef MS_TABLE
#undef MS_COLUMN
#undef MS_END
    MS_TABLE_COUNT
} ms_table_id_t;

/* The model. Rows of a table lie one after the other; a ONE table has count 1 (0 in a file cut short). */
typedef struct ms_model {
#define MS_TABLE(table, shape)  \
    struct {                    \
        ms_##table##_row_t *rows; \
        size_t count;           \
    } table;
#define MS_COLUMN(table, type, name, unit, meaning)
#define MS_END(table)
#include "tracking/model.def"
#undef MS_TABLE
#undef MS_COLUMN
#undef MS_END
} ms_model_t;

typedef struct ms_column_info {
    const char *name;
    ms_type_t type;
    uint32_t offset; /* bytes from the start of the row */
    const char *unit;
    const char *meaning;
} ms_column_info_t;

typedef struct ms_table_info {
    const char *name;
    ms_shape_t shape;
    size_t row_bytes;
    const ms_column_info_t *columns;
    size_t column_count;
} ms_table_info_t;

extern const ms_table_info_t ms_table_info[MS_TABLE_COUNT]; /* model.c */

/* The rows of table `id`: *count rows of ms_table_info[id].row_bytes each. */
void *ms_model_rows(const ms_model_t *model, ms_table_id_t id, size_t *count);
void ms_model_set_rows(ms_model_t *model, ms_table_id_t id, void *rows, size_t count);

#endif
