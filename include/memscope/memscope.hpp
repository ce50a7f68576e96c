/* memscope for C++17, and for C++20 coroutines where the compiler has them. A thin layer over memscope.h: the same
 * units, errors and thread-safety. */
#ifndef MEMSCOPE_MEMSCOPE_HPP
#define MEMSCOPE_MEMSCOPE_HPP

#include <memory>
#include <string_view>
#include <utility>

#if __has_include(<coroutine>) && defined(__cpp_impl_coroutine)
#include <coroutine>
#define MEMSCOPE_HAS_COROUTINES 1
#endif

#include "memscope/memscope.h"

namespace memscope {

using usage = memscope_usage_t;

inline usage process_usage() {
    usage numbers{};
    memscope_process_usage(&numbers);
    return numbers;
}

inline usage thread_usage() {
    usage numbers{};
    memscope_thread_usage(&numbers);
    return numbers;
}

/* A task that ends with the object. Movable; the id stays the same. */
class task {
  public:
    explicit task(const char *name, memscope_task_t parent = MEMSCOPE_PARENT_CURRENT)
        : id_(memscope_task_create(name, parent)) {}
    task(task &&other) noexcept : id_(std::exchange(other.id_, 0)) {}
    task &operator=(task &&other) noexcept {
        std::swap(id_, other.id_);
        return *this;
    }
    ~task() { end(); }

    memscope_task_t id() const { return id_; }
    usage numbers() const {
        usage numbers{};
        memscope_task_usage(id_, &numbers);
        return numbers;
    }
    /* Ends the task early and returns what it still owns. */
    usage end() {
        usage outlived{};
        if (id_ != 0) memscope_task_end(std::exchange(id_, 0), &outlived);
        return outlived;
    }

  private:
    memscope_task_t id_;
};

/* While it lives, `task` is current in this thread. Scopes nest; leave one on the thread that made it. */
class task_scope {
  public:
    explicit task_scope(memscope_task_t task) : token_(memscope_task_enter(task)) {}
    explicit task_scope(const task &task) : task_scope(task.id()) {}
    task_scope(const task_scope &) = delete;
    task_scope &operator=(const task_scope &) = delete;
    ~task_scope() { memscope_task_leave(token_); }

  private:
    memscope_token_t token_;
};

namespace detail {

/* The type's name as the compiler writes it, out of this function's own signature. */
template <class T> constexpr std::string_view type_name() {
    std::string_view text = __PRETTY_FUNCTION__;
    auto first = text.find("T = ") + 4;
    auto last = text.find_first_of(";]", first);
    return text.substr(first, last - first);
}

template <class T> const char *type_text() {
    static constexpr std::string_view name = type_name<T>();
    static const auto text = [] {
        struct {
            char characters[name.size() + 1];
        } copy{};
        for (std::size_t i = 0; i < name.size(); i++) copy.characters[i] = name[i];
        return copy;
    }();
    return text.characters;
}

template <class T> int track(T *pointer, memscope_variable_t &variable, const char *function) {
    variable.type = type_text<T *>();
    variable.function = function;
    return memscope_track(static_cast<const void *>(pointer), &variable);
}
template <class T, class D> int track(const std::unique_ptr<T, D> &owner, memscope_variable_t &variable, const char *function) {
    return track(owner.get(), variable, function);
}

} // namespace detail

/* A T on the heap, named in reports for as long as it lives. */
template <class T> class tracked {
  public:
    template <class... Arguments>
    explicit tracked(memscope_variable_t &variable, Arguments &&...arguments)
        : value_(std::make_unique<T>(std::forward<Arguments>(arguments)...)) {
        detail::track(value_.get(), variable, variable.function);
    }
    T &get() { return *value_; }
    const T &get() const { return *value_; }
    T *operator->() { return value_.get(); }
    T &operator*() { return *value_; }

  private:
    std::unique_ptr<T> value_;
};

#ifdef MEMSCOPE_HAS_COROUTINES
/* Base of a promise type whose coroutine belongs to a task: the task is left at every suspension and entered again at
 * every resumption, on whatever thread that is.
 *
 *     struct promise_type : memscope::task_promise { ... };
 *
 * The task is made when the coroutine is called and ends with its frame. */
class task_promise {
  public:
    explicit task_promise(const char *name = "coroutine") : task_(name) {}
    memscope_task_t task_id() const { return task_.id(); }

    template <class Awaitable> auto await_transform(Awaitable &&awaitable) {
        return switching<Awaitable>{*this, std::forward<Awaitable>(awaitable)};
    }
    /* For initial_suspend and final_suspend, which await_transform does not see. */
    void enter_task() { token_ = memscope_task_enter(task_.id()); }
    void leave_task() { memscope_task_leave(token_); }

  private:
    template <class Awaitable> struct switching {
        task_promise &promise;
        Awaitable awaitable;
        bool await_ready() { return awaitable.await_ready(); }
        template <class Handle> auto await_suspend(Handle handle) {
            promise.leave_task();
            return awaitable.await_suspend(handle);
        }
        decltype(auto) await_resume() {
            if (memscope_task_current() != promise.task_id()) promise.enter_task();
            return awaitable.await_resume();
        }
    };
    task task_;
    memscope_token_t token_{};
};
#endif

} // namespace memscope

#define MEMSCOPE_TRACK(pointer)                                                                              \
    ([](const auto &memscope_pointer, const char *memscope_function) {                                       \
        static memscope_variable_t memscope_variable_here = {#pointer, nullptr, nullptr, __FILE__, __LINE__, 0}; \
        return ::memscope::detail::track(memscope_pointer, memscope_variable_here, memscope_function);       \
    }((pointer), __func__))

#endif
