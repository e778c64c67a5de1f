/* See sampler.h. */

#include "sampler.h"

#include "machine.h"

enum { POSITION_SHIFT = 5, FRACTION = 31, WEIGHT_BITS = 15, ROUND = 1 << (WEIGHT_BITS - 1) };

typedef struct {
    int32_t sx, sy; /* frame pixel, held to int16 */
    int32_t weight; /* index of its weights */
} Position;

static inline int32_t to_int16(int32_t value)
{
    return value < INT16_MIN ? INT16_MIN : value > INT16_MAX ? INT16_MAX : value;
}

static inline uint8_t to_uint8(int32_t total)
{
    int32_t value = (total + ROUND) >> WEIGHT_BITS;
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

static inline Position position_of(const Positions *at, int32_t x, int32_t y)
{
    /* the sums wrap around in int32, as the tables ask */
    int32_t X = (int32_t)((uint32_t)at->X0[y] + (uint32_t)at->dx[x]) >> POSITION_SHIFT;
    int32_t Y = (int32_t)((uint32_t)at->Y0[y] + (uint32_t)at->dy[x]) >> POSITION_SHIFT;
    Position p = {to_int16(X >> FRACTION_BITS), to_int16(Y >> FRACTION_BITS),
                  ((Y & FRACTION) << FRACTION_BITS) | (X & FRACTION)};
    return p;
}

/* One pixel, any position; taps outside the source count as 0. k is a constant at every call, so loops unroll. */
static inline void sample(const Source *source, Position p, const int16_t *weights, int k, uint8_t *out)
{
    const int32_t left = p.sx - (k / 2 - 1) - source->x0, top = p.sy - (k / 2 - 1) - source->y0;
    const int16_t *weight = weights + p.weight * k * k;
    const ptrdiff_t offset = top * source->stride + left * (ptrdiff_t)3;
    int32_t b = 0, g = 0, r = 0;
    if (left >= 0 && left <= source->width - k && top >= 0 && top <= source->height - k) {
        for (int i = 0; i < k; i++)
            for (int j = 0; j < k; j++) {
                const uint8_t *tap = source->pixels + (offset + i * source->stride + 3 * j);
                b += weight[i * k + j] * tap[0];
                g += weight[i * k + j] * tap[1];
                r += weight[i * k + j] * tap[2];
            }
    } else if (left > -k && left < source->width && top > -k && top < source->height) {
        const int first_row = top < 0 ? -top : 0, first_column = left < 0 ? -left : 0;
        const int rows = source->height - top < k ? source->height - top : k;
        const int columns = source->width - left < k ? source->width - left : k;
        for (int i = first_row; i < rows; i++)
            for (int j = first_column; j < columns; j++) {
                const uint8_t *tap = source->pixels + (offset + i * source->stride + 3 * j);
                b += weight[i * k + j] * tap[0];
                g += weight[i * k + j] * tap[1];
                r += weight[i * k + j] * tap[2];
            }
    }
    out[0] = to_uint8(b);
    out[1] = to_uint8(g);
    out[2] = to_uint8(r);
}

static inline void sample_span(const Source *source, const Positions *at, const int16_t *weights, int k, int32_t y,
                               int32_t first, int32_t last, uint8_t *row)
{
    for (int32_t x = first; x < last; x++)
        sample(source, position_of(at, x, y), weights, k, row + 3 * x);
}

static void warp_cubic_portable(const Source *source, const Positions *at, const int16_t *weights, uint8_t *out)
{
    for (int32_t y = 0; y < at->size; y++)
        sample_span(source, at, weights, 4, y, 0, at->size, out + (ptrdiff_t)y * at->size * 3);
}

static void warp_linear_portable(const Source *source, const Positions *at, const int16_t *weights, uint8_t *out)
{
    for (int32_t y = 0; y < at->size; y++)
        sample_span(source, at, weights, 2, y, 0, at->size, out + (ptrdiff_t)y * at->size * 3);
}

#if HAVE_AVX2
enum {
    BLOCK = 8, /* pixels whose positions are computed at once */
    STRIP = 64 /* columns of a crop that are cut from top to bottom: the source rows of a turned strip stay in cache */
};

/* Which pixels of a block may be read with whole-register loads, and where. */
typedef struct {
    __m256i x0, y0; /* frame position of the source, less the taps before the position */
    __m256i max_left, max_top, max_offset;
    __m256i stride;
    int usable;
} Window;

INLINE_AVX2 Window window_of(const Source *source, int k, int load_bytes)
{
    const int before = k / 2 - 1;
    /* a position that saturates to int16 is not the one that the vector code computes: leave it to sample() */
    int32_t max_left = source->width - k, max_top = source->height - k;
    if (max_left > INT16_MAX - before - source->x0)
        max_left = INT16_MAX - before - source->x0;
    if (max_top > INT16_MAX - before - source->y0)
        max_top = INT16_MAX - before - source->y0;
    /* the load of the last row of taps must end inside the buffer */
    const ptrdiff_t bytes = (source->height - 1) * source->stride + source->width * (ptrdiff_t)3;
    const ptrdiff_t max_offset = bytes - (k - 1) * source->stride - load_bytes;
    Window window = {
        _mm256_set1_epi32(source->x0 + before),
        _mm256_set1_epi32(source->y0 + before),
        _mm256_set1_epi32(max_left),
        _mm256_set1_epi32(max_top),
        _mm256_set1_epi32((int32_t)max_offset),
        _mm256_set1_epi32((int32_t)source->stride),
        max_left >= 0 && max_top >= 0 && max_offset >= 0 && bytes <= INT32_MAX,
    };
    return window;
}

INLINE_AVX2 __m256i at_most(__m256i value, __m256i limit) /* and not negative */
{
    return _mm256_cmpeq_epi32(_mm256_min_epu32(value, limit), value);
}

/* BLOCK neighbouring pixels of a crop's row. */
typedef struct {
    __m256i offset; /* of the first tap, in bytes */
    __m256i fx, fy;
    int readable; /* a bit for each pixel that may be read at its offset */
} Block;

INLINE_AVX2 Block locate(const Window *window, const Positions *at, int32_t x, int32_t y)
{
    const __m256i fraction = _mm256_set1_epi32(FRACTION);
    __m256i X = _mm256_add_epi32(_mm256_set1_epi32(at->X0[y]), _mm256_loadu_si256((const __m256i *)(at->dx + x)));
    __m256i Y = _mm256_add_epi32(_mm256_set1_epi32(at->Y0[y]), _mm256_loadu_si256((const __m256i *)(at->dy + x)));
    X = _mm256_srai_epi32(X, POSITION_SHIFT);
    Y = _mm256_srai_epi32(Y, POSITION_SHIFT);
    const __m256i left = _mm256_sub_epi32(_mm256_srai_epi32(X, FRACTION_BITS), window->x0);
    const __m256i top = _mm256_sub_epi32(_mm256_srai_epi32(Y, FRACTION_BITS), window->y0);
    const __m256i offset =
        _mm256_add_epi32(_mm256_mullo_epi32(top, window->stride), _mm256_add_epi32(left, _mm256_add_epi32(left, left)));
    const __m256i inside = _mm256_and_si256(at_most(left, window->max_left), at_most(top, window->max_top));
    const __m256i readable = _mm256_andnot_si256(_mm256_cmpgt_epi32(offset, window->max_offset), inside);
    Block block = {offset, _mm256_and_si256(X, fraction), _mm256_and_si256(Y, fraction),
                   _mm256_movemask_ps(_mm256_castsi256_ps(readable))};
    return block;
}

/* The lower 12 bytes of both halves. */
INLINE_AVX2 void store_24(uint8_t *out, __m256i value)
{
    const __m128i upper = _mm256_extracti128_si256(value, 1);
    const int32_t tail = _mm_extract_epi32(upper, 2);
    _mm_storeu_si128((__m128i *)out, _mm256_castsi256_si128(value));
    _mm_storel_epi64((__m128i *)(out + 12), upper);
    memcpy(out + 20, &tail, 4);
}

/* Four rows of four taps of one pixel: int32 x 8 = b b' g g' | r r' 0 0, where b + b' is the sum of channel b. */
INLINE_AVX2 __m256i cubic_sums(const uint8_t *const rows[4], ptrdiff_t offset, const int16_t *weight)
{
    const __m256i spread = _mm256_setr_epi8(0, -1, 3, -1, 6, -1, 9, -1, 1, -1, 4, -1, 7, -1, 10, -1, /* upper lane: */
                                            2, -1, 5, -1, 8, -1, 11, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    __m256i sums = _mm256_setzero_si256();
    for (int i = 0; i < 4; i++) {
        int64_t line;
        memcpy(&line, weight + 4 * i, sizeof line);
        const __m128i taps = _mm_loadu_si128((const __m128i *)(rows[i] + offset));
        const __m256i channels = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(taps), spread);
        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(channels, _mm256_set1_epi64x(line)));
    }
    return sums;
}

/* Of four pixels from their cubic_sums: int16 x 16 = b g of each | r 0 of each. */
INLINE_AVX2 __m256i cubic_words(const __m256i sums[4])
{
    const __m256i round = _mm256_set1_epi32(ROUND);
    const __m256i ab = _mm256_add_epi32(_mm256_hadd_epi32(sums[0], sums[1]), round);
    const __m256i cd = _mm256_add_epi32(_mm256_hadd_epi32(sums[2], sums[3]), round);
    return _mm256_packus_epi32(_mm256_srai_epi32(ab, WEIGHT_BITS), _mm256_srai_epi32(cd, WEIGHT_BITS));
}

/* Two pixels, one a lane: eight bytes of the upper row of taps, then eight of the lower. */
INLINE_AVX2 __m256i linear_taps(const uint8_t *first, const uint8_t *second, ptrdiff_t stride)
{
    const __m128i upper_a = _mm_loadl_epi64((const __m128i *)first);
    const __m128i upper_b = _mm_loadl_epi64((const __m128i *)second);
    const __m128i a = _mm_castps_si128(_mm_loadh_pi(_mm_castsi128_ps(upper_a), (const __m64 *)(first + stride)));
    const __m128i b = _mm_castps_si128(_mm_loadh_pi(_mm_castsi128_ps(upper_b), (const __m64 *)(second + stride)));
    return _mm256_inserti128_si256(_mm256_castsi128_si256(a), b, 1);
}

/* Two neighbouring pixels: int32 x 8 = b g r 0 | b g r 0. across holds the weights (32 - fx, fx) as bytes, down
   (32 - fy, fy) as int16. Their products are the linear table less a factor 32; its entry 0 alone is not a product,
   [[32767, 0], [0, 1]] for [[32768, 0], [0, 0]], and rounds to the same byte. */
INLINE_AVX2 __m256i linear_pair(__m256i taps, __m256i across, __m256i down)
{
    const __m256i spread = _mm256_setr_epi8(0, 3, 8, 11, 1, 4, 9, 12, 2, 5, 10, 13, -1, -1, -1, -1, /* upper lane: */
                                            0, 3, 8, 11, 1, 4, 9, 12, 2, 5, 10, 13, -1, -1, -1, -1);
    const __m256i sums = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_shuffle_epi8(taps, spread), across), down);
    return _mm256_srai_epi32(_mm256_add_epi32(sums, _mm256_set1_epi32(512)), 10);
}

/* Eight neighbouring pixels of a crop's row, all of them readable. */
INLINE_AVX2 void linear_8(const Source *source, const int32_t *offset, __m256i fx, __m256i fy, uint8_t *out)
{
    const __m256i one = _mm256_set1_epi32(32);
    __m256i across = _mm256_or_si256(_mm256_sub_epi32(one, fx), _mm256_slli_epi32(fx, 8));
    across = _mm256_or_si256(across, _mm256_slli_epi32(across, 16));
    const __m256i down = _mm256_or_si256(_mm256_sub_epi32(one, fy), _mm256_slli_epi32(fy, 16));
    const __m256i order = _mm256_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1, /* upper lane: */
                                           0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
    __m256i pair[4];
    for (int p = 0; p < 4; p++) {
        /* the lanes of pair p are the pixels p and p + 4, so that packing leaves the pixels in order */
        const __m256i pick = _mm256_setr_epi32(p, p, p, p, p + 4, p + 4, p + 4, p + 4);
        pair[p] = linear_pair(linear_taps(source->pixels + offset[p], source->pixels + offset[p + 4], source->stride),
                              _mm256_permutevar8x32_epi32(across, pick), _mm256_permutevar8x32_epi32(down, pick));
    }
    const __m256i bytes = _mm256_shuffle_epi8(
        _mm256_packus_epi16(_mm256_packus_epi32(pair[0], pair[1]), _mm256_packus_epi32(pair[2], pair[3])), order);
    store_24(out, bytes);
}

/* The same for cubic; rows: of taps at offset 0; entry: where the weights of each pixel begin. */
INLINE_AVX2 void cubic_8(const uint8_t *const rows[4], const int16_t *weights, const int32_t *offset,
                         const int32_t *entry, uint8_t *out)
{
    const __m256i order = _mm256_setr_epi8(0, 1, 8, 2, 3, 10, 4, 5, 12, 6, 7, 14, -1, -1, -1, -1, /* upper lane: */
                                           0, 1, 8, 2, 3, 10, 4, 5, 12, 6, 7, 14, -1, -1, -1, -1);
    __m256i words[2];
#pragma GCC unroll 1 /* the sums of both halves at once would not fit into the registers */
    for (int half = 0; half < 2; half++) {
        __m256i sums[4];
        for (int p = 0; p < 4; p++)
            sums[p] = cubic_sums(rows, offset[4 * half + p], weights + entry[4 * half + p]);
        words[half] = cubic_words(sums);
    }
    const __m256i lanes = _mm256_permute4x64_epi64(_mm256_packus_epi16(words[0], words[1]), _MM_SHUFFLE(3, 1, 2, 0));
    store_24(out, _mm256_shuffle_epi8(lanes, order));
}

/* The positions of a strip's row. They are all stored before the first is loaded: a load that waits for the store just
   before it would hold up every block. */
typedef struct {
    _Alignas(32) int32_t offset[STRIP];
    _Alignas(32) int32_t fx[STRIP];
    _Alignas(32) int32_t fy[STRIP];
    _Alignas(32) int32_t entry[STRIP]; /* where the weights begin; for cubic only, fx and fy for linear */
    int readable[STRIP / BLOCK];
} Line;

INLINE_AVX2 void locate_line(const Window *window, const Positions *at, int k, int32_t y, const int32_t *starts,
                             int blocks, Line *line)
{
    for (int b = 0; b < blocks; b++) {
        const Block block = locate(window, at, starts[b], y);
        _mm256_store_si256((__m256i *)(line->offset + BLOCK * b), block.offset);
        if (k == 4) {
            const __m256i entry = _mm256_or_si256(_mm256_slli_epi32(block.fy, FRACTION_BITS), block.fx);
            _mm256_store_si256((__m256i *)(line->entry + BLOCK * b), _mm256_slli_epi32(entry, 4)); /* 4 x 4 each */
        } else {
            _mm256_store_si256((__m256i *)(line->fx + BLOCK * b), block.fx);
            _mm256_store_si256((__m256i *)(line->fy + BLOCK * b), block.fy);
        }
        line->readable[b] = block.readable;
    }
}

INLINE_AVX2 void warp_avx2(const Source *source, const Positions *at, const int16_t *weights, int k, uint8_t *out)
{
    const Window window = window_of(source, k, k == 4 ? 16 : 8);
    if (!window.usable || at->size < BLOCK) {
        for (int32_t y = 0; y < at->size; y++)
            sample_span(source, at, weights, k, y, 0, at->size, out + (ptrdiff_t)y * at->size * 3);
        return;
    }
    const uint8_t *const rows[4] = {source->pixels, source->pixels + source->stride,
                                    source->pixels + (k - 2) * source->stride,
                                    source->pixels + (k - 1) * source->stride};
    Line line;
    for (int32_t first = 0; first < at->size; first += STRIP) {
        int32_t starts[STRIP / BLOCK];
        int blocks = 0;
        /* the last block of a row may overlap the one before it; both write the same bytes */
        for (int32_t x = first; x < first + STRIP && x < at->size; x += BLOCK)
            starts[blocks++] = x <= at->size - BLOCK ? x : at->size - BLOCK;
        for (int32_t y = 0; y < at->size; y++) {
            uint8_t *const row = out + (ptrdiff_t)y * at->size * 3;
            locate_line(&window, at, k, y, starts, blocks, &line);
            for (int b = 0; b < blocks; b++) {
                const int32_t x = starts[b], *const offset = line.offset + BLOCK * b;
                if (line.readable[b] != 0xff) {
                    sample_span(source, at, weights, k, y, x, x + BLOCK, row);
                } else if (k == 4) {
                    cubic_8(rows, weights, offset, line.entry + BLOCK * b, row + 3 * x);
                } else {
                    linear_8(source, offset, _mm256_load_si256((const __m256i *)(line.fx + BLOCK * b)),
                             _mm256_load_si256((const __m256i *)(line.fy + BLOCK * b)), row + 3 * x);
                }
            }
        }
    }
}

AVX2 static void warp_cubic_avx2(const Source *source, const Positions *at, const int16_t *weights, uint8_t *out)
{
    warp_avx2(source, at, weights, 4, out);
}

AVX2 static void warp_linear_avx2(const Source *source, const Positions *at, const int16_t *weights, uint8_t *out)
{
    warp_avx2(source, at, weights, 2, out);
}
#endif

void sampler_warp(const Source *source, const Positions *at, const int16_t *weights, int k, int fast, uint8_t *out)
{
#if HAVE_AVX2
    if (fast) {
        (k == 4 ? warp_cubic_avx2 : warp_linear_avx2)(source, at, weights, out);
        return;
    }
#endif
    (void)fast;
    (k == 4 ? warp_cubic_portable : warp_linear_portable)(source, at, weights, out);
}
