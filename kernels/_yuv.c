/* 8-bit 4:2:0 planes to BGR in C: yuv.py calls it and gives the formula. Runs without the GIL. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "machine.h"
#include "yuv.h"

enum { CHANNELS = 3 };

/* Whether `rows` rows of `n` samples from (x, y) on lie in the plane's memory. */
static int fill_plane(const Py_buffer *buffer, Py_ssize_t stride, Py_ssize_t x, Py_ssize_t y, Py_ssize_t n,
                      Py_ssize_t rows, Plane *plane)
{
    *plane = (Plane){(const uint8_t *)buffer->buf + y * stride + x, stride};
    if (stride <= 0 || x + n > stride || y + rows > PY_SSIZE_T_MAX / stride ||
        (y + rows - 1) * stride + x + n > buffer->len) {
        PyErr_SetString(PyExc_ValueError, "the rectangle lies outside a plane");
        return 0;
    }
    return 1;
}

static int check(const Py_buffer *planes, const Py_ssize_t *strides, Py_ssize_t x0, Py_ssize_t y0, const Py_buffer *out,
                 Conversion *job)
{
    if (out->ndim != 3 || out->itemsize != 1 || out->shape[2] != CHANNELS) {
        PyErr_SetString(PyExc_ValueError, "out must be [h, w, 3] uint8");
        return 0;
    }
    const Py_ssize_t height = out->shape[0], width = out->shape[1];
    if (x0 < 0 || y0 < 0 || height < 2 || width < 2 || (x0 | y0 | height | width) % 2 != 0) {
        PyErr_SetString(PyExc_ValueError, "the rectangle must start at even x and y and have even sides");
        return 0;
    }
    *job = (Conversion){.width = width, .height = height, .bgr = out->buf};
    return fill_plane(&planes[0], strides[0], x0, y0, width, height, &job->y) &&
           fill_plane(&planes[1], strides[1], x0 / 2, y0 / 2, width / 2, height / 2, &job->u) &&
           fill_plane(&planes[2], strides[2], x0 / 2, y0 / 2, width / 2, height / 2, &job->v);
}

static PyObject *convert(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *objects[3], *target;
    Py_ssize_t strides[3], x0, y0;
    Coefficients c;
    int portable = 0;
    if (!PyArg_ParseTuple(args, "OnOnOnnnO(hhhhhh)|p", &objects[0], &strides[0], &objects[1], &strides[1], &objects[2],
                          &strides[2], &x0, &y0, &target, &c.luma, &c.luma_zero, &c.blue_u, &c.green_u, &c.green_v,
                          &c.red_v, &portable))
        return NULL;
    Py_buffer planes[3], out;
    int held = 0;
    while (held < 3 && PyObject_GetBuffer(objects[held], &planes[held], PyBUF_SIMPLE) == 0)
        held++;
    if (held == 3 && PyObject_GetBuffer(target, &out, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE) == 0) {
        Conversion job;
        if (check(planes, strides, x0, y0, &out, &job)) {
            Py_BEGIN_ALLOW_THREADS
            yuv_convert(&job, &c, !portable && has_avx2());
            Py_END_ALLOW_THREADS
        }
        PyBuffer_Release(&out);
    }
    while (held > 0)
        PyBuffer_Release(&planes[--held]);
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"convert", convert, METH_VARARGS,
     "convert(y, y_stride, u, u_stride, v, v_stride, x0, y0, out, coefficients, portable=False)\n\n"
     "Write the rectangle from pixel (x0, y0) on to out [h, w, 3] uint8 BGR; all even. coefficients: six int16, in the\n"
     "order of yuv.Coefficients."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_yuv", "8-bit 4:2:0 planes to BGR.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__yuv(void)
{
    return PyModuleDef_Init(&module);
}
