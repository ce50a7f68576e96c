#include "tests/heap_model.h"

#include <errno.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support.h"

/* C++'s operators by their names: the model is C. */
extern void *_Znwm(size_t size);
extern void *_Znam(size_t size);
extern void *_ZnwmSt11align_val_t(size_t size, size_t alignment);
extern void *_ZnwmRKSt9nothrow_t(size_t size, const void *tag);
extern void *_ZnamRKSt9nothrow_t(size_t size, const void *tag);
extern void *_ZnwmSt11align_val_tRKSt9nothrow_t(size_t size, size_t alignment, const void *tag);
extern void _ZdlPv(void *block);
extern void _ZdlPvm(void *block, size_t size);
extern void _ZdlPvSt11align_val_t(void *block, size_t alignment);
extern void _ZdaPv(void *block);
extern void _ZdaPvm(void *block, size_t size);
extern void free_sized(void *block, size_t size) __attribute__((weak));
extern void free_aligned_sized(void *block, size_t alignment, size_t size) __attribute__((weak));

bool heap_may_refuse;
_Atomic(uint64_t) heap_refusals;

_Noreturn static void complain(const heap_record_t *record, const char *when, const char *what) {
    fprintf(stderr, "%s: block %p of %zu bytes, alignment %zu: %s\n", when, record->block, record->size,
            record->alignment, what);
    abort();
}

void heap_verify(const heap_record_t *record, const char *when) {
    if ((uintptr_t)record->block % record->alignment) complain(record, when, "misaligned");
    if (malloc_usable_size(record->block) < record->size) complain(record, when, "usable size below its size");
    if (!support_holds(record->block, record->size, record->seed)) complain(record, when, "contents have changed");
}

static void *call(heap_entry_t entry, size_t size, size_t alignment) {
    void *block = NULL;
    switch (entry) {
    case HEAP_CALLOC:
        return size % 3 ? calloc(1, size) : calloc(size, 1);
    case HEAP_REALLOC_NULL:
        return realloc(NULL, size);
    case HEAP_REALLOCARRAY_NULL:
        return reallocarray(NULL, 1, size);
    case HEAP_MEMALIGN:
        return memalign(alignment, size);
    case HEAP_POSIX_MEMALIGN:
        errno = posix_memalign(&block, alignment, size);
        return block;
    case HEAP_ALIGNED_ALLOC:
        return aligned_alloc(alignment, size);
    case HEAP_OPERATOR_NEW:
        return heap_may_refuse ? _ZnwmRKSt9nothrow_t(size, NULL) : _Znwm(size);
    case HEAP_OPERATOR_NEW_ARRAY:
        return heap_may_refuse ? _ZnamRKSt9nothrow_t(size, NULL) : _Znam(size);
    case HEAP_OPERATOR_NEW_ALIGNED:
        return heap_may_refuse ? _ZnwmSt11align_val_tRKSt9nothrow_t(size, alignment, NULL)
                               : _ZnwmSt11align_val_t(size, alignment);
    default:
        return malloc(size);
    }
}

static bool is_refused(const heap_record_t *record, const void *block, const char *when) {
    if (block) return false;
    if (!heap_may_refuse) complain(record, when, "no memory");
    if (errno != ENOMEM) complain(record, when, "no memory, and errno does not say so");
    atomic_fetch_add_explicit(&heap_refusals, 1, memory_order_relaxed);
    return true;
}

static bool takes_alignment(heap_entry_t entry) {
    return entry == HEAP_MEMALIGN || entry == HEAP_POSIX_MEMALIGN || entry == HEAP_ALIGNED_ALLOC ||
           entry == HEAP_OPERATOR_NEW_ALIGNED;
}

void heap_allocate(heap_record_t *record, heap_counts_t *counts, heap_entry_t entry, size_t size, size_t alignment,
                   uint64_t seed) {
    if (!takes_alignment(entry) || alignment < 16) alignment = 16;
    if (entry == HEAP_ALIGNED_ALLOC && size < 1u << 20)
        size = (size + alignment - 1) & ~(alignment - 1); /* as C11 had it */
    errno = 0;
    *record = (heap_record_t){call(entry, size, alignment), size, alignment, seed, HEAP_C};
    if (entry == HEAP_OPERATOR_NEW || entry == HEAP_OPERATOR_NEW_ALIGNED) record->family = HEAP_NEW;
    if (entry == HEAP_OPERATOR_NEW_ARRAY) record->family = HEAP_NEW_ARRAY;
    if (is_refused(record, record->block, "allocation")) return;
    if (entry == HEAP_CALLOC)
        for (size_t i = 0; i < size; i++)
            if (((const char *)record->block)[i]) complain(record, "calloc", "not zeroed");
    support_fill(record->block, size, seed);
    counts->allocated_bytes += size;
    counts->allocated_blocks++;
}

void heap_resize(heap_record_t *record, heap_counts_t *counts, size_t size) {
    if (record->family != HEAP_C || size == 0) return;
    heap_verify(record, "before realloc");
    size_t kept = size < record->size ? size : record->size;
    /* large blocks are not filled byte by byte: the part that stays gets a pattern of its own length */
    support_fill(record->block, kept, record->seed);
    errno = 0;
    void *block = realloc(record->block, size);
    if (is_refused(record, block, "realloc")) { /* the block is as it was, but for what was filled anew */
        if (!support_holds(record->block, kept, record->seed))
            complain(record, "after a refusal", "contents have changed");
        support_fill(record->block, record->size, record->seed);
        return;
    }
    if (!support_holds(block, kept, record->seed)) complain(record, "after realloc", "contents have changed");
    counts->freed_bytes += record->size;
    counts->freed_blocks++;
    counts->allocated_bytes += size;
    counts->allocated_blocks++;
    *record = (heap_record_t){block, size, 16, record->seed + 1, HEAP_C};
    support_fill(block, size, record->seed);
}

static void release(const heap_record_t *record, unsigned how) {
    void *block = record->block;
    if (record->family == HEAP_NEW_ARRAY) {
        how % 2 ? _ZdaPv(block) : _ZdaPvm(block, record->size);
    } else if (record->family == HEAP_NEW && record->alignment > 16) {
        _ZdlPvSt11align_val_t(block, record->alignment);
    } else if (record->family == HEAP_NEW) {
        how % 2 ? _ZdlPv(block) : _ZdlPvm(block, record->size);
    } else if (how % 4 == 1 && free_sized && record->alignment == 16) {
        free_sized(block, record->size);
    } else if (how % 4 == 2 && free_aligned_sized && record->alignment > 16) {
        free_aligned_sized(block, record->alignment, record->size);
    } else {
        free(block);
    }
}

void heap_free(heap_record_t *record, heap_counts_t *counts, unsigned how) {
    heap_verify(record, "before free");
    release(record, how);
    counts->freed_bytes += record->size;
    counts->freed_blocks++;
    record->block = NULL;
}

size_t heap_size(uint64_t random) {
    uint64_t part = random >> 32;
    switch (random % 64) {
    case 0:
        return (size_t)(part % (3u << 20));
    case 1:
    case 2:
        return (size_t)(part % 200000);
    case 3:
    case 4:
    case 5:
    case 6:
        return (size_t)(part % 40000);
    default:
        return random % 4 ? (size_t)(part % 256) : (size_t)(part % 3000);
    }
}
