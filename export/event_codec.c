/* See event_codec.h. */
#include "export/event_codec.h"

#include <string.h>

/* ---- writing. Integers in MessagePack's shortest form: each is on the way of every event, so they are put by hand. */

static unsigned char *put_big_endian(unsigned char *to, unsigned char head, uint64_t value, int bytes) {
    *to++ = head;
    for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8) *to++ = (unsigned char)(value >> shift);
    return to;
}

static unsigned char *put_uint(unsigned char *to, uint64_t value) {
    if (value < 0x80) {
        *to = (unsigned char)value;
        return to + 1;
    }
    if (value <= UINT8_MAX) return put_big_endian(to, 0xcc, value, 1);
    if (value <= UINT16_MAX) return put_big_endian(to, 0xcd, value, 2);
    if (value <= UINT32_MAX) return put_big_endian(to, 0xce, value, 4);
    return put_big_endian(to, 0xcf, value, 8);
}

static unsigned char *put_int(unsigned char *to, int64_t value) {
    if (value >= 0) return put_uint(to, (uint64_t)value);
    if (value >= -32) {
        *to = (unsigned char)value;
        return to + 1;
    }
    if (value >= INT8_MIN) return put_big_endian(to, 0xd0, (uint64_t)value, 1);
    if (value >= INT16_MIN) return put_big_endian(to, 0xd1, (uint64_t)value, 2);
    if (value >= INT32_MIN) return put_big_endian(to, 0xd2, (uint64_t)value, 4);
    return put_big_endian(to, 0xd3, (uint64_t)value, 8);
}

void ms_events_begin(ms_event_codec_t *codec, uint64_t thread, uint64_t task, uint64_t time) {
    *codec = (ms_event_codec_t){.last = {.thread = thread, .task = task, .time = time}};
}

unsigned char *ms_events_put(ms_event_codec_t *codec, const ms_event_t *event, unsigned char *to, uint64_t *integers) {
    unsigned char *op = to++;
    *op = (unsigned char)event->kind;
    if (event->kind == MS_EVENT_LOST) {
        *integers += 3;
        return put_uint(put_uint(to, event->address), event->size);
    }
    *integers += 4;
    to = put_int(to, (int64_t)(event->time - codec->last.time));
    to = put_int(to, (int64_t)(event->address - codec->last.address) / 16);
    to = put_uint(to, event->size);
    if (event->task != codec->last.task) {
        *op |= MS_EVENT_HAS_TASK;
        to = put_uint(to, event->task);
        ++*integers;
    }
    if (event->site && event->site == codec->site) {
        *op |= MS_EVENT_SAME_SITE;
    } else if (event->site) {
        *op |= MS_EVENT_HAS_SITE;
        to = put_uint(to, event->site);
        codec->site = event->site;
        ++*integers;
    }
    codec->last = *event;
    return to;
}

static unsigned char *put_key(unsigned char *to, const char *key) {
    size_t length = strlen(key);
    *to++ = (unsigned char)(0xa0 | length);
    memcpy(to, key, length);
    return to + length;
}

unsigned char *ms_events_head(unsigned char *events, uint64_t thread, uint64_t task, uint64_t time, uint64_t count,
                              uint64_t integers) {
    unsigned char head[MS_EVENTS_HEAD_BYTES], *to = head;
    *to++ = 0x85; /* map of 5 */
    to = put_uint(put_key(to, "thread"), thread);
    to = put_uint(put_key(to, "task"), task);
    to = put_uint(put_key(to, "time"), time);
    to = put_uint(put_key(to, "count"), count);
    to = put_big_endian(put_key(to, "events"), 0xdd, integers, 4); /* array */
    size_t bytes = (size_t)(to - head);
    return memcpy(events - bytes, head, bytes);
}
