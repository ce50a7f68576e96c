/* See crc32.h. */
#include "export/crc32.h"

/* A CRC is linear: the entry of i is the sum of the entries of i's bits, so eight constants make the table. */
#define BIT(i, bit, entry) (((i)&1u << (bit)) != 0 ? entry : 0u)
#define ENTRY(i)                                                                                         \
    (BIT(i, 0, 0x77073096u) ^ BIT(i, 1, 0xee0e612cu) ^ BIT(i, 2, 0x076dc419u) ^ BIT(i, 3, 0x0edb8832u) ^ \
     BIT(i, 4, 0x1db71064u) ^ BIT(i, 5, 0x3b6e20c8u) ^ BIT(i, 6, 0x76dc4190u) ^ BIT(i, 7, 0xedb88320u))
#define ENTRIES_4(i) ENTRY(i), ENTRY((i) + 1u), ENTRY((i) + 2u), ENTRY((i) + 3u)
#define ENTRIES_16(i) ENTRIES_4(i), ENTRIES_4((i) + 4u), ENTRIES_4((i) + 8u), ENTRIES_4((i) + 12u)
#define ENTRIES_64(i) ENTRIES_16(i), ENTRIES_16((i) + 16u), ENTRIES_16((i) + 32u), ENTRIES_16((i) + 48u)

static const uint32_t table[256] = {ENTRIES_64(0u), ENTRIES_64(64u), ENTRIES_64(128u), ENTRIES_64(192u)};

uint32_t ms_crc32(uint32_t crc, const void *bytes, size_t n) {
    const unsigned char *from = bytes;
    crc = ~crc;
    for (size_t i = 0; i < n; i++) crc = table[(crc ^ from[i]) & 0xff] ^ crc >> 8;
    return ~crc;
}
