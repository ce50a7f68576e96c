/* See msgpack.h. */
#include "export/msgpack.h"

#include <msgpack/pack.h>

#include "export/crc32.h"
#include "export/utf8.h"
#include "memscope/memscope.h"

/* A record of many rows is cut when its rows pass this, so that a torn tail loses little. */
#define RECORD_ROWS_BYTES ((size_t)30 * 1024)

#define TEXT_OF(number) #number
#define DIGITS(number) TEXT_OF(number)
#define PRODUCER \
    "memscope " DIGITS(MEMSCOPE_VERSION_MAJOR) "." DIGITS(MEMSCOPE_VERSION_MINOR) "." DIGITS(MEMSCOPE_VERSION_PATCH)

/* The packer's two destinations. Both always say 0: errors stick in the writer. */
static int write_out(void *writer, const char *bytes, size_t n) {
    ms_writer_put(writer, bytes, n);
    return 0;
}

typedef struct {
    size_t bytes;
    uint32_t crc;
} ms_measure_t;

static int measure(void *context, const char *bytes, size_t n) {
    ms_measure_t *sum = context;
    sum->bytes += n;
    sum->crc = ms_crc32(sum->crc, bytes, n);
    return 0;
}

static int count(void *bytes, const char *ignored, size_t n) {
    (void)ignored;
    *(size_t *)bytes += n;
    return 0;
}

static void count_piece(void *bytes, const char *piece, size_t n) {
    (void)count(bytes, piece, n);
}

static void pack_piece(void *packer, const char *piece, size_t n) {
    msgpack_pack_str_body(packer, piece, n);
}

static void pack_text(msgpack_packer *packer, const char *text) {
    if (text == NULL) {
        msgpack_pack_nil(packer);
        return;
    }
    size_t bytes = 0;
    ms_utf8_each(text, count_piece, &bytes);
    msgpack_pack_str(packer, bytes);
    ms_utf8_each(text, pack_piece, packer);
}

static void pack_pcs(msgpack_packer *packer, const ms_pcs_t *stack) {
    msgpack_pack_array(packer, stack->count);
    for (uint64_t i = 0; i < stack->count; i++) msgpack_pack_uint64(packer, stack->pcs[i]);
}

static void pack_list_or_nil(msgpack_packer *packer, const ms_list_t *list) {
    if (list->values == NULL) {
        msgpack_pack_nil(packer);
        return;
    }
    msgpack_pack_array(packer, list->count);
    for (uint64_t i = 0; i < list->count; i++) msgpack_pack_uint64(packer, list->values[i]);
}

static void pack_bool(msgpack_packer *packer, bool value) {
    if (value)
        msgpack_pack_true(packer);
    else
        msgpack_pack_false(packer);
}

static void pack_u64_or_nil(msgpack_packer *packer, uint64_t value) {
    if (value == MS_NULL)
        msgpack_pack_nil(packer);
    else
        msgpack_pack_uint64(packer, value);
}

static void pack_f64_or_nil(msgpack_packer *packer, double value) {
    if (__builtin_isnan(value))
        msgpack_pack_nil(packer);
    else
        msgpack_pack_double(packer, value);
}

static void pack_value(msgpack_packer *packer, ms_type_t type, const void *field) {
    switch (type) {
    case MS_TYPE_U64:
        msgpack_pack_uint64(packer, *(const uint64_t *)field);
        break;
    case MS_TYPE_N64:
        pack_u64_or_nil(packer, *(const uint64_t *)field);
        break;
    case MS_TYPE_STR:
        pack_text(packer, *(const char *const *)field);
        break;
    case MS_TYPE_BOOL:
        pack_bool(packer, *(const bool *)field);
        break;
    case MS_TYPE_F64:
        pack_f64_or_nil(packer, *(const double *)field);
        break;
    case MS_TYPE_PCS:
        pack_pcs(packer, field);
        break;
    case MS_TYPE_LIST:
        pack_list_or_nil(packer, field);
        break;
    }
}

static void pack_row(msgpack_packer *packer, const ms_table_info_t *table, const char *row) {
    msgpack_pack_array(packer, table->column_count);
    for (size_t i = 0; i < table->column_count; i++)
        pack_value(packer, table->columns[i].type, row + table->columns[i].offset);
}

/* The bodies of the three kinds of record. */
typedef void (*ms_pack_body_t)(msgpack_packer *packer, const void *context);

typedef struct {
    const ms_table_info_t *table;
    const char *rows;
    size_t count;
} ms_rows_body_t;

static void pack_rows_body(msgpack_packer *packer, const void *context) {
    const ms_rows_body_t *body = context;
    const ms_table_info_t *table = body->table;
    msgpack_pack_map(packer, 3);
    pack_text(packer, "table");
    pack_text(packer, table->name);
    pack_text(packer, "columns");
    msgpack_pack_array(packer, table->column_count);
    for (size_t i = 0; i < table->column_count; i++) pack_text(packer, table->columns[i].name);
    pack_text(packer, "rows");
    msgpack_pack_array(packer, body->count);
    for (size_t i = 0; i < body->count; i++) pack_row(packer, table, body->rows + i * table->row_bytes);
}

static void pack_first_body(msgpack_packer *packer, const void *context) {
    (void)context;
    msgpack_pack_map(packer, 2);
    pack_text(packer, "format");
    msgpack_pack_uint64(packer, MS_FORMAT_VERSION);
    pack_text(packer, "producer");
    pack_text(packer, PRODUCER);
}

static void pack_end_body(msgpack_packer *packer, const void *context) {
    msgpack_pack_map(packer, 1);
    pack_text(packer, "records");
    msgpack_pack_uint64(packer, *(const uint64_t *)context);
}

static void put_record(ms_writer_t *writer, const char *kind, ms_pack_body_t pack_body, const void *context) {
    ms_measure_t sum = {0, 0};
    msgpack_packer packer;
    msgpack_packer_init(&packer, &sum, measure);
    pack_body(&packer, context);

    msgpack_packer_init(&packer, writer, write_out);
    msgpack_pack_array(&packer, 3);
    pack_text(&packer, kind);
    msgpack_pack_uint32(&packer, sum.crc);
    msgpack_pack_bin(&packer, sum.bytes);
    pack_body(&packer, context);
}

/* How many of `left` rows make a record: at least one, however large. */
static size_t rows_of_record(const ms_table_info_t *table, const char *rows, size_t left) {
    size_t bytes = 0, n = 0;
    msgpack_packer packer;
    msgpack_packer_init(&packer, &bytes, count);
    while (n < left) {
        pack_row(&packer, table, rows + n * table->row_bytes);
        if (n > 0 && bytes > RECORD_ROWS_BYTES) break;
        n++;
    }
    return n;
}

/* Returns the number of records written. */
static uint64_t put_table(ms_writer_t *writer, const ms_table_info_t *table, const char *rows, size_t left) {
    uint64_t records = 0;
    for (; left > 0 && writer->error == 0; records++) {
        ms_rows_body_t body = {table, rows, rows_of_record(table, rows, left)};
        put_record(writer, "rows", pack_rows_body, &body);
        rows += body.count * table->row_bytes;
        left -= body.count;
    }
    return records;
}

int ms_export_msgpack(const ms_model_t *model, ms_writer_t *writer) {
    uint64_t records = 1;
    put_record(writer, "memscope", pack_first_body, NULL);
    for (ms_table_id_t id = 0; id < MS_TABLE_COUNT; id++) {
        size_t rows_count;
        const char *rows = ms_model_rows(model, id, &rows_count);
        records += put_table(writer, &ms_table_info[id], rows, rows_count);
    }
    put_record(writer, "end", pack_end_body, &records);
    return writer->error;
}
