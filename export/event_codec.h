/* Events as they stand in an `events` record of a .bin file (docs/format.md): flat integers, each event its own few. */
#ifndef MS_EXPORT_EVENT_CODEC_H
#define MS_EXPORT_EVENT_CODEC_H

#include <stdbool.h>
#include <stdint.h>

#include "export/unpack.h"

typedef enum {
    MS_EVENT_ALLOC,
    MS_EVENT_FREE,
    MS_EVENT_RESIZE_FREE,  /* a block that keeps its address gets another size: its old size ... */
    MS_EVENT_RESIZE_ALLOC, /* ... and its new one, the next event */
    MS_EVENT_NAME,         /* a live block is from now on of the variable `site` */
    MS_EVENT_LOST,         /* events are missing here: `dropped` for want of room, `over` beyond max_events */
    MS_EVENT_KINDS
} ms_event_kind_t;

/* The first integer of an event: kind and what follows. */
enum {
    MS_EVENT_KIND_MASK = 7,
    MS_EVENT_HAS_TASK = 8,   /* the task that is current from here on follows */
    MS_EVENT_HAS_SITE = 16,  /* the site follows */
    MS_EVENT_SAME_SITE = 32, /* the site is that of the last event that had one */
};

/* One event, decoded. */
typedef struct ms_event {
    ms_event_kind_t kind;
    uint64_t time;    /* ns since the process started */
    uint64_t address; /* LOST: events dropped */
    uint64_t size;    /* bytes; LOST: events over max_events */
    uint64_t thread;  /* that did it */
    uint64_t task;    /* current in it */
    uint32_t site;    /* ALLOC, RESIZE_ALLOC, NAME; 0: none */
} ms_event_t;

/* The state between two events of a record: what deltas are against. */
typedef struct ms_event_codec {
    ms_event_t last;
    uint32_t site;
} ms_event_codec_t;

/* ---- writing */

#define MS_EVENT_BYTES 64       /* one event at most */
#define MS_EVENTS_HEAD_BYTES 96 /* what stands in front of the events of a record, at most */

/* Starts a record's body: its events all have this thread; deltas start from these. */
void ms_events_begin(ms_event_codec_t *codec, uint64_t thread, uint64_t task, uint64_t time);

/* Appends an event of up to MS_EVENT_BYTES at `to`; returns its end, and adds the integers written to *integers. */
unsigned char *ms_events_put(ms_event_codec_t *codec, const ms_event_t *event, unsigned char *to, uint64_t *integers);

/* Writes the body's head so that it ends at `events`, where the events start. Returns where it begins. */
unsigned char *ms_events_head(unsigned char *events, uint64_t thread, uint64_t task, uint64_t time, uint64_t count,
                              uint64_t integers);

/* ---- reading */

typedef struct ms_events_body {
    ms_event_codec_t codec;
    ms_unpack_t at;
    uint64_t left; /* integers */
} ms_events_body_t;

/* Opens the body of an `events` record. False: it is none. */
bool ms_events_open(ms_events_body_t *body, ms_unpack_t bytes);

/* The next event; false at the end, or where it is damaged (*damaged). */
bool ms_events_next(ms_events_body_t *body, ms_event_t *event, bool *damaged);

#endif
