/* The parser of MEMSCOPE_CONF. It runs before the first allocation, so it uses no libc call that could allocate. */
#include "tracking/knobs.h"
#include "alloc/os.h"

#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

const char *const ms_knob_source_names[] = {"default", "file", "environment", "api"};

#define OFFSET(name) (uint32_t) offsetof(ms_knob_values_t, name)
#define TEXT(value) TEXT_OF(value)
#define TEXT_OF(value) #value
const ms_knob_info_t ms_knob_info[MS_KNOB_ID_COUNT] = {
#define MS_KNOB_CHOICE(name, initial, choices, meaning) \
    {#name, MS_KNOB_IS_CHOICE, initial, choices, 0, 0, OFFSET(name), meaning},
#define MS_KNOB_BYTES(name, initial, min, max, meaning) \
    {#name, MS_KNOB_IS_BYTES, TEXT(initial), NULL, min, max, OFFSET(name), meaning},
#define MS_KNOB_COUNT(name, initial, min, max, meaning) \
    {#name, MS_KNOB_IS_COUNT, TEXT(initial), NULL, min, max, OFFSET(name), meaning},
#define MS_KNOB_RATIO(name, initial, meaning) \
    {#name, MS_KNOB_IS_RATIO, TEXT(initial), NULL, 0, 1, OFFSET(name), meaning},
#define MS_KNOB_BOOL(name, initial, meaning) \
    {#name, MS_KNOB_IS_BOOL, (initial) ? "on" : "off", "on|off", 0, 1, OFFSET(name), meaning},
#define MS_KNOB_DURATION(name, initial, min, max, meaning) \
    {#name, MS_KNOB_IS_DURATION, (initial) ? TEXT(initial) : "off", NULL, min, max, OFFSET(name), meaning},
#define MS_KNOB_WORDS(name, initial, choices, meaning) \
    {#name, MS_KNOB_IS_WORDS, initial, choices, 0, 0, OFFSET(name), meaning},
#define MS_KNOB_TEXT(name, initial, meaning) {#name, MS_KNOB_IS_TEXT, initial, NULL, 0, 0, OFFSET(name), meaning},
#include "tracking/knobs.def"
#undef MS_KNOB_CHOICE
#undef MS_KNOB_BYTES
#undef MS_KNOB_COUNT
#undef MS_KNOB_RATIO
#undef MS_KNOB_BOOL
#undef MS_KNOB_DURATION
#undef MS_KNOB_WORDS
#undef MS_KNOB_TEXT
};

#define RATIO_ONE 1000000000u

static void *slot(const ms_knob_values_t *values, const ms_knob_info_t *knob) {
    return (void *)((uintptr_t)values + knob->offset);
}

/* strcspn() for one character: libc's would bring 64 KiB of its code into the memory of every process. */
static size_t length_to(const char *text, char stop) {
    size_t length = 0;
    while (text[length] && text[length] != stop) length++;
    return length;
}

/* Index of the word text[0..length) in "a|b|c", or -1. */
static int choice_index(const char *choices, const char *text, size_t length) {
    for (int index = 0;; index++) {
        size_t word = length_to(choices, '|');
        if (word == length && memcmp(choices, text, length) == 0) return index;
        if (choices[word] == '\0') return -1;
        choices += word + 1;
    }
}

/* "a+c" of "a|b|c". */
static bool are_choices(const char *choices, const char *text) {
    for (;;) {
        size_t length = length_to(text, '+');
        if (choice_index(choices, text, length) < 0) return false;
        if (text[length] == '\0') return true;
        text += length + 1;
    }
}

static bool parse_digits(const char **at, uint64_t *value) {
    const char *first = *at;
    for (*value = 0; **at >= '0' && **at <= '9'; (*at)++) {
        if (*value > (UINT64_MAX - 9) / 10) return false;
        *value = *value * 10 + (uint64_t)(**at - '0');
    }
    return *at > first;
}

static bool parse_number(const ms_knob_info_t *knob, const char *text, uint64_t *value) {
    if (!parse_digits(&text, value)) return false;
    if (knob->type == MS_KNOB_IS_BYTES && *text) {
        unsigned shift = 0;
        for (unsigned known = 0; known < 3; known++)
            if ("KMG"[known] == (*text & ~32)) shift = (known + 1) * 10;
        if (shift == 0 || *value > UINT64_MAX >> shift) return false;
        *value <<= shift;
        text++;
    }
    return *text == '\0' && *value >= knob->min && *value <= knob->max;
}

/* 0 to 1, in billionths; what is less than one of them is no 0, which means something else. */
static bool parse_ratio(const char *text, uint64_t *value) {
    uint64_t whole = 0, scale = RATIO_ONE;
    bool positive = false;
    if (!parse_digits(&text, &whole) || whole > 1) return false;
    *value = whole * RATIO_ONE;
    if (*text == '.') {
        for (text++; *text >= '0' && *text <= '9'; text++) {
            scale /= 10;
            *value += scale * (uint64_t)(*text - '0');
            positive |= *text != '0';
        }
    }
    return *text == '\0' && *value <= RATIO_ONE && (*value || !positive);
}

static const struct {
    const char *name;
    uint64_t ns;
} time_units[] = {{"ms", 1000000}, {"s", 1000000000}, {"min", 60000000000}};
#define TIME_UNITS (sizeof time_units / sizeof time_units[0])

/* "100ms", "2s", "1min" in nanoseconds; "off" is 0. A number alone could be anything. */
static bool parse_duration(const ms_knob_info_t *knob, const char *text, uint64_t *value) {
    *value = 0;
    if (strcmp(text, "off") == 0) return true;
    if (!parse_digits(&text, value)) return false;
    size_t unit = 0;
    while (unit < TIME_UNITS && strcmp(text, time_units[unit].name) != 0) unit++;
    if (unit == TIME_UNITS || *value > knob->max / time_units[unit].ns) return false;
    *value *= time_units[unit].ns;
    return *value >= knob->min;
}

static bool parse_bool(const char *text, uint64_t *value) {
    static const char words[] = "off|false|0|on|true|1";
    int index = choice_index(words, text, strlen(text));
    *value = index >= 3;
    return index >= 0;
}

static MS_RARE bool set_value(ms_knob_values_t *values, const ms_knob_info_t *knob, const char *text) {
    uint64_t value = 0;
    bool good = false;
    switch (knob->type) {
    case MS_KNOB_IS_CHOICE: {
        int index = choice_index(knob->choices, text, strlen(text));
        good = index >= 0;
        value = (uint64_t)index;
        break;
    }
    case MS_KNOB_IS_BYTES:
    case MS_KNOB_IS_COUNT: good = parse_number(knob, text, &value); break;
    case MS_KNOB_IS_RATIO: good = parse_ratio(text, &value); break;
    case MS_KNOB_IS_BOOL: good = parse_bool(text, &value); break;
    case MS_KNOB_IS_DURATION: good = parse_duration(knob, text, &value); break;
    case MS_KNOB_IS_WORDS:
        if (!are_choices(knob->choices, text)) return false;
        __attribute__((fallthrough));
    case MS_KNOB_IS_TEXT:
        if (strlen(text) >= MS_KNOB_TEXT_MAX) return false;
        strcpy(slot(values, knob), text);
        return true;
    }
    if (good) memcpy(slot(values, knob), &value, sizeof value);
    return good;
}

MS_RARE void ms_knobs_reset(ms_knob_values_t *values, ms_knob_source_t sources[MS_KNOB_ID_COUNT]) {
    for (int id = 0; id < MS_KNOB_ID_COUNT; id++) {
        set_value(values, &ms_knob_info[id], ms_knob_info[id].initial);
        sources[id] = MS_SOURCE_DEFAULT;
    }
}

static char *put(char *at, char *end, const char *text) {
    while (*text && at < end - 1) *at++ = *text++;
    *at = '\0';
    return at;
}

static char *put_number(char *at, char *end, uint64_t value) {
    char digits[24];
    size_t n = sizeof digits;
    digits[--n] = '\0';
    do digits[--n] = (char)('0' + value % 10);
    while ((value /= 10) != 0);
    return put(at, end, digits + n);
}

/* In the largest unit that gives a whole number. */
static char *put_duration(char *at, char *end, uint64_t value) {
    size_t unit = TIME_UNITS - 1;
    if (value == 0) return put(at, end, "off");
    while (unit > 0 && value % time_units[unit].ns != 0) unit--;
    return put(put_number(at, end, value / time_units[unit].ns), end, time_units[unit].name);
}

/* "expected ..." for a value that was refused. */
static MS_COLD void expected(const ms_knob_info_t *knob, char *text, size_t bytes) {
    char *at = text, *end = text + bytes;
    at = put(at, end, "expected ");
    switch (knob->type) {
    case MS_KNOB_IS_CHOICE:
    case MS_KNOB_IS_BOOL: put(at, end, knob->choices); break;
    case MS_KNOB_IS_RATIO: put(at, end, "a number from 0 to 1, 0 or 0.000000001 at least"); break;
    case MS_KNOB_IS_WORDS: put(put(at, end, knob->choices), end, ", or several joined by '+'"); break;
    case MS_KNOB_IS_TEXT: put(at, end, "a shorter text"); break;
    case MS_KNOB_IS_DURATION:
        at = put_duration(put(at, end, "off or a time from "), end, knob->min);
        put(put_duration(put(at, end, " to "), end, knob->max), end, " with its unit, ms, s or min");
        break;
    case MS_KNOB_IS_BYTES:
    case MS_KNOB_IS_COUNT:
        at = put_number(put(at, end, "a number from "), end, knob->min);
        at = put_number(put(at, end, " to "), end, knob->max);
        if (knob->type == MS_KNOB_IS_BYTES) put(at, end, ", with K, M or G if you like");
    }
}

static bool set_knob(const char *key, const char *text, ms_knob_source_t source, ms_knob_values_t *values,
                     ms_knob_source_t sources[], ms_knob_complaint_t *complain, void *context) {
    for (int id = 0; id < MS_KNOB_ID_COUNT; id++) {
        const ms_knob_info_t *knob = &ms_knob_info[id];
        if (strcmp(knob->name, key) != 0) continue;
        if (set_value(values, knob, text)) {
            sources[id] = source;
            return true;
        }
        char problem[160], number[32];
        expected(knob, problem, sizeof problem);
        complain(context, key, text, problem, ms_knob_text(values, (ms_knob_id_t)id, number));
        return false;
    }
    complain(context, key, text, "no such knob; `memscope conf` lists them", NULL);
    return false;
}

/* One "key:value" of `length` characters. */
static bool parse_entry(const char *entry, size_t length, ms_knob_source_t source, ms_knob_values_t *values,
                        ms_knob_source_t sources[], ms_knob_complaint_t *complain, void *context) {
    char copy[MS_KNOB_TEXT_MAX + 64];
    bool cut = length >= sizeof copy;
    if (cut) length = sizeof copy - 1;
    memcpy(copy, entry, length);
    copy[length] = '\0';
    char *colon = strchr(copy, ':');
    if (!colon || cut) {
        complain(context, copy, "", cut ? "too long" : "expected key:value", NULL);
        return false;
    }
    *colon = '\0';
    return set_knob(copy, colon + 1, source, values, sources, complain, context);
}

MS_RARE bool ms_knobs_parse(const char *text, ms_knob_source_t source, ms_knob_values_t *values,
                            ms_knob_source_t sources[MS_KNOB_ID_COUNT], ms_knob_complaint_t *complain, void *context) {
    bool good = true;
    while (*text) {
        size_t length = length_to(text, ',');
        if (length) good &= parse_entry(text, length, source, values, sources, complain, context);
        text += length + (text[length] == ',');
    }
    return good;
}

static bool parse_line(char *line, ms_knob_values_t *values, ms_knob_source_t sources[], ms_knob_complaint_t *complain,
                       void *context) {
    size_t length = length_to(line, '#');
    while (length && (line[length - 1] == ' ' || line[length - 1] == '\t' || line[length - 1] == '\r')) length--;
    while (length && (*line == ' ' || *line == '\t')) line++, length--;
    if (length_to(line, ',') < length) { /* as in the variable */
        line[length] = '\0';
        complain(context, line, "", "expected one key:value a line, whose value cannot hold a comma", NULL);
        return false;
    }
    return length == 0 || parse_entry(line, length, MS_SOURCE_FILE, values, sources, complain, context);
}

#define WRITER_MS 1000 /* so long somebody may take to open a pipe and write to it */

/* Bytes read. A pipe is read to what its writer gives first; one that has none would hold the program up for ever. */
static ssize_t read_file(const char *path, char *text, size_t room, const char **problem) {
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat status;
    struct pollfd wanted = {.fd = file, .events = POLLIN};
    bool is_pipe = file >= 0 && fstat(file, &status) == 0 && S_ISFIFO(status.st_mode);
    if (is_pipe) poll(&wanted, 1, WRITER_MS);
    ssize_t bytes = file < 0 ? -1 : read(file, text, room);
    if (file >= 0) close(file);
    if (bytes < 0) *problem = "cannot read this file";
    if (is_pipe && bytes <= 0) *problem = "nobody writes to this pipe";
    return bytes;
}

bool ms_knobs_parse_file(const char *path, ms_knob_values_t *values, ms_knob_source_t sources[MS_KNOB_ID_COUNT],
                         ms_knob_complaint_t *complain, void *context) {
    char text[16384];
    const char *problem = NULL;
    ssize_t bytes = read_file(path, text, sizeof text - 1, &problem);
    if (bytes == (ssize_t)sizeof text - 1) problem = "file longer than 16 KiB";
    if (problem) {
        complain(context, "conf", path, problem, NULL);
        return false;
    }
    text[bytes] = '\0';
    bool good = true;
    for (char *line = text, *next; line; line = next) {
        next = strchr(line, '\n');
        if (next) *next++ = '\0';
        good &= parse_line(line, values, sources, complain, context);
    }
    return good;
}

void ms_knobs_look(const ms_knob_values_t *values, ms_knob_complaint_t *complain, void *context) {
    const char *group = values->cgroup_limit;
    if (strcmp(group, "auto") == 0 || strcmp(group, "off") == 0) return;
    char path[MS_KNOB_TEXT_MAX + 32], *end = path + sizeof path;
    put(put(path, end, group), end, "/memory.max"); /* version 2 */
    if (access(path, R_OK) == 0) return;
    put(put(path, end, group), end, "/memory.limit_in_bytes");
    if (access(path, R_OK) == 0) return;
    complain(context, "cgroup_limit", group, "no limit can be read there, expected auto, off or the directory of a group", NULL);
}

MS_RARE const char *ms_knob_text(const ms_knob_values_t *values, ms_knob_id_t id, char *buffer) {
    const ms_knob_info_t *knob = &ms_knob_info[id];
    if (knob->type == MS_KNOB_IS_TEXT || knob->type == MS_KNOB_IS_WORDS) return slot(values, knob);
    uint64_t value;
    memcpy(&value, slot(values, knob), sizeof value);
    if (knob->type == MS_KNOB_IS_CHOICE) {
        const char *word = knob->choices;
        for (uint64_t i = 0; i < value; i++) word += length_to(word, '|') + 1;
        size_t length = length_to(word, '|');
        memcpy(buffer, word, length);
        buffer[length] = '\0';
        return buffer;
    }
    if (knob->type == MS_KNOB_IS_BOOL) return value ? "on" : "off";
    char *end = buffer + 32;
    if (knob->type == MS_KNOB_IS_DURATION) {
        put_duration(buffer, end, value);
        return buffer;
    }
    if (knob->type != MS_KNOB_IS_RATIO) {
        put_number(buffer, end, value);
        return buffer;
    }
    char *at = put(put_number(buffer, end, value / RATIO_ONE), end, ".");
    for (uint64_t rest = value % RATIO_ONE, scale = RATIO_ONE / 10; scale && (rest || scale == RATIO_ONE / 10); scale /= 10) {
        at = put_number(at, end, rest / scale);
        rest %= scale;
    }
    return buffer;
}
