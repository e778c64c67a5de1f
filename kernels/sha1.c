/* See sha1.h. */

#include "sha1.h"

#include "machine.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define HAVE_SHA 1
#include <cpuid.h>
#define SHA __attribute__((target("sha,sse4.1")))
#define INLINE_SHA static inline __attribute__((target("sha,sse4.1"), always_inline))
#else
#define HAVE_SHA 0
#endif

enum { BLOCK = 64, LENGTH_BYTES = 8, STREAMS = 2 };

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
    for (int k = 0; k < streams; k++) { \
        __m128i *const word = &words[k][(i) % 4]; \
        if ((i) >= 4) \
            *word = _mm_sha1msg2_epu32( \
                _mm_xor_si128(_mm_sha1msg1_epu32(*word, words[k][((i) + 1) % 4]), words[k][((i) + 2) % 4]), \
                words[k][((i) + 3) % 4]); \
        const __m128i with_e = (i) == 0 ? _mm_add_epi32(e[k], *word) : _mm_sha1nexte_epu32(e[k], *word); \
        e[k] = abcd[k]; \
        abcd[k] = _mm_sha1rnds4_epu32(abcd[k], with_e, kind); \
    }
#define TWENTY_ROUNDS(kind) \
    FOUR_ROUNDS(5 * (kind), kind) \
    FOUR_ROUNDS(5 * (kind) + 1, kind) \
    FOUR_ROUNDS(5 * (kind) + 2, kind) \
    FOUR_ROUNDS(5 * (kind) + 3, kind) \
    FOUR_ROUNDS(5 * (kind) + 4, kind)

/* Rounds wait for the one before; those of a second stream fit in between. `streams` is a constant at every call. */
INLINE_SHA void add_blocks_of(int streams, uint32_t states[][5], const uint8_t *const *data, size_t blocks)
{
    const __m128i big_endian = _mm_set_epi64x(0x0001020304050607, 0x08090a0b0c0d0e0f);
    __m128i abcd[STREAMS], e[STREAMS];
    for (int k = 0; k < streams; k++) {
        abcd[k] = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)states[k]), 0x1b);
        e[k] = _mm_set_epi32((int32_t)states[k][4], 0, 0, 0);
    }
    for (size_t block = 0; block < blocks; block++) {
        __m128i abcd_before[STREAMS], e_before[STREAMS], words[STREAMS][4];
        for (int k = 0; k < streams; k++) {
            abcd_before[k] = abcd[k];
            e_before[k] = e[k];
            for (int i = 0; i < 4; i++)
                words[k][i] =
                    _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(data[k] + BLOCK * block) + i), big_endian);
        }
        TWENTY_ROUNDS(0)
        TWENTY_ROUNDS(1)
        TWENTY_ROUNDS(2)
        TWENTY_ROUNDS(3)
        for (int k = 0; k < streams; k++) {
            e[k] = _mm_sha1nexte_epu32(e[k], e_before[k]);
            abcd[k] = _mm_add_epi32(abcd[k], abcd_before[k]);
        }
    }
    for (int k = 0; k < streams; k++) {
        _mm_storeu_si128((__m128i *)states[k], _mm_shuffle_epi32(abcd[k], 0x1b));
        states[k][4] = (uint32_t)_mm_extract_epi32(e[k], 3);
    }
}

SHA static void add_blocks_sha(int streams, uint32_t states[][5], const uint8_t *const *data, size_t blocks)
{
    if (streams == 1)
        add_blocks_of(1, states, data, blocks);
    else
        add_blocks_of(STREAMS, states, data, blocks);
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

static void add_blocks(int streams, uint32_t states[][5], const uint8_t *const *data, size_t blocks, int fast)
{
#if HAVE_SHA
    if (fast && has_sha) {
        add_blocks_sha(streams, states, data, blocks);
        return;
    }
#endif
    (void)fast;
    for (int k = 0; k < streams; k++)
        add_blocks_portable(states[k], data[k], blocks);
}

/* Of one stream or STREAMS, each of `size` bytes. */
static void hash(int streams, const uint8_t *const *data, size_t size, int fast, uint8_t digests[][SHA1_BYTES])
{
    const size_t rest = size % BLOCK, padded = rest < BLOCK - LENGTH_BYTES ? BLOCK : 2 * BLOCK;
    uint32_t states[STREAMS][5];
    uint8_t last[STREAMS][2 * BLOCK] = {{0}};
    const uint8_t *const lasts[STREAMS] = {last[0], last[1]};
    for (int k = 0; k < streams; k++) {
        memcpy(states[k], (const uint32_t[5]){0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0},
               sizeof states[k]);
        if (rest > 0)
            memcpy(last[k], data[k] + size - rest, rest);
        last[k][rest] = 0x80;
        for (int i = 0; i < LENGTH_BYTES; i++)
            last[k][padded - 1 - (size_t)i] = (uint8_t)((uint64_t)size * 8 >> 8 * i);
    }
    add_blocks(streams, states, data, size / BLOCK, fast);
    add_blocks(streams, states, lasts, padded / BLOCK, fast);
    for (int k = 0; k < streams; k++)
        for (int i = 0; i < 5; i++)
            store_big_32(digests[k] + 4 * i, states[k][i]);
}

void sha1(const uint8_t *data, size_t size, int fast, uint8_t digest[SHA1_BYTES])
{
    hash(1, &data, size, fast, (uint8_t (*)[SHA1_BYTES])digest);
}

void sha1_pair(const uint8_t *const data[2], size_t size, int fast, uint8_t digests[2][SHA1_BYTES])
{
    hash(STREAMS, data, size, fast, digests);
}
