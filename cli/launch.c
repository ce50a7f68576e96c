/* See launch.h. The signal handler reads one variable, the child's pid, set before signals are let through. */
#include "cli/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/files.h"

#define LIBRARY "libmemscope_malloc.so"

/* ---- the library ---- */

/* Directory of this executable, "" when the system does not tell. To be freed. */
static char *own_directory(void) {
    char *path = realpath("/proc/self/exe", NULL);
    if (path == NULL) return ms_format("%s", "");
    *strrchr(path, '/') = '\0';
    return path;
}

/* The installed library as seen from where the command lies now: MS_BINDIR and MS_LIBDIR without what they share, so
 * that a tree that was moved as a whole still works. */
static char *relative_library(const char *directory) {
    const char *bin = MS_BINDIR, *lib = MS_LIBDIR;
    size_t shared = 0;
    for (size_t i = 0; bin[i] == lib[i]; i++) {
        if (bin[i] == '/' || bin[i] == '\0') shared = i;
        if (bin[i] == '\0') break;
    }
    char *path = ms_format("%s", directory);
    for (const char *rest = bin + shared; *rest != '\0'; rest++) {
        if (*rest != '/' || rest[1] == '\0') continue;
        char *up = ms_format("%s/..", path);
        free(path);
        path = up;
    }
    char *full = ms_format("%s%s/" LIBRARY, path, lib + shared);
    free(path);
    return full;
}

static char *first_readable(char **candidates, size_t count) {
    char *found = NULL;
    for (size_t i = 0; i < count; i++) {
        if (found == NULL && access(candidates[i], R_OK) == 0) found = realpath(candidates[i], NULL);
        free(candidates[i]);
    }
    return found;
}

char *ms_find_library(const char *chosen) {
    char *directory = own_directory();
    char *candidates[] = {
        ms_format("%s/.libs/" LIBRARY, directory),
        ms_format("%s/" LIBRARY, directory), /* the latter: run from .libs */
        relative_library(directory),
        ms_format("%s/" LIBRARY, MS_LIBDIR),
    };
    size_t count = sizeof candidates / sizeof candidates[0];
    char *found = first_readable(candidates, count);
    free(directory);
    if (chosen != NULL) {
        free(found);
        found = access(chosen, R_OK) == 0 ? realpath(chosen, NULL) : NULL;
    }
    if (found == NULL && chosen != NULL)
        ms_complain("run: cannot read the library %s: %s", chosen, strerror(errno));
    else if (found == NULL)
        ms_complain("run: cannot find " LIBRARY " beside this command or in " MS_LIBDIR "; name it with --library");
    else if (strpbrk(found, ": \t\n") != NULL) {
        ms_complain("run: LD_PRELOAD cannot name %s: the path holds a space or a colon; move it", found);
        free(found);
        found = NULL;
    }
    return found;
}

/* ---- the child ---- */

static const int passed_on[] = {SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2};
#define PASSED_ON_COUNT (sizeof passed_on / sizeof passed_on[0])

static volatile sig_atomic_t child_pid;

/* The terminal (si_code SI_KERNEL) signals the whole foreground group, the child included: not twice. */
static void pass_on(int signal_number, siginfo_t *info, void *context) {
    (void)context;
    int saved_errno = errno;
    if (info->si_code <= 0 && child_pid > 0) kill((pid_t)child_pid, signal_number);
    errno = saved_errno;
}

/* What was ignored when we were started (nohup, a background job) stays ignored, here and in the child. */
static void install_handlers(void) {
    struct sigaction action = {.sa_sigaction = pass_on, .sa_flags = SA_SIGINFO | SA_RESTART}, before;
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < PASSED_ON_COUNT; i++)
        if (sigaction(passed_on[i], NULL, &before) == 0 && before.sa_handler != SIG_IGN)
            sigaction(passed_on[i], &action, NULL);
}

static void change_environment(const char *library, const char *conf) {
    const char *before = getenv("LD_PRELOAD");
    char *preload = before == NULL || *before == '\0' ? ms_format("%s", library) : ms_format("%s:%s", library, before);
    if (setenv("LD_PRELOAD", preload, 1) != 0 || setenv("MEMSCOPE_CONF", conf, 1) != 0) ms_out_of_memory();
    free(preload);
}

/* In the child: becomes the command, or tells the parent why not. */
static _Noreturn void become(char **command, const char *library, const char *conf, const sigset_t *mask, int report) {
    change_environment(library, conf);
    sigprocmask(SIG_SETMASK, mask, NULL);
    execvp(command[0], command);
    int error = errno;
    (void)!write(report, &error, sizeof error);
    _exit(127);
}

ms_outcome_t ms_launch(char **command, const char *library, const char *conf) {
    ms_outcome_t outcome = {.pid = -1};
    sigset_t all, before;
    int report[2];
    if (pipe2(report, O_CLOEXEC) != 0) {
        outcome.start_error = errno;
        return outcome;
    }
    fflush(NULL);
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    outcome.pid = fork();
    if (outcome.pid == 0) become(command, library, conf, &before, report[1]);
    if (outcome.pid < 0) outcome.start_error = errno;
    child_pid = outcome.pid;
    close(report[1]);
    install_handlers();
    sigprocmask(SIG_SETMASK, &before, NULL);
    while (outcome.pid > 0 && read(report[0], &outcome.start_error, sizeof outcome.start_error) < 0 && errno == EINTR) {
    }
    close(report[0]);
    while (outcome.pid > 0 && waitpid(outcome.pid, &outcome.status, 0) < 0 && errno == EINTR) {
    }
    child_pid = 0;
    return outcome;
}

void ms_end_like(int status) {
    if (!WIFSIGNALED(status)) exit(WEXITSTATUS(status));
    struct rlimit none = {0, 0};
    sigset_t set;
    fflush(NULL);
    setrlimit(RLIMIT_CORE, &none);
    prctl(PR_SET_DUMPABLE, 0); /* core_pattern may pipe, which minds no limit */
    signal(WTERMSIG(status), SIG_DFL);
    sigemptyset(&set);
    sigaddset(&set, WTERMSIG(status));
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    raise(WTERMSIG(status));
    exit(128 + WTERMSIG(status));
}
