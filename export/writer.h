/* A buffered byte sink, safe inside a process whose heap is being described: it never calls malloc or stdio, only
 * mmap, open, fcntl, nanosleep, write, close and munmap.
 *
 * The caller owns the ms_writer_t (usually on the stack); its 64 KiB buffer is mapped by the opening call and unmapped
 * by ms_writer_close(), which must follow every opening call, failed ones too.
 * Invariants: held_from <= used <= room; the first error sticks, and after it nothing more reaches the drain. */
#ifndef MS_EXPORT_WRITER_H
#define MS_EXPORT_WRITER_H

#include <stdbool.h>
#include <stddef.h>

#define MS_WRITER_BYTES ((size_t)64 * 1024)

/* Takes n bytes (n > 0) onward. Returns 0 or an errno value. */
typedef int (*ms_writer_drain_t)(void *context, const void *bytes, size_t n);

typedef struct ms_writer {
    unsigned char *buffer; /* NULL when it could not be mapped or after close */
    size_t room;           /* its bytes: MS_WRITER_BYTES, more only after more was held */
    size_t used;           /* bytes in buffer not yet drained */
    size_t held_from;      /* those from here on stay in it */
    bool holds;
    int error;             /* errno of the first failure, 0 while all is well */
    int fd;                /* -1: no file behind this writer */
    bool owns_fd;          /* close() fd at the end */
    ms_writer_drain_t drain;
    void *context;
} ms_writer_t;

/* open(), close-on-exec, to a descriptor that is never 0, 1 or 2, not even for a moment: what a program writes to standard
 * streams it has closed must not get into the file. Returns it, or -1 with errno. */
int ms_open_aside(const char *path, int flags);

bool ms_is_pipe(const char *path);

/* Creates or truncates the file at `path` (mode 0666 & ~umask, close-on-exec). A directory is EISDIR and stays as it
 * is. A pipe that nobody reads is waited for; for a second only, and then ENXIO, unless `waits`. Returns 0 or the errno
 * value, which also sticks to the writer. */
int ms_writer_open(ms_writer_t *writer, const char *path, bool waits);

/* Writes to an open descriptor, which stays open after ms_writer_close(). Returns 0 or errno. */
int ms_writer_fd(ms_writer_t *writer, int fd);

/* Hands full buffers to `drain` instead of a descriptor. Returns 0 or errno. */
int ms_writer_sink(ms_writer_t *writer, ms_writer_drain_t drain, void *context);

/* Appends n bytes. Errors stick and are told by ms_writer_close(); ask writer->error to stop early. */
void ms_writer_put(ms_writer_t *writer, const void *bytes, size_t n);
void ms_writer_text(ms_writer_t *writer, const char *text); /* the bytes of a C string */

/* What is put from here on stays in the buffer, which grows for it (or the error is ENOMEM), until ms_writer_release() puts
 * `head` in front of it: for a head that says what follows. Does not nest. */
void ms_writer_hold(ms_writer_t *writer);
const unsigned char *ms_writer_held(const ms_writer_t *writer, size_t *n); /* so far; valid until the next call */
void ms_writer_release(ms_writer_t *writer, const void *head, size_t n);

/* Drains what is buffered and not held. Returns 0 or the sticky errno value. */
int ms_writer_flush(ms_writer_t *writer);

/* Drains what is buffered and releases the buffer (and the file of ms_writer_open). Returns 0 or the errno value of
 * the first thing that failed, close() included. What was written stays, whatever failed. */
int ms_writer_close(ms_writer_t *writer);

#endif
