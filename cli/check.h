/* Results of `memscope check`, and their form as JUnit XML. */
#ifndef MS_CLI_CHECK_H
#define MS_CLI_CHECK_H

#include <stddef.h>
#include <stdint.h>

#include "export/writer.h"

typedef enum { MS_CHECK_OK, MS_CHECK_FAILED, MS_CHECK_UNKNOWN } ms_outcome_kind_t;

typedef struct ms_check {
    const char *name;
    ms_outcome_kind_t outcome;
    char *text;     /* the numbers, one line */
    char **details; /* which sites, one line each */
    size_t detail_count;
} ms_check_t;

/* Of one file. */
typedef struct ms_suite {
    const char *path;
    char *program;
    uint64_t elapsed_ns, unix_ns; /* of the run; when the snapshot was taken */
    ms_check_t *checks;
    size_t count;
} ms_suite_t;

typedef struct ms_suites {
    ms_suite_t *suites;
    size_t count;
} ms_suites_t;

size_t ms_suite_outcomes(const ms_suite_t *suite, ms_outcome_kind_t outcome);

/* junit.c: a document of cli/files.h; `suites` is a ms_suites_t. */
int ms_junit(const void *suites, ms_writer_t *writer);

#endif
