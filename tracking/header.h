/* The 16 bytes in front of every block.
 *
 *     live block   word0 = task:32 | site:32                        (task in the high half)
 *                  word1 = (facts * multiplier) ^ word0 ^ payload   (the seal)
 *                  facts = code:16 | flags:8 | age:24 | size:16     (code in the top bits)
 *     free block   word0 = next free block of its list (payload address)
 *                  word1 = word0 ^ free_key
 *
 * `code` is the number of the thread that allocated, `size` the requested bytes (0 for large blocks, whose size is in
 * their extended header), `age` a coarse time of birth (ms_age_*).
 *
 * The seal is a check that costs one multiplication each way. Opening it, facts = (word1 ^ word0 ^ payload) * inverse,
 * gives back facts only if no bit of either word and not the address has changed: any change spreads upwards through
 * the multiplication into the top 24 bits, which a reader compares with the code and flags it expects. One comparison
 * in free() therefore says: ours, live, intact, allocated by this very thread, by this family of functions, and in
 * need of nothing special. multiplier and free_key are random in each process.
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
    MS_FLAG_LARGE = 8,     /* not in a slab: ms_large_t in front of the header */
    MS_FLAG_INNER = 16,    /* header in front of an inner payload: word0 is the distance back to the block's payload */
    MS_FLAG_EXTENDED = 32, /* block with an inner payload: ms_extension_t at its own payload */
    MS_FLAG_REMOTE = 64,   /* freed by another thread, on its way home; word0 is the next one */
    MS_FLAG_LIVE = 128,
};

#define MS_FACTS_SIZE_BITS 16
#define MS_FACTS_AGE_SHIFT 16
#define MS_FACTS_FLAGS_SHIFT 40
#define MS_FACTS_CODE_SHIFT 48
#define MS_FACTS_EXPECT_SHIFT MS_FACTS_FLAGS_SHIFT /* facts >> this: code and flags */

typedef struct ms_secret {
    uint64_t multiplier; /* odd */
    uint64_t inverse;    /* multiplier * inverse == 1 */
    uint64_t free_key;
} ms_secret_t;
extern ms_secret_t ms_secret; /* set once, before the first block */

static inline ms_header_t *ms_header_of(const void *payload) {
    return (ms_header_t *)((uintptr_t)payload - sizeof(ms_header_t));
}

static inline uint64_t ms_seal(uint64_t facts, uint64_t word0, const void *payload) {
    return (facts * ms_secret.multiplier) ^ word0 ^ (uintptr_t)payload;
}

static inline uint64_t ms_open(const ms_header_t *header) {
    return (header->word1 ^ header->word0 ^ (uintptr_t)(header + 1)) * ms_secret.inverse;
}

static inline bool ms_header_is_free(const ms_header_t *header) {
    return (header->word0 ^ header->word1) == ms_secret.free_key;
}

static inline uint64_t ms_facts(uint32_t code, uint32_t flags, uint32_t age, size_t size) {
    return (uint64_t)code << MS_FACTS_CODE_SHIFT | (uint64_t)flags << MS_FACTS_FLAGS_SHIFT |
           (uint64_t)age << MS_FACTS_AGE_SHIFT | size;
}
static inline uint32_t ms_facts_code(uint64_t facts) { return (uint32_t)(facts >> MS_FACTS_CODE_SHIFT); }
static inline uint32_t ms_facts_flags(uint64_t facts) { return (uint32_t)(facts >> MS_FACTS_FLAGS_SHIFT) & 0xff; }
static inline uint32_t ms_facts_age(uint64_t facts) { return (uint32_t)(facts >> MS_FACTS_AGE_SHIFT) & 0xffffff; }
static inline size_t ms_facts_size(uint64_t facts) { return (size_t)(facts & 0xffff); }

static inline uint64_t ms_word0(uint32_t task, uint32_t site) { return (uint64_t)task << 32 | site; }
static inline uint32_t ms_word0_task(uint64_t word0) { return (uint32_t)(word0 >> 32); }
static inline uint32_t ms_word0_site(uint64_t word0) { return (uint32_t)word0; }

/* Age: milliseconds since the start as a floating-point number of 24 bits (5 exponent, 19 mantissa): exact for 17
 * minutes, then with a relative error of 2^-19; does not wrap for 35,000 years. */
uint32_t ms_age_encode(uint64_t milliseconds);
uint64_t ms_age_decode(uint32_t age); /* milliseconds */

#pragma GCC visibility pop
#endif
