/* jemalloc as the backing, through its non-standard API. The library contains a private copy whose public functions
 * carry the prefix ms_je_ (see Makefile.am), so it meets neither the program's malloc nor the program's jemalloc. */
#include "config.h"

#if MS_HAVE_JEMALLOC
#include "alloc/backend.h"
#include "alloc/os.h"
#include "tracking/model.h"

#include <errno.h>
#include <sys/types.h>

void *ms_je_mallocx(size_t size, int flags);
void ms_je_sdallocx(void *start, size_t size, int flags);
int ms_je_mallctl(const char *name, void *old, size_t *old_bytes, void *new, size_t new_bytes);

/* jemalloc's flag encoding: log2 of the alignment in the low bits; tcache index + 2 from bit 8 (none: -1); arena
 * index + 1 from bit 20. Groups and large blocks do not profit from a thread cache of jemalloc's. */
#define TCACHE_NONE (((-1) + 2) << 8)
#define ARENA(index) ((int)(((index) + 1) << 20))

/* One arena of our own. Its pages are given back when we say so: a backing that sees few calls hardly ticks its own
 * purge clock, so freed memory is purged at once (decay 0); reuse is what our own caches are for. */
static unsigned arena_index;

static bool jemalloc_prepare(void) {
    size_t bytes = sizeof arena_index;
    if (ms_je_mallctl("arenas.create", &arena_index, &bytes, NULL, 0) != 0) return false;
    char name[64] = "arena.", number[24];
    const char *parts[] = {ms_os_decimal(number, arena_index), ".dirty_decay_ms"};
    size_t length = 6;
    for (int part = 0; part < 2; part++)
        for (const char *at = parts[part]; *at; at++) name[length++] = *at;
    ssize_t decay = 0;
    ms_je_mallctl(name, NULL, NULL, &decay, sizeof decay);
    return true;
}

static int flags_for(size_t alignment) { return __builtin_ctzl(alignment) | TCACHE_NONE | ARENA(arena_index); }

static void *jemalloc_allocate(size_t bytes, size_t alignment) {
    void *start = ms_je_mallocx(bytes, flags_for(alignment));
    if (!start) errno = ENOMEM;
    return start;
}

static void jemalloc_release(void *start, size_t bytes, size_t alignment) {
    ms_je_sdallocx(start, bytes, flags_for(alignment));
}

static void jemalloc_trim(void) {
    char name[64] = "arena.", number[24];
    const char *parts[] = {ms_os_decimal(number, arena_index), ".purge"};
    size_t length = 6;
    for (int part = 0; part < 2; part++)
        for (const char *at = parts[part]; *at; at++) name[length++] = *at;
    ms_je_mallctl(name, NULL, NULL, NULL, 0);
}

static uint64_t jemalloc_resident(void) {
    uint64_t epoch = 1;
    size_t resident = 0, bytes = sizeof resident;
    ms_je_mallctl("epoch", NULL, NULL, &epoch, sizeof epoch);
    return ms_je_mallctl("stats.resident", &resident, &bytes, NULL, 0) == 0 ? resident : MS_NULL;
}

const ms_backend_t ms_backend_jemalloc = {"jemalloc",         jemalloc_allocate, jemalloc_release, jemalloc_trim,
                                          jemalloc_resident, jemalloc_prepare};
#endif
