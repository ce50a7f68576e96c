/* The stack table. See stacks.h for the nodes; this is the index that finds a child.
 *
 * The index is an open-addressing hash table of 64-bit slots, read and written whole:
 *     0             empty
 *     check | id    a node, `check` being 32 bits of its hash, so that a probe seldom has to look at a wrong node
 *     FROZEN        empty, and to stay so: the index is being replaced
 * An index never gives up an entry. It is replaced by one twice as large like this: freeze every empty slot (from then
 * on nothing can be added, the entries are final), copy, publish in `newest`. Whoever wants to add and meets a frozen
 * slot does the same work itself if the other has not finished soon: nobody depends on a thread that was interrupted,
 * killed or not taken along by fork. The old index stays mapped, someone may still be reading it, but its memory goes
 * back: it then reads as empty, what is looked up there seems new, and add() finds out by looking at `newest` last.
 *
 * Recursion is found where a node would be added: the frames of one never become nodes, so looking them up never
 * succeeds, and other stacks pay nothing for it.
 *
 * Two threads that add the same frame create two nodes; the one that loses the slot is taken out of use (pc 0). */
#include "tracking/stacks.h"

#include "alloc/os.h"

#include <errno.h>
#include <sched.h>

#define FROZEN 0xffffffff00000000u
#define FIRST_BITS 9  /* 512 slots, 4 KiB: small programs take few stacks */
#define LAST_BITS 23  /* holds MS_STACK_MOST */
#define ALONE_BITS 14 /* from here on, 128 KiB, an index does not share its pages with other metadata */
#define WAIT_TURNS 256

typedef struct {
    unsigned bits; /* 1 << bits slots */
    uint32_t full; /* replace it once this many ids are given out: five eighths of the slots */
    _Atomic uint64_t slots[];
} index_t;

ms_stack_table_t ms_stack_table;
static _Atomic(index_t *) newest;
static atomic_flag replacing = ATOMIC_FLAG_INIT; /* a hint to others, not a lock */

static inline uint64_t hash_of(uint32_t parent, uint64_t pc) {
    return (pc + parent * 0x9e3779b97f4a7c15u) * 0xd6e8feb86659fd93u;
}

static inline uint64_t check_of(uint64_t hash) {
    return hash << 24 & FROZEN;
}

static inline ms_stack_node_t *node_of(uint32_t id) {
    /* acquire pairs with the release in chunk_of */
    ms_stack_node_t *chunk = atomic_load_explicit(&ms_stack_table.chunks[id / MS_STACK_CHUNK], memory_order_acquire);
    return &chunk[id % MS_STACK_CHUNK];
}

static inline bool node_is(uint32_t id, uint32_t parent, uint64_t pc) {
    const ms_stack_node_t *node = node_of(id);
    return atomic_load_explicit(&node->pc, memory_order_relaxed) == pc &&
           atomic_load_explicit(&node->parent, memory_order_relaxed) == parent;
}

/* The slot that holds (parent, pc) or the first free one on its way; NULL when the index is full of others. */
static inline _Atomic uint64_t *probe(index_t *index, uint64_t hash, uint32_t parent, uint64_t pc, uint64_t *content) {
    size_t mask = ((size_t)1 << index->bits) - 1;
    size_t at = hash >> (64 - index->bits);
    for (size_t tries = 0; tries <= mask; tries++, at = (at + 1) & mask) {
        /* acquire pairs with the release in add(): the node is written before its id appears */
        uint64_t slot = atomic_load_explicit(&index->slots[at], memory_order_acquire);
        bool is_free = (uint32_t)slot == 0;
        if (is_free || ((slot & FROZEN) == check_of(hash) && node_is((uint32_t)slot, parent, pc))) {
            *content = slot;
            return &index->slots[at];
        }
    }
    return NULL;
}

static index_t *index_new(unsigned bits) {
    int saved = errno;
    index_t *index = ms_os_map_metadata(sizeof(index_t) + (sizeof(uint64_t) << bits));
    errno = saved;
    if (index == NULL) return NULL;
    index->bits = bits;
    index->full = bits < LAST_BITS ? 5u << (bits - 3) : UINT32_MAX;
    return index;
}

/* The memory of an index nobody should be using, but for its first page: someone may. */
static void give_back(index_t *index) {
    size_t bytes = sizeof(index_t) + (sizeof(uint64_t) << index->bits);
    if (index->bits >= ALONE_BITS) ms_os_purge((char *)index + MS_PAGE, (bytes - MS_PAGE) & ~(size_t)(MS_PAGE - 1));
}

static void freeze_and_copy(index_t *from, index_t *to) {
    size_t to_mask = ((size_t)1 << to->bits) - 1;
    for (size_t i = 0; i < (size_t)1 << from->bits; i++) {
        uint64_t slot = 0;
        /* acquire pairs with add(): the entry is final and its node readable */
        if (atomic_compare_exchange_strong_explicit(&from->slots[i], &slot, FROZEN, memory_order_acquire,
                                                    memory_order_acquire)) {
            continue;
        }
        if ((uint32_t)slot == 0) continue;
        const ms_stack_node_t *node = node_of((uint32_t)slot);
        uint64_t hash = hash_of(node->parent, node->pc);
        size_t at = hash >> (64 - to->bits);
        while (to->slots[at] != 0) at = (at + 1) & to_mask;
        atomic_store_explicit(&to->slots[at], slot, memory_order_relaxed); /* published with the whole index */
    }
}

/* A larger index than `index`, by this thread or another; NULL when there is no memory for one. */
static MS_COLD index_t *replace(index_t *index) {
    if (atomic_flag_test_and_set_explicit(&replacing, memory_order_relaxed)) {
        for (int i = 0; i < WAIT_TURNS && atomic_load_explicit(&newest, memory_order_relaxed) == index; i++) {
            sched_yield();
        }
    }
    index_t *now = atomic_load_explicit(&newest, memory_order_acquire);
    if (now != index) return now;
    index_t *larger = index_new(index->bits + 1);
    if (larger != NULL) {
        freeze_and_copy(index, larger);
        /* release pairs with the acquire loads of newest; the loser's copy has the same content and is given up */
        bool published = atomic_compare_exchange_strong(&newest, &now, larger);
        if (published) now = larger;
        give_back(published ? index : larger);
    } else {
        now = NULL;
    }
    atomic_flag_clear_explicit(&replacing, memory_order_relaxed);
    return now;
}

static ms_stack_node_t *chunk_of(uint32_t id) {
    _Atomic(ms_stack_node_t *) *place = &ms_stack_table.chunks[id / MS_STACK_CHUNK];
    ms_stack_node_t *chunk = atomic_load_explicit(place, memory_order_acquire);
    if (chunk != NULL) return chunk;
    int saved = errno;
    ms_stack_node_t *mapped = ms_os_map_metadata(MS_STACK_CHUNK * sizeof(ms_stack_node_t));
    errno = saved;
    if (mapped == NULL) return NULL;
    bool first =
        atomic_compare_exchange_strong_explicit(place, &chunk, mapped, memory_order_acq_rel, memory_order_acquire);
    return first ? mapped : chunk;
}

/* A node of its own, not yet in the index. 0: the table is full. */
static uint32_t node_new(uint32_t parent, uint64_t pc) {
    uint32_t id = atomic_load_explicit(&ms_stack_table.next, memory_order_relaxed);
    do {
        if (id >= ms_stack_table.max_nodes || chunk_of(id) == NULL) return 0;
    } while (!atomic_compare_exchange_weak_explicit(&ms_stack_table.next, &id, id + 1, memory_order_relaxed,
                                                    memory_order_relaxed));
    ms_stack_node_t *node = node_of(id);
    atomic_store_explicit(&node->parent, parent, memory_order_relaxed);
    atomic_store_explicit(&node->pc, pc, memory_order_release); /* for readers that scan the chunks: pc last */
    return id;
}

static inline uint64_t pc_of(uint32_t id) {
    return atomic_load_explicit(&node_of(id)->pc, memory_order_relaxed);
}

static inline uint32_t parent_of(uint32_t id) {
    return atomic_load_explicit(&node_of(id)->parent, memory_order_relaxed);
}

/* The stack that `pc`, called from `parent`, only repeats: its innermost frames are those of `parent` 1, 2 or 3 calls
 * before, again. MS_STACK_NONE: it repeats none. */
static uint32_t recursion_of(uint32_t parent, uint64_t pc) {
    uint32_t repeated = parent;
    for (unsigned period = 1; period <= MS_STACK_PERIOD && repeated >= MS_STACK_FIRST; period++) {
        bool equal = pc_of(repeated) == pc;
        uint32_t inner = parent, outer = parent_of(repeated);
        for (unsigned left = period - 1; left > 0 && equal; left--) {
            equal = pc_of(inner) == pc_of(outer); /* of no stack: 0 */
            inner = parent_of(inner);
            outer = parent_of(outer);
        }
        if (equal) return repeated;
        repeated = parent_of(repeated);
    }
    return MS_STACK_NONE;
}

static uint32_t overflow(void) {
    atomic_fetch_add_explicit(&ms_stack_table.overflow, 1, memory_order_relaxed);
    return MS_STACK_OTHER;
}

/* The id to use: `instead`, which may be this very node, carried over into a newer index. */
static uint32_t give_up(uint32_t id, uint32_t instead) {
    if (id != 0 && id != instead) atomic_store_explicit(&node_of(id)->pc, 0, memory_order_relaxed);
    return instead;
}

static MS_COLD uint32_t add(index_t *index, uint64_t hash, uint32_t parent, uint64_t pc) {
    if (parent == MS_STACK_OTHER) return parent; /* counted when its first frame found no room */
    if (index == NULL || pc == 0) return overflow();
    uint32_t repeated = recursion_of(parent, pc);
    if (repeated != MS_STACK_NONE) return repeated;
    uint32_t id = 0;
    bool is_seen = false; /* others may have found it */
    while (index != NULL) {
        if (atomic_load_explicit(&ms_stack_table.next, memory_order_relaxed) > index->full) {
            index_t *larger = replace(index);
            if (larger != NULL) index = larger; /* no memory: fill this one to the brim */
        }
        uint64_t content = 0;
        _Atomic uint64_t *slot = probe(index, hash, parent, pc, &content);
        if (slot == NULL) break;
        if ((uint32_t)content != 0) return is_seen ? (uint32_t)content : give_up(id, (uint32_t)content);
        if (content == FROZEN) {
            index = replace(index);
            continue;
        }
        if (id == 0) id = node_new(parent, pc);
        if (id == 0) break;
        /* pairs with the acquire in probe(); failure means someone took the slot: look again */
        if (!atomic_compare_exchange_strong(slot, &content, check_of(hash) | id)) continue;
        index_t *now = atomic_load(&newest);
        if (now == index) return id;
        is_seen = true;
        index = now; /* the slot may have been empty only because the memory was given back */
    }
    if (is_seen) return id;
    give_up(id, 0);
    return overflow();
}

bool ms_stacks_init(uint32_t max_nodes) {
    ms_stack_table.max_nodes = max_nodes < MS_STACK_MOST ? max_nodes : MS_STACK_MOST;
    atomic_store_explicit(&ms_stack_table.next, MS_STACK_FIRST, memory_order_relaxed);
    index_t *first = index_new(FIRST_BITS);
    atomic_store_explicit(&newest, first, memory_order_release);
    return first != NULL;
}

uint32_t ms_stack_child(uint32_t parent, uint64_t pc) {
    index_t *index = atomic_load_explicit(&newest, memory_order_acquire); /* pairs with replace() */
    uint64_t hash = hash_of(parent, pc);
    if (ms_likely(index != NULL)) {
        uint64_t content = 0;
        if (probe(index, hash, parent, pc, &content) != NULL && ms_likely((uint32_t)content != 0)) {
            return (uint32_t)content;
        }
    }
    return add(index, hash, parent, pc);
}

uint32_t ms_stack_intern(const uintptr_t *pcs, size_t count) {
    uint32_t id = MS_STACK_NONE;
    while (count > 0) id = ms_stack_child(id, pcs[--count]);
    return id;
}

static bool is_frame(uint32_t id) {
    return id >= MS_STACK_FIRST && id < atomic_load_explicit(&ms_stack_table.next, memory_order_acquire);
}

size_t ms_stack_pcs(uint32_t id, uint64_t *pcs, size_t max) {
    size_t count = 0;
    while (is_frame(id)) {
        const ms_stack_node_t *node = node_of(id);
        uint64_t pc = atomic_load_explicit(&node->pc, memory_order_acquire); /* pairs with node_new() */
        if (pc == 0) break;
        if (count < max) pcs[count] = pc;
        count++;
        uint32_t parent = atomic_load_explicit(&node->parent, memory_order_relaxed);
        if (parent >= id) break;
        id = parent;
    }
    return count;
}

uint32_t ms_stack_count(void) {
    uint32_t next = atomic_load_explicit(&ms_stack_table.next, memory_order_relaxed);
    return next < MS_STACK_FIRST ? 0 : next - MS_STACK_FIRST;
}

uint64_t ms_stack_overflow(void) {
    return atomic_load_explicit(&ms_stack_table.overflow, memory_order_relaxed);
}
