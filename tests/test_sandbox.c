/* A sandbox that comes after the start, as browsers and servers put themselves into: a seccomp filter that refuses one
 * of the system calls the library makes, or a family of them, each in turn. The program goes on: no crash, no hang,
 * every block whole, and no request refused for want of a call that gives no memory. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "memscope/memscope.h"
#include "tests/entries.h"
#include "tests/support.h"

typedef struct {
    const char *name;
    int calls[8]; /* ends with 0, which is read(): it has a place of its own, the first */
    bool gives_memory;
} family_t;

static const family_t families[] = {
    {"read", {SYS_read, SYS_pread64, SYS_readv}, false},
    {"write", {SYS_write, SYS_pwrite64, SYS_writev}, false},
    {"open", {SYS_openat, SYS_open}, false},
    {"close", {SYS_close}, false},
    {"lseek", {SYS_lseek}, false},
    {"stat", {SYS_newfstatat, SYS_fstat, SYS_stat, SYS_access, SYS_readlink, SYS_statx}, false},
    {"fcntl", {SYS_fcntl, SYS_ioctl, SYS_ftruncate, SYS_fsync, SYS_fdatasync}, false},
    {"madvise", {SYS_madvise}, false},
    {"mremap", {SYS_mremap}, false},
    {"mprotect", {SYS_mprotect}, false},
    {"munmap", {SYS_munmap}, false},
    {"brk", {SYS_brk}, false},
    {"mincore", {SYS_mincore, SYS_mlock, SYS_msync}, false},
    {"mmap", {SYS_mmap}, true},
    {"mmap and brk", {SYS_mmap, SYS_brk, SYS_mremap}, true},
    {"prlimit64", {SYS_prlimit64, SYS_getrlimit}, false},
    {"getrusage", {SYS_getrusage, SYS_sysinfo, SYS_uname}, false},
    {"prctl", {SYS_prctl}, false},
    {"gettid", {SYS_gettid, SYS_getpid, SYS_getppid}, false},
    {"clock_gettime", {SYS_clock_gettime, SYS_clock_getres, SYS_gettimeofday, SYS_times}, false},
    {"clock_nanosleep", {SYS_clock_nanosleep, SYS_nanosleep}, false},
    {"sched_getaffinity", {SYS_sched_getaffinity, SYS_sched_yield, SYS_getcpu}, false},
    {"getrandom", {SYS_getrandom}, false},
    {"membarrier", {SYS_membarrier}, false},
    {"rt_sigprocmask", {SYS_rt_sigprocmask, SYS_rt_sigaction, SYS_sigaltstack}, false},
    {"process_vm_readv", {SYS_process_vm_readv}, false},
    {"clone", {SYS_clone, SYS_clone3, SYS_fork, SYS_vfork}, false},
};
enum { FAMILIES = sizeof families / sizeof families[0] };

static void expect(bool condition, int status) {
    if (!condition) _exit(status);
}

static bool refuse(const family_t *family, unsigned answer) {
    struct sock_filter filter[20] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))};
    unsigned short length = 1;
    for (size_t i = 0; i == 0 || (i < 8 && family->calls[i]); i++) {
        filter[length++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)family->calls[i], 0, 1);
        filter[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, answer);
    }
    filter[length++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {length, filter};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

static const family_t *refused;
static bool opening_kills;

/* A block, and errno stays; or NULL where that may be. */
static void *take(size_t entry, size_t size) {
    errno = 0;
    void *block = entries[entry % entry_count].allocate(64, size);
    expect(block ? errno == 0 : errno == ENOMEM && refused->gives_memory, 10);
    return block;
}

static void grow_and_free(void *block, size_t size, size_t larger, uint64_t seed) {
    if (!block) return;
    expect(support_holds(block, size, seed), 11);
    errno = 0;
    void *grown = realloc(block, larger);
    expect(grown ? errno == 0 : errno == ENOMEM && refused->gives_memory, 12);
    expect(support_holds(grown ? grown : block, size < larger ? size : larger, seed), 13);
    errno = 4711;
    free(grown ? grown : block);
    expect(errno == 4711, 14);
}

static void fill_and_free(size_t count) {
    static const size_t sizes[] = {50, 700, 9000, 40000, 300000, 1500000};
    enum { MOST = 240, SIZES = sizeof sizes / sizeof sizes[0] };
    void *blocks[MOST];
    for (size_t i = 0; i < count; i++) {
        blocks[i] = take(i, sizes[i % SIZES]);
        if (blocks[i]) support_fill(blocks[i], sizes[i % SIZES] < 3000 ? sizes[i % SIZES] : 3000, i);
    }
    for (size_t i = 0; i < count; i++)
        grow_and_free(blocks[i], sizes[i % SIZES] < 3000 ? sizes[i % SIZES] : 3000, sizes[i % SIZES] * 2, i);
}

static void *in_thread(void *unused) {
    fill_and_free(30);
    return unused;
}

static void fork_and_fill(void) {
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) {
        fill_and_free(30);
        _exit(0);
    }
    if (pid > 0) expect(waitpid(pid, &status, 0) == pid && status == 0, 20);
}

static void live(void) {
    void *kept = take(0, 1000);
    if (kept) support_fill(kept, 1000, 7);
    memscope_task_t task = 0;
    memscope_token_t token = {0};
    if (support_is_memscope()) token = memscope_task_enter(task = memscope_task_create("in the sandbox", 0));
    pthread_t thread;
    fill_and_free(240); /* 74 MB: more than a heap has before its backing starts, where none is named */
    if (pthread_create(&thread, NULL, in_thread, NULL) == 0) expect(pthread_join(thread, NULL) == 0, 21);
    malloc_trim(0);
    fork_and_fill();
    if (support_is_memscope() && !opening_kills) (void)memscope_export_json("/dev/null"); /* it may fail, and says so */
    fill_and_free(60);
    memscope_usage_t usage;
    if (support_is_memscope()) {
        memscope_task_leave(token);
        memscope_task_end(task, NULL);
        expect(memscope_process_usage(&usage) == 0 && usage.freed_blocks <= usage.allocated_blocks, 22);
    }
    if (kept) expect(support_holds(kept, 1000, 7), 23);
    free(kept);
}

/* Browsers ask another process for what is refused, in the handler of the signal that is sent for it. */
static void on_refusal(int number, siginfo_t *info, void *context) {
    (void)number, (void)info;
#ifdef __x86_64__
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RAX] = -EPERM;
#else
    ((ucontext_t *)context)->uc_mcontext.regs[0] = (unsigned long long)-EPERM;
#endif
}

/* libc makes these calls, to start threads and end them, while it holds all signals back. */
static bool kills_if_signalled(int call) { return call == SYS_madvise || call == SYS_clone; }

START_TEST(a_call_is_refused) {
    static const unsigned answers[] = {SECCOMP_RET_ERRNO | EPERM, SECCOMP_RET_ERRNO | ENOSYS, SECCOMP_RET_TRAP};
    for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++) {
        int status;
        refused = &families[_i];
        if (answers[i] == SECCOMP_RET_TRAP && kills_if_signalled(refused->calls[0])) continue;
        pid_t pid = fork();
        ck_assert_int_ge(pid, 0);
        if (pid == 0) {
            struct sigaction action = {.sa_sigaction = on_refusal, .sa_flags = SA_SIGINFO};
            alarm(200);
            expect(sigaction(SIGSYS, &action, NULL) == 0, 1);
            expect(refuse(refused, answers[i]), 0); /* no seccomp here */
            live();
            exit(0);
        }
        ck_assert_int_eq(waitpid(pid, &status, 0), pid);
        ck_assert_msg(status == 0, "%s refused with %#x: status %#x", refused->name, answers[i], (unsigned)status);
    }
}
END_TEST

START_TEST(a_file_that_is_opened_kills) {
    static const family_t opening = {"open", {SYS_openat, SYS_open, SYS_openat2, SYS_creat}, false};
    int status;
    refused = &opening;
    opening_kills = true;
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        alarm(200);
        expect(refuse(refused, SECCOMP_RET_KILL_PROCESS), 0); /* no seccomp here */
        live();
        _exit(0); /* what counts lines writes a file at exit */
    }
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_msg(status == 0, "status %#x", (unsigned)status);
}
END_TEST

static Suite *suite(void) {
    const char *conf = getenv("MEMSCOPE_CONF");
    const TTest *tests[] = {a_file_that_is_opened_kills};
    if (conf && strstr(conf, "cgroup_limit:off")) return SUPPORT_SUITE("sandbox", tests);
    Suite *suite = suite_create("sandbox");
    TCase *calls = tcase_create("a_call_is_refused");
    tcase_set_timeout(calls, 240);
    tcase_add_loop_test(calls, a_call_is_refused, 0, FAMILIES);
    suite_add_tcase(suite, calls);
    return suite;
}

/* The default backing starts in the sandbox. */
static bool with_no_backing_named(const char *conf) {
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        setenv("MEMSCOPE_CONF", conf, 1);
        execl("/proc/self/exe", "test_sandbox", NULL);
        _exit(127);
    }
    return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

int main(void) {
    static const char *const modes[] = {"hybrid", "exact,trace:on,trace_output:/dev/null", "hybrid,cgroup_limit:off",
                                        "exact,cgroup_limit:off", NULL};
    bool alone = getenv("MEMSCOPE_CONF") || !support_is_memscope();
    int failed = support_main(suite, modes);
    if (alone) return failed;
    bool good = with_no_backing_named("mode:hybrid");
    return with_no_backing_named("mode:hybrid,cgroup_limit:off") && good ? failed : EXIT_FAILURE;
}
