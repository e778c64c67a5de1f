/* PNG scanlines of a crop in C: scanlines.py calls it. BGR becomes RGB and each row becomes its difference to what one
   of PNG's filters predicts from the pixels to the left and above. Runs without the GIL. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#define HAVE_AVX2 1
#include <immintrin.h>
#else
#define HAVE_AVX2 0
#endif

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

enum { UP = 2, AVERAGE = 3, PAETH = 4, PIXEL = 3 };

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

/* row and above hold n bytes, each with PIXEL zero bytes before its start. */
INLINE void filter_row(const uint8_t *restrict row, const uint8_t *restrict above, Py_ssize_t n, int filter,
                       uint8_t *restrict out)
{
    if (filter == UP)
        for (Py_ssize_t i = 0; i < n; i++)
            out[i] = (uint8_t)(row[i] - above[i]);
    else if (filter == AVERAGE)
        for (Py_ssize_t i = 0; i < n; i++)
            out[i] = (uint8_t)(row[i] - ((row[i - PIXEL] + above[i]) >> 1));
    else
        for (Py_ssize_t i = 0; i < n; i++)
            out[i] = (uint8_t)(row[i] - paeth(row[i - PIXEL], above[i], above[i - PIXEL]));
}

INLINE void swap_pixels(const uint8_t *bgr, Py_ssize_t first, Py_ssize_t width, uint8_t *rgb)
{
    for (Py_ssize_t x = first; x < width; x++) {
        rgb[PIXEL * x] = bgr[PIXEL * x + 2];
        rgb[PIXEL * x + 1] = bgr[PIXEL * x + 1];
        rgb[PIXEL * x + 2] = bgr[PIXEL * x];
    }
}

/* Returns how many pixels it did: five at a time, as long as 16 bytes can be read. */
#if HAVE_AVX2
__attribute__((target("avx2"))) static Py_ssize_t swap_fives(const uint8_t *bgr, Py_ssize_t width, uint8_t *rgb)
{
    const __m128i order = _mm_setr_epi8(2, 1, 0, 5, 4, 3, 8, 7, 6, 11, 10, 9, 14, 13, 12, 15);
    Py_ssize_t x = 0;
    for (; PIXEL * x + 16 <= PIXEL * width; x += 5)
        _mm_storeu_si128((__m128i *)(rgb + PIXEL * x),
                         _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(bgr + PIXEL * x)), order));
    return x;
}
#endif

typedef struct {
    const uint8_t *pixels; /* [height, width, 3] BGR, rows `stride` bytes apart */
    Py_ssize_t stride, width, height;
} Crop;

/* lines: scratch, two rows with PIXEL bytes before each; out: [height, 1 + 3 * width]. */
INLINE void fill(const Crop *crop, int filter, int avx2, uint8_t *lines, uint8_t *out)
{
    const Py_ssize_t n = PIXEL * crop->width;
    memset(lines, 0, (size_t)(2 * (n + PIXEL)));
    uint8_t *above = lines + PIXEL, *row = above + n + PIXEL;
    for (Py_ssize_t y = 0; y < crop->height; y++) {
        const uint8_t *bgr = crop->pixels + y * crop->stride;
        Py_ssize_t done = 0;
#if HAVE_AVX2
        if (avx2)
            done = swap_fives(bgr, crop->width, row);
#endif
        swap_pixels(bgr, done, crop->width, row);
        *out = (uint8_t)filter;
        filter_row(row, above, n, filter, out + 1);
        out += 1 + n;
        uint8_t *const next = above;
        above = row;
        row = next;
    }
}

INLINE void fill_with(const Crop *crop, int filter, int avx2, uint8_t *lines, uint8_t *out)
{
    /* a constant filter in each call lets the compiler make a loop of its own for each */
    if (filter == UP)
        fill(crop, UP, avx2, lines, out);
    else if (filter == AVERAGE)
        fill(crop, AVERAGE, avx2, lines, out);
    else
        fill(crop, PAETH, avx2, lines, out);
}

static void fill_portable(const Crop *crop, int filter, uint8_t *lines, uint8_t *out)
{
    fill_with(crop, filter, 0, lines, out);
}

#if HAVE_AVX2
__attribute__((target("avx2"))) static void fill_avx2(const Crop *crop, int filter, uint8_t *lines, uint8_t *out)
{
    fill_with(crop, filter, 1, lines, out);
}
#endif

static int check(const Py_buffer *pixels, const Py_buffer *out, int filter, Crop *crop)
{
    if (pixels->ndim != 3 || strcmp(pixels->format, "B") != 0 || pixels->shape[2] != PIXEL || pixels->strides[2] != 1 ||
        pixels->strides[1] != PIXEL) {
        PyErr_SetString(PyExc_ValueError, "crop must be [H, W, 3] uint8 whose rows are contiguous");
        return 0;
    }
    *crop = (Crop){pixels->buf, pixels->strides[0], pixels->shape[1], pixels->shape[0]};
    if (out->ndim != 2 || strcmp(out->format, "B") != 0 || out->shape[0] != crop->height ||
        out->shape[1] != 1 + PIXEL * crop->width) {
        PyErr_Format(PyExc_ValueError, "out must be [%zd, %zd] uint8", crop->height, 1 + PIXEL * crop->width);
        return 0;
    }
    if (filter != UP && filter != AVERAGE && filter != PAETH) {
        PyErr_Format(PyExc_ValueError, "filter must be 2 (up), 3 (average) or 4 (Paeth), got %d", filter);
        return 0;
    }
    return 1;
}

static PyObject *fill_rows(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *objects[2];
    int filter, portable = 0;
    if (!PyArg_ParseTuple(args, "OOi|p", &objects[0], &objects[1], &filter, &portable))
        return NULL;
    Py_buffer pixels, out;
    if (PyObject_GetBuffer(objects[0], &pixels, PyBUF_STRIDED_RO | PyBUF_FORMAT) != 0)
        return NULL;
    if (PyObject_GetBuffer(objects[1], &out, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | PyBUF_WRITABLE) != 0) {
        PyBuffer_Release(&pixels);
        return NULL;
    }
    Crop crop;
    if (check(&pixels, &out, filter, &crop)) {
        uint8_t *lines = PyMem_Malloc((size_t)(2 * PIXEL * (crop.width + 1)));
        if (lines == NULL) {
            PyErr_NoMemory();
        } else {
            Py_BEGIN_ALLOW_THREADS
#if HAVE_AVX2
            if (!portable && __builtin_cpu_supports("avx2"))
                fill_avx2(&crop, filter, lines, out.buf);
            else
#endif
                fill_portable(&crop, filter, lines, out.buf);
            Py_END_ALLOW_THREADS
            PyMem_Free(lines);
        }
    }
    PyBuffer_Release(&out);
    PyBuffer_Release(&pixels);
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"fill_rows", fill_rows, METH_VARARGS,
     "fill_rows(crop, out, filter, portable=False)\n\n"
     "Write the PNG scanlines of crop [H, W, 3] uint8 BGR to out [H, 1 + 3 W] uint8; filter 2, 3 or 4 for every row."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_scanlines", "PNG scanlines in C.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__scanlines(void)
{
    return PyModuleDef_Init(&module);
}
