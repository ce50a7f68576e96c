#include "tests/entries.h"

#include <errno.h>
#include <malloc.h>
#include <stdlib.h>

static void *by_malloc(size_t alignment, size_t size) {
    return (void)alignment, malloc(size);
}
static void *by_calloc(size_t alignment, size_t size) {
    return (void)alignment, calloc(1, size);
}
static void *by_calloc_bytes(size_t alignment, size_t size) {
    return (void)alignment, calloc(size, 1);
}
static void *by_realloc(size_t alignment, size_t size) {
    return (void)alignment, realloc(NULL, size);
}
static void *by_reallocarray(size_t alignment, size_t size) {
    return (void)alignment, reallocarray(NULL, 1, size);
}
static void *by_valloc(size_t alignment, size_t size) {
    return (void)alignment, valloc(size);
}
static void *by_pvalloc(size_t alignment, size_t size) {
    return (void)alignment, pvalloc(size);
}
static void *by_memalign(size_t alignment, size_t size) {
    return memalign(alignment, size);
}
static void *by_aligned_alloc(size_t alignment, size_t size) {
    return aligned_alloc(alignment, size);
}
static void *by_posix_memalign(size_t alignment, size_t size) {
    void *block = NULL;
    int error = posix_memalign(&block, alignment, size);
    if (error == 0) return block;
    errno = error;
    return NULL;
}

const entry_t entries[] = {
    {"malloc", by_malloc, 16, false, false},
    {"calloc(1, n)", by_calloc, 16, true, false},
    {"calloc(n, 1)", by_calloc_bytes, 16, true, false},
    {"realloc(NULL, n)", by_realloc, 16, false, false},
    {"reallocarray(NULL, 1, n)", by_reallocarray, 16, false, false},
    {"valloc", by_valloc, 4096, false, false},
    {"pvalloc", by_pvalloc, 4096, false, false},
    {"memalign", by_memalign, 0, false, false},
    {"aligned_alloc", by_aligned_alloc, 0, false, false},
    {"posix_memalign", by_posix_memalign, 0, false, true},
};
const size_t entry_count = sizeof entries / sizeof entries[0];
