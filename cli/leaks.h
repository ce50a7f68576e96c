/* The leak table by site: rows of one site added up over tasks and threads, what suppressions cover set apart. */
#ifndef MS_CLI_LEAKS_H
#define MS_CLI_LEAKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "cli/suppress.h"
#include "tracking/model.h"

typedef enum { MS_KIND_DEFINITE, MS_KIND_INDIRECT, MS_KIND_POSSIBLE, MS_KIND_REACHABLE, MS_KIND_LIVE, MS_KINDS } ms_kind_t;
extern const char *const ms_kind_names[MS_KINDS];
#define MS_KIND_BIT(kind) (1u << (kind))

typedef struct ms_amount {
    uint64_t bytes, blocks;
} ms_amount_t;

typedef struct ms_leak {
    const ms_sites_row_t *site; /* NULL: not recorded */
    ms_amount_t kinds[MS_KINDS];
    ms_amount_t sum;            /* of the kinds asked for */
    const char *suppressed_by;  /* NULL: not suppressed */
} ms_leak_t;

typedef struct ms_leaks {
    ms_leak_t *leaks; /* by site, those not suppressed first, then by the bytes asked for */
    size_t count;
    size_t found;     /* of these, with something asked for, and not suppressed: they come first */
    ms_amount_t kinds[MS_KINDS];  /* not suppressed */
    ms_amount_t sum, suppressed;  /* of the kinds asked for */
} ms_leaks_t;

/* `kinds`: bits. Symbols must have been looked up where there are suppressions. */
ms_leaks_t *ms_leaks_make(const ms_model_t *model, unsigned kinds, const ms_suppressions_t *suppressions);
void ms_leaks_free(ms_leaks_t *leaks);

/* The bits of "definite,indirect"; 0: a word is none (complained). What a snapshot has: lost blocks after a search, else
 * all that live. */
unsigned ms_kinds_of(const char *words);
unsigned ms_kinds_default(const ms_model_t *model);

/* "definite 1.5 KiB in 3 blocks, indirect ...", only kinds that there are. To be freed. */
char *ms_leaks_words(const ms_leaks_t *leaks, unsigned kinds);

/* Site, or what stands for one that was not recorded. To be freed. */
char *ms_leak_name(const ms_model_t *model, const ms_leak_t *leak);

/* Of a snapshot that has the table. `stacks`: with the whole stack of each. */
void ms_print_leaks(FILE *out, const ms_model_t *model, const ms_leaks_t *leaks, size_t top, bool stacks);
/* The section of `memscope show` and `run`: nothing if there is no table. */
void ms_print_leak_section(FILE *out, const ms_model_t *model, size_t top);

#endif
