/* How often names are looked up: the module below stands for cli/module.c and counts. What a lookup costs is its own
 * business (libdw's); that it is done once for each place of a module is what this checks. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/module.h"
#include "cli/symbols.h"
#include "export/file.h"
#include "tests/support.h"

#define SITES 10000
#define DEPTH 20
#define PLACES 10007 /* distinct places in the module; a prime, so that the stacks below reach all of them */
#define MODULE_BYTES 0x1000000u
#define STEP 16u

/* ---- the module that counts ---- */

struct ms_module {
    uint64_t last;
    char name[32];
};

static size_t opened, looked_up;

ms_module_t *ms_module_open(const char *path, const char *build_id, const ms_module_places_t *places,
                            const char **problem) {
    (void)build_id;
    (void)places;
    opened++;
    *problem = "is not there";
    return strcmp(path, "/gone") == 0 ? NULL : calloc(1, sizeof(ms_module_t));
}

void ms_module_close(ms_module_t *module) {
    free(module);
}

/* Two functions at every other place. */
size_t ms_module_lookup(ms_module_t *module, uint64_t address, ms_frame_t frames[MS_INLINE_DEPTH]) {
    looked_up++;
    snprintf(module->name, sizeof module->name, "f%llu", (unsigned long long)(address / STEP));
    size_t count = 1 + address / STEP % 2;
    for (size_t i = 0; i < count; i++) frames[i] = (ms_frame_t){.function = module->name, .file = "f.c", .line = i + 1};
    return count;
}

/* ---- snapshots ---- */

static char path[64];

static void set_up(void) {
    strcpy(path, "/tmp/memscope-symbolize-XXXXXX");
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    close(fd);
    opened = looked_up = 0;
}

static void tear_down(void) {
    unlink(path);
}

static uint64_t place(size_t site, size_t depth) {
    return (uint64_t)((site * DEPTH + depth * 7919) % PLACES + 1) * STEP + 1;
}

/* SITES stacks in `module` at `start`, as a file has them. */
static ms_snapshot_file_t *make_snapshot(const char *module, uint64_t start) {
    static ms_sites_row_t sites[SITES];
    static uint64_t pcs[SITES][DEPTH];
    ms_modules_row_t row = {
        .path = module, .build_id = "aa", .start = start, .end = start + MODULE_BYTES, .bias = start};
    ms_model_t model = {.sites = {sites, SITES}, .modules = {&row, 1}};
    char error[256];
    for (size_t i = 0; i < SITES; i++) {
        for (size_t k = 0; k < DEPTH; k++) pcs[i][k] = start + place(i, k);
        sites[i] = (ms_sites_row_t){.id = i + 1, .kind = "stack", .stack = {.pcs = pcs[i], .count = DEPTH}};
    }
    ck_assert_int_eq(ms_export_file(&model, path, MS_FORMAT_MSGPACK), 0);
    ms_snapshot_file_t *file = ms_read_file(path, error, sizeof error);
    ck_assert_msg(file != NULL, "%s", error);
    return file;
}

static void check_names(const ms_snapshot_file_t *file, uint64_t start) {
    for (size_t i = 0; i < SITES; i += 97) {
        size_t count;
        uint64_t number = (place(i, 0) - 1) / STEP;
        char name[32];
        const ms_symbols_row_t *rows = ms_symbols_of(&file->model, start + place(i, 0), &count);
        snprintf(name, sizeof name, "f%llu", (unsigned long long)number);
        ck_assert_ptr_nonnull(rows);
        ck_assert_uint_eq(count, 1 + number % 2);
        ck_assert_str_eq(rows[0].function, name);
        ck_assert_uint_eq(rows[count - 1].line, count);
        ck_assert_uint_eq(rows[0].offset, place(i, 0));
    }
}

START_TEST(each_place_once) {
    ms_symbolizer_t *symbolizer = ms_symbolizer_open(&(ms_symbol_options_t){.sysroot = NULL});
    ms_snapshot_file_t *first = make_snapshot("/module", 0x10000000);
    ms_symbolize(symbolizer, first);
    ck_assert_uint_eq(opened, 1);
    ck_assert_uint_eq(looked_up, PLACES);
    check_names(first, 0x10000000);

    /* the same again, and the same module at another address, in another file */
    ms_symbolize(symbolizer, first);
    ms_snapshot_file_t *second = make_snapshot("/module", 0x7f0000000000);
    ms_symbolize(symbolizer, second);
    ck_assert_uint_eq(opened, 1);
    ck_assert_uint_eq(looked_up, PLACES);
    ms_symbolizer_close(symbolizer); /* what it found belongs to the files */
    check_names(first, 0x10000000);
    check_names(second, 0x7f0000000000);
    ms_snapshot_file_free(first);
    ms_snapshot_file_free(second);
}
END_TEST

START_TEST(nothing_for_nothing) {
    ms_symbolizer_t *symbolizer = ms_symbolizer_open(&(ms_symbol_options_t){.no_symbols = true});
    ms_snapshot_file_t *file = make_snapshot("/module", 0x10000000);
    ms_symbolize(symbolizer, file);
    ms_symbolizer_close(symbolizer);
    ck_assert_uint_eq(opened + looked_up, 0);
    ck_assert_uint_eq(file->model.symbols.count, PLACES);
    ck_assert_ptr_null(file->model.symbols.rows[0].function);
    ck_assert_str_eq(file->model.symbols.rows[0].module, "module");
    ms_snapshot_file_free(file);

    symbolizer = ms_symbolizer_open(&(ms_symbol_options_t){.sysroot = NULL});
    file = make_snapshot("/gone", 0x10000000);
    ms_symbolize(symbolizer, file);
    ms_symbolizer_close(symbolizer);
    ck_assert_uint_eq(opened, 1); /* asked for once, missing or not */
    ck_assert_uint_eq(looked_up, 0);
    ms_snapshot_file_free(file);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("symbolize");
    TCase *test = tcase_create("lookups");
    tcase_add_checked_fixture(test, set_up, tear_down);
    tcase_set_timeout(test, 300);
    tcase_add_test(test, each_place_once);
    tcase_add_test(test, nothing_for_nothing);
    suite_add_tcase(suite, test);
    return support_run(suite);
}
