/* Pixels of PNG files in C: scanlines.py calls it. scanlines.h has what is done; one call runs without the GIL. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "machine.h"
#include "scanlines.h"

static int check(const Py_buffer *out, Py_ssize_t width, Py_ssize_t height, int channels, Py_ssize_t x0, Py_ssize_t y0)
{
    if (out->ndim != 3 || out->itemsize != 1 || out->shape[2] != 3) {
        PyErr_SetString(PyExc_ValueError, "out must be [h, w, 3] uint8");
        return 0;
    }
    if (channels != 3 && channels != 4) {
        PyErr_Format(PyExc_ValueError, "channels must be 3 or 4, got %d", channels);
        return 0;
    }
    if (width < 1 || height < 1 || width > PY_SSIZE_T_MAX / 64 || height > PY_SSIZE_T_MAX / 64 / width) {
        PyErr_SetString(PyExc_ValueError, "the image must have pixels, and no more than fit into memory");
        return 0;
    }
    if (x0 < 0 || y0 < 0 || out->shape[1] < 1 || out->shape[0] < 1 || x0 > width - out->shape[1] ||
        y0 > height - out->shape[0]) {
        PyErr_SetString(PyExc_ValueError, "the rectangle is empty or reaches outside the image");
        return 0;
    }
    return 1;
}

static PyObject *decode(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *objects[2];
    Py_ssize_t width, height, x0, y0;
    int channels, most = LEVEL_AVX512;
    Py_buffer file, out;
    if (!PyArg_ParseTuple(args, "OnninnO|i", &objects[0], &width, &height, &channels, &x0, &y0, &objects[1], &most) ||
        PyObject_GetBuffer(objects[0], &file, PyBUF_SIMPLE) != 0)
        return NULL;
    if (PyObject_GetBuffer(objects[1], &out, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | PyBUF_WRITABLE) != 0) {
        PyBuffer_Release(&file);
        return NULL;
    }
    Decoded decoded = NOT_DECODED;
    if (check(&out, width, height, channels, x0, y0)) {
        const Rectangle wanted = {.width = (size_t)width,
                                  .height = (size_t)height,
                                  .channels = channels,
                                  .x0 = (size_t)x0,
                                  .y0 = (size_t)y0,
                                  .x1 = (size_t)(x0 + out.shape[1]),
                                  .y1 = (size_t)(y0 + out.shape[0])};
        Py_BEGIN_ALLOW_THREADS
        decoded = scanlines_decode(file.buf, (size_t)file.len, &wanted, level_up_to(most), out.buf);
        Py_END_ALLOW_THREADS
        if (decoded == NO_MEMORY)
            PyErr_NoMemory();
    }
    PyBuffer_Release(&out);
    PyBuffer_Release(&file);
    return PyErr_Occurred() ? NULL : PyBool_FromLong(decoded == DECODED);
}

static PyMethodDef methods[] = {
    {"decode", decode, METH_VARARGS,
     "decode(file, width, height, channels, x0, y0, out, level=2)\n\n"
     "Write the rectangle at (x0, y0) of a PNG of that size to out [h, w, 3] uint8 BGR. Returns whether it could.\n"
     "level: 0 leaves out what is particular to a processor."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_scanlines", "Pixels of PNG files in C.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__scanlines(void)
{
    scanlines_prepare();
    return PyModuleDef_Init(&module);
}
