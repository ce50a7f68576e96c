/* Loops whose instructions callgrind counts: `instructions list`, `instructions CASE`. See instructions.sh.
 *
 * callgrind collects only while measured() runs (--toggle-collect=measured): warm-up rounds call the loop directly, and
 * what a round prepares or undoes stays outside. Each case names the empty case with the same loop and no call; the
 * script subtracts it. What is left is the call: the calling instruction, its argument, the PLT entry, all behind it.
 */
#define _GNU_SOURCE
#include "bench/bench.h"
#include "memscope/memscope.h"

#include <dlfcn.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

enum { WARM = 20, ROUNDS = 200, LIVE = 1000, SIZE = 64 };

static void *live[LIVE];
static uint16_t order[LIVE]; /* a permutation: the order of freeing */

#define EACH for (int i = 0; i < LIVE; i++)

static void nothing(void) {}
static void pair(void) {
    EACH free(keep(malloc(SIZE)));
}
static void pair_medium(void) {
    EACH free(keep(malloc(8192)));
}
static void pair_large(void) {
    EACH free(keep(malloc(65536)));
}
static void pair_pages(void) {
    EACH free(keep(aligned_alloc(4096, 8192)));
}
static void pair_aligned(void) {
    EACH free(keep(aligned_alloc(SIZE, SIZE)));
}
static void pair_empty(void) {
    EACH keep(NULL);
}
static void all_malloc(void) {
    EACH live[i] = keep(malloc(SIZE));
}
static void all_calloc(void) {
    EACH live[i] = keep(calloc(1, SIZE));
}
static void all_empty(void) {
    EACH live[i] = keep(live[i]);
}
static void all_free(void) {
    EACH free(keep(live[i]));
}
static void all_realloc(void) {
    EACH live[i] = keep(realloc(live[i], SIZE - 1));
}

static void shuffle(void) {
    static uint64_t state = 1;
    EACH {
        uint32_t other = random_below(&state, (uint32_t)i + 1);
        order[i] = order[other];
        order[other] = (uint16_t)i;
    }
}

static void all_then_random(void) {
    EACH live[i] = keep(malloc(SIZE));
    EACH free(keep(live[order[i]]));
}

static void all_then_random_empty(void) {
    EACH live[i] = keep(live[i]);
    EACH keep(live[order[i]]);
}

/* Blocks of another thread, all of one large heap, in random order: what a free takes must not depend on the heap. */
enum { ELSEWHERE = (WARM + ROUNDS) * LIVE };
static void *elsewhere[ELSEWHERE];
static sem_t allocated;

static void *allocate_elsewhere(void *sleeps) {
    uint64_t state = 1;
    for (uint32_t i = 0; i < ELSEWHERE; i++) {
        uint32_t other = random_below(&state, i + 1);
        elsewhere[i] = elsewhere[other];
        elsewhere[other] = malloc(SIZE);
    }
    sem_post(&allocated);
    while (sleeps) pause();
    return NULL;
}

static void start_elsewhere(void *sleeps) {
    pthread_t thread;
    if (sem_init(&allocated, 0, 0) || pthread_create(&thread, NULL, allocate_elsewhere, sleeps)) abort();
    sem_wait(&allocated);
    if (!sleeps) pthread_join(thread, NULL);
}

static void in_ended_thread(void) {
    start_elsewhere(NULL);
}
static void in_sleeping_thread(void) {
    start_elsewhere(elsewhere);
}
static void take_elsewhere(void) {
    static size_t taken;
    EACH live[i] = elsewhere[taken++];
}

/* memscope's own calls; where the allocator has them not, their cases are not there. */
static int (*track)(const void *, memscope_variable_t *);
static memscope_task_t (*create)(const char *, memscope_task_t);
static memscope_token_t (*enter)(memscope_task_t);
static void (*leave)(memscope_token_t);

static void find_function(void *function, const char *name) {
    void *found = dlsym(RTLD_DEFAULT, name);
    memcpy(function, &found, sizeof found); /* as POSIX makes a function pointer of it */
}

static void find_functions(void) {
    find_function(&track, "memscope_track");
    find_function(&create, "memscope_task_create");
    find_function(&enter, "memscope_task_enter");
    find_function(&leave, "memscope_task_leave");
}

static memscope_task_t task;
static void create_task(void) {
    task = create("bench", 0);
}
static void enter_task(void) {
    create_task();
    enter(task);
}
static void enter_and_leave(void) {
    EACH leave(enter(task));
}
/* Gives the live blocks a name, another one each time. */
static void all_track(void) {
    static memscope_variable_t names[2] = {{"even", "void *", "all_track", __FILE__, __LINE__, 0},
                                           {"odd", "void *", "all_track", __FILE__, __LINE__, 0}};
    static unsigned round;
    memscope_variable_t *name = &names[round++ % 2];
    EACH track(keep(live[i]), name);
}

/* A round is prepare, loop, undo; only loop is counted. */
static const struct {
    const char *name, *empty;
    int calls; /* of the allocator in a step */
    void (*begin)(void), (*prepare)(void), (*loop)(void), (*undo)(void);
} cases[] = {
    {"pair-64", "empty", 2, nothing, nothing, pair, nothing},
    {"pair-8K", "empty", 2, nothing, nothing, pair_medium, nothing},
    {"pair-64K", "empty", 2, nothing, nothing, pair_large, nothing},
    {"pair-4K-aligned", "empty", 2, nothing, nothing, pair_pages, nothing},
    {"pair-64-aligned", "empty", 2, nothing, nothing, pair_aligned, nothing},
    {"random-1000", "random-empty", 2, nothing, shuffle, all_then_random, nothing},
    {"malloc-64", "all-empty", 1, nothing, nothing, all_malloc, all_free},
    {"free-64", "all-empty", 1, nothing, all_malloc, all_free, nothing},
    {"calloc-64", "all-empty", 1, nothing, nothing, all_calloc, all_free},
    {"realloc-64-in-place", "all-empty", 1, all_malloc, nothing, all_realloc, nothing},
    {"free-64-of-ended", "all-empty", 1, in_ended_thread, take_elsewhere, all_free, nothing},
    {"free-64-of-sleeping", "all-empty", 1, in_sleeping_thread, take_elsewhere, all_free, nothing},
    {"track-64", "all-empty", 1, all_malloc, nothing, all_track, nothing},
    {"task-pair-64", "empty", 2, enter_task, nothing, pair, nothing},
    {"task-enter-leave", "empty", 2, create_task, nothing, enter_and_leave, nothing},
    {"empty", "", 0, nothing, nothing, pair_empty, nothing},
    {"all-empty", "", 0, nothing, nothing, all_empty, nothing},
    {"random-empty", "", 0, nothing, shuffle, all_then_random_empty, nothing},
};

enum { CASES = sizeof cases / sizeof *cases };

__attribute__((noinline)) static void measured(void (*loop)(void)) {
    loop();
    __asm__ volatile("" ::: "memory"); /* so that the call above is not a jump */
}

static void run(size_t i) {
    cases[i].begin();
    for (int round = 0; round < WARM + ROUNDS; round++) {
        cases[i].prepare();
        if (round < WARM)
            cases[i].loop();
        else
            measured(cases[i].loop);
        cases[i].undo();
    }
}

int main(int argc, char **argv) {
    int list = argc == 2 && strcmp(argv[1], "list") == 0;
    if (argc != 2) return 2;
    find_functions();
    for (size_t i = 0; i < CASES; i++) {
        bool theirs = cases[i].loop == all_track || cases[i].begin == create_task || cases[i].begin == enter_task;
        if (theirs && !track) continue;
        if (list && *cases[i].empty)
            printf("%s %s %d %d\n", cases[i].name, cases[i].empty, ROUNDS * LIVE, cases[i].calls);
        if (strcmp(argv[1], cases[i].name) != 0) continue;
        run(i);
        return 0;
    }
    return list ? 0 : 2;
}
