/* PNG files in C: png.py calls it. png.h has what is done; one call returns a file and runs without the GIL. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdlib.h>

#include "machine.h"
#include "png.h"

enum { CHANNELS = 3 };

static int check(const Py_buffer *pixels, const Py_buffer *text, Crop *crop)
{
    if (pixels->ndim != 3 || strcmp(pixels->format, "B") != 0 || pixels->shape[2] != CHANNELS ||
        pixels->strides[2] != 1 || pixels->strides[1] != CHANNELS || pixels->shape[0] < 1 || pixels->shape[1] < 1) {
        PyErr_SetString(PyExc_ValueError, "crop must be [H, W, 3] uint8 whose rows are contiguous, 1 x 1 or larger");
        return 0;
    }
    *crop = (Crop){pixels->buf, pixels->strides[0], (size_t)pixels->shape[1], (size_t)pixels->shape[0]};
    if (png_most_data(crop->width, crop->height) == SIZE_MAX) {
        PyErr_Format(PyExc_ValueError, "a crop of %zu x %zu pixels is too large for one PNG chunk, which ends at 2 GiB",
                     crop->width, crop->height);
        return 0;
    }
    if (text->len > PNG_MOST_DATA) {
        PyErr_Format(PyExc_ValueError, "text of %zd bytes is too long for a PNG chunk, which ends at 2 GiB", text->len);
        return 0;
    }
    return 1;
}

static PyObject *encode(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *objects[2], *file = NULL;
    Py_buffer pixels, text = {0};
    int most = LEVEL_AVX512;
    if (!PyArg_ParseTuple(args, "OO|i", &objects[0], &objects[1], &most))
        return NULL;
    if (PyObject_GetBuffer(objects[0], &pixels, PyBUF_STRIDED_RO | PyBUF_FORMAT) != 0)
        return NULL;
    if (objects[1] != Py_None && PyObject_GetBuffer(objects[1], &text, PyBUF_SIMPLE) != 0) {
        PyBuffer_Release(&pixels);
        return NULL;
    }
    Crop crop;
    if (check(&pixels, &text, &crop)) {
        PngWriter *writer;
        const uint8_t *bytes = NULL;
        size_t size = 0;
        Py_BEGIN_ALLOW_THREADS
        writer = png_writer(crop.width, crop.height, (size_t)text.len);
        if (writer != NULL)
            size = png_write(writer, &crop, text.obj != NULL ? text.buf : NULL, (size_t)text.len, level_up_to(most),
                             &bytes);
        Py_END_ALLOW_THREADS
        file = writer != NULL ? PyBytes_FromStringAndSize((const char *)bytes, (Py_ssize_t)size) : PyErr_NoMemory();
        png_writer_free(writer);
    }
    PyBuffer_Release(&text);
    PyBuffer_Release(&pixels);
    return file;
}

static PyObject *deflated(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *object, *result = NULL;
    Py_buffer data;
    int most = LEVEL_AVX512;
    if (!PyArg_ParseTuple(args, "O|i", &object, &most) || PyObject_GetBuffer(object, &data, PyBUF_SIMPLE) != 0)
        return NULL;
    if (data.len == 0) {
        PyErr_SetString(PyExc_ValueError, "data must not be empty");
    } else {
        uint8_t *stream;
        size_t size = 0;
        Py_BEGIN_ALLOW_THREADS
        stream = png_deflated(data.buf, (size_t)data.len, level_up_to(most), &size);
        Py_END_ALLOW_THREADS
        result = stream != NULL ? PyBytes_FromStringAndSize((const char *)stream, (Py_ssize_t)size) : PyErr_NoMemory();
        free(stream);
    }
    PyBuffer_Release(&data);
    return result;
}

static PyMethodDef methods[] = {
    {"encode", encode, METH_VARARGS,
     "encode(crop, text, level=2)\n\n"
     "The PNG file of crop [H, W, 3] uint8 BGR, with text, bytes or None, as the data of an iTXt chunk before the pixels.\n"
     "level: 0 leaves out what is particular to a processor, 1 takes AVX2 and 2 AVX-512, as far as this one has it."},
    {"deflated", deflated, METH_VARARGS,
     "deflated(data, level=2)\n\nThe zlib stream of at least one byte, as encode() writes it for its rows."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_png", "PNG files in C.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__png(void)
{
    png_prepare();
    return PyModuleDef_Init(&module);
}
