/* What docs/format.md must say, made from the code: `format_doc tables` prints its list of tables from
 * ms_table_info[], `format_doc example` writes its example file to standard output. Used by test_format.py. */
#include <stdio.h>
#include <string.h>

#include "export/msgpack.h"
#include "tracking/model.h"

static int print_tables(void) {
    static const char *const types[] = {
        [MS_TYPE_U64] = "uint",  [MS_TYPE_N64] = "uint or nil",  [MS_TYPE_STR] = "str or nil",
        [MS_TYPE_BOOL] = "bool", [MS_TYPE_F64] = "float or nil", [MS_TYPE_PCS] = "array of uint",
        [MS_TYPE_LIST] = "array of uint or nil"};
    static const char *const shapes[] = {[MS_SHAPE_ONE] = "one row",
                                         [MS_SHAPE_MANY] = "any number of rows",
                                         [MS_SHAPE_SERIES] = "a series"};
    for (ms_table_id_t id = 0; id < MS_TABLE_COUNT; id++) {
        const ms_table_info_t *table = &ms_table_info[id];
        printf("\n### `%s`: %s\n\n", table->name, shapes[table->shape]);
        printf("| column | type | unit | meaning |\n|---|---|---|---|\n");
        for (size_t i = 0; i < table->column_count; i++) {
            const ms_column_info_t *column = &table->columns[i];
            printf("| `%s` | %s | %s | %s |\n", column->name, types[column->type], column->unit, column->meaning);
        }
    }
    return 0;
}

static int write_example(void) {
    ms_knobs_row_t knob = {.name = "mode", .value = "exact", .source = "environment"};
    ms_cross_frees_row_t frees = {.owner_thread = 1, .freeing_thread = 2, .bytes = 4096, .blocks = 1};
    ms_model_t model = {.knobs = {&knob, 1}, .cross_frees = {&frees, 1}};
    ms_writer_t writer;
    if (ms_writer_fd(&writer, 1) == 0) ms_export_msgpack(&model, &writer);
    return ms_writer_close(&writer) != 0;
}

int main(int count, char **arguments) {
    if (count == 2 && strcmp(arguments[1], "tables") == 0) return print_tables();
    if (count == 2 && strcmp(arguments[1], "example") == 0) return write_example();
    fprintf(stderr, "usage: format_doc tables|example\n");
    return 2;
}
