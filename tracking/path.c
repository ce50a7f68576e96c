#include "tracking/path.h"
#include "alloc/os.h"
#include "tracking/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

ms_path_t *ms_path_add(ms_path_t *path, const char *text) {
    while (*text && path->length < MS_PATH_ROOM - 1) path->text[path->length++] = *text++;
    path->text[path->length] = '\0';
    return path;
}

void ms_path_expand(ms_path_t *path, const char *pattern) {
    for (char number[24], one[2] = ""; *pattern; pattern++) {
        one[0] = *pattern;
        if (*pattern != '%' || !pattern[1]) {
            ms_path_add(path, one);
            continue;
        }
        pattern++;
        one[0] = *pattern;
        if (*pattern == 'p')
            ms_path_add(path, ms_os_decimal(number, (uint64_t)getpid()));
        else if (*pattern == 'n')
            ms_path_add(path, ms_program_name());
        else if (*pattern == '%')
            ms_path_add(path, one);
        else
            ms_path_add(ms_path_add(path, "%"), one);
    }
}

bool ms_path_ends(const ms_path_t *path, const char *ending) {
    size_t length = strlen(ending);
    return path->length > length && strcmp(path->text + path->length - length, ending) == 0;
}

void ms_path_cut(ms_path_t *path, const char *ending) {
    if (ms_path_ends(path, ending)) path->text[path->length -= strlen(ending)] = '\0';
}

bool ms_path_is_special(const char *path) {
    struct stat file;
    return stat(path, &file) == 0 && !S_ISREG(file.st_mode) && !S_ISDIR(file.st_mode);
}

int ms_path_make_directories(char *path) {
    for (char *slash = *path ? strchr(path + 1, '/') : NULL; slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        int error = mkdir(path, 0777) != 0 && errno != EEXIST ? errno : 0;
        *slash = '/';
        if (error) return error;
    }
    return 0;
}

int ms_path_step_aside(int fd) {
    enum { LOW = 200 }; /* descriptors below are what programs expect to get */
    int aside = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, LOW);
    if (aside < 0) return fd;
    close(fd);
    return aside;
}
