// Frames that C cannot make: comparators inlined into the standard library, type-erased calls, handlers and destructors
// run by the exception unwinder. Each function calls back from inside such a frame.
#include <algorithm>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

extern "C" {
typedef void callback_t();
void cxx_sort(callback_t *call);
void cxx_function(callback_t *call);
void cxx_catch(callback_t *call);
void cxx_destructor(callback_t *call);
void cxx_virtual(callback_t *call);
}

void cxx_sort(callback_t *call) {
    std::vector<int> numbers;
    for (int i = 0; i < 100; i++) numbers.push_back(i * 37 % 101);
    std::sort(numbers.begin(), numbers.end(), [call](int a, int b) {
        call();
        return a < b;
    });
}

void cxx_function(callback_t *call) {
    std::map<std::string, std::function<void(int)>> table;
    table["deep"] = [&](int left) { left > 0 ? table["deep"](left - 1) : call(); };
    table["deep"](7);
}

[[gnu::noinline]] static void thrower(int depth) {
    if (depth == 0) throw std::runtime_error("thrown in a test");
    volatile char room[40];
    room[0] = 1;
    thrower(depth - 1);
    room[1] = room[0];
}

void cxx_catch(callback_t *call) {
    try {
        thrower(5);
    } catch (const std::exception &) {
        call();
    }
}

namespace {
struct calls_at_end {
    callback_t *call;
    ~calls_at_end() { call(); }
};

struct shape {
    virtual void visit(callback_t *call, int left) = 0;
    virtual ~shape() = default;
};
struct round_shape : shape {
    shape *next = nullptr;
    void visit(callback_t *call, int left) override {
        if (left > 0) {
            next->visit(call, left - 1);
        } else {
            call();
        }
    }
};
} // namespace

void cxx_destructor(callback_t *call) {
    try {
        calls_at_end outer{call};
        std::string kept(100, 'x');
        calls_at_end inner{call};
        thrower(3);
    } catch (...) {
    }
}

void cxx_virtual(callback_t *call) {
    round_shape a, b;
    a.next = &b;
    b.next = &a;
    static_cast<shape &>(a).visit(call, 9);
}
