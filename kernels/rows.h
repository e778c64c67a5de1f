/* A row of a PNG from two rows of a crop: what is left of each byte after a guess from the pixels to the left and
   above. Of the filters UP, AVERAGE and PAETH a row gets the one that leaves the smallest differences. */

#ifndef ROWS_H
#define ROWS_H

#include "machine.h"
#include "paeth.h"

enum { PIXEL = 3, UP = 2, FILTERS = 3 /* UP and the two after it, AVERAGE and PAETH */ };

/* The sum of the bytes' magnitudes, taken as signed. */
INLINE uint64_t cost_of(const uint8_t *row, size_t n)
{
    uint64_t cost = 0;
    while (n > 0) {
        const size_t part = n < 1 << 16 ? n : 1 << 16; /* a sum of 32 bits is enough for it */
        uint32_t sum = 0;
        for (size_t i = 0; i < part; i++)
            sum += (uint8_t)(row[i] < 128 ? row[i] : -row[i]);
        cost += sum;
        row += part;
        n -= part;
    }
    return cost;
}

/* The bytes from `first` on of row, filtered in each way. row and above: n bytes, each after PIXEL zeros. */
INLINE void filter_from(size_t first, const uint8_t *restrict row, const uint8_t *restrict above, size_t n,
                        uint8_t *restrict up, uint8_t *restrict average, uint8_t *restrict nearest)
{
    for (size_t i = first; i < n; i++)
        up[i] = (uint8_t)(row[i] - above[i]);
    for (size_t i = first; i < n; i++)
        average[i] = (uint8_t)(row[i] - ((row[i - PIXEL] + above[i]) >> 1));
    for (size_t i = first; i < n; i++)
        nearest[i] = (uint8_t)(row[i] - paeth(row[i - PIXEL], above[i], above[i - PIXEL]));
}

static void filter_portable(const uint8_t *row, const uint8_t *above, size_t n, uint8_t *const rows[FILTERS],
                            uint64_t costs[FILTERS])
{
    filter_from(0, row, above, n, rows[0], rows[1], rows[2]);
    for (int filter = 0; filter < FILTERS; filter++)
        costs[filter] = cost_of(rows[filter], n);
}

static void swap_portable(const uint8_t *bgr, size_t first, size_t n, uint8_t *rgb)
{
    for (size_t i = first; i < n; i += PIXEL) {
        rgb[i] = bgr[i + 2];
        rgb[i + 1] = bgr[i + 1];
        rgb[i + 2] = bgr[i];
    }
}

#if HAVE_AVX2
/* Five pixels at a time, as long as 16 bytes can be read and written. */
AVX2 static void swap_avx2(const uint8_t *bgr, size_t n, uint8_t *rgb)
{
    const __m128i order = _mm_setr_epi8(2, 1, 0, 5, 4, 3, 8, 7, 6, 11, 10, 9, 14, 13, 12, 15);
    size_t i = 0;
    for (; i + 16 <= n; i += 5 * PIXEL)
        _mm_storeu_si128((__m128i *)(rgb + i), _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(bgr + i)), order));
    swap_portable(bgr, i, n, rgb);
}

INLINE_AVX2 __m256i load_32(const uint8_t *bytes)
{
    return _mm256_loadu_si256((const __m256i *)bytes);
}

INLINE_AVX2 __m256i distance(__m256i a, __m256i b)
{
    return _mm256_or_si256(_mm256_subs_epu8(a, b), _mm256_subs_epu8(b, a));
}

/* The corner is nearest only if it lies between left and above, and is then |to_left - to_above| away. */
INLINE_AVX2 __m256i paeth_32(__m256i left, __m256i above, __m256i corner)
{
    const __m256i to_left = distance(above, corner), to_above = distance(left, corner);
    const __m256i nearer = _mm256_min_epu8(to_left, to_above), is_left = _mm256_cmpeq_epi8(nearer, to_left);
    const __m256i low = _mm256_min_epu8(left, above), high = _mm256_max_epu8(left, above);
    const __m256i is_between = _mm256_cmpeq_epi8(_mm256_max_epu8(low, _mm256_min_epu8(corner, high)), corner);
    const __m256i gain = _mm256_and_si256(_mm256_subs_epu8(nearer, distance(to_left, to_above)), is_between);
    const __m256i is_not_corner = _mm256_cmpeq_epi8(gain, _mm256_setzero_si256());
    return _mm256_blendv_epi8(corner, _mm256_blendv_epi8(above, left, is_left), is_not_corner);
}

/* Writes 32 differences and returns the sums of their magnitudes. */
INLINE_AVX2 __m256i put_32(uint8_t *out, __m256i row, __m256i guess)
{
    const __m256i difference = _mm256_sub_epi8(row, guess);
    _mm256_storeu_si256((__m256i *)out, difference);
    return _mm256_sad_epu8(_mm256_abs_epi8(difference), _mm256_setzero_si256());
}

INLINE_AVX2 uint64_t total(__m256i sums)
{
    uint64_t parts[4];
    _mm256_storeu_si256((__m256i *)parts, sums);
    return parts[0] + parts[1] + parts[2] + parts[3];
}

AVX2 static void filter_avx2(const uint8_t *row, const uint8_t *above, size_t n, uint8_t *const rows[FILTERS],
                             uint64_t costs[FILTERS])
{
    const __m256i one = _mm256_set1_epi8(1);
    __m256i sums[FILTERS] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        const __m256i x = load_32(row + i), left = load_32(row + i - PIXEL);
        const __m256i up = load_32(above + i), corner = load_32(above + i - PIXEL);
        const __m256i odd = _mm256_and_si256(_mm256_xor_si256(left, up), one); /* avg rounds up */
        sums[0] = _mm256_add_epi64(sums[0], put_32(rows[0] + i, x, up));
        sums[1] = _mm256_add_epi64(sums[1], put_32(rows[1] + i, x, _mm256_sub_epi8(_mm256_avg_epu8(left, up), odd)));
        sums[2] = _mm256_add_epi64(sums[2], put_32(rows[2] + i, x, paeth_32(left, up, corner)));
    }
    filter_from(i, row, above, n, rows[0], rows[1], rows[2]);
    for (int filter = 0; filter < FILTERS; filter++)
        costs[filter] = total(sums[filter]) + cost_of(rows[filter] + i, n - i);
}
#endif

#endif
