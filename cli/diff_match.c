/* What makes rows of two snapshots the same; see diff.h. */
#include "cli/diff.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/files.h"
#include "cli/site_name.h"

#define SEPARATOR '\x1f' /* between the parts of a key: in no name that a person wrote */
#define GENERATIONS 64   /* parents of a task followed upwards; in a damaged file they may run in a circle */

/* ---- sites ---- */

/* Names of the copies a compiler makes of a function for itself end so; another build has other copies. */
static size_t written_length(const char *function) {
    static const char *const marks[] = {".isra.", ".constprop.", ".part.", ".cold", ".lto_priv.", ".llvm."};
    size_t length = strlen(function);
    for (size_t i = 0; i < sizeof marks / sizeof marks[0]; i++) {
        const char *at = strstr(function, marks[i]);
        if (at != NULL && at != function && (size_t)(at - function) < length) length = (size_t)(at - function);
    }
    return length;
}

static const char *build_id_at(const ms_model_t *model, uint64_t pc) {
    for (size_t i = 0; i < model->modules.count; i++) {
        const ms_modules_row_t *row = &model->modules.rows[i];
        if (row->start < pc && pc <= row->end) return row->build_id;
    }
    return NULL;
}

static void put_frame(FILE *key, const ms_model_t *model, const ms_symbols_row_t *row, ms_diff_by_t by) {
    if (row->function != NULL) {
        fprintf(key, "%.*s", (int)written_length(row->function), row->function);
        if (by == MS_DIFF_BY_LINE && row->file != NULL)
            fprintf(key, " %s:%llu", row->file, (unsigned long long)row->line);
    } else if (row->module != NULL) {
        const char *build_id = build_id_at(model, row->pc);
        fprintf(key, "%s+%llx", build_id != NULL ? build_id : row->module, (unsigned long long)row->offset);
    } else {
        fprintf(key, "%llx", (unsigned long long)row->pc); /* of no module: the same in one run only */
    }
    fputc(SEPARATOR, key);
}

static void put_stack(FILE *key, const ms_model_t *model, const ms_sites_row_t *site, ms_diff_by_t by) {
    ms_place_t place = {0, 0};
    const ms_symbols_row_t *row;
    if (by == MS_DIFF_BY_FUNCTION) {
        row = ms_telling_symbol(model, site, &place);
        if (row != NULL) put_frame(key, model, row, by);
        return;
    }
    for (; (row = ms_next_symbol(model, site, &place)) != NULL; place.depth++) put_frame(key, model, row, by);
}

static const char *or_nothing(const char *text) {
    return text != NULL ? text : "";
}

char *ms_site_key(const ms_model_t *model, const ms_sites_row_t *site, ms_diff_by_t by) {
    char *text = NULL;
    size_t bytes;
    FILE *key = open_memstream(&text, &bytes);
    if (key == NULL) ms_out_of_memory();
    if (ms_site_is_variable(site)) {
        fprintf(key, "variable%c%s%c%s%c%s%c%s", SEPARATOR, or_nothing(site->variable), SEPARATOR,
                or_nothing(site->type), SEPARATOR, or_nothing(site->function), SEPARATOR,
                ms_base_name(or_nothing(site->file)));
        if (by == MS_DIFF_BY_LINE) fprintf(key, "%c%llu", SEPARATOR, (unsigned long long)site->line);
    } else if (site->stack.count == 0) {
        fprintf(key, "%c%s", SEPARATOR, or_nothing(site->kind));
    } else {
        put_stack(key, model, site, by);
    }
    if (fclose(key) != 0) ms_out_of_memory();
    return text;
}

char *ms_site_key_name(const ms_model_t *model, const ms_sites_row_t *site, ms_diff_by_t by) {
    ms_place_t place;
    if (by != MS_DIFF_BY_FUNCTION || ms_site_is_variable(site)) return ms_site_chain(model, site);
    const ms_symbols_row_t *row = ms_telling_symbol(model, site, &place);
    if (row == NULL || row->function == NULL) return ms_site_name(model, site);
    return ms_format("%.*s in %s", (int)written_length(row->function), row->function,
                     row->module != NULL ? row->module : "?");
}

/* ---- tasks and threads ---- */

static int by_id(const void *a, const void *b) {
    const ms_tasks_row_t *left = *(const ms_tasks_row_t *const *)a, *right = *(const ms_tasks_row_t *const *)b;
    return left->id < right->id ? -1 : left->id > right->id;
}

static const ms_tasks_row_t *find_task(const ms_tasks_row_t *const *tasks, size_t count, uint64_t id) {
    const ms_tasks_row_t wanted = {.id = id}, *key = &wanted;
    const ms_tasks_row_t *const *found = bsearch(&key, tasks, count, sizeof *tasks, by_id);
    return found != NULL ? *found : NULL;
}

static const char *task_name(const ms_tasks_row_t *task) {
    if (task->name != NULL) return task->name;
    if (task->id == 0) return "(outside any task)";
    return task->state != NULL && strcmp(task->state, "other") == 0 ? "(further tasks together)" : "?";
}

static char *task_path(const ms_tasks_row_t *const *tasks, size_t count, const ms_tasks_row_t *task) {
    char *path = ms_format("%s", task_name(task));
    for (int i = 0; task->parent != MS_NULL && i < GENERATIONS; i++) {
        task = find_task(tasks, count, task->parent);
        if (task == NULL) break;
        char *longer = ms_format("%s / %s", task_name(task), path);
        free(path);
        path = longer;
    }
    return path;
}

char **ms_task_paths(const ms_model_t *model) {
    size_t count = model->tasks.count;
    const ms_tasks_row_t **tasks = ms_allocate(count * sizeof *tasks);
    char **paths = ms_allocate(count * sizeof *paths);
    for (size_t i = 0; i < count; i++) tasks[i] = &model->tasks.rows[i];
    if (count > 0) qsort(tasks, count, sizeof *tasks, by_id);
    for (size_t i = 0; i < count; i++) paths[i] = task_path(tasks, count, &model->tasks.rows[i]);
    free(tasks);
    return paths;
}

const char *ms_thread_key(const ms_threads_row_t *thread) {
    if (thread->state != NULL && strcmp(thread->state, "folded") == 0) return "(signal handlers, ended threads)";
    return thread->name != NULL ? thread->name : "?";
}
