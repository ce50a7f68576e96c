/* From code addresses to names, offline: function, file and line with elfutils libdw, inlined functions included, C++
 * and Rust names demangled.
 *
 * A module of the snapshot is looked for at its path, then as separate debug file by its build-id; what does not
 * carry the build-id the snapshot recorded is not used. The network is asked only when DEBUGINFOD_URLS is set (libdw
 * does that). Files stay open until ms_symbolizer_close(), so that the snapshots of many processes share the work. */
#ifndef MS_CLI_SYMBOLS_H
#define MS_CLI_SYMBOLS_H

#include "export/read.h"
#include "tracking/model.h"

typedef struct ms_symbolizer ms_symbolizer_t;

/* `sysroot`: directory that stands for "/" when modules and debug files are looked for; NULL or "" for "/" itself. */
ms_symbolizer_t *ms_symbolizer_open(const char *sysroot);
void ms_symbolizer_close(ms_symbolizer_t *symbolizer);

/* Fills the snapshot's table `symbols`, ordered by pc and depth, one row at least for every address in sites.stack;
 * names that the file brought along stay. Cuts the allocator's own frames off the inner end of the stacks. Says on
 * standard error, once a module, why its names are unknown, and shows progress there when it is slow and that is a
 * terminal. Memory belongs to the file. */
void ms_symbolize(ms_symbolizer_t *symbolizer, ms_snapshot_file_t *file);

/* The rows of `pc`, innermost first, *count of them; NULL when it has none. */
const ms_symbols_row_t *ms_symbols_of(const ms_model_t *model, uint64_t pc, size_t *count);

#endif
