/* A model of the heap that is checked while it is used: every live block remembers its size, alignment and contents,
 * and is verified whenever it is resized, handed over or freed. Shared by test_stress (random operations on many
 * threads) and fuzz_sequence (operations from bytes).
 *
 * A record belongs to whoever holds its index; the model itself allocates nothing. */
#ifndef MS_TESTS_HEAP_MODEL_H
#define MS_TESTS_HEAP_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum { HEAP_C, HEAP_NEW, HEAP_NEW_ARRAY, HEAP_FAMILIES } heap_family_t;

typedef struct heap_record {
    void *block; /* NULL: none */
    size_t size, alignment;
    uint64_t seed; /* of the contents */
    heap_family_t family;
} heap_record_t;

/* What one thread did, in requested bytes, in the words of memscope_usage_t. */
typedef struct heap_counts {
    uint64_t allocated_bytes, allocated_blocks, freed_bytes, freed_blocks;
} heap_counts_t;

typedef enum {
    HEAP_MALLOC,
    HEAP_CALLOC,
    HEAP_REALLOC_NULL,
    HEAP_REALLOCARRAY_NULL,
    HEAP_MEMALIGN,
    HEAP_POSIX_MEMALIGN,
    HEAP_ALIGNED_ALLOC,
    HEAP_OPERATOR_NEW,
    HEAP_OPERATOR_NEW_ARRAY,
    HEAP_OPERATOR_NEW_ALIGNED,
    HEAP_ENTRIES
} heap_entry_t;

/* Whether a block may be refused, with ENOMEM: the record stays as it was. Otherwise that ends the process. */
extern bool heap_may_refuse;
extern _Atomic(uint64_t) heap_refusals;

/* Makes the record live; it must not be. `alignment` is a power of two. */
void heap_allocate(heap_record_t *record, heap_counts_t *counts, heap_entry_t entry, size_t size, size_t alignment,
                   uint64_t seed);
/* realloc; of a block from malloc's family only, others are left alone. */
void heap_resize(heap_record_t *record, heap_counts_t *counts, size_t size);
/* `how` chooses among the functions that may free the block. */
void heap_free(heap_record_t *record, heap_counts_t *counts, unsigned how);
/* Ends the process with a line if the block is not what the record says. */
void heap_verify(const heap_record_t *record, const char *when);

/* Sizes as programs ask for them: mostly small, sometimes up to 3 MiB. */
size_t heap_size(uint64_t random);

#endif
