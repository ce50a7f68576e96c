/* Descriptions of the model's tables, generated from model.def. */
#include "tracking/model.h"

#define MS_TABLE(table, shape) static const ms_column_info_t table##_columns[] = {
#define MS_COLUMN(table, type, name, unit, meaning) \
    {#name, MS_TYPE_##type, (uint32_t)offsetof(ms_##table##_row_t, name), unit, meaning},
#define MS_END(table) };
#include "tracking/model.def"
#undef MS_TABLE
#undef MS_COLUMN
#undef MS_END

const ms_table_info_t ms_table_info[MS_TABLE_COUNT] = {
#define MS_TABLE(table, shape)                                                                 \
    [MS_TABLE_##table] = {#table, MS_SHAPE_##shape, sizeof(ms_##table##_row_t), table##_columns, \
                          sizeof(table##_columns) / sizeof(table##_columns[0])},
#define MS_COLUMN(table, type, name, unit, meaning)
#define MS_END(table)
#include "tracking/model.def"
#undef MS_TABLE
#undef MS_COLUMN
#undef MS_END
};

/* Every table in ms_model_t is the same pair; read and write it through one known layout. */
typedef struct ms_rows {
    void *rows;
    size_t count;
} ms_rows_t;
_Static_assert(sizeof(ms_model_t) == MS_TABLE_COUNT * sizeof(ms_rows_t), "a table of the model is a pointer and a count");

void *ms_model_rows(const ms_model_t *model, ms_table_id_t id, size_t *count) {
    ms_rows_t rows;
    __builtin_memcpy(&rows, (const char *)model + (size_t)id * sizeof rows, sizeof rows);
    *count = rows.count;
    return rows.rows;
}

void ms_model_set_rows(ms_model_t *model, ms_table_id_t id, void *rows, size_t count) {
    ms_rows_t pair = {rows, count};
    __builtin_memcpy((char *)model + (size_t)id * sizeof pair, &pair, sizeof pair);
}
