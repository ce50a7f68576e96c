/* Cells: counters indexed by id, in memory that is mapped where it is touched.
 *
 * Each arena has its own tables, so each cell has one writer, the thread that owns the arena; readers sum over the
 * arenas without a lock. A table is a directory of chunks: 1,000,000 ids over 1,000 threads reserve only the chunks
 * that were used. Counters are plain 64-bit words, written with relaxed stores and read with relaxed loads. */
#ifndef MS_TRACKING_CELLS_H
#define MS_TRACKING_CELLS_H

#include <stdatomic.h>
#include <stdint.h>

#include "alloc/os.h"

struct ms_exact_detail;

/* What an id allocated and what of it was freed, in bytes and blocks; freed counts by whichever thread owns the
 * table. Sums over all arenas: live = allocated - freed. */
typedef struct ms_cell {
    uint64_t allocated_bytes, allocated_blocks;
    uint64_t freed_bytes, freed_blocks;
    union {
        struct {
            uint64_t handed_off_bytes, handed_off_blocks; /* tasks: part of freed, while the task was not current.
                                                             sites: variance of the live bytes' estimate. threads: unused */
            uint64_t owner;  /* threads: id of the thread the numbers are of (codes are reused); sites: samples */
            uint64_t enters; /* tasks: times entered in this arena */
        };
        struct { /* sites in mode exact (tracking/exact.h) */
            uint64_t at_peak_bytes, at_peak_blocks; /* live when the process's bytes reached seen_peak */
            int64_t seen_peak;                      /* the last peak when the cell last changed */
            struct ms_exact_detail *detail;         /* NULL until used */
        };
    };
} ms_cell_t;
_Static_assert(sizeof(ms_cell_t) == 64, "a cell is a cache line");

/* Three levels; together, and a chunk, 1.9 KiB for a thread that uses one id. */
#define MS_CELL_CHUNK_SHIFT 4 /* 16 cells, 1 KiB */
#define MS_CELL_CHUNK (1u << MS_CELL_CHUNK_SHIFT)
#define MS_CELL_INNER_SHIFT 6 /* chunks under one pointer of a directory */
#define MS_CELL_OUTER_SHIFT 5 /* such pointers in a directory */
#define MS_CELL_ROOT 64       /* directories: ids up to 64 * 32 * 64 * 16 = 2,097,152 */
#define MS_CELL_DIRECTORY_SHIFT (MS_CELL_OUTER_SHIFT + MS_CELL_INNER_SHIFT + MS_CELL_CHUNK_SHIFT)
#define MS_CELL_LIMIT (MS_CELL_ROOT << MS_CELL_DIRECTORY_SHIFT)

typedef struct ms_cell_chunks {
    _Atomic(ms_cell_t *) chunk[1u << MS_CELL_INNER_SHIFT];
} ms_cell_chunks_t;

typedef struct ms_cell_directory {
    _Atomic(ms_cell_chunks_t *) chunks[1u << MS_CELL_OUTER_SHIFT];
} ms_cell_directory_t;

typedef struct ms_cells {
    _Atomic(ms_cell_directory_t *) root[MS_CELL_ROOT];
} ms_cells_t;

/* Adds to a counter that only the calling thread writes. */
static inline void ms_count(uint64_t *counter, uint64_t amount) {
#ifdef __x86_64__
    /* Compilers make three instructions of it, and what a signal handler counts in between is lost. */
    __asm__("addq %1, %0" : "+m"(*counter) : "er"(amount));
#else
    __atomic_store_n(counter, __atomic_load_n(counter, __ATOMIC_RELAXED) + amount, __ATOMIC_RELAXED);
#endif
}
static inline uint64_t ms_read(const uint64_t *counter) { return __atomic_load_n(counter, __ATOMIC_RELAXED); }

/* What was freed of what was allocated. Sums are read while threads go on counting: a block that came and went meanwhile
 * may be in the later of the two only. */
static inline uint64_t ms_freed_of(uint64_t allocated, uint64_t freed) { return freed < allocated ? freed : allocated; }

static inline uint32_t ms_cell_outer(uint32_t id) {
    return id >> (MS_CELL_INNER_SHIFT + MS_CELL_CHUNK_SHIFT) & ((1u << MS_CELL_OUTER_SHIFT) - 1);
}
static inline uint32_t ms_cell_inner(uint32_t id) {
    return id >> MS_CELL_CHUNK_SHIFT & ((1u << MS_CELL_INNER_SHIFT) - 1);
}

/* The cell of `id`, or NULL if it was never written. Any thread. */
static inline ms_cell_t *ms_cell_find(const ms_cells_t *cells, uint32_t id) {
    if (id >= MS_CELL_LIMIT) return NULL;
    ms_cell_directory_t *directory =
        atomic_load_explicit(&cells->root[id >> MS_CELL_DIRECTORY_SHIFT], memory_order_acquire);
    if (!directory) return NULL;
    ms_cell_chunks_t *chunks = atomic_load_explicit(&directory->chunks[ms_cell_outer(id)], memory_order_acquire);
    if (!chunks) return NULL;
    ms_cell_t *chunk = atomic_load_explicit(&chunks->chunk[ms_cell_inner(id)], memory_order_acquire);
    return chunk ? &chunk[id & (MS_CELL_CHUNK - 1)] : NULL;
}

/* The cell of `id`, made if need be; owner only. Never NULL: without memory for it a shared cell that no reader sums
 * takes the numbers, and ms_cells_dropped() counts them. */
ms_cell_t *ms_cell_make(ms_cells_t *cells, uint32_t id);
ms_cell_t *ms_cell_drop(void); /* that shared cell, counted */
uint64_t ms_cells_dropped(void);

static inline ms_cell_t *ms_cell(ms_cells_t *cells, uint32_t id) {
    ms_cell_t *cell = ms_cell_find(cells, id);
    return ms_likely(cell != NULL) ? cell : ms_cell_make(cells, id);
}

/* *sum += the cell of `id`. */
void ms_cell_add(ms_cell_t *sum, const ms_cells_t *cells, uint32_t id);

/* Frees counted by all cells. */
void ms_cells_freed(const ms_cells_t *cells, uint64_t *bytes, uint64_t *blocks);

#endif
