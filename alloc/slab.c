#include "alloc/slab.h"
#include "alloc/arena.h"
#include "alloc/backend.h"
#include "alloc/large.h"
#include "alloc/limit.h"
#include "alloc/lock.h"

#include <string.h>

ms_header_t ms_list_end_header[2] = {{0, 0}, {0, 0}}; /* not MS_FREE_MARK apart */

MS_FAR _Atomic(ms_group_leaf_t *) ms_group_map[1u << (47 - MS_GROUP_SHIFT - MS_MAP_LEAF_BITS)];

/* A free slab whose pages are still there is dirty, and is taken again first. */
typedef struct dirty_list {
    ms_slab_t *newest, *oldest;
} dirty_list_t;

/* Memory of neighbouring groups, as the backing gave it. The more there is, the more is asked for at once: each request
 * costs the kernel's lock on the address space, which other threads' page faults wait for. */
#define SPAN_GROUPS_MOST 4u

typedef struct ms_span {
    char *start;
    const ms_backend_t *backend;
    uint32_t groups, unused;         /* count; bit per place where no group is */
    struct ms_span *next, *previous; /* spans with unused places; next of those without memory */
} ms_span_t;

static struct {
    ms_group_t *with_room[2]; /* groups with free slabs, by kind */
    ms_group_t *descriptors;  /* descriptors without memory, for reuse */
    ms_span_t *roomy_spans, *empty_spans; /* with unused places; without memory, for reuse */
    uint32_t free_slabs[2];
    dirty_list_t dirty[2];    /* free slabs with pages, linked next = older */
    uint64_t exchanged_ns;    /* until when exchange() has used up its share of time */
} pool; /* MS_LOCK_SLABS */

static _Atomic(ms_group_t *) all_groups;
static _Atomic(uint64_t) mapped_bytes;

static uint32_t kind_of(uint32_t slab_shift) { return slab_shift == MS_BIG_SLAB_SHIFT; }
static uint32_t slabs_per_group(uint32_t slab_shift) { return 1u << (MS_GROUP_SHIFT - slab_shift); }
static uint32_t whole_mask(const ms_group_t *group) { return (uint32_t)((1ull << slabs_per_group(group->slab_shift)) - 1); }

ms_group_t *ms_group_first(void) { return atomic_load_explicit(&all_groups, memory_order_acquire); }
uint64_t ms_slab_mapped_bytes(void) { return atomic_load_explicit(&mapped_bytes, memory_order_relaxed); }

static void room_push(ms_group_t *group) {
    ms_group_t **head = &pool.with_room[kind_of(group->slab_shift)];
    group->previous = NULL;
    group->next = *head;
    if (*head) (*head)->previous = group;
    *head = group;
}

static void room_remove(ms_group_t *group) {
    if (group->next) group->next->previous = group->previous;
    if (group->previous)
        group->previous->next = group->next;
    else
        pool.with_room[kind_of(group->slab_shift)] = group->next;
}

static char *memory_of(const ms_group_t *group, uint32_t index) {
    return group->start + ((size_t)index << group->slab_shift);
}

static bool map_group(const char *start, ms_group_t *group) {
    uintptr_t number = (uintptr_t)start >> MS_GROUP_SHIFT;
    _Atomic(ms_group_leaf_t *) *slot = &ms_group_map[number >> MS_MAP_LEAF_BITS];
    ms_group_leaf_t *leaf = atomic_load_explicit(slot, memory_order_relaxed);
    if (!leaf) {
        leaf = ms_os_map_metadata(sizeof *leaf);
        if (!leaf) return false;
        atomic_store_explicit(slot, leaf, memory_order_release); /* pairs with ms_group_of() */
    }
    atomic_store_explicit(&leaf->group[number & ((1u << MS_MAP_LEAF_BITS) - 1)], group, memory_order_release);
    return true;
}

static ms_group_t *descriptor_new(void) {
    ms_group_t *group = pool.descriptors;
    if (group) {
        pool.descriptors = group->next;
        return group;
    }
    group = ms_os_map_metadata(sizeof *group);
    if (!group) return NULL;
    group->all = atomic_load_explicit(&all_groups, memory_order_relaxed);
    atomic_store_explicit(&all_groups, group, memory_order_release); /* pairs with ms_group_first() */
    return group;
}

static void descriptor_free(ms_group_t *group) {
    group->start = NULL;
    group->next = pool.descriptors;
    pool.descriptors = group;
}

static void span_push(ms_span_t *span) {
    span->previous = NULL;
    span->next = pool.roomy_spans;
    if (span->next) span->next->previous = span;
    pool.roomy_spans = span;
}

static void span_remove(ms_span_t *span) {
    if (span->next) span->next->previous = span->previous;
    *(span->previous ? &span->previous->next : &pool.roomy_spans) = span->next;
}

static bool span_fill(ms_span_t *span, uint32_t groups) {
    span->start = ms_backend_allocate(groups * MS_GROUP_BYTES, MS_GROUP_BYTES, &span->backend);
    span->groups = groups;
    span->unused = (1u << groups) - 1;
    return span->start != NULL;
}

static ms_span_t *span_new(void) {
    ms_span_t *span = pool.empty_spans;
    if (!span && !(span = ms_os_map_metadata(sizeof *span))) return NULL;
    pool.empty_spans = span->next;
    uint64_t groups = ms_limit_is_none() ? ms_slab_mapped_bytes() / MS_GROUP_BYTES / 2 : 1;
    if (span_fill(span, groups < 1 ? 1 : groups > SPAN_GROUPS_MOST ? SPAN_GROUPS_MOST : (uint32_t)groups) ||
        span_fill(span, 1)) {
        span_push(span);
        return span;
    }
    span->next = pool.empty_spans;
    pool.empty_spans = span;
    return NULL;
}

/* `place`: the bit of a group that is there no more, or 0. */
static void span_give_back(ms_span_t *span, uint32_t place) {
    if (!span->unused) span_push(span);
    span->unused |= place;
    if (span->unused != (1u << span->groups) - 1) return;
    span_remove(span);
    ms_backend_release(span->backend, span->start, span->groups * MS_GROUP_BYTES, MS_GROUP_BYTES);
    span->next = pool.empty_spans;
    pool.empty_spans = span;
}

/* A new group with all its slabs free. */
static ms_group_t *group_new(uint32_t slab_shift) {
    ms_span_t *span = pool.roomy_spans;
    if (!span && !(span = span_new())) return NULL;
    ms_group_t *group = descriptor_new();
    char *start = span->start + (size_t)__builtin_ctz(span->unused) * MS_GROUP_BYTES;
    if (!group || !map_group(start, group)) {
        if (group) descriptor_free(group);
        span_give_back(span, 0);
        return NULL;
    }
    span->unused &= span->unused - 1;
    if (!span->unused) span_remove(span);
    group->span = span;
    group->slab_shift = slab_shift;
    group->start = start;
    uint32_t count = slabs_per_group(slab_shift);
    group->free_mask = whole_mask(group);
    for (uint32_t i = 0; i < count; i++)
        group->slabs[i] = (ms_slab_t){.start = memory_of(group, i)};
    atomic_fetch_add_explicit(&mapped_bytes, MS_GROUP_BYTES, memory_order_relaxed);
    pool.free_slabs[kind_of(slab_shift)] += count;
    ms_heap_range_include(start, MS_GROUP_BYTES);
    room_push(group);
    return group;
}

/* Blocks whose stride is a multiple of 128 would all have their most used fields in the same few sets of the caches:
 * slabs side by side begin at different lines (Bonwick 1994, slab colouring). The octree of bench/synth: 15 % fewer
 * misses of the first cache (cachegrind). */
static size_t colour_of(uint32_t index, uint32_t class) {
    size_t stride = ms_class_stride(class), colours = (stride & -stride) / 64;
    return colours > 1 ? index % colours * 64 : 0;
}

static void dirty_push(ms_slab_t *slab, uint32_t kind) {
    dirty_list_t *list = &pool.dirty[kind];
    slab->dirty = true;
    slab->freed_ns = ms_os_monotonic_ns();
    slab->previous = NULL;
    slab->next = list->newest;
    *(list->newest ? &list->newest->previous : &list->oldest) = slab;
    list->newest = slab;
}

static void dirty_remove(ms_slab_t *slab, uint32_t kind) {
    dirty_list_t *list = &pool.dirty[kind];
    *(slab->previous ? &slab->previous->next : &list->newest) = slab->next;
    *(slab->next ? &slab->next->previous : &list->oldest) = slab->previous;
    slab->dirty = false;
}

static bool group_is_free(const ms_group_t *group) {
    return group->free_mask == whole_mask(group);
}

static void group_release(ms_group_t *group) {
    uint32_t count = slabs_per_group(group->slab_shift), kind = kind_of(group->slab_shift);
    bool dirty = false;
    for (uint32_t i = 0; i < count; i++) {
        if (!group->slabs[i].dirty) continue;
        dirty_remove(&group->slabs[i], kind);
        dirty = true;
    }
    if (dirty && group->span->groups > 1) ms_os_purge(group->start, MS_GROUP_BYTES);
    room_remove(group);
    pool.free_slabs[kind] -= count;
    map_group(group->start, NULL);
    atomic_fetch_sub_explicit(&mapped_bytes, MS_GROUP_BYTES, memory_order_relaxed);
    span_give_back(group->span, 1u << ((size_t)(group->start - group->span->start) / MS_GROUP_BYTES));
    descriptor_free(group);
}

static void take(ms_slab_t *slab, uint32_t kind) {
    ms_group_t *group = ms_group_of(slab->start);
    if (slab->dirty) dirty_remove(slab, kind);
    group->free_mask &= ~(1u << (slab - group->slabs));
    if (!group->free_mask) room_remove(group);
    pool.free_slabs[kind]--;
}

static size_t touched_bytes(const ms_slab_t *slab) { return slab->dirty ? slab->touched_end - (uintptr_t)slab->start : 0; }

/* A slab of a group that is free as a whole takes the group along, unless few free slabs would be left. Returns the bytes. */
static size_t purge(ms_slab_t *slab, uint32_t kind) {
    ms_group_t *group = ms_group_of(slab->start);
    size_t bytes = touched_bytes(slab);
    if (group_is_free(group) && pool.free_slabs[kind] >= 2 * slabs_per_group(group->slab_shift)) {
        bytes = 0;
        for (uint32_t i = 0; i < slabs_per_group(group->slab_shift); i++) bytes += touched_bytes(&group->slabs[i]);
        group_release(group);
        return bytes;
    }
    dirty_remove(slab, kind);
    slab->touched_end = 0;
    ms_os_purge(memory_of(group, (uint32_t)(slab - group->slabs)), (size_t)1 << group->slab_shift);
    return bytes;
}

/* Pages that go back may be wanted again soon, which costs about half a nanosecond a byte: 32 MiB a second are a 64th of the
 * time, and as much of it as a quarter of a second gives may be used at once (docs/decisions/0023-free-pages-for-new-ones.md). */
#define EXCHANGE_NS_PER_BYTE 30u
#define EXCHANGE_AHEAD_NS 250000000u

/* So many bytes of free slabs, those free longest first, go back to the system: as many are about to be touched that are new. */
static MS_RARE void exchange(size_t bytes) {
    uint64_t now = ms_os_monotonic_ns(), earliest = now > EXCHANGE_AHEAD_NS ? now - EXCHANGE_AHEAD_NS : 0;
    if (pool.exchanged_ns < earliest) pool.exchanged_ns = earliest;
    while (bytes && pool.exchanged_ns < now) {
        const ms_slab_t *small = pool.dirty[0].oldest, *big = pool.dirty[1].oldest;
        uint32_t kind = !small || (big && big->freed_ns < small->freed_ns);
        ms_slab_t *slab = pool.dirty[kind].oldest;
        if (!slab) return;
        size_t given = purge(slab, kind);
        bytes -= given < bytes ? given : bytes;
        pool.exchanged_ns += given * EXCHANGE_NS_PER_BYTE;
    }
}

void ms_slab_exchange(size_t bytes) {
    ms_lock(MS_LOCK_SLABS);
    if (pool.dirty[0].oldest || pool.dirty[1].oldest) exchange(bytes);
    ms_unlock(MS_LOCK_SLABS);
}

static ms_slab_t *take_free_slab(uint32_t slab_shift) {
    uint32_t kind = kind_of(slab_shift);
    ms_slab_t *slab = pool.dirty[kind].newest;
    if (!slab) {
        if (pool.dirty[!kind].oldest) exchange((size_t)1 << MS_SLAB_SHIFT);
        ms_group_t *group = pool.with_room[kind];
        if (!group && !(group = group_new(slab_shift))) return NULL;
        slab = &group->slabs[__builtin_ctz(group->free_mask)];
    }
    take(slab, kind);
    return slab;
}

#define LOOKS_FOR_OWN 16

static ms_slab_t *take_own_slab(uint32_t class, const ms_arena_t *arena) {
    uint32_t kind = kind_of(ms_class_slab_shift(class));
    ms_slab_t *slab = pool.dirty[kind].newest;
    for (int looks = 1; slab && slab->last_arena != arena; looks++) slab = looks < LOOKS_FOR_OWN ? slab->next : NULL;
    if (slab) take(slab, kind);
    return slab;
}

bool ms_slab_is_at_hand(uint32_t class) {
    ms_lock(MS_LOCK_SLABS);
    bool is = pool.dirty[kind_of(ms_class_slab_shift(class))].newest != NULL;
    ms_unlock(MS_LOCK_SLABS);
    return is;
}

static void count_untouched(ms_group_t *group, ms_os_census_t *census, uint64_t now_ns) {
    for (uint32_t i = 0; i < slabs_per_group(group->slab_shift); i++) {
        ms_slab_t *slab = &group->slabs[i];
        size_t first;
        if (group->free_mask >> i & 1 || !slab->taken_ns || !ms_limit_is_recent(slab->taken_ns, now_ns)) continue;
        if (ms_os_census_add(census, memory_of(group, i), (size_t)1 << group->slab_shift, &first) == 0) slab->taken_ns = 0;
    }
}

void ms_slab_count_untouched(ms_os_census_t *census, uint64_t now_ns) {
    ms_lock(MS_LOCK_SLABS);
    for (ms_group_t *group = ms_group_first(); group; group = group->all)
        if (group->start && ms_limit_is_recent(group->taken_ns, now_ns)) count_untouched(group, census, now_ns);
    ms_unlock(MS_LOCK_SLABS);
}

/* For a class of an arena. Walkers may read the slab meanwhile (ms_walk_slab()). */
static void dress(ms_slab_t *slab, ms_group_t *group, ms_arena_t *arena, uint32_t class) {
    uint32_t index = (uint32_t)(slab - group->slabs);
    size_t colour = colour_of(index, class);
    atomic_store_explicit(&slab->dressings, slab->dressings + 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_release); /* odd is seen before any change */
    slab->class = (uint16_t)class;
    slab->start = memory_of(group, index) + colour;
    slab->capacity = (uint32_t)((((size_t)1 << group->slab_shift) - colour) / ms_class_stride(class));
    slab->carved = slab->free_blocks = 0;
    memset(slab->free, 0, sizeof slab->free);
    slab->listed = false;
    atomic_store_explicit(&slab->arena, arena, memory_order_relaxed);
    atomic_store_explicit(&slab->dressings, slab->dressings + 1, memory_order_release);
}

static ms_slab_t *take_and_dress(ms_arena_t *arena, uint32_t class, bool own) {
    ms_lock(MS_LOCK_SLABS);
    ms_slab_t *slab = own ? take_own_slab(class, arena) : take_free_slab(ms_class_slab_shift(class));
    if (slab) {
        ms_group_t *group = ms_group_of(slab->start);
        if (!ms_limit_is_none()) slab->taken_ns = group->taken_ns = ms_os_monotonic_ns();
        dress(slab, group, arena, class);
    }
    ms_unlock(MS_LOCK_SLABS);
    return slab;
}

ms_slab_t *ms_slab_acquire_own(ms_arena_t *arena, uint32_t class) { return take_and_dress(arena, class, true); }

ms_slab_t *ms_slab_acquire(ms_arena_t *arena, uint32_t class) {
    uint64_t before = ms_slab_mapped_bytes();
    ms_slab_t *slab = take_and_dress(arena, class, false);
    if (ms_slab_mapped_bytes() > before) ms_large_shed(MS_GROUP_BYTES);
    return slab;
}

void ms_slab_make_spare(ms_slab_t *slab) { atomic_store_explicit(&slab->arena, NULL, memory_order_relaxed); }

void ms_slab_take_spare(ms_slab_t *slab, ms_arena_t *arena, uint32_t class) {
    dress(slab, ms_group_of(slab->start), arena, class);
}

bool ms_slab_narrow(ms_slab_t *slab, size_t bytes) {
    uintptr_t keep = ((uintptr_t)slab->start + bytes + MS_PAGE - 1) & ~(uintptr_t)(MS_PAGE - 1);
    uintptr_t end = (slab->touched_end + MS_PAGE - 1) & ~(uintptr_t)(MS_PAGE - 1);
    if (end <= keep) return false;
    ms_os_purge((char *)keep, end - keep);
    slab->touched_end = keep;
    return true;
}

void ms_slab_release(ms_slab_t *slab, const ms_arena_t *arena) {
    ms_lock(MS_LOCK_SLABS);
    ms_group_t *group = ms_group_of(slab->start);
    uint32_t kind = kind_of(group->slab_shift);
    slab->last_arena = arena;
    atomic_store_explicit(&slab->arena, NULL, memory_order_relaxed);
    dirty_push(slab, kind);
    if (!group->free_mask) room_push(group);
    group->free_mask |= 1u << (slab - group->slabs);
    pool.free_slabs[kind]++;
    ms_unlock(MS_LOCK_SLABS);
}

/* At most about so many bytes; returns how many. */
static MS_RARE size_t purge_older_than(uint64_t limit_ns, size_t most) {
    size_t bytes = 0;
    for (uint32_t kind = 0; kind < 2; kind++)
        while (bytes < most && pool.dirty[kind].oldest && pool.dirty[kind].oldest->freed_ns <= limit_ns)
            bytes += purge(pool.dirty[kind].oldest, kind);
    return bytes;
}

/* What is there goes in steps of an eighth, so that no malloc waits for gigabytes; other threads may come in between two pieces
 * of a step. */
#define DECAY_STEP ((size_t)64 << 20)
#define DECAY_PIECE ((size_t)4 << 20)

void ms_slab_decay(uint64_t now_ns) {
    if (now_ns <= MS_DECAY_NS) return;
    ms_lock(MS_LOCK_SLABS);
    size_t free_bytes = ((size_t)pool.free_slabs[0] << MS_SLAB_SHIFT) + ((size_t)pool.free_slabs[1] << MS_BIG_SLAB_SHIFT);
    size_t left = free_bytes / 8 > DECAY_STEP ? free_bytes / 8 : DECAY_STEP;
    for (size_t gone; (gone = purge_older_than(now_ns - MS_DECAY_NS, DECAY_PIECE)) >= DECAY_PIECE && gone < left; left -= gone) {
        ms_unlock(MS_LOCK_SLABS);
        ms_lock(MS_LOCK_SLABS);
    }
    ms_unlock(MS_LOCK_SLABS);
}

void ms_slab_trim(void) {
    ms_lock(MS_LOCK_SLABS);
    purge_older_than(UINT64_MAX, SIZE_MAX);
    for (int kind = 0; kind < 2; kind++)
        for (ms_group_t *group = pool.with_room[kind], *next; group; group = next) {
            next = group->next;
            if (group_is_free(group)) group_release(group);
        }
    ms_unlock(MS_LOCK_SLABS);
}
