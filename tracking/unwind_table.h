/* Rows: where the caller's frame is, for one code address, compiled from the module's .eh_frame into 32 bits.
 *
 * x86-64. A frame is (pc, sp, fp); a row for pc says how to get the caller's. What compilers produce needs little: the
 * CFA is sp or fp plus a constant, or stands in memory below fp (functions that realign their stack); the return address
 * stands right below the CFA; rbp is unchanged or saved at a constant distance from the CFA. Procedure linkage tables
 * describe their CFA by an expression of the address itself, which is a constant for one pc. The frame a signal handler
 * returns to stands in the ucontext. One function of the loader has its CFA in rbx. Everything else is MS_ROW_BAD, and
 * the walk ends there.
 *
 * The table is one array of the process, two entries per set, each one 64-bit word `tag:32 | row:32`; set and tag
 * together are a bijection of the 47 address bits, so a hit is never another address. Words are read and written whole;
 * a lost update costs a compilation. Rows of modules loaded when the process started hold for its life: the loader never
 * unloads those. Rows of other modules are marked, and a marked row is used only after the loader's lock-free
 * _dl_find_object has confirmed, in the same capture, that the module there is the one the row was compiled from (same
 * range, same link map, same build-id); if it is not, all marked rows go. Modules loaded later that carry no build-id
 * are compiled anew each time.
 *
 * Compiling reads the module's own memory, within the segments its program headers give: those of a module that has a
 * frame on the running stack cannot go away. */
#ifndef MS_TRACKING_UNWIND_TABLE_H
#define MS_TRACKING_UNWIND_TABLE_H

#include "alloc/os.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* kind:3 | marked:1 | fp:8 | offset:20, the offset signed and in words of 8 bytes; never 0 */
typedef uint32_t ms_row_t;

typedef enum {
    MS_ROW_SP = 1,    /* CFA = sp + offset */
    MS_ROW_FP,        /* CFA = fp + offset */
    MS_ROW_FP_MEMORY, /* CFA = word at fp + offset */
    MS_ROW_BX,        /* CFA = rbx + offset: the loader's lazy binding */
    MS_ROW_SIGNAL,    /* the registers stand in the ucontext, MS_SIGNAL_* words above sp */
    MS_ROW_END,       /* no caller: MS_ROW_ROOT, MS_ROW_NONE or MS_ROW_BAD */
} ms_row_kind_t;

#define MS_ROW_MARKED 8u /* compiled from a module that may be unloaded */
#define MS_ROW_FP_SHIFT 4
#define MS_ROW_OFFSET_SHIFT 12
#define MS_ROW_OFFSET_MOST ((1 << 19) - 1)

#define MS_ROW_ROOT ((ms_row_t)MS_ROW_END)                                     /* outermost frame */
#define MS_ROW_NONE ((ms_row_t)MS_ROW_END | (ms_row_t)1 << MS_ROW_OFFSET_SHIFT) /* no information for this address */
#define MS_ROW_BAD ((ms_row_t)MS_ROW_END | (ms_row_t)2 << MS_ROW_OFFSET_SHIFT)  /* corrupt, or not understood */

/* Where the caller's rbp is: 0: still in rbp; n: n words below the CFA; 255: in the word rbp points at. */
#define MS_ROW_FP_AT_FP 255u

/* Words above sp at the return address of a signal handler (struct ucontext of the kernel). */
#define MS_SIGNAL_FP 15
#define MS_SIGNAL_BX 16
#define MS_SIGNAL_SP 20
#define MS_SIGNAL_PC 21

static inline ms_row_kind_t ms_row_kind(ms_row_t row) { return (ms_row_kind_t)(row & 7); }
static inline unsigned ms_row_fp(ms_row_t row) { return row >> MS_ROW_FP_SHIFT & 255; }
static inline intptr_t ms_row_offset_bytes(ms_row_t row) {
    return (intptr_t)((int32_t)row >> MS_ROW_OFFSET_SHIFT) * (intptr_t)sizeof(uintptr_t);
}

/* Bytes of unwind information: `address` is where bytes[0] stands for the program described. */
typedef struct ms_eh_bytes {
    const uint8_t *bytes;
    size_t size;
    uintptr_t address;
} ms_eh_bytes_t;

typedef struct ms_eh {
    ms_eh_bytes_t index;  /* .eh_frame_hdr */
    ms_eh_bytes_t frames; /* .eh_frame, or a segment that holds it */
} ms_eh_t;

/* Pure: reads these bytes and nothing else, whatever they hold. *bx says where the caller's rbx is: 0: still in rbx; n: n
 * words below the CFA; -1: unknown. */
ms_row_t ms_row_compile(const ms_eh_t *eh, uintptr_t pc, int *bx);

/* Once, while the process has one thread. */
bool ms_rows_init(void);

/* True if the 8 aligned bytes at `address` can be read; asks the kernel. Preserves errno. */
bool ms_address_is_readable(uintptr_t address);

/* What one capture already knows about modules: marked rows of this range are good. Zeroed: nothing. */
#define MS_TRUST_TABLES 6u
typedef struct ms_row_trust {
    uintptr_t start, end;
    uint32_t compiled; /* rows compiled for this capture */
    uint32_t tables;   /* of `table` that are filled */
    struct {
        uintptr_t start, end;
    } table[MS_TRUST_TABLES]; /* what the rows were compiled from */
} ms_row_trust_t;

/* A capture that compiled rows is done: what it read of the modules' tables leaves memory again, in a program that takes few
 * such captures. Preserves errno. */
void ms_rows_forget_tables(const ms_row_trust_t *trust);

/* Modules loaded after the start that had a frame in a stack, in the order in which they were first met there: what they
 * were, for stacks that outlive them. Kept for ever; no more than MS_SEEN_MODULES. Any thread; an entry may still be NULL. */
#define MS_SEEN_MODULES 1024u
typedef struct ms_seen_module {
    uintptr_t start, end, bias;
    uint8_t id_bytes; /* of the build-id, 0: none */
    uint8_t id[32];
    char path[];
} ms_seen_module_t;
uint32_t ms_seen_module_count(void);
const ms_seen_module_t *ms_seen_module(uint32_t index);

#define MS_ROWS_SETS 32768u /* two words each: 512 KiB */
#define MS_ADDRESS_BITS 47
extern _Atomic uint64_t (*ms_rows)[2];

/* Compiles anew; only for the frames inside one of kind BX. */
int ms_row_find_bx(uintptr_t pc);

ms_row_t ms_row_find_slow(uintptr_t pc, ms_row_trust_t *trust);
bool ms_row_trust_module(uintptr_t pc, ms_row_trust_t *trust);

/* A bijection of the address bits: set in the high half, tag in the low. Code of the same 64 KiB shares a page of the
 * table (256 sets), so that a program that takes few stacks touches few pages of it: scattered over all sets, 25 samples
 * of lua made 480 of the 512 KiB resident. */
static inline uint64_t ms_row_hash(uintptr_t pc) {
    uint64_t region = ((pc >> 16) * 0x9e3779b1u) & 0x7fffffff, low = pc & 0xffff;
    uint64_t set = region >> 24 << 8 | ((low ^ low >> 8) & 0xff);
    uint64_t tag = (region & 0xffffff) << 8 | low >> 8;
    return set << 32 | tag;
}

/* The row for the instruction at pc; 0: in no module. ms_rows_init must have succeeded. */
static inline ms_row_t ms_row_find(uintptr_t pc, ms_row_trust_t *trust) {
    if (ms_unlikely(pc >> MS_ADDRESS_BITS != 0)) return 0;
    uint64_t hash = ms_row_hash(pc);
    const _Atomic uint64_t *set = ms_rows[hash >> 32];
    uint64_t word = atomic_load_explicit(&set[0], memory_order_relaxed);
    if (word >> 32 != (uint32_t)hash) word = atomic_load_explicit(&set[1], memory_order_relaxed);
    ms_row_t row = (ms_row_t)word;
    if (ms_unlikely(word >> 32 != (uint32_t)hash || row == 0)) return ms_row_find_slow(pc, trust);
    if (ms_unlikely(row & MS_ROW_MARKED) && !(pc - trust->start < trust->end - trust->start)) {
        if (!ms_row_trust_module(pc, trust)) return ms_row_find_slow(pc, trust);
    }
    return row;
}

#endif
