/* MessagePack token by token, over bytes that may be hostile. It allocates nothing and trusts no count: a container is
 * only its header, its elements are the tokens that follow. (msgpack-c's unpacker allocates 24 bytes for every
 * element a header claims before it looks for one: 6 bytes of input reserve 100 GB.) */
#ifndef MS_EXPORT_UNPACK_H
#define MS_EXPORT_UNPACK_H

#include <stdbool.h>
#include <stdint.h>

typedef struct ms_unpack {
    const unsigned char *at, *end; /* what is left: at <= end */
} ms_unpack_t;

typedef enum {
    MS_TOKEN_NIL,
    MS_TOKEN_BOOL,  /* number: 0 or 1 */
    MS_TOKEN_UINT,  /* number, non-negative whatever the encoding */
    MS_TOKEN_INT,   /* number: a negative int64_t, as its bits */
    MS_TOKEN_F64,   /* f64 */
    MS_TOKEN_STR,   /* number bytes at `bytes` */
    MS_TOKEN_BIN,   /* the same */
    MS_TOKEN_EXT,   /* the same, the type byte left out */
    MS_TOKEN_ARRAY, /* number elements follow */
    MS_TOKEN_MAP,   /* number pairs follow */
    MS_TOKEN_INVALID
} ms_token_kind_t;

typedef struct ms_token {
    ms_token_kind_t kind;
    uint64_t number;
    double f64;
    const unsigned char *bytes;
} ms_token_t;

/* Takes the next token. False when the bytes end before it does or it is none; `unpack` then stays where it was. */
bool ms_unpack(ms_unpack_t *unpack, ms_token_t *token);

/* The same, and false as well when the token is not of this kind. */
bool ms_unpack_kind(ms_unpack_t *unpack, ms_token_kind_t kind, ms_token_t *token);

/* Passes over one whole object with everything in it. */
bool ms_unpack_skip(ms_unpack_t *unpack);

/* Finds `key` in the map at `unpack`; *value is left at what it maps to. */
bool ms_unpack_find(ms_unpack_t unpack, const char *key, ms_unpack_t *value);

bool ms_token_is(const ms_token_t *token, const char *text); /* a STR of exactly these bytes */

#endif
