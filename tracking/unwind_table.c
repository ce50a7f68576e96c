/* Rows compiled from .eh_frame. See unwind_table.h. Sources: "DWARF Debugging Information Format" 5, section 6.4, and
 * the Linux Standard Base, "Exception Frames".
 *
 *     ms_row_find_slow -> module_of            _dl_find_object, program headers
 *                      -> ms_row_compile       find_fde -> parse_fde, parse_cie -> run (CFA program) -> row_of
 *                      -> trust_module, keep */
#define _GNU_SOURCE /* _dl_find_object */
#include "tracking/unwind_table.h"

#include <dlfcn.h>
#include <dwarf.h> /* names of the constants; nothing to link */
#include <elf.h>
#include <errno.h>
#include <link.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#pragma weak _r_debug

enum { REG_BX = 3, REG_FP = 6, REG_SP = 7, REG_PC = 16 }; /* DWARF numbers of x86-64 */

/* Reading bytes. A cursor that would leave its bytes turns bad, reads zeros from then on, and never moves again. */
typedef struct {
    const uint8_t *at;
    const uint8_t *end;
    const ms_eh_bytes_t *in; /* for addresses */
    bool bad;
} cursor_t;

static cursor_t cursor_at(const ms_eh_bytes_t *in, uintptr_t address) {
    size_t offset = address - in->address;
    bool inside = address >= in->address && offset < in->size;
    return (cursor_t){in->bytes + (inside ? offset : 0), in->bytes + in->size, in, !inside};
}

static uintptr_t cursor_address(const cursor_t *c) {
    return c->in->address + (size_t)(c->at - c->in->bytes);
}

static size_t cursor_left(const cursor_t *c) {
    return c->bad ? 0 : (size_t)(c->end - c->at);
}

static void cursor_skip(cursor_t *c, uint64_t bytes) {
    if (bytes > cursor_left(c)) {
        c->bad = true;
    } else {
        c->at += bytes;
    }
}

static uint64_t read_number(cursor_t *c, size_t bytes) {
    uint64_t value = 0;
    const uint8_t *from = c->at;
    cursor_skip(c, bytes);
    if (!c->bad) memcpy(&value, from, bytes); /* little-endian, like the machine */
    return value;
}

static int64_t read_signed(cursor_t *c, size_t bytes) {
    unsigned unused = 64 - 8 * (unsigned)bytes;
    return (int64_t)(read_number(c, bytes) << unused) >> unused;
}

static uint64_t read_leb(cursor_t *c, bool is_signed) {
    uint64_t value = 0;
    unsigned shift = 0;
    uint8_t byte = 0x80;
    while (byte & 0x80) {
        byte = (uint8_t)read_number(c, 1);
        if (shift < 64) value |= (uint64_t)(byte & 0x7f) << shift;
        shift += 7;
    }
    if (is_signed && (byte & 0x40) && shift < 64) value |= ~(uint64_t)0 << shift;
    return value;
}

static uint64_t read_uleb(cursor_t *c) {
    return read_leb(c, false);
}
static int64_t read_sleb(cursor_t *c) {
    return (int64_t)read_leb(c, true);
}

/* DW_EH_PE: the low four bits are the format. */
static uint64_t read_format(cursor_t *c, uint8_t encoding) {
    switch (encoding & 0x0f) {
    case DW_EH_PE_absptr:
    case DW_EH_PE_udata8:
    case DW_EH_PE_sdata8:
        return read_number(c, 8);
    case DW_EH_PE_uleb128:
        return read_uleb(c);
    case DW_EH_PE_udata2:
        return read_number(c, 2);
    case DW_EH_PE_udata4:
        return read_number(c, 4);
    case DW_EH_PE_sleb128:
        return (uint64_t)read_sleb(c);
    case DW_EH_PE_sdata2:
        return (uint64_t)read_signed(c, 2);
    case DW_EH_PE_sdata4:
        return (uint64_t)read_signed(c, 4);
    default:
        c->bad = true;
        return 0;
    }
}

/* The next three bits say what the number is relative to: nothing or its own address here; the top bit, an indirection,
 * is used for personality routines only. */
static uint64_t read_pointer(cursor_t *c, uint8_t encoding) {
    uintptr_t here = cursor_address(c);
    uint64_t value = read_format(c, encoding);
    if ((encoding & 0xf0) == DW_EH_PE_pcrel) return value + here;
    if ((encoding & 0xf0) != 0) c->bad = true;
    return value;
}

typedef struct {
    uint64_t code_factor;
    int64_t data_factor;
    uint8_t pointer_encoding;
    bool has_augmentation_data;
    cursor_t program;
} cie_t;

typedef struct {
    uintptr_t start, end; /* code it describes */
    cie_t cie;
    cursor_t program;
} fde_t;

/* Length and the four bytes that say what kind of record it is; the cursor ends with the record. */
static uint32_t read_record(cursor_t *c) {
    uint32_t length = (uint32_t)read_number(c, 4);
    if (length < 4 || length >= 0xfffffff0 || length > cursor_left(c)) { /* 64-bit records: nothing makes them */
        c->bad = true;
        return 0;
    }
    c->end = c->at + length;
    return (uint32_t)read_number(c, 4);
}

static void parse_augmentation(cursor_t *c, const char *letters, cie_t *cie) {
    for (; *letters != 0 && !c->bad; letters++) {
        switch (*letters) {
        case 'R':
            cie->pointer_encoding = (uint8_t)read_number(c, 1);
            break;
        case 'L':
            read_number(c, 1);
            break;
        case 'P': {
            uint8_t encoding = (uint8_t)read_number(c, 1);
            read_format(c, encoding);
            break;
        }
        case 'S':
            break; /* signal frame: known by its row */
        default:
            c->bad = true;
            break;
        }
    }
}

static bool parse_cie(cursor_t c, cie_t *cie) {
    if (read_record(&c) != 0) return false;
    uint8_t version = (uint8_t)read_number(&c, 1);
    const char *letters = (const char *)c.at;
    const uint8_t *zero = c.bad ? NULL : memchr(c.at, 0, cursor_left(&c));
    if (zero == NULL || (version != 1 && version != 3)) return false;
    c.at = zero + 1;
    *cie = (cie_t){.code_factor = read_uleb(&c), .data_factor = read_sleb(&c)};
    uint64_t return_column = version == 1 ? read_number(&c, 1) : read_uleb(&c);
    if (letters[0] == 'z') {
        cie->has_augmentation_data = true;
        uint64_t length = read_uleb(&c);
        cursor_t data = c;
        cursor_skip(&c, length);
        parse_augmentation(&data, letters + 1, cie);
        if (data.bad) return false;
    } else if (letters[0] != 0) {
        return false;
    }
    cie->program = c;
    return !c.bad && return_column == REG_PC;
}

static bool parse_fde(cursor_t c, fde_t *fde) {
    uintptr_t delta_at = cursor_address(&c) + 4;
    uint32_t delta = read_record(&c);
    if (c.bad || delta == 0 || !parse_cie(cursor_at(c.in, delta_at - delta), &fde->cie)) return false;
    fde->start = read_pointer(&c, fde->cie.pointer_encoding);
    fde->end = fde->start + read_format(&c, fde->cie.pointer_encoding & 0x0f);
    if (fde->cie.has_augmentation_data) cursor_skip(&c, read_uleb(&c));
    fde->program = c;
    return !c.bad;
}

/* Expressions, evaluated to what a row can say: a constant, or a register plus a constant, or the word there. */
typedef enum { TERM_NUMBER, TERM_SP, TERM_FP, TERM_BX, TERM_CFA, TERM_AT_SP, TERM_AT_FP, TERM_UNKNOWN } term_kind_t;
typedef struct {
    term_kind_t kind;
    int64_t number;
} term_t;

static const term_t unknown = {TERM_UNKNOWN, 0};

static term_t term_register(uint64_t reg, int64_t plus, uintptr_t pc) {
    switch (reg) {
    case REG_SP:
        return (term_t){TERM_SP, plus};
    case REG_BX:
        return (term_t){TERM_BX, plus};
    case REG_FP:
        return (term_t){TERM_FP, plus};
    case REG_PC:
        return (term_t){TERM_NUMBER, (int64_t)(pc + (uint64_t)plus)};
    default:
        return unknown;
    }
}

static term_t term_word_at(term_t term) {
    if (term.kind == TERM_SP) return (term_t){TERM_AT_SP, term.number};
    if (term.kind == TERM_FP) return (term_t){TERM_AT_FP, term.number};
    return unknown;
}

static bool term_is_address(term_t term) {
    return term.kind == TERM_SP || term.kind == TERM_FP || term.kind == TERM_CFA;
}

static term_t term_combine(uint8_t operation, term_t left, term_t right) {
    uint64_t a = (uint64_t)left.number, b = (uint64_t)right.number;
    bool numbers = left.kind == TERM_NUMBER && right.kind == TERM_NUMBER;
    if (operation == DW_OP_plus && (numbers || (term_is_address(left) && right.kind == TERM_NUMBER))) { /* plus */
        return (term_t){left.kind, (int64_t)(a + b)};
    }
    if (operation == DW_OP_plus && left.kind == TERM_NUMBER && term_is_address(right)) {
        return (term_t){right.kind, (int64_t)(a + b)};
    }
    if (operation == DW_OP_minus && right.kind == TERM_NUMBER && (numbers || term_is_address(left))) { /* minus */
        return (term_t){left.kind, (int64_t)(a - b)};
    }
    if (!numbers) return unknown;
    switch (operation) {
    case DW_OP_and:
        return (term_t){TERM_NUMBER, (int64_t)(a & b)};
    case DW_OP_mul:
        return (term_t){TERM_NUMBER, (int64_t)(a * b)};
    case DW_OP_or:
        return (term_t){TERM_NUMBER, (int64_t)(a | b)};
    case DW_OP_shl:
        return (term_t){TERM_NUMBER, b < 64 ? (int64_t)(a << b) : 0};
    case DW_OP_shr:
        return (term_t){TERM_NUMBER, b < 64 ? (int64_t)(a >> b) : 0};
    case DW_OP_eq:
        return (term_t){TERM_NUMBER, a == b};
    case DW_OP_ge:
        return (term_t){TERM_NUMBER, (int64_t)a >= (int64_t)b};
    case DW_OP_gt:
        return (term_t){TERM_NUMBER, (int64_t)a > (int64_t)b};
    case DW_OP_le:
        return (term_t){TERM_NUMBER, (int64_t)a <= (int64_t)b};
    case DW_OP_lt:
        return (term_t){TERM_NUMBER, (int64_t)a < (int64_t)b};
    case DW_OP_ne:
        return (term_t){TERM_NUMBER, a != b};
    default:
        return unknown;
    }
}

/* An operation that pushes; *pushed is false when it is none. */
static term_t term_push(cursor_t *c, uint8_t operation, uintptr_t pc, bool *pushed) {
    *pushed = true;
    if (operation >= DW_OP_lit0 && operation <= DW_OP_lit31)
        return (term_t){TERM_NUMBER, operation - DW_OP_lit0}; /* lit */
    if (operation >= DW_OP_breg0 && operation <= DW_OP_breg31)
        return term_register(operation - DW_OP_breg0, read_sleb(c), pc); /* breg */
    switch (operation) {
    case DW_OP_const1u:
        return (term_t){TERM_NUMBER, (int64_t)read_number(c, 1)};
    case DW_OP_const1s:
        return (term_t){TERM_NUMBER, read_signed(c, 1)};
    case DW_OP_const2u:
        return (term_t){TERM_NUMBER, (int64_t)read_number(c, 2)};
    case DW_OP_const2s:
        return (term_t){TERM_NUMBER, read_signed(c, 2)};
    case DW_OP_const4u:
        return (term_t){TERM_NUMBER, (int64_t)read_number(c, 4)};
    case DW_OP_const4s:
        return (term_t){TERM_NUMBER, read_signed(c, 4)};
    case DW_OP_const8u:
    case DW_OP_const8s:
        return (term_t){TERM_NUMBER, (int64_t)read_number(c, 8)};
    case DW_OP_constu:
        return (term_t){TERM_NUMBER, (int64_t)read_uleb(c)};
    case DW_OP_consts:
        return (term_t){TERM_NUMBER, read_sleb(c)};
    default:
        *pushed = false;
        return unknown;
    }
}

#define EXPRESSION_DEPTH 8

/* `first`, the CFA, is on the stack when a register's place is computed; `unknown` when the CFA itself is. */
static term_t evaluate(cursor_t c, uintptr_t pc, term_t first) {
    term_t stack[EXPRESSION_DEPTH + 1] = {first};
    unsigned depth = first.kind == TERM_UNKNOWN ? 0 : 1;
    while (cursor_left(&c) > 0) {
        uint8_t operation = (uint8_t)read_number(&c, 1);
        bool pushed;
        term_t term = term_push(&c, operation, pc, &pushed);
        if (pushed) {
            stack[depth++] = term;
            if (depth > EXPRESSION_DEPTH) return unknown;
        } else if (operation == DW_OP_deref && depth > 0) { /* deref */
            stack[depth - 1] = term_word_at(stack[depth - 1]);
        } else if (operation == DW_OP_plus_uconst && depth > 0) { /* plus_uconst */
            stack[depth - 1] =
                term_combine(DW_OP_plus, stack[depth - 1], (term_t){TERM_NUMBER, (int64_t)read_uleb(&c)});
        } else if (depth > 1) {
            depth--;
            stack[depth - 1] = term_combine(operation, stack[depth - 1], stack[depth]);
        } else {
            return unknown;
        }
    }
    return depth > 0 && !c.bad ? stack[depth - 1] : unknown;
}

/* The CFA program. A rule says where a register of the caller is. */
typedef enum { RULE_SAME, RULE_UNDEFINED, RULE_AT_CFA, RULE_EXPRESSION, RULE_OTHER } rule_kind_t;
typedef struct {
    rule_kind_t kind;
    int64_t offset;      /* RULE_AT_CFA */
    cursor_t expression; /* RULE_EXPRESSION */
} rule_t;

typedef struct {
    uint64_t cfa_register;
    int64_t cfa_offset;
    bool cfa_is_expression;
    cursor_t cfa_expression;
    rule_t bx, fp, sp, pc;
} rules_t;

#define REMEMBERED_MOST 6

typedef struct {
    const cie_t *cie;
    uintptr_t pc; /* the row wanted */
    uintptr_t location;
    rules_t now;
    rules_t initial; /* after the CIE's program */
    unsigned remembered;
    rules_t memory[REMEMBERED_MOST];
} machine_t;

static void set_rule(rules_t *rules, uint64_t reg, rule_t rule) {
    if (reg == REG_BX) rules->bx = rule;
    if (reg == REG_FP) rules->fp = rule;
    if (reg == REG_SP) rules->sp = rule;
    if (reg == REG_PC) rules->pc = rule;
}

static void restore_rule(machine_t *m, uint64_t reg) {
    if (reg == REG_BX) m->now.bx = m->initial.bx;
    if (reg == REG_FP) m->now.fp = m->initial.fp;
    if (reg == REG_SP) m->now.sp = m->initial.sp;
    if (reg == REG_PC) m->now.pc = m->initial.pc;
}

/* unsigned arithmetic: corrupt operands may wrap */
static uint64_t factored(const machine_t *m, uint64_t operand) {
    return operand * (uint64_t)m->cie->data_factor;
}

static void set_offset(machine_t *m, uint64_t reg, int64_t operand) {
    set_rule(&m->now, reg, (rule_t){.kind = RULE_AT_CFA, .offset = (int64_t)factored(m, (uint64_t)operand)});
}

static void set_cfa(machine_t *m, uint64_t reg, uint64_t offset) {
    m->now.cfa_register = reg;
    m->now.cfa_offset = (int64_t)offset;
    m->now.cfa_is_expression = false;
}

static cursor_t read_expression(cursor_t *c) {
    uint64_t length = read_uleb(c);
    cursor_t expression = *c;
    cursor_skip(c, length);
    expression.end = c->at;
    expression.bad = c->bad;
    return expression;
}

static void advance(machine_t *m, uint64_t factored) {
    m->location += factored * m->cie->code_factor;
}

/* Instructions with a register as first operand. False: not one of those. */
static bool run_register(machine_t *m, cursor_t *c, uint8_t operation) {
    cursor_t before = *c;
    uint64_t reg = read_uleb(c);
    switch (operation) {
    case DW_CFA_offset_extended:
        set_offset(m, reg, (int64_t)read_uleb(c));
        return true;
    case DW_CFA_offset_extended_sf:
        set_offset(m, reg, read_sleb(c));
        return true;
    case DW_CFA_GNU_negative_offset_extended:
        set_offset(m, reg, (int64_t)(0 - read_uleb(c)));
        return true;
    case DW_CFA_restore_extended:
        restore_rule(m, reg);
        return true;
    case DW_CFA_undefined:
        set_rule(&m->now, reg, (rule_t){.kind = RULE_UNDEFINED});
        return true;
    case DW_CFA_same_value:
        set_rule(&m->now, reg, (rule_t){.kind = RULE_SAME});
        return true;
    case DW_CFA_expression:
        set_rule(&m->now, reg, (rule_t){RULE_EXPRESSION, 0, read_expression(c)});
        return true;
    case DW_CFA_register:
    case DW_CFA_val_offset:
    case DW_CFA_val_offset_sf:
        read_uleb(c);
        set_rule(&m->now, reg, (rule_t){.kind = RULE_OTHER});
        return true;
    case DW_CFA_val_expression:
        read_expression(c);
        set_rule(&m->now, reg, (rule_t){.kind = RULE_OTHER});
        return true;
    case DW_CFA_def_cfa:
        set_cfa(m, reg, read_uleb(c));
        return true;
    case DW_CFA_def_cfa_sf:
        set_cfa(m, reg, factored(m, (uint64_t)read_sleb(c)));
        return true;
    case DW_CFA_def_cfa_register:
        set_cfa(m, reg, (uint64_t)m->now.cfa_offset);
        return true;
    default:
        *c = before;
        return false;
    }
}

/* The others. False: not one this machine knows. */
static bool run_other(machine_t *m, cursor_t *c, uint8_t operation) {
    switch (operation) {
    case DW_CFA_nop:
        return true;
    case DW_CFA_set_loc:
        m->location = read_pointer(c, m->cie->pointer_encoding);
        return true;
    case DW_CFA_advance_loc1:
        advance(m, read_number(c, 1));
        return true;
    case DW_CFA_advance_loc2:
        advance(m, read_number(c, 2));
        return true;
    case DW_CFA_advance_loc4:
        advance(m, read_number(c, 4));
        return true;
    case DW_CFA_def_cfa_offset:
        set_cfa(m, m->now.cfa_register, read_uleb(c));
        return true;
    case DW_CFA_def_cfa_offset_sf:
        set_cfa(m, m->now.cfa_register, factored(m, (uint64_t)read_sleb(c)));
        return true;
    case DW_CFA_def_cfa_expression:
        m->now.cfa_expression = read_expression(c);
        m->now.cfa_is_expression = true;
        return true;
    case DW_CFA_GNU_args_size:
        read_uleb(c);
        return true;
    case DW_CFA_remember_state:
        if (m->remembered == REMEMBERED_MOST) return false;
        m->memory[m->remembered++] = m->now;
        return true;
    case DW_CFA_restore_state:
        if (m->remembered == 0) return false;
        m->now = m->memory[--m->remembered];
        return true;
    default:
        return false;
    }
}

/* Runs until the rules for m->pc are complete. */
static bool run(machine_t *m, cursor_t c) {
    while (cursor_left(&c) > 0) {
        uint8_t byte = (uint8_t)read_number(&c, 1);
        uint8_t operand = byte & 0x3f;
        switch (byte & 0xc0) {
        case DW_CFA_advance_loc:
            advance(m, operand);
            break;
        case DW_CFA_offset:
            set_offset(m, operand, (int64_t)read_uleb(&c));
            break;
        case DW_CFA_restore:
            restore_rule(m, operand);
            break;
        default:
            if (!run_register(m, &c, byte) && !run_other(m, &c, byte)) return false;
        }
        if (m->location > m->pc) return !c.bad;
    }
    return !c.bad;
}

static ms_row_t row(ms_row_kind_t kind, int64_t offset, unsigned fp) {
    int64_t words = offset / 8;
    if (offset % 8 != 0 || words > MS_ROW_OFFSET_MOST || words < -MS_ROW_OFFSET_MOST) return MS_ROW_BAD;
    return (ms_row_t)kind | (ms_row_t)fp << MS_ROW_FP_SHIFT | (ms_row_t)words << MS_ROW_OFFSET_SHIFT;
}

static bool rule_is_at_sp(const rule_t *rule, uintptr_t pc, term_t cfa, int64_t offset) {
    if (rule->kind != RULE_EXPRESSION) return false;
    term_t place = evaluate(rule->expression, pc, cfa);
    return place.kind == TERM_SP && place.number == offset;
}

/* Where the caller's value of a register is, in the numbers of a row; -1: nowhere a row can say. */
static int place_of(const rule_t *rule, uintptr_t pc, term_t cfa) {
    if (rule->kind == RULE_SAME || rule->kind == RULE_UNDEFINED) return 0;
    int64_t below;
    if (rule->kind == RULE_AT_CFA) {
        below = (int64_t)(0 - (uint64_t)rule->offset);
    } else if (rule->kind == RULE_EXPRESSION) {
        term_t place = evaluate(rule->expression, pc, (term_t){TERM_CFA, 0});
        if (place.kind == TERM_FP && place.number == 0) return MS_ROW_FP_AT_FP;
        if (place.kind == TERM_CFA) {
            below = (int64_t)(0 - (uint64_t)place.number);
        } else if (place.kind == cfa.kind && term_is_address(place)) {
            below = (int64_t)((uint64_t)cfa.number - (uint64_t)place.number);
        } else {
            return -1;
        }
    } else {
        return -1;
    }
    return below % 8 == 0 && below >= 16 && below / 8 < MS_ROW_FP_AT_FP ? (int)(below / 8) : -1;
}

static ms_row_t row_of(const rules_t *rules, uintptr_t pc, int *bx) {
    if (rules->pc.kind == RULE_UNDEFINED) return MS_ROW_ROOT;
    term_t cfa = rules->cfa_is_expression ? evaluate(rules->cfa_expression, pc, unknown)
                                          : term_register(rules->cfa_register, rules->cfa_offset, pc);
    if (cfa.kind == TERM_AT_SP && cfa.number == MS_SIGNAL_SP * 8 &&
        rule_is_at_sp(&rules->pc, pc, cfa, MS_SIGNAL_PC * 8) && rule_is_at_sp(&rules->fp, pc, cfa, MS_SIGNAL_FP * 8)) {
        return MS_ROW_SIGNAL;
    }
    int fp = place_of(&rules->fp, pc, cfa);
    *bx = place_of(&rules->bx, pc, cfa);
    if (*bx == MS_ROW_FP_AT_FP) *bx = -1;
    if (fp < 0 || rules->sp.kind != RULE_SAME || rules->pc.kind != RULE_AT_CFA || rules->pc.offset != -8) {
        return MS_ROW_BAD;
    }
    if (cfa.kind == TERM_SP && cfa.number >= 8) return row(MS_ROW_SP, cfa.number, (unsigned)fp);
    if (cfa.kind == TERM_FP) return row(MS_ROW_FP, cfa.number, (unsigned)fp);
    if (cfa.kind == TERM_BX) return row(MS_ROW_BX, cfa.number, (unsigned)fp);
    if (cfa.kind == TERM_AT_FP && cfa.number < 0 && cfa.number > -8 * 255) {
        return row(MS_ROW_FP_MEMORY, cfa.number, (unsigned)fp);
    }
    return MS_ROW_BAD;
}

/* Address of the record for pc in the sorted table of .eh_frame_hdr, 0 if there is none. */
static uintptr_t find_fde(const ms_eh_t *eh, uintptr_t pc) {
    cursor_t c = cursor_at(&eh->index, eh->index.address);
    uint64_t version = read_number(&c, 1);
    uint8_t start_encoding = (uint8_t)read_number(&c, 1);
    uint8_t count_encoding = (uint8_t)read_number(&c, 1);
    uint64_t table_encoding = read_number(&c, 1);
    read_format(&c, start_encoding);
    uint64_t count = read_format(&c, count_encoding);
    /* the one encoding that linkers write: pairs of 32-bit offsets from the start of .eh_frame_hdr */
    if (version != 1 || table_encoding != (DW_EH_PE_datarel | DW_EH_PE_sdata4) || cursor_left(&c) / 8 < count) return 0;
    uint64_t low = 0, high = count; /* the entry is the last one that does not start behind pc */
    uintptr_t fde = 0;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        cursor_t entry = c;
        cursor_skip(&entry, middle * 8);
        uintptr_t start = eh->index.address + (uint64_t)read_signed(&entry, 4);
        if (start <= pc) {
            fde = eh->index.address + (uint64_t)read_signed(&entry, 4);
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return fde;
}

MS_RARE ms_row_t ms_row_compile(const ms_eh_t *eh, uintptr_t pc, int *bx) {
    *bx = -1;
    uintptr_t at = find_fde(eh, pc);
    if (at == 0) return MS_ROW_NONE;
    fde_t fde;
    if (!parse_fde(cursor_at(&eh->frames, at), &fde)) return MS_ROW_BAD;
    if (pc < fde.start || pc >= fde.end) return MS_ROW_NONE;
    machine_t m = {.cie = &fde.cie, .pc = UINTPTR_MAX};
    if (!run(&m, fde.cie.program)) return MS_ROW_BAD;
    m.pc = pc;
    m.location = fde.start;
    m.initial = m.now;
    if (!run(&m, fde.program)) return MS_ROW_BAD;
    return row_of(&m.now, pc, bx);
}

/* Modules. */
_Atomic uint64_t (*ms_rows)[2];
static const struct link_map *last_permanent; /* loaded when the process started: the list up to here never changes */

/* Modules that may be unloaded: where each was and what, when rows of it were compiled. Entries stay. */
#define KNOWN_MODULES 1024u
typedef struct {
    _Atomic uintptr_t start;
    _Atomic uintptr_t end;
    _Atomic uint64_t note;     /* where its build-id is: offset in its first page << 32 | size */
    _Atomic uint64_t identity; /* 0: gone */
} known_module_t;
static MS_FAR known_module_t known_modules[KNOWN_MODULES];

typedef struct {
    struct dl_find_object found;
    ms_eh_t eh;
    uint64_t note; /* as in known_module_t */
    const uint8_t *id; /* build-id, NULL: none */
    size_t id_bytes;
    uintptr_t bias;
    ms_eh_bytes_t read_only; /* the segment of eh.frames, if nothing is written or patched there: no data, no code */
    bool has_eh;
} module_t;

MS_RARE bool ms_address_is_readable(uintptr_t address) {
    /* A request no kernel knows: it fails with EFAULT if the signal set cannot be read, with EINVAL if it can. */
    int saved = errno;
    bool readable =
        syscall(SYS_rt_sigprocmask, -1, address & ~(uintptr_t)7, NULL, sizeof(uint64_t)) == 0 || errno == EINVAL;
    errno = saved;
    return readable;
}

static bool holds(uintptr_t start, uintptr_t size, uintptr_t address) {
    return address - start < size;
}

/* The readable segment with this address. */
static const ElfW(Phdr) * segment_of(const ElfW(Phdr) * headers, size_t count, uintptr_t bias, uintptr_t address) {
    for (size_t i = 0; i < count; i++) {
        const ElfW(Phdr) *p = &headers[i];
        if (p->p_type == PT_LOAD && (p->p_flags & PF_R) && holds(bias + p->p_vaddr, p->p_filesz, address)) return p;
    }
    return NULL;
}

/* The same, from the address on. */
static ms_eh_bytes_t segment_from(const ElfW(Phdr) * headers, size_t count, uintptr_t bias, uintptr_t address) {
    const ElfW(Phdr) *p = segment_of(headers, count, bias, address);
    if (p == NULL) return (ms_eh_bytes_t){0};
    return (ms_eh_bytes_t){(const uint8_t *)address, bias + p->p_vaddr + p->p_filesz - address, address};
}

static const ElfW(Ehdr) * elf_header_of(const struct dl_find_object *found) {
    uintptr_t start = (uintptr_t)found->dlfo_map_start;
    uintptr_t size = (uintptr_t)found->dlfo_map_end - start;
    if (size < MS_PAGE || !ms_address_is_readable(start)) return NULL;
    const ElfW(Ehdr) *elf = (const void *)start;
    if (memcmp(elf->e_ident, ELFMAG, SELFMAG) != 0 || elf->e_ident[EI_CLASS] != ELFCLASS64) return NULL;
    bool in_first_page = elf->e_phoff >= sizeof(*elf) && elf->e_phoff < MS_PAGE &&
                         elf->e_phnum <= (MS_PAGE - elf->e_phoff) / sizeof(ElfW(Phdr));
    return elf->e_phentsize == sizeof(ElfW(Phdr)) && in_first_page ? elf : NULL;
}

/* The build-id in a note segment in the module's first page; NULL: there is none. */
static const uint8_t *build_id_in(uintptr_t start, uintptr_t at, uintptr_t size, size_t *id_bytes) {
    if (!holds(start, MS_PAGE, at) || size > start + MS_PAGE - at) return NULL;
    ms_eh_bytes_t bytes = {(const uint8_t *)at, size, at};
    cursor_t c = cursor_at(&bytes, at);
    while (cursor_left(&c) > 12) {
        uint64_t name = read_number(&c, 4), content = read_number(&c, 4), type = read_number(&c, 4);
        if (type == NT_GNU_BUILD_ID && name == 4 && content <= cursor_left(&c) - 4) {
            *id_bytes = content;
            return c.at + 4;
        }
        cursor_skip(&c, (name + 3) / 4 * 4 + (content + 3) / 4 * 4);
    }
    return NULL;
}

/* False: no module at pc. Without usable headers the module has no eh. */
static bool module_of(uintptr_t pc, module_t *module) {
    *module = (module_t){0};
    if (_dl_find_object((void *)pc, &module->found) != 0) return false;
    const ElfW(Ehdr) *elf = elf_header_of(&module->found);
    if (elf == NULL) return true;
    uintptr_t start = (uintptr_t)module->found.dlfo_map_start;
    const ElfW(Phdr) *headers = (const void *)(start + elf->e_phoff);
    const ElfW(Phdr) *end = headers + elf->e_phnum;
    const ElfW(Phdr) *first = headers;
    while (first < end && first->p_type != PT_LOAD) first++;
    if (first == end) return true;
    uintptr_t bias = module->bias = start - (first->p_vaddr & ~(uintptr_t)(MS_PAGE - 1));
    for (const ElfW(Phdr) *p = headers; p < end; p++) {
        uintptr_t at = bias + p->p_vaddr;
        if (p->p_type == PT_GNU_EH_FRAME && at == (uintptr_t)module->found.dlfo_eh_frame) {
            module->eh.index = segment_from(headers, elf->e_phnum, bias, at);
            if (module->eh.index.size > p->p_memsz) module->eh.index.size = p->p_memsz;
        }
        const uint8_t *id = p->p_type == PT_NOTE ? build_id_in(start, at, p->p_memsz, &module->id_bytes) : NULL;
        if (id != NULL) {
            module->note = (uint64_t)(at - start) << 32 | p->p_memsz;
            module->id = id;
        }
    }
    cursor_t c = cursor_at(&module->eh.index, module->eh.index.address);
    cursor_skip(&c, 1);
    uint8_t encoding = (uint8_t)read_number(&c, 1);
    cursor_skip(&c, 2);
    uintptr_t frames = read_pointer(&c, encoding);
    if (c.bad) return true;
    module->eh.frames = segment_from(headers, elf->e_phnum, bias, frames);
    module->has_eh = module->eh.frames.size > 0;
    const ElfW(Phdr) *segment = segment_of(headers, elf->e_phnum, bias, frames);
    if (segment != NULL && !(segment->p_flags & (PF_W | PF_X)))
        module->read_only = (ms_eh_bytes_t){(const uint8_t *)(bias + segment->p_vaddr), segment->p_filesz, bias + segment->p_vaddr};
    return true;
}

/* The kernel maps 64 KiB of a file around what is read of it, or more. A program that takes few stacks does without
 * what its rows were compiled from: 64 to 250 KiB of a peak of two MiB. One that takes many needs it again too soon. */
#define AROUND ((uintptr_t)64 << 10)
#define FORGETS_UP_TO 64u /* captures that compiled something */

static void note_table(const module_t *module, ms_row_trust_t *trust) {
    uintptr_t start = module->read_only.address, end = start + module->read_only.size;
    uintptr_t from = module->eh.index.address & ~(AROUND - 1);
    if (from < start) from = start;
    for (uint32_t i = 0; i < trust->tables; i++)
        if (trust->table[i].end == end) return;
    if (from >= end || trust->tables == MS_TRUST_TABLES) return;
    trust->table[trust->tables].start = from;
    trust->table[trust->tables++].end = end;
}

MS_COLD void ms_rows_forget_tables(const ms_row_trust_t *trust) {
    static _Atomic uint32_t captures, next;
    uint32_t count = atomic_fetch_add_explicit(&captures, 1, memory_order_relaxed) + 1;
    if (count > FORGETS_UP_TO || count < atomic_load_explicit(&next, memory_order_relaxed)) return;
    atomic_store_explicit(&next, count + 1 + count / 8, memory_order_relaxed);
    for (uint32_t i = 0; i < trust->tables; i++)
        ms_os_forget_file((const void *)trust->table[i].start, trust->table[i].end - trust->table[i].start);
}

static bool is_permanent(const module_t *module) {
    const struct link_map *wanted = module->found.dlfo_link_map;
    if (last_permanent == NULL) return false;
    for (const struct link_map *map = _r_debug.r_map; map != NULL; map = map->l_next) {
        if (map == wanted) return true;
        if (map == last_permanent) break;
    }
    return false;
}

static uint64_t mix(uint64_t hash, uint64_t word) {
    hash = (hash ^ word) * 0xd6e8feb86659fd93u;
    return hash ^ hash >> 32;
}

/* A number for what is mapped there: place, link map and the bytes of its notes, the build-id among them. `note` must
 * lie in the first page, which is there whenever the module is. 0: cannot be told from a successor. */
static uint64_t identity_of(const struct dl_find_object *found, uint64_t note) {
    uintptr_t start = (uintptr_t)found->dlfo_map_start;
    uint64_t offset = note >> 32, size = (uint32_t)note;
    if (size < sizeof(uint64_t) || offset > MS_PAGE || size > MS_PAGE - offset) return 0;
    uint64_t hash = mix(start, (uintptr_t)found->dlfo_map_end);
    hash = mix(hash, (uintptr_t)found->dlfo_link_map);
    hash = mix(hash, (uintptr_t)found->dlfo_eh_frame);
    for (uint64_t at = 0; at < size; at += sizeof(uint64_t)) {
        uint64_t word; /* the last one overlaps the one before */
        uint64_t from = at < size - sizeof word ? at : size - sizeof word;
        memcpy(&word, (const char *)start + offset + from, sizeof word);
        hash = mix(hash, word);
    }
    return hash | 1;
}

static void forget_marked_rows(void) {
    for (size_t set = 0; set < MS_ROWS_SETS; set++) {
        for (size_t way = 0; way < 2; way++) {
            if (atomic_load_explicit(&ms_rows[set][way], memory_order_relaxed) & MS_ROW_MARKED) {
                atomic_store_explicit(&ms_rows[set][way], 0, memory_order_relaxed);
            }
        }
    }
}

/* The entry for modules that start here; NULL when the table is full. */
static known_module_t *known_module(uintptr_t start) {
    size_t at = (size_t)mix(0, start) % KNOWN_MODULES;
    for (size_t tries = 0; tries < KNOWN_MODULES; tries++, at = (at + 1) % KNOWN_MODULES) {
        uintptr_t there = atomic_load_explicit(&known_modules[at].start, memory_order_relaxed);
        if (there == start) return &known_modules[at];
        if (there == 0 && (atomic_compare_exchange_strong(&known_modules[at].start, &there, start) || there == start)) {
            return &known_modules[at];
        }
    }
    return NULL;
}

/* The module is new at this place. What was there or overlapped it is gone, and so are all marked rows: first the rows,
 * then the news, so that whoever sees this identity (acquire in is_known) sees no row of a predecessor. */
static void replace_known(known_module_t *known, const struct dl_find_object *found, uint64_t note, uint64_t identity) {
    uintptr_t start = (uintptr_t)found->dlfo_map_start, end = (uintptr_t)found->dlfo_map_end;
    for (size_t i = 0; i < KNOWN_MODULES; i++) {
        if (atomic_load_explicit(&known_modules[i].start, memory_order_relaxed) < end &&
            atomic_load_explicit(&known_modules[i].end, memory_order_relaxed) > start) {
            atomic_store_explicit(&known_modules[i].identity, 0, memory_order_relaxed);
        }
    }
    forget_marked_rows();
    atomic_store_explicit(&known->end, end, memory_order_relaxed);
    atomic_store_explicit(&known->note, note, memory_order_relaxed);
    atomic_store_explicit(&known->identity, identity, memory_order_release);
}

static bool is_known(known_module_t *known, uint64_t identity) {
    return atomic_load_explicit(&known->identity, memory_order_acquire) == identity;
}

/* Afterwards marked rows in the module's range are the module's own. False: rows of this module cannot be kept. */
static bool make_known(const module_t *module) {
    uint64_t identity = identity_of(&module->found, module->note);
    known_module_t *known = identity == 0 ? NULL : known_module((uintptr_t)module->found.dlfo_map_start);
    if (known == NULL) return false;
    if (!is_known(known, identity)) replace_known(known, &module->found, module->note, identity);
    return true;
}

static void set_trust(const struct dl_find_object *found, ms_row_trust_t *trust) {
    trust->start = (uintptr_t)found->dlfo_map_start;
    trust->end = (uintptr_t)found->dlfo_map_end;
}

MS_RARE bool ms_row_trust_module(uintptr_t pc, ms_row_trust_t *trust) {
    struct dl_find_object found;
    if (_dl_find_object((void *)pc, &found) != 0) return false;
    known_module_t *known = known_module((uintptr_t)found.dlfo_map_start);
    if (known == NULL) return false;
    uint64_t identity = identity_of(&found, atomic_load_explicit(&known->note, memory_order_relaxed));
    if (identity == 0 || !is_known(known, identity)) return false;
    set_trust(&found, trust);
    return true;
}

static void keep(uintptr_t pc, ms_row_t row) {
    uint64_t hash = ms_row_hash(pc);
    _Atomic uint64_t *set = ms_rows[hash >> 32];
    bool first_free = atomic_load_explicit(&set[0], memory_order_relaxed) == 0;
    bool second_free = atomic_load_explicit(&set[1], memory_order_relaxed) == 0;
    size_t way = first_free ? 0 : second_free ? 1 : hash >> 7 & 1;
    atomic_store_explicit(&set[way], hash << 32 | row, memory_order_relaxed);
}

/* What modules that may be unloaded were. */
static MS_FAR _Atomic(ms_seen_module_t *) seen_modules[MS_SEEN_MODULES];
static _Atomic uint32_t seen_count;

uint32_t ms_seen_module_count(void) {
    uint32_t count = atomic_load_explicit(&seen_count, memory_order_acquire);
    return count < MS_SEEN_MODULES ? count : MS_SEEN_MODULES;
}

const ms_seen_module_t *ms_seen_module(uint32_t index) {
    return atomic_load_explicit(&seen_modules[index], memory_order_acquire); /* pairs with see() */
}

static bool is_seen(const ms_seen_module_t *seen, const module_t *module) {
    return seen->start == (uintptr_t)module->found.dlfo_map_start && seen->end == (uintptr_t)module->found.dlfo_map_end &&
           seen->id_bytes == (module->id_bytes <= sizeof seen->id ? module->id_bytes : 0) &&
           memcmp(seen->id, module->id, seen->id_bytes) == 0 &&
           (seen->id_bytes > 0 || strcmp(seen->path, module->found.dlfo_link_map->l_name) == 0);
}

/* Keeps path and build-id of a module that has a frame on the running stack, unless they were the last seen at its place. */
static void see(const module_t *module) {
    uintptr_t start = (uintptr_t)module->found.dlfo_map_start, end = (uintptr_t)module->found.dlfo_map_end;
    for (uint32_t i = ms_seen_module_count(); i > 0; i--) {
        const ms_seen_module_t *seen = ms_seen_module(i - 1);
        if (seen == NULL || seen->start >= end || seen->end <= start) continue;
        if (is_seen(seen, module)) return;
        break;
    }
    const char *path = module->found.dlfo_link_map->l_name;
    size_t length = strlen(path);
    if (atomic_load_explicit(&seen_count, memory_order_relaxed) >= MS_SEEN_MODULES) return;
    ms_seen_module_t *seen = ms_os_map_metadata(sizeof *seen + length + 1);
    if (seen == NULL) return;
    *seen = (ms_seen_module_t){.start = start, .end = end, .bias = module->bias};
    memcpy(seen->path, path, length + 1);
    if (module->id != NULL && module->id_bytes <= sizeof seen->id) {
        seen->id_bytes = (uint8_t)module->id_bytes;
        memcpy(seen->id, module->id, module->id_bytes);
    }
    uint32_t index = atomic_fetch_add_explicit(&seen_count, 1, memory_order_acq_rel);
    if (index < MS_SEEN_MODULES) atomic_store_explicit(&seen_modules[index], seen, memory_order_release);
}

MS_COLD ms_row_t ms_row_find_slow(uintptr_t pc, ms_row_trust_t *trust) {
    module_t module;
    if (!module_of(pc, &module)) return 0;
    trust->compiled++;
    int bx;
    ms_row_t row = module.has_eh ? ms_row_compile(&module.eh, pc, &bx) : MS_ROW_NONE;
    if (is_permanent(&module)) {
        keep(pc, row);
        if (module.has_eh) note_table(&module, trust);
        return row;
    }
    see(&module);
    if (make_known(&module)) {
        keep(pc, row | MS_ROW_MARKED);
        set_trust(&module.found, trust);
    }
    return row;
}

MS_COLD int ms_row_find_bx(uintptr_t pc) {
    module_t module;
    int bx = -1;
    if (module_of(pc, &module) && module.has_eh) ms_row_compile(&module.eh, pc, &bx);
    return bx;
}

MS_RARE bool ms_rows_init(void) {
    for (const struct link_map *map = &_r_debug != NULL ? _r_debug.r_map : NULL; map != NULL; map = map->l_next) {
        last_permanent = map;
    }
    ms_rows = ms_os_map_metadata(MS_ROWS_SETS * sizeof(*ms_rows));
    return ms_rows != NULL;
}
