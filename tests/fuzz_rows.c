/* libFuzzer: any bytes as unwind information. ms_row_compile() may read nothing but them (AddressSanitizer says so), must
 * end, and answers with a row of a known kind.
 *
 *     input   bytes 0-1: length of .eh_frame_hdr; the rest: .eh_frame_hdr, then .eh_frame, as one module at address 0x10000 */
#include "tracking/unwind_table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The table of rows is not used here. */
void *ms_os_map_metadata(size_t bytes) {
    return calloc(1, bytes);
}

void ms_os_forget_file(const void *start, size_t bytes) {
    (void)start, (void)bytes;
}

static ms_eh_bytes_t copied(const uint8_t *from, size_t size, uintptr_t address) {
    uint8_t *bytes = malloc(size + (size == 0)); /* exactly as large */
    if (bytes == NULL) abort();
    if (size > 0) memcpy(bytes, from, size);
    return (ms_eh_bytes_t){bytes, size, address};
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    enum { ADDRESS = 0x10000 };
    uint16_t index = 0;
    if (size < sizeof index) return 0;
    memcpy(&index, data, sizeof index);
    data += sizeof index;
    size -= sizeof index;
    if (index > size) index = (uint16_t)size;
    ms_eh_t eh = {copied(data, index, ADDRESS), copied(data + index, size - index, ADDRESS + index)};
    for (uintptr_t pc = ADDRESS; pc < ADDRESS + 0x400; pc += 0x1f) {
        int bx;
        ms_row_t row = ms_row_compile(&eh, pc, &bx);
        if (ms_row_kind(row) < MS_ROW_SP || ms_row_kind(row) > MS_ROW_END || bx < -1) abort();
    }
    free((void *)(uintptr_t)eh.index.bytes);
    free((void *)(uintptr_t)eh.frames.bytes);
    return 0;
}

#ifdef FUZZ_REPLAY
int main(int argc, char **argv) {
    static uint8_t bytes[1 << 16];
    for (int i = 1; i < argc; i++) {
        FILE *file = fopen(argv[i], "rb");
        if (file == NULL) return 1;
        size_t size = fread(bytes, 1, sizeof bytes, file);
        fclose(file);
        for (size_t cut = 0; cut <= size; cut += 1 + size / 40) LLVMFuzzerTestOneInput(bytes, size - cut);
    }
    return 0;
}
#endif
