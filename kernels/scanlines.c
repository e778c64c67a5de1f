#include <stdlib.h>

#include "checksums.h"
#include "inflate.h"
#include "machine.h"
#include "paeth.h"
#include "scanlines.h"

enum { NONE, SUB, UP, AVERAGE, PAETH, FILTERS };
enum {
    SIGNATURE_BYTES = 8,
    CHUNK_BYTES = 12,   /* of a chunk: length, kind and checksum */
    WAVE = 4,           /* rows that are restored at once */
    LINES = WAVE + 1,   /* restored rows that are kept */
    MARGIN = 4,         /* bytes of zeros before each */
    FRESH_BYTES = 98304 /* that are inflated at once, and restored while they are in the cache */
};

typedef struct {
    Pieces pieces;
    const uint8_t *at, *end;
} Chunks;

typedef struct {
    const Rectangle *wanted;
    size_t stride;         /* bytes a row */
    size_t bytes;          /* of them, how many must be restored */
    uint8_t *lines[LINES]; /* restored bytes; the first those of the row before */
    uint8_t *out;
} Job;

static size_t big_32(const uint8_t *bytes)
{
    return (size_t)bytes[0] << 24 | (size_t)bytes[1] << 16 | (size_t)bytes[2] << 8 | bytes[3];
}

/* Whether every chunk is what its checksum says, and none stands between those of the stream. */
static int is_sound(const uint8_t *file, size_t size, int level)
{
    int begun = 0, ended = 0;
    for (size_t at = SIGNATURE_BYTES; at + 8 <= size;) {
        const size_t length = big_32(file + at);
        const uint8_t *const kind = file + at + 4;
        if (size - at < CHUNK_BYTES || length > size - at - CHUNK_BYTES ||
            crc32(kind, length + 4, level) != (uint32_t)big_32(kind + 4 + length))
            return 0;
        if (memcmp(kind, "IDAT", 4) != 0)
            ended = begun;
        else if (ended)
            return 0;
        else
            begun = 1;
        if (memcmp(kind, "IEND", 4) == 0)
            break;
        at += CHUNK_BYTES + length;
    }
    return 1;
}

/* Of sound chunks. */
static const uint8_t *next_of_stream(Pieces *pieces, size_t *size)
{
    Chunks *const chunks = (Chunks *)pieces;
    while (chunks->end - chunks->at >= CHUNK_BYTES && memcmp(chunks->at + 4, "IEND", 4) != 0) {
        const uint8_t *const chunk = chunks->at;
        *size = big_32(chunk);
        chunks->at += CHUNK_BYTES + *size;
        if (memcmp(chunk + 4, "IDAT", 4) == 0 && *size > 0)
            return chunk + 8;
    }
    return NULL;
}

INLINE void restore(const uint8_t *row, const uint8_t *above, size_t from, size_t n, int filter, int step,
                    uint8_t *line)
{
    if (from >= n)
        return;
    switch (filter) {
    case NONE:
        memcpy(line + from, row + from, n - from);
        break;
    case SUB:
        for (size_t i = from; i < n; i++)
            line[i] = (uint8_t)(row[i] + line[i - (size_t)step]);
        break;
    case UP:
        for (size_t i = from; i < n; i++)
            line[i] = (uint8_t)(row[i] + above[i]);
        break;
    case AVERAGE:
        for (size_t i = from; i < n; i++)
            line[i] = (uint8_t)(row[i] + ((line[i - (size_t)step] + above[i]) >> 1));
        break;
    default:
        for (size_t i = from; i < n; i++)
            line[i] = (uint8_t)(row[i] + paeth(line[i - (size_t)step], above[i], above[i - (size_t)step]));
    }
}

INLINE void write_bgr(const uint8_t *line, size_t x0, size_t x1, int step, uint8_t *out)
{
    for (size_t x = x0; x < x1; x++, out += 3) {
        out[0] = line[(size_t)step * x + 2];
        out[1] = line[(size_t)step * x + 1];
        out[2] = line[(size_t)step * x];
    }
}

/* The first row below the wanted ones' top that must be restored, if rows to `n` are given whose first is row y of the
   image: those above the wanted ones matter only from the last one on that needs none above it. */
INLINE size_t first_needed(const Job *job, const uint8_t *rows, size_t n, size_t y)
{
    if (y >= job->wanted->y0)
        return 0;
    size_t first = job->wanted->y0 - y < n ? job->wanted->y0 - y : n - 1;
    while (first > 0 && rows[first * job->stride] > SUB)
        first--;
    return first;
}

INLINE void keep_last(Job *job, size_t rows)
{
    uint8_t *const last = job->lines[rows];
    job->lines[rows] = job->lines[0];
    job->lines[0] = last;
}

INLINE size_t unfilter_portable_step(Job *job, const uint8_t *rows, size_t n, size_t y, int step)
{
    for (size_t i = first_needed(job, rows, n, y); i < n; i++) {
        const uint8_t *row = rows + i * job->stride;
        restore(row + 1, job->lines[0], 0, job->bytes, row[0], step, job->lines[1]);
        if (y + i >= job->wanted->y0) {
            write_bgr(job->lines[1], job->wanted->x0, job->wanted->x1, step, job->out);
            job->out += 3 * (job->wanted->x1 - job->wanted->x0);
        }
        keep_last(job, 1);
    }
    return n;
}

static size_t unfilter_portable(Job *job, const uint8_t *rows, size_t n, size_t y)
{
    if (job->wanted->channels == 3) /* constants, so that each call becomes a loop of its own */
        return unfilter_portable_step(job, rows, n, y, 3);
    return unfilter_portable_step(job, rows, n, y, 4);
}

#if HAVE_AVX2
INLINE_AVX2 __m128i load4(const uint8_t *bytes)
{
    int32_t value;
    memcpy(&value, bytes, sizeof value);
    return _mm_cvtsi32_si128(value);
}

INLINE_AVX2 void store4(uint8_t *bytes, __m128i value)
{
    const int32_t low = _mm_cvtsi128_si32(value);
    memcpy(bytes, &low, sizeof low);
}

/* Each returns how many bytes it did. It may write some more of the line, and leaves its last pixels to restore(). */
INLINE_AVX2 size_t restore_sub(const uint8_t *row, size_t n, int step, uint8_t *line)
{
    /* the last whole pixel, over and over */
    const __m128i last = step == 3 ? _mm_setr_epi8(12, 13, 14, 12, 13, 14, 12, 13, 14, 12, 13, 14, 12, 13, 14, 12)
                                   : _mm_setr_epi8(12, 13, 14, 15, 12, 13, 14, 15, 12, 13, 14, 15, 12, 13, 14, 15);
    __m128i left = _mm_setzero_si128();
    size_t i = 0;
    for (; i + 16 <= n; i += step == 3 ? 15 : 16) {
        __m128i sums = _mm_loadu_si128((const __m128i *)(row + i));
        if (step == 3) {
            sums = _mm_add_epi8(sums, _mm_slli_si128(sums, 3));
            sums = _mm_add_epi8(sums, _mm_slli_si128(sums, 6));
            sums = _mm_add_epi8(sums, _mm_slli_si128(sums, 12));
        } else {
            sums = _mm_add_epi8(sums, _mm_slli_si128(sums, 4));
            sums = _mm_add_epi8(sums, _mm_slli_si128(sums, 8));
        }
        sums = _mm_add_epi8(sums, left);
        left = _mm_shuffle_epi8(sums, last);
        _mm_storeu_si128((__m128i *)(line + i), sums);
    }
    return i;
}

/* The processor's own average rounds up, so it is given the complements; then two operations lead from one pixel to the
   next: ~(x + floor((l + u) / 2)) = ceil((~l + ~u) / 2) - x. */
INLINE_AVX2 size_t restore_average(const uint8_t *row, const uint8_t *above, size_t n, int step, uint8_t *line)
{
    const __m128i ones = _mm_set1_epi8(-1);
    __m128i not_left = ones;
    size_t i = 0;
    for (; i + 4 <= n; i += (size_t)step) {
        const __m128i not_up = _mm_xor_si128(load4(above + i), ones);
        not_left = _mm_sub_epi8(_mm_avg_epu8(not_left, not_up), load4(row + i));
        store4(line + i, _mm_xor_si128(not_left, ones));
    }
    return i;
}

/* Sixteen-bit lanes, that have bytes of samples plus guesses in them. The guess is the higher of left and up where
   corner lies below both by far, the lower where it lies above, else corner: four steps from left, where PNG's own
   words are seven. */
INLINE_AVX2 __m256i restored_paeth(__m256i samples, __m256i left, __m256i up, __m256i corner)
{
    const __m256i low = _mm256_min_epi16(left, up), high = _mm256_max_epi16(left, up);
    const __m256i thrice = _mm256_sub_epi16(_mm256_add_epi16(corner, _mm256_add_epi16(corner, corner)), up);
    const __m256i bound = _mm256_sub_epi16(thrice, left);
    const __m256i guess = _mm256_blendv_epi8(low, corner, _mm256_cmpgt_epi16(high, bound));
    return _mm256_add_epi8(samples, _mm256_blendv_epi8(high, guess, _mm256_cmpgt_epi16(bound, low)));
}

INLINE_AVX2 __m256i lanes_of(const uint8_t *const *bytes)
{
    int32_t four[WAVE];
    for (int k = 0; k < WAVE; k++)
        memcpy(four + k, bytes[k], 4);
    return _mm256_cvtepu8_epi16(_mm_setr_epi32(four[0], four[1], four[2], four[3]));
}

INLINE_AVX2 size_t restore_paeth(const uint8_t *row, const uint8_t *above, size_t n, int step, uint8_t *line)
{
    __m256i left = _mm256_setzero_si256(), corner = left;
    size_t i = 0;
    for (; i + 4 <= n; i += (size_t)step) {
        const __m256i up = _mm256_cvtepu8_epi16(load4(above + i));
        left = restored_paeth(_mm256_cvtepu8_epi16(load4(row + i)), left, up, corner);
        corner = up;
        store4(line + i, _mm256_castsi256_si128(_mm256_packus_epi16(left, left)));
    }
    return i;
}

/* WAVE rows at once, each in 64 bits of a register and two pixels behind the one above it: while one waits for its
   pixel to the left, so do the others, and what is above is long known. */
INLINE_AVX2 void restore_paeth_wave(const uint8_t *rows, size_t stride, uint8_t *const *lines, size_t n, int step)
{
    const size_t lag = 2 * (size_t)step;
    const uint8_t *row[WAVE], *pixel[WAVE];
    size_t at[WAVE];
    for (int k = 0; k < WAVE; k++) {
        row[k] = rows + (size_t)k * stride + 1;
        at[k] = (size_t)(WAVE - 1 - k) * lag;
        if (at[k] > n)
            at[k] = n;
        restore(row[k], lines[k], 0, at[k], PAETH, step, lines[k + 1]);
    }
    if ((WAVE - 1) * lag + 4 <= n) { /* four bytes are read where a pixel has three */
        for (int k = 0; k < WAVE; k++)
            pixel[k] = lines[k + 1] + at[k] - step;
        __m256i left = lanes_of(pixel);
        for (int k = 0; k < WAVE; k++)
            pixel[k] = lines[k] + at[k] - step;
        __m256i corner = lanes_of(pixel);
        for (int k = 0; k < WAVE; k++)
            pixel[k] = k < WAVE - 1 ? lines[k + 1] + at[k] - lag : lines[k + 1];
        __m256i before_left = lanes_of(pixel);
        const __m256i zero = _mm256_setzero_si256();
        size_t i = 0;
        for (; at[0] + i + 4 <= n; i += (size_t)step) {
            const __m256i top = _mm256_cvtepu8_epi16(load4(lines[0] + at[0] + i));
            const __m256i up = _mm256_blend_epi32(_mm256_permute4x64_epi64(before_left, 0x90), top, 3);
            for (int k = 0; k < WAVE; k++)
                pixel[k] = row[k] + at[k] + i;
            before_left = left;
            left = restored_paeth(lanes_of(pixel), left, up, corner);
            corner = up;
            const __m256i bytes = _mm256_packus_epi16(left, zero);
            const __m128i first = _mm256_castsi256_si128(bytes), second = _mm256_extracti128_si256(bytes, 1);
            store4(lines[1] + at[0] + i, first);
            store4(lines[2] + at[1] + i, _mm_srli_si128(first, 4));
            store4(lines[3] + at[2] + i, second);
            store4(lines[4] + at[3] + i, _mm_srli_si128(second, 4));
        }
        for (int k = 0; k < WAVE; k++)
            at[k] += i;
    }
    for (int k = 0; k < WAVE; k++)
        restore(row[k], lines[k], at[k], n, PAETH, step, lines[k + 1]);
}

/* Two rows at once, the second a pixel behind the first: while one waits for its pixel to the left, so does the other.
   Returns how many bytes it did of the first row; of the second it is a pixel less. */
INLINE_AVX2 size_t restore_average_pair(const uint8_t *row, const uint8_t *next, const uint8_t *above, size_t n,
                                        int step, uint8_t *line, uint8_t *below)
{
    const __m128i ones = _mm_set1_epi8(-1);
    __m128i not_left = ones, not_left_below = ones;
    size_t i = 0;
    for (; i + 4 <= n; i += (size_t)step) {
        if (i) {
            not_left_below = _mm_sub_epi8(_mm_avg_epu8(not_left_below, not_left), load4(next + i - step));
            store4(below + i - step, _mm_xor_si128(not_left_below, ones));
        }
        const __m128i not_up = _mm_xor_si128(load4(above + i), ones);
        not_left = _mm_sub_epi8(_mm_avg_epu8(not_left, not_up), load4(row + i));
        store4(line + i, _mm_xor_si128(not_left, ones));
    }
    return i;
}

/* As many pixels at a time as fit into 16 bytes on both sides. */
INLINE_AVX2 void write_bgr_avx2(const uint8_t *line, size_t x0, size_t x1, int step, uint8_t *out)
{
    const __m128i order = step == 3 ? _mm_setr_epi8(2, 1, 0, 5, 4, 3, 8, 7, 6, 11, 10, 9, 14, 13, 12, -1)
                                    : _mm_setr_epi8(2, 1, 0, 6, 5, 4, 10, 9, 8, 14, 13, 12, -1, -1, -1, -1);
    const int pixels = step == 3 ? 5 : 4;
    size_t x = x0;
    for (; x + 6 <= x1; x += pixels) {
        const __m128i some = _mm_loadu_si128((const __m128i *)(line + (size_t)step * x));
        _mm_storeu_si128((__m128i *)(out + 3 * (x - x0)), _mm_shuffle_epi8(some, order));
    }
    write_bgr(line, x, x1, step, out + 3 * (x - x0));
}

INLINE_AVX2 void restore_avx2(const uint8_t *row, const uint8_t *above, size_t n, int filter, int step, uint8_t *line)
{
    size_t done = 0;
    if (filter == SUB)
        done = restore_sub(row, n, step, line);
    else if (filter == AVERAGE)
        done = restore_average(row, above, n, step, line);
    else if (filter == PAETH)
        done = restore_paeth(row, above, n, step, line);
    restore(row, above, done, n, filter, step, line);
}

/* Rows of this one's filter from here on, WAVE at most. */
INLINE_AVX2 size_t alike(const uint8_t *row, size_t stride, size_t n)
{
    size_t rows = 1;
    while (rows < n && rows < WAVE && row[rows * stride] == row[0])
        rows++;
    return rows;
}

INLINE_AVX2 size_t unfilter_avx2_step(Job *job, const uint8_t *rows, size_t n, size_t y, int step)
{
    const int are_last = y + n == job->wanted->y1;
    size_t i = first_needed(job, rows, n, y);
    while (i < n) {
        const uint8_t *row = rows + i * job->stride, *next = row + job->stride;
        const int filter = row[0];
        const size_t like = filter == AVERAGE || filter == PAETH ? alike(row, job->stride, n - i) : 1;
        size_t count = 1;
        if (filter == PAETH && like == WAVE) {
            restore_paeth_wave(row, job->stride, job->lines, job->bytes, step);
            count = WAVE;
        } else if (filter == PAETH && like == n - i && !are_last) {
            break; /* more of a wave may follow */
        } else if (filter == AVERAGE && like > 1) {
            const size_t done =
                restore_average_pair(row + 1, next + 1, job->lines[0], job->bytes, step, job->lines[1], job->lines[2]);
            restore(row + 1, job->lines[0], done, job->bytes, filter, step, job->lines[1]);
            restore(next + 1, job->lines[1], done >= (size_t)step ? done - (size_t)step : 0, job->bytes, filter, step,
                    job->lines[2]);
            count = 2;
        } else {
            restore_avx2(row + 1, job->lines[0], job->bytes, filter, step, job->lines[1]);
        }
        for (size_t k = 1; k <= count; k++, i++)
            if (y + i >= job->wanted->y0) {
                write_bgr_avx2(job->lines[k], job->wanted->x0, job->wanted->x1, step, job->out);
                job->out += 3 * (job->wanted->x1 - job->wanted->x0);
            }
        keep_last(job, count);
    }
    return i;
}

AVX2 static size_t unfilter_avx2(Job *job, const uint8_t *rows, size_t n, size_t y)
{
    if (job->wanted->channels == 3)
        return unfilter_avx2_step(job, rows, n, y, 3);
    return unfilter_avx2_step(job, rows, n, y, 4);
}
#endif

/* Restores rows, of which the first is row y of the image, and writes what is wanted of them. Returns how many it is
   done with, which may be fewer by WAVE - 1 at most as long as more follow; 0 for an unknown filter. */
static size_t unfilter(Job *job, const uint8_t *rows, size_t n, size_t y, int level)
{
    for (size_t i = 0; i < n; i++)
        if (rows[i * job->stride] >= FILTERS)
            return 0;
#if HAVE_AVX2
    if (level >= LEVEL_AVX2)
        return unfilter_avx2(job, rows, n, y);
#endif
    (void)level;
    return unfilter_portable(job, rows, n, y);
}

/* A window before fresh bytes, or rows before them that wait for a further one. */
static size_t largest(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Whether the stream ends here, and is what its checksum says. */
static int is_end(Inflater *inflater, const uint8_t *begin, uint8_t *to, uint32_t adler)
{
    uint8_t *further = to;
    uint32_t stored;
    return inflate(inflater, begin, &further, to + 1) == INFLATE_ENDED && further == to &&
           inflate_checksum(inflater, &stored) && stored == adler;
}

static int decode(Inflater *inflater, Job *job, uint8_t *begin, size_t room, int level)
{
    const Rectangle *const wanted = job->wanted;
    const int to_the_end = wanted->y1 == wanted->height;
    size_t left = wanted->y1 * job->stride; /* bytes of the stream to inflate */
    uint8_t *row = begin, *to = begin;
    uint32_t adler = 1;
    for (size_t y = 0; y < wanted->y1;) {
        uint8_t *kept = (size_t)(to - begin) > INFLATE_WINDOW ? to - INFLATE_WINDOW : begin;
        if (kept > row)
            kept = row;
        memmove(begin, kept, (size_t)(to - kept));
        row -= kept - begin;
        to -= kept - begin;
        uint8_t *const fresh = to;
        const size_t space = room - (size_t)(to - begin);
        const Inflated result = inflate(inflater, begin, &to, to + (left < space ? left : space));
        const size_t count = (size_t)(to - fresh);
        if (result == INFLATE_DAMAGED || (to_the_end ? count > left : 0))
            return 0;
        if (to_the_end)
            adler = adler32(adler, fresh, count, level);
        left -= count < left ? count : left;
        size_t rows = (size_t)(to - row) / job->stride;
        if (rows > wanted->y1 - y)
            rows = wanted->y1 - y;
        if (rows == 0 || (result == INFLATE_ENDED && left > 0))
            return 0;
        const size_t done = unfilter(job, row, rows, y, level);
        if (done == 0)
            return 0;
        y += done;
        row += done * job->stride;
    }
    return !to_the_end || is_end(inflater, begin, to, adler);
}

void scanlines_prepare(void)
{
    prepare_crc();
}

Decoded scanlines_decode(const uint8_t *file, size_t size, const Rectangle *wanted, int level, uint8_t *out)
{
    const size_t stride = 1 + wanted->width * (size_t)wanted->channels;
    const size_t room = largest(INFLATE_WINDOW, WAVE * stride) + largest(FRESH_BYTES, stride);
    const size_t bytes = wanted->x1 * (size_t)wanted->channels, line_size = MARGIN + bytes;
    if (!is_sound(file, size, level))
        return NOT_DECODED;
    Chunks chunks = {{next_of_stream}, file + SIGNATURE_BYTES, file + size};
    Inflater *const inflater = malloc(sizeof *inflater);
    uint8_t *const begin = malloc(room + INFLATE_SLACK), *const lines = calloc(LINES, line_size);
    Decoded result = NO_MEMORY;
    if (inflater != NULL && begin != NULL && lines != NULL) {
        Job job = {.wanted = wanted, .stride = stride, .bytes = bytes, .out = out};
        for (size_t i = 0; i < LINES; i++)
            job.lines[i] = lines + i * line_size + MARGIN;
        result = inflate_begin(inflater, &chunks.pieces, level) && decode(inflater, &job, begin, room, level)
                     ? DECODED
                     : NOT_DECODED;
    }
    free(lines);
    free(begin);
    free(inflater);
    return result;
}
