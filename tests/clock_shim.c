/* Preloaded in front of the library: an hour passes in seconds. Whoever waits on a futex with a time limit through syscall(),
 * as the writer of interval records does, does not wait: the clocks jump by that time instead. */
#include <errno.h>
#include <linux/futex.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>

int clock_gettime(clockid_t clock, struct timespec *time);
long syscall(long number, ...);

static _Atomic(int64_t) skipped_ns;

static long raw(long number, long a, long b, long c, long d, long e, long f) {
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    long result = raw(SYS_clock_gettime, clock, (long)time, 0, 0, 0, 0);
    if (result < 0) return errno = (int)-result, -1;
    if (clock != CLOCK_MONOTONIC_COARSE && clock != CLOCK_REALTIME) return 0;
    int64_t ns = time->tv_nsec + atomic_load(&skipped_ns);
    time->tv_sec += ns / 1000000000;
    time->tv_nsec = ns % 1000000000;
    return 0;
}

long syscall(long number, ...) {
    va_list arguments;
    long a[6];
    va_start(arguments, number);
    for (int i = 0; i < 6; i++) a[i] = va_arg(arguments, long);
    va_end(arguments);
    if (number == SYS_futex && (a[1] & FUTEX_CMD_MASK) == FUTEX_WAIT && a[3] != 0) {
        const struct timespec *limit = (const struct timespec *)a[3];
        struct timespec moment = {0, 100000};
        atomic_fetch_add(&skipped_ns, limit->tv_sec * 1000000000 + limit->tv_nsec);
        raw(SYS_nanosleep, (long)&moment, 0, 0, 0, 0, 0); /* others run */
        return 0;
    }
    long result = raw(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    return result < 0 && result > -4096 ? (errno = (int)-result, -1) : result;
}
