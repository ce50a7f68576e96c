#define _GNU_SOURCE
#include "tracking/roots.h"
#include "alloc/os.h"
#include "alloc/slab.h"
#include "alloc/thread.h"
#include "tracking/process.h"
#include "tracking/worker.h"

#include <dirent.h>
#include <fcntl.h>
#include <link.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define SPANS_MOST 16384
#define LINK_MAP_BYTES 1280 /* of the loader's record, its private part included: 1160 in glibc 2.36 */
#define TCB_BYTES 2304      /* struct pthread behind the thread pointer: keys' values, robust list, ... */
#define TLS_MOST ((size_t)1 << 20)
#define RED_ZONE 128 /* a function may use this much below its stack pointer */
#define COPY_BYTES 65536

/* ---- reading */

size_t ms_roots_copy(void *to, uintptr_t from, size_t bytes) {
    /* a piece a page: of one piece the kernel gives all or nothing */
    struct iovec local = {to, bytes}, pages[COPY_BYTES / MS_PAGE + 1];
    size_t count = 0;
    if (bytes > COPY_BYTES) local.iov_len = bytes = COPY_BYTES;
    for (uintptr_t at = from, end = from + bytes; at < end; count++) {
        uintptr_t next = (at | (MS_PAGE - 1)) + 1;
        if (next > end || next == 0) next = end;
        pages[count] = (struct iovec){(void *)at, next - at};
        at = next;
    }
    ssize_t got = process_vm_readv(getpid(), &local, 1, pages, count, 0);
    return got < 0 ? 0 : (size_t)got;
}

/* ---- globals */

static void add_span(ms_roots_t *roots, uintptr_t start, size_t bytes) {
    if (bytes == 0) return;
    if (roots->span_count == SPANS_MOST) {
        roots->incomplete = true;
        return;
    }
    uintptr_t aligned = start & ~(uintptr_t)7;
    roots->spans[roots->span_count++] = (ms_span_t){aligned, bytes + (start - aligned)};
}

/* The first modules' records come from the loader's own small heap, which is neither a segment nor ours; those of later
 * ones are blocks that the links lead to. */
static void add_link_maps(ms_roots_t *roots) {
    for (const struct link_map *map = _r_debug.r_map; map; map = map->l_next)
        if (!ms_group_of(map)) add_span(roots, (uintptr_t)map, LINK_MAP_BYTES);
}

static bool is_own(const struct dl_phdr_info *info) {
    uintptr_t here = (uintptr_t)&ms_process;
    if (!info->dlpi_name || !info->dlpi_name[0]) return false; /* linked statically: our variables are the program's */
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *header = &info->dlpi_phdr[i];
        if (header->p_type == PT_LOAD && here - (info->dlpi_addr + header->p_vaddr) < header->p_memsz) return true;
    }
    return false;
}

static int add_module(struct dl_phdr_info *info, size_t size, void *context) {
    ms_roots_t *roots = context;
    uintptr_t thread = (uintptr_t)__builtin_thread_pointer();
    if (roots->modules++ == 0) add_link_maps(roots);
    bool own = is_own(info), has_tls = size >= offsetof(struct dl_phdr_info, dlpi_tls_data) + sizeof(void *);
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *header = &info->dlpi_phdr[i];
        if (header->p_type == PT_LOAD && header->p_flags & PF_W && !own)
            add_span(roots, info->dlpi_addr + header->p_vaddr, header->p_memsz);
        uintptr_t tls = has_tls && header->p_type == PT_TLS ? (uintptr_t)info->dlpi_tls_data : 0;
        if (tls && tls < thread && thread - tls < TLS_MOST && !ms_group_of((void *)tls) && thread - tls > roots->tls_bytes)
            roots->tls_bytes = thread - tls; /* the same distance in every thread */
    }
    return 0;
}

bool ms_roots_take(ms_roots_t *roots, uintptr_t stack) {
    *roots = (ms_roots_t){.stack = stack};
    roots->spans = ms_region_alloc(&roots->region, SPANS_MOST * sizeof *roots->spans);
    if (!roots->spans) return false;
    dl_iterate_phdr(add_module, roots);
    return true;
}

void ms_roots_free(ms_roots_t *roots) { ms_region_free(&roots->region); }

/* ---- visiting */

typedef struct visit {
    ms_roots_t *roots;
    const ms_roots_visitor_t *visitor;
    ms_roots_report_t *report;
    uint64_t *buffer; /* COPY_BYTES */
    ms_mapping_t *mappings;
    size_t mapping_count;
} visit_t;

/* Index of the thread control block among the words, which are those at `address`: it names itself twice. */
static size_t find_tcb(const uint64_t *words, size_t count, uintptr_t address) {
    size_t i = (64 - address % 64) % 64 / 8;
    for (; i + 2 < count; i += 8) {
        uintptr_t here = address + i * 8;
        if (words[i] == here && words[i + 2] == here) return i;
    }
    return count;
}

/* The vector of a thread's dynamic thread-local blocks: the control block points behind its first entry. */
static void visit_dtv(visit_t *visit, uint64_t pointer) {
    uint64_t start = pointer - 2 * sizeof(uint64_t);
    visit->visitor->words(visit->visitor->context, &start, 1);
}

/* Every readable word from `start` to `end`; with `tcb`, no further than the thread control block, should one come. */
static void visit_words(visit_t *visit, uintptr_t start, uintptr_t end, bool tcb, uint64_t *read) {
    for (uintptr_t at = start; at < end;) {
        size_t want = end - at < COPY_BYTES ? end - at : COPY_BYTES, got = ms_roots_copy(visit->buffer, at, want);
        size_t count = got / sizeof(uint64_t), control = tcb ? find_tcb(visit->buffer, count, at) : count;
        if (control < count) {
            uintptr_t behind = at + control * sizeof(uint64_t) + TCB_BYTES;
            visit_dtv(visit, visit->buffer[control + 1]);
            if (behind < end) end = behind;
            if (count > (end - at) / sizeof(uint64_t)) count = (end - at) / sizeof(uint64_t);
            tcb = false;
        }
        visit->visitor->words(visit->visitor->context, visit->buffer, count);
        *read += count * sizeof(uint64_t);
        at += got;
        if (got == want || at >= end) continue;
        uintptr_t next = (at | (MS_PAGE - 1)) + 1; /* nothing to be had of this page */
        if (next > end) next = end;
        visit->report->unreadable_bytes += next - at;
        at = next;
    }
}

static const ms_mapping_t *mapping_of(const visit_t *visit, uintptr_t address) {
    for (size_t i = 0; i < visit->mapping_count; i++)
        if (address >= visit->mappings[i].start && address < visit->mappings[i].end) return &visit->mappings[i];
    return NULL;
}

static const ms_mapping_t *main_stack(const visit_t *visit) {
    for (size_t i = 0; i < visit->mapping_count; i++)
        if (strcmp(visit->mappings[i].path, "[stack]") == 0) return &visit->mappings[i];
    return NULL;
}

static bool read_mappings(visit_t *visit) {
    size_t bytes, lines = 1;
    char *text = ms_region_file(&visit->roots->region, "/proc/self/maps", &bytes);
    for (size_t i = 0; text && i < bytes; i++) lines += text[i] == '\n';
    visit->mappings = text ? ms_region_alloc(&visit->roots->region, lines * sizeof *visit->mappings) : NULL;
    if (!visit->mappings) return false;
    for (char *line = text, *next; *line; line = next) {
        next = line + strcspn(line, "\n");
        if (*next) *next++ = '\0';
        visit->mapping_count += ms_mapping_parse(line, &visit->mappings[visit->mapping_count]);
    }
    return true;
}

typedef struct thread {
    uint32_t tid;
    uintptr_t stack;   /* stack pointer, 0: not known */
    uintptr_t pointer; /* thread pointer, 0: not known */
    uint64_t arguments[7];
    size_t argument_count;
} thread_t;

static bool is_main(const thread_t *thread) { return thread->tid == (uint32_t)getpid(); }

/* All of the stack that the thread pointer lies on top of, or the process's first. */
static bool visit_whole_stack(visit_t *visit, const thread_t *thread) {
    const ms_mapping_t *mapping = is_main(thread) ? main_stack(visit) : mapping_of(visit, thread->pointer);
    if (!mapping) return false;
    visit_words(visit, mapping->start, is_main(thread) ? mapping->end : thread->pointer, false, &visit->report->stack_bytes);
    return true;
}

static bool visit_stack(visit_t *visit, const thread_t *thread) {
    if (!thread->stack) return visit_whole_stack(visit, thread);
    if (visit->visitor->stack_block(visit->visitor->context, thread->stack)) { /* a fiber's: its own stack waits below */
        visit_whole_stack(visit, thread);
        return true;
    }
    const ms_mapping_t *mapping = mapping_of(visit, thread->stack);
    if (!mapping) return false;
    uintptr_t start = thread->stack - RED_ZONE < mapping->start ? mapping->start : (thread->stack - RED_ZONE) & ~(uintptr_t)7;
    bool ours = is_main(thread) ? mapping == main_stack(visit)
                                : thread->pointer >= thread->stack && thread->pointer < mapping->end;
    visit_words(visit, start, mapping->end, true, &visit->report->stack_bytes);
    if (!ours && (thread->pointer || is_main(thread))) visit_whole_stack(visit, thread);
    return true;
}

static void visit_thread(visit_t *visit, const thread_t *thread) {
    visit->visitor->words(visit->visitor->context, thread->arguments, thread->argument_count);
    visit->report->threads++;
    visit->report->threads_running += !thread->stack;
    if (thread->pointer) {
        uint64_t head[2];
        uintptr_t start = (thread->pointer - visit->roots->tls_bytes) & ~(uintptr_t)7;
        visit_words(visit, start, thread->pointer + TCB_BYTES, false, &visit->report->stack_bytes);
        if (ms_roots_copy(head, thread->pointer, sizeof head) == sizeof head) visit_dtv(visit, head[1]);
    }
    visit->report->threads_scanned += visit_stack(visit, thread);
}

/* "NUMBER 0xARGUMENT... 0xSP 0xPC", "-1 0xSP 0xPC", or "running". */
static void read_registers(thread_t *thread) {
    char path[64] = "/proc/self/task/", number[24], text[256];
    strcat(strcat(path, ms_os_decimal(number, thread->tid)), "/syscall");
    if (!ms_os_read_text(path, text, sizeof text)) return;
    uint64_t values[16];
    size_t count = 0;
    for (char *at = strstr(text, "0x"); at && count < 16; at = strstr(at, "0x")) {
        at += 2;
        values[count++] = ms_parse_hex(&at);
    }
    if (count < 2) return;
    thread->stack = values[count - 2];
    for (size_t i = 0; i + 2 < count && i < 7; i++) thread->arguments[thread->argument_count++] = values[i];
}

static uintptr_t pointer_of(uint32_t tid) {
    for (uint32_t code = 1, count = ms_thread_code_count(); code < count; code++) {
        const ms_thread_t *thread = ms_thread_of_code(code);
        if (thread && thread->state == MS_THREAD_RUNNING && thread->tid == tid) return thread->pointer;
    }
    return 0;
}

static void visit_tid(visit_t *visit, uint32_t tid) {
    thread_t thread = {.tid = tid};
    if (ms_worker_is_thread(tid) && !pointer_of(tid)) return;
    if (tid == ms_os_thread_id()) {
        thread.stack = visit->roots->stack;
        thread.pointer = (uintptr_t)__builtin_thread_pointer();
    } else {
        thread.pointer = pointer_of(tid);
        read_registers(&thread);
    }
    visit_thread(visit, &thread);
}

static void visit_threads(visit_t *visit) {
    char *entries = ms_region_alloc(&visit->roots->region, 32768);
    int directory = entries ? open("/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (directory < 0) { /* no /proc: what we know without it */
        visit_tid(visit, ms_os_thread_id());
        return;
    }
    for (long got; (got = syscall(SYS_getdents64, directory, entries, 32768)) > 0;)
        for (long at = 0; at < got;) {
            const struct dirent64 *entry = (const void *)(entries + at);
            uint32_t tid = 0;
            for (const char *digit = entry->d_name; *digit >= '0' && *digit <= '9'; digit++)
                tid = tid * 10 + (uint32_t)(*digit - '0');
            if (tid) visit_tid(visit, tid);
            at += entry->d_reclen;
        }
    close(directory);
}

/* Stacks of threads that ended wait for the next ones, with what the C library allocated for their variables: it is
 * found from the control block on top. */
#define STACK_TOP 8192
static void visit_waiting_stacks(visit_t *visit) {
    for (size_t i = 0; i < visit->mapping_count; i++) {
        const ms_mapping_t *mapping = &visit->mappings[i];
        bool named = mapping->path[0] && strncmp(mapping->path, "[anon", 5) != 0;
        if (named || mapping->end - mapping->start < STACK_TOP) continue;
        uintptr_t start = mapping->end - STACK_TOP;
        size_t count = ms_roots_copy(visit->buffer, start, STACK_TOP) / sizeof(uint64_t);
        size_t control = find_tcb(visit->buffer, count, start);
        if (control < count) visit_dtv(visit, visit->buffer[control + 1]);
    }
}

void ms_roots_visit(ms_roots_t *roots, const ms_roots_visitor_t *visitor, ms_roots_report_t *report) {
    visit_t visit = {.roots = roots, .visitor = visitor, .report = report};
    visit.buffer = ms_region_alloc(&roots->region, COPY_BYTES);
    if (!visit.buffer || !read_mappings(&visit)) visit.mapping_count = 0;
    if (!visit.buffer) return;
    for (size_t i = 0; i < roots->span_count; i++)
        visit_words(&visit, roots->spans[i].start, roots->spans[i].start + roots->spans[i].bytes, false, &report->global_bytes);
    visit_threads(&visit);
    visit_waiting_stacks(&visit);
}
