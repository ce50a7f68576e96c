/* See read.h. */
#include "export/read.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "export/crc32.h"
#include "export/msgpack.h"
#include "export/read_series.h"
#include "export/unpack.h"

#define CHUNK_BYTES ((size_t)64 * 1024)
#define COLUMNS_MAX 256 /* of a table in a file, known to us or not */

/* Rows in memory per byte of their record: our own need 9 (every column takes a byte), those of a memscope that knew
 * a quarter of the columns 36. What asks for more was made to fill our memory. */
#define ROW_BYTES_PER_FILE_BYTE 64

static const char magic[] = "\x93\xa8memscope"; /* every file starts with these 10 bytes */
#define MAGIC_BYTES (sizeof magic - 1)

/* ---- memory: strings, stacks and added rows in chunks; the rows read from the file in an array a table */

typedef struct ms_chunk {
    struct ms_chunk *next;
    size_t used, size; /* bytes of `bytes` */
    max_align_t bytes[];
} ms_chunk_t;

struct ms_snapshot_memory {
    ms_chunk_t *chunks; /* allocations are cut from the first */
    void *rows[MS_TABLE_COUNT];
    size_t capacity[MS_TABLE_COUNT]; /* rows */
};

static ms_chunk_t *chunk_new(size_t bytes) {
    ms_chunk_t *chunk = calloc(1, sizeof *chunk + bytes);
    if (chunk != NULL) chunk->size = bytes;
    return chunk;
}

/* Zeroed bytes; align is a power of two, at most that of max_align_t. */
static void *take(struct ms_snapshot_memory *memory, size_t bytes, size_t align) {
    if (bytes > SIZE_MAX / 2) return NULL;
    ms_chunk_t *chunk = memory->chunks;
    size_t start = chunk != NULL ? (chunk->used + align - 1) & ~(align - 1) : 0;
    if (chunk == NULL || start > chunk->size || bytes > chunk->size - start) {
        bool large = bytes > CHUNK_BYTES / 4;
        chunk = chunk_new(large ? bytes : CHUNK_BYTES);
        if (chunk == NULL) return NULL;
        /* A large piece goes behind the first chunk, whose rest stays in use. */
        ms_chunk_t **link = large && memory->chunks != NULL ? &memory->chunks->next : &memory->chunks;
        chunk->next = *link;
        *link = chunk;
        start = 0;
    }
    chunk->used = start + bytes;
    return (char *)chunk->bytes + start;
}

void *ms_snapshot_file_alloc(ms_snapshot_file_t *file, size_t bytes) {
    return take(file->memory, bytes, _Alignof(max_align_t));
}

void ms_snapshot_file_free(ms_snapshot_file_t *file) {
    if (file == NULL) return;
    for (size_t id = 0; id < MS_TABLE_COUNT; id++) free(file->memory->rows[id]);
    while (file->memory->chunks != NULL) {
        ms_chunk_t *next = file->memory->chunks->next;
        free(file->memory->chunks);
        file->memory->chunks = next;
    }
    free(file->memory);
    free(file);
}

static ms_snapshot_file_t *file_new(void) {
    ms_snapshot_file_t *file = calloc(1, sizeof *file);
    struct ms_snapshot_memory *memory = calloc(1, sizeof *memory);
    if (file == NULL || memory == NULL) {
        free(memory);
        free(file);
        return NULL;
    }
    file->memory = memory;
    return file;
}

/* ---- one reading */

typedef struct {
    ms_snapshot_file_t *file;
    uint64_t records;         /* read so far, damaged and unknown ones included */
    uint64_t damaged_records; /* left out: wrong checksum, or not what their kind holds */
    uint64_t unknown_records; /* left out: of a kind that format 1 does not know */
    uint64_t skipped_deltas;  /* behind a lost record: nothing to add them to */
    ms_series_reader_t *series;
    uint64_t ignored_values;  /* not of their column's type; a row of the wrong length counts once */
    bool ended;               /* the end record was read and agrees with `records` */
    bool out_of_memory;
} ms_reading_t;

bool ms_record_next(ms_unpack_t *bytes, ms_record_t *record) {
    ms_unpack_t at = *bytes;
    ms_token_t token;
    if (!ms_unpack_kind(&at, MS_TOKEN_ARRAY, &token) || token.number != 3) return false;
    if (!ms_unpack_kind(&at, MS_TOKEN_STR, &record->kind)) return false;
    if (!ms_unpack_kind(&at, MS_TOKEN_UINT, &token)) return false;
    record->crc = token.number;
    if (!ms_unpack_kind(&at, MS_TOKEN_BIN, &token)) return false;
    record->body = (ms_unpack_t){token.bytes, token.bytes + token.number};
    *bytes = at;
    return true;
}

bool ms_record_is_intact(const ms_record_t *record) {
    ms_unpack_t body = record->body;
    if (ms_crc32(0, body.at, (size_t)(body.end - body.at)) != record->crc) return false;
    return ms_unpack_skip(&body) && body.at == body.end;
}

static bool find_token(ms_unpack_t body, const char *key, ms_token_kind_t kind, ms_token_t *token) {
    ms_unpack_t value;
    return ms_unpack_find(body, key, &value) && ms_unpack_kind(&value, kind, token);
}

/* ---- rows */

static void *take_or_note(ms_reading_t *reading, size_t bytes, size_t align) {
    void *memory = take(reading->file->memory, bytes, align);
    if (memory == NULL) reading->out_of_memory = true;
    return memory;
}

static void default_row(const ms_table_info_t *table, char *row) {
    memset(row, 0, table->row_bytes);
    for (size_t i = 0; i < table->column_count; i++) {
        void *field = row + table->columns[i].offset;
        if (table->columns[i].type == MS_TYPE_N64) *(uint64_t *)field = MS_NULL;
        if (table->columns[i].type == MS_TYPE_F64) *(double *)field = __builtin_nan("");
    }
}

/* A row of defaults at the end of table `id`; the row itself again when the table holds ONE. NULL: no memory. */
static char *add_row(ms_reading_t *reading, ms_table_id_t id) {
    struct ms_snapshot_memory *memory = reading->file->memory;
    const ms_table_info_t *table = &ms_table_info[id];
    size_t count;
    char *rows = ms_model_rows(&reading->file->model, id, &count);
    if (table->shape == MS_SHAPE_ONE) count = 0;
    if (count == memory->capacity[id]) {
        size_t capacity = count == 0 ? 1 : 2 * count;
        rows = realloc(memory->rows[id], capacity * table->row_bytes);
        if (rows == NULL) {
            reading->out_of_memory = true;
            return NULL;
        }
        memory->rows[id] = rows;
        memory->capacity[id] = capacity;
    }
    ms_model_set_rows(&reading->file->model, id, rows, count + 1);
    char *row = rows + count * table->row_bytes;
    default_row(table, row);
    return row;
}

static bool read_text(ms_reading_t *reading, const ms_token_t *token, const char **field) {
    char *text = take_or_note(reading, token->number + 1, 1);
    if (text == NULL) return false;
    memcpy(text, token->bytes, token->number);
    *field = text;
    return true;
}

static const uint64_t *read_array(ms_reading_t *reading, ms_unpack_t *bytes, uint64_t count) {
    static const uint64_t empty[1];
    if (count == 0) return empty;
    uint64_t *values = take_or_note(reading, count * sizeof *values, sizeof *values);
    for (uint64_t i = 0; values != NULL && i < count; i++) {
        ms_token_t token;
        if (!ms_unpack_kind(bytes, MS_TOKEN_UINT, &token)) return NULL;
        values[i] = token.number;
    }
    return values;
}

static bool read_pcs(ms_reading_t *reading, ms_unpack_t *bytes, uint64_t count, ms_pcs_t *field) {
    const uint64_t *pcs = read_array(reading, bytes, count);
    if (pcs != NULL) *field = (ms_pcs_t){.pcs = pcs, .count = count};
    return pcs != NULL;
}

static bool read_list(ms_reading_t *reading, ms_unpack_t *bytes, uint64_t count, ms_list_t *field) {
    const uint64_t *values = read_array(reading, bytes, count);
    if (values != NULL) *field = (ms_list_t){values, count};
    return values != NULL;
}

/* False when what stands there is not of the column's type; the field then keeps its default. */
static bool read_value(ms_reading_t *reading, ms_unpack_t bytes, ms_type_t type, void *field) {
    ms_token_t token;
    if (!ms_unpack(&bytes, &token)) return false;
    if (token.kind == MS_TOKEN_NIL && (type == MS_TYPE_N64 || type == MS_TYPE_STR || type == MS_TYPE_LIST)) return true;
    switch (type) {
    case MS_TYPE_U64:
    case MS_TYPE_N64:
        if (token.kind != MS_TOKEN_UINT) return false;
        *(uint64_t *)field = token.number;
        return true;
    case MS_TYPE_STR:
        return token.kind == MS_TOKEN_STR && read_text(reading, &token, field);
    case MS_TYPE_BOOL:
        if (token.kind != MS_TOKEN_BOOL) return false;
        *(bool *)field = token.number != 0;
        return true;
    case MS_TYPE_F64:
        if (token.kind != MS_TOKEN_F64 && token.kind != MS_TOKEN_NIL) return false;
        *(double *)field = token.kind == MS_TOKEN_NIL ? __builtin_nan("") : token.f64;
        return true;
    case MS_TYPE_PCS:
        return token.kind == MS_TOKEN_ARRAY && read_pcs(reading, &bytes, token.number, field);
    case MS_TYPE_LIST:
        return token.kind == MS_TOKEN_ARRAY && read_list(reading, &bytes, token.number, field);
    }
    return false;
}

/* The columns of one rows record, as the file orders them; NULL stands for one we do not know. */
typedef struct {
    const ms_column_info_t *column[COLUMNS_MAX];
    uint64_t count;
} ms_columns_t;

static const ms_column_info_t *find_column(const ms_table_info_t *table, const ms_token_t *name) {
    for (size_t i = 0; i < table->column_count; i++)
        if (ms_token_is(name, table->columns[i].name)) return &table->columns[i];
    return NULL;
}

static bool read_columns(ms_unpack_t body, const ms_table_info_t *table, ms_columns_t *columns) {
    ms_unpack_t value;
    ms_token_t array, name;
    if (!ms_unpack_find(body, "columns", &value) || !ms_unpack_kind(&value, MS_TOKEN_ARRAY, &array)) return false;
    if (array.number == 0 || array.number > COLUMNS_MAX) return false;
    columns->count = array.number;
    for (uint64_t i = 0; i < array.number; i++) {
        if (!ms_unpack_kind(&value, MS_TOKEN_STR, &name)) return false;
        columns->column[i] = find_column(table, &name);
    }
    return true;
}

/* Takes one row off `bytes`. False ends the reading of this table. */
static bool read_row(ms_reading_t *reading, ms_unpack_t *bytes, ms_table_id_t id, const ms_columns_t *columns) {
    ms_unpack_t values = *bytes;
    ms_token_t array;
    if (!ms_unpack_skip(bytes)) return false;
    if (!ms_unpack_kind(&values, MS_TOKEN_ARRAY, &array) || array.number != columns->count) {
        reading->ignored_values++;
        return true;
    }
    char *row = add_row(reading, id);
    if (row == NULL) return false;
    for (uint64_t i = 0; i < columns->count; i++) {
        const ms_column_info_t *column = columns->column[i];
        if (column != NULL && !read_value(reading, values, column->type, row + column->offset))
            reading->ignored_values++;
        if (!ms_unpack_skip(&values)) return false;
    }
    return !reading->out_of_memory;
}

static bool read_rows(ms_reading_t *reading, ms_unpack_t body) {
    ms_token_t name, array;
    ms_unpack_t rows;
    ms_columns_t columns;
    ms_table_id_t id = 0;
    if (!find_token(body, "table", MS_TOKEN_STR, &name)) return false;
    while (id < MS_TABLE_COUNT && !ms_token_is(&name, ms_table_info[id].name)) id++;
    if (id == MS_TABLE_COUNT) return true; /* a table of a newer memscope */
    if (!read_columns(body, &ms_table_info[id], &columns)) return false;
    if (find_token(body, "anew", MS_TOKEN_BOOL, &name) && name.number)
        ms_model_set_rows(&reading->file->model, id, reading->file->memory->rows[id], 0);
    if (!ms_unpack_find(body, "rows", &rows) || !ms_unpack_kind(&rows, MS_TOKEN_ARRAY, &array)) return false;
    if (array.number * ms_table_info[id].row_bytes / ROW_BYTES_PER_FILE_BYTE > (uint64_t)(body.end - body.at))
        return false;
    for (uint64_t i = 0; i < array.number; i++)
        if (!read_row(reading, &rows, id, &columns)) return false;
    return true;
}

/* ---- the stream */

static void *add_series_row(void *reading, ms_table_id_t id) {
    return add_row(reading, id);
}

static void read_delta(ms_reading_t *reading, ms_unpack_t body) {
    ms_delta_result_t result = ms_series_read_delta(reading->series, body, add_series_row, reading);
    reading->damaged_records += result == MS_DELTA_DAMAGED;
    reading->skipped_deltas += result == MS_DELTA_SKIPPED;
}

static void read_record(ms_reading_t *reading, const ms_record_t *record) {
    ms_token_t count;
    if (!ms_record_is_intact(record)) {
        reading->damaged_records++;
        ms_series_read_gap(reading->series);
    } else if (ms_token_is(&record->kind, "rows")) {
        reading->damaged_records += !read_rows(reading, record->body);
    } else if (ms_token_is(&record->kind, "delta")) {
        read_delta(reading, record->body);
    } else if (ms_token_is(&record->kind, "series")) {
        reading->damaged_records += !ms_series_read_start(reading->series, record->body);
    } else if (ms_token_is(&record->kind, "end")) {
        bool counted = find_token(record->body, "records", MS_TOKEN_UINT, &count) && count.number == reading->records;
        reading->ended = counted;
        reading->damaged_records += !counted;
    } else if (!ms_token_is(&record->kind, "events")) { /* of an event log, read by export/event_codec.h */
        reading->unknown_records++;
    }
    reading->records++;
}

__attribute__((format(printf, 3, 4))) static void say(char *line, size_t bytes, const char *format, ...) {
    size_t used = strnlen(line, bytes);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line + used, bytes - used, format, arguments);
    va_end(arguments);
}

/* The file's warning: every thing that is not as it should be, one line. */
static void warn(const ms_reading_t *reading, size_t offset, size_t left) {
    char *line = reading->file->warning;
    size_t bytes = sizeof reading->file->warning;
    if (!reading->ended && left > 0)
        say(line, bytes, "cut off or damaged at byte %zu, %zu bytes are lost; ", offset, left);
    else if (!reading->ended && reading->damaged_records == 0)
        say(line, bytes, "the end is missing after byte %zu; ", offset);
    else if (left > 0)
        say(line, bytes, "%zu bytes after the end are ignored; ", left);
    if (reading->damaged_records > 0)
        say(line, bytes, "damaged records left out: %ju; ", (uintmax_t)reading->damaged_records);
    if (reading->skipped_deltas > 0)
        say(line, bytes, "records of differences to something lost left out: %ju; ", (uintmax_t)reading->skipped_deltas);
    if (reading->unknown_records > 0)
        say(line, bytes, "records of unknown kinds left out: %ju; ", (uintmax_t)reading->unknown_records);
    if (reading->ignored_values > 0)
        say(line, bytes, "values of the wrong type left out: %ju; ", (uintmax_t)reading->ignored_values);
    size_t used = strlen(line);
    if (used > 2 && used < bytes - 1) line[used - 2] = '\0';
}

/* The first record says who wrote the file and how. False with one line in error when we cannot read on. */
static bool read_first(ms_unpack_t *bytes, const char *name, char *error, size_t error_bytes) {
    ms_record_t record;
    ms_token_t format;
    if (!ms_record_next(bytes, &record)) {
        say(error, error_bytes, "%s: cut off inside its first record, nothing in it can be read; record it again",
            name);
    } else if (!ms_record_is_intact(&record) || !find_token(record.body, "format", MS_TOKEN_UINT, &format)) {
        say(error, error_bytes, "%s: its first record is damaged, nothing in it can be trusted; record it again", name);
    } else if (format.number != MS_FORMAT_VERSION) {
        say(error, error_bytes,
            "%s: written in format %ju, this memscope reads format %d; use the memscope that wrote it", name,
            (uintmax_t)format.number, MS_FORMAT_VERSION);
    } else {
        return true;
    }
    return false;
}

/* data_quality always has its row, and it knows of what is missing. */
static void settle(ms_reading_t *reading) {
    ms_snapshot_file_t *file = reading->file;
    file->complete = reading->ended && reading->damaged_records == 0;
    if (file->model.data_quality.count == 0) {
        if (add_row(reading, MS_TABLE_data_quality) == NULL) return;
        file->model.data_quality.rows->complete = true;
    }
    if (!file->complete) file->model.data_quality.rows->complete = false;
}

static bool is_snapshot(const char *name, const void *bytes, size_t n, char *error, size_t error_bytes) {
    if (n >= MAGIC_BYTES && memcmp(bytes, magic, MAGIC_BYTES) == 0) return true;
    if (n == 0)
        say(error, error_bytes, "%s: empty, its writer ended before it wrote anything; record it again", name);
    else
        say(error, error_bytes, "%s: not a memscope snapshot; give a .memscope file, as `memscope run` writes it",
            name);
    return false;
}

ms_snapshot_file_t *ms_read_bytes(const char *name, const void *bytes, size_t n, char *error, size_t error_bytes) {
    if (error_bytes > 0) error[0] = '\0';
    if (!is_snapshot(name, bytes, n, error, error_bytes)) return NULL;
    const unsigned char *start = bytes;
    ms_unpack_t at = {start, start + n};
    if (!read_first(&at, name, error, error_bytes)) return NULL;

    ms_reading_t reading = {.file = file_new(), .records = 1, .series = ms_series_reader_new()};
    reading.out_of_memory = reading.file == NULL || reading.series == NULL;
    ms_record_t record;
    while (!reading.out_of_memory && !reading.ended && ms_record_next(&at, &record)) read_record(&reading, &record);
    ms_series_reader_free(reading.series);
    if (!reading.out_of_memory) settle(&reading);
    if (reading.out_of_memory) {
        say(error, error_bytes, "%s: not enough memory to read it", name);
        ms_snapshot_file_free(reading.file);
        return NULL;
    }
    warn(&reading, (size_t)(at.at - start), (size_t)(at.end - at.at));
    return reading.file;
}

/* ---- the file */

typedef struct {
    unsigned char *bytes;
    size_t used, capacity;
} ms_contents_t;

/* Appends what is there to read, some of it. Returns the bytes read, 0 at the end, -1 with errno. */
static ssize_t read_some(int fd, ms_contents_t *contents) {
    if (contents->used == contents->capacity) {
        size_t capacity = contents->capacity == 0 ? CHUNK_BYTES : 2 * contents->capacity;
        unsigned char *bytes = realloc(contents->bytes, capacity);
        if (bytes == NULL) return -1;
        contents->bytes = bytes;
        contents->capacity = capacity;
    }
    ssize_t n;
    do {
        n = read(fd, contents->bytes + contents->used, contents->capacity - contents->used);
    } while (n < 0 && errno == EINTR);
    if (n > 0) contents->used += (size_t)n;
    return n;
}

/* Reads on only while it looks like a snapshot: an endless device is refused, not read to its end. */
static bool read_contents(int fd, const char *path, ms_contents_t *contents, char *error, size_t error_bytes) {
    ssize_t n;
    while ((n = read_some(fd, contents)) > 0)
        if (contents->used >= MAGIC_BYTES && !is_snapshot(path, contents->bytes, contents->used, error, error_bytes))
            return false;
    if (n == 0) return true;
    if (errno == EISDIR)
        say(error, error_bytes, "%s: is a directory; give a .memscope file in it", path);
    else
        say(error, error_bytes, "%s: %s", path, strerror(errno));
    return false;
}

ms_snapshot_file_t *ms_read_file(const char *path, char *error, size_t error_bytes) {
    if (error_bytes > 0) error[0] = '\0';
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0) {
        say(error, error_bytes, "%s: %s; give a .memscope file", path, strerror(errno));
        return NULL;
    }
    ms_contents_t contents = {NULL, 0, 0};
    ms_snapshot_file_t *file = NULL;
    if (read_contents(fd, path, &contents, error, error_bytes))
        file = ms_read_bytes(path, contents.bytes, contents.used, error, error_bytes);
    close(fd);
    free(contents.bytes);
    return file;
}
