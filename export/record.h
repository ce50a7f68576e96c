/* One record of the .memscope format: an envelope round a body that is packed once, into the writer's buffer, and measured
 * there: what it is made of may change meanwhile. Private to the writers of records; needs msgpack-c. */
#ifndef MS_EXPORT_RECORD_H
#define MS_EXPORT_RECORD_H

#include <msgpack/pack.h>

#include "export/writer.h"

/* Packs one MessagePack object. */
typedef void (*ms_pack_body_t)(msgpack_packer *packer, const void *context);

void ms_record_put(ms_writer_t *writer, const char *kind, ms_pack_body_t pack_body, const void *context);

void ms_pack_text(msgpack_packer *packer, const char *text); /* a str of valid UTF-8; NULL: nil */

#endif
