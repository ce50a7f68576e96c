#include "alloc/backend.h"
#include "alloc/jemalloc_imports.h"
#include "alloc/lock.h"
#include "alloc/os.h"
#include "config.h"
#include "tracking/model.h"

#include <errno.h>
#include <stdatomic.h>

static void *system_allocate(size_t bytes, size_t alignment) {
    return ms_os_map(bytes, alignment < MS_PAGE ? MS_PAGE : alignment);
}

static void system_release(void *start, size_t bytes, size_t alignment) {
    (void)alignment;
    ms_os_unmap(start, bytes);
}

static void nothing(void) {}
static uint64_t system_resident(void) { return MS_NULL; }

const ms_backend_t ms_backend_system = {.name = "system",
                                        .allocate = system_allocate,
                                        .release = system_release,
                                        .decay = nothing,
                                        .trim = nothing,
                                        .resident = system_resident};

static const ms_backend_t *const backends[MS_BACKEND_COUNT] = {
#if MS_HAVE_JEMALLOC
    [MS_BACKEND_JEMALLOC] = &ms_backend_jemalloc,
#endif
#if MS_HAVE_MIMALLOC
    [MS_BACKEND_MIMALLOC] = &ms_backend_mimalloc,
#endif
    [MS_BACKEND_SYSTEM] = &ms_backend_system,
};

static _Atomic(const ms_backend_t *) current = &ms_backend_system;

const ms_backend_t *ms_backend_get(ms_backend_id_t id) { return backends[id]; }
/* acquire and release pair: a backing that is seen here is prepared */
const ms_backend_t *ms_backend_current(void) { return atomic_load_explicit(&current, memory_order_acquire); }
void ms_backend_select(const ms_backend_t *backend) { atomic_store_explicit(&current, backend, memory_order_release); }

#if MS_HAVE_JEMALLOC
static bool jemalloc_rests; /* MS_LOCK_BACKEND: it holds its own locks for a fork */

void ms_backend_before_fork(void) {
    if (!ms_je_before_fork) return;
    ms_je_before_fork();
    jemalloc_rests = true;
}

void ms_backend_after_fork(bool in_child) {
    if (!jemalloc_rests) return;
    jemalloc_rests = false;
    if (in_child)
        ms_je_after_fork_child();
    else
        ms_je_after_fork_parent();
}

/* A fork handler that runs after ours may need a backing that already rests: it is woken for the call. */
static void wake(void) {
    if (jemalloc_rests) ms_je_after_fork_parent();
}
static void put_to_rest(void) {
    if (jemalloc_rests) ms_je_before_fork();
}

/* It keeps a list of the threads that called it, in their own memory. A thread that ends is not heard of in any case. */
static void forget_thread(void) { ms_je_forget_thread(); }
#else
void ms_backend_before_fork(void) {}
void ms_backend_after_fork(bool in_child) { (void)in_child; }
static void wake(void) {}
static void put_to_rest(void) {}
static void forget_thread(void) {}
#endif

/* Around a call, which may change errno; leave() sets it as it was. */
static int enter(void) {
    int saved = errno;
    ms_lock(MS_LOCK_BACKEND);
    wake();
    return saved;
}

static void leave(int saved) {
    forget_thread();
    put_to_rest();
    ms_unlock(MS_LOCK_BACKEND);
    errno = saved;
}

void *ms_backend_allocate(size_t bytes, size_t alignment, const ms_backend_t **from) {
    const ms_backend_t *backend = ms_backend_current();
    int saved = enter();
    if (ms_unlikely(backend->is_usable && !backend->is_usable())) backend = &ms_backend_system;
    void *start = ms_os_fail_now() ? NULL : backend->allocate(bytes, alignment);
    leave(saved);
    *from = backend;
    return start;
}

void ms_backend_release(const ms_backend_t *backend, void *start, size_t bytes, size_t alignment) {
    int saved = enter();
    backend->release(start, bytes, alignment);
    leave(saved);
}

void ms_backend_decay(void) {
    int saved = enter();
    ms_backend_current()->decay();
    leave(saved);
}

void ms_backend_trim(void) {
    int saved = enter();
    ms_backend_current()->trim();
    leave(saved);
}

uint64_t ms_backend_resident(void) {
    int saved = enter();
    uint64_t bytes = ms_backend_current()->resident();
    leave(saved);
    return bytes;
}
