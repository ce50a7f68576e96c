/* Preloaded in front of the library: a disk that does not answer. Who writes to a file named *.bin waits for ever. */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

ssize_t write(int fd, const void *bytes, size_t count) {
    char link[32], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path);
    if (length > 4 && memcmp(path + length - 4, ".bin", 4) == 0)
        for (;;) pause();
    return syscall(SYS_write, fd, bytes, count);
}
