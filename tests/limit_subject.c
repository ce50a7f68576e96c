/* What a program does that is about to use more than its control group (cgroup) may: for test_limit.sh.
 *
 * Usage: limit_subject SCENARIO; `limit` prints the limit that is seen. With LIMIT_DIRECTORY set, a group that is made
 * of plain files, the program says there itself what it uses before it asks for more, as the kernel would. It prints
 * how much it got, in MiB, and "went on" when it could work after the refusal; everything it gets is touched, so that a
 * kernel that cannot back it kills. */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "memscope/memscope.h"

#define MIB ((size_t)1 << 20)
enum { MOST = 200000 };

static void *blocks[MOST];
static char usage_path[1024];

static void fail(const char *what) {
    printf("FAILED: %s\n", what);
    exit(1);
}

/* Resident memory that is not of files. */
static size_t anonymous_bytes(void) {
    char text[256];
    unsigned long total, resident, shared;
    int file = open("/proc/self/statm", O_RDONLY);
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    text[length > 0 ? length : 0] = '\0';
    if (sscanf(text, "%lu %lu %lu", &total, &resident, &shared) != 3) fail("statm");
    return (resident - shared) * (size_t)sysconf(_SC_PAGESIZE);
}

static void tell_usage(void) {
    if (!usage_path[0]) return;
    char text[32]; /* always as long, so that nobody reads half of it */
    snprintf(text, sizeof text, "%020zu\n", anonymous_bytes());
    int file = open(usage_path, O_WRONLY);
    if (write(file, text, strlen(text)) < 0) fail("memory.current");
    close(file);
}

static void *allocate(size_t size) {
    errno = 0;
    void *block = malloc(size);
    if (!block && usage_path[0]) { /* it has given back what it could, which a kernel would have seen */
        tell_usage();
        block = malloc(size);
    }
    if (!block && errno != ENOMEM) fail("errno");
    if (block && errno && !usage_path[0]) fail("errno of a block that came");
    return block;
}

/* Blocks until there are no more; touched at once or not at all. Returns how many. */
static size_t fill(size_t size, int touch, size_t told_every) {
    size_t count = 0;
    for (; count < MOST; count++) {
        if (count % told_every == 0) tell_usage();
        if (!(blocks[count] = allocate(size))) break;
        if (touch) memset(blocks[count], 0x5a, size);
    }
    return count;
}

static void release(size_t from, size_t to) {
    for (size_t i = from; i < to; i++) free(blocks[i]);
}

/* After the refusal the program goes on: with small blocks, and with what it gives back. */
static void go_on(size_t count, size_t size) {
    release(count / 2, count);
    tell_usage();
    for (size_t i = 0; i < 1000; i++) free(memset(allocate(100), 1, 100));
    size_t again = 0;
    for (size_t i = count / 2; i < count; i++, again++) {
        if ((i * size) % (4 * MIB) < size) tell_usage();
        if (!(blocks[i] = allocate(size))) break;
        memset(blocks[i], 0x11, size);
    }
    release(0, count / 2 + again);
    if (again < count / 2 / 2) fail("what was given back cannot be had again");
    puts("went on");
}

static void report(size_t bytes) {
    printf("got %zu MiB\n", bytes / MIB);
    fflush(stdout);
}

static void blocks_of(size_t size) {
    size_t count = fill(size, 1, size >= MIB ? 1 : MIB / size);
    report(count * size);
    go_on(count, size);
}

/* All of it is asked for before anything is touched. */
static void late(size_t size) {
    size_t count = fill(size, 0, size >= MIB ? 1 : MIB / size);
    for (size_t i = 0; i < count; i++) memset(blocks[i], 0x5a, size);
    report(count * size);
    go_on(count, size);
}

static void grow(void) {
    size_t size = MIB;
    unsigned char *block = malloc(size), *larger;
    memset(block, 7, size);
    for (;; block = larger, size += size / 4) {
        tell_usage();
        errno = 0;
        larger = realloc(block, size + size / 4);
        if (!larger) break;
        memset(larger + size, 7, size / 4);
    }
    if (errno != ENOMEM) fail("errno of realloc");
    for (size_t i = 0; i < size; i += 4096)
        if (block[i] != 7) fail("contents");
    report(size);
    free(block);
    tell_usage();
    free(memset(malloc(size / 2), 1, size / 2));
    puts("went on");
}

/* More than the whole limit, in one piece. */
static void huge(void) {
    tell_usage();
    void *block = calloc(1, 256 * MIB);
    report(block ? 256 * MIB : 0);
    free(block);
    free(memset(malloc(8 * MIB), 1, 8 * MIB));
    puts("went on");
}

/* The program's own pages stay: a kernel may otherwise drop and fetch them for minutes before it kills. */
static void locked(void) {
    if (mlockall(MCL_CURRENT)) fail("mlockall");
    blocks_of(MIB);
}

/* Nothing is touched. */
static void ask(void) {
    report(fill(MIB / 4, 0, 1) * MIB / 4);
}

/* The limit is looked for when there is no descriptor left to look with, and found later. */
static void descriptors(void) {
    struct rlimit many, none = {0};
    getrlimit(RLIMIT_NOFILE, &many);
    none.rlim_max = many.rlim_max;
    setrlimit(RLIMIT_NOFILE, &none);
    void *block = allocate(8 * MIB);
    if (!block) fail("nothing can be read, and that is a limit");
    free(block);
    setrlimit(RLIMIT_NOFILE, &many);
    blocks_of(MIB);
}

static void *wait_long(void *unused) {
    syscall(SYS_futex, &(uint32_t){0}, FUTEX_WAIT, 0, &(struct timespec){.tv_sec = 11}, NULL, 0);
    return unused;
}

/* Most of the limit lies untouched, for long, and the rest is used. clock_shim turns the clock. */
static void sparse(void) {
    void *table = malloc(40 * MIB), *soon, *later;
    tell_usage();
    soon = malloc(30 * MIB);
    pthread_t thread;
    if (pthread_create(&thread, NULL, wait_long, NULL) || pthread_join(thread, NULL)) fail("a thread");
    tell_usage();
    later = malloc(30 * MIB);
    printf("soon %s, later %s\n", soon ? "there" : "refused", later ? "there" : "refused");
    free(table), free(soon), free(later);
}

/* A block of which half is touched leaves room for another of its size, not for a larger one. */
static void half(void) {
    char *block = malloc(40 * MIB);
    memset(block, 1, 20 * MIB);
    tell_usage();
    void *more = malloc(26 * MIB), *less = malloc(18 * MIB);
    printf("more %s, less %s\n", more ? "there" : "refused", less ? "there" : "refused");
    free(block), free(more), free(less);
}

static void child(void) {
    size_t before = fill(MIB, 1, 1) / 4;
    release(before, MOST);
    tell_usage();
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        size_t count = fill(MIB, 1, 1);
        report((before + count) * MIB);
        go_on(count, MIB);
        exit(0);
    }
    int status = 1;
    if (waitpid(pid, &status, 0) != pid || status != 0) fail("the child");
    puts("went on");
}

static pthread_mutex_t telling = PTHREAD_MUTEX_INITIALIZER;

static void *work(void *argument) {
    size_t *bytes = argument, count = 0;
    void **mine = calloc(4000, sizeof *mine);
    for (; mine && count < 4000; count++) {
        size_t size = count % 3 ? 1000 + count % 7 * 3000 : 200000;
        pthread_mutex_lock(&telling);
        if (count % 8 == 0) tell_usage();
        pthread_mutex_unlock(&telling);
        if (!(mine[count] = allocate(size))) break;
        memset(mine[count], 3, size);
        *bytes += size;
    }
    while (count > 0) free(mine[--count]);
    free(mine);
    return NULL;
}

static void threads(void) {
    enum { COUNT = 4 };
    pthread_t thread[COUNT];
    size_t bytes[COUNT] = {0}, sum = 0;
    for (int i = 0; i < COUNT; i++)
        if (pthread_create(&thread[i], NULL, work, &bytes[i])) fail("pthread_create");
    for (int i = 0; i < COUNT; i++) pthread_join(thread[i], NULL), sum += bytes[i];
    (void)sum; /* some give back while others ask */
    tell_usage();
    blocks_of(MIB);
}

static int open_descriptors(void) {
    int count = 0;
    for (int file = 0; file < 256; file++) count += fcntl(file, F_GETFD) >= 0;
    return count;
}

int main(int argc, char **argv) {
    const char *scenario = argc > 1 ? argv[1] : "", *directory = getenv("LIMIT_DIRECTORY");
    if (directory) snprintf(usage_path, sizeof usage_path, "%s/memory.current", directory);
    int before = open_descriptors();
    alarm(600);
    setrlimit(RLIMIT_DATA, &(struct rlimit){2048 * MIB, 2048 * MIB}); /* the machine is not to run out of it */
    if (strcmp(scenario, "ask") == 0) ask();
    if (strcmp(scenario, "large") == 0) blocks_of(MIB);
    if (strcmp(scenario, "medium") == 0) blocks_of(100000);
    if (strcmp(scenario, "small") == 0) blocks_of(1000);
    if (strcmp(scenario, "late") == 0) late(3 * MIB);
    if (strcmp(scenario, "late-medium") == 0) late(20000);
    if (strcmp(scenario, "locked") == 0) locked();
    if (strcmp(scenario, "descriptors") == 0) descriptors();
    if (strcmp(scenario, "grow") == 0) grow();
    if (strcmp(scenario, "huge") == 0) huge();
    if (strcmp(scenario, "sparse") == 0) sparse();
    if (strcmp(scenario, "half") == 0) half();
    if (strcmp(scenario, "child") == 0) child();
    if (strcmp(scenario, "threads") == 0) threads();
    if (strcmp(scenario, "limit") == 0) return memscope_export_json("/dev/stdout") != 0;
    if (open_descriptors() != before) fail("descriptors are left open");
    return 0;
}
