/* Text of any origin (thread names, arguments, symbol names) as valid UTF-8. No state, no allocation. */
#ifndef MS_EXPORT_UTF8_H
#define MS_EXPORT_UTF8_H

#include <stddef.h>

typedef void (*ms_utf8_emit_t)(void *context, const char *piece, size_t n);

/* Calls emit for the pieces (n > 0) of the C string `text`, in order. Valid UTF-8 passes as it is, no piece ends inside
 * a character; each maximal subpart of a broken character becomes one U+FFFD (Unicode 15, section 3.9: what Python's
 * and the browsers' decoders do). */
void ms_utf8_each(const char *text, ms_utf8_emit_t emit, void *context);

#endif
