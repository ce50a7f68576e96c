/* From code addresses to names, offline: function, file and line with elfutils libdw, inlined functions included, C++
 * and Rust names demangled.
 *
 * A module of the snapshot is looked for at its path, then as separate debug file by its build-id; what does not
 * carry the build-id the snapshot recorded is not used. The network is asked only when DEBUGINFOD_URLS is set (libdw
 * does that). Files stay open until ms_symbolizer_close(), so that the snapshots of many processes share the work. */
#ifndef MS_CLI_SYMBOLS_H
#define MS_CLI_SYMBOLS_H

#include <stdbool.h>
#include <stddef.h>

#include "export/read.h"
#include "tracking/model.h"

typedef struct ms_symbolizer ms_symbolizer_t;

/* Where names are looked for; zeroed: on this machine. A command that looks names up has this struct among its options
 * and MS_SYMBOL_OPTIONS in their table. */
typedef struct ms_symbol_options {
    const char *sysroot;   /* directory that stands for "/"; NULL: "/" itself */
    const char *debug_dir; /* directories with separate debug files, separated by ','; NULL: none */
    bool no_symbols;       /* no names: modules and offsets */
} ms_symbol_options_t;

#define MS_SYMBOL_OPTIONS(options_t)                                                                            \
    {.name = "sysroot",                                                                                         \
     .argument = "DIR",                                                                                         \
     .offset = offsetof(options_t, symbols.sysroot),                                                            \
     .help = "look for modules and debug files below DIR instead of /"},                                        \
        {.name = "debug-dir",                                                                                   \
         .argument = "DIR",                                                                                     \
         .offset = offsetof(options_t, symbols.debug_dir),                                                      \
         .appends = true,                                                                                       \
         .help = "look for separate debug files in DIR too, by build-id or name; may be given more than once"}, \
    {                                                                                                           \
        .name = "no-symbols", .offset = offsetof(options_t, symbols.no_symbols),                                \
        .help = "look no names up: show modules and offsets"                                                    \
    }

/* Borrows the options' texts. */
ms_symbolizer_t *ms_symbolizer_open(const ms_symbol_options_t *options);
void ms_symbolizer_close(ms_symbolizer_t *symbolizer);

/* Fills the snapshot's table `symbols`, ordered by pc and depth, one row at least for every address in sites.stack;
 * names that the file brought along stay. Cuts the allocator's own frames off the inner end of the stacks. Says on
 * standard error, once a module, why its names are unknown, and shows progress there when it is slow and that is a
 * terminal. Memory belongs to the file. */
void ms_symbolize(ms_symbolizer_t *symbolizer, ms_snapshot_file_t *file);

/* The rows of `pc`, innermost first, *count of them; NULL when it has none. */
const ms_symbols_row_t *ms_symbols_of(const ms_model_t *model, uint64_t pc, size_t *count);

#endif
