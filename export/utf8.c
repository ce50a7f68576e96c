/* See utf8.h. */
#include "export/utf8.h"

#include <stdbool.h>

typedef struct {
    unsigned length;               /* bytes of the character, 0: no character starts with this byte */
    unsigned char lowest, highest; /* of the second byte; further ones are 80..bf */
} ms_utf8_lead_t;

/* Unicode 15, table 3-7: the narrower second bytes keep out overlong forms, surrogates and what lies over U+10FFFF. */
static ms_utf8_lead_t lead(unsigned char byte) {
    if (byte < 0x80) return (ms_utf8_lead_t){1, 0, 0};
    if (byte < 0xc2) return (ms_utf8_lead_t){0, 0, 0};
    if (byte < 0xe0) return (ms_utf8_lead_t){2, 0x80, 0xbf};
    if (byte < 0xf0) return (ms_utf8_lead_t){3, byte == 0xe0 ? 0xa0 : 0x80, byte == 0xed ? 0x9f : 0xbf};
    if (byte < 0xf5) return (ms_utf8_lead_t){4, byte == 0xf0 ? 0x90 : 0x80, byte == 0xf4 ? 0x8f : 0xbf};
    return (ms_utf8_lead_t){0, 0, 0};
}

/* The bytes of the character that starts at text, or of its maximal subpart when it is broken (at least 1). The
 * terminating NUL is no second byte of anything, so nothing behind it is read. */
static size_t character(const unsigned char *text, bool *valid) {
    ms_utf8_lead_t first = lead(text[0]);
    size_t n = 1;
    if (first.length > 1 && text[1] >= first.lowest && text[1] <= first.highest)
        for (n = 2; n < first.length && (text[n] & 0xc0) == 0x80;) n++;
    *valid = n == first.length;
    return n;
}

void ms_utf8_each(const char *text, ms_utf8_emit_t emit, void *context) {
    const char *run = text; /* valid and not yet emitted: run .. text */
    while (*text != '\0') {
        bool valid;
        size_t n = character((const unsigned char *)text, &valid);
        if (!valid) {
            if (text > run) emit(context, run, (size_t)(text - run));
            emit(context, "\xef\xbf\xbd", 3);
            run = text + n;
        }
        text += n;
    }
    if (text > run) emit(context, run, (size_t)(text - run));
}
