/* PNG's guess of a byte: left, above or corner, whichever lies nearest to left + above - corner. */

#ifndef PAETH_H
#define PAETH_H

#include "machine.h"

INLINE uint8_t paeth(int left, int above, int corner)
{
    const int estimate_left = above - corner, estimate_above = left - corner; /* distances from left + above - corner */
    const int to_left = estimate_left < 0 ? -estimate_left : estimate_left;
    const int to_above = estimate_above < 0 ? -estimate_above : estimate_above;
    const int both = estimate_left + estimate_above;
    const int to_corner = both < 0 ? -both : both;
    const int nearer = to_above <= to_corner ? above : corner;
    return (uint8_t)(to_left <= to_above && to_left <= to_corner ? left : nearer);
}

#endif
