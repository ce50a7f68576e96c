#include "tracking/reach.h"
#include "alloc/large.h"
#include "alloc/lock.h"
#include "alloc/os.h"

#include <errno.h>

const char *const ms_leak_kind_names[MS_LEAK_KINDS] = {"live", "reachable", "possible", "indirect", "definite"};

/* What is known of a block so far; it only ever moves down this list, but for a head that turns out to be reached. */
enum { NONE, UNREACHED, PENDING, REACHABLE, POSSIBLE, INDIRECT, DEFINITE };

/* A slab as it was when the search began. */
typedef struct slab_view {
    const char *start; /* its first block's header */
    uint32_t first;  /* number of its first block among the states */
    uint32_t carved; /* blocks */
    uint32_t stride; /* bytes */
    uint32_t class;
} slab_view_t;

#define SLABS_MOST (MS_GROUP_BYTES >> MS_SLAB_SHIFT)
typedef struct group_view {
    uintptr_t start;
    uint32_t shift; /* slab size */
    slab_view_t slabs[SLABS_MOST];
} group_view_t;

typedef struct large_view {
    ms_walk_block_t block;
    uint8_t state;
} large_view_t;

typedef enum { FROM_ROOTS, FROM_PENDING, FROM_HEAD } phase_t;

typedef struct reach {
    group_view_t *groups;
    uint32_t group_count;
    uint32_t *group_slots; /* hash of group numbers: index + 1 */
    uint32_t group_mask;
    uint8_t *states; /* of all blocks in slabs */
    large_view_t *large; /* by address */
    size_t large_count, large_room;
    uintptr_t large_low, large_end;
    ms_span_t *stack; /* blocks to be read */
    size_t depth;
    phase_t phase;
    const char *head; /* payload of the group's head, in phase FROM_HEAD */
    uint64_t *buffer; /* COPY_BYTES */
    ms_reach_report_t *report;
    ms_region_t memory;
} reach_t;

#define COPY_BYTES 65536

/* ---- the heap as it is when the search begins */

static void add_large(void *context, const ms_walk_block_t *block) {
    reach_t *reach = context;
    if (reach->large_count == reach->large_room) return; /* came in the last moment */
    reach->large[reach->large_count++] = (large_view_t){*block, UNREACHED};
}

static void sift_down(large_view_t *heap, size_t at, size_t count) {
    large_view_t moved = heap[at];
    for (size_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && heap[child + 1].block.payload > heap[child].block.payload) child++;
        if (heap[child].block.payload <= moved.block.payload) break;
        heap[at] = heap[child];
    }
    heap[at] = moved;
}

/* Heapsort: qsort() may call malloc. */
static void sort_large(large_view_t *rows, size_t count) {
    for (size_t i = count / 2; i-- > 0;) sift_down(rows, i, count);
    for (size_t end = count; end-- > 1;) {
        large_view_t largest = rows[0];
        rows[0] = rows[end];
        rows[end] = largest;
        sift_down(rows, 0, end);
    }
}

static bool view_large(reach_t *reach) {
    reach->large_room = ms_large_totals().live_blocks + 64; /* other threads go on */
    reach->large = ms_region_alloc(&reach->memory, reach->large_room * sizeof *reach->large);
    if (!reach->large) return false;
    ms_walk_counts_t counts = ms_walk_large(add_large, reach);
    reach->report->counts.unsettled += counts.unsettled;
    if (reach->large_count == 0) return true;
    sort_large(reach->large, reach->large_count);
    const ms_walk_block_t *last = &reach->large[reach->large_count - 1].block;
    reach->large_low = (uintptr_t)reach->large[0].block.payload;
    reach->large_end = (uintptr_t)last->payload + last->size;
    return true;
}

static uint32_t group_hash(uintptr_t address) { return (uint32_t)((address >> MS_GROUP_SHIFT) * 0x9e3779b9u >> 7); }

static void view_group(reach_t *reach, const ms_group_t *group, uint32_t *blocks) {
    group_view_t *view = &reach->groups[reach->group_count++];
    view->start = (uintptr_t)group->start;
    view->shift = group->slab_shift;
    for (uint32_t i = 0; i < MS_GROUP_BYTES >> group->slab_shift; i++) {
        ms_walk_slab_t slab = ms_walk_slab(&group->slabs[i]);
        view->slabs[i] = (slab_view_t){slab.start, *blocks, slab.carved, (uint32_t)ms_class_stride(slab.class), (uint16_t)slab.class};
        *blocks += slab.carved;
    }
    uint32_t slot = group_hash(view->start) & reach->group_mask;
    while (reach->group_slots[slot]) slot = (slot + 1) & reach->group_mask;
    reach->group_slots[slot] = reach->group_count;
}

static const char *base_of(const group_view_t *group, uint32_t slab, uint32_t index) {
    return group->slabs[slab].start + (size_t)index * group->slabs[slab].stride + sizeof(ms_header_t);
}

/* One step a block of a slab that was live: fn(state, base, class). */
#define EACH_BLOCK(reach, group, slab, index)                                                                            \
    for (group_view_t *group = (reach)->groups; group < (reach)->groups + (reach)->group_count; group++)                 \
        for (uint32_t slab = 0; slab < MS_GROUP_BYTES >> group->shift; slab++)                                           \
            for (uint32_t index = 0; index < group->slabs[slab].carved; index++)

static bool view_slabs(reach_t *reach) {
    uint32_t groups = 0, blocks = 0, slots = 64;
    for (const ms_group_t *group = ms_group_first(); group; group = group->all) groups += group->start != NULL;
    while (slots < 2 * groups) slots *= 2;
    reach->groups = ms_region_alloc(&reach->memory, (groups + 1) * sizeof *reach->groups);
    reach->group_slots = ms_region_alloc(&reach->memory, slots * sizeof *reach->group_slots);
    if (!reach->groups || !reach->group_slots) return false;
    reach->group_mask = slots - 1;
    for (const ms_group_t *group = ms_group_first(); group; group = group->all)
        if (group->start) view_group(reach, group, &blocks);
    reach->states = ms_region_alloc(&reach->memory, blocks + 1);
    reach->stack = ms_region_alloc(&reach->memory, (blocks + reach->large_count + 1) * sizeof *reach->stack);
    if (!reach->states || !reach->stack) return false;
    EACH_BLOCK(reach, group, slab, index) {
        ms_walk_block_t block;
        ms_walk_state_t state = ms_walk_read(base_of(group, slab, index), group->slabs[slab].class, &block);
        if (state == MS_WALK_LIVE) reach->states[group->slabs[slab].first + index] = UNREACHED;
        reach->report->counts.unsettled += state == MS_WALK_UNSETTLED;
    }
    return true;
}

/* ---- from a word to the block it may point into */

typedef struct target {
    uint8_t *state;
    const char *start; /* payload */
    size_t size;
} target_t;

static const group_view_t *group_at(const reach_t *reach, uintptr_t address) {
    uintptr_t start = address & ~(MS_GROUP_BYTES - 1);
    for (uint32_t slot = group_hash(start) & reach->group_mask; reach->group_slots[slot]; slot = (slot + 1) & reach->group_mask)
        if (reach->groups[reach->group_slots[slot] - 1].start == start) return &reach->groups[reach->group_slots[slot] - 1];
    return NULL;
}

/* An empty block is found by its own address alone. */
static bool is_inside(uintptr_t address, const ms_walk_block_t *block) {
    return address - (uintptr_t)block->payload < (block->size ? block->size : 1);
}

static bool is_settled(const reach_t *reach, uint8_t state) {
    return state == NONE || state == REACHABLE || (reach->phase != FROM_ROOTS && state == POSSIBLE) ||
           (reach->phase == FROM_HEAD && state == INDIRECT);
}

/* A block is looked up by its header: the payload of an empty one may be the first byte behind the slab. */
static bool find_small(const reach_t *reach, uintptr_t address, target_t *target) {
    uintptr_t header = address - sizeof(ms_header_t);
    const group_view_t *group = group_at(reach, header);
    if (!group) return false;
    uint32_t slab = (uint32_t)((header - group->start) >> group->shift);
    const slab_view_t *view = &group->slabs[slab];
    if (!view->carved || header < (uintptr_t)view->start) return false;
    uint32_t index = (uint32_t)(header - (uintptr_t)view->start) / view->stride;
    if (index >= view->carved) return false;
    uint8_t *state = &reach->states[view->first + index];
    ms_walk_block_t block;
    if (is_settled(reach, *state) || ms_walk_read(base_of(group, slab, index), view->class, &block) != MS_WALK_LIVE ||
        !is_inside(address, &block))
        return false;
    *target = (target_t){state, block.payload, block.size};
    return true;
}

static bool find_large(const reach_t *reach, uintptr_t address, target_t *target) {
    if (address < reach->large_low || address >= reach->large_end) return false;
    size_t low = 0, high = reach->large_count; /* the last one that starts at the address or before */
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        *((uintptr_t)reach->large[middle].block.payload <= address ? &low : &high) = middle;
    }
    large_view_t *view = &reach->large[low];
    if (is_settled(reach, view->state) || !is_inside(address, &view->block)) return false;
    *target = (target_t){&view->state, view->block.payload, view->block.size};
    return true;
}

/* ---- the search */

static void push(reach_t *reach, const target_t *target, uint8_t state) {
    *target->state = state;
    reach->stack[reach->depth++] = (ms_span_t){(uintptr_t)target->start, target->size};
}

static void reached(reach_t *reach, uintptr_t address, const target_t *target) {
    switch (reach->phase) {
    case FROM_ROOTS:
        if (address == (uintptr_t)target->start)
            push(reach, target, REACHABLE);
        else
            *target->state = PENDING;
        break;
    case FROM_PENDING:
        push(reach, target, POSSIBLE);
        break;
    case FROM_HEAD:
        if (*target->state == UNREACHED)
            push(reach, target, INDIRECT);
        else if (target->start != reach->head)
            *target->state = INDIRECT; /* a former head, whose blocks were reached with it */
    }
}

static void consider(void *context, const uint64_t *words, size_t count) {
    reach_t *reach = context;
    for (size_t i = 0; i < count; i++) {
        uintptr_t address = __atomic_load_n(&words[i], __ATOMIC_RELAXED);
        target_t target;
        if (address - MS_PAGE >= ((uintptr_t)1 << 47) - MS_PAGE) continue;
        if (find_small(reach, address, &target) || find_large(reach, address, &target)) reached(reach, address, &target);
    }
}

static void read_far(reach_t *reach, ms_span_t span) {
    for (size_t done = 0; done < span.bytes;) {
        size_t want = span.bytes - done < COPY_BYTES ? span.bytes - done : COPY_BYTES;
        size_t got = ms_roots_copy(reach->buffer, span.start + done, want);
        consider(reach, reach->buffer, got / sizeof(uint64_t));
        reach->report->heap_bytes += got;
        done += got;
        if (got == want) continue;
        size_t skip = MS_PAGE - (span.start + done) % MS_PAGE;
        reach->report->unreadable_bytes += skip;
        done += skip;
    }
}

static void drain(reach_t *reach) {
    while (reach->depth) {
        ms_span_t span = reach->stack[--reach->depth];
        if (span.bytes >= MS_PAGE) {
            read_far(reach, span);
        } else {
            consider(reach, (const uint64_t *)span.start, span.bytes / sizeof(uint64_t));
            reach->report->heap_bytes += span.bytes;
        }
    }
}

static void consider_roots(void *context, const uint64_t *words, size_t count) {
    consider(context, words, count);
    drain(context);
}

static bool is_heap(const reach_t *reach, uintptr_t address) {
    for (size_t i = 0; i < reach->large_count; i++)
        if (is_inside(address, &reach->large[i].block)) return true;
    return group_at(reach, address) != NULL;
}

static bool stack_block(void *context, uintptr_t address) {
    reach_t *reach = context;
    target_t target;
    if (find_small(reach, address, &target) || find_large(reach, address, &target)) push(reach, &target, REACHABLE);
    drain(reach);
    return is_heap(reach, address);
}

static void start_from(reach_t *reach, uint8_t *state, const ms_walk_block_t *block, uint8_t becomes) {
    target_t target = {state, block->payload, block->size};
    reach->head = block->payload;
    push(reach, &target, becomes);
    drain(reach);
}

/* Reads on from every block that is in state `from`. */
static void search(reach_t *reach, phase_t phase, uint8_t from, uint8_t becomes) {
    reach->phase = phase;
    EACH_BLOCK(reach, group, slab, index) {
        uint8_t *state = &reach->states[group->slabs[slab].first + index];
        ms_walk_block_t block;
        if (*state == from && ms_walk_read(base_of(group, slab, index), group->slabs[slab].class, &block) == MS_WALK_LIVE)
            start_from(reach, state, &block, becomes);
    }
    for (size_t i = 0; i < reach->large_count; i++)
        if (reach->large[i].state == from) start_from(reach, &reach->large[i].state, &reach->large[i].block, becomes);
}

/* ---- the result */

static void tell(reach_t *reach, uint8_t state, const ms_walk_block_t *block, ms_reach_visit_t *visit, void *context) {
    static const ms_leak_kind_t kinds[] = {[REACHABLE] = MS_LEAK_REACHABLE, [POSSIBLE] = MS_LEAK_POSSIBLE,
                                           [INDIRECT] = MS_LEAK_INDIRECT, [DEFINITE] = MS_LEAK_DEFINITE};
    if (state < REACHABLE) return;
    reach->report->counts.blocks++;
    reach->report->counts.bytes += block->size;
    visit(context, block, kinds[state]);
}

static void tell_all(reach_t *reach, ms_reach_visit_t *visit, void *context) {
    EACH_BLOCK(reach, group, slab, index) {
        uint8_t state = reach->states[group->slabs[slab].first + index];
        ms_walk_block_t block;
        if (state != NONE && ms_walk_read(base_of(group, slab, index), group->slabs[slab].class, &block) == MS_WALK_LIVE)
            tell(reach, state, &block, visit, context);
    }
    for (size_t i = 0; i < reach->large_count; i++)
        tell(reach, reach->large[i].state, &reach->large[i].block, visit, context);
}

static bool can_read(void) {
    uint64_t there = 1, copy = 0;
    return ms_roots_copy(&copy, (uintptr_t)&there, sizeof there) == sizeof there && copy == 1;
}

int ms_reach(ms_roots_t *roots, ms_reach_visit_t *visit, void *context, ms_reach_report_t *report) {
    *report = (ms_reach_report_t){.heap_bytes = 0};
    if (!can_read()) return ENOTSUP;
    reach_t reach = {.report = report};
    reach.buffer = ms_region_alloc(&reach.memory, COPY_BYTES);
    bool ready = reach.buffer && view_large(&reach);
    ms_lock(MS_LOCK_SLABS);
    ready = ready && view_slabs(&reach);
    if (ready) {
        ms_roots_visitor_t visitor = {consider_roots, stack_block, &reach};
        ms_roots_visit(roots, &visitor, &report->roots);
        search(&reach, FROM_PENDING, PENDING, POSSIBLE);
        search(&reach, FROM_HEAD, UNREACHED, DEFINITE);
        tell_all(&reach, visit, context);
    }
    ms_unlock(MS_LOCK_SLABS);
    ms_region_free(&reach.memory);
    return ready ? 0 : ENOMEM;
}
