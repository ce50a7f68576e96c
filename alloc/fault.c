#include "alloc/fault.h"
#include "alloc/large.h"
#include "alloc/os.h"
#include "alloc/thread.h"
#include "tracking/process.h"
#include "tracking/tasks.h"

#include <stdlib.h>

enum { ON_MISMATCH_COUNT, ON_MISMATCH_WARN, ON_MISMATCH_ABORT };

static const char *const families[MS_ORIGIN_COUNT] = {"malloc", "new", "new[]"};
static const char *const liberators[MS_ORIGIN_COUNT] = {"free", "delete", "delete[]"};

/* NULL: outside any task. */
static const char *task_name(uint32_t index) {
    const ms_task_t *task = index ? ms_task_of_index(index) : NULL;
    return task ? task->name : NULL;
}

static _Noreturn void die(const char *crime, const void *payload, const char *why) {
    char hex[24];
    ms_os_say(crime, ms_os_hex(hex, (uintptr_t)payload), why, NULL);
    abort();
}

static _Noreturn void die_of_pointer(const char *call, const void *payload, const char *why) {
    char hex[24];
    ms_os_say("invalid pointer ", ms_os_hex(hex, (uintptr_t)payload), " given to ", call, ": ", why, NULL);
    abort();
}

static _Noreturn void die_of_header(const char *call, const void *payload) {
    char hex[24];
    ms_os_say("corrupted header of the block at ", ms_os_hex(hex, (uintptr_t)payload), " given to ", call, NULL);
    abort();
}

/* The slab's block whose memory holds `address`: its payload. */
static char *block_around(const ms_slab_t *slab, const void *address) {
    size_t stride = ms_class_stride(slab->class);
    size_t offset = (size_t)((const char *)address - sizeof(ms_header_t) - slab->start);
    return slab->start + offset / stride * stride + sizeof(ms_header_t);
}

static _Noreturn void fault_interior(const char *call, const void *payload, const char *block) {
    char hex[24], inside[24], offset[24];
    bool before = (const char *)payload < block; /* the room in front of an aligned block, or its header */
    size_t distance = before ? (size_t)(block - (const char *)payload) : (size_t)((const char *)payload - block);
    ms_os_say("invalid pointer ", ms_os_hex(hex, (uintptr_t)payload), " given to ", call, ": it points ",
              ms_os_decimal(offset, distance), before ? " bytes in front of the block at " : " bytes into the block at ",
              ms_os_hex(inside, (uintptr_t)block), NULL);
    abort();
}

/* Something wrote over the 16 bytes in front of the block: most often an overflow of the block before it. */
static _Noreturn void fault_header(const char *call, const void *payload, const ms_slab_t *slab, size_t index) {
    char hex[24], before[24], size[24];
    const char *previous = (const char *)payload - ms_class_stride(slab->class);
    ms_block_facts_t neighbour;
    if (index == 0 || !ms_block_find(previous, &neighbour)) die_of_header(call, payload);
    const char *task = task_name(ms_facts_task(neighbour.facts));
    ms_os_say("corrupted header of the block at ", ms_os_hex(hex, (uintptr_t)payload), " given to ", call,
              "; the block before it is ", ms_os_decimal(size, neighbour.size), " bytes at ",
              ms_os_hex(before, (uintptr_t)previous), task ? " of task " : NULL, task, NULL);
    abort();
}

static _Noreturn void fault_already_free(const char *call, const void *payload) {
    if (call[0] == 'f' || call[0] == 'd') die("double free of ", payload, ""); /* free, delete */
    die_of_pointer(call, payload, "the block is already free");
}

/* Freed by another thread and not home yet, or in quarantine. */
static bool is_on_its_way(const ms_header_t *header, const ms_slab_t *slab) {
    ms_facts_t facts = ms_open(header);
    size_t size = ms_facts_size(facts);
    return ms_facts_are_remote(facts) && !(ms_facts_flags(facts) & (MS_FLAG_LARGE | MS_FLAG_INNER)) &&
           ms_class_of(size) == slab->class && ms_facts_code(facts) < ms_thread_code_count();
}

/* No block was cut there since the slab was taken for its class. Whether one was before is known only while its header
 * says so still, until its page goes back to the system. */
static _Noreturn void fault_no_block(const char *call, const void *payload) {
    const ms_header_t *header = ms_header_of(payload);
    if (((uintptr_t)payload & 15) == 0 && ms_header_is_free(header)) fault_already_free(call, payload);
    die_of_pointer(call, payload, "no block is there now; it was freed before, or never allocated");
}

static _Noreturn void fault_in_slab(const char *call, const void *payload, const ms_slab_t *slab) {
    if (!slab->arena) fault_no_block(call, payload);
    const char *block = block_around(slab, payload);
    size_t index = (size_t)(block - slab->start) / ms_class_stride(slab->class);
    if (index >= slab->carved) fault_no_block(call, payload);
    bool aligned = ((uintptr_t)payload & 15) == 0;
    const ms_header_t *header = ms_header_of(payload);
    if (aligned && (ms_header_is_free(header) || (block == payload && is_on_its_way(header, slab))))
        fault_already_free(call, payload);
    if (block != payload && !(aligned && ms_block_has_inner(block, payload))) fault_interior(call, payload, block);
    fault_header(call, payload, slab, index);
}

/* The live large block whose memory holds `address`. */
typedef struct {
    const void *address;
    const char *block; /* its payload, NULL: none */
} around_t;

static void look_around(void *context, const ms_large_t *block) {
    around_t *around = context;
    if ((uintptr_t)around->address - (uintptr_t)block->base < block->mapped)
        around->block = atomic_load_explicit(&block->payload, memory_order_relaxed);
}

/* Only the table knows where large blocks are, by their payloads: every one is looked at. */
static void fault_in_large(const char *call, const void *payload) {
    around_t around = {.address = payload};
    ms_large_walk(look_around, &around);
    if (around.block) fault_interior(call, payload, around.block);
}

_Noreturn void ms_fault_pointer(const char *call, const void *payload) {
    const ms_slab_t *slab = ms_slab_of(payload);
    if (slab) fault_in_slab(call, payload, slab);
    if (ms_large_find(payload)) die_of_header(call, payload);
    if (ms_large_recently_freed(payload)) fault_already_free(call, payload);
    fault_in_large(call, payload);
    die_of_pointer(call, payload,
                   "not allocated by this malloc (a stack or global variable, a library loaded with RTLD_DEEPBIND, or a stray value)");
}

_Noreturn void ms_fault_freed_at_once(const void *payload) { die("double free of ", payload, ": two threads freed it at once"); }

_Noreturn void ms_fault_free_list(const void *payload, uint32_t class) {
    char hex[24], size[24];
    ms_os_say("corrupted free list: the free block at ", ms_os_hex(hex, (uintptr_t)payload), " (up to ",
              ms_os_decimal(size, ms_class_payload(class)), " bytes) was written to, or the block before it overflowed", NULL);
    abort();
}

_Noreturn void ms_fault_write_after_free(const void *payload, size_t size, size_t offset) {
    char hex[24], bytes[24], at[24];
    ms_os_say("write after free: byte ", ms_os_decimal(at, offset), " of the freed block of up to ",
              ms_os_decimal(bytes, size), " bytes at ", ms_os_hex(hex, (uintptr_t)payload), " was changed", NULL);
    abort();
}

_Noreturn void ms_fault_overflow(const void *payload, const ms_block_facts_t *block, size_t offset) {
    char hex[24], bytes[24], at[24];
    ms_os_say("overflow past the end: byte ", ms_os_decimal(at, offset), " behind the ", ms_os_decimal(bytes, block->size),
              " bytes at ", ms_os_hex(hex, (uintptr_t)payload), " was written", NULL);
    abort();
}

/* Whether there is more to do than to count it. */
static bool note_mismatch(void) {
    atomic_fetch_add_explicit(&ms_process.origin_mismatches, 1, memory_order_relaxed);
    return ms_process.knobs.on_mismatch != ON_MISMATCH_COUNT;
}

static void end_mismatch(void) {
    if (ms_process.knobs.on_mismatch == ON_MISMATCH_ABORT) abort();
}

void ms_fault_mismatch(const void *payload, const ms_block_facts_t *block, ms_origin_t origin) {
    if (!note_mismatch()) return;
    char hex[24];
    ms_os_say("block at ", ms_os_hex(hex, (uintptr_t)payload), " allocated by ",
              families[ms_facts_flags(block->facts) & MS_FLAG_ORIGIN], " freed by ", liberators[origin], NULL);
    end_mismatch();
}

void ms_fault_size_mismatch(const void *payload, const ms_block_facts_t *block, size_t size) {
    if (!note_mismatch()) return;
    char hex[24], has[24], said[24];
    ms_os_say("block at ", ms_os_hex(hex, (uintptr_t)payload), " of ", ms_os_decimal(has, block->size),
              " bytes freed by a call that says ", ms_os_decimal(said, size), " bytes", NULL);
    end_mismatch();
}
