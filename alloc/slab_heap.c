#include "alloc/slab_heap.h"

/* `child` is the first child, `next` the next sibling, `previous` the sibling before or else the parent. */
static ms_slab_t *meld(ms_slab_t *low, ms_slab_t *high) {
    if (!low || !high) return low ? low : high;
    if (high->start < low->start) {
        ms_slab_t *other = low;
        low = high;
        high = other;
    }
    high->previous = low;
    high->next = low->child;
    if (low->child) low->child->previous = high;
    low->child = high;
    return low;
}

/* Siblings become one heap: pairs from the left, then all of them from the right. */
static ms_slab_t *meld_all(ms_slab_t *first) {
    ms_slab_t *pairs = NULL, *root = NULL;
    while (first) {
        ms_slab_t *second = first->next, *rest = second ? second->next : NULL;
        first->next = first->previous = NULL;
        if (second) second->next = second->previous = NULL;
        ms_slab_t *pair = meld(first, second);
        pair->next = pairs;
        pairs = pair;
        first = rest;
    }
    while (pairs) {
        ms_slab_t *rest = pairs->next;
        pairs->next = NULL;
        root = meld(root, pairs);
        pairs = rest;
    }
    return root;
}

void ms_slab_heap_add(ms_slab_t **root, ms_slab_t *slab) {
    slab->child = slab->next = slab->previous = NULL;
    *root = meld(*root, slab);
}

void ms_slab_heap_remove(ms_slab_t **root, ms_slab_t *slab) {
    ms_slab_t *below = meld_all(slab->child);
    if (slab == *root) {
        *root = below;
        return;
    }
    *(slab->previous->child == slab ? &slab->previous->child : &slab->previous->next) = slab->next;
    if (slab->next) slab->next->previous = slab->previous;
    *root = meld(*root, below);
}

ms_slab_t *ms_slab_heap_unravel(ms_slab_t **root) {
    ms_slab_t *left = *root, *all = NULL;
    *root = NULL;
    while (left) {
        ms_slab_t *slab = left;
        left = slab->next;
        if (slab->child) {
            ms_slab_t *last = slab->child;
            while (last->next) last = last->next;
            last->next = left;
            left = slab->child;
        }
        slab->next = all;
        all = slab;
    }
    return all;
}
