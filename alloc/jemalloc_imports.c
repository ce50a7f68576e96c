/* What the linked-in copy of jemalloc (scripts/jemalloc-object.sh) calls in place of libc's, libm's and libgcc_s's
 * functions, because we live in other people's processes.
 *
 * It is configured by ms_je_malloc_conf alone, its profiler is never turned on, and the calls that only the profiler
 * makes have no meaning here. */
#include "config.h"

#if MS_HAVE_JEMALLOC
#include "alloc/jemalloc_imports.h"
#include "alloc/os.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/types.h>
#include <time.h>

/* MALLOC_CONF and /etc/malloc.conf steer the program's own jemalloc, not this one. */
char *ms_je_import_secure_getenv(const char *name);
char *ms_je_import_secure_getenv(const char *name) {
    (void)name;
    return NULL;
}

ssize_t ms_je_import_readlink(const char *path, char *buffer, size_t bytes);
ssize_t ms_je_import_readlink(const char *path, char *buffer, size_t bytes) {
    (void)path, (void)buffer, (void)bytes;
    errno = ENOENT;
    return -1;
}

/* For its background thread, which we do not have. libc's own is found by code that the loader would have to run, 64 KiB of
 * libc's that many programs do not touch. */
int ms_je_import_gettimeofday(struct timeval *now, void *zone);
int ms_je_import_gettimeofday(struct timeval *now, void *zone) {
    (void)zone;
    struct timespec precise;
    if (clock_gettime(CLOCK_REALTIME, &precise) != 0) return -1;
    *now = (struct timeval){.tv_sec = precise.tv_sec, .tv_usec = precise.tv_nsec / 1000};
    return 0;
}

/* jemalloc crashes when the first memory it asks for is not to be had, so alloc/backend_jemalloc.c has it there before jemalloc
 * starts. */
char *ms_je_reserve, *ms_je_reserve_end;

#define ALIGNED_FROM ((uintptr_t)1 << 21) /* what is so large is wanted at a multiple of it */

static void *from_reserve(size_t bytes) {
    uintptr_t start = (uintptr_t)ms_je_reserve;
    if (bytes >= ALIGNED_FROM) start = (start + ALIGNED_FROM - 1) & ~(ALIGNED_FROM - 1);
    if (start > (uintptr_t)ms_je_reserve_end || bytes > (uintptr_t)ms_je_reserve_end - start) return MAP_FAILED;
    ms_je_reserve = (char *)((start + bytes + MS_PAGE - 1) & ~(uintptr_t)(MS_PAGE - 1));
    return (void *)start;
}

void *ms_je_import_mmap(void *address, size_t bytes, int protection, int flags, int file, off_t offset);
void *ms_je_import_mmap(void *address, size_t bytes, int protection, int flags, int file, off_t offset) {
    if (ms_unlikely(ms_je_reserve != NULL)) {
        void *start = from_reserve(bytes);
        if (start != MAP_FAILED) return start;
    } else if (ms_os_fail_now()) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    return mmap(address, bytes, protection, flags, file, offset);
}

/* Asked for the pthread_create behind a wrapper; NULL makes jemalloc use the plain name. dlsym itself may allocate. */
void *ms_je_import_dlsym(void *handle, const char *symbol);
void *ms_je_import_dlsym(void *handle, const char *symbol) {
    (void)handle, (void)symbol;
    return NULL;
}

/* jemalloc warms the unwinder up even when it does not profile. 5 is _URC_END_OF_STACK: there are no frames. */
int ms_je_import_Unwind_Backtrace(void *callback, void *argument);
int ms_je_import_Unwind_Backtrace(void *callback, void *argument) {
    (void)callback, (void)argument;
    return 5;
}

unsigned long ms_je_import_Unwind_GetIP(void *context);
unsigned long ms_je_import_Unwind_GetIP(void *context) {
    (void)context;
    return 0;
}

/* Its one key: the cleanup of a thread's data, which are in its list of threads until then. */
static void (*thread_cleanup)(void *data);
static __thread void *thread_data __attribute__((tls_model("initial-exec")));

int ms_je_import_pthread_key_create(pthread_key_t *key, void (*cleanup)(void *data));
int ms_je_import_pthread_key_create(pthread_key_t *key, void (*cleanup)(void *data)) {
    *key = 0;
    thread_cleanup = cleanup;
    return 0;
}

int ms_je_import_pthread_setspecific(pthread_key_t key, const void *data);
int ms_je_import_pthread_setspecific(pthread_key_t key, const void *data) {
    (void)key;
    thread_data = (void *)(uintptr_t)data;
    return 0;
}

void ms_je_forget_thread(void) {
    void *data = thread_data;
    if (!data) return;
    thread_cleanup(data);
    thread_data = NULL;
}

void (*ms_je_before_fork)(void), (*ms_je_after_fork_parent)(void), (*ms_je_after_fork_child)(void);

int ms_je_import_pthread_atfork(void (*before)(void), void (*parent)(void), void (*child)(void));
int ms_je_import_pthread_atfork(void (*before)(void), void (*parent)(void), void (*child)(void)) {
    ms_je_before_fork = before;
    ms_je_after_fork_parent = parent;
    ms_je_after_fork_child = child;
    return 0;
}

/* What jemalloc is configured with: we give it whole groups and large blocks to hold, so one arena serves, and thread
 * caches would only cost memory (and crash where a new thread's cannot be had). */
extern const char *ms_je_malloc_conf;
const char *ms_je_malloc_conf = "narenas:1,tcache:false,retain:false,dirty_decay_ms:1000,muzzy_decay_ms:0";

/* Nothing of jemalloc's goes to the program's stderr: what fails is told by the result. */
static void say_nothing(void *context, const char *message) {
    (void)context, (void)message;
}
extern void (*ms_je_malloc_message)(void *context, const char *message);
void (*ms_je_malloc_message)(void *context, const char *message) = say_nothing;

double ms_je_import_log(double x);
double ms_je_import_exp(double x);
double ms_je_import_round(double x);
double ms_je_import_log(double x) {
    (void)x;
    __builtin_trap();
}
double ms_je_import_exp(double x) {
    (void)x;
    __builtin_trap();
}
double ms_je_import_round(double x) {
    (void)x;
    __builtin_trap();
}
#endif
