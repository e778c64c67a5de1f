/* The exact warp in C: cpu.py calls it. sampler.h has what is done; one call cuts one crop and runs without the GIL. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "machine.h"
#include "sampler.h"

static int is_array(const Py_buffer *view, const char *format, int ndim, const Py_ssize_t *shape)
{
    if (view->ndim != ndim || view->format == NULL || strcmp(view->format, format) != 0)
        return 0;
    for (int axis = 0; axis < ndim; axis++)
        if (shape[axis] >= 0 && view->shape[axis] != shape[axis])
            return 0;
    return 1;
}

/* Fills `source` and `at` from the four buffers; returns the taps of a row (2 or 4), or 0 with ValueError set. */
static int check(const Py_buffer *pixels, const Py_buffer *table, const Py_buffer *weights, const Py_buffer *out,
                 int x0, int y0, Source *source, Positions *at)
{
    const int limit = 1 << 20; /* far more than the int16 positions reach, and sums of it stay in int32 */
    if (!is_array(pixels, "B", 3, (Py_ssize_t[]){-1, -1, 3}) || pixels->strides[2] != 1 || pixels->strides[1] != 3 ||
        pixels->strides[0] < 3 * pixels->shape[1] || pixels->shape[0] > limit || pixels->shape[1] > limit) {
        PyErr_SetString(PyExc_ValueError, "source must be [h, w, 3] uint8 whose rows are contiguous and in order");
        return 0;
    }
    if (x0 < 0 || y0 < 0 || x0 > limit || y0 > limit) {
        PyErr_Format(PyExc_ValueError, "origin must lie in the frame (0 to %d), got (%d, %d)", limit, x0, y0);
        return 0;
    }
    const Py_ssize_t size = table->ndim == 2 ? table->shape[1] : 0;
    if (!is_array(table, "i", 2, (Py_ssize_t[]){4, -1}) || size < 1 || size > limit) {
        PyErr_SetString(PyExc_ValueError, "table must be [4, S] int32");
        return 0;
    }
    if (!is_array(out, "B", 3, (Py_ssize_t[]){size, size, 3})) {
        PyErr_Format(PyExc_ValueError, "out must be [%zd, %zd, 3] uint8", size, size);
        return 0;
    }
    const int k = weights->ndim == 3 ? (int)weights->shape[2] : 0;
    if ((k != 2 && k != 4) || !is_array(weights, "h", 3, (Py_ssize_t[]){1 << 2 * FRACTION_BITS, k, k})) {
        PyErr_SetString(PyExc_ValueError, "weights must be [1024, 2, 2] or [1024, 4, 4] int16");
        return 0;
    }
    *source = (Source){pixels->buf, pixels->strides[0], (int32_t)pixels->shape[1], (int32_t)pixels->shape[0], x0, y0};
    const int32_t *entries = table->buf;
    *at = (Positions){entries, entries + size, entries + 2 * size, entries + 3 * size, (int32_t)size};
    return k;
}

static PyObject *warp(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *objects[4];
    Py_buffer views[4]; /* source, table, weights, out */
    static const int flags[4] = {PyBUF_STRIDED_RO | PyBUF_FORMAT, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT,
                                 PyBUF_C_CONTIGUOUS | PyBUF_FORMAT, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | PyBUF_WRITABLE};
    int x0, y0, portable = 0, held = 0, k = 0;
    if (!PyArg_ParseTuple(args, "OiiOOO|p", &objects[0], &x0, &y0, &objects[1], &objects[2], &objects[3], &portable))
        return NULL;
    while (held < 4 && PyObject_GetBuffer(objects[held], &views[held], flags[held]) == 0)
        held++;
    Source source;
    Positions at;
    if (held == 4)
        k = check(&views[0], &views[1], &views[2], &views[3], x0, y0, &source, &at);
    if (k) {
        const int16_t *weights = views[2].buf;
        uint8_t *out = views[3].buf;
        Py_BEGIN_ALLOW_THREADS
        sampler_warp(&source, &at, weights, k, !portable && has_avx2(), out);
        Py_END_ALLOW_THREADS
    }
    while (held > 0)
        PyBuffer_Release(&views[--held]);
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *variant(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(args))
{
    return PyUnicode_FromString(has_avx2() ? "avx2" : "scalar");
}

static PyMethodDef methods[] = {
    {"warp", warp, METH_VARARGS,
     "warp(source, x0, y0, table, weights, out, portable=False)\n\n"
     "Cut one crop from source [h, w, 3] uint8, whose [0, 0] is frame pixel (x0, y0), into out [S, S, 3] uint8;\n"
     "table [4, S] int32 and weights [1024, k, k] int16 as tables.py makes them. ValueError for anything else."},
    {"variant", variant, METH_NOARGS, "The code that warp() runs on this machine: 'avx2' or 'scalar'."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_sampler", "The exact warp in C.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__sampler(void)
{
    return PyModuleDef_Init(&module);
}
