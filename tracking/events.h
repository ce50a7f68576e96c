/* The event log's way in: one ring of events a thread, which the thread fills and the writer (tracking/event_log.h)
 * empties.
 *
 *     ms_trace_look   -> ms_trace_follow: the arena takes the slow paths while tracing is on, and only then
 *     slow paths      -> ms_trace_allocated, _freed, _resized, _named -> a slot of the arena's ring
 *                          | ring full, or max_events reached: counted, nothing more
 *
 * The fast paths know nothing of this: an arena that traces has always_slow set. Nothing here waits for anybody.
 *
 * A ring has one producer, whoever runs the arena (the stray arena's under its lock), and one consumer, the writer.
 * What seldom changes (thread, task, losses, sizes of 4 GiB and more) goes in slots of its own in front of the event.
 */
#ifndef MS_TRACKING_EVENTS_H
#define MS_TRACKING_EVENTS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "alloc/arena.h"
#include "export/event_codec.h"

#pragma GCC visibility push(hidden)

/* In a slot, beside the kinds of event_codec.h. */
enum {
    MS_SLOT_THREAD = MS_EVENT_KINDS, /* time: thread id; address: its code */
    MS_SLOT_TASK,                    /* time: id of the task now current */
    MS_SLOT_LOST, /* time: events dropped since the last such slot; address: events over max_events */
    MS_SLOT_SIZE, /* time: size of the event that follows */
    MS_SLOT_KINDS
};
_Static_assert(MS_SLOT_KINDS <= 16, "a kind has the four bits that are 0 in an address");

typedef struct ms_event_slot {
    uint64_t time;    /* CLOCK_MONOTONIC, ns; 0 in test mode */
    uint64_t address; /* | kind */
    uint32_t size;    /* UINT32_MAX: see MS_SLOT_SIZE */
    uint32_t site;
} ms_event_slot_t;
_Static_assert(sizeof(ms_event_slot_t) == 24, "buffer_size holds this many");

#define MS_RING_NO_THREAD UINT64_MAX

typedef struct ms_ring {
    ms_event_slot_t *slots;
    uint64_t capacity;    /* slots */
    struct ms_ring *next; /* all rings, never removed */

    /* the producer's */
    _Alignas(64) _Atomic(uint64_t) head; /* slots ever filled */
    uint64_t next_slot;                  /* head % capacity */
    uint64_t tail_seen;                  /* tail, as last looked at */
    uint64_t thread_id, task_id;         /* as last told in a slot */
    uint64_t recorded;                   /* events of this thread, for max_events */
    uint64_t resize_time;                /* when the resize going on began: the old address may be had again since */
    uint64_t told_dropped, told_over;    /* told in slots */
    uint64_t events, dropped, over;      /* ever; read by others */

    /* the consumer's */
    _Alignas(64) _Atomic(uint64_t) tail; /* slots ever emptied */
    uint64_t seen_dropped, seen_over;    /* read in slots */
    uint64_t log_thread, log_task;       /* as read in slots */
    uint64_t log_size;                   /* of the event that follows, if its slot says so */
} ms_ring_t;

/* Odd: tracing is on. Counted up by every start and stop. */
extern _Atomic(uint32_t) ms_trace_epoch;

static inline bool ms_trace_is_on(void) {
    return atomic_load_explicit(&ms_trace_epoch, memory_order_relaxed) & 1;
}

/* For an arena that gets a thread: its ring and always_slow. */
void ms_trace_adopt(ms_arena_t *arena);

/* The arena does what the epoch says. */
void ms_trace_follow(ms_arena_t *arena);
static inline bool ms_trace_is_news(const ms_arena_t *arena) {
    return arena->trace_epoch != atomic_load_explicit(&ms_trace_epoch, memory_order_relaxed);
}
static inline void ms_trace_look(ms_arena_t *arena) {
    if (ms_unlikely(ms_trace_is_news(arena))) ms_trace_follow(arena);
}

/* A block was allocated and is ready; is freed and not yet to be had again; was given the name of a variable. Only
 * while arena->tracing. */
void ms_trace_allocated(ms_arena_t *arena, const void *payload, size_t size, uint32_t site);
void ms_trace_freed(ms_arena_t *arena, const void *payload, size_t size);
void ms_trace_named(ms_arena_t *arena, const void *payload, size_t size, uint32_t site);
/* A block is about to be resized; it has another size now, and another address if the kernel moved it. */
void ms_trace_resizes(ms_arena_t *arena);
void ms_trace_resized(ms_arena_t *arena, const void *old, size_t old_size, const void *payload, size_t size,
                      uint32_t site);

/* All rings, linked by next. Any thread. */
ms_ring_t *ms_ring_first(void);

/* Events so far: in rings (or out of them), dropped because a ring was full, over max_events. */
typedef struct ms_trace_counts {
    uint64_t events, dropped, over;
} ms_trace_counts_t;
ms_trace_counts_t ms_trace_counts(void);

#pragma GCC visibility pop
#endif
