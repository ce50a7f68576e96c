/* Writes a .memscope file from text on standard input, so that scripts can make any snapshot they need:
 *
 *   TABLE <tab> COLUMN=VALUE <tab> ...      one row a line
 *
 * Numbers are decimal or 0x..., stacks are numbers separated by commas, \n \t \\ and \xNN stand for bytes. A column
 * that is not named is 0, false, NULL, or MS_NULL for N64. Usage: make_snapshot OUT */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "export/file.h"
#include "tracking/model.h"

static _Noreturn void fail(const char *what, const char *which) {
    fprintf(stderr, "make_snapshot: %s: %s\n", what, which);
    exit(1);
}

static void *must(void *memory) {
    if (memory == NULL) fail("out of memory", "");
    return memory;
}

/* In place. */
static void unescape(char *text) {
    char *to = text;
    for (const char *from = text; *from != '\0'; from++) {
        unsigned byte;
        if (*from != '\\') {
            *to++ = *from;
            continue;
        }
        from++;
        if (*from == 'x' && sscanf(from + 1, "%2x", &byte) == 1) {
            *to++ = (char)byte;
            from += 2;
        } else {
            *to++ = *from == 'n' ? '\n' : *from == 't' ? '\t' : *from;
        }
    }
    *to = '\0';
}

static ms_pcs_t parse_pcs(char *text) {
    uint64_t *pcs = must(malloc((strlen(text) + 1) * sizeof *pcs)), count = 0;
    for (char *number = strtok(text, ","); number != NULL; number = strtok(NULL, ","))
        pcs[count++] = strtoull(number, NULL, 0);
    return (ms_pcs_t){.pcs = pcs, .count = count};
}

static void set_value(char *row, const ms_column_info_t *column, char *text) {
    char *slot = row + column->offset;
    uint64_t number = strtoull(text, NULL, 0);
    double real = strtod(text, NULL);
    bool truth = number != 0;
    ms_pcs_t pcs;
    ms_list_t list;
    switch (column->type) {
    case MS_TYPE_U64:
    case MS_TYPE_N64:
        memcpy(slot, &number, sizeof number);
        break;
    case MS_TYPE_F64:
        memcpy(slot, &real, sizeof real);
        break;
    case MS_TYPE_BOOL:
        memcpy(slot, &truth, sizeof truth);
        break;
    case MS_TYPE_STR:
        unescape(text);
        text = must(strdup(text));
        memcpy(slot, &text, sizeof text);
        break;
    case MS_TYPE_PCS:
        pcs = parse_pcs(text);
        memcpy(slot, &pcs, sizeof pcs);
        break;
    case MS_TYPE_LIST:
        pcs = parse_pcs(text);
        list = (ms_list_t){pcs.pcs, pcs.count};
        memcpy(slot, &list, sizeof list);
    }
}

static void set_defaults(char *row, const ms_table_info_t *table) {
    const uint64_t null = MS_NULL;
    const double nan = __builtin_nan("");
    memset(row, 0, table->row_bytes);
    for (size_t i = 0; i < table->column_count; i++) {
        if (table->columns[i].type == MS_TYPE_N64) memcpy(row + table->columns[i].offset, &null, sizeof null);
        if (table->columns[i].type == MS_TYPE_F64) memcpy(row + table->columns[i].offset, &nan, sizeof nan);
    }
}

static char *new_row(ms_model_t *model, const char *name, ms_table_id_t *id) {
    for (int i = 0; i < MS_TABLE_COUNT; i++) {
        if (strcmp(ms_table_info[i].name, name) != 0) continue;
        size_t count, bytes = ms_table_info[i].row_bytes;
        *id = (ms_table_id_t)i;
        char *rows = ms_model_rows(model, *id, &count);
        rows = must(realloc(rows, (count + 1) * bytes));
        ms_model_set_rows(model, *id, rows, count + 1);
        set_defaults(rows + count * bytes, &ms_table_info[i]);
        return rows + count * bytes;
    }
    fail("no such table", name);
}

static void read_line(ms_model_t *model, char *line) {
    ms_table_id_t id;
    char *rest = line, *row = new_row(model, strsep(&rest, "\t"), &id);
    for (char *field; (field = strsep(&rest, "\t")) != NULL;) {
        char *value = strchr(field, '=');
        if (value == NULL) fail("no COLUMN=VALUE", field);
        *value++ = '\0';
        const ms_column_info_t *column = NULL;
        for (size_t i = 0; i < ms_table_info[id].column_count; i++)
            if (strcmp(ms_table_info[id].columns[i].name, field) == 0) column = &ms_table_info[id].columns[i];
        if (column == NULL) fail("no such column", field);
        set_value(row, column, value);
    }
}

static void free_row(const char *row, const ms_table_info_t *table) {
    for (size_t i = 0; i < table->column_count; i++) {
        void *text;
        const char *slot = row + table->columns[i].offset;
        if (table->columns[i].type == MS_TYPE_STR) {
            memcpy(&text, slot, sizeof text);
            free(text);
        } else if (table->columns[i].type == MS_TYPE_PCS || table->columns[i].type == MS_TYPE_LIST) {
            memcpy(&text, slot, sizeof text); /* both begin with their numbers */
            free(text);
        }
    }
}

static void free_model(ms_model_t *model) {
    for (int id = 0; id < MS_TABLE_COUNT; id++) {
        size_t count;
        char *rows = ms_model_rows(model, (ms_table_id_t)id, &count);
        for (size_t i = 0; i < count; i++) free_row(rows + i * ms_table_info[id].row_bytes, &ms_table_info[id]);
        free(rows);
    }
}

int main(int count, char **arguments) {
    ms_model_t model = {0};
    char *line = NULL;
    size_t capacity = 0;
    if (count != 2) fail("usage", "make_snapshot OUT <TEXT");
    for (ssize_t length; (length = getline(&line, &capacity, stdin)) > 0;) {
        line[strcspn(line, "\n")] = '\0';
        if (*line != '\0') read_line(&model, line);
    }
    free(line);
    int error = ms_export_file(&model, arguments[1], MS_FORMAT_MSGPACK);
    if (error != 0) fail(arguments[1], strerror(error));
    free_model(&model);
    return 0;
}
