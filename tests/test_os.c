/* ms_os_forget_file(), ms_os_populate() and ms_os_look_touched() against what the kernel says of each page, and against the contents. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "alloc/os.h"
#include "tests/support.h"

enum { PAGES = 40 };

static char expected[PAGES * MS_PAGE];

/* Whether a page is in this process's memory; -1: the kernel does not tell. */
static int is_there(const char *page) {
    uint64_t entry = 0;
    int file = open("/proc/self/pagemap", O_RDONLY);
    if (file < 0) return -1;
    ssize_t got = pread(file, &entry, sizeof entry, (off_t)((uintptr_t)page / MS_PAGE * sizeof entry));
    close(file);
    return got == sizeof entry ? (int)(entry >> 63) : -1;
}

static char *mapped_file(void) {
    FILE *file = tmpfile();
    ck_assert_ptr_nonnull(file);
    for (size_t i = 0; i < sizeof expected; i++) expected[i] = (char)(i * 31 + i / MS_PAGE);
    ck_assert_uint_eq(fwrite(expected, 1, sizeof expected, file), sizeof expected);
    ck_assert_int_eq(fflush(file), 0);
    char *start = mmap(NULL, sizeof expected, PROT_READ | PROT_WRITE, MAP_PRIVATE, fileno(file), 0);
    ck_assert_ptr_ne(start, MAP_FAILED);
    fclose(file);
    ck_assert_int_eq(memcmp(start, expected, sizeof expected), 0); /* now all of it is there */
    return start;
}

/* That a page of a file is there cannot be expected: the kernel may take it at any time. */
static void expect_gone(const char *start, int from, int to) {
    for (int page = from; page < to; page++) ck_assert_msg(is_there(start + page * (long)MS_PAGE) != 1, "page %d", page);
}

START_TEST(whole_pages_of_a_file_leave) {
    char *start = mapped_file();
    ms_os_forget_file(start + 3 * MS_PAGE + 1, 30 * MS_PAGE - 2);
    expect_gone(start, 4, 32);
    ck_assert_int_eq(memcmp(start, expected, sizeof expected), 0);
    ms_os_forget_file(start + 1, MS_PAGE); /* no whole page */
    ms_os_forget_file(start, 0);
    ck_assert_int_eq(memcmp(start, expected, sizeof expected), 0);
    munmap(start, sizeof expected);
}
END_TEST

START_TEST(what_was_written_stays) {
    for (int written = 0; written < PAGES; written += 13) {
        char *start = mapped_file();
        start[written * (long)MS_PAGE + 7] = 'x';
        ms_os_forget_file(start, sizeof expected);
        ck_assert_int_eq(start[written * (long)MS_PAGE + 7], 'x');
        start[written * (long)MS_PAGE + 7] = expected[written * (long)MS_PAGE + 7];
        ck_assert_int_eq(memcmp(start, expected, sizeof expected), 0);
        munmap(start, sizeof expected);
    }
}
END_TEST

START_TEST(memory_of_no_file_stays) {
    char *start = mmap(NULL, sizeof expected, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(start, MAP_FAILED);
    memset(start, 5, sizeof expected);
    ck_assert_int_eq(mprotect(start, sizeof expected, PROT_READ), 0);
    ms_os_forget_file(start, sizeof expected);
    for (size_t i = 0; i < sizeof expected; i++) ck_assert_int_eq(start[i], 5);
    munmap(start, sizeof expected);
}
END_TEST

START_TEST(populated_pages_are_there) {
    char *start = ms_os_map(PAGES * MS_PAGE, MS_PAGE);
    ck_assert_ptr_nonnull(start);
    errno = 4711;
    bool done = ms_os_populate(start + 3 * MS_PAGE, 20 * MS_PAGE); /* not before Linux 5.14 */
    ck_assert_int_eq(errno, 4711);
    for (int page = 0; page < PAGES; page++) {
        int there = is_there(start + page * (long)MS_PAGE);
        if (there >= 0) ck_assert_int_eq(there, done && page >= 3 && page < 23);
    }
    for (size_t i = 0; i < PAGES * MS_PAGE; i++) ck_assert_int_eq(start[i], 0);
    ms_os_unmap(start, PAGES * MS_PAGE);
    ck_assert(!ms_os_populate(start, 20 * MS_PAGE)); /* nothing is mapped */
    ck_assert_int_eq(errno, 4711);
    start = ms_os_map(PAGES * MS_PAGE, MS_PAGE);
    ck_assert_int_eq(ms_os_populate(start, MS_PAGE), done); /* one refusal is not the last word */
    ms_os_unmap(start, PAGES * MS_PAGE);
}
END_TEST

/* Longer than the kernel is asked about at once, with runs across the seams, and where most was touched. */
START_TEST(touched_pages_are_known) {
    enum { LONG = 2600 };
    char *start = ms_os_map(LONG * MS_PAGE, MS_PAGE);
    uint64_t touched[MS_OS_LOOK / 64];
    ck_assert_ptr_nonnull(start);
    bool is_touched[LONG];
    for (int page = 0; page < LONG; page++) {
        is_touched[page] = page % 7 == 0 || (page > 1000 && page < 1040) || page == LONG - 1;
        if (is_touched[page]) start[page * (long)MS_PAGE + page] = 5;
    }
    bool told = is_there(start) >= 0; /* as it is nearly everywhere */
    errno = 4711;
    ck_assert_int_eq(ms_os_look_touched(start, LONG, touched), told);
    ck_assert_int_eq(errno, 4711);
    for (int page = 0; told && page < LONG; page++)
        ck_assert_int_eq(touched[page / 64] >> page % 64 & 1, is_touched[page]);

    ms_os_opens_nothing = true;
    ck_assert(!ms_os_look_touched(start, LONG, touched));
    ms_os_opens_nothing = false;
    memset(start, 5, LONG * MS_PAGE);
    ck_assert(!ms_os_look_touched(start, LONG, touched)); /* nothing to be won */
    ms_os_unmap(start, LONG * MS_PAGE);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("os");
    TCase *all = tcase_create("forget_file");
    tcase_add_test(all, whole_pages_of_a_file_leave);
    tcase_add_test(all, what_was_written_stays);
    tcase_add_test(all, memory_of_no_file_stays);
    suite_add_tcase(suite, all);
    all = tcase_create("populate");
    tcase_add_test(all, populated_pages_are_there);
    suite_add_tcase(suite, all);
    all = tcase_create("look_touched");
    tcase_add_test(all, touched_pages_are_known);
    suite_add_tcase(suite, all);
    return support_run(suite);
}
