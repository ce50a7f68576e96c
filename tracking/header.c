#include "tracking/header.h"

ms_secret_t ms_secret;

#define MANTISSA 19

uint32_t ms_age_encode(uint64_t milliseconds) {
    if (milliseconds < 1u << (MANTISSA + 1)) return (uint32_t)milliseconds;
    uint32_t exponent = 63 - (uint32_t)__builtin_clzll(milliseconds) - MANTISSA;
    if (exponent >= 31) return 0xffffff;
    return (exponent << MANTISSA) + (uint32_t)(milliseconds >> exponent);
}

/* Inverse of the encoding: below 2^(MANTISSA+1) the number itself; above, exponent e in the high bits has the leading
 * one of the mantissa added to it. */
uint64_t ms_age_decode(uint32_t age) {
    if (age < 1u << (MANTISSA + 1)) return age;
    uint32_t exponent = (age >> MANTISSA) - 1;
    return (uint64_t)(age - (exponent << MANTISSA)) << exponent;
}
