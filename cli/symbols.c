/* See symbols.h. The symbolizer owns the modules it opened; rows and strings go into the snapshot's own memory. */
#include "cli/symbols.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/demangle.h"
#include "cli/files.h"
#include "cli/module.h"

#define ALLOCATOR "libmemscope_malloc."
#define PROBLEMS_SHOWN 3
#define PROGRESS_AFTER_NS 500000000ull
#define PROGRESS_EVERY_NS 200000000ull

/* A function at an offset of a module, as a row of `symbols` will have it. */
typedef struct ms_name {
    char *function, *file;
    uint64_t line;
} ms_name_t;

/* What was found at one offset: looked up once, whatever the number of runs and snapshots it is in. */
typedef struct ms_place_names {
    uint64_t offset;
    size_t count; /* 0: this place of the table is free */
    ms_name_t *names;
} ms_place_names_t;

/* A module asked for once; `module` is NULL when it cannot be used. */
typedef struct ms_known_module {
    char *path, *build_id;
    ms_module_t *module;
    ms_place_names_t *places; /* a hash table by offset, at most half full; `capacity` is a power of two */
    size_t place_count, capacity;
} ms_known_module_t;

struct ms_symbolizer {
    char *sysroot, *debug_dirs;
    bool no_symbols;
    ms_known_module_t *known;
    size_t known_count, known_capacity;
    size_t problems;
};

/* The work on one snapshot. */
typedef struct ms_symbol_job {
    ms_symbolizer_t *symbolizer;
    ms_snapshot_file_t *file;
    uint64_t *pcs; /* sorted, each once */
    size_t pc_count;
    const ms_modules_row_t **modules; /* sorted by start */
    size_t module_count;
    ms_symbols_row_t *rows;
    size_t row_count, row_capacity;
} ms_symbol_job_t;

/* libdw takes a relative directory to be one beside the module. */
static char *absolute_path(const char *path) {
    char *absolute = realpath(path, NULL);
    return absolute != NULL ? absolute : ms_format("%s", path);
}

/* "a,b" as libdw wants it: absolute, with ':'. */
static char *absolute_paths(const char *list) {
    char *paths = ms_format("%s", "");
    while (list != NULL && *list != '\0') {
        size_t length = strcspn(list, ",");
        char *one = ms_format("%.*s", (int)length, list), *absolute = absolute_path(one);
        if (!ms_is_directory(absolute)) ms_complain("%s is not a directory: no debug files from it", one);
        char *longer = ms_format("%s%s%s", paths, *paths != '\0' ? ":" : "", absolute);
        free(absolute);
        free(paths);
        free(one);
        paths = longer;
        list += length + (list[length] == ',');
    }
    return paths;
}

ms_symbolizer_t *ms_symbolizer_open(const ms_symbol_options_t *options) {
    ms_symbolizer_t *symbolizer = ms_allocate(sizeof *symbolizer);
    symbolizer->sysroot = absolute_path(options->sysroot == NULL ? "" : options->sysroot);
    if (strcmp(symbolizer->sysroot, "/") == 0) *symbolizer->sysroot = '\0';
    symbolizer->debug_dirs = absolute_paths(options->debug_dir);
    symbolizer->no_symbols = options->no_symbols;
    return symbolizer;
}

static void free_names(ms_known_module_t *known) {
    for (size_t i = 0; i < known->capacity; i++) {
        for (size_t k = 0; k < known->places[i].count; k++) {
            free(known->places[i].names[k].function);
            free(known->places[i].names[k].file);
        }
        free(known->places[i].names);
    }
    free(known->places);
}

void ms_symbolizer_close(ms_symbolizer_t *symbolizer) {
    if (symbolizer == NULL) return;
    if (symbolizer->problems > PROBLEMS_SHOWN)
        ms_complain("%zu more modules without names", symbolizer->problems - PROBLEMS_SHOWN);
    for (size_t i = 0; i < symbolizer->known_count; i++) {
        free_names(&symbolizer->known[i]);
        ms_module_close(symbolizer->known[i].module);
        free(symbolizer->known[i].path);
        free(symbolizer->known[i].build_id);
    }
    free(symbolizer->known);
    free(symbolizer->debug_dirs);
    free(symbolizer->sysroot);
    free(symbolizer);
}

/* ---- modules ---- */

static bool is_same(const char *a, const char *b) {
    return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

static ms_known_module_t *add_module(ms_symbolizer_t *symbolizer, const ms_modules_row_t *row) {
    const ms_module_places_t places = {symbolizer->sysroot, symbolizer->debug_dirs};
    const char *problem;
    if (symbolizer->known_count == symbolizer->known_capacity) {
        symbolizer->known_capacity = symbolizer->known_capacity == 0 ? 16 : 2 * symbolizer->known_capacity;
        symbolizer->known = ms_reallocate(symbolizer->known, symbolizer->known_capacity * sizeof *symbolizer->known);
    }
    ms_known_module_t *known = &symbolizer->known[symbolizer->known_count++];
    *known = (ms_known_module_t){.path = ms_format("%s", row->path)};
    if (row->build_id != NULL) known->build_id = ms_format("%s", row->build_id);
    known->module = ms_module_open(row->path, row->build_id, &places, &problem);
    bool is_file = *row->path == '/'; /* nobody misses the vDSO's names */
    if (known->module == NULL && is_file && symbolizer->problems++ < PROBLEMS_SHOWN)
        ms_complain("%s%s %s: no names from it", symbolizer->sysroot, row->path, problem);
    return known;
}

static ms_known_module_t *get_module(ms_symbolizer_t *symbolizer, const ms_modules_row_t *row) {
    if (row->path == NULL || (*row->path != '/' && strcmp(row->path, MS_VDSO_PATH) != 0)) return NULL;
    for (size_t i = 0; i < symbolizer->known_count; i++)
        if (is_same(symbolizer->known[i].path, row->path) && is_same(symbolizer->known[i].build_id, row->build_id))
            return &symbolizer->known[i];
    return add_module(symbolizer, row);
}

static int by_start(const void *a, const void *b) {
    const ms_modules_row_t *left = *(const ms_modules_row_t *const *)a, *right = *(const ms_modules_row_t *const *)b;
    return left->start < right->start ? -1 : left->start > right->start;
}

static void sort_modules(ms_symbol_job_t *job) {
    const ms_model_t *model = &job->file->model;
    job->module_count = model->modules.count;
    job->modules = ms_allocate(job->module_count * sizeof *job->modules);
    for (size_t i = 0; i < job->module_count; i++) job->modules[i] = &model->modules.rows[i];
    if (job->module_count > 0) qsort(job->modules, job->module_count, sizeof *job->modules, by_start);
}

/* The module mapped at `pc` (the byte before a return address: the call may be a function's last instruction). */
static const ms_modules_row_t *module_at(const ms_symbol_job_t *job, uint64_t pc) {
    size_t first = 0, last = job->module_count;
    while (first < last) {
        size_t middle = first + (last - first) / 2;
        if (job->modules[middle]->start < pc)
            first = middle + 1;
        else
            last = middle;
    }
    return first > 0 && pc <= job->modules[first - 1]->end ? job->modules[first - 1] : NULL;
}

/* ---- addresses ---- */

static bool is_allocator(const ms_modules_row_t *module) {
    return module != NULL && module->path != NULL &&
           strncmp(ms_base_name(module->path), ALLOCATOR, sizeof ALLOCATOR - 1) == 0;
}

/* A stack that lies wholly in the allocator stays as it is. */
static void cut_allocator_frames(const ms_symbol_job_t *job) {
    ms_model_t *model = &job->file->model;
    for (size_t i = 0; i < model->sites.count; i++) {
        ms_pcs_t *stack = &model->sites.rows[i].stack;
        uint64_t own = 0;
        while (own < stack->count && is_allocator(module_at(job, stack->pcs[own]))) own++;
        if (own == stack->count) continue;
        stack->pcs += own;
        stack->count -= own;
    }
}

static int by_value(const void *a, const void *b) {
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;
    return left < right ? -1 : left > right;
}

static void collect_pcs(ms_symbol_job_t *job) {
    const ms_model_t *model = &job->file->model;
    size_t total = 0, kept = 0;
    for (size_t i = 0; i < model->sites.count; i++) total += model->sites.rows[i].stack.count;
    job->pcs = ms_allocate(total * sizeof *job->pcs);
    total = 0;
    for (size_t i = 0; i < model->sites.count; i++) {
        const ms_pcs_t *stack = &model->sites.rows[i].stack;
        if (stack->count > 0) memcpy(job->pcs + total, stack->pcs, stack->count * sizeof *job->pcs);
        total += stack->count;
    }
    if (total > 0) qsort(job->pcs, total, sizeof *job->pcs, by_value);
    for (size_t i = 0; i < total; i++)
        if (kept == 0 || job->pcs[kept - 1] != job->pcs[i]) job->pcs[kept++] = job->pcs[i];
    job->pc_count = kept;
}

/* ---- rows ---- */

static int by_pc_and_depth(const void *a, const void *b) {
    const ms_symbols_row_t *left = a, *right = b;
    if (left->pc != right->pc) return left->pc < right->pc ? -1 : 1;
    return left->depth < right->depth ? -1 : left->depth > right->depth;
}

const ms_symbols_row_t *ms_symbols_of(const ms_model_t *model, uint64_t pc, size_t *count) {
    size_t first = 0, last = model->symbols.count;
    const ms_symbols_row_t *rows = model->symbols.rows;
    while (first < last) {
        size_t middle = first + (last - first) / 2;
        if (rows[middle].pc < pc)
            first = middle + 1;
        else
            last = middle;
    }
    for (*count = 0; first + *count < model->symbols.count && rows[first + *count].pc == pc;) ++*count;
    return *count > 0 ? &rows[first] : NULL;
}

static const char *keep_text(ms_symbol_job_t *job, const char *text) {
    if (text == NULL) return NULL;
    size_t bytes = strlen(text) + 1;
    char *kept = ms_snapshot_file_alloc(job->file, bytes);
    if (kept == NULL) ms_out_of_memory();
    return memcpy(kept, text, bytes);
}

/* Takes "." and "x/.." out of a path, in place, by its text alone. */
static void tidy_path(char *path) {
    char *to = path, *root = path + (*path == '/');
    for (const char *from = path; *from != '\0';) {
        size_t length = strcspn(from, "/"), whole = length + (from[length] == '/');
        bool up = length == 2 && memcmp(from, "..", 2) == 0;
        bool can_go_up =
            to > root && !(to - path >= 3 && memcmp(to - 3, "../", 3) == 0 && (to - 3 == path || to[-4] == '/'));
        if (up && can_go_up) {
            for (to--; to > root && to[-1] != '/';) to--;
        } else if (!(length == 1 && *from == '.') && !(length == 0 && to > path) && !(up && root > path)) {
            memmove(to, from, whole);
            to += whole;
        }
        from += whole;
    }
    *to = '\0';
}

static char *path_of(const ms_frame_t *frame) {
    if (frame->file == NULL) return NULL;
    const char *directory = frame->directory;
    size_t length = directory == NULL ? 0 : strlen(directory);
    bool relative = *frame->file != '/' && directory != NULL;
    /* libdw has joined the two already for a file in that directory itself, not for those in others. */
    if (relative && strncmp(frame->file, directory, length) == 0 && frame->file[length] == '/') relative = false;
    char *path = relative ? ms_format("%s/%s", directory, frame->file) : ms_format("%s", frame->file);
    tidy_path(path);
    return path;
}

/* ---- names, looked up once ---- */

static ms_place_names_t *find_place(ms_place_names_t *places, size_t capacity, uint64_t offset) {
    size_t at = (size_t)(offset * 0x9e3779b97f4a7c15u >> 32) & (capacity - 1);
    while (places[at].count > 0 && places[at].offset != offset) at = (at + 1) & (capacity - 1);
    return &places[at];
}

static void grow_places(ms_known_module_t *known) {
    size_t capacity = known->capacity == 0 ? 64 : 2 * known->capacity;
    ms_place_names_t *places = ms_allocate(capacity * sizeof *places);
    for (size_t i = 0; i < known->capacity; i++)
        if (known->places[i].count > 0) *find_place(places, capacity, known->places[i].offset) = known->places[i];
    free(known->places);
    known->places = places;
    known->capacity = capacity;
}

static const ms_place_names_t *names_at(ms_known_module_t *known, uint64_t offset) {
    ms_frame_t frames[MS_INLINE_DEPTH];
    if (2 * known->place_count >= known->capacity) grow_places(known);
    ms_place_names_t *place = find_place(known->places, known->capacity, offset);
    if (place->count > 0) return place;
    known->place_count++;
    place->offset = offset;
    place->count = ms_module_lookup(known->module, offset - 1, frames);
    place->names = ms_allocate(place->count * sizeof *place->names);
    for (size_t i = 0; i < place->count; i++)
        place->names[i] = (ms_name_t){ms_demangle(frames[i].function), path_of(&frames[i]), frames[i].line};
    return place;
}

/* ---- rows of the snapshot ---- */

static void add_row(ms_symbol_job_t *job, ms_symbols_row_t row) {
    if (job->row_count == job->row_capacity) {
        job->row_capacity = job->row_capacity == 0 ? 1024 : 2 * job->row_capacity;
        job->rows = ms_reallocate(job->rows, job->row_capacity * sizeof *job->rows);
    }
    job->rows[job->row_count++] = row;
}

/* `nameless`: also when the file knows no more than the module. */
static bool keep_known_rows(ms_symbol_job_t *job, uint64_t pc, bool nameless) {
    size_t count;
    if (job->symbolizer->no_symbols) return false;
    const ms_symbols_row_t *rows = ms_symbols_of(&job->file->model, pc, &count);
    if (rows == NULL || (rows[0].function == NULL && !nameless)) return false;
    for (size_t i = 0; i < count; i++) add_row(job, rows[i]);
    return true;
}

static void name_pc(ms_symbol_job_t *job, uint64_t pc) {
    static const ms_name_t unknown;
    const ms_modules_row_t *row = module_at(job, pc);
    if (keep_known_rows(job, pc, row == NULL)) return;
    if (row == NULL) {
        add_row(job, (ms_symbols_row_t){.pc = pc, .offset = pc});
        return;
    }
    uint64_t offset = pc - row->bias;
    ms_known_module_t *known = job->symbolizer->no_symbols ? NULL : get_module(job->symbolizer, row);
    const ms_place_names_t *place = known != NULL && known->module != NULL ? names_at(known, offset) : NULL;
    for (size_t i = 0; i < (place != NULL ? place->count : 1); i++) {
        const ms_name_t *name = place != NULL ? &place->names[i] : &unknown;
        add_row(job, (ms_symbols_row_t){.pc = pc,
                                        .depth = i,
                                        .function = keep_text(job, name->function),
                                        .line = name->line,
                                        .file = keep_text(job, name->file),
                                        .module = row->path == NULL ? NULL : ms_base_name(row->path),
                                        .offset = offset});
    }
}

/* ---- the whole ---- */

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void name_all(ms_symbol_job_t *job) {
    uint64_t begin = now_ns(), shown = 0;
    bool may_show = isatty(STDERR_FILENO) == 1;
    for (size_t i = 0; i < job->pc_count; i++) {
        name_pc(job, job->pcs[i]);
        uint64_t now = may_show ? now_ns() : 0;
        if (!may_show || now - begin < PROGRESS_AFTER_NS || now - shown < PROGRESS_EVERY_NS) continue;
        shown = now;
        fprintf(stderr, "\rmemscope: looking up names: %zu of %zu addresses", i + 1, job->pc_count);
    }
    if (shown != 0) fprintf(stderr, "\r%60s\r", "");
}

static void sort_known_rows(ms_model_t *model) {
    if (model->symbols.count > 0)
        qsort(model->symbols.rows, model->symbols.count, sizeof *model->symbols.rows, by_pc_and_depth);
}

static void give_rows(ms_symbol_job_t *job) {
    ms_model_t *model = &job->file->model;
    model->symbols.count = job->row_count;
    model->symbols.rows = NULL;
    if (job->row_count == 0) return;
    model->symbols.rows = ms_snapshot_file_alloc(job->file, job->row_count * sizeof *job->rows);
    if (model->symbols.rows == NULL) ms_out_of_memory();
    memcpy(model->symbols.rows, job->rows, job->row_count * sizeof *job->rows);
}

void ms_symbolize(ms_symbolizer_t *symbolizer, ms_snapshot_file_t *file) {
    ms_symbol_job_t job = {.symbolizer = symbolizer, .file = file};
    sort_modules(&job);
    cut_allocator_frames(&job);
    collect_pcs(&job);
    sort_known_rows(&file->model);
    name_all(&job);
    give_rows(&job);
    free(job.rows);
    free(job.modules);
    free(job.pcs);
}
