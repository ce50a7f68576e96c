/* For what is preloaded in front of the library and has a syscall() of its own: the system call itself. */
#ifndef MS_TESTS_RAW_SYSCALL_H
#define MS_TESTS_RAW_SYSCALL_H

#include <errno.h>
#include <stdarg.h>

long syscall(long number, ...);

#define RAW_ARGUMENTS(a, number) \
    do { \
        va_list arguments; \
        va_start(arguments, number); \
        for (int i = 0; i < 6; i++) (a)[i] = va_arg(arguments, long); \
        va_end(arguments); \
    } while (0)

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

/* As libc's syscall() would return it. */
static inline long raw_result(long result) {
    return result < 0 && result > -4096 ? (errno = (int)-result, -1) : result;
}

#endif
