#include "alloc/limit.h"
#include "alloc/large.h"
#include "alloc/lock.h"
#include "alloc/slab.h"
#include "tracking/process.h"

#include <errno.h>
#include <string.h>

#define LOOKS_FROM ((uint64_t)4 << 20) /* bytes of heap; Docker's least limit is 6 MiB */
#define LOOK_NS 1000000000u
#define LEVELS 8 /* of the hierarchy that have a limit */
#define UNLIMITED UINT64_MAX
#define BEYOND_MEMORY ((uint64_t)1 << 62) /* version 1 has no word for no limit but a number larger than this */

/* The kernel needs some for the process as well: page tables, stacks of threads, sockets. It gets this part of a limit,
 * between these bounds, which is also what other threads and processes may take between a look and the touch. */
#define SPARED_PART 64
#define SPARED_LEAST ((uint64_t)512 << 10)
#define SPARED_MOST ((uint64_t)64 << 20)

/* Where the groups of a version are, names of their files, and what in memory.stat the kernel can drop. */
typedef struct version {
    const char *filesystem, *mounts[3]; /* where most systems mount it */
    const char *limit, *used, *swap_limit, *swap_used;
    const char *kernel; /* what it uses itself, if memory.stat does not say what of that it can drop */
    const char *droppable[4];
    bool swap_with_memory; /* the numbers of swap are those of memory and swap together */
} version_t;

static const version_t version1 = {
    .filesystem = "cgroup",
    .mounts = {"/sys/fs/cgroup/memory"},
    .limit = "/memory.limit_in_bytes",
    .used = "/memory.usage_in_bytes",
    .swap_limit = "/memory.memsw.limit_in_bytes",
    .swap_used = "/memory.memsw.usage_in_bytes",
    .kernel = "/memory.kmem.usage_in_bytes",
    .droppable = {"\ntotal_inactive_file ", "\ntotal_active_file "},
    .swap_with_memory = true,
};
static const version_t version2 = {
    .filesystem = "cgroup2",
    .mounts = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"},
    .limit = "/memory.max",
    .used = "/memory.current",
    .swap_limit = "/memory.swap.max",
    .swap_used = "/memory.swap.current",
    .droppable = {"\ninactive_file ", "\nactive_file ", "\nslab_reclaimable "},
};

_Atomic(ms_limit_state_t) ms_limit_state;

static MS_FAR struct {
    const version_t *version;
    char name[1024];       /* of the group in its hierarchy: /a/b */
    char directory[1024];  /* where its files are */
    size_t mount;          /* length of what of that is not the group but where its hierarchy is mounted */
    uint64_t own;          /* its limit when it was found */
    uint32_t levels;       /* it and those above it that have a limit */
    size_t length[LEVELS]; /* of the directory of each: a beginning of `directory` */
    char path[1024 + 64];  /* of the file read last */
    char text[4096];       /* and what is in it */
} group;                   /* MS_LOCK_LARGE */

static _Atomic(int64_t) room;     /* see limit.h; CLOSED while somebody looks */
static _Atomic(int64_t) underway; /* bytes between ms_limit_begin() and ms_limit_end() */
static _Atomic(uint64_t) looked_ns;
#define CLOSED INT64_MIN
static _Atomic(uint64_t) refusals;

/* ---- reading. All of it under MS_LOCK_LARGE */

static uint64_t number_of(const char *text) {
    uint64_t number = 0;
    if (*text < '0' || *text > '9') return UNLIMITED; /* "max" */
    for (; *text >= '0' && *text <= '9'; text++) number = number * 10 + (uint64_t)(*text - '0');
    return number;
}

static bool read_file(size_t length, const char *name) {
    memcpy(group.path, group.directory, length);
    strcpy(group.path + length, name);
    return ms_os_read_text(group.path, group.text, sizeof group.text);
}

/* UNLIMITED: so it says, or there is no such file. */
static uint64_t read_number(size_t length, const char *name) {
    uint64_t number = read_file(length, name) ? number_of(group.text) : UNLIMITED;
    return number < BEYOND_MEMORY ? number : UNLIMITED;
}

static uint64_t number_after(const char *key) {
    const char *at = strstr(group.text, key);
    if (!at) return 0;
    at += strlen(key);
    while (*at == ' ') at++;
    return number_of(at);
}

/* Rather too much, where version 1 does not tell caches of the kernel from what it needs: refusing in vain breaks
 * programs that ran. */
static uint64_t droppable(size_t length) {
    uint64_t kernel = group.version->kernel ? read_number(length, group.version->kernel) : 0;
    uint64_t bytes = kernel == UNLIMITED ? 0 : kernel;
    if (!read_file(length, "/memory.stat")) return bytes;
    for (const char *const *key = group.version->droppable; *key; key++) bytes += number_after(*key);
    return bytes;
}

static uint64_t less(uint64_t from, uint64_t bytes) {
    return from > bytes ? from - bytes : 0;
}

/* What can still be swapped out, of a level whose memory is limited to `limit` and used up to `used`. */
static uint64_t swap_left(size_t length, uint64_t limit, uint64_t used) {
    uint64_t free_bytes =
        ms_os_read_text("/proc/meminfo", group.text, sizeof group.text) ? number_after("\nSwapFree:") * 1024 : 0;
    if (!free_bytes) return 0;
    uint64_t allowed = read_number(length, group.version->swap_limit);
    uint64_t swapped = read_number(length, group.version->swap_used);
    if (allowed == UNLIMITED || swapped == UNLIMITED) return free_bytes;
    if (group.version->swap_with_memory) {
        allowed = less(allowed, limit);
        swapped = less(swapped, used);
    }
    uint64_t left = less(allowed, swapped);
    return left < free_bytes ? left : free_bytes;
}

static uint64_t spared(uint64_t limit) {
    uint64_t part = limit / SPARED_PART;
    return part < SPARED_LEAST ? SPARED_LEAST : part > SPARED_MOST ? SPARED_MOST : part;
}

/* Bytes that a level leaves; not worked out to the end if it is clearly more than `wanted`: by so much that it lasts.
 */
static int64_t level_room(size_t length, int64_t wanted) {
    uint64_t limit = read_number(length, group.version->limit), used = read_number(length, group.version->used);
    if (limit == UNLIMITED || used == UNLIMITED) return INT64_MAX;
    int64_t left = (int64_t)limit - (int64_t)spared(limit) - (int64_t)used;
    wanted += (int64_t)spared(limit);
    if (left < wanted) left += (int64_t)droppable(length);
    if (left < wanted) left += (int64_t)swap_left(length, limit, used);
    return left;
}

/* Of the level that leaves least. */
static int64_t group_room(int64_t wanted) {
    int64_t left = INT64_MAX;
    for (uint32_t level = 0; level < group.levels; level++) {
        int64_t here = level_room(group.length[level], wanted);
        if (here < left) left = here;
    }
    return left;
}

static int64_t untouched_bytes(uint64_t now) {
    ms_os_census_t census;
    ms_os_census_begin(&census);
    ms_large_count_untouched(&census, now);
    ms_slab_count_untouched(&census, now);
    return (int64_t)ms_os_census_end(&census);
}

/* What was touched is found out only if it matters: if there is room whether it was or not, or none anyway, all of the
 * heap counts as untouched. What others touch meanwhile counts twice rather than not at all: the group's use is read
 * last. */
static void look(size_t bytes, int64_t own_underway) {
    atomic_store(&room, CLOSED); /* others wait for the lock */
    int64_t others = atomic_load(&underway) - own_underway, wanted = (int64_t)bytes + others;
    uint64_t now = ms_os_monotonic_ns();
    int64_t untouched = (int64_t)(ms_large_mapped_bytes() + ms_slab_mapped_bytes()),
            left = group_room(wanted + untouched);
    if (left >= wanted && left - untouched < wanted) {
        untouched = untouched_bytes(now);
        left = group_room(wanted + untouched);
    }
    atomic_store_explicit(&looked_ns, now, memory_order_relaxed);
    atomic_store(&room, left - untouched - others);
}

/* ---- finding the group */

/* Whether the list of controllers from `first` up to `end` has memory in it. */
static MS_RARE bool has_memory(const char *first, const char *end) {
    static const char word[] = "memory";
    for (const char *at = first; at < end; at = strchr(at, ',') + 1) {
        const char *comma = memchr(at, ',', (size_t)(end - at)), *last = comma ? comma : end;
        if ((size_t)(last - at) == sizeof word - 1 && memcmp(at, word, sizeof word - 1) == 0) return true;
        if (!comma) return false;
    }
    return false;
}

/* A line of /proc/self/cgroup, "N:controllers:name". The hierarchy of version 1 that has memory goes before "0::",
 * which is version 2. */
static MS_RARE bool take_name(char *line) {
    const char *first = strchr(line, ':'), *last = first ? strchr(first + 1, ':') : NULL;
    if (!last || strlen(last + 1) >= sizeof group.name) return false;
    bool old = has_memory(first + 1, last);
    if (!old && last != first + 1) return false;
    group.version = old ? &version1 : &version2;
    strcpy(group.name, last + 1);
    return old;
}

static bool find_name(void) {
    group.name[0] = '\0';
    ms_os_read_lines("/proc/self/cgroup", group.text, sizeof group.text, take_name);
    return group.name[0] != '\0';
}

/* Whether the group's files are at `path` below `mount`: then group.directory says so, and group.own is its limit.
 * Every process with a heap of some size does this once, so no file is opened twice. */
static bool is_at(const char *mount, const char *path) {
    if (strcmp(path, "/") == 0) path = "";
    if (strlen(mount) + strlen(path) >= sizeof group.directory) return false;
    strcat(strcpy(group.directory, mount), path);
    size_t length = strlen(group.directory);
    group.own = read_number(length, group.version->limit);
    if (group.text[0]) return true;
    strcpy(group.path + length,
           "/cgroup.procs"); /* the root of version 2, and groups without the controller, have no limit */
    return ms_os_exists(group.path);
}

/* The text up to the next blank, with \040 and the like as what they stand for; *at goes behind it. */
static char *next_field(char **at) {
    char *field = *at, *end = field + strcspn(field, " "), *to = field;
    *at = *end ? end + 1 : end;
    for (const char *from = field; from < end; from++) {
        bool escaped = *from == '\\' && end - from > 3;
        *to++ = escaped ? (char)((from[1] - '0') << 6 | (from[2] - '0') << 3 | (from[3] - '0')) : *from;
        if (escaped) from += 3;
    }
    *to = '\0';
    return field;
}

/* A line of /proc/self/mountinfo, "36 35 98:0 ROOT MOUNT OPTIONS... - FILESYSTEM SOURCE OPTIONS": whether the group is
 * found there. What is mounted is the hierarchy from its group ROOT on. */
static MS_RARE bool take_mount(char *line) {
    char *at = line;
    for (int i = 0; i < 3; i++) next_field(&at);
    const char *root = next_field(&at), *mount = next_field(&at);
    char *rest = strstr(at, " - ");
    if (!rest) return false;
    rest += 3;
    if (strcmp(next_field(&rest), group.version->filesystem) != 0) return false;
    next_field(&rest);
    if (group.version == &version1 && !has_memory(rest, rest + strlen(rest))) return false;
    size_t length = strcmp(root, "/") == 0 ? 0 : strlen(root);
    if (strncmp(group.name, root, length) != 0 || (group.name[length] != '/' && group.name[length] != '\0'))
        return false;
    if (!is_at(mount, group.name + length)) return false;
    group.mount = strlen(mount);
    return true;
}

/* Whether the group's files are found. The table of mounts, which is long where many containers run, is read only if
 * they are not where most systems have them: in a container that is shown the name its group has outside, for one. */
static bool find_directory(void) {
    bool outside = strncmp(group.name, "/..", 3) == 0 && (group.name[3] == '/' || group.name[3] == '\0');
    if (outside) return false; /* a group that this namespace does not show, nor any above it */
    for (const char *const *mount = group.version->mounts; *mount; mount++) {
        group.mount = strlen(*mount);
        if (is_at(*mount, group.name)) return true;
    }
    return ms_os_read_lines("/proc/self/mountinfo", group.text, sizeof group.text, take_mount);
}

/* The one the knob names. */
static bool given_directory(const char *directory) {
    group.mount = strlen(directory);
    if (group.mount >= sizeof group.directory) return false;
    strcpy(group.directory, directory);
    group.version = &version2;
    if (!read_file(group.mount, version2.limit)) group.version = &version1;
    group.own = read_number(group.mount, group.version->limit);
    return group.text[0] != '\0';
}

static bool is_out_of_descriptors(void) {
    return errno == EMFILE || errno == ENFILE;
}

/* From the group up to where its hierarchy is mounted. */
static void climb(void) {
    for (size_t length = strlen(group.directory); length && length >= group.mount && group.levels < LEVELS; length--) {
        bool is_own = group.directory[length] == '\0';
        if (!is_own && group.directory[length] != '/') continue;
        uint64_t limit = is_own ? group.own : read_number(length, group.version->limit);
        if (limit != UNLIMITED) group.length[group.levels++] = length;
    }
}

static bool is_off(void) {
    return strcmp(ms_process.knobs.cgroup_limit, "off") == 0;
}

/* Stays unknown while there is no descriptor left to look with. */
static MS_RARE void start(void) {
    const char *knob = ms_process.knobs.cgroup_limit;
    bool off = is_off(), given = !off && strcmp(knob, "auto") != 0;
    group.levels = 0;
    errno = 0;
    bool found = given ? given_directory(knob) : find_name() && find_directory();
    if (!found && is_out_of_descriptors()) return;
    if (found) climb();
    ms_limit_state_t state = off || !group.levels ? MS_LIMIT_NONE : MS_LIMIT_SET;
    atomic_store_explicit(&looked_ns, 0, memory_order_relaxed);
    atomic_store_explicit(&ms_limit_state, state, memory_order_relaxed);
}

/* ---- taking */

static bool is_set(void) {
    return atomic_load_explicit(&ms_limit_state, memory_order_relaxed) == MS_LIMIT_SET;
}

static bool is_too_small(size_t bytes) {
    return ms_slab_mapped_bytes() + ms_large_mapped_bytes() + bytes < LOOKS_FROM;
}

static bool take_from_room(size_t bytes) {
    uint64_t seen = atomic_load_explicit(&looked_ns, memory_order_relaxed);
    if (bytes >= BEYOND_MEMORY || !seen || ms_os_monotonic_ns() - seen >= LOOK_NS) return false;
    int64_t left = atomic_load_explicit(&room, memory_order_relaxed);
    while (left >= (int64_t)bytes)
        if (atomic_compare_exchange_weak(&room, &left, left - (int64_t)bytes)) return true;
    return false;
}

/* MS_LOCK_LARGE. */
static bool take(size_t bytes, int64_t own_underway) {
    ms_limit_state_t state = atomic_load_explicit(&ms_limit_state, memory_order_relaxed);
    if (state == MS_LIMIT_NONE || (state == MS_LIMIT_UNKNOWN && is_too_small(bytes))) return true;
    if (is_off()) { /* no file is opened for that */
        atomic_store_explicit(&ms_limit_state, MS_LIMIT_NONE, memory_order_relaxed);
        return true;
    }
    int saved = errno;
    if (state == MS_LIMIT_UNKNOWN) start();
    bool done = !is_set() || take_from_room(bytes);
    if (!done && bytes < BEYOND_MEMORY) {
        look(bytes, own_underway);
        done = take_from_room(bytes);
    }
    errno = saved;
    if (!done) atomic_fetch_add_explicit(&refusals, 1, memory_order_relaxed);
    return done;
}

bool ms_limit_take_locked(size_t bytes) {
    return take(bytes, 0);
}

MS_COLD bool ms_limit_begin_slow(size_t bytes) {
    int64_t signed_bytes = (int64_t)(bytes < BEYOND_MEMORY ? bytes : 0);
    atomic_fetch_add(&underway, signed_bytes); /* before it is taken: pairs with look() */
    if (is_set() ? take_from_room(bytes) : is_too_small(bytes)) return true;
    ms_lock(MS_LOCK_LARGE);
    bool done = take(bytes, signed_bytes);
    ms_unlock(MS_LOCK_LARGE);
    if (!done) atomic_fetch_sub(&underway, signed_bytes);
    return done;
}

MS_COLD void ms_limit_end_slow(size_t bytes) {
    atomic_fetch_sub(&underway, (int64_t)bytes);
}

/* ---- others */

uint64_t ms_limit_bytes(void) {
    uint64_t least = UNLIMITED;
    ms_lock(MS_LOCK_LARGE);
    if (is_off() || atomic_load_explicit(&ms_limit_state, memory_order_relaxed) == MS_LIMIT_UNKNOWN) start();
    for (uint32_t level = 0; level < group.levels; level++) {
        uint64_t limit = read_number(group.length[level], group.version->limit);
        if (limit < least) least = limit;
    }
    ms_unlock(MS_LOCK_LARGE);
    return least;
}

uint64_t ms_limit_refusals(void) {
    return atomic_load_explicit(&refusals, memory_order_relaxed);
}

void ms_limit_after_fork(void) {
    atomic_store(&underway, 0);
    if (is_set()) atomic_store_explicit(&ms_limit_state, MS_LIMIT_UNKNOWN, memory_order_relaxed);
}
