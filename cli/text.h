/* Text for people: quantities with units, names made safe to print, tables that keep to the terminal's width.
 *
 * Quantities come back by value, so that several fit into one printf. Everything that came from a file or from the
 * program under study (names, paths, commands) goes through ms_text_safe() before it reaches a terminal. */
#ifndef MS_CLI_TEXT_H
#define MS_CLI_TEXT_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef struct ms_quantity {
    char text[48];
} ms_quantity_t;

ms_quantity_t ms_text_bytes(uint64_t bytes);                /* "1.5 MiB"; MS_NULL: "unknown" */
ms_quantity_t ms_text_count(uint64_t count);                /* "12,345"; MS_NULL: "unknown" */
ms_quantity_t ms_text_duration(uint64_t ns);                /* "2.31 s"; MS_NULL: "unknown" */
ms_quantity_t ms_text_share(uint64_t part, uint64_t whole); /* "12.3%", "-" of nothing */
ms_quantity_t ms_text_wall_clock(uint64_t unix_ns);         /* "2026-11-23 10:15:00 UTC" */

/* `text` with control characters and invalid UTF-8 written as \xNN (newline, tab: \n, \t). To be freed.
 * NULL gives "?". */
char *ms_text_safe(const char *text);

/* Columns `text` takes on a terminal that shows one column a character. */
size_t ms_text_width(const char *text);

/* Width to keep to when writing to `out`: COLUMNS, else the terminal's; SIZE_MAX when it is not a terminal. */
size_t ms_text_terminal_width(FILE *out);

/* Writes `text` broken at spaces, every line behind `indent` spaces, the first line too. */
void ms_text_wrap(FILE *out, size_t indent, size_t width, const char *text);

/* A table: the header names the columns, "<name" aligned left, ">name" aligned right, "~name" left and shortened when
 * the row would be wider than the terminal. Cells are added row by row; every cell is made safe. */
typedef struct ms_text_table ms_text_table_t;
ms_text_table_t *ms_text_table_new(const char *const *header, size_t columns);
void ms_text_table_cell(ms_text_table_t *table, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Prints the table behind `indent` spaces, to `width` columns, and frees it. */
void ms_text_table_print(ms_text_table_t *table, FILE *out, size_t indent, size_t width);

#endif
