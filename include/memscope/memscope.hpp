/* memscope for C++17, and for C++20 coroutines where the compiler has them. A thin layer over memscope.h: the same
 * units, errors and thread-safety. */
#ifndef MEMSCOPE_MEMSCOPE_HPP
#define MEMSCOPE_MEMSCOPE_HPP

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <type_traits>
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

/* The numbers of a moment, to be compared later; given back with the object. */
class checkpoint {
  public:
    checkpoint() : checkpoint_(memscope_checkpoint()) {}
    checkpoint(checkpoint &&other) noexcept : checkpoint_(std::exchange(other.checkpoint_, nullptr)) {}
    checkpoint &operator=(checkpoint &&other) noexcept {
        std::swap(checkpoint_, other.checkpoint_);
        return *this;
    }
    ~checkpoint() { memscope_checkpoint_free(checkpoint_); }

    /* For memscope/check.h and the C calls; NULL if there was no memory. */
    const memscope_checkpoint_t *get() const { return checkpoint_; }
    std::uint64_t peak() const { return memscope_checkpoint_peak(checkpoint_, nullptr); }
    /* Calls visit(const memscope_difference_t &) for what changed since, or until `later`. 0 or ENOMEM. */
    template <class Visit> int visit_changes(Visit &&visit, const checkpoint *later = nullptr) const {
        auto each = [](void *context, const memscope_difference_t *difference) {
            (*static_cast<std::remove_reference_t<Visit> *>(context))(*difference);
            return 0;
        };
        return memscope_checkpoint_diff(checkpoint_, later ? later->checkpoint_ : nullptr, each, std::addressof(visit));
    }

  private:
    memscope_checkpoint_t *checkpoint_;
};

namespace detail {

/* The type's name as the compiler writes it, out of this function's own signature: "... [with T = int [5]; ...]". */
template <class T> constexpr std::string_view type_name() {
    std::string_view text = __PRETTY_FUNCTION__;
    std::size_t first = text.find("T = ") + 4, last = first;
    for (int depth = 0; last < text.size() && (depth > 0 || (text[last] != ';' && text[last] != ']')); last++)
        depth += text[last] == '[' ? 1 : text[last] == ']' ? -1 : 0;
    return text.substr(first, last - first);
}

template <class T> struct type_characters {
    static constexpr std::string_view name = type_name<T>();
    struct text {
        char characters[name.size() + 1];
    };
    static constexpr text copy() {
        text result{};
        for (std::size_t i = 0; i < name.size(); i++) result.characters[i] = name[i];
        return result;
    }
    static constexpr text value = copy();
};
template <class T> constexpr const char *type_text() {
    return type_characters<T>::value.characters;
}

/* The record of a macro's place in the source. What it was declared with is constant; the function's name is the same
 * whenever it is stored. */
inline memscope_variable_t *in_function(memscope_variable_t &variable, const char *function) {
    __atomic_store_n(&variable.function, function, __ATOMIC_RELAXED);
    return &variable;
}

/* The address of the block that a pointer, or an object that holds one, leads to. */
template <class T> const void *block_of(T *pointer) {
    return const_cast<const void *>(static_cast<const volatile void *>(pointer));
}
template <class T, class D> const void *block_of(const std::unique_ptr<T, D> &owner) {
    return block_of(owner.get());
}
template <class T> const void *block_of(const std::shared_ptr<T> &owner) {
    return block_of(owner.get());
}

template <class T, class = void> struct has_block : std::false_type {};
template <class T>
struct has_block<T, std::void_t<decltype(block_of(std::declval<const T &>()))>> : std::negation<std::is_array<T>> {};

template <class T, class = void> struct has_data : std::false_type {};
template <class T>
struct has_data<T, std::void_t<decltype(block_of(std::declval<const T &>().data()))>> : std::negation<std::is_array<T>> {};

/* What an object leads to is named where that is a block; otherwise, and for a container that keeps its elements within
 * itself, the object is. */
template <class T> int track_smart(const T &object, memscope_variable_t *variable) {
    if constexpr (has_block<std::remove_cv_t<T>>::value) {
        return memscope_track(block_of(object), variable);
    } else {
        if constexpr (has_data<T>::value)
            if (int error = memscope_track(block_of(object.data()), variable); error != EINVAL) return error;
        return memscope_track_region(std::addressof(object), sizeof object, variable);
    }
}

} // namespace detail

/* While it lives, the variable owns the block (memscope_scope_begin). Movable: the block is owned once. */
class owned_scope {
  public:
    owned_scope() noexcept : scope_{} {}
    template <class Pointer>
    owned_scope(const Pointer &pointer, memscope_variable_t &variable)
        : scope_(memscope_scope_begin(detail::block_of(pointer), &variable)) {}
    owned_scope(owned_scope &&other) noexcept : scope_(std::exchange(other.scope_, memscope_scope_t{})) {}
    owned_scope &operator=(owned_scope &&other) noexcept {
        std::swap(scope_, other.scope_);
        return *this;
    }
    ~owned_scope() { end(); }

    int error() const { return scope_.error; }
    void end() { memscope_scope_end(&scope_); }

  private:
    memscope_scope_t scope_;
};

/* A T on the heap that has a name in reports for as long as it lives, and whose lifetime is measured. Declare one with
 * MEMSCOPE_TRACKED(T, name, arguments...). */
template <class T> class tracked {
  public:
    template <class... Arguments>
    explicit tracked(memscope_variable_t &variable, Arguments &&...arguments)
        : value_(std::make_unique<T>(std::forward<Arguments>(arguments)...)), scope_(value_, variable) {}
    tracked(tracked &&) noexcept = default;
    tracked &operator=(tracked &&) noexcept = default;
    ~tracked() { value_.reset(); /* before its scope ends */ }

    T &get() { return *value_; }
    const T &get() const { return *value_; }
    T *operator->() { return value_.get(); }
    const T *operator->() const { return value_.get(); }
    T &operator*() { return *value_; }
    const T &operator*() const { return *value_; }
    /* The value without the name's scope, which it outlives if it lives on when the scope ends. */
    std::unique_ptr<T> release() { return std::move(value_); }

  private:
    std::unique_ptr<T> value_;
    owned_scope scope_;
};

namespace detail {
template <class T> struct tracking {
    memscope_variable_t &variable;
    template <class... Arguments> tracked<T> operator()(Arguments &&...arguments) const {
        return tracked<T>(variable, std::forward<Arguments>(arguments)...);
    }
};
} // namespace detail

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

#define MEMSCOPE_VARIABLE_(variable, name, type)                                                             \
    static memscope_variable_t variable = {name, type, nullptr, __FILE__, __LINE__, 0}
#define MEMSCOPE_TRACK_(x, type, how)                                                                        \
    ([](const auto &memscope_object, const char *memscope_function) {                                        \
        MEMSCOPE_VARIABLE_(memscope_variable_here, #x, type);                                                \
        return how(memscope_object, ::memscope::detail::in_function(memscope_variable_here, memscope_function)); \
    }((x), __func__))
#define MEMSCOPE_TYPE_HERE_                                                                                  \
    ::memscope::detail::type_text<std::remove_cv_t<std::remove_reference_t<decltype(memscope_object)>>>()
#define MEMSCOPE_TRACK_BLOCK_(object, variable) memscope_track(::memscope::detail::block_of(object), variable)

/* Of a pointer, std::unique_ptr or std::shared_ptr: the block it leads to. That of std::make_shared begins in front of the
 * object, so that is EINVAL. */
#define MEMSCOPE_TRACK(pointer) MEMSCOPE_TRACK_(pointer, MEMSCOPE_TYPE_HERE_, MEMSCOPE_TRACK_BLOCK_)
/* The same for those; for a container with data(): its elements' block; of anything else: a region. */
#define MEMSCOPE_TRACK_SMART(x) MEMSCOPE_TRACK_(x, MEMSCOPE_TYPE_HERE_, ::memscope::detail::track_smart)
#define MEMSCOPE_TRACK_AS(x, type) MEMSCOPE_TRACK_(x, #type, ::memscope::detail::track_smart)

#define MEMSCOPE_OWN_(x, type)                                                                               \
    MEMSCOPE_VARIABLE_(memscope_variable_##x, #x, type);                                                     \
    [[maybe_unused]] ::memscope::owned_scope memscope_scope_##x(                                             \
        x, *::memscope::detail::in_function(memscope_variable_##x, __func__))
#define MEMSCOPE_OWN(x) MEMSCOPE_OWN_(x, ::memscope::detail::type_text<std::remove_reference_t<decltype(x)>>())
#define MEMSCOPE_OWNED(type, x, ...)                                                                         \
    type x = (__VA_ARGS__);                                                                                  \
    MEMSCOPE_OWN_(x, #type)
#define MEMSCOPE_TRACKED(type, x, ...)                                                                       \
    MEMSCOPE_VARIABLE_(memscope_variable_##x, #x, #type);                                                    \
    auto x = ::memscope::detail::tracking<type>{                                                             \
        *::memscope::detail::in_function(memscope_variable_##x, __func__)}(__VA_ARGS__)

#endif
