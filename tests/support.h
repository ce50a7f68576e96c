/* What the Check programs share. Those without the malloc need this header alone: suites and their runner. With support.c,
 * those of the malloc: one binary run under each configuration, block contents that can be verified, and the memory the
 * kernel says we use.
 *
 * A program with a free choice of configuration runs its suite in every combination of backing and mode; with
 * MEMSCOPE_CONF set, in that one only. */
#ifndef MS_TESTS_SUPPORT_H
#define MS_TESTS_SUPPORT_H

#include <check.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#ifdef __cplusplus
extern "C" {
#endif

static inline bool support_stress(void) { return getenv("MEMSCOPE_STRESS") != NULL; } /* make check-stress */

/* A suite of a case for each test; the timeout is generous because it is only there to end a hang. */
static inline Suite *support_suite(const char *name, const TTest *const *tests, size_t count) {
    Suite *suite = suite_create(name);
    for (size_t i = 0; i < count; i++) {
        TCase *tcase = tcase_create(tests[i]->name);
        tcase_set_timeout(tcase, support_stress() ? 0 : 240);
        tcase_add_test(tcase, tests[i]);
        suite_add_tcase(suite, tcase);
    }
    return suite;
}
#define SUPPORT_SUITE(name, tests) support_suite(name, tests, sizeof(tests) / sizeof((tests)[0]))

/* Runs a suite: the exit status of the program. */
static inline int support_run_as(Suite *suite, enum fork_status forks) {
    SRunner *runner = srunner_create(suite);
    srunner_set_fork_status(runner, forks);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
static inline int support_run(Suite *suite) { return support_run_as(suite, CK_FORK_GETENV); }

typedef Suite *support_suite_t(void);

/* The configurations a suite can ask for. */
extern const char *const support_modes_all[];     /* off, exact, sampled, task, hybrid */
extern const char *const support_modes_few[];     /* off, exact, hybrid */
extern const char *const support_modes_default[]; /* hybrid */

/* main() of a test program: the suite under every backing that is built in x `modes`. Returns the exit status. */
int support_main(support_suite_t *suite, const char *const *modes);

/* Backings that were built in, NULL-terminated. */
const char *const *support_backends(void);

uint64_t support_seed(void);    /* MEMSCOPE_SEED or a new one; printed, so that a failure can be repeated */
bool support_is_memscope(void); /* false when the test itself is tried on another malloc */

/* Contents that depend on seed and position; large blocks are checked at both ends and once a page. */
void support_fill(void *block, size_t bytes, uint64_t seed);
bool support_holds(const void *block, size_t bytes, uint64_t seed);

static inline uint64_t support_random(uint64_t *state) {
    *state += 0x9e3779b97f4a7c15u; /* splitmix64 */
    uint64_t z = *state;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

size_t support_rss(void);           /* resident bytes now */
size_t support_address_space(void); /* mapped bytes now */
size_t support_data(void);          /* private writable bytes mapped now */

#ifdef __cplusplus
}
#endif
#endif
