/* The arena: what one thread allocates from, and the fast paths of malloc and free.
 *
 *     malloc -> ms_allocate ------------------------------ a block from the arena's list of its class
 *                 | size > 1 KiB
 *                 +-> ms_allocate_medium ----------------- the same up to 32 KiB; large blocks that the arena keeps
 *                 | list empty, first call, larger
 *                 +-> ms_allocate_slow -> refill: inbox, slabs with room, a new slab; large blocks; aligned blocks
 *                 | countdown expired
 *                 +-> ms_allocate_due -> settle (peaks, age, ...), sample
 *     free   -> ms_release ------------------------------- onto the arena's list of its class
 *                 | list has had its share of frees
 *                 +-> ms_release_full -> flush most of the list to its slabs, empty slabs to the pool
 *                 | anything special: NULL, over 1 KiB, other task, other thread, tracked, aligned, large, corrupted, ...
 *                 +-> ms_release_slow
 *
 * Everything in an arena is written by the thread that runs it, except what stands from `inbox` on. Other threads read the
 * counters with relaxed loads. Every class has one list of free blocks per arena, which hides the slabs: neither malloc nor free
 * touches slab data. The countdown to the next due event is at the same time the counter of allocated bytes, the room
 * left in a list is at the same time the counter of frees by class. */
#ifndef MS_ALLOC_ARENA_H
#define MS_ALLOC_ARENA_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "alloc/large.h"
#include "alloc/os.h"
#include "alloc/size_class.h"
#include "alloc/slab.h"
#include "tracking/cells.h"
#include "tracking/header.h"

#pragma GCC visibility push(hidden) /* no detour through the GOT */

struct ms_thread;
struct ms_unwind_thread;
struct ms_ring;
struct ms_sample_pair;

/* Life of an arena; transitions in alloc/thread.c. */
typedef enum {
    MS_ARENA_NONE,    /* the constant empty arena: the thread has none yet, or none any more */
    MS_ARENA_RUNNING, /* a thread runs it */
    MS_ARENA_ORPHAN,  /* its thread ended; in the pool, whoever holds MS_LOCK_THREADS may work on it */
    MS_ARENA_FROZEN,  /* its thread did not survive a fork: never run again, its blocks stay valid */
} ms_arena_state_t;

/* Counts up to some moment; all in requested bytes and in blocks. */
typedef struct ms_flow {
    uint64_t allocated_bytes, allocated_blocks, freed_bytes, freed_blocks;
} ms_flow_t;

static inline void ms_flow_add(ms_flow_t *sum, ms_flow_t part) {
    sum->allocated_bytes += part.allocated_bytes;
    sum->allocated_blocks += part.allocated_blocks;
    sum->freed_bytes += part.freed_bytes;
    sum->freed_blocks += part.freed_blocks;
}

/* The free blocks of one size class, and its counters. length = listed + frees - allocated */
typedef struct ms_free_list {
    void *first;        /* ends at ms_list_end; always so for class 0 */
    int64_t room;       /* frees until the list's length is looked at. frees = freed_before + room_set - room */
    uint64_t allocated; /* blocks ever taken */
    uint64_t birth;     /* word0 of a new block of size 0: now, and where this list is */
} ms_free_list_t;
#define MS_LIST_UNIT 8 /* bytes; where a list is among the lists is counted in them: an address takes an index times 8 */
_Static_assert(MS_SMALL_CLASSES * sizeof(ms_free_list_t) / MS_LIST_UNIT <= UINT16_MAX, "ms_plain_list() holds where each list is");
_Static_assert(MS_FAST_CLASSES * sizeof(ms_free_list_t) / MS_LIST_UNIT <= UINT8_MAX, "and list_offsets");

#define MS_OUTBOX_BYTES 65536u /* most that waits in an outbox */
#define MS_SENT_AHEAD 8u /* blocks; see hint_ahead() */

typedef struct ms_arena {
    /* read by the fast paths */
    uint64_t birth;                     /* word0 of a new block of size 0 without a list */
    uint64_t expect[MS_ORIGIN_COUNT];   /* token of a new plain block, which free may take the short way. Its low half is 0
                                           where none may, which is no block's */
    /* written by the fast paths */
    int64_t countdown;                  /* bytes until something is due; below 0 it is */
    uint64_t allocated_blocks;          /* by the thread now running the arena */
    uint64_t freed_bytes, freed_blocks; /* of its own blocks, while their task was current */
    ms_free_list_t lists[MS_CLASS_COUNT];    /* by class; large blocks: counters only */

    uint8_t list_offsets[MS_FAST_MAX + 1]; /* where the list for a request of so many bytes is, MS_LIST_UNIT */

    /* slow paths: lists */
    int32_t room_set[MS_SMALL_CLASSES];     /* room when it was last set */
    uint64_t freed_before[MS_CLASS_COUNT];  /* frees up to then, and resizes in place; large: frees */
    int64_t listed[MS_SMALL_CLASSES];       /* blocks put on the list from slabs and inbox - flushed to slabs */
    uint64_t remote_freed[MS_CLASS_COUNT];  /* blocks of other arenas freed here, by class */
    ms_slab_t *slabs[MS_SMALL_CLASSES];     /* slabs with room, of this class: a heap (alloc/slab_heap.h) */
    int64_t cut[MS_SMALL_CLASSES];          /* blocks of the arena's slabs that are not in the slabs */
    uint8_t looks[MS_SMALL_CLASSES];        /* at the class in this second, see room_among_many() */
    bool waits_for_last[MS_SMALL_CLASSES];  /* its next look is due with the last of few live blocks */
    uint8_t narrowed[MS_SMALL_CLASSES];     /* how often a slab of the class was, see slab_narrow() */
    uint32_t slab_count;                    /* slabs owned */
    uint32_t spare_count[2], spare_least[2]; /* spare slabs, and the fewest since they were tended; [1]: big ones */
    ms_slab_t *spare[2];                    /* linked by next */
    uint64_t spare_tended_ns;

    /* slow paths: counting. allocated bytes = allocated_bytes + countdown_set - countdown */
    uint64_t allocated_bytes;               /* by the thread now running the arena */
    int64_t countdown_set;
    uint64_t other_freed_bytes, other_freed_blocks; /* own blocks freed while their task was not current */
    uint64_t drained_bytes;                         /* own blocks other threads freed, back home */
    uint64_t sequence;                              /* odd while counters that belong together move */
    ms_flow_t mark;                                 /* flow already in the cell of the current task */
    ms_flow_t task_settled;                         /* flow already in the current task's live bytes */
    ms_flow_t settled;                              /* flow already in the process's live bytes; freed: all frees made */
    uint64_t foreign_freed_bytes, foreign_freed_blocks; /* other threads' blocks freed here, all of them */
    uint64_t untasked_freed_bytes, untasked_freed_blocks; /* blocks of no task, freed outside any, not the short way;
                                                             they are in no cell */
    uint64_t untasked_settled_bytes;
    uint64_t unseen_turn; /* most that live bytes can have risen and fallen again between two settles */
    uint64_t unseen_gain; /* most they rose between two settles: others saw them too low */
    uint64_t unseen_loss; /* most they fell between two settles: others saw them too high */
    ms_cells_t *tasks, *sites;                      /* NULL until used */
    uint64_t task_id;                               /* of the current task, 0: none */
    uint64_t untasked_expect[MS_ORIGIN_COUNT];      /* `expect` outside any task */
    uint64_t cell_id;                               /* the task entered last; what is known of it: */
    const struct ms_task *cell_task;                /* none entered: one that never can be */
    ms_cell_t *cell;
    uint64_t cell_expect[MS_ORIGIN_COUNT];          /* `expect` in it */
    ms_cell_t *none_cell;                           /* that of no task; NULL: not needed yet */
    uint64_t peak_bytes;                            /* of the thread */

    /* slow paths: sampling */
    int64_t sample_left;     /* bytes until the next sample; INT64_MAX: no sampling */
    uint64_t sample_mean;    /* of the gap under way, bytes */
    uint64_t hit_mean;       /* of the last gap that ended in a sample */
    uint64_t random;         /* state of the generator */
    uint64_t sampled_blocks; /* ever, in this arena */
    size_t weighed_size;     /* of the sampled block last, and what it stood for then */
    uint64_t weighed_mean;
    double weight;
    struct ms_sample_pair *sample_pair; /* used last, NULL: none yet */
    bool always_slow;        /* that of the process, tracing, or a folded thread: every call takes the slow path */
    bool tracing;            /* events go to the ring */
    uint32_t trace_epoch;    /* ms_trace_epoch it follows */
    struct ms_ring *ring;    /* NULL until it first traces */
    uint32_t turns;          /* settles and exchanges, to look at the clocks now and then only */
    struct ms_unwind_thread *unwind;

    /* slow paths: mode exact (tracking/exact.h) */
    uint64_t now_ms;        /* time of the last event */
    const void *last_block; /* allocated last, while it lives; only compared */
    int64_t last_peak;      /* of the process, before that block */
    uint32_t tenant;        /* number of the thread among all that ever ran an arena */

    /* blocks of one other arena, freed here, not yet sent home: linked by word0, newest first */
    struct ms_arena *outbox_owner;
    void *outbox_first, *outbox_last;
    uint32_t outbox_blocks;
    size_t outbox_bytes;
    uint32_t sent;                  /* blocks ever sent */
    void *sent_last[MS_SENT_AHEAD]; /* those sent last, a ring */

    uint32_t foreign_code;    /* code whose cell was used last, 0: none */
    ms_cell_t *foreign_cell;

    ms_large_kept_t kept; /* large blocks freed last */

    void *quarantine_first, *quarantine_last; /* freed blocks kept from reuse, oldest first */
    uint64_t quarantine_bytes;

    struct ms_thread *thread; /* who runs it; NULL: pool, stray */
    uint32_t code;            /* of that thread */
    uint32_t index;           /* number of the arena */
    _Atomic(ms_arena_state_t) state;
    struct ms_arena *next;    /* all arenas, never removed */
    struct ms_arena *next_in_pool;
    uint64_t warm_since_ns;   /* orphan whose lists are as its thread left them, monotonic; 0: it is none */

    /* written by other threads: blocks they freed, linked by word0, on their way home */
    _Alignas(64) _Atomic(void *) inbox;
    _Atomic(uint64_t) inbox_bytes;     /* about what is in it: see reclaim.h */
    _Atomic(bool) is_sorted_now;       /* what was in the inbox is in no count for the moment */
    _Atomic(ms_slab_t *) sorted;       /* slabs with blocks that were sorted out of it (alloc/reclaim.h) */
    _Atomic(uint64_t) reclaimed_bytes; /* own blocks freed by others: whose slabs others gave back, and large ones */
    _Atomic(uint32_t) reclaimed_slabs; /* of slab_count */
    _Atomic(uint32_t) reclaimed_cut[MS_SMALL_CLASSES]; /* of cut, not taken off it yet */
} ms_arena_t;

/* Bytes of slabs from which on an arena gives up classes that are free; 0: it does not, there are few threads (alloc/thread.c). */
extern size_t ms_arena_budget;

extern __thread ms_arena_t *ms_arena_current __attribute__((tls_model("initial-exec")));
extern ms_arena_t ms_arena_empty; /* constant: its lists are empty and it expects no block */

/* Addresses of slabs lie in ms_heap_low .. ms_heap_low + ms_heap_span; grows only. While it does, a stale pair of values can
 * make it look smaller, which sends a free to the slow path, or end too high, which only a wild pointer could notice. */
extern uintptr_t ms_heap_low, ms_heap_span;
/* The same for the forms of delete that call others. 0 where the program replaces an operator: what they are given then may be no
 * memory of ours, though it lies between some, and the header in front of it nobody's. */
extern uintptr_t ms_delete_span;
void ms_heap_range_include(const void *start, size_t bytes);
bool ms_operators_are_replaced(void); /* alloc/malloc.c */

/* Who called an entry point: where it returns to, and the registers then, which a stack can start from; sp 0: not known. */
typedef struct ms_caller {
    void *pc;
    uintptr_t sp, fp;
} ms_caller_t;

/* Entry points end in a jump to what they do not do themselves and give no caller: who called them is in the frame of the
 * function jumped to, which costs the fast path nothing. */
static inline __attribute__((always_inline)) ms_caller_t ms_caller_or(const ms_caller_t *from, const uintptr_t *frame) {
    if (from) return *from;
    return (ms_caller_t){.pc = (void *)frame[1], .sp = (uintptr_t)(frame + 2), .fp = frame[0]};
}
#define MS_CALLER(from) ms_caller_or((from), __builtin_frame_address(0))

/* `from` is NULL if the entry point ends in a jump to the function. All set errno to ENOMEM when they return NULL. */
void *ms_allocate_slow(size_t size, ms_origin_t origin, const ms_caller_t *from);
void *ms_allocate_medium(size_t size, ms_origin_t origin, const ms_caller_t *from); /* more than MS_FAST_MAX, or more */
void *ms_allocate_due(size_t size, ms_origin_t origin, const ms_caller_t *from);
void *ms_allocate_aligned(size_t size, size_t alignment, ms_origin_t origin, const ms_caller_t *from);
void *ms_callocate(size_t size, ms_origin_t origin, const ms_caller_t *from);
void ms_release_slow(void *payload, ms_origin_t origin);
void ms_release_sized_slow(void *payload, ms_origin_t origin, size_t size);
void ms_release_full(void *payload, ms_arena_t *arena, size_t offset); /* ms_list_at(): its list */
void *ms_refuse(void); /* a request that cannot be met: counts it, sets errno to ENOMEM, returns NULL */

static inline uint32_t ms_list_of(uint32_t class) { return class * (uint32_t)(sizeof(ms_free_list_t) / MS_LIST_UNIT); }
static inline uint32_t ms_class_of_list(size_t offset) { return (uint32_t)(offset / (sizeof(ms_free_list_t) / MS_LIST_UNIT)); }

/* Where the list for a request of at most MS_FAST_MAX bytes is, in one instruction; a table of constants outside the arena takes
 * two. 0 bytes: a list that is always empty. */
static inline __attribute__((always_inline)) size_t ms_list_offset(const ms_arena_t *arena, size_t size) {
    return arena->list_offsets[size];
}
static inline __attribute__((always_inline)) ms_free_list_t *ms_list_at(ms_arena_t *arena, size_t offset) {
    return (ms_free_list_t *)((char *)arena->lists + offset * MS_LIST_UNIT);
}

/* Forgets what the compiler knows of a value, so that it uses the value where it is instead of keeping copies and sums of
 * it in further registers. */
#define MS_OPAQUE(value) __asm__("" : "+r"(value))
#define MS_OPAQUE_BOTH(one, other) __asm__("" : "+r"(one), "+r"(other))

/* Two values that live as long as a third, which is returned, are put elsewhere, so that it can be in the register for
 * results from the beginning and is not copied there. */
#ifdef __x86_64__
#define MS_ASIDE(one, other) __asm__("" : "+c"(one), "+d"(other))
#else
#define MS_ASIDE(one, other) ((void)0)
#endif

/* --*counter < 0, with the address in the instruction: compilers compute it first. */
static inline __attribute__((always_inline)) bool ms_count_down(int64_t *counter) {
    bool below;
    __asm__("subq $1, %1" : "=@ccs"(below), "+m"(*counter));
    return below;
}

/* How ms_take_plain() counts `size` bytes. Whoever reads the counters meanwhile must not see them counted and taken back. */
typedef enum {
    MS_COUNT,         /* and if something is due with them, they are counted all the same, and there is no block */
    MS_COUNT_OR_NONE, /* unless something is due with them */
    MS_COUNTED,       /* they are already */
} ms_counting_t;

static inline __attribute__((always_inline)) bool ms_count_taken(ms_arena_t *arena, size_t size, ms_counting_t counting) {
    if (counting == MS_COUNT_OR_NONE && ms_unlikely(arena->countdown < (int64_t)size)) return false;
    if (counting != MS_COUNTED) arena->countdown -= (int64_t)size;
    return counting != MS_COUNT || ms_likely(arena->countdown >= 0);
}

/* A block off the list at `offset`, if there is one and nothing is due; NULL: nothing was changed, unless *due. The header says
 * `whole`, and its token has `more` than a plain one's. */
static inline __attribute__((always_inline)) void *ms_take_plain(ms_arena_t *arena, size_t size, size_t whole, size_t offset,
                                                                 ms_origin_t origin, uint64_t more, ms_counting_t counting,
                                                                 bool *due) {
    MS_ASIDE(arena, offset);
    uint64_t *payload = ms_list_at(arena, offset)->first;
    MS_OPAQUE_BOTH(arena, offset);
    *due = false;
    if (ms_unlikely(!ms_header_is_free(ms_header_of(payload)))) return NULL;
    void *next = (void *)payload[-2];
    if (ms_unlikely(!ms_count_taken(arena, size, counting))) {
        *due = true;
        return NULL;
    }
    __builtin_prefetch(next, 1); /* the next malloc's block: 2 % of python3's CPU time, 1 % elsewhere */
    MS_OPAQUE_BOTH(arena, offset);
    ms_list_at(arena, offset)->first = next;
    MS_OPAQUE_BOTH(arena, offset);
    ms_list_at(arena, offset)->allocated++;
    arena->allocated_blocks++;
    MS_ASIDE(arena, offset);
    uint64_t word = ms_list_at(arena, offset)->birth + whole; /* ms_close(), in one register */
    payload[-2] = word;
    MS_OPAQUE(word);
    word = word * ms_secret.multiplier + arena->expect[origin];
    MS_OPAQUE(word);
    payload[-1] = word + more + (uintptr_t)payload;
    return payload;
}

/* The fast path and nothing else, from any list; NULL: nothing was changed. */
static inline __attribute__((always_inline)) void *ms_take_from(ms_arena_t *arena, size_t size, size_t whole, size_t offset,
                                                                ms_origin_t origin, uint64_t more) {
    bool due;
    return ms_take_plain(arena, size, whole, offset, origin, more, MS_COUNT_OR_NONE, &due);
}

/* For at most MS_FAST_MAX bytes. */
static inline __attribute__((always_inline)) void *ms_take(size_t size, ms_origin_t origin) {
    return ms_take_from(ms_arena_current, size, size, ms_list_offset(ms_arena_current, size), origin, 0);
}

static inline __attribute__((always_inline)) void *ms_allocate(size_t size, ms_origin_t origin, const ms_caller_t *from) {
    if (ms_unlikely(size > MS_FAST_MAX)) return ms_allocate_medium(size, origin, from);
    bool due;
    void *payload = ms_take_plain(ms_arena_current, size, size, ms_list_offset(ms_arena_current, size), origin, 0, MS_COUNT, &due);
    if (ms_likely(payload != NULL)) return payload;
    return due ? ms_allocate_due(size, origin, from) : ms_allocate_slow(size, origin, from);
}

static inline void ms_list_push(ms_free_list_t *list, void *payload) {
    ms_header_set_free(ms_header_of(payload), list->first);
    list->first = payload;
}

/* Counts the free of a plain block and puts it on its list. */
static inline __attribute__((always_inline)) void ms_give_plain(ms_arena_t *arena, uint64_t *payload, size_t size, size_t offset) {
    arena->freed_bytes += size;
    arena->freed_blocks++;
    if (ms_unlikely(ms_count_down(&ms_list_at(arena, offset)->room))) {
        ms_release_full(payload, arena, offset);
        return;
    }
    MS_OPAQUE_BOTH(arena, offset);
    void *next = ms_list_at(arena, offset)->first; /* ms_list_push() */
    MS_OPAQUE_BOTH(arena, offset);
    payload[-2] = (uintptr_t)next;
    payload[-1] = (uintptr_t)next + MS_FREE_MARK;
    ms_list_at(arena, offset)->first = payload;
}

static inline bool ms_is_within(const void *payload, uintptr_t span) { return (uintptr_t)payload - ms_heap_low < span; }
static inline bool ms_heap_may_hold(const void *payload) { return ms_is_within(payload, ms_heap_span); }

/* Whether free may take the short way with the block: its header is as the arena would write it now. */
static inline __attribute__((always_inline)) bool ms_is_plain_within(const ms_arena_t *arena, const uint64_t *payload,
                                                                     ms_origin_t origin, uintptr_t span) {
    if (ms_unlikely(!ms_is_within(payload, span))) return false;
    uint64_t seal = payload[-2] * ms_secret.multiplier + arena->expect[origin]; /* ms_header_is(), in one register */
    MS_OPAQUE(seal);
    return ms_likely(payload[-1] == seal + (uintptr_t)payload);
}

/* Requested bytes of such a block, and where the list of its class is: not worked out from the size, since the next malloc of
 * the class waits for it (docs/decisions/0020-the-header-knows-its-list.md). */
static inline size_t ms_plain_size(const uint64_t *payload) { return payload[-2] & 0xffff; }
_Static_assert(MS_WORD0_SITE_SHIFT % 8 == 0 && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "ms_plain_list() reads two bytes of word0");
static inline size_t ms_plain_list(const uint64_t *payload) {
    uint16_t offset;
    memcpy(&offset, (const char *)(payload - 2) + MS_WORD0_SITE_SHIFT / 8, sizeof offset);
    return offset;
}

static inline __attribute__((always_inline)) bool ms_is_plain(const ms_arena_t *arena, const uint64_t *payload, ms_origin_t origin) {
    return ms_is_plain_within(arena, payload, origin, ms_heap_span);
}

/* Frees it if it is plain; false: nothing was changed. */
static inline __attribute__((always_inline)) bool ms_release_plain(void *payload, ms_origin_t origin, uintptr_t span) {
    ms_arena_t *arena = ms_arena_current;
    if (ms_unlikely(!ms_is_plain_within(arena, payload, origin, span))) return false;
    MS_OPAQUE(payload); /* the size is read again, so that the header's word is not copied before it is multiplied */
    ms_give_plain(arena, payload, ms_plain_size(payload), ms_plain_list(payload));
    return true;
}

static inline __attribute__((always_inline)) void ms_release(void *payload, ms_origin_t origin) {
    if (ms_unlikely(!ms_release_plain(payload, origin, ms_heap_span))) ms_release_slow(payload, origin);
}

/* The same for calls that name the block's size. */
static inline __attribute__((always_inline)) bool ms_release_plain_sized(void *payload, ms_origin_t origin, size_t said,
                                                                         uintptr_t span) {
    ms_arena_t *arena = ms_arena_current;
    if (ms_unlikely(!ms_is_plain_within(arena, payload, origin, span)) || ms_unlikely(ms_plain_size(payload) != said)) return false;
    ms_give_plain(arena, payload, said, ms_plain_list(payload));
    return true;
}

static inline __attribute__((always_inline)) void ms_release_sized(void *payload, ms_origin_t origin, size_t said) {
    if (ms_unlikely(!ms_release_plain_sized(payload, origin, said, ms_heap_span))) ms_release_sized_slow(payload, origin, said);
}

/* A plain block stays where it is with `size` bytes, of its class; nothing is due. It is counted as freed and allocated again. */
static inline __attribute__((always_inline)) void ms_resize_plain(ms_arena_t *arena, uint64_t *payload, size_t size, size_t offset,
                                                                  ms_origin_t origin, uint64_t medium) {
    arena->countdown -= (int64_t)size;
    arena->allocated_blocks++;
    arena->freed_blocks++;
    arena->freed_bytes += ms_plain_size(payload);
    ms_list_at(arena, offset)->allocated++;
    arena->freed_before[ms_class_of_list(offset)]++;
    payload[-2] = ms_list_at(arena, offset)->birth + size;
    payload[-1] = ms_seal(payload[-2], arena->expect[origin] + medium, payload);
}

/* Does so with a block of the fast path's sizes, where possible; `size` is 1 to MS_FAST_MAX. */
static inline __attribute__((always_inline)) bool ms_resize_stays(uint64_t *payload, size_t size, ms_origin_t origin) {
    ms_arena_t *arena = ms_arena_current;
    if (!ms_is_plain(arena, payload, origin)) return false;
    size_t offset = ms_list_offset(arena, size);
    if (offset != ms_plain_list(payload) || arena->countdown < (int64_t)size) return false;
    ms_resize_plain(arena, payload, size, offset, origin, 0);
    return true;
}

/* ---- slow-path pieces shared by alloc/ and tracking/ */

/* Around changes to counters, marks and cells that other threads must see all or none of. */
static inline void ms_arena_sequence_begin(ms_arena_t *arena) {
    __atomic_store_n(&arena->sequence, arena->sequence + 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_RELEASE); /* odd is seen before any change */
}
static inline void ms_arena_sequence_end(ms_arena_t *arena) {
    __atomic_store_n(&arena->sequence, arena->sequence + 1, __ATOMIC_RELEASE);
}

/* Reading what such changes keep together, by any thread (a seqlock with one writer):
 *     for (uint64_t at, tries = 0; ms_arena_read_begin(arena, &at, &tries);) { read; if (ms_arena_read_done(arena, at)) break; }
 * A writer that lost its processor in between is waited for, a second or more. One whose thread did not survive a fork, or is
 * interrupted by the reader, may be odd for ever: the last try takes what is there. */
#define MS_READ_TRIES 64
bool ms_arena_read_wait(const ms_arena_t *arena, uint64_t tries); /* false: no further try */
static inline bool ms_arena_read_begin(const ms_arena_t *arena, uint64_t *at, uint64_t *tries) {
    bool once_more = ms_likely(++*tries <= MS_READ_TRIES) || ms_arena_read_wait(arena, *tries);
    *at = __atomic_load_n(&arena->sequence, __ATOMIC_ACQUIRE);
    return once_more;
}
static inline bool ms_arena_read_done(const ms_arena_t *arena, uint64_t at) {
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    return !(at & 1) && __atomic_load_n(&arena->sequence, __ATOMIC_RELAXED) == at;
}

/* Requested bytes allocated by the thread that runs the arena. Any thread. */
static inline uint64_t ms_arena_allocated_bytes(const ms_arena_t *arena) {
    uint64_t bytes = 0;
    for (uint64_t at, tries = 0; ms_arena_read_begin(arena, &at, &tries);) {
        bytes = ms_read(&arena->allocated_bytes) + (uint64_t)__atomic_load_n(&arena->countdown_set, __ATOMIC_RELAXED) -
                (uint64_t)__atomic_load_n(&arena->countdown, __ATOMIC_RELAXED);
        if (ms_arena_read_done(arena, at)) break;
    }
    return bytes;
}

/* Blocks of a class ever taken from this arena's lists, and those that came back to them. */
static inline uint64_t ms_arena_allocations(const ms_arena_t *arena, uint32_t class) {
    return ms_read(&arena->lists[class].allocated);
}
uint64_t ms_arena_frees(const ms_arena_t *arena, uint32_t class);

/* The flow of the current tenant's own blocks while their task was current. Any thread. */
ms_flow_t ms_arena_flow(const ms_arena_t *arena);
void ms_arena_start_backend(void); /* now, however small the heap is */
void ms_arena_flow_reset(ms_arena_t *arena); /* a new tenant: counts from zero */

/* Its bytes alone, which are at hand. The arena's own thread. */
static inline ms_flow_t ms_arena_bytes(const ms_arena_t *arena) {
    return (ms_flow_t){.allocated_bytes = arena->allocated_bytes + (uint64_t)(arena->countdown_set - arena->countdown),
                       .freed_bytes = arena->freed_bytes};
}

/* The index of the current task. Any thread. */
static inline uint32_t ms_arena_task(const ms_arena_t *arena) { return (uint32_t)ms_read(&arena->task_id); }

/* Something is due sooner: after `left` bytes. What was counted down so far stays so. Only a settle may set the countdown
 * higher, or peaks would be looked at late. */
static inline void ms_arena_lower_countdown(ms_arena_t *arena, int64_t left) {
    ms_arena_sequence_begin(arena);
    arena->countdown_set -= arena->countdown - left;
    arena->countdown = left;
    ms_arena_sequence_end(arena);
}

/* What the arena expects in a task. Where it expects nothing, still nothing that there is. */
static inline void ms_arena_expect_in(const ms_arena_t *arena, uint64_t id, uint64_t expect[MS_ORIGIN_COUNT]) {
    uint64_t token = ms_token(id << MS_IDENTITY_TASK_SHIFT);
    for (int origin = 0; origin < MS_ORIGIN_COUNT; origin++) expect[origin] = arena->untasked_expect[origin] + token;
}

/* The arena has this task from now on. What it then expects is copied, not changed: a task that is entered does not wait for
 * the last one's words. */
static inline void ms_arena_set_task(ms_arena_t *arena, uint64_t id, const uint64_t expect[MS_ORIGIN_COUNT]) {
    memcpy(arena->expect, expect, sizeof arena->expect);
    arena->task_id = id;
}

/* Whether anything was counted since the last ms_arena_flush_task(). */
static inline bool ms_flow_moved(const ms_arena_t *arena) {
    return ms_unlikely(((arena->allocated_blocks - arena->mark.allocated_blocks) | (arena->freed_blocks - arena->mark.freed_blocks)) != 0);
}

/* Moves the flow since the last time into the current task's cell (before the task changes, and to read it). */
void ms_arena_flush_task(ms_arena_t *arena);

/* Brings process, thread and task peaks up to date, and the age of new blocks; sets the next due event. */
void ms_arena_settle(ms_arena_t *arena);
/* Bytes freed, and allocated, since the last settle of the process. Any thread. */
uint64_t ms_arena_unsettled_loss(const ms_arena_t *arena);
uint64_t ms_arena_unsettled_gain(const ms_arena_t *arena);
void ms_arena_rearm(ms_arena_t *arena); /* sets the countdown after a knob changed, behind a settle */

/* Sends what waits in the outbox to its owner. */
void ms_arena_post(ms_arena_t *arena);
/* Blocks that other threads freed wait: in the inbox, or sorted. */
static inline bool ms_arena_has_mail(const ms_arena_t *arena) {
    return atomic_load_explicit(&arena->inbox, memory_order_relaxed) ||
           atomic_load_explicit(&arena->sorted, memory_order_relaxed);
}
/* They come home; returns how many. */
size_t ms_arena_drain(ms_arena_t *arena);
/* In the lists. */
size_t ms_arena_listed_bytes(const ms_arena_t *arena);
/* Every free block back to its slab, every empty slab to the pool, large blocks to their cache. The arena's own thread, or MS_LOCK_THREADS on an orphan. */
void ms_arena_flush_all(ms_arena_t *arena);
void ms_arena_flush_spare(ms_arena_t *arena); /* its spare slabs go to the pool */
/* All that is free anywhere goes back to the system: where nothing is to be had, it may come again in the right place and shape.
 * The arena entered. */
void ms_arena_give_all_back(ms_arena_t *arena);

/* In front of the inner payload of an aligned or sampled block, at the block's own payload. */
typedef struct ms_extension {
    uint16_t inner;        /* bytes from the block's payload to the inner payload */
    uint16_t sample_class; /* class of its like that are not sampled */
    uint32_t size;         /* requested bytes; the header's size is the whole payload's */
    uint32_t sample_site;  /* stack of a sampled block, 0: not sampled */
    float sample_weight;   /* blocks it stands for */
} ms_extension_t;

/* Facts about a live block of ours, found safely from any pointer: false if there is none at this address. */
typedef struct ms_block_facts {
    void *base;        /* payload the slab or large block knows */
    ms_header_t *header; /* that one's header */
    ms_facts_t facts;    /* what it says */
    size_t size;       /* requested bytes */
    ms_slab_t *slab;   /* NULL: large */
    struct ms_large *large;
} ms_block_facts_t;
bool ms_block_find(const void *payload, ms_block_facts_t *found);
void *ms_block_payload(const ms_block_facts_t *block); /* what the program got */

/* What the header of a block says once it is freed and on its way home or in quarantine, before the block `next`. */
ms_facts_t ms_block_facts_freed(const ms_block_facts_t *block, const void *next);

/* Of a block on its way home: fetches the one that its first word names, if the program left it that (hint_ahead()). */
static inline void ms_fetch_ahead(const void *payload) {
    __builtin_prefetch((void *)~*(const uintptr_t *)payload, 1);
}

/* Whether `payload` is the inner payload of the live extended block at `base`. */
bool ms_block_has_inner(const void *base, const void *payload);

/* The block's memory to its list, its slab's owner or the quarantine's end; the free is already counted. */
void ms_release_memory(ms_arena_t *arena, const ms_block_facts_t *block);

/* Requested bytes of a live block; ends the process with a line if the pointer is not one ("usable size of ..."). */
size_t ms_block_size(const void *payload);
void *ms_reallocate(void *payload, size_t size, ms_origin_t origin, const ms_caller_t *from); /* what ms_resize_stays() does not do */

#pragma GCC visibility pop
#endif
