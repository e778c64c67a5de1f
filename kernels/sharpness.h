/* How sharp an image is, as sharpness.py says it: a number that is the same on every machine. */

#ifndef SHARPNESS_H
#define SHARPNESS_H

#include <stddef.h>
#include <stdint.h>

enum { SHARPNESS_MOST_SIDE = 1 << 15 /* up to which all sums are exact */ };

/* Of height x width BGR pixels in rows one after another. sums: room for 3 * width numbers. level: as of machine.h. */
double sharpness(const uint8_t *pixels, int32_t height, int32_t width, int level, uint32_t *sums);

#endif
