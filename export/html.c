/* See html.h. */
#include "export/html.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>

#include "export/msgpack.h"
#include "export/page.h"

/* A sink that writes what it gets to `out` as base64 (RFC 4648, with padding). */
typedef struct {
    ms_writer_t *out;
    unsigned char held[3]; /* bytes that wait for a group of three */
    size_t held_count;     /* 0 to 2 between calls */
} ms_base64_t;

static void encode_group(const unsigned char in[3], char out[4]) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t bits = (uint32_t)in[0] << 16 | (uint32_t)in[1] << 8 | in[2];
    for (int i = 0; i < 4; i++) out[i] = digits[bits >> (18 - 6 * i) & 63];
}

static int base64_drain(void *context, const void *bytes, size_t n) {
    ms_base64_t *base64 = context;
    const unsigned char *from = bytes;
    for (size_t i = 0; i < n; i++) {
        base64->held[base64->held_count++] = from[i];
        if (base64->held_count < 3) continue;
        char group[4];
        encode_group(base64->held, group);
        ms_writer_put(base64->out, group, sizeof group);
        base64->held_count = 0;
    }
    return base64->out->error;
}

static void base64_end(ms_base64_t *base64) {
    if (base64->held_count == 0) return;
    unsigned char last[3] = {0, 0, 0};
    memcpy(last, base64->held, base64->held_count);
    char group[4];
    encode_group(last, group);
    for (size_t i = base64->held_count + 1; i < 4; i++) group[i] = '=';
    ms_writer_put(base64->out, group, sizeof group);
}

/* The marker in the page, NULL when it has none. */
static const char *find_marker(void) {
    const size_t n = sizeof MS_HTML_MARKER - 1;
    for (const char *at = ms_page_html; n <= (size_t)(ms_page_html_end - at); at++)
        if (memcmp(at, MS_HTML_MARKER, n) == 0) return at;
    return NULL;
}

static int begin(ms_writer_t *writer) {
    const char *marker = find_marker();
    if (marker == NULL) return EINVAL;
    ms_writer_put(writer, ms_page_html, (size_t)(marker - ms_page_html));
    return 0;
}

static int finish(ms_base64_t *base64) {
    base64_end(base64);
    const char *rest = find_marker() + sizeof MS_HTML_MARKER - 1;
    ms_writer_put(base64->out, rest, (size_t)(ms_page_html_end - rest));
    return base64->out->error;
}

int ms_export_html(const ms_model_t *model, ms_writer_t *writer) {
    ms_base64_t base64 = {.out = writer};
    ms_writer_t sink;
    int error = begin(writer);
    if (error == 0 && (error = ms_writer_sink(&sink, base64_drain, &base64)) == 0) {
        ms_export_msgpack(model, &sink);
        ms_writer_close(&sink);
        error = finish(&base64);
    }
    return error;
}

int ms_export_html_bytes(const void *snapshot_bytes, size_t n, ms_writer_t *writer) {
    ms_base64_t base64 = {.out = writer};
    int error = begin(writer);
    if (error != 0) return error;
    base64_drain(&base64, snapshot_bytes, n);
    return finish(&base64);
}
