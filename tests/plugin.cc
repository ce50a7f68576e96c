// A C++ library for test_process to load and unload: static objects, thread_local objects, exceptions, containers.
#include <cstdlib>
#include <map>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

struct Registry {
    std::map<std::string, std::vector<std::string>> entries;
    Registry() {
        for (int i = 0; i < 200; i++) entries[std::to_string(i)].assign(10, std::string(100, 'r'));
    }
};

Registry registry;
thread_local std::vector<std::unique_ptr<int>> per_thread;

} // namespace

// Returns memory that malloc's caller may free, and works with what it allocated at load time.
extern "C" char *plugin_work(int number) {
    per_thread.push_back(std::make_unique<int>(number));
    registry.entries["call"].push_back(std::to_string(number));
    try {
        if (number % 2) throw std::runtime_error(std::string(300, 'e'));
    } catch (const std::exception &error) {
        registry.entries["errors"].push_back(error.what());
    }
    std::string text(size_t(number % 1000), 'p');
    char *copy = new char[text.size() + 1];
    text.copy(copy, text.size());
    copy[text.size()] = 0;
    return copy;
}

extern "C" void plugin_release(char *text) {
    delete[] text;
}

namespace {

int handler_calls;

void give_up() {
    handler_calls++;
    std::set_new_handler(nullptr);
}

[[noreturn]] void throw_up() {
    handler_calls++;
    throw std::runtime_error("no memory");
}

} // namespace

// What is not as it should be when `size` bytes are not to be had, NULL if all is.
extern "C" const char *plugin_run_out(size_t size) {
    try {
        ::operator delete(::operator new(size));
        return "new gave memory";
    } catch (const std::bad_alloc &) {
    }
    handler_calls = 0;
    std::set_new_handler(give_up);
    try {
        ::operator delete[](::operator new[](size, std::align_val_t(64)), std::align_val_t(64));
        return "new[] gave memory";
    } catch (const std::bad_alloc &) {
        if (handler_calls != 1) return "new[] did not call the handler";
    }
    std::set_new_handler(throw_up);
    if (::operator new(size, std::nothrow)) return "new nothrow gave memory";
    std::set_new_handler(nullptr);
    return handler_calls == 2 ? nullptr : "new nothrow did not call the handler";
}

extern "C" void *plugin_malloc(size_t size) {
    return malloc(size);
}
