/* PNG files in C: png.py calls it. The rows of a crop are filtered (rows.h), deflated a block at a time (deflate.h) and
   wrapped into chunks, in one call that returns the file. Runs without the GIL. There is a portable version and one for
   processors with AVX2, chosen at run time; both write the same bytes. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "checksums.h"
#include "deflate.h"
#include "machine.h"
#include "rows.h"

enum {
    CHUNK = 12,             /* bytes of a chunk beside its data */
    MOST_DATA = 0x7fffffff, /* bytes of data in a chunk */
    MARGIN = 64             /* bytes before and after a block, of which marking repeats reads some */
};

/* A zlib stream (RFC 1950) in the making. */
typedef struct {
    Deflater deflater;
    Writer to;
    uint32_t adler;
    int fast;
} Stream;

static void begin(Stream *stream, uint8_t *out, int fast)
{
    stream->to = (Writer){out, 0, 0};
    stream->adler = 1;
    stream->fast = fast;
    put(&stream->to, 0x0178, 16); /* a window of 32 KB, no dictionary, the fastest level */
    flush(&stream->to);
}

/* data lies between MARGINs. */
static void add(Stream *stream, const uint8_t *data, size_t size, int last)
{
    stream->adler = adler32(stream->adler, data, size, stream->fast);
    for (size_t part; size > 0; data += part, size -= part) {
        part = size < BLOCK ? size : BLOCK;
        deflate(&stream->deflater, &stream->to, data, part, last && part == size, stream->fast);
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

typedef struct {
    const uint8_t *pixels; /* [height, width, 3] BGR, rows `stride` bytes apart */
    Py_ssize_t stride;
    size_t width, height;
} Crop;

typedef struct {
    Stream stream;
    uint8_t *lines[2];      /* the row above and this one, RGB, after PIXEL zeros */
    uint8_t *rows[FILTERS]; /* this one, filtered */
    uint8_t *block;         /* BLOCK bytes or a row, between MARGINs */
    uint8_t *file;
} Work;

static uint8_t *write_pixels(const Crop *crop, Work *work)
{
    const size_t n = PIXEL * crop->width;
    Stream *const stream = &work->stream;
    uint8_t *above = work->lines[0], *row = work->lines[1], *end = work->block;
    for (size_t y = 0; y < crop->height; y++) {
        const uint8_t *bgr = crop->pixels + (Py_ssize_t)y * crop->stride;
        uint64_t costs[FILTERS];
#if HAVE_AVX2
        if (stream->fast) {
            swap_avx2(bgr, n, row);
            filter_avx2(row, above, n, work->rows, costs);
        } else
#endif
        {
            swap_portable(bgr, 0, n, row);
            filter_portable(row, above, n, work->rows, costs);
        }
        int best = 0;
        for (int filter = 1; filter < FILTERS; filter++)
            if (costs[filter] < costs[best])
                best = filter;
        *end = (uint8_t)(UP + best);
        memcpy(end + 1, work->rows[best], n);
        end += 1 + n;
        const size_t size = (size_t)(end - work->block);
        const int last = y + 1 == crop->height;
        if (last || size + 1 + n > BLOCK) {
            add(stream, work->block, size, last);
            end = work->block;
        }
        uint8_t *const next = above;
        above = row;
        row = next;
    }
    return finish(stream);
}

/* Returns where the chunk ends, whose `size` bytes of data are in place, eight bytes after its start. */
static uint8_t *close_chunk(uint8_t *chunk, const char *kind, size_t size, int fast)
{
    store_big_32(chunk, (uint32_t)size);
    memcpy(chunk + 4, kind, 4);
    return store_big_32(chunk + 8 + size, crc32(chunk + 4, 4 + size, fast));
}

/* Returns where the file ends. */
static uint8_t *write_file(const Crop *crop, const Py_buffer *text, int fast, Work *work)
{
    static const uint8_t signature[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    static const uint8_t format[5] = {8, 2, 0, 0, 0}; /* bits a sample; RGB; deflate, filters, no interlacing */
    uint8_t *out = work->file;
    memcpy(out, signature, sizeof signature);
    out += sizeof signature;
    store_big_32(out + 8, (uint32_t)crop->width);
    store_big_32(out + 12, (uint32_t)crop->height);
    memcpy(out + 16, format, sizeof format);
    out = close_chunk(out, "IHDR", 13, fast);
    if (text->obj != NULL) {
        memcpy(out + 8, text->buf, (size_t)text->len);
        out = close_chunk(out, "iTXt", (size_t)text->len, fast);
    }
    begin(&work->stream, out + 8, fast);
    out = close_chunk(out, "IDAT", (size_t)(write_pixels(crop, work) - out - 8), fast);
    return close_chunk(out, "IEND", 0, fast);
}

static int check(const Py_buffer *pixels, const Py_buffer *text, Crop *crop)
{
    if (pixels->ndim != 3 || strcmp(pixels->format, "B") != 0 || pixels->shape[2] != PIXEL || pixels->strides[2] != 1 ||
        pixels->strides[1] != PIXEL || pixels->shape[0] < 1 || pixels->shape[1] < 1) {
        PyErr_SetString(PyExc_ValueError, "crop must be [H, W, 3] uint8 whose rows are contiguous, 1 x 1 or larger");
        return 0;
    }
    *crop = (Crop){pixels->buf, pixels->strides[0], (size_t)pixels->shape[1], (size_t)pixels->shape[0]};
    if (crop->width > MOST_DATA / 4 || crop->height > MOST_DATA / (1 + PIXEL * crop->width) ||
        most_bytes(crop->height * (1 + PIXEL * crop->width)) > MOST_DATA) {
        PyErr_Format(PyExc_ValueError, "a crop of %zu x %zu pixels is too large for one PNG chunk, which ends at 2 GiB",
                     crop->width, crop->height);
        return 0;
    }
    if (text->len > MOST_DATA) {
        PyErr_Format(PyExc_ValueError, "text of %zd bytes is too long for a PNG chunk, which ends at 2 GiB", text->len);
        return 0;
    }
    return 1;
}

/* One piece of memory for all that is needed; NULL with MemoryError set if there is none. */
static Work *new_work(const Crop *crop, size_t text_bytes)
{
    const size_t row = 1 + PIXEL * crop->width, line = PIXEL + row;
    const size_t block = MARGIN + (row > BLOCK ? row : BLOCK) + MARGIN;
    const size_t file = 8 + CHUNK + 13 + CHUNK + text_bytes + CHUNK + most_bytes(crop->height * row) + CHUNK + SLACK;
    Work *work = PyMem_Malloc(sizeof *work + 2 * line + FILTERS * row + block + file);
    if (work == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    uint8_t *memory = (uint8_t *)(work + 1);
    memset(memory, 0, 2 * line);
    for (int i = 0; i < 2; i++, memory += line)
        work->lines[i] = memory + PIXEL;
    for (int filter = 0; filter < FILTERS; filter++, memory += row)
        work->rows[filter] = memory;
    memset(memory, 0, block);
    work->block = memory + MARGIN;
    work->file = memory + block;
    return work;
}

static PyObject *encode(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *objects[2], *file = NULL;
    Py_buffer pixels, text = {0};
    int portable = 0;
    if (!PyArg_ParseTuple(args, "OO|p", &objects[0], &objects[1], &portable))
        return NULL;
    if (PyObject_GetBuffer(objects[0], &pixels, PyBUF_STRIDED_RO | PyBUF_FORMAT) != 0)
        return NULL;
    if (objects[1] != Py_None && PyObject_GetBuffer(objects[1], &text, PyBUF_SIMPLE) != 0) {
        PyBuffer_Release(&pixels);
        return NULL;
    }
    Crop crop;
    Work *work = check(&pixels, &text, &crop) ? new_work(&crop, (size_t)text.len) : NULL;
    if (work != NULL) {
        const uint8_t *end;
        Py_BEGIN_ALLOW_THREADS
        end = write_file(&crop, &text, !portable && has_avx2(), work);
        Py_END_ALLOW_THREADS
        file = PyBytes_FromStringAndSize((const char *)work->file, end - work->file);
        PyMem_Free(work);
    }
    PyBuffer_Release(&text);
    PyBuffer_Release(&pixels);
    return file;
}

static PyObject *deflated(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *object, *result = NULL;
    Py_buffer data;
    int portable = 0;
    if (!PyArg_ParseTuple(args, "O|p", &object, &portable) || PyObject_GetBuffer(object, &data, PyBUF_SIMPLE) != 0)
        return NULL;
    const size_t size = (size_t)data.len, margins = MARGIN + size + MARGIN;
    Stream *stream = NULL;
    if (size == 0)
        PyErr_SetString(PyExc_ValueError, "data must not be empty");
    else if ((stream = PyMem_Malloc(sizeof *stream + margins + most_bytes(size) + SLACK)) == NULL)
        PyErr_NoMemory();
    if (stream != NULL) {
        uint8_t *const copy = (uint8_t *)(stream + 1), *const out = copy + margins;
        const uint8_t *end;
        Py_BEGIN_ALLOW_THREADS
        memset(copy, 0, margins);
        memcpy(copy + MARGIN, data.buf, size);
        begin(stream, out, !portable && has_avx2());
        add(stream, copy + MARGIN, size, 1);
        end = finish(stream);
        Py_END_ALLOW_THREADS
        result = PyBytes_FromStringAndSize((const char *)out, end - out);
        PyMem_Free(stream);
    }
    PyBuffer_Release(&data);
    return result;
}

static PyMethodDef methods[] = {
    {"encode", encode, METH_VARARGS,
     "encode(crop, text, portable=False)\n\n"
     "The PNG file of crop [H, W, 3] uint8 BGR, with text, bytes or None, as the data of an iTXt chunk before the pixels."},
    {"deflated", deflated, METH_VARARGS,
     "deflated(data, portable=False)\n\nThe zlib stream of at least one byte, as encode() writes it for its rows."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_png", "PNG files in C.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__png(void)
{
    prepare_crc();
    prepare_lengths();
    return PyModuleDef_Init(&module);
}
