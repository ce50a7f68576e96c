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
#define PROGRESS_AFTER_NS 1000000000ull
#define PROGRESS_EVERY_NS 200000000ull

/* A module asked for once; `module` is NULL when it cannot be used. */
typedef struct ms_known_module {
    char *path, *build_id;
    ms_module_t *module;
} ms_known_module_t;

struct ms_symbolizer {
    char *sysroot;
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

ms_symbolizer_t *ms_symbolizer_open(const char *sysroot) {
    ms_symbolizer_t *symbolizer = ms_allocate(sizeof *symbolizer);
    /* libdw takes a relative directory to be one beside the module. */
    char *absolute = sysroot == NULL ? NULL : realpath(sysroot, NULL);
    const char *root = absolute != NULL ? absolute : sysroot == NULL ? "" : sysroot;
    symbolizer->sysroot = ms_format("%s", strcmp(root, "/") == 0 ? "" : root);
    free(absolute);
    return symbolizer;
}

void ms_symbolizer_close(ms_symbolizer_t *symbolizer) {
    if (symbolizer == NULL) return;
    if (symbolizer->problems > PROBLEMS_SHOWN)
        ms_complain("%zu more modules without names", symbolizer->problems - PROBLEMS_SHOWN);
    for (size_t i = 0; i < symbolizer->known_count; i++) {
        ms_module_close(symbolizer->known[i].module);
        free(symbolizer->known[i].path);
        free(symbolizer->known[i].build_id);
    }
    free(symbolizer->known);
    free(symbolizer->sysroot);
    free(symbolizer);
}

/* ---- modules ---- */

static bool is_same(const char *a, const char *b) {
    return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

static ms_module_t *add_module(ms_symbolizer_t *symbolizer, const ms_modules_row_t *row) {
    const char *problem;
    if (symbolizer->known_count == symbolizer->known_capacity) {
        symbolizer->known_capacity = symbolizer->known_capacity == 0 ? 16 : 2 * symbolizer->known_capacity;
        symbolizer->known = ms_reallocate(symbolizer->known, symbolizer->known_capacity * sizeof *symbolizer->known);
    }
    ms_known_module_t *known = &symbolizer->known[symbolizer->known_count++];
    known->path = ms_format("%s", row->path);
    known->build_id = row->build_id == NULL ? NULL : ms_format("%s", row->build_id);
    known->module = ms_module_open(row->path, row->build_id, symbolizer->sysroot, &problem);
    if (known->module == NULL && symbolizer->problems++ < PROBLEMS_SHOWN)
        ms_complain("%s%s %s: no names from it", symbolizer->sysroot, row->path, problem);
    return known->module;
}

static ms_module_t *get_module(ms_symbolizer_t *symbolizer, const ms_modules_row_t *row) {
    if (row->path == NULL || row->path[0] != '/') return NULL; /* the vDSO, or memory without a file */
    for (size_t i = 0; i < symbolizer->known_count; i++)
        if (is_same(symbolizer->known[i].path, row->path) && is_same(symbolizer->known[i].build_id, row->build_id))
            return symbolizer->known[i].module;
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

static const char *keep_path(ms_symbol_job_t *job, const ms_frame_t *frame) {
    if (frame->file == NULL) return NULL;
    const char *directory = frame->directory;
    size_t length = directory == NULL ? 0 : strlen(directory);
    bool relative = *frame->file != '/' && directory != NULL;
    /* libdw has joined the two already for a file in that directory itself, not for those in others. */
    if (relative && strncmp(frame->file, directory, length) == 0 && frame->file[length] == '/') relative = false;
    char *path = relative ? ms_format("%s/%s", directory, frame->file) : ms_format("%s", frame->file);
    tidy_path(path);
    const char *kept = keep_text(job, path);
    free(path);
    return kept;
}

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
    const ms_symbols_row_t *rows = ms_symbols_of(&job->file->model, pc, &count);
    if (rows == NULL || (rows[0].function == NULL && !nameless)) return false;
    for (size_t i = 0; i < count; i++) add_row(job, rows[i]);
    return true;
}

static void name_pc(ms_symbol_job_t *job, uint64_t pc) {
    ms_frame_t frames[MS_INLINE_DEPTH];
    const ms_modules_row_t *row = module_at(job, pc);
    if (keep_known_rows(job, pc, row == NULL)) return;
    if (row == NULL) {
        add_row(job, (ms_symbols_row_t){.pc = pc, .offset = pc});
        return;
    }
    uint64_t offset = pc - row->bias;
    const char *base = row->path == NULL ? NULL : ms_base_name(row->path);
    ms_module_t *module = get_module(job->symbolizer, row);
    size_t count = 1;
    memset(frames, 0, sizeof frames[0]);
    if (module != NULL) count = ms_module_lookup(module, offset - 1, frames);
    for (size_t i = 0; i < count; i++) {
        char *name = ms_demangle(frames[i].function);
        add_row(job, (ms_symbols_row_t){.pc = pc,
                                        .depth = i,
                                        .function = keep_text(job, name),
                                        .line = frames[i].line,
                                        .file = keep_path(job, &frames[i]),
                                        .module = base,
                                        .offset = offset});
        free(name);
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
