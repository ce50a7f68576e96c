/* See series.h. */
#include "export/series.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "export/record.h"

static void *map(ms_series_t *series, size_t bytes) {
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return NULL;
    series->mapped_bytes += bytes;
    return memory;
}

static void unmap(ms_series_t *series, void *memory, size_t bytes) {
    if (memory == NULL) return;
    munmap(memory, bytes);
    series->mapped_bytes -= bytes;
}

/* ---- tables */

static bool has_id(const ms_table_info_t *table) {
    return table->column_count > 1 && strcmp(table->columns[1].name, "id") == 0;
}

/* Columns before the values: time_ns, and id where there is one. */
static size_t values_from(const ms_table_info_t *table) {
    return has_id(table) ? 2 : 1;
}

static uint64_t value_at(const ms_table_info_t *table, const void *row, size_t column) {
    uint64_t value;
    memcpy(&value, (const char *)row + table->columns[column].offset, sizeof value);
    return value;
}

/* ---- keys */

static size_t keys_bytes(uint32_t capacity) {
    return capacity * sizeof(ms_series_key_t);
}

static size_t slots_bytes(uint32_t capacity) {
    return 2 * (size_t)capacity * sizeof(uint32_t);
}

static uint32_t *slot_of(const ms_series_table_t *table, uint64_t id) {
    uint32_t mask = 2 * table->capacity - 1;
    uint32_t at = (uint32_t)(id * 0x9e3779b97f4a7c15u >> 32) & mask;
    while (table->slots[at] != 0 && table->keys[table->slots[at] - 1].id != id) at = (at + 1) & mask;
    return &table->slots[at];
}

static bool grow(ms_series_t *series, ms_series_table_t *table) {
    ms_series_table_t wider = *table;
    wider.capacity = table->capacity == 0 ? 32 : 2 * table->capacity;
    wider.keys = map(series, keys_bytes(wider.capacity));
    wider.slots = map(series, slots_bytes(wider.capacity));
    if (wider.keys == NULL || wider.slots == NULL) {
        unmap(series, wider.keys, keys_bytes(wider.capacity));
        unmap(series, wider.slots, slots_bytes(wider.capacity));
        return false;
    }
    if (table->count > 0) memcpy(wider.keys, table->keys, keys_bytes(table->count));
    for (uint32_t i = 0; i < table->count; i++) *slot_of(&wider, wider.keys[i].id) = i + 1;
    unmap(series, table->keys, keys_bytes(table->capacity));
    unmap(series, table->slots, slots_bytes(table->capacity));
    *table = wider;
    return true;
}

ms_series_key_t *ms_series_key(ms_series_t *series, ms_table_id_t id_of_table, uint64_t id, bool make) {
    ms_series_table_t *table = &series->tables[id_of_table];
    if (table->capacity > 0) {
        uint32_t slot = *slot_of(table, id);
        if (slot != 0) return &table->keys[slot - 1];
    }
    if (!make || (series->keys_max != 0 && table->count >= series->keys_max)) return NULL;
    if (table->count == table->capacity && !grow(series, table)) return NULL;
    ms_series_key_t *key = &table->keys[table->count++];
    *key = (ms_series_key_t){.id = id, .number = MS_SERIES_UNNUMBERED};
    *slot_of(table, id) = table->count;
    return key;
}

void ms_series_free(ms_series_t *series) {
    for (size_t id = 0; id < MS_TABLE_COUNT; id++) {
        unmap(series, series->tables[id].keys, keys_bytes(series->tables[id].capacity));
        unmap(series, series->tables[id].slots, slots_bytes(series->tables[id].capacity));
    }
    unmap(series, series->staged, series->staged_capacity * sizeof *series->staged);
    *series = (ms_series_t){.keys_max = series->keys_max};
}

/* ---- the start */

static size_t series_tables(ms_table_id_t ids[MS_TABLE_COUNT]) {
    size_t count = 0;
    for (ms_table_id_t id = 0; id < MS_TABLE_COUNT; id++)
        if (ms_table_info[id].shape == MS_SHAPE_SERIES) ids[count++] = id;
    return count;
}

static void pack_start_body(msgpack_packer *packer, const void *context) {
    ms_table_id_t ids[MS_TABLE_COUNT];
    size_t count = series_tables(ids);
    (void)context;
    msgpack_pack_map(packer, 1);
    ms_pack_text(packer, "tables");
    msgpack_pack_array(packer, count);
    for (size_t i = 0; i < count; i++) {
        const ms_table_info_t *table = &ms_table_info[ids[i]];
        msgpack_pack_map(packer, 2);
        ms_pack_text(packer, "table");
        ms_pack_text(packer, table->name);
        ms_pack_text(packer, "columns");
        msgpack_pack_array(packer, table->column_count);
        for (size_t j = 0; j < table->column_count; j++) ms_pack_text(packer, table->columns[j].name);
    }
}

void ms_series_start(ms_series_t *series, ms_writer_t *writer) {
    ms_record_put(writer, "series", pack_start_body, NULL);
    for (size_t id = 0; id < MS_TABLE_COUNT; id++) {
        ms_series_table_t *table = &series->tables[id];
        table->numbered = table->numbering = 0;
        for (uint32_t i = 0; i < table->count; i++) table->keys[i].number = MS_SERIES_UNNUMBERED;
    }
    series->time_ns = 0;
}

/* ---- a record */

static bool staged_grow(ms_series_t *series) {
    size_t capacity = series->staged_capacity == 0 ? 64 : 2 * series->staged_capacity, item = sizeof *series->staged;
    ms_series_staged_t *wider = map(series, capacity * item);
    if (wider == NULL) return false;
    if (series->staged_count > 0) memcpy(wider, series->staged, series->staged_count * item);
    unmap(series, series->staged, series->staged_capacity * item);
    series->staged = wider;
    series->staged_capacity = capacity;
    return true;
}

bool ms_series_stage(ms_series_t *series, ms_table_id_t id, const void *row) {
    const ms_table_info_t *table = &ms_table_info[id];
    size_t from = values_from(table);
    if (series->staged_count == series->staged_capacity && !staged_grow(series)) return false;
    ms_series_key_t *key = ms_series_key(series, id, from == 2 ? value_at(table, row, 1) : 0, true);
    if (key == NULL || key->staged) return false;
    if (series->staged_count == 0) series->staged_time_ns = value_at(table, row, 0);
    ms_series_staged_t *staged = &series->staged[series->staged_count++];
    *staged = (ms_series_staged_t){.table = id,
                                   .key = (uint32_t)(key - series->tables[id].keys),
                                   .number = key->number,
                                   .is_new = key->number == MS_SERIES_UNNUMBERED};
    if (staged->is_new) staged->number = series->tables[id].numbering++;
    for (size_t i = from; i < table->column_count && i - from < MS_SERIES_VALUES; i++)
        staged->values[i - from] = value_at(table, row, i);
    key->staged = true;
    return true;
}

/* How much a value moved; counts from zero behind a start. MS_NULL of a column that can be null does not move. */
static uint64_t difference(const ms_series_t *series, const ms_series_staged_t *staged, size_t value) {
    const ms_series_key_t *key = &series->tables[staged->table].keys[staged->key];
    return staged->values[value] - (staged->is_new ? 0 : key->values[value]);
}

static bool is_null(const ms_table_info_t *table, const ms_series_staged_t *staged, size_t value) {
    return table->columns[values_from(table) + value].type == MS_TYPE_N64 && staged->values[value] == MS_NULL;
}

static void pack_row(msgpack_packer *packer, const ms_series_t *series, const ms_series_staged_t *staged,
                     size_t number) {
    const ms_table_info_t *table = &ms_table_info[staged->table];
    bool keyed = has_id(table);
    size_t count = table->column_count - values_from(table);
    while (count > 0 && !is_null(table, staged, count - 1) && difference(series, staged, count - 1) == 0) count--;
    msgpack_pack_array(packer, 1 + (size_t)keyed + (keyed && staged->is_new) + count);
    msgpack_pack_uint64(packer, number);
    if (keyed) msgpack_pack_uint64(packer, staged->number);
    if (keyed && staged->is_new) msgpack_pack_uint64(packer, series->tables[staged->table].keys[staged->key].id);
    for (size_t i = 0; i < count; i++)
        if (is_null(table, staged, i))
            msgpack_pack_nil(packer);
        else
            msgpack_pack_int64(packer, (int64_t)difference(series, staged, i));
}

static void pack_delta_body(msgpack_packer *packer, const void *context) {
    const ms_series_t *series = context;
    size_t number[MS_TABLE_COUNT];
    ms_table_id_t ids[MS_TABLE_COUNT];
    for (size_t i = 0, count = series_tables(ids); i < count; i++) number[ids[i]] = i;
    msgpack_pack_map(packer, 2);
    ms_pack_text(packer, "time");
    msgpack_pack_int64(packer, (int64_t)(series->staged_time_ns - series->time_ns));
    ms_pack_text(packer, "rows");
    msgpack_pack_array(packer, series->staged_count);
    for (size_t i = 0; i < series->staged_count; i++)
        pack_row(packer, series, &series->staged[i], number[series->staged[i].table]);
}

void ms_series_put(const ms_series_t *series, ms_writer_t *writer) {
    ms_record_put(writer, "delta", pack_delta_body, series);
}

void ms_series_commit(ms_series_t *series) {
    for (size_t i = 0; i < series->staged_count; i++) {
        const ms_series_staged_t *staged = &series->staged[i];
        const ms_table_info_t *table = &ms_table_info[staged->table];
        ms_series_key_t *key = &series->tables[staged->table].keys[staged->key];
        for (size_t j = 0; j < MS_SERIES_VALUES; j++) {
            bool null = j < table->column_count - values_from(table) && is_null(table, staged, j);
            if (null && staged->is_new) key->values[j] = 0;
            if (!null) key->values[j] = staged->values[j];
        }
        key->number = staged->number;
        key->staged = false;
    }
    for (size_t id = 0; id < MS_TABLE_COUNT; id++) series->tables[id].numbered = series->tables[id].numbering;
    series->time_ns = series->staged_time_ns;
    series->staged_count = 0;
}

void ms_series_drop(ms_series_t *series) {
    for (size_t i = 0; i < series->staged_count; i++)
        series->tables[series->staged[i].table].keys[series->staged[i].key].staged = false;
    for (size_t id = 0; id < MS_TABLE_COUNT; id++) series->tables[id].numbering = series->tables[id].numbered;
    series->staged_count = 0;
}

/* ---- a whole model */

typedef struct {
    ms_table_id_t id;
    const char *rows;
    size_t left;
} ms_rows_left_t;

static uint64_t time_of(const ms_rows_left_t *rows) {
    return value_at(&ms_table_info[rows->id], rows->rows, 0);
}

static void next_row(ms_rows_left_t *rows) {
    rows->rows += ms_table_info[rows->id].row_bytes;
    rows->left--;
}

/* The record of one moment: of every table the rows at hand that have its time. False: no memory. */
static bool export_moment(ms_series_t *series, ms_rows_left_t *tables, size_t count, ms_writer_t *writer) {
    const ms_rows_left_t *first = NULL;
    for (size_t i = 0; i < count; i++)
        if (tables[i].left > 0 && (first == NULL || time_of(&tables[i]) < time_of(first))) first = &tables[i];
    uint64_t moment = time_of(first);
    for (size_t i = 0; i < count; i++)
        while (tables[i].left > 0 && time_of(&tables[i]) == moment &&
               ms_series_stage(series, tables[i].id, tables[i].rows))
            next_row(&tables[i]);
    if (series->staged_count == 0) return false;
    ms_series_put(series, writer);
    ms_series_commit(series);
    return true;
}

uint64_t ms_series_export(const ms_model_t *model, ms_writer_t *writer) {
    ms_table_id_t ids[MS_TABLE_COUNT];
    ms_rows_left_t tables[MS_TABLE_COUNT];
    size_t count = series_tables(ids), left = 0;
    uint64_t records = 1;
    for (size_t i = 0; i < count; i++) {
        tables[i].id = ids[i];
        tables[i].rows = ms_model_rows(model, ids[i], &tables[i].left);
        left += tables[i].left;
    }
    if (left == 0) return 0;
    ms_series_t series = {.keys_max = 0};
    ms_series_start(&series, writer);
    for (; left > 0 && writer->error == 0; records++) {
        if (!export_moment(&series, tables, count, writer)) {
            writer->error = ENOMEM;
            break;
        }
        left = 0;
        for (size_t i = 0; i < count; i++) left += tables[i].left;
    }
    ms_series_free(&series);
    return records;
}
