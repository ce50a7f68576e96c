/* Checking what goes into MEMSCOPE_CONF. */
#ifndef MS_CLI_CONF_H
#define MS_CLI_CONF_H

#include <stdbool.h>

/* True when the library would take all of `text`; otherwise one line on standard error for each bad entry, which
 * begins with `origin`. */
bool ms_conf_is_good(const char *origin, const char *text);

#endif
