/* See text.h. A table holds its cells as one array of safe strings, row after row, and owns them. */
#include "cli/text.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "cli/files.h"
#include "tracking/model.h"

#define NARROWEST_COLUMN 12 /* a shortened column keeps this much, even where the row then wraps */
#define COLUMN_GAP 2

/* ---- quantities ---- */

ms_quantity_t ms_text_bytes(uint64_t bytes) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    ms_quantity_t q;
    if (bytes == MS_NULL) return (ms_quantity_t){"unknown"};
    double value = (double)bytes;
    size_t unit = 0;
    /* 1023.95 would round up to "1024.0" */
    while (value >= (unit == 0 ? 1024 : 1023.95)) {
        value /= 1024;
        unit++;
    }
    snprintf(q.text, sizeof q.text, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
    return q;
}

ms_quantity_t ms_text_count(uint64_t count) {
    ms_quantity_t q;
    char digits[24];
    if (count == MS_NULL) return (ms_quantity_t){"unknown"};
    int length = snprintf(digits, sizeof digits, "%llu", (unsigned long long)count);
    char *to = q.text;
    for (int i = 0; i < length; i++) {
        if (i > 0 && (length - i) % 3 == 0) *to++ = ',';
        *to++ = digits[i];
    }
    *to = '\0';
    return q;
}

ms_quantity_t ms_text_duration(uint64_t ns) {
    ms_quantity_t q;
    if (ns == MS_NULL) return (ms_quantity_t){"unknown"};
    double s = (double)ns / 1e9;
    if (ns < 1000)
        snprintf(q.text, sizeof q.text, "%u ns", (unsigned)ns);
    else if (s < 1e-3)
        snprintf(q.text, sizeof q.text, "%.1f us", s * 1e6);
    else if (s < 1)
        snprintf(q.text, sizeof q.text, "%.1f ms", s * 1e3);
    else if (s < 120)
        snprintf(q.text, sizeof q.text, "%.2f s", s);
    else if (s < 7200)
        snprintf(q.text, sizeof q.text, "%llu min %llu s", (unsigned long long)s / 60, (unsigned long long)s % 60);
    else
        snprintf(q.text, sizeof q.text, "%llu h %llu min", (unsigned long long)s / 3600,
                 (unsigned long long)s / 60 % 60);
    return q;
}

ms_quantity_t ms_text_share(uint64_t part, uint64_t whole) {
    ms_quantity_t q;
    if (part == MS_NULL || whole == MS_NULL || whole == 0) return (ms_quantity_t){"-"};
    snprintf(q.text, sizeof q.text, "%.1f%%", 100.0 * (double)part / (double)whole);
    return q;
}

ms_quantity_t ms_text_wall_clock(uint64_t unix_ns) {
    ms_quantity_t q;
    time_t seconds = (time_t)(unix_ns / 1000000000u);
    struct tm tm;
    if (gmtime_r(&seconds, &tm) == NULL || strftime(q.text, sizeof q.text, "%Y-%m-%d %H:%M:%S UTC", &tm) == 0)
        return (ms_quantity_t){"unknown"};
    return q;
}

/* ---- names ---- */

/* Bytes of the valid, printable UTF-8 character at `s`, 0 when there is none. */
static size_t character_bytes(const unsigned char *s) {
    if (s[0] >= 0x20 && s[0] < 0x7f) return 1;
    size_t bytes = s[0] >= 0xc2 && s[0] <= 0xdf ? 2 : (s[0] & 0xf0) == 0xe0 ? 3 : s[0] >= 0xf0 && s[0] <= 0xf4 ? 4 : 0;
    for (size_t i = 1; i < bytes; i++)
        if ((s[i] & 0xc0) != 0x80) return 0;
    if (s[0] == 0xc2 && s[1] < 0xa0) return 0;                                  /* C1 control characters */
    if (s[0] == 0xe0 && s[1] < 0xa0) return 0;                                  /* overlong */
    if (s[0] == 0xed && s[1] >= 0xa0) return 0;                                 /* surrogates */
    if (s[0] == 0xf0 && s[1] < 0x90) return 0;                                  /* overlong */
    if (s[0] == 0xf4 && s[1] >= 0x90) return 0;                                 /* beyond Unicode */
    if (s[0] == 0xe2 && s[1] == 0x80 && s[2] >= 0xa8 && s[2] <= 0xae) return 0; /* line breaks, direction overrides */
    if (s[0] == 0xe2 && s[1] == 0x81 && s[2] >= 0xa6 && s[2] <= 0xa9) return 0; /* direction isolates */
    return bytes;
}

static char *escape(char *to, unsigned char c) {
    static const char hex[] = "0123456789abcdef";
    *to++ = '\\';
    if (c == '\n' || c == '\t') {
        *to++ = c == '\n' ? 'n' : 't';
        return to;
    }
    *to++ = 'x';
    *to++ = hex[c >> 4];
    *to++ = hex[c & 15];
    return to;
}

char *ms_text_safe(const char *text) {
    if (text == NULL) text = "?";
    char *safe = ms_allocate(4 * strlen(text) + 1), *to = safe;
    for (const unsigned char *s = (const unsigned char *)text; *s != '\0';) {
        size_t bytes = character_bytes(s);
        if (bytes == 0) {
            to = escape(to, *s++);
            continue;
        }
        memcpy(to, s, bytes);
        to += bytes;
        s += bytes;
    }
    *to = '\0';
    return safe;
}

size_t ms_text_width(const char *text) {
    size_t width = 0;
    for (; *text != '\0'; text++) width += ((unsigned char)*text & 0xc0) != 0x80;
    return width;
}

/* ---- lines ---- */

size_t ms_text_terminal_width(FILE *out) {
    struct winsize size;
    if (!isatty(fileno(out))) return SIZE_MAX;
    const char *columns = getenv("COLUMNS");
    if (columns != NULL && atoi(columns) > 0) return (size_t)atoi(columns);
    if (ioctl(fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
    return 80;
}

void ms_text_wrap(FILE *out, size_t indent, size_t width, const char *text) {
    size_t column = 0;
    while (*text != '\0') {
        size_t bytes = strcspn(text, " ");
        char word[256];
        snprintf(word, sizeof word, "%.*s", (int)bytes, text);
        size_t word_width = ms_text_width(word);
        if (column > 0 && (width < 1 || column + 1 + word_width > width)) {
            fputc('\n', out);
            column = 0;
        }
        if (column == 0)
            column = (size_t)fprintf(out, "%*s", (int)indent, "");
        else
            column += (size_t)fprintf(out, " ");
        fprintf(out, "%.*s", (int)bytes, text);
        column += word_width;
        text += bytes;
        text += strspn(text, " ");
    }
    fputc('\n', out);
}

/* ---- tables ---- */

struct ms_text_table {
    size_t columns, cells, capacity;
    char **cell; /* the first `columns` are the header, with its alignment mark */
};

ms_text_table_t *ms_text_table_new(const char *const *header, size_t columns) {
    ms_text_table_t *table = ms_allocate(sizeof *table);
    *table = (ms_text_table_t){.columns = columns};
    for (size_t i = 0; i < columns; i++) ms_text_table_cell(table, "%s", header[i]);
    return table;
}

void ms_text_table_cell(ms_text_table_t *table, const char *format, ...) {
    char *raw;
    va_list arguments;
    va_start(arguments, format);
    int length = vasprintf(&raw, format, arguments);
    va_end(arguments);
    if (length < 0) ms_out_of_memory();
    if (table->cells == table->capacity) {
        table->capacity = table->capacity == 0 ? 64 : 2 * table->capacity;
        table->cell = ms_reallocate(table->cell, table->capacity * sizeof *table->cell);
    }
    table->cell[table->cells++] = ms_text_safe(raw);
    free(raw);
}

static char mark_of(const ms_text_table_t *table, size_t column) {
    return table->cell[column][0];
}

static const char *cell_text(const ms_text_table_t *table, size_t cell) {
    return table->cell[cell] + (cell < table->columns ? 1 : 0);
}

/* Cuts `text` to `width` columns, "..." for what is missing. */
static void shorten(char *text, size_t width) {
    if (ms_text_width(text) <= width) return;
    size_t kept = 0;
    char *end = text;
    while (kept < width - 3 || ((unsigned char)*end & 0xc0) == 0x80) {
        kept += ((unsigned char)*end & 0xc0) != 0x80;
        end++;
        if (kept == width - 3 && ((unsigned char)*end & 0xc0) != 0x80) break;
    }
    memcpy(end, "...", 4);
}

/* Widths of the columns; the "~" columns give up what the row has too much, the widest first. */
static void measure(ms_text_table_t *table, size_t *widths, size_t available) {
    memset(widths, 0, table->columns * sizeof *widths);
    for (size_t i = 0; i < table->cells; i++) {
        size_t width = ms_text_width(cell_text(table, i));
        if (width > widths[i % table->columns]) widths[i % table->columns] = width;
    }
    size_t total = COLUMN_GAP * (table->columns - 1);
    for (size_t i = 0; i < table->columns; i++) total += widths[i];
    while (total > available) {
        size_t widest = table->columns;
        for (size_t i = 0; i < table->columns; i++)
            if (mark_of(table, i) == '~' && (widest == table->columns || widths[i] > widths[widest])) widest = i;
        if (widest == table->columns || widths[widest] <= NARROWEST_COLUMN) return;
        widths[widest]--;
        total--;
    }
}

static void print_row(ms_text_table_t *table, FILE *out, size_t row, const size_t *widths) {
    size_t columns = table->columns;
    while (columns > 1 && *cell_text(table, row * table->columns + columns - 1) == '\0') columns--;
    for (size_t i = 0; i < columns; i++) {
        size_t cell = row * table->columns + i;
        shorten(table->cell[cell] + (row == 0), widths[i]);
        const char *text = cell_text(table, cell);
        int padding = (int)(widths[i] - ms_text_width(text));
        bool last = i + 1 == columns;
        if (mark_of(table, i) == '>')
            fprintf(out, "%*s%s", padding, "", text);
        else
            fprintf(out, "%s%*s", text, last ? 0 : padding, "");
        if (!last) fprintf(out, "%*s", COLUMN_GAP, "");
    }
    fputc('\n', out);
}

void ms_text_table_print(ms_text_table_t *table, FILE *out, size_t indent, size_t width) {
    size_t *widths = ms_allocate(table->columns * sizeof *widths);
    measure(table, widths, width > indent ? width - indent : 0);
    for (size_t row = 0; row < table->cells / table->columns; row++) {
        fprintf(out, "%*s", (int)indent, "");
        print_row(table, out, row, widths);
    }
    for (size_t i = 0; i < table->cells; i++) free(table->cell[i]);
    free(widths);
    free(table->cell);
    free(table);
}
