/* See sharpness.h. */

#include "sharpness.h"

#include "machine.h"

enum { CHANNELS = 3, CELLS = 128, BLUE = 29, GREEN = 150, RED = 77, ONE = 256 /* their sum: a level of grey */ };

/* Pixels of one axis in cells of equal width. A unit is the largest that divides both. */
typedef struct {
    int32_t cells, pixel, cell; /* their number; units of a pixel and of a cell */
} Axis;

/* The pixels of one cell: `first` whole or not, then `whole` ones, then perhaps a part of another. */
typedef struct {
    int32_t first, whole, of_first, of_last; /* of_*: units */
} Span;

static Axis axis_of(int32_t pixels)
{
    const int32_t cells = pixels < CELLS ? pixels : CELLS;
    int32_t a = pixels, b = cells;
    while (b != 0) {
        const int32_t rest = a % b;
        a = b;
        b = rest;
    }
    return (Axis){cells, cells / a, pixels / a};
}

static Span span_of(const Axis *axis, int32_t number)
{
    const int64_t start = (int64_t)number * axis->cell, stop = start + axis->cell;
    const int32_t first = (int32_t)(start / axis->pixel);
    const int32_t of_first = (int32_t)((int64_t)(first + 1) * axis->pixel - start); /* a cell is no less than a pixel */
    const int32_t rest = (int32_t)(stop - start) - of_first;
    return (Span){first, rest / axis->pixel, of_first, rest % axis->pixel};
}

/* Adds `weight` times a row of `count` bytes; it begins the sums if `is_first`. */
INLINE void add(const uint8_t *row, size_t count, uint32_t weight, int is_first, uint32_t *sums)
{
    if (is_first)
        for (size_t i = 0; i < count; i++)
            sums[i] = weight * row[i];
    else if (weight == 1)
        for (size_t i = 0; i < count; i++)
            sums[i] += row[i];
    else
        for (size_t i = 0; i < count; i++)
            sums[i] += weight * row[i];
}

/* The sums of a row of cells, from those of its columns of bytes. */
INLINE void across(const uint32_t *sums, const Axis *axis, const Span *spans, double *cells)
{
    const uint64_t pixel = (uint64_t)axis->pixel;
    for (int32_t i = 0; i < axis->cells; i++) {
        const Span span = spans[i];
        const uint32_t *at = sums + (ptrdiff_t)CHANNELS * span.first;
        uint64_t colours[CHANNELS], whole[CHANNELS] = {0};
        for (int c = 0; c < CHANNELS; c++)
            colours[c] = (uint64_t)span.of_first * at[c];
        at += CHANNELS;
        for (int32_t k = 0; k < span.whole; k++, at += CHANNELS)
            for (int c = 0; c < CHANNELS; c++)
                whole[c] += at[c];
        for (int c = 0; c < CHANNELS; c++)
            colours[c] += pixel * whole[c] + (span.of_last > 0 ? (uint64_t)span.of_last * at[c] : 0);
        cells[i] = (double)(int64_t)(BLUE * colours[0] + GREEN * colours[1] + RED * colours[2]);
    }
}

INLINE double measured(const uint8_t *pixels, int32_t height, int32_t width, uint32_t *sums)
{
    const Axis down = axis_of(height), along = axis_of(width);
    const size_t row_bytes = (size_t)CHANNELS * (size_t)width;
    const int32_t inside = (down.cells - 2) * (along.cells - 2);
    if (down.cells < 3 || along.cells < 3)
        return 0;
    Span spans[CELLS];
    for (int32_t i = 0; i < along.cells; i++)
        spans[i] = span_of(&along, i);
    const double area = (double)((int64_t)down.cell * along.cell), half = (double)((int64_t)down.cell * along.cell / 2);
    double exact[CELLS];
    int32_t rows[3][CELLS];
    int64_t sum = 0;
    uint64_t squares = 0;
    for (int32_t y = 0; y < down.cells; y++) {
        const Span span = span_of(&down, y);
        const uint8_t *row = pixels + row_bytes * (size_t)span.first;
        add(row, row_bytes, (uint32_t)span.of_first, 1, sums);
        for (int32_t k = 0; k < span.whole; k++)
            add(row += row_bytes, row_bytes, (uint32_t)down.pixel, 0, sums);
        if (span.of_last > 0)
            add(row + row_bytes, row_bytes, (uint32_t)span.of_last, 0, sums);
        across(sums, &along, spans, exact);
        int32_t *const below = rows[y % 3];
        /* The quotient of whole numbers lies no nearer to a whole one than doubles tell, so this is its floor. */
        for (int32_t x = 0; x < along.cells; x++)
            below[x] = (int32_t)((exact[x] + half) / area);
        if (y < 2)
            continue;
        int32_t of_row = 0;
        const int32_t *const middle = rows[(y - 1) % 3], *const above = rows[(y - 2) % 3];
        for (int32_t x = 1; x + 1 < along.cells; x++) {
            const int32_t value = above[x] + below[x] + middle[x - 1] + middle[x + 1] - 4 * middle[x];
            const uint32_t size = (uint32_t)(value < 0 ? -value : value);
            of_row += value;
            squares += (uint64_t)size * size;
        }
        sum += of_row;
    }
    const uint64_t count = (uint64_t)inside, whole = (uint64_t)(sum < 0 ? -sum : sum);
    return (double)(count * squares - whole * whole) / (double)(count * count * ONE * ONE);
}

static double measured_portable(const uint8_t *pixels, int32_t height, int32_t width, uint32_t *sums)
{
    return measured(pixels, height, width, sums);
}

#if HAVE_AVX2
AVX2 static double measured_avx2(const uint8_t *pixels, int32_t height, int32_t width, uint32_t *sums)
{
    return measured(pixels, height, width, sums);
}
#endif

double sharpness(const uint8_t *pixels, int32_t height, int32_t width, int level, uint32_t *sums)
{
#if HAVE_AVX2
    if (level >= LEVEL_AVX2)
        return measured_avx2(pixels, height, width, sums);
#else
    (void)level;
#endif
    return measured_portable(pixels, height, width, sums);
}
