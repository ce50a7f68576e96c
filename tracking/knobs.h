/* MEMSCOPE_CONF: knobs, their values, and the parser. Everything comes from knobs.def. */
#ifndef MS_TRACKING_KNOBS_H
#define MS_TRACKING_KNOBS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MS_KNOB_TEXT_MAX 1024

typedef enum {
    MS_KNOB_IS_CHOICE,
    MS_KNOB_IS_BYTES,
    MS_KNOB_IS_COUNT,
    MS_KNOB_IS_RATIO,
    MS_KNOB_IS_BOOL,
    MS_KNOB_IS_DURATION,
    MS_KNOB_IS_WORDS,
    MS_KNOB_IS_TEXT
} ms_knob_type_t;

/* Values by name: choices as the index of the word, ratios in billionths, durations in ns, texts NUL-terminated. */
typedef struct ms_knob_values {
#define MS_KNOB_CHOICE(name, initial, choices, meaning) uint64_t name;
#define MS_KNOB_BYTES(name, initial, min, max, meaning) uint64_t name;
#define MS_KNOB_COUNT(name, initial, min, max, meaning) uint64_t name;
#define MS_KNOB_RATIO(name, initial, meaning) uint64_t name;
#define MS_KNOB_BOOL(name, initial, meaning) uint64_t name;
#define MS_KNOB_DURATION(name, initial, min, max, meaning) uint64_t name;
#define MS_KNOB_WORDS(name, initial, choices, meaning) char name[MS_KNOB_TEXT_MAX];
#define MS_KNOB_TEXT(name, initial, meaning) char name[MS_KNOB_TEXT_MAX];
#include "tracking/knobs.def"
#undef MS_KNOB_CHOICE
#undef MS_KNOB_BYTES
#undef MS_KNOB_COUNT
#undef MS_KNOB_RATIO
#undef MS_KNOB_BOOL
#undef MS_KNOB_DURATION
#undef MS_KNOB_WORDS
#undef MS_KNOB_TEXT
} ms_knob_values_t;

typedef enum {
#define MS_KNOB_ID(name) MS_KNOB_##name,
#define MS_KNOB_CHOICE(name, initial, choices, meaning) MS_KNOB_ID(name)
#define MS_KNOB_BYTES(name, initial, min, max, meaning) MS_KNOB_ID(name)
#define MS_KNOB_COUNT(name, initial, min, max, meaning) MS_KNOB_ID(name)
#define MS_KNOB_RATIO(name, initial, meaning) MS_KNOB_ID(name)
#define MS_KNOB_BOOL(name, initial, meaning) MS_KNOB_ID(name)
#define MS_KNOB_DURATION(name, initial, min, max, meaning) MS_KNOB_ID(name)
#define MS_KNOB_WORDS(name, initial, choices, meaning) MS_KNOB_ID(name)
#define MS_KNOB_TEXT(name, initial, meaning) MS_KNOB_ID(name)
#include "tracking/knobs.def"
#undef MS_KNOB_CHOICE
#undef MS_KNOB_BYTES
#undef MS_KNOB_COUNT
#undef MS_KNOB_RATIO
#undef MS_KNOB_BOOL
#undef MS_KNOB_DURATION
#undef MS_KNOB_WORDS
#undef MS_KNOB_TEXT
#undef MS_KNOB_ID
    MS_KNOB_ID_COUNT
} ms_knob_id_t;

typedef enum { MS_SOURCE_DEFAULT, MS_SOURCE_FILE, MS_SOURCE_ENVIRONMENT, MS_SOURCE_API } ms_knob_source_t;
extern const char *const ms_knob_source_names[];

typedef struct ms_knob_info {
    const char *name;
    ms_knob_type_t type;
    const char *initial; /* as text */
    const char *choices; /* "a|b|c", or NULL */
    uint64_t min, max;
    uint32_t offset;     /* in ms_knob_values_t */
    const char *meaning;
} ms_knob_info_t;
extern const ms_knob_info_t ms_knob_info[MS_KNOB_ID_COUNT];

/* Says what is wrong with a piece of configuration: knob, its value, what is accepted, what is used instead (NULL when
 * nothing is). Strings live for the call only. */
typedef void ms_knob_complaint_t(void *context, const char *key, const char *value, const char *problem, const char *used);

void ms_knobs_reset(ms_knob_values_t *values, ms_knob_source_t sources[MS_KNOB_ID_COUNT]);

/* Reads "key:value,key:value". Bad entries are complained about and leave the value as it was. True: all were good.
 * Allocates nothing, uses no locale. */
bool ms_knobs_parse(const char *text, ms_knob_source_t source, ms_knob_values_t *values,
                    ms_knob_source_t sources[MS_KNOB_ID_COUNT], ms_knob_complaint_t *complain, void *context);

/* The same from a file, one key:value a line, '#' starts a comment. False also if the file cannot be read. */
bool ms_knobs_parse_file(const char *path, ms_knob_values_t *values, ms_knob_source_t sources[MS_KNOB_ID_COUNT],
                         ms_knob_complaint_t *complain, void *context);

/* What can be wrong with values that are well formed: something they name is not there. errno may change. */
void ms_knobs_look(const ms_knob_values_t *values, ms_knob_complaint_t *complain, void *context);

/* The value as text; buffer of at least 32 bytes for numbers. */
const char *ms_knob_text(const ms_knob_values_t *values, ms_knob_id_t id, char *buffer);

#endif
