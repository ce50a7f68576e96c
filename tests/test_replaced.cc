// A program that replaces some operators, and leaves to the library the forms that call these: REPLACED is 1 for new
// and delete, 2 for the aligned ones too, 3 for those of arrays too. Without memscope the oracle is libstdc++.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <malloc.h>
#include <memory>
#include <new>
#include <string>
#include <sys/mman.h>

#include "tests/new_forms.h"
#include "tests/support.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wsized-deallocation" // that is what they are about
#endif

namespace {

enum Kind { PLAIN, ALIGNED, PLAIN_ARRAY, ALIGNED_ARRAY, KINDS };

struct Calls {
    int allocated[KINDS], released[KINDS], wrong;
};

struct Another {};

Calls calls;
enum { WORKS, OUT_OF_MEMORY, THROWS_ANOTHER } mood;
char *pool; // where the operators take blocks from; nullptr: malloc
size_t in_front; // bytes that the operators keep in front of a block; 0: they only pass on what malloc gives them

// What the operators write there.
struct Note {
    void *start;
    Kind kind;
};

void *replaced_new(Kind kind, size_t size, size_t alignment) {
    calls.allocated[kind]++;
    if (mood == OUT_OF_MEMORY) throw std::bad_alloc();
    if (mood == THROWS_ANOTHER) throw Another();
    if (pool) {
        char *block = pool;
        pool += (size + 15) / 16 * 16;
        return block;
    }
    if (!in_front) return kind == ALIGNED || kind == ALIGNED_ARRAY ? memalign(alignment, size) : malloc(size);
    size_t room = in_front < alignment ? alignment : in_front;
    char *start = static_cast<char *>(memalign(alignment, size + room));
    Note note{start, kind};
    memcpy(start + room - sizeof note, &note, sizeof note);
    return start + room;
}

void replaced_delete(Kind kind, void *block) {
    if (!block) return;
    calls.released[kind]++;
    if (pool) return;
    if (!in_front) {
        free(block);
        return;
    }
    Note note;
    memcpy(&note, static_cast<char *>(block) - sizeof note, sizeof note);
    calls.wrong += note.kind != kind;
    free(note.start);
}

} // namespace

void *operator new(size_t size) {
    return replaced_new(PLAIN, size, 16);
}
void operator delete(void *block) noexcept {
    replaced_delete(PLAIN, block);
}
#if REPLACED >= 2
void *operator new(size_t size, align_val_t alignment) {
    return replaced_new(ALIGNED, size, size_t(alignment));
}
void operator delete(void *block, align_val_t) noexcept {
    replaced_delete(ALIGNED, block);
}
#endif
#if REPLACED >= 3
void *operator new[](size_t size) {
    return replaced_new(PLAIN_ARRAY, size, 16);
}
void operator delete[](void *block) noexcept {
    replaced_delete(PLAIN_ARRAY, block);
}
void *operator new[](size_t size, align_val_t alignment) {
    return replaced_new(ALIGNED_ARRAY, size, size_t(alignment));
}
void operator delete[](void *block, align_val_t) noexcept {
    replaced_delete(ALIGNED_ARRAY, block);
}
#endif

namespace {

const size_t sizes[] = {0, 1, 40, 1000, 1025, 5000, 32769, 2000000};

bool is_array(const Form &form) {
    return strstr(form.name, "[]") != nullptr;
}

// Whose operators a form calls in the end; KINDS: none of the program's.
Kind kind_of(const Form &form) {
    if (form.aligned && REPLACED < 2) return KINDS;
    if (is_array(form) && REPLACED >= 3) return form.aligned ? ALIGNED_ARRAY : PLAIN_ARRAY;
    return form.aligned ? ALIGNED : PLAIN;
}

void check_calls(const Form &form, int allocated, int released) {
    for (int kind = 0; kind < KINDS; kind++) {
        bool is_it = kind == kind_of(form);
        ck_assert_msg(calls.allocated[kind] == (is_it ? allocated : 0), "%s: %d calls of new %d", form.name,
                      calls.allocated[kind], kind);
        ck_assert_msg(calls.released[kind] == (is_it ? released : 0), "%s: %d calls of delete %d", form.name,
                      calls.released[kind], kind);
    }
    ck_assert_msg(calls.wrong == 0, "%s: freed as another kind", form.name);
}

void check_form(const Form &form, size_t size, align_val_t alignment) {
    calls = {};
    int count = 0;
    for (auto release : form.release) {
        void *block = form.allocate(size, alignment);
        ck_assert_ptr_nonnull(block);
        ck_assert_uint_eq(uintptr_t(block) % (form.aligned ? size_t(alignment) : 16), 0);
        support_fill(block, size, 1);
        ck_assert(support_holds(block, size, 1));
        release(block, size, alignment);
        count++;
    }
    check_calls(form, count, count);
}

// With nothing in front of them the program's blocks are malloc's, and no free of theirs is one of the wrong family:
// the library would abort.
START_TEST(forms_call_what_is_replaced) {
    for (size_t front : {0, 16, 48})
        for (const Form &form : forms)
            for (size_t size : sizes)
                for (size_t alignment : {64, 4096}) {
                    in_front = front;
                    check_form(form, size, align_val_t(alignment));
                }
}
END_TEST

// The first block of the program's memory lies behind a page that nobody may touch, in the middle of the heap.
START_TEST(forms_read_nothing_in_front_of_a_block) {
    const size_t page = 4096, room = 64 << 20; // more than the gaps between libraries
    for (int i = 0; i < 3000; i++) ck_assert_ptr_nonnull(malloc(1000));
    char *start = static_cast<char *>(mmap(nullptr, page + room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ck_assert(start != MAP_FAILED && mprotect(start + page, room, PROT_READ | PROT_WRITE) == 0);
    for (int i = 0; i < 30000; i++) ck_assert_ptr_nonnull(malloc(1000));
    for (const Form &form : forms)
        for (auto release : form.release) {
            if (kind_of(form) != PLAIN && kind_of(form) != PLAIN_ARRAY) continue;
            pool = start + page;
            release(form.allocate(16, align_val_t(16)), 16, align_val_t(16));
            pool = nullptr;
        }
    munmap(start, page + room);
}
END_TEST

START_TEST(delete_of_null) {
    calls = {};
    for (const Form &form : forms)
        for (auto release : form.release) release(nullptr, 0, align_val_t(64));
    check_calls(forms[0], 0, 0);
}
END_TEST

// What a replaced new throws leaves a form that throws, and is NULL from a nothrow one.
START_TEST(exceptions) {
    for (const Form &form : forms)
        for (auto now : {OUT_OF_MEMORY, THROWS_ANOTHER}) {
            if (kind_of(form) == KINDS) continue;
            bool thrown = false;
            void *block = nullptr;
            calls = {};
            mood = now;
            try {
                block = form.allocate(100, align_val_t(64));
            } catch (const std::bad_alloc &) {
                thrown = now == OUT_OF_MEMORY;
            } catch (const Another &) {
                thrown = now == THROWS_ANOTHER;
            }
            mood = WORKS;
            ck_assert_msg(thrown == form.throws && !block, "%s", form.name);
            ck_assert_int_eq(std::uncaught_exceptions(), 0);
            check_calls(form, 1, 0);
        }
}
END_TEST

struct Object {
    ~Object() { text.clear(); }
    std::string text = "longer than what a string keeps in itself";
};

int sum(const int (&counts)[KINDS]) {
    int all = 0;
    for (int count : counts) all += count;
    return all;
}

START_TEST(expressions) {
    in_front = 16;
    calls = {};
    for (int i = 0; i < 100; i++) {
        delete new Object;
        delete[] new Object[3];
        delete new (nothrow) Object;
        delete[] new (nothrow) Object[3];
        std::make_shared<Object>();
    }
    ck_assert_int_eq(sum(calls.allocated), sum(calls.released));
    ck_assert_int_ge(sum(calls.allocated), 100 * (5 + 9));
    ck_assert_int_eq(calls.wrong, 0);
}
END_TEST

Suite *suite() {
    const TTest *tests[] = {forms_call_what_is_replaced, forms_read_nothing_in_front_of_a_block, delete_of_null, exceptions, expressions};
    return SUPPORT_SUITE("replaced", tests);
}

const char *const modes[] = {"hybrid,on_mismatch:abort", "exact,on_mismatch:abort", nullptr};

} // namespace

int main() {
    return support_main(suite, modes);
}
