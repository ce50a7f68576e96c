#define _GNU_SOURCE
#include "alloc/thread.h"
#include "alloc/backend.h"
#include "alloc/limit.h"
#include "alloc/lock.h"
#include "alloc/os.h"
#include "alloc/paranoia.h"
#include "alloc/reclaim.h"
#include "alloc/runtime.h"
#include "config.h"
#include "tracking/events.h"
#include "tracking/process.h"
#include "tracking/sampling.h"
#include "tracking/tasks.h"
#include "tracking/unwind.h"

#include <errno.h>
#include <gnu/libc-version.h>
#include <limits.h>
#include <pthread.h>
#include <string.h>
#include <sys/prctl.h>

/* The thread's part of the life cycle. A destructor of another library may allocate after ours has run; such a thread
 * works with the stray arena. */
static __thread enum { THREAD_NEW, THREAD_ATTACHING, THREAD_ATTACHED, THREAD_GONE } life
    __attribute__((tls_model("initial-exec")));

__thread ms_arena_t *ms_arena_current __attribute__((tls_model("initial-exec"))) = &ms_arena_empty;

__thread ms_arena_t *ms_arena_hidden __attribute__((tls_model("initial-exec")));

#define RECORD_CHUNK 64u
static MS_FAR _Atomic(ms_thread_t *) records[(MS_CODE_MAX + RECORD_CHUNK) / RECORD_CHUNK + 1];
static _Atomic(uint32_t) code_count = 1; /* code 0 is the folded record */
static ms_thread_t folded = {.state = MS_THREAD_ENDED};

/* MS_LOCK_THREADS */
static uint64_t last_id;
static uint32_t ended_count;
static ms_thread_t *oldest_ended, *newest_ended;
static ms_arena_t *orphans;
static _Atomic(uint32_t) warm_orphans; /* written under MS_LOCK_THREADS */

/* MS_LOCK_THREADS, or MS_LOCK_STRAY while the stray arena is made: two threads may be here */
static _Atomic(uint32_t) tenants, arena_count;
static _Atomic(ms_arena_t *) all_arenas;

static MS_FAR ms_arena_t stray; /* it is made when it is first needed: 8 KiB */
static bool stray_exists; /* MS_LOCK_STRAY */
static pthread_key_t key;
static bool started, key_exists; /* MS_LOCK_THREADS */

static _Atomic(ms_thread_t *) freers; /* grows only */

static bool any_cut_off; /* MS_LOCK_THREADS: ms_thread_agree() has something to do */
static uint64_t reuse_starts;
static uint32_t reuse_failures; /* MS_LOCK_THREADS: looks in a row that found nothing, at most 8 */

#define KEPT_ENDED 256u /* ended threads with a row of their own before codes are reused */
#define SCARCE_CODES 4096u

ms_arena_t *ms_arena_first(void) { return atomic_load_explicit(&all_arenas, memory_order_acquire); }
uint32_t ms_thread_code_count(void) { return atomic_load_explicit(&code_count, memory_order_acquire); }

ms_thread_t *ms_thread_of_code(uint32_t code) {
    if (code == MS_CODE_FOLDED) return &folded;
    if (code >= ms_thread_code_count()) return NULL;
    ms_thread_t *chunk = atomic_load_explicit(&records[code / RECORD_CHUNK], memory_order_acquire);
    return chunk ? &chunk[code % RECORD_CHUNK] : NULL;
}

/* ---- arenas */

/* Every list has the arena's `birth` with where the list is. */
static void set_birth(ms_arena_t *arena, uint64_t birth) {
    arena->birth = birth;
    for (uint32_t class = 0; class < MS_SMALL_CLASSES; class++)
        arena->lists[class].birth = birth | ms_word0(ms_list_of(class), 0, 0);
}

static MS_RARE void arena_init(ms_arena_t *arena) {
    for (uint32_t class = 0; class < MS_CLASS_COUNT; class++) arena->lists[class].first = ms_list_end;
    set_birth(arena, 0);
    for (uint32_t class = 1, size = 1; class < MS_FAST_CLASSES; class++)
        for (; size <= ms_class_payload(class); size++) arena->list_offsets[size] = (uint8_t)ms_list_of(class);
    arena->cell_task = &ms_task_none;
    arena->index = arena_count++;
    arena->random = ms_sampling_seed(arena->index);
    arena->next = atomic_load_explicit(&all_arenas, memory_order_relaxed);
    /* release: pairs with ms_arena_first() */
    while (!atomic_compare_exchange_weak_explicit(&all_arenas, &arena->next, arena, memory_order_release, memory_order_relaxed));
}

/* A thread that ends leaves its free blocks in their lists, and one that starts soon after finds them there. A few orphans are
 * left so, with little memory, for MS_DECAY_NS: until then nobody else has it. */
#define WARM_ORPHANS 8
#define WARM_BYTES ((size_t)256 << 10)
#define WARM_SLABS 64

static void cool(ms_arena_t *arena) {
    if (arena->warm_since_ns) atomic_fetch_sub_explicit(&warm_orphans, 1, memory_order_relaxed);
    arena->warm_since_ns = 0;
}

static _Atomic(bool) orphans_have_mail;

static void flush_orphan(ms_arena_t *arena) {
    ms_arena_drain(arena);
    ms_arena_flush_all(arena);
    cool(arena);
}

static void leave_warm_or_flush(ms_arena_t *arena) {
    ms_arena_drain(arena);
    uint32_t warm = atomic_load_explicit(&warm_orphans, memory_order_relaxed);
    uint32_t slabs = arena->slab_count - atomic_load_explicit(&arena->reclaimed_slabs, memory_order_relaxed);
    if (warm >= WARM_ORPHANS || slabs > WARM_SLABS || ms_arena_listed_bytes(arena) > WARM_BYTES) {
        ms_arena_flush_all(arena);
        return;
    }
    ms_large_unkeep(&arena->kept);
    ms_arena_flush_spare(arena);
    arena->warm_since_ns = ms_os_monotonic_ns();
    atomic_store_explicit(&warm_orphans, warm + 1, memory_order_relaxed);
}

#define BUDGET_ALL ((size_t)16 << 20)   /* what all threads may hold in slabs of free classes, where there are more than FEW_THREADS, */
#define BUDGET_LEAST ((size_t)64 << 10) /* but each this much */
#define FEW_THREADS 16
size_t ms_arena_budget;
/* MS_LOCK_THREADS. So many threads more run. */
static void count_threads(int more) {
    static int running;
    running += more;
    size_t budget = running > FEW_THREADS ? BUDGET_ALL / (size_t)running : 0;
    if (budget && budget < BUDGET_LEAST) budget = BUDGET_LEAST;
    __atomic_store_n(&ms_arena_budget, budget, __ATOMIC_RELAXED);
}

static ms_arena_t *arena_from_pool(void) {
    ms_arena_t *arena = orphans;
    if (arena) {
        orphans = arena->next_in_pool;
        cool(arena);
        return arena;
    }
    arena = ms_os_map_metadata((sizeof *arena + 63) & ~(size_t)63);
    if (arena) arena_init(arena);
    return arena;
}

/* What the tenant counts starts from zero; what the arena counts by class goes on. */
static void arena_forget_tenant(ms_arena_t *arena) {
    ms_arena_flow_reset(arena);
    arena->other_freed_bytes = arena->other_freed_blocks = 0;
    arena->drained_bytes = 0;
    atomic_store_explicit(&arena->reclaimed_bytes, 0, memory_order_relaxed);
    arena->foreign_freed_bytes = arena->foreign_freed_blocks = 0;
    arena->mark = arena->settled = arena->task_settled = (ms_flow_t){0};
    arena->peak_bytes = 0;
    arena->task_id = 0;
    arena->foreign_cell = NULL; /* it is the former thread's */
    arena->last_block = NULL;
}

void ms_arena_dress(ms_arena_t *arena) {
    uint64_t birth = ms_word0(0, ms_age_encode(ms_process_milliseconds()), 0);
    if (birth != arena->birth) set_birth(arena, birth);
    for (uint32_t origin = 0; origin < MS_ORIGIN_COUNT; origin++)
        arena->untasked_expect[origin] = arena->always_slow ? 0 : ms_token(ms_identity(0, arena->code, MS_FLAG_LIVE | origin));
    ms_arena_expect_in(arena, arena->task_id, arena->expect);
    ms_arena_expect_in(arena, arena->cell_id, arena->cell_expect);
}

/* ---- records */

static ms_thread_t *record_new(void) {
    uint32_t code = atomic_load_explicit(&code_count, memory_order_relaxed);
    if (code > MS_CODE_MAX) return NULL;
    _Atomic(ms_thread_t *) *slot = &records[code / RECORD_CHUNK];
    ms_thread_t *chunk = atomic_load_explicit(slot, memory_order_relaxed);
    if (!chunk) {
        chunk = ms_os_map_metadata(RECORD_CHUNK * sizeof *chunk);
        if (!chunk) return NULL;
        atomic_store_explicit(slot, chunk, memory_order_release); /* pairs with ms_thread_of_code() */
    }
    chunk[code % RECORD_CHUNK].code = code;
    atomic_store_explicit(&code_count, code + 1, memory_order_release);
    return &chunk[code % RECORD_CHUNK];
}

static void ended_remove(ms_thread_t *thread) {
    *(thread->older ? &thread->older->newer : &oldest_ended) = thread->newer;
    *(thread->newer ? &thread->newer->older : &newest_ended) = thread->older;
    ended_count--;
}

static void ended_push(ms_thread_t *thread) {
    thread->older = newest_ended;
    thread->newer = NULL;
    *(newest_ended ? &newest_ended->newer : &oldest_ended) = thread;
    newest_ended = thread;
    ended_count++;
}

static bool has_live_blocks(const ms_thread_t *thread) {
    ms_flow_t others = ms_thread_freed_by_others(thread);
    return thread->final.allocated_blocks != thread->final.freed_blocks + others.freed_blocks;
}

/* From now on it may be among those that freed blocks of others. */
static void set_freed(ms_thread_t *thread, ms_cells_t *cells) {
    __atomic_store_n(&thread->freed, cells, __ATOMIC_RELEASE);
    thread->next_freer = atomic_load_explicit(&freers, memory_order_relaxed);
    /* release: pairs with ms_thread_freed_by_others() */
    while (!atomic_compare_exchange_weak_explicit(&freers, &thread->next_freer, thread, memory_order_release, memory_order_relaxed));
}

/* A cell counts for this owner from now on; numbers of a former one of the same code, who is folded, move on. */
static void set_owner(ms_cells_t *cells, ms_cell_t *cell, uint64_t owner) {
    if (cell->freed_blocks) {
        ms_cell_t *rest = ms_cell(cells, MS_CODE_FOLDED);
        ms_count(&rest->freed_bytes, cell->freed_bytes);
        ms_count(&rest->freed_blocks, cell->freed_blocks);
        __atomic_store_n(&cell->freed_bytes, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&cell->freed_blocks, 0, __ATOMIC_RELAXED);
    }
    __atomic_store_n(&cell->owner, owner, __ATOMIC_RELAXED);
}

/* What `thread` freed of others moves to the folded record, where each cell keeps naming its owner. */
static void fold_freed_cells(ms_thread_t *thread) {
    if (!thread->freed) return;
    ms_cells_t *cells = folded.freed ? NULL : ms_os_map_metadata(sizeof *cells);
    if (cells) set_freed(&folded, cells);
    for (uint32_t code = 0, count = ms_thread_code_count(); code < count; code++) {
        ms_cell_t *cell = ms_cell_find(thread->freed, code);
        if (!cell || !cell->freed_blocks) continue;
        const ms_thread_t *owner = ms_thread_of_code(code);
        uint32_t to = owner && owner->id == cell->owner ? code : MS_CODE_FOLDED;
        if (folded.freed) {
            ms_cell_t *sum = ms_cell(folded.freed, to);
            if (to != MS_CODE_FOLDED && sum->owner != cell->owner) set_owner(folded.freed, sum, cell->owner);
            sum->freed_bytes += cell->freed_bytes;
            sum->freed_blocks += cell->freed_blocks;
        }
        memset(cell, 0, sizeof *cell);
    }
}

static bool are_codes_scarce(void) {
    return atomic_load_explicit(&code_count, memory_order_relaxed) > MS_CODE_MAX - SCARCE_CODES;
}

/* Whether to look for a record to reuse. A look costs a pass over all that freed blocks of others: where the last ones found
 * every old thread's blocks alive, only every second, fourth, ... up to 256th start of a thread looks; every eighth when codes
 * run out and there is no other way. */
static bool reuse_is_due(bool only_way) {
    uint32_t shift = only_way && reuse_failures > 3 ? 3 : reuse_failures;
    return (++reuse_starts & (((uint64_t)1 << shift) - 1)) == 0;
}

/* A thread that a fork cut off counted others' blocks in its total and in the cells of their owners, and a child may
 * have one count and not the other, as the thread was in between: most likely where it freed its first, and the memory
 * for its cells was yet to come. The cells are as right: the total is theirs. Not if there are some that had no memory,
 * nor if one was being moved to another (then they are more by all that is in it). */
#define SKEW_MOST 64 /* blocks */
static void agree_with_cells(ms_thread_t *thread) {
    uint64_t bytes = 0, blocks = 0;
    bool due = thread->cut_off && thread != &folded; /* the folded record was locked */
    thread->cut_off = false;
    if (!due || ms_cells_dropped()) return;
    if (thread->freed) ms_cells_freed(thread->freed, &bytes, &blocks);
    if (blocks > thread->foreign_freed_blocks + SKEW_MOST) return;
    thread->foreign_freed_bytes = bytes;
    thread->foreign_freed_blocks = blocks;
}

void ms_thread_agree(void) {
    if (!any_cut_off) return;
    any_cut_off = false;
    for (uint32_t code = 0, count = ms_thread_code_count(); code < count; code++) {
        ms_thread_t *thread = ms_thread_of_code(code);
        if (thread) agree_with_cells(thread);
    }
}

/* Takes over the code of the oldest ended thread without live blocks; looks at a few only. */
static ms_thread_t *record_reuse(bool only_way) {
    if (!reuse_is_due(only_way)) return NULL;
    for (int tries = 0; tries < 4 && ended_count > KEPT_ENDED; tries++) {
        ms_thread_t *thread = oldest_ended;
        ended_remove(thread);
        if (has_live_blocks(thread)) {
            ended_push(thread);
            continue;
        }
        agree_with_cells(thread);
        ms_flow_add(&folded.final, thread->final);
        folded.foreign_freed_bytes += thread->foreign_freed_bytes;
        folded.foreign_freed_blocks += thread->foreign_freed_blocks;
        folded.cpu_ns += thread->cpu_ns;
        folded.end_ns++; /* counts folded threads */
        fold_freed_cells(thread);
        *thread = (ms_thread_t){.code = thread->code, .freed = thread->freed, .next_freer = thread->next_freer};
        reuse_failures = 0;
        return thread;
    }
    if (reuse_failures < 8) reuse_failures++;
    return NULL;
}

/* The record of the arena's last tenant, if codes run out. Those that are left are for arenas that are new. */
static ms_thread_t *record_to_resume(const ms_arena_t *arena) {
    ms_thread_t *thread = ms_thread_of_code(arena->code);
    return are_codes_scarce() && thread->state == MS_THREAD_ENDED && thread->home == arena ? thread : NULL;
}

static ms_thread_t *record_resume(ms_thread_t *thread) {
    ended_remove(thread);
    folded.end_ns++;
    return thread;
}

static ms_thread_t *record_take(const ms_arena_t *arena) {
    ms_thread_t *last = record_to_resume(arena), *thread = record_reuse(are_codes_scarce() && !last);
    if (!thread) thread = last ? record_resume(last) : record_new();
    if (!thread) return &folded;
    if (!thread->id) {
        thread->id = ++last_id;
        thread->start_ns = ms_process_elapsed_ns();
    }
    thread->tid = ms_os_thread_id();
    thread->pointer = (uintptr_t)__builtin_thread_pointer();
    prctl(PR_GET_NAME, thread->name);
    thread->state = MS_THREAD_RUNNING;
    return thread;
}

static void add_arena_flow(ms_flow_t *flow, const ms_arena_t *arena) {
    ms_flow_add(flow, ms_arena_flow(arena));
    flow->freed_bytes += ms_read(&arena->other_freed_bytes);
    flow->freed_blocks += ms_read(&arena->other_freed_blocks);
}

ms_flow_t ms_thread_own_flow(const ms_thread_t *thread) {
    ms_flow_t flow = thread->final;
    if (thread->arena) add_arena_flow(&flow, thread->arena);
    if (thread == &folded)
        for (const ms_arena_t *arena = ms_arena_first(); arena; arena = arena->next)
            if (arena->thread == &folded) add_arena_flow(&flow, arena);
    return flow;
}

ms_flow_t ms_thread_freed_by_others(const ms_thread_t *thread) {
    ms_flow_t sum = {0};
    const ms_thread_t *other = atomic_load_explicit(&freers, memory_order_acquire);
    for (; other; other = other->next_freer) {
        const ms_cell_t *cell = ms_cell_find(other->freed, thread->code);
        if (!cell || ms_read(&cell->owner) != thread->id) continue;
        sum.freed_bytes += ms_read(&cell->freed_bytes);
        sum.freed_blocks += ms_read(&cell->freed_blocks);
    }
    return sum;
}

/* The freeing thread's cell for the owner of a code. */
static MS_COLD ms_cell_t *foreign_cell(ms_arena_t *arena, uint32_t code, const ms_thread_t *owner) {
    ms_thread_t *freer = arena->thread;
    if (!freer->freed) {
        ms_cells_t *cells = ms_os_map_metadata(sizeof *cells);
        if (!cells) return ms_cell_drop();
        set_freed(freer, cells);
    }
    ms_cell_t *cell = ms_cell(freer->freed, code);
    if (!ms_cell_find(freer->freed, code)) return cell; /* the shared one, of whose numbers nothing is known */
    if (cell->owner != owner->id) set_owner(freer->freed, cell, owner->id);
    arena->foreign_code = code;
    arena->foreign_cell = cell;
    return cell;
}

void ms_thread_count_foreign_free(ms_arena_t *arena, uint32_t code, size_t size) {
    const ms_thread_t *owner = ms_thread_of_code(code);
    bool shared = arena->thread == &folded; /* several threads write this table */
    if (ms_unlikely(shared)) ms_lock(MS_LOCK_THREADS);
    ms_count(&arena->foreign_freed_bytes, size);
    ms_count(&arena->foreign_freed_blocks, 1);
    ms_cell_t *cell = arena->foreign_cell;
    if (ms_unlikely(!cell || arena->foreign_code != code || cell->owner != owner->id || shared))
        cell = foreign_cell(arena, code, owner);
    ms_count(&cell->freed_bytes, size);
    ms_count(&cell->freed_blocks, 1);
    if (ms_unlikely(shared)) ms_unlock(MS_LOCK_THREADS);
}

void ms_thread_large_is_gone(uint32_t code, size_t size) {
    const ms_thread_t *owner = ms_thread_of_code(code);
    ms_arena_t *arena = owner ? __atomic_load_n(&owner->arena, __ATOMIC_RELAXED) : NULL;
    if (arena) atomic_fetch_add_explicit(&arena->reclaimed_bytes, size, memory_order_relaxed);
}

/* ---- attach and detach */

static void detach(void *argument);

static MS_RARE void attach_arena(ms_arena_t *arena, ms_thread_t *thread) {
    ms_arena_sequence_begin(arena);
    arena_forget_tenant(arena);
    if (thread->final.allocated_blocks && thread != &folded) { /* it is resumed: what lived then lives on */
        ms_flow_t others = ms_thread_freed_by_others(thread);
        arena->peak_bytes = thread->peak_bytes;
        arena->drained_bytes = thread->final.freed_bytes + others.freed_bytes - thread->final.allocated_bytes; /* below 0 */
    }
    ms_arena_sequence_end(arena);
    arena->thread = thread;
    arena->code = thread->code;
    arena->tenant = ++tenants;
    ms_trace_adopt(arena);
    if (thread != &folded) __atomic_store_n(&thread->arena, arena, __ATOMIC_RELAXED);
    if (arena->unwind) ms_unwind_thread_reset(arena->unwind);
    ms_arena_dress(arena);
    ms_sampling_start(arena);
    ms_arena_rearm(arena);
    atomic_store_explicit(&arena->state, MS_ARENA_RUNNING, memory_order_release);
}

MS_RARE unsigned ms_thread_hold_keys(pthread_key_t *held, pthread_key_t below) {
    pthread_key_t next;
    unsigned count = 0;
    while (count < below && pthread_key_create(&next, NULL) == 0) {
        if (next >= below) {
            pthread_key_delete(next);
            break;
        }
        held[count++] = next;
    }
    return count;
}

MS_RARE void ms_thread_release_keys(const pthread_key_t *held, unsigned count) {
    while (count > 0) pthread_key_delete(held[--count]);
}

static MS_RARE bool key_make(void) {
    pthread_key_t held[MS_LAST_PLAIN_KEY];
    unsigned count = ms_thread_hold_keys(held, MS_LAST_PLAIN_KEY);
    bool made = pthread_key_create(&key, detach) == 0;
    ms_thread_release_keys(held, count);
    return made || pthread_key_create(&key, detach) == 0;
}

static MS_RARE ms_arena_t *attach(void) {
    int saved = errno;
    life = THREAD_ATTACHING;
    ms_lock(MS_LOCK_THREADS);
    if (!started) {
        started = true;
        ms_process_start();
        key_exists = key_make();
    }
    ms_arena_t *arena = arena_from_pool();
    if (arena) {
        count_threads(1);
        attach_arena(arena, record_take(arena));
    }
    ms_unlock(MS_LOCK_THREADS);
    if (arena) {
        ms_arena_current = arena;
        life = THREAD_ATTACHED;
        if (key_exists) pthread_setspecific(key, arena); /* may allocate: the arena is ready */
    } else {
        life = THREAD_NEW;
    }
    errno = saved;
    return arena;
}

/* The record keeps the numbers of its arena, which is nobody's from now on. */
static MS_RARE void end_record(ms_arena_t *arena) {
    ms_thread_t *thread = arena->thread;
    add_arena_flow(&thread->final, arena);
    thread->foreign_freed_bytes += arena->foreign_freed_bytes;
    thread->foreign_freed_blocks += arena->foreign_freed_blocks;
    __atomic_store_n(&thread->arena, NULL, __ATOMIC_RELAXED);
    if (thread != &folded) {
        thread->home = arena;
        thread->peak_bytes = arena->peak_bytes;
        thread->unseen_turn = arena->unseen_turn;
        thread->end_ns = ms_process_elapsed_ns();
        thread->state = MS_THREAD_ENDED;
        ended_push(thread);
    }
    arena->thread = NULL;
}

/* Runs as a destructor of thread-specific data. Others may still allocate after it, so it asks to be called again. Of the
 * four rounds there are it takes two: a thread whose first call of malloc or free is made by a destructor of the second
 * round still gives its arena back. */
#define DETACH_ROUNDS (PTHREAD_DESTRUCTOR_ITERATIONS / 2)

static MS_RARE void detach(void *argument) {
    static __thread int rounds __attribute__((tls_model("initial-exec")));
    if (ms_unlikely(argument != ms_arena_current)) return; /* another libc's value */
    if (++rounds < DETACH_ROUNDS) {
        pthread_setspecific(key, argument);
        return;
    }
    ms_arena_t *arena = argument;
    ms_arena_hide(arena);
    ms_paranoia_flush(arena);
    ms_arena_post(arena);
    ms_arena_settle(arena);
    ms_task_settle_last(arena);
    ms_arena_flush_task(arena);
    ms_lock(MS_LOCK_THREADS);
    leave_warm_or_flush(arena);
    ms_arena_current = &ms_arena_empty;
    ms_arena_hidden = NULL;
    life = THREAD_GONE;
    arena->thread->cpu_ns += ms_os_thread_cpu_ns();
    if (arena->thread != &folded) prctl(PR_GET_NAME, arena->thread->name);
    end_record(arena);
    atomic_store(&arena->state, MS_ARENA_ORPHAN); /* who posted before saw it running, who posts now knows what to do */
    if (ms_arena_has_mail(arena)) atomic_store_explicit(&orphans_have_mail, true, memory_order_relaxed);
    arena->next_in_pool = orphans;
    orphans = arena;
    count_threads(-1);
    ms_unlock(MS_LOCK_THREADS);
}

static ms_arena_t *enter_stray(void) {
    atomic_store_explicit(&ms_process.interrupted, true, memory_order_relaxed);
    ms_lock(MS_LOCK_STRAY);
    if (!stray_exists) {
        arena_init(&stray);
        attach_arena(&stray, &folded);
        stray_exists = true;
    }
    if (stray.unwind) ms_unwind_thread_reset(stray.unwind); /* what is known of a stack was known of another thread's */
    return &stray;
}

ms_arena_t *ms_arena_try_enter(void) {
    ms_arena_t *arena = ms_arena_current;
    if (ms_unlikely(arena == &ms_arena_empty)) {
        if (ms_unlikely(ms_lock_is_held())) return NULL;
        if (life != THREAD_NEW || ms_arena_hidden || !(arena = attach())) return enter_stray();
    }
    ms_arena_hide(arena);
    return arena;
}

ms_arena_t *ms_arena_enter(void) {
    ms_arena_t *arena = ms_arena_try_enter();
    return arena ? arena : enter_stray();
}

void ms_arena_leave(ms_arena_t *arena) {
    if (ms_unlikely(arena == &stray))
        ms_unlock(MS_LOCK_STRAY);
    else
        ms_arena_show(arena);
}

/* ---- orphans */

void ms_thread_posted_to_orphan(ms_arena_t *orphan, bool much) {
    if (!much) {
        if (!atomic_load_explicit(&orphans_have_mail, memory_order_relaxed))
            atomic_store_explicit(&orphans_have_mail, true, memory_order_relaxed);
        return;
    }
    ms_lock(MS_LOCK_THREADS);
    if (atomic_load_explicit(&orphan->state, memory_order_relaxed) == MS_ARENA_ORPHAN) flush_orphan(orphan);
    ms_unlock(MS_LOCK_THREADS);
}

MS_RARE void ms_thread_decay(uint64_t now_ns) {
    bool mail = atomic_load_explicit(&orphans_have_mail, memory_order_relaxed);
    if (!mail && !atomic_load_explicit(&warm_orphans, memory_order_relaxed)) return;
    atomic_store_explicit(&orphans_have_mail, false, memory_order_relaxed);
    ms_lock(MS_LOCK_THREADS);
    for (ms_arena_t *arena = orphans; arena; arena = arena->next_in_pool)
        if (arena->warm_since_ns ? now_ns - arena->warm_since_ns >= MS_DECAY_NS : mail && ms_arena_has_mail(arena)) flush_orphan(arena);
    ms_unlock(MS_LOCK_THREADS);
}

void ms_thread_trim_orphans(void) {
    ms_lock(MS_LOCK_THREADS);
    for (ms_arena_t *arena = orphans; arena; arena = arena->next_in_pool) flush_orphan(arena);
    for (ms_arena_t *arena = ms_arena_first(); arena; arena = arena->next) ms_reclaim(arena);
    ms_unlock(MS_LOCK_THREADS);
}

/* ---- fork: the child has one thread. Arenas of the others may have been caught halfway through a change, so they are
 * never run again; their blocks can be freed. */

/* Of a process with one thread. Nobody else holds a lock or is in a backing: nothing needs to be taken. It could not be
 * had where fork() was called by a signal handler that interrupted code with locks; there, all of it stays as it is, in
 * the child as well, where that code goes on when the handler returns. (With more threads such a fork() waits for ever,
 * as glibc's own does.) */
static bool forks_alone;

static _Atomic(uint32_t) forks; /* so far: also where a sandbox refuses gettid(), a child's number is no sibling's */

/* fork() takes the lock of stdio's streams when all handlers ran; whoever holds it meanwhile may be waiting for a lock of
 * ours, as fflush(NULL) of a stream that allocates. So it is taken before them, if no handler runs after ours: one that
 * waits for a lock whose holder opens a file would wait for ever. */
extern void _IO_list_lock(void), _IO_list_unlock(void), _IO_list_resetlock(void);
static bool runs_last;

/* libc's own lock of the handlers it knows is held by a thread that registers one, for which it may allocate; fork() takes that
 * lock again behind our handler. Recursive: a handler past ours may register one. */
#define REGISTERING PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP
static pthread_mutex_t registering = REGISTERING;

static void fork_before(void) {
    forks_alone = ms_os_is_single_threaded();
    atomic_fetch_add_explicit(&forks, 1, memory_order_relaxed);
    if (forks_alone) return;
    if (runs_last) _IO_list_lock();
    pthread_mutex_lock(&registering);
    ms_lock_all();
    ms_backend_before_fork();
}

static void fork_parent(void) {
    if (forks_alone) return;
    ms_backend_after_fork(false);
    ms_unlock_all();
    pthread_mutex_unlock(&registering);
    if (runs_last) _IO_list_unlock();
}

static void freeze_others(void) {
    for (ms_arena_t *arena = ms_arena_first(); arena; arena = arena->next) {
        ms_thread_t *thread = arena->thread;
        if (arena == ms_arena_current || arena == ms_arena_hidden) {
            thread->tid = ms_os_thread_id();
        } else if (thread && arena != &stray) { /* the stray arena is nobody's: its lock says it was at rest */
            atomic_store(&arena->state, MS_ARENA_FROZEN);
            end_record(arena);
            thread->cut_off = any_cut_off = true;
            count_threads(-1);
        }
    }
}

/* Children draw samples of their own: the estimates of workers that do the same work would have the same error. */
static void draw_anew(void) {
    ms_sampling_child((uint64_t)ms_os_thread_id() << 32 | atomic_load_explicit(&forks, memory_order_relaxed));
    ms_arena_t *arena = ms_arena_current;
    if (ms_arena_hidden) {
        ms_sampling_restart(ms_arena_hidden, false);
    } else if (ms_arena_hide(arena)) {
        ms_sampling_restart(arena, true);
        ms_arena_show(arena);
    }
}

static void fork_child(void) {
    if (forks_alone) {
        const ms_arena_t *arena = ms_arena_hidden ? ms_arena_hidden : ms_arena_current;
        if (arena->thread) arena->thread->tid = ms_os_thread_id();
        if (!ms_arena_hidden && !ms_lock_is_held()) ms_limit_after_fork();
        draw_anew();
        return;
    }
    ms_backend_after_fork(true);
    registering = (pthread_mutex_t)REGISTERING;
    if (runs_last) _IO_list_resetlock(); /* so does glibc, where it saw threads as we did */
    ms_limit_after_fork();
    freeze_others();
    draw_anew();
    ms_lock_renew_all();
}

/* Handlers that were registered first run last: what others register comes behind ours. pthread_atfork() of every program and
 * library calls this, and finds ours before libc's as it finds malloc. Libraries that look into themselves first, or are loaded so
 * that ours is not found, register with libc as ever. */
typedef int register_fn(void (*before)(void), void (*parent)(void), void (*child)(void), void *module);
static register_fn register_behind_ours;
#if MS_SANITIZED /* its runtime registers before it is ready for our code */
extern register_fn __register_atfork;
#else
extern register_fn __register_atfork __attribute__((weak, visibility("default"), alias("register_behind_ours"))); /* LSB */
#endif
extern void *__dso_handle;
static register_fn *next_register;

static int register_behind_ours(void (*before)(void), void (*parent)(void), void (*child)(void), void *module) {
    ms_thread_init_fork();
    if (!next_register) return 0; /* linked statically, and nothing in the program forks */
    pthread_mutex_lock(&registering);
    int error = next_register(before, parent, child, module);
    pthread_mutex_unlock(&registering);
    return error;
}

/* pthread_atfork() itself would be linked behind all of our code: a page of its own in every process. Linked statically libc's own is
 * in place of ours if anything forks. */
void ms_thread_init_fork(void) {
    static bool registered;
    if (registered) return;
    registered = true;
    register_fn *called = __register_atfork;
    MS_OPAQUE(called);
    static const char name[] = "__register_atfork"; /* not among the messages, which lie far away */
    const char *libc = gnu_get_libc_version();      /* lies in it */
    runs_last = called == register_behind_ours && ms_runtime_is_before(&next_register, libc);
    next_register = called == register_behind_ours ? (register_fn *)ms_runtime_find(name, libc) : called;
    if (next_register) next_register(fork_before, fork_parent, fork_child, __dso_handle);
}
