/* See png.h. */

#include <stdlib.h>

#include "png.h"

#include "checksums.h"
#include "deflate.h"
#include "machine.h"
#include "rows.h"

enum {
    CHUNK = 12, /* bytes of a chunk beside its data */
    MARGIN = 64 /* bytes before and after a block, of which marking repeats reads some */
};

/* A zlib stream (RFC 1950) in the making. */
typedef struct {
    Deflater deflater;
    Writer to;
    uint32_t adler;
    int level;
} Stream;

static void begin(Stream *stream, uint8_t *out, int level)
{
    stream->to = (Writer){out, 0, 0};
    stream->adler = 1;
    stream->level = level;
    put(&stream->to, 0x0178, 16); /* a window of 32 KB, no dictionary, the fastest level */
    flush(&stream->to);
}

/* data lies between MARGINs. */
static void add(Stream *stream, const uint8_t *data, size_t size, int last)
{
    stream->adler = adler32(stream->adler, data, size, stream->level);
    for (size_t part; size > 0; data += part, size -= part) {
        part = size < BLOCK ? size : BLOCK;
        deflate(&stream->deflater, &stream->to, data, part, last && part == size, stream->level);
    }
}

/* Returns where the stream ends. */
static uint8_t *finish(Stream *stream)
{
    put(&stream->to, 0, (8 - stream->to.count) & 7);
    flush(&stream->to);
    return store_big_32(stream->to.out, stream->adler);
}

/* Bytes that a stream of `size` takes at most, if only the last block has less than BLOCK / 2. */
static size_t most_bytes(size_t size)
{
    return 2 + size + BLOCK_OVERHEAD * (2 * size / BLOCK + 1) + 4;
}

struct PngWriter {
    Stream stream;
    uint8_t *lines[2];      /* the row above and this one, RGB, after PIXEL zeros */
    uint8_t *rows[FILTERS]; /* this one, filtered */
    uint8_t *block;         /* BLOCK bytes or a row, between MARGINs */
    uint8_t *file;
};

static uint8_t *write_pixels(const Crop *crop, PngWriter *writer)
{
    const size_t n = PIXEL * crop->width;
    Stream *const stream = &writer->stream;
    uint8_t *above = writer->lines[0], *row = writer->lines[1], *end = writer->block;
    memset(above, 0, n); /* the row above the first is black */
    for (size_t y = 0; y < crop->height; y++) {
        const uint8_t *bgr = crop->pixels + (ptrdiff_t)y * crop->stride;
        uint64_t costs[FILTERS];
#if HAVE_AVX2
        if (stream->level >= LEVEL_AVX2) {
            swap_avx2(bgr, n, row);
            filter_avx2(row, above, n, writer->rows, costs);
        } else
#endif
        {
            swap_portable(bgr, 0, n, row);
            filter_portable(row, above, n, writer->rows, costs);
        }
        int best = 0;
        for (int filter = 1; filter < FILTERS; filter++)
            if (costs[filter] < costs[best])
                best = filter;
        *end = (uint8_t)(UP + best);
        memcpy(end + 1, writer->rows[best], n);
        end += 1 + n;
        const size_t size = (size_t)(end - writer->block);
        const int last = y + 1 == crop->height;
        if (last || size + 1 + n > BLOCK) {
            add(stream, writer->block, size, last);
            end = writer->block;
        }
        uint8_t *const next = above;
        above = row;
        row = next;
    }
    return finish(stream);
}

/* Returns where the chunk ends, whose `size` bytes of data are in place, eight bytes after its start. */
static uint8_t *close_chunk(uint8_t *chunk, const char *kind, size_t size, int level)
{
    store_big_32(chunk, (uint32_t)size);
    memcpy(chunk + 4, kind, 4);
    return store_big_32(chunk + 8 + size, crc32(chunk + 4, 4 + size, level));
}

size_t png_write(PngWriter *writer, const Crop *crop, const uint8_t *text, size_t text_bytes, int level,
                 const uint8_t **file)
{
    static const uint8_t signature[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    static const uint8_t format[5] = {8, 2, 0, 0, 0}; /* bits a sample; RGB; deflate, filters, no interlacing */
    uint8_t *out = writer->file;
    memcpy(out, signature, sizeof signature);
    out += sizeof signature;
    store_big_32(out + 8, (uint32_t)crop->width);
    store_big_32(out + 12, (uint32_t)crop->height);
    memcpy(out + 16, format, sizeof format);
    out = close_chunk(out, "IHDR", 13, level);
    if (text != NULL) {
        memcpy(out + 8, text, text_bytes);
        out = close_chunk(out, "iTXt", text_bytes, level);
    }
    begin(&writer->stream, out + 8, level);
    out = close_chunk(out, "IDAT", (size_t)(write_pixels(crop, writer) - out - 8), level);
    out = close_chunk(out, "IEND", 0, level);
    *file = writer->file;
    return (size_t)(out - writer->file);
}

size_t png_most_data(size_t width, size_t height)
{
    if (width > PNG_MOST_DATA / 4 || height > PNG_MOST_DATA / (1 + PIXEL * width) ||
        most_bytes(height * (1 + PIXEL * width)) > PNG_MOST_DATA)
        return SIZE_MAX;
    return most_bytes(height * (1 + PIXEL * width));
}

PngWriter *png_writer(size_t width, size_t height, size_t text_bytes)
{
    const size_t row = 1 + PIXEL * width, line = PIXEL + row;
    const size_t block = MARGIN + (row > BLOCK ? row : BLOCK) + MARGIN;
    const size_t file = 8 + CHUNK + 13 + CHUNK + text_bytes + CHUNK + png_most_data(width, height) + CHUNK + SLACK;
    PngWriter *writer = malloc(sizeof *writer + 2 * line + FILTERS * row + block + file);
    if (writer == NULL)
        return NULL;
    uint8_t *memory = (uint8_t *)(writer + 1);
    memset(memory, 0, 2 * line);
    for (int i = 0; i < 2; i++, memory += line)
        writer->lines[i] = memory + PIXEL;
    for (int filter = 0; filter < FILTERS; filter++, memory += row)
        writer->rows[filter] = memory;
    memset(memory, 0, block);
    writer->block = memory + MARGIN;
    writer->file = memory + block;
    return writer;
}

void png_writer_free(PngWriter *writer)
{
    free(writer);
}

uint8_t *png_deflated(const uint8_t *data, size_t size, int level, size_t *stream_bytes)
{
    const size_t margins = MARGIN + size + MARGIN, most = most_bytes(size) + SLACK;
    uint8_t *const out = malloc(most);
    Stream *const stream = malloc(sizeof *stream + margins);
    if (out != NULL && stream != NULL) {
        uint8_t *const copy = (uint8_t *)(stream + 1);
        memset(copy, 0, margins);
        memcpy(copy + MARGIN, data, size);
        begin(stream, out, level);
        add(stream, copy + MARGIN, size, 1);
        *stream_bytes = (size_t)(finish(stream) - out);
    }
    free(stream);
    if (stream == NULL) {
        free(out);
        return NULL;
    }
    return out;
}

void png_prepare(void)
{
    prepare_crc();
    prepare_lengths();
}
