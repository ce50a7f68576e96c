/* Where a search for reachable blocks begins: the words outside the heap that may be pointers.
 *
 *   globals   writable segments of every module but ours, and the loader's records of modules (their links lead to what
 *             the loader allocated)
 *   threads   thread-local variables and the stack from the stack pointer upwards. The calling thread's registers lie on
 *             its stack (MS_ROOTS_HERE). Others are looked at as they stand: of a thread that waits in the kernel
 *             /proc/self/task/TID/syscall names the stack pointer and the arguments of the call; the other registers are
 *             not to be had without stopping it. Of a thread that runs the whole stack counts, what was left behind by
 *             functions that returned too
 *
 * Not looked at: memory that the program mapped by itself. Everything is read with process_vm_readv(2) on ourselves, so
 * that a page that cannot be read, or goes away meanwhile, is skipped and counted. No lock of ours is taken; threads are
 * looked up under MS_LOCK_THREADS, which the caller holds. */
#ifndef MS_TRACKING_ROOTS_H
#define MS_TRACKING_ROOTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tracking/snapshot.h"

typedef struct ms_span {
    uintptr_t start;
    size_t bytes;
} ms_span_t;

typedef struct ms_roots {
    uintptr_t stack;   /* stack pointer of the calling thread, registers saved above it */
    ms_span_t *spans;  /* globals */
    size_t span_count;
    size_t tls_bytes;  /* static thread-local storage in front of every thread pointer */
    size_t modules;    /* seen so far */
    bool incomplete;   /* more modules than there is room for */
    ms_region_t region;
} ms_roots_t;

/* The stack pointer of the calling function, with every register its callers may have values in saved above it. */
#define MS_ROOTS_HERE(into)                                \
    do {                                                   \
        __builtin_unwind_init();                           \
        __asm__ volatile("mov %%rsp, %0" : "=r"(into));    \
    } while (0)

/* Lists the globals. Takes the loader's lock for a moment: call it before any lock of ours. False: no memory. */
bool ms_roots_take(ms_roots_t *roots, uintptr_t stack);
void ms_roots_free(ms_roots_t *roots);

/* How a search sees the roots: words, and a stack that lies inside a block of the heap. */
typedef struct ms_roots_visitor {
    void (*words)(void *context, const uint64_t *words, size_t count);
    bool (*stack_block)(void *context, uintptr_t address); /* true: it is in a block, which is now a root */
    void *context;
} ms_roots_visitor_t;

typedef struct ms_roots_report {
    uint64_t global_bytes, stack_bytes; /* read; thread-local storage counts as stack */
    uint64_t unreadable_bytes;
    uint64_t threads, threads_scanned;
    uint64_t threads_running; /* of the scanned: no stack pointer known */
} ms_roots_report_t;

void ms_roots_visit(ms_roots_t *roots, const ms_roots_visitor_t *visitor, ms_roots_report_t *report);

/* Copies up to `bytes` bytes from any address of this process, as far as pages can be read; returns how many. */
size_t ms_roots_copy(void *to, uintptr_t from, size_t bytes);

#endif
