// Every form of operator new and delete against the C++ standard: alignment, exceptions, new_handler, pairing.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <malloc.h>
#include <map>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <sys/resource.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "tests/new_forms.h"
#include "tests/support.h"

namespace {

const size_t sizes[] = {0, 1, 8, 15, 16, 17, 63, 64, 100, 1000, 1024, 1025, 4096, 32768, 32769, 100000, 2000000};
const size_t alignments[] = {1, 2, 8, 16, 32, 64, 128, 4096, 65536, size_t(1) << 20};
const size_t too_big[] = {SIZE_MAX,       SIZE_MAX - 15, SIZE_MAX - 4095, size_t(PTRDIFF_MAX) + 1, size_t(PTRDIFF_MAX),
                          size_t(1) << 48};

void check_form(const Form &form, size_t size, size_t alignment) {
    size_t promised = form.aligned && alignment > 16 ? alignment : 16;
    for (auto release : form.release) {
        void *first = form.allocate(size, align_val_t(alignment));
        void *second = form.allocate(size, align_val_t(alignment));
        ck_assert_msg(first && second && first != second, "%s(%zu)", form.name, size);
        ck_assert_msg(uintptr_t(first) % promised == 0 && uintptr_t(second) % promised == 0, "%s(%zu, %zu) misaligned",
                      form.name, size, alignment);
        support_fill(first, size, 1);
        support_fill(second, size, 2);
        ck_assert(support_holds(first, size, 1) && support_holds(second, size, 2));
        release(first, size, align_val_t(alignment));
        release(second, size, align_val_t(alignment));
    }
}

START_TEST(forms_sizes_alignments) {
    for (const Form &form : forms)
        for (size_t size : sizes)
            for (size_t alignment : alignments)
                if (form.aligned || alignment == 1) check_form(form, size, alignment);
}
END_TEST

START_TEST(delete_of_null) {
    for (const Form &form : forms)
        for (auto release : form.release) release(nullptr, 0, align_val_t(64));
}
END_TEST

bool throws_bad_alloc(const Form &form, size_t size, size_t alignment) {
    try {
        return form.allocate(size, align_val_t(alignment)) == reinterpret_cast<void *>(-1);
    } catch (const std::bad_alloc &) {
        return true;
    }
}

START_TEST(impossible_sizes) {
    std::set_new_handler(nullptr);
    for (const Form &form : forms)
        for (size_t size : too_big)
            for (size_t alignment : {size_t(16), size_t(64), size_t(1) << 20}) {
                // libstdc++ 12 rounds the size up to the alignment and lets that wrap
                if (!support_is_memscope() && form.aligned && size > SIZE_MAX - alignment) continue;
                if (form.throws)
                    ck_assert_msg(throws_bad_alloc(form, size, alignment), "%s(%zu)", form.name, size);
                else
                    ck_assert_msg(!form.allocate(size, align_val_t(alignment)), "%s(%zu)", form.name, size);
            }
}
END_TEST

int handler_calls;

void handler_gives_up_at_once() {
    handler_calls++;
    std::set_new_handler(nullptr);
}

// No power of two: as libstdc++ the forms refuse without asking the handler, which could not help. Too large a one is
// an impossible request like others.
START_TEST(impossible_alignments) {
    const size_t none[] = {0, 3, 24, 48, 100, 4095, (size_t(1) << 62) + 1, SIZE_MAX};
    const size_t large[] = {size_t(1) << 48, size_t(1) << 62, size_t(1) << 63};
    for (const Form &form : forms) {
        if (!form.aligned) continue;
        auto refuses = [&](size_t size, size_t alignment) {
            std::set_new_handler(handler_gives_up_at_once);
            handler_calls = 0;
            return form.throws ? throws_bad_alloc(form, size, alignment) : !form.allocate(size, align_val_t(alignment));
        };
        for (size_t size : {0, 100, 5000, 100000}) {
            for (size_t alignment : none) {
                ck_assert_msg(refuses(size, alignment), "%s(%zu, %zu)", form.name, size, alignment);
                ck_assert_int_eq(handler_calls, 0);
            }
            for (size_t alignment : large) {
                ck_assert_msg(refuses(size, alignment), "%s(%zu, %zu)", form.name, size, alignment);
                ck_assert_int_eq(handler_calls, 1);
            }
        }
    }
    std::set_new_handler(nullptr);
}
END_TEST

void handler_gives_up_after_three() {
    if (++handler_calls == 3) std::set_new_handler(nullptr);
}

struct OutOfPatience : std::bad_alloc {};

[[noreturn]] void handler_throws() {
    handler_calls++;
    throw OutOfPatience();
}

START_TEST(new_handler_is_called_until_it_gives_up) {
    for (const Form &form : forms) {
        handler_calls = 0;
        std::set_new_handler(handler_gives_up_after_three);
        if (form.throws)
            ck_assert_msg(throws_bad_alloc(form, too_big[3], 32), "%s", form.name);
        else
            ck_assert_msg(!form.allocate(too_big[3], align_val_t(32)), "%s", form.name);
        ck_assert_msg(handler_calls == 3, "%s called the handler %d times", form.name, handler_calls);
    }
}
END_TEST

// What the handler throws leaves a throwing form, and is NULL from a nothrow one.
START_TEST(new_handler_may_throw) {
    for (const Form &form : forms) {
        bool thrown = false;
        handler_calls = 0;
        std::set_new_handler(handler_throws);
        try {
            ck_assert_ptr_null(form.allocate(too_big[3], align_val_t(32)));
        } catch (const OutOfPatience &) {
            thrown = true;
        }
        ck_assert_msg(thrown == form.throws, "%s", form.name);
        ck_assert_msg(std::uncaught_exceptions() == 0, "%s", form.name);
        ck_assert_int_eq(handler_calls, 1);
    }
    std::set_new_handler(nullptr);
}
END_TEST

// ---- address space ends. Check allocates, so nothing is asserted before memory is back.
const size_t room = size_t(64) << 20;

void limit_address_space(rlim_t bytes) {
    struct rlimit limit;
    getrlimit(RLIMIT_AS, &limit);
    limit.rlim_cur = bytes;
    setrlimit(RLIMIT_AS, &limit);
}

struct Node {
    Node *next;
};

struct Full {
    size_t count;
    bool clean; // std::bad_alloc from a throwing form, NULL from a nothrow one; before that, blocks as they were asked for
};

// Takes blocks until there are no more.
Full take_all(const Form &form, size_t size, Node *&list) {
    for (Full full{0, true};; full.count++) {
        void *block;
        try {
            block = form.allocate(size, align_val_t(64));
        } catch (const std::bad_alloc &) {
            full.clean &= form.throws;
            return full;
        }
        if (!block) {
            full.clean &= !form.throws;
            return full;
        }
        full.clean &= uintptr_t(block) % (form.aligned ? 64 : 16) == 0;
        list = new (block) Node{list};
    }
}

// By each of the ways in turn.
void give_all(const Form &form, size_t size, Node *&list) {
    for (size_t i = 0; list; i++) {
        Node *next = list->next;
        form.release[i % 3](list, size, align_val_t(64));
        list = next;
    }
}

START_TEST(address_space_ends) {
    std::set_new_handler(nullptr);
    limit_address_space(support_address_space() + room);
    for (const Form &form : forms)
        for (size_t size : {3000000, 50000, 5000, 600}) {
            Node *list = nullptr;
            Full first = take_all(form, size, list);
            Full at_once = take_all(form, size, list);
            give_all(form, size, list);
            Full second = take_all(form, size, list);
            give_all(form, size, list);
            ck_assert_msg(first.clean && at_once.clean && second.clean, "%s(%zu)", form.name, size);
            ck_assert_msg(first.count > 0 && second.count >= first.count / 2, "%s(%zu): %zu blocks, then %zu",
                          form.name, size, first.count, second.count);
        }
    limit_address_space(RLIM_INFINITY);
    for (const Form &form : forms) check_form(form, 3000000, 64);
}
END_TEST

// The handler's part of the bargain: it gives back what it kept for this, until it has nothing left.
const size_t reserve_size = 4000000;
Node *reserve;

void handler_gives_reserve() {
    handler_calls++;
    if (!reserve) {
        std::set_new_handler(nullptr);
        return;
    }
    Node *next = reserve->next;
    ::operator delete(reserve, reserve_size);
    reserve = next;
}

// Blocks that were freed by another family than they are of, as a snapshot counts them.
extern "C" int memscope_export_json(const char *path) __attribute__((weak));

long origin_mismatches() {
    if (!memscope_export_json) return 0;
    char path[] = "/tmp/memscope-new-XXXXXX";
    int file = mkstemp(path);
    ck_assert_int_ge(file, 0);
    ck_assert_int_eq(memscope_export_json(path), 0);
    unlink(path);
    std::string text(static_cast<size_t>(lseek(file, 0, SEEK_END)), ' ');
    ck_assert_int_eq(pread(file, &text[0], text.size(), 0), static_cast<ssize_t>(text.size()));
    close(file);
    size_t at = text.find("\"origin_mismatches\": ");
    ck_assert(at != std::string::npos);
    return strtol(text.c_str() + at + strlen("\"origin_mismatches\": "), nullptr, 10);
}

START_TEST(new_handler_that_frees) {
    const int reserves = 5;
    for (const Form &form : forms) {
        Node *list = nullptr, *more = nullptr;
        std::set_new_handler(nullptr);
        reserve = nullptr;
        handler_calls = 0;
        for (int i = 0; i < reserves; i++) reserve = new (::operator new(reserve_size)) Node{reserve};
        limit_address_space(support_address_space() + room);
        Full without = take_all(form, 3000000, list);
        std::set_new_handler(handler_gives_reserve);
        Full with = take_all(form, 3000000, more);
        give_all(form, 3000000, list);
        give_all(form, 3000000, more);
        limit_address_space(RLIM_INFINITY);
        ck_assert_msg(without.clean && with.clean, "%s", form.name);
        ck_assert_msg(handler_calls == reserves + 1, "%s called the handler %d times", form.name, handler_calls);
        ck_assert_msg(with.count >= reserves, "%s: %zu blocks where %d were given back", form.name, with.count,
                      reserves);
    }
    ck_assert_int_eq(origin_mismatches(), 0); // what the handler made possible is of the right family
}
END_TEST

// A container that cannot grow stays as it is.
START_TEST(containers_that_cannot_grow) {
    std::set_new_handler(nullptr);
    limit_address_space(support_address_space() + room);
    for (int round = 0; round < 3; round++) {
        std::vector<std::string> texts;
        bool thrown = false;
        try {
            for (;;) texts.emplace_back(texts.size() * 37 % 9000 + 100, char('a' + texts.size() % 26));
        } catch (const std::bad_alloc &) {
            thrown = true;
        }
        size_t bad = 0, count = texts.size();
        for (size_t i = 0; i < count; i++)
            bad += texts[i].size() != i * 37 % 9000 + 100 || texts[i].front() != char('a' + i % 26) ||
                   texts[i].back() != char('a' + i % 26);
        std::vector<std::string>().swap(texts);
        ck_assert(thrown && count > 1000 && bad == 0);
    }
    limit_address_space(RLIM_INFINITY);
}
END_TEST

// The language's own users of the operators.
struct alignas(128) Overaligned {
    char bytes[200];
};

struct ThrowsWhenMade {
    ThrowsWhenMade() { throw std::runtime_error("made"); }
    char bytes[500];
};

START_TEST(expressions) {
    for (int i = 0; i < 100; i++) {
        auto one = std::make_unique<Overaligned>();
        auto many = std::make_unique<Overaligned[]>(7);
        ck_assert_uint_eq(uintptr_t(one.get()) % 128, 0);
        ck_assert_uint_eq(uintptr_t(many.get()) % 128, 0);
        auto strings = std::make_unique<std::string[]>(50);
        for (size_t s = 0; s < 50; s++) strings[s].assign(s * 10, char('a' + s % 26));
        ck_assert_uint_eq(strings[49].size(), 490);
        bool thrown = false;
        try {
            delete new ThrowsWhenMade;
        } catch (const std::runtime_error &) {
            thrown = true;
        }
        ck_assert(thrown);
    }
    volatile ptrdiff_t negative = -1;
    bool thrown = false;
    try {
        delete[] new int[size_t(negative)];
    } catch (const std::bad_alloc &) { // bad_array_new_length
        thrown = true;
    }
    ck_assert(thrown);
}
END_TEST

START_TEST(containers_over_threads) {
    std::map<int, std::vector<std::string>> shared[4];
    std::vector<std::thread> threads;
    for (auto &map : shared)
        threads.emplace_back([&map] {
            for (int i = 0; i < 3000; i++) map[i % 97].emplace_back(size_t(i) % 200, 'x');
        });
    for (auto &thread : threads) thread.join();
    for (auto &map : shared) {
        size_t total = 0;
        for (auto &entry : map)
            for (auto &text : entry.second) total += text.size();
        ck_assert_uint_eq(total, 3000 / 200 * (199 * 200 / 2));
        map.clear();
    }
}
END_TEST

Suite *suite() {
    const TTest *tests[] = {forms_sizes_alignments,
                            delete_of_null,
                            impossible_sizes,
                            impossible_alignments,
                            new_handler_is_called_until_it_gives_up,
                            new_handler_may_throw,
                            address_space_ends,
                            new_handler_that_frees,
                            containers_that_cannot_grow,
                            expressions,
                            containers_over_threads};
    return SUPPORT_SUITE("new", tests);
}

} // namespace

int main() {
    return support_main(suite, support_modes_few);
}
