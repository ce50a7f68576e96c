/* What people call a site: the function that tells most, where it is, who called it. Symbols must have been looked up;
 * the texts are not made safe to print. */
#ifndef MS_CLI_SITE_NAME_H
#define MS_CLI_SITE_NAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tracking/model.h"

/* Where in a stack: frame `i`, and of the functions inlined there the one numbered `depth`. */
typedef struct ms_place {
    uint64_t i;
    size_t depth;
} ms_place_t;

/* The function at `place` or, when there is none, the next one outwards: `place` is moved to it. NULL at the end of the
 * stack. */
const ms_symbols_row_t *ms_next_symbol(const ms_model_t *model, const ms_sites_row_t *site, ms_place_t *place);

/* The innermost function that does not merely pass a request on; else the innermost. NULL: the stack is empty. */
const ms_symbols_row_t *ms_telling_symbol(const ms_model_t *model, const ms_sites_row_t *site, ms_place_t *place);

bool ms_site_is_variable(const ms_sites_row_t *site);

/* All to be freed. A frame: "f f.c:12", "f in module" or "module+0x12"; `full`: with parameters and path. */
char *ms_frame_text(const ms_symbols_row_t *row, bool full);
char *ms_site_name(const ms_model_t *model, const ms_sites_row_t *site);

/* The site's name, and behind it who called it: "f f.c:1 < g < h"; "..." for callers without names. */
char *ms_site_chain(const ms_model_t *model, const ms_sites_row_t *site);

#endif
