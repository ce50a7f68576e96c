/* mimalloc with PAD bytes more for each block, where memscope's header would be. Preloaded in front of libmimalloc by
 * bench/simulate.py (variants mimalloc+8, mimalloc+16): what room alone costs, without anybody writing to it. */
#include <errno.h>
#include <stddef.h>
#include <string.h>

void *mi_malloc(size_t size);
void *mi_realloc(void *block, size_t size);
void *mi_malloc_aligned(size_t size, size_t alignment);
size_t mi_usable_size(const void *block);
void mi_free(void *block);
int posix_memalign(void **result, size_t alignment, size_t size);
void *memalign(size_t alignment, size_t size);
void *aligned_alloc(size_t alignment, size_t size);
void *reallocarray(void *block, size_t count, size_t size);
void *malloc(size_t size);
void *calloc(size_t count, size_t size);
void *realloc(void *block, size_t size);
void free(void *block);
size_t malloc_usable_size(void *block);

void *malloc(size_t size) { return mi_malloc(size + PAD); }
void free(void *block) { mi_free(block); }
void *realloc(void *block, size_t size) { return mi_realloc(block, size + PAD); }
void *memalign(size_t alignment, size_t size) { return mi_malloc_aligned(size + PAD, alignment); }
void *aligned_alloc(size_t alignment, size_t size) { return mi_malloc_aligned(size + PAD, alignment); }
size_t malloc_usable_size(void *block) { return block ? mi_usable_size(block) : 0; }

void *calloc(size_t count, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) return NULL;
    void *block = mi_malloc(bytes + PAD);
    return block ? memset(block, 0, bytes) : NULL;
}

void *reallocarray(void *block, size_t count, size_t size) {
    size_t bytes;
    return __builtin_mul_overflow(count, size, &bytes) ? NULL : mi_realloc(block, bytes + PAD);
}

int posix_memalign(void **result, size_t alignment, size_t size) {
    void *block = mi_malloc_aligned(size + PAD, alignment);
    if (!block) return ENOMEM;
    *result = block;
    return 0;
}
