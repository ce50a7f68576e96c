#define _GNU_SOURCE
#include "alloc/runtime.h"

#include <dlfcn.h>
#include <elf.h>
#include <gnu/libc-version.h>
#include <link.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

typedef ElfW(Sym) symbol_t;
typedef ElfW(Dyn) dynamic_t;

typedef struct {
    const char *name;
    uintptr_t within, behind, found; /* behind: 0 when it was passed */
    uint32_t hash;
} search_t;

static uint32_t gnu_hash(const char *name) {
    uint32_t hash = 5381;
    for (; *name; name++) hash = hash * 33 + (unsigned char)*name;
    return hash;
}

/* Where an entry of the dynamic section points: the loader has added the base where it may write. */
static const void *pointed_at(const struct dl_phdr_info *object, const dynamic_t *entry) {
    uintptr_t value = entry->d_un.d_ptr;
    return (const void *)(value < object->dlpi_addr ? value + object->dlpi_addr : value);
}

/* DT_GNU_HASH: four numbers (buckets, first symbol in a chain, words of the filter, a shift), the filter, the buckets
 * with the first symbol of each, and a word a symbol: its hash, whose lowest bit ends the chain. */
static void look_up(search_t *wanted, uintptr_t base, const uint32_t *table, const symbol_t *symbols,
                    const char *names) {
    uint32_t buckets = table[0], first = table[1];
    const uint32_t *bucket = table + 4 + table[2] * (sizeof(ElfW(Addr)) / sizeof *table), *chain = bucket + buckets;
    uint32_t at = buckets ? bucket[wanted->hash % buckets] : 0;
    for (bool more = at >= first && at != 0; more; more = !(chain[at - first] & 1), at++) {
        const symbol_t *symbol = &symbols[at];
        if ((chain[at - first] | 1) != (wanted->hash | 1) || strcmp(names + symbol->st_name, wanted->name) != 0)
            continue;
        if (symbol->st_shndx == SHN_UNDEF || ELF64_ST_TYPE(symbol->st_info) != STT_FUNC) continue;
        wanted->found = base + symbol->st_value;
        return;
    }
}

static bool holds(const struct dl_phdr_info *object, uintptr_t address) {
    for (size_t i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &object->dlpi_phdr[i];
        if (part->p_type == PT_LOAD && address - object->dlpi_addr - part->p_vaddr < part->p_memsz) return true;
    }
    return false;
}

static int look_into(struct dl_phdr_info *object, size_t size, void *argument) {
    (void)size;
    search_t *wanted = argument;
    const uint32_t *table = NULL;
    const symbol_t *symbols = NULL;
    const char *names = NULL;
    if (wanted->within && !holds(object, wanted->within)) return 0;
    if (wanted->behind) {
        if (holds(object, wanted->behind)) wanted->behind = 0;
        return 0;
    }
    for (size_t i = 0; i < object->dlpi_phnum; i++) {
        if (object->dlpi_phdr[i].p_type != PT_DYNAMIC) continue;
        const dynamic_t *entry = (const dynamic_t *)(object->dlpi_addr + object->dlpi_phdr[i].p_vaddr);
        for (; entry->d_tag != DT_NULL; entry++) {
            if (entry->d_tag == DT_GNU_HASH) table = pointed_at(object, entry);
            if (entry->d_tag == DT_SYMTAB) symbols = pointed_at(object, entry);
            if (entry->d_tag == DT_STRTAB) names = pointed_at(object, entry);
        }
    }
    if (table && symbols && names) look_up(wanted, object->dlpi_addr, table, symbols, names);
    return wanted->found != 0;
}

uintptr_t ms_runtime_find(const char *name, const void *within) {
    search_t wanted = {.name = name, .within = (uintptr_t)within, .hash = gnu_hash(name)};
    dl_iterate_phdr(look_into, &wanted);
    return wanted.found;
}

uintptr_t ms_runtime_find_next(const char *name, const void *own) {
    search_t wanted = {.name = name, .behind = (uintptr_t)own, .hash = gnu_hash(name)};
    dl_iterate_phdr(look_into, &wanted);
    return wanted.found;
}

typedef struct {
    uintptr_t own, other;
    bool is_before;
} order_t;

static int look_for_either(struct dl_phdr_info *object, size_t size, void *argument) {
    (void)size;
    order_t *order = argument;
    order->is_before = holds(object, order->own);
    return order->is_before || holds(object, order->other);
}

bool ms_runtime_is_before(const void *own, const void *other) {
    order_t order = {(uintptr_t)own, (uintptr_t)other, false};
    dl_iterate_phdr(look_for_either, &order);
    return order.is_before;
}

/* A jump: the caller stays the caller, whose search path and namespace count. */
void *ms_runtime_dlopen(const char *file, int mode) {
    static __typeof__(dlopen) *next;
    __typeof__(dlopen) *call = __atomic_load_n(&next, __ATOMIC_RELAXED);
    if (!call) {
        call = (__typeof__(dlopen) *)ms_runtime_find_next("dlopen", &next);
        if (!call) call = (__typeof__(dlopen) *)ms_runtime_find("dlopen", gnu_get_libc_version()); /* loaded before us */
        __atomic_store_n(&next, call, __ATOMIC_RELAXED);
    }
    return call ? call(file, mode & ~RTLD_DEEPBIND) : NULL;
}
