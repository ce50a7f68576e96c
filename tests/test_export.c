/* Files written and read back. The oracle is the model itself: rows of seeded random values, every type with its
 * edges; python's msgpack, json and zlib are the peers. Generic over ms_table_info[], so that the same tests
 * run over the real model and over every_type/tracking/model.def, which has the types no real table uses. */
#define _GNU_SOURCE /* memmem */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <float.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zlib.h>

#include "export/crc32.h"
#include "export/file.h"
#include "export/html.h"
#include "export/json.h"
#include "export/msgpack.h"
#include "export/number.h"
#include "export/page.h"
#include "export/read.h"
#include "export/utf8.h"
#include "tests/support.h"

#ifdef MS_EVERY_TYPE
_Static_assert(MS_TABLE_COUNT == 4, "the model must be the one of tests/every_type");
#endif

#define PATH_BYTES 320

static char directory[] = "/tmp/memscope-export-XXXXXX";
static char error[512];

static const char *path_in(const char *name) {
    static char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return path;
}

/* ---- bytes in memory: a writer's sink, and what of a file */

typedef struct {
    unsigned char *bytes;
    size_t used, capacity;
} bytes_t;

static int append(void *context, const void *from, size_t n) {
    bytes_t *to = context;
    if (to->capacity - to->used < n) {
        to->capacity = 2 * (to->used + n);
        to->bytes = realloc(to->bytes, to->capacity);
    }
    memcpy(to->bytes + to->used, from, n);
    to->used += n;
    return 0;
}

static void append_piece(void *context, const char *piece, size_t n) {
    append(context, piece, n);
}

static bytes_t exported(const ms_model_t *model, int (*export)(const ms_model_t *, ms_writer_t *)) {
    bytes_t bytes = {NULL, 0, 0};
    ms_writer_t writer;
    ck_assert_int_eq(ms_writer_sink(&writer, append, &bytes), 0);
    ck_assert_int_eq(export(model, &writer), 0);
    ck_assert_int_eq(ms_writer_close(&writer), 0);
    return bytes;
}

static bytes_t file_bytes(const char *path) {
    bytes_t bytes = {NULL, 0, 0};
    char chunk[4096];
    FILE *file = fopen(path, "rb");
    ck_assert_ptr_nonnull(file);
    for (size_t n; (n = fread(chunk, 1, sizeof chunk, file)) > 0;) append(&bytes, chunk, n);
    fclose(file);
    return bytes;
}

/* ---- models of random rows */

static void *keep(bytes_t *kept, size_t bytes) { /* memory of a model: a list of blocks, freed with the model */
    void *block = calloc(1, bytes + 1);
    append(kept, &block, sizeof block);
    return block;
}

static void forget(bytes_t *kept) {
    for (size_t i = 0; i < kept->used; i += sizeof(void *)) {
        void *block;
        memcpy(&block, kept->bytes + i, sizeof block);
        free(block);
    }
    free(kept->bytes);
}

static const char *random_text(uint64_t *seed, bytes_t *kept) {
    static const char *const edges[] = {NULL,
                                        "",
                                        "main",
                                        "\"quotes\" and \\ \b\f\n\r\t\x01\x1f\x7f",
                                        "</script><b>&amp;'",
                                        "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80",
                                        "cut \xe2\x82",
                                        "\xff\xfe\xc0\x80",
                                        "\xed\xa0\x80\xf4\x90\x80\x80 surrogate",
                                        "@@MEMSCOPE_SNAPSHOT@@"};
    uint64_t pick = support_random(seed) % 16;
    if (pick < sizeof edges / sizeof edges[0]) return edges[pick];
    /* Lengths around the borders of MessagePack's str formats; rarely one larger than record and buffer. */
    static const size_t lengths[] = {1, 31, 32, 255, 256, 70000};
    size_t n = lengths[support_random(seed) % (support_random(seed) % 64 == 0 ? 6 : 5)];
    char *text = keep(kept, n);
    for (size_t i = 0; i < n; i++) text[i] = (char)(1 + support_random(seed) % 255);
    return text;
}

static ms_pcs_t random_pcs(uint64_t *seed, bytes_t *kept) {
    static const uint64_t counts[] = {0, 1, 15, 16, 64, 256};
    uint64_t count = counts[support_random(seed) % 6];
    uint64_t *pcs = keep(kept, count * sizeof *pcs);
    for (uint64_t i = 0; i < count; i++) pcs[i] = support_random(seed) >> support_random(seed) % 64;
    return (ms_pcs_t){.pcs = pcs, .count = count};
}

static ms_list_t random_list(uint64_t *seed, bytes_t *kept) {
    if (support_random(seed) % 4 == 0) return (ms_list_t){NULL, 0};
    ms_pcs_t numbers = random_pcs(seed, kept);
    return (ms_list_t){numbers.pcs, numbers.count};
}

static uint64_t random_u64(uint64_t *seed) {
    static const uint64_t edges[] = {0,
                                     1,
                                     127,
                                     128,
                                     255,
                                     256,
                                     65535,
                                     65536,
                                     UINT32_MAX,
                                     UINT64_C(1) << 32,
                                     UINT64_MAX - 1,
                                     INT64_MAX,
                                     UINT64_C(1) << 53 | 1};
    uint64_t pick = support_random(seed) % 26;
    return pick < 13 ? edges[pick] : support_random(seed) >> support_random(seed) % 64;
}

static double random_f64(uint64_t *seed) {
    static const double edges[] = {0,    -0.0, 0.1,  -1.5, DBL_MAX,  DBL_MIN,  4.9e-324,
                                   1e15, 1e17, 1e21, NAN,  INFINITY, -INFINITY};
    uint64_t pick = support_random(seed) % 26;
    if (pick < 13) return edges[pick];
    uint64_t bits = support_random(seed);
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void random_value(ms_type_t type, void *field, uint64_t *seed, bytes_t *kept) {
    switch (type) {
    case MS_TYPE_U64:
        *(uint64_t *)field = support_random(seed) % 16 == 0 ? UINT64_MAX : random_u64(seed);
        break;
    case MS_TYPE_N64:
        *(uint64_t *)field = support_random(seed) % 4 == 0 ? MS_NULL : random_u64(seed);
        break;
    case MS_TYPE_STR:
        *(const char **)field = random_text(seed, kept);
        break;
    case MS_TYPE_BOOL:
        *(bool *)field = support_random(seed) % 2;
        break;
    case MS_TYPE_F64:
        *(double *)field = random_f64(seed);
        break;
    case MS_TYPE_PCS:
        *(ms_pcs_t *)field = random_pcs(seed, kept);
        break;
    case MS_TYPE_LIST:
        *(ms_list_t *)field = random_list(seed, kept);
        break;
    }
}

/* least..most rows in a MANY table, with least 0 also ONE tables without a row; data_quality always says complete. */
static void random_model(ms_model_t *model, size_t least, size_t most, uint64_t seed, bytes_t *kept) {
    for (ms_table_id_t id = 0; id < MS_TABLE_COUNT; id++) {
        const ms_table_info_t *table = &ms_table_info[id];
        size_t count = table->shape == MS_SHAPE_ONE ? 1 : least + support_random(&seed) % (most - least + 1);
        if (least == 0 && support_random(&seed) % 8 == 0 && id != MS_TABLE_data_quality) count = 0;
        char *rows = keep(kept, count * table->row_bytes);
        for (size_t i = 0; i < count; i++)
            for (size_t j = 0; j < table->column_count; j++) {
                const ms_column_info_t *column = &table->columns[j];
                random_value(column->type, rows + i * table->row_bytes + column->offset, &seed, kept);
            }
        ms_model_set_rows(model, id, rows, count);
    }
    model->data_quality.rows->complete = true;
}

/* ---- equality of models, as a file can keep it: text sanitised, any NaN like another */

static bool text_survived(const char *original, const char *read) {
    if (original == NULL || read == NULL) return original == read;
    bytes_t valid = {NULL, 0, 0};
    ms_utf8_each(original, append_piece, &valid);
    bool same = valid.used == strlen(read) && (valid.used == 0 || memcmp(valid.bytes, read, valid.used) == 0);
    free(valid.bytes);
    return same;
}

static bool f64_survived(double original, double read) {
    return isnan(original) ? isnan(read) : memcmp(&original, &read, sizeof read) == 0;
}

static bool pcs_survived(const ms_pcs_t *original, const ms_pcs_t *read) {
    return original->count == read->count &&
           (read->count == 0 || memcmp(original->pcs, read->pcs, read->count * sizeof *read->pcs) == 0);
}

static bool list_survived(const ms_list_t *original, const ms_list_t *read) {
    if (original->values == NULL || read->values == NULL) return original->values == read->values;
    return original->count == read->count &&
           memcmp(original->values, read->values, read->count * sizeof *read->values) == 0;
}

static bool value_survived(ms_type_t type, const void *original, const void *read) {
    switch (type) {
    case MS_TYPE_U64:
    case MS_TYPE_N64:
        return *(const uint64_t *)original == *(const uint64_t *)read;
    case MS_TYPE_STR:
        return text_survived(*(const char *const *)original, *(const char *const *)read);
    case MS_TYPE_BOOL:
        return *(const bool *)original == *(const bool *)read;
    case MS_TYPE_F64:
        return f64_survived(*(const double *)original, *(const double *)read);
    case MS_TYPE_PCS:
        return pcs_survived(original, read);
    case MS_TYPE_LIST:
        return list_survived(original, read);
    }
    return false;
}

/* The first `count` rows of table `id`. data_quality.complete is told apart elsewhere. */
static void assert_rows_survived(const ms_model_t *original, const ms_model_t *read, ms_table_id_t id, size_t count) {
    const ms_table_info_t *table = &ms_table_info[id];
    size_t original_count, read_count;
    const char *was = ms_model_rows(original, id, &original_count);
    const char *is = ms_model_rows(read, id, &read_count);
    ck_assert_uint_le(count, original_count);
    ck_assert_uint_le(count, read_count);
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < table->column_count; j++) {
            const ms_column_info_t *column = &table->columns[j];
            size_t at = i * table->row_bytes + column->offset;
            if (id == MS_TABLE_data_quality && strcmp(column->name, "complete") == 0) continue;
            ck_assert_msg(value_survived(column->type, was + at, is + at), "%s.%s of row %zu", table->name,
                          column->name, i);
        }
}

static void assert_survived(const ms_model_t *original, const ms_snapshot_file_t *file) {
    ck_assert_msg(file != NULL, "%s", error);
    ck_assert_str_eq(file->warning, "");
    ck_assert(file->complete);
    ck_assert(file->model.data_quality.rows->complete);
    for (ms_table_id_t id = 0; id < MS_TABLE_COUNT; id++) {
        size_t original_count, read_count;
        ms_model_rows(original, id, &original_count);
        ms_model_rows(&file->model, id, &read_count);
        ck_assert_uint_eq(original_count, read_count);
        assert_rows_survived(original, &file->model, id, read_count);
    }
}

static void assert_python_agrees(const char *snapshot, const char *json) {
    const char *python = getenv("PYTHON"), *top = getenv("top_srcdir");
    char command[4096];
    if (python != NULL && python[0] == '\0') return; /* configure found no python3 with msgpack */
    snprintf(command, sizeof command, "'%s' '%s/tests/read_snapshot.py' '%s' '%s' >&2",
             python != NULL ? python : "python3", top != NULL ? top : ".", snapshot, json);
    ck_assert_int_eq(system(command), 0);
}

/* ---- whole models */

START_TEST(round_trip) {
    static const size_t sizes[] = {0, 1, 3, 40, 300, 5000};
    size_t most = sizes[_i % 6];
    bytes_t kept = {NULL, 0, 0};
    ms_model_t model;
    random_model(&model, 0, most, (uint64_t)_i, &kept);
    char snapshot[PATH_BYTES], json[PATH_BYTES], html[PATH_BYTES];
    snprintf(snapshot, sizeof snapshot, "%s", path_in("round.memscope"));
    snprintf(json, sizeof json, "%s", path_in("round.json"));
    snprintf(html, sizeof html, "%s", path_in("round.html"));

    ck_assert_int_eq(ms_export_file(&model, snapshot, MS_FORMAT_MSGPACK), 0);
    ms_snapshot_file_t *file = ms_read_file(snapshot, error, sizeof error);
    assert_survived(&model, file);
    ms_snapshot_file_free(file);
    ck_assert_int_eq(ms_export_file(&model, json, MS_FORMAT_JSON), 0);
    assert_python_agrees(snapshot, json);

    bytes_t direct = exported(&model, ms_export_msgpack), written = file_bytes(snapshot);
    ck_assert_uint_eq(direct.used, written.used);
    ck_assert_mem_eq(direct.bytes, written.bytes, direct.used);
    free(direct.bytes);
    free(written.bytes);
    ck_assert_int_eq(ms_export_file(&model, html, MS_FORMAT_HTML), 0);
    unlink(snapshot);
    unlink(json);
    unlink(html);
    forget(&kept);
}
END_TEST

/* ---- records, found without the reader */

typedef struct {
    size_t start, body, end; /* offsets in the file */
    size_t crc;              /* of the four bytes of the checksum, 0 when it was packed in fewer */
} record_t;

static size_t big_endian(const unsigned char *bytes, size_t width) {
    size_t number = 0;
    for (size_t i = 0; i < width; i++) number = number << 8 | bytes[i];
    return number;
}

static record_t record_at(const bytes_t *file, size_t start) {
    record_t record = {.start = start};
    const unsigned char *at = file->bytes + start;
    ck_assert_uint_eq(*at++, 0x93);
    at += 1 + (*at & 31);
    size_t crc_width = *at < 0xcc ? 0 : (size_t)1 << (*at - 0xcc);
    if (crc_width == 4) record.crc = (size_t)(at + 1 - file->bytes);
    at += 1 + crc_width;
    size_t width = (size_t)1 << (*at - 0xc4);
    record.body = (size_t)(at + 1 + width - file->bytes);
    record.end = record.body + big_endian(at + 1, width);
    return record;
}

static size_t records_of(const bytes_t *file, record_t *records, size_t most) {
    size_t n = 0;
    for (size_t at = 0; at < file->used; at = records[n++].end) {
        ck_assert_uint_lt(n, most);
        records[n] = record_at(file, at);
    }
    return n;
}

START_TEST(records_stay_small) {
    bytes_t kept = {NULL, 0, 0};
    ms_model_t model;
    record_t records[20000];
    random_model(&model, 4000, 5000, 77, &kept);
    bytes_t file = exported(&model, ms_export_msgpack);
    size_t n = records_of(&file, records, 20000), large = 0;
    for (size_t i = 0; i < n; i++) large += records[i].end - records[i].start > 32 * 1024;
    ck_assert_uint_gt(n, 20);
    ck_assert_uint_lt(large, n / 2); /* those with a 70,000-byte name */
    free(file.bytes);
    forget(&kept);
}
END_TEST

/* What a model points at may change while it is written: stacks and texts stay where they are. No record is lost by that: each
 * says its length and checksum of what is in it. */
static size_t times_read;
static char moving_text[] = "short";

static size_t read_otherwise(uint32_t id, uint64_t *pcs, size_t max) {
    (void)id;
    times_read++;
    memcpy(moving_text, times_read % 2 ? "moved" : "mov", times_read % 2 ? 6 : 4);
    for (size_t i = 0; i < max; i++) pcs[i] = UINT64_C(1) << (times_read + i) % 60; /* takes other room each time */
    return max;
}

static void put_moving_values(ms_model_t *model) {
    for (ms_table_id_t id = 0; id < MS_TABLE_COUNT; id++) {
        size_t count;
        char *rows = ms_model_rows(model, id, &count);
        const ms_table_info_t *table = &ms_table_info[id];
        for (size_t i = 0; i < count; i++)
            for (size_t j = 0; j < table->column_count; j++) {
                void *field = rows + i * table->row_bytes + table->columns[j].offset;
                if (table->columns[j].type == MS_TYPE_PCS)
                    *(ms_pcs_t *)field = (ms_pcs_t){.read = read_otherwise, .count = 1 + i % 200};
                else if (table->columns[j].type == MS_TYPE_STR && i % 3 == 0)
                    *(const char **)field = moving_text;
            }
    }
}

START_TEST(what_changes_meanwhile_loses_no_record) {
    bytes_t kept = {NULL, 0, 0};
    ms_model_t model;
    random_model(&model, 1, 600, (uint64_t)_i, &kept);
    put_moving_values(&model);
    times_read = 0;
    bytes_t bytes = exported(&model, ms_export_msgpack);
    ck_assert_uint_gt(times_read, 0);
    ms_snapshot_file_t *file = ms_read_bytes("moved", bytes.bytes, bytes.used, error, sizeof error);
    ck_assert_msg(file != NULL, "%s", error);
    ck_assert_str_eq(file->warning, "");
    ck_assert(file->complete);
    for (ms_table_id_t id = 0; id < MS_TABLE_COUNT; id++) {
        size_t was, is;
        ms_model_rows(&model, id, &was);
        ms_model_rows(&file->model, id, &is);
        ck_assert_uint_eq(was, is);
    }
    ms_snapshot_file_free(file);
    free(bytes.bytes);
    forget(&kept);
}
END_TEST

/* A text that is overwritten by another thread: long, short, cut in a character. */
static _Atomic(bool) text_rests;
static char overwritten[400];

static void *overwrite(void *unused) {
    static const char *const texts[] = {"\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80", "a", "\xff\xff\xff", ""};
    volatile char *to = overwritten;
    for (size_t round = 0; !text_rests; round++) {
        size_t length = strlen(texts[round % 4]);
        for (size_t i = 0; i < sizeof overwritten - 1; i++) to[i] = length ? texts[round % 4][i % length] : 0;
    }
    return unused;
}

START_TEST(text_that_is_overwritten_loses_no_record) {
    bytes_t kept = {NULL, 0, 0};
    ms_model_t model;
    pthread_t thread;
    random_model(&model, 1, 20, 5, &kept);
    size_t table = 0, column = 0; /* the first text of a table of rows */
    for (ms_table_id_t id = 0; id < MS_TABLE_COUNT && table == 0; id++)
        for (size_t j = 0; j < ms_table_info[id].column_count && ms_table_info[id].shape == MS_SHAPE_MANY; j++)
            if (ms_table_info[id].columns[j].type == MS_TYPE_STR) table = id, column = j;
    size_t count;
    char *rows = ms_model_rows(&model, (ms_table_id_t)table, &count);
    for (size_t i = 0; i < count; i++) {
        const char *text = overwritten;
        memcpy(rows + i * ms_table_info[table].row_bytes + ms_table_info[table].columns[column].offset, &text, sizeof text);
    }
    ck_assert_uint_gt(count, 0);
    text_rests = false;
    ck_assert_int_eq(pthread_create(&thread, NULL, overwrite, NULL), 0);
    for (int round = 0; round < 300; round++) {
        bytes_t bytes = exported(&model, ms_export_msgpack);
        ms_snapshot_file_t *file = ms_read_bytes("overwritten", bytes.bytes, bytes.used, error, sizeof error);
        ck_assert_msg(file != NULL, "%s", error);
        ck_assert_str_eq(file->warning, "");
        ms_snapshot_file_free(file);
        free(bytes.bytes);
    }
    text_rests = true;
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    forget(&kept);
}
END_TEST

/* Rows of each table in the records that lie wholly before `cut`: what a reader must still find. */
static void assert_kept_before(const ms_model_t *model, const ms_snapshot_file_t *file, size_t whole_records) {
    size_t before = 1; /* one record a table, in order, behind the first record */
    for (ms_table_id_t id = 0; id < MS_TABLE_COUNT; id++) {
        size_t original_count, read_count;
        ms_model_rows(model, id, &original_count);
        ms_model_rows(&file->model, id, &read_count);
        bool whole = before < whole_records;
        before += original_count > 0;
        if (id == MS_TABLE_data_quality) {
            ck_assert_uint_eq(read_count, 1);
            if (!whole) continue;
        }
        ck_assert_uint_eq(read_count, whole ? original_count : 0);
        assert_rows_survived(model, &file->model, id, read_count);
    }
}

/* A series is not one record a table: it has tests of its own. */
static size_t without_series(ms_model_t *model) {
    size_t tables = 0;
    for (ms_table_id_t id = 0; id < MS_TABLE_COUNT; id++) {
        tables += ms_table_info[id].shape != MS_SHAPE_SERIES;
        if (ms_table_info[id].shape == MS_SHAPE_SERIES) ms_model_set_rows(model, id, NULL, 0);
    }
    return tables;
}

START_TEST(cut_at_every_byte) {
    bytes_t kept = {NULL, 0, 0};
    ms_model_t model;
    record_t records[MS_TABLE_COUNT + 2];
    random_model(&model, 1, 2, 4, &kept);
    size_t tables = without_series(&model);
    bytes_t bytes = exported(&model, ms_export_msgpack);
    size_t n = records_of(&bytes, records, MS_TABLE_COUNT + 2);
    ck_assert_uint_eq(n, tables + 2);
    for (size_t cut = 0, whole = 0; cut < bytes.used; cut++) {
        while (records[whole].end <= cut) whole++;
        unsigned char *exact = malloc(cut); /* of this size, so that a sanitizer sees a byte read too far */
        if (cut > 0) memcpy(exact, bytes.bytes, cut);
        ms_snapshot_file_t *file = ms_read_bytes("cut", exact, cut, error, sizeof error);
        if (whole == 0) {
            ck_assert_ptr_null(file);
            ck_assert_uint_eq(strncmp(error, "cut: ", 5), 0);
        } else {
            ck_assert_msg(file != NULL, "%s", error);
            ck_assert(!file->complete && !file->model.data_quality.rows->complete);
            ck_assert_str_ne(file->warning, "");
            assert_kept_before(&model, file, whole);
        }
        ms_snapshot_file_free(file);
        free(exact);
    }
    free(bytes.bytes);
    forget(&kept);
}
END_TEST

#ifndef MS_EVERY_TYPE
/* Rows over 40 moments: samples at each, sites now and then; counters rise, live bytes go up and down, RSS is null at
 * times. */
#define MOMENTS 40
static void series_model(ms_model_t *model, bytes_t *kept) {
    uint64_t seed = 3, live = 0, allocated = 0;
    *model = (ms_model_t){0};
    model->samples.rows = keep(kept, MOMENTS * sizeof *model->samples.rows);
    model->site_samples.rows = keep(kept, 3 * MOMENTS * sizeof *model->site_samples.rows);
    for (uint64_t i = 0; i < MOMENTS; i++) {
        uint64_t time = 1000000 + i * 100000000, id = 0;
        allocated += support_random(&seed) % 100000;
        live = support_random(&seed) % (allocated + 1);
        model->samples.rows[model->samples.count++] = (ms_samples_row_t){
            .time_ns = time, .live_bytes = live, .allocated_bytes = allocated, .rss_bytes = i % 7 == 3 ? MS_NULL : live * 2};
        while ((id += 1 + support_random(&seed) % 3) <= 6 && support_random(&seed) % 4)
            model->site_samples.rows[model->site_samples.count++] = (ms_site_samples_row_t){
                .time_ns = time, .id = id << 33, .live_bytes = live / (id + 1), .allocated_bytes = allocated / id};
    }
}

/* Whatever is cut off, the rows of the moments whose records are whole come back, and no others. */
START_TEST(series_cut_at_every_byte) {
    bytes_t kept = {NULL, 0, 0};
    ms_model_t model;
    record_t records[MOMENTS + 3];
    series_model(&model, &kept);
    bytes_t bytes = exported(&model, ms_export_msgpack);
    ck_assert_uint_eq(records_of(&bytes, records, MOMENTS + 4), MOMENTS + 3); /* first, series, moments, end */
    for (size_t cut = records[0].end, whole = 1; cut < bytes.used; cut++) {
        while (records[whole].end <= cut) whole++;
        ms_snapshot_file_t *file = ms_read_bytes("cut", bytes.bytes, cut, error, sizeof error);
        ck_assert_msg(file != NULL, "%s", error);
        size_t moments = whole < 2 ? 0 : whole - 2, sites = 0;
        while (sites < model.site_samples.count && moments > 0 &&
               model.site_samples.rows[sites].time_ns <= model.samples.rows[moments - 1].time_ns)
            sites++;
        ck_assert_uint_eq(file->model.samples.count, moments);
        ck_assert_uint_eq(file->model.site_samples.count, sites);
        assert_rows_survived(&model, &file->model, MS_TABLE_samples, moments);
        assert_rows_survived(&model, &file->model, MS_TABLE_site_samples, sites);
        ms_snapshot_file_free(file);
    }
    free(bytes.bytes);
    forget(&kept);
}
END_TEST

/* A damaged record in the middle: what follows it is differences to something lost, up to the next start. */
START_TEST(series_behind_damage) {
    bytes_t kept = {NULL, 0, 0}, twice = {NULL, 0, 0};
    ms_model_t model;
    record_t records[MOMENTS + 3];
    series_model(&model, &kept);
    bytes_t bytes = exported(&model, ms_export_msgpack);
    size_t n = records_of(&bytes, records, MOMENTS + 4);
    append(&twice, bytes.bytes, records[n - 1].start);
    append(&twice, bytes.bytes + records[1].start, records[n - 1].start - records[1].start);
    twice.bytes[records[2 + 10].body + 8] ^= 1;
    ms_snapshot_file_t *file = ms_read_bytes("damaged", twice.bytes, twice.used, error, sizeof error);
    ck_assert_msg(file != NULL, "%s", error);
    ck_assert_uint_eq(file->model.samples.count, 10 + MOMENTS);
    assert_rows_survived(&model, &file->model, MS_TABLE_samples, 10);
    ck_assert_mem_eq(file->model.samples.rows + 10, model.samples.rows, MOMENTS * sizeof *model.samples.rows);
    ck_assert_ptr_nonnull(strstr(file->warning, "differences to something lost left out: 29"));
    ms_snapshot_file_free(file);
    free(twice.bytes);
    free(bytes.bytes);
    forget(&kept);
}
END_TEST

/* Rows written anew stand for those before; with some columns only, the others have their defaults. */
START_TEST(tables_written_anew) {
    bytes_t bytes = {NULL, 0, 0};
    ms_writer_t writer;
    ms_model_t final = {0};
    ms_threads_row_t threads[2] = {{.id = 1, .tid = 10, .allocated_bytes = 5}, {.id = 2, .tid = 20, .allocated_bytes = 6}};
    ms_knobs_row_t knob = {.name = "mode", .value = "exact"};
    ck_assert_int_eq(ms_writer_sink(&writer, append, &bytes), 0);
    uint64_t records = ms_export_first(&writer), columns = ms_export_columns(MS_TABLE_threads, "tid id nonsense");
    records += ms_export_rows(&writer, MS_TABLE_threads, threads, 1, columns, false);
    records += ms_export_rows(&writer, MS_TABLE_threads, threads + 1, 1, columns, false);
    records += ms_export_rows(&writer, MS_TABLE_knobs, &knob, 1, MS_ALL_COLUMNS, true);
    ms_writer_close(&writer);
    ms_snapshot_file_t *file = ms_read_bytes("begun", bytes.bytes, bytes.used, error, sizeof error);
    ck_assert_msg(file != NULL, "%s", error);
    ck_assert_uint_eq(file->model.threads.count, 2);
    ck_assert_uint_eq(file->model.threads.rows[1].tid, 20);
    ck_assert_uint_eq(file->model.threads.rows[1].allocated_bytes, 0);
    ms_snapshot_file_free(file);

    final.threads.rows = threads;
    final.threads.count = 1;
    ck_assert_int_eq(ms_writer_sink(&writer, append, &bytes), 0);
    ck_assert_int_eq(ms_export_rest(&final, &writer, records, true), 0);
    ms_writer_close(&writer);
    file = ms_read_bytes("ended", bytes.bytes, bytes.used, error, sizeof error);
    ck_assert_msg(file != NULL && file->complete, "%s", error);
    ck_assert_uint_eq(file->model.threads.count, 1);
    ck_assert_uint_eq(file->model.threads.rows[0].allocated_bytes, 5);
    ck_assert_uint_eq(file->model.knobs.count, 0);
    ms_snapshot_file_free(file);
    free(bytes.bytes);
}
END_TEST
#endif

START_TEST(every_flipped_bit_is_told) {
    bytes_t kept = {NULL, 0, 0};
    ms_model_t model;
    random_model(&model, 1, 1, 9, &kept);
    bytes_t bytes = exported(&model, ms_export_msgpack);
    for (size_t bit = 0; bit < 8 * bytes.used; bit++) {
        bytes.bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
        ms_snapshot_file_t *file = ms_read_bytes("flipped", bytes.bytes, bytes.used, error, sizeof error);
        if (file != NULL)
            ck_assert_msg(file->warning[0] != '\0', "bit %zu went unnoticed", bit);
        else
            ck_assert_str_ne(error, "");
        ms_snapshot_file_free(file);
        bytes.bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
    }
    free(bytes.bytes);
    forget(&kept);
}
END_TEST

/* ---- hostile files: right checksums, wrong contents */

static void set_big_endian(unsigned char *at, uint32_t number) {
    for (int i = 0; i < 4; i++) at[i] = (unsigned char)(number >> (24 - 8 * i));
}

static size_t peak_rss_kib(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (size_t)usage.ru_maxrss;
}

START_TEST(mutated_bodies_are_survived) {
    bytes_t kept = {NULL, 0, 0};
    ms_model_t model;
    record_t records[8 * MS_TABLE_COUNT];
    uint64_t seed = 12;
    random_model(&model, 2, 6, seed, &kept);
    bytes_t original = exported(&model, ms_export_msgpack);
    size_t n = records_of(&original, records, 8 * MS_TABLE_COUNT), before = peak_rss_kib();
    unsigned char *mutant = malloc(original.used);
    for (int round = 0; round < 20000; round++) {
        memcpy(mutant, original.bytes, original.used);
        const record_t *record = &records[support_random(&seed) % n];
        if (record->crc == 0) continue;
        for (uint64_t i = support_random(&seed) % 4; i < 4; i++) {
            static const unsigned char markers[] = {0xc0, 0xc1, 0xc3, 0xc6, 0xc9, 0xca, 0xcf,
                                                    0xd3, 0xd8, 0xdb, 0xdd, 0xdf, 0x90, 0xff};
            size_t at = record->body + support_random(&seed) % (record->end - record->body);
            mutant[at] =
                support_random(&seed) % 2 ? markers[support_random(&seed) % sizeof markers] : (unsigned char)seed;
        }
        set_big_endian(mutant + record->crc, ms_crc32(0, mutant + record->body, record->end - record->body));
        ms_snapshot_file_free(ms_read_bytes("mutant", mutant, original.used, error, sizeof error));
    }
    ck_assert_uint_lt(peak_rss_kib() - before, 512 * 1024); /* 6 bytes can claim 100 GB */
    free(mutant);
    free(original.bytes);
    forget(&kept);
}
END_TEST

/* Appends a record of these body bytes: kind, length and checksum as they should be. */
static void append_record(bytes_t *file, const char *kind, const void *body, size_t n) {
    unsigned char head[] = {0xce, 0, 0, 0, 0, 0xc6, 0, 0, 0, 0};
    unsigned char open[] = {0x93, (unsigned char)(0xa0 | strlen(kind))};
    set_big_endian(head + 1, ms_crc32(0, body, n));
    set_big_endian(head + 6, (uint32_t)n);
    append(file, open, 2);
    append(file, kind, strlen(kind));
    append(file, head, sizeof head);
    append(file, body, n);
}

static bytes_t file_of(const char *kind, const void *body, size_t n) {
    bytes_t file = {NULL, 0, 0};
    append_record(&file, "memscope",
                  "\x81\xa6"
                  "format\x01",
                  9);
    append_record(&file, kind, body, n);
    append_record(&file, "end", "\x81\xa7records\x02", 10);
    return file;
}

/* Reads a file whose second record has this body; *warning is what the reader said of it. */
static bool reads_with_warning(const char *kind, const void *body, size_t n, const char *warning) {
    bytes_t bytes = file_of(kind, body, n);
    ms_snapshot_file_t *file = ms_read_bytes("made", bytes.bytes, bytes.used, error, sizeof error);
    bool as_expected = file != NULL && strcmp(file->warning, warning) == 0;
    if (file != NULL && !as_expected) fprintf(stderr, "warning: \"%s\", expected: \"%s\"\n", file->warning, warning);
    ms_snapshot_file_free(file);
    free(bytes.bytes);
    return as_expected;
}

#define ROWS_OF_THREADS            \
    "\x83\xa5table\xa7threads\xa7" \
    "columns"
#define DAMAGED "damaged records left out: 1"

START_TEST(claims_are_not_believed) {
    static const struct {
        const char *body;
        size_t n;
        const char *warning;
    } cases[] = {
#define CASE(body, warning) {body, sizeof(body) - 1, warning}
        CASE("", DAMAGED),
        CASE("\xdd\xff\xff\xff\xff\x01", DAMAGED),
        CASE("\xdf\xff\xff\xff\xff\x01", DAMAGED),
        CASE("\xc6\xff\xff\xff\xff\x01", DAMAGED),
        CASE("\x80", DAMAGED),
        CASE("\x80\x80", DAMAGED),
        CASE(ROWS_OF_THREADS "\xdd\xff\xff\xff\xff\xa4rows\x90", DAMAGED),
        CASE(ROWS_OF_THREADS "\x90\xa4rows\xdd\xff\xff\xff\xff", DAMAGED),
        CASE(ROWS_OF_THREADS "\x90\xa4rows\x91\x90", DAMAGED),
        CASE(ROWS_OF_THREADS "\x91\x01\xa4rows\x91\x90", DAMAGED),
        CASE(ROWS_OF_THREADS "\x91\xa7"
                             "counted\xa4rows\x91\x01",
             "values of the wrong type left out: 1"),
        CASE(ROWS_OF_THREADS "\x91\xa7"
                             "counted\xa4rows\x91\x92\x01\x02",
             "values of the wrong type left out: 1"),
        CASE(ROWS_OF_THREADS "\x91\xa7"
                             "counted\xa4rows\x91\x91\x01",
             ""),
        CASE(ROWS_OF_THREADS "\x91\xa7unknown\xa4rows\x91\x91\x81\x01\x92\xc0\xd4\x01\x02", ""),
        CASE("\x83\xa5table\xa7unknown\xa7"
             "columns\x90\xa4rows\x90",
             ""),
#undef CASE
    };
    ck_assert(reads_with_warning("rows", cases[_i].body, cases[_i].n, cases[_i].warning));
}
END_TEST
#define CLAIMS 15

START_TEST(thin_and_deep_bodies_are_refused) {
    const size_t n = 4 << 20;
    size_t before = peak_rss_kib();
    unsigned char *body = malloc(n);
    static const char head[] = ROWS_OF_THREADS "\x91\xa7"
                                               "unknown\xa4rows\xdd";
    memset(body, 0x91, n); /* [[[[...: four million deep, and cut */
    ck_assert(reads_with_warning("rows", body, n, DAMAGED));
    memcpy(body, head, sizeof head - 1); /* two million rows of one nil */
    size_t rows = (n - sizeof head - 3) / 2;
    set_big_endian(body + sizeof head - 1, (uint32_t)rows);
    for (size_t i = 0; i < rows; i++) memcpy(body + sizeof head + 3 + 2 * i, "\x91\xc0", 2);
    bool thin = rows * ms_table_info[MS_TABLE_threads].row_bytes / 64 > n;
    ck_assert(reads_with_warning("rows", body, sizeof head + 3 + 2 * rows, thin ? DAMAGED : ""));
    ck_assert_uint_lt(peak_rss_kib() - before, 512 * 1024);
    free(body);
}
END_TEST

START_TEST(unknown_kinds_are_left_out) {
    ck_assert(reads_with_warning("newer", "\x80", 1, "records of unknown kinds left out: 1"));
}
END_TEST

START_TEST(foreign_files_are_refused) {
    static const struct {
        const char *path, *contents; /* contents NULL: as it is */
        const char *message;         /* behind "PATH: " */
    } cases[] = {
        {"empty", "", "empty, its writer ended before it wrote anything; record it again"},
        {"text", "hello", "not a memscope snapshot; give a .memscope file, as `memscope run` writes it"},
        {"long", "{\"format\": 1, \"process\": null}",
         "not a memscope snapshot; give a .memscope file, as `memscope run` writes it"},
        {"torn", "\x93\xa8memscope\xce", "cut off inside its first record, nothing in it can be read; record it again"},
        {"wrong", "\x93\xa8memscope\x01\xc4\x01\x01",
         "its first record is damaged, nothing in it can be trusted; record it again"},
        {"newer",
         "\x93\xa8memscope\xce\x4c\xd7\xca\x41\xc4\x09\x81\xa6"
         "format\x02",
         "written in format 2, this memscope reads format 1; use the memscope that wrote it"},
        {"missing/file", NULL, "No such file or directory; give a .memscope file"},
        {".", NULL, "is a directory; give a .memscope file in it"},
        {"/dev/zero", NULL, "not a memscope snapshot; give a .memscope file, as `memscope run` writes it"},
    };
    const char *path = cases[_i].path[0] == '/' ? cases[_i].path : path_in(cases[_i].path);
    char expected[1024];
    snprintf(expected, sizeof expected, "%s: %s", path, cases[_i].message);
    if (cases[_i].contents != NULL) {
        FILE *file = fopen(path, "wb");
        ck_assert_ptr_nonnull(file);
        fputs(cases[_i].contents, file);
        ck_assert_int_eq(fclose(file), 0);
    }
    ck_assert_ptr_null(ms_read_file(path, error, sizeof error));
    ck_assert_str_eq(error, expected);
    if (cases[_i].contents != NULL) unlink(path);
}
END_TEST
#define FOREIGN 9

START_TEST(added_memory_lives_with_the_file) {
    bytes_t bytes = file_of("rows",
                            ROWS_OF_THREADS "\x91\xa7"
                                            "counted\xa4rows\x90",
                            37);
    ms_snapshot_file_t *file = ms_read_bytes("made", bytes.bytes, bytes.used, error, sizeof error);
    ck_assert_ptr_nonnull(file);
    static const size_t sizes[] = {0, 1, 15, 16, 1000, 16384, 16385, 65536, 1 << 20};
    char *blocks[200];
    size_t wrong = 0; /* one assertion for all bytes: Check's cost a system call each */
    for (size_t i = 0; i < 200; i++) {
        blocks[i] = ms_snapshot_file_alloc(file, sizes[i % 9]);
        ck_assert_uint_eq((uintptr_t)blocks[i] % 16, 0);
        for (size_t j = 0; j < sizes[i % 9]; j++) wrong += blocks[i][j] != 0;
        memset(blocks[i], (int)i, sizes[i % 9]);
    }
    for (size_t i = 0; i < 200; i++)
        for (size_t j = 0; j < sizes[i % 9]; j++) wrong += blocks[i][j] != (char)i;
    ck_assert_uint_eq(wrong, 0);
    ck_assert_ptr_null(ms_snapshot_file_alloc(file, SIZE_MAX));
    ms_snapshot_file_free(file);
    ms_snapshot_file_free(NULL);
    free(bytes.bytes);
}
END_TEST

/* ---- what cannot be written */

START_TEST(failures_are_told) {
    static const struct {
        const char *path;
        int error;
    } cases[] = {{"/dev/full", ENOSPC}, {NULL, EISDIR}, {"/dev/null/file", ENOTDIR}, {"", ENOENT}};
    bytes_t kept = {NULL, 0, 0};
    ms_model_t model;
    struct stat status;
    random_model(&model, 1, _i % 2 ? 2000 : 2, 5, &kept); /* fails at the first full buffer, or in close */
    const char *path = cases[_i / 2].path != NULL ? cases[_i / 2].path : directory;
    for (ms_format_t format = MS_FORMAT_MSGPACK; format <= MS_FORMAT_HTML; format++)
        ck_assert_int_eq(ms_export_file(&model, path, format), cases[_i / 2].error);
    ck_assert_int_eq(stat(directory, &status), 0);
    ck_assert(S_ISDIR(status.st_mode));
    forget(&kept);
}
END_TEST

/* The file size limit of a process: a short write first, then EFBIG with a signal that must not end the process. */
START_TEST(a_limit_leaves_what_was_written) {
    bytes_t kept = {NULL, 0, 0};
    ms_model_t model;
    const char *path = path_in("limit.memscope");
    random_model(&model, 3000, 3000, 6, &kept);
    pid_t child = fork();
    if (child == 0) {
        struct rlimit limit = {100001, 100001};
        signal(SIGXFSZ, SIG_DFL);
        setrlimit(RLIMIT_FSIZE, &limit);
        _exit(ms_export_file(&model, path, MS_FORMAT_MSGPACK));
    }
    int status;
    struct stat written;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFEXITED(status));
    ck_assert_int_eq(WEXITSTATUS(status), EFBIG);
    ck_assert_int_eq(stat(path, &written), 0);
    ck_assert_int_eq(written.st_size, 100001);
    ms_snapshot_file_t *file = ms_read_file(path, error, sizeof error);
    ck_assert_msg(file != NULL, "%s", error);
    ck_assert(!file->complete);
    ms_snapshot_file_free(file);
    unlink(path);
    forget(&kept);
}
END_TEST

START_TEST(a_reader_that_leaves_is_an_error) {
    bytes_t kept = {NULL, 0, 0};
    ms_model_t model;
    int ends[2];
    char path[64];
    random_model(&model, 3000, 3000, 7, &kept);
    ck_assert_int_eq(pipe(ends), 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", ends[1]);
    close(ends[0]);
    ms_writer_t writer;
    sigset_t blocked;
    ck_assert_int_eq(ms_writer_fd(&writer, ends[1]), 0);
    signal(SIGPIPE, SIG_IGN);
    ck_assert_int_eq(ms_export_json(&model, &writer), EPIPE);
    ck_assert_int_eq(ms_writer_close(&writer), EPIPE);
    ck_assert_int_eq(fcntl(ends[1], F_GETFD), 0); /* stays open, it is ours */
    signal(SIGPIPE, SIG_DFL);
    ck_assert_int_eq(ms_export_file(&model, path, MS_FORMAT_MSGPACK), EPIPE);
    sigprocmask(SIG_BLOCK, NULL, &blocked);
    ck_assert_int_eq(sigismember(&blocked, SIGPIPE), 0);
    close(ends[1]);
    forget(&kept);
}
END_TEST

/* ---- the sink */

typedef struct {
    bytes_t got;
    size_t most; /* then EIO */
} failing_t;

static int failing_drain(void *context, const void *bytes, size_t n) {
    failing_t *sink = context;
    if (sink->got.used + n > sink->most) return EIO;
    return append(&sink->got, bytes, n);
}

START_TEST(a_sink_gets_every_byte_in_order) {
    uint64_t seed = (uint64_t)_i;
    failing_t sink = {{NULL, 0, 0}, _i % 2 ? 500000 : SIZE_MAX};
    bytes_t put = {NULL, 0, 0};
    ms_writer_t writer;
    ck_assert_int_eq(ms_writer_sink(&writer, failing_drain, &sink), 0);
    static const size_t sizes[] = {0, 1, 9, 4000, MS_WRITER_BYTES - 1, MS_WRITER_BYTES, MS_WRITER_BYTES + 1, 200000};
    unsigned char *piece = malloc(200000);
    for (int i = 0; i < 60; i++) {
        size_t n = sizes[support_random(&seed) % 8];
        for (size_t j = 0; j < n; j++) piece[j] = (unsigned char)(support_random(&seed));
        ms_writer_put(&writer, piece, n);
        append(&put, piece, n);
    }
    ms_writer_text(&writer, "end");
    append(&put, "end", 3);
    ck_assert_int_eq(ms_writer_close(&writer), put.used > sink.most ? EIO : 0);
    ck_assert_uint_eq(sink.got.used, put.used > sink.most ? sink.got.used : put.used);
    ck_assert(sink.got.used == 0 || memcmp(sink.got.bytes, put.bytes, sink.got.used) == 0);
    free(piece);
    free(put.bytes);
    free(sink.got.bytes);
}
END_TEST

/* ---- the page */

static bytes_t decoded(const char *text, size_t n) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    bytes_t bytes = {NULL, 0, 0};
    size_t wrong = n % 4;
    for (size_t i = 0; i + 4 <= n; i += 4) {
        size_t given = text[i + 2] == '=' ? 1 : text[i + 3] == '=' ? 2 : 3, bits = 0;
        wrong += given < 3 && i + 4 < n;
        for (size_t j = 0; j < 4; j++) {
            const char *digit = j <= given ? memchr(digits, text[i + j], 64) : digits;
            wrong += digit == NULL;
            bits = bits << 6 | (digit != NULL ? (size_t)(digit - digits) : 0);
        }
        append(&bytes, (unsigned char[]){(unsigned char)(bits >> 16), (unsigned char)(bits >> 8), (unsigned char)bits},
               given);
    }
    ck_assert_uint_eq(wrong, 0);
    return bytes;
}

/* `html` is the page with the marker replaced by the base64 of `bytes`. */
static void assert_page_holds(const bytes_t *html, const void *bytes, size_t n) {
    size_t page = (size_t)(ms_page_html_end - ms_page_html), marker = strlen(MS_HTML_MARKER);
    const char *at = memmem(ms_page_html, page, MS_HTML_MARKER, marker);
    ck_assert_ptr_nonnull(at);
    size_t before = (size_t)(at - ms_page_html), after = page - before - marker;
    ck_assert_ptr_null(memmem(at + 1, after + marker - 1, MS_HTML_MARKER, marker));
    ck_assert_uint_eq(html->used, before + (n + 2) / 3 * 4 + after);
    ck_assert_mem_eq(html->bytes, ms_page_html, before);
    ck_assert_mem_eq(html->bytes + html->used - after, at + marker, after);
    bytes_t embedded = decoded((const char *)html->bytes + before, html->used - before - after);
    ck_assert_uint_eq(embedded.used, n);
    ck_assert(n == 0 || memcmp(embedded.bytes, bytes, n) == 0);
    free(embedded.bytes);
}

START_TEST(a_page_holds_the_model) {
    bytes_t kept = {NULL, 0, 0};
    ms_model_t model;
    random_model(&model, 0, _i * 500, (uint64_t)_i + 20, &kept);
    bytes_t snapshot = exported(&model, ms_export_msgpack), html = exported(&model, ms_export_html);
    assert_page_holds(&html, snapshot.bytes, snapshot.used);
    free(snapshot.bytes);
    free(html.bytes);
    forget(&kept);
}
END_TEST

START_TEST(a_page_holds_any_bytes) {
    static const size_t sizes[] = {0, 1, 2, 3, 4, 5, 70000, 70001, 70002};
    uint64_t seed = 30;
    bytes_t html = {NULL, 0, 0}, given = {NULL, 0, 0};
    for (size_t i = 0; i < sizes[_i]; i++) append(&given, &(unsigned char){(unsigned char)support_random(&seed)}, 1);
    ms_writer_t writer;
    ck_assert_int_eq(ms_writer_sink(&writer, append, &html), 0);
    ck_assert_int_eq(ms_export_html_bytes(given.bytes, given.used, &writer), 0);
    ck_assert_int_eq(ms_writer_close(&writer), 0);
    assert_page_holds(&html, given.bytes, given.used);
    free(html.bytes);
    free(given.bytes);
}
END_TEST

/* ---- small parts */

START_TEST(broken_text_is_replaced) {
    static const struct {
        const char *text, *valid;
    } cases[] = {
#define X "\xef\xbf\xbd"
        {"", ""},
        {"plain", "plain"},
        {"\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbf\xf0\x90\x80\x80\xf4\x8f\xbf\xbf",
         "\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbf\xf0\x90\x80\x80\xf4\x8f\xbf\xbf"},
        /* Unicode 15, tables 3-8 to 3-11 */
        {"\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41", X X X X X X X X "\x41"},
        {"\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41", X X X X X X X X "\x41"},
        {"\xf4\x91\x92\x93\xff\x41\x80\xbf\x42", X X X X X "\x41" X X "\x42"},
        {"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", X X X X "\x41"},
        {"\x61\xf1\x80\x80\xe1\x80\xc2\x62\x80\x63\x80\xbf\x64", "\x61" X X X "\x62" X "\x63" X X "\x64"},
        {"cut \xf0\x9f\x98", "cut " X},
        {"cut \xf0", "cut " X},
#undef X
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        bytes_t valid = {NULL, 0, 0};
        ms_utf8_each(cases[i].text, append_piece, &valid);
        append(&valid, "", 1);
        ck_assert_str_eq((char *)valid.bytes, cases[i].valid);
        free(valid.bytes);
    }
}
END_TEST

START_TEST(numbers_read_back) {
    uint64_t seed = 40;
    for (int i = 0; i < 20000; i++) {
        char text[MS_F64_TEXT + 1], expected[32];
        uint64_t number = support_random(&seed) >> support_random(&seed) % 64;
        text[ms_number_u64(text, number)] = '\0';
        snprintf(expected, sizeof expected, "%ju", (uintmax_t)number);
        ck_assert_str_eq(text, expected);
        double value = random_f64(&seed);
        if (!isfinite(value)) continue;
        size_t n = ms_number_f64(text, value);
        ck_assert_uint_le(n, MS_F64_TEXT);
        text[n] = '\0';
        double back = strtod(text, NULL);
        ck_assert_msg(memcmp(&back, &value, sizeof back) == 0, "%.17g was written as %s", value, text);
    }
}
END_TEST

START_TEST(numbers_look_right) {
    static const struct {
        double value;
        const char *text;
    } cases[] = {{0, "0"},
                 {-0.0, "-0"},
                 {1, "1"},
                 {-1.5, "-1.5"},
                 {0.25, "0.25"},
                 {100, "100"},
                 {0.0001220703125, "0.0001220703125"},
                 {0.1, "0.10000000000000001"},
                 {1e17, "1e+17"},
                 {1e16, "10000000000000000"},
                 {DBL_MAX, "1.7976931348623157e+308"},
                 {4.9e-324, "4.9406564584124654e-324"},
                 {9.9999999999999999e22, "9.9999999999999992e+22"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[MS_F64_TEXT + 1];
        text[ms_number_f64(text, cases[i].value)] = '\0';
        ck_assert_str_eq(text, cases[i].text);
    }
}
END_TEST

START_TEST(checksums_are_zlibs) {
    uint64_t seed = 50;
    unsigned char bytes[1000];
    ck_assert_uint_eq(ms_crc32(0, "123456789", 9), 0xcbf43926u);
    for (int i = 0; i < 200; i++) {
        size_t n = support_random(&seed) % sizeof bytes, cut = n > 0 ? support_random(&seed) % n : 0;
        for (size_t j = 0; j < n; j++) bytes[j] = (unsigned char)support_random(&seed);
        ck_assert_uint_eq(ms_crc32(ms_crc32(0, bytes, cut), bytes + cut, n - cut), crc32(0, bytes, (uInt)n));
    }
}
END_TEST

static Suite *suite(void) {
    Suite *all = suite_create("export");
    TCase *files = tcase_create("files");
    tcase_set_timeout(files, 240);
    tcase_add_loop_test(files, round_trip, 0, 12);
    tcase_add_test(files, records_stay_small);
    tcase_add_loop_test(files, what_changes_meanwhile_loses_no_record, 0, 6);
    tcase_add_test(files, text_that_is_overwritten_loses_no_record);
    tcase_add_test(files, cut_at_every_byte);
    tcase_add_test(files, every_flipped_bit_is_told);
    tcase_add_test(files, mutated_bodies_are_survived);
    tcase_add_loop_test(files, claims_are_not_believed, 0, CLAIMS);
    tcase_add_test(files, thin_and_deep_bodies_are_refused);
    tcase_add_test(files, unknown_kinds_are_left_out);
#ifndef MS_EVERY_TYPE
    tcase_add_test(files, series_cut_at_every_byte);
    tcase_add_test(files, series_behind_damage);
    tcase_add_test(files, tables_written_anew);
#endif
    tcase_add_loop_test(files, foreign_files_are_refused, 0, FOREIGN);
    tcase_add_test(files, added_memory_lives_with_the_file);
    tcase_add_loop_test(files, failures_are_told, 0, 8);
    tcase_add_test(files, a_limit_leaves_what_was_written);
    tcase_add_test(files, a_reader_that_leaves_is_an_error);
    tcase_add_loop_test(files, a_sink_gets_every_byte_in_order, 0, 6);
    tcase_add_loop_test(files, a_page_holds_the_model, 0, 3);
    tcase_add_loop_test(files, a_page_holds_any_bytes, 0, 9);
    suite_add_tcase(all, files);
    TCase *parts = tcase_create("parts");
    tcase_set_timeout(parts, 240);
    tcase_add_test(parts, broken_text_is_replaced);
    tcase_add_test(parts, numbers_read_back);
    tcase_add_test(parts, numbers_look_right);
    tcase_add_test(parts, checksums_are_zlibs);
    suite_add_tcase(all, parts);
    return all;
}

static void remove_directory(void) { /* a test that failed left its files */
    DIR *stream = opendir(directory);
    for (struct dirent *entry; stream != NULL && (entry = readdir(stream)) != NULL;) unlink(path_in(entry->d_name));
    if (stream != NULL) closedir(stream);
    rmdir(directory);
}

int main(void) {
    if (mkdtemp(directory) == NULL) {
        perror(directory);
        return 1;
    }
    int status = support_run(suite());
    remove_directory();
    return status;
}
