/* Pixels of PNG files in C: scanlines.py calls it. scanlines.h has what is done; one call runs without the GIL. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "inflate.h"
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

/* A stream in memory, cut into equal pieces. */
typedef struct {
    Pieces pieces;
    const uint8_t *at;
    size_t left, piece;
} Slices;

static const uint8_t *next_slice(Pieces *pieces, size_t *size)
{
    Slices *const slices = (Slices *)pieces;
    const uint8_t *const slice = slices->at;
    *size = slices->left < slices->piece ? slices->left : slices->piece;
    slices->at += *size;
    slices->left -= *size;
    return *size > 0 ? slice : NULL;
}

static PyObject *inflated(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *object, *result = NULL;
    Py_buffer stream;
    Py_ssize_t size, piece;
    int most = LEVEL_AVX512;
    if (!PyArg_ParseTuple(args, "Onn|i", &object, &size, &piece, &most) ||
        PyObject_GetBuffer(object, &stream, PyBUF_SIMPLE) != 0)
        return NULL;
    if (size < 0 || piece < 1) {
        PyErr_SetString(PyExc_ValueError, "size must not be negative, a piece has a byte at least");
    } else {
        Slices slices = {{next_slice}, stream.buf, (size_t)stream.len, (size_t)piece};
        Inflater *const inflater = PyMem_Malloc(sizeof *inflater);
        uint8_t *const bytes = PyMem_Malloc((size_t)size + INFLATE_SLACK), *to = bytes;
        if (inflater == NULL || bytes == NULL)
            PyErr_NoMemory();
        else if (inflate_begin(inflater, &slices.pieces, level_up_to(most)) &&
                 inflate(inflater, bytes, &to, bytes + size) == INFLATE_FULL)
            result = PyBytes_FromStringAndSize((const char *)bytes, size);
        else
            result = Py_NewRef(Py_None);
        PyMem_Free(bytes);
        PyMem_Free(inflater);
    }
    PyBuffer_Release(&stream);
    return result;
}

static PyMethodDef methods[] = {
    {"decode", decode, METH_VARARGS,
     "decode(file, width, height, channels, x0, y0, out, level=2)\n\n"
     "Write the rectangle at (x0, y0) of a PNG of that size to out [h, w, 3] uint8 BGR. Returns whether it could.\n"
     "level: 0 leaves out what is particular to a processor."},
    {"inflated", inflated, METH_VARARGS,
     "inflated(stream, size, piece, level=2)\n\n"
     "The first bytes that a zlib stream holds, read in pieces as decode() does; None if it ends or is damaged before."},
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
