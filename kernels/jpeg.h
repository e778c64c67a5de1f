/* Rectangles of a baseline JPEG as BGR, to the bytes that libjpeg-turbo gives by default. jpeg.py says which files. */

#ifndef JPEG_H
#define JPEG_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    int64_t x0, y0, x1, y1; /* half-open */
} Rectangle;

/* Writes the pixels of one rectangle after the other to out, [height, width, 3] each. 0 if another decoder should do
   the file, or judge it, or if there is no memory; what stands in out is then undefined. as_stored: an EXIF block,
   which might turn the image, is passed over. level: of this processor, or a lower one. */
int jpeg_rectangles(const uint8_t *data, size_t size, const Rectangle *rectangles, size_t count, int as_stored,
                    int level, uint8_t *out);

#endif
