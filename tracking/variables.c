#include "tracking/variables.h"
#include "alloc/lock.h"
#include "alloc/os.h"
#include "alloc/thread.h"
#include "tracking/process.h"
#include "tracking/sites.h"

#include <errno.h>
#include <stdbool.h>

#define CHUNK 64u

static MS_FAR _Atomic(ms_variable_t *) variables[MS_SITE_VARIABLES_MAX / CHUNK];
static _Atomic(uint32_t) variable_count;

uint32_t ms_variable_count(void) {
    return atomic_load_explicit(&variable_count, memory_order_acquire);
}

ms_variable_t *ms_variable_of_site(uint32_t site) {
    if (site < MS_SITE_VARIABLES || site - MS_SITE_VARIABLES >= ms_variable_count()) return NULL;
    uint32_t index = site - MS_SITE_VARIABLES;
    return &atomic_load_explicit(&variables[index / CHUNK], memory_order_acquire)[index % CHUNK];
}

static const char *kept(const char *text) {
    if (!text) return NULL;
    size_t bytes = __builtin_strlen(text) + 1;
    char *copy = ms_os_map_metadata(bytes);
    return copy ? __builtin_memcpy(copy, text, bytes) : NULL;
}

/* Under MS_LOCK_SITES. */
static uint32_t variable_register(memscope_variable_t *variable) {
    uint32_t index = ms_variable_count();
    if (index >= MS_SITE_VARIABLES_MAX) return 0;
    ms_variable_t *chunk = atomic_load_explicit(&variables[index / CHUNK], memory_order_relaxed);
    if (!chunk) {
        chunk = ms_os_map_metadata(CHUNK * sizeof *chunk);
        if (!chunk) return 0;
        atomic_store_explicit(&variables[index / CHUNK], chunk, memory_order_release);
    }
    chunk[index % CHUNK].named = (memscope_variable_t){
        .name = kept(variable->name),
        .type = kept(variable->type),
        .function = kept(variable->function),
        .file = kept(variable->file),
        .line = variable->line,
        .site = MS_SITE_VARIABLES + index,
    };
    atomic_store_explicit(&variable_count, index + 1, memory_order_release);
    __atomic_store_n(&variable->site, MS_SITE_VARIABLES + index, __ATOMIC_RELEASE);
    return MS_SITE_VARIABLES + index;
}

static MS_COLD uint32_t variable_site_slow(memscope_variable_t *variable) {
    ms_lock(MS_LOCK_SITES);
    uint32_t site = variable->site ? variable->site : variable_register(variable);
    ms_unlock(MS_LOCK_SITES);
    return site;
}

static uint32_t variable_site(memscope_variable_t *variable) {
    uint32_t site = __atomic_load_n(&variable->site, __ATOMIC_ACQUIRE);
    return ms_likely(site != 0) ? site : variable_site_slow(variable);
}

static int track_block(const void *pointer, memscope_variable_t *variable, ms_block_facts_t *block) {
    if (!pointer || !ms_block_find(pointer, block)) return EINVAL;
    uint32_t site = variable_site(variable);
    if (!site) return ENOMEM;
    ms_site_retag(block, site);
    return 0;
}

int memscope_track(const void *pointer, memscope_variable_t *variable) {
    ms_block_facts_t block;
    return track_block(pointer, variable, &block);
}

/* ---- regions */

int memscope_track_region(const volatile void *start, size_t bytes, memscope_variable_t *variable) {
    if (!start || (uintptr_t)start + bytes < (uintptr_t)start) return EINVAL;
    ms_variable_t *kept_variable = ms_variable_of_site(variable_site(variable));
    if (!kept_variable) return ENOMEM;
    const ms_thread_t *thread = ms_arena_current->thread;
    atomic_store_explicit(&kept_variable->start, (uintptr_t)start, memory_order_relaxed);
    atomic_store_explicit(&kept_variable->bytes, bytes, memory_order_relaxed);
    atomic_store_explicit(&kept_variable->thread, thread ? thread->id : 0, memory_order_relaxed);
    atomic_fetch_add_explicit(&kept_variable->times, 1, memory_order_relaxed);
    return 0;
}

int memscope_track_smart(const volatile void *object, size_t bytes, int is_pointer, memscope_variable_t *variable) {
    if (!is_pointer) return memscope_track_region(object, bytes, variable);
    const void *pointer; /* all pointers look the same; what this one points at is not read */
    __builtin_memcpy(&pointer, (const void *)(uintptr_t)object, sizeof pointer);
    return memscope_track(pointer, variable);
}

/* ---- owned blocks */

typedef struct ms_owned {
    const void *payload; /* NULL: freed */
    uint32_t site;       /* of the variable whose scope it is */
    bool in_scope;       /* the scope has not ended: it points here */
    uint64_t start_ns;
    struct ms_owned *next; /* in its bucket, or among unused records */
} ms_owned_t;

#define FIRST_BUCKETS 1024u
#define RECORDS 64u /* made at a time */

_Atomic(uint64_t) ms_owned_count;

/* MS_LOCK_SITES */
static ms_owned_t **buckets, *unused;
static size_t bucket_count;

static uint64_t now_ns(void) {
    return ms_process.knobs.test_mode ? 0 : ms_os_precise_ns();
}

static ms_owned_t **bucket_of(const void *payload) {
    return &buckets[((uintptr_t)payload >> 4) * 0x9e3779b97f4a7c15u >> 20 & (bucket_count - 1)];
}

static void insert(ms_owned_t *owned) {
    ms_owned_t **bucket = bucket_of(owned->payload);
    owned->next = *bucket;
    *bucket = owned;
}

/* Chains stay short: four times the buckets when there are two records to each. Without memory they get longer. */
static bool make_room(void) {
    if (bucket_count && atomic_load_explicit(&ms_owned_count, memory_order_relaxed) < 2 * bucket_count) return true;
    size_t before = bucket_count;
    ms_owned_t **old = buckets, **larger = ms_os_map_metadata((before ? 4 * before : FIRST_BUCKETS) * sizeof *larger);
    if (!larger) return before != 0;
    buckets = larger;
    bucket_count = before ? 4 * before : FIRST_BUCKETS;
    for (size_t i = 0; i < before; i++)
        for (ms_owned_t *owned = old[i], *next; owned; owned = next) {
            next = owned->next;
            insert(owned);
        }
    return true;
}

static ms_owned_t *record_take(void) {
    if (!make_room()) return NULL;
    if (!unused) {
        ms_owned_t *fresh = ms_os_map_metadata(RECORDS * sizeof *fresh);
        for (size_t i = 0; fresh && i < RECORDS; i++) {
            fresh[i].next = unused;
            unused = &fresh[i];
        }
    }
    ms_owned_t *owned = unused;
    if (!owned) return NULL;
    unused = owned->next;
    atomic_fetch_add_explicit(&ms_owned_count, 1, memory_order_relaxed);
    return owned;
}

static void record_give(ms_owned_t *owned) {
    owned->next = unused;
    unused = owned;
    atomic_fetch_sub_explicit(&ms_owned_count, 1, memory_order_relaxed);
}

/* Takes the records of a payload out of the table: a list. A block may be owned by nested scopes. */
static ms_owned_t *take_all(const void *payload) {
    ms_owned_t *taken = NULL;
    if (!bucket_count) return NULL;
    for (ms_owned_t **at = bucket_of(payload); *at;) {
        ms_owned_t *owned = *at;
        if (owned->payload != payload) {
            at = &owned->next;
            continue;
        }
        *at = owned->next;
        owned->next = taken;
        taken = owned;
    }
    return taken;
}

static void count_lifetime(ms_scope_counts_t *scopes, uint64_t lived_ns) {
    if (scopes->freed_blocks == 0 || lived_ns < scopes->lifetime_min_ns) scopes->lifetime_min_ns = lived_ns;
    if (lived_ns > scopes->lifetime_max_ns) scopes->lifetime_max_ns = lived_ns;
    scopes->lifetime_sum_ns += lived_ns;
    scopes->freed_blocks++;
}

MS_COLD void ms_owned_freed_slow(const void *payload) {
    ms_lock(MS_LOCK_SITES);
    uint64_t now = 0;
    for (ms_owned_t *owned = take_all(payload), *next; owned; owned = next) {
        next = owned->next;
        if (!now) now = now_ns();
        count_lifetime(&ms_variable_of_site(owned->site)->scopes, now - owned->start_ns);
        owned->payload = NULL;
        if (!owned->in_scope) record_give(owned);
    }
    ms_unlock(MS_LOCK_SITES);
}

MS_COLD void ms_owned_moved_slow(const void *from, const void *to) {
    ms_lock(MS_LOCK_SITES);
    for (ms_owned_t *owned = take_all(from), *next; owned; owned = next) {
        next = owned->next;
        owned->payload = to;
        insert(owned);
    }
    ms_unlock(MS_LOCK_SITES);
}

memscope_scope_t memscope_scope_begin(const void *pointer, memscope_variable_t *variable) {
    ms_block_facts_t block;
    memscope_scope_t scope = {.record = NULL, .error = track_block(pointer, variable, &block)};
    if (scope.error) return scope;
    ms_lock(MS_LOCK_SITES);
    ms_owned_t *owned = record_take();
    if (owned) {
        *owned = (ms_owned_t){.payload = pointer, .site = variable->site, .in_scope = true, .start_ns = now_ns()};
        insert(owned);
        ms_variable_of_site(owned->site)->scopes.begun++;
    }
    ms_unlock(MS_LOCK_SITES);
    scope.record = owned;
    if (!owned) scope.error = ENOMEM;
    return scope;
}

/* A block whose record is in the table has not been freed: a free waits for the lock first. */
void memscope_scope_end(memscope_scope_t *scope) {
    ms_owned_t *owned = scope->record;
    if (!owned) return;
    scope->record = NULL;
    ms_lock(MS_LOCK_SITES);
    ms_scope_counts_t *scopes = &ms_variable_of_site(owned->site)->scopes;
    ms_block_facts_t block;
    scopes->ended++;
    owned->in_scope = false;
    if (!owned->payload) {
        record_give(owned);
    } else if (ms_block_find(owned->payload, &block)) {
        scopes->outlived_blocks++;
        scopes->outlived_bytes += block.size;
    }
    ms_unlock(MS_LOCK_SITES);
}

ms_scope_counts_t ms_variable_scopes(const ms_variable_t *variable) {
    ms_lock(MS_LOCK_SITES);
    ms_scope_counts_t copy = variable->scopes;
    ms_unlock(MS_LOCK_SITES);
    return copy;
}
