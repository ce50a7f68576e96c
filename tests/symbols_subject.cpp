// A program that knows where it is: calls through inlined functions, a template, a class, a namespace, a static function and a
// function pointer, each of which records the return address of the call it made. Prints rows for make_snapshot: its
// modules and a site an address.
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <link.h>
#include <vector>

static std::vector<std::uintptr_t> recorded;

__attribute__((noinline)) static void record() {
    recorded.push_back(reinterpret_cast<std::uintptr_t>(__builtin_return_address(0)));
    __asm__ volatile("" ::: "memory"); // no tail call into or out of here
}

static inline __attribute__((always_inline)) void innermost() { record(); }
static inline __attribute__((always_inline)) void middle() {
    innermost();
    __asm__ volatile("");
}

namespace shop {
struct Order {
    int lines;
    __attribute__((noinline)) void add(int n);
    template <typename T> __attribute__((noinline)) T total(T first) const {
        record();
        __asm__ volatile("" ::: "memory");
        return first + static_cast<T>(lines);
    }
};
void Order::add(int n) {
    lines += n;
    middle();
    __asm__ volatile("" ::: "memory");
}
namespace {
__attribute__((noinline)) int hidden(int n) {
    if (n > 0) middle();
    return n + 1;
}
} // namespace
} // namespace shop

extern "C" __attribute__((noinline)) int plain_c(int n) {
    for (int i = 0; i < n; i++) record();
    return n;
}

static int print_module(struct dl_phdr_info *info, size_t, void *path) {
    if (info->dlpi_name[0] != '\0' && info->dlpi_name[0] != '/') return 0;
    std::uintptr_t low = UINTPTR_MAX, high = 0;
    char build_id[129] = "";
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const auto &segment = info->dlpi_phdr[i];
        std::uintptr_t at = info->dlpi_addr + segment.p_vaddr;
        if (segment.p_type == PT_LOAD && at < low) low = at;
        if (segment.p_type == PT_LOAD && at + segment.p_memsz > high) high = at + segment.p_memsz;
        if (segment.p_type != PT_NOTE) continue;
        for (const char *note = reinterpret_cast<const char *>(at), *end = note + segment.p_memsz; note + 12 <= end;) {
            const auto *header = reinterpret_cast<const ElfW(Nhdr) *>(note);
            const char *name = note + sizeof *header, *bits = name + ((header->n_namesz + 3) & ~3u);
            if (header->n_type == NT_GNU_BUILD_ID && header->n_descsz <= 64)
                for (unsigned k = 0; k < header->n_descsz; k++)
                    std::sprintf(build_id + 2 * k, "%02x", static_cast<unsigned char>(bits[k]));
            note = bits + ((header->n_descsz + 3) & ~3u);
        }
    }
    std::printf("modules\tpath=%s\tstart=%#" PRIxPTR "\tend=%#" PRIxPTR "\tbias=%#" PRIxPTR,
                info->dlpi_name[0] != '\0' ? info->dlpi_name : static_cast<const char *>(path), low, high,
                static_cast<std::uintptr_t>(info->dlpi_addr));
    if (build_id[0] != '\0') std::printf("\tbuild_id=%s", build_id);
    std::printf("\n");
    return 0;
}

int main(int, char **arguments) {
    shop::Order order{1};
    record();
    order.add(2);
    order.total(3);
    order.total(4.5);
    shop::hidden(order.lines);
    int (*volatile pointer)(int) = plain_c;
    pointer(1);
    std::printf("process\tname=subject\tpid=1\n");
    dl_iterate_phdr(print_module, arguments[1]);
    for (std::size_t i = 0; i < recorded.size(); i++)
        std::printf("sites\tid=%zu\tkind=caller\tstack=%#" PRIxPTR "\tallocated_bytes=%zu\tallocated_blocks=1\n", i + 1,
                    recorded[i], 16 * (i + 1));
}
