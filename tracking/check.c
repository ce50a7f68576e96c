#define _GNU_SOURCE
/* What the memscope_assert_* macros of memscope/check.h ask: whether a limit holds, and if not, in one line, what is
 * over it and which sites have most of that. */
#include "alloc/os.h"
#include "tracking/checkpoint.h"
#include "tracking/process.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define TOP 3    /* sites named */
#define FRAMES 3 /* of each */

/* ---- text in the caller's buffer, cut where it is full */

typedef struct text {
    char *start;
    size_t length, room;
} text_t;

static text_t *add(text_t *text, const char *more) {
    while (*more && text->length + 1 < text->room) text->start[text->length++] = *more++;
    if (text->room) text->start[text->length] = '\0';
    return text;
}

static text_t *add_number(text_t *text, uint64_t number) {
    char digits[24];
    return add(text, ms_os_decimal(digits, number));
}

static text_t *add_count(text_t *text, uint64_t count, const char *unit) {
    return add(add(add(add_number(text, count), " "), unit), count == 1 ? "" : "s");
}

static const char *base_name(const char *path) {
    const char *slash = path ? strrchr(path, '/') : NULL;
    return slash ? slash + 1 : path ? path : "?";
}

/* A return address: "function in module" where the module says, else "module+0x12", which addr2line reads. */
static void add_frame(text_t *text, uint64_t pc) {
    char digits[24];
    Dl_info info;
    if (!dladdr((const void *)(uintptr_t)(pc - 1), &info) || !info.dli_fname) {
        add(text, ms_os_hex(digits, pc));
    } else if (info.dli_sname) {
        add(add(add(text, info.dli_sname), " in "), base_name(info.dli_fname));
    } else {
        add(add(add(text, base_name(info.dli_fname)), "+"), ms_os_hex(digits, pc - 1 - (uintptr_t)info.dli_fbase));
    }
}

static void add_site(text_t *text, const memscope_difference_t *site) {
    if (site->name) {
        add(add(add(add(add(text, site->name), " in "), site->function ? site->function : "?"), " "),
            base_name(site->file));
        add_number(add(text, ":"), site->line);
        return;
    }
    for (size_t i = 0; i < site->depth && i < FRAMES; i++) {
        if (i) add(text, " < ");
        add_frame(text, site->stack[i]);
    }
    if (site->depth == 0) add(text, "sites not recorded");
}

/* ---- what was measured */

typedef struct measured {
    memscope_limit_t limit;
    memscope_difference_t process; /* since the checkpoint */
    memscope_difference_t top[TOP];
    uint64_t part[TOP]; /* bytes each has of what is over the limit */
    uint64_t pcs[TOP][FRAMES];
} measured_t;

/* Bytes of a row that count against the limit: what it holds, what it grew by, or what passed through it. */
static uint64_t part_of(memscope_limit_t limit, const memscope_difference_t *row) {
    bool passed = limit == MEMSCOPE_LIMIT_PEAK || limit == MEMSCOPE_LIMIT_ALLOCATED_BLOCKS;
    int64_t bytes = limit == MEMSCOPE_LIMIT_LIVE ? (int64_t)row->live_bytes_now
                    : passed                     ? row->allocated_bytes
                                                 : row->live_bytes;
    return bytes > 0 ? (uint64_t)bytes : 0;
}

static int look(void *context, const memscope_difference_t *row) {
    measured_t *measured = context;
    if (row->part == MEMSCOPE_PART_PROCESS) measured->process = *row;
    if (row->part != MEMSCOPE_PART_SITE) return 0;
    uint64_t part = part_of(measured->limit, row);
    size_t at = TOP;
    while (at > 0 && part > measured->part[at - 1]) at--;
    if (at == TOP || part == 0) return 0;
    for (size_t i = TOP - 1; i > at; i--) {
        measured->top[i] = measured->top[i - 1];
        measured->part[i] = measured->part[i - 1];
        memcpy(measured->pcs[i], measured->pcs[i - 1], sizeof measured->pcs[i]);
    }
    measured->top[at] = *row;
    measured->part[at] = part;
    for (size_t i = 0; i < FRAMES && i < row->depth; i++) measured->pcs[at][i] = row->stack[i]; /* theirs goes */
    return 0;
}

static void add_top(text_t *text, measured_t *measured) {
    if (!measured->part[0]) {
        if (ms_process.sites != MS_SITES_EVERY) add(text, "; MEMSCOPE_CONF=mode:exact names the sites");
        return;
    }
    add(text, "; most: ");
    for (size_t i = 0; i < TOP && measured->part[i]; i++) {
        measured->top[i].stack = measured->pcs[i];
        if (i) add(text, ", ");
        add_site(text, &measured->top[i]);
        add_count(add(text, measured->top[i].estimated ? " about " : " "), measured->part[i], "byte");
    }
}

/* ---- the limits */

static bool leaks(const measured_t *measured, text_t *text) {
    if (measured->process.live_blocks <= 0) return false;
    add_count(text, (uint64_t)measured->process.live_blocks, "block");
    add(text, measured->process.live_blocks == 1 ? " more is" : " more are");
    add(text, " live than at the checkpoint");
    return true;
}

static bool grows(const measured_t *measured, text_t *text, uint64_t most) {
    if (measured->process.live_bytes <= 0 || (uint64_t)measured->process.live_bytes <= most) return false;
    add(add_count(text, (uint64_t)measured->process.live_bytes, "byte"), " more are live than at the checkpoint");
    return true;
}

static bool exceeds(text_t *text, uint64_t value, uint64_t most, const char *unit, const char *what) {
    if (value <= most) return false;
    add(add_count(text, value, unit), what);
    add(add_number(add(text, " ("), most), " allowed)");
    return true;
}

static bool peaks(const measured_t *measured, const memscope_checkpoint_t *since, text_t *text, uint64_t most) {
    uint64_t error, peak = memscope_checkpoint_peak(since, &error);
    uint64_t start = since ? since->parts[MEMSCOPE_PART_PROCESS].rows->live_bytes : 0;
    (void)measured;
    if (!exceeds(text, peak - start, most, "byte",
                 since ? " more than at the checkpoint were live at once" : " were live at once"))
        return false;
    if (error) add(add_number(add(text, " (+- "), error), ")");
    return true;
}

static bool is_over(const measured_t *measured, const memscope_checkpoint_t *since, text_t *text, uint64_t most) {
    switch (measured->limit) {
    case MEMSCOPE_LIMIT_LEAKS:
        return leaks(measured, text);
    case MEMSCOPE_LIMIT_GROWTH:
        return grows(measured, text, most);
    case MEMSCOPE_LIMIT_LIVE:
        return exceeds(text, measured->process.live_bytes_now, most, "byte", " are live");
    case MEMSCOPE_LIMIT_PEAK:
        return peaks(measured, since, text, most);
    case MEMSCOPE_LIMIT_ALLOCATED_BLOCKS:
        return exceeds(text, (uint64_t)measured->process.allocated_blocks, most, "block", " were allocated");
    }
    return false;
}

int memscope_check(memscope_limit_t limit, const memscope_checkpoint_t *since, uint64_t most, const char *what,
                   char *message, size_t room) {
    text_t text = {.start = message, .room = room};
    measured_t measured = {.limit = limit};
    add(add(&text, what), ": ");
    if (memscope_checkpoint_diff(since, NULL, look, &measured) != 0) {
        add(&text, "no memory to look");
        return ENOMEM;
    }
    if (!is_over(&measured, since, &text, most)) return 0;
    add_top(&text, &measured);
    return ERANGE;
}

void memscope_check_failed(const char *file, int line, const char *message) {
    char digits[24];
    ms_os_say(file, ":", ms_os_decimal(digits, (uint64_t)line), ": ", message, NULL);
    abort();
}
