#include "cli/suppress.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/files.h"
#include "cli/symbols.h"

struct ms_suppressions {
    char **patterns;
    size_t count;
};

/* ---- matching ---- */

/* Whether `length` bytes of a pattern without * are at `text`. */
static bool is_at(const char *text, const char *part, size_t length) {
    return strncmp(text, part, length) == 0;
}

static const char *find(const char *text, const char *part, size_t length) {
    for (; *text != '\0'; text++)
        if (is_at(text, part, length)) return text;
    return length == 0 ? text : NULL;
}

/* The parts between the stars are looked for from left to right, the first fit of each; the last one of a pattern with
 * $ must be the name's end. */
bool ms_pattern_matches(const char *pattern, const char *text) {
    bool at_start = *pattern == '^';
    if (text == NULL || *text == '\0') return false;
    if (at_start) pattern++;
    size_t left = strlen(pattern);
    bool at_end = left > 0 && pattern[left - 1] == '$';
    if (at_end) left--;
    for (;;) {
        const char *star = memchr(pattern, '*', left);
        size_t length = star != NULL ? (size_t)(star - pattern) : left;
        if (star == NULL && at_end) {
            size_t rest = strlen(text);
            return length <= rest && (!at_start || length == rest) && is_at(text + rest - length, pattern, length);
        }
        const char *found = at_start ? (is_at(text, pattern, length) ? text : NULL) : find(text, pattern, length);
        if (found == NULL) return false;
        if (star == NULL) return true;
        text = found + length;
        left -= length + 1;
        pattern = star + 1;
        at_start = false;
    }
}

static bool any_matches(const ms_suppressions_t *suppressions, const char *text, const char **by) {
    for (size_t i = 0; text != NULL && i < suppressions->count; i++)
        if (ms_pattern_matches(suppressions->patterns[i], text)) {
            *by = suppressions->patterns[i];
            return true;
        }
    return false;
}

static const char *module_path(const ms_model_t *model, uint64_t pc) {
    for (size_t i = 0; i < model->modules.count; i++)
        if (pc >= model->modules.rows[i].start && pc < model->modules.rows[i].end) return model->modules.rows[i].path;
    return NULL;
}

/* What libc allocates for a thread of the library's own (intervals, event log) is no leak of the program's. */
static bool is_own(const ms_model_t *model, const ms_sites_row_t *site) {
    static const char library[] = "/libmemscope_malloc.so";
    for (uint64_t i = 0; i < site->stack.count; i++) {
        const char *path = module_path(model, site->stack.pcs[i]);
        if (path != NULL && strstr(path, library) != NULL) return true;
    }
    return false;
}

const char *ms_suppressed_by(const ms_suppressions_t *suppressions, const ms_model_t *model, const ms_sites_row_t *site) {
    const char *by = NULL;
    if (site == NULL) return NULL;
    if (is_own(model, site)) return "memscope's own thread";
    if (suppressions == NULL) return NULL;
    if (any_matches(suppressions, site->variable, &by) || any_matches(suppressions, site->function, &by) ||
        any_matches(suppressions, site->file, &by))
        return by;
    for (uint64_t i = 0; i < site->stack.count; i++) {
        size_t count;
        const ms_symbols_row_t *rows = ms_symbols_of(model, site->stack.pcs[i], &count);
        if (any_matches(suppressions, module_path(model, site->stack.pcs[i]), &by)) return by;
        for (size_t k = 0; k < count; k++)
            if (any_matches(suppressions, rows[k].function, &by) || any_matches(suppressions, rows[k].file, &by) ||
                any_matches(suppressions, rows[k].module, &by))
                return by;
    }
    return NULL;
}

/* ---- reading ---- */

static void add_line(ms_suppressions_t *suppressions, const char *path, size_t number, char *line) {
    static const char kind[] = "leak:";
    line += strspn(line, " \t");
    line[strcspn(line, "\r\n")] = '\0';
    for (size_t length = strlen(line); length > 0 && (line[length - 1] == ' ' || line[length - 1] == '\t');)
        line[--length] = '\0';
    if (*line == '\0' || *line == '#') return;
    const char *pattern = strncmp(line, kind, sizeof kind - 1) == 0 ? line + sizeof kind - 1 : NULL;
    if (pattern == NULL || pattern[strspn(pattern, "*^$")] == '\0') {
        ms_complain("%s:%zu: '%s' is not leak:PATTERN; ignored", path, number, line);
        return;
    }
    suppressions->patterns =
        ms_reallocate(suppressions->patterns, (suppressions->count + 1) * sizeof *suppressions->patterns);
    suppressions->patterns[suppressions->count++] = ms_format("%s", pattern);
}

static bool read_file(ms_suppressions_t *suppressions, const char *path) {
    char *line = NULL;
    size_t room = 0, number = 0;
    FILE *file = ms_is_directory(path) ? NULL : fopen(path, "re");
    if (file == NULL) {
        ms_complain("cannot read the suppressions in %s: %s", path, ms_is_directory(path) ? strerror(EISDIR) : strerror(errno));
        return false;
    }
    while (getline(&line, &room, file) >= 0) add_line(suppressions, path, ++number, line);
    bool failed = ferror(file) != 0;
    if (failed) ms_complain("cannot read the suppressions in %s: %s", path, strerror(errno));
    free(line);
    fclose(file);
    return !failed;
}

ms_suppressions_t *ms_suppressions_read(const char *paths) {
    ms_suppressions_t *suppressions = ms_allocate(sizeof *suppressions);
    char *copy = ms_format("%s", paths), *rest = copy;
    bool good = true;
    for (char *path; good && (path = strsep(&rest, ",")) != NULL;) good = read_file(suppressions, path);
    free(copy);
    if (good) return suppressions;
    ms_suppressions_free(suppressions);
    return NULL;
}

void ms_suppressions_free(ms_suppressions_t *suppressions) {
    if (suppressions == NULL) return;
    for (size_t i = 0; i < suppressions->count; i++) free(suppressions->patterns[i]);
    free(suppressions->patterns);
    free(suppressions);
}
