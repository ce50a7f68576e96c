/* A snapshot in words and tables, the parts that `run` and `show` share. Everything keeps to the width of the
 * terminal behind `out`; names from the snapshot are made safe to print. Symbols must have been looked up. */
#ifndef MS_CLI_SUMMARY_H
#define MS_CLI_SUMMARY_H

#include <stddef.h>
#include <stdio.h>

#include "tracking/model.h"

typedef enum { MS_SORT_LIVE, MS_SORT_ALLOCATED, MS_SORT_PEAK } ms_sort_t;

/* Which order says most: by live bytes when much is live, else by allocated bytes. */
ms_sort_t ms_telling_sort(const ms_model_t *model);

/* The result in two or three sentences. */
void ms_print_headline(FILE *out, const ms_model_t *model);

/* Sections with a title line. Nothing is printed of an empty table. */
void ms_print_process(FILE *out, const ms_model_t *model);
void ms_print_totals(FILE *out, const ms_model_t *model);
void ms_print_memory(FILE *out, const ms_model_t *model);
void ms_print_over_time(FILE *out, const ms_model_t *model); /* cli/over_time.c */
void ms_print_threads(FILE *out, const ms_model_t *model, size_t top);
void ms_print_tasks(FILE *out, const ms_model_t *model, size_t top);
void ms_print_sites(FILE *out, const ms_model_t *model, size_t top, ms_sort_t sort);
void ms_print_stacks(FILE *out, const ms_model_t *model, size_t top, ms_sort_t sort);
void ms_print_scopes(FILE *out, const ms_model_t *model, size_t top);  /* variables that own blocks */
void ms_print_regions(FILE *out, const ms_model_t *model, size_t top); /* variables that name other memory */
void ms_print_size_classes(FILE *out, const ms_model_t *model, size_t top);
/* Behind six spaces (cli/site_detail.c): the frames of a site, recursion once; its verdict with slope and survivors, if
 * it has one; what else mode exact knows of it. */
void ms_print_stack(FILE *out, const ms_model_t *model, const ms_sites_row_t *site);
void ms_print_verdict(FILE *out, const ms_sites_row_t *site);
void ms_print_facts(FILE *out, const ms_sites_row_t *site);
void ms_print_quality(FILE *out, const ms_model_t *model);
void ms_print_trace(FILE *out, const ms_model_t *model); /* the event log, if there was one */

/* What to know before trusting the numbers, one line each; nothing when all is well. */
void ms_print_warnings(FILE *out, const ms_model_t *model);

#endif
