/* See unpack.h. */
#include "export/unpack.h"

#include <string.h>

/* The formats 0xc0 .. 0xdf: what they are, and the bytes of the number (value, length or count) that follows. */
typedef struct {
    ms_token_kind_t kind;
    uint8_t width;
} ms_format_byte_t;

static const ms_format_byte_t formats[32] = {
    {MS_TOKEN_NIL, 0},   {MS_TOKEN_INVALID, 0}, {MS_TOKEN_BOOL, 0}, {MS_TOKEN_BOOL, 0}, /* c0 */
    {MS_TOKEN_BIN, 1},   {MS_TOKEN_BIN, 2},     {MS_TOKEN_BIN, 4},  {MS_TOKEN_EXT, 1},  /* c4 */
    {MS_TOKEN_EXT, 2},   {MS_TOKEN_EXT, 4},     {MS_TOKEN_F64, 4},  {MS_TOKEN_F64, 8},  /* c8 */
    {MS_TOKEN_UINT, 1},  {MS_TOKEN_UINT, 2},    {MS_TOKEN_UINT, 4}, {MS_TOKEN_UINT, 8}, /* cc */
    {MS_TOKEN_INT, 1},   {MS_TOKEN_INT, 2},     {MS_TOKEN_INT, 4},  {MS_TOKEN_INT, 8},  /* d0 */
    {MS_TOKEN_EXT, 0},   {MS_TOKEN_EXT, 0},     {MS_TOKEN_EXT, 0},  {MS_TOKEN_EXT, 0},  /* d4 */
    {MS_TOKEN_EXT, 0},   {MS_TOKEN_STR, 1},     {MS_TOKEN_STR, 2},  {MS_TOKEN_STR, 4},  /* d8 */
    {MS_TOKEN_ARRAY, 2}, {MS_TOKEN_ARRAY, 4},   {MS_TOKEN_MAP, 2},  {MS_TOKEN_MAP, 4},  /* dc */
};

/* Splits the first byte: what the token is, the width of the number behind it, or the number itself (width 0). */
static ms_format_byte_t format_of(unsigned char byte, uint64_t *number) {
    *number = 0;
    if (byte < 0x80) return *number = byte, (ms_format_byte_t){MS_TOKEN_UINT, 0};
    if (byte < 0x90) return *number = byte & 15, (ms_format_byte_t){MS_TOKEN_MAP, 0};
    if (byte < 0xa0) return *number = byte & 15, (ms_format_byte_t){MS_TOKEN_ARRAY, 0};
    if (byte < 0xc0) return *number = byte & 31, (ms_format_byte_t){MS_TOKEN_STR, 0};
    if (byte >= 0xe0) return *number = (uint64_t)(int64_t)(int8_t)byte, (ms_format_byte_t){MS_TOKEN_INT, 0};
    if (byte == 0xc3) *number = 1;
    if (byte >= 0xd4 && byte <= 0xd8) *number = (uint64_t)1 << (byte - 0xd4);
    return formats[byte - 0xc0];
}

static uint64_t sign_extended(uint64_t number, unsigned width) {
    unsigned unused = 64 - 8 * width;
    return (uint64_t)((int64_t)(number << unused) >> unused);
}

static double float_of(uint64_t bits, unsigned width) {
    float narrow;
    double wide;
    uint32_t low = (uint32_t)bits;
    memcpy(&narrow, &low, sizeof narrow);
    memcpy(&wide, &bits, sizeof wide);
    return width == 4 ? (double)narrow : wide;
}

bool ms_unpack(ms_unpack_t *unpack, ms_token_t *token) {
    const unsigned char *at = unpack->at;
    if (at == unpack->end) return false;
    *token = (ms_token_t){.kind = MS_TOKEN_INVALID};
    ms_format_byte_t format = format_of(*at++, &token->number);
    token->kind = format.kind;

    if (token->kind == MS_TOKEN_INVALID || format.width > unpack->end - at) return false;
    for (unsigned i = 0; i < format.width; i++) token->number = token->number << 8 | *at++;

    if (token->kind == MS_TOKEN_INT) {
        if (format.width > 0) token->number = sign_extended(token->number, format.width);
        if ((int64_t)token->number >= 0) token->kind = MS_TOKEN_UINT;
    } else if (token->kind == MS_TOKEN_F64) {
        token->f64 = float_of(token->number, format.width);
    } else if (token->kind == MS_TOKEN_STR || token->kind == MS_TOKEN_BIN || token->kind == MS_TOKEN_EXT) {
        unsigned type_byte = token->kind == MS_TOKEN_EXT;
        if (token->number + type_byte > (uint64_t)(unpack->end - at)) return false;
        token->bytes = at + type_byte;
        at = token->bytes + token->number;
    }
    unpack->at = at;
    return true;
}

bool ms_unpack_kind(ms_unpack_t *unpack, ms_token_kind_t kind, ms_token_t *token) {
    ms_unpack_t before = *unpack;
    if (ms_unpack(unpack, token) && token->kind == kind) return true;
    *unpack = before;
    return false;
}

bool ms_unpack_skip(ms_unpack_t *unpack) {
    ms_unpack_t before = *unpack;
    ms_token_t token;
    for (uint64_t pending = 1; pending > 0; pending--) {
        if (!ms_unpack(unpack, &token)) {
            *unpack = before;
            return false;
        }
        if (token.kind == MS_TOKEN_ARRAY) pending += token.number;
        if (token.kind == MS_TOKEN_MAP) pending += 2 * token.number;
    }
    return true;
}

bool ms_token_is(const ms_token_t *token, const char *text) {
    size_t n = strlen(text);
    return token->kind == MS_TOKEN_STR && token->number == n && memcmp(token->bytes, text, n) == 0;
}

bool ms_unpack_find(ms_unpack_t unpack, const char *key, ms_unpack_t *value) {
    ms_token_t map, name;
    if (!ms_unpack_kind(&unpack, MS_TOKEN_MAP, &map)) return false;
    for (uint64_t i = 0; i < map.number; i++) {
        *value = unpack;
        if (!ms_unpack_skip(&unpack)) return false;
        if (ms_unpack_kind(value, MS_TOKEN_STR, &name) && ms_token_is(&name, key)) return true;
        if (!ms_unpack_skip(&unpack)) return false;
    }
    return false;
}
