/* mimalloc as the backing. The shared library is opened only when it is asked for: as a dependency it would cost
 * every process its start-up (130 us and 300 KiB for /bin/true), also those on another backing. prepare() therefore
 * runs from our constructor, when malloc already works on the system backing. */
#include "config.h"

#if MS_HAVE_MIMALLOC
#include "alloc/backend.h"
#include "alloc/os.h"
#include "alloc/slab.h"
#include "alloc/thread.h"
#include "tracking/model.h"

#include <dlfcn.h>
#include <string.h>
#include <sys/mman.h>

static struct {
    void *(*malloc_aligned)(size_t size, size_t alignment);
    void (*free)(void *start);
    void (*collect)(bool force);
} mi;

/* A function out of dlsym()'s object pointer, without the cast ISO C has no word for. */
static bool find(void *library, const char *name, void *function) {
    void *address = dlsym(library, name);
    memcpy(function, &address, sizeof address);
    return address != NULL;
}

static ms_backend_start_t mimalloc_prepare(void) {
    pthread_key_t held[MS_LAST_PLAIN_KEY - 1];
    unsigned count = ms_thread_hold_keys(held, MS_LAST_PLAIN_KEY - 1);
    void *library = dlopen(MS_MIMALLOC_SONAME, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    ms_thread_release_keys(held, count);
    bool found = library && find(library, "mi_malloc_aligned", &mi.malloc_aligned) && find(library, "mi_free", &mi.free) &&
                 find(library, "mi_collect", &mi.collect);
    return found ? MS_BACKEND_READY : MS_BACKEND_NEVER;
}

/* mimalloc takes memory that it gave back into use again with mprotect(). Where that is refused (a sandbox) it would
 * try segment after segment without end: there, new memory comes from the system. One call that changes nothing shows
 * it. */
static bool may_protect(void) {
    static char page[MS_PAGE] __attribute__((aligned(MS_PAGE)));
    return mprotect(page, sizeof page, PROT_READ | PROT_WRITE) == 0;
}

static void *mimalloc_allocate(size_t bytes, size_t alignment) {
    return mi.malloc_aligned(bytes, alignment);
}

/* What another thread took from mimalloc stays with that thread's heap until it calls mimalloc again, which may be
 * never: at least the pages of a whole group go. */
static void mimalloc_release(void *start, size_t bytes, size_t alignment) {
    if (alignment >= MS_GROUP_BYTES) ms_os_purge(start, bytes);
    mi.free(start);
}

static void mimalloc_decay(void) {
    mi.collect(false);
}
static void mimalloc_trim(void) {
    mi.collect(true);
}
static uint64_t mimalloc_resident(void) {
    return MS_NULL;
}

const ms_backend_t ms_backend_mimalloc = {.name = "mimalloc",
                                          .allocate = mimalloc_allocate,
                                          .release = mimalloc_release,
                                          .decay = mimalloc_decay,
                                          .trim = mimalloc_trim,
                                          .resident = mimalloc_resident,
                                          .prepare = mimalloc_prepare,
                                          .is_usable = may_protect};
#endif
