/* The exact warp in C; README.md has the formula, reference.py is the same in a few lines of NumPy.

   There is a portable version of each interpolation and an AVX2 version. All are integer arithmetic on the tables of
   tables.py, so all give the same bytes. */

#ifndef SAMPLER_H
#define SAMPLER_H

#include <stddef.h>
#include <stdint.h>

enum { FRACTION_BITS = 5 };

typedef struct {
    const uint8_t *pixels; /* [height, width, 3], rows `stride` bytes apart */
    ptrdiff_t stride;
    int32_t width, height;
    int32_t x0, y0; /* the frame pixel that pixels[0, 0] is */
} Source;

typedef struct {
    const int32_t *dx, *dy, *X0, *Y0; /* [size] each, 1/1024 px */
    int32_t size;
} Positions;

/* out [size, size, 3]; weights [1024, k, k] with k = 2 or 4; fast: whether this processor has AVX2 and it may be used.
 */
void sampler_warp(const Source *source, const Positions *at, const int16_t *weights, int k, int fast, uint8_t *out);

#endif
