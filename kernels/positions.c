/* See positions.h. Must not be compiled with contracted or reordered floating point. */

#include "positions.h"

static inline int32_t position(double pixels)
{
    const double value = pixels * 1024.0, limit = 4503599627370496.0;
    const double whole = 1.5 * limit;       /* whose last bit is 1, so that adding it rounds half to even */
    if (!(value > -limit && value < limit)) /* NaN is neither */
        return INT32_MIN;
    const double rounded = (value + whole) - whole;
    return rounded >= -2147483648.0 && rounded < 2147483648.0 ? (int32_t)rounded : INT32_MIN;
}

static inline int32_t with_rounding(int32_t position)
{
    return (int32_t)((uint32_t)position + 16u); /* half of 1/32 px; wraps around */
}

void positions_of(const double *m, int32_t size, int32_t *table)
{
    const double determinant = m[0] * m[4] - m[1] * m[3];
    const double reciprocal = determinant != 0 ? 1.0 / determinant : 0.0;
    const double i00 = m[4] * reciprocal, i01 = m[1] * -reciprocal, i02 = -i00 * m[2] - i01 * m[5];
    const double i10 = m[3] * -reciprocal, i11 = m[0] * reciprocal, i12 = -i10 * m[2] - i11 * m[5];
    int32_t *const dx = table, *const dy = dx + size, *const X0 = dy + size, *const Y0 = X0 + size;
    for (int32_t i = 0; i < size; i++) {
        const double step = i;
        dx[i] = position(i00 * step);
        dy[i] = position(i10 * step);
        X0[i] = with_rounding(position(i01 * step + i02));
        Y0[i] = with_rounding(position(i11 * step + i12));
    }
}
