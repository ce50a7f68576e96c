#include "tests/support.h"

#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "config.h"
#include "memscope/memscope.h"

#pragma weak memscope_version

extern char **environ;

const char *const support_modes_all[] = {"off", "exact", "sampled", "task", "hybrid", NULL};
const char *const support_modes_few[] = {"off", "exact", "hybrid", NULL};
const char *const support_modes_default[] = {"hybrid", NULL};

const char *const *support_backends(void) {
    static const char *const built_in[] = {
#if MS_HAVE_JEMALLOC
        "jemalloc",
#endif
#if MS_HAVE_MIMALLOC
        "mimalloc",
#endif
        "system",
        NULL
    };
    return built_in;
}

bool support_is_memscope(void) {
    return memscope_version != NULL;
}

uint64_t support_seed(void) {
    const char *given = getenv("MEMSCOPE_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL) * 1000003u + (uint64_t)getpid();
    printf("MEMSCOPE_SEED=%llu\n", (unsigned long long)seed);
    fflush(stdout);
    return seed;
}

/* A step that visits every byte of small blocks and touches every page of large ones. */
static size_t step_at(size_t position, size_t bytes) {
    return bytes <= 4096 || position < 256 || position + 256 >= bytes ? 1 : 509;
}

static size_t next_position(size_t position, size_t bytes) {
    size_t next = position + step_at(position, bytes);
    if (bytes > 4096 && position + 256 < bytes && next + 256 > bytes) return bytes - 256;
    return next;
}

static unsigned char byte_at(size_t position, uint64_t seed) {
    return (unsigned char)((position * 0x9e3779b97f4a7c15u ^ seed * 0xbf58476d1ce4e5b9u) >> 40);
}

void support_fill(void *block, size_t bytes, uint64_t seed) {
    unsigned char *p = block;
    for (size_t i = 0; i < bytes; i = next_position(i, bytes)) p[i] = byte_at(i, seed);
}

bool support_holds(const void *block, size_t bytes, uint64_t seed) {
    const unsigned char *p = block;
    for (size_t i = 0; i < bytes; i = next_position(i, bytes))
        if (p[i] != byte_at(i, seed)) return false;
    return true;
}

static size_t statm(int field) {
    FILE *file = fopen("/proc/self/statm", "r");
    unsigned long values[6] = {0};
    if (!file || fscanf(file, "%lu %lu %lu %lu %lu %lu", &values[0], &values[1], &values[2], &values[3], &values[4],
                        &values[5]) != 6)
        abort();
    fclose(file);
    return values[field] * (size_t)sysconf(_SC_PAGESIZE);
}
size_t support_address_space(void) {
    return statm(0);
}
size_t support_rss(void) {
    return statm(1);
}
size_t support_data(void) {
    return statm(5);
}

/* ThreadSanitizer does not see that a mutex made anew in a child of fork is free. The range of the heap is read plainly,
 * stale or not (alloc/arena.h). */
#if defined __SANITIZE_THREAD__
#define FORK CK_NOFORK
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void) { return "race:ms_heap_range_include\n"; }
#else
#define FORK CK_FORK_GETENV
#endif

static int run_here(support_suite_t *suite) {
    const char *conf = getenv("MEMSCOPE_CONF");
    printf("MEMSCOPE_CONF=%s\n", conf ? conf : "");
    fflush(stdout);
    return support_run_as(suite(), FORK);
}

static bool run_under(const char *conf) {
    char *const argv[] = {(char[]){"test"}, NULL};
    pid_t pid;
    int status;
    setenv("MEMSCOPE_CONF", conf, 1);
    if (posix_spawn(&pid, "/proc/self/exe", NULL, NULL, argv, environ) != 0) return false;
    if (waitpid(pid, &status, 0) != pid) return false;
    if (WIFSIGNALED(status)) printf("%s: ended by signal %d\n", conf, WTERMSIG(status));
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* A program that loses its environment before main() must not start itself again and again. */
static bool was_run_under(void) {
    char name[16] = "";
    return prctl(PR_GET_NAME, name) == 0 && strcmp(name, "exe") == 0;
}

int support_main(support_suite_t *suite, const char *const *modes) {
    if (!getenv("MEMSCOPE_CONF") && was_run_under()) return EXIT_FAILURE;
    if (getenv("MEMSCOPE_CONF") || !support_is_memscope()) return run_here(suite);
    bool good = true;
    for (const char *const *backend = support_backends(); *backend; backend++)
        for (const char *const *mode = modes; *mode; mode++) {
            char conf[128];
            snprintf(conf, sizeof conf, "backend:%s,mode:%s", *backend, *mode);
            good &= run_under(conf);
        }
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
