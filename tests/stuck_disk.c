/* Preloaded in front of the library: a disk that does not answer. Who writes to a file named *.bin waits for ever, or as
 * many milliseconds as SLOW_DISK says. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

ssize_t write(int fd, const void *bytes, size_t count) {
    char link[32], path[4096];
    const char *slow = getenv("SLOW_DISK");
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path);
    if (length > 4 && memcmp(path + length - 4, ".bin", 4) == 0)
        do usleep(slow ? 1000 * (unsigned)atoi(slow) : 1000000);
        while (!slow);
    return syscall(SYS_write, fd, bytes, count);
}
