/* Pixels of an 8-bit RGB(A) PNG without interlacing, from the bytes of its file. The stream is inflated (inflate.h) as
   far down as the wanted rectangle reaches, its rows are restored as far to the right, and only the rectangle is
   written, as BGR, row by row. Pure C. */

#ifndef SCANLINES_H
#define SCANLINES_H

#include <stddef.h>
#include <stdint.h>

/* x0 <= x < x1 and y0 <= y < y1 of an image; neither is empty. */
typedef struct {
    size_t width, height;
    int channels; /* 3 or 4 */
    size_t x0, y0, x1, y1;
} Rectangle;

typedef enum { DECODED, NOT_DECODED, NO_MEMORY } Decoded;

/* Once, before anything else. */
void scanlines_prepare(void);

/* Writes [y1 - y0, x1 - x0, 3] to `out`. NOT_DECODED where a chunk is not what its checksum says, wherever it stands,
   another one stands between those of the stream, or the stream is damaged in the part that is read; where that is all
   of it, also if it does not end after the last row or its own checksum is wrong. level: of this processor, or a lower
   one. */
Decoded scanlines_decode(const uint8_t *file, size_t size, const Rectangle *wanted, int level, uint8_t *out);

#endif
