// A C++ library for test_process to load and unload: static objects, thread_local objects, exceptions, containers.
#include <cstdlib>
#include <map>
#include <memory>
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

extern "C" void *plugin_malloc(size_t size) {
    return malloc(size);
}
