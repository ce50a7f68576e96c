/* Tables over time, written as differences: a row says by how much the values of its id moved since that id's last row.
 * docs/format.md has the format; export/read_series.c reads it. Generic over the tables of shape SERIES.
 *
 *     start                             a record `series`: names the columns, everything counts from zero again
 *     stage, stage, ... put, commit     a record `delta`: rows of one moment. drop in place of commit when the bytes
 * did not get where they should: nothing happened then
 *
 * Safe in process: no heap; memory is mapped and grows with the ids seen, up to keys_max for each table. One owner. */
#ifndef MS_EXPORT_SERIES_H
#define MS_EXPORT_SERIES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "export/writer.h"
#include "tracking/model.h"

#define MS_SERIES_VALUES 16 /* columns behind time_ns and id */

typedef struct ms_series_key {
    uint64_t id;
    uint64_t values[MS_SERIES_VALUES]; /* of its last row; zeros before the first */
    uint32_t number;                   /* in the file since `start`, MS_SERIES_UNNUMBERED: none yet */
    bool staged;
    bool described; /* the caller's: what the id means is in the file */
} ms_series_key_t;
#define MS_SERIES_UNNUMBERED UINT32_MAX

typedef struct ms_series_table {
    ms_series_key_t *keys;
    uint32_t *slots;              /* open addressing: index into keys + 1; 0: empty */
    uint32_t count, capacity;     /* of keys; there are twice as many slots */
    uint32_t numbered, numbering; /* numbers given out: committed, with the staged ones */
} ms_series_table_t;

typedef struct ms_series_staged {
    ms_table_id_t table;
    uint32_t key; /* index into keys */
    uint32_t number;
    bool is_new; /* the number is */
    uint64_t values[MS_SERIES_VALUES];
} ms_series_staged_t;

typedef struct ms_series {
    ms_series_table_t tables[MS_TABLE_COUNT];
    ms_series_staged_t *staged;
    size_t staged_count, staged_capacity;
    uint64_t time_ns, staged_time_ns; /* of the last record, of the one being staged */
    uint32_t keys_max;                /* per table; 0: no limit */
    uint64_t mapped_bytes;            /* own memory */
} ms_series_t;                        /* zeroed before the first start; freed by ms_series_free() */

void ms_series_free(ms_series_t *series);

/* Writes the record that begins a new count; the values and marks of the keys stay. */
void ms_series_start(ms_series_t *series, ms_writer_t *writer);

/* The key of an id (0 where the table has none); made if `make`. NULL: there is none, no memory, or too many. */
ms_series_key_t *ms_series_key(ms_series_t *series, ms_table_id_t table, uint64_t id, bool make);

/* Adds a row to the next record. False: no key for it, or its key has a row there already. All rows of a record have
 * the time of its first. */
bool ms_series_stage(ms_series_t *series, ms_table_id_t table, const void *row);

void ms_series_put(const ms_series_t *series, ms_writer_t *writer);
void ms_series_commit(ms_series_t *series);
void ms_series_drop(ms_series_t *series);

/* All rows of the model's series, with the start. Returns the number of records, 0 when there are no rows. */
uint64_t ms_series_export(const ms_model_t *model, ms_writer_t *writer);

#endif
