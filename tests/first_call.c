/* Makes one call of the malloc or of memscope the very first of the process, of a thread, or the last after everything
 * else has been torn down. Run by test_first_call.sh.
 *
 *     first_call list          the places and the calls
 *     first_call PLACE CALL    does it; exit status 0 when the result is right */
#define _GNU_SOURCE /* RTLD_DEEPBIND */
#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "memscope/memscope.h"

/* The symbols of the table by their own names; what a call returns and takes is told by the wrapper below. */
#define MS_SYMBOL(name, origin) extern void symbol_##name(void) __asm__(#name);
#include "alloc/symbols.def"
#undef MS_SYMBOL
static void *address_of(void (*symbol)(void)) {
    return (void *)symbol;
}
#define AS(type, name) ((type)address_of(symbol_##name))

typedef void *allocate_t(size_t);
typedef void *allocate_two_t(size_t, size_t);
typedef void *allocate_any_t(size_t, size_t, size_t);
typedef void release_t(void *, size_t, size_t);

static void expect(int condition, const char *what) {
    if (condition) return;
    (void)!write(STDERR_FILENO, what, strlen(what));
    (void)!write(STDERR_FILENO, "\n", 1);
    _exit(1);
}

static void use(void *block, size_t bytes) {
    expect(block != NULL, "NULL");
    expect((uintptr_t)block % 16 == 0, "misaligned");
    memset(block, 0x11, bytes);
    free(block);
}

/* One wrapper a symbol: a symbol without one does not compile. */
static void first_malloc(void) {
    use(AS(allocate_t *, malloc)(100), 100);
}
static void first_free(void) {
    AS(release_t *, free)(NULL, 0, 0);
}
static void first_calloc(void) {
    use(AS(allocate_two_t *, calloc)(10, 10), 100);
}
static void first_realloc(void) {
    use(AS(allocate_two_t *, realloc)(0, 100), 100);
}
static void first_reallocarray(void) {
    use(AS(allocate_any_t *, reallocarray)(0, 10, 10), 100);
}
static void first_memalign(void) {
    use(AS(allocate_two_t *, memalign)(64, 100), 100);
}
static void first_aligned_alloc(void) {
    use(AS(allocate_two_t *, aligned_alloc)(4096, 100), 100);
}
static void posix_memalign_through(int (*function)(void **, size_t, size_t)) {
    void *block = NULL;
    expect(function(&block, 128, 100) == 0, "posix_memalign failed");
    use(block, 100);
}
static void first_posix_memalign(void) {
    posix_memalign_through(AS(int (*)(void **, size_t, size_t), posix_memalign));
}
static void first_valloc(void) {
    use(AS(allocate_t *, valloc)(100), 100);
}
static void first_pvalloc(void) {
    use(AS(allocate_t *, pvalloc)(100), 4096);
}
static void first_malloc_usable_size(void) {
    expect(AS(size_t(*)(void *), malloc_usable_size)(NULL) == 0, "usable size of NULL");
}
static void first_free_sized(void) {
    AS(release_t *, free_sized)(NULL, 0, 0);
}
static void first_free_aligned_sized(void) {
    AS(release_t *, free_aligned_sized)(NULL, 16, 0);
}
static void first_cfree(void) {
    AS(release_t *, cfree)(NULL, 0, 0);
}
static void first_mallinfo(void) {
    (void)AS(struct mallinfo(*)(void), mallinfo)();
}
static void first_mallinfo2(void) {
    (void)AS(struct mallinfo2(*)(void), mallinfo2)();
}
static void first_mallopt(void) {
    (void)AS(int (*)(int, int), mallopt)(M_MMAP_THRESHOLD, 65536);
}
static void first_malloc_trim(void) {
    (void)AS(int (*)(size_t), malloc_trim)(0);
}
static void first_malloc_stats(void) {
    AS(void (*)(void), malloc_stats)();
}
static void first_malloc_info(void) {
    expect(AS(int (*)(int, FILE *), malloc_info)(0, stderr) == 0, "malloc_info failed");
}
static void first___libc_malloc(void) {
    use(AS(allocate_t *, __libc_malloc)(100), 100);
}
static void first___libc_free(void) {
    AS(release_t *, __libc_free)(NULL, 0, 0);
}
static void first___libc_calloc(void) {
    use(AS(allocate_two_t *, __libc_calloc)(10, 10), 100);
}
static void first___libc_realloc(void) {
    use(AS(allocate_two_t *, __libc_realloc)(0, 100), 100);
}
static void first___libc_memalign(void) {
    use(AS(allocate_two_t *, __libc_memalign)(64, 100), 100);
}
static void first___libc_valloc(void) {
    use(AS(allocate_t *, __libc_valloc)(100), 100);
}
static void first___libc_pvalloc(void) {
    use(AS(allocate_t *, __libc_pvalloc)(100), 4096);
}
static void first___libc_reallocarray(void) {
    use(AS(allocate_any_t *, __libc_reallocarray)(0, 10, 10), 100);
}
static void first___libc_mallinfo(void) {
    (void)AS(struct mallinfo(*)(void), __libc_mallinfo)();
}
static void first___libc_mallopt(void) {
    (void)AS(int (*)(int, int), __libc_mallopt)(M_MMAP_THRESHOLD, 65536);
}
static void first___libc_cfree(void) {
    AS(release_t *, __libc_cfree)(NULL, 0, 0);
}
static void first___posix_memalign(void) {
    posix_memalign_through(AS(int (*)(void **, size_t, size_t), __posix_memalign));
}

/* operator new leaves blocks to its own operator delete; size, alignment and nothrow_t in the order of the names. */
static void new_delete(void *block, size_t bytes, release_t *release, size_t second, size_t third) {
    expect(block != NULL && (uintptr_t)block % 16 == 0, "operator new");
    memset(block, 0x11, bytes);
    release(block, second, third);
}
#define NOTHROW ((size_t)&nothrow)
static const char nothrow;
#define NEW(name, remove, ...)                                                                          \
    static void first_##name(void) {                                                                    \
        new_delete(AS(allocate_any_t *, name)(__VA_ARGS__), 100, AS(release_t *, remove), 64, NOTHROW); \
    }
#define DELETE(name)                              \
    static void first_##name(void) {              \
        AS(release_t *, name)(NULL, 64, NOTHROW); \
    }
NEW(_Znwm, _ZdlPv, 100, 0, 0)
NEW(_ZnwmRKSt9nothrow_t, _ZdlPv, 100, NOTHROW, 0)
NEW(_ZnwmSt11align_val_t, _ZdlPvSt11align_val_t, 100, 64, 0)
NEW(_ZnwmSt11align_val_tRKSt9nothrow_t, _ZdlPvSt11align_val_tRKSt9nothrow_t, 100, 64, NOTHROW)
NEW(_Znam, _ZdaPv, 100, 0, 0)
NEW(_ZnamRKSt9nothrow_t, _ZdaPv, 100, NOTHROW, 0)
NEW(_ZnamSt11align_val_t, _ZdaPvSt11align_val_t, 100, 64, 0)
NEW(_ZnamSt11align_val_tRKSt9nothrow_t, _ZdaPvSt11align_val_tRKSt9nothrow_t, 100, 64, NOTHROW)
DELETE(_ZdlPv)
DELETE(_ZdlPvm)
DELETE(_ZdlPvRKSt9nothrow_t)
DELETE(_ZdlPvSt11align_val_t)
DELETE(_ZdlPvmSt11align_val_t)
DELETE(_ZdlPvSt11align_val_tRKSt9nothrow_t)
DELETE(_ZdaPv)
DELETE(_ZdaPvm)
DELETE(_ZdaPvRKSt9nothrow_t)
DELETE(_ZdaPvSt11align_val_t)
DELETE(_ZdaPvmSt11align_val_t)
DELETE(_ZdaPvSt11align_val_tRKSt9nothrow_t)

/* memscope's own calls */
extern int __register_atfork(void (*before)(void), void (*parent)(void), void (*child)(void), void *module);
static void first___register_atfork(void) {
    static void *module;
    expect(__register_atfork(NULL, NULL, NULL, module) == 0, "__register_atfork");
}

#pragma weak dlopen /* not in a program that is linked statically */
static void first_dlopen(void) {
    if (dlopen) expect(dlopen(NULL, RTLD_NOW | RTLD_DEEPBIND) != NULL, "dlopen");
}

static void first_memscope_version(void) {
    expect(memscope_version()[0] != 0, "no version");
}
static void first_memscope_init(void) {
    expect(memscope_init() == 0, "memscope_init");
}
static void first_memscope_process_usage(void) {
    memscope_usage_t usage;
    expect(memscope_process_usage(&usage) == 0, "memscope_process_usage");
    expect(usage.live_bytes == usage.allocated_bytes - usage.freed_bytes, "live bytes");
}
static void first_memscope_set_sample_bytes(void) {
    int error = memscope_set_sample_bytes(1000);
    expect(error == 0 || error == ENOTSUP, "memscope_set_sample_bytes"); /* by the mode */
}
static void first_memscope_thread_usage(void) {
    memscope_usage_t usage;
    expect(memscope_thread_usage(&usage) == 0, "memscope_thread_usage");
}
static void first_memscope_task_create(void) {
    (void)memscope_task_create("first", 0);
}
static void first_memscope_task_for_key(void) {
    (void)memscope_task_for_key(&nothrow, "first");
}
static void first_memscope_task_enter(void) {
    memscope_task_leave(memscope_task_enter(12345));
}
static void first_memscope_task_leave(void) {
    memscope_task_leave((memscope_token_t){0});
}
static void first_memscope_task_current(void) {
    expect(memscope_task_current() == 0, "a task is current");
}
static void first_memscope_task_end(void) {
    expect(memscope_task_end(12345, NULL) == ESRCH, "memscope_task_end");
}
static void first_memscope_task_usage(void) {
    memscope_usage_t usage;
    expect(memscope_task_usage(12345, &usage) == ESRCH, "memscope_task_usage");
}
static void first_memscope_track(void) {
    static memscope_variable_t variable = {"local", NULL, "f", "file", 1, 0};
    int local = 0;
    expect(memscope_track(&local, &variable) == EINVAL, "memscope_track of a stack address");
    expect(memscope_track(NULL, &variable) == EINVAL, "memscope_track of NULL");
}
static memscope_variable_t region = {"region", NULL, "f", "file", 1, 0};
static void first_memscope_track_region(void) {
    int local = 0;
    expect(memscope_track_region(&local, sizeof local, &region) == 0, "memscope_track_region");
}
static void first_memscope_track_smart(void) {
    int local = 0, *pointer = &local;
    expect(memscope_track_smart(&pointer, sizeof pointer, 1, &region) == EINVAL, "memscope_track_smart");
}
static void first_memscope_scope_begin(void) {
    int local = 0;
    memscope_scope_t scope = memscope_scope_begin(&local, &region);
    expect(scope.error == EINVAL, "memscope_scope_begin of a stack address");
    memscope_scope_end(&scope);
}
static void first_memscope_scope_end(void) {
    memscope_scope_t scope = {NULL, 0};
    memscope_scope_end(&scope);
}
static void first_memscope_snapshot(void) {
    memscope_snapshot_t *snapshot = memscope_snapshot();
    expect(snapshot != NULL, "memscope_snapshot");
    memscope_usage_t usage;
    memscope_snapshot_usage(snapshot, &usage);
    expect(usage.live_bytes == memscope_snapshot_total_memory_usage(snapshot), "live bytes of the snapshot");
    expect(memscope_snapshot_active_task_count(snapshot) < 10, "active tasks");
    expect(memscope_snapshot_thread_count(snapshot) < 10, "threads");
    memscope_snapshot_free(snapshot);
}
#define first_memscope_snapshot_usage first_memscope_snapshot /* need one to be asked about */
#define first_memscope_snapshot_total_memory_usage first_memscope_snapshot
#define first_memscope_snapshot_active_task_count first_memscope_snapshot
#define first_memscope_snapshot_thread_count first_memscope_snapshot
static void first_memscope_snapshot_free(void) {
    memscope_snapshot_free(NULL);
}
static int see(void *context, const memscope_difference_t *difference) {
    return context != NULL || difference == NULL;
}
static void first_memscope_checkpoint(void) {
    memscope_checkpoint_t *checkpoint = memscope_checkpoint();
    expect(checkpoint != NULL, "memscope_checkpoint");
    expect(memscope_checkpoint_diff(checkpoint, NULL, see, NULL) == 0, "memscope_checkpoint_diff");
    memscope_checkpoint_free(checkpoint);
}
static void first_memscope_checkpoint_free(void) {
    memscope_checkpoint_free(NULL);
}
static void first_memscope_checkpoint_peak(void) {
    uint64_t error;
    expect(memscope_checkpoint_peak(NULL, &error) < (uint64_t)1 << 40, "memscope_checkpoint_peak");
}
static void first_memscope_checkpoint_diff(void) {
    expect(memscope_checkpoint_diff(NULL, NULL, see, NULL) == 0, "memscope_checkpoint_diff");
}
static void first_memscope_check(void) {
    char message[100];
    expect(memscope_check(MEMSCOPE_LIMIT_LIVE, NULL, UINT64_MAX, "all", message, sizeof message) == 0, "memscope_check");
}
static void first_memscope_check_failed(void) {
    int status;
    pid_t child = fork();
    if (child == 0) {
        close(STDERR_FILENO);
        memscope_check_failed("file", 1, "message");
    }
    expect(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT,
           "memscope_check_failed");
}
static void first_memscope_leaks(void) {
    memscope_leaks_t leaks;
    expect(memscope_leaks(&leaks) == 0 && leaks.definite.blocks < 100, "memscope_leaks");
}
static void first_memscope_trace_all(void) {
    char directory[] = "/tmp/memscope-first-XXXXXX", command[64];
    expect(mkdtemp(directory) != NULL && memscope_trace_all(directory) == 0, "memscope_trace_all");
    free(malloc(100));
    expect(memscope_stop_tracing() == 0, "memscope_stop_tracing after memscope_trace_all");
    snprintf(command, sizeof command, "rm -r %s", directory);
    expect(system(command) == 0, "a directory that was written to");
}
static void first_memscope_stop_tracing(void) {
    expect(memscope_stop_tracing() == ESRCH, "memscope_stop_tracing");
}
static void first_memscope_export_comprehensive(void) {
    expect(memscope_export_comprehensive("/dev/null", "name") == ENOTDIR, "memscope_export_comprehensive");
}
static void first_memscope_export_msgpack(void) {
    expect(memscope_export_msgpack("/dev/null") == 0, "export");
}
static void first_memscope_export_json(void) {
    expect(memscope_export_json("/dev/null") == 0, "export");
}
static void first_memscope_export_html(void) {
    expect(memscope_export_html("/dev/null") == 0, "export");
}

typedef struct call {
    const char *name;
    void (*make)(void);
} call_t;

static const call_t calls[] = {
#define MS_SYMBOL(name, origin) {#name, first_##name},
#include "alloc/symbols.def"
#undef MS_SYMBOL
#define OWN(name) \
    { #name, first_##name }
    OWN(__register_atfork),
    OWN(dlopen),
    OWN(memscope_version),
    OWN(memscope_init),
    OWN(memscope_process_usage),
    OWN(memscope_set_sample_bytes),
    OWN(memscope_thread_usage),
    OWN(memscope_task_create),
    OWN(memscope_task_for_key),
    OWN(memscope_task_enter),
    OWN(memscope_task_leave),
    OWN(memscope_task_current),
    OWN(memscope_task_end),
    OWN(memscope_task_usage),
    OWN(memscope_track),
    OWN(memscope_track_region),
    OWN(memscope_track_smart),
    OWN(memscope_scope_begin),
    OWN(memscope_scope_end),
    OWN(memscope_snapshot),
    OWN(memscope_snapshot_free),
    OWN(memscope_checkpoint),
    OWN(memscope_checkpoint_free),
    OWN(memscope_checkpoint_peak),
    OWN(memscope_checkpoint_diff),
    OWN(memscope_check),
    OWN(memscope_check_failed),
    OWN(memscope_leaks),
    OWN(memscope_trace_all),
    OWN(memscope_stop_tracing),
    OWN(memscope_export_comprehensive),
    OWN(memscope_export_msgpack),
    OWN(memscope_export_json),
    OWN(memscope_export_html),
    OWN(memscope_snapshot_usage),
    OWN(memscope_snapshot_total_memory_usage),
    OWN(memscope_snapshot_active_task_count),
    OWN(memscope_snapshot_thread_count),
};
#define CALL_COUNT (sizeof calls / sizeof calls[0])

static const char *place;
static const call_t *call;

static void make_if(const char *here) {
    if (call && strcmp(place, here) == 0) call->make();
}

/* Before any constructor, even the library's. */
static void preinit(int argc, char **argv, char **envp) {
    (void)envp;
    if (argc != 3) return;
    place = argv[1];
    for (size_t i = 0; i < CALL_COUNT; i++)
        if (strcmp(calls[i].name, argv[2]) == 0) call = &calls[i];
    make_if("preinit");
}
__attribute__((section(".preinit_array"), used)) static void (*preinit_entry)(int, char **, char **) = preinit;

__attribute__((constructor(101))) static void constructor(void) {
    make_if("constructor");
}
__attribute__((destructor(101))) static void destructor(void) {
    make_if("destructor");
}
static void at_exit(void) {
    make_if("atexit");
}

static void *thread_body(void *unused) {
    make_if("thread");
    return unused;
}

/* A key destructor that asks to be called again runs after those of everybody else. */
static pthread_key_t key;
static void key_destructor(void *round) {
    if ((intptr_t)round < 3)
        pthread_setspecific(key, (void *)((intptr_t)round + 1));
    else
        make_if("key_destructor");
}
static void *thread_with_key(void *unused) {
    pthread_setspecific(key, (void *)(intptr_t)1);
    if (strcmp(place, "key_destructor") == 0) free(malloc(10)); /* the thread has an arena to lose */
    return unused;
}

/* What C++ calls for thread_local objects with a destructor. */
extern int __cxa_thread_atexit_impl(void (*function)(void *), void *object, void *dso);
extern char __dso_handle;
static void thread_local_destructor(void *unused) {
    (void)unused;
    make_if("thread_local_destructor");
}
static void *thread_with_local(void *unused) {
    __cxa_thread_atexit_impl(thread_local_destructor, NULL, &__dso_handle);
    return unused;
}

static void on_signal(int number) {
    (void)number;
    make_if("signal_handler");
}

static void run_thread(void *(*body)(void *)) {
    pthread_t thread;
    expect(pthread_create(&thread, NULL, body, NULL) == 0, "pthread_create");
    expect(pthread_join(thread, NULL) == 0, "pthread_join");
}

int main(int argc, char **argv) {
    static const char *const places[] = {"preinit",    "constructor",    "main",
                                         "thread",     "key_destructor", "thread_local_destructor",
                                         "destructor", "signal_handler", "atexit"};
    if (argc == 2 && strcmp(argv[1], "list") == 0) {
        for (size_t p = 0; p < sizeof places / sizeof places[0]; p++)
            for (size_t i = 0; i < CALL_COUNT; i++) printf("%s %s\n", places[p], calls[i].name);
        return 0;
    }
    if (argc != 3 || !call) return 2;
    make_if("main");
    atexit(at_exit);
    signal(SIGUSR1, on_signal);
    raise(SIGUSR1);
    pthread_key_create(&key, key_destructor);
    run_thread(thread_body);
    run_thread(thread_with_key);
    run_thread(thread_with_local);
    use(malloc(1000), 1000);
    return 0;
}
