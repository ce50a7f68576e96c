/* See event_codec.h: the reading half, for the command. */
#include "export/event_codec.h"

#include "export/unpack.h"

static bool find_uint(ms_unpack_t map, const char *key, uint64_t *value) {
    ms_unpack_t at;
    ms_token_t token;
    if (!ms_unpack_find(map, key, &at) || !ms_unpack_kind(&at, MS_TOKEN_UINT, &token)) return false;
    *value = token.number;
    return true;
}

bool ms_events_open(ms_events_body_t *body, ms_unpack_t bytes) {
    uint64_t thread, task, time;
    ms_token_t array;
    if (!find_uint(bytes, "thread", &thread) || !find_uint(bytes, "task", &task) || !find_uint(bytes, "time", &time) ||
        !ms_unpack_find(bytes, "events", &body->at) || !ms_unpack_kind(&body->at, MS_TOKEN_ARRAY, &array))
        return false;
    body->left = array.number;
    ms_events_begin(&body->codec, thread, task, time);
    return true;
}

/* Takes one integer of either sign. */
static bool take(ms_events_body_t *body, uint64_t *value) {
    ms_token_t token;
    if (body->left == 0 || !ms_unpack(&body->at, &token)) return false;
    if (token.kind != MS_TOKEN_UINT && token.kind != MS_TOKEN_INT) return false;
    body->left--;
    *value = token.number;
    return true;
}

static bool take_event(ms_events_body_t *body, ms_event_t *event) {
    ms_event_codec_t *codec = &body->codec;
    uint64_t op, time, address, site = 0;
    *event = codec->last;
    event->site = 0;
    if (!take(body, &op) || (op & MS_EVENT_KIND_MASK) >= MS_EVENT_KINDS) return false;
    event->kind = (ms_event_kind_t)(op & MS_EVENT_KIND_MASK);
    if (event->kind == MS_EVENT_LOST) return take(body, &event->address) && take(body, &event->size);
    if (!take(body, &time) || !take(body, &address) || !take(body, &event->size)) return false;
    event->time = codec->last.time + time;
    event->address = codec->last.address + 16 * address;
    if (op & MS_EVENT_HAS_TASK && !take(body, &event->task)) return false;
    if (op & MS_EVENT_HAS_SITE && !take(body, &site)) return false;
    if (op & MS_EVENT_HAS_SITE) codec->site = (uint32_t)site;
    if (op & (MS_EVENT_HAS_SITE | MS_EVENT_SAME_SITE)) event->site = codec->site;
    codec->last = *event;
    return true;
}

bool ms_events_next(ms_events_body_t *body, ms_event_t *event, bool *damaged) {
    *damaged = false;
    if (body->left == 0) return false;
    *damaged = !take_event(body, event);
    return !*damaged;
}
