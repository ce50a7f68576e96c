/* jemalloc as the backing, through its non-standard API. The library contains a private copy whose public functions
 * carry the prefix ms_je_ (scripts/jemalloc-object.sh), so it meets neither the program's malloc nor the program's
 * jemalloc. It has one arena and no thread caches, see alloc/jemalloc_imports.c. */
#include "config.h"

#if MS_HAVE_JEMALLOC
#include "alloc/backend.h"
#include "alloc/jemalloc_imports.h"
#include "alloc/os.h"
#include "tracking/model.h"

#include <signal.h>
#include <ucontext.h>

void *ms_je_mallocx(size_t size, int flags);
void ms_je_sdallocx(void *start, size_t size, int flags);
int ms_je_mallctl(const char *name, void *old, size_t *old_bytes, void *new, size_t new_bytes);

/* jemalloc's flag encoding: log2 of the alignment in the low bits, index + 2 of the thread cache from bit 8 (none: -1). */
#define TCACHE_NONE (((-1) + 2) << 8)

#define START_BYTES ((size_t)16 << 20) /* it needs less than half */

#define STACK_BYTES ((size_t)256 << 10)

/* Its start takes 11 KiB of stack, and whichever thread comes to it may have less left: it gets a stack of its own. */
static MS_FAR ucontext_t caller, starter;
static bool ready;

static void start(void) {
    uint64_t epoch = 1;
    ready = ms_je_mallctl("epoch", NULL, NULL, &epoch, sizeof epoch) == 0;
    ms_je_forget_thread();
}

static void start_on(char *stack) {
    sigset_t before;
    ms_os_block_signals(&before); /* if we are in a handler on an alternate stack, the next would find that free */
    if (getcontext(&starter) == 0) {
        starter.uc_stack.ss_sp = stack;
        starter.uc_stack.ss_size = STACK_BYTES;
        starter.uc_link = &caller;
        makecontext(&starter, start, 0);
        swapcontext(&caller, &starter);
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
}

/* After a start that failed in one thread it lets every other wait for ever. */
static ms_backend_start_t jemalloc_prepare(void) {
    char *stack = ms_os_map(STACK_BYTES + START_BYTES, MS_PAGE);
    if (!stack) return MS_BACKEND_LATER;
    ms_je_reserve = stack + STACK_BYTES;
    ms_je_reserve_end = ms_je_reserve + START_BYTES;
    start_on(stack);
    ms_os_unmap(stack, STACK_BYTES);
    char *rest = ms_je_reserve;
    ms_je_reserve = NULL;
    ms_os_unmap(rest, (size_t)(ms_je_reserve_end - rest));
    return ready ? MS_BACKEND_READY : MS_BACKEND_NEVER;
}

static int flags_for(size_t alignment) { return __builtin_ctzl(alignment) | TCACHE_NONE; }

static void *jemalloc_allocate(size_t bytes, size_t alignment) {
    return ms_je_mallocx(bytes, flags_for(alignment));
}

static void jemalloc_release(void *start, size_t bytes, size_t alignment) {
    ms_je_sdallocx(start, bytes, flags_for(alignment));
}

static void jemalloc_decay(void) { ms_je_mallctl("arena.0.decay", NULL, NULL, NULL, 0); }
static void jemalloc_trim(void) { ms_je_mallctl("arena.0.purge", NULL, NULL, NULL, 0); }

static uint64_t jemalloc_resident(void) {
    uint64_t epoch = 1;
    size_t resident = 0, bytes = sizeof resident;
    ms_je_mallctl("epoch", NULL, NULL, &epoch, sizeof epoch);
    return ms_je_mallctl("stats.resident", &resident, &bytes, NULL, 0) == 0 ? resident : MS_NULL;
}

const ms_backend_t ms_backend_jemalloc = {.name = "jemalloc",
                                          .allocate = jemalloc_allocate,
                                          .release = jemalloc_release,
                                          .decay = jemalloc_decay,
                                          .trim = jemalloc_trim,
                                          .resident = jemalloc_resident,
                                          .prepare = jemalloc_prepare};
#endif
