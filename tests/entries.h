/* Every C way to get a block, behind one signature; shared by the tests that loop over entry points. */
#ifndef MS_TESTS_ENTRIES_H
#define MS_TESTS_ENTRIES_H

#include <stdbool.h>
#include <stddef.h>

typedef struct entry {
    const char *name;
    void *(*allocate)(size_t alignment, size_t size); /* NULL with errno set when refused */
    size_t alignment;                                 /* what it promises if asked for nothing; 0: takes an alignment */
    bool zeroed;
    bool needs_multiple; /* posix_memalign: the alignment must be a multiple of sizeof(void *) */
} entry_t;

extern const entry_t entries[];
extern const size_t entry_count;

#endif
