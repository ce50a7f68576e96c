#include "tracking/cells.h"

static ms_cell_t spill;
static _Atomic(uint64_t) dropped;

uint64_t ms_cells_dropped(void) {
    return atomic_load_explicit(&dropped, memory_order_relaxed);
}

ms_cell_t *ms_cell_drop(void) {
    atomic_fetch_add_explicit(&dropped, 1, memory_order_relaxed);
    return &spill;
}

/* The releases pair with the acquires of ms_cell_find(). */
ms_cell_t *ms_cell_make(ms_cells_t *cells, uint32_t id) {
    if (id >= MS_CELL_LIMIT) return ms_cell_drop();
    _Atomic(ms_cell_directory_t *) *root = &cells->root[id >> MS_CELL_DIRECTORY_SHIFT];
    ms_cell_directory_t *directory = atomic_load_explicit(root, memory_order_relaxed);
    if (!directory) {
        if (!(directory = ms_os_map_metadata(sizeof *directory))) return ms_cell_drop();
        atomic_store_explicit(root, directory, memory_order_release);
    }
    _Atomic(ms_cell_chunks_t *) *outer = &directory->chunks[ms_cell_outer(id)];
    ms_cell_chunks_t *chunks = atomic_load_explicit(outer, memory_order_relaxed);
    if (!chunks) {
        if (!(chunks = ms_os_map_metadata(sizeof *chunks))) return ms_cell_drop();
        atomic_store_explicit(outer, chunks, memory_order_release);
    }
    _Atomic(ms_cell_t *) *inner = &chunks->chunk[ms_cell_inner(id)];
    ms_cell_t *chunk = atomic_load_explicit(inner, memory_order_relaxed);
    if (!chunk) {
        if (!(chunk = ms_os_map_metadata(MS_CELL_CHUNK * sizeof *chunk))) return ms_cell_drop();
        atomic_store_explicit(inner, chunk, memory_order_release);
    }
    return &chunk[id & (MS_CELL_CHUNK - 1)];
}

void ms_cell_add(ms_cell_t *sum, const ms_cells_t *cells, uint32_t id) {
    const ms_cell_t *cell = ms_cell_find(cells, id);
    if (!cell) return;
    sum->allocated_bytes += ms_read(&cell->allocated_bytes);
    sum->allocated_blocks += ms_read(&cell->allocated_blocks);
    sum->freed_bytes += ms_read(&cell->freed_bytes);
    sum->freed_blocks += ms_read(&cell->freed_blocks);
    sum->handed_off_bytes += ms_read(&cell->handed_off_bytes);
    sum->handed_off_blocks += ms_read(&cell->handed_off_blocks);
    sum->owner += ms_read(&cell->owner);
    sum->enters += ms_read(&cell->enters);
}

static void add_freed(const ms_cell_chunks_t *chunks, uint64_t *bytes, uint64_t *blocks) {
    for (uint32_t inner = 0; inner < sizeof chunks->chunk / sizeof chunks->chunk[0]; inner++) {
        const ms_cell_t *chunk = atomic_load_explicit(&chunks->chunk[inner], memory_order_acquire);
        for (uint32_t i = 0; chunk && i < MS_CELL_CHUNK; i++) {
            *bytes += ms_read(&chunk[i].freed_bytes);
            *blocks += ms_read(&chunk[i].freed_blocks);
        }
    }
}

void ms_cells_freed(const ms_cells_t *cells, uint64_t *bytes, uint64_t *blocks) {
    *bytes = *blocks = 0;
    for (uint32_t root = 0; root < MS_CELL_ROOT; root++) {
        const ms_cell_directory_t *directory = atomic_load_explicit(&cells->root[root], memory_order_acquire);
        for (uint32_t outer = 0; directory && outer < sizeof directory->chunks / sizeof directory->chunks[0]; outer++) {
            const ms_cell_chunks_t *chunks = atomic_load_explicit(&directory->chunks[outer], memory_order_acquire);
            if (chunks) add_freed(chunks, bytes, blocks);
        }
    }
}
