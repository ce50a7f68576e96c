#include "tracking/events.h"
#include "alloc/thread.h"
#include "tracking/event_log.h"
#include "tracking/process.h"


_Atomic(uint32_t) ms_trace_epoch;
static _Atomic(ms_ring_t *) rings;
static _Atomic(uint64_t) dropped_without_ring; /* there was no memory for one */

ms_ring_t *ms_ring_first(void) {
    return atomic_load_explicit(&rings, memory_order_acquire);
}

/* ---- following the switch */

static uint64_t now(void) { return ms_unlikely(ms_process.knobs.test_mode) ? 0 : ms_os_precise_ns(); }

static ms_ring_t *ring_new(void) {
    ms_ring_t *ring = ms_os_map_metadata((sizeof *ring + 63) & ~(size_t)63);
    if (!ring) return NULL;
    ring->capacity = ms_process.knobs.buffer_size / sizeof *ring->slots;
    ring->slots = ms_os_map_metadata(ring->capacity * sizeof *ring->slots);
    if (!ring->slots) return NULL;
    ring->log_thread = MS_RING_NO_THREAD;
    ring->next = ms_ring_first();
    /* release: pairs with ms_ring_first() */
    while (
        !atomic_compare_exchange_weak_explicit(&rings, &ring->next, ring, memory_order_release, memory_order_relaxed))
        continue;
    return ring;
}

MS_RARE void ms_trace_adopt(ms_arena_t *arena) {
    uint32_t epoch = atomic_load_explicit(&ms_trace_epoch, memory_order_relaxed);
    bool session = arena->trace_epoch != epoch;
    arena->trace_epoch = epoch;
    arena->tracing = epoch & 1;
    arena->always_slow = ms_process.always_slow || arena->tracing || arena->code == MS_CODE_FOLDED;
    if (arena->tracing && !arena->ring) arena->ring = ring_new();
    ms_ring_t *ring = arena->ring;
    if (!ring) return;
    ring->recorded = 0;
    if (!session) return;
    ring->thread_id = MS_RING_NO_THREAD;
    ring->task_id = 0;
    ring->resize_time = now();
    ring->told_dropped = ms_read(&ring->dropped);
    ring->told_over = ms_read(&ring->over);
}

MS_COLD void ms_trace_follow(ms_arena_t *arena) {
    ms_trace_adopt(arena);
    ms_arena_dress(arena);
    ms_arena_rearm(arena);
}

/* ---- filling a ring */

static bool has_room(ms_ring_t *ring, uint64_t slots) {
    uint64_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
    if (ms_likely(head - ring->tail_seen + slots <= ring->capacity)) return true;
    /* acquire: the writer has read those slots; pairs with ms_event_log's release */
    ring->tail_seen = atomic_load_explicit(&ring->tail, memory_order_acquire);
    return head - ring->tail_seen + slots <= ring->capacity;
}

/* The slot is there (has_room) and seen by the writer after publish(). */
static void put(ms_ring_t *ring, uint32_t kind, uint64_t time, uint64_t address, uint32_t size, uint32_t site) {
    ring->slots[ring->next_slot] =
        (ms_event_slot_t){.time = time, .address = address | kind, .size = size, .site = site};
    if (++ring->next_slot == ring->capacity) ring->next_slot = 0;
    /* release: pairs with the writer's acquire; it may take slots that wait for their event as well */
    atomic_store_explicit(&ring->head, atomic_load_explicit(&ring->head, memory_order_relaxed) + 1,
                          memory_order_release);
}

static void tell_lost(ms_ring_t *ring) {
    uint64_t dropped = ms_read(&ring->dropped), over = ms_read(&ring->over);
    if (dropped == ring->told_dropped && over == ring->told_over) return;
    put(ring, MS_SLOT_LOST, dropped - ring->told_dropped, (over - ring->told_over) << 4, 0, 0);
    ring->told_dropped = dropped;
    ring->told_over = over;
}

/* What has changed since the last event. Losses so far are those of the thread that had the arena before. */
#define TELL_SLOTS 3
static MS_COLD void tell(ms_arena_t *arena, ms_ring_t *ring) {
    if (ring->thread_id != MS_RING_NO_THREAD) tell_lost(ring);
    if (ring->thread_id != arena->thread->id) {
        ring->thread_id = arena->thread->id;
        put(ring, MS_SLOT_THREAD, ring->thread_id, (uint64_t)arena->code << 4, 0, 0);
        ring->task_id = 0;
    }
    tell_lost(ring);
    if (ring->task_id != arena->task_id) {
        ring->task_id = arena->task_id;
        put(ring, MS_SLOT_TASK, ring->task_id, 0, 0, 0);
    }
}

static bool is_told(const ms_arena_t *arena, const ms_ring_t *ring) {
    return ring->thread_id == arena->thread->id && ring->task_id == arena->task_id &&
           ms_read(&ring->dropped) == ring->told_dropped && ms_read(&ring->over) == ring->told_over;
}

/* Room for `count` events that all come or are all lost; NULL: lost, and counted. */
static ms_ring_t *begin(ms_arena_t *arena, uint64_t count) {
    ms_ring_t *ring = arena->ring;
    if (ms_unlikely(!ring)) {
        atomic_fetch_add_explicit(&dropped_without_ring, count, memory_order_relaxed);
        return NULL;
    }
    if (ms_unlikely(ring->recorded + count > ms_process.knobs.max_events)) {
        ms_count(&ring->over, count);
        return NULL;
    }
    bool told = is_told(arena, ring);
    if (ms_unlikely(!has_room(ring, 2 * count + (told ? 0 : TELL_SLOTS)))) { /* each may need its MS_SLOT_SIZE */
        ms_count(&ring->dropped, count);
        ms_event_log_wake();
        return NULL;
    }
    if (ms_unlikely(!told)) tell(arena, ring);
    ring->recorded += count;
    ms_count(&ring->events, count);
    return ring;
}

static void put_event(ms_ring_t *ring, uint32_t kind, uint64_t time, const void *payload, size_t size, uint32_t site) {
    if (ms_unlikely(size >= UINT32_MAX)) put(ring, MS_SLOT_SIZE, size, 0, 0, 0);
    put(ring, kind, time, (uintptr_t)payload, size >= UINT32_MAX ? UINT32_MAX : (uint32_t)size, site);
}

/* The writer looks by itself ten times a second; a ring that is half full cannot wait so long. */
static void end(ms_ring_t *ring) {
    uint64_t used = atomic_load_explicit(&ring->head, memory_order_relaxed) - ring->tail_seen;
    if (ms_likely(used < ring->capacity / 2)) return;
    ring->tail_seen = atomic_load_explicit(&ring->tail, memory_order_acquire); /* as in has_room() */
    used = atomic_load_explicit(&ring->head, memory_order_relaxed) - ring->tail_seen;
    if (used >= ring->capacity / 2) ms_event_log_wake();
}

static void record(ms_arena_t *arena, uint32_t kind, const void *payload, size_t size, uint32_t site) {
    ms_trace_look(arena);
    ms_ring_t *ring = arena->tracing ? begin(arena, 1) : NULL;
    if (ms_unlikely(!ring)) return;
    put_event(ring, kind, now(), payload, size, site);
    end(ring);
}

void ms_trace_allocated(ms_arena_t *arena, const void *payload, size_t size, uint32_t site) {
    record(arena, MS_EVENT_ALLOC, payload, size, site);
}

void ms_trace_freed(ms_arena_t *arena, const void *payload, size_t size) {
    record(arena, MS_EVENT_FREE, payload, size, 0);
}

void ms_trace_named(ms_arena_t *arena, const void *payload, size_t size, uint32_t site) {
    record(arena, MS_EVENT_NAME, payload, size, site);
}

void ms_trace_resizes(ms_arena_t *arena) {
    if (arena->ring) arena->ring->resize_time = now();
}

void ms_trace_resized(ms_arena_t *arena, const void *old, size_t old_size, const void *payload, size_t size,
                      uint32_t site) {
    ms_trace_look(arena);
    ms_ring_t *ring = arena->tracing ? begin(arena, 2) : NULL;
    if (!ring) return;
    put_event(ring, MS_EVENT_RESIZE_FREE, ring->resize_time, old, old_size, 0);
    put_event(ring, MS_EVENT_RESIZE_ALLOC, old == payload ? ring->resize_time : now(), payload, size, site);
    end(ring);
}

ms_trace_counts_t ms_trace_counts(void) {
    ms_trace_counts_t counts = {.dropped = atomic_load_explicit(&dropped_without_ring, memory_order_relaxed)};
    for (const ms_ring_t *ring = ms_ring_first(); ring; ring = ring->next) {
        counts.events += ms_read(&ring->events);
        counts.dropped += ms_read(&ring->dropped);
        counts.over += ms_read(&ring->over);
    }
    return counts;
}
