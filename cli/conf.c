/* `memscope conf`: what MEMSCOPE_CONF may hold, straight from tracking/knobs.def through the library's own table and
 * parser. --man writes the knob section of memscope.conf(5) when the project is built. */
#include "cli/command.h"

#include <stdlib.h>
#include <string.h>

#include "cli/conf.h"
#include "cli/files.h"
#include "cli/text.h"
#include "tracking/knobs.h"

typedef struct ms_conf_options {
    const char *check;
    bool man;
} ms_conf_options_t;

static const ms_option_t options[] = {
    {.letter = 'c',
     .name = "check",
     .argument = "KEY:VALUE,...",
     .offset = offsetof(ms_conf_options_t, check),
     .appends = true,
     .help = "say whether these knobs and values are good; exit status 1 if not"},
    {.name = "man",
     .offset = offsetof(ms_conf_options_t, man),
     .help = "write the list as the source of a manual page (used when memscope is built)"},
    {.name = NULL},
};

/* ---- checking ---- */

typedef struct ms_conf_complaints {
    const char *origin; /* what the lines begin with */
    size_t count;
} ms_conf_complaints_t;

static void complain(void *context, const char *key, const char *value, const char *problem, const char *used) {
    ms_conf_complaints_t *complaints = context;
    (void)used;
    complaints->count++;
    ms_complain("%s: %s%s%s: %s", complaints->origin, key, *value != '\0' ? ":" : "", value, problem);
}

bool ms_conf_is_good(const char *origin, const char *text) {
    ms_knob_values_t values;
    ms_knob_source_t sources[MS_KNOB_ID_COUNT];
    ms_conf_complaints_t complaints = {.origin = origin};
    ms_knobs_reset(&values, sources);
    ms_knobs_parse(text, MS_SOURCE_ENVIRONMENT, &values, sources, complain, &complaints);
    if (complaints.count == 0 && values.conf[0] != '\0') {
        ms_knobs_parse_file(values.conf, &values, sources, complain, &complaints);
        ms_knobs_parse(text, MS_SOURCE_ENVIRONMENT, &values, sources, complain, &complaints); /* which wins */
    }
    ms_knobs_look(&values, complain, &complaints);
    return complaints.count == 0;
}

/* ---- listing ---- */

/* What a knob takes, in words. */
static char *accepted(const ms_knob_info_t *knob) {
    switch (knob->type) {
    case MS_KNOB_IS_CHOICE:
    case MS_KNOB_IS_BOOL:
        return ms_format("%s", knob->choices);
    case MS_KNOB_IS_BYTES:
        return ms_format("bytes (K, M, G), %llu to %llu", (unsigned long long)knob->min, (unsigned long long)knob->max);
    case MS_KNOB_IS_COUNT:
        return ms_format("%llu to %llu", (unsigned long long)knob->min, (unsigned long long)knob->max);
    case MS_KNOB_IS_RATIO:
        return ms_format("0 to 1");
    case MS_KNOB_IS_DURATION:
        return ms_format("off, or a time (ms, s, min) of %llu ms to %llu s", (unsigned long long)knob->min / 1000000,
                         (unsigned long long)knob->max / 1000000000);
    case MS_KNOB_IS_WORDS:
        return ms_format("%s, joined by '+'", knob->choices);
    case MS_KNOB_IS_TEXT:
        return ms_format("text without ','");
    }
    return ms_format("?");
}

static const char *initial(const ms_knob_info_t *knob) {
    return *knob->initial != '\0' ? knob->initial : "empty";
}

static void list_knob(const ms_knob_info_t *knob) {
    char *values = accepted(knob);
    size_t width = ms_text_terminal_width(stdout);
    printf("%s:%s\n    default: %s\n", knob->name, values, initial(knob));
    ms_text_wrap(stdout, 4, width > 100 ? 100 : width, knob->meaning);
    free(values);
}

static int list_one(const ms_command_t *self, const char *name) {
    for (size_t i = 0; i < MS_KNOB_ID_COUNT; i++) {
        if (strcmp(ms_knob_info[i].name, name) != 0) continue;
        list_knob(&ms_knob_info[i]);
        return MS_EXIT_OK;
    }
    return ms_command_usage(self, "there is no knob '%s'; `memscope conf` lists them", name);
}

static void list_all(void) {
    printf("MEMSCOPE_CONF=key:value,key:value. The knobs, what they take, and their defaults:\n\n");
    for (size_t i = 0; i < MS_KNOB_ID_COUNT; i++) {
        list_knob(&ms_knob_info[i]);
        if (i + 1 < MS_KNOB_ID_COUNT) printf("\n");
    }
}

/* ---- manual page ---- */

static void roff_text(const char *text) {
    if (*text == '.' || *text == '\'') fputs("\\&", stdout);
    for (; *text != '\0'; text++) {
        if (*text == '\\')
            fputs("\\e", stdout);
        else if (*text == '-')
            fputs("\\-", stdout);
        else if (*text == '`' || *text == '\'' || *text == '"')
            fputs(*text == '`' ? "\\(ga" : *text == '"' ? "\\(dq" : "\\(aq", stdout);
        else
            putchar(*text);
    }
}

static void write_manual_section(void) {
    for (size_t i = 0; i < MS_KNOB_ID_COUNT; i++) {
        const ms_knob_info_t *knob = &ms_knob_info[i];
        char *values = accepted(knob);
        printf(".TP\n\\fB%s\\fR:\\fI", knob->name);
        roff_text(values);
        printf("\\fR (default: ");
        roff_text(initial(knob));
        printf(")\n");
        roff_text(knob->meaning);
        printf(".\n");
        free(values);
    }
}

/* ---- the command ---- */

static int conf(const ms_command_t *self, int count, char **arguments) {
    ms_conf_options_t given = {.check = NULL};
    int status = MS_EXIT_OK;
    count = ms_command_options(self, count, arguments, &given, &status);
    if (count < 0) return status;
    if (given.check != NULL) {
        if (count > 0) return ms_command_usage(self, "--check takes no further argument, '%s' was given", arguments[0]);
        return ms_conf_is_good("conf", given.check) ? MS_EXIT_OK : MS_EXIT_CHECK_FAILED;
    }
    if (given.man) write_manual_section();
    if (!given.man && count == 0) list_all();
    for (int i = 0; i < count && status == MS_EXIT_OK; i++) status = list_one(self, arguments[i]);
    return ms_finish_stdout() ? status : MS_EXIT_USAGE;
}

const ms_command_t ms_command_conf = {
    .name = "conf",
    .arguments = "[KNOB...]",
    .summary = "list the knobs of MEMSCOPE_CONF, or check some",
    .help =
        "Lists the knobs of MEMSCOPE_CONF (all, or those named): the values each takes, its default, its meaning. With "
        "--check it says nothing when all is well, else one line for each bad entry.",
    .options = options,
    .run = conf,
};
