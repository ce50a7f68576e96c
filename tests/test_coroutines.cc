// memscope.hpp: coroutines as tasks, tasks and scopes as objects, checkpoints as objects.
#include <cerrno>
#include <cstdlib>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "memscope/memscope.hpp"
#include "tests/support.h"

namespace {

/* A coroutine that belongs to a task and starts suspended. Whoever holds it resumes it. */
class Job {
  public:
    struct promise_type : memscope::task_promise {
        promise_type() : memscope::task_promise("job") {}
        Job get_return_object() { return Job(std::coroutine_handle<promise_type>::from_promise(*this)); }
        struct Start : std::suspend_always {
            promise_type &promise;
            explicit Start(promise_type &which) : promise(which) {}
            void await_resume() noexcept { promise.enter_task(); }
        };
        Start initial_suspend() noexcept { return Start(*this); }
        std::suspend_always final_suspend() noexcept {
            leave_task();
            return {};
        }
        void return_void() {}
        void unhandled_exception() { std::abort(); }
    };

    explicit Job(std::coroutine_handle<promise_type> handle) : handle_(handle) {}
    Job(Job &&other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    ~Job() {
        if (handle_) handle_.destroy();
    }
    bool resume() {
        handle_.resume();
        return !handle_.done();
    }
    memscope_task_t task() const { return handle_.promise().task_id(); }

  private:
    std::coroutine_handle<promise_type> handle_;
};

memscope_usage_t usage_of(memscope_task_t task) {
    memscope_usage_t usage;
    memscope_task_usage(task, &usage);
    return usage;
}

/* Allocates `bytes` before and after each of its suspensions. */
Job work(std::vector<void *> &blocks, size_t bytes, int suspensions) {
    for (int i = 0; i <= suspensions; i++) {
        blocks.push_back(std::malloc(bytes));
        co_await std::suspend_never{};
        if (i < suspensions) co_await std::suspend_always{};
    }
}

bool counts_tasks() {
    const char *conf = std::getenv("MEMSCOPE_CONF");
    return !conf || std::string(conf).find("mode:off") == std::string::npos;
}

std::vector<void *> room() {
    std::vector<void *> blocks;
    blocks.reserve(100); /* so that no job makes it grow */
    return blocks;
}

void free_all(const std::vector<void *> &blocks) {
    for (void *block : blocks) std::free(block);
}

} // namespace

START_TEST(a_job_counts_for_its_task) {
    auto first = room(), second = room();
    Job one = work(first, 1000, 3), two = work(second, 50, 3);
    memscope_task_t outside = memscope_task_current();
    for (bool more = true; more;) { /* they take turns */
        more = one.resume();
        ck_assert_uint_eq(memscope_task_current(), outside);
        std::free(std::malloc(12345));
        two.resume();
        ck_assert_uint_eq(memscope_task_current(), outside);
    }
    if (counts_tasks()) {
        ck_assert_uint_ne(one.task(), two.task());
        ck_assert_uint_eq(usage_of(one.task()).allocated_bytes, 4 * 1000);
        ck_assert_uint_eq(usage_of(one.task()).live_blocks, 4);
        ck_assert_uint_eq(usage_of(two.task()).allocated_bytes, 4 * 50);
    }
    free_all(first);
    if (counts_tasks()) ck_assert_uint_eq(usage_of(one.task()).live_bytes, 0);
    free_all(second);
}
END_TEST

START_TEST(a_job_moves_between_threads) {
    auto blocks = room();
    Job job = work(blocks, 100, 9);
    for (bool more = true; more;) std::thread([&] {
        more = job.resume();
        ck_assert_uint_eq(memscope_task_current(), 0);
    }).join();
    if (counts_tasks()) ck_assert_uint_eq(usage_of(job.task()).allocated_blocks, 10);
    free_all(blocks);
}
END_TEST

START_TEST(a_task_ends_with_its_frame) {
    auto blocks = room();
    memscope_task_t task;
    {
        Job job = work(blocks, 10, 0);
        job.resume();
        task = job.task();
    }
    if (counts_tasks()) ck_assert_int_eq(memscope_task_end(task, nullptr), ESRCH); /* it has */
    free_all(blocks);
}
END_TEST

/* What is allocated after the end of a task is not the task's, though it was current before the one that is left. */
START_TEST(a_task_that_ended_is_not_returned_to) {
    memscope_task_t ended = memscope_task_create("ended", 0), last = memscope_task_create("last", 0);
    memscope_token_t outer = memscope_task_enter(ended), inner = memscope_task_enter(last);
    memscope_usage_t outlived;
    int error = memscope_task_end(ended, &outlived); /* Check allocates: it is asked when no task is current */
    memscope_task_leave(inner);
    memscope_task_t current = memscope_task_current();
    void *volatile block = std::malloc(1000);
    std::free(block);
    memscope_token_t again = memscope_task_enter(last); /* which counts as ever */
    block = std::malloc(10);
    memscope_task_leave(again);
    memscope_task_leave(outer);
    ck_assert_uint_eq(current, 0);
    ck_assert_uint_eq(memscope_task_current(), 0);
    if (counts_tasks()) {
        ck_assert_int_eq(error, 0);
        ck_assert_uint_eq(outlived.allocated_blocks, 0);
        ck_assert_uint_eq(usage_of(ended).allocated_blocks, 0);
        ck_assert_uint_eq(usage_of(last).allocated_bytes, 10);
    }
    std::free(block);
}
END_TEST

START_TEST(tasks_as_objects) {
    memscope::task parent("parent", 0);
    void *block;
    {
        memscope::task_scope scope(parent);
        memscope::task child("child");
        memscope::task moved = std::move(child);
        {
            memscope::task_scope inner(moved);
            block = std::malloc(321);
        }
        if (counts_tasks()) {
            ck_assert_uint_eq(memscope_task_current(), parent.id());
            ck_assert_uint_eq(moved.numbers().live_bytes, 321);
            ck_assert_uint_eq(moved.end().live_bytes, 321);
        }
    }
    ck_assert_uint_eq(memscope_task_current(), 0);
    std::free(block);
}
END_TEST

/* A block of each family of functions. */
struct Families {
    void *one = std::malloc(100), *two = ::operator new(100), *three = ::operator new[](100);
    void free() {
        std::free(one);
        ::operator delete(two);
        ::operator delete[](three);
    }
};

/* Another thread, which frees them, believes the headers. */
START_TEST(short_ways_are_for_each_family) {
    memscope_task_t task = memscope_task_create("families", 0);
    memscope_token_t token = memscope_task_enter(task);
    std::free(std::malloc(100)); /* so that it is left the long way */
    memscope_task_leave(token);
    token = memscope_task_enter(task);
    Families inside;
    memscope_task_leave(token);
    memscope_task_leave(memscope_task_enter(task));
    Families outside;
    std::thread([&] { inside.free(), outside.free(); }).join();
    if (!counts_tasks()) return;
    ck_assert_uint_eq(usage_of(task).allocated_blocks, 4);
    ck_assert_uint_eq(usage_of(task).freed_blocks, 4);
}
END_TEST

START_TEST(checkpoints_as_objects) {
    memscope::checkpoint before;
    char *named = static_cast<char *>(std::malloc(5000));
    MEMSCOPE_TRACK(named);
    std::int64_t live = 0, grown = 0;
    ck_assert_int_eq(before.visit_changes([&](const memscope_difference_t &difference) {
        if (difference.part == MEMSCOPE_PART_PROCESS) grown = difference.live_bytes;
        if (difference.name && std::string(difference.name) == "named") live = difference.live_bytes;
    }), 0);
    memscope::checkpoint after = memscope::checkpoint();
    ck_assert_int_eq(live, 5000);
    ck_assert_int_ge(grown, 5000);
    std::free(named);
    live = 0;
    before.visit_changes([&](const memscope_difference_t &difference) {
        if (difference.name && std::string(difference.name) == "named") live = difference.live_bytes;
    }, &after);
    ck_assert_int_eq(live, 5000);
    ck_assert_uint_ge(before.peak(), 5000);
}
END_TEST

static Suite *suite() {
    const TTest *tests[] = {a_job_counts_for_its_task, a_job_moves_between_threads, a_task_ends_with_its_frame,
                            a_task_that_ended_is_not_returned_to, tasks_as_objects, short_ways_are_for_each_family,
                            checkpoints_as_objects};
    return SUPPORT_SUITE("coroutines", tests);
}

int main() {
    return support_main(suite, support_modes_few);
}
