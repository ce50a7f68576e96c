/* See read_series.h. */
#include "export/read_series.h"

#include <stdlib.h>
#include <string.h>

#define SERIES_MAX 64   /* tables in a record `series`, known to us or not */
#define COLUMNS_MAX 256 /* of one of them */

/* A table as the file declares it. */
typedef struct {
    ms_table_id_t id;          /* MS_TABLE_COUNT: a table we do not know */
    bool keyed;                /* its second column is `id` */
    uint32_t count;            /* columns behind time_ns and id, as in the file */
    uint8_t slot[COLUMNS_MAX]; /* our column of each of them, UNKNOWN: none */
    uint64_t *values;          /* per key: one for each of our columns; id in its own */
    size_t keys, capacity;
} ms_declared_t;
#define UNKNOWN UINT8_MAX

struct ms_series_reader {
    ms_declared_t tables[SERIES_MAX];
    size_t count;
    bool broken; /* nothing to add differences to */
    uint64_t time_ns;
};

ms_series_reader_t *ms_series_reader_new(void) {
    ms_series_reader_t *reader = calloc(1, sizeof *reader);
    if (reader != NULL) reader->broken = true;
    return reader;
}

static void forget(ms_series_reader_t *reader) {
    for (size_t i = 0; i < reader->count; i++) free(reader->tables[i].values);
    memset(reader->tables, 0, sizeof reader->tables);
    reader->count = 0;
    reader->time_ns = 0;
}

void ms_series_reader_free(ms_series_reader_t *reader) {
    if (reader == NULL) return;
    forget(reader);
    free(reader);
}

void ms_series_read_gap(ms_series_reader_t *reader) {
    reader->broken = true;
}

/* ---- the start */

static uint8_t column_of(const ms_table_info_t *table, const ms_token_t *name) {
    for (size_t i = 0; i < table->column_count; i++)
        if (ms_token_is(name, table->columns[i].name) &&
            (table->columns[i].type == MS_TYPE_U64 || table->columns[i].type == MS_TYPE_N64))
            return (uint8_t)i;
    return UNKNOWN;
}

static bool read_columns(ms_unpack_t columns, ms_declared_t *declared) {
    ms_token_t array, name;
    if (!ms_unpack_kind(&columns, MS_TOKEN_ARRAY, &array) || array.number == 0 || array.number > COLUMNS_MAX)
        return false;
    for (uint64_t i = 0; i < array.number; i++) {
        if (!ms_unpack_kind(&columns, MS_TOKEN_STR, &name)) return false;
        if (i == 0 && !ms_token_is(&name, "time_ns")) return false;
        if (i == 1) declared->keyed = ms_token_is(&name, "id");
        if (i == 0 || (i == 1 && declared->keyed)) continue;
        declared->slot[declared->count++] =
            declared->id < MS_TABLE_COUNT ? column_of(&ms_table_info[declared->id], &name) : UNKNOWN;
    }
    return true;
}

static bool read_declared(ms_unpack_t map, ms_declared_t *declared) {
    ms_unpack_t value;
    ms_token_t name;
    if (!ms_unpack_find(map, "table", &value) || !ms_unpack_kind(&value, MS_TOKEN_STR, &name)) return false;
    declared->id = MS_TABLE_COUNT;
    for (ms_table_id_t id = 0; id < MS_TABLE_COUNT; id++)
        if (ms_table_info[id].shape == MS_SHAPE_SERIES && ms_token_is(&name, ms_table_info[id].name)) declared->id = id;
    return ms_unpack_find(map, "columns", &value) && read_columns(value, declared);
}

bool ms_series_read_start(ms_series_reader_t *reader, ms_unpack_t body) {
    ms_unpack_t tables;
    ms_token_t array;
    forget(reader);
    reader->broken = true;
    if (!ms_unpack_find(body, "tables", &tables) || !ms_unpack_kind(&tables, MS_TOKEN_ARRAY, &array)) return false;
    if (array.number > SERIES_MAX) return false;
    for (uint64_t i = 0; i < array.number; i++) {
        reader->count++;
        if (!read_declared(tables, &reader->tables[i]) || !ms_unpack_skip(&tables)) return false;
    }
    reader->broken = false;
    return true;
}

/* ---- a delta */

static size_t width(const ms_declared_t *table) {
    return ms_table_info[table->id].column_count;
}

static bool new_key(ms_declared_t *table) {
    if (table->keys == table->capacity) {
        size_t capacity = table->capacity == 0 ? 4 : 2 * table->capacity;
        uint64_t *values = realloc(table->values, capacity * width(table) * sizeof *values);
        if (values == NULL) return false;
        table->values = values;
        table->capacity = capacity;
    }
    memset(table->values + table->keys * width(table), 0, width(table) * sizeof *table->values);
    table->keys++;
    return true;
}

/* The values of the row's key, the id among them. `left`: elements of the row behind its table. NULL: the row is wrong.
 */
static uint64_t *read_key(ms_declared_t *table, ms_unpack_t *row, uint64_t *left) {
    ms_token_t number = {.number = 0}, id = {.number = 0};
    if (table->keyed) {
        if (*left == 0 || !ms_unpack_kind(row, MS_TOKEN_UINT, &number)) return NULL;
        --*left;
    }
    bool is_new = number.number == table->keys;
    if (number.number > table->keys) return NULL;
    if (is_new && table->keyed) {
        if (*left == 0 || !ms_unpack_kind(row, MS_TOKEN_UINT, &id)) return NULL;
        --*left;
    }
    if (is_new && !new_key(table)) return NULL;
    uint64_t *values = table->values + number.number * width(table);
    if (is_new && table->keyed) values[1] = id.number;
    return values;
}

static void fill_row(const ms_series_reader_t *reader, const ms_declared_t *table, const uint64_t *values,
                     uint64_t nulls, char *to) {
    const ms_table_info_t *info = &ms_table_info[table->id];
    for (size_t i = 0; i < info->column_count; i++) {
        uint64_t value = i == 0 ? reader->time_ns : nulls >> i & 1 ? MS_NULL : values[i];
        memcpy(to + info->columns[i].offset, &value, sizeof value);
    }
}

/* The differences of one row, added to the values of its key; a bit in *nulls for each that is nil. */
static bool read_values(ms_unpack_t *row, const ms_declared_t *table, uint64_t left, uint64_t *values,
                        uint64_t *nulls) {
    if (left > table->count) return false;
    for (uint64_t i = 0; i < left; i++) {
        ms_token_t token;
        uint8_t slot = table->slot[i];
        if (!ms_unpack(row, &token)) return false;
        if (token.kind == MS_TOKEN_NIL && slot != UNKNOWN) *nulls |= (uint64_t)1 << slot;
        if (token.kind != MS_TOKEN_UINT && token.kind != MS_TOKEN_INT && token.kind != MS_TOKEN_NIL) return false;
        if (token.kind != MS_TOKEN_NIL && slot != UNKNOWN) values[slot] += token.number;
    }
    return true;
}

static bool read_row(ms_series_reader_t *reader, ms_unpack_t row, ms_add_row_t add_row, void *context) {
    ms_token_t array, number;
    uint64_t nulls = 0;
    if (!ms_unpack_kind(&row, MS_TOKEN_ARRAY, &array) || array.number == 0) return false;
    if (!ms_unpack_kind(&row, MS_TOKEN_UINT, &number) || number.number >= reader->count) return false;
    ms_declared_t *table = &reader->tables[number.number];
    uint64_t left = array.number - 1;
    if (table->id == MS_TABLE_COUNT) return true; /* of a newer memscope */
    uint64_t *values = read_key(table, &row, &left);
    if (values == NULL || !read_values(&row, table, left, values, &nulls)) return false;
    char *to = add_row(context, table->id);
    if (to == NULL) return false;
    fill_row(reader, table, values, nulls, to);
    return true;
}

ms_delta_result_t ms_series_read_delta(ms_series_reader_t *reader, ms_unpack_t body, ms_add_row_t add_row,
                                       void *context) {
    ms_unpack_t time, rows;
    ms_token_t token;
    if (reader->broken) return MS_DELTA_SKIPPED;
    reader->broken = true; /* unless all of it is good */
    if (!ms_unpack_find(body, "time", &time) || !ms_unpack(&time, &token)) return MS_DELTA_DAMAGED;
    if (token.kind != MS_TOKEN_UINT && token.kind != MS_TOKEN_INT) return MS_DELTA_DAMAGED;
    reader->time_ns += token.number;
    if (!ms_unpack_find(body, "rows", &rows) || !ms_unpack_kind(&rows, MS_TOKEN_ARRAY, &token)) return MS_DELTA_DAMAGED;
    for (uint64_t i = 0; i < token.number; i++)
        if (!read_row(reader, rows, add_row, context) || !ms_unpack_skip(&rows)) return MS_DELTA_DAMAGED;
    reader->broken = false;
    return MS_DELTA_READ;
}
