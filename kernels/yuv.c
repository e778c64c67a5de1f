/* See yuv.h. */

#include "yuv.h"

#include "machine.h"

enum { PIXEL = 3, CHROMA_ZERO = 128 << 3 };

/* The upper half of a product, as pmulhw gives it. */
static inline int high(int a, int b)
{
    return (a * b) >> 16;
}

static inline uint8_t to_uint8(int value)
{
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

/* Pixels first .. width - 1 of one row. Sums stay far from the ends of int16, where SIMD would saturate them. */
static void convert_row(const uint8_t *y, const uint8_t *u, const uint8_t *v, ptrdiff_t first, ptrdiff_t width,
                        const Coefficients *c, uint8_t *bgr)
{
    for (ptrdiff_t x = first; x < width; x++) {
        const int luma = high((y[x] << 3) - c->luma_zero, c->luma);
        const int from_u = (u[x / 2] << 3) - CHROMA_ZERO, from_v = (v[x / 2] << 3) - CHROMA_ZERO;
        bgr[PIXEL * x] = to_uint8(luma + high(from_u, c->blue_u));
        bgr[PIXEL * x + 1] = to_uint8(luma + high(from_u, c->green_u) + high(from_v, c->green_v));
        bgr[PIXEL * x + 2] = to_uint8(luma + high(from_v, c->red_v));
    }
}

static void convert_portable(const Conversion *job, const Coefficients *c)
{
    for (ptrdiff_t row = 0; row < job->height; row++)
        convert_row(job->y.start + row * job->y.stride, job->u.start + row / 2 * job->u.stride,
                    job->v.start + row / 2 * job->v.stride, 0, job->width, c, job->bgr + PIXEL * row * job->width);
}

#if HAVE_AVX2
enum {
    BLOCK = 32, /* pixels of a row that are converted at once */
    CACHE_LINE = 64,
    ROWS_AHEAD = 8,
};

typedef struct {
    __m256i blue, green, red; /* what chroma adds, int16, one for each two pixels */
} Chroma;

INLINE_AVX2 __m256i chroma_words(const uint8_t *samples)
{
    const __m256i words = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)samples));
    return _mm256_sub_epi16(_mm256_slli_epi16(words, 3), _mm256_set1_epi16(CHROMA_ZERO));
}

INLINE_AVX2 __m256i times(__m256i words, int16_t coefficient)
{
    return _mm256_mulhi_epi16(words, _mm256_set1_epi16(coefficient));
}

INLINE_AVX2 Chroma chroma_of(const uint8_t *u, const uint8_t *v, const Coefficients *c)
{
    const __m256i from_u = chroma_words(u), from_v = chroma_words(v);
    return (Chroma){times(from_u, c->blue_u), _mm256_add_epi16(times(from_u, c->green_u), times(from_v, c->green_v)),
                    times(from_v, c->red_v)};
}

/* One channel of 32 pixels, saturated: in each half 8 even pixels, then the 8 odd ones between them. */
INLINE_AVX2 __m256i channel(__m256i even, __m256i odd, __m256i chroma)
{
    return _mm256_packus_epi16(_mm256_add_epi16(even, chroma), _mm256_add_epi16(odd, chroma));
}

/* Byte i of 16 bytes that start at byte `first` of BGR BGR …: where channel k has it, or -1 if another channel does. */
#define AT(first, k, i) \
    (((first) + (i)) % PIXEL == (k) ? ((first) + (i)) / PIXEL / 2 + 8 * (((first) + (i)) / PIXEL % 2) : -1)
#define ORDER(first, k) \
    _mm256_setr_epi8(AT(first, k, 0), AT(first, k, 1), AT(first, k, 2), AT(first, k, 3), AT(first, k, 4), \
                     AT(first, k, 5), AT(first, k, 6), AT(first, k, 7), AT(first, k, 8), AT(first, k, 9), \
                     AT(first, k, 10), AT(first, k, 11), AT(first, k, 12), AT(first, k, 13), AT(first, k, 14), \
                     AT(first, k, 15), AT(first, k, 0), AT(first, k, 1), AT(first, k, 2), AT(first, k, 3), \
                     AT(first, k, 4), AT(first, k, 5), AT(first, k, 6), AT(first, k, 7), AT(first, k, 8), \
                     AT(first, k, 9), AT(first, k, 10), AT(first, k, 11), AT(first, k, 12), AT(first, k, 13), \
                     AT(first, k, 14), AT(first, k, 15))
#define INTERLEAVED(first) \
    _mm256_or_si256( \
        _mm256_or_si256(_mm256_shuffle_epi8(blue, ORDER(first, 0)), _mm256_shuffle_epi8(green, ORDER(first, 1))), \
        _mm256_shuffle_epi8(red, ORDER(first, 2)))

INLINE_AVX2 void store_halves(uint8_t *low, uint8_t *high_half, __m256i bytes)
{
    _mm_storeu_si128((__m128i *)low, _mm256_castsi256_si128(bytes));
    _mm_storeu_si128((__m128i *)high_half, _mm256_extracti128_si256(bytes, 1));
}

INLINE_AVX2 void convert_block(const uint8_t *y, const Chroma *chroma, const Coefficients *c, uint8_t *bgr)
{
    const __m256i luma = _mm256_loadu_si256((const __m256i *)y), zero = _mm256_set1_epi16(c->luma_zero);
    const __m256i even_words = _mm256_slli_epi16(_mm256_and_si256(luma, _mm256_set1_epi16(255)), 3);
    const __m256i odd_words = _mm256_slli_epi16(_mm256_srli_epi16(luma, 8), 3);
    const __m256i even = times(_mm256_sub_epi16(even_words, zero), c->luma);
    const __m256i odd = times(_mm256_sub_epi16(odd_words, zero), c->luma);
    const __m256i blue = channel(even, odd, chroma->blue);
    const __m256i green = channel(even, odd, chroma->green);
    const __m256i red = channel(even, odd, chroma->red);
    const ptrdiff_t half = PIXEL * BLOCK / 2;
    store_halves(bgr, bgr + half, INTERLEAVED(0));
    store_halves(bgr + 16, bgr + half + 16, INTERLEAVED(16));
    store_halves(bgr + 32, bgr + half + 32, INTERLEAVED(32));
}

/* Rows of a rectangle are too far apart for processors to foresee the next one. */
INLINE_AVX2 void prefetch(const uint8_t *row, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i += CACHE_LINE)
        __builtin_prefetch(row + i);
    __builtin_prefetch(row + n - 1);
}

/* Widths from BLOCK on; the last block of a row starts early enough to end with it. */
AVX2 static void convert_avx2(const Conversion *job, const Coefficients *c)
{
    for (ptrdiff_t row = 0; row < job->height; row += 2) {
        const uint8_t *const y = job->y.start + row * job->y.stride;
        const uint8_t *const u = job->u.start + row / 2 * job->u.stride;
        const uint8_t *const v = job->v.start + row / 2 * job->v.stride;
        uint8_t *const bgr = job->bgr + PIXEL * row * job->width;
        if (row + ROWS_AHEAD < job->height) {
            prefetch(y + ROWS_AHEAD * job->y.stride, job->width);
            prefetch(y + (ROWS_AHEAD + 1) * job->y.stride, job->width);
            prefetch(u + ROWS_AHEAD / 2 * job->u.stride, job->width / 2);
            prefetch(v + ROWS_AHEAD / 2 * job->v.stride, job->width / 2);
        }
        for (ptrdiff_t next = 0; next < job->width; next += BLOCK) {
            const ptrdiff_t x = next + BLOCK <= job->width ? next : job->width - BLOCK;
            const Chroma chroma = chroma_of(u + x / 2, v + x / 2, c);
            convert_block(y + x, &chroma, c, bgr + PIXEL * x);
            convert_block(y + job->y.stride + x, &chroma, c, bgr + PIXEL * (x + job->width));
        }
    }
}
#endif

void yuv_convert(const Conversion *job, const Coefficients *c, int fast)
{
#if HAVE_AVX2
    if (fast && job->width >= BLOCK) {
        convert_avx2(job, c);
        return;
    }
#endif
    (void)fast;
    convert_portable(job, c);
}
