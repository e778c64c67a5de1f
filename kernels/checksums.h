/* Adler-32 and CRC-32, with AVX2 or in portable C. */

#ifndef CHECKSUMS_H
#define CHECKSUMS_H

#include "machine.h"

enum {
    ADLER_MODULUS = 65521,
    ADLER_STEP = 32,
    ADLER_BYTES = 5536 /* that can be summed before 32 bits overflow, in whole steps */
};

/* The plain definition, for ADLER_BYTES at most. */
INLINE uint32_t adler_of_bytes(uint32_t adler, const uint8_t *data, size_t size)
{
    uint32_t low = adler & 0xffff, high = adler >> 16;
    for (size_t i = 0; i < size; i++) {
        low += data[i];
        high += low;
    }
    return high % ADLER_MODULUS << 16 | low % ADLER_MODULUS;
}

/* In steps whose sums the compiler can take at once: high grows by low before the step for each byte of it, and by a
   byte for itself and each that follows. */
static uint32_t adler_portable(uint32_t adler, const uint8_t *data, size_t size)
{
    while (size >= ADLER_STEP) {
        const size_t part = size < ADLER_BYTES ? size - size % ADLER_STEP : ADLER_BYTES;
        uint32_t low = adler & 0xffff, high = adler >> 16;
        for (const uint8_t *const end = data + part; data < end; data += ADLER_STEP) {
            uint32_t sum = 0, weighted = 0;
            for (uint32_t i = 0; i < ADLER_STEP; i++) {
                sum += data[i];
                weighted += (ADLER_STEP - i) * data[i];
            }
            high += ADLER_STEP * low + weighted;
            low += sum;
        }
        adler = high % ADLER_MODULUS << 16 | low % ADLER_MODULUS;
        size -= part;
    }
    return adler_of_bytes(adler, data, size);
}

static uint32_t crc_table[8][256]; /* [k][b]: the remainder of byte b followed by k zero bytes */

static inline void prepare_crc(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
        crc_table[0][byte] = crc;
    }
    for (int zeros = 1; zeros < 8; zeros++)
        for (int byte = 0; byte < 256; byte++) {
            const uint32_t crc = crc_table[zeros - 1][byte];
            crc_table[zeros][byte] = crc >> 8 ^ crc_table[0][crc & 0xff];
        }
}

/* crc is the shift register, not inverted. */
static uint32_t crc_portable(uint32_t crc, const uint8_t *data, size_t size)
{
    for (; size >= 8; data += 8, size -= 8) {
        const uint64_t eight = load_64(data) ^ crc;
        crc = 0;
        for (int byte = 0; byte < 8; byte++)
            crc ^= crc_table[7 - byte][eight >> 8 * byte & 0xff];
    }
    for (size_t i = 0; i < size; i++)
        crc = crc >> 8 ^ crc_table[0][(crc ^ data[i]) & 0xff];
    return crc;
}

#if HAVE_AVX2
AVX2 static uint32_t adler_avx2(uint32_t adler, const uint8_t *data, size_t size)
{
    const __m256i weights = _mm256_setr_epi8(32, 31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16, 15, 14,
                                             13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1);
    const __m256i ones = _mm256_set1_epi16(1), zero = _mm256_setzero_si256();
    while (size >= ADLER_STEP) {
        const size_t part = size < ADLER_BYTES ? size - size % ADLER_STEP : ADLER_BYTES;
        __m256i sums = zero, sums_before = zero, weighted = zero;
        for (const uint8_t *const end = data + part; data < end; data += ADLER_STEP) {
            const __m256i bytes = _mm256_loadu_si256((const __m256i *)data);
            sums_before = _mm256_add_epi32(sums_before, sums);
            sums = _mm256_add_epi32(sums, _mm256_sad_epu8(bytes, zero));
            weighted = _mm256_add_epi32(weighted, _mm256_madd_epi16(_mm256_maddubs_epi16(bytes, weights), ones));
        }
        weighted = _mm256_add_epi32(weighted, _mm256_slli_epi32(sums_before, 5)); /* times ADLER_STEP */
        uint32_t low_sums[8], high_sums[8], low = adler & 0xffff, high = (adler >> 16) + low * (uint32_t)part;
        _mm256_storeu_si256((__m256i *)low_sums, sums);
        _mm256_storeu_si256((__m256i *)high_sums, weighted);
        for (int i = 0; i < 8; i++) {
            low += low_sums[i];
            high += high_sums[i];
        }
        adler = high % ADLER_MODULUS << 16 | low % ADLER_MODULUS;
        size -= part;
    }
    return adler_of_bytes(adler, data, size);
}

INLINE_AVX2 __m128i fold(__m128i sum, __m128i factors, const uint8_t *data)
{
    const __m128i folded =
        _mm_xor_si128(_mm_clmulepi64_si128(sum, factors, 0x00), _mm_clmulepi64_si128(sum, factors, 0x11));
    return _mm_xor_si128(folded, _mm_loadu_si128((const __m128i *)data));
}

/* 16 bytes at a time are multiplied past those that follow them, until 16 bytes with the same remainder are left. */
AVX2 static uint32_t crc_avx2(uint32_t crc, const uint8_t *data, size_t size)
{
    /* x to the power of 4 * 128 +- 32 and 128 +- 32, modulo the polynomial, bits in CRC's reversed order */
    const __m128i past_64 = _mm_set_epi64x(0x1c6e41596, 0x154442bd4);
    const __m128i past_16 = _mm_set_epi64x(0x0ccaa009e, 0x1751997d0);
    if (size < 64)
        return crc_portable(crc, data, size);
    __m128i sums[4];
    for (int i = 0; i < 4; i++)
        sums[i] = _mm_loadu_si128((const __m128i *)(data + 16 * i));
    sums[0] = _mm_xor_si128(sums[0], _mm_cvtsi32_si128((int32_t)crc));
    for (data += 64, size -= 64; size >= 64; data += 64, size -= 64)
        for (int i = 0; i < 4; i++)
            sums[i] = fold(sums[i], past_64, data + 16 * i);
    uint8_t last[64];
    for (int i = 0; i < 4; i++)
        _mm_storeu_si128((__m128i *)(last + 16 * i), sums[i]);
    __m128i sum = sums[0];
    for (int i = 1; i < 4; i++)
        sum = fold(sum, past_16, last + 16 * i);
    for (; size >= 16; data += 16, size -= 16)
        sum = fold(sum, past_16, data);
    _mm_storeu_si128((__m128i *)last, sum);
    return crc_portable(crc_portable(0, last, 16), data, size);
}
#endif

static inline uint32_t adler32(uint32_t adler, const uint8_t *data, size_t size, int level)
{
#if HAVE_AVX2
    if (level >= LEVEL_AVX2)
        return adler_avx2(adler, data, size);
#endif
    (void)level;
    return adler_portable(adler, data, size);
}

static inline uint32_t crc32(const uint8_t *data, size_t size, int level)
{
#if HAVE_AVX2
    if (level >= LEVEL_AVX2)
        return ~crc_avx2(0xffffffff, data, size);
#endif
    (void)level;
    return ~crc_portable(0xffffffff, data, size);
}

#endif
