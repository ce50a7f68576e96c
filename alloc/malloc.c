/* The entry points: every symbol of symbols.def. They check their arguments and call the arena. */
#include "alloc/arena.h"
#include "alloc/catch.h"
#include "alloc/large.h"
#include "alloc/runtime.h"
#include "config.h"
#include "tracking/report.h"

#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

/* A program may replace the C++ operators; linked with the archive, its own are not a second definition. */
#define REPLACEABLE_C
#define REPLACEABLE_NEW __attribute__((weak))
#define REPLACEABLE_NEW_ARRAY __attribute__((weak))

/* Every entry point is declared here once; prototypes of the ones no header declares. */
#define MS_SYMBOL(name, origin) EXPORT REPLACEABLE_##origin __typeof__(name) name;
void free_sized(void *payload, size_t size);
void free_aligned_sized(void *payload, size_t alignment, size_t size);
void cfree(void *payload);
void *__libc_malloc(size_t size);
void __libc_free(void *payload);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *payload, size_t size);
void *__libc_memalign(size_t alignment, size_t size);
void *__libc_valloc(size_t size);
void *__libc_pvalloc(size_t size);
void *__libc_reallocarray(void *payload, size_t count, size_t size);
struct mallinfo __libc_mallinfo(void);
int __libc_mallopt(int parameter, int value);
void __libc_cfree(void *payload);
int __posix_memalign(void **result, size_t alignment, size_t size);
void *_Znwm(size_t size);
void *_ZnwmRKSt9nothrow_t(size_t size, const void *tag);
void *_ZnwmSt11align_val_t(size_t size, size_t alignment);
void *_ZnwmSt11align_val_tRKSt9nothrow_t(size_t size, size_t alignment, const void *tag);
void *_Znam(size_t size);
void *_ZnamRKSt9nothrow_t(size_t size, const void *tag);
void *_ZnamSt11align_val_t(size_t size, size_t alignment);
void *_ZnamSt11align_val_tRKSt9nothrow_t(size_t size, size_t alignment, const void *tag);
void _ZdlPv(void *payload);
void _ZdlPvm(void *payload, size_t size);
void _ZdlPvRKSt9nothrow_t(void *payload, const void *tag);
void _ZdlPvSt11align_val_t(void *payload, size_t alignment);
void _ZdlPvmSt11align_val_t(void *payload, size_t size, size_t alignment);
void _ZdlPvSt11align_val_tRKSt9nothrow_t(void *payload, size_t alignment, const void *tag);
void _ZdaPv(void *payload);
void _ZdaPvm(void *payload, size_t size);
void _ZdaPvRKSt9nothrow_t(void *payload, const void *tag);
void _ZdaPvSt11align_val_t(void *payload, size_t alignment);
void _ZdaPvmSt11align_val_t(void *payload, size_t size, size_t alignment);
void _ZdaPvSt11align_val_tRKSt9nothrow_t(void *payload, size_t alignment, const void *tag);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
#include "alloc/symbols.def"
#undef MS_SYMBOL

/* ---- C */

MS_HOT void *malloc(size_t size) { return ms_allocate(size, MS_ORIGIN_C, NULL); }
MS_HOT void free(void *payload) { ms_release(payload, MS_ORIGIN_C); }
void cfree(void *payload) { ms_release(payload, MS_ORIGIN_C); }
void free_sized(void *payload, size_t size) { ms_release_sized(payload, MS_ORIGIN_C, size); }

void free_aligned_sized(void *payload, size_t alignment, size_t size) {
    (void)alignment;
    ms_release_sized(payload, MS_ORIGIN_C, size);
}

MS_HOT void *calloc(size_t count, size_t size) {
    size_t bytes;
    if (ms_unlikely(__builtin_mul_overflow(count, size, &bytes))) return ms_refuse();
    void *payload = bytes <= MS_FAST_MAX ? ms_take(bytes, MS_ORIGIN_C) : NULL;
    return ms_likely(payload != NULL) ? memset(payload, 0, bytes) : ms_callocate(bytes, MS_ORIGIN_C, NULL);
}

/* As glibc: a null pointer allocates, size 0 frees. */
static inline __attribute__((always_inline)) void *resize(void *payload, size_t size) {
    if (!payload) return ms_allocate(size, MS_ORIGIN_C, NULL);
    if (ms_unlikely(size == 0)) {
        ms_release(payload, MS_ORIGIN_C);
        return NULL;
    }
    if (size <= MS_FAST_MAX && ms_resize_stays(payload, size, MS_ORIGIN_C)) return payload;
    return ms_reallocate(payload, size, MS_ORIGIN_C, NULL);
}

MS_HOT void *realloc(void *payload, size_t size) { return resize(payload, size); }

/* As glibc's it calls the realloc() that is bound: where a program brings a malloc of its own but for reallocarray(), and under
 * valgrind, which replaces the others, that is not ours. A jump: the caller stays the caller. */
static __typeof__(realloc) *const bound_realloc = realloc;
static inline __attribute__((always_inline)) void *resize_array(void *payload, size_t count, size_t size) {
    size_t bytes;
    if (ms_unlikely(__builtin_mul_overflow(count, size, &bytes))) return ms_refuse();
    __typeof__(realloc) *const *bound = &bound_realloc;
    MS_OPAQUE(bound);
    return (*bound)(payload, bytes);
}

void *reallocarray(void *payload, size_t count, size_t size) { return resize_array(payload, count, size); }

static bool is_power_of_two(size_t value) { return value != 0 && (value & (value - 1)) == 0; }

#define ALIGNMENT_MAX ((size_t)1 << 62)

/* To a power of two, or to more than ALIGNMENT_MAX. */
static inline __attribute__((always_inline)) void *aligned(size_t alignment, size_t size, const ms_caller_t *from) {
    if (ms_unlikely(alignment > ALIGNMENT_MAX)) {
        ms_refuse();
        errno = EINVAL;
        return NULL;
    }
    return ms_allocate_aligned(size, alignment, MS_ORIGIN_C, from);
}

/* As glibc: memalign rounds an alignment that is no power of two up to one. */
static size_t power_from(size_t alignment) {
    if (alignment <= 16) return 16;
    return alignment > ALIGNMENT_MAX ? alignment : (size_t)1 << (64 - __builtin_clzll(alignment - 1));
}

void *memalign(size_t alignment, size_t size) { return aligned(power_from(alignment), size, NULL); }

void *aligned_alloc(size_t alignment, size_t size) {
    if (!is_power_of_two(alignment)) {
        errno = EINVAL;
        return NULL;
    }
    return aligned(alignment, size, NULL);
}

int posix_memalign(void **result, size_t alignment, size_t size) {
    if (!is_power_of_two(alignment) || alignment % sizeof(void *)) return EINVAL;
    int saved = errno;
    ms_caller_t caller = MS_CALLER(NULL); /* there is more to do behind the call: it is no jump */
    void *payload = aligned(alignment, size, &caller);
    errno = saved;
    if (!payload) return ENOMEM;
    *result = payload;
    return 0;
}

void *valloc(size_t size) { return ms_allocate_aligned(size, MS_PAGE, MS_ORIGIN_C, NULL); }

void *pvalloc(size_t size) {
    if (size > PTRDIFF_MAX - MS_PAGE) return ms_refuse();
    return ms_allocate_aligned((size + MS_PAGE - 1) & ~(size_t)(MS_PAGE - 1), MS_PAGE, MS_ORIGIN_C, NULL);
}

size_t malloc_usable_size(void *payload) {
    if (!payload) return 0;
    return ms_likely(ms_is_plain(ms_arena_current, payload, MS_ORIGIN_C)) ? ms_plain_size(payload) : ms_block_size(payload);
}

/* ---- statistics in glibc's words: arena and hblkhd are what was obtained from the system for slabs and large blocks,
 * uordblks what is in use, fordblks what is free */

struct mallinfo2 mallinfo2(void) {
    ms_summary_t summary = ms_summary();
    return (struct mallinfo2){
        .arena = summary.slab_bytes,
        .hblks = summary.large_blocks,
        .hblkhd = summary.large_bytes,
        .uordblks = summary.live_bytes,
        .fordblks = summary.slab_bytes + summary.large_bytes > summary.live_bytes
                        ? summary.slab_bytes + summary.large_bytes - summary.live_bytes
                        : 0,
    };
}

static int clamped(size_t value) { return value > 0x7fffffff ? 0x7fffffff : (int)value; }

struct mallinfo mallinfo(void) {
    struct mallinfo2 wide = mallinfo2();
    return (struct mallinfo){
        .arena = clamped(wide.arena),
        .hblks = clamped(wide.hblks),
        .hblkhd = clamped(wide.hblkhd),
        .uordblks = clamped(wide.uordblks),
        .fordblks = clamped(wide.fordblks),
    };
}

/* Parameters of glibc's malloc mean nothing here; accepting them is what callers expect. */
int mallopt(int parameter, int value) {
    (void)parameter, (void)value;
    return 1;
}

int malloc_trim(size_t pad) {
    (void)pad;
    return ms_trim();
}

void malloc_stats(void) {
    ms_summary_t summary = ms_summary();
    char numbers[4][24];
    ms_os_say("live ", ms_os_decimal(numbers[0], summary.live_bytes), " bytes in ",
              ms_os_decimal(numbers[1], summary.live_blocks), " blocks; from the system: ",
              ms_os_decimal(numbers[2], summary.slab_bytes), " bytes for slabs, ",
              ms_os_decimal(numbers[3], summary.large_bytes), " for large blocks", NULL);
}

int malloc_info(int options, FILE *stream) {
    if (options != 0) return EINVAL;
    ms_summary_t summary = ms_summary();
    fprintf(stream,
            "<malloc version=\"memscope-%s\">\n<total type=\"live\" count=\"%zu\" size=\"%zu\"/>\n"
            "<system type=\"current\" size=\"%zu\"/>\n</malloc>\n",
            VERSION, (size_t)summary.live_blocks, (size_t)summary.live_bytes,
            (size_t)(summary.slab_bytes + summary.large_bytes));
    return 0;
}

/* ---- glibc's internal names */

void *__libc_malloc(size_t size) { return ms_allocate(size, MS_ORIGIN_C, NULL); }
void __libc_free(void *payload) { ms_release(payload, MS_ORIGIN_C); }
void __libc_cfree(void *payload) { ms_release(payload, MS_ORIGIN_C); }
void *__libc_calloc(size_t count, size_t size) {
    size_t bytes;
    return __builtin_mul_overflow(count, size, &bytes) ? ms_refuse() : ms_callocate(bytes, MS_ORIGIN_C, NULL);
}
void *__libc_realloc(void *payload, size_t size) { return resize(payload, size); }
void *__libc_reallocarray(void *payload, size_t count, size_t size) { return resize_array(payload, count, size); }
void *__libc_memalign(size_t alignment, size_t size) { return memalign(alignment, size); }
void *__libc_valloc(size_t size) { return valloc(size); }
void *__libc_pvalloc(size_t size) { return pvalloc(size); }
struct mallinfo __libc_mallinfo(void) { return mallinfo(); }
int __libc_mallopt(int parameter, int value) { return mallopt(parameter, value); }
int __posix_memalign(void **result, size_t alignment, size_t size) { return posix_memalign(result, alignment, size); }

/* ---- C++. A throwing new calls the new handler until it has memory or the handler gives up; without a handler it
 * throws std::bad_alloc, through the C++ runtime, which is somewhere if a throwing new was called at all. */

typedef void new_handler_t(void);
extern new_handler_t *_ZSt15get_new_handlerv(void) __attribute__((weak));
extern void _ZSt17__throw_bad_allocv(void) __attribute__((weak, noreturn));

static void *call_handler(void *argument) {
    new_handler_t **handler = argument;
    (*handler)();
    return argument;
}

static bool new_handler_helps(bool nothrow) {
    new_handler_t *(*get_handler)(void) = MS_RUNTIME(_ZSt15get_new_handlerv, NULL);
    new_handler_t *handler = get_handler ? get_handler() : NULL;
    if (!handler) return false;
    if (nothrow) return ms_call_and_catch(call_handler, &handler) != NULL;
    handler();
    return true;
}

static MS_COLD _Noreturn void throw_bad_alloc(void) {
    void (*throw_it)(void) = MS_RUNTIME(_ZSt17__throw_bad_allocv, NULL);
    if (throw_it) throw_it();
    ms_os_say("out of memory in operator new, and no C++ runtime to throw bad_alloc", NULL);
    abort();
}

static MS_COLD void *new_failed(size_t size, size_t alignment, ms_origin_t origin, const ms_caller_t *from, bool nothrow) {
    void *payload = NULL;
    while (!payload && new_handler_helps(nothrow)) payload = ms_allocate_aligned(size, alignment, origin, from);
    if (!payload && !nothrow) throw_bad_alloc();
    return payload;
}

/* An alignment that is none: the handler could not help. */
static MS_COLD void *new_refused(bool nothrow) {
    if (!nothrow) throw_bad_alloc();
    return NULL;
}

static __attribute__((noinline)) void *new_aligned(size_t size, size_t alignment, ms_origin_t origin, bool nothrow) {
    ms_caller_t caller = MS_CALLER(NULL);
    if (ms_unlikely(!is_power_of_two(alignment))) return new_refused(nothrow);
    void *payload = ms_allocate_aligned(size, alignment, origin, &caller);
    return ms_likely(payload != NULL) ? payload : new_failed(size, alignment, origin, &caller, nothrow);
}

static __attribute__((noinline)) void *new_slow(size_t size, ms_origin_t origin, bool nothrow) {
    ms_caller_t caller = MS_CALLER(NULL);
    void *payload = ms_allocate(size, origin, &caller);
    return ms_likely(payload != NULL) ? payload : new_failed(size, 16, origin, &caller, nothrow);
}

/* What the other forms stand for, see below: of one object, and it throws; a delete without a size. */
MS_HOT void *_Znwm(size_t size) {
    void *payload = size <= MS_FAST_MAX ? ms_take(size, MS_ORIGIN_NEW) : NULL;
    return ms_likely(payload != NULL) ? payload : new_slow(size, MS_ORIGIN_NEW, false);
}

void *_ZnwmSt11align_val_t(size_t size, size_t alignment) {
    return new_aligned(size, alignment, MS_ORIGIN_NEW, false);
}

MS_HOT void _ZdlPv(void *payload) { ms_release(payload, MS_ORIGIN_NEW); }

void _ZdlPvSt11align_val_t(void *payload, size_t alignment) {
    (void)alignment;
    ms_release(payload, MS_ORIGIN_NEW);
}

/* ---- C++: what a program replaces. The forms of an operator that it leaves to us then call those that the standard
 * names: nothrow new the one that throws, an array's that of one object, a sized or nothrow delete the one without
 * either, each of them among the aligned ones or the others. Where nothing is replaced nobody can tell, and no form
 * calls another.
 *
 * It costs no instruction of the short ways: the size that new[] and nothrow new compare with anyway, and the range of
 * addresses that delete does, say it too. */

/* What other forms call. */
typedef struct operators {
    void *(*allocate)(size_t size);
    void *(*allocate_aligned)(size_t size, size_t alignment);
    void (*release)(void *payload);
    void (*release_aligned)(void *payload, size_t alignment);
} operators_t;

/* Names of ours that the loader binds to nothing else. */
#define ALIAS(name) __attribute__((alias(#name)))
#define OWN(name) static __typeof__(name) own##name ALIAS(name);
OWN(_Znwm)
OWN(_ZnwmSt11align_val_t)
OWN(_ZdlPv)
OWN(_ZdlPvSt11align_val_t)
OWN(_Znam)
OWN(_ZnamSt11align_val_t)
OWN(_ZdaPv)
OWN(_ZdaPvSt11align_val_t)

static const operators_t own[MS_ORIGIN_COUNT] = {
    [MS_ORIGIN_NEW] = {own_Znwm, own_ZnwmSt11align_val_t, own_ZdlPv, own_ZdlPvSt11align_val_t},
    [MS_ORIGIN_NEW_ARRAY] = {own_Znam, own_ZnamSt11align_val_t, own_ZdaPv, own_ZdaPvSt11align_val_t},
};

/* What the loader bound. In a program that is not position-independent and takes an operator's address, that is an
 * entry of its table of calls: the operator looks replaced, and is reached all the same. */
static const operators_t bound[MS_ORIGIN_COUNT] = {
    [MS_ORIGIN_NEW] = {_Znwm, _ZnwmSt11align_val_t, _ZdlPv, _ZdlPvSt11align_val_t},
    [MS_ORIGIN_NEW_ARRAY] = {_Znam, _ZnamSt11align_val_t, _ZdaPv, _ZdaPvSt11align_val_t},
};

static inline const operators_t *in_effect(ms_origin_t origin) {
    const operators_t *operators = &bound[origin];
    MS_OPAQUE(operators); /* or the compiler may believe that they are ours */
    return operators;
}

/* Sizes below it may take the short way of new[] and nothrow new: none if something is replaced or nobody looked yet. */
static size_t short_below;
static inline size_t below(void) { return __atomic_load_n(&short_below, __ATOMIC_RELAXED); }

static bool is_replaced(ms_origin_t origin) {
    const operators_t *now = in_effect(origin), *ours = &own[origin];
    return now->allocate != ours->allocate || now->allocate_aligned != ours->allocate_aligned ||
           now->release != ours->release || now->release_aligned != ours->release_aligned;
}

MS_COLD bool ms_operators_are_replaced(void) {
    if (is_replaced(MS_ORIGIN_NEW) || is_replaced(MS_ORIGIN_NEW_ARRAY)) return true;
    __atomic_store_n(&short_below, MS_FAST_MAX + 1, __ATOMIC_RELAXED);
    return false;
}

static inline bool must_forward(void) { return ms_unlikely(below() == 0) && ms_operators_are_replaced(); }

/* A call of an operator that may throw, for one that must not. */
typedef struct wanted {
    ms_origin_t origin;
    size_t size, alignment;
} wanted_t;

static void *call_new(void *argument) {
    const wanted_t *wanted = argument;
    return in_effect(wanted->origin)->allocate(wanted->size);
}

static void *call_new_aligned(void *argument) {
    const wanted_t *wanted = argument;
    return in_effect(wanted->origin)->allocate_aligned(wanted->size, wanted->alignment);
}

static MS_COLD void *new_or_null(size_t size, ms_origin_t origin) {
    return ms_call_and_catch(call_new, &(wanted_t){.origin = origin, .size = size});
}

static MS_COLD void *new_aligned_or_null(size_t size, size_t alignment, ms_origin_t origin) {
    return ms_call_and_catch(call_new_aligned, &(wanted_t){.origin = origin, .size = size, .alignment = alignment});
}

static __attribute__((noinline)) void *new_array_slow(size_t size) {
    return must_forward() ? in_effect(MS_ORIGIN_NEW)->allocate(size) : new_slow(size, MS_ORIGIN_NEW_ARRAY, false);
}

static __attribute__((noinline)) void *new_nothrow_slow(size_t size, ms_origin_t origin) {
    return must_forward() ? new_or_null(size, origin) : new_slow(size, origin, true);
}

/* Calls the delete of origin `callee`. */
static __attribute__((noinline)) void delete_slow(void *payload, ms_origin_t origin, ms_origin_t callee) {
    if (must_forward())
        in_effect(callee)->release(payload);
    else
        ms_release_slow(payload, origin);
}

static __attribute__((noinline)) void delete_aligned_slow(void *payload, size_t alignment, ms_origin_t origin,
                                                          ms_origin_t callee) {
    if (must_forward())
        in_effect(callee)->release_aligned(payload, alignment);
    else
        ms_release_slow(payload, origin);
}

static __attribute__((noinline)) void delete_sized_slow(void *payload, ms_origin_t origin, size_t size) {
    if (must_forward())
        in_effect(origin)->release(payload);
    else
        ms_release_sized_slow(payload, origin, size);
}

static __attribute__((noinline)) void delete_sized_aligned_slow(void *payload, size_t alignment, ms_origin_t origin,
                                                                size_t size) {
    if (must_forward())
        in_effect(origin)->release_aligned(payload, alignment);
    else
        ms_release_sized_slow(payload, origin, size);
}

MS_HOT void *_Znam(size_t size) {
    void *payload = size < below() ? ms_take(size, MS_ORIGIN_NEW_ARRAY) : NULL;
    return ms_likely(payload != NULL) ? payload : new_array_slow(size);
}

void *_ZnamSt11align_val_t(size_t size, size_t alignment) {
    if (must_forward()) return in_effect(MS_ORIGIN_NEW)->allocate_aligned(size, alignment);
    return new_aligned(size, alignment, MS_ORIGIN_NEW_ARRAY, false);
}

MS_HOT void _ZdaPv(void *payload) {
    if (ms_unlikely(!ms_release_plain(payload, MS_ORIGIN_NEW_ARRAY, ms_delete_span)))
        delete_slow(payload, MS_ORIGIN_NEW_ARRAY, MS_ORIGIN_NEW);
}

void _ZdaPvSt11align_val_t(void *payload, size_t alignment) {
    if (ms_unlikely(!ms_release_plain(payload, MS_ORIGIN_NEW_ARRAY, ms_delete_span)))
        delete_aligned_slow(payload, alignment, MS_ORIGIN_NEW_ARRAY, MS_ORIGIN_NEW);
}

#define NOTHROW_NEW(name, origin)                                                                            \
    void *name##mRKSt9nothrow_t(size_t size, const void *tag) {                                              \
        (void)tag;                                                                                           \
        void *payload = size < below() ? ms_take(size, origin) : NULL;                                   \
        return ms_likely(payload != NULL) ? payload : new_nothrow_slow(size, origin);                        \
    }                                                                                                        \
    void *name##mSt11align_val_tRKSt9nothrow_t(size_t size, size_t alignment, const void *tag) {             \
        (void)tag;                                                                                           \
        if (must_forward()) return new_aligned_or_null(size, alignment, origin);                             \
        return new_aligned(size, alignment, origin, true);                                                   \
    }

#define SIZED_AND_NOTHROW_DELETE(name, origin)                                                               \
    MS_HOT void name##m(void *payload, size_t size) {                                                        \
        if (ms_unlikely(!ms_release_plain_sized(payload, origin, size, ms_delete_span)))                                     \
            delete_sized_slow(payload, origin, size);                                                        \
    }                                                                                                        \
    void name##mSt11align_val_t(void *payload, size_t size, size_t alignment) {                              \
        if (ms_unlikely(!ms_release_plain_sized(payload, origin, size, ms_delete_span)))                                     \
            delete_sized_aligned_slow(payload, alignment, origin, size);                                     \
    }                                                                                                        \
    void name##RKSt9nothrow_t(void *payload, const void *tag) {                                              \
        (void)tag;                                                                                           \
        if (ms_unlikely(!ms_release_plain(payload, origin, ms_delete_span))) delete_slow(payload, origin, origin);           \
    }                                                                                                        \
    void name##St11align_val_tRKSt9nothrow_t(void *payload, size_t alignment, const void *tag) {             \
        (void)tag;                                                                                           \
        if (ms_unlikely(!ms_release_plain(payload, origin, ms_delete_span)))                                                 \
            delete_aligned_slow(payload, alignment, origin, origin);                                         \
    }

NOTHROW_NEW(_Znw, MS_ORIGIN_NEW)
NOTHROW_NEW(_Zna, MS_ORIGIN_NEW_ARRAY)
SIZED_AND_NOTHROW_DELETE(_ZdlPv, MS_ORIGIN_NEW)
SIZED_AND_NOTHROW_DELETE(_ZdaPv, MS_ORIGIN_NEW_ARRAY)
#pragma GCC diagnostic pop
