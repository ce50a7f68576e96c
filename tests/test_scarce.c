/* Programs that start while address space is short (RLIMIT_AS). Two sides: a process without room starts others, by
 * every way there is, and one is started that has little. A call fails cleanly or the program runs; a program gets NULL
 * with ENOMEM at worst; and both go on when there is room again.
 *
 * The program that is started is this one. It limits itself before any constructor runs, so the kernel and ld.so have
 * what they need: what they cannot map ends a program, whatever its malloc is. */
#define _GNU_SOURCE /* vfork */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "memscope/memscope.h"
#include "tests/entries.h"
#include "tests/support.h"

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)

extern char **environ;

static void expect(bool condition, int status) {
    if (!condition) _exit(status);
}

/* A stack that must grow and may not is a SIGSEGV of the kernel's. */
static __attribute__((noinline)) void grow_stack(void) {
    volatile char room[512 << 10];
    for (size_t i = 0; i < sizeof room; i += 4096) room[i] = 1;
}

static void limit_address_space(rlim_t bytes) {
    struct rlimit limit;
    expect(getrlimit(RLIMIT_AS, &limit) == 0, 90);
    limit.rlim_cur = bytes;
    expect(setrlimit(RLIMIT_AS, &limit) == 0, 91);
}

/* Mapped bytes, without a FILE: its buffer is a block. */
static size_t address_space(void) {
    char text[64] = "";
    int file = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    expect(file >= 0 && read(file, text, sizeof text - 1) > 0, 92);
    close(file);
    return strtoul(text, NULL, 10) * 4096;
}

static void leave_room(size_t bytes) {
    grow_stack();
    limit_address_space(address_space() + bytes);
}

/* ---- what is started */

static void start_with_little(int argc, char **argv, char **variables) {
    static const char name[] = "SCARCE_ROOM=";
    (void)argc, (void)argv;
    for (; *variables; variables++) /* getenv() does not work yet */
        if (strncmp(*variables, name, sizeof name - 1) == 0)
            leave_room(strtoul(*variables + sizeof name - 1, NULL, 10));
}
__attribute__((section(".preinit_array"), used)) static void (*const early)(int, char **, char **) = start_with_little;

static void use(const entry_t *entry, size_t size) {
    errno = 0;
    void *block = entry->allocate(64, size);
    expect(block || errno == ENOMEM, 10);
    if (!block) return;
    support_fill(block, size, size);
    void *grown = realloc(block, size * 2);
    expect(grown || errno == ENOMEM, 11);
    expect(support_holds(grown ? grown : block, size, size), 12);
    free(grown ? grown : block);
}

static void *use_all(void *unused) {
    static const size_t sizes[] = {16, 700, 20000, 100000, 1100000};
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++)
        for (size_t e = 0; e < entry_count; e++) use(&entries[e], sizes[s]);
    return unused;
}

static int small_program(void) {
    pthread_t thread;
    alarm(120);
    use_all(NULL);
    int error = pthread_create(&thread, NULL, use_all, NULL);
    expect(error == 0 || error == EAGAIN || error == ENOMEM, 20);
    if (error == 0) expect(pthread_join(thread, NULL) == 0, 21);
    if (support_is_memscope()) {
        memscope_task_t task = memscope_task_create("short of room", 0);
        memscope_token_t token = memscope_task_enter(task);
        use_all(NULL);
        memscope_task_leave(token);
        memscope_task_end(task, NULL);
        error = memscope_export_json("/dev/null");
        expect(error == 0 || error == ENOMEM, 22);
    }
    limit_address_space(RLIM_INFINITY);
    for (size_t e = 0; e < entry_count; e++) {
        void *block = entries[e].allocate(64, MIB);
        expect(block != NULL, 23);
        free(block);
    }
    expect(pthread_create(&thread, NULL, use_all, NULL) == 0, 24);
    expect(pthread_join(thread, NULL) == 0, 25);
    if (support_is_memscope()) expect(memscope_export_json("/dev/null") == 0, 26);
    return 0;
}

/* ---- a program that is started with little */
static int run_small(void) {
    char *const argv[] = {(char[]){"small"}, (char[]){"program"}, NULL};
    pid_t pid;
    int status;
    ck_assert_int_eq(posix_spawn(&pid, "/proc/self/exe", NULL, NULL, argv, environ), 0);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    return status;
}

START_TEST(starts_with_little_room) {
    int bad = 0;
    for (size_t room = 0; room <= 8 * MIB; room += room < 256 * KIB ? 16 * KIB : room < 2 * MIB ? 128 * KIB : MIB) {
        char text[32];
        snprintf(text, sizeof text, "%zu", room);
        setenv("SCARCE_ROOM", text, 1);
        int status = run_small();
        if (status == 0) continue;
        printf("%zu KiB of room: status %#x\n", room / KIB, (unsigned)status);
        bad++;
    }
    fflush(stdout);
    ck_assert_int_eq(bad, 0);
}
END_TEST

/* ---- a program that starts others with little: the tests' assertions allocate, so they wait until there is room */
typedef enum { SPAWN, VFORK, FORK, SYSTEM, POPEN, WAYS } way_t;
static const char *const way_names[] = {"posix_spawn", "vfork", "fork", "system", "popen"};

static int status_of(pid_t pid) {
    int status;
    while (waitpid(pid, &status, 0) != pid)
        if (errno != EINTR) return -1;
    return status;
}

static bool is_shortage(int error) {
    return error == ENOMEM || error == EAGAIN;
}

static char *const small_argv[] = {(char[]){"small"}, (char[]){"program"}, NULL};

static bool start_by_exec(way_t way) {
    pid_t pid = way == FORK ? fork() : vfork();
    if (pid == 0) {
        if (way == FORK) use_all(NULL);
        execv("/proc/self/exe", small_argv);
        _exit(is_shortage(errno) ? 0 : 9);
    }
    return pid < 0 ? is_shortage(errno) : status_of(pid) == 0;
}

static bool start_by_spawn(void) {
    pid_t pid;
    int error = posix_spawn(&pid, "/proc/self/exe", NULL, NULL, small_argv, environ);
    return error ? is_shortage(error) : status_of(pid) == 0;
}

static bool start_by_popen(void) {
    FILE *pipe = popen("exit 5", "r");
    return pipe ? pclose(pipe) >> 8 == 5 : is_shortage(errno);
}

static bool start_by_system(void) {
    int status = system("exit 5");
    return status == 5 << 8 || ((status == -1 || status >> 8 == 127) && is_shortage(errno));
}

static bool start(way_t way) {
    errno = 0;
    return way == SPAWN    ? start_by_spawn()
           : way == SYSTEM ? start_by_system()
           : way == POPEN  ? start_by_popen()
                           : start_by_exec(way);
}

typedef struct list {
    struct list *next;
} list_t;

/* All the room there is, down to the smallest block. */
static list_t *take_all(void) {
    list_t *list = NULL;
    for (size_t size = 4 * MIB; size >= sizeof(list_t); size /= 4)
        for (list_t *block; (block = malloc(size)) != NULL; list = block) block->next = list;
    return list;
}

static void give_all(list_t *list) {
    while (list) {
        list_t *next = list->next;
        free(list);
        list = next;
    }
}

enum { AT_ONCE, WITH_ALL_TAKEN, AFTER_GIVING_BACK, WITHOUT_LIMIT, TIMES };

/* Which of the ways were not clean, a bit each. */
static unsigned start_by_all_ways(void) {
    unsigned bad = 0;
    for (way_t way = 0; way < WAYS; way++)
        if (!start(way)) bad |= 1u << way;
    return bad;
}

START_TEST(starts_others_with_little_room) {
    static const size_t rooms[] = {0, 4 * KIB, 32 * KIB, 64 * KIB, 256 * KIB, MIB, 5 * MIB};
    unsigned bad[TIMES] = {0};
    void *in_use =
        mmap(NULL, 64 * MIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); /* more than what is started needs */
    ck_assert(in_use != MAP_FAILED);
    for (size_t i = 0; i < sizeof rooms / sizeof rooms[0]; i++) {
        leave_room(rooms[i]);
        bad[AT_ONCE] |= start_by_all_ways();
        list_t *list = take_all();
        bad[WITH_ALL_TAKEN] |= start_by_all_ways();
        give_all(list);
        bad[AFTER_GIVING_BACK] |= start_by_all_ways();
        limit_address_space(RLIM_INFINITY);
        use_all(NULL);
        bad[WITHOUT_LIMIT] |= start_by_all_ways();
        for (size_t time = 0; time < TIMES; time++)
            for (way_t way = 0; way < WAYS; way++)
                ck_assert_msg(!(bad[time] & 1u << way), "%s at time %zu, %zu KiB of room", way_names[way], time,
                              rooms[i] / KIB);
    }
    munmap(in_use, 64 * MIB);
}
END_TEST

static Suite *suite(void) {
    const TTest *tests[] = {starts_with_little_room, starts_others_with_little_room};
    return SUPPORT_SUITE("scarce", tests);
}

int main(int argc, char **argv) {
    (void)argv;
    if (argc == 2) return small_program();
    static const char *const modes[] = {"off", "exact", "hybrid", "hybrid,trace:on,trace_output:/dev/null", NULL};
    return support_main(suite, modes);
}
