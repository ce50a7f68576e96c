/* The operating system, behind one contract: address space, its return, a clock, and one line on stderr.
 *
 * Nothing here allocates, uses stdio, or takes a lock. Sizes are bytes and multiples of the page size unless said
 * otherwise. Errno stays, but for the functions that say something else: free() must not change it, nor does a malloc() that
 * had to ask the kernel twice. */
#ifndef MS_ALLOC_OS_H
#define MS_ALLOC_OS_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MS_PAGE 4096u /* unit of mappings; a kernel with larger pages rounds up itself */

#define ms_likely(condition) __builtin_expect(!!(condition), 1)
#define ms_unlikely(condition) __builtin_expect(!!(condition), 0)
#define MS_COLD __attribute__((noinline, cold))
/* What programs call most begins where a cache line does (docs/decisions/0022-near-and-far.md). */
#define MS_HOT __attribute__((aligned(64)))
/* To be small rather than fast: start-up, and what is behind a cache. Unlike MS_COLD it may be part of its caller. */
#define MS_RARE __attribute__((cold))
/* For what begins as zeros and is large or seldom used: it lies behind the variables that every process touches. */
#define MS_FAR __attribute__((section(".bss.far")))

/* Zeroed private memory at a multiple of `alignment` (a power of two, at least a page), or NULL: also for
 * more than memory and swap together, unless the kernel is told to allow that (vm.overcommit_memory = 1). */
void *ms_os_map(size_t bytes, size_t alignment);
/* Where the kernel refuses it (vm.max_map_count), the pages' memory goes and their addresses stay. */
void ms_os_unmap(void *start, size_t bytes);

/* Grows or shrinks a mapping, moving it if it must; no byte is copied. NULL: unchanged, and errno says why. */
void *ms_os_remap(void *start, size_t old_bytes, size_t new_bytes);

/* Whether mapping more than is used costs nothing: no RLIMIT_AS, no RLIMIT_DATA, and the kernel does not count what is mapped. */
bool ms_os_address_space_is_free(void);
/* Whether some of the process's memory is locked: with mlockall() what is mapped is there at once. False where no file may be read. */
bool ms_os_memory_is_locked(void);

/* The pages stay mapped, their memory goes, and their contents with it: unless the kernel refuses (locked memory, a seccomp
 * filter). */
void ms_os_purge(void *start, size_t bytes);
/* The same, and zeros are read from then on in any case. */
void ms_os_clear(void *start, size_t bytes);
/* Which of so many pages of memory that is no file's were touched: a bit each. False: most were, or the kernel does not tell, or
 * may not be asked. Under MS_LOCK_LOOK: a file is open meanwhile, which no child of a fork inherits so. */
#define MS_OS_LOOK 4096u
bool ms_os_look_touched(const void *start, size_t pages, uint64_t touched[MS_OS_LOOK / 64]);
/* Whole pages of a file's mapping, private or not, leave the memory of this process; they come back when they are read. None does
 * if one of them is not the file's any more, or never was, as in a program that was unpacked in memory, or where the kernel does
 * not tell, or may not be asked. */
void ms_os_forget_file(const void *start, size_t bytes);
extern bool ms_os_opens_nothing; /* so it does nothing: a sandbox may kill a process for opening a file */

/* The pages, of which none was touched, are there as if they were: in one call, for less than they cost one by one. False: the
 * kernel does not do it, or not now. */
bool ms_os_populate(void *start, size_t bytes);

/* Signals wait until sigprocmask(SIG_SETMASK, before). Not those that the thread's own instructions and system calls (SIGSYS of
 * a sandbox) send: they would kill. */
void ms_os_block_signals(sigset_t *before);

/* Zeroed memory for memscope's own tables, never returned; any size, 16-byte aligned, from 64 bytes on 64-byte aligned.
 * Thread-safe without a lock. */
void *ms_os_map_metadata(size_t bytes);
uint64_t ms_os_metadata_bytes(void); /* handed out so far */

uint64_t ms_os_monotonic_ns(void);        /* a few ns; resolution of the kernel's tick */
uint64_t ms_os_precise_ns(void);          /* that clock at its full resolution: tens of ns */
uint64_t ms_os_monotonic_step_ns(void);   /* of ms_os_monotonic_ns() */
uint64_t ms_os_unix_ns(void);             /* wall clock */
uint64_t ms_os_thread_cpu_ns(void);       /* of this thread, 0 where a sandbox refuses to tell: a system call */
void ms_os_sleep(uint32_t ns);            /* or less: a signal ends it; no cancellation point */
uint64_t ms_os_random(void);              /* from the kernel's 16 random bytes of this process; stable per process */
uint32_t ms_os_thread_id(void);           /* kernel tid */
bool ms_os_is_single_threaded(void);      /* true: for certain */
/* What one read() gives of a file of /proc, as text; false, and text is empty: it cannot be read. errno may change. */
bool ms_os_read_text(const char *path, char *text, size_t room);
bool ms_os_exists(const char *path); /* and can be opened. errno may change */
/* Calls `wanted` for each line of a file, whose newline is gone, until it says yes; false: it never did. Lines that `text`
 * has no room for are passed over. errno may change: to why the file cannot be opened. */
bool ms_os_read_lines(const char *path, char *text, size_t room, bool (*wanted)(char *line));

/* Counts bytes whose pages are neither in memory nor swapped out, over any number of ranges. It takes a bounded time: of
 * many pages some are looked at, evenly spread, and ranges that come too late count as those before. Where the kernel does
 * not tell, everything counts as touched. errno may change. */
typedef struct ms_os_census {
    int pagemap;                      /* descriptor, -1: the kernel does not tell */
    size_t calls;                     /* system calls made */
    uint64_t untouched, seen, unseen; /* bytes */
} ms_os_census_t;
#define MS_OS_UNSEEN SIZE_MAX
void ms_os_census_begin(ms_os_census_t *census);
/* Bytes of this range, or MS_OS_UNSEEN; *first: those in front of the first of them, if there are any. */
size_t ms_os_census_add(ms_os_census_t *census, const char *start, size_t bytes, size_t *first);
uint64_t ms_os_census_end(ms_os_census_t *census);

const char *ms_os_environment(const char *name); /* works before libc has set environ; NULL in set-uid programs */

/* One line "memscope: ..." on stderr by one write(2); the pieces are concatenated, NULL ends them. */
void ms_os_say(const char *first, ...) __attribute__((sentinel));

/* Text of a number in `buffer` (at least 24 bytes); returns buffer. */
const char *ms_os_decimal(char *buffer, uint64_t value);
const char *ms_os_hex(char *buffer, uint64_t value);

/* Debug builds: whether this call that obtains memory is to fail (environment: MEMSCOPE_FAIL_NTH, MEMSCOPE_FAIL_ONE_OF), which is
 * said on stderr. */
bool ms_os_fail_now(void);

#endif
