/* JUnit XML as Jenkins and GitLab read it: a test suite a file, a test case a check. What could not be checked is an
 * error. Text is made printable first: XML 1.0 has no place for control characters. */
#include "cli/check.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "cli/text.h"

static void put_escaped(ms_writer_t *writer, const char *text) {
    char *safe = ms_text_safe(text);
    for (const char *at = safe; *at != '\0'; at++) {
        const char *entity = *at == '&' ? "&amp;" : *at == '<' ? "&lt;" : *at == '>' ? "&gt;" : *at == '"' ? "&quot;" : NULL;
        if (entity != NULL)
            ms_writer_text(writer, entity);
        else
            ms_writer_put(writer, at, 1);
    }
    free(safe);
}

static void put_attribute(ms_writer_t *writer, const char *name, const char *value) {
    ms_writer_text(writer, " ");
    ms_writer_text(writer, name);
    ms_writer_text(writer, "=\"");
    put_escaped(writer, value);
    ms_writer_text(writer, "\"");
}

static void put_number(ms_writer_t *writer, const char *name, uint64_t value) {
    char text[32];
    snprintf(text, sizeof text, "%" PRIu64, value);
    put_attribute(writer, name, text);
}

static void put_seconds(ms_writer_t *writer, uint64_t ns) {
    char text[48];
    snprintf(text, sizeof text, "%" PRIu64 ".%03" PRIu64, ns / 1000000000, ns / 1000000 % 1000);
    put_attribute(writer, "time", text);
}

static void put_case(ms_writer_t *writer, const ms_suite_t *suite, const ms_check_t *check) {
    ms_writer_text(writer, "    <testcase");
    put_attribute(writer, "classname", suite->program);
    put_attribute(writer, "name", check->name);
    put_seconds(writer, 0);
    ms_writer_text(writer, ">");
    const char *tag = check->outcome == MS_CHECK_FAILED ? "failure" : check->outcome == MS_CHECK_UNKNOWN ? "error" : "system-out";
    ms_writer_text(writer, "<");
    ms_writer_text(writer, tag);
    if (check->outcome != MS_CHECK_OK) {
        put_attribute(writer, "message", check->text);
        put_attribute(writer, "type", check->name);
    }
    ms_writer_text(writer, ">");
    put_escaped(writer, check->text);
    for (size_t i = 0; i < check->detail_count; i++) {
        ms_writer_text(writer, "\n");
        put_escaped(writer, check->details[i]);
    }
    ms_writer_text(writer, "</");
    ms_writer_text(writer, tag);
    ms_writer_text(writer, "></testcase>\n");
}

static void put_counts(ms_writer_t *writer, size_t tests, size_t failures, size_t errors) {
    put_number(writer, "tests", tests);
    put_number(writer, "failures", failures);
    put_number(writer, "errors", errors);
}

static void put_suite(ms_writer_t *writer, const ms_suite_t *suite) {
    char when[32] = "1970-01-01T00:00:00";
    time_t seconds = (time_t)(suite->unix_ns / 1000000000);
    struct tm utc;
    if (gmtime_r(&seconds, &utc) != NULL) strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%S", &utc);
    ms_writer_text(writer, "  <testsuite");
    put_attribute(writer, "name", suite->path);
    put_counts(writer, suite->count, ms_suite_outcomes(suite, MS_CHECK_FAILED), ms_suite_outcomes(suite, MS_CHECK_UNKNOWN));
    put_number(writer, "skipped", 0);
    put_seconds(writer, suite->elapsed_ns);
    put_attribute(writer, "timestamp", when);
    ms_writer_text(writer, ">\n");
    for (size_t i = 0; i < suite->count; i++) put_case(writer, suite, &suite->checks[i]);
    ms_writer_text(writer, "  </testsuite>\n");
}

int ms_junit(const void *data, ms_writer_t *writer) {
    const ms_suites_t *suites = data;
    size_t tests = 0, failures = 0, errors = 0;
    for (size_t i = 0; i < suites->count; i++) {
        tests += suites->suites[i].count;
        failures += ms_suite_outcomes(&suites->suites[i], MS_CHECK_FAILED);
        errors += ms_suite_outcomes(&suites->suites[i], MS_CHECK_UNKNOWN);
    }
    ms_writer_text(writer, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites");
    put_attribute(writer, "name", "memscope check");
    put_counts(writer, tests, failures, errors);
    ms_writer_text(writer, ">\n");
    for (size_t i = 0; i < suites->count; i++) put_suite(writer, &suites->suites[i]);
    ms_writer_text(writer, "</testsuites>\n");
    return writer->error;
}
