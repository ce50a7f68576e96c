/* See writer.h. */
#define _GNU_SOURCE /* O_PATH */
#include "export/writer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static int drain_fd(void *context, const void *bytes, size_t n) {
    const ms_writer_t *writer = context;
    const char *from = bytes;
    while (n > 0) {
        ssize_t written = write(writer->fd, from, n);
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) return errno;
        if (written == 0) return EIO; /* a device that takes nothing would keep us here for ever */
        from += written;
        n -= (size_t)written;
    }
    return 0;
}

static void *map(size_t bytes) {
    return mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

int ms_writer_sink(ms_writer_t *writer, ms_writer_drain_t drain, void *context) {
    *writer = (ms_writer_t){.fd = -1, .drain = drain, .context = context};
    void *buffer = map(MS_WRITER_BYTES);
    if (buffer == MAP_FAILED) return writer->error = errno;
    writer->buffer = buffer;
    writer->room = MS_WRITER_BYTES;
    return 0;
}

int ms_writer_fd(ms_writer_t *writer, int fd) {
    int error = ms_writer_sink(writer, drain_fd, writer);
    writer->fd = fd;
    return error;
}

int ms_open_aside(const char *path, int flags) {
    int taken[3], count = 0, fd = 0; /* by descriptors that nothing can be written to */
    for (int low = 0; low <= 2 && fd >= 0; low++)
        if (fcntl(low, F_GETFD) < 0 && (fd = open("/", O_PATH | O_CLOEXEC)) >= 0) taken[count++] = fd;
    if (fd >= 0) fd = open(path, flags | O_CLOEXEC | O_NOCTTY, 0666);
    int error = errno;
    while (count > 0) close(taken[--count]);
    errno = error;
    return fd;
}

#define READER_LOOKS 100
#define READER_PAUSE_NS 10000000

bool ms_is_pipe(const char *path) {
    struct stat file;
    return stat(path, &file) == 0 && S_ISFIFO(file.st_mode);
}

/* After an open() that failed. A pipe that nobody reads yet is tried for a second. */
static bool is_worth_a_try(bool pipe, int *looks) {
    if (errno == EINTR) return true;
    if (!pipe || errno != ENXIO || ++*looks > READER_LOOKS) return false;
    nanosleep(&(struct timespec){.tv_nsec = READER_PAUSE_NS}, NULL);
    return true;
}

int ms_writer_open(ms_writer_t *writer, const char *path, bool waits) {
    /* The buffer first: a process out of memory must not truncate the file it cannot then write. */
    if (ms_writer_fd(writer, -1) != 0) return writer->error;
    bool pipe = !waits && ms_is_pipe(path); /* others may have to be waited for: a file that somebody has a lease on */
    int looks = 0;
    do {
        writer->fd = ms_open_aside(path, O_WRONLY | O_CREAT | O_TRUNC | (pipe ? O_NONBLOCK : 0));
    } while (writer->fd < 0 && is_worth_a_try(pipe, &looks));
    if (writer->fd < 0) return writer->error = errno;
    if (pipe) fcntl(writer->fd, F_SETFL, 0); /* a reader may be slow */
    writer->owns_fd = true;
    return 0;
}

static void drain(ms_writer_t *writer, const void *bytes, size_t n) {
    if (n > 0 && writer->error == 0) writer->error = writer->drain(writer->context, bytes, n);
}

int ms_writer_flush(ms_writer_t *writer) {
    size_t out = writer->holds ? writer->held_from : writer->used;
    drain(writer, writer->buffer, out);
    if (out > 0) memmove(writer->buffer, writer->buffer + out, writer->used - out);
    writer->used -= out;
    writer->held_from = 0;
    return writer->error;
}

static bool grow(ms_writer_t *writer, size_t n) {
    size_t room = writer->room;
    while (n > room - writer->used) {
        if (room > SIZE_MAX / 2) return false;
        room *= 2;
    }
    void *buffer = map(room); /* no mremap: a sandbox may refuse it */
    if (buffer == MAP_FAILED) return false;
    memcpy(buffer, writer->buffer, writer->used);
    munmap(writer->buffer, writer->room);
    writer->buffer = buffer;
    writer->room = room;
    return true;
}

void ms_writer_put(ms_writer_t *writer, const void *bytes, size_t n) {
    if (writer->error != 0) return;
    if (n > writer->room - writer->used) ms_writer_flush(writer);
    if (n > writer->room - writer->used) {
        if (!writer->holds) {
            drain(writer, bytes, n);
            return;
        }
        if (!grow(writer, n)) writer->error = ENOMEM;
    }
    if (writer->error != 0) return;
    memcpy(writer->buffer + writer->used, bytes, n);
    writer->used += n;
}

void ms_writer_hold(ms_writer_t *writer) {
    writer->held_from = writer->used;
    writer->holds = true;
}

const unsigned char *ms_writer_held(const ms_writer_t *writer, size_t *n) {
    *n = writer->used - writer->held_from;
    return writer->buffer + writer->held_from;
}

void ms_writer_release(ms_writer_t *writer, const void *head, size_t n) {
    size_t held = writer->used - writer->held_from;
    ms_writer_put(writer, head, n); /* makes room for as many bytes */
    writer->holds = false;
    if (writer->error != 0) return;
    unsigned char *start = writer->buffer + writer->held_from;
    memmove(start + n, start, held);
    memcpy(start, head, n);
}

void ms_writer_text(ms_writer_t *writer, const char *text) {
    ms_writer_put(writer, text, strlen(text));
}

int ms_writer_close(ms_writer_t *writer) {
    if (writer->buffer != NULL) {
        ms_writer_flush(writer);
        munmap(writer->buffer, writer->room);
        writer->buffer = NULL;
    }
    /* After EINTR Linux has closed the descriptor all the same; a second close could hit somebody else's. */
    if (writer->owns_fd && close(writer->fd) != 0 && errno != EINTR && writer->error == 0) writer->error = errno;
    writer->owns_fd = false;
    writer->fd = -1;
    return writer->error;
}
