/* 8-bit 4:2:0 planes to BGR in C; yuv.py has the formula. */

#ifndef YUV_H
#define YUV_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    int16_t luma, luma_zero, blue_u, green_u, green_v, red_v;
} Coefficients;

typedef struct {
    const uint8_t *start; /* the first sample of the rectangle */
    ptrdiff_t stride;
} Plane;

typedef struct {
    Plane y, u, v;
    ptrdiff_t width, height; /* of the rectangle, even */
    uint8_t *bgr;            /* [height, width, 3] */
} Conversion;

/* fast: whether this processor has AVX2 and it may be used. */
void yuv_convert(const Conversion *job, const Coefficients *c, int fast);

#endif
