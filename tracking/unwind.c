/* Stack capture. See unwind.h for why it is right.
 *
 *     ms_unwind_site -> enter, know_stack
 *                    -> is_kept_stack   the whole stack is the last one again: done
 *                    -> walk       outwards until a kept frame matches or the stack ends; new frames lie, innermost
 *                                  first, at the top end of state->frames, kept ones at the bottom, outermost first
 *                         -> kept_match -> first_change
 *                         -> step       ms_row_find, known or probe
 *                    -> commit     interns the new frames and moves them onto the kept ones */
#include "tracking/unwind.h"

#include "alloc/os.h"
#include "tracking/stacks.h"
#include "tracking/unwind_table.h"

extern void *__libc_stack_end; /* the loader's: the stack pointer the kernel started the process with */

#define WORD sizeof(uintptr_t)
#define PROBE_PAGES 2048u   /* a frame of up to 8 MiB is believed, and probed once */
#define REENTRIES_MOST 4096 /* captures refused in a row before the one under way is taken for dead */

typedef struct {
    uintptr_t pc, sp, fp;
    bool exact; /* pc is the instruction that was interrupted, not a return address */
} registers_t;

typedef struct {
    ms_unwind_thread_t *state;
    registers_t start;
    registers_t at; /* of the rare cases; the others keep theirs in registers */
    ms_row_trust_t trust;
    unsigned keep;  /* kept frames that may still match: state->frames[0 .. keep) */
    unsigned added; /* new frames */
    unsigned steps; /* frames found by a row */
    bool keepable;  /* every word read can be checked next time */
    bool matched;
    bool is_again; /* find_bx */
    ms_unwind_end_t end;
} walk_t;

static bool is_ready; /* ms_unwind_init succeeded; set before threads */

const char *const ms_unwind_end_meaning[MS_UNWIND_END_COUNT] = {
#define MS_UNWIND_END_MEANING(name, meaning) meaning,
    MS_UNWIND_ENDS(MS_UNWIND_END_MEANING)
#undef MS_UNWIND_END_MEANING
};

bool ms_unwind_init(void) {
    is_ready = ms_rows_init();
    return is_ready;
}

/* Words of other functions' frames: no object of this program, and between variables as AddressSanitizer sees it. */
__attribute__((no_sanitize("address"))) static inline uintptr_t word_at(uintptr_t address) {
    return *(const volatile uintptr_t *)address;
}

/* Known memory. */
static inline uintptr_t page_of(uintptr_t address) {
    return address & ~(uintptr_t)(MS_PAGE - 1);
}

static inline bool is_known(const ms_unwind_thread_t *state, uintptr_t address) {
    return address - state->known_low < state->known_high - state->known_low;
}

static void forget(ms_unwind_thread_t *state) {
    state->depth = 0;
    state->known_low = state->known_high = 0;
}

void ms_unwind_thread_reset(ms_unwind_thread_t *state) {
    forget(state);
    atomic_store_explicit(&state->busy, 0, memory_order_relaxed);
}

/* Probes every page of low .. high - 1, both multiples of the page size. */
static bool probe(uintptr_t low, uintptr_t high) {
    if (high - low > PROBE_PAGES * MS_PAGE) return false;
    for (; low < high; low += MS_PAGE) {
        if (!ms_address_is_readable(low)) return false;
    }
    return true;
}

/* sp left the known range: deeper on the same stack, or on another one. */
static MS_COLD void know_stack(ms_unwind_thread_t *state, uintptr_t sp) {
    uintptr_t page = page_of(sp);
    if (sp < state->known_low && probe(page, state->known_low)) {
        state->known_low = page;
        return;
    }
    forget(state);
    state->known_low = page;
    state->known_high = page + MS_PAGE;
}

/* Makes the words up to `end` known. False: they cannot be read, or are too far to be of this stack. */
static MS_COLD bool know_up_to(ms_unwind_thread_t *state, uintptr_t end) {
    uintptr_t high = page_of(end + MS_PAGE - 1);
    if (high < end || !probe(state->known_high, high)) return false;
    state->known_high = high;
    return true;
}

/* One frame outwards. */
static bool step_signal(walk_t *w) {
    uintptr_t context = w->at.sp;
    w->keepable = false;
    if (context + (MS_SIGNAL_PC + 1) * WORD > w->state->known_high &&
        !know_up_to(w->state, context + (MS_SIGNAL_PC + 1) * WORD)) {
        return false;
    }
    w->at = (registers_t){word_at(context + MS_SIGNAL_PC * WORD), word_at(context + MS_SIGNAL_SP * WORD),
                          word_at(context + MS_SIGNAL_FP * WORD), true};
    if (w->at.sp % WORD != 0) return false;
    if (is_known(w->state, w->at.sp)) return true;
    if (!ms_address_is_readable(w->at.sp)) return false;
    know_stack(w->state, w->at.sp); /* the signal came on another stack */
    w->keep = 0;
    return true;
}

/* The CFA is the word at address, or 0 when that is not a word of this stack. */
static uintptr_t cfa_in_memory(walk_t *w, uintptr_t address) {
    if (address % WORD != 0 || address < w->at.sp) return 0;
    if (address >= w->state->known_high && !know_up_to(w->state, address + WORD)) return 0;
    return word_at(address);
}

static bool reload_fp(walk_t *w, ms_unwind_frame_t *from, unsigned place, uintptr_t cfa) {
    uintptr_t address = place == MS_ROW_FP_AT_FP ? w->at.fp : cfa - place * WORD;
    intptr_t words = (intptr_t)(cfa - address) / (intptr_t)WORD;
    if (address % WORD != 0 || address >= cfa) return false;
    if (address < w->at.sp) return true; /* interrupted in an epilogue: popped, and rbp has it */
    if (words > INT16_MAX) w->keepable = false;
    from->fp_words = (int16_t)words;
    w->at.fp = word_at(address);
    return true;
}

static MS_COLD ms_unwind_end_t end_of(ms_row_t row) {
    switch (row & ~MS_ROW_MARKED) {
    case MS_ROW_ROOT:
        return MS_UNWIND_END_root;
    case MS_ROW_NONE:
        return MS_UNWIND_END_no_row;
    case MS_ROW_BAD:
        return MS_UNWIND_END_bad_row;
    default:
        return MS_UNWIND_END_foreign_code;
    }
}

static inline bool step(walk_t *w, registers_t *at, ms_unwind_frame_t *from);

/* rbx in the frame w->at. It is not followed from frame to frame, so rare is a frame that needs it: this walks from the
 * start again and looks who saved it. False: nobody did. */
static MS_COLD bool find_bx(const walk_t *w, uintptr_t *bx) {
    walk_t again = {.state = w->state, .is_again = true};
    registers_t at = w->start;
    ms_unwind_frame_t frame;
    bool found = false;
    while (again.steps + 1 < w->steps) {
        uintptr_t sp = at.sp;
        int place = ms_row_find_bx(at.pc - !at.exact);
        if (!step(&again, &at, &frame)) return false;
        if (at.exact) { /* a signal */
            *bx = word_at(sp + MS_SIGNAL_BX * WORD);
            found = true;
        } else if (place != 0) {
            found = place > 0;
            if (found) *bx = word_at(at.sp - (uintptr_t)place * WORD);
        }
    }
    return found;
}

/* The loader calls constructors from code without unwind information, but nothing is below where the stack of the
 * process began (aligned for the call). */
static bool is_entry_of_process(uintptr_t sp) {
    return sp != 0 && sp == ((uintptr_t)__libc_stack_end & ~(uintptr_t)15);
}

/* Kinds of rows that are rare. The CFA; 0: w->end says why there is none. */
static MS_COLD uintptr_t unusual_cfa(walk_t *w, ms_row_t row, ms_unwind_frame_t *from) {
    uintptr_t offset = (uintptr_t)ms_row_offset_bytes(row), bx;
    switch (ms_row_kind(row)) {
    case MS_ROW_FP_MEMORY:
        w->end = MS_UNWIND_END_bad_stack;
        from->fp_matters = true;
        from->cfa_words = (uint8_t)((0 - offset) / WORD);
        return cfa_in_memory(w, w->at.fp + offset);
    case MS_ROW_BX:
        w->end = MS_UNWIND_END_bad_row;
        w->keepable = false;
        return !w->is_again && find_bx(w, &bx) ? bx + offset : 0;
    default:
        w->end = is_entry_of_process(w->at.sp) ? MS_UNWIND_END_root : end_of(row);
        return 0;
    }
}

/* step() for everything; w->at is the frame. */
static MS_COLD bool step_unusual(walk_t *w, ms_row_t row, ms_unwind_frame_t *from) {
    ms_row_kind_t kind = ms_row_kind(row);
    uintptr_t cfa;
    w->end = MS_UNWIND_END_bad_stack;
    if (kind == MS_ROW_SIGNAL) return step_signal(w) && w->at.pc != 0;
    if (kind == MS_ROW_SP || kind == MS_ROW_FP) {
        cfa = (kind == MS_ROW_FP ? w->at.fp : w->at.sp) + (uintptr_t)ms_row_offset_bytes(row);
    } else {
        cfa = unusual_cfa(w, row, from);
        if (cfa == 0) return false;
    }
    w->at.exact = false;
    w->end = MS_UNWIND_END_bad_stack;
    if (cfa <= w->at.sp || cfa % WORD != 0) return false;
    if (cfa > w->state->known_high && !know_up_to(w->state, cfa)) return false;
    unsigned fp_place = ms_row_fp(row);
    if (fp_place != 0 && !reload_fp(w, from, fp_place, cfa)) return false;
    w->at.sp = cfa;
    w->at.pc = word_at(cfa - WORD);
    w->end = MS_UNWIND_END_root; /* a return address of 0 marks the end of some hand-made stacks */
    return w->at.pc != 0;
}

/* From the frame *at, which is *from, to its caller's. False: w->end says why there is none. */
static inline __attribute__((always_inline)) bool step(walk_t *w, registers_t *at, ms_unwind_frame_t *from) {
    ms_row_t row = ms_row_find(at->pc - !at->exact, &w->trust);
    ms_row_kind_t kind = ms_row_kind(row);
    uintptr_t cfa = (kind == MS_ROW_FP ? at->fp : at->sp) + (uintptr_t)ms_row_offset_bytes(row);
    uintptr_t fp_below = ms_row_fp(row) * WORD;
    from->fp_words = 0;
    from->cfa_words = 0;
    from->fp_matters = kind == MS_ROW_FP;
    w->steps++;
    bool usual = (kind == MS_ROW_SP || kind == MS_ROW_FP) && cfa - at->sp - 1 < w->state->known_high - at->sp &&
                 cfa % WORD == 0 && fp_below <= cfa - at->sp && fp_below != MS_ROW_FP_AT_FP * WORD;
    uintptr_t pc = usual ? word_at(cfa - WORD) : 0;
    if (ms_unlikely(pc == 0)) {
        w->at = *at; /* copied, so that *at can live in registers */
        bool stepped = step_unusual(w, row, from);
        *at = w->at;
        return stepped;
    }
    if (fp_below != 0) at->fp = word_at(cfa - fp_below);
    at->sp = cfa;
    at->pc = pc;
    at->exact = false;
    from->fp_words = (int16_t)(fp_below / WORD);
    return true;
}

/* The kept stack. */

/* Whether the step out of the frame reads more than the return address: fp_words or cfa_words, in one look. */
static inline bool reads_more(const ms_unwind_frame_t *frame) {
    uint32_t words;
    __builtin_memcpy(&words, &frame->fp_words, sizeof words);
    return (words & 0xffffff) != 0;
}

/* The index of the first kept frame from `inner` outwards whose step out of it would read other words than last time;
 * 0 when none would. */
static inline unsigned first_change(const ms_unwind_frame_t *frames, unsigned inner) {
    for (unsigned i = inner; i > 0; i--) {
        const ms_unwind_frame_t *outer = &frames[i - 1];
        if (word_at(outer->sp - WORD) != outer->pc) return i;
        if (ms_likely(!reads_more(&frames[i]))) continue;
        if (frames[i].fp_words != 0 && word_at(outer->sp - (uintptr_t)frames[i].fp_words * WORD) != outer->fp) return i;
        if (frames[i].cfa_words != 0 && word_at(frames[i].fp - frames[i].cfa_words * WORD) != outer->sp) return i;
    }
    return 0;
}

static inline bool is_frame(const ms_unwind_frame_t *kept, const registers_t *at) {
    return kept->sp == at->sp && kept->pc == at->pc && (!kept->fp_matters || kept->fp == at->fp);
}

/* A stack cut at max_depth is kept from its innermost frame on: it fits one of exactly that depth only. */
static inline bool fits(const ms_unwind_thread_t *state, unsigned depth, unsigned max_depth) {
    return state->end == MS_UNWIND_END_depth ? depth == max_depth : depth <= max_depth;
}

/* True: the frame *at is kept frame w->keep - 1, and everything outside it is as it was. */
static inline bool kept_match(walk_t *w, const registers_t *at, unsigned max_depth) {
    const ms_unwind_frame_t *frames = w->state->frames;
    while (w->keep > 0 && frames[w->keep - 1].sp < at->sp) w->keep--;
    if (w->keep == 0 || !is_frame(&frames[w->keep - 1], at)) return false;
    bool may_stay = fits(w->state, w->keep + w->added, max_depth);
    unsigned change = may_stay ? first_change(frames, w->keep - 1) : 1;
    if (change == 0) return true;
    w->keep = may_stay ? change : 0;
    return false;
}

static inline void walk(walk_t *w, unsigned max_depth) {
    ms_unwind_frame_t *frames = w->state->frames;
    ms_unwind_frame_t *added;
    registers_t at = w->start;
    do {
        if (kept_match(w, &at, max_depth)) {
            w->matched = true;
            w->end = (ms_unwind_end_t)w->state->end;
            return;
        }
        if (w->added == max_depth) {
            w->end = MS_UNWIND_END_depth;
            break;
        }
        unsigned top = MS_UNWIND_MAX_DEPTH - ++w->added;
        if (ms_unlikely(top < w->keep)) w->keep = 0; /* new frames need the room */
        added = &frames[top];
        added->pc = at.pc;
        added->sp = at.sp;
        added->fp = at.fp;
    } while (step(w, &at, added));
    w->keep = 0;
}

static inline uint32_t commit(walk_t *w) {
    ms_unwind_frame_t *frames = w->state->frames;
    unsigned depth = w->keep;
    uint32_t stack = depth > 0 ? frames[depth - 1].stack : MS_STACK_NONE;
    bool outer_fp_matters = depth > 0 && frames[depth - 1].fp_matters;
    for (unsigned left = w->added; left > 0; left--, depth++) {
        ms_unwind_frame_t frame = frames[MS_UNWIND_MAX_DEPTH - left];
        bool is_recursion = depth > 0 && frames[depth - 1].pc == frame.pc; /* child() says the same, slower */
        if (!is_recursion) stack = ms_stack_child(stack, frame.pc);
        frame.stack = stack;
        if (!outer_fp_matters) frame.fp_words = 0;
        if (outer_fp_matters && frame.fp_words == 0) frame.fp_matters = true;
        outer_fp_matters = frame.fp_matters;
        frames[depth] = frame;
    }
    w->state->depth = w->keepable ? depth : 0;
    w->state->taken = (uint16_t)depth;
    w->state->end = (uint8_t)w->end;
    return stack;
}

/* Field by field: clearing the whole with a string instruction costs as much as half a capture. */
static inline void start_walk(walk_t *w, ms_unwind_thread_t *state, registers_t at) {
    w->state = state;
    w->start = at;
    w->trust.start = w->trust.end = 0;
    w->trust.compiled = w->trust.tables = 0;
    w->keep = state->depth;
    w->added = w->steps = 0;
    w->keepable = true;
    w->matched = w->is_again = false;
    w->end = MS_UNWIND_END_depth;
}

/* One capture at a time. */
static MS_COLD bool enter_again(ms_unwind_thread_t *state, uintptr_t busy, uintptr_t sp) {
    bool left_by_longjmp = sp > busy && is_known(state, sp) && is_known(state, busy);
    if (!left_by_longjmp && ++state->reentries < REENTRIES_MOST) return false;
    forget(state);
    state->epoch++; /* should it resume after all, it will notice */
    return true;
}

static inline bool enter(ms_unwind_thread_t *state, uintptr_t sp) {
    uintptr_t busy = atomic_load_explicit(&state->busy, memory_order_relaxed);
    if (ms_unlikely(busy != 0) && !enter_again(state, busy, sp)) return false;
    atomic_store_explicit(&state->busy, sp, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst);
    if (ms_unlikely(!is_known(state, sp))) know_stack(state, sp);
    return true;
}

static inline void leave(ms_unwind_thread_t *state) {
    atomic_signal_fence(memory_order_seq_cst);
    atomic_store_explicit(&state->busy, 0, memory_order_relaxed);
}

static MS_COLD uint32_t caller_only(ms_unwind_thread_t *state, uintptr_t pc, ms_unwind_end_t end) {
    state->stats.captures++;
    state->stats.ends[end]++;
    return ms_stack_child(MS_STACK_NONE, pc);
}

MS_COLD uint32_t ms_unwind_caller_alone(ms_unwind_thread_t *state, uintptr_t caller) {
    bool within_another = atomic_load_explicit(&state->busy, memory_order_relaxed) != 0;
    ms_unwind_end_t otherwise = is_ready ? MS_UNWIND_END_bad_stack : MS_UNWIND_END_no_memory;
    return caller_only(state, caller, within_another ? MS_UNWIND_END_reentered : otherwise);
}

static inline void count(walk_t *w) {
    ms_unwind_stats_t *stats = &w->state->stats;
    stats->captures++;
    stats->reused += w->matched;
    stats->frames_walked += w->steps;
    stats->rows_compiled += w->trust.compiled;
    stats->ends[w->end]++;
}

static MS_COLD uint32_t given_up(ms_unwind_thread_t *state, uintptr_t pc) {
    forget(state);
    leave(state);
    return caller_only(state, pc, MS_UNWIND_END_reentered);
}

/* The stack differs from the kept one. */
static __attribute__((noinline)) uint32_t walk_site(ms_unwind_thread_t *state, uintptr_t pc, uintptr_t sp, uintptr_t fp,
                                                    unsigned max_depth) {
    uint16_t epoch = state->epoch;
    walk_t w;
    start_walk(&w, state, (registers_t){pc, sp, fp, false});
    state->depth = 0; /* valid again once committed */
    walk(&w, max_depth);
    uint32_t stack = commit(&w);
    if (ms_unlikely(state->epoch != epoch)) return given_up(state, pc);
    count(&w);
    leave(state);
    if (ms_unlikely(w.trust.tables != 0)) ms_rows_forget_tables(&w.trust);
    return stack;
}

/* The stack is the kept one from its innermost frame on, as in a loop that allocates: nothing needs to be set up to
 * find that out, and most captures of most programs end here. */
static inline bool is_kept_stack(const ms_unwind_thread_t *state, const registers_t *at, unsigned max_depth) {
    unsigned depth = state->depth;
    if (depth == 0 || !is_frame(&state->frames[depth - 1], at) || !fits(state, depth, max_depth)) return false;
    return first_change(state->frames, depth - 1) == 0;
}

uint32_t ms_unwind_site(ms_unwind_thread_t *state, uintptr_t pc, uintptr_t sp, uintptr_t fp, unsigned max_depth) {
    if (ms_unlikely(!is_ready)) return caller_only(state, pc, MS_UNWIND_END_no_memory);
    if (ms_unlikely(!enter(state, sp))) return caller_only(state, pc, MS_UNWIND_END_reentered);
    registers_t at = {pc, sp, fp, false};
    uint16_t epoch = state->epoch;
    if (max_depth - 1 >= MS_UNWIND_MAX_DEPTH) max_depth = max_depth == 0 ? 1 : MS_UNWIND_MAX_DEPTH;
    if (!is_kept_stack(state, &at, max_depth)) return walk_site(state, pc, sp, fp, max_depth);
    uint32_t stack = state->frames[state->depth - 1].stack;
    state->stats.captures++;
    state->stats.reused++;
    state->stats.ends[state->end]++;
    if (ms_unlikely(state->epoch != epoch)) return given_up(state, pc);
    leave(state);
    return stack;
}

unsigned ms_unwind_pcs(ms_unwind_thread_t *state, uintptr_t pc, uintptr_t sp, uintptr_t fp, uintptr_t *pcs,
                       unsigned max, ms_unwind_end_t *end) {
    walk_t w;
    registers_t at = {pc, sp, fp, false};
    start_walk(&w, state, at);
    unsigned count = 0;
    if (!is_ready || !enter(state, sp)) {
        *end = is_ready ? MS_UNWIND_END_reentered : MS_UNWIND_END_no_memory;
        if (max > 0) pcs[count++] = pc;
        return count;
    }
    ms_unwind_frame_t frame;
    while (count < max) {
        pcs[count++] = at.pc;
        if (!step(&w, &at, &frame)) break;
        if (count == max) w.end = MS_UNWIND_END_depth;
    }
    leave(state);
    *end = w.end;
    return count;
}

/* Out of the allocator's own frames. */
static bool path_leads_to(const ms_unwind_path_t *path, uintptr_t caller, uintptr_t pc, uintptr_t sp) {
    if (path->pc != pc || path->steps == 0) return false;
    for (uint32_t i = 0; i + 1 < path->steps; i++) {
        if (word_at(sp + path->distance[i]) != path->returns[i]) return false;
    }
    return word_at(sp + path->sp_bytes - WORD) == caller;
}

static MS_COLD bool find_path(walk_t *w, uintptr_t caller, registers_t *at) {
    ms_unwind_path_t path = {.pc = at->pc};
    ms_unwind_frame_t frame;
    uintptr_t start = at->sp;
    bool keepable = true;
    while (at->pc != caller) {
        if (path.steps == MS_UNWIND_PATH_STEPS || !step(w, at, &frame) || at->exact) return false;
        if (frame.fp_matters) keepable = false; /* a CFA that is no distance from sp */
        if (frame.fp_words != 0) path.fp_bytes = (uint32_t)(at->sp - (uintptr_t)frame.fp_words * WORD - start);
        path.distance[path.steps] = (uint32_t)(at->sp - WORD - start);
        path.returns[path.steps++] = at->pc;
    }
    path.sp_bytes = (uint32_t)(at->sp - start);
    if (keepable && w->trust.end == 0) w->state->paths[w->state->next_path++ % MS_UNWIND_PATHS] = path;
    return true;
}

static inline bool take_path(const ms_unwind_thread_t *state, uintptr_t caller, uintptr_t *pc, uintptr_t *sp,
                             uintptr_t *fp) {
    for (unsigned i = 0; i < MS_UNWIND_PATHS; i++) {
        const ms_unwind_path_t *path = &state->paths[i];
        if (!is_known(state, *sp + path->sp_bytes) || !path_leads_to(path, caller, *pc, *sp)) continue;
        if (path->fp_bytes != 0) *fp = word_at(*sp + path->fp_bytes);
        *sp += path->sp_bytes;
        *pc = caller;
        return true;
    }
    return false;
}

bool ms_unwind_to(ms_unwind_thread_t *state, uintptr_t caller, uintptr_t *pc, uintptr_t *sp, uintptr_t *fp) {
    if (!is_ready || !enter(state, *sp)) return false;
    bool met = take_path(state, caller, pc, sp, fp);
    if (!met) {
        walk_t w;
        registers_t at = {*pc, *sp, *fp, false};
        start_walk(&w, state, at);
        met = find_path(&w, caller, &at);
        if (w.trust.tables != 0) ms_rows_forget_tables(&w.trust);
        *pc = at.pc;
        *sp = at.sp;
        *fp = at.fp;
    }
    leave(state);
    return met;
}
