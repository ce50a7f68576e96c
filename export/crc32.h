/* CRC-32 as zlib, PNG and gzip compute it (polynomial 0xedb88320 reflected, initial and final inversion). */
#ifndef MS_EXPORT_CRC32_H
#define MS_EXPORT_CRC32_H

#include <stddef.h>
#include <stdint.h>

/* The CRC of what `crc` covers followed by n more bytes; 0 is the CRC of nothing. */
uint32_t ms_crc32(uint32_t crc, const void *bytes, size_t n);

#endif
