#include "tracking/check_stacks.h"
#include "alloc/os.h"
#include "tracking/process.h"
#include "tracking/stacks.h"

#include <dlfcn.h>
#include <errno.h>
#include <string.h>

#define LIBRARY "libunwind.so.8"
enum { OWN_FRAMES = 32 }; /* of the allocator and of libunwind, above the caller's */

typedef int backtrace_t(void **frames, int most);
static backtrace_t *backtrace; /* set before threads, by the constructor */

/* libunwind allocates at times: that is not compared. */
static __thread bool inside __attribute__((tls_model("initial-exec")));

void ms_check_stacks_init(void) {
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    void *symbol = library ? dlsym(library, "unw_backtrace") : NULL;
    if (symbol)
        memcpy(&backtrace, &symbol, sizeof backtrace);
    else
        ms_os_say("check_stacks: ", LIBRARY, " cannot be opened; no stack is compared", NULL);
}

/* The first of `count` frames that is `pc`. */
static int position_of(uintptr_t pc, void *const *frames, int count) {
    int at = 0;
    while (at < count && (uintptr_t)frames[at] != pc) at++;
    return at;
}

static __attribute__((noinline)) void compare(const ms_unwind_thread_t *state, uintptr_t pc, uint32_t site) {
    void *other[MS_UNWIND_MAX_DEPTH + OWN_FRAMES];
    uintptr_t same[MS_UNWIND_MAX_DEPTH];
    int taken = backtrace(other, MS_UNWIND_MAX_DEPTH + OWN_FRAMES), first = position_of(pc, other, taken);
    size_t count = state->taken, there = (size_t)(taken - first);
    if (first == taken || site == MS_STACK_OTHER)
        return; /* libunwind got lost before, or the table of stacks is full */
    bool whole = state->end == MS_UNWIND_END_root;
    bool equal = whole ? there == count : there >= count;
    for (size_t i = 0; i < count && equal; i++) same[i] = (uintptr_t)other[first + (int)i];
    equal = equal && ms_stack_intern(same, count) == site; /* equal frames, equal ids */
    atomic_fetch_add_explicit(&ms_process.compared_stacks, 1, memory_order_relaxed);
    if (!equal) atomic_fetch_add_explicit(&ms_process.different_stacks, 1, memory_order_relaxed);
}

void ms_check_stack(const ms_unwind_thread_t *state, uintptr_t pc, uint32_t site) {
    bool is_within_capture = atomic_load_explicit(&state->busy, memory_order_relaxed) != 0; /* the caller alone */
    if (!backtrace || inside || is_within_capture) return;
    int saved = errno;
    inside = true;
    compare(state, pc, site);
    inside = false;
    errno = saved;
}
