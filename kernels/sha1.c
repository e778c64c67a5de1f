/* See sha1.h. */

#include "sha1.h"

#include "machine.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define HAVE_SHA 1
#include <cpuid.h>
#define SHA __attribute__((target("sha,sse4.1")))
#else
#define HAVE_SHA 0
#endif

enum { BLOCK = 64, LENGTH_BYTES = 8 };

static inline uint32_t rotated(uint32_t word, int bits)
{
    return word << bits | word >> (32 - bits);
}

static void add_blocks_portable(uint32_t state[5], const uint8_t *data, size_t blocks)
{
    for (; blocks > 0; blocks--, data += BLOCK) {
        uint32_t words[80];
        for (int i = 0; i < 16; i++)
            words[i] = (uint32_t)data[4 * i] << 24 | (uint32_t)data[4 * i + 1] << 16 | (uint32_t)data[4 * i + 2] << 8 |
                       data[4 * i + 3];
        for (int i = 16; i < 80; i++)
            words[i] = rotated(words[i - 3] ^ words[i - 8] ^ words[i - 14] ^ words[i - 16], 1);
        uint32_t a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
        for (int i = 0; i < 80; i++) {
            uint32_t mixed;
            if (i < 20)
                mixed = ((b & c) | (~b & d)) + 0x5a827999;
            else if (i < 40)
                mixed = (b ^ c ^ d) + 0x6ed9eba1;
            else if (i < 60)
                mixed = ((b & c) | (b & d) | (c & d)) + 0x8f1bbcdc;
            else
                mixed = (b ^ c ^ d) + 0xca62c1d6;
            const uint32_t next = rotated(a, 5) + mixed + e + words[i];
            e = d;
            d = c;
            c = rotated(b, 30);
            b = a;
            a = next;
        }
        state[0] += a;
        state[1] += b;
        state[2] += c;
        state[3] += d;
        state[4] += e;
    }
}

#if HAVE_SHA
/* Four rounds of the `kind`-th of the four functions take e and four words of the message, of which i counts the fours;
   those from the fifth on are made of the four before. */
#define FOUR_ROUNDS(i, kind) \
    do { \
        __m128i *const word = &words[(i) % 4]; \
        if ((i) >= 4) \
            *word = _mm_sha1msg2_epu32( \
                _mm_xor_si128(_mm_sha1msg1_epu32(*word, words[((i) + 1) % 4]), words[((i) + 2) % 4]), \
                words[((i) + 3) % 4]); \
        const __m128i with_e = (i) == 0 ? _mm_add_epi32(e, *word) : _mm_sha1nexte_epu32(e, *word); \
        e = abcd; \
        abcd = _mm_sha1rnds4_epu32(abcd, with_e, kind); \
    } while (0)
#define TWENTY_ROUNDS(kind) \
    FOUR_ROUNDS(5 * (kind), kind); \
    FOUR_ROUNDS(5 * (kind) + 1, kind); \
    FOUR_ROUNDS(5 * (kind) + 2, kind); \
    FOUR_ROUNDS(5 * (kind) + 3, kind); \
    FOUR_ROUNDS(5 * (kind) + 4, kind)

SHA static void add_blocks_sha(uint32_t state[5], const uint8_t *data, size_t blocks)
{
    const __m128i big_endian = _mm_set_epi64x(0x0001020304050607, 0x08090a0b0c0d0e0f);
    __m128i abcd = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)state), 0x1b);
    __m128i e = _mm_set_epi32((int32_t)state[4], 0, 0, 0);
    for (; blocks > 0; blocks--, data += BLOCK) {
        const __m128i abcd_before = abcd, e_before = e;
        __m128i words[4];
        for (int i = 0; i < 4; i++)
            words[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(data + 16 * i)), big_endian);
        TWENTY_ROUNDS(0);
        TWENTY_ROUNDS(1);
        TWENTY_ROUNDS(2);
        TWENTY_ROUNDS(3);
        e = _mm_sha1nexte_epu32(e, e_before);
        abcd = _mm_add_epi32(abcd, abcd_before);
    }
    _mm_storeu_si128((__m128i *)state, _mm_shuffle_epi32(abcd, 0x1b));
    state[4] = (uint32_t)_mm_extract_epi32(e, 3);
}

static int has_sha;
#endif

void sha1_prepare(void)
{
#if HAVE_SHA
    unsigned a, b, c, d; /* asking takes as long as hashing some kilobytes where a hypervisor answers */
    has_sha = __builtin_cpu_supports("sse4.1") && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b >> 29 & 1);
#endif
}

static void add_blocks(uint32_t state[5], const uint8_t *data, size_t blocks, int fast)
{
#if HAVE_SHA
    if (fast && has_sha) {
        add_blocks_sha(state, data, blocks);
        return;
    }
#endif
    (void)fast;
    add_blocks_portable(state, data, blocks);
}

void sha1(const uint8_t *data, size_t size, int fast, uint8_t digest[SHA1_BYTES])
{
    uint32_t state[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    const size_t rest = size % BLOCK, padded = rest < BLOCK - LENGTH_BYTES ? BLOCK : 2 * BLOCK;
    uint8_t last[2 * BLOCK] = {0};
    add_blocks(state, data, size / BLOCK, fast);
    if (rest > 0)
        memcpy(last, data + size - rest, rest);
    last[rest] = 0x80;
    for (int i = 0; i < LENGTH_BYTES; i++)
        last[padded - 1 - (size_t)i] = (uint8_t)((uint64_t)size * 8 >> 8 * i);
    add_blocks(state, last, padded / BLOCK, fast);
    for (int i = 0; i < 5; i++)
        store_big_32(digest + 4 * i, state[i]);
}
