/* See site_name.h. */
#include "cli/site_name.h"

#include <stdlib.h>
#include <string.h>

#include "cli/files.h"
#include "cli/symbols.h"

#define CALLERS_SHOWN 3 /* behind a site's own function in a table */

/* Functions that only pass a request on: the frame that called them says more. */
static bool passes_on(const char *function) {
    static const char *const prefixes[] = {
        "std::",  "__gnu_cxx::", "operator new", "void* std::", "alloc::", "<alloc::",
        "core::", "<core::",     "__rust_",      "__rdl_",      "__rustc"};
    static const char *const wrappers[] = {"malloc", "calloc", "realloc"}; /* inlined ones, as in the loader */
    for (size_t i = 0; i < sizeof wrappers / sizeof wrappers[0]; i++)
        if (strcmp(function, wrappers[i]) == 0) return true;
    for (size_t i = 0; i < sizeof prefixes / sizeof prefixes[0]; i++)
        if (strncmp(function, prefixes[i], strlen(prefixes[i])) == 0) return true;
    return false;
}

bool ms_site_is_variable(const ms_sites_row_t *site) {
    return site->kind != NULL && strcmp(site->kind, "variable") == 0;
}

/* A C++ name without its parameters and template arguments, for a narrow column. */
static char *short_name(const char *function) {
    char *name = ms_format("%s", function), *to = name;
    int depth = 0;
    if (strchr(function, '<') == NULL && strchr(function, '(') == NULL) return name;
    if (strncmp(function, "operator", 8) == 0 || strstr(function, "::operator") != NULL || *function == '<')
        return name;
    for (const char *from = function; *from != '\0'; from++) {
        if (*from == '(' && depth == 0 && from != function && strncmp(from, "(anonymous namespace)", 21) != 0) break;
        if (*from == '<') depth++;
        if (depth == 0) *to++ = *from;
        if (*from == '>' && depth > 0) depth--;
    }
    *to = '\0';
    return name;
}

static const ms_symbols_row_t *symbol_at(const ms_model_t *model, const ms_sites_row_t *site, ms_place_t place) {
    size_t count;
    const ms_symbols_row_t *rows = ms_symbols_of(model, site->stack.pcs[place.i], &count);
    return place.depth < count ? &rows[place.depth] : NULL;
}

/* The next function outwards, `place` left where it is. NULL at the end of the stack. */
const ms_symbols_row_t *ms_next_symbol(const ms_model_t *model, const ms_sites_row_t *site, ms_place_t *place) {
    while (place->i < site->stack.count) {
        const ms_symbols_row_t *row = symbol_at(model, site, *place);
        if (row != NULL) return row;
        *place = (ms_place_t){place->i + 1, 0};
    }
    return NULL;
}

/* The innermost function that does not merely pass a request on; else the innermost. */
const ms_symbols_row_t *ms_telling_symbol(const ms_model_t *model, const ms_sites_row_t *site, ms_place_t *place) {
    const ms_symbols_row_t *row;
    for (*place = (ms_place_t){0, 0}; (row = ms_next_symbol(model, site, place)) != NULL; place->depth++)
        if (row->function != NULL && !passes_on(row->function)) return row;
    *place = (ms_place_t){0, 0};
    return ms_next_symbol(model, site, place);
}

char *ms_frame_text(const ms_symbols_row_t *row, bool full) {
    if (row->function == NULL && row->module == NULL) return ms_format("0x%llx", (unsigned long long)row->pc);
    if (row->function == NULL) return ms_format("%s+0x%llx", row->module, (unsigned long long)row->offset);
    char *name = full ? ms_format("%s", row->function) : short_name(row->function), *text;
    const char *file = row->file == NULL ? NULL : full ? row->file : ms_base_name(row->file);
    if (file != NULL)
        text = ms_format("%s %s:%llu", name, file, (unsigned long long)row->line);
    else
        text = ms_format("%s in %s", name, row->module != NULL ? row->module : "?");
    free(name);
    return text;
}

char *ms_site_name(const ms_model_t *model, const ms_sites_row_t *site) {
    if (ms_site_is_variable(site))
        return ms_format("%s%s%s in %s %s:%llu", site->type != NULL ? site->type : "", site->type != NULL ? " " : "",
                         site->variable != NULL ? site->variable : "?", site->function != NULL ? site->function : "?",
                         site->file != NULL ? ms_base_name(site->file) : "?", (unsigned long long)site->line);
    if (site->kind != NULL && strcmp(site->kind, "other") == 0) return ms_format("(further sites together)");
    ms_place_t place;
    const ms_symbols_row_t *row = ms_telling_symbol(model, site, &place);
    return row == NULL ? ms_format("(site not recorded)") : ms_frame_text(row, false);
}

/* The site's name, and behind it who called it: "f f.c:1 < g < h"; "..." for callers without names. One that calls
 * itself stands there once. */
char *ms_site_chain(const ms_model_t *model, const ms_sites_row_t *site) {
    ms_place_t place;
    char *text = ms_site_name(model, site);
    const ms_symbols_row_t *before = ms_telling_symbol(model, site, &place);
    if (before == NULL) return text;
    bool gap = false;
    for (int shown = 0; shown < CALLERS_SHOWN;) {
        place.depth++;
        const ms_symbols_row_t *row = ms_next_symbol(model, site, &place);
        if (row == NULL) break;
        gap |= row->function == NULL;
        if (row->function == NULL) continue;
        bool is_recursion = !gap && before->function != NULL && strcmp(before->function, row->function) == 0;
        before = row;
        if (is_recursion) continue;
        char *name = short_name(row->function), *longer = ms_format("%s%s < %s", text, gap ? " < ..." : "", name);
        free(name);
        free(text);
        text = longer;
        gap = false;
        shown++;
    }
    return text;
}
