/* What test_sampled.py judges: allocates blocks of many sizes from several places, by two threads, frees half of them,
 * grows some, and writes a snapshot. Usage: sampled FILE.json [change|name|few]: `change` sets another mean gap every 1,000
 * blocks, `name` names every third block; `few` allocates of each size class as much as gives 8 to 15 live samples at
 * sample_bytes:65536, and nothing else. */
#include <errno.h>
#include <malloc.h>
#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "memscope/memscope.h"

enum { BLOCKS = 30000, LARGE = 200 };
static void *blocks[2][BLOCKS];

static __attribute__((noinline)) void *small(size_t i) { return malloc(1 + i * 7 % 300); }
static __attribute__((noinline)) void *medium(size_t i) { return calloc(1, 1000 + i * 13 % 9000); }
static __attribute__((noinline)) void *aligned(size_t i) { return memalign(64, 100 + i % 1000); }
static __attribute__((noinline)) void *large(size_t i) { return malloc(40000 + i * 100); }

static bool changes, names;

static void *allocate(void *argument) {
    static const uint64_t means[] = {2000, 30000, 8000, 500};
    void **mine = argument;
    for (size_t i = 0; i < BLOCKS; i++) {
        if (changes && i % 1000 == 0 && memscope_set_sample_bytes(means[i / 1000 % 4]) != 0) abort();
        mine[i] = i % 150 == 0 ? large(i % LARGE) : i % 20 == 0 ? medium(i) : i % 10 == 0 ? aligned(i) : small(i);
        if (i % 5 == 1) mine[i] = realloc(mine[i], 20 + i % 400);
        void *named = mine[i];
        if (names && i % 3 == 0 && MEMSCOPE_TRACK(named) != 0) abort();
        if (names && i % 9 == 0) mine[i] = realloc(mine[i], malloc_usable_size(mine[i]) + i % 2000);
    }
    return NULL;
}

enum { FEW_CLASSES = 40, FEW_MEAN = 65536 };

static void allocate_few(void) {
    double size = 1024;
    for (int class = 0; class < FEW_CLASSES; class++, size *= 1.0905077326652577) { /* the eighth root of 2 */
        double live = (8 + class % 8) / -expm1(-size / FEW_MEAN);
        for (int i = 0; i < 2 * (int)live; i++) {
            void *block = malloc((size_t)size);
            if (i % 2) free(block);
        }
    }
}

int main(int argc, char **argv) {
    if (argc < 2 || argc > 3) return 2;
    if (argc == 3 && strcmp(argv[2], "few") == 0) {
        allocate_few();
        return memscope_export_json(argv[1]) != 0;
    }
    changes = argc == 3 && strcmp(argv[2], "change") == 0;
    names = argc == 3 && !changes;
    if (memscope_set_sample_bytes(0) != EINVAL) return 4;
    pthread_t thread;
    if (pthread_create(&thread, NULL, allocate, blocks[1]) != 0) return 3;
    allocate(blocks[0]);
    pthread_join(thread, NULL);
    for (size_t i = 0; i < BLOCKS; i += 2) {
        free(blocks[0][i]); /* one's own and another's */
        free(blocks[1][i]);
    }
    return memscope_export_json(argv[1]) != 0;
}
