/* Pixels from the inflated scanlines of an 8-bit RGB(A) PNG: unfilter.py calls it. Rows are restored as far to the
   right and as far down as the wanted rectangle reaches, and only that is written out, as BGR. Runs without the GIL. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SSE2__)
#define HAVE_SSE2 1
#include <emmintrin.h>
#else
#define HAVE_SSE2 0
#endif

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

enum { NONE, SUB, UP, AVERAGE, PAETH, FILTERS };
enum { MARGIN = 4 }; /* bytes of zeros before a line, and room for a 4-byte store after it */

typedef struct {
    const uint8_t *rows; /* filter byte and pixels of each row */
    Py_ssize_t stride;   /* bytes a row */
    Py_ssize_t x0, y0, x1, y1;
    int channels; /* 3 or 4 */
} Job;

INLINE uint8_t paeth(int left, int above, int corner)
{
    const int to_left = abs(above - corner), to_above = abs(left - corner), to_corner = abs(left + above - 2 * corner);
    const int nearer = to_above <= to_corner ? above : corner;
    return (uint8_t)(to_left <= to_above && to_left <= to_corner ? left : nearer);
}

INLINE void restore_portable(const uint8_t *row, const uint8_t *above, Py_ssize_t n, int filter, int step,
                             uint8_t *line)
{
    if (filter == SUB)
        for (Py_ssize_t i = 0; i < n; i++)
            line[i] = (uint8_t)(row[i] + line[i - step]);
    else if (filter == AVERAGE)
        for (Py_ssize_t i = 0; i < n; i++)
            line[i] = (uint8_t)(row[i] + ((line[i - step] + above[i]) >> 1));
    else
        for (Py_ssize_t i = 0; i < n; i++)
            line[i] = (uint8_t)(row[i] + paeth(line[i - step], above[i], above[i - step]));
}

#if HAVE_SSE2
INLINE __m128i load4(const uint8_t *bytes)
{
    int32_t value;
    memcpy(&value, bytes, sizeof value);
    return _mm_unpacklo_epi8(_mm_cvtsi32_si128(value), _mm_setzero_si128());
}

INLINE __m128i magnitude(__m128i v)
{
    return _mm_max_epi16(v, _mm_sub_epi16(_mm_setzero_si128(), v));
}

INLINE __m128i choose(__m128i mask, __m128i yes, __m128i no)
{
    return _mm_or_si128(_mm_and_si128(mask, yes), _mm_andnot_si128(mask, no));
}

/* One pixel at a time, its channels side by side; reads and writes 4 bytes, so the last pixel of a row is not for it. */
INLINE void restore_sse2(const uint8_t *row, const uint8_t *above, Py_ssize_t n, int filter, int step, uint8_t *line)
{
    const __m128i low = _mm_set1_epi16(0xff);
    __m128i left = _mm_setzero_si128(), corner = left;
    Py_ssize_t i = 0;
    for (; i + 4 <= n; i += step) {
        const __m128i up = load4(above + i);
        __m128i guess;
        if (filter == SUB) {
            guess = left;
        } else if (filter == AVERAGE) {
            guess = _mm_srli_epi16(_mm_add_epi16(left, up), 1);
        } else {
            const __m128i from_corner_up = _mm_sub_epi16(up, corner), from_corner_left = _mm_sub_epi16(left, corner);
            const __m128i to_left = magnitude(from_corner_up), to_above = magnitude(from_corner_left);
            const __m128i to_corner = magnitude(_mm_add_epi16(from_corner_up, from_corner_left));
            const __m128i least = _mm_min_epi16(to_corner, _mm_min_epi16(to_left, to_above));
            guess = choose(_mm_cmpeq_epi16(least, to_left), left,
                           choose(_mm_cmpeq_epi16(least, to_above), up, corner));
        }
        left = _mm_and_si128(_mm_add_epi16(load4(row + i), guess), low);
        corner = up;
        const int32_t value = _mm_cvtsi128_si32(_mm_packus_epi16(left, left));
        memcpy(line + i, &value, sizeof value);
    }
    for (; i < n; i++) {
        const int west = line[i - step], north = above[i];
        const int guess = filter == SUB       ? west
                          : filter == AVERAGE ? (west + north) >> 1
                                              : paeth(west, north, above[i - step]);
        line[i] = (uint8_t)(row[i] + guess);
    }
}
#endif

INLINE void restore(const uint8_t *row, const uint8_t *above, Py_ssize_t n, int filter, int step, int portable,
                    uint8_t *line)
{
#if HAVE_SSE2
    if (!portable) {
        restore_sse2(row, above, n, filter, step, line);
        return;
    }
#endif
    (void)portable;
    restore_portable(row, above, n, filter, step, line);
}

INLINE void restore_row(const uint8_t *row, const uint8_t *above, Py_ssize_t n, int step, int portable, uint8_t *line)
{
    const int filter = row[0];
    row++;
    switch (filter) { /* constants, so that each call becomes a loop of its own */
    case NONE:
        memcpy(line, row, (size_t)n);
        break;
    case SUB:
        restore(row, above, n, SUB, step, portable, line);
        break;
    case UP:
        for (Py_ssize_t i = 0; i < n; i++)
            line[i] = (uint8_t)(row[i] + above[i]);
        break;
    case AVERAGE:
        restore(row, above, n, AVERAGE, step, portable, line);
        break;
    default:
        restore(row, above, n, PAETH, step, portable, line);
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

INLINE void unfilter_step(const Job *job, int step, int portable, uint8_t *lines, uint8_t *out)
{
    const Py_ssize_t n = step * job->x1, line_size = n + 2 * MARGIN;
    uint8_t *above = lines + MARGIN, *line = above + line_size;
    memset(lines, 0, (size_t)(2 * line_size));
    Py_ssize_t y = job->y0;
    while (y > 0 && job->rows[y * job->stride] > SUB) /* up to a row that needs none above it */
        y--;
    for (; y < job->y1; y++) {
        restore_row(job->rows + y * job->stride, above, n, step, portable, line);
        if (y >= job->y0) {
            write_bgr(line, job->x0, job->x1, step, out);
            out += 3 * (job->x1 - job->x0);
        }
        uint8_t *swapped = above;
        above = line;
        line = swapped;
    }
}

static int check(const Py_buffer *rows, const Py_buffer *out, Job *job)
{
    if (rows->ndim != 2 || rows->itemsize != 1 || out->ndim != 3 || out->itemsize != 1 || out->shape[2] != 3) {
        PyErr_SetString(PyExc_ValueError, "rows must be [H, 1 + W * channels] uint8 and out [h, w, 3] uint8");
        return 0;
    }
    if ((job->channels != 3 && job->channels != 4) || (rows->shape[1] - 1) % job->channels) {
        PyErr_Format(PyExc_ValueError, "channels must be 3 or 4 and divide the row, got %d", job->channels);
        return 0;
    }
    job->rows = rows->buf;
    job->stride = rows->shape[1];
    job->y1 = job->y0 + out->shape[0];
    job->x1 = job->x0 + out->shape[1];
    if (job->x0 < 0 || job->y0 < 0 || job->y1 > rows->shape[0] || job->x1 > (rows->shape[1] - 1) / job->channels) {
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
    int portable = 0;
    if (!PyArg_ParseTuple(args, "OinnO|p", &objects[0], &job.channels, &job.x0, &job.y0, &objects[1], &portable))
        return NULL;
    Py_buffer rows, out;
    if (PyObject_GetBuffer(objects[0], &rows, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) != 0)
        return NULL;
    if (PyObject_GetBuffer(objects[1], &out, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | PyBUF_WRITABLE) != 0) {
        PyBuffer_Release(&rows);
        return NULL;
    }
    if (check(&rows, &out, &job)) {
        uint8_t *lines = PyMem_Malloc((size_t)(2 * (job.channels * job.x1 + 2 * MARGIN)));
        if (lines == NULL) {
            PyErr_NoMemory();
        } else {
            Py_BEGIN_ALLOW_THREADS
            if (job.channels == 3)
                unfilter_step(&job, 3, portable, lines, out.buf);
            else
                unfilter_step(&job, 4, portable, lines, out.buf);
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

static PyMethodDef methods[] = {
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
    return PyModuleDef_Init(&module);
}
