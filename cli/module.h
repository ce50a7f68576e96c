/* One ELF file with its debugging information: from an address in the file to the functions there.
 *
 * The module owns all strings it hands out; they live until ms_module_close(). */
#ifndef MS_CLI_MODULE_H
#define MS_CLI_MODULE_H

#include <stddef.h>
#include <stdint.h>

#define MS_INLINE_DEPTH 64 /* deeper chains of inlined functions lose their outermost ones */

typedef struct ms_frame {
    const char *function;  /* as the linker knows it, NULL when unknown */
    const char *file;      /* NULL when unknown */
    const char *directory; /* where the compiler ran: what a relative `file` is relative to, or NULL */
    uint64_t line;         /* 0 when unknown */
} ms_frame_t;

typedef struct ms_module ms_module_t;

typedef struct ms_module_places {
    const char *sysroot;    /* "" for the root */
    const char *debug_dirs; /* directories of debug files, separated by ':'; "" for none */
} ms_module_places_t;

#define MS_VDSO_PATH "[vdso]" /* what the kernel calls it */

/* Opens the file that has this build-id (lower-case hex, NULL: it has none): at `path` below the sysroot, else a
 * separate debug file in debug_dirs or the sysroot's /usr/lib/debug, else what a server of DEBUGINFOD_URLS has. NULL
 * with *problem, a text behind the module's path, when there is none. */
ms_module_t *ms_module_open(const char *path, const char *build_id, const ms_module_places_t *places,
                            const char **problem);
void ms_module_close(ms_module_t *module);

/* The functions at `address`, innermost first, one at least (all unknown if need be). Returns how many. */
size_t ms_module_lookup(ms_module_t *module, uint64_t address, ms_frame_t frames[MS_INLINE_DEPTH]);

#endif
