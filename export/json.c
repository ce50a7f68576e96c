/* See json.h. */
#include "export/json.h"

#include "export/msgpack.h"
#include "export/number.h"
#include "export/utf8.h"

static void put_u64(ms_writer_t *writer, uint64_t value) {
    char text[MS_U64_TEXT];
    ms_writer_put(writer, text, ms_number_u64(text, value));
}

/* JSON knows neither NaN nor infinity. */
static void put_f64(ms_writer_t *writer, double value) {
    char text[MS_F64_TEXT];
    if (__builtin_isfinite(value))
        ms_writer_put(writer, text, ms_number_f64(text, value));
    else
        ms_writer_text(writer, "null");
}

static void put_escape(ms_writer_t *writer, unsigned char byte) {
    static const char digits[] = "0123456789abcdef";
    char text[] = {'\\', 'u', '0', '0', digits[byte >> 4], digits[byte & 15]};
    switch (byte) {
    case '"':
        ms_writer_text(writer, "\\\"");
        break;
    case '\\':
        ms_writer_text(writer, "\\\\");
        break;
    case '\n':
        ms_writer_text(writer, "\\n");
        break;
    case '\r':
        ms_writer_text(writer, "\\r");
        break;
    case '\t':
        ms_writer_text(writer, "\\t");
        break;
    default:
        ms_writer_put(writer, text, sizeof text);
    }
}

static void put_piece(void *context, const char *piece, size_t n) {
    ms_writer_t *writer = context;
    size_t start = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned char byte = (unsigned char)piece[i];
        if (byte >= 0x20 && byte != '"' && byte != '\\') continue;
        ms_writer_put(writer, piece + start, i - start);
        put_escape(writer, byte);
        start = i + 1;
    }
    ms_writer_put(writer, piece + start, n - start);
}

void ms_json_string(ms_writer_t *writer, const char *text) {
    if (text == NULL) {
        ms_writer_text(writer, "null");
        return;
    }
    ms_writer_text(writer, "\"");
    ms_utf8_each(text, put_piece, writer);
    ms_writer_text(writer, "\"");
}

static void put_array(ms_writer_t *writer, const uint64_t *values, uint64_t count) {
    ms_writer_text(writer, "[");
    for (uint64_t i = 0; i < count; i++) {
        if (i > 0) ms_writer_text(writer, ", ");
        put_u64(writer, values[i]);
    }
    ms_writer_text(writer, "]");
}

static void put_list_or_null(ms_writer_t *writer, const ms_list_t *list) {
    if (list->values == NULL)
        ms_writer_text(writer, "null");
    else
        put_array(writer, list->values, list->count);
}

static void put_u64_or_null(ms_writer_t *writer, uint64_t value) {
    if (value == MS_NULL)
        ms_writer_text(writer, "null");
    else
        put_u64(writer, value);
}

static void put_stack(ms_writer_t *writer, const ms_pcs_t *stack) {
    uint64_t room[MS_PCS_MOST];
    put_array(writer, ms_pcs_of(stack, room), stack->count);
}

static void put_value(ms_writer_t *writer, ms_type_t type, const void *field) {
    switch (type) {
    case MS_TYPE_U64:
        put_u64(writer, *(const uint64_t *)field);
        break;
    case MS_TYPE_N64:
        put_u64_or_null(writer, *(const uint64_t *)field);
        break;
    case MS_TYPE_STR:
        ms_json_string(writer, *(const char *const *)field);
        break;
    case MS_TYPE_BOOL:
        ms_writer_text(writer, *(const bool *)field ? "true" : "false");
        break;
    case MS_TYPE_F64:
        put_f64(writer, *(const double *)field);
        break;
    case MS_TYPE_PCS:
        put_stack(writer, field);
        break;
    case MS_TYPE_LIST:
        put_list_or_null(writer, field);
        break;
    }
}

static void put_row(ms_writer_t *writer, const ms_table_info_t *table, const char *row) {
    ms_writer_text(writer, "{");
    for (size_t i = 0; i < table->column_count; i++) {
        const ms_column_info_t *column = &table->columns[i];
        if (i > 0) ms_writer_text(writer, ", ");
        ms_json_string(writer, column->name);
        ms_writer_text(writer, ": ");
        put_value(writer, column->type, row + column->offset);
    }
    ms_writer_text(writer, "}");
}

static void put_rows(ms_writer_t *writer, const ms_table_info_t *table, const char *rows, size_t count) {
    ms_writer_text(writer, "[");
    for (size_t i = 0; i < count && writer->error == 0; i++) {
        ms_writer_text(writer, i > 0 ? ",\n    " : "\n    ");
        put_row(writer, table, rows + i * table->row_bytes);
    }
    ms_writer_text(writer, count > 0 ? "\n  ]" : "]");
}

int ms_export_json(const ms_model_t *model, ms_writer_t *writer) {
    ms_writer_text(writer, "{\n  \"format\": ");
    put_u64(writer, MS_FORMAT_VERSION);
    for (ms_table_id_t id = 0; id < MS_TABLE_COUNT; id++) {
        const ms_table_info_t *table = &ms_table_info[id];
        size_t count;
        const char *rows = ms_model_rows(model, id, &count);
        ms_writer_text(writer, ",\n  ");
        ms_json_string(writer, table->name);
        ms_writer_text(writer, ": ");
        if (table->shape != MS_SHAPE_ONE)
            put_rows(writer, table, rows, count);
        else if (count > 0)
            put_row(writer, table, rows);
        else
            ms_writer_text(writer, "null");
    }
    ms_writer_text(writer, "\n}\n");
    return writer->error;
}
