/* See msgpack.h. */
#include "export/msgpack.h"

#include <string.h>

#include "export/crc32.h"
#include "export/record.h"
#include "export/series.h"
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

static int count(void *bytes, const char *ignored, size_t n) {
    (void)ignored;
    *(size_t *)bytes += n;
    return 0;
}

static void count_piece(void *bytes, const char *piece, size_t n) {
    (void)count(bytes, piece, n);
}

/* A text may change between the passes (programs write over their argv[0]): its str is as long as was said all the same,
 * and no character is cut. */
typedef struct {
    msgpack_packer *packer;
    size_t left;
} ms_text_t;

static void pack_piece(void *context, const char *piece, size_t n) {
    ms_text_t *text = context;
    if (n > text->left)
        for (n = text->left; n > 0 && (piece[n] & 0xc0) == 0x80;) n--;
    msgpack_pack_str_body(text->packer, piece, n);
    text->left -= n;
}

void ms_pack_text(msgpack_packer *packer, const char *text) {
    if (text == NULL) {
        msgpack_pack_nil(packer);
        return;
    }
    size_t bytes = 0;
    ms_utf8_each(text, count_piece, &bytes);
    msgpack_pack_str(packer, bytes);
    ms_text_t rest = {packer, bytes};
    ms_utf8_each(text, pack_piece, &rest);
    for (; rest.left > 0; rest.left--) msgpack_pack_str_body(packer, " ", 1);
}

static void pack_pcs(msgpack_packer *packer, const ms_pcs_t *stack) {
    uint64_t room[MS_PCS_MOST];
    const uint64_t *pcs = ms_pcs_of(stack, room);
    msgpack_pack_array(packer, stack->count);
    for (uint64_t i = 0; i < stack->count; i++) msgpack_pack_uint64(packer, pcs[i]);
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
        ms_pack_text(packer, *(const char *const *)field);
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

static void pack_row(msgpack_packer *packer, const ms_table_info_t *table, uint64_t columns, const char *row) {
    msgpack_pack_array(packer, (size_t)__builtin_popcountll(columns));
    for (size_t i = 0; i < table->column_count; i++)
        if (columns >> i & 1) pack_value(packer, table->columns[i].type, row + table->columns[i].offset);
}

/* The bodies of records. */
typedef struct {
    const ms_table_info_t *table;
    const char *rows;
    size_t count;
    uint64_t columns; /* bit i: column i is written */
    bool anew;        /* voids what was read of the table before */
} ms_rows_body_t;

static void pack_rows_body(msgpack_packer *packer, const void *context) {
    const ms_rows_body_t *body = context;
    const ms_table_info_t *table = body->table;
    msgpack_pack_map(packer, body->anew ? 4 : 3);
    ms_pack_text(packer, "table");
    ms_pack_text(packer, table->name);
    if (body->anew) {
        ms_pack_text(packer, "anew");
        msgpack_pack_true(packer);
    }
    ms_pack_text(packer, "columns");
    msgpack_pack_array(packer, (size_t)__builtin_popcountll(body->columns));
    for (size_t i = 0; i < table->column_count; i++)
        if (body->columns >> i & 1) ms_pack_text(packer, table->columns[i].name);
    ms_pack_text(packer, "rows");
    msgpack_pack_array(packer, body->count);
    for (size_t i = 0; i < body->count; i++) pack_row(packer, table, body->columns, body->rows + i * table->row_bytes);
}

static void pack_first_body(msgpack_packer *packer, const void *context) {
    (void)context;
    msgpack_pack_map(packer, 2);
    ms_pack_text(packer, "format");
    msgpack_pack_uint64(packer, MS_FORMAT_VERSION);
    ms_pack_text(packer, "producer");
    ms_pack_text(packer, PRODUCER);
}

static void pack_end_body(msgpack_packer *packer, const void *context) {
    msgpack_pack_map(packer, 1);
    ms_pack_text(packer, "records");
    msgpack_pack_uint64(packer, *(const uint64_t *)context);
}

static void put_envelope(msgpack_packer *packer, const char *kind, const void *body, size_t bytes) {
    msgpack_pack_array(packer, 3);
    ms_pack_text(packer, kind);
    msgpack_pack_uint32(packer, ms_crc32(0, body, bytes));
    msgpack_pack_bin(packer, bytes);
}

/* A head is what stands before a body: a few bytes and the kind. */
typedef struct {
    size_t used;
    char bytes[64];
} ms_head_t;

static int write_head(void *context, const char *bytes, size_t n) {
    ms_head_t *head = context;
    if (n > sizeof head->bytes - head->used) return -1;
    memcpy(head->bytes + head->used, bytes, n);
    head->used += n;
    return 0;
}

void ms_record_put(ms_writer_t *writer, const char *kind, ms_pack_body_t pack_body, const void *context) {
    ms_head_t head = {.used = 0};
    size_t bytes;
    msgpack_packer packer;
    ms_writer_hold(writer);
    msgpack_packer_init(&packer, writer, write_out);
    pack_body(&packer, context);
    const unsigned char *body = ms_writer_held(writer, &bytes);
    msgpack_packer_init(&packer, &head, write_head);
    put_envelope(&packer, kind, body, bytes);
    ms_writer_release(writer, head.bytes, head.used);
}

/* How many of `left` rows make a record: at least one, however large. */
static size_t rows_of_record(const ms_rows_body_t *body, size_t left) {
    size_t bytes = 0, n = 0;
    msgpack_packer packer;
    msgpack_packer_init(&packer, &bytes, count);
    while (n < left) {
        pack_row(&packer, body->table, body->columns, body->rows + n * body->table->row_bytes);
        if (n > 0 && bytes > RECORD_ROWS_BYTES) break;
        n++;
    }
    return n;
}

uint64_t ms_export_columns(ms_table_id_t id, const char *names) {
    const ms_table_info_t *table = &ms_table_info[id];
    uint64_t columns = 0;
    for (const char *name = names; *name != '\0'; name += strspn(name, " ")) {
        size_t length = strcspn(name, " ");
        for (size_t i = 0; i < table->column_count; i++)
            if (strlen(table->columns[i].name) == length && strncmp(table->columns[i].name, name, length) == 0)
                columns |= (uint64_t)1 << i;
        name += length;
    }
    return columns;
}

uint64_t ms_export_rows(ms_writer_t *writer, ms_table_id_t id, const void *rows, size_t count, uint64_t columns,
                         bool anew) {
    uint64_t records = 0;
    ms_rows_body_t body = {.table = &ms_table_info[id], .rows = rows, .columns = columns, .anew = anew};
    body.columns &= ~(uint64_t)0 >> (64 - body.table->column_count);
    for (size_t left = count; (left > 0 || body.anew) && writer->error == 0; records++) {
        body.count = rows_of_record(&body, left);
        ms_record_put(writer, "rows", pack_rows_body, &body);
        body.rows += body.count * body.table->row_bytes;
        body.anew = false;
        left -= body.count;
    }
    return records;
}

uint64_t ms_export_record(ms_writer_t *writer, const char *kind, const void *body, size_t bytes) {
    msgpack_packer packer;
    msgpack_packer_init(&packer, writer, write_out);
    put_envelope(&packer, kind, body, bytes);
    ms_writer_put(writer, body, bytes);
    return 1;
}

uint64_t ms_export_first(ms_writer_t *writer) {
    ms_record_put(writer, "memscope", pack_first_body, NULL);
    return 1;
}

uint64_t ms_export_end(ms_writer_t *writer, uint64_t records) {
    ms_record_put(writer, "end", pack_end_body, &records);
    return 1;
}

int ms_export_rest(const ms_model_t *model, ms_writer_t *writer, uint64_t records, bool anew) {
    for (ms_table_id_t id = 0; id < MS_TABLE_COUNT; id++) {
        size_t rows_count;
        const char *rows = ms_model_rows(model, id, &rows_count);
        if (ms_table_info[id].shape != MS_SHAPE_SERIES)
            records += ms_export_rows(writer, id, rows, rows_count, MS_ALL_COLUMNS, anew);
    }
    ms_export_end(writer, records);
    return writer->error;
}

int ms_export_msgpack(const ms_model_t *model, ms_writer_t *writer) {
    uint64_t records = ms_export_first(writer);
    records += ms_series_export(model, writer);
    return ms_export_rest(model, writer, records, false);
}
