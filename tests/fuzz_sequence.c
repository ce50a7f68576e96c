/* A sequence of heap operations from bytes, against the model. Built with clang's -fsanitize=fuzzer (make
 * fuzz_sequence) it searches; built as a test it replays tests/corpus and every sequence of two operations.
 *
 *     each operation   byte: what (low 4 bits) and which entry or alignment (high 4 bits)
 *                      byte: slot       two bytes: size, shifted by the slot's low bits */
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/heap_model.h"

enum { SLOTS = 64, OPERATION = 4 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static heap_record_t slots[SLOTS];
static heap_counts_t counts;

static void operate(const uint8_t *bytes) {
    unsigned what = bytes[0] & 15, which = bytes[0] >> 4;
    heap_record_t *record = &slots[bytes[1] % SLOTS];
    size_t size = ((size_t)bytes[2] | (size_t)bytes[3] << 8) << bytes[1] / SLOTS * 2; /* up to 4 MiB */
    uint64_t seed = (uint64_t)bytes[2] << 8 | bytes[1];
    if (what == 15 && which == 15) {
        malloc_trim(0);
    } else if (!record->block) {
        heap_allocate(record, &counts, (heap_entry_t)(what % HEAP_ENTRIES), size, (size_t)8 << which, seed);
    } else if (what < 6) {
        heap_resize(record, &counts, size);
    } else if (what < 8) {
        memset((char *)record->block + record->size, 0x77, malloc_usable_size(record->block) - record->size);
    } else {
        heap_free(record, &counts, which);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    for (size_t at = 0; at + OPERATION <= size; at += OPERATION) operate(data + at);
    for (size_t i = 0; i < SLOTS; i++)
        if (slots[i].block) heap_free(&slots[i], &counts, (unsigned)i);
    return 0;
}

#ifdef FUZZ_REPLAY
static int replay(const char *path) {
    static uint8_t bytes[1 << 16];
    FILE *file = fopen(path, "rb");
    if (!file) {
        perror(path);
        return 1;
    }
    size_t length = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    return LLVMFuzzerTestOneInput(bytes, length);
}

/* Every operation after every other on the same slot, small and large. */
static void replay_pairs(void) {
    for (unsigned first = 0; first < 256; first++)
        for (unsigned second = 0; second < 256; second++) {
            uint8_t slot = (uint8_t)(first % 4 * SLOTS);
            uint8_t bytes[2 * OPERATION] = {(uint8_t)first,  slot, (uint8_t)second, 1,
                                            (uint8_t)second, slot, (uint8_t)first,  2};
            LLVMFuzzerTestOneInput(bytes, sizeof bytes);
        }
}

int main(int argc, char **argv) {
    int failed = 0;
    replay_pairs();
    for (int i = 1; i < argc; i++) failed |= replay(argv[i]);
    return failed;
}
#endif
