/* See file.h. */
#include "export/file.h"

#include "export/html.h"
#include "export/json.h"
#include "export/msgpack.h"
#include "export/writer.h"

int ms_export_file(const ms_model_t *model, const char *path, ms_format_t format) {
    static int (*const export[])(const ms_model_t *, ms_writer_t *) = {
        [MS_FORMAT_MSGPACK] = ms_export_msgpack, [MS_FORMAT_JSON] = ms_export_json, [MS_FORMAT_HTML] = ms_export_html};
    ms_writer_t writer;
    int error = ms_writer_open(&writer, path);
    if (error == 0) error = export[format](model, &writer);
    int closed = ms_writer_close(&writer);
    return error != 0 ? error : closed;
}
