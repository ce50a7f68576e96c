/* Scripts of known allocations. Each counts its own requests while it makes them, compares the library's in-process
 * numbers with that count, and leaves DIR/before.json, DIR/after.json (snapshots) and DIR/truth.json for
 * test_exact.py. Usage: exact SCRIPT DIR
 *
 * Threads are started before the first snapshot and wait after the last step for the second one, so that what libc
 * allocates for a thread lies outside. Every thread writes only its own ledger; nothing here allocates by itself. */
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "memscope/memscope.h"

enum { MAX_THREADS = 101, MAX_TASKS = 12, MAX_SIZES = 64, NO_TASK = 0 };

typedef struct counts {
    uint64_t bytes, blocks;
} counts_t;

typedef struct ledger {
    long tid;
    counts_t allocated[MAX_TASKS], freed[MAX_TASKS], handed_off[MAX_TASKS]; /* by task of the block */
    counts_t freed_of[MAX_THREADS];                                         /* by thread that allocated */
    uint64_t size_allocated[MAX_SIZES], size_freed[MAX_SIZES];
    uint64_t enters[MAX_TASKS];
    size_t task; /* current, index into tasks[] */
} ledger_t;

typedef struct task {
    memscope_task_t id;
    size_t parent;
    const char *name;
    int64_t live, peak; /* only in scripts of one thread */
    bool ended;
    counts_t outlived;
} task_t;

typedef struct block {
    void *memory;
    size_t size, owner, task, size_index;
} block_t;

static ledger_t ledgers[MAX_THREADS]; /* 0: the first thread */
static task_t tasks[MAX_TASKS];       /* 0: no task */
static size_t thread_count = 1, task_count = 1;
static size_t seen_sizes[MAX_SIZES]; /* fixed before threads start */
static size_t seen_count;
static uint64_t failures;  /* requests that had to be refused */
static int64_t live, peak; /* of the process, scripts of one thread */
static __thread size_t self;
static const char *directory;
static memscope_usage_t usage_before;

#define die(...)                      \
    do {                              \
        fprintf(stderr, __VA_ARGS__); \
        fputc('\n', stderr);          \
        _exit(1);                     \
    } while (0)

static const size_t sizes[] = {0,    1,    16,   17,   40,    64,    100,    256,    1000,
                               1024, 1025, 2000, 5000, 32768, 32769, 100000, 1500000};
#define SIZE_COUNT (sizeof sizes / sizeof sizes[0])

static size_t size_index(size_t size) {
    for (size_t i = 0; i < seen_count; i++)
        if (seen_sizes[i] == size) return i;
    if (thread_count > 1 || seen_count == MAX_SIZES) die("size %zu was not announced", size);
    seen_sizes[seen_count] = size;
    return seen_count++;
}

static void add(counts_t *counts, size_t bytes) {
    counts->bytes += bytes;
    counts->blocks++;
}

static void count_live(size_t task, int64_t change) {
    if (thread_count > 1) return;
    live += change;
    tasks[task].live += change;
    if (live > peak) peak = live;
    if (tasks[task].live > tasks[task].peak) tasks[task].peak = tasks[task].live;
}

static block_t take_as(void *memory, size_t size) {
    ledger_t *ledger = &ledgers[self];
    if (!memory) die("no memory for %zu bytes", size);
    block_t block = {memory, size, self, ledger->task, size_index(size)};
    add(&ledger->allocated[block.task], size);
    ledger->size_allocated[block.size_index]++;
    count_live(block.task, (int64_t)size);
    return block;
}

static block_t take(size_t size) {
    return take_as(malloc(size), size);
}

static void count_free(const block_t *block) {
    ledger_t *ledger = &ledgers[self];
    add(&ledger->freed[block->task], block->size);
    if (block->task != ledger->task) add(&ledger->handed_off[block->task], block->size);
    add(&ledger->freed_of[block->owner], block->size);
    ledger->size_freed[block->size_index]++;
    count_live(block->task, -(int64_t)block->size);
}

static void give(block_t *block) {
    count_free(block);
    free(block->memory);
    block->memory = NULL;
}

/* A realloc is a free and an allocation; both blocks may exist at once, so no peaks are judged in scripts that use it.
 */
static void resize(block_t *block, size_t size) {
    count_free(block);
    *block = take_as(realloc(block->memory, size), size);
}

/* ---- tasks */
static size_t new_task(const char *name, size_t parent) {
    size_t task = task_count++;
    tasks[task] = (task_t){.id = memscope_task_create(name, tasks[parent].id), .parent = parent, .name = name};
    return task;
}

typedef struct entered {
    memscope_token_t token;
    size_t previous;
} entered_t;

static entered_t enter(size_t task) {
    entered_t entered = {memscope_task_enter(tasks[task].id), ledgers[self].task};
    ledgers[self].task = task;
    ledgers[self].enters[task]++;
    if (memscope_task_current() != tasks[task].id) die("task %zu is not current", task);
    return entered;
}

static void leave(entered_t entered) {
    memscope_task_leave(entered.token);
    ledgers[self].task = entered.previous;
    if (memscope_task_current() != tasks[entered.previous].id) die("task %zu is not current again", entered.previous);
}

static void sum_task(size_t task, counts_t *allocated, counts_t *freed) {
    *allocated = *freed = (counts_t){0, 0};
    for (size_t t = 0; t < thread_count; t++) {
        allocated->bytes += ledgers[t].allocated[task].bytes;
        allocated->blocks += ledgers[t].allocated[task].blocks;
        freed->bytes += ledgers[t].freed[task].bytes;
        freed->blocks += ledgers[t].freed[task].blocks;
    }
}

static void expect_usage(const char *what, const memscope_usage_t *got, const counts_t *allocated,
                         const counts_t *freed) {
    if (got->allocated_bytes != allocated->bytes || got->allocated_blocks != allocated->blocks ||
        got->freed_bytes != freed->bytes || got->freed_blocks != freed->blocks ||
        got->live_bytes != allocated->bytes - freed->bytes || got->live_blocks != allocated->blocks - freed->blocks)
        die("%s: got %lu bytes in %lu blocks allocated, %lu in %lu freed, %lu in %lu live; truth %lu in %lu, %lu in "
            "%lu",
            what, got->allocated_bytes, got->allocated_blocks, got->freed_bytes, got->freed_blocks, got->live_bytes,
            got->live_blocks, allocated->bytes, allocated->blocks, freed->bytes, freed->blocks);
}

static void check_tasks(void) {
    for (size_t task = 1; task < task_count; task++) {
        memscope_usage_t usage;
        counts_t allocated, freed;
        sum_task(task, &allocated, &freed);
        if (memscope_task_usage(tasks[task].id, &usage) != 0) die("task %zu is unknown", task);
        expect_usage(tasks[task].name, &usage, &allocated, &freed);
    }
}

static void end_task(size_t task) {
    memscope_usage_t usage;
    counts_t allocated, freed;
    sum_task(task, &allocated, &freed);
    if (memscope_task_end(tasks[task].id, &usage) != 0) die("task %zu does not end", task);
    expect_usage(tasks[task].name, &usage, &allocated, &freed);
    tasks[task].ended = true;
    tasks[task].outlived = (counts_t){allocated.bytes - freed.bytes, allocated.blocks - freed.blocks};
    if (memscope_task_end(tasks[task].id, NULL) == 0) die("task %zu ends twice", task);
}

/* ---- snapshots and the truth */
static void path_of(char *path, size_t bytes, const char *name) {
    snprintf(path, bytes, "%s/%s", directory, name);
}

static void export_as(const char *name) {
    char path[4096];
    path_of(path, sizeof path, name);
    int error = memscope_export_json(path);
    if (error) die("%s: %s", path, strerror(error));
}

static void before(void) {
    export_as("before.json");
    memscope_process_usage(&usage_before);
    live = peak = 0;
}

static void check_process(void) {
    memscope_usage_t now;
    counts_t allocated = {0, 0}, freed = {0, 0};
    memscope_process_usage(&now);
    for (size_t task = 0; task < MAX_TASKS; task++) {
        counts_t a, f;
        sum_task(task, &a, &f);
        allocated.bytes += a.bytes + (task == 0) * usage_before.allocated_bytes;
        allocated.blocks += a.blocks + (task == 0) * usage_before.allocated_blocks;
        freed.bytes += f.bytes + (task == 0) * usage_before.freed_bytes;
        freed.blocks += f.blocks + (task == 0) * usage_before.freed_blocks;
    }
    expect_usage("process", &now, &allocated, &freed);
}

static void after(void) {
    check_process();
    check_tasks();
    export_as("after.json");
    check_process();
}

static void print_counts(FILE *file, const char *name, counts_t counts) {
    fprintf(file, ", \"%s_bytes\": %lu, \"%s_blocks\": %lu", name, counts.bytes, name, counts.blocks);
}

static void print_threads(FILE *file) {
    for (size_t t = 0; t < thread_count; t++) {
        counts_t allocated = {0, 0}, frees_made = {0, 0}, by_others = {0, 0};
        for (size_t i = 0; i < MAX_TASKS; i++) {
            allocated.bytes += ledgers[t].allocated[i].bytes;
            allocated.blocks += ledgers[t].allocated[i].blocks;
        }
        counts_t freed = {0, 0};
        for (size_t o = 0; o < thread_count; o++) {
            counts_t mine = ledgers[o].freed_of[t];
            freed = (counts_t){freed.bytes + mine.bytes, freed.blocks + mine.blocks};
            if (o != t) by_others = (counts_t){by_others.bytes + mine.bytes, by_others.blocks + mine.blocks};
            counts_t made = ledgers[t].freed_of[o];
            frees_made = (counts_t){frees_made.bytes + made.bytes, frees_made.blocks + made.blocks};
        }
        fprintf(file, "%s{\"tid\": %ld", t ? ",\n" : "", ledgers[t].tid);
        print_counts(file, "allocated", allocated);
        print_counts(file, "freed", freed);
        print_counts(file, "frees_made", frees_made);
        print_counts(file, "freed_by_others", by_others);
        fprintf(file, "}");
    }
}

static void print_tasks(FILE *file) {
    for (size_t task = 0; task < task_count; task++) {
        counts_t allocated, freed, handed_off = {0, 0};
        uint64_t enters = 0;
        sum_task(task, &allocated, &freed);
        for (size_t t = 0; t < thread_count; t++) {
            handed_off.bytes += ledgers[t].handed_off[task].bytes;
            handed_off.blocks += ledgers[t].handed_off[task].blocks;
            enters += ledgers[t].enters[task];
        }
        fprintf(file, "%s{\"id\": %lu, \"parent\": %lu, \"name\": \"%s\", \"ended\": %s, \"enters\": %lu",
                task ? ",\n" : "", tasks[task].id, tasks[tasks[task].parent].id, task ? tasks[task].name : "",
                tasks[task].ended ? "true" : "false", enters);
        print_counts(file, "allocated", allocated);
        print_counts(file, "freed", freed);
        print_counts(file, "handed_off", handed_off);
        print_counts(file, "outlived", tasks[task].outlived);
        fprintf(file, ", \"peak_bytes\": %ld}", (long)tasks[task].peak);
    }
}

static void print_pairs(FILE *file) {
    const char *comma = "";
    for (size_t freeing = 0; freeing < thread_count; freeing++)
        for (size_t owner = 0; owner < thread_count; owner++) {
            counts_t counts = ledgers[freeing].freed_of[owner];
            if (owner == freeing || counts.blocks == 0) continue;
            fprintf(file, "%s{\"owner\": %ld, \"freeing\": %ld", comma, ledgers[owner].tid, ledgers[freeing].tid);
            print_counts(file, "freed", counts);
            fprintf(file, "}");
            comma = ",\n";
        }
}

static void print_sizes(FILE *file) {
    for (size_t i = 0; i < seen_count; i++) {
        uint64_t allocated = 0, freed = 0;
        for (size_t t = 0; t < thread_count; t++) {
            allocated += ledgers[t].size_allocated[i];
            freed += ledgers[t].size_freed[i];
        }
        fprintf(file, "%s{\"size\": %zu, \"allocated\": %lu, \"freed\": %lu}", i ? ",\n" : "", seen_sizes[i], allocated,
                freed);
    }
}

/* judge_*: what of the truth the script can vouch for. */
static void tell_truth(bool judge_peaks, bool judge_sizes) {
    char path[4096];
    path_of(path, sizeof path, "truth.json");
    FILE *file = fopen(path, "w");
    if (!file) die("%s", path);
    fprintf(file, "{\"peaks\": %s, \"peak_above_before\": %ld,\n\"sizes_count\": %s, \"failed\": %lu,\n\"threads\": [",
            judge_peaks ? "true" : "false", (long)peak, judge_sizes ? "true" : "false", failures);
    print_threads(file);
    fprintf(file, "],\n\"tasks\": [");
    print_tasks(file);
    fprintf(file, "],\n\"cross_frees\": [");
    print_pairs(file);
    fprintf(file, "],\n\"sizes\": [");
    print_sizes(file);
    fprintf(file, "]}\n");
    fclose(file);
}

/* ---- threads that take their steps together with the first one */
static pthread_barrier_t step;
static void (*thread_script)(size_t number);

static void together(void) {
    pthread_barrier_wait(&step);
}

static void *run_script(void *number) {
    self = (size_t)number;
    ledgers[self].tid = syscall(SYS_gettid);
    together(); /* before */
    together();
    thread_script(self);
    together(); /* all have done their part */
    together(); /* after */
    return NULL;
}

static void run_threads(size_t count, void (*script)(size_t number)) {
    static pthread_t threads[MAX_THREADS];
    for (size_t i = 0; i < SIZE_COUNT; i++) size_index(sizes[i]);
    thread_count = count + 1;
    thread_script = script;
    pthread_barrier_init(&step, NULL, (unsigned)thread_count);
    for (size_t i = 1; i < thread_count; i++)
        if (pthread_create(&threads[i], NULL, run_script, (void *)i) != 0) die("pthread_create");
    together();
    before();
    together();
    script(0);
    together();
    after();
    together();
    for (size_t i = 1; i < thread_count; i++) pthread_join(threads[i], NULL);
}

/* ---- the scripts */
static void script_single(void) {
    static block_t blocks[40 * SIZE_COUNT];
    before();
    for (size_t i = 0; i < 40 * SIZE_COUNT; i++) blocks[i] = take(sizes[i % SIZE_COUNT]);
    for (size_t i = 0; i < 40 * SIZE_COUNT; i += 2) give(&blocks[i]);
    free(NULL);
    for (size_t i = 0; i < 40 * SIZE_COUNT; i += 4)
        blocks[i] = take_as(calloc(1, sizes[i % SIZE_COUNT]), sizes[i % SIZE_COUNT]);
    for (size_t i = 0; i < 40 * SIZE_COUNT; i += 3)
        if (blocks[i].memory) give(&blocks[i]);
    after();
    tell_truth(true, true);
}

/* The other entry points: a block counts with the size that was asked for. */
static void script_entries(void) {
    static block_t blocks[8];
    volatile size_t too_much[] = {SIZE_MAX / 4, SIZE_MAX};
    before();
    for (size_t i = 0; i < 20 * SIZE_COUNT; i++) {
        size_t size = sizes[i % SIZE_COUNT];
        void *aligned = NULL;
        if (posix_memalign(&aligned, 256, size) != 0) die("posix_memalign");
        blocks[0] = take_as(aligned, size);
        blocks[1] = take_as(memalign(64, size), size);
        blocks[2] = take_as(aligned_alloc(4096, size), size);
        blocks[3] = take_as(calloc(size, 1), size);
        blocks[4] = take_as(reallocarray(NULL, size, 1), size);
        blocks[5] = take_as(valloc(size), size);
        blocks[6] = take_as(realloc(NULL, size), size);
        blocks[7] = take(0);
        if (malloc(too_much[i % 2]) || realloc(blocks[6].memory, too_much[i % 2])) die("that was too much");
        if (calloc(too_much[i % 2], 5) || reallocarray(blocks[6].memory, too_much[i % 2], 5)) die("that was too much");
        failures += 4;
        for (size_t b = 0; b < 8; b++)
            if ((i + b) % 5) give(&blocks[b]);
    }
    after();
    tell_truth(false, false);
}

static void script_realloc(void) {
    static block_t blocks[SIZE_COUNT];
    before();
    for (size_t from = 0; from < SIZE_COUNT; from++) {
        blocks[from] = take(sizes[from]);
        for (size_t to = 1; to < SIZE_COUNT; to++)
            resize(&blocks[from], sizes[(from + to) % SIZE_COUNT ? (from + to) % SIZE_COUNT : 1]);
        for (size_t grow = 10; grow < 40; grow++) resize(&blocks[from], sizes[grow % 5 + 5]);
        if (from % 2) give(&blocks[from]);
    }
    after();
    tell_truth(false, true);
}

/* Blocks that another thread frees: number `to` gets what `from` leaves here. */
enum { HANDED = 40 };
static block_t handed[MAX_THREADS][3][HANDED];

static void hand_out(size_t number, size_t count) {
    static __thread block_t own[200];
    for (size_t i = 0; i < 200; i++) own[i] = take(sizes[(i + number) % SIZE_COUNT]);
    for (size_t i = 0; i < 200; i += 1 + number % 3) give(&own[i]);
    for (size_t to = 0; to < 3; to++)
        for (size_t i = 0; i < HANDED; i++) handed[number][to][i] = take(sizes[(i + to + number) % SIZE_COUNT]);
    together();
    for (size_t to = 0; to < 3; to++) {
        size_t from = (number + count - 1 - to) % count;
        for (size_t i = 0; i < HANDED - to * 5; i++) give(&handed[from][to][i]);
    }
}

static void part_of_100_threads(size_t number) {
    hand_out(number, 101);
}
static void script_threads(void) {
    run_threads(100, part_of_100_threads);
    tell_truth(false, true);
}

static void script_tasks(void) {
    block_t a[30], b[30], c[30];
    before();
    size_t root = new_task("root", NO_TASK), child = new_task("child \"quoted\\\\\"", root),
           other = new_task("other one", NO_TASK);
    tasks[child].name = "child"; /* the truth is told without quotes; the file must cope with them */
    entered_t in_root = enter(root);
    for (size_t i = 0; i < 30; i++) a[i] = take(sizes[i % SIZE_COUNT]);
    entered_t in_child = enter(child);
    for (size_t i = 0; i < 30; i++) b[i] = take(sizes[(i + 3) % SIZE_COUNT]);
    for (size_t i = 0; i < 10; i++) give(&a[i]); /* the child frees its parent's */
    entered_t in_child_again = enter(child);
    for (size_t i = 0; i < 5; i++) give(&b[i]);
    leave(in_child_again);
    leave(in_child);
    for (size_t i = 5; i < 15; i++) give(&b[i]);
    check_tasks();
    leave(in_root);
    for (size_t i = 10; i < 20; i++) give(&a[i]); /* no task frees */
    entered_t in_other = enter(other);
    for (size_t i = 0; i < 30; i++) c[i] = take(100000);
    for (size_t i = 0; i < 30; i++) give(&c[i]);
    end_task(child); /* with 15 blocks, while another is current */
    for (size_t i = 15; i < 20; i++) give(&b[i]);
    leave(in_other);
    end_task(root);
    for (size_t i = 20; i < 25; i++) give(&a[i]);
    for (size_t i = 0; i < 10; i++) a[i] = take(50);
    after();
    tell_truth(true, true);
}

/* Three tasks entered by four threads, in turn and at once; blocks freed by other threads in other tasks. */
static void part_of_migration(size_t number) {
    static block_t shared[5][60];
    for (size_t turn = 0; turn < 15; turn++) {
        size_t task = 1 + (number + turn) % 3;
        entered_t outer = enter(task);
        for (size_t i = 0; i < 4; i++) shared[number][turn * 4 + i] = take(sizes[(turn + i) % SIZE_COUNT]);
        entered_t inner = enter(1 + task % 3);
        block_t local = take(77 - 13);
        leave(inner);
        give(&local);
        leave(outer);
        together();
        size_t from = (number + turn) % 5;
        entered_t freeing = enter(1 + turn % 3);
        for (size_t i = 0; i < 3; i++) give(&shared[from][turn * 4 + i]);
        leave(freeing);
        together();
    }
}

static void script_migrate(void) {
    new_task("first", NO_TASK);
    new_task("second", 1);
    new_task("third", 2);
    run_threads(4, part_of_migration);
    tell_truth(false, true);
}

/* Threads that end between the snapshots: their rows stay, their arenas are adopted, their blocks are freed later. */
static void *short_life(void *argument) {
    block_t *blocks = argument;
    self = 1 + (size_t)(blocks - &handed[1][0][0]) / (3 * HANDED);
    ledgers[self].tid = syscall(SYS_gettid);
    for (size_t i = 0; i < HANDED; i++) blocks[i] = take(sizes[(i + self) % SIZE_COUNT]);
    for (size_t i = 0; i < HANDED; i += 3) give(&blocks[i]);
    if (self > 5) /* of a thread that is gone */
        for (size_t i = 1; i < HANDED; i += 3) give(&handed[self - 5][0][i]);
    return NULL;
}

static void script_dead_threads(void) {
    pthread_t thread;
    for (size_t i = 0; i < SIZE_COUNT; i++) size_index(sizes[i]);
    thread_count = 31;
    pthread_create(&thread, NULL, short_life, handed[30][0]); /* libc keeps its stack and tables for the next one */
    pthread_join(thread, NULL);
    for (size_t i = 0; i < HANDED; i++) free(handed[30][0][i].memory);
    memset(&ledgers[30], 0, sizeof ledgers[30]);
    before();
    for (size_t i = 1; i <= 30; i++) {
        if (pthread_create(&thread, NULL, short_life, handed[i][0]) != 0) die("pthread_create");
        pthread_join(thread, NULL);
    }
    for (size_t i = 1; i <= 30; i++)
        for (size_t b = 2; b < HANDED; b += 3) give(&handed[i][0][b]);
    after();
    tell_truth(false, true);
}

/* More threads and tasks than there are rows: no truth beyond the sums. */
static void *brief(void *number) {
    void *block = malloc(100 + (uintptr_t)number % 50);
    free(malloc(1000));
    return block;
}

static void script_many(void) {
    for (size_t i = 0; i < 3000; i++) {
        pthread_t thread;
        void *block;
        memscope_task_t task = memscope_task_create("one of many", 0);
        memscope_token_t token = memscope_task_enter(task);
        if (pthread_create(&thread, NULL, brief, (void *)i) != 0) die("pthread_create");
        for (size_t b = 0; b < 10; b++) free(malloc(b * 100));
        pthread_join(thread, &block);
        if (i % 7) free(block);
        memscope_task_leave(token);
        if (i % 2) memscope_task_end(task, NULL);
    }
    for (size_t i = 0; i < 12000; i++) {
        memscope_task_t task = memscope_task_create("short", 0);
        memscope_token_t token = memscope_task_enter(task);
        void *block = malloc(10);
        memscope_task_leave(token);
        if (i % 3) memscope_task_end(task, NULL);
        if (i % 5) free(block);
    }
    export_as("before.json");
    export_as("after.json");
}

typedef struct script {
    const char *name;
    void (*run)(void);
} script_t;

int main(int argc, char **argv) {
    static const script_t scripts[] = {{"single", script_single},   {"entries", script_entries},
                                       {"realloc", script_realloc}, {"threads", script_threads},
                                       {"tasks", script_tasks},     {"migrate", script_migrate},
                                       {"many", script_many},       {"dead_threads", script_dead_threads}};
    size_t count = sizeof scripts / sizeof scripts[0];
    if (argc == 2 && strcmp(argv[1], "list") == 0) {
        for (size_t i = 0; i < count; i++) puts(scripts[i].name);
        return 0;
    }
    if (argc != 3) return 2;
    directory = argv[2];
    ledgers[0].tid = syscall(SYS_gettid);
    for (size_t i = 0; i < count; i++)
        if (strcmp(scripts[i].name, argv[1]) == 0) {
            scripts[i].run();
            return 0;
        }
    return 2;
}
