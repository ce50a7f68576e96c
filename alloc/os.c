#define _GNU_SOURCE
#include "alloc/os.h"
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

extern char **environ;
extern void *__libc_stack_end; /* ld.so: where argc lies */

static void *map_pages(size_t bytes, int flags) {
    if (ms_os_fail_now()) return NULL;
    int saved = errno;
    void *start = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
    errno = saved;
    return start == MAP_FAILED ? NULL : start;
}

static MS_RARE void *map_aligned(size_t bytes, size_t alignment, int flags) {
    void *start = map_pages(bytes, flags);
    if (!start || ((uintptr_t)start & (alignment - 1)) == 0) return start;
    ms_os_unmap(start, bytes);
    if (bytes > SIZE_MAX - alignment) return NULL;
    char *wide = map_pages(bytes + alignment, flags);
    if (!wide) return NULL;
    char *aligned = wide + (-(uintptr_t)wide & (alignment - 1));
    if (aligned > wide) ms_os_unmap(wide, (size_t)(aligned - wide));
    size_t behind = alignment - (size_t)(aligned - wide);
    if (behind) ms_os_unmap(aligned + bytes, behind);
    return aligned;
}

/* Blocks: what the machine could never back is refused here and now, as the kernel does for those who do not ask it to
 * look away (MAP_NORESERVE), rather than by a kill when it is touched. */
void *ms_os_map(size_t bytes, size_t alignment) { return map_aligned(bytes, alignment, 0); }

void ms_os_unmap(void *start, size_t bytes) {
    int saved = errno;
    /* In the middle of a mapping, where the process has as many as it may have: its memory goes all the same. */
    if (munmap(start, bytes) != 0) madvise(start, bytes, MADV_DONTNEED);
    errno = saved;
}

void *ms_os_remap(void *start, size_t old_bytes, size_t new_bytes) {
    if (new_bytes > old_bytes && ms_os_fail_now()) {
        errno = ENOMEM;
        return NULL;
    }
    void *moved = mremap(start, old_bytes, new_bytes, MREMAP_MAYMOVE);
    return moved == MAP_FAILED ? NULL : moved;
}

/* By system calls: libc's functions are cancellation points, at which a thread could end in malloc with a lock. */
static int open_to_read(const char *path) { return (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC); }
static void close_file(int file) { syscall(SYS_close, file); }

bool ms_os_read_text(const char *path, char *text, size_t room) {
    int file = open_to_read(path);
    ssize_t length = file < 0 ? -1 : syscall(SYS_read, file, text, room - 1);
    if (file >= 0) close_file(file);
    text[length > 0 ? length : 0] = '\0';
    return length > 0;
}

bool ms_os_exists(const char *path) {
    int file = open_to_read(path);
    if (file >= 0) close_file(file);
    return file >= 0;
}

MS_RARE bool ms_os_read_lines(const char *path, char *text, size_t room, bool (*wanted)(char *line)) {
    int file = open_to_read(path);
    if (file < 0) return false;
    size_t held = 0;
    bool found = false, too_long = false; /* the rest of such a line is to come */
    ssize_t got;
    while (!found && (got = syscall(SYS_read, file, text + held, room - held)) > 0) {
        char *line = text, *last = text + held + got, *end;
        for (; !found && (end = memchr(line, '\n', (size_t)(last - line))) != NULL; line = end + 1) {
            *end = '\0';
            found = !too_long && wanted(line);
            too_long = false;
        }
        held = (size_t)(last - line);
        memmove(text, line, held);
        if (held < room) continue;
        held = 0;
        too_long = true;
    }
    close_file(file);
    return found;
}

#define PAGEMAP_THERE ((uint64_t)3 << 62) /* in memory, swapped out */
#define PAGEMAP_ENTRIES 128 /* read at once */
#define PAGEMAP_EXACT 2048  /* pages; of a range of more than these a sample is looked at: */
#define PAGEMAP_SAMPLE 256
#define CENSUS_CALLS 2048   /* a few milliseconds */

void ms_os_census_begin(ms_os_census_t *census) {
    *census = (ms_os_census_t){.pagemap = open_to_read("/proc/self/pagemap")};
}

uint64_t ms_os_census_end(ms_os_census_t *census) {
    if (census->pagemap >= 0) close_file(census->pagemap);
    double part = census->seen ? (double)census->untouched / (double)census->seen : 0;
    return census->untouched + (uint64_t)(part * (double)census->unseen);
}

size_t ms_os_census_add(ms_os_census_t *census, const char *start, size_t bytes, size_t *first) {
    uint64_t entries[PAGEMAP_ENTRIES];
    if (census->pagemap < 0 || census->calls >= CENSUS_CALLS) {
        census->unseen += bytes;
        return MS_OS_UNSEEN;
    }
    size_t offset = (uintptr_t)start & (MS_PAGE - 1), pages = (offset + bytes + MS_PAGE - 1) / MS_PAGE;
    size_t step = pages <= PAGEMAP_EXACT ? 1 : pages / PAGEMAP_SAMPLE, count = 0;
    for (size_t page = 0; page < pages; census->calls++) {
        size_t some = step > 1 ? 1 : pages - page < PAGEMAP_ENTRIES ? pages - page : PAGEMAP_ENTRIES;
        off_t at = (off_t)(((uintptr_t)start / MS_PAGE + page) * sizeof entries[0]);
        ssize_t got = syscall(SYS_pread64, census->pagemap, entries, some * sizeof entries[0], at);
        if (got < (ssize_t)sizeof entries[0]) break;
        for (size_t i = 0; i < (size_t)got / sizeof entries[0]; i++, page += step) {
            if (entries[i] & PAGEMAP_THERE) continue;
            if (count++ == 0) *first = page < step ? 0 : (page - step + 1) * MS_PAGE - offset;
        }
    }
    size_t found = count * step * MS_PAGE < bytes ? count * step * MS_PAGE : bytes;
    census->seen += bytes;
    census->untouched += found;
    return found;
}

static bool read_pagemap(int pagemap, uintptr_t page, size_t count, uint64_t *entries) {
    ssize_t bytes = (ssize_t)(count * sizeof *entries);
    return syscall(SYS_pread64, pagemap, entries, bytes, (off_t)(page * sizeof *entries)) == bytes;
}

/* Whether no page of the range, in memory or swapped out, is this process's own. */
static bool are_of_file(int pagemap, uintptr_t page, uintptr_t end) {
    static const uint64_t of_file = (uint64_t)1 << 61;
    uint64_t entries[PAGEMAP_ENTRIES];
    while (page < end) {
        size_t some = end - page < PAGEMAP_ENTRIES ? end - page : PAGEMAP_ENTRIES;
        if (!read_pagemap(pagemap, page, some, entries)) return false;
        for (size_t i = 0; i < some; i++)
            if ((entries[i] & PAGEMAP_THERE) && !(entries[i] & of_file)) return false;
        page += some;
    }
    return true;
}

#define LOOK_ENTRIES 1024 /* a call takes as long as the kernel needs for some 200 of them */
/* Under MS_LOCK_LOOK. */
static bool read_touched(int pagemap, uintptr_t page, size_t pages, uint64_t *touched) {
    static uint64_t entries[LOOK_ENTRIES];
    entries[0] = 1;
    /* the page of what was just written must be there: under an emulator the file may tell of other memory */
    if (!read_pagemap(pagemap, (uintptr_t)entries / MS_PAGE, 1, entries) || !(entries[0] & PAGEMAP_THERE)) return false;
    size_t count = 0;
    for (size_t first = 0, some; first < pages; first += some) {
        some = pages - first < LOOK_ENTRIES ? pages - first : LOOK_ENTRIES;
        if (!read_pagemap(pagemap, page + first, some, entries)) return false;
        for (size_t i = 0; i < some; i++) {
            if (!(entries[i] & PAGEMAP_THERE)) continue;
            touched[(first + i) / 64] |= (uint64_t)1 << (first + i) % 64;
            count++;
        }
    }
    return count < pages - pages / 4;
}

bool ms_os_opens_nothing;

void ms_os_forget_file(const void *start, size_t bytes) {
    uintptr_t first = ((uintptr_t)start + MS_PAGE - 1) / MS_PAGE, end = ((uintptr_t)start + bytes) / MS_PAGE;
    if (first >= end || ms_os_opens_nothing) return;
    int saved = errno, pagemap = open_to_read("/proc/self/pagemap");
    if (pagemap >= 0) {
        if (are_of_file(pagemap, first, end)) madvise((void *)(first * MS_PAGE), (end - first) * MS_PAGE, MADV_DONTNEED);
        close_file(pagemap);
    }
    errno = saved;
}

bool ms_os_look_touched(const void *start, size_t pages, uint64_t touched[MS_OS_LOOK / 64]) {
    if (ms_os_opens_nothing || getauxval(AT_PAGESZ) != MS_PAGE) return false;
    int saved = errno, pagemap = open_to_read("/proc/self/pagemap");
    bool known = false;
    if (pagemap >= 0) {
        memset(touched, 0, MS_OS_LOOK / 8);
        known = read_touched(pagemap, (uintptr_t)start / MS_PAGE, pages, touched);
        close_file(pagemap);
    }
    errno = saved;
    return known;
}

/* vm.overcommit_memory == 2: every mapping counts as if it were used. Read once. */
static bool overcommit_is_strict(void) {
    static _Atomic(int) known; /* 1: no, 2: yes */
    int strict = atomic_load_explicit(&known, memory_order_relaxed);
    if (strict) return strict == 2;
    char mode[8];
    strict = ms_os_read_text("/proc/sys/vm/overcommit_memory", mode, sizeof mode) && mode[0] == '2';
    atomic_store_explicit(&known, 1 + strict, memory_order_relaxed);
    return strict;
}

static bool is_unlimited(int resource) {
    struct rlimit limit;
    return getrlimit(resource, &limit) == 0 && limit.rlim_cur == RLIM_INFINITY;
}

/* What is private and writable counts for RLIMIT_DATA, used or not (Linux 4.7). */
bool ms_os_address_space_is_free(void) {
    int saved = errno;
    bool unlimited = !overcommit_is_strict() && is_unlimited(RLIMIT_AS) && is_unlimited(RLIMIT_DATA);
    errno = saved;
    return unlimited;
}

static bool says_locked(char *line) { return strncmp(line, "VmLck:", 6) == 0 && strpbrk(line, "123456789"); }

/* The file takes the kernel longer than a block takes to grow: it is read four times a second at most. */
bool ms_os_memory_is_locked(void) {
    static _Atomic(uint64_t) next_ns;
    static _Atomic(bool) locked;
    uint64_t now = ms_os_monotonic_ns();
    if (now < atomic_load_explicit(&next_ns, memory_order_relaxed)) return atomic_load_explicit(&locked, memory_order_relaxed);
    atomic_store_explicit(&next_ns, now + 250000000u, memory_order_relaxed);
    char line[256];
    int saved = errno;
    bool is = !ms_os_opens_nothing && ms_os_read_lines("/proc/self/status", line, sizeof line, says_locked);
    errno = saved;
    atomic_store_explicit(&locked, is, memory_order_relaxed);
    return is;
}

static bool purge(void *start, size_t bytes) {
    int saved = errno;
    bool gone = madvise(start, bytes, MADV_DONTNEED) == 0;
    errno = saved;
    return gone;
}
void ms_os_purge(void *start, size_t bytes) { purge(start, bytes); }
void ms_os_clear(void *start, size_t bytes) {
    if (!purge(start, bytes)) memset(start, 0, bytes);
}

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif
bool ms_os_populate(void *start, size_t bytes) {
    static _Atomic(bool) unknown;
    if (atomic_load_explicit(&unknown, memory_order_relaxed)) return false;
    int saved = errno;
    bool there = madvise(start, bytes, MADV_POPULATE_WRITE) == 0;
    if (!there && errno == EINVAL) atomic_store_explicit(&unknown, true, memory_order_relaxed);
    errno = saved;
    return there;
}

void ms_os_block_signals(sigset_t *before) {
    static const int own[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS};
    sigset_t others;
    sigfillset(&others);
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++) sigdelset(&others, own[i]);
    sigprocmask(SIG_BLOCK, &others, before);
}

/* Metadata comes from 256 KiB pieces by an atomic bump. A request that does not fit what is left gets a new piece,
 * and a large one a mapping of its own. Two threads that map a piece at once: the loser gives its piece back. */
#define PIECE ((size_t)256 << 10)
#define CACHE_LINE ((size_t)64)
static _Atomic(uintptr_t) piece_next; /* next free byte of the current piece; PIECE-aligned when it is full or none */
static _Atomic(uint64_t) metadata_bytes;

static void *bump_piece(size_t bytes) {
    uintptr_t mask = bytes < CACHE_LINE ? 15 : CACHE_LINE - 1; /* arenas want lines of their own */
    uintptr_t at = atomic_load_explicit(&piece_next, memory_order_acquire);
    for (;;) {
        uintptr_t start = (at + mask) & ~mask;
        size_t used = start & (PIECE - 1);
        if (used != 0 && used + bytes < PIECE) { /* '<': a full piece would look like none */
            if (atomic_compare_exchange_weak(&piece_next, &at, start + bytes)) return (void *)start;
            continue;
        }
        char *piece = map_aligned(PIECE, PIECE, MAP_NORESERVE);
        if (!piece) return NULL;
        /* the first line stays unused, so that "used" is never 0 */
        if (atomic_compare_exchange_strong(&piece_next, &at, (uintptr_t)piece + CACHE_LINE + bytes))
            return piece + CACHE_LINE;
        ms_os_unmap(piece, PIECE);
    }
}

/* Its first page's worth is written before it is read: a page that is read first is mapped twice, and all cores that run
 * the process are interrupted between (threads-100 of bench/micro: a tenth of all time). */
static void *metadata_from_piece(size_t bytes) {
    char *start = bump_piece(bytes);
    if (!start) return NULL;
    char *page = start + (-(uintptr_t)start & (MS_PAGE - 1));
    *(volatile char *)start = 0;
    if (page < start + bytes) *(volatile char *)page = 0;
    return start;
}

MS_RARE void *ms_os_map_metadata(size_t bytes) {
    bytes = (bytes + 15) & ~(size_t)15;
    atomic_fetch_add_explicit(&metadata_bytes, bytes, memory_order_relaxed);
    if (bytes <= PIECE / 8) return metadata_from_piece(bytes);
    return map_aligned((bytes + MS_PAGE - 1) & ~(size_t)(MS_PAGE - 1), MS_PAGE, MAP_NORESERVE); /* touched as used */
}

uint64_t ms_os_metadata_bytes(void) { return atomic_load_explicit(&metadata_bytes, memory_order_relaxed); }

static uint64_t ns_of(struct timespec time) { return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec; }

static uint64_t clock_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return ns_of(now);
}

uint64_t ms_os_monotonic_ns(void) { return clock_ns(CLOCK_MONOTONIC_COARSE); }
uint64_t ms_os_precise_ns(void) { return clock_ns(CLOCK_MONOTONIC); }
uint64_t ms_os_monotonic_step_ns(void) {
    struct timespec step;
    return clock_getres(CLOCK_MONOTONIC_COARSE, &step) == 0 ? (uint64_t)step.tv_nsec : 0;
}

uint64_t ms_os_unix_ns(void) { return clock_ns(CLOCK_REALTIME); }

uint64_t ms_os_thread_cpu_ns(void) {
    struct timespec used;
    int saved = errno;
    bool known = clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used) == 0;
    errno = saved;
    return known ? ns_of(used) : 0;
}

void ms_os_sleep(uint32_t ns) {
    int saved = errno;
    syscall(SYS_nanosleep, &(struct timespec){.tv_nsec = ns}, NULL);
    errno = saved;
}

uint64_t ms_os_random(void) {
    uint64_t words[2] = {0x9e3779b97f4a7c15u, 0};
    const void *random = (const void *)getauxval(AT_RANDOM);
    if (random) memcpy(words, random, sizeof words);
    return words[0] ^ (words[1] << 1);
}

extern char __libc_single_threaded __attribute__((weak)); /* glibc 2.32 */
bool ms_os_is_single_threaded(void) {
    return &__libc_single_threaded && __libc_single_threaded;
}

uint32_t ms_os_thread_id(void) { return (uint32_t)syscall(SYS_gettid); }

const char *ms_os_environment(const char *name) {
    if (getauxval(AT_SECURE)) return NULL;
    char **variables = environ;
    if (!variables && __libc_stack_end) variables = (char **)__libc_stack_end + *(long *)__libc_stack_end + 2;
    size_t length = strlen(name);
    for (; variables && *variables; variables++)
        if (strncmp(*variables, name, length) == 0 && (*variables)[length] == '=') return *variables + length + 1;
    return NULL;
}

/* A reader that has gone, or a file at its limit, ends no program because of our line: the signal for it is held back and taken away,
 * unless the program holds it back itself. No cancellation point. */
static void write_line(const char *line, size_t length) {
    const struct timespec now = {0, 0};
    sigset_t raised, before;
    sigemptyset(&raised);
    sigaddset(&raised, SIGPIPE);
    sigaddset(&raised, SIGXFSZ);
    sigprocmask(SIG_BLOCK, &raised, &before);
    long written;
    do written = syscall(SYS_write, STDERR_FILENO, line, length);
    while (written < 0 && errno == EINTR);
    if (written < 0 && (errno == EPIPE || errno == EFBIG)) {
        if (sigismember(&before, SIGPIPE)) sigdelset(&raised, SIGPIPE);
        if (sigismember(&before, SIGXFSZ)) sigdelset(&raised, SIGXFSZ);
        while (syscall(SYS_rt_sigtimedwait, &raised, NULL, &now, NSIG / 8) > 0 || errno == EINTR) continue;
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
}

void ms_os_say(const char *first, ...) {
    char line[1024] = "memscope: ";
    size_t length = strlen(line);
    va_list pieces;
    va_start(pieces, first);
    for (const char *piece = first; piece; piece = va_arg(pieces, const char *)) {
        size_t more = strlen(piece);
        if (more > sizeof line - 1 - length) more = sizeof line - 1 - length;
        memcpy(line + length, piece, more);
        length += more;
    }
    va_end(pieces);
    line[length++] = '\n';
    int saved = errno;
    write_line(line, length);
    errno = saved;
}

const char *ms_os_decimal(char *buffer, uint64_t value) {
    char reversed[20];
    size_t digits = 0;
    do reversed[digits++] = (char)('0' + value % 10);
    while ((value /= 10) != 0);
    for (size_t i = 0; i < digits; i++) buffer[i] = reversed[digits - 1 - i];
    buffer[digits] = '\0';
    return buffer;
}

const char *ms_os_hex(char *buffer, uint64_t value) {
    char *at = buffer;
    *at++ = '0';
    *at++ = 'x';
    int shift = 60;
    while (shift > 0 && (value >> shift) == 0) shift -= 4;
    for (; shift >= 0; shift -= 4) *at++ = "0123456789abcdef"[(value >> shift) & 15];
    *at = '\0';
    return buffer;
}

#if MS_DEBUG
/* MEMSCOPE_FAIL_NTH=N fails the Nth request, MEMSCOPE_FAIL_ONE_OF=K:SEED one of K, drawn by seed and number of the request. */
static struct {
    _Atomic(bool) known;
    _Atomic(uint64_t) nth, one_of, seed; /* 0: none fails */
    _Atomic(uint64_t) requests;
    _Atomic(bool) told;
} failures;

static uint64_t number_at(const char **text) {
    uint64_t n = 0;
    while (*text && **text >= '0' && **text <= '9') n = n * 10 + (uint64_t)(*(*text)++ - '0');
    return n;
}

static void read_failures(void) {
    const char *nth = ms_os_environment("MEMSCOPE_FAIL_NTH"), *one_of = ms_os_environment("MEMSCOPE_FAIL_ONE_OF");
    atomic_store(&failures.nth, number_at(&nth));
    uint64_t k = number_at(&one_of);
    if (one_of && *one_of++ == ':') atomic_store(&failures.seed, number_at(&one_of));
    atomic_store(&failures.one_of, k);
    atomic_store(&failures.known, true);
}

static bool is_drawn(uint64_t request) {
    uint64_t k = atomic_load(&failures.one_of);
    uint64_t z = (atomic_load(&failures.seed) + request) * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 29) * 0xbf58476d1ce4e5b9u;
    return k && (z >> 32) % k == 0;
}

/* Said when it happens, of those that are drawn for the first: the tests must know that something failed. */
bool ms_os_fail_now(void) {
    if (!atomic_load(&failures.known)) read_failures();
    uint64_t nth = atomic_load(&failures.nth);
    if (!nth && !atomic_load(&failures.one_of)) return false;
    uint64_t request = atomic_fetch_add(&failures.requests, 1) + 1;
    if (request == nth) ms_os_say("MEMSCOPE_FAIL_NTH", NULL);
    if (request == nth || !is_drawn(request)) return request == nth;
    if (!atomic_exchange(&failures.told, true)) ms_os_say("MEMSCOPE_FAIL_ONE_OF", NULL);
    return true;
}
#else
bool ms_os_fail_now(void) { return false; }
#endif
