/* See yuv.h. */

#include "yuv.h"

#include "machine.h"

enum {
    PIXEL = 3,
    CHROMA_ZERO = 128 << 3,
    DEEPEST = 12,  /* bits; of more, 15-bit words do not hold what is computed exactly */
    TAPS = 4,      /* rows of chroma that one row of pixels is interpolated from */
    ONE = 1 << 12, /* the sum of their weights */
};

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

static void convert_portable(const Conversion *job, const Coefficients *c, int halved)
{
    for (ptrdiff_t i = 0; i < job->height; i++) {
        const ptrdiff_t row = job->y0 + i, of_chroma = row >> halved;
        convert_row(job->y.start + row * job->y.stride + job->x0,
                    job->u.start + of_chroma * job->u.stride + job->x0 / 2,
                    job->v.start + of_chroma * job->v.stride + job->x0 / 2, 0, job->width, c,
                    job->bgr + PIXEL * i * job->width);
    }
}

/* The rows of chroma that a row of pixels is made from. */
typedef struct {
    const uint8_t *u[TAPS], *v[TAPS]; /* from the picture's left on */
    int16_t weight[TAPS];
} Chromas;

static Chromas chromas_of(const Conversion *job, const Layout *layout, ptrdiff_t y)
{
    const ptrdiff_t rows = job->picture_height >> layout->halved;
    ptrdiff_t row[TAPS];
    Chromas chromas = {.weight = {0, ONE, 0, 0}};
    if (!layout->halved) {
        for (int i = 0; i < TAPS; i++)
            row[i] = y;
    } else if (layout->cubic) {
        static const int16_t of_first[TAPS] = {0, 0, 4432, -336}, of_third[TAPS] = {0, 959, 3473, -336};
        static const int16_t of_even[TAPS] = {-115, 985, 3572, -346};
        for (int i = 0; i < TAPS; i++) {
            row[i] = (y + 1) / 2 - 2 + i;
            row[i] = row[i] < 0 ? 0 : row[i] >= rows ? rows - 1 : row[i];
            chromas.weight[i] = y == 0 ? of_first[i] : y == 2 ? of_third[i] : of_even[y % 2 == 0 ? i : TAPS - 1 - i];
        }
    } else {
        /* In quarters of a row: where the row of pixels lies below the first row of chroma. */
        const ptrdiff_t at = 2 * y - layout->down;
        ptrdiff_t upper = at < 0 ? 0 : at / 4, weight = at < 0 ? 0 : at % 4;
        if (upper + 1 >= rows) {
            upper = rows - 2;
            weight = 4;
        }
        for (int i = 0; i < TAPS; i++)
            row[i] = upper + i / 2;
        chromas.weight[1] = (int16_t)(ONE - ONE / 4 * weight);
        chromas.weight[2] = (int16_t)(ONE / 4 * weight);
    }
    for (int i = 0; i < TAPS; i++) {
        chromas.u[i] = job->u.start + row[i] * job->u.stride;
        chromas.v[i] = job->v.start + row[i] * job->v.stride;
    }
    return chromas;
}

static int in_levels(const Conversion *job, const Layout *layout, ptrdiff_t y)
{
    return layout->cubic || y >= job->picture_height - 2;
}

/* Of two, the mean of both or the nearer one alone. */
static int is_mean(const Chromas *chromas)
{
    return chromas->weight[2] >= ONE / 2;
}

static int to_int16(int value)
{
    return value < INT16_MIN ? INT16_MIN : value > INT16_MAX ? INT16_MAX : value;
}

static int deep_sample(const uint8_t *row, ptrdiff_t i)
{
    return (int16_t)(row[2 * i] | row[2 * i + 1] << 8);
}

/* In 15 bits, the i-th of a row of so many. */
static int deep_chroma(const uint8_t *row, ptrdiff_t i, ptrdiff_t count, const Layout *layout)
{
    const int factor = 1 << (13 - layout->bits), sample = deep_sample(row, i);
    if (!layout->left)
        return to_int16(4 * factor * sample);
    return to_int16(factor * (3 * sample + deep_sample(row, i + 1 < count ? i + 1 : i)));
}

/* What a level of chroma adds, in levels of luma. */
static int shift_of(int level, int32_t step)
{
    level = to_uint8(level);
    return ((level * step) >> 16) - (step >> 9);
}

static uint8_t scaled(int level, const Coefficients *c)
{
    return to_uint8((c->scale * level - c->zero + (1 << 15)) >> 16);
}

static int chroma_level(const uint8_t *const rows[TAPS], const int16_t weight[TAPS], ptrdiff_t i, ptrdiff_t count,
                        const Layout *layout)
{
    int sum = 1 << 18;
    for (int tap = 0; tap < TAPS; tap++)
        sum += weight[tap] * deep_chroma(rows[tap], i, count, layout);
    return sum >> 19;
}

static int chroma_word(const uint8_t *const rows[TAPS], int mean, ptrdiff_t i, ptrdiff_t count, const Layout *layout)
{
    const int upper = deep_chroma(rows[1], i, count, layout);
    if (!mean)
        return (upper >> 4) - CHROMA_ZERO;
    return ((uint16_t)(upper + deep_chroma(rows[2], i, count, layout)) >> 5) - CHROMA_ZERO;
}

/* Pixels first .. width - 1 of row y of the picture, inside the rectangle; first is even. */
static void convert_deep_row(const Conversion *job, const Coefficients *c, const Layout *layout, ptrdiff_t y,
                             const Chromas *chromas, ptrdiff_t first, uint8_t *bgr)
{
    const uint8_t *const luma_row = job->y.start + y * job->y.stride;
    const ptrdiff_t count = job->picture_width / 2;
    const int factor = 1 << (15 - layout->bits), levels = in_levels(job, layout, y), mean = is_mean(chromas);
    for (ptrdiff_t x = first; x < job->width; x += 2) {
        const ptrdiff_t column = job->x0 + x, at = column / 2;
        int blue, green, red;
        if (levels) {
            const int u = chroma_level(chromas->u, chromas->weight, at, count, layout);
            const int v = chroma_level(chromas->v, chromas->weight, at, count, layout);
            blue = shift_of(u, c->step_blue_u);
            green = shift_of(u, c->step_green_u) + shift_of(v, c->step_green_v);
            red = shift_of(v, c->step_red_v);
        } else {
            const int u = chroma_word(chromas->u, mean, at, count, layout);
            const int v = chroma_word(chromas->v, mean, at, count, layout);
            blue = high(u, c->blue_u);
            green = high(u, c->green_u) + high(v, c->green_v);
            red = high(v, c->red_v);
        }
        for (ptrdiff_t i = 0; i < 2; i++) {
            const int word = to_int16(factor * deep_sample(luma_row, column + i));
            uint8_t *const pixel = bgr + PIXEL * (x + i);
            if (levels) {
                const int luma = (word + 64) >> 7;
                pixel[0] = scaled(luma + blue, c);
                pixel[1] = scaled(luma + green, c);
                pixel[2] = scaled(luma + red, c);
            } else {
                const int luma = high((word >> 4) - c->luma_zero, c->luma);
                pixel[0] = to_uint8(luma + blue);
                pixel[1] = to_uint8(luma + green);
                pixel[2] = to_uint8(luma + red);
            }
        }
    }
}

static void convert_deep_portable(const Conversion *job, const Coefficients *c, const Layout *layout)
{
    for (ptrdiff_t i = 0; i < job->height; i++) {
        const Chromas chromas = chromas_of(job, layout, job->y0 + i);
        convert_deep_row(job, c, layout, job->y0 + i, &chromas, 0, job->bgr + PIXEL * i * job->width);
    }
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

INLINE_AVX2 Chroma chroma_of(__m256i from_u, __m256i from_v, const Coefficients *c)
{
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

INLINE_AVX2 void store_block(__m256i blue, __m256i green, __m256i red, uint8_t *bgr)
{
    const ptrdiff_t half = PIXEL * BLOCK / 2;
    store_halves(bgr, bgr + half, INTERLEAVED(0));
    store_halves(bgr + 16, bgr + half + 16, INTERLEAVED(16));
    store_halves(bgr + 32, bgr + half + 32, INTERLEAVED(32));
}

/* From words of luma, of a level's eighths each. */
INLINE_AVX2 void convert_words(__m256i even_words, __m256i odd_words, const Chroma *chroma, const Coefficients *c,
                               uint8_t *bgr)
{
    const __m256i zero = _mm256_set1_epi16(c->luma_zero);
    const __m256i even = times(_mm256_sub_epi16(even_words, zero), c->luma);
    const __m256i odd = times(_mm256_sub_epi16(odd_words, zero), c->luma);
    store_block(channel(even, odd, chroma->blue), channel(even, odd, chroma->green), channel(even, odd, chroma->red),
                bgr);
}

INLINE_AVX2 void convert_block(const uint8_t *y, const Chroma *chroma, const Coefficients *c, uint8_t *bgr)
{
    const __m256i luma = _mm256_loadu_si256((const __m256i *)y);
    convert_words(_mm256_slli_epi16(_mm256_and_si256(luma, _mm256_set1_epi16(255)), 3),
                  _mm256_slli_epi16(_mm256_srli_epi16(luma, 8), 3), chroma, c, bgr);
}

/* Rows of a rectangle are too far apart for processors to foresee the next one. */
INLINE_AVX2 void prefetch(const uint8_t *row, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i += CACHE_LINE)
        __builtin_prefetch(row + i);
    __builtin_prefetch(row + n - 1);
}

/* Widths from BLOCK on; the last block of a row starts early enough to end with it. */
AVX2 static void convert_avx2(const Conversion *job, const Coefficients *c, int halved)
{
    for (ptrdiff_t i = 0; i < job->height; i += 1 + halved) {
        const ptrdiff_t row = job->y0 + i, of_chroma = row >> halved;
        const uint8_t *const y = job->y.start + row * job->y.stride + job->x0;
        const uint8_t *const u = job->u.start + of_chroma * job->u.stride + job->x0 / 2;
        const uint8_t *const v = job->v.start + of_chroma * job->v.stride + job->x0 / 2;
        uint8_t *const bgr = job->bgr + PIXEL * i * job->width;
        if (i + ROWS_AHEAD < job->height) {
            prefetch(y + ROWS_AHEAD * job->y.stride, job->width);
            if (halved)
                prefetch(y + (ROWS_AHEAD + 1) * job->y.stride, job->width);
            prefetch(u + (ROWS_AHEAD >> halved) * job->u.stride, job->width / 2);
            prefetch(v + (ROWS_AHEAD >> halved) * job->v.stride, job->width / 2);
        }
        for (ptrdiff_t next = 0; next < job->width; next += BLOCK) {
            const ptrdiff_t x = next + BLOCK <= job->width ? next : job->width - BLOCK;
            const Chroma chroma = chroma_of(chroma_words(u + x / 2), chroma_words(v + x / 2), c);
            convert_block(y + x, &chroma, c, bgr + PIXEL * x);
            if (halved)
                convert_block(y + job->y.stride + x, &chroma, c, bgr + PIXEL * (x + job->width));
        }
    }
}

INLINE_AVX2 __m256i pairs_of(int first, int second)
{
    return _mm256_set1_epi32((uint16_t)first | (int)((uint32_t)second << 16));
}

/* 15 bits of 16 samples of chroma. */
INLINE_AVX2 __m256i deep_chroma_words(const uint8_t *samples, const Layout *layout)
{
    const int factor = 1 << (13 - layout->bits);
    const __m256i here = _mm256_loadu_si256((const __m256i *)samples);
    const __m256i next = _mm256_loadu_si256((const __m256i *)(samples + (layout->left ? 2 : 0)));
    const __m256i factors = layout->left ? pairs_of(3 * factor, factor) : pairs_of(4 * factor, 0);
    return _mm256_packs_epi32(_mm256_madd_epi16(_mm256_unpacklo_epi16(here, next), factors),
                              _mm256_madd_epi16(_mm256_unpackhi_epi16(here, next), factors));
}

INLINE_AVX2 __m256i interpolated_words(const uint8_t *const rows[TAPS], int mean, ptrdiff_t offset,
                                       const Layout *layout)
{
    const __m256i upper = deep_chroma_words(rows[1] + offset, layout);
    __m256i words = _mm256_srai_epi16(upper, 4);
    if (mean)
        words = _mm256_srli_epi16(_mm256_add_epi16(upper, deep_chroma_words(rows[2] + offset, layout)), 5);
    return _mm256_sub_epi16(words, _mm256_set1_epi16(CHROMA_ZERO));
}

/* 16 levels of chroma, 0 to 255. */
INLINE_AVX2 __m256i interpolated_levels(const uint8_t *const rows[TAPS], const int16_t weight[TAPS], ptrdiff_t offset,
                                        const Layout *layout)
{
    __m256i low = _mm256_set1_epi32(1 << 18), upper = low;
    for (int tap = 0; tap < TAPS; tap += 2) {
        if (weight[tap] == 0 && weight[tap + 1] == 0)
            continue;
        const __m256i first = deep_chroma_words(rows[tap] + offset, layout);
        const __m256i second = deep_chroma_words(rows[tap + 1] + offset, layout);
        const __m256i weights = pairs_of(weight[tap], weight[tap + 1]);
        low = _mm256_add_epi32(low, _mm256_madd_epi16(_mm256_unpacklo_epi16(first, second), weights));
        upper = _mm256_add_epi32(upper, _mm256_madd_epi16(_mm256_unpackhi_epi16(first, second), weights));
    }
    const __m256i levels = _mm256_packs_epi32(_mm256_srai_epi32(low, 19), _mm256_srai_epi32(upper, 19));
    return _mm256_min_epi16(_mm256_max_epi16(levels, _mm256_setzero_si256()), _mm256_set1_epi16(255));
}

INLINE_AVX2 __m256i shifts_of(__m256i levels, int32_t step)
{
    const __m256i whole = _mm256_mullo_epi16(levels, _mm256_set1_epi16((int16_t)(step >> 16)));
    const __m256i part = _mm256_mulhi_epu16(levels, _mm256_set1_epi16((int16_t)step));
    return _mm256_sub_epi16(_mm256_add_epi16(whole, part), _mm256_set1_epi16((int16_t)(step >> 9)));
}

/* A scale is one and a fraction, whose product's lower half may carry when the rest is added. */
INLINE_AVX2 __m256i scaled_levels(__m256i levels, const Coefficients *c)
{
    const int32_t added = (1 << 15) - c->zero;
    const __m256i fraction = _mm256_set1_epi16((int16_t)(c->scale - (1 << 16)));
    const __m256i low = _mm256_mullo_epi16(levels, fraction), upper = _mm256_mulhi_epi16(levels, fraction);
    const __m256i sum = _mm256_add_epi16(low, _mm256_set1_epi16((int16_t)added));
    const __m256i no_carry = _mm256_cmpeq_epi16(_mm256_max_epu16(sum, low), sum);
    const __m256i whole = _mm256_add_epi16(_mm256_add_epi16(levels, upper), _mm256_set1_epi16((int16_t)(added >> 16)));
    return _mm256_add_epi16(_mm256_add_epi16(whole, _mm256_set1_epi16(1)), no_carry);
}

INLINE_AVX2 __m256i scaled_channel(__m256i even, __m256i odd, __m256i shifts, const Coefficients *c)
{
    return _mm256_packus_epi16(scaled_levels(_mm256_add_epi16(even, shifts), c),
                               scaled_levels(_mm256_add_epi16(odd, shifts), c));
}

INLINE_AVX2 void convert_levels(__m256i even_words, __m256i odd_words, __m256i u, __m256i v, const Coefficients *c,
                                uint8_t *bgr)
{
    const __m256i one = _mm256_set1_epi16(1);
    const __m256i even = _mm256_srai_epi16(_mm256_add_epi16(_mm256_srai_epi16(even_words, 6), one), 1);
    const __m256i odd = _mm256_srai_epi16(_mm256_add_epi16(_mm256_srai_epi16(odd_words, 6), one), 1);
    const __m256i green = _mm256_add_epi16(shifts_of(u, c->step_green_u), shifts_of(v, c->step_green_v));
    store_block(scaled_channel(even, odd, shifts_of(u, c->step_blue_u), c), scaled_channel(even, odd, green, c),
                scaled_channel(even, odd, shifts_of(v, c->step_red_v), c), bgr);
}

INLINE_AVX2 __m256i joined(const uint8_t *low, const uint8_t *high_half)
{
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)low)),
                                   _mm_loadu_si128((const __m128i *)high_half), 1);
}

/* What no block fits in, or ends with a sample of chroma that has none beside it, is left to portable code. */
AVX2 static void convert_deep_avx2(const Conversion *job, const Coefficients *c, const Layout *layout)
{
    const ptrdiff_t count = job->picture_width / 2, rows_ahead = ROWS_AHEAD >> layout->halved;
    const int factor = 1 << (15 - layout->bits);
    const __m256i of_even = pairs_of(factor, 0), of_odd = pairs_of(0, factor);
    for (ptrdiff_t i = 0; i < job->height; i++) {
        const ptrdiff_t row = job->y0 + i;
        const Chromas chromas = chromas_of(job, layout, row);
        const uint8_t *const luma = job->y.start + row * job->y.stride + 2 * job->x0;
        const int levels = in_levels(job, layout, row), mean = is_mean(&chromas);
        uint8_t *const bgr = job->bgr + PIXEL * i * job->width;
        if (i + ROWS_AHEAD < job->height) {
            prefetch(luma + ROWS_AHEAD * job->y.stride, 2 * job->width);
            prefetch(job->u.start + ((row >> layout->halved) + rows_ahead) * job->u.stride + job->x0, job->width);
            prefetch(job->v.start + ((row >> layout->halved) + rows_ahead) * job->v.stride + job->x0, job->width);
        }
        ptrdiff_t next = 0;
        while (next < job->width) {
            const ptrdiff_t x = next + BLOCK <= job->width ? next : job->width - BLOCK, column = job->x0 + x;
            if (column / 2 + BLOCK / 2 + layout->left > count)
                break;
            const uint8_t *const y = luma + 2 * x;
            const __m256i first = joined(y, y + BLOCK), second = joined(y + BLOCK / 2, y + BLOCK + BLOCK / 2);
            const __m256i even =
                _mm256_packs_epi32(_mm256_madd_epi16(first, of_even), _mm256_madd_epi16(second, of_even));
            const __m256i odd = _mm256_packs_epi32(_mm256_madd_epi16(first, of_odd), _mm256_madd_epi16(second, of_odd));
            if (levels) {
                const __m256i u = interpolated_levels(chromas.u, chromas.weight, column, layout);
                const __m256i v = interpolated_levels(chromas.v, chromas.weight, column, layout);
                convert_levels(even, odd, u, v, c, bgr + PIXEL * x);
            } else {
                const __m256i u = interpolated_words(chromas.u, mean, column, layout);
                const __m256i v = interpolated_words(chromas.v, mean, column, layout);
                const Chroma chroma = chroma_of(u, v, c);
                convert_words(_mm256_srai_epi16(even, 4), _mm256_srai_epi16(odd, 4), &chroma, c, bgr + PIXEL * x);
            }
            next = x + BLOCK;
        }
        convert_deep_row(job, c, layout, row, &chromas, next, bgr);
    }
}
#endif

int yuv_is_known(const Layout *layout)
{
    if (layout->bits == 8)
        return !layout->cubic;
    return layout->bits > 8 && layout->bits <= DEEPEST && layout->down >= 0 && layout->down <= 2;
}

void yuv_convert(const Conversion *job, const Coefficients *c, const Layout *layout, int fast)
{
#if HAVE_AVX2
    if (fast && job->width >= BLOCK) {
        if (layout->bits > 8)
            convert_deep_avx2(job, c, layout);
        else
            convert_avx2(job, c, layout->halved);
        return;
    }
#endif
    (void)fast;
    if (layout->bits > 8)
        convert_deep_portable(job, c, layout);
    else
        convert_portable(job, c, layout->halved);
}
