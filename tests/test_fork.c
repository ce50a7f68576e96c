/* fork, vfork, exec and posix_spawn in processes whose other threads are busy allocating: the child must be able to
 * allocate, to free what it inherited, to start threads, to fork again, and to export. */
#define _GNU_SOURCE /* memfd_create, memmem */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "memscope/memscope.h"
#include "tests/entries.h"
#include "tests/support.h"

#pragma weak memscope_process_usage
#pragma weak memscope_snapshot
#pragma weak memscope_snapshot_usage
#pragma weak memscope_export_json
#pragma weak memscope_export_msgpack
#pragma weak memscope_task_create
#pragma weak memscope_task_enter
#pragma weak memscope_task_leave

extern char **environ;

enum { NOISE_THREADS = 5, INHERITED = 600, FORKS = 24 };

static const size_t sizes[] = {1, 16, 64, 100, 500, 1024, 3000, 20000, 40000, 300000, 2000000};
#define SIZE(i) sizes[(i) % (sizeof sizes / sizeof sizes[0])]

static _Atomic(bool) stop;
static pthread_t noise[NOISE_THREADS];
static _Atomic(void *) mailbox[64];

/* Allocates, frees, and trades blocks with the other threads, so that a fork finds every kind of work half done. */
static void *make_noise(void *argument) {
    uint64_t state = (uintptr_t)argument;
    while (!atomic_load(&stop)) {
        if (support_random(&state) % 256 == 0) usleep(300); /* the children need the processors too */
        size_t size = SIZE(support_random(&state) % 9);
        void *block = entries[support_random(&state) % entry_count].allocate(64, size);
        if (!block) abort();
        memset(block, 1, size < 64 ? size : 64);
        free(atomic_exchange(&mailbox[support_random(&state) % 64], block));
        void *grown = realloc(malloc(100), SIZE(support_random(&state) % 8));
        free(grown);
    }
    return NULL;
}

static void start_noise(void) {
    atomic_store(&stop, false);
    for (uintptr_t i = 0; i < NOISE_THREADS; i++)
        ck_assert_int_eq(pthread_create(&noise[i], NULL, make_noise, (void *)(i + 1)), 0);
}

static void stop_noise(void) {
    atomic_store(&stop, true);
    for (size_t i = 0; i < NOISE_THREADS; i++) ck_assert_int_eq(pthread_join(noise[i], NULL), 0);
    for (size_t i = 0; i < 64; i++) free(atomic_exchange(&mailbox[i], NULL));
}

static void expect(bool condition, int status) {
    if (!condition) _exit(status);
}

typedef struct inherited {
    void *blocks[INHERITED];
} inherited_t;

static void *fill_inherited(void *argument) {
    inherited_t *inherited = argument;
    for (size_t i = 0; i < INHERITED; i++) {
        inherited->blocks[i] = entries[i % entry_count].allocate(64, SIZE(i % 9));
        support_fill(inherited->blocks[i], SIZE(i % 9), i);
    }
    return NULL;
}

static void *allocate_in_thread(void *unused) {
    for (size_t i = 0; i < 200; i++) {
        void *block = malloc(SIZE(i));
        expect(block != NULL, 20);
        free(block);
    }
    return unused;
}

/* The number that follows `key` in `text`, 0 if it is not there. */
static uint64_t number_after(const char *text, const char *key) {
    const char *at = strstr(text, key);
    return at ? strtoull(at + strlen(key), NULL, 10) : 0;
}

/* Braces and brackets outside of strings close in the order in which they were opened, and nothing follows. */
static bool is_closed(const char *text) {
    char open[64];
    size_t depth = 0;
    bool quoted = false, begun = false;
    for (; *text; text++) {
        if (quoted && *text == '\\' && text[1])
            text++;
        else if (*text == '"')
            quoted = !quoted;
        else if (!quoted && (*text == '{' || *text == '[')) {
            if (depth == sizeof open || (begun && depth == 0)) return false;
            open[depth++] = *text == '{' ? '}' : ']';
            begun = true;
        } else if (!quoted && (*text == '}' || *text == ']'))
            if (depth == 0 || open[--depth] != *text) return false;
    }
    return begun && !quoted && depth == 0;
}

/* What is exported to a file in memory, with a zero behind it; nothing here allocates. */
static char *exported(int (*export)(const char *), size_t *bytes) {
    char path[64];
    int file = memfd_create("export", 0);
    expect(file >= 0, 34);
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    expect(export(path) == 0, 35);
    off_t end = lseek(file, 0, SEEK_END);
    expect(end > 0 && ftruncate(file, end + 1) == 0, 36);
    *bytes = (size_t)end;
    char *text = mmap(NULL, *bytes + 1, PROT_READ, MAP_PRIVATE, file, 0);
    expect(text != MAP_FAILED, 37);
    close(file);
    return text;
}

typedef struct totals {
    uint64_t allocated_bytes, allocated_blocks, freed_bytes, freed_blocks, live_bytes;
} totals_t;

/* What an export of this process as JSON says of its totals. */
static totals_t exported_totals(void) {
    size_t bytes;
    char *text = exported(memscope_export_json, &bytes);
    expect(strlen(text) == bytes && is_closed(text), 32);
    expect(number_after(text, "\"pid\": ") == (uint64_t)getpid(), 44);
    expect(number_after(text, "\"parent_pid\": ") == (uint64_t)getppid(), 45);
    char tid[32];
    snprintf(tid, sizeof tid, "\"tid\": %d,", (int)getpid());
    expect(strstr(text, tid) != NULL, 57);
    const char *at = strstr(text, "\"totals\": {");
    expect(at != NULL, 46);
    totals_t totals = {number_after(at, "\"allocated_bytes\": "), number_after(at, "\"allocated_blocks\": "),
                       number_after(at, "\"freed_bytes\": "), number_after(at, "\"freed_blocks\": "),
                       number_after(at, "\"live_bytes\": ")};
    expect(totals.live_bytes == totals.allocated_bytes - totals.freed_bytes, 47);
    munmap(text, bytes + 1);
    return totals;
}

/* The exports are of this process and say what it does between them, to the byte: the child has no other thread. What
 * they add up from threads is what the process counts, also where a thread was cut off while it counted. */
static void export_in_child(void) {
    if (!support_is_memscope()) return;
    enum { COUNT = 10, BYTES = 1003 };
    void *blocks[COUNT];
    totals_t before = exported_totals();
    for (size_t i = 0; i < COUNT; i++) expect((blocks[i] = malloc(BYTES)) != NULL, 38);
    free(blocks[0]);
    memscope_usage_t usage;
    expect(memscope_process_usage(&usage) == 0, 30);
    expect(usage.live_bytes == usage.allocated_bytes - usage.freed_bytes, 31);
    totals_t totals = exported_totals();
    expect(totals.allocated_bytes == before.allocated_bytes + COUNT * BYTES, 48);
    expect(totals.allocated_blocks == before.allocated_blocks + COUNT, 49);
    expect(totals.freed_bytes == before.freed_bytes + BYTES, 50);
    expect(totals.freed_blocks == before.freed_blocks + 1, 51);
    expect(totals.allocated_blocks == usage.allocated_blocks, 52);
    expect(totals.allocated_bytes == usage.allocated_bytes, 56);
    expect(totals.freed_blocks == usage.freed_blocks, 53);
    expect(totals.freed_bytes == usage.freed_bytes, 54);

    size_t bytes;
    char *text = exported(memscope_export_msgpack, &bytes);
    expect(bytes > 32 && memmem(text, 32, "memscope", 8) != NULL, 33);
    expect(memmem(text + bytes - 32, 32,
                  "\xa3"
                  "end",
                  4) != NULL,
           55);
    munmap(text, bytes + 1);
    for (size_t i = 1; i < COUNT; i++) free(blocks[i]);
}

static int wait_for(pid_t pid) {
    int status;
    while (waitpid(pid, &status, 0) != pid)
        if (errno != EINTR) return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

/* What a child does with its life. SIGALRM ends one that hangs. */
static void live(inherited_t *inherited, int generations) {
    alarm(120);
    for (size_t i = 0; i < 300; i++) {
        void *block = entries[i % entry_count].allocate(128, SIZE(i));
        expect(block != NULL, 10);
        support_fill(block, SIZE(i), i);
        expect(support_holds(block, SIZE(i), i), 11);
        free(block);
    }
    for (size_t i = 0; i < INHERITED; i += 2) {
        expect(support_holds(inherited->blocks[i], SIZE(i % 9), i), 12);
        inherited->blocks[i] = realloc(inherited->blocks[i], SIZE(i % 9) + 1000);
        expect(support_holds(inherited->blocks[i], 1, i), 13);
    }
    for (size_t i = 0; i < INHERITED; i++) free(inherited->blocks[i]);
    pthread_t thread;
    expect(pthread_create(&thread, NULL, allocate_in_thread, NULL) == 0, 14);
    fill_inherited(inherited);
    expect(pthread_join(thread, NULL) == 0, 15);
    export_in_child();
    if (generations == 0) return;
    pid_t pid = fork();
    expect(pid >= 0, 16);
    if (pid == 0) {
        live(inherited, generations - 1);
        _exit(0);
    }
    int status = wait_for(pid);
    if (status) _exit(status > 1000 ? 99 : status);
}

/* `inherited` belongs to two threads: even children get the blocks of one that has ended, odd ones of a running one. */
static int fork_and_wait(inherited_t *inherited, int generations) {
    pid_t pid = fork();
    if (pid == 0) {
        live(inherited, generations);
        _exit(0);
    }
    return pid < 0 ? -1 : wait_for(pid);
}

static void fork_and_check(inherited_t *inherited, int generations) {
    int status = fork_and_wait(inherited, generations);
    ck_assert_msg(status == 0, "the child ended with %d", status);
}

START_TEST(forks_while_others_allocate) {
    static inherited_t own, others;
    pthread_t thread;
    fill_inherited(&own);
    ck_assert_int_eq(pthread_create(&thread, NULL, fill_inherited, &others), 0);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    start_noise();
    for (int i = 0; i < (support_stress() ? 50 * FORKS : FORKS); i++)
        fork_and_check(i % 2 ? &own : &others, i % 4 == 0 ? 2 : 0);
    stop_noise();
    for (size_t i = 0; i < INHERITED; i++) {
        ck_assert(support_holds(own.blocks[i], SIZE(i % 9), i));
        ck_assert(support_holds(others.blocks[i], SIZE(i % 9), i));
        free(own.blocks[i]);
        free(others.blocks[i]);
    }
}
END_TEST

/* Threads that do little but free each other's blocks: many a fork cuts one off while it counts one. */
enum { BATCH = 1000, TRADERS_MOST = 3 };
static _Atomic(void **) between;

static void trade_once(size_t count) {
    void **batch = malloc(BATCH * sizeof *batch);
    for (size_t i = 0; i < BATCH; i++) batch[i] = i < count ? malloc(64) : NULL;
    batch = atomic_exchange(&between, batch);
    for (size_t i = 0; batch && i < BATCH && batch[i]; i++) free(batch[i]);
    free(batch);
}

static void *trade(void *unused) {
    while (!atomic_load(&stop)) trade_once(BATCH);
    return unused;
}

static void *trade_and_end(void *unused) {
    trade_once(4);
    return unused;
}

static void *trade_in_threads(void *unused) {
    pthread_t thread;
    while (!atomic_load(&stop))
        if (pthread_create(&thread, NULL, trade_and_end, NULL) == 0) pthread_join(thread, NULL);
    return unused;
}

static int agrees_with_itself(void) {
    memscope_usage_t whole, sum;
    memscope_snapshot_t *snapshot = memscope_snapshot();
    if (!snapshot || memscope_process_usage(&whole) != 0) return 2;
    memscope_snapshot_usage(snapshot, &sum); /* added up from what threads freed of each other's */
    return whole.freed_blocks != sum.freed_blocks || whole.freed_bytes != sum.freed_bytes;
}

/* Of so many children, forked while threads trade, those that do not agree with themselves. */
static int children_that_disagree(int children, void *(*trader)(void *), int traders) {
    pthread_t threads[TRADERS_MOST];
    int disagree = 0;
    atomic_store(&stop, false);
    for (int i = 0; i < traders; i++) ck_assert_int_eq(pthread_create(&threads[i], NULL, trader, NULL), 0);
    for (int i = 0; i < children; i++) {
        pid_t pid = fork();
        if (pid == 0) _exit(agrees_with_itself());
        disagree += wait_for(pid) != 0;
    }
    atomic_store(&stop, true);
    for (int i = 0; i < traders; i++) ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
    void **batch = atomic_exchange(&between, NULL);
    for (size_t i = 0; batch && i < BATCH && batch[i]; i++) free(batch[i]);
    free(batch);
    return disagree;
}

START_TEST(the_child_agrees_with_itself) {
    if (support_is_memscope()) ck_assert_int_eq(children_that_disagree(400, trade, 2), 0);
}
END_TEST

/* Also where it is the first block of others that a thread frees, which takes it longest. Processes of their own:
 * threads that come after some hundreds of others find the memory for their counts there. */
START_TEST(the_child_agrees_about_new_threads) {
    int disagree = 0;
    for (int i = 0; support_is_memscope() && i < (support_stress() ? 400 : 20); i++) {
        pid_t pid = fork();
        if (pid == 0) _exit(children_that_disagree(20, trade_in_threads, 3));
        disagree += wait_for(pid);
    }
    ck_assert_int_eq(disagree, 0);
}
END_TEST

static void *fork_in_thread(void *inherited) {
    intptr_t bad = 0;
    fill_inherited(inherited);
    for (int i = 0; i < FORKS / 4; i++) bad |= fork_and_wait(inherited, 0);
    for (size_t i = 0; i < INHERITED; i++) free(((inherited_t *)inherited)->blocks[i]);
    return (void *)bad;
}

START_TEST(threads_fork_at_once) {
    static inherited_t inherited[4];
    pthread_t forkers[4];
    start_noise();
    for (size_t i = 0; i < 4; i++)
        ck_assert_int_eq(pthread_create(&forkers[i], NULL, fork_in_thread, &inherited[i]), 0);
    for (size_t i = 0; i < 4; i++) {
        void *bad;
        ck_assert_int_eq(pthread_join(forkers[i], &bad), 0);
        ck_assert_ptr_null(bad);
    }
    stop_noise();
}
END_TEST

/* The program's own fork handlers may allocate. */
static _Atomic(int) handler_calls;
static void fork_handler(void) {
    for (size_t i = 0; i < 30; i++) free(realloc(malloc(SIZE(i)), SIZE(i + 1)));
    handler_calls++;
}

START_TEST(fork_handlers_that_allocate) {
    static inherited_t inherited;
    fill_inherited(&inherited);
    ck_assert_int_eq(pthread_atfork(fork_handler, fork_handler, fork_handler), 0);
    start_noise();
    for (int i = 0; i < FORKS / 2; i++) fork_and_check(&inherited, i % 8 == 0);
    stop_noise();
    ck_assert_int_eq(handler_calls, FORKS);
}
END_TEST

/* Between our handlers everything of ours is held, by the thread that forks, and handlers that were registered before ours run
 * there. A library does that which looks into libc first (RTLD_DEEPBIND); what runs before all constructors is in its place. */
static bool early_handler_works;
static int early_handler_calls;
static pthread_mutex_t *lock_of_early_handler;
static void early_handler_before(void) {
    if (lock_of_early_handler) pthread_mutex_lock(lock_of_early_handler);
}
static void early_handler_after(void) {
    if (lock_of_early_handler) pthread_mutex_unlock(lock_of_early_handler);
}
static void early_handler(void) {
    early_handler_calls++;
    static void *kept[40]; /* freed by the next handler, so that what is free does not do */
    for (size_t i = 0; early_handler_works && i < 40; i++) {
        free(kept[i]);
        kept[i] = malloc(SIZE(i) * 10 + 5000 * i);
        memset(kept[i], 1, SIZE(i));
    }
}
#ifdef __x86_64__
#define REGISTER_VERSION "GLIBC_2.3.2"
#else
#define REGISTER_VERSION "GLIBC_2.17"
#endif
static void register_early(void) {
    int (*libcs)(void (*)(void), void (*)(void), void (*)(void), void *);
    *(void **)&libcs = dlvsym(RTLD_DEFAULT, "__register_atfork", REGISTER_VERSION);
    if (libcs) libcs(early_handler, early_handler, early_handler, NULL);
    pthread_atfork(early_handler_before, early_handler_after, early_handler_after);
}
__attribute__((section(".preinit_array"), used)) static void (*const early)(void) = register_early;

START_TEST(earlier_fork_handlers_that_allocate) {
    static inherited_t inherited;
    fill_inherited(&inherited);
    early_handler_works = true;
    early_handler_calls = 0;
    start_noise();
    for (int i = 0; i < FORKS / 2; i++) fork_and_check(&inherited, i % 8 == 0);
    stop_noise();
    early_handler_works = false;
    ck_assert_int_eq(early_handler_calls, FORKS); /* here: before each fork, and after it */
}
END_TEST

/* fork() waits for the lock of stdio's streams, and fflush(NULL), which has it, for a stream that allocates. */
static ssize_t allocate_to_write(void *context, const char *data, size_t size) {
    (void)context, (void)data;
    for (size_t i = 0; i < 40; i++) free(realloc(malloc(SIZE(i) * 10 + 5000 * i), SIZE(i + 1)));
    return (ssize_t)size;
}
static void *flush_all(void *stream) {
    while (!atomic_load(&stop)) {
        fputs("something to write", stream);
        fflush(NULL);
        usleep(300);
    }
    return NULL;
}

START_TEST(forks_beside_streams_that_allocate) {
    static inherited_t inherited;
    fill_inherited(&inherited);
    FILE *stream = fopencookie(NULL, "w", (cookie_io_functions_t){.write = allocate_to_write});
    ck_assert_ptr_nonnull(stream);
    start_noise();
    pthread_t thread;
    ck_assert_int_eq(pthread_create(&thread, NULL, flush_all, stream), 0);
    for (int i = 0; i < FORKS * 2; i++) fork_and_check(&inherited, i % 16 == 0);
    stop_noise();
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    fclose(stream);
}
END_TEST

/* A library that takes a lock of its own for fork(), under which another thread opens files. */
static pthread_mutex_t lock_of_library = PTHREAD_MUTEX_INITIALIZER;
static void *open_and_close(void *path) {
    while (!atomic_load(&stop)) {
        pthread_mutex_lock(&lock_of_library);
        FILE *file = fopen(path, "r");
        if (!file || fclose(file) != 0) abort();
        pthread_mutex_unlock(&lock_of_library);
        usleep(300);
    }
    return NULL;
}

START_TEST(forks_beside_a_library_that_opens_files) {
    static inherited_t inherited;
    fill_inherited(&inherited);
    lock_of_early_handler = &lock_of_library;
    start_noise();
    pthread_t thread;
    ck_assert_int_eq(pthread_create(&thread, NULL, open_and_close, "/dev/null"), 0);
    for (int i = 0; i < FORKS * 2; i++) fork_and_check(&inherited, i % 16 == 0);
    stop_noise();
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    lock_of_early_handler = NULL;
}
END_TEST

/* A thread of the child frees inherited memory and allocates in its very last destructors. */
static pthread_key_t late_key;
static void *left_behind;
static void work_late(void *block) {
    static __thread int rounds;
    if (++rounds < PTHREAD_DESTRUCTOR_ITERATIONS) {
        pthread_setspecific(late_key, block);
        return;
    }
    free(block);
    free(malloc(50));
    left_behind = malloc(77);
}

static void *give_to_destructor(void *block) {
    pthread_setspecific(late_key, malloc(40)); /* the thread has an arena */
    free(pthread_getspecific(late_key));
    pthread_setspecific(late_key, block);
    return NULL;
}

static void try_late_destructors(bool before_fork) {
    free(malloc(1)); /* our key comes first */
    ck_assert_int_eq(pthread_key_create(&late_key, work_late), 0);
    pthread_t thread;
    if (before_fork) {
        ck_assert_int_eq(pthread_create(&thread, NULL, give_to_destructor, malloc(100)), 0);
        ck_assert_int_eq(pthread_join(thread, NULL), 0);
        free(left_behind);
    }
    void *block = malloc(100);
    pid_t pid = fork();
    if (pid == 0) {
        expect(pthread_create(&thread, NULL, give_to_destructor, block) == 0, 1);
        expect(pthread_join(thread, NULL) == 0, 2);
        free(left_behind);
        export_in_child();
        _exit(0);
    }
    ck_assert_int_eq(wait_for(pid), 0);
    pthread_key_delete(late_key);
    free(block);
}

START_TEST(late_destructors_in_a_child) {
    try_late_destructors(false);
}
END_TEST

/* What such threads allocate from was there before the fork. */
START_TEST(late_destructors_in_a_child_too) {
    try_late_destructors(true);
}
END_TEST

/* fork inside a task: the child goes on in it. */
/* Freed large blocks wait with the thread that freed them: the child has its own thread's and not the others'. */
static const size_t kept_sizes[] = {40000, 100000, 300000, 1000000};
static pthread_barrier_t kept_turn;

static void keep_large_blocks(void) {
    void *blocks[4];
    for (size_t i = 0; i < 4; i++) support_fill(blocks[i] = malloc(kept_sizes[i]), kept_sizes[i], i);
    for (size_t i = 0; i < 4; i++) free(blocks[i]);
}

static void *keep_and_wait(void *unused) {
    keep_large_blocks();
    for (size_t i = 0; i < 4000; i++) free(malloc(2000));
    keep_large_blocks();
    pthread_barrier_wait(&kept_turn);
    pthread_barrier_wait(&kept_turn);
    return unused;
}

static void use_kept_blocks(void) {
    alarm(120);
    void *blocks[3][4];
    for (size_t round = 0; round < 3; round++)
        for (size_t i = 0; i < 4; i++)
            support_fill(blocks[round][i] = malloc(kept_sizes[i]), kept_sizes[i], round * 4 + i);
    for (size_t round = 0; round < 3; round++)
        for (size_t i = 0; i < 4; i++) {
            expect(support_holds(blocks[round][i], kept_sizes[i], round * 4 + i), 40);
            free(blocks[round][i]);
        }
    malloc_trim(0);
    export_in_child();
    keep_large_blocks();
    pid_t pid = fork();
    expect(pid >= 0, 41);
    if (pid == 0) {
        keep_large_blocks();
        _exit(0);
    }
    expect(wait_for(pid) == 0, 42);
}

START_TEST(large_blocks_kept_over_a_fork) {
    pthread_t thread;
    pthread_barrier_init(&kept_turn, NULL, 2);
    ck_assert_int_eq(pthread_create(&thread, NULL, keep_and_wait, NULL), 0);
    pthread_barrier_wait(&kept_turn);
    keep_large_blocks();
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        use_kept_blocks();
        _exit(0);
    }
    use_kept_blocks();
    ck_assert_int_eq(wait_for(pid), 0);
    pthread_barrier_wait(&kept_turn);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    pthread_barrier_destroy(&kept_turn);
}
END_TEST

START_TEST(forks_inside_a_task) {
    static inherited_t inherited;
    if (!support_is_memscope()) return;
    memscope_task_t task = memscope_task_create("before the fork", 0);
    memscope_token_t token = memscope_task_enter(task);
    fill_inherited(&inherited);
    start_noise();
    for (int i = 0; i < 5; i++) fork_and_check(&inherited, 1);
    stop_noise();
    memscope_task_leave(token);
    for (size_t i = 0; i < INHERITED; i++) free(inherited.blocks[i]);
}
END_TEST

/* What the thread that forks had set stays so on both sides: its signals, and whether it can be cancelled. And a child may register
 * what later forks are to call. */
static void never_mind(void) {}

static bool is_as_before(int cancel, const sigset_t *signals) {
    sigset_t now;
    int state;
    sigemptyset(&now);
    if (pthread_setcancelstate(cancel, &state) != 0 || sigprocmask(SIG_SETMASK, NULL, &now) != 0) return false;
    for (int number = 1; number < 32; number++)
        if (sigismember(&now, number) != sigismember(signals, number)) return false;
    return state == cancel;
}

START_TEST(forks_leave_a_thread_as_it_was) {
    sigset_t signals;
    start_noise();
    for (int i = 0; i < 8; i++) {
        int cancel = i % 2 ? PTHREAD_CANCEL_ENABLE : PTHREAD_CANCEL_DISABLE;
        pthread_setcancelstate(cancel, NULL);
        sigemptyset(&signals);
        if (i % 4 < 2) sigaddset(&signals, SIGUSR2);
        sigprocmask(SIG_SETMASK, &signals, NULL);
        pid_t pid = fork();
        ck_assert_int_ge(pid, 0);
        if (pid == 0) {
            expect(is_as_before(cancel, &signals), 70);
            alarm(120);
            expect(pthread_atfork(never_mind, never_mind, never_mind) == 0, 71);
            _exit(0);
        }
        ck_assert(is_as_before(cancel, &signals));
        ck_assert_int_eq(wait_for(pid), 0);
    }
    pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL);
    stop_noise();
}
END_TEST

START_TEST(child_leaves_through_exit) {
    start_noise();
    for (int i = 0; i < FORKS / 2; i++) {
        pid_t pid = fork();
        ck_assert_int_ge(pid, 0);
        if (pid == 0) {
            alarm(120);
            setvbuf(stdout, NULL, _IOFBF, 4096);
            free(malloc(SIZE((size_t)i)));
            exit(7);
        }
        ck_assert_int_eq(wait_for(pid), 7);
    }
    stop_noise();
}
END_TEST

START_TEST(vfork_exec_spawn_system) {
    char *const argv[] = {(char[]){"true"}, NULL};
    pid_t pid;
    start_noise();
    for (int i = 0; i < FORKS / 2; i++) {
        ck_assert_int_eq(posix_spawnp(&pid, "true", NULL, NULL, argv, environ), 0);
        ck_assert_int_eq(wait_for(pid), 0);
        pid = vfork();
        if (pid == 0) {
            execvp("true", argv);
            _exit(9);
        }
        ck_assert_int_eq(wait_for(pid), 0);
        free(malloc(SIZE((size_t)i)));
    }
    ck_assert_int_eq(system("exit 5") >> 8, 5);
    FILE *pipe = popen("echo text", "r");
    char line[16];
    ck_assert_ptr_nonnull(fgets(line, sizeof line, pipe));
    ck_assert_str_eq(line, "text\n");
    pclose(pipe);
    stop_noise();
}
END_TEST

/* exec from a thread other than the first, while the rest allocate. */
static void *exec_in_thread(void *unused) {
    execlp("sh", "sh", "-c", "exit 6", (char *)NULL);
    _exit(9);
    return unused;
}

START_TEST(exec_from_a_thread) {
    pid_t pid = fork();
    if (pid == 0) {
        pthread_t thread;
        alarm(120);
        start_noise();
        pthread_create(&thread, NULL, exec_in_thread, NULL);
        pthread_join(thread, NULL);
        _exit(8);
    }
    ck_assert_int_eq(wait_for(pid), 6);
}
END_TEST

static Suite *suite(void) {
    const TTest *tests[] = {forks_while_others_allocate,
                            threads_fork_at_once,
                            the_child_agrees_with_itself,
                            the_child_agrees_about_new_threads,
                            fork_handlers_that_allocate,
                            earlier_fork_handlers_that_allocate,
                            forks_beside_streams_that_allocate,
                            forks_beside_a_library_that_opens_files,
                            late_destructors_in_a_child,
                            late_destructors_in_a_child_too,
                            forks_inside_a_task,
                            large_blocks_kept_over_a_fork,
                            forks_leave_a_thread_as_it_was,
                            child_leaves_through_exit,
                            vfork_exec_spawn_system,
                            exec_from_a_thread};
    return SUPPORT_SUITE("fork", tests);
}

int main(void) {
    return support_main(suite, support_modes_few);
}
