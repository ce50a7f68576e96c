/* The stack table: every distinct call stack once, as a path in a trie.
 *
 * A node is a pair (parent, pc): the frame `pc` called from the stack `parent`. Its id names the whole stack from the
 * outermost frame down to this one; stacks that share their outer frames share their outer nodes.
 *
 *     id 0                    no stack: the parent of every outermost frame
 *     id 1 MS_STACK_OTHER     every stack that came after the table was full; it has no frames
 *     id 2, 3, ...            nodes in order of creation, never changed, never removed
 *
 * Recursion stands in a stack once: innermost frames that repeat the one, two or three before them (a function that
 * calls itself, or two or three that call each other in a circle) are the stack without them. So a recursion has the
 * same few stacks however deep it goes.
 *
 * Nodes lie in chunks of MS_STACK_CHUNK that are mapped when first needed and never move. A reader, in this process or
 * outside it, needs only ms_stack_table: node id = chunks[id / MS_STACK_CHUNK][id % MS_STACK_CHUNK], ids below `next`;
 * a parent is always smaller than its child. A node with pc 0 is not in use (two threads created the same frame at the
 * same moment and this copy lost, or it is being written right now).
 *
 * Finding a child is one lookup in an open-addressing hash table; adding one is a compare-and-swap. No lock is ever
 * held, so a signal handler or the child of a fork can go on where it was interrupted. Owner: this file. */
#ifndef MS_TRACKING_STACKS_H
#define MS_TRACKING_STACKS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MS_STACK_NONE 0u
#define MS_STACK_OTHER 1u
#define MS_STACK_FIRST 2u /* first id that stands for a frame */

#define MS_STACK_PERIOD 3u /* calls in the longest circle that counts as recursion */

#define MS_STACK_CHUNK 16384u                            /* nodes in a chunk: 256 KiB */
#define MS_STACK_CHUNKS 256u                             /* chunks at most */
#define MS_STACK_MOST (MS_STACK_CHUNK * MS_STACK_CHUNKS) /* nodes at most, 4 million */

typedef struct ms_stack_node {
    _Atomic uint64_t pc;     /* return address of this frame; 0: not in use */
    _Atomic uint32_t parent; /* id of the caller's stack, MS_STACK_NONE for the outermost frame */
    uint32_t unused;
} ms_stack_node_t;
_Static_assert(sizeof(ms_stack_node_t) == 16, "read from outside the process");

typedef struct ms_stack_table {
    _Atomic(ms_stack_node_t *) chunks[MS_STACK_CHUNKS];
    _Atomic uint32_t next;     /* first id not yet given out */
    uint32_t max_nodes;        /* cap on `next` */
    _Atomic uint64_t overflow; /* stacks answered with MS_STACK_OTHER */
} ms_stack_table_t;
extern ms_stack_table_t ms_stack_table; /* zero until ms_stacks_init */

/* Once, before any other call, by one thread. At most max_nodes ids (clamped to MS_STACK_MOST). False: no memory; every
 * stack is then MS_STACK_OTHER. */
bool ms_stacks_init(uint32_t max_nodes);

/* The stack of frame `pc` (not 0) called from stack `parent`; a stack on the way to `parent` when that only repeats it.
 * A child of MS_STACK_OTHER is MS_STACK_OTHER. Thread-safe, async-signal-safe, and equal arguments give equal ids,
 * always. */
uint32_t ms_stack_child(uint32_t parent, uint64_t pc);

/* The stack of count return addresses, innermost first, recursion among them or not. */
uint32_t ms_stack_intern(const uintptr_t *pcs, size_t count);

/* Writes the frames of a stack, innermost first, at most max of them; returns how many frames the stack has (0 for ids
 * that are none). pcs may be NULL when max is 0. */
size_t ms_stack_pcs(uint32_t id, uint64_t *pcs, size_t max);

uint32_t ms_stack_count(void);    /* nodes in the table, MS_STACK_NONE and MS_STACK_OTHER not counted */
uint64_t ms_stack_overflow(void); /* stacks answered with MS_STACK_OTHER */

#endif
