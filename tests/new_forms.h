// The forms of operator new, each with every form of operator delete that may free what it returned.
#ifndef MS_TESTS_NEW_FORMS_H
#define MS_TESTS_NEW_FORMS_H

#include <cstddef>
#include <new>

namespace {

using std::align_val_t;
using std::nothrow;

struct Form {
    const char *name;
    void *(*allocate)(size_t size, align_val_t alignment);
    bool aligned, throws;
    void (*release[3])(void *block, size_t size, align_val_t alignment);
};

const Form forms[] = {
    {"new",
     [](size_t n, align_val_t) { return ::operator new(n); },
     false,
     true,
     {[](void *p, size_t, align_val_t) { ::operator delete(p); },
      [](void *p, size_t n, align_val_t) { ::operator delete(p, n); },
      [](void *p, size_t, align_val_t) { ::operator delete(p, nothrow); }}},
    {"new nothrow",
     [](size_t n, align_val_t) { return ::operator new(n, nothrow); },
     false,
     false,
     {[](void *p, size_t, align_val_t) { ::operator delete(p, nothrow); },
      [](void *p, size_t, align_val_t) { ::operator delete(p); },
      [](void *p, size_t n, align_val_t) { ::operator delete(p, n); }}},
    {"new[]",
     [](size_t n, align_val_t) { return ::operator new[](n); },
     false,
     true,
     {[](void *p, size_t, align_val_t) { ::operator delete[](p); },
      [](void *p, size_t n, align_val_t) { ::operator delete[](p, n); },
      [](void *p, size_t, align_val_t) { ::operator delete[](p, nothrow); }}},
    {"new[] nothrow",
     [](size_t n, align_val_t) { return ::operator new[](n, nothrow); },
     false,
     false,
     {[](void *p, size_t, align_val_t) { ::operator delete[](p, nothrow); },
      [](void *p, size_t, align_val_t) { ::operator delete[](p); },
      [](void *p, size_t n, align_val_t) { ::operator delete[](p, n); }}},
    {"new aligned",
     [](size_t n, align_val_t a) { return ::operator new(n, a); },
     true,
     true,
     {[](void *p, size_t, align_val_t a) { ::operator delete(p, a); },
      [](void *p, size_t n, align_val_t a) { ::operator delete(p, n, a); },
      [](void *p, size_t, align_val_t a) { ::operator delete(p, a, nothrow); }}},
    {"new aligned nothrow",
     [](size_t n, align_val_t a) { return ::operator new(n, a, nothrow); },
     true,
     false,
     {[](void *p, size_t, align_val_t a) { ::operator delete(p, a, nothrow); },
      [](void *p, size_t, align_val_t a) { ::operator delete(p, a); },
      [](void *p, size_t n, align_val_t a) { ::operator delete(p, n, a); }}},
    {"new[] aligned",
     [](size_t n, align_val_t a) { return ::operator new[](n, a); },
     true,
     true,
     {[](void *p, size_t, align_val_t a) { ::operator delete[](p, a); },
      [](void *p, size_t n, align_val_t a) { ::operator delete[](p, n, a); },
      [](void *p, size_t, align_val_t a) { ::operator delete[](p, a, nothrow); }}},
    {"new[] aligned nothrow",
     [](size_t n, align_val_t a) { return ::operator new[](n, a, nothrow); },
     true,
     false,
     {[](void *p, size_t, align_val_t a) { ::operator delete[](p, a, nothrow); },
      [](void *p, size_t, align_val_t a) { ::operator delete[](p, a); },
      [](void *p, size_t n, align_val_t a) { ::operator delete[](p, n, a); }}},
};

} // namespace

#endif
