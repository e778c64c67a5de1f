/* From the coefficients of JPEG's blocks to BGR, in the integers of libjpeg's accurate transform, its triangle filter
   for chroma and its conversion of colours. */

#ifndef JPEG_SAMPLES_H
#define JPEG_SAMPLES_H

#include "machine.h"

enum {
    SIDE = 8,
    CENTRE = 128,
    FRACTION = 13, /* bits of the cosines */
    KEPT = 2,      /* bits of fraction between the columns and the rows */
    MOST_IN_COLUMN =
        2900, /* no picture's column of coefficients sums up to more, and 16 bits hold all that comes of it */
    MOST_OFF_CENTRE = 512, /* beyond, libjpeg's table of limits starts again where its SIMD saturates */
};

/* Rows of the transform's odd half: what coefficients 1, 3, 5 and 7 add to samples 0 to 3 and take from 7 to 4. */
#define ODD_0 11363, 9633, 6437, 2260
#define ODD_1 9633, -2259, -11362, -6436
#define ODD_2 6437, -11362, 2261, 9633
#define ODD_3 2260, -6436, 9633, -11363
/* And of coefficients 2 and 6 in its even half. */
#define EVEN_0 10703, 4433
#define EVEN_1 4433, -10704

INLINE uint8_t limited(int value)
{
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

/* Eight values, `step` apart, to eight others, which may stand in their places. */
INLINE void transform_line(const int32_t *in, int step, int shift, int32_t *out)
{
    static const int32_t odds[4][4] = {{ODD_0}, {ODD_1}, {ODD_2}, {ODD_3}}, evens[2][2] = {{EVEN_0}, {EVEN_1}};
    const int32_t sum = (in[0] + in[4 * step]) * (1 << FRACTION), difference = (in[0] - in[4 * step]) * (1 << FRACTION);
    const int32_t odds_in[4] = {in[step], in[3 * step], in[5 * step], in[7 * step]};
    int32_t even[4];
    for (int i = 0; i < 2; i++) {
        const int32_t turned = in[2 * step] * evens[i][0] + in[6 * step] * evens[i][1],
                      base = i == 0 ? sum : difference;
        even[i] = base + turned;
        even[3 - i] = base - turned;
    }
    for (int i = 0; i < 4; i++) {
        int32_t odd = 0;
        for (int k = 0; k < 4; k++)
            odd += odds_in[k] * odds[i][k];
        const int32_t middle = even[i] + (1 << (shift - 1));
        out[i * step] = (middle + odd) >> shift;
        out[(7 - i) * step] = (middle - odd) >> shift;
    }
}

/* A block of coefficients to samples; zeros are left of it. 0 where they are out of the range in which all versions of
 * libjpeg agree. */
static int transform_portable(int16_t *block, uint8_t *out, ptrdiff_t stride)
{
    int32_t values[SIDE * SIDE];
    for (int x = 0; x < SIDE; x++) {
        int32_t sum = 0;
        for (int y = 0; y < SIDE; y++) {
            values[SIDE * y + x] = block[SIDE * y + x];
            sum += block[SIDE * y + x] < 0 ? -block[SIDE * y + x] : block[SIDE * y + x];
        }
        if (sum > MOST_IN_COLUMN)
            return 0;
        transform_line(values + x, SIDE, FRACTION - KEPT, values + x);
    }
    memset(block, 0, SIDE * SIDE * sizeof *block);
    for (int y = 0; y < SIDE; y++, out += stride) {
        transform_line(values + SIDE * y, 1, FRACTION + KEPT + 3, values + SIDE * y);
        for (int x = 0; x < SIDE; x++) {
            const int32_t value = values[SIDE * y + x];
            if (value < -MOST_OFF_CENTRE || value >= MOST_OFF_CENTRE)
                return 0;
            out[x] = limited(value + CENTRE);
        }
    }
    return 1;
}

/* The same where all but the first coefficient are 0. */
INLINE int transform_flat(int first, uint8_t *out, ptrdiff_t stride)
{
    const int value = (first + 4) >> 3;
    if (first > MOST_IN_COLUMN || first < -MOST_IN_COLUMN || value < -MOST_OFF_CENTRE || value >= MOST_OFF_CENTRE)
        return 0;
    for (int y = 0; y < SIDE; y++)
        memset(out + y * stride, limited(value + CENTRE), SIDE);
    return 1;
}

/* What one row of pixels needs of the samples of a chroma: `near` its own row, `far` the one above or below. */
typedef struct {
    const uint8_t *near, *far;
} ChromaRows;

/* n samples of twice the height: a row of pixels lies a quarter of a sample from its own row. */
INLINE void blend_rows(const ChromaRows *rows, ptrdiff_t n, int rounding, uint8_t *out)
{
    for (ptrdiff_t i = 0; i < n; i++)
        out[i] = (uint8_t)((3 * rows->near[i] + rows->far[i] + rounding) >> 2);
}

/* sums[-1 .. n], n samples times their weight, to 2 n pixels. */
INLINE void blend_columns(const uint16_t *sums, ptrdiff_t n, int left_rounding, int right_rounding, int shift,
                          uint8_t *out)
{
    for (ptrdiff_t i = 0; i < n; i++) {
        out[2 * i] = (uint8_t)((3 * sums[i] + sums[i - 1] + left_rounding) >> shift);
        out[2 * i + 1] = (uint8_t)((3 * sums[i] + sums[i + 1] + right_rounding) >> shift);
    }
}

INLINE void sum_rows(const ChromaRows *rows, ptrdiff_t n, int has_far, uint16_t *sums)
{
    for (ptrdiff_t i = 0; i < n; i++)
        sums[i] = (uint16_t)(has_far ? 3 * rows->near[i] + rows->far[i] : rows->near[i]);
}

INLINE void double_columns(const uint8_t *row, ptrdiff_t n, uint8_t *out)
{
    for (ptrdiff_t i = 0; i < n; i++)
        out[2 * i] = out[2 * i + 1] = row[i];
}

/* Colours in 16 bits of fraction; 1.402 is 1 + RED, 1.772 is 2 - BLUE, 0.71414 is 1 - GREEN_RED. */
enum { RED = 26345, BLUE = 14942, GREEN_BLUE = 22554, GREEN_RED = 18734, HALF = 1 << 15 };

INLINE void colour_row(const uint8_t *y, const uint8_t *blue, const uint8_t *red, ptrdiff_t from, ptrdiff_t n,
                       uint8_t *bgr)
{
    for (ptrdiff_t i = from; i < n; i++) {
        const int cb = blue[i] - CENTRE, cr = red[i] - CENTRE;
        bgr[3 * i] = limited(y[i] + 2 * cb + ((HALF - BLUE * cb) >> 16));
        bgr[3 * i + 1] = limited(y[i] - cr + ((HALF - GREEN_BLUE * cb + GREEN_RED * cr) >> 16));
        bgr[3 * i + 2] = limited(y[i] + cr + ((HALF + RED * cr) >> 16));
    }
}

INLINE void grey_row(const uint8_t *y, ptrdiff_t n, uint8_t *bgr)
{
    for (ptrdiff_t i = 0; i < n; i++)
        bgr[3 * i] = bgr[3 * i + 1] = bgr[3 * i + 2] = y[i];
}

#if HAVE_AVX2
INLINE_AVX2 __m256i pair_of(int16_t even, int16_t odd)
{
    return _mm256_set1_epi32((int32_t)((uint32_t)(uint16_t)odd << 16 | (uint16_t)even));
}

INLINE_AVX2 __m256i interleaved(__m128i even, __m128i odd)
{
    return _mm256_set_m128i(_mm_unpackhi_epi16(even, odd), _mm_unpacklo_epi16(even, odd));
}

INLINE_AVX2 __m256i odd_half(__m256i from_1_3, __m256i from_5_7, int c1, int c3, int c5, int c7)
{
    return _mm256_add_epi32(_mm256_madd_epi16(from_1_3, pair_of((int16_t)c1, (int16_t)c3)),
                            _mm256_madd_epi16(from_5_7, pair_of((int16_t)c5, (int16_t)c7)));
}

/* Two rows of eight, from sums of 32 bits. */
INLINE_AVX2 __m256i narrowed(__m256i one, __m256i other, int shift)
{
    return _mm256_permute4x64_epi64(_mm256_packs_epi32(_mm256_srai_epi32(one, shift), _mm256_srai_epi32(other, shift)),
                                    0xD8);
}

/* Eight columns at once; out has rows 0 and 7, 1 and 6, 2 and 5, 3 and 4. */
INLINE_AVX2 void transform_columns(const __m128i *in, int shift, __m256i *out)
{
    const __m256i from_0_4 = interleaved(in[0], in[4]), from_2_6 = interleaved(in[2], in[6]);
    const __m256i from_1_3 = interleaved(in[1], in[3]), from_5_7 = interleaved(in[5], in[7]);
    const __m256i half = _mm256_set1_epi32(1 << (shift - 1));
    const int16_t one = 1 << FRACTION;
    const __m256i sum = _mm256_add_epi32(_mm256_madd_epi16(from_0_4, pair_of(one, one)), half);
    const __m256i difference = _mm256_add_epi32(_mm256_madd_epi16(from_0_4, pair_of(one, -one)), half);
    const __m256i turned_0 = _mm256_madd_epi16(from_2_6, pair_of(EVEN_0));
    const __m256i turned_1 = _mm256_madd_epi16(from_2_6, pair_of(EVEN_1));
    const __m256i even[4] = {_mm256_add_epi32(sum, turned_0), _mm256_add_epi32(difference, turned_1),
                             _mm256_sub_epi32(difference, turned_1), _mm256_sub_epi32(sum, turned_0)};
    const __m256i odd[4] = {odd_half(from_1_3, from_5_7, ODD_0), odd_half(from_1_3, from_5_7, ODD_1),
                            odd_half(from_1_3, from_5_7, ODD_2), odd_half(from_1_3, from_5_7, ODD_3)};
    for (int i = 0; i < 4; i++)
        out[i] = narrowed(_mm256_add_epi32(even[i], odd[i]), _mm256_sub_epi32(even[i], odd[i]), shift);
}

/* Rows 0 and 7, 1 and 6 … to columns 0 to 7. */
INLINE_AVX2 void transpose(const __m256i *pairs, __m128i *out)
{
    __m128i row[SIDE], four[SIDE];
    for (int i = 0; i < 4; i++) {
        row[i] = _mm256_castsi256_si128(pairs[i]);
        row[7 - i] = _mm256_extracti128_si256(pairs[i], 1);
    }
    for (int i = 0; i < 4; i++) {
        four[2 * i] = _mm_unpacklo_epi16(row[i], row[i + 4]);
        four[2 * i + 1] = _mm_unpackhi_epi16(row[i], row[i + 4]);
    }
    __m128i two[SIDE];
    for (int i = 0; i < 4; i++) {
        two[2 * i] = _mm_unpacklo_epi16(four[i], four[i + 4]);
        two[2 * i + 1] = _mm_unpackhi_epi16(four[i], four[i + 4]);
    }
    for (int i = 0; i < 4; i++) {
        out[2 * i] = _mm_unpacklo_epi16(two[i], two[i + 4]);
        out[2 * i + 1] = _mm_unpackhi_epi16(two[i], two[i + 4]);
    }
}

INLINE_AVX2 void store_rows(const __m256i *columns, uint8_t *out, ptrdiff_t stride)
{
    /* 0 and 7, 1 and 6 … in bytes, of which a row holds what stands at one place. */
    const __m256i bytes_0167 = _mm256_packs_epi16(columns[0], columns[1]);
    const __m256i bytes_2345 = _mm256_packs_epi16(columns[2], columns[3]);
    const __m128i c01 = _mm256_castsi256_si128(bytes_0167), c76 = _mm256_extracti128_si256(bytes_0167, 1);
    const __m128i c23 = _mm256_castsi256_si128(bytes_2345), c54 = _mm256_extracti128_si256(bytes_2345, 1);
    const __m128i c04 = _mm_unpacklo_epi8(c01, _mm_srli_si128(c54, 8)),
                  c15 = _mm_unpacklo_epi8(_mm_srli_si128(c01, 8), c54);
    const __m128i c26 = _mm_unpacklo_epi8(c23, _mm_srli_si128(c76, 8)),
                  c37 = _mm_unpacklo_epi8(_mm_srli_si128(c23, 8), c76);
    const __m128i even_top = _mm_unpacklo_epi8(c04, c26), even_bottom = _mm_unpackhi_epi8(c04, c26);
    const __m128i odd_top = _mm_unpacklo_epi8(c15, c37), odd_bottom = _mm_unpackhi_epi8(c15, c37);
    const __m128i rows[4] = {_mm_unpacklo_epi8(even_top, odd_top), _mm_unpackhi_epi8(even_top, odd_top),
                             _mm_unpacklo_epi8(even_bottom, odd_bottom), _mm_unpackhi_epi8(even_bottom, odd_bottom)};
    const __m128i centre = _mm_set1_epi8((char)CENTRE);
    for (int i = 0; i < 4; i++) {
        const __m128i two = _mm_xor_si128(rows[i], centre);
        _mm_storel_epi64((__m128i *)(out + 2 * i * stride), two);
        _mm_storeh_pd((double *)(void *)(out + (2 * i + 1) * stride), _mm_castsi128_pd(two));
    }
}

AVX2 static int transform_avx2(int16_t *block, uint8_t *out, ptrdiff_t stride)
{
    __m128i rows[SIDE], sums = _mm_setzero_si128();
    for (int i = 0; i < SIDE; i++) {
        rows[i] = _mm_loadu_si128((const __m128i *)(block + SIDE * i));
        _mm_storeu_si128((__m128i *)(block + SIDE * i), _mm_setzero_si128());
        sums = _mm_add_epi16(sums, _mm_abs_epi16(rows[i]));
    }
    sums = _mm_subs_epu16(sums, _mm_set1_epi16(MOST_IN_COLUMN));
    if (!_mm_testz_si128(sums, sums))
        return 0;
    __m256i pairs[4];
    transform_columns(rows, FRACTION - KEPT, pairs);
    transpose(pairs, rows);
    transform_columns(rows, FRACTION + KEPT + 3, pairs);
    __m256i over = _mm256_setzero_si256();
    for (int i = 0; i < 4; i++)
        over = _mm256_or_si256(over, _mm256_add_epi16(pairs[i], _mm256_set1_epi16(MOST_OFF_CENTRE)));
    if (!_mm256_testz_si256(over, _mm256_set1_epi16((int16_t)~(2 * MOST_OFF_CENTRE - 1))))
        return 0;
    store_rows(pairs, out, stride);
    return 1;
}

/* Of 16 pixels: weight times a + other weight times b, rounded, in 16 bits of fraction. */
INLINE_AVX2 __m256i weighted(__m256i a, __m256i b, __m256i weights, __m256i half)
{
    const __m256i low = _mm256_madd_epi16(_mm256_unpacklo_epi16(a, b), weights);
    const __m256i high = _mm256_madd_epi16(_mm256_unpackhi_epi16(a, b), weights);
    return _mm256_packs_epi32(_mm256_srai_epi32(_mm256_add_epi32(low, half), 16),
                              _mm256_srai_epi32(_mm256_add_epi32(high, half), 16));
}

INLINE_AVX2 __m128i limited_16(__m256i values)
{
    const __m256i bytes = _mm256_permute4x64_epi64(_mm256_packus_epi16(values, values), 0xD8);
    return _mm256_castsi256_si128(bytes);
}

INLINE_AVX2 void colour_row_avx2(const uint8_t *y, const uint8_t *blue, const uint8_t *red, ptrdiff_t n, uint8_t *bgr)
{
    const __m256i centre = _mm256_set1_epi16(CENTRE), half = _mm256_set1_epi32(HALF);
    const __m128i b_of[3] = {_mm_setr_epi8(0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1, -1, 5),
                             _mm_setr_epi8(-1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1, 10, -1),
                             _mm_setr_epi8(-1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15, -1, -1)};
    const __m128i g_of[3] = {_mm_setr_epi8(-1, 0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1, -1),
                             _mm_setr_epi8(5, -1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1, 10),
                             _mm_setr_epi8(-1, -1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15, -1)};
    const __m128i r_of[3] = {_mm_setr_epi8(-1, -1, 0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1),
                             _mm_setr_epi8(-1, 5, -1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1),
                             _mm_setr_epi8(10, -1, -1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15)};
    ptrdiff_t i = 0;
    for (; i + 16 <= n; i += 16) {
        const __m256i luma = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(y + i)));
        const __m256i cb = _mm256_sub_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(blue + i))), centre);
        const __m256i cr = _mm256_sub_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(red + i))), centre);
        const __m256i from_blue = weighted(cb, cr, pair_of(-BLUE, 0), half);
        const __m256i from_both = weighted(cb, cr, pair_of(-GREEN_BLUE, GREEN_RED), half);
        const __m256i from_red = weighted(cb, cr, pair_of(0, RED), half);
        const __m128i b = limited_16(_mm256_add_epi16(luma, _mm256_add_epi16(_mm256_add_epi16(cb, cb), from_blue)));
        const __m128i g = limited_16(_mm256_add_epi16(luma, _mm256_sub_epi16(from_both, cr)));
        const __m128i r = limited_16(_mm256_add_epi16(luma, _mm256_add_epi16(cr, from_red)));
        for (int k = 0; k < 3; k++)
            _mm_storeu_si128((__m128i *)(bgr + 3 * i + 16 * k),
                             _mm_or_si128(_mm_shuffle_epi8(b, b_of[k]),
                                          _mm_or_si128(_mm_shuffle_epi8(g, g_of[k]), _mm_shuffle_epi8(r, r_of[k]))));
    }
    colour_row(y, blue, red, i, n, bgr);
}
#endif

#endif
