/* What the bench programs share: clocks, a fixed random generator, and blocks that carry a pattern.
 *
 * No data of its own. A block filled by block_fill(p, n, key) has the key in the first word of each cache line and in
 * its last word (bytes for blocks under 8), so block_check() finds another block that overlaps it, and filling it
 * touches what a real program would touch. Any surprise ends the process with status 1: a broken allocator fails. */
#ifndef MS_BENCH_BENCH_H
#define MS_BENCH_BENCH_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BENCH_LINE = 64 };

__attribute__((noreturn, cold)) static inline void bench_die(const char *what) {
    fprintf(stderr, "bench: %s\n", what);
    _exit(1);
}

static inline double clock_ns(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators"): state must not be 0. */
static inline uint64_t random_next(uint64_t *state) {
    uint64_t x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return x * 0x2545f4914f6cdd1du;
}

/* Uniform in 0 .. bound-1, by multiplying instead of dividing. */
static inline uint32_t random_below(uint64_t *state, uint32_t bound) {
    return (uint32_t)(((random_next(state) >> 32) * bound) >> 32);
}

static inline void *must(void *p) {
    if (__builtin_expect(p == NULL, 0)) bench_die("out of memory");
    return p;
}

static inline void *must_malloc(size_t size) {
    return must(malloc(size));
}

static inline void block_fill(void *block, size_t size, uint64_t key) {
    char *p = block;
    if (size < sizeof key) {
        memset(p, (int)(key & 0xff), size);
        return;
    }
    for (size_t at = 0; at + sizeof key <= size; at += BENCH_LINE) memcpy(p + at, &key, sizeof key);
    memcpy(p + size - sizeof key, &key, sizeof key);
}

static inline void block_check(const void *block, size_t size, uint64_t key) {
    const unsigned char *p = block;
    if (size < sizeof key) {
        for (size_t at = 0; at < size; at++)
            if (p[at] != (key & 0xff)) bench_die("a block's contents changed");
        return;
    }
    uint64_t first, last;
    memcpy(&first, p, sizeof first);
    memcpy(&last, p + size - sizeof last, sizeof last);
    /* When the last word covers part of the first, only the last is whole. */
    if (last != key || (size >= 2 * sizeof key && first != key)) bench_die("a block's contents changed");
    for (size_t at = BENCH_LINE; at + 2 * sizeof key <= size; at += BENCH_LINE) {
        uint64_t word;
        memcpy(&word, p + at, sizeof word);
        if (word != key) bench_die("a block's contents changed");
    }
}

static inline void *block_new(size_t size, uint64_t key) {
    void *p = must_malloc(size);
    block_fill(p, size, key);
    return p;
}

static inline void block_delete(void *p, size_t size, uint64_t key) {
    block_check(p, size, key);
    free(p);
}

/* Keeps the compiler from removing a malloc/free pair whose block is never used. */
static inline void *keep(void *p) {
    __asm__ volatile("" : "+r"(p) : : "memory");
    return p;
}

#endif
