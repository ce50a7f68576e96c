/* The report: the built page with a snapshot in it. The page is embedded in the program (page.c); its one
 * MS_HTML_MARKER is replaced by the base64 of the bytes of a .memscope file. Safe in process (no heap, no stdio). */
#ifndef MS_EXPORT_HTML_H
#define MS_EXPORT_HTML_H

#include "export/writer.h"
#include "tracking/model.h"

#define MS_HTML_MARKER "@@MEMSCOPE_SNAPSHOT@@"

/* Packs the model straight into the page, uncompressed. Returns 0 or the writer's sticky errno; EINVAL when the
 * page that was built in has no marker. */
int ms_export_html(const ms_model_t *model, ms_writer_t *writer);

/* The same from bytes the caller has: a .memscope file, plain or gzipped (the page tells them apart). */
int ms_export_html_bytes(const void *snapshot_bytes, size_t n, ms_writer_t *writer);

#endif
