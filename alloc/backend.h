/* The backing: where slab groups and large blocks up to 1 MiB come from. One small contract, a table per backing.
 *
 * Calls are made under MS_LOCK_BACKEND, so that no thread is inside a backing when the process forks. None
 * of those below changes errno. */
#ifndef MS_ALLOC_BACKEND_H
#define MS_ALLOC_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* LATER: not now, for want of memory; the next call may succeed. */
typedef enum { MS_BACKEND_READY, MS_BACKEND_LATER, MS_BACKEND_NEVER } ms_backend_start_t;

typedef struct ms_backend {
    const char *name;
    /* bytes: a multiple of the page size; alignment: a power of two, at least 16. Contents are undefined.
     * NULL when there is no memory. */
    void *(*allocate)(size_t bytes, size_t alignment);
    void (*release)(void *start, size_t bytes, size_t alignment);
    void (*decay)(void);          /* lets its purge clock tick: one that sees few calls hardly does on its own */
    void (*trim)(void);           /* gives idle pages back to the system now */
    uint64_t (*resident)(void);   /* resident bytes it holds, MS_NULL where it cannot tell */
    ms_backend_start_t (*prepare)(void); /* makes it usable. NULL: always usable */
    bool (*is_usable)(void);      /* whether it can be asked now; else the system is. NULL: always */
} ms_backend_t;

extern const ms_backend_t ms_backend_system, ms_backend_jemalloc, ms_backend_mimalloc;
typedef enum { MS_BACKEND_JEMALLOC, MS_BACKEND_MIMALLOC, MS_BACKEND_SYSTEM, MS_BACKEND_COUNT } ms_backend_id_t;

#define MS_BACKEND_FROM_MIB 64 /* MiB of heap from which the default backing is used */

/* The backing of this name, NULL if it is not built in. Index as in the knob's choices. */
const ms_backend_t *ms_backend_get(ms_backend_id_t id);

/* The one new memory comes from, and its change; memory always returns to the backing it came from. */
const ms_backend_t *ms_backend_current(void);
void ms_backend_select(const ms_backend_t *backend);

/* *from: the current one, or the system, where the memory goes back to. */
void *ms_backend_allocate(size_t bytes, size_t alignment, const ms_backend_t **from);
void ms_backend_release(const ms_backend_t *backend, void *start, size_t bytes, size_t alignment);
void ms_backend_trim(void);
void ms_backend_decay(void);
uint64_t ms_backend_resident(void); /* of the current one; MS_NULL where it cannot tell */

/* Around fork(), with MS_LOCK_BACKEND held. */
void ms_backend_before_fork(void);
void ms_backend_after_fork(bool in_child);

#endif
