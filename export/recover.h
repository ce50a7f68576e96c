/* A file without the snapshot at its end: the program was killed, or runs on. What was recorded while it ran (the knob
 * `interval`) says what it held last. For the command and tests. */
#ifndef MS_EXPORT_RECOVER_H
#define MS_EXPORT_RECOVER_H

#include "export/read.h"

/* Fills totals, sites, tasks, threads and process of an incomplete file with the last values of its series, and says so in
 * the file's warning. Other files are left as they are. */
void ms_snapshot_recover(ms_snapshot_file_t *file);

#endif
