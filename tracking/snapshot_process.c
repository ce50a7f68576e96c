/* The parts of a snapshot that the kernel knows: the process, its limits, the modules mapped into it. Files under /proc
 * are read with open, read and close: no stdio, no allocation, no lock of the loader. */
#define _GNU_SOURCE
#include "tracking/snapshot.h"
#include "alloc/backend.h"
#include "alloc/limit.h"
#include "alloc/os.h"
#include "config.h"
#include "tracking/process.h"
#include "tracking/unwind_table.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <unistd.h>

/* Files of /proc have no size to ask for. */
char *ms_region_file(ms_region_t *region, const char *path, size_t *bytes) {
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return NULL;
    size_t room = 1 << 14, used = 0;
    char *text = ms_region_alloc(region, room + 1);
    ssize_t got = 1;
    while (text && got > 0) {
        got = read(file, text + used, room - used);
        if (got < 0 && errno == EINTR) got = 1;
        else if (got > 0) used += (size_t)got;
        if (used == room && got > 0) { /* grow by copying: the old text stays in the region until it is freed */
            char *wider = ms_region_alloc(region, room * 4 + 1);
            if (wider) memcpy(wider, text, used);
            text = wider;
            room *= 4;
        }
    }
    close(file);
    if (!text || got < 0) return NULL;
    text[used] = '\0';
    *bytes = used;
    return text;
}

/* The number after "\nKEY:" in text, MS_NULL if there is none. */
static uint64_t number_after(const char *text, const char *key) {
    const char *at = text ? strstr(text, key) : NULL;
    if (!at) return MS_NULL;
    for (at += strlen(key); *at == ' ' || *at == '\t'; at++) continue;
    if (*at < '0' || *at > '9') return MS_NULL;
    uint64_t value = 0;
    for (; *at >= '0' && *at <= '9'; at++) value = value * 10 + (uint64_t)(*at - '0');
    return value;
}

static uint64_t kib(uint64_t value) { return value == MS_NULL ? MS_NULL : value * 1024; }
static uint64_t timeval_ns(struct timeval time) { return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_usec * 1000; }

const char *ms_program_name(void) {
    const char *name = program_invocation_short_name;
    if (name && *name == '-') name++; /* a login shell */
    return name && *name ? name : "unknown";
}

static void set_identity(ms_snapshot_t *snapshot, ms_process_row_t *row) {
    enum { ROOM = 4096 };
    char *path = ms_region_alloc(&snapshot->region, ROOM);
    if (path && readlink("/proc/self/exe", path, ROOM - 1) > 0) row->executable = path;
    row->name = ms_program_name();
    size_t bytes;
    char *arguments = ms_region_file(&snapshot->region, "/proc/self/cmdline", &bytes);
    if (!arguments) return;
    for (size_t i = 0; i + 1 < bytes; i++)
        if (arguments[i] == '\0') arguments[i] = ' ';
    row->command_line = arguments;
}

static void set_usage(ms_snapshot_t *snapshot, ms_process_row_t *row) {
    size_t bytes;
    const char *status = ms_region_file(&snapshot->region, "/proc/self/status", &bytes);
    row->rss_bytes = kib(number_after(status, "\nVmRSS:"));
    row->peak_rss_bytes = kib(number_after(status, "\nVmHWM:"));
    const char *io = ms_region_file(&snapshot->region, "/proc/self/io", &bytes);
    row->read_bytes = number_after(io, "\nread_bytes:");
    row->written_bytes = number_after(io, "\nwrite_bytes:");
    if (!io) {
        ms_snapshot_null(snapshot, "process", "read_bytes", "/proc/self/io cannot be read");
        ms_snapshot_null(snapshot, "process", "written_bytes", "/proc/self/io cannot be read");
    }
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    row->cpu_user_ns = timeval_ns(usage.ru_utime);
    row->cpu_system_ns = timeval_ns(usage.ru_stime);
    row->minor_faults = (uint64_t)usage.ru_minflt;
    row->major_faults = (uint64_t)usage.ru_majflt;
    row->voluntary_switches = (uint64_t)usage.ru_nvcsw;
    row->involuntary_switches = (uint64_t)usage.ru_nivcsw;
}

static void set_limits(ms_snapshot_t *snapshot, ms_process_row_t *row) {
    struct rlimit limit;
    getrlimit(RLIMIT_AS, &limit);
    row->address_space_limit_bytes = limit.rlim_cur == RLIM_INFINITY ? MS_NULL : limit.rlim_cur;
    if (row->address_space_limit_bytes == MS_NULL)
        ms_snapshot_null(snapshot, "process", "address_space_limit_bytes", "unlimited");
    row->cgroup_limit_bytes = ms_limit_bytes();
    if (row->cgroup_limit_bytes == MS_NULL)
        ms_snapshot_null(snapshot, "process", "cgroup_limit_bytes", "no cgroup with a limit on memory is seen");
}

/* The backing in use. jemalloc starts when the heap outgrows what every heap starts with (alloc/arena.c). */
static const char *backend_name(void) {
    bool waits = ms_process.knobs.backend == MS_BACKEND_JEMALLOC && ms_backend_get(MS_BACKEND_JEMALLOC) &&
                 ms_backend_current() != ms_backend_get(MS_BACKEND_JEMALLOC);
#define TEXT(number) TEXT_OF(number)
#define TEXT_OF(number) #number
    return waits ? "system (jemalloc from " TEXT(MS_BACKEND_FROM_MIB) " MiB)" : ms_backend_current()->name;
}

bool ms_snapshot_process(ms_snapshot_t *snapshot, const char *reason) {
    ms_process_row_t *row = ms_region_alloc(&snapshot->region, sizeof *row);
    if (!row) return false;
    char mode[32];
    bool fixed = ms_process.knobs.test_mode;
    ms_knob_text(&ms_process.knobs, MS_KNOB_mode, mode);
    *row = (ms_process_row_t){
        .pid = (uint64_t)getpid(),
        .parent_pid = (uint64_t)getppid(),
        .memscope_version = VERSION,
        .mode = ms_region_text(&snapshot->region, mode, strlen(mode)),
        .backend = backend_name(),
        .reason = reason,
        .start_unix_ns = fixed ? 0 : ms_process.start_unix_ns,
        .snapshot_unix_ns = fixed ? 0 : ms_os_unix_ns(),
        .elapsed_ns = ms_process_elapsed_ns(),
        .page_bytes = (uint64_t)sysconf(_SC_PAGESIZE),
        .exit_status = MS_NULL,
        .exit_signal = MS_NULL,
    };
    set_identity(snapshot, row);
    set_usage(snapshot, row);
    set_limits(snapshot, row);
    ms_snapshot_null(snapshot, "process", "exit_status", "the process had not ended; `memscope run` adds it");
    ms_snapshot_null(snapshot, "process", "exit_signal", "no signal is known to have ended the process");
    snapshot->model.process.rows = row;
    snapshot->model.process.count = 1;
    return true;
}

/* ---- modules */

uint64_t ms_parse_hex(char **at) {
    uint64_t value = 0;
    for (;; (*at)++) {
        char c = **at;
        int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (digit < 0) return value;
        value = value << 4 | (uint64_t)digit;
    }
}

bool ms_mapping_parse(char *line, ms_mapping_t *mapping) {
    mapping->start = ms_parse_hex(&line);
    if (*line++ != '-') return false;
    mapping->end = ms_parse_hex(&line);
    if (*line++ != ' ' || strlen(line) < 5) return false;
    mapping->readable = line[0] == 'r';
    mapping->executable = line[2] == 'x';
    line += 5;
    mapping->offset = ms_parse_hex(&line);
    for (int field = 0; field < 2; field++) { /* dev, inode */
        line += strspn(line, " ");
        line += strcspn(line, " ");
    }
    line += strspn(line, " ");
    mapping->path = line;
    return true;
}

static bool may_hold_code(const ms_mapping_t *mapping) {
    return mapping->path[0] == '/' || strcmp(mapping->path, "[vdso]") == 0;
}

static const char *hex_text(ms_region_t *region, const unsigned char *bytes, size_t count) {
    char *text = ms_region_alloc(region, 2 * count + 1);
    for (size_t i = 0; text && i < count; i++) {
        text[2 * i] = "0123456789abcdef"[bytes[i] >> 4];
        text[2 * i + 1] = "0123456789abcdef"[bytes[i] & 15];
    }
    return text;
}

/* The GNU build-id among the notes of a mapped segment. */
static const char *build_id_in(ms_region_t *region, const char *notes, size_t bytes) {
    for (size_t at = 0; at + sizeof(Elf64_Nhdr) <= bytes;) {
        const Elf64_Nhdr *note = (const void *)(notes + at);
        size_t name = (note->n_namesz + 3u) & ~3u, content = (note->n_descsz + 3u) & ~3u;
        const char *from = notes + at + sizeof *note;
        at += sizeof *note + name + content;
        if (at > bytes) return NULL;
        if (note->n_type == NT_GNU_BUILD_ID && note->n_namesz == 4 && memcmp(from, "GNU", 4) == 0)
            return hex_text(region, (const unsigned char *)from + name, note->n_descsz);
    }
    return NULL;
}

/* A copy of the process's own memory; NULL if it is not there. Another thread may be unloading the library meanwhile: the
 * system call fails where a load would end the program. */
static const void *copy_of(ms_region_t *region, uint64_t from, size_t bytes) {
    void *copy = ms_region_alloc(region, bytes);
    struct iovec to = {copy, bytes}, there = {(void *)(uintptr_t)from, bytes};
    return copy && process_vm_readv(getpid(), &to, 1, &there, 1, 0) == (ssize_t)bytes ? copy : NULL;
}

/* Bias and build-id from the program headers, which lie in the first page of the file. */
static void read_headers(ms_region_t *region, const ms_mapping_t *first, ms_modules_row_t *row) {
    size_t mapped = first->end - first->start;
    if (!first->readable || first->offset != 0 || mapped < MS_PAGE) return;
    const Elf64_Ehdr *elf = copy_of(region, first->start, MS_PAGE);
    if (!elf || memcmp(elf->e_ident, ELFMAG, SELFMAG) != 0) return;
    if (elf->e_phentsize != sizeof(Elf64_Phdr) || elf->e_phoff > MS_PAGE ||
        elf->e_phnum * sizeof(Elf64_Phdr) > MS_PAGE - elf->e_phoff)
        return;
    const Elf64_Phdr *headers = (const void *)((const char *)elf + elf->e_phoff);
    for (int i = 0; i < elf->e_phnum; i++)
        if (headers[i].p_type == PT_LOAD) {
            row->bias = first->start - (headers[i].p_vaddr & -(uint64_t)MS_PAGE) + (headers[i].p_offset & -(uint64_t)MS_PAGE);
            break;
        }
    for (int i = 0; i < elf->e_phnum && !row->build_id; i++) {
        if (headers[i].p_type != PT_NOTE || headers[i].p_offset + headers[i].p_filesz > mapped) continue;
        const char *notes = copy_of(region, first->start + headers[i].p_offset, headers[i].p_filesz);
        if (notes) row->build_id = build_id_in(region, notes, headers[i].p_filesz);
    }
}

static bool overlap(uint64_t start, uint64_t end, uint64_t other_start, uint64_t other_end) {
    return start < other_end && other_start < end;
}

/* Whether another module came to where this one was. */
static bool is_replaced(const ms_modules_row_t *rows, size_t count, uint32_t index, bool *is_loaded) {
    const ms_seen_module_t *seen = ms_seen_module(index);
    *is_loaded = false;
    for (uint32_t later = index + 1; later < ms_seen_module_count(); later++) {
        const ms_seen_module_t *other = ms_seen_module(later);
        if (other && overlap(seen->start, seen->end, other->start, other->end)) return true;
    }
    for (size_t i = 0; i < count; i++) {
        if (!overlap(seen->start, seen->end, rows[i].start, rows[i].end)) continue;
        *is_loaded = seen->start == rows[i].start;
        return seen->start != rows[i].start;
    }
    return false;
}

/* Modules that were unloaded and have frames in stacks. Where another one is now, names of their frames may be its. */
static void add_unloaded(ms_snapshot_t *snapshot, ms_modules_row_t *rows, size_t loaded) {
    uint64_t replaced = 0;
    ms_modules_row_t *row = rows + loaded;
    for (uint32_t i = 0, count = ms_seen_module_count(); i < count; i++) {
        const ms_seen_module_t *seen = ms_seen_module(i);
        bool is_loaded;
        if (!seen) continue;
        if (is_replaced(rows, loaded, i, &is_loaded))
            replaced++;
        else if (!is_loaded)
            *row++ = (ms_modules_row_t){.path = seen->path,
                                        .build_id = seen->id_bytes ? hex_text(&snapshot->region, seen->id, seen->id_bytes) : NULL,
                                        .start = seen->start,
                                        .end = seen->end,
                                        .bias = seen->bias};
    }
    snapshot->model.modules.count = (size_t)(row - rows);
    if (snapshot->model.data_quality.count) snapshot->model.data_quality.rows->replaced_modules = replaced;
}

/* Mappings of one file follow each other; the module spans from the first to the last. */
bool ms_snapshot_modules(ms_snapshot_t *snapshot) {
    size_t bytes;
    char *maps = ms_region_file(&snapshot->region, "/proc/self/maps", &bytes);
    size_t lines = 1;
    for (size_t i = 0; maps && i < bytes; i++) lines += maps[i] == '\n';
    lines += MS_SEEN_MODULES;
    ms_modules_row_t *rows = ms_region_alloc(&snapshot->region, lines * sizeof *rows), *row = rows;
    if (!rows) return false;
    snapshot->model.modules.rows = rows;
    const char *path = NULL;
    bool executable = false;
    for (char *line = maps, *next; line && *line; line = next) {
        next = line + strcspn(line, "\n");
        if (*next) *next++ = '\0';
        ms_mapping_t mapping;
        if (!ms_mapping_parse(line, &mapping) || !may_hold_code(&mapping)) continue;
        if (!path || strcmp(path, mapping.path) != 0) {
            if (path && executable) row++;
            *row = (ms_modules_row_t){.path = mapping.path, .start = mapping.start, .bias = mapping.start};
            read_headers(&snapshot->region, &mapping, row);
            path = mapping.path;
            executable = false;
        }
        row->end = mapping.end;
        executable |= mapping.executable;
    }
    add_unloaded(snapshot, rows, (size_t)(row - rows) + (path && executable));
    return true;
}
