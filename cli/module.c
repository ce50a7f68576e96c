/* See module.h. libdw's own searches (dwfl_module_addrdie, dwarf_getscopes, dwfl_module_addrinfo) need .debug_aranges,
 * which clang leaves out, or pass over all functions or symbols again for every address. So: one sorted table of
 * address ranges for the compile units, one for the functions of each unit that is asked for, one for the ELF symbols,
 * all made on first use.
 *
 * Addresses are the file's own (the module is reported with base 0); the debug file's differ from them by dwarf_bias.
 */
#include "cli/module.h"

#include <dlfcn.h>
#include <dwarf.h>
#include <elfutils/libdw.h>
#include <elfutils/libdwelf.h>
#include <elfutils/libdwfl.h>
#include <link.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/files.h"

#define BESIDE_MODULE ":.debug:" /* as libdw has it: the directory of the module, and .debug there */
#define NOT_INLINED SIZE_MAX
#define SYMBOLS_TRIED 8 /* an address is looked for in so many symbols that begin before it: they may nest */

/* [low, high) belongs to `what`: a unit's number, or a function's. */
typedef struct ms_range {
    uint64_t low, high;
    size_t what;
} ms_range_t;

typedef struct ms_ranges {
    ms_range_t *range;
    size_t count, capacity;
} ms_ranges_t;

/* A function inlined into another one, or into one that is. */
typedef struct ms_inlined {
    Dwarf_Die die;
    size_t parent; /* in the same array, NOT_INLINED: the function itself */
} ms_inlined_t;

typedef struct ms_function {
    Dwarf_Die die;
    bool indexed;
    ms_ranges_t ranges; /* of what is inlined, parents first: as they stand in DWARF, not sorted */
    ms_inlined_t *inlined;
    size_t inlined_count, inlined_capacity;
} ms_function_t;

typedef struct ms_unit {
    Dwarf_Die die;    /* of the file that is looked at: it has the line table */
    Dwarf_Die scopes; /* where the functions are: the same, or the split unit (.dwo) */
    bool indexed;
    ms_ranges_t ranges;
    ms_function_t *functions;
    size_t function_count, function_capacity;
} ms_unit_t;

typedef struct ms_symbol {
    uint64_t low, high; /* high is low where the symbol has no size */
    const char *name;
    int rank; /* of several names for one address the lowest is shown */
} ms_symbol_t;

struct ms_module {
    Dwfl *dwfl;
    Dwfl_Module *elf;
    Dwarf *dwarf;
    Dwarf_Addr dwarf_bias;
    char *debug_path; /* what dwfl searches */
    Dwfl_Callbacks callbacks;
    bool units_indexed, symbols_indexed;
    ms_unit_t *units;
    size_t unit_count, unit_capacity;
    ms_ranges_t unit_ranges;
    ms_symbol_t *symbols;
    size_t symbol_count;
};

/* ---- ranges ---- */

static void add_range(ms_ranges_t *ranges, uint64_t low, uint64_t high, size_t what) {
    if (low == 0 || low >= high) return; /* at 0: code the linker threw away */
    if (ranges->count == ranges->capacity) {
        ranges->capacity = ranges->capacity == 0 ? 16 : 2 * ranges->capacity;
        ranges->range = ms_reallocate(ranges->range, ranges->capacity * sizeof *ranges->range);
    }
    ranges->range[ranges->count++] = (ms_range_t){low, high, what};
}

static void add_ranges(ms_ranges_t *ranges, Dwarf_Die *die, size_t what) {
    Dwarf_Addr base = 0, low, high;
    for (ptrdiff_t offset = 0; (offset = dwarf_ranges(die, offset, &base, &low, &high)) > 0;)
        add_range(ranges, low, high, what);
}

static int by_low(const void *a, const void *b) {
    const ms_range_t *left = a, *right = b;
    if (left->low != right->low) return left->low < right->low ? -1 : 1;
    return left->what < right->what ? -1 : left->what > right->what;
}

static void sort_ranges(ms_ranges_t *ranges) {
    if (ranges->count > 0) qsort(ranges->range, ranges->count, sizeof *ranges->range, by_low);
}

static const ms_range_t *find_range(const ms_ranges_t *ranges, uint64_t address) {
    size_t first = 0, last = ranges->count;
    while (first < last) {
        size_t middle = first + (last - first) / 2;
        if (ranges->range[middle].low <= address)
            first = middle + 1;
        else
            last = middle;
    }
    for (size_t tried = 0; first > 0 && tried < SYMBOLS_TRIED; tried++)
        if (address < ranges->range[--first].high) return &ranges->range[first];
    return NULL;
}

/* ---- opening ---- */

static bool has_build_id(Dwfl_Module *elf, const char *build_id) {
    GElf_Addr bias;
    const void *bits = NULL;
    Elf *file = dwfl_module_getelf(elf, &bias);
    ssize_t bytes = file == NULL ? 0 : dwelf_elf_gnu_build_id(file, &bits);
    if (bytes <= 0 || build_id == NULL) return bytes <= 0 && build_id == NULL;
    if (strlen(build_id) != 2 * (size_t)bytes) return false;
    for (ssize_t i = 0; i < bytes; i++) {
        char hex[3];
        snprintf(hex, sizeof hex, "%02x", ((const unsigned char *)bits)[i]);
        if (memcmp(hex, build_id + 2 * i, 2) != 0) return false;
    }
    return true;
}

/* Tries one file, or the open one `fd` when it is not -1. False with *problem when it is not the one. */
static bool open_elf(ms_module_t *module, const char *path, int fd, const char *build_id, const char **problem) {
    module->dwfl = dwfl_begin(&module->callbacks);
    if (module->dwfl == NULL) ms_out_of_memory();
    dwfl_report_begin(module->dwfl);
    module->elf = dwfl_report_elf(module->dwfl, path, path, fd, 0, true);
    if (module->elf == NULL && fd >= 0) close(fd);
    dwfl_report_end(module->dwfl, NULL, NULL);
    if (module->elf != NULL && has_build_id(module->elf, build_id)) return true;
    *problem = module->elf == NULL ? "is not a readable ELF file" : "is not the file that ran (its build-id differs)";
    dwfl_end(module->dwfl);
    module->dwfl = NULL;
    module->elf = NULL;
    return false;
}

static bool open_file(ms_module_t *module, const char *path, const char *build_id, const char **problem) {
    struct stat status;
    if (stat(path, &status) != 0 || !S_ISREG(status.st_mode)) return false;
    return open_elf(module, path, -1, build_id, problem);
}

/* Of the file `name`, formatted, in a directory of debug files. */
static bool open_in(ms_module_t *module, const char *build_id, const char **problem, char *name) {
    bool opened = open_file(module, name, build_id, problem);
    free(name);
    return opened;
}

/* A debug file serves alone: it has the symbols of the module and its build-id. */
static bool open_debug_file(ms_module_t *module, const char *path, const char *build_id, const char **problem) {
    const char *directories = module->debug_path + strlen(BESIDE_MODULE), *base = ms_base_name(path);
    if (build_id == NULL || strspn(build_id, "0123456789abcdef") != strlen(build_id) || strlen(build_id) < 3)
        return false;
    while (*directories != '\0') {
        int length = (int)strcspn(directories, ":");
        if (open_in(module, build_id, problem,
                    ms_format("%.*s/.build-id/%.2s/%s.debug", length, directories, build_id, build_id + 2)) ||
            open_in(module, build_id, problem, ms_format("%.*s/%s", length, directories, base)) ||
            open_in(module, build_id, problem, ms_format("%.*s/%s.debug", length, directories, base)))
            return true;
        directories += length + (directories[length] == ':');
    }
    return false;
}

/* The vDSO is in no file, but the one of this process is the same if the kernel is. */
static bool open_vdso(ms_module_t *module, const char *path, const char *build_id, const char **problem) {
    uintptr_t start = getauxval(AT_SYSINFO_EHDR);
    if (strcmp(path, MS_VDSO_PATH) != 0 || start == 0 || build_id == NULL) return false;
    ElfW(Ehdr) header;
    memcpy(&header, (const void *)start, sizeof header);
    size_t bytes = header.e_shoff + (size_t)header.e_shentsize * header.e_shnum, done = 0;
    int fd = memfd_create("vdso", MFD_CLOEXEC);
    while (fd >= 0 && done < bytes) {
        ssize_t n = write(fd, (const char *)start + done, bytes - done);
        if (n <= 0) break;
        done += (size_t)n;
    }
    if (fd >= 0 && done < bytes) close(fd);
    return fd >= 0 && done == bytes && open_elf(module, path, fd, build_id, problem);
}

/* Asks the servers of DEBUGINFOD_URLS through libdebuginfod, if both are there, for the module or its debug file. */
static bool open_from_server(ms_module_t *module, const char *build_id, const char **problem) {
    typedef int (*find_t)(void *client, const unsigned char *build_id, int length, char **path);
    static const char *const kinds[] = {"debuginfod_find_executable", "debuginfod_find_debuginfo"};
    const char *urls = getenv("DEBUGINFOD_URLS");
    void *(*begin)(void), (*end)(void *), *library;
    find_t find;
    bool opened = false;
    if (build_id == NULL || urls == NULL || *urls == '\0') return false;
    library = dlopen("libdebuginfod.so.1", RTLD_LAZY);
    if (library == NULL) return false;
    memcpy(&begin, &(void *){dlsym(library, "debuginfod_begin")}, sizeof begin);
    memcpy(&end, &(void *){dlsym(library, "debuginfod_end")}, sizeof end);
    void *client = begin != NULL && end != NULL ? begin() : NULL;
    for (size_t i = 0; client != NULL && !opened && i < sizeof kinds / sizeof kinds[0]; i++) {
        char *path = NULL;
        memcpy(&find, &(void *){dlsym(library, kinds[i])}, sizeof find);
        int fd = find == NULL ? -1 : find(client, (const unsigned char *)build_id, 0, &path);
        if (fd >= 0) opened = open_elf(module, path, fd, build_id, problem);
        free(path);
    }
    if (client != NULL) end(client);
    return opened; /* the library stays: libdw uses it too */
}

ms_module_t *ms_module_open(const char *path, const char *build_id, const ms_module_places_t *places,
                            const char **problem) {
    ms_module_t *module = ms_allocate(sizeof *module);
    char *below = ms_format("%s%s", places->sysroot, path);
    module->debug_path = ms_format(BESIDE_MODULE "%s%s%s/usr/lib/debug", places->debug_dirs,
                                   *places->debug_dirs != '\0' ? ":" : "", places->sysroot);
    module->callbacks = (Dwfl_Callbacks){
        .find_elf = dwfl_build_id_find_elf,
        .find_debuginfo = dwfl_standard_find_debuginfo,
        .section_address = dwfl_offline_section_address,
        .debuginfo_path = &module->debug_path,
    };
    *problem = "is not there";
    bool opened = open_file(module, below, build_id, problem) || open_vdso(module, path, build_id, problem) ||
                  open_debug_file(module, path, build_id, problem) || open_from_server(module, build_id, problem);
    free(below);
    if (!opened) {
        ms_module_close(module);
        return NULL;
    }
    module->dwarf = dwfl_module_getdwarf(module->elf, &module->dwarf_bias);
    return module;
}

void ms_module_close(ms_module_t *module) {
    if (module == NULL) return;
    for (size_t i = 0; i < module->unit_count; i++) {
        ms_unit_t *unit = &module->units[i];
        for (size_t k = 0; k < unit->function_count; k++) {
            free(unit->functions[k].ranges.range);
            free(unit->functions[k].inlined);
        }
        free(unit->ranges.range);
        free(unit->functions);
    }
    free(module->units);
    free(module->unit_ranges.range);
    free(module->symbols);
    if (module->dwfl != NULL) dwfl_end(module->dwfl);
    free(module->debug_path);
    free(module);
}

/* ---- units and their functions ---- */

static void add_unit(ms_module_t *module, const Dwarf_Die *die, const Dwarf_Die *split) {
    if (module->unit_count == module->unit_capacity) {
        module->unit_capacity = module->unit_capacity == 0 ? 64 : 2 * module->unit_capacity;
        module->units = ms_reallocate(module->units, module->unit_capacity * sizeof *module->units);
    }
    ms_unit_t *unit = &module->units[module->unit_count];
    *unit = (ms_unit_t){.die = *die, .scopes = split != NULL ? *split : *die};
    add_ranges(&module->unit_ranges, &unit->die, module->unit_count++);
}

static void index_units(ms_module_t *module) {
    Dwarf_CU *cu = NULL;
    Dwarf_Half version;
    uint8_t type;
    Dwarf_Die die, split;
    module->units_indexed = true;
    while (dwarf_get_units(module->dwarf, cu, &cu, &version, &type, &die, &split) == 0)
        if (type == DW_UT_compile || type == DW_UT_skeleton)
            add_unit(module, &die, type == DW_UT_skeleton && dwarf_tag(&split) > 0 ? &split : NULL);
    sort_ranges(&module->unit_ranges);
}

static void add_function(ms_unit_t *unit, Dwarf_Die *die) {
    size_t before = unit->ranges.count;
    add_ranges(&unit->ranges, die, unit->function_count);
    if (unit->ranges.count == before) return;
    if (unit->function_count == unit->function_capacity) {
        unit->function_capacity = unit->function_capacity == 0 ? 32 : 2 * unit->function_capacity;
        unit->functions = ms_reallocate(unit->functions, unit->function_capacity * sizeof *unit->functions);
    }
    unit->functions[unit->function_count++] = (ms_function_t){.die = *die};
}

static bool holds_functions(int tag) {
    return tag == DW_TAG_namespace || tag == DW_TAG_class_type || tag == DW_TAG_structure_type ||
           tag == DW_TAG_union_type || tag == DW_TAG_enumeration_type || tag == DW_TAG_module;
}

static void index_functions(ms_unit_t *unit, Dwarf_Die *parent, int depth) {
    Dwarf_Die die;
    if (depth > 64 || dwarf_child(parent, &die) != 0) return;
    do {
        int tag = dwarf_tag(&die);
        if (tag == DW_TAG_subprogram)
            add_function(unit, &die);
        else if (holds_functions(tag))
            index_functions(unit, &die, depth + 1);
    } while (dwarf_siblingof(&die, &die) == 0);
}

static ms_unit_t *find_unit(ms_module_t *module, uint64_t address) {
    if (!module->units_indexed) index_units(module);
    const ms_range_t *range = find_range(&module->unit_ranges, address);
    if (range == NULL) return NULL;
    ms_unit_t *unit = &module->units[range->what];
    if (!unit->indexed) {
        unit->indexed = true;
        index_functions(unit, &unit->scopes, 0);
        sort_ranges(&unit->ranges);
    }
    return unit;
}

/* ---- one address ---- */

static size_t add_inlined(ms_function_t *function, Dwarf_Die *die, size_t parent) {
    if (function->inlined_count == function->inlined_capacity) {
        function->inlined_capacity = function->inlined_capacity == 0 ? 8 : 2 * function->inlined_capacity;
        function->inlined = ms_reallocate(function->inlined, function->inlined_capacity * sizeof *function->inlined);
    }
    function->inlined[function->inlined_count] = (ms_inlined_t){*die, parent};
    add_ranges(&function->ranges, die, function->inlined_count);
    return function->inlined_count++;
}

/* Once a function, for a function may have thousands of calls, each with an entry of its own to pass over. */
static void index_inlined(ms_function_t *function, Dwarf_Die *scope, size_t parent, int depth) {
    Dwarf_Die die;
    if (depth > 64 || dwarf_child(scope, &die) != 0) return;
    do {
        int tag = dwarf_tag(&die);
        if (tag == DW_TAG_inlined_subroutine)
            index_inlined(function, &die, add_inlined(function, &die, parent), depth + 1);
        else if (tag == DW_TAG_lexical_block || tag == DW_TAG_try_block || tag == DW_TAG_catch_block)
            index_inlined(function, &die, parent, depth + 1);
    } while (dwarf_siblingof(&die, &die) == 0);
}

/* The function and what is inlined at `address`, outermost first. */
static size_t find_chain(ms_function_t *function, uint64_t address, Dwarf_Die chain[MS_INLINE_DEPTH]) {
    size_t depth = 1, at = NOT_INLINED;
    if (!function->indexed) index_inlined(function, &function->die, NOT_INLINED, 0);
    function->indexed = true;
    chain[0] = function->die;
    for (size_t i = 0; i < function->ranges.count && depth < MS_INLINE_DEPTH; i++) {
        const ms_range_t *range = &function->ranges.range[i];
        if (address < range->low || address >= range->high || function->inlined[range->what].parent != at) continue;
        at = range->what;
        chain[depth++] = function->inlined[at].die;
    }
    return depth;
}

static bool is_plain_c(ms_unit_t *unit) {
    int language = dwarf_srclang(&unit->die);
    return language == DW_LANG_C || language == DW_LANG_C89 || language == DW_LANG_C99 || language == DW_LANG_C11;
}

/* In C the linkage name is an alias the programmer never wrote (glibc's __GI_...). */
static const char *function_name(ms_unit_t *unit, Dwarf_Die *die) {
    Dwarf_Attribute attribute;
    const char *name = NULL;
    if (!is_plain_c(unit)) name = dwarf_formstring(dwarf_attr_integrate(die, DW_AT_linkage_name, &attribute));
    return name != NULL ? name : dwarf_diename(die);
}

static const char *unit_directory(ms_unit_t *unit) {
    Dwarf_Attribute attribute;
    return dwarf_formstring(dwarf_attr(&unit->die, DW_AT_comp_dir, &attribute));
}

static void set_line(ms_unit_t *unit, uint64_t address, ms_frame_t *frame) {
    int line = 0;
    Dwarf_Line *row = dwarf_getsrc_die(&unit->die, address);
    if (row == NULL) return;
    frame->directory = unit_directory(unit);
    frame->file = dwarf_linesrc(row, NULL, NULL);
    if (dwarf_lineno(row, &line) == 0 && line > 0) frame->line = (uint64_t)line;
}

/* Of a C++ function without external linkage gcc gives the bare name only; the symbol table has the whole. */
static bool is_bare_name(ms_unit_t *unit, Dwarf_Die *function) {
    Dwarf_Attribute attribute;
    return !is_plain_c(unit) && dwarf_attr_integrate(function, DW_AT_linkage_name, &attribute) == NULL;
}

/* Where the function `inlined` was inlined: the position in its caller. */
static void set_call(ms_unit_t *unit, Dwarf_Die *inlined, ms_frame_t *caller) {
    Dwarf_Attribute attribute;
    Dwarf_Word file, line;
    Dwarf_Files *files;
    size_t count;
    if (dwarf_formudata(dwarf_attr(inlined, DW_AT_call_file, &attribute), &file) == 0 &&
        dwarf_getsrcfiles(&unit->die, &files, &count) == 0 && file < count)
        caller->file = dwarf_filesrc(files, file, NULL, NULL);
    caller->directory = unit_directory(unit);
    if (dwarf_formudata(dwarf_attr(inlined, DW_AT_call_line, &attribute), &line) == 0) caller->line = line;
}

static const char *lookup_symbol(ms_module_t *module, uint64_t address);

/* What DWARF knows; returns 0 when it has no function there, but the line may be set in frames[0]. */
static size_t lookup_dwarf(ms_module_t *module, uint64_t address, ms_frame_t frames[]) {
    Dwarf_Die chain[MS_INLINE_DEPTH];
    ms_unit_t *unit = find_unit(module, address);
    if (unit == NULL) return 0;
    set_line(unit, address, &frames[0]);
    const ms_range_t *range = find_range(&unit->ranges, address);
    if (range == NULL) return 0;
    size_t depth = find_chain(&unit->functions[range->what], address, chain);
    for (size_t i = 0; i < depth; i++) {
        Dwarf_Die *die = &chain[depth - 1 - i];
        frames[i].function = function_name(unit, die);
        if (i + 1 < depth) set_call(unit, die, &frames[i + 1]);
    }
    if (!is_bare_name(unit, &chain[0])) return depth;
    const char *symbol = lookup_symbol(module, address + module->dwarf_bias);
    if (symbol != NULL && strncmp(symbol, "_", 1) == 0) frames[depth - 1].function = symbol;
    return depth;
}

/* Exported names before local ones, names people write before those with underscores. */
static int symbol_rank(const GElf_Sym *symbol, const char *name) {
    int binding = GELF_ST_BIND(symbol->st_info);
    int rank = binding == STB_GLOBAL ? 0 : binding == STB_WEAK ? 100 : 200;
    return rank + (int)strspn(name, "_");
}

static int by_address(const void *a, const void *b) {
    const ms_symbol_t *left = a, *right = b;
    if (left->low != right->low) return left->low < right->low ? -1 : 1;
    if (left->rank != right->rank) return left->rank > right->rank ? -1 : 1; /* the search goes backwards */
    return strcmp(right->name, left->name);
}

static void index_symbols(ms_module_t *module) {
    int count = dwfl_module_getsymtab(module->elf);
    module->symbols_indexed = true;
    if (count <= 0) return;
    module->symbols = ms_allocate((size_t)count * sizeof *module->symbols);
    for (int i = 0; i < count; i++) {
        GElf_Sym symbol;
        GElf_Addr address;
        GElf_Word section;
        const char *name = dwfl_module_getsym_info(module->elf, i, &symbol, &address, &section, NULL, NULL);
        int type = GELF_ST_TYPE(symbol.st_info);
        if (name == NULL || *name == '\0' || section == SHN_UNDEF || (type != STT_FUNC && type != STT_GNU_IFUNC))
            continue;
        module->symbols[module->symbol_count++] =
            (ms_symbol_t){address, address + symbol.st_size, name, symbol_rank(&symbol, name)};
    }
    if (module->symbol_count > 0) qsort(module->symbols, module->symbol_count, sizeof *module->symbols, by_address);
}

static const char *lookup_symbol(ms_module_t *module, uint64_t address) {
    if (!module->symbols_indexed) index_symbols(module);
    size_t first = 0, last = module->symbol_count;
    while (first < last) {
        size_t middle = first + (last - first) / 2;
        if (module->symbols[middle].low <= address)
            first = middle + 1;
        else
            last = middle;
    }
    for (size_t tried = 0; first > 0 && tried < SYMBOLS_TRIED; tried++) {
        const ms_symbol_t *symbol = &module->symbols[--first];
        if (address < symbol->high) return symbol->name;
        if (symbol->low == symbol->high && tried == 0) return symbol->name; /* no size: up to the next symbol */
    }
    return NULL;
}

size_t ms_module_lookup(ms_module_t *module, uint64_t address, ms_frame_t frames[MS_INLINE_DEPTH]) {
    memset(frames, 0, MS_INLINE_DEPTH * sizeof *frames);
    size_t count = module->dwarf != NULL ? lookup_dwarf(module, address - module->dwarf_bias, frames) : 0;
    if (count > 0 && frames[count - 1].function != NULL) return count;
    if (count == 0) count = 1;
    frames[count - 1].function = lookup_symbol(module, address);
    return count;
}
