/* PNG files of crops: rows filtered (rows.h), deflated a block at a time (deflate.h) and wrapped into chunks. There are
   versions for each level of machine.h; all write the same bytes. */

#ifndef PNG_H
#define PNG_H

#include <stddef.h>
#include <stdint.h>

enum { PNG_MOST_DATA = 0x7fffffff /* bytes of data in a chunk */ };

typedef struct {
    const uint8_t *pixels; /* [height, width, 3] BGR, rows `stride` bytes apart */
    ptrdiff_t stride;
    size_t width, height;
} Crop;

/* Memory for the files of crops of one size. */
typedef struct PngWriter PngWriter;

/* Once, before anything else. */
void png_prepare(void);

/* Bytes of data that the chunk of a crop's pixels takes at most; SIZE_MAX where that is more than PNG_MOST_DATA. */
size_t png_most_data(size_t width, size_t height);

/* For files with `text_bytes` of text at most; NULL if there is no memory. Sides of at least 1 whose png_most_data
 * fits. */
PngWriter *png_writer(size_t width, size_t height, size_t text_bytes);
void png_writer_free(PngWriter *writer);

/* Writes the file of a crop of the writer's size, with `text` as the data of an iTXt chunk before the pixels unless it
   is NULL. Returns its size; *file stays until the next call. level: of this processor,
   or a lower one. */
size_t png_write(PngWriter *writer, const Crop *crop, const uint8_t *text, size_t text_bytes, int level,
                 const uint8_t **file);

/* The zlib stream of at least one byte, as for a file's rows; in memory of its own, to be freed, or NULL. */
uint8_t *png_deflated(const uint8_t *data, size_t size, int level, size_t *stream_bytes);

#endif
