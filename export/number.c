/* See number.h. */
#include "export/number.h"

#include <stdbool.h>
#include <string.h>

size_t ms_number_u64(char text[MS_U64_TEXT], uint64_t value) {
    char reversed[MS_U64_TEXT];
    size_t n = 0;
    do {
        reversed[n++] = (char)('0' + value % 10);
        value /= 10;
    } while (value != 0);
    for (size_t i = 0; i < n; i++) text[i] = reversed[n - 1 - i];
    return n;
}

/* A whole number of up to 774 digits (2^53 * 5^1074, the numerator of the smallest doubles), base 10^9, least first. */
#define LIMB 1000000000u
#define LIMBS 90
typedef struct {
    uint32_t limb[LIMBS];
    size_t used;
} ms_big_t;

static void big_multiply(ms_big_t *big, uint32_t factor) {
    uint64_t carry = 0;
    for (size_t i = 0; i < big->used; i++) {
        carry += (uint64_t)big->limb[i] * factor;
        big->limb[i] = (uint32_t)(carry % LIMB);
        carry /= LIMB;
    }
    if (carry != 0) big->limb[big->used++] = (uint32_t)carry;
}

static size_t big_digits(const ms_big_t *big, char digits[LIMBS * 9]) {
    size_t n = ms_number_u64(digits, big->limb[big->used - 1]);
    for (size_t i = big->used - 1; i-- > 0; n += 9)
        for (uint32_t limb = big->limb[i], at = 9; at-- > 0; limb /= 10) digits[n + at] = (char)('0' + limb % 10);
    return n;
}

/* Rounds to 17 digits and drops trailing zeros. Returns the digits left; *point moves when 9.99 becomes 10. */
static size_t round_digits(char *digits, size_t n, long *point) {
    if (n > 17) {
        bool up = digits[17] >= '5';
        for (n = 17; up && n > 0 && digits[n - 1] == '9';) n--;
        if (up && n > 0) digits[n - 1]++;
        if (n == 0) {
            digits[n++] = '1';
            (*point)++;
        }
    }
    while (n > 1 && digits[n - 1] == '0') n--;
    return n;
}

/* `digits` with the decimal point behind the first `point` of them, as 123.4, 0.01234 or 1.234e+45. */
static size_t lay_out(char *text, const char *digits, size_t n, long point) {
    char *at = text;
    bool exponent = point < -4 || point > 17;
    long before = exponent ? 1 : point;
    if (before <= 0) *at++ = '0';
    for (long i = 0; i < before; i++) *at++ = i < (long)n ? digits[i] : '0';
    if ((long)n > before) *at++ = '.';
    for (long i = before; i < 0; i++) *at++ = '0';
    for (long i = before > 0 ? before : 0; i < (long)n; i++) *at++ = digits[i];
    if (exponent) {
        *at++ = 'e';
        *at++ = point > 0 ? '+' : '-';
        at += ms_number_u64(at, (uint64_t)(point > 0 ? point - 1 : 1 - point));
    }
    return (size_t)(at - text);
}

size_t ms_number_f64(char text[MS_F64_TEXT], double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint64_t fraction = bits & (((uint64_t)1 << 52) - 1);
    int biased = (int)(bits >> 52 & 0x7ff);
    if (biased != 0) fraction |= (uint64_t)1 << 52;
    int exponent = (biased != 0 ? biased : 1) - 1075; /* value == fraction * 2^exponent */
    size_t sign = bits >> 63;
    if (sign != 0) text[0] = '-';
    if (fraction == 0) {
        text[sign] = '0';
        return sign + 1;
    }
    for (; exponent < 0 && fraction % 2 == 0; exponent++) fraction /= 2;

    /* fraction * 2^exponent == fraction * 5^-exponent / 10^-exponent: a whole number and a place for the point. */
    ms_big_t big = {.limb = {(uint32_t)(fraction % LIMB), (uint32_t)(fraction / LIMB)},
                    .used = fraction < LIMB ? 1 : 2};
    for (int i = 0; i < exponent; i++) big_multiply(&big, 2);
    for (int i = exponent; i < 0; i++) big_multiply(&big, 5);
    char digits[LIMBS * 9];
    size_t n = big_digits(&big, digits);
    long point = (long)n + (exponent < 0 ? exponent : 0);
    n = round_digits(digits, n, &point);
    return sign + lay_out(text + sign, digits, n, point);
}
