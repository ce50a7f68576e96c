// The C++ half of variables.c. Usage: variables_cxx OUT.json
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "memscope/memscope.hpp"

#define EXPECT(condition) ((condition) ? (void)0 : fail(#condition, __LINE__))

static void fail(const char *what, int line) {
    std::fprintf(stderr, "variables_cxx.cc:%d: %s\n", line, what);
    std::exit(1);
}

namespace {

struct Node {
    int value = 0;
};

std::vector<std::unique_ptr<Node>> kept;

template <class T> int name_it(const T &thing) {
    return MEMSCOPE_TRACK_SMART(thing);
}

void names() {
    static Node *raw = new Node;
    static int *numbers = new int[10];
    static auto unique = std::make_unique<Node>();
    static std::shared_ptr<Node> shared(new Node);
    static std::vector<int> vector(100);
    static std::string brief = "x", lengthy(1000, 'y');
    static std::array<short, 3> array{};
    static double plain[5];
    static const bool flag = true;
    int local = 3;
    EXPECT(MEMSCOPE_TRACK(raw) == 0 && MEMSCOPE_TRACK(unique) == 0 && MEMSCOPE_TRACK(shared) == 0);
    EXPECT(MEMSCOPE_TRACK(&local) == EINVAL && MEMSCOPE_TRACK(std::make_shared<Node>()) == EINVAL);
    EXPECT(MEMSCOPE_TRACK_SMART(numbers) == 0 && MEMSCOPE_TRACK_SMART(vector) == 0);
    EXPECT(MEMSCOPE_TRACK_SMART(brief) == 0 && MEMSCOPE_TRACK_SMART(lengthy) == 0);
    EXPECT(MEMSCOPE_TRACK_SMART(array) == 0 && MEMSCOPE_TRACK_SMART(plain) == 0 && MEMSCOPE_TRACK_SMART(flag) == 0);
    EXPECT(MEMSCOPE_TRACK_AS(local, counter_t) == 0);
    EXPECT(name_it(local) == 0 && name_it(1.5f) == 0);
}

void scopes() {
    {
        MEMSCOPE_OWNED(Node *, in_order, new Node);
        delete in_order;
    }
    {
        auto moved = std::make_unique<Node>();
        MEMSCOPE_OWN(moved);
        kept.push_back(std::move(moved));
    }
    {
        MEMSCOPE_TRACKED(std::vector<int>, values, 100, 7);
        values->push_back(8);
        EXPECT(values.get().size() == 101 && (*values)[0] == 7);
        auto other = std::move(values);
    }
    {
        MEMSCOPE_TRACKED(Node, released);
        kept.push_back(released.release());
    }
    static std::vector<memscope::tracked<Node>> several;
    static memscope_variable_t variable = {"several", "Node", "scopes", __FILE__, __LINE__, 0};
    for (int i = 0; i < 100; i++) several.emplace_back(variable);
    several.erase(several.begin(), several.begin() + 40);
}

} // namespace

int main(int count, char **arguments) {
    if (count != 2) return 2;
    names();
    scopes();
    EXPECT(memscope_export_json(arguments[1]) == 0);
    return 0;
}
