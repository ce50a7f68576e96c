/* Micro benchmarks: what one call costs. `micro list` names the cases, `micro CASE [SCALE]` prints "VALUE UNIT".
 *
 * One thread: CPU time of the thread, in batches sized to last about 5 ms, the median of 11 batches after one
 * unmeasured one. Several threads: wall time divided by all operations of all threads. Memory: from /proc/self/statm.
 * SCALE (default 1) shortens batches and totals. The calls of memscope's task API are looked up at run time, so the
 * same binary runs on every allocator; without them the task cases print "- no tasks". */
#define _GNU_SOURCE
#include "bench/bench.h"
#include "memscope/memscope.h"

#include <dlfcn.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { BATCHES = 11, LIVE = 1000, MAX_THREADS = 1000, RING = 1024 };

static double scale = 1;

/* Runs `count` operations; `context` is the case's argument. */
typedef void body_fn(size_t count, void *context);

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double timed(body_fn *body, size_t count, void *context) {
    double start = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    body(count, context);
    return clock_ns(CLOCK_THREAD_CPUTIME_ID) - start;
}

/* Median cost of one operation in ns. */
static double measure(body_fn *body, void *context) {
    size_t count = 1;
    while (timed(body, count, context) < 5e6 * scale && count < (size_t)1 << 40) count *= 2;
    double batch[BATCHES];
    for (int i = 0; i < BATCHES; i++) batch[i] = timed(body, count, context) / (double)count;
    qsort(batch, BATCHES, sizeof *batch, compare_doubles);
    return batch[BATCHES / 2];
}

static void print_ns(double ns) {
    printf("%.3f ns\n", ns);
}

/* ---- pairs ------------------------------------------------------------------------------------------------- */

static void pair_body(size_t count, void *context) {
    size_t size = *(size_t *)context;
    while (count--) {
        char *p = keep(must_malloc(size));
        *p = 1;
        free(p);
    }
}

static void run_pair(size_t size) {
    print_ns(measure(pair_body, &size));
}

/* The same with memscope's event log on, which is configured when the process starts: so it starts anew. Per event; what
 * the thread that writes the log does is not in it. */
static void run_traced_pair(size_t size) {
    static const char mark[] = "trace:on,trace_output:/dev/null,buffer_size:16M,max_events:1000000000000";
    const char *conf = getenv("MEMSCOPE_CONF");
    if (!dlsym(RTLD_DEFAULT, "memscope_trace_all")) {
        printf("- no event log\n");
        return;
    }
    if (!conf || !strstr(conf, mark)) {
        char both[4096], text[32];
        snprintf(both, sizeof both, "%s,%s", conf ? conf : "", mark);
        snprintf(text, sizeof text, "%g", scale);
        setenv("MEMSCOPE_CONF", both, 1);
        execl("/proc/self/exe", "micro", "trace-event", text, (char *)NULL);
        bench_die("cannot start anew");
    }
    print_ns(measure(pair_body, &size) / 2);
}

static void calloc_body(size_t count, void *context) {
    size_t size = *(size_t *)context;
    while (count--) free(keep(must(calloc(1, size))));
}

/* Two in turn, of which one byte in a MiB is written: a table that is thin. */
static void thin_calloc_body(size_t count, void *context) {
    size_t size = *(size_t *)context;
    for (; count > 1; count -= 2) {
        char *one = keep(must(calloc(1, size))), *other = keep(must(calloc(1, size)));
        for (size_t at = 0; at < size; at += (size_t)1 << 20) one[at] = other[at] = 1;
        free(one);
        free(other);
    }
}

static void run_thin_calloc(size_t size) {
    print_ns(measure(thin_calloc_body, &size));
}

static void run_calloc(size_t size) {
    print_ns(measure(calloc_body, &size));
}

static void aligned_body(size_t count, void *context) {
    size_t alignment = *(size_t *)context;
    while (count--) free(keep(must(aligned_alloc(alignment, alignment * 2))));
}

static void run_aligned(size_t alignment) {
    print_ns(measure(aligned_body, &alignment));
}

/* ---- orders over 1,000 live blocks of 64 bytes ----------------------------------------------------------------- */

static void *live[LIVE];

static void live_fill(void) {
    for (size_t i = 0; i < LIVE; i++) *(char *)(live[i] = must_malloc(64)) = 1;
}

static void lifo_body(size_t count, void *context) {
    (void)context;
    for (size_t done = 0; done < count; done += LIVE) {
        live_fill();
        for (size_t i = LIVE; i-- > 0;) free(live[i]);
    }
}

static void fifo_body(size_t count, void *context) {
    (void)context;
    for (size_t done = 0; done < count; done += LIVE) {
        live_fill();
        for (size_t i = 0; i < LIVE; i++) free(live[i]);
    }
}

static uint16_t shuffled[LIVE];

static void shuffle(void) {
    uint64_t state = 1;
    for (uint32_t i = 0; i < LIVE; i++) {
        uint32_t other = random_below(&state, i + 1);
        shuffled[i] = shuffled[other];
        shuffled[other] = (uint16_t)i;
    }
}

static void random_body(size_t count, void *context) {
    (void)context;
    for (size_t done = 0; done < count; done += LIVE) {
        live_fill();
        for (size_t i = 0; i < LIVE; i++) free(live[shuffled[i]]);
    }
}

/* Frees one of the live blocks and allocates another. context: largest size, or 0 for always 64 bytes. */
static void replace_body(size_t count, void *context) {
    static uint64_t state = 1;
    uint32_t largest = (uint32_t) * (size_t *)context;
    while (count--) {
        uint32_t i = random_below(&state, LIVE);
        size_t size = largest ? 1 + random_below(&state, largest) : 64;
        free(live[i]);
        *(char *)(live[i] = must_malloc(size)) = 1;
    }
}

/* measure() rounds the count to powers of two; a batch of the ordered cases is whole fillings of LIVE blocks. */
static void run_order(body_fn *body) {
    const size_t count = (size_t)(200 * scale + 1) * LIVE;
    double batch[BATCHES];
    timed(body, count, NULL);
    for (int i = 0; i < BATCHES; i++) batch[i] = timed(body, count, NULL) / (double)count;
    qsort(batch, BATCHES, sizeof *batch, compare_doubles);
    print_ns(batch[BATCHES / 2]);
}

static void run_lifo(size_t unused) {
    (void)unused, run_order(lifo_body);
}
static void run_fifo(size_t unused) {
    (void)unused, run_order(fifo_body);
}

static void run_random(size_t unused) {
    (void)unused;
    shuffle();
    run_order(random_body);
}

static void run_replace(size_t largest) {
    live_fill();
    print_ns(measure(replace_body, &largest));
}

/* Memory full of small blocks, then full of larger ones: what is free of one size serves the other, or its pages go and come. */
static void in_turn_body(size_t count, void *context) {
    enum { SMALL = 500, LARGE = 20000 };
    size_t bytes = *(size_t *)context;
    void **block = must_malloc(bytes / SMALL * sizeof *block);
    while (count--)
        for (size_t size = SMALL; size <= LARGE; size += LARGE - SMALL) {
            for (size_t i = 0; i < bytes / size; i++) memset(block[i] = must_malloc(size), 1, size);
            for (size_t i = 0; i < bytes / size; i++) free(block[i]);
        }
    free(block);
}

/* Of a KiB written. */
static void run_in_turn(size_t bytes) {
    print_ns(measure(in_turn_body, &bytes) / (double)(2 * bytes >> 10));
}

/* ---- realloc ------------------------------------------------------------------------------------------------ */

/* Grows a block from `from` to `to` in steps of `percent`, writing one byte a step. Returns the steps taken. */
static size_t grow(size_t from, size_t to, size_t percent) {
    size_t steps = 0;
    char *p = must_malloc(from);
    for (size_t size = from; size < to; steps++) {
        size_t larger = size + size * percent / 100;
        size = larger < to ? larger : to;
        p = must(realloc(p, size));
        p[size - 1] = 1;
    }
    free(p);
    return steps;
}

static void grow_small_body(size_t count, void *context) {
    while (count--) *(size_t *)context = grow(64, 1 << 20, 10);
}

static void run_grow_small(size_t unused) {
    size_t steps = unused;
    double growth = measure(grow_small_body, &steps);
    print_ns(growth / (double)steps);
}

/* One growth from 1 MiB to 1 GiB (less when SCALE is under 1), per step: allocators that copy take seconds for it. It is the
 * second of the process: the first has in it whatever an allocator starts with its first large block. */
static void run_grow_large(size_t percent) {
    size_t to = scale >= 1 ? (size_t)1 << 30 : (size_t)256 << 20;
    grow(1 << 20, to, percent);
    double start = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    size_t steps = grow(1 << 20, to, percent);
    printf("%.3f us\n", (clock_ns(CLOCK_THREAD_CPUTIME_ID) - start) / 1e3 / (double)steps);
}

static void realloc_same_body(size_t count, void *context) {
    char *p = must_malloc(64);
    (void)context;
    while (count--) p = keep(must(realloc(p, 60 + (count & 3))));
    free(p);
}

static void run_realloc_same(size_t unused) {
    (void)unused;
    print_ns(measure(realloc_same_body, NULL));
}

/* ---- threads ------------------------------------------------------------------------------------------------- */

static pthread_barrier_t started;
static _Atomic uint64_t first_start_ns; /* when the first thread left the barrier; 0: none has */

static void wait_for_start(void) {
    uint64_t none = 0;
    pthread_barrier_wait(&started);
    atomic_compare_exchange_strong(&first_start_ns, &none, (uint64_t)clock_ns(CLOCK_MONOTONIC));
}

/* Starts `count` threads and returns the wall time from when the first begins to work until all have ended. The main
 * thread may be scheduled last on a busy machine, so its own clock would miss the start. */
static double run_threads(size_t count, void *(*body)(void *), void *context) {
    static pthread_t threads[MAX_THREADS];
    pthread_barrier_init(&started, NULL, (unsigned)count + 1);
    for (size_t i = 0; i < count; i++)
        if (pthread_create(&threads[i], NULL, body, context) != 0) bench_die("cannot start a thread");
    pthread_barrier_wait(&started);
    for (size_t i = 0; i < count; i++) pthread_join(threads[i], NULL);
    return clock_ns(CLOCK_MONOTONIC) - (double)first_start_ns;
}

/* Random replacement among 100 live blocks of 16 to 512 bytes. context: the operations of this thread. */
static void *replace_thread(void *context) {
    enum { SLOTS = 100 };
    size_t operations = *(size_t *)context;
    void *slot[SLOTS] = {0};
    static atomic_uint seed;
    uint64_t state = (uint64_t)atomic_fetch_add(&seed, 1) * 2 + 1;
    wait_for_start();
    while (operations--) {
        uint32_t i = random_below(&state, SLOTS);
        free(slot[i]);
        *(char *)(slot[i] = must_malloc(16 + random_below(&state, 497))) = 1;
    }
    for (size_t i = 0; i < SLOTS; i++) free(slot[i]);
    return NULL;
}

static void run_replace_threads(size_t threads) {
    size_t each = (size_t)(3e6 * scale) / threads + 1;
    double wall = run_threads(threads, replace_thread, &each);
    print_ns(wall / (double)(each * threads));
}

static struct ring {
    _Alignas(64) atomic_size_t head; /* written by the producer */
    _Alignas(64) atomic_size_t tail; /* written by the consumer */
    void *slot[RING];
} ring;

static void ring_produce(size_t count) {
    for (size_t at = 0; at < count; at++) {
        while (at - atomic_load_explicit(&ring.tail, memory_order_acquire) == RING) sched_yield();
        void *p = must_malloc(64);
        *(size_t *)p = at;
        ring.slot[at % RING] = p;
        atomic_store_explicit(&ring.head, at + 1, memory_order_release);
    }
}

static void ring_consume(size_t count) {
    for (size_t at = 0; at < count; at++) {
        while (atomic_load_explicit(&ring.head, memory_order_acquire) == at) sched_yield();
        size_t *p = ring.slot[at % RING];
        if (*p != at) bench_die("a block's contents changed");
        free(p);
        atomic_store_explicit(&ring.tail, at + 1, memory_order_release);
    }
}

static void *ring_thread(void *context) {
    static atomic_int next;
    int me = atomic_fetch_add(&next, 1);
    wait_for_start();
    (me == 0 ? ring_produce : ring_consume)(*(size_t *)context);
    return NULL;
}

static void run_producer_consumer(size_t unused) {
    (void)unused;
    size_t count = (size_t)(3e6 * scale) + 1;
    double wall = run_threads(2, ring_thread, &count);
    print_ns(wall / (double)count);
}

/* ---- memory and thread life ------------------------------------------------------------------------------------ */

static double resident_kib(void) {
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%*d %ld", &pages) != 1) bench_die("cannot read /proc/self/statm");
    fclose(file);
    return (double)pages * (double)sysconf(_SC_PAGESIZE) / 1024;
}

static pthread_barrier_t counted;

/* context: bytes to allocate, 0 for none. */
static void *idle_thread(void *context) {
    size_t size = *(size_t *)context;
    char *p = size ? must_malloc(size) : NULL;
    if (p) *p = 1;
    pthread_barrier_wait(&started);
    pthread_barrier_wait(&counted);
    free(p);
    return NULL;
}

static void run_idle_threads(size_t size) {
    pthread_t threads[MAX_THREADS];
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 256 * 1024);
    pthread_barrier_init(&started, NULL, MAX_THREADS + 1);
    pthread_barrier_init(&counted, NULL, MAX_THREADS + 1);
    double before = resident_kib();
    for (size_t i = 0; i < MAX_THREADS; i++)
        if (pthread_create(&threads[i], &attributes, idle_thread, &size) != 0) bench_die("cannot start a thread");
    pthread_barrier_wait(&started);
    printf("%.3f KiB\n", (resident_kib() - before) / MAX_THREADS);
    pthread_barrier_wait(&counted);
    for (size_t i = 0; i < MAX_THREADS; i++) pthread_join(threads[i], NULL);
}

/* A request: blocks of many sizes, `context` bytes of them, written, freed in turn. Then the thread waits. */
static pthread_barrier_t handled;
static void *pool_thread(void *context) {
    enum { LEAST = 16 };
    size_t left = *(size_t *)context, count = 0;
    size_t mapped = left / LEAST * sizeof(void *);
    void **blocks = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (blocks == MAP_FAILED) bench_die("no memory");
    uint64_t state = 1;
    while (left >= LEAST) {
        size_t size = LEAST + random_below(&state, random_below(&state, 4) ? 500 : 2000);
        if (size > left) size = left;
        memset(blocks[count++] = must_malloc(size), 1, size);
        left -= size;
    }
    while (count > 0) free(blocks[--count]);
    munmap(blocks, mapped);
    pthread_barrier_wait(&handled);
    pthread_barrier_wait(&counted);
    return NULL;
}

/* Threads of a pool, each of which has handled a request, one after the other. */
static void run_waiting_threads(size_t request) {
    enum { POOL = 200 };
    pthread_t threads[POOL];
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 256 * 1024);
    pthread_barrier_init(&handled, NULL, 2);
    pthread_barrier_init(&counted, NULL, POOL + 1);
    double before = resident_kib();
    for (size_t i = 0; i < POOL; i++) {
        if (pthread_create(&threads[i], &attributes, pool_thread, &request) != 0) bench_die("cannot start a thread");
        pthread_barrier_wait(&handled);
    }
    printf("%.3f KiB\n", (resident_kib() - before) / POOL);
    pthread_barrier_wait(&counted);
    for (size_t i = 0; i < POOL; i++) pthread_join(threads[i], NULL);
}

static void *brief_thread(void *context) {
    free(keep(must_malloc(*(size_t *)context)));
    return NULL;
}

/* A thread that starts, allocates once, frees and ends. */
static void run_thread_life(size_t size) {
    size_t count = (size_t)(3000 * scale) + 1;
    double start = clock_ns(CLOCK_MONOTONIC);
    for (size_t i = 0; i < count; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, brief_thread, &size) != 0) bench_die("cannot start a thread");
        pthread_join(thread, NULL);
    }
    printf("%.3f us\n", (clock_ns(CLOCK_MONOTONIC) - start) / 1e3 / (double)count);
}

/* ---- tasks --------------------------------------------------------------------------------------------------- */

static struct task_api {
    memscope_task_t (*create)(const char *, memscope_task_t);
    memscope_token_t (*enter)(memscope_task_t);
    void (*leave)(memscope_token_t);
} tasks;

/* dlsym() returns an object pointer; copying its bytes is how POSIX makes a function pointer of it. */
static void find_function(void *function, const char *name) {
    void *found = dlsym(RTLD_DEFAULT, name);
    memcpy(function, &found, sizeof found);
}

static int find_tasks(void) {
    find_function(&tasks.create, "memscope_task_create");
    find_function(&tasks.enter, "memscope_task_enter");
    find_function(&tasks.leave, "memscope_task_leave");
    if (tasks.create && tasks.enter && tasks.leave) return 1;
    printf("- no tasks\n");
    return 0;
}

static void enter_leave_body(size_t count, void *context) {
    memscope_task_t task = *(memscope_task_t *)context;
    while (count--) tasks.leave(tasks.enter(task));
}

static void run_enter_leave(size_t unused) {
    (void)unused;
    if (!find_tasks()) return;
    memscope_task_t task = tasks.create("bench", 0);
    print_ns(measure(enter_leave_body, &task));
}

static void run_tagged_pair(size_t size) {
    if (!find_tasks()) return;
    memscope_token_t token = tasks.enter(tasks.create("bench", 0));
    double ns = measure(pair_body, &size);
    tasks.leave(token);
    print_ns(ns);
}

/* 1,000 tasks take turns; each turn allocates in one task and frees another task's block. */
static memscope_task_t turn_task[LIVE];

static void turns_body(size_t count, void *context) {
    static uint64_t state = 1;
    (void)context;
    while (count--) {
        uint32_t i = random_below(&state, LIVE);
        memscope_token_t token = tasks.enter(turn_task[i]);
        uint32_t victim = random_below(&state, LIVE);
        free(live[victim]);
        *(char *)(live[victim] = must_malloc(64)) = 1;
        tasks.leave(token);
    }
}

static void run_task_turns(size_t unused) {
    (void)unused;
    if (!find_tasks()) return;
    for (size_t i = 0; i < LIVE; i++) turn_task[i] = tasks.create("bench", 0);
    live_fill();
    print_ns(measure(turns_body, NULL));
}

/* ---- names --------------------------------------------------------------------------------------------------- */

static struct name_api {
    int (*track)(const void *, memscope_variable_t *);
    int (*region)(const volatile void *, size_t, memscope_variable_t *);
    memscope_scope_t (*begin)(const void *, memscope_variable_t *);
    void (*end)(memscope_scope_t *);
} names;

static memscope_variable_t named[2] = {{"even", "char *", "bench", __FILE__, __LINE__, 0},
                                       {"odd", "char *", "bench", __FILE__, __LINE__, 0}};

static int find_names(void) {
    find_function(&names.track, "memscope_track");
    find_function(&names.region, "memscope_track_region");
    find_function(&names.begin, "memscope_scope_begin");
    find_function(&names.end, "memscope_scope_end");
    if (names.track && names.region && names.begin && names.end) return 1;
    printf("- no names\n");
    return 0;
}

/* A live block is given another name each time. */
static void track_body(size_t count, void *context) {
    while (count--) names.track(context, &named[count & 1]);
}

static void run_track(size_t size) {
    if (!find_names()) return;
    void *block = must_malloc(size);
    print_ns(measure(track_body, block));
}

static void region_body(size_t count, void *context) {
    while (count--) names.region(context, sizeof(int), &named[count & 1]);
}

static void run_region(size_t unused) {
    (void)unused;
    int number = 0;
    if (find_names()) print_ns(measure(region_body, &number));
}

/* pair-64 and its name: such a block is freed the long way. */
static void tracked_pair_body(size_t count, void *context) {
    size_t size = *(size_t *)context;
    while (count--) {
        char *p = keep(must_malloc(size));
        names.track(p, &named[0]);
        free(p);
    }
}

static void run_tracked_pair(size_t size) {
    if (find_names()) print_ns(measure(tracked_pair_body, &size));
}

static void owned_pair_body(size_t count, void *context) {
    size_t size = *(size_t *)context;
    while (count--) {
        char *p = keep(must_malloc(size));
        memscope_scope_t scope = names.begin(p, &named[0]);
        free(p);
        names.end(&scope);
    }
}

static void run_owned_pair(size_t size) {
    if (find_names()) print_ns(measure(owned_pair_body, &size));
}

/* ---- the table ------------------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    void (*run)(size_t argument);
    size_t argument;
} cases[] = {
    {"pair-16", run_pair, 16},
    {"pair-64", run_pair, 64},
    {"pair-256", run_pair, 256},
    {"pair-1K", run_pair, 1 << 10},
    {"pair-8K", run_pair, 8 << 10},
    {"pair-64K", run_pair, 64 << 10},
    {"pair-1M", run_pair, 1 << 20},
    {"lifo-1000", run_lifo, 0},
    {"fifo-1000", run_fifo, 0},
    {"random-1000", run_random, 0},
    {"replace-1000", run_replace, 0},
    {"replace-1000-mixed", run_replace, 1024},
    {"sizes-in-turn", run_in_turn, 4 << 20},
    {"calloc-64", run_calloc, 64},
    {"calloc-4K", run_calloc, 4096},
    {"calloc-1M", run_calloc, 1 << 20},
    {"calloc-16M-thin", run_thin_calloc, 16 << 20},
    {"aligned-64", run_aligned, 64},
    {"aligned-4096", run_aligned, 4096},
    {"realloc-same", run_realloc_same, 0},
    {"grow-64-1M-10%", run_grow_small, 0},
    {"grow-1M-1G-10%", run_grow_large, 10},
    {"grow-1M-1G-double", run_grow_large, 100},
    {"producer-consumer", run_producer_consumer, 0},
    {"threads-1", run_replace_threads, 1},
    {"threads-2", run_replace_threads, 2},
    {"threads-4", run_replace_threads, 4},
    {"threads-16", run_replace_threads, 16},
    {"threads-100", run_replace_threads, 100},
    {"thread-life", run_thread_life, 64},
    {"thread-idle-rss", run_idle_threads, 64},
    {"thread-waits-rss", run_waiting_threads, 3 << 20},
    {"trace-event", run_traced_pair, 64},
    {"task-enter-leave", run_enter_leave, 0},
    {"task-pair-64", run_tagged_pair, 64},
    {"task-turns", run_task_turns, 0},
    {"track-64", run_track, 64},
    {"track-region", run_region, 0},
    {"track-pair-64", run_tracked_pair, 64},
    {"own-pair-64", run_owned_pair, 64},
};

enum { CASES = sizeof cases / sizeof *cases };

int main(int argc, char **argv) {
    if (argc > 2) scale = strtod(argv[2], NULL);
    if (argc > 3 || argc < 2 || !(scale > 0)) {
        fprintf(stderr, "usage: micro list | micro CASE [SCALE]\n");
        return 2;
    }
    if (strcmp(argv[1], "list") == 0)
        for (size_t i = 0; i < CASES; i++) puts(cases[i].name);
    else
        for (size_t i = 0; i <= CASES; i++) {
            if (i == CASES) bench_die("no such case");
            if (strcmp(argv[1], cases[i].name) != 0) continue;
            cases[i].run(cases[i].argument);
            break;
        }
    return 0;
}
