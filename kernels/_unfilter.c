/* Pixels from the inflated scanlines of an 8-bit RGB(A) PNG, and the stream to inflate: unfilter.py calls it. Rows are
   restored as far to the right and as far down as the wanted rectangle reaches, and only that is written out, as BGR.
   Runs without the GIL. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include "checksums.h"
#include "machine.h"
#include "paeth.h"

enum { NONE, SUB, UP, AVERAGE, PAETH, FILTERS };
enum { LINES = 3, MARGIN = 4 }; /* restored rows that are kept, and bytes of zeros before each */

typedef struct {
    const uint8_t *rows; /* filter byte and pixels of each row */
    Py_ssize_t stride;   /* bytes a row */
    Py_ssize_t x0, y0, x1, y1;
    uint8_t *above, *line, *spare; /* restored bytes; `above` those of the row before */
    uint8_t *out;
} Job;

INLINE void restore(const uint8_t *row, const uint8_t *above, Py_ssize_t from, Py_ssize_t n, int filter, int step,
                    uint8_t *line)
{
    switch (filter) {
    case NONE:
        memcpy(line + from, row + from, (size_t)(n - from));
        break;
    case SUB:
        for (Py_ssize_t i = from; i < n; i++)
            line[i] = (uint8_t)(row[i] + line[i - step]);
        break;
    case UP:
        for (Py_ssize_t i = from; i < n; i++)
            line[i] = (uint8_t)(row[i] + above[i]);
        break;
    case AVERAGE:
        for (Py_ssize_t i = from; i < n; i++)
            line[i] = (uint8_t)(row[i] + ((line[i - step] + above[i]) >> 1));
        break;
    default:
        for (Py_ssize_t i = from; i < n; i++)
            line[i] = (uint8_t)(row[i] + paeth(line[i - step], above[i], above[i - step]));
    }
}

INLINE void write_bgr(const uint8_t *line, Py_ssize_t x0, Py_ssize_t x1, int step, uint8_t *out)
{
    for (Py_ssize_t x = x0; x < x1; x++, out += 3) {
        out[0] = line[step * x + 2];
        out[1] = line[step * x + 1];
        out[2] = line[step * x];
    }
}

/* The rows above the wanted ones matter only from the last one on that needs none above it. */
INLINE Py_ssize_t first_needed(const Job *job)
{
    Py_ssize_t y = job->y0;
    while (y > 0 && job->rows[y * job->stride] > SUB)
        y--;
    return y;
}

INLINE void unfilter_step(Job *job, int step)
{
    const Py_ssize_t n = step * job->x1;
    for (Py_ssize_t y = first_needed(job); y < job->y1; y++) {
        const uint8_t *row = job->rows + y * job->stride;
        uint8_t *const line = job->line;
        restore(row + 1, job->above, 0, n, row[0], step, line);
        if (y >= job->y0) {
            write_bgr(line, job->x0, job->x1, step, job->out);
            job->out += 3 * (job->x1 - job->x0);
        }
        job->line = job->above;
        job->above = line;
    }
}

static void unfilter_portable(Job *job, int step)
{
    if (step == 3) /* constants, so that each call becomes a loop of its own */
        unfilter_step(job, 3);
    else
        unfilter_step(job, 4);
}

#if HAVE_AVX2
INLINE_AVX2 __m128i load4(const uint8_t *bytes)
{
    int32_t value;
    memcpy(&value, bytes, sizeof value);
    return _mm_cvtsi32_si128(value);
}

INLINE_AVX2 void store4(uint8_t *bytes, __m128i value)
{
    const int32_t low = _mm_cvtsi128_si32(value);
    memcpy(bytes, &low, sizeof low);
}

/* Each returns how many bytes it did: a pixel at a time, its channels side by side. It reads and writes 4 bytes, so the
   last pixel of a row of three channels is left to restore(). */
INLINE_AVX2 Py_ssize_t restore_sub(const uint8_t *row, Py_ssize_t n, int step, uint8_t *line)
{
    __m128i left = _mm_setzero_si128();
    Py_ssize_t i = 0;
    for (; i + 4 <= n; i += step) {
        left = _mm_add_epi8(left, load4(row + i));
        store4(line + i, left);
    }
    return i;
}

/* The processor's own average rounds up, so it is given the complements; then two operations lead from one pixel to the
   next: ~(x + floor((l + u) / 2)) = ceil((~l + ~u) / 2) - x. */
INLINE_AVX2 Py_ssize_t restore_average(const uint8_t *row, const uint8_t *above, Py_ssize_t n, int step, uint8_t *line)
{
    const __m128i ones = _mm_set1_epi8(-1);
    __m128i not_left = ones;
    Py_ssize_t i = 0;
    for (; i + 4 <= n; i += step) {
        const __m128i not_up = _mm_xor_si128(load4(above + i), ones);
        not_left = _mm_sub_epi8(_mm_avg_epu8(not_left, not_up), load4(row + i));
        store4(line + i, _mm_xor_si128(not_left, ones));
    }
    return i;
}

/* Sixteen-bit lanes, that have bytes of samples plus differences in them. */
INLINE_AVX2 __m128i restored_paeth(__m128i samples, __m128i left, __m128i up, __m128i corner)
{
    const __m128i from_up = _mm_sub_epi16(up, corner), from_left = _mm_sub_epi16(left, corner);
    const __m128i to_left = _mm_abs_epi16(from_up), to_above = _mm_abs_epi16(from_left);
    const __m128i to_corner = _mm_abs_epi16(_mm_add_epi16(from_up, from_left));
    const __m128i least = _mm_min_epi16(to_corner, _mm_min_epi16(to_left, to_above));
    const __m128i nearer = _mm_blendv_epi8(corner, up, _mm_cmpeq_epi16(least, to_above));
    return _mm_add_epi8(samples, _mm_blendv_epi8(nearer, left, _mm_cmpeq_epi16(least, to_left)));
}

INLINE_AVX2 Py_ssize_t restore_paeth(const uint8_t *row, const uint8_t *above, Py_ssize_t n, int step, uint8_t *line)
{
    __m128i left = _mm_setzero_si128(), corner = left;
    Py_ssize_t i = 0;
    for (; i + 4 <= n; i += step) {
        const __m128i up = _mm_cvtepu8_epi16(load4(above + i));
        left = restored_paeth(_mm_cvtepu8_epi16(load4(row + i)), left, up, corner);
        corner = up;
        store4(line + i, _mm_packus_epi16(left, left));
    }
    return i;
}

/* Two rows of one filter at once, the second a pixel behind the first: while one waits for its pixel to the left, so
   does the other. They return how many bytes they did of the first row; of the second it is a pixel less. */
INLINE_AVX2 Py_ssize_t restore_average_pair(const uint8_t *row, const uint8_t *next, const uint8_t *above, Py_ssize_t n,
                                            int step, uint8_t *line, uint8_t *below)
{
    const __m128i ones = _mm_set1_epi8(-1);
    __m128i not_left = ones, not_left_below = ones;
    Py_ssize_t i = 0;
    for (; i + 4 <= n; i += step) {
        if (i) {
            not_left_below = _mm_sub_epi8(_mm_avg_epu8(not_left_below, not_left), load4(next + i - step));
            store4(below + i - step, _mm_xor_si128(not_left_below, ones));
        }
        const __m128i not_up = _mm_xor_si128(load4(above + i), ones);
        not_left = _mm_sub_epi8(_mm_avg_epu8(not_left, not_up), load4(row + i));
        store4(line + i, _mm_xor_si128(not_left, ones));
    }
    return i;
}

/* Low half of a register: the first row. */
INLINE_AVX2 Py_ssize_t restore_paeth_pair(const uint8_t *row, const uint8_t *next, const uint8_t *above, Py_ssize_t n,
                                          int step, uint8_t *line, uint8_t *below)
{
    __m128i left = _mm_setzero_si128(), corner = left;
    Py_ssize_t i = 0;
    for (; i + 4 <= n; i += step) {
        const __m128i behind = i ? load4(next + i - step) : _mm_setzero_si128();
        const __m128i up = _mm_unpacklo_epi64(_mm_cvtepu8_epi16(load4(above + i)), left);
        const __m128i samples = _mm_cvtepu8_epi16(_mm_unpacklo_epi32(load4(row + i), behind));
        left = restored_paeth(samples, left, up, corner);
        corner = up;
        const __m128i bytes = _mm_packus_epi16(left, left);
        store4(line + i, bytes);
        if (i)
            store4(below + i - step, _mm_srli_si128(bytes, 4));
    }
    return i;
}

INLINE_AVX2 void restore_avx2(const uint8_t *row, const uint8_t *above, Py_ssize_t n, int filter, int step,
                              uint8_t *line)
{
    Py_ssize_t done = 0;
    if (filter == SUB)
        done = restore_sub(row, n, step, line);
    else if (filter == AVERAGE)
        done = restore_average(row, above, n, step, line);
    else if (filter == PAETH)
        done = restore_paeth(row, above, n, step, line);
    restore(row, above, done, n, filter, step, line);
}

/* As many pixels at a time as fit into 16 bytes on both sides. */
INLINE_AVX2 void write_bgr_avx2(const uint8_t *line, Py_ssize_t x0, Py_ssize_t x1, int step, uint8_t *out)
{
    const __m128i order = step == 3 ? _mm_setr_epi8(2, 1, 0, 5, 4, 3, 8, 7, 6, 11, 10, 9, 14, 13, 12, -1)
                                    : _mm_setr_epi8(2, 1, 0, 6, 5, 4, 10, 9, 8, 14, 13, 12, -1, -1, -1, -1);
    const int pixels = step == 3 ? 5 : 4;
    Py_ssize_t x = x0;
    for (; x + 6 <= x1; x += pixels) {
        const __m128i some = _mm_loadu_si128((const __m128i *)(line + step * x));
        _mm_storeu_si128((__m128i *)(out + 3 * (x - x0)), _mm_shuffle_epi8(some, order));
    }
    write_bgr(line, x, x1, step, out + 3 * (x - x0));
}

INLINE_AVX2 void unfilter_step_avx2(Job *job, int step)
{
    const Py_ssize_t n = step * job->x1;
    Py_ssize_t y = first_needed(job);
    while (y < job->y1) {
        const uint8_t *row = job->rows + y * job->stride, *next = row + job->stride;
        uint8_t *const lines[2] = {job->line, job->spare};
        const int filter = row[0];
        const int pair = (filter == AVERAGE || filter == PAETH) && y + 1 < job->y1 && next[0] == filter;
        if (pair) {
            const Py_ssize_t done =
                filter == PAETH ? restore_paeth_pair(row + 1, next + 1, job->above, n, step, lines[0], lines[1])
                                : restore_average_pair(row + 1, next + 1, job->above, n, step, lines[0], lines[1]);
            restore(row + 1, job->above, done, n, filter, step, lines[0]);
            restore(next + 1, lines[0], done >= step ? done - step : 0, n, filter, step, lines[1]);
        } else {
            restore_avx2(row + 1, job->above, n, filter, step, lines[0]);
        }
        for (int k = 0; k <= pair; k++, y++)
            if (y >= job->y0) {
                write_bgr_avx2(lines[k], job->x0, job->x1, step, job->out);
                job->out += 3 * (job->x1 - job->x0);
            }
        job->spare = pair ? lines[0] : job->spare;
        job->line = job->above;
        job->above = lines[pair];
    }
}

AVX2 static void unfilter_avx2(Job *job, int step)
{
    if (step == 3)
        unfilter_step_avx2(job, 3);
    else
        unfilter_step_avx2(job, 4);
}
#endif

static void run(Job *job, int step, int portable, uint8_t *lines, Py_ssize_t line_size)
{
    memset(lines, 0, (size_t)(LINES * line_size));
    job->above = lines + MARGIN;
    job->line = job->above + line_size;
    job->spare = job->line + line_size;
#if HAVE_AVX2
    if (!portable && has_avx2()) {
        unfilter_avx2(job, step);
        return;
    }
#endif
    (void)portable;
    unfilter_portable(job, step);
}

static int check(const Py_buffer *rows, const Py_buffer *out, int channels, Job *job)
{
    if (rows->ndim != 2 || rows->itemsize != 1 || out->ndim != 3 || out->itemsize != 1 || out->shape[2] != 3) {
        PyErr_SetString(PyExc_ValueError, "rows must be [H, 1 + W * channels] uint8 and out [h, w, 3] uint8");
        return 0;
    }
    if ((channels != 3 && channels != 4) || (rows->shape[1] - 1) % channels) {
        PyErr_Format(PyExc_ValueError, "channels must be 3 or 4 and divide the row, got %d", channels);
        return 0;
    }
    job->rows = rows->buf;
    job->stride = rows->shape[1];
    job->y1 = job->y0 + out->shape[0];
    job->x1 = job->x0 + out->shape[1];
    job->out = out->buf;
    if (job->x0 < 0 || job->y0 < 0 || job->y1 > rows->shape[0] || job->x1 > (rows->shape[1] - 1) / channels) {
        PyErr_SetString(PyExc_ValueError, "the rectangle reaches outside the image");
        return 0;
    }
    for (Py_ssize_t y = 0; y < job->y1; y++)
        if (job->rows[y * job->stride] >= FILTERS) {
            PyErr_Format(PyExc_ValueError, "row %zd has the unknown filter %d", y, job->rows[y * job->stride]);
            return 0;
        }
    return 1;
}

static PyObject *unfilter(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *objects[2];
    Job job;
    int channels, portable = 0;
    if (!PyArg_ParseTuple(args, "OinnO|p", &objects[0], &channels, &job.x0, &job.y0, &objects[1], &portable))
        return NULL;
    Py_buffer rows, out;
    if (PyObject_GetBuffer(objects[0], &rows, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) != 0)
        return NULL;
    if (PyObject_GetBuffer(objects[1], &out, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | PyBUF_WRITABLE) != 0) {
        PyBuffer_Release(&rows);
        return NULL;
    }
    if (check(&rows, &out, channels, &job) && job.y1 > job.y0) {
        const Py_ssize_t line_size = MARGIN + channels * job.x1;
        uint8_t *lines = PyMem_Malloc((size_t)(LINES * line_size));
        if (lines == NULL) {
            PyErr_NoMemory();
        } else {
            Py_BEGIN_ALLOW_THREADS
            run(&job, channels, portable, lines, line_size);
            Py_END_ALLOW_THREADS
            PyMem_Free(lines);
        }
    }
    PyBuffer_Release(&out);
    PyBuffer_Release(&rows);
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

enum { SIGNATURE_BYTES = 8, CHUNK_BYTES = 12 }; /* of a chunk: length, kind and checksum */

static Py_ssize_t big_32(const uint8_t *bytes)
{
    return (Py_ssize_t)bytes[0] << 24 | bytes[1] << 16 | bytes[2] << 8 | bytes[3];
}

/* Bytes of the data of all IDAT chunks, as their own lengths tell them; -1 if the file ends inside a chunk. */
static Py_ssize_t stream_size(const uint8_t *data, Py_ssize_t size)
{
    Py_ssize_t total = 0;
    for (Py_ssize_t at = SIGNATURE_BYTES; at + 8 <= size;) {
        const Py_ssize_t length = big_32(data + at);
        if (length > size - at - CHUNK_BYTES)
            return -1;
        if (memcmp(data + at + 4, "IDAT", 4) == 0)
            total += length;
        if (memcmp(data + at + 4, "IEND", 4) == 0)
            break;
        at += CHUNK_BYTES + length;
    }
    return total;
}

/* Whether every chunk is what its checksum says, and none stands between those of the stream, which is copied. */
static int copy_stream(const uint8_t *data, Py_ssize_t size, int fast, uint8_t *out, Py_ssize_t room)
{
    int begun = 0, ended = 0;
    for (Py_ssize_t at = SIGNATURE_BYTES; at + 8 <= size;) {
        const Py_ssize_t length = big_32(data + at);
        const uint8_t *const kind = data + at + 4;
        if (length > size - at - CHUNK_BYTES ||
            crc32(kind, (size_t)length + 4, fast) != (uint32_t)big_32(kind + 4 + length))
            return 0;
        if (memcmp(kind, "IDAT", 4) != 0) {
            ended = begun;
        } else {
            if (ended || length > room)
                return 0;
            begun = 1;
            memcpy(out, kind + 4, (size_t)length);
            out += length;
            room -= length;
        }
        if (memcmp(kind, "IEND", 4) == 0)
            break;
        at += CHUNK_BYTES + length;
    }
    return room == 0;
}

static PyObject *stream(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer file;
    int portable = 0, is_sound = 0;
    if (!PyArg_ParseTuple(args, "y*|p", &file, &portable))
        return NULL;
    const Py_ssize_t size = stream_size(file.buf, file.len);
    PyObject *const bytes = size < 0 ? NULL : PyBytes_FromStringAndSize(NULL, size);
    if (bytes != NULL) {
        uint8_t *const out = (uint8_t *)PyBytes_AsString(bytes);
        Py_BEGIN_ALLOW_THREADS
        is_sound = copy_stream(file.buf, file.len, !portable && has_avx2(), out, size);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&file);
    if (is_sound || PyErr_Occurred())
        return bytes;
    Py_XDECREF(bytes);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"stream", stream, METH_VARARGS,
     "stream(file, portable=False)\n\n"
     "The data of a PNG's IDAT chunks; None if a checksum is wrong or another chunk stands between them."},
    {"unfilter", unfilter, METH_VARARGS,
     "unfilter(rows, channels, x0, y0, out, portable=False)\n\n"
     "Restore rows [H, 1 + W * channels] uint8 and write their rectangle at (x0, y0) to out [h, w, 3] uint8 BGR."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_unfilter", "PNG scanlines to pixels in C.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__unfilter(void)
{
    prepare_crc();
    return PyModuleDef_Init(&module);
}
