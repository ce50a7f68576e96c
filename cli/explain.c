/* Why a program wrote no snapshot (launch.h): what the loader does with LD_PRELOAD can mostly be told from the file. */
#include "cli/launch.h"

#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "cli/files.h"

#define HEAD_BYTES 4096
#define SCRIPTS_DEEP 4

/* The file that execvp() would take. To be freed; NULL when there is none. */
static char *find_in_path(const char *command) {
    if (strchr(command, '/') != NULL) return ms_format("%s", command);
    const char *path = getenv("PATH");
    for (const char *from = path != NULL ? path : "/bin:/usr/bin"; from != NULL;) {
        size_t length = strcspn(from, ":");
        char *file = ms_format("%.*s%s%s", (int)length, from, length > 0 ? "/" : "./", command);
        if (access(file, X_OK) == 0 && !ms_is_directory(file)) return file;
        free(file);
        from = from[length] == ':' ? from + length + 1 : NULL;
    }
    return NULL;
}

static bool is_static(const unsigned char *head, size_t bytes) {
    Elf64_Ehdr header;
    memcpy(&header, head, sizeof header);
    for (size_t i = 0; i < header.e_phnum; i++) {
        Elf64_Phdr segment;
        size_t offset = header.e_phoff + i * sizeof segment;
        if (offset > bytes || bytes - offset < sizeof segment) return false; /* not in what was read: no verdict */
        memcpy(&segment, head + offset, sizeof segment);
        if (segment.p_type == PT_INTERP) return false;
    }
    return true;
}

static char *explain_elf(const char *path, const unsigned char *head, size_t bytes) {
    struct stat status;
    if (head[EI_CLASS] == ELFCLASS32) return ms_format("%s is a 32-bit program; the library is for 64-bit ones", path);
    if (stat(path, &status) == 0 && (status.st_mode & (S_ISUID | S_ISGID)) != 0)
        return ms_format(
            "%s runs with other rights than its caller's (set-uid or set-gid), where LD_PRELOAD does not count", path);
    if (getxattr(path, "security.capability", NULL, 0) > 0)
        return ms_format("%s has file capabilities, where LD_PRELOAD does not count", path);
    if (bytes >= sizeof(Elf64_Ehdr) && is_static(head, bytes))
        return ms_format("%s is linked statically, so nothing can be preloaded into it", path);
    return NULL;
}

static char *explain_file(const char *path, int depth);

/* "#!/usr/bin/env NAME" and "#!INTERPRETER ARGUMENT": what counts is the interpreter. */
static char *explain_script(const char *head, int depth) {
    char line[256], *rest = line;
    snprintf(line, sizeof line, "%.*s", (int)strcspn(head + 2, "\n"), head + 2);
    const char *interpreter = strtok_r(rest, " \t", &rest), *argument = strtok_r(NULL, " \t", &rest);
    if (interpreter == NULL) return NULL;
    bool env = strcmp(ms_base_name(interpreter), "env") == 0 && argument != NULL && *argument != '-';
    char *path = find_in_path(env ? argument : interpreter);
    char *text = path == NULL ? NULL : explain_file(path, depth + 1);
    free(path);
    return text;
}

static char *explain_file(const char *path, int depth) {
    unsigned char head[HEAD_BYTES + 1] = {0};
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0) return NULL;
    ssize_t bytes = read(file, head, HEAD_BYTES);
    close(file);
    if (bytes >= 2 && memcmp(head, "#!", 2) == 0 && depth < SCRIPTS_DEEP)
        return explain_script((const char *)head, depth);
    if (bytes < (ssize_t)sizeof(Elf32_Ehdr) || memcmp(head, ELFMAG, SELFMAG) != 0) return NULL;
    return explain_elf(path, head, (size_t)bytes);
}

char *ms_why_no_snapshot(const char *command, const ms_outcome_t *outcome, bool mode_off) {
    char *path = find_in_path(command);
    char *text = path == NULL ? NULL : explain_file(path, 0);
    free(path);
    if (text != NULL) return text;
    if (mode_off) return ms_format("mode:off records nothing");
    if (WIFSIGNALED(outcome->status))
        return ms_format("it was ended by signal %d (%s) before it could", WTERMSIG(outcome->status),
                         strsignal(WTERMSIG(outcome->status)));
    return ms_format("it ended with _exit(), or runs its work with another LD_PRELOAD or MEMSCOPE_CONF");
}
