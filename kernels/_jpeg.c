/* Rectangles of JPEGs in C: jpeg.py calls it. jpeg.h has what is done; runs without the GIL. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "jpeg.h"
#include "machine.h"

enum { CHANNELS = 3 };

/* Whether the rectangles take as many bytes as there are. */
static int check(const Py_buffer *rectangles, const Py_buffer *out)
{
    if (rectangles->ndim != 2 || rectangles->itemsize != (Py_ssize_t)sizeof(int64_t) || rectangles->shape[1] != 4 ||
        out->ndim != 1 || out->itemsize != 1) {
        PyErr_SetString(PyExc_ValueError, "rectangles must be [N, 4] int64 and out [bytes] uint8");
        return 0;
    }
    const Rectangle *const each = rectangles->buf;
    Py_ssize_t room = out->len;
    for (Py_ssize_t i = 0; i < rectangles->shape[0]; i++) {
        const Rectangle one = each[i];
        if (one.x0 < 0 || one.y0 < 0 || one.x1 <= one.x0 || one.y1 <= one.y0 ||
            one.y1 - one.y0 > room / CHANNELS / (one.x1 - one.x0)) {
            PyErr_SetString(PyExc_ValueError,
                            "each rectangle must hold pixels, and out must have room for those of all");
            return 0;
        }
        room -= (Py_ssize_t)(CHANNELS * (one.x1 - one.x0) * (one.y1 - one.y0));
    }
    return 1;
}

static PyObject *decode(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *objects[2];
    Py_buffer file, rectangles, out;
    int as_stored = 0, portable = 0, is_done = 0;
    if (!PyArg_ParseTuple(args, "y*OOp|p", &file, &objects[0], &objects[1], &as_stored, &portable))
        return NULL;
    if (PyObject_GetBuffer(objects[0], &rectangles, PyBUF_C_CONTIGUOUS) == 0) {
        if (PyObject_GetBuffer(objects[1], &out, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE) == 0) {
            if (check(&rectangles, &out)) {
                Py_BEGIN_ALLOW_THREADS
                is_done = jpeg_rectangles(file.buf, (size_t)file.len, rectangles.buf, (size_t)rectangles.shape[0],
                                          as_stored, level_up_to(portable ? LEVEL_PORTABLE : LEVEL_AVX2), out.buf);
                Py_END_ALLOW_THREADS
            }
            PyBuffer_Release(&out);
        }
        PyBuffer_Release(&rectangles);
    }
    PyBuffer_Release(&file);
    return PyErr_Occurred() ? NULL : PyBool_FromLong(is_done);
}

static PyMethodDef methods[] = {
    {"decode", decode, METH_VARARGS,
     "decode(file, rectangles, out, as_stored, portable=False)\n\n"
     "Write the BGR pixels of rectangles [N, 4] int64, x0 y0 x1 y1, one after the other to out [bytes] uint8.\n"
     "False where another decoder should do the file; out is then undefined."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_jpeg", "Rectangles of JPEGs in C.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__jpeg(void)
{
    return PyModuleDef_Init(&module);
}
