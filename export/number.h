/* Numbers as text without printf: no locale, no allocation, safe in a signal handler. */
#ifndef MS_EXPORT_NUMBER_H
#define MS_EXPORT_NUMBER_H

#include <stddef.h>
#include <stdint.h>

#define MS_U64_TEXT 20 /* bytes of the longest unsigned 64-bit number */
#define MS_F64_TEXT 32 /* bytes that hold any ms_number_f64() */

/* Both write digits without a NUL and return how many bytes they wrote. */
size_t ms_number_u64(char text[MS_U64_TEXT], uint64_t value);

/* A finite number with 17 significant digits, correctly rounded, trailing zeros dropped: reading it back gives the same
 * double. Valid JSON. */
size_t ms_number_f64(char text[MS_F64_TEXT], double value);

#endif
