/* What else happens to a malloc in a process: signal handlers, libraries that come and go, address space that ends. */
#define _GNU_SOURCE /* asprintf */
#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "memscope/memscope.h"
#include "tests/entries.h"
#include "tests/support.h"

#pragma weak memscope_export_json
#pragma weak memscope_process_usage

#define MIB ((size_t)1 << 20)

static void limit(int resource, size_t bytes) {
    struct rlimit value;
    ck_assert_int_eq(getrlimit(resource, &value), 0);
    value.rlim_cur = bytes;
    ck_assert_int_eq(setrlimit(resource, &value), 0);
}

/* ---- signal handlers that allocate. They run where the thread is not inside malloc: the standard promises no more. */
static _Atomic(size_t) handled;
static void *_Atomic handler_block;

static void handler_allocates(int number) {
    (void)number;
    int saved = errno;
    for (size_t i = 0; i < 20; i++) {
        void *block = entries[i % entry_count].allocate(64, i * 700);
        support_fill(block, i * 700, i);
        if (!support_holds(block, i * 700, i)) abort();
        free(block);
    }
    free(atomic_exchange(&handler_block, malloc(1000))); /* what the last call left */
    handled++;
    errno = saved;
}

static void install(int flags) {
    struct sigaction action = {.sa_handler = handler_allocates, .sa_flags = flags};
    ck_assert_int_eq(sigaction(SIGUSR1, &action, NULL), 0);
}

START_TEST(handlers_that_allocate) {
    install(0);
    for (size_t i = 0; i < 200; i++) {
        void *block = malloc(i * 10);
        raise(SIGUSR1);
        free(block);
    }
    ck_assert_uint_eq(handled, 200);
}
END_TEST

START_TEST(handlers_on_their_own_stack) {
    stack_t stack = {.ss_sp = malloc(256 << 10), .ss_size = 256 << 10};
    ck_assert_int_eq(sigaltstack(&stack, NULL), 0);
    install(SA_ONSTACK);
    for (size_t i = 0; i < 200; i++) raise(SIGUSR1);
    ck_assert_uint_eq(handled, 200);
}
END_TEST

/* A thread that never allocates itself: its first allocation happens in the handler. */
static sem_t ready;
static void *compute(void *stop) {
    sem_post(&ready);
    while (!atomic_load((_Atomic(int) *)stop)) continue;
    return NULL;
}

START_TEST(handlers_in_other_threads) {
    _Atomic(int) stop = 0;
    pthread_t thread;
    install(0);
    sem_init(&ready, 0, 0);
    ck_assert_int_eq(pthread_create(&thread, NULL, compute, &stop), 0);
    sem_wait(&ready);
    for (size_t i = 1; i <= 50; i++) {
        ck_assert_int_eq(pthread_kill(thread, SIGUSR1), 0);
        while (handled < i) free(malloc(100));
    }
    atomic_store(&stop, 1);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
}
END_TEST

/* Handlers that allocate and free at any moment, also inside malloc, where every call takes the slow path (mode exact): they
 * get other memory, or NULL. A call in a handler may be refused, but what is there stays whole. */
enum { STORM_KEPT = 64 };
static void *storm_kept[STORM_KEPT];
static size_t storm_sizes[STORM_KEPT];
static _Atomic(size_t) storm_signals, storm_refused;

static void in_the_storm(int number) {
    (void)number;
    int saved = errno;
    size_t at = storm_signals++ % STORM_KEPT, size = storm_signals % 7 == 0 ? 60000 : storm_signals * 37 % 3000;
    if (storm_kept[at] && !support_holds(storm_kept[at], storm_sizes[at], at)) abort();
    free(storm_kept[at]);
    storm_kept[at] = malloc(size);
    storm_sizes[at] = size;
    storm_refused += storm_kept[at] == NULL;
    if (storm_kept[at]) support_fill(storm_kept[at], size, at);
    void *grown = realloc(calloc(1, 100), 400);
    free(grown);
    errno = saved;
}

START_TEST(handlers_that_interrupt_malloc) {
    const char *conf = getenv("MEMSCOPE_CONF");
    if (!support_is_memscope() || !conf || !strstr(conf, "mode:exact")) return;
    static void *blocks[200];
    static size_t block_sizes[200];
    uint64_t random = support_seed();
    struct sigaction action = {.sa_handler = in_the_storm, .sa_flags = SA_RESTART};
    struct itimerval often = {{0, 100}, {0, 100}}, never = {0};
    ck_assert_int_eq(sigaction(SIGALRM, &action, NULL), 0);
    ck_assert_int_eq(setitimer(ITIMER_REAL, &often, NULL), 0);
    for (size_t i = 0; storm_signals < 3000 && i < 20000000; i++) {
        size_t at = support_random(&random) % 200;
        size_t size = support_random(&random) % (i % 50 == 0 ? 100000 : 700);
        if (blocks[at] && !support_holds(blocks[at], block_sizes[at], at)) abort();
        if (i % 3 == 0) {
            free(blocks[at]);
            blocks[at] = malloc(size);
        } else {
            blocks[at] = realloc(blocks[at], size + 1);
        }
        if (!blocks[at]) abort();
        block_sizes[at] = size;
        support_fill(blocks[at], size, at);
    }
    ck_assert_int_eq(setitimer(ITIMER_REAL, &never, NULL), 0);
    ck_assert_uint_ge(storm_signals, 3000);
    ck_assert_uint_lt(storm_refused, storm_signals / 4);
    for (size_t i = 0; i < 200; i++) free(blocks[i]);
    for (size_t i = 0; i < STORM_KEPT; i++) free(storm_kept[i]);
}
END_TEST

/* The same inside calls that take locks and change nothing of the arena's. */
static void call_with_locks(size_t i) {
    if (i % 3 == 0)
        malloc_trim(0);
    else if (i % 3 == 1)
        mallinfo2();
    else if (memscope_export_json)
        memscope_export_json("/dev/null");
}

START_TEST(handlers_that_interrupt_calls_with_locks) {
    struct sigaction action = {.sa_handler = in_the_storm, .sa_flags = SA_RESTART};
    struct itimerval often = {{0, 100}, {0, 100}}, never = {0};
    if (!support_is_memscope()) return;
    ck_assert_int_eq(sigaction(SIGALRM, &action, NULL), 0);
    ck_assert_int_eq(setitimer(ITIMER_REAL, &often, NULL), 0);
    for (size_t i = 0; storm_signals < 10000; i++) call_with_locks(i);
    ck_assert_int_eq(setitimer(ITIMER_REAL, &never, NULL), 0);
    for (size_t i = 0; i < STORM_KEPT; i++) free(storm_kept[i]);
}
END_TEST

static void *wait_for_ever(void *unused) {
    pause();
    return unused;
}

/* And around fork(), where the backing takes locks of its own. One handler interrupts the other where every call takes the slow
 * path; elsewhere it would meet the few instructions in which the fast path takes or gives a block (docs/architecture.md). */
START_TEST(handlers_that_interrupt_forks) {
    struct sigaction action = {.sa_handler = in_the_storm, .sa_flags = SA_RESTART};
    const char *conf = getenv("MEMSCOPE_CONF");
    sigemptyset(&action.sa_mask);
    if (!conf || !strstr(conf, "mode:exact")) {
        sigaddset(&action.sa_mask, SIGALRM);
        sigaddset(&action.sa_mask, SIGPROF);
    }
    struct itimerval often = {{0, 500}, {0, 500}}, never = {0};
    pthread_t thread; /* so that fork() takes locks */
    ck_assert_int_eq(pthread_create(&thread, NULL, wait_for_ever, NULL), 0);
    ck_assert_int_eq(sigaction(SIGALRM, &action, NULL), 0);
    ck_assert_int_eq(sigaction(SIGPROF, &action, NULL), 0);
    ck_assert_int_eq(setitimer(ITIMER_REAL, &often, NULL), 0);
    ck_assert_int_eq(setitimer(ITIMER_PROF, &often, NULL), 0);
    for (int i = 0; i < 500; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            alarm(60);
            for (size_t n = 0; n < 5; n++) in_the_storm(0);
            _exit(7);
        }
        int status;
        ck_assert_int_eq(waitpid(pid, &status, 0), pid);
        ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 7, "status %#x", (unsigned)status);
    }
    ck_assert_int_eq(setitimer(ITIMER_REAL, &never, NULL), 0);
    ck_assert_int_eq(setitimer(ITIMER_PROF, &never, NULL), 0);
    for (size_t i = 0; i < STORM_KEPT; i++) free(storm_kept[i]);
}
END_TEST

#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
#define EACH_INSTRUCTION
/* The same at each instruction of the library: the processor stops behind every one. */
static uintptr_t stepped_start, stepped_end;
static _Atomic(size_t) steps;

static int find_library(struct dl_phdr_info *module, size_t bytes, void *symbol) {
    (void)bytes;
    for (int i = 0; i < module->dlpi_phnum; i++) {
        uintptr_t start = module->dlpi_addr + module->dlpi_phdr[i].p_vaddr;
        if (module->dlpi_phdr[i].p_type != PT_LOAD || (uintptr_t)symbol - start >= module->dlpi_phdr[i].p_memsz) continue;
        stepped_start = start;
        stepped_end = start + module->dlpi_phdr[i].p_memsz;
        return 1;
    }
    return 0;
}

static void stepped(int number, siginfo_t *info, void *context) {
    (void)number, (void)info;
    uintptr_t at = (uintptr_t)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
    if (at < stepped_start || at >= stepped_end) return;
    steps++;
    free(malloc((size_t)3 << 20));
    free(malloc(100));
}

static void step(void) { __asm__ volatile("pushfq; orl $0x100, (%%rsp); popfq" ::: "cc", "memory"); }
static void step_no_more(void) { __asm__ volatile("pushfq; andl $~0x100, (%%rsp); popfq" ::: "cc", "memory"); }

START_TEST(handlers_at_each_instruction) {
    struct sigaction action = {.sa_sigaction = stepped, .sa_flags = SA_SIGINFO};
    pthread_t thread; /* so that fork() takes locks */
    if (!support_is_memscope() || !memscope_process_usage) return;
    if (!dl_iterate_phdr(find_library, (void *)(uintptr_t)memscope_process_usage)) return;
    ck_assert_int_eq(sigaction(SIGTRAP, &action, NULL), 0);
    ck_assert_int_eq(pthread_create(&thread, NULL, wait_for_ever, NULL), 0);
    step();
    mallinfo2();
    step_no_more();
    ck_assert_uint_gt(steps, 100);
    const char *conf = getenv("MEMSCOPE_CONF");
    if (conf && strstr(conf, "backend:jemalloc")) return; /* its own locks for a fork: SIGTRAP is not held back there */
    ck_assert_int_eq(pthread_atfork(step, step_no_more, step_no_more), 0);
    pid_t pid = fork();
    if (pid == 0) {
        free(malloc(100));
        _exit(7);
    }
    int status;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_int_eq(status, 7 << 8);
}
END_TEST

/* Not at each: what is done again because of a handler would not come to its end. */
enum { STEPS_APART = 61 };
static void *volatile stepped_kept;
static size_t steps_first;
static void stepped_keeps(int number, siginfo_t *info, void *context) {
    (void)number, (void)info;
    uintptr_t at = (uintptr_t)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
    if (at < stepped_start || at >= stepped_end) return;
    if (steps++ % STEPS_APART == steps_first) stepped_kept = malloc(100);
}

/* What handlers allocated inside of malloc stands in a row that says so. */
static void check_row_of_handlers(void) {
    static char line[1 << 16];
    char path[] = "/tmp/memscope-process-XXXXXX";
    int file = mkstemp(path);
    ck_assert_int_ge(file, 0);
    ck_assert_int_eq(memscope_export_json(path), 0);
    FILE *stream = fdopen(file, "r");
    unlink(path);
    while (fgets(line, sizeof line, stream) && !strstr(line, "\"(signal handlers, ended threads)\"")) continue;
    const char *live = strstr(line, "\"live_bytes\": "), *peak = strstr(line, "\"peak_bytes\": ");
    ck_assert_ptr_nonnull(live);
    ck_assert_ptr_nonnull(peak);
    unsigned long live_bytes = strtoul(live + 14, NULL, 10);
    ck_assert_uint_gt(live_bytes, 100);
    ck_assert_uint_eq(strtoul(peak + 14, NULL, 10), live_bytes);
    fclose(stream);
}

/* Mode exact says to the byte what was live at once: nothing of what a handler allocates inside of malloc is lost. */
START_TEST(counts_are_exact_at_each_instruction) {
    enum { LARGE = 10 << 20 };
    struct sigaction action = {.sa_sigaction = stepped_keeps, .sa_flags = SA_SIGINFO};
    const char *conf = getenv("MEMSCOPE_CONF");
    if (!support_is_memscope() || !memscope_process_usage || !conf || !strstr(conf, "mode:exact")) return;
    if (!dl_iterate_phdr(find_library, (void *)(uintptr_t)memscope_process_usage)) return;
    ck_assert_int_eq(sigaction(SIGTRAP, &action, NULL), 0);
    for (steps_first = 0; steps_first < STEPS_APART; steps_first++) {
        steps = 0;
        step();
        free(malloc(1000));
        step_no_more();
        ck_assert_uint_gt(steps, 100);
    }
    memscope_usage_t before, after;
    memscope_process_usage(&before);
    free(malloc(LARGE));
    memscope_process_usage(&after);
    ck_assert_uint_eq(after.live_bytes, before.live_bytes);
    ck_assert_uint_eq(after.peak_bytes, before.live_bytes + LARGE);
    check_row_of_handlers();
}
END_TEST
#endif

/* A handler that forks at any moment, also inside malloc: the parent and the child go on where they were. */
extern char __libc_single_threaded __attribute__((weak));
enum { FORKS_IN_HANDLER = 800 };
static volatile sig_atomic_t forks, bad_children, is_child;

/* Set anew by each handler: one that repeats would be due again before a slow fork() is over, and nothing would run in between. */
static void fork_soon(void) {
    struct itimerval soon = {.it_value.tv_usec = 300};
    if (forks < FORKS_IN_HANDLER && setitimer(ITIMER_REAL, &soon, NULL) != 0) abort();
}

static void fork_in_handler(int number) {
    (void)number;
    int saved = errno, status;
    pid_t pid = fork();
    if (pid == 0) {
        is_child = 1;
    } else {
        if (waitpid(pid, &status, 0) != pid || status != 0) bad_children++;
        forks++;
        fork_soon();
    }
    errno = saved;
}

START_TEST(handlers_that_fork_inside_malloc) {
    static void *blocks[256];
    static size_t block_sizes[256];
    uint64_t random = support_seed();
    struct sigaction action = {.sa_handler = fork_in_handler, .sa_flags = SA_RESTART};
    if (!&__libc_single_threaded || !__libc_single_threaded) return;
    ck_assert_int_eq(sigaction(SIGALRM, &action, NULL), 0);
    fork_soon();
    for (size_t left = 20; forks < FORKS_IN_HANDLER && left > 0; left -= is_child) {
        size_t at = support_random(&random) % 256, size = support_random(&random) % (at % 4 ? 30000 : 300000);
        if (blocks[at] && !support_holds(blocks[at], block_sizes[at], at)) abort();
        free(blocks[at]);
        blocks[at] = malloc(size);
        block_sizes[at] = size < 200 ? size : 200;
        if (!blocks[at]) abort();
        support_fill(blocks[at], block_sizes[at], at);
    }
    if (is_child) _exit(0);
    ck_assert_int_eq(bad_children, 0);
    for (size_t i = 0; i < 256; i++) free(blocks[i]);
}
END_TEST

/* ---- a fault in the program's memory, whose handler allocates and makes it good, or jumps out; others fork meanwhile */
static char *faulty_page;
static bool jump_out;
static sigjmp_buf before_fault;

static void make_good(int number) {
    handler_allocates(number);
    if (jump_out) siglongjmp(before_fault, 1);
    if (mprotect(faulty_page, 4096, PROT_READ | PROT_WRITE) != 0) abort();
}

static void *fork_now_and_then(void *stop) {
    for (int children = 0; children < 20 || !atomic_load((atomic_bool *)stop); children++) {
        int status;
        pid_t pid = fork();
        if (pid == 0) {
            jump_out = false;
            void *block = malloc(100);
            *(volatile char *)faulty_page = 'c'; /* the child may fault as well, in its copy */
            free(block);
            _exit(0);
        }
        if (waitpid(pid, &status, 0) != pid || status != 0) abort();
    }
    return NULL;
}

START_TEST(faults_are_handled_with_malloc) {
    static char stack[65536];
    static atomic_bool stop;
    pthread_t forker;
    struct sigaction action = {.sa_handler = make_good, .sa_flags = SA_ONSTACK};
    faulty_page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ck_assert(faulty_page != MAP_FAILED);
    ck_assert_int_eq(sigaction(SIGSEGV, &action, NULL), 0);
    ck_assert_int_eq(pthread_create(&forker, NULL, fork_now_and_then, &stop), 0);
    for (size_t i = 0; i < 600; i++) {
        if (i == 200) ck_assert_int_eq(sigaltstack(&(stack_t){.ss_sp = stack, .ss_size = sizeof stack}, NULL), 0);
        ck_assert_int_eq(mprotect(faulty_page, 4096, PROT_NONE), 0);
        void *block = malloc(i * 10);
        size_t before = handled;
        if (i < 400) {
            *(volatile char *)faulty_page = 'w';
        } else if (sigsetjmp(before_fault, 1) == 0) {
            jump_out = true;
            *(volatile char *)faulty_page = 'w';
        }
        jump_out = false;
        ck_assert_uint_gt(handled, before);
        free(block);
    }
    ck_assert_int_eq(mprotect(faulty_page, 4096, PROT_READ | PROT_WRITE), 0);
    atomic_store(&stop, true);
    ck_assert_int_eq(pthread_join(forker, NULL), 0);
    munmap(faulty_page, 4096);
}
END_TEST

/* ---- libraries */
static void *(*opens)(const char *file, int mode) = dlopen;
static void *open_library(const char *name, int flags) {
    const char *top = getenv("top_builddir");
    char path[4096];
    snprintf(path, sizeof path, "%s/tests/.libs/%s", top ? top : ".", name);
    return opens(path, RTLD_NOW | RTLD_LOCAL | flags);
}

static void *library(const char *name, int flags) {
    void *handle = open_library(name, flags);
    ck_assert_msg(handle != NULL, "%s", dlerror());
    return handle;
}

typedef char *work_t(int number);
typedef void release_t(char *text);

static void *use_library(void *handle) {
    work_t *work;
    release_t *release;
    *(void **)&work = dlsym(handle, "plugin_work");
    *(void **)&release = dlsym(handle, "plugin_release");
    for (int i = 0; i < 100; i++) {
        char *text = work(i);
        if (strlen(text) != (size_t)i) abort();
        release(text);
    }
    return NULL;
}

/* It has thread_local objects, so it stays until the last thread that used it has ended. */
START_TEST(cpp_libraries_come_and_go) {
    for (int round = 0; round < 50; round++) {
        void *handle = library("plugin.so", 0);
        for (int i = 0; i < 2; i++) {
            pthread_t thread;
            ck_assert_int_eq(pthread_create(&thread, NULL, use_library, handle), 0);
            ck_assert_int_eq(pthread_join(thread, NULL), 0);
        }
        ck_assert_int_eq(dlclose(handle), 0);
        ck_assert_msg(!open_library("plugin.so", RTLD_NOLOAD), "the library is still there");
    }
    void *handle = library("plugin.so", 0);
    use_library(handle);
    ck_assert_int_eq(dlclose(handle), 0);
}
END_TEST

/* The C++ runtime comes with the library, after the malloc; what throws bad_alloc then is found all the same. */
START_TEST(cpp_libraries_run_out_of_memory) {
    const char *(*run_out)(size_t);
    void *handle = library("plugin.so", 0);
    *(void **)&run_out = dlsym(handle, "plugin_run_out");
    const char *too_large = run_out(SIZE_MAX / 4);
    limit(RLIMIT_AS, support_address_space() + 16 * MIB);
    const char *too_much = run_out(64 * MIB);
    limit(RLIMIT_AS, RLIM_INFINITY);
    ck_assert_msg(!too_large, "too large: %s", too_large);
    ck_assert_msg(!too_much, "too much: %s", too_much);
    ck_assert_int_eq(dlclose(handle), 0);
}
END_TEST

static bool is_in_file(const char *path, const char *words) {
    FILE *file = fopen(path, "r");
    char *line = NULL;
    size_t room = 0;
    bool found = false;
    while (file && !found && getline(&line, &room, file) > 0) found = strstr(line, words) != NULL;
    free(line);
    if (file) fclose(file);
    return found;
}

/* They stay as they are, can be resized and freed, and a snapshot says which library they came from. */
START_TEST(blocks_outlive_their_library) {
    enum { KEPT = 50 };
    void *kept[KEPT], *handle = library("passing_library.so", 0);
    void *(*passing_malloc)(size_t);
    const char *conf = getenv("MEMSCOPE_CONF");
    bool exact = support_is_memscope() && conf && strstr(conf, "exact");
    *(void **)&passing_malloc = dlsym(handle, "passing_malloc");
    for (size_t i = 0; i < KEPT; i++) support_fill(kept[i] = passing_malloc(i * 997), i * 997, i);
    ck_assert_int_eq(dlclose(handle), 0);
    ck_assert_msg(!is_in_file("/proc/self/maps", "passing_library.so"), "the library is still there");
    if (exact) {
        char path[] = "/tmp/memscope-process-XXXXXX";
        int file = mkstemp(path);
        ck_assert_int_ge(file, 0);
        close(file);
        ck_assert_int_eq(memscope_export_json(path), 0);
        bool named = is_in_file(path, "/passing_library.so\"");
        unlink(path);
        ck_assert_msg(named, "no passing_library.so in the snapshot");
    }
    for (size_t i = 0; i < KEPT; i++) {
        ck_assert(support_holds(kept[i], i * 997, i));
        kept[i] = realloc(kept[i], i * 997 + 3000);
        ck_assert(support_holds(kept[i], i * 997, i));
    }
    for (size_t i = 0; i < KEPT; i++) free(kept[i]);
}
END_TEST

/* A library loaded with RTLD_DEEPBIND would find libc's malloc before ours, and each would free the other's blocks. */
/* Two libcs keep the values of their keys in the same words of a thread. */
static void *(*passing_value)(void *value);
static void *open_in_namespace(const char *file, int mode) { return dlmopen(LM_ID_NEWLM, file, mode & ~RTLD_LOCAL); }

static void *use_both_libcs(void *unused) {
    char value[200] = {0};
    free(malloc(100));
    ck_assert_ptr_null(passing_value(value));
    for (size_t i = 0; i < 1000; i++) free(malloc(i));
    ck_assert_ptr_eq(passing_value(value), value);
    for (size_t i = 0; i < sizeof value; i++) ck_assert_int_eq(value[i], 0);
    return unused;
}

START_TEST(a_second_libc_has_keys_of_its_own) {
    opens = open_in_namespace;
    void *handle = library("passing_library.so", 0);
    opens = dlopen;
    ck_assert_ptr_nonnull(*(void **)&passing_value = dlsym(handle, "passing_value"));
    for (int i = 0; i < 20; i++) {
        pthread_t thread;
        ck_assert_int_eq(pthread_create(&thread, NULL, use_both_libcs, NULL), 0);
        ck_assert_int_eq(pthread_join(thread, NULL), 0);
    }
    dlclose(handle);
}
END_TEST

START_TEST(deepbind_is_left_out) {
    void *(*plugin_malloc)(size_t);
    void *handle = library("plugin.so", RTLD_DEEPBIND);
    *(void **)&plugin_malloc = dlsym(handle, "plugin_malloc");
    size_t before = mallinfo2().uordblks;
    void *block = plugin_malloc(100000);
    ck_assert_uint_ge(mallinfo2().uordblks, before + 100000);
    free(block);
    dlclose(handle);
}
END_TEST

/* Who does that past us hears the reason. */
#ifdef __x86_64__
#define DLOPEN_VERSION "GLIBC_2.2.5"
#else
#define DLOPEN_VERSION "GLIBC_2.17"
#endif
START_TEST(deepbind_is_explained) {
    int errors[2], status;
    char line[512] = "";
    if (!support_is_memscope()) return;
    ck_assert_int_eq(pipe(errors), 0);
    pid_t pid = fork();
    if (pid == 0) {
        void *(*plugin_malloc)(size_t);
        *(void **)&opens = dlvsym(RTLD_DEFAULT, "dlopen", DLOPEN_VERSION);
        void *handle = library("plugin.so", RTLD_DEEPBIND);
        *(void **)&plugin_malloc = dlsym(handle, "plugin_malloc");
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        dup2(errors[1], STDERR_FILENO);
        free(plugin_malloc(100));
        _exit(0);
    }
    close(errors[1]);
    ck_assert_int_gt(read(errors[0], line, sizeof line - 1), 0);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    ck_assert_ptr_eq(strstr(line, "memscope: invalid pointer"), line);
    ck_assert_ptr_nonnull(strstr(line, "RTLD_DEEPBIND"));
}
END_TEST

/* ---- limits */
typedef struct list {
    struct list *next;
} list_t;

static size_t free_list(list_t *list) {
    size_t count = 0;
    while (list) {
        list_t *next = list->next;
        free(list);
        list = next;
        count++;
    }
    return count;
}

/* Takes blocks until there are no more; how many, or 0 if the end was not clean. */
static size_t exhaust(const entry_t *entry, size_t size, list_t **list) {
    size_t count = 0;
    for (;; count++) {
        errno = 0;
        list_t *block = entry->allocate(64, size);
        if (!block) return errno == ENOMEM ? count : 0;
        block->next = *list;
        *list = block;
    }
}

/* Address space ends; every entry point says so with ENOMEM, and all is well again once blocks are freed. */
static void check_exhaustion(size_t size) {
    for (size_t e = 0; e < entry_count; e++) {
        list_t *list = NULL, *again = NULL;
        size_t first = exhaust(&entries[e], size, &list);
        void *grown = realloc(list, 512 * MIB); /* no assertion before memory is back: Check allocates */
        int error = errno;
        size_t freed = free_list(list);
        ck_assert_msg(first > 0, "%s(%zu): no block, or errno is not ENOMEM", entries[e].name, size);
        ck_assert(grown == NULL && error == ENOMEM);
        ck_assert_uint_eq(freed, first);
        size_t second = exhaust(&entries[e], size, &again);
        free_list(again);
        ck_assert_msg(second >= first / 2, "%s(%zu): %zu blocks, the second time %zu", entries[e].name, size, first,
                      second);
    }
}

START_TEST(address_space_ends) {
    static const size_t sizes[] = {50000, 700, 3000000, 20000};
    limit(RLIMIT_AS, support_address_space() + 192 * MIB);
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) check_exhaustion(sizes[s]);
    char *text = NULL;
    ck_assert_int_gt(asprintf(&text, "the program goes on: %d", 1), 0);
    free(text);
    if (support_is_memscope()) ck_assert_int_eq(memscope_export_json("/dev/null"), 0);
}
END_TEST

/* Where address space is counted, a block that grows gets what it asks for and no room to grow. */
START_TEST(growth_takes_no_counted_room) {
    limit(RLIMIT_AS, support_address_space() + 200 * MIB);
    for (size_t from = 40000; from <= 4000000; from *= 100) {
        char *block = malloc(from);
        size_t size = from;
        for (; size < 140 * MIB; size += size / 10) {
            block = realloc(block, size);
            ck_assert_msg(block != NULL, "no %zu bytes", size);
            block[size - 1] = 1;
        }
        free(block);
    }
}
END_TEST

/* ---- what is free in the wrong place or shape. A block of each slab, or of each group of them, is freed last, and waits
 * for the next request of its size: as long as it does, its slab cannot go to other sizes, nor its group. */
enum { PIECE = 700, PER_SLAB = 90, PER_GROUP = 16 * PER_SLAB, PIECES_MOST = 400000 };
static void *pieces[PIECES_MOST];

static size_t take_pieces(size_t most) {
    size_t count = 0;
    while (count < most && (pieces[count] = malloc(PIECE)) != NULL) count++;
    return count;
}

static void free_pieces(size_t from, size_t to, size_t every, bool last) {
    for (size_t i = from; i < to; i++)
        if ((i % every == 0) == last) free(pieces[i]);
}

/* Bytes that can be had in blocks of another kind. */
static size_t other_bytes(size_t size) {
    list_t *list = NULL;
    size_t count = exhaust(&entries[0], size, &list);
    free_list(list);
    return count * size;
}

static sem_t last_are_due;
static void *free_last_pieces(void *count) {
    sem_wait(&last_are_due);
    free_pieces(0, *(size_t *)count, PER_GROUP, true);
    return NULL;
}

static void expect_all_comes_back(bool by_another_thread, size_t other_size) {
    pthread_t thread;
    static size_t count;
    sem_init(&last_are_due, 0, 0);
    if (by_another_thread) ck_assert_int_eq(pthread_create(&thread, NULL, free_last_pieces, &count), 0);
    limit(RLIMIT_AS, support_address_space() + 96 * MIB);
    count = take_pieces(PIECES_MOST);
    free_pieces(0, count, PER_GROUP, false);
    sem_post(&last_are_due);
    if (by_another_thread)
        pthread_join(thread, NULL);
    else
        free_last_pieces(&count);
    size_t bytes = other_bytes(other_size);
    limit(RLIMIT_AS, RLIM_INFINITY);
    ck_assert_uint_gt(count, 0);
    ck_assert_msg(bytes >= count * PIECE / 2, "%zu bytes of %zu", bytes, count * PIECE);
}

START_TEST(what_waits_in_lists_comes_back) {
    expect_all_comes_back(false, 20000);
}
END_TEST

START_TEST(what_waits_in_the_inbox_comes_back) {
    expect_all_comes_back(true, 500000);
}
END_TEST

/* Threads that ended a moment ago left a little of each of their slabs to the next ones. */
enum { LEAVERS = 8, LEFT = 60 * PER_SLAB };
static pthread_barrier_t all_have_theirs;

static void *leave_pieces(void *first) {
    size_t from = (uintptr_t)first * LEFT;
    for (size_t i = from; i < from + LEFT; i++) pieces[i] = malloc(PIECE);
    pthread_barrier_wait(&all_have_theirs);
    free_pieces(from, from + LEFT, PER_SLAB, false);
    free_pieces(from, from + LEFT, PER_SLAB, true);
    return NULL;
}

START_TEST(what_threads_left_comes_back) {
    pthread_t threads[LEAVERS];
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 64 << 10);
    pthread_barrier_init(&all_have_theirs, NULL, LEAVERS);
    for (uintptr_t i = 0; i < LEAVERS; i++) ck_assert_int_eq(pthread_create(&threads[i], &small, leave_pieces, (void *)i), 0);
    for (size_t i = 0; i < LEAVERS; i++) ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
    limit(RLIMIT_AS, support_address_space());
    size_t bytes = other_bytes(20000);
    limit(RLIMIT_AS, RLIM_INFINITY);
    ck_assert_msg(bytes >= LEAVERS * LEFT * PIECE / 2, "%zu bytes", bytes);
}
END_TEST

/* What was refused does not count. */
START_TEST(refused_blocks_do_not_count) {
    memscope_usage_t before = {0}, after = {0};
    const char *conf = getenv("MEMSCOPE_CONF");
    if (!support_is_memscope() || (conf && strstr(conf, "mode:off"))) return;
    list_t *list = NULL;
    ck_assert_int_eq(memscope_process_usage(&before), 0);
    limit(RLIMIT_AS, support_address_space() + 96 * MIB);
    for (size_t refusals = 0; refusals < 100; refusals++) exhaust(&entries[0], 9000, &list);
    size_t freed = free_list(list);
    limit(RLIMIT_AS, RLIM_INFINITY);
    ck_assert_int_eq(memscope_process_usage(&after), 0);
    ck_assert_uint_gt(freed, 0);
    ck_assert_uint_lt(after.live_bytes, before.live_bytes + 50 * 9000); /* Check allocates a little */
}
END_TEST

/* A block that becomes small stays where it is if there is no memory for a small one: that is a success. */
START_TEST(shrinking_needs_no_memory) {
    list_t *list = NULL;
    char *block = malloc(100000);
    ck_assert_ptr_nonnull(block);
    support_fill(block, 9000, 1);
    limit(RLIMIT_AS, support_address_space() + MIB);
    exhaust(&entries[0], 9000, &list);
    errno = 4711;
    char *shrunk = realloc(block, 9000);
    int left = errno;
    free_list(list);
    limit(RLIMIT_AS, RLIM_INFINITY);
    ck_assert_ptr_nonnull(shrunk);
    if (support_is_memscope()) ck_assert_int_eq(left, 4711);
    ck_assert(support_holds(shrunk, 9000, 1));
    free(shrunk);
}
END_TEST

/* What was freed and kept makes room for a mapping that grows, where there is none for a copy. */
START_TEST(growth_takes_what_is_kept) {
    char *block = malloc(256 * MIB), *kept = malloc(24 * MIB);
    ck_assert(block && kept);
    support_fill(block, MIB, 1);
    free(kept);
    limit(RLIMIT_AS, support_address_space() + MIB);
    char *grown = realloc(block, 272 * MIB);
    limit(RLIMIT_AS, RLIM_INFINITY);
    ck_assert_ptr_nonnull(grown);
    ck_assert(support_holds(grown, MIB, 1));
    free(grown);
}
END_TEST

/* An aligned block is taken from blocks of another size where there are none of its own: it is there, so errno stays. */
START_TEST(the_next_best_block_leaves_errno) {
    enum { OTHERS = 40 };
    list_t *list = NULL;
    void *others[OTHERS][2]; /* one of each size stays, so that its slab does */
    for (size_t i = 0; i < 2 * OTHERS; i++) others[i / 2][i % 2] = malloc(80 + i / 2 * 16);
    limit(RLIMIT_AS, support_address_space());
    size_t count = exhaust(&entries[0], 64, &list);
    for (size_t i = 0; i < OTHERS; i++) free(others[i][0]);
    errno = 4711;
    void *block = memalign(64, 64);
    int error = errno;
    size_t freed = free_list(list); /* Check allocates */
    limit(RLIMIT_AS, RLIM_INFINITY);
    ck_assert_uint_eq(freed, count);
    ck_assert_ptr_nonnull(block);
    ck_assert_uint_eq((uintptr_t)block % 64, 0);
    ck_assert_int_eq(error, 4711);
    free(block);
    for (size_t i = 0; i < OTHERS; i++) free(others[i][1]);
}
END_TEST

/* Bytes obtained for large blocks, while one grows and shrinks: what others may need is not reserved where it counts, and a
 * block that is much smaller now has given the rest back. */
static void check_growth(void) {
    static const size_t steps[] = {40000, 600000, 2 * MIB, 22 * MIB, 9 * MIB, 3 * MIB};
    malloc_trim(0);
    size_t before = mallinfo2().hblkhd;
    char *block = NULL;
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        block = realloc(block, steps[i]);
        ck_assert_ptr_nonnull(block);
        block[steps[i] - 1] = 1;
        malloc_trim(0);
        size_t obtained = mallinfo2().hblkhd - before;
        ck_assert_msg(obtained <= steps[i] / 2 * 3, "%zu bytes for %zu", obtained, steps[i]);
    }
    free(block);
}

START_TEST(growth_leaves_room_to_others) {
    if (!support_is_memscope()) return;
    limit(RLIMIT_AS, support_address_space() + 400 * MIB);
    check_growth();
    limit(RLIMIT_AS, RLIM_INFINITY);
    limit(RLIMIT_DATA, support_data() + 400 * MIB); /* counts what is mapped as well */
    check_growth();
}
END_TEST

START_TEST(address_space_ends_for_small_blocks) {
    limit(RLIMIT_AS, support_address_space() + 64 * MIB);
    check_exhaustion(16);
    check_exhaustion(100);
}
END_TEST

/* Threads under a limit: each sees NULL and goes on. */
static void *exhaust_in_thread(void *unused) {
    for (int round = 0; round < 3; round++) {
        list_t *list = NULL;
        for (size_t i = 0; i < 100000; i++) {
            list_t *block = malloc(i % 2 ? 100 : 9000);
            if (!block) break;
            block->next = list;
            list = block;
        }
        free_list(list);
    }
    return unused;
}

START_TEST(address_space_ends_for_threads) {
    pthread_t threads[8];
    limit(RLIMIT_AS, support_address_space() + 256 * MIB);
    size_t started = 0;
    while (started < 8 && pthread_create(&threads[started], NULL, exhaust_in_thread, NULL) == 0) started++;
    ck_assert_uint_gt(started, 0);
    for (size_t i = 0; i < started; i++) ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
    void *block = malloc(1000);
    ck_assert_ptr_nonnull(block);
    free(block);
}
END_TEST

/* No address space at all, from the first request on. Sizes go up to 2 GiB: mimalloc at times gives back some of what it
 * had reserved, and then a few dozen MiB can be had all the same. */
START_TEST(no_address_space) {
    size_t failures = 0, unclean = 0;
    limit(RLIMIT_AS, support_address_space());
    for (size_t i = 0; i < 2000; i++) {
        errno = 0;
        void *block = entries[i % entry_count].allocate(64, i & 8 ? i * 5000 : i * MIB);
        if (!block) {
            failures++;
            unclean += errno != ENOMEM;
        }
        free(block);
    }
    limit(RLIMIT_AS, RLIM_INFINITY);
    ck_assert_uint_gt(failures, 0);
    ck_assert_uint_eq(unclean, 0);
    void *block = malloc(MIB);
    ck_assert_ptr_nonnull(block);
    free(block);
}
END_TEST

/* The kernel may also refuse to give memory back (vm.max_map_count): freeing must not fail. */
START_TEST(mappings_run_out) {
    enum { MAPPINGS = 70000 };
    static void *taken[MAPPINGS];
    size_t count = 0;
    void *large = malloc(8 * MIB);
    while (count < MAPPINGS) { /* alternate protections, so that neighbours do not merge */
        int protection = count % 2 ? PROT_READ : PROT_NONE;
        taken[count] = mmap(NULL, 4096, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (taken[count] == MAP_FAILED) break;
        count++;
    }
    free(large);
    for (size_t i = 0; i < 300; i++) {
        void *block = malloc(i * 20000);
        free(realloc(block, i * 30000));
    }
    for (size_t i = 0; i < count; i++) munmap(taken[i], 4096);
    large = malloc(8 * MIB);
    ck_assert_ptr_nonnull(large);
    memset(large, 1, 8 * MIB);
    free(large);
}
END_TEST

/* ---- a sandbox or locked memory: the kernel refuses to give memory back, to grow or to protect it, or all of it */
static const int refused_calls[][6] = {{SYS_madvise, SYS_mremap, SYS_mprotect},
                                       {SYS_madvise, SYS_mremap, SYS_mprotect, SYS_munmap},
                                       {SYS_madvise, SYS_mremap, SYS_mprotect, SYS_munmap, SYS_mmap, SYS_brk}};

static bool refuse(const int *calls) {
    struct sock_filter filter[16] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))};
    unsigned short length = 1;
    for (size_t i = 0; i < 6 && calls[i]; i++) {
        filter[length++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)calls[i], 0, 1);
        filter[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
    }
    filter[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {length, filter};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

static void expect(bool condition, int status) {
    if (!condition) _exit(status);
}

static bool is_all(const char *block, size_t bytes, char value) {
    for (size_t i = 0; i < bytes; i++)
        if (block[i] != value) return false;
    return true;
}

/* Every entry point gives a block that is in order, or NULL with ENOMEM; what is there stays. A backing that asks the kernel
 * again and again for what it is refused must not eat the machine: 4 GiB end it, and 1 GiB is more than all blocks together. */
static void live_with_refusals(void) {
    limit(RLIMIT_DATA, support_data() + 4096 * MIB);
    size_t data = support_data();
    static const size_t sizes[] = {50, 700, 9000, 40000, 300000, 1500000}; /* what is never given back adds up */
    enum { SIZES = sizeof sizes / sizeof sizes[0] };
    char *kept = malloc(64);
    expect(kept != NULL, 2);
    memset(kept, 'k', 64);
    for (size_t i = 0; i < 4 * SIZES * entry_count; i++) {
        const entry_t *entry = &entries[i % entry_count];
        size_t size = sizes[i / entry_count % SIZES];
        errno = 0;
        char *block = entry->allocate(64, size);
        expect(block || errno == ENOMEM, 3);
        if (!block) continue;
        if (entry->zeroed) expect(is_all(block, size, 0), 4);
        memset(block, 'b', size);
        char *grown = realloc(block, size + size / 3);
        expect(grown || errno == ENOMEM, 5);
        expect(is_all(grown ? grown : block, size, 'b'), 6);
        free(grown ? grown : block);
        if (i % 97 == 0) malloc_trim(0);
    }
    expect(is_all(kept, 64, 'k'), 7);
    expect(support_data() < data + 1024 * MIB, 8);
    if (support_is_memscope()) memscope_export_json("/dev/null");
    free(kept);
}

START_TEST(system_calls_refused) {
    int status;
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        expect(refuse(refused_calls[_i]), 0); /* no seccomp here */
        live_with_refusals();
        _exit(0);
    }
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_msg(status == 0, "refused calls %d: status %#x", _i, (unsigned)status);
}
END_TEST

START_TEST(locked_memory) {
    int status;
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        expect(mlockall(MCL_CURRENT | MCL_FUTURE) == 0, 0); /* not allowed here */
        live_with_refusals();
        _exit(0);
    }
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_msg(status == 0, "status %#x", (unsigned)status);
}
END_TEST

static Suite *suite(void) {
    const TTest *tests[] = {handlers_that_allocate,
                            handlers_that_interrupt_forks,
#ifdef EACH_INSTRUCTION
                            handlers_at_each_instruction,
                            counts_are_exact_at_each_instruction,
#endif
                            handlers_on_their_own_stack,
                            handlers_in_other_threads,
                            handlers_that_interrupt_malloc,
                            handlers_that_interrupt_calls_with_locks,
                            handlers_that_fork_inside_malloc,
                            faults_are_handled_with_malloc,
                            cpp_libraries_come_and_go,
                            cpp_libraries_run_out_of_memory,
                            blocks_outlive_their_library,
#if !defined __SANITIZE_ADDRESS__ && !defined __SANITIZE_THREAD__
                            a_second_libc_has_keys_of_its_own,
#endif
                            deepbind_is_left_out,
                            deepbind_is_explained,
                            address_space_ends,
                            address_space_ends_for_small_blocks,
                            growth_takes_no_counted_room,
                            what_waits_in_lists_comes_back,
                            what_waits_in_the_inbox_comes_back,
                            what_threads_left_comes_back,
                            refused_blocks_do_not_count,
                            growth_leaves_room_to_others,
                            growth_takes_what_is_kept,
                            shrinking_needs_no_memory,
                            the_next_best_block_leaves_errno,
                            address_space_ends_for_threads,
                            no_address_space,
                            mappings_run_out,
                            locked_memory};
    Suite *suite = SUPPORT_SUITE("process", tests);
    TCase *refusals = tcase_create("system_calls_refused");
    tcase_set_timeout(refusals, 240);
    tcase_add_loop_test(refusals, system_calls_refused, 0, sizeof refused_calls / sizeof refused_calls[0]);
    suite_add_tcase(suite, refusals);
    return suite;
}

int main(void) {
    setenv("MIMALLOC_DECOMMIT_DELAY", "0", 0); /* what it does after a while, it does at once */
    return support_main(suite, support_modes_few);
}
