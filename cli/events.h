/* Event logs (.bin files) in order of time, many files and threads together.
 *
 * Memory grows with records, not with events: every thread's records are decoded as they are reached. */
#ifndef MS_CLI_EVENTS_H
#define MS_CLI_EVENTS_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "cli/symbols.h"

typedef struct ms_events_options {
    uint64_t limit;            /* events printed at most */
    const char *thread, *task; /* id or name; NULL: all */
} ms_events_options_t;

/* Prints the events of these files; returns an exit status, having complained. */
int ms_print_events(FILE *out, char **paths, size_t count, const ms_events_options_t *options,
                    ms_symbolizer_t *symbolizer);

#endif
