/* Suppressions in LeakSanitizer's syntax: one "leak:PATTERN" a line, # begins a comment line. A pattern matches a part of
 * a name; * stands for any text, ^ at the front for the name's start, $ at the end for its end. It is compared with the
 * functions, files and modules of all frames of a site, and with a variable's name, function and file. */
#ifndef MS_CLI_SUPPRESS_H
#define MS_CLI_SUPPRESS_H

#include <stdbool.h>

#include "tracking/model.h"

typedef struct ms_suppressions ms_suppressions_t;

/* Reads the files, separated by ','. A bad line is named on standard error and ignored. NULL: a file cannot be read (said
 * on standard error). */
ms_suppressions_t *ms_suppressions_read(const char *paths);
void ms_suppressions_free(ms_suppressions_t *suppressions); /* NULL is fine */

/* The pattern that suppresses the site, NULL: none. Sites of the library itself are always suppressed. Symbols must have been looked up. */
const char *ms_suppressed_by(const ms_suppressions_t *suppressions, const ms_model_t *model, const ms_sites_row_t *site);

bool ms_pattern_matches(const char *pattern, const char *text);

#endif
