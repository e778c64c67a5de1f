/* Planar YUV to BGR in C; yuv.py has the formulas. */

#ifndef YUV_H
#define YUV_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    int16_t luma, luma_zero, blue_u, green_u, green_v, red_v;
    int32_t scale, zero, step_blue_u, step_green_u, step_green_v, step_red_v;
} Coefficients;

typedef struct {
    int bits;   /* of a sample, which takes two bytes, little-endian, where it has more than 8 */
    int halved; /* whether chroma has half the rows */
    int left;   /* of more than 8 bits: whether chroma lies on the left one of its two pixels, not between them */
    int down;   /* and whether it lies on the upper one of its two rows (0), between them (1) or on the lower one (2) */
    int cubic;  /* and whether it is interpolated from four rows, and all is computed in levels */
} Layout;

typedef struct {
    const uint8_t *start; /* the picture's first sample */
    ptrdiff_t stride;     /* bytes */
} Plane;

typedef struct {
    Plane y, u, v;
    ptrdiff_t picture_width, picture_height; /* even */
    ptrdiff_t x0, y0, width, height;         /* the rectangle that is wanted, all even */
    uint8_t *bgr;                            /* [height, width, 3] */
} Conversion;

/* Whether there is a formula for it. */
int yuv_is_known(const Layout *layout);

/* fast: whether this processor has AVX2 and it may be used. */
void yuv_convert(const Conversion *job, const Coefficients *c, const Layout *layout, int fast);

#endif
