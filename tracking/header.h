/* The 16 bytes in front of every block.
 *
 *     live block   word0 = site:24 | age:24 | size:16; without MS_FLAG_SPECIAL: list:24 | age:24 | size:16
 *                  word1 = word0 * multiplier + payload + identity * scramble
 *                  identity = task:32 | code:16 | flags:8 | check:8
 *     free block   word0 = next free block of its list (payload address)
 *                  word1 = word0 + MS_FREE_MARK
 *     on its way   word0 = next:48 | size:16
 *                  word1 as of a live block; in place of the task the bytes of its size that were not requested
 *
 * `size` is the requested bytes (0 for large blocks, whose size is in their descriptor), `age` a coarse time of birth
 * (ms_age_*), `list` where an arena has the list of the block's class, `code` the number of the thread that allocated.
 *
 * word1 is a seal. Whoever knows which identity a block should have checks all of it with one multiplication and one
 * comparison of 64 bits: free() takes the short way if the block is what the current thread would have allocated in its
 * current task with the matching function - ours, live, intact, at this address, in need of nothing special. Whoever does
 * not know takes the identity out of the seal, identity = (word1 - word0 * multiplier - payload) / scramble, and sees from
 * its parts whether it can be one: a change of any bit spreads to all higher ones, and the high ones are of the task's
 * number. Multiplier and scramble are odd and random in each process.
 *
 * The payload starts right behind, so payload % 16 == 0. */
#ifndef MS_TRACKING_HEADER_H
#define MS_TRACKING_HEADER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#pragma GCC visibility push(hidden) /* no detour through the GOT */

typedef struct ms_header {
    uint64_t word0;
    uint64_t word1;
} ms_header_t;
_Static_assert(sizeof(ms_header_t) == 16, "the header keeps 16-byte alignment");

/* Which functions may free the block. */
typedef enum { MS_ORIGIN_C, MS_ORIGIN_NEW, MS_ORIGIN_NEW_ARRAY, MS_ORIGIN_COUNT } ms_origin_t;

/* flags */
enum {
    MS_FLAG_ORIGIN = 3,    /* mask: ms_origin_t */
    MS_FLAG_MEDIUM = 4,    /* size class beyond the fast path */
    MS_FLAG_LARGE = 8,     /* not in a slab: it has a descriptor, ms_large_t */
    MS_FLAG_INNER = 16,    /* header in front of an inner payload: word0 is the distance back to the block's payload */
    MS_FLAG_EXTENDED = 32, /* block with an inner payload: ms_extension_t at its own payload */
    MS_FLAG_SPECIAL = 64,  /* with LIVE: free() must not take the short way: it has a site, or no bytes */
    MS_FLAG_REMOTE = 64,   /* without LIVE: freed, on its way home or in quarantine; word0 has the next one */
    MS_FLAG_LIVE = 128,
    MS_FLAG_STATE = MS_FLAG_LIVE | MS_FLAG_REMOTE,
};

#define MS_WORD0_AGE_SHIFT 16
#define MS_WORD0_SITE_SHIFT 40
#define MS_WORD0_NEXT_SHIFT 16
#define MS_IDENTITY_FLAGS_SHIFT 8
#define MS_IDENTITY_CODE_SHIFT 16
#define MS_IDENTITY_TASK_SHIFT 32
#define MS_IDENTITY_CHECK 0xc5u
#define MS_FREE_MARK 0x5a3c695bu /* two words with the same pattern, or zeros, do not differ by this */

typedef struct ms_secret {
    uint64_t multiplier, scramble; /* odd */
    uint64_t unscramble;           /* scramble * unscramble == 1 */
    uint64_t medium, extended;     /* token of MS_FLAG_MEDIUM alone, of MS_FLAG_EXTENDED alone */
    uint64_t large;                /* what a large block's token has more than a plain one's of the fast path */
} ms_secret_t;
extern ms_secret_t ms_secret; /* set once, before the first block */

/* What a header says. */
typedef struct ms_facts {
    uint64_t word0, identity;
} ms_facts_t;

static inline ms_header_t *ms_header_of(const void *payload) {
    return (ms_header_t *)((uintptr_t)payload - sizeof(ms_header_t));
}

/* A token is an identity as it stands in the seal. Tokens of parts add up to the token of the whole. */
static inline uint64_t ms_token(uint64_t identity) { return identity * ms_secret.scramble; }

static inline uint64_t ms_seal(uint64_t word0, uint64_t token, const void *payload) {
    return word0 * ms_secret.multiplier + token + (uintptr_t)payload;
}

static inline void ms_close(ms_header_t *header, ms_facts_t facts) {
    header->word0 = facts.word0;
    header->word1 = ms_seal(facts.word0, ms_token(facts.identity), header + 1);
}

/* Of a header of ours; of anything else it is a number that can hardly be an identity (ms_facts_can_be). */
static inline ms_facts_t ms_open_at(ms_header_t header, const void *payload) {
    uint64_t token = header.word1 - header.word0 * ms_secret.multiplier - (uintptr_t)payload;
    return (ms_facts_t){header.word0, token * ms_secret.unscramble};
}
static inline ms_facts_t ms_open(const ms_header_t *header) { return ms_open_at(*header, header + 1); }

static inline bool ms_header_is(const ms_header_t *header, uint64_t token) {
    return header->word1 == ms_seal(header->word0, token, header + 1);
}

static inline bool ms_header_is_free(const ms_header_t *header) { return header->word0 + MS_FREE_MARK == header->word1; }

static inline void ms_header_set_free(ms_header_t *header, const void *next) {
    header->word0 = (uintptr_t)next;
    header->word1 = (uintptr_t)next + MS_FREE_MARK;
}

static inline uint64_t ms_identity(uint32_t task, uint32_t code, uint32_t flags) {
    return (uint64_t)task << MS_IDENTITY_TASK_SHIFT | (uint64_t)code << MS_IDENTITY_CODE_SHIFT |
           (uint64_t)flags << MS_IDENTITY_FLAGS_SHIFT | MS_IDENTITY_CHECK;
}
static inline uint64_t ms_identity_flag(uint32_t flags) { return (uint64_t)flags << MS_IDENTITY_FLAGS_SHIFT; }
static inline bool ms_facts_can_be(ms_facts_t facts) { return (facts.identity & 0xff) == MS_IDENTITY_CHECK; }
static inline uint32_t ms_facts_task(ms_facts_t facts) { return (uint32_t)(facts.identity >> MS_IDENTITY_TASK_SHIFT); }
static inline uint32_t ms_facts_code(ms_facts_t facts) {
    return (uint32_t)(facts.identity >> MS_IDENTITY_CODE_SHIFT) & 0xffff;
}
static inline uint32_t ms_facts_flags(ms_facts_t facts) {
    return (uint32_t)(facts.identity >> MS_IDENTITY_FLAGS_SHIFT) & 0xff;
}

static inline uint64_t ms_word0(uint32_t site_or_list, uint32_t age, size_t size) {
    return (uint64_t)site_or_list << MS_WORD0_SITE_SHIFT | (uint64_t)age << MS_WORD0_AGE_SHIFT | size;
}
/* Of a live block; 0: none. */
static inline uint32_t ms_facts_site(ms_facts_t facts) {
    return ms_facts_flags(facts) & MS_FLAG_SPECIAL ? (uint32_t)(facts.word0 >> MS_WORD0_SITE_SHIFT) : 0;
}
static inline uint32_t ms_facts_age(ms_facts_t facts) { return (uint32_t)(facts.word0 >> MS_WORD0_AGE_SHIFT) & 0xffffff; }
static inline size_t ms_facts_size(ms_facts_t facts) { return (size_t)(facts.word0 & 0xffff); }

/* A block on its way home or in quarantine. */
static inline bool ms_facts_are_remote(ms_facts_t facts) {
    return ms_facts_can_be(facts) && (ms_facts_flags(facts) & MS_FLAG_STATE) == MS_FLAG_REMOTE &&
           ms_facts_size(facts) <= 32768;
}
static inline uint64_t ms_word0_remote(const void *next, size_t size) {
    return (uint64_t)(uintptr_t)next << MS_WORD0_NEXT_SHIFT | size;
}
static inline void *ms_facts_next(ms_facts_t facts) { return (void *)(uintptr_t)(facts.word0 >> MS_WORD0_NEXT_SHIFT); }
static inline size_t ms_facts_unrequested(ms_facts_t facts) { return ms_facts_task(facts); }

/* Age: milliseconds since the start as a floating-point number of 24 bits (5 exponent, 19 mantissa): exact for 17
 * minutes, then with a relative error of 2^-19; does not wrap for 35,000 years. */
uint32_t ms_age_encode(uint64_t milliseconds);
uint64_t ms_age_decode(uint32_t age); /* milliseconds */

#pragma GCC visibility pop
#endif
