/* What is said, and done, when a program misuses its heap: one line on stderr that names the crime, then abort(). */
#ifndef MS_ALLOC_FAULT_H
#define MS_ALLOC_FAULT_H

#include <stddef.h>
#include <stdint.h>

#include "alloc/arena.h"

/* `call` is what the program called ("free", "realloc", "malloc_usable_size", ...) with a pointer that is no live
 * block of ours. Finds out why and ends the process. */
_Noreturn void ms_fault_pointer(const char *call, const void *payload);

/* A list of free blocks was written to by the program. */
_Noreturn void ms_fault_free_list(const void *payload, uint32_t class);

_Noreturn void ms_fault_write_after_free(const void *payload, size_t size, size_t offset);
_Noreturn void ms_fault_overflow(const void *payload, const ms_block_facts_t *block, size_t offset);

/* A block of one family was given to the free function of another, or a sized delete named the wrong size. Counts,
 * says so or ends the process, as knob on_mismatch tells. */
void ms_fault_mismatch(const void *payload, const ms_block_facts_t *block, ms_origin_t origin);
void ms_fault_size_mismatch(const void *payload, const ms_block_facts_t *block, size_t size);

#endif
