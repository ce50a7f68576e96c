/* The slow paths of the arena: filling and emptying its lists, and every block that is not plain. */
#include "alloc/arena.h"
#include "alloc/backend.h"
#include "alloc/fault.h"
#include "alloc/large.h"
#include "alloc/limit.h"
#include "alloc/lock.h"
#include "alloc/paranoia.h"
#include "alloc/reclaim.h"
#include "alloc/slab_heap.h"
#include "alloc/thread.h"
#include "tracking/calibration.h"
#include "tracking/events.h"
#include "tracking/exact.h"
#include "tracking/process.h"
#include "tracking/sampling.h"
#include "tracking/sites.h"
#include "tracking/tasks.h"
#include "tracking/variables.h"

#include <errno.h>
#include <string.h>

#define INNER_OVERHEAD (sizeof(ms_extension_t) + sizeof(ms_header_t))

/* It expects no identity that there is, so that no free takes the short way. */
ms_arena_t ms_arena_empty = {
    .lists = {[0 ... MS_CLASS_COUNT - 1] = {.first = &ms_list_end_header[1]}},
    .cell_task = &ms_task_none,
};

uintptr_t ms_heap_low, ms_heap_span, ms_delete_span;

void ms_heap_range_include(const void *start, size_t bytes) { /* MS_LOCK_SLABS */
    uintptr_t first = (uintptr_t)start + sizeof(ms_header_t), last = (uintptr_t)start + bytes; /* payloads */
    uintptr_t low = ms_heap_low, end = low + ms_heap_span;
    if (low == 0) low = end = first;
    if (first < low) low = first;
    if (last + 1 > end) end = last + 1;
    __atomic_store_n(&ms_heap_low, low, __ATOMIC_RELAXED);
    __atomic_store_n(&ms_heap_span, end - low, __ATOMIC_RELAXED);
    if (!ms_operators_are_replaced()) __atomic_store_n(&ms_delete_span, end - low, __ATOMIC_RELAXED);
}

#define READ_PAUSES 10000
#define READ_PAUSE_NS 100000u

MS_COLD bool ms_arena_read_wait(const ms_arena_t *arena, uint64_t tries) {
    const ms_thread_t *thread = arena->thread;
    bool running = atomic_load_explicit(&arena->state, memory_order_relaxed) == MS_ARENA_RUNNING && thread;
    if (!running || thread->tid == ms_os_thread_id() || tries > MS_READ_TRIES + READ_PAUSES) return false;
    ms_os_sleep(READ_PAUSE_NS);
    return true;
}

ms_flow_t ms_arena_flow(const ms_arena_t *arena) {
    return (ms_flow_t){
        .allocated_bytes = ms_arena_allocated_bytes(arena),
        .allocated_blocks = ms_read(&arena->allocated_blocks),
        .freed_bytes = ms_read(&arena->freed_bytes),
        .freed_blocks = ms_read(&arena->freed_blocks),
    };
}

void ms_arena_flow_reset(ms_arena_t *arena) {
    arena->allocated_bytes = arena->allocated_blocks = 0;
    arena->freed_bytes = arena->freed_blocks = 0;
    arena->countdown = arena->countdown_set = 0;
}

uint64_t ms_arena_frees(const ms_arena_t *arena, uint32_t class) {
    const uint64_t *freed_before = &arena->freed_before[class];
    if (class == MS_CLASS_LARGE) return ms_read(freed_before);
    uint64_t frees = 0;
    for (uint64_t at, tries = 0; ms_arena_read_begin(arena, &at, &tries);) {
        frees = ms_read(freed_before) + (uint64_t)(__atomic_load_n(&arena->room_set[class], __ATOMIC_RELAXED) -
                                                   __atomic_load_n(&arena->lists[class].room, __ATOMIC_RELAXED));
        if (ms_arena_read_done(arena, at)) break;
    }
    return frees;
}

/* ---- lists and slabs */

/* Longest list kept: 128 KiB of blocks, at least 8 and at most 2048. */
static int64_t list_limit(uint32_t class) {
    int64_t blocks = 131072 / (int64_t)ms_class_stride(class);
    return blocks < 8 ? 8 : blocks > 2048 ? 2048 : blocks;
}

/* What is left of one that grew longer: walking past a block costs as much as giving one back
 * (docs/decisions/0003-lists-hide-slabs.md). */
static int64_t list_kept(uint32_t class) { return list_limit(class) / 8; }

/* The arena's own thread. */
static uint64_t frees_of(const ms_arena_t *arena, uint32_t class) {
    return arena->freed_before[class] + (uint64_t)(arena->room_set[class] - arena->lists[class].room);
}

static int64_t list_length(const ms_arena_t *arena, uint32_t class) {
    return arena->listed[class] + (int64_t)(frees_of(arena, class) - arena->lists[class].allocated);
}

/* Slabs that others gave back come off the count first. */
static int64_t blocks_cut(ms_arena_t *arena, uint32_t class) {
    _Atomic(uint32_t) *reclaimed = &arena->reclaimed_cut[class];
    if (ms_unlikely(atomic_load_explicit(reclaimed, memory_order_relaxed)))
        arena->cut[class] -= atomic_exchange_explicit(reclaimed, 0, memory_order_relaxed);
    return arena->cut[class];
}

/* Where there are many threads most of them wait, and what they keep meanwhile is of no use: of an arena that holds more than
 * its part in slabs, a class goes whose blocks are all free. The free of the last one is looked at, as far as that can be told. */
#define GIVE_UP_MIN ((int64_t)8192) /* bytes of a class: so much is freed between two looks, doubled by every fourth look in a second, */
#define LOOKS_MOST 32               /* so that blocks that come and go for ever do not cost a look each */
static bool are_many(void) { return ms_unlikely(__atomic_load_n(&ms_arena_budget, __ATOMIC_RELAXED) != 0); }

static bool has_too_much(const ms_arena_t *arena) {
    if (!are_many()) return false;
    size_t slabs = arena->slab_count - atomic_load_explicit(&arena->reclaimed_slabs, memory_order_relaxed);
    return slabs << MS_SLAB_SHIFT > __atomic_load_n(&ms_arena_budget, __ATOMIC_RELAXED);
}

static MS_COLD int64_t room_among_many(ms_arena_t *arena, uint32_t class, int64_t length, int64_t room) {
    int64_t stride = (int64_t)ms_class_stride(class), cut = blocks_cut(arena, class), live = cut - length;
    if (cut * stride < GIVE_UP_MIN) return room;
    int64_t few = (GIVE_UP_MIN << arena->looks[class] / 4) / stride;
    bool waits_for_last = live > 0 && length >= few && !arena->waits_for_last[class]; /* once */
    arena->waits_for_last[class] = waits_for_last && live < few;
    if (live < few && !waits_for_last) live = few;
    return live < room ? live - 1 : room;
}

/* Sets the frees until the list may be longer than its limit; keeps the counts of frees. */
static void room_reset(ms_arena_t *arena, uint32_t class) {
    ms_free_list_t *list = &arena->lists[class];
    int64_t length = list_length(arena, class), room = list_limit(class) - length;
    if (are_many()) room = room_among_many(arena, class, length, room);
    if (room < 0) room = 0;
    ms_arena_sequence_begin(arena);
    ms_count(&arena->freed_before[class], (uint64_t)(arena->room_set[class] - list->room));
    list->room = room;
    arena->room_set[class] = (int32_t)room;
    ms_arena_sequence_end(arena);
}

/* Blocks came to the list from a slab, or went there. */
static void list_lengthen(ms_arena_t *arena, uint32_t class, int64_t blocks) {
    arena->listed[class] += blocks;
    arena->cut[class] += blocks;
}

static void slab_list(ms_arena_t *arena, ms_slab_t *slab) {
    slab->listed = true;
    ms_slab_heap_add(&arena->slabs[slab->class], slab);
}

static void slab_unlist(ms_arena_t *arena, ms_slab_t *slab) {
    slab->listed = false;
    ms_slab_heap_remove(&arena->slabs[slab->class], slab);
}

static bool slab_is_empty(const ms_slab_t *slab) { return slab->free_blocks == slab->carved; }

/* A thread that lets go of slabs and takes others does so without a lock, and in memory that is in its core's caches. What it
 * had no use for in MS_DECAY_NS goes to the pool. */
#define SPARES 4u
#define SPARES_BIG 1u
static bool is_big(uint32_t class) { return ms_class_slab_shift(class) == MS_BIG_SLAB_SHIFT; }

static void slab_leave(ms_arena_t *arena, ms_slab_t *slab) {
    bool big = is_big(slab->class);
    arena->slab_count--;
    if (arena->spare_count[big] == (big ? SPARES_BIG : SPARES) || has_too_much(arena)) {
        ms_slab_release(slab, arena);
        return;
    }
    ms_slab_make_spare(slab);
    slab->next = arena->spare[big];
    arena->spare[big] = slab;
    arena->spare_count[big]++;
}

static ms_slab_t *spare_pop(ms_arena_t *arena, bool big) {
    ms_slab_t *slab = arena->spare[big];
    if (!slab) return NULL;
    arena->spare[big] = slab->next;
    if (--arena->spare_count[big] < arena->spare_least[big]) arena->spare_least[big] = arena->spare_count[big];
    return slab;
}

static void spare_release(ms_arena_t *arena, bool big, uint32_t count) {
    while (count--) ms_slab_release(spare_pop(arena, big), arena);
    arena->spare_least[big] = arena->spare_count[big];
}

void ms_arena_flush_spare(ms_arena_t *arena) {
    for (int big = 0; big < 2; big++) spare_release(arena, big, arena->spare_count[big]);
}

static void spare_tend(ms_arena_t *arena, uint64_t now_ns) {
    if (now_ns - arena->spare_tended_ns < MS_DECAY_NS) return;
    arena->spare_tended_ns = now_ns;
    for (int big = 0; big < 2; big++) spare_release(arena, big, arena->spare_least[big]);
    memset(arena->looks, 0, sizeof arena->looks);
}

static void slab_give_up(ms_arena_t *arena, ms_slab_t *slab) {
    slab_unlist(arena, slab);
    slab_leave(arena, slab);
}

/* Of a block in a list of this class. `group` is where the one before it was, NULL: not known, and becomes its own. */
static inline ms_slab_t *slab_of_listed(ms_group_t **group, const void *payload, uint32_t class) {
    ms_slab_t *slab = *group ? ms_slab_in(*group, payload) : NULL;
    if (!slab) {
        *group = ms_group_of(ms_header_of(payload));
        if (*group) slab = ms_slab_in(*group, payload);
    }
    if (ms_unlikely(!slab || slab->class != class)) ms_fault_free_list(payload, class);
    return slab;
}

/* How a class's slabs are cut. */
typedef struct cut {
    size_t stride;
    uint64_t share; /* what 16 bytes of a block are of 2^32 */
} cut_t;

static cut_t cut_of(uint32_t class) {
    size_t stride = ms_class_stride(class);
    return (cut_t){stride, ((uint64_t)1 << 32) / (stride / 16) + 1};
}

/* Free blocks of a list, header and all, from `*first` on go back to the slab, as long as they are of it; how many. `*first`
 * becomes the first that is not. Whoever gives up the slab as a whole need not mark them. */
static inline __attribute__((always_inline)) uint32_t slab_push(ms_slab_t *slab, cut_t cut, void **first, bool mark) {
    const uintptr_t start = (uintptr_t)slab->start + sizeof(ms_header_t), bytes = slab->carved * cut.stride;
    void *payload = *first;
    uint32_t count = 0;
    for (uintptr_t offset; (offset = (uintptr_t)payload - start) < bytes; count++) { /* the list's end is elsewhere */
        const ms_header_t *header = ms_header_of(payload);
        if (ms_unlikely(!ms_header_is_free(header))) ms_fault_free_list(payload, slab->class);
        if (mark) {
            uint32_t index = (uint32_t)(offset / 16 * cut.share >> 32);
            uint64_t bit = (uint64_t)1 << index % 64;
            if (ms_unlikely(slab->free[index / 64] & bit)) ms_fault_free_list(payload, slab->class);
            slab->free[index / 64] |= bit;
        }
        payload = (void *)header->word0;
        __builtin_prefetch(payload);
    }
    if (ms_unlikely(count == 0)) ms_fault_free_list(payload, slab->class);
    slab->free_blocks += count;
    *first = payload;
    return count;
}

/* The arena's empty list gets the slab's first free blocks, in order of their addresses. */
static void slab_pop(ms_arena_t *arena, ms_slab_t *slab, uint32_t most) {
    const size_t stride = ms_class_stride(slab->class);
    const uint32_t count = slab->free_blocks < most ? slab->free_blocks : most;
    ms_header_t before_first, *before = &before_first;
    uint64_t *free = slab->free;
    char *start = slab->start + sizeof(ms_header_t); /* of the payload of the word's first block */
    for (uint32_t left = count;; free++, start += 64 * stride) {
        uint64_t bits = *free;
        for (; bits && left; bits &= bits - 1, left--) {
            char *payload = start + (uint32_t)__builtin_ctzll(bits) * stride;
            if (ms_unlikely(!ms_header_is_free(ms_header_of(payload)))) ms_fault_free_list(payload, slab->class);
            ms_header_set_free(before, payload);
            before = ms_header_of(payload);
        }
        *free = bits;
        if (!left) break;
    }
    ms_header_set_free(before, ms_list_end);
    arena->lists[slab->class].first = (void *)before_first.word0;
    slab->free_blocks -= count;
    list_lengthen(arena, slab->class, count);
}

/* The first block of the list, which is not empty. */
static void *list_pop(ms_arena_t *arena, uint32_t class) {
    ms_free_list_t *list = &arena->lists[class];
    void *payload = list->first;
    const ms_header_t *header = ms_header_of(payload);
    if (ms_unlikely(!ms_header_is_free(header))) ms_fault_free_list(payload, class);
    list->first = (void *)header->word0;
    return payload;
}

/* The stride of blocks of a size that is a multiple of an alignment is an odd multiple of 16, so one in alignment / 16 of them
 * lies at such an address: a plain block, that costs no more memory than any and is freed the short way. */
static inline bool is_aligned(const void *payload, size_t alignment) { return ((uintptr_t)payload & (alignment - 1)) == 0; }
static inline bool may_lie_aligned(size_t size, size_t alignment) {
    return alignment <= 128 && size > 0 && is_aligned((const void *)size, alignment);
}

/* Looks for one among the list's first blocks and makes it the first. The arena is hidden. */
static bool list_bring_aligned(ms_free_list_t *list, size_t alignment) {
    uint64_t *before = list->first;
    if (is_aligned(before, alignment)) return ms_header_is_free(ms_header_of(before));
    for (size_t looks = alignment / 16; looks > 1; looks--) {
        if (!ms_header_is_free(ms_header_of(before))) return false; /* the end, most times */
        uint64_t *payload = (uint64_t *)before[-2];
        if (is_aligned(payload, alignment)) {
            if (!ms_header_is_free(ms_header_of(payload))) return false;
            ms_header_set_free(ms_header_of(before), (void *)payload[-2]);
            ms_list_push(list, payload);
            return true;
        }
        before = payload;
    }
    return false;
}

/* A heap of several slabs has no empty one: nobody has to look for it there. */
static void give_up_lone_slab(ms_arena_t *arena, uint32_t class) {
    ms_slab_t *slab = arena->slabs[class];
    if (slab && !slab->child && slab_is_empty(slab)) slab_give_up(arena, slab);
}

/* All of the list but its first `keep` blocks, the warm ones, goes back to the slabs. An empty slab goes back to the
 * pool unless it is the class's last with room. */
static void list_flush(ms_arena_t *arena, uint32_t class, int64_t keep) {
    void *kept = ms_list_end;
    void **tail = &arena->lists[class].first;
    for (int64_t i = 0; i < keep && *tail != ms_list_end; i++) {
        kept = *tail;
        if (ms_unlikely(!ms_header_is_free(ms_header_of(kept)))) ms_fault_free_list(kept, class);
        tail = (void **)&ms_header_of(kept)->word0;
    }
    void *payload = *tail;
    *tail = ms_list_end;
    if (kept != ms_list_end) ms_header_set_free(ms_header_of(kept), ms_list_end);
    const cut_t cut = cut_of(class);
    ms_group_t *group = NULL;
    int64_t count = 0;
    while (payload != ms_list_end) {
        ms_slab_t *slab = slab_of_listed(&group, payload, class);
        count += slab_push(slab, cut, &payload, true);
        if (!slab->listed) {
            give_up_lone_slab(arena, class);
            slab_list(arena, slab);
        }
        if (slab_is_empty(slab) && (slab != arena->slabs[class] || slab->child)) {
            slab_give_up(arena, slab);
            group = NULL; /* it may be another's now */
        }
    }
    list_lengthen(arena, class, -count);
}

/* Whether every block of the class is in the arena's list or in its slabs. */
static bool class_is_free(ms_arena_t *arena, uint32_t class) { return blocks_cut(arena, class) == list_length(arena, class); }

/* All slabs of such a class go to the pool: quicker than list_flush(), as its blocks need not be found again. */
static void class_give_up(ms_arena_t *arena, uint32_t class) {
    ms_free_list_t *list = &arena->lists[class];
    for (ms_slab_t *slab = ms_slab_heap_unravel(&arena->slabs[class]), *next; slab; slab = next) {
        next = slab->next;
        slab->listed = false;
        if (slab_is_empty(slab)) slab_leave(arena, slab);
    }
    const cut_t cut = cut_of(class);
    ms_group_t *group = NULL;
    for (void *payload = list->first; payload != ms_list_end;) {
        ms_slab_t *slab = slab_of_listed(&group, payload, class);
        slab_push(slab, cut, &payload, false);
        if (!slab_is_empty(slab)) continue;
        slab_leave(arena, slab);
        group = NULL;
    }
    list->first = ms_list_end;
    list_lengthen(arena, class, -arena->cut[class]);
    room_reset(arena, class);
}

/* Before pages are touched that nobody touched yet, what other classes keep without need makes room. Little of it stays
 * where it is: whoever took such a slab next would have all of its pages and perhaps use few. */
#define SCAVENGE_MIN ((int64_t)8192)
static void scavenge(ms_arena_t *arena, uint32_t wanting) {
    uint32_t shift = ms_class_slab_shift(wanting);
    for (uint32_t class = 1; class < MS_SMALL_CLASSES; class++) {
        bool matters = arena->cut[class] * (int64_t)ms_class_stride(class) >= SCAVENGE_MIN;
        if (matters && class != wanting && ms_class_slab_shift(class) == shift && class_is_free(arena, class))
            class_give_up(arena, class);
    }
}

#define CUT_AT_ONCE ((uintptr_t)16384) /* where pages are there */

/* A slab that had pages when a class took it may have 64 or 256 KiB of them, for a class that needs a block or two. So pages
 * behind the first blocks go back to the system, some times for each class, unless it has used more already. */
#define NARROW_TIMES 8
static size_t narrow_bytes(uint32_t class) {
    size_t stride = ms_class_stride(class);
    return stride < CUT_AT_ONCE ? CUT_AT_ONCE : stride;
}

static void slab_narrow(ms_arena_t *arena, ms_slab_t *slab) {
    uint32_t class = slab->class;
    if (arena->narrowed[class] < NARROW_TIMES && ms_slab_narrow(slab, narrow_bytes(class))) arena->narrowed[class]++;
}

/* Pages that nobody touched yet come several at a time to a class that has many: a 32nd of what it has, so that what it may not
 * use of them is little. */
#define POPULATE_SHARE 32
#define POPULATE_MOST ((uintptr_t)65536)
#define POPULATE_STRIDE ((size_t)8192)
static void slab_populate(ms_arena_t *arena, ms_slab_t *slab, uintptr_t first, size_t stride) {
    const uintptr_t page = MS_PAGE - 1;
    uintptr_t bytes = (uintptr_t)blocks_cut(arena, slab->class) * stride / POPULATE_SHARE;
    if (bytes < 2 * MS_PAGE || stride > POPULATE_STRIDE) return;
    uintptr_t from = ((first > slab->touched_end ? first : slab->touched_end) + page) & ~page;
    uintptr_t to = (from + (bytes < POPULATE_MOST ? bytes : POPULATE_MOST)) & ~page;
    uintptr_t last = ((uintptr_t)slab->start + slab->capacity * stride + page) & ~page;
    if (to > last) to = last;
    if (to > from + MS_PAGE && ms_os_populate((void *)from, to - from)) slab->touched_end = to;
}

/* Cuts blocks up to the end of the page the cut is in: pages are touched one at a time, in order. Where they were touched
 * before, CUT_AT_ONCE of them. */
static void slab_carve(ms_arena_t *arena, ms_slab_t *slab) {
    uint32_t class = slab->class;
    size_t stride = ms_class_stride(class);
    char *first = slab->start + slab->carved * stride, *at = first;
    uintptr_t page = (uintptr_t)first & ~(uintptr_t)(MS_PAGE - 1), most = page + CUT_AT_ONCE;
    if (slab->touched_end < page + MS_PAGE) slab_populate(arena, slab, (uintptr_t)first, stride);
    uintptr_t end = slab->touched_end < most ? slab->touched_end : most;
    if (end < page + MS_PAGE) end = page + MS_PAGE;
    size_t fit = (end - (uintptr_t)first) / stride, left = slab->capacity - slab->carved;
    uint32_t count = (uint32_t)(fit == 0 ? 1 : fit < left ? fit : left);
    for (uint32_t i = 1; i < count; i++, at += stride) ms_header_set_free((ms_header_t *)at, at + stride + sizeof(ms_header_t));
    ms_header_set_free((ms_header_t *)at, ms_list_end);
    at += stride;
    if (ms_unlikely(ms_process.paranoid))
        for (char *block = first; block < at; block += stride)
            ms_paranoia_cut(block + sizeof(ms_header_t), stride - sizeof(ms_header_t));
    slab->carved += count;
    if ((uintptr_t)at > slab->touched_end) slab->touched_end = (uintptr_t)at;
    if ((size_t)(at - slab->start) > narrow_bytes(class)) arena->narrowed[class] = NARROW_TIMES;
    list_lengthen(arena, class, count);
    arena->lists[class].first = first + sizeof(ms_header_t);
}

/* A heap starts on the system backing, and outgrows it: small programs need not pay for jemalloc (0.9 MiB of resident
 * memory and the pages of its code). One that the configuration names is made ready as soon as there is a heap, which what
 * it allocates while it starts needs. */
#define STARTS_WITH ((uint64_t)MS_BACKEND_FROM_MIB << 20)
#define NAMED_STARTS_WITH ((uint64_t)1 << 20)

static _Atomic(int) backend_started;

MS_COLD void ms_arena_start_backend(void) {
    int none = 0;
    if (!atomic_compare_exchange_strong(&backend_started, &none, 1)) return;
    ms_backend_id_t id = (ms_backend_id_t)ms_process.knobs.backend;
    if (id == MS_BACKEND_MIMALLOC) return; /* from the constructor */
    const ms_backend_t *backend = ms_backend_get(id);
    if (!backend) return;
    int saved = errno;
    ms_backend_start_t start = backend->prepare ? backend->prepare() : MS_BACKEND_READY;
    errno = saved; /* this malloc may well succeed */
    if (start == MS_BACKEND_READY) ms_backend_select(backend);
    if (start == MS_BACKEND_LATER) atomic_store_explicit(&backend_started, 0, memory_order_relaxed);
}

static void backend_ensure(void) {
    if (ms_likely(atomic_load_explicit(&backend_started, memory_order_relaxed))) return;
    bool named = ms_process_knob_sources[MS_KNOB_backend] != MS_SOURCE_DEFAULT;
    if (ms_slab_mapped_bytes() + ms_large_mapped_bytes() >= (named ? NAMED_STARTS_WITH : STARTS_WITH))
        ms_arena_start_backend();
}

/* NULL: there is none, or the limit of the control group leaves no room for it. */
static ms_slab_t *slab_within_limit(ms_arena_t *arena, uint32_t class) {
    if (ms_limit_is_none() || ms_slab_is_at_hand(class)) return ms_slab_acquire(arena, class);
    size_t bytes = (size_t)1 << ms_class_slab_shift(class);
    if (!ms_limit_begin(bytes)) return NULL;
    ms_slab_t *slab = ms_slab_acquire(arena, class);
    ms_limit_end(bytes);
    return slab;
}

static ms_slab_t *slab_of_own(ms_arena_t *arena, uint32_t class) {
    ms_slab_t *slab = spare_pop(arena, is_big(class));
    if (!slab) return ms_slab_acquire_own(arena, class);
    ms_slab_take_spare(slab, arena, class);
    return slab;
}

/* Its own memory first, be it that other classes do without it; what another thread left, and new memory after that. */
static ms_slab_t *slab_for(ms_arena_t *arena, uint32_t class) {
    ms_slab_t *slab = slab_of_own(arena, class);
    if (slab) return slab;
    scavenge(arena, class);
    slab = slab_of_own(arena, class);
    if (slab) return slab;
    backend_ensure();
    return slab_within_limit(arena, class);
}

/* Fills the empty list of a class; false: no memory. */
static bool refill(ms_arena_t *arena, uint32_t class) {
    ms_arena_post(arena);
    if (ms_arena_has_mail(arena)) {
        ms_arena_drain(arena);
        if (arena->lists[class].first != ms_list_end) return true;
    }
    ms_slab_t *slab = arena->slabs[class];
    if (!slab) {
        slab = slab_for(arena, class);
        if (!slab) return false;
        slab_narrow(arena, slab);
        arena->slab_count++;
        slab_list(arena, slab);
    }
    if (slab->free_blocks)
        slab_pop(arena, slab, (uint32_t)list_limit(class));
    else
        slab_carve(arena, slab);
    if (slab->carved == slab->capacity && !slab->free_blocks) slab_unlist(arena, slab);
    room_reset(arena, class);
    return true;
}

/* A block off the list, counted as allocated by class; NULL: no memory. */
static void *take_block(ms_arena_t *arena, uint32_t class) {
    ms_free_list_t *list = &arena->lists[class];
    if (list->first == ms_list_end && !refill(arena, class)) return NULL;
    list->allocated++;
    void *payload = list_pop(arena, class);
    if (ms_unlikely(ms_process.paranoid)) ms_paranoia_taken(payload, ms_class_payload(class));
    return payload;
}

/* True: the class was given up. */
static MS_COLD bool look_among_many(ms_arena_t *arena, uint32_t class) {
    if (arena->looks[class] == LOOKS_MOST) return false;
    arena->looks[class]++;
    bool goes = has_too_much(arena) && class_is_free(arena, class) &&
                list_length(arena, class) * (int64_t)ms_class_stride(class) >= GIVE_UP_MIN;
    if (goes) class_give_up(arena, class);
    return goes;
}

void ms_release_full(void *payload, ms_arena_t *arena, size_t offset) {
    bool hidden = ms_arena_hide(arena);
    uint32_t class = ms_class_of_list(offset);
    ms_list_push(&arena->lists[class], payload);
    bool gone = are_many() && look_among_many(arena, class);
    if (!gone && list_length(arena, class) > list_limit(class)) list_flush(arena, class, list_kept(class));
    room_reset(arena, class);
    ms_arena_settle(arena);
    if (hidden) ms_arena_show(arena);
}

/* A block of this arena comes back by another way than the short one: who freed it is counted elsewhere. */
static void give_block(ms_arena_t *arena, void *payload, uint32_t class) {
    ms_free_list_t *list = &arena->lists[class];
    if (--list->room < 0)
        ms_release_full(payload, arena, ms_list_of(class));
    else
        ms_list_push(list, payload);
}

/* Puts what others freed on the lists of its classes; returns how many bytes of them this thread had allocated. */
static uint64_t drain_chain(ms_arena_t *arena, void *payload, size_t *count, uint64_t touched[2]) {
    uint64_t own = 0;
    while (payload) {
        ms_facts_t facts = ms_open(ms_header_of(payload));
        void *next = ms_facts_next(facts);
        ms_fetch_ahead(payload);
        size_t size = ms_facts_size(facts);
        if (ms_unlikely(!ms_facts_are_remote(facts)))
            ms_fault_free_list(payload, ms_slab_of(payload)->class);
        uint32_t class = ms_class_of(size);
        if (ms_facts_code(facts) == arena->code) own += size - ms_facts_unrequested(facts);
        arena->listed[class]++;
        ms_list_push(&arena->lists[class], payload);
        touched[class / 64] |= (uint64_t)1 << class % 64;
        payload = next;
        ++*count;
    }
    return own;
}

size_t ms_arena_drain(ms_arena_t *arena) {
    size_t count = 0;
    uint64_t touched[2] = {0};
    /* acquire: pairs with the release in send_home(), headers are complete */
    void *sent = atomic_exchange_explicit(&arena->inbox, NULL, memory_order_acquire), *sorted;
    atomic_store_explicit(&arena->inbox_bytes, 0, memory_order_relaxed);
    arena->drained_bytes += drain_chain(arena, sent, &count, touched);
    while ((sorted = ms_reclaim_take(arena))) drain_chain(arena, sorted, &count, touched);
    for (uint32_t half = 0; half < 2; half++)
        for (; touched[half]; touched[half] &= touched[half] - 1) {
            uint32_t class = half * 64 + (uint32_t)__builtin_ctzll(touched[half]);
            if (list_length(arena, class) <= 2 * list_limit(class)) continue;
            list_flush(arena, class, list_kept(class));
            room_reset(arena, class);
        }
    return count;
}

size_t ms_arena_listed_bytes(const ms_arena_t *arena) {
    size_t bytes = 0;
    for (uint32_t class = 0; class < MS_SMALL_CLASSES; class++)
        if (arena->lists[class].first != ms_list_end) bytes += (size_t)list_length(arena, class) * ms_class_stride(class);
    return bytes;
}

void ms_arena_flush_all(ms_arena_t *arena) {
    ms_arena_post(arena);
    ms_large_unkeep(&arena->kept);
    for (uint32_t class = 0; class < MS_SMALL_CLASSES; class++) {
        if (arena->lists[class].first != ms_list_end) list_flush(arena, class, 0);
        room_reset(arena, class);
        give_up_lone_slab(arena, class);
    }
    ms_arena_flush_spare(arena);
}

/* Blocks for another arena are gathered and sent together: one atomic operation, on a cache line that is not ours, for up
 * to 32 of them. What waits here is at most 64 KiB; it goes off when another owner's block comes, when a list is refilled
 * and when the thread ends. */
#define OUTBOX_BLOCKS 32

static inline void look_at_loss(ms_arena_t *arena);

void ms_arena_post(ms_arena_t *arena) {
    ms_arena_t *owner = arena->outbox_owner;
    if (!owner) return;
    ms_header_t *last = ms_header_of(arena->outbox_last);
    ms_facts_t facts = ms_open(last);
    void *first = atomic_load_explicit(&owner->inbox, memory_order_relaxed);
    do {
        facts.word0 = ms_word0_remote(first, ms_facts_size(facts));
        ms_close(last, facts);
        /* release: pairs with the acquire in ms_arena_drain() */
    } while (!atomic_compare_exchange_weak_explicit(&owner->inbox, &first, arena->outbox_first, memory_order_release,
                                                    memory_order_relaxed));
    size_t bytes = arena->outbox_bytes;
    arena->outbox_owner = NULL;
    arena->outbox_blocks = 0;
    arena->outbox_bytes = 0;
    ms_reclaim_posted(owner, bytes);
    if (ms_unlikely(atomic_load_explicit(&owner->state, memory_order_relaxed) == MS_ARENA_ORPHAN))
        ms_thread_posted_to_orphan(owner,
                                   atomic_load_explicit(&owner->inbox_bytes, memory_order_relaxed) >= MS_OUTBOX_BYTES);
    look_at_loss(arena);
}

static inline ms_facts_t facts_freed(ms_facts_t facts, size_t unrequested, const void *next) {
    uint32_t flags = (ms_facts_flags(facts) & ~(uint32_t)MS_FLAG_STATE) | MS_FLAG_REMOTE;
    return (ms_facts_t){.word0 = ms_word0_remote(next, ms_facts_size(facts)),
                        .identity = ms_identity((uint32_t)unrequested, ms_facts_code(facts), flags)};
}

ms_facts_t ms_block_facts_freed(const ms_block_facts_t *block, const void *next) {
    return facts_freed(block->facts, ms_facts_size(block->facts) - block->size, next);
}

/* The list in an inbox is one chain of cache lines that lie in other cores' caches: who follows it waits for each of
 * them in turn. So the first word of a block names one that comes some blocks later, for ms_fetch_ahead(): its
 * complement, as the word may still stand there when the block is given out again, and is no pointer of the program's
 * (tracking/reach.h). Nothing depends on what the word says: the program may have kept the pointer and written there.
 */
static inline void hint_ahead(ms_arena_t *arena, void *payload) {
    void **earlier = &arena->sent_last[arena->sent++ % MS_SENT_AHEAD];
    if (ms_likely(!ms_process.paranoid)) *(uintptr_t *)payload = ~(uintptr_t)*earlier;
    *earlier = payload;
}

/* `unrequested` bytes of the block's size were never asked for. */
static inline void send_home(ms_arena_t *arena, ms_arena_t *owner, void *payload, ms_facts_t facts, size_t unrequested) {
    if (arena->outbox_owner != owner) {
        ms_arena_post(arena);
        arena->outbox_owner = owner;
        arena->outbox_last = payload;
        arena->outbox_first = NULL;
    }
    uint32_t class = ms_class_of(ms_facts_size(facts));
    ms_count(&arena->remote_freed[class], 1);
    ms_close(ms_header_of(payload), facts_freed(facts, unrequested, arena->outbox_first));
    hint_ahead(arena, payload);
    arena->outbox_first = payload;
    arena->outbox_bytes += ms_class_stride(class);
    if (++arena->outbox_blocks >= OUTBOX_BLOCKS || arena->outbox_bytes >= MS_OUTBOX_BYTES) ms_arena_post(arena);
}

/* ---- counting */

/* Bytes until the next look at peaks: 1/64 of the live heap between 32 and 128 KiB, which bounds the error of the peak.
 * Below 0: every call is looked at. */
static inline int64_t quantum(const ms_arena_t *arena) {
    if (arena->always_slow) return -1;
    if (ms_arena_task(arena) != MS_TASK_NONE) return ms_task_quantum(arena);
    int64_t part = atomic_load_explicit(&ms_process.live_bytes, memory_order_relaxed) / 64;
    return part < 32768 ? 32768 : part > 131072 ? 131072 : part;
}

/* What was counted down goes where it belongs, and the countdown starts again from `next`. */
static inline void countdown_restart(ms_arena_t *arena, int64_t next) {
    ms_arena_sequence_begin(arena);
    arena->allocated_bytes += (uint64_t)(arena->countdown_set - arena->countdown);
    arena->countdown_set = arena->countdown = next;
    ms_arena_sequence_end(arena);
}

static inline void sampling_advance(ms_arena_t *arena) { arena->sample_left -= arena->countdown_set - arena->countdown; }

static inline void countdown_begin(ms_arena_t *arena) {
    int64_t next = quantum(arena);
    countdown_restart(arena, arena->sample_left < next ? arena->sample_left : next);
}

void ms_arena_rearm(ms_arena_t *arena) {
    sampling_advance(arena);
    countdown_begin(arena);
}

static bool is_exact(void) { return ms_process.sites == MS_SITES_EVERY; }

static __attribute__((noinline)) void change_live(int64_t delta) {
    int64_t live = atomic_fetch_add_explicit(&ms_process.live_bytes, delta, memory_order_relaxed) + delta;
    if (delta <= 0) return;
    ms_raise_peak(&ms_process.peak_bytes, live);
    ms_raise_peak(&ms_process.window_peak_bytes, live);
}

static inline void settle_process(ms_arena_t *arena, const ms_flow_t *flow) {
    if (is_exact()) return; /* each event has done so */
    uint64_t freed = flow->freed_bytes + arena->other_freed_bytes + arena->foreign_freed_bytes;
    uint64_t gained = flow->allocated_bytes - arena->settled.allocated_bytes, lost = freed - arena->settled.freed_bytes;
    arena->settled.allocated_bytes = flow->allocated_bytes;
    arena->settled.freed_bytes = freed;
    /* the block that made a settle due is seen by it, so what can be missed is less than the countdown was */
    uint64_t unseen = gained < (uint64_t)arena->countdown_set ? gained : (uint64_t)arena->countdown_set;
    if (unseen > arena->unseen_gain) arena->unseen_gain = unseen;
    if (lost < unseen) unseen = lost;
    if (unseen > arena->unseen_turn) arena->unseen_turn = unseen;
    if (lost > arena->unseen_loss) arena->unseen_loss = lost;
    int64_t delta = (int64_t)(gained - lost);
    if (delta != 0) change_live(delta); /* not in a loop that allocates and frees: no need for the line all threads write */
}

uint64_t ms_arena_unsettled_loss(const ms_arena_t *arena) {
    uint64_t freed = ms_read(&arena->freed_bytes) + ms_read(&arena->other_freed_bytes) + ms_read(&arena->foreign_freed_bytes);
    int64_t lost = (int64_t)(freed - ms_read(&arena->settled.freed_bytes));
    return lost > 0 ? (uint64_t)lost : 0;
}

uint64_t ms_arena_unsettled_gain(const ms_arena_t *arena) {
    int64_t gained = (int64_t)(ms_arena_allocated_bytes(arena) - ms_read(&arena->settled.allocated_bytes));
    return gained > 0 ? (uint64_t)gained : 0;
}

/* A thread that only frees comes to no settle, and others' peaks would rise as if all of that were still there. */
#define LOSS_MOST ((uint64_t)64 << 10)
static MS_COLD void settle_loss(ms_arena_t *arena) {
    ms_flow_t flow = ms_arena_bytes(arena);
    settle_process(arena, &flow);
    ms_task_settle(arena);
}
static inline void look_at_loss(ms_arena_t *arena) {
    if (ms_unlikely(ms_arena_unsettled_loss(arena) > LOSS_MOST)) settle_loss(arena);
}

#define DECAY_TICK_NS 250000000u

/* Four times a second, by whoever comes by: memory that has been free for a second goes back. */
static void decay(uint64_t now) {
    static _Atomic(uint64_t) next_ns;
    uint64_t due = atomic_load_explicit(&next_ns, memory_order_relaxed);
    if (ms_likely(now < due)) {
        if (ms_likely(due - now <= DECAY_TICK_NS)) return;
        if (atomic_exchange(&next_ns, now + DECAY_TICK_NS) != due) return; /* the clock went back */
        atomic_fetch_add_explicit(&ms_process.clock_steps_back, 1, memory_order_relaxed);
        ms_large_trim(); /* what was freed lies in the future now */
        ms_slab_trim();
        return;
    }
    if (!atomic_compare_exchange_strong(&next_ns, &due, now + DECAY_TICK_NS)) return;
    ms_thread_decay(now);
    ms_slab_decay(now);
    ms_large_decay(now);
    ms_backend_decay();
}

static inline uint64_t held_bytes(const ms_arena_t *arena, uint64_t allocated_bytes) {
    return allocated_bytes - arena->freed_bytes - arena->other_freed_bytes - arena->drained_bytes -
           atomic_load_explicit(&arena->reclaimed_bytes, memory_order_relaxed);
}

/* What others freed counts until it is home. */
static __attribute__((noinline)) void rise(ms_arena_t *arena, uint64_t allocated_bytes) {
    if (ms_unlikely(atomic_load_explicit(&arena->is_sorted_now, memory_order_relaxed))) ms_reclaim_wait();
    if (ms_arena_has_mail(arena)) ms_arena_drain(arena);
    uint64_t held = held_bytes(arena, allocated_bytes);
    if ((int64_t)held > (int64_t)arena->peak_bytes) arena->peak_bytes = held;
}

static inline void raise_peak_of_thread(ms_arena_t *arena, uint64_t allocated_bytes) {
    if ((int64_t)held_bytes(arena, allocated_bytes) > (int64_t)arena->peak_bytes) rise(arena, allocated_bytes);
}

static MS_COLD void look_at_clocks(ms_arena_t *arena) {
    ms_arena_dress(arena);
    uint64_t now = ms_os_monotonic_ns();
    ms_large_tend(&arena->kept, now);
    spare_tend(arena, now);
    decay(now);
}

/* Clocks cost more than all the rest of a settle. An exchange is cheap beside it. */
#define TURNS_OF_SETTLE 4u
#define TURNS_OF_LOOK 64u

/* Whether the clocks are due after so many turns more. */
static inline bool is_turn(const ms_arena_t *arena, uint32_t turns) {
    return (arena->turns + turns) % TURNS_OF_LOOK < turns;
}

static inline void settle(ms_arena_t *arena) {
    ms_trace_look(arena);
    ms_flow_t flow = ms_arena_bytes(arena);
    settle_process(arena, &flow);
    ms_task_settle(arena);
    raise_peak_of_thread(arena, flow.allocated_bytes);
    bool look = is_turn(arena, TURNS_OF_SETTLE);
    arena->turns += TURNS_OF_SETTLE;
    if (look) look_at_clocks(arena);
}

void ms_arena_settle(ms_arena_t *arena) { settle(arena); }

/* The countdown has run out with the block now asked for. True: it is sampled. */
static inline bool due(ms_arena_t *arena) {
    settle(arena);
    sampling_advance(arena);
    bool hit = ms_sampling_hit(arena);
    countdown_begin(arena);
    return hit;
}

/* ---- allocating */

typedef struct request {
    size_t size, alignment; /* alignment 16: none asked for */
    size_t room; /* a large block gets memory for so many bytes, if that is more */
    ms_origin_t origin;
    ms_caller_t from;
    ms_large_t *large; /* its memory, if that had to be there first */
    uint32_t site;     /* found: its own or a sample's */
    bool sampled;
} request_t;

/* Whether its fast paths are open: an event does not have to be looked at. */
static inline bool expects_blocks(const ms_arena_t *arena, ms_origin_t origin) { return (uint32_t)arena->expect[origin] != 0; }

/* In mode exact each event has its time. */
static void look_at_clock(ms_arena_t *arena) {
    uint64_t now = ms_process_milliseconds();
    if (now == arena->now_ms) return;
    arena->now_ms = now;
    ms_arena_dress(arena);
}

/* A block is there, header and all. */
static void count_birth(ms_arena_t *arena, uint32_t site, const void *base, size_t size) {
    if (is_exact())
        ms_exact_allocated(arena, site, base, size);
    else if (site)
        ms_site_count_alloc(arena, site, size);
}

static uint32_t every_site(ms_arena_t *arena, request_t *request) {
    if (!is_exact()) return 0;
    return request->site = ms_site_capture(arena, &request->from);
}

/* `size` as the header has it: 0 for large blocks. */
static inline void write_header(ms_arena_t *arena, void *payload, size_t size, uint32_t flags, uint32_t site, ms_origin_t origin) {
    flags |= MS_FLAG_LIVE | origin;
    uint32_t list = size ? ms_list_of(ms_class_of(size)) : 0;
    if (size > MS_FAST_MAX) flags |= MS_FLAG_MEDIUM;
    if (site || size == 0) flags |= MS_FLAG_SPECIAL;
    ms_close(ms_header_of(payload), (ms_facts_t){.word0 = arena->birth | ms_word0(site ? site : list, 0, size),
                                                 .identity = ms_identity(ms_arena_task(arena), arena->code, flags)});
}

/* The class of a block like this one, were it not sampled. */
static uint32_t sample_class(const request_t *request, uint32_t actual) {
    if (request->alignment > 16) return actual; /* has the same room in front anyway */
    return request->size <= MS_SMALL_MAX ? ms_class_of(request->size) : MS_CLASS_LARGE;
}

static uint32_t sample_site(ms_arena_t *arena, request_t *request, double weight, uint32_t class) {
    uint32_t site = request->site = ms_site_capture(arena, &request->from);
    arena->sampled_blocks++;
    ms_site_count_sample(arena, site, request->size, weight);
    ms_calibration_allocated(arena, site, sample_class(request, class), class, request->size, weight);
    return site;
}

static void sample_large(ms_arena_t *arena, request_t *request, ms_large_t *block) {
    block->sample_weight = ms_sampling_weight(arena, request->size);
    block->sample_class = sample_class(request, MS_CLASS_LARGE);
    block->sample_site = sample_site(arena, request, block->sample_weight, MS_CLASS_LARGE);
}

static bool is_large(const request_t *request) { return request->size > MS_SMALL_MAX || request->alignment > MS_PAGE; }

static ms_large_t *large_memory(ms_arena_t *arena, const request_t *request) {
    ms_large_t *kept = request->alignment <= MS_LARGE_HEAD ? ms_large_take(&arena->kept, request->size, request->room) : NULL;
    if (kept) return kept;
    backend_ensure();
    return ms_large_allocate(request->size, request->alignment, request->room);
}

static void *allocate_large(ms_arena_t *arena, request_t *request) {
    ms_large_t *block = request->large ? request->large : large_memory(arena, request);
    if (!block) return NULL;
    uint32_t site = every_site(arena, request);
    if (request->sampled) sample_large(arena, request, block);
    arena->lists[MS_CLASS_LARGE].allocated++;
    write_header(arena, block->payload, 0, MS_FLAG_LARGE, site, request->origin);
    count_birth(arena, site, block->payload, request->size);
    return block->payload;
}

/* In front of the inner payload: the distance back to the block's own. */
static inline uint64_t inner_identity(uint32_t code) { return ms_identity(0, code, MS_FLAG_INNER | MS_FLAG_LIVE); }
static inline uint64_t inner_token(uint32_t code) { return ms_token(inner_identity(code)); }
static ms_facts_t inner_facts(uint32_t code, size_t distance) {
    return (ms_facts_t){.word0 = distance, .identity = inner_identity(code)};
}

/* What the token of a plain block of this size has more than one's of the fast path, and what an extended one's has. */
static inline uint64_t plain_token(size_t size) { return size > MS_FAST_MAX ? ms_secret.medium : 0; }
static inline uint64_t extended_token(size_t whole) { return ms_secret.extended + plain_token(whole); }

/* A slab block with an inner payload: for an alignment, or to carry a sample's weight. */
static void *allocate_extended(ms_arena_t *arena, request_t *request) {
    size_t whole = request->size + INNER_OVERHEAD + (request->alignment - 16);
    if (whole > MS_SMALL_MAX) return allocate_large(arena, request);
    uint32_t class = ms_class_of(whole);
    char *base = take_block(arena, class);
    if (!base) return NULL;
    char *inner = (char *)(((uintptr_t)base + INNER_OVERHEAD + request->alignment - 1) & ~(request->alignment - 1));
    ms_extension_t *extension = (ms_extension_t *)base;
    *extension = (ms_extension_t){.inner = (uint16_t)(inner - base), .size = (uint32_t)request->size};
    if (request->sampled) {
        extension->sample_weight = (float)ms_sampling_weight(arena, request->size);
        extension->sample_class = (uint16_t)sample_class(request, class);
        extension->sample_site = sample_site(arena, request, extension->sample_weight, class);
    }
    uint32_t site = every_site(arena, request);
    write_header(arena, base, whole, MS_FLAG_EXTENDED, site, request->origin);
    ms_close(ms_header_of(inner), inner_facts(arena->code, extension->inner));
    count_birth(arena, site, base, request->size);
    return inner;
}

static void *allocate_plain(ms_arena_t *arena, request_t *request) {
    void *payload = take_block(arena, ms_class_of(request->size));
    if (!payload) return NULL;
    uint32_t site = every_site(arena, request);
    write_header(arena, payload, request->size, 0, site, request->origin);
    count_birth(arena, site, payload, request->size);
    return payload;
}

/* Whether the class's first block is aligned as requested. */
static bool has_aligned_first(ms_arena_t *arena, const request_t *request) {
    if (!may_lie_aligned(request->size, request->alignment) || request->size > MS_SMALL_MAX) return false;
    uint32_t class = ms_class_of(request->size);
    ms_free_list_t *list = &arena->lists[class];
    return (list->first != ms_list_end || refill(arena, class)) && list_bring_aligned(list, request->alignment);
}

static void *allocate_any(ms_arena_t *arena, request_t *request) {
    if (is_large(request)) return allocate_large(arena, request);
    if (request->sampled) return allocate_extended(arena, request);
    if (request->alignment == 16 || has_aligned_first(arena, request)) return allocate_plain(arena, request);
    return allocate_extended(arena, request);
}

MS_COLD void ms_arena_give_all_back(ms_arena_t *arena) {
    ms_arena_drain(arena);
    ms_arena_flush_all(arena);
    ms_thread_trim_orphans();
    ms_large_trim();
    ms_slab_trim();
    ms_backend_trim();
}

MS_COLD void *ms_refuse(void) {
    atomic_fetch_add_explicit(&ms_process.failed_allocations, 1, memory_order_relaxed);
    errno = ENOMEM;
    return NULL;
}

/* In a signal handler that interrupted this thread while it held a lock. */
static MS_COLD void *refuse_in_handler(void) {
    atomic_fetch_add_explicit(&ms_process.handler_refusals, 1, memory_order_relaxed);
    return ms_refuse();
}

/* The request is counted, and what was due is done. */
static void *allocate_settled(ms_arena_t *arena, request_t *request) {
    if (is_exact()) look_at_clock(arena);
    void *payload = allocate_any(arena, request);
    if (ms_unlikely(!payload)) {
        ms_arena_give_all_back(arena);
        payload = allocate_any(arena, request);
    }
    if (ms_unlikely(!payload)) {
        arena->allocated_bytes -= request->size; /* not back onto the countdown: it may have been set anew */
        return ms_refuse();
    }
    arena->allocated_blocks++;
    if (ms_unlikely(ms_process.paranoid)) ms_paranoia_born(payload);
    if (ms_unlikely(arena->tracing)) ms_trace_allocated(arena, payload, request->size, request->site);
    return payload;
}

/* The request's bytes are already off the countdown. */
static void *allocate_counted(ms_arena_t *arena, request_t *request) {
    request->sampled = arena->countdown < 0 && due(arena);
    return allocate_settled(arena, request);
}

#define ADDRESS_SPACE ((size_t)1 << 47)

/* The memory of a large block comes before its count: a request for more than there is must not raise a peak. */
static bool large_comes(ms_arena_t *arena, request_t *request) {
    request->large = large_memory(arena, request);
    if (request->large) return true;
    ms_arena_give_all_back(arena);
    request->large = large_memory(arena, request);
    return request->large != NULL;
}

static void *allocate(request_t *request) {
    if (request->size > ADDRESS_SPACE) return ms_refuse(); /* more would also upset the countdown */
    ms_arena_t *arena = ms_arena_try_enter();
    void *payload;
    if (ms_unlikely(!arena)) return refuse_in_handler();
    if (is_large(request) && !large_comes(arena, request)) {
        payload = ms_refuse();
    } else {
        arena->countdown -= (int64_t)request->size;
        payload = allocate_counted(arena, request);
    }
    ms_arena_leave(arena);
    return payload;
}

MS_HOT __attribute__((noinline)) void *ms_allocate_slow(size_t size, ms_origin_t origin, const ms_caller_t *from) {
    request_t request = {.size = size, .alignment = 16, .origin = origin, .from = MS_CALLER(from)};
    return allocate(&request);
}

/* ---- large blocks in the usual ways: what the arena keeps is given out and taken back, and nothing is rare */

/* The block just taken makes up for what was freed since the last settle, or for a part of it: nothing rose, all that a
 * settle would look at is as it was, and the countdown need not see the block. Both sides of the exchange count as settled. */
static inline bool exchange(ms_arena_t *arena, size_t size) {
    uint64_t freed = arena->freed_bytes + arena->other_freed_bytes;
    int64_t used = arena->countdown_set - arena->countdown, left = arena->sample_left - used - (int64_t)size;
    uint64_t allocated = arena->allocated_bytes + (uint64_t)used + size;
    uint64_t lost = freed + arena->foreign_freed_bytes - arena->settled.freed_bytes;
    if (allocated - arena->settled.allocated_bytes > lost || lost > arena->unseen_loss || left < 0 ||
        is_turn(arena, 1) || ms_trace_is_news(arena) || ms_task_is_any())
        return false;
    if (left < arena->countdown) ms_arena_lower_countdown(arena, left); /* it never runs longer than to the next sample */
    arena->turns++;
    arena->settled.allocated_bytes += size;
    arena->settled.freed_bytes += size;
    arena->allocated_bytes += size;
    arena->sample_left -= (int64_t)size;
    raise_peak_of_thread(arena, allocated);
    return true;
}

/* The same for a block that the countdown has seen. */
static __attribute__((noinline)) void count_taken(ms_arena_t *arena, size_t size, ms_large_t *block, const ms_caller_t *from,
                                                  const uintptr_t *frame) {
    arena->countdown -= (int64_t)size;
    if (arena->countdown >= 0 || !due(arena)) return;
    request_t request = {.size = size, .alignment = 16, .from = ms_caller_or(from, frame)};
    sample_large(arena, &request, block);
}

static __attribute__((noinline)) void *allocate_large_usual(size_t size, ms_origin_t origin, const ms_caller_t *from) {
    ms_arena_t *arena = ms_arena_current;
    if (!expects_blocks(arena, origin)) return ms_allocate_slow(size, origin, from); /* so it is not the empty one */
    ms_arena_hide_current(arena);
    ms_large_t *block = ms_large_take_newest(&arena->kept, size);
    if (ms_unlikely(!block)) {
        ms_arena_show(arena);
        return ms_allocate_slow(size, origin, from);
    }
    void *payload = atomic_load_explicit(&block->payload, memory_order_relaxed);
    uint64_t token = arena->expect[origin] + ms_secret.large; /* before tracing may begin */
    if (!exchange(arena, size)) count_taken(arena, size, block, from, __builtin_frame_address(0));
    arena->lists[MS_CLASS_LARGE].allocated++;
    arena->allocated_blocks++;
    ms_header_t *header = ms_header_of(payload);
    header->word0 = arena->birth;
    header->word1 = ms_seal(arena->birth, token, payload);
    if (ms_unlikely(arena->tracing)) ms_trace_allocated(arena, payload, size, block->sample_site);
    ms_arena_show(arena);
    return payload;
}

MS_HOT __attribute__((noinline)) void *ms_allocate_medium(size_t size, ms_origin_t origin, const ms_caller_t *from) {
    if (ms_unlikely(size > MS_SMALL_MAX)) return allocate_large_usual(size, origin, from);
    bool due;
    ms_arena_t *arena = ms_arena_current;
    size_t offset = ms_list_of(ms_class_of(size));
    void *payload = ms_take_plain(arena, size, size, offset, origin, ms_secret.medium, MS_COUNT, &due);
    if (ms_likely(payload != NULL)) return payload;
    return due ? ms_allocate_due(size, origin, from) : ms_allocate_slow(size, origin, from);
}

/* ---- mode exact: the usual malloc and the usual free, without what is rare; that takes the ways it takes in other modes */

static inline bool is_usual(const ms_arena_t *arena) { return is_exact() && !ms_process.paranoid && !arena->tracing; }

/* What due() does, of which ms_arena_settle() only now and then. */
static inline void settle_exact(ms_arena_t *arena) {
    if (is_turn(arena, TURNS_OF_SETTLE))
        ms_arena_settle(arena);
    else
        arena->turns += TURNS_OF_SETTLE;
    ms_trace_look(arena);
    sampling_advance(arena);
    countdown_restart(arena, -1);
    raise_peak_of_thread(arena, arena->allocated_bytes);
    ms_task_settle(arena);
}

/* The list of the block's class is not empty. */
static inline void *allocate_exact(ms_arena_t *arena, size_t size, ms_origin_t origin, const ms_caller_t *from) {
    uint32_t class = ms_class_of(size);
    settle_exact(arena);
    look_at_clock(arena);
    arena->lists[class].allocated++;
    void *payload = list_pop(arena, class);
    uint32_t site = ms_site_capture(arena, from);
    write_header(arena, payload, size, 0, site, origin);
    ms_exact_allocated(arena, site, payload, size);
    arena->allocated_blocks++;
    return payload;
}

/* A block of this thread and of the current task, without a name. */
static inline bool release_exact(void *payload, ms_origin_t origin) {
    ms_arena_t *arena = ms_arena_current;
    if (!is_usual(arena) || arena->code == MS_CODE_FOLDED || !ms_heap_may_hold(payload) || (uintptr_t)payload & 15) return false;
    ms_facts_t facts = ms_open(ms_header_of(payload));
    const uint64_t may_be = ms_identity_flag(MS_FLAG_MEDIUM | MS_FLAG_SPECIAL);
    if ((facts.identity & ~may_be) != ms_identity(ms_arena_task(arena), arena->code, MS_FLAG_LIVE | origin)) return false;
    uint32_t site = ms_facts_site(facts);
    size_t size = ms_facts_size(facts);
    if (site >= MS_SITE_VARIABLES || !ms_arena_hide(arena)) return false;
    ms_trace_look(arena); /* this event is not traced yet, the next one is */
    look_at_clock(arena);
    ms_exact_freed(arena, site, payload, size, ms_facts_age(facts));
    ms_give_plain(arena, payload, size, ms_list_of(ms_class_of(size)));
    ms_task_settle(arena);
    ms_arena_show(arena);
    return true;
}

/* Most times a settle was all that was due, and the fast path goes on where it stopped. */
static void *allocate_due(ms_arena_t *arena, size_t size, ms_origin_t origin, const ms_caller_t *from) {
    bool sampled = due(arena), none;
    if (!sampled && !arena->always_slow && size - 1 < MS_SMALL_MAX) {
        size_t offset = ms_list_of(ms_class_of(size));
        void *payload = ms_take_plain(arena, size, size, offset, origin, plain_token(size), MS_COUNTED, &none);
        if (ms_likely(payload != NULL)) return payload;
    }
    request_t request = {.size = size, .alignment = 16, .origin = origin, .from = *from, .sampled = sampled};
    return allocate_settled(arena, &request);
}

__attribute__((noinline)) void *ms_allocate_due(size_t size, ms_origin_t origin, const ms_caller_t *from) {
    ms_caller_t caller = MS_CALLER(from);
    ms_arena_t *arena = ms_arena_current;
    bool hidden = ms_arena_hide(arena);
    bool usual = is_usual(arena) && arena->lists[ms_class_of(size)].first != ms_list_end;
    void *payload = usual ? allocate_exact(arena, size, origin, &caller) : allocate_due(arena, size, origin, &caller);
    if (hidden) ms_arena_show(arena);
    return payload;
}

/* What allocate_extended() does for an alignment, where the list has a block; NULL: nothing was changed. */
static inline __attribute__((always_inline)) void *take_extended(ms_arena_t *arena, size_t size, size_t alignment,
                                                                 ms_origin_t origin, ms_counting_t counting) {
    size_t whole = size + INNER_OVERHEAD + (alignment - 16);
    if (whole > MS_SMALL_MAX) return NULL;
    size_t offset = ms_list_of(ms_class_of(whole));
    bool due;
    char *base = ms_take_plain(arena, size, whole, offset, origin, extended_token(whole), counting, &due);
    if (ms_unlikely(!base)) return NULL;
    char *inner = (char *)(((uintptr_t)base + INNER_OVERHEAD + alignment - 1) & ~(alignment - 1));
    *(ms_extension_t *)base = (ms_extension_t){.inner = (uint16_t)(inner - base), .size = (uint32_t)size};
    ms_close(ms_header_of(inner), inner_facts(arena->code, (size_t)(inner - base)));
    return inner;
}

/* Most times a settle was all that was due here too. */
static void *allocate_aligned_due(ms_arena_t *arena, request_t *request) {
    void *payload = NULL;
    ms_arena_hide_current(arena);
    arena->countdown -= (int64_t)request->size;
    request->sampled = due(arena);
    if (!request->sampled && !arena->always_slow)
        payload = take_extended(arena, request->size, request->alignment, request->origin, MS_COUNTED);
    if (!payload) payload = allocate_settled(arena, request);
    ms_arena_show(arena);
    return payload;
}

static MS_HOT __attribute__((noinline)) void *allocate_aligned(size_t size, size_t alignment, ms_origin_t origin, const ms_caller_t *from) {
    request_t request = {.size = size, .alignment = alignment, .origin = origin, .from = MS_CALLER(from)};
    ms_arena_t *arena = ms_arena_current;
    if (!is_large(&request) && arena->countdown < (int64_t)size && expects_blocks(arena, origin))
        return allocate_aligned_due(arena, &request);
    return allocate(&request);
}

/* A block of the very size that happens to be aligned. */
static inline __attribute__((always_inline)) void *take_lying_aligned(ms_arena_t *arena, size_t size, size_t offset,
                                                                      ms_origin_t origin) {
    return ms_take_from(arena, size, size, offset, origin, plain_token(size));
}

/* The list's first block is none, or something is due. */
static __attribute__((noinline)) void *look_for_aligned(size_t size, size_t alignment, ms_origin_t origin, const ms_caller_t *from) {
    ms_arena_t *arena = ms_arena_current;
    ms_caller_t caller = MS_CALLER(from);
    size_t offset = ms_list_of(ms_class_of(size));
    void *payload = NULL;
    if (arena->countdown >= (int64_t)size) { /* so it is not the empty one */
        ms_arena_hide_current(arena);
        bool brought = list_bring_aligned(ms_list_at(arena, offset), alignment);
        ms_arena_show(arena);
        if (brought) payload = take_lying_aligned(arena, size, offset, origin);
        if (!payload) payload = take_extended(arena, size, alignment, origin, MS_COUNT_OR_NONE);
    }
    return payload ? payload : allocate_aligned(size, alignment, origin, &caller);
}

MS_HOT void *ms_allocate_aligned(size_t size, size_t alignment, ms_origin_t origin, const ms_caller_t *from) {
    if (alignment <= 16) return ms_allocate(size, origin, from);
    if (ms_unlikely(size > MS_SMALL_MAX || alignment > MS_PAGE)) return allocate_aligned(size, alignment, origin, from);
    ms_arena_t *arena = ms_arena_current;
    if (may_lie_aligned(size, alignment)) {
        size_t offset = ms_list_of(ms_class_of(size));
        bool is_first = is_aligned(ms_list_at(arena, offset)->first, alignment);
        void *payload = is_first ? take_lying_aligned(arena, size, offset, origin) : NULL;
        return ms_likely(payload != NULL) ? payload : look_for_aligned(size, alignment, origin, from);
    }
    void *payload = take_extended(arena, size, alignment, origin, MS_COUNT_OR_NONE);
    return ms_likely(payload != NULL) ? payload : allocate_aligned(size, alignment, origin, from);
}

/* ---- finding */

/* Threads, tasks and families that there are. */
static bool facts_are_of_us(ms_facts_t facts) {
    return ms_facts_code(facts) < ms_thread_code_count() && ms_facts_task(facts) < ms_task_index_count() &&
           (ms_facts_flags(facts) & MS_FLAG_ORIGIN) < MS_ORIGIN_COUNT;
}

static bool find_in_slab(const void *payload, ms_slab_t *slab, ms_block_facts_t *found) {
    if (!atomic_load_explicit(&slab->arena, memory_order_relaxed)) return false;
    if ((uintptr_t)payload & 15) return false;
    ms_header_t *header = ms_header_of(payload);
    ms_facts_t facts = ms_open(header);
    if (!ms_facts_can_be(facts)) return false;
    char *base = (char *)(uintptr_t)payload;
    if (ms_facts_flags(facts) & MS_FLAG_INNER) {
        size_t distance = facts.word0;
        uint64_t inner = facts.identity;
        if (distance > (uintptr_t)(base - slab->start) - sizeof *header || distance & 15) return false;
        base -= distance;
        header = ms_header_of(base);
        facts = ms_open(header);
        if (!ms_facts_can_be(facts) || !(ms_facts_flags(facts) & MS_FLAG_EXTENDED) ||
            inner != inner_facts(ms_facts_code(facts), distance).identity)
            return false;
    } else if (ms_facts_flags(facts) & MS_FLAG_EXTENDED) {
        return false; /* the outer payload of an extended block was never given out */
    }
    uint32_t flags = ms_facts_flags(facts);
    size_t size = ms_facts_size(facts);
    if ((flags & (MS_FLAG_LIVE | MS_FLAG_LARGE)) != MS_FLAG_LIVE || size > MS_SMALL_MAX ||
        ms_class_of(size) != slab->class || !facts_are_of_us(facts))
        return false;
    if (flags & MS_FLAG_EXTENDED) size = ((const ms_extension_t *)base)->size;
    *found = (ms_block_facts_t){.base = base, .header = header, .facts = facts, .size = size, .slab = slab};
    return true;
}

/* Whether the header agrees that this live large block is one. */
static bool large_facts(ms_large_t *block, const void *payload, ms_block_facts_t *found) {
    ms_header_t *header = ms_header_of(payload);
    ms_facts_t facts = ms_open(header);
    const uint32_t may_be = MS_FLAG_ORIGIN | MS_FLAG_SPECIAL;
    if (!ms_facts_can_be(facts) || (ms_facts_flags(facts) & ~may_be) != (MS_FLAG_LIVE | MS_FLAG_LARGE) ||
        ms_facts_size(facts) || !facts_are_of_us(facts))
        return false;
    *found = (ms_block_facts_t){
        .base = header + 1, .header = header, .facts = facts, .size = block->size, .large = block};
    return true;
}

static bool find_large(const void *payload, ms_block_facts_t *found) {
    ms_large_t *block = ms_large_find(payload);
    return block && large_facts(block, payload, found);
}

bool ms_block_find(const void *payload, ms_block_facts_t *found) {
    ms_slab_t *slab = ms_slab_of(payload);
    return slab ? find_in_slab(payload, slab, found) : find_large(payload, found);
}

void *ms_block_payload(const ms_block_facts_t *block) {
    bool extended = ms_facts_flags(block->facts) & MS_FLAG_EXTENDED;
    return (char *)block->base + (extended ? ((const ms_extension_t *)block->base)->inner : 0);
}

bool ms_block_has_inner(const void *base, const void *payload) {
    const uint32_t mask = MS_FLAG_LIVE | MS_FLAG_EXTENDED;
    return (ms_facts_flags(ms_open(ms_header_of(base))) & mask) == mask &&
           (const char *)base + ((const ms_extension_t *)base)->inner == payload;
}

/* Whether it is a plain live block of this very thread, whatever its task. */
static bool is_own_plain(const ms_arena_t *arena, const void *payload, ms_facts_t *facts) {
    if (!ms_heap_may_hold(payload)) return false;
    *facts = ms_open(ms_header_of(payload));
    const uint32_t may_be = MS_FLAG_ORIGIN | MS_FLAG_MEDIUM;
    return (uint32_t)(facts->identity & ~ms_identity_flag(may_be)) == (uint32_t)ms_identity(0, arena->code, MS_FLAG_LIVE) &&
           ms_facts_task(*facts) < ms_task_index_count();
}

size_t ms_block_size(const void *payload) {
    ms_facts_t facts;
    if (ms_likely(is_own_plain(ms_arena_current, payload, &facts))) return ms_facts_size(facts);
    ms_block_facts_t block;
    if (!ms_block_find(payload, &block)) ms_fault_pointer("malloc_usable_size", payload);
    return block.size;
}

/* ---- freeing */

static __attribute__((noinline)) void count_sample_free_large(ms_arena_t *arena, const ms_large_t *large) {
    ms_site_count_sample_free(arena, large->sample_site, large->size, large->sample_weight);
    ms_calibration_freed(arena, large->sample_site, large->sample_class, MS_CLASS_LARGE, large->size, large->sample_weight);
}

static void count_sample_free(ms_arena_t *arena, const ms_block_facts_t *block) {
    if (block->large && block->large->sample_site) count_sample_free_large(arena, block->large);
    if (!(ms_facts_flags(block->facts) & MS_FLAG_EXTENDED)) return;
    const ms_extension_t *extension = block->base;
    if (!extension->sample_site) return;
    ms_site_count_sample_free(arena, extension->sample_site, block->size, extension->sample_weight);
    ms_calibration_freed(arena, extension->sample_site, extension->sample_class, block->slab->class, block->size,
                         extension->sample_weight);
}

static MS_COLD void count_named_free(ms_arena_t *arena, uint32_t site, const ms_block_facts_t *block) {
    ms_site_count_free(arena, site, block->size);
    ms_calibration_named_freed(block->large ? MS_CLASS_LARGE : block->slab->class);
}

static void count_free(ms_arena_t *arena, const ms_block_facts_t *block) {
    uint32_t task = ms_facts_task(block->facts), site = ms_facts_site(block->facts);
    bool own = ms_facts_code(block->facts) == arena->code;
    bool current = task == ms_arena_task(arena);
    if (own && current) {
        arena->freed_bytes += block->size;
        arena->freed_blocks++;
    } else {
        if (own) {
            ms_count(&arena->other_freed_bytes, block->size);
            ms_count(&arena->other_freed_blocks, 1);
        } else {
            ms_thread_count_foreign_free(arena, ms_facts_code(block->facts), block->size);
            if (block->large) ms_thread_large_is_gone(ms_facts_code(block->facts), block->size);
        }
        ms_task_count_foreign_free(arena, task, block->size);
    }
    if (is_exact())
        ms_exact_freed(arena, site, block->base, block->size, ms_facts_age(block->facts));
    else if (site)
        count_named_free(arena, site, block);
    count_sample_free(arena, block);
}

/* The header in front of an inner payload must not outlive the block. */
static void erase_inner(const ms_block_facts_t *block) {
    const ms_extension_t *extension = block->base;
    ms_header_set_free(ms_header_of((char *)block->base + extension->inner), NULL);
}

void ms_release_memory(ms_arena_t *arena, const ms_block_facts_t *block) {
    if (ms_unlikely(ms_process.paranoid)) ms_paranoia_dead(block);
    ms_arena_t *owner = atomic_load_explicit(&block->slab->arena, memory_order_relaxed);
    if (owner == arena)
        give_block(arena, block->base, block->slab->class);
    else
        send_home(arena, owner, block->base, block->facts, ms_facts_size(block->facts) - block->size);
}

/* The block was claimed. */
static void release_large(ms_arena_t *arena, const ms_block_facts_t *block) {
    if (ms_unlikely(arena->tracing)) ms_trace_freed(arena, block->base, block->size);
    count_free(arena, block);
    ms_count(&arena->freed_before[MS_CLASS_LARGE], 1);
    ms_header_set_free(block->header, NULL);
    ms_large_release(&arena->kept, block->large);
    if (ms_unlikely(arena->always_slow))
        settle_loss(arena);
    else
        look_at_loss(arena);
}

static void release(ms_arena_t *arena, ms_block_facts_t *block, void *payload) {
    if (ms_facts_site(block->facts) >= MS_SITE_VARIABLES) ms_owned_freed(payload);
    if (block->large) {
        if (!ms_large_claim(block->large)) ms_fault_pointer("free", payload); /* another thread was faster */
        release_large(arena, block);
        return;
    }
    if (ms_unlikely(arena->tracing)) ms_trace_freed(arena, payload, block->size);
    count_free(arena, block);
    if (ms_unlikely(arena->always_slow)) settle_loss(arena); /* where each call is looked at, peaks are exact */
    if (ms_facts_flags(block->facts) & MS_FLAG_EXTENDED) erase_inner(block);
    if (ms_likely(!ms_process.paranoid) || !ms_paranoia_keep(arena, block)) ms_release_memory(arena, block);
    if (ms_unlikely(arena->always_slow)) ms_arena_post(arena); /* its owner's peak is exact, too */
}

#define SIZE_UNSAID SIZE_MAX
static MS_COLD void release_checked(void *payload, ms_origin_t origin, size_t size) {
    if (!payload) return;
    ms_block_facts_t block;
    if (ms_unlikely(ms_lock_is_held())) { /* a signal handler: the block stays */
        atomic_fetch_add_explicit(&ms_process.handler_refusals, 1, memory_order_relaxed);
        return;
    }
    if (ms_unlikely(!ms_block_find(payload, &block))) ms_fault_pointer(origin == MS_ORIGIN_C ? "free" : "delete", payload);
    if (ms_unlikely((ms_facts_flags(block.facts) & MS_FLAG_ORIGIN) != origin)) ms_fault_mismatch(payload, &block, origin);
    if (ms_unlikely(size != SIZE_UNSAID && size != block.size)) ms_fault_size_mismatch(payload, &block, size);
    if (ms_unlikely(ms_process.paranoid)) ms_paranoia_dies(payload, &block);
    ms_arena_t *arena = ms_arena_enter();
    if (is_exact()) look_at_clock(arena);
    ms_trace_look(arena);
    release(arena, &block, payload);
    ms_arena_leave(arena);
}

/* A large block has its payload there in a page, unless it is aligned to more. */
static inline bool may_be_large(const void *payload) { return ((uintptr_t)payload & (MS_PAGE - 1)) == MS_LARGE_HEAD; }

/* ---- freeing in the usual ways, without what is rare. False: not such a block, nothing was changed, release_checked() finds
 * out what it is. The header says what there is to do; `arena` expects blocks, which it does not where every event is looked
 * at. */

/* An aligned block of this thread, if it is of the current task and not sampled. Its inner header is right. */
static inline bool release_aligned(ms_arena_t *arena, char *payload, ms_origin_t origin) {
    char *base = payload - ms_header_of(payload)->word0;
    if (!ms_heap_may_hold(base)) return false;
    const ms_header_t *header = ms_header_of(base);
    size_t whole = header->word0 & 0xffff;
    if (!ms_header_is(header, arena->expect[origin] + extended_token(whole))) return false;
    const ms_extension_t *extension = (const ms_extension_t *)base;
    if (extension->sample_site) return false;
    ms_header_set_free(ms_header_of(payload), NULL);
    ms_give_plain(arena, (uint64_t *)base, extension->size, ms_plain_list((const uint64_t *)base));
    return true;
}

/* A block of another thread. */
static bool release_remote(ms_arena_t *arena, void *payload, ms_facts_t facts) {
    ms_slab_t *slab = ms_slab_of(payload);
    ms_arena_t *owner = slab ? atomic_load_explicit(&slab->arena, memory_order_relaxed) : NULL;
    size_t size = ms_facts_size(facts);
    if (!owner || owner == arena || size > MS_SMALL_MAX || ms_class_of(size) != slab->class || !facts_are_of_us(facts) ||
        !ms_arena_hide(arena))
        return false;
    ms_thread_count_foreign_free(arena, ms_facts_code(facts), size);
    ms_task_count_foreign_free(arena, ms_facts_task(facts), size);
    send_home(arena, owner, payload, facts, 0);
    ms_arena_show(arena);
    return true;
}

/* A block of this thread and of the current task, without a name. may_be_large(payload). */
static inline bool release_large_own(ms_arena_t *arena, void *payload, ms_origin_t origin) {
    ms_large_t *block = arena->kept.last;
    if (!block || atomic_load_explicit(&block->payload, memory_order_relaxed) != payload || !ms_large_is_live(block))
        block = ms_large_find_fast(payload);
    ms_header_t *header = ms_header_of(payload);
    if (!block || !ms_header_is(header, arena->expect[origin] + ms_secret.large) || header->word0 >> MS_WORD0_SITE_SHIFT)
        return false;
    ms_arena_hide_current(arena);
    ms_large_claim_own(block);
    arena->freed_bytes += block->size;
    arena->freed_blocks++;
    if (block->sample_site) count_sample_free_large(arena, block);
    ms_count(&arena->freed_before[MS_CLASS_LARGE], 1);
    ms_header_set_free(header, NULL);
    if (ms_unlikely(!ms_large_keep(&arena->kept, block))) {
        ms_large_release(&arena->kept, block);
        look_at_loss(arena);
    }
    ms_arena_show(arena);
    return true;
}

/* A large block, of whatever thread and task. */
static bool release_large_fast(ms_arena_t *arena, void *payload, ms_origin_t origin) {
    if (!may_be_large(payload)) return false;
    ms_large_t *large = ms_large_find_fast(payload);
    ms_block_facts_t block;
    if (!large || !large_facts(large, payload, &block) || (ms_facts_flags(block.facts) & MS_FLAG_ORIGIN) != origin ||
        !ms_large_claim(large))
        return false;
    bool hidden = ms_arena_hide(arena);
    release_large(arena, &block);
    if (hidden) ms_arena_show(arena);
    return true;
}

/* Live, of this family and nothing special, whosever it is. */
static inline bool is_plain(ms_facts_t facts, ms_origin_t origin) {
    return ms_facts_can_be(facts) && (ms_facts_flags(facts) & ~(uint32_t)MS_FLAG_MEDIUM) == (MS_FLAG_LIVE | (uint32_t)origin);
}

static bool release_usual(ms_arena_t *arena, void *payload, ms_origin_t origin) {
    if (!ms_heap_may_hold(payload)) return release_large_fast(arena, payload, origin);
    if ((uintptr_t)payload & 15) return false;
    ms_facts_t facts = ms_open(ms_header_of(payload));
    if (is_plain(facts, origin)) return ms_facts_code(facts) != arena->code && release_remote(arena, payload, facts);
    return ms_facts_can_be(facts) && ms_facts_flags(facts) == (MS_FLAG_LIVE | MS_FLAG_LARGE | MS_FLAG_SPECIAL | origin) &&
           release_large_fast(arena, payload, origin);
}

static MS_HOT __attribute__((noinline)) void release_other(void *payload, ms_origin_t origin) {
    ms_arena_t *arena = ms_arena_current;
    if (expects_blocks(arena, origin) ? release_usual(arena, payload, origin) : release_exact(payload, origin)) return;
    release_checked(payload, origin, SIZE_UNSAID);
}

static __attribute__((noinline)) void release_large_or_other(void *payload, ms_origin_t origin) {
    if (!release_large_own(ms_arena_current, payload, origin)) release_other(payload, origin);
}

static __attribute__((noinline)) void release_aligned_or_other(void *payload, ms_origin_t origin) {
    if (!release_aligned(ms_arena_current, payload, origin)) release_other(payload, origin);
}

/* Blocks between 1 and 32 KiB are as plain as smaller ones, but of the medium kind. */
MS_HOT __attribute__((noinline)) void ms_release_slow(void *payload, ms_origin_t origin) {
    ms_arena_t *arena = ms_arena_current;
    if (ms_heap_may_hold(payload)) {
        const ms_header_t *header = ms_header_of(payload);
        uint64_t token = header->word1 - ms_seal(header->word0, 0, payload);
        if (token == arena->expect[origin] + ms_secret.medium) {
            ms_give_plain(arena, payload, ms_plain_size(payload), ms_plain_list(payload));
            return;
        }
        if (token == inner_token(arena->code)) {
            release_aligned_or_other(payload, origin);
            return;
        }
    }
    if (may_be_large(payload))
        release_large_or_other(payload, origin);
    else
        release_other(payload, origin);
}

static bool is_plain_of(void *payload, ms_origin_t origin, size_t size) {
    if (!ms_heap_may_hold(payload)) return false;
    ms_facts_t facts = ms_open(ms_header_of(payload));
    return is_plain(facts, origin) && ms_facts_size(facts) == size;
}

__attribute__((noinline)) void ms_release_sized_slow(void *payload, ms_origin_t origin, size_t size) {
    if (is_plain_of(payload, origin, size))
        ms_release_slow(payload, origin);
    else
        release_checked(payload, origin, size);
}

/* ---- resizing */

/* A variable's name follows its block; otherwise the site is that of the resize. */
static uint32_t site_after(ms_arena_t *arena, const ms_block_facts_t *old, const ms_caller_t *from) {
    uint32_t site = ms_facts_site(old->facts);
    if (site >= MS_SITE_VARIABLES) return site;
    return is_exact() ? ms_site_capture(arena, from) : 0;
}

/* The block stays and is `size` bytes from now on: counted as freed and allocated again, in this order, since the two are
 * never there at once. True: it is sampled. */
static bool resize_counted(ms_arena_t *arena, const ms_block_facts_t *old, void *payload, size_t size,
                           const ms_caller_t *from) {
    uint32_t class = old->large ? MS_CLASS_LARGE : old->slab->class;
    uint32_t site = site_after(arena, old, from), flags = ms_facts_flags(old->facts);
    ms_exact_not_temporary(arena);
    ms_free_list_t *list = &arena->lists[class];
    count_free(arena, old);
    ms_count(&arena->freed_before[class], 1);
    arena->countdown -= (int64_t)size;
    bool sampled = arena->countdown < 0 && due(arena);
    list->allocated++;
    arena->allocated_blocks++;
    write_header(arena, payload, old->large ? 0 : size, flags & MS_FLAG_LARGE, site, (ms_origin_t)(flags & MS_FLAG_ORIGIN));
    count_birth(arena, site, payload, size);
    if (site && !is_exact()) ms_calibration_named(class);
    if (ms_unlikely(arena->tracing)) ms_trace_resized(arena, old->base, old->size, payload, size, site);
    return sampled;
}

/* A large block becomes a small one, by a copy, only when it is much smaller than that: sizes may go to and fro. */
#define STAYS_LARGE (MS_SMALL_MAX / 4 * 3)

static void *resize_large(ms_arena_t *arena, ms_block_facts_t *old, size_t size, const ms_caller_t *from) {
    ms_large_t *large = old->large, before = *large;
    ms_header_t header = *old->header; /* it may move */
    if (size < STAYS_LARGE || !ms_large_resize(large, size)) return NULL;
    ms_block_facts_t moved = *old;
    moved.header = &header;
    moved.large = &before;
    bool sampled = resize_counted(arena, &moved, large->payload, size, from);
    if (ms_facts_site(old->facts) >= MS_SITE_VARIABLES) ms_owned_moved(before.payload, large->payload);
    large->sample_site = 0;
    if (sampled && ms_facts_site(old->facts) < MS_SITE_VARIABLES) { /* else it is counted at its variable */
        request_t request = {.size = size, .from = *from};
        sample_large(arena, &request, large);
    }
    return large->payload;
}

/* Whether a block that is counted next is sampled, or may be: the countdown ends at settles, too, which are more frequent. */
static bool may_be_sampled(const ms_arena_t *arena, size_t size) {
    if (ms_process.sites != MS_SITES_SAMPLED || arena->countdown >= (int64_t)size) return false;
    int64_t left = arena->sample_left - (arena->countdown_set - arena->countdown);
    return left < (int64_t)size || ms_process.knobs.sample_rate;
}

/* Only the thread that owns the slab may leave the block where it is: a block with its code lies in its slabs. Blocks
 * about to be sampled move, their weight needs room. */
static void *resize_small(ms_arena_t *arena, ms_block_facts_t *old, size_t size, const ms_caller_t *from) {
    if (size > MS_SMALL_MAX || ms_facts_flags(old->facts) & MS_FLAG_EXTENDED || ms_class_of(size) != old->slab->class ||
        atomic_load_explicit(&old->slab->arena, memory_order_relaxed) != arena)
        return NULL;
    if (may_be_sampled(arena, size)) return NULL;
    resize_counted(arena, old, old->base, size, from);
    return old->base;
}

static void *resize_in_place(ms_block_facts_t *old, size_t size, const ms_caller_t *from) {
    ms_arena_t *arena = ms_arena_enter();
    if (is_exact()) look_at_clock(arena);
    ms_trace_look(arena);
    if (ms_unlikely(arena->tracing)) ms_trace_resizes(arena);
    void *payload = old->large ? resize_large(arena, old, size, from) : resize_small(arena, old, size, from);
    ms_arena_leave(arena);
    return payload;
}

/* A mapping that cannot grow for want of memory is tried again before a copy, which wants still more. */
static void *resize_or_give_back(ms_block_facts_t *old, size_t size, const ms_caller_t *from) {
    int saved = errno;
    errno = 0;
    void *payload = resize_in_place(old, size, from);
    if (ms_unlikely(!payload && old->large && errno == ENOMEM)) {
        ms_arena_t *arena = ms_arena_enter();
        ms_arena_give_all_back(arena);
        ms_arena_leave(arena);
        payload = resize_in_place(old, size, from);
    }
    errno = saved;
    return payload;
}

/* With junk, guard or quarantine a block moves, so that who kept its old address is found. Not a large one: no memory
 * of these waits in the quarantine, and what grows step by step would be copied, and filled, as often. */
static bool must_move(const void *payload, const ms_block_facts_t *old) {
    if (ms_likely(!ms_process.paranoid)) return false;
    if (old->large) ms_paranoia_dies(payload, old);
    return !old->large;
}

static void retag(void *payload, uint32_t site) {
    ms_block_facts_t block;
    if (!ms_block_find(payload, &block)) return;
    ms_site_retag(&block, site);
}

/* Where a plain block's list is, of whatever size; 0: not such a block. */
static inline size_t plain_list(const ms_arena_t *arena, const uint64_t *payload, ms_origin_t origin) {
    if (!ms_heap_may_hold(payload)) return 0;
    uint64_t more = payload[-1] - ms_seal(payload[-2], arena->expect[origin], payload);
    if (more != 0 && more != ms_secret.medium) return 0;
    return ms_plain_list(payload);
}

/* A plain block stays or moves to another class. NULL: not such a block, or something is due, or no memory; nothing was
 * changed. */
static inline void *resize_plain(uint64_t *payload, size_t size, ms_origin_t origin) {
    ms_arena_t *arena = ms_arena_current;
    size_t list, offset = ms_list_of(ms_class_of(size));
    if (size > MS_SMALL_MAX || !(list = plain_list(arena, payload, origin))) return NULL;
    if (list == offset) {
        if (arena->countdown < (int64_t)size) return NULL;
        ms_resize_plain(arena, payload, size, offset, origin, plain_token(size));
        return payload;
    }
    void *fresh = ms_take_from(arena, size, size, offset, origin, plain_token(size));
    if (ms_unlikely(!fresh)) return NULL;
    size_t old_size = ms_plain_size(payload);
    memcpy(fresh, payload, size < old_size ? size : old_size);
    ms_give_plain(arena, payload, old_size, list);
    return fresh;
}

/* What has grown will grow again: up to the size from which nothing is copied, room for twice as much is in the mapping.
 * Pages nobody touches cost nothing. */
static void *allocate_growing(size_t size, ms_origin_t origin, const ms_caller_t *from) {
    request_t request = {.size = size, .alignment = 16, .origin = origin, .from = *from};
    if (size < MS_DIRECT_MIN && !ms_process.paranoid) request.room = 2 * size;
    return allocate(&request);
}

/* Pages that a copy is about to touch. */
#define POPULATE_COPY ((size_t)65536)
static void populate_copy(char *to, size_t bytes) {
    const ms_large_t *block = ms_large_find(to);
    if (!block || !block->zeroed) return;
    const uintptr_t page = MS_PAGE - 1;
    uintptr_t first = ((uintptr_t)to + page) & ~page, end = ((uintptr_t)to + bytes) & ~page;
    ms_os_populate((void *)first, end - first);
}

/* There is no memory to move a block to that would be smaller: it stays as large as it is. */
static MS_COLD void *keep_larger(void *payload, int saved) {
    atomic_fetch_sub_explicit(&ms_process.failed_allocations, 1, memory_order_relaxed);
    errno = saved;
    return payload;
}

static MS_HOT __attribute__((noinline)) void *reallocate(void *payload, size_t size, ms_origin_t origin, const ms_caller_t *from) {
    ms_caller_t caller = MS_CALLER(from);
    if (ms_unlikely(ms_lock_is_held())) return refuse_in_handler();
    ms_block_facts_t old;
    if (ms_unlikely(!ms_block_find(payload, &old))) ms_fault_pointer("realloc", payload);
    if (ms_unlikely((ms_facts_flags(old.facts) & MS_FLAG_ORIGIN) != origin)) ms_fault_mismatch(payload, &old, origin);
    if (ms_unlikely(size > PTRDIFF_MAX)) return ms_refuse();
    void *stays = must_move(payload, &old) ? NULL : resize_or_give_back(&old, size, &caller);
    if (ms_unlikely(stays && ms_process.paranoid)) ms_paranoia_resized(stays, old.size);
    if (stays) return stays;
    int saved = errno;
    void *fresh = size > MS_SMALL_MAX && size > old.size ? allocate_growing(size, origin, &caller)
                                                         : ms_allocate(size, origin, &caller);
    if (!fresh) return size <= old.size ? keep_larger(payload, saved) : NULL;
    uint32_t site = ms_facts_site(old.facts);
    size_t copied = size < old.size ? size : old.size;
    if (copied >= POPULATE_COPY) populate_copy(fresh, copied);
    memcpy(fresh, payload, copied);
    if (ms_unlikely(site >= MS_SITE_VARIABLES)) ms_owned_moved(payload, fresh);
    ms_release(payload, (ms_origin_t)(ms_facts_flags(old.facts) & MS_FLAG_ORIGIN));
    if (ms_unlikely(site >= MS_SITE_VARIABLES)) retag(fresh, site);
    return fresh;
}

MS_HOT void *ms_reallocate(void *payload, size_t size, ms_origin_t origin, const ms_caller_t *from) {
    void *plain = resize_plain(payload, size, origin);
    return ms_likely(plain != NULL) ? plain : reallocate(payload, size, origin, from);
}

/* Up to 2 KiB glibc's memset() uses vectors (21 ns), beyond that string instructions, which take long to start, and longer
 * where the target is no multiple of 64. Pieces that begin at multiples of 64 store to one line at a time: 4 KiB take 0.56 of
 * one memset()'s time, 32 KiB 0.90, 1 MiB and more 0.96; between these, in the second cache, 1.04. */
#define CLEAR_PIECE 2048
#define CLEAR_PIECES_MAX ((size_t)32 << 10)
#define CLEAR_PIECES_FROM ((size_t)1 << 20)
#define CLEAR_LINE 64

static void clear(char *at, size_t size) {
    bool pieces = size <= CLEAR_PIECES_MAX || size >= CLEAR_PIECES_FROM;
    size_t piece = CLEAR_PIECE - (uintptr_t)at % CLEAR_LINE;
    for (; pieces && size > piece; at += piece, size -= piece, piece = CLEAR_PIECE) {
        MS_OPAQUE(piece); /* a constant would become a string instruction */
        memset(at, 0, piece);
    }
    memset(at, 0, size);
}

/* Whoever takes this much zeroed memory may use little of it, as a table that is thin: what the last user did not touch stays
 * untouched. To look takes a third of the time of clearing, and as long as to clear 256 KiB at least: each time that most was
 * touched, twice as much is cleared next without a look. */
#define CLEAR_TOUCHED_FROM ((size_t)256 << 10)
#define CLEAR_UNSEEN_MIN ((size_t)1 << 20)
#define CLEAR_UNSEEN_MAX ((size_t)64 << 20)
#define CLEAR_GAP 16 /* pages: fewer that nobody touched are not worth a system call */
static _Atomic(size_t) clear_unseen, clear_unseen_last; /* bytes: still to be cleared without a look; of the last look */

static void set_unseen(bool most_touched) {
    size_t last = atomic_load_explicit(&clear_unseen_last, memory_order_relaxed);
    size_t next = !most_touched ? 0 : last < CLEAR_UNSEEN_MIN ? CLEAR_UNSEEN_MIN : last < CLEAR_UNSEEN_MAX ? 2 * last : last;
    atomic_store_explicit(&clear_unseen_last, next, memory_order_relaxed);
    atomic_store_explicit(&clear_unseen, next, memory_order_relaxed);
}

/* What of the pages first to end lies in the block. */
static void clear_part(char *from, char *to, char *first, char *end) {
    from = from < first ? first : from;
    to = to > end ? end : to;
    if (from < to) clear(from, (size_t)(to - from));
}

/* Pages that nobody touched: nothing is there, but somebody who serves page faults (userfaultfd) may have something to put there.
 * The first one holds the header; what follows the block in the last one is part of its mapping, and nobody's. */
static void drop_part(char *from, char *to, char *first) {
    if (from < first) from += MS_PAGE;
    if (from < to) ms_os_clear(from, (size_t)(to - from));
}

/* So many pages from `start` on, which the block from first to end lies in: its last page is its own only in part. */
static void clear_pages(char *start, size_t pages, char *first, char *end) {
    uint64_t touched[MS_OS_LOOK / 64];
    ms_lock(MS_LOCK_LOOK);
    bool known = ms_os_look_touched(start, pages, touched);
    ms_unlock(MS_LOCK_LOOK);
    set_unseen(!known);
    if (!known) {
        clear_part(start, start + pages * MS_PAGE, first, end);
        return;
    }
    size_t from = 0; /* what is not cleared yet */
    for (size_t page = 0, gap; page < pages; page += gap ? gap : 1) {
        for (gap = 0; page + gap < pages && !(touched[(page + gap) / 64] >> (page + gap) % 64 & 1); gap++) {}
        if (gap < CLEAR_GAP && (gap == 0 || page + gap < pages)) continue;
        clear_part(start + from * MS_PAGE, start + page * MS_PAGE, first, end);
        from = page + gap;
        drop_part(start + page * MS_PAGE, start + from * MS_PAGE, first);
    }
    clear_part(start + from * MS_PAGE, start + pages * MS_PAGE, first, end);
}

static MS_COLD void clear_touched(char *at, size_t size) {
    size_t unseen = atomic_load_explicit(&clear_unseen, memory_order_relaxed);
    if (size < unseen) {
        atomic_store_explicit(&clear_unseen, unseen - size, memory_order_relaxed);
        clear(at, size);
        return;
    }
    char *start = at - (uintptr_t)at % MS_PAGE;
    size_t pages = ((uintptr_t)at % MS_PAGE + size + MS_PAGE - 1) / MS_PAGE;
    for (size_t first = 0; first < pages; first += MS_OS_LOOK)
        clear_pages(start + first * MS_PAGE, pages - first < MS_OS_LOOK ? pages - first : MS_OS_LOOK, at, at + size);
}

MS_HOT void *ms_callocate(size_t size, ms_origin_t origin, const ms_caller_t *from) {
    ms_caller_t caller = MS_CALLER(from);
    void *payload = ms_allocate(size, origin, &caller);
    if (!payload) return NULL;
    ms_block_facts_t block;
    bool large = size > MS_SMALL_MAX && !ms_process.paranoid && ms_block_find(payload, &block) && block.large;
    if (large && block.large->zeroed) return payload;
    if (large && size >= CLEAR_TOUCHED_FROM && !ms_lock_is_held())
        clear_touched(payload, size);
    else
        clear(payload, size);
    return payload;
}
