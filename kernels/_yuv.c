/* Planar YUV to BGR in C: yuv.py calls it and gives the formulas. Runs without the GIL. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "machine.h"
#include "yuv.h"

enum { CHANNELS = 3 };

/* Whether a plane of so many rows of `n` bytes lies in its memory. */
static int fill_plane(const Py_buffer *buffer, Py_ssize_t stride, Py_ssize_t n, Py_ssize_t rows, Plane *plane)
{
    *plane = (Plane){buffer->buf, stride};
    if (stride <= 0 || n > stride || rows > PY_SSIZE_T_MAX / stride || (rows - 1) * stride + n > buffer->len) {
        PyErr_SetString(PyExc_ValueError, "the rectangle lies outside a plane");
        return 0;
    }
    return 1;
}

/* job holds the picture's size and the rectangle's corner. */
static int check(const Py_buffer *planes, const Py_ssize_t *strides, const Layout *layout, const Py_buffer *out,
                 Conversion *job)
{
    if (out->ndim != 3 || out->itemsize != 1 || out->shape[2] != CHANNELS) {
        PyErr_SetString(PyExc_ValueError, "out must be [h, w, 3] uint8");
        return 0;
    }
    if (!yuv_is_known(layout)) {
        PyErr_SetString(PyExc_ValueError, "no formula is known for this layout");
        return 0;
    }
    const Py_ssize_t height = job->height = out->shape[0], width = job->width = out->shape[1];
    const Py_ssize_t rows = job->picture_height, columns = job->picture_width;
    job->bgr = out->buf;
    if (job->x0 < 0 || job->y0 < 0 || height < 2 || width < 2 || (job->x0 | job->y0 | height | width) % 2 != 0) {
        PyErr_SetString(PyExc_ValueError, "the rectangle must start at even x and y and have even sides");
        return 0;
    }
    if ((rows | columns) % 2 != 0 || rows - height < job->y0 || columns - width < job->x0 ||
        columns > PY_SSIZE_T_MAX / 2) {
        PyErr_SetString(PyExc_ValueError, "the rectangle lies outside a picture of even sides");
        return 0;
    }
    const Py_ssize_t bytes = layout->bits > 8 ? 2 : 1, chroma_rows = rows >> layout->halved;
    return fill_plane(&planes[0], strides[0], bytes * columns, rows, &job->y) &&
           fill_plane(&planes[1], strides[1], bytes * (columns / 2), chroma_rows, &job->u) &&
           fill_plane(&planes[2], strides[2], bytes * (columns / 2), chroma_rows, &job->v);
}

static PyObject *convert(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *objects[3], *target;
    Py_ssize_t strides[3];
    Conversion job = {0};
    Coefficients c;
    Layout layout;
    int portable = 0;
    if (!PyArg_ParseTuple(args, "OnOnOnnnnnO(hhhhhhiiiiii)(ippip)|p", &objects[0], &strides[0], &objects[1],
                          &strides[1], &objects[2], &strides[2], &job.picture_height, &job.picture_width, &job.x0,
                          &job.y0, &target, &c.luma, &c.luma_zero, &c.blue_u, &c.green_u, &c.green_v, &c.red_v,
                          &c.scale, &c.zero, &c.step_blue_u, &c.step_green_u, &c.step_green_v, &c.step_red_v,
                          &layout.bits, &layout.halved, &layout.left, &layout.down, &layout.cubic, &portable))
        return NULL;
    Py_buffer planes[3], out;
    int held = 0;
    while (held < 3 && PyObject_GetBuffer(objects[held], &planes[held], PyBUF_SIMPLE) == 0)
        held++;
    if (held == 3 && PyObject_GetBuffer(target, &out, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE) == 0) {
        if (check(planes, strides, &layout, &out, &job)) {
            Py_BEGIN_ALLOW_THREADS
            yuv_convert(&job, &c, &layout, !portable && has_avx2());
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
     "convert(y, y_stride, u, u_stride, v, v_stride, height, width, x0, y0, out, coefficients, layout,\n"
     "portable=False)\n\n"
     "Write the rectangle from pixel (x0, y0) on of a picture height x width to out [h, w, 3] uint8 BGR; all even.\n"
     "coefficients and layout: as yuv.Coefficients and yuv.Layout."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_yuv", "Planar YUV to BGR.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__yuv(void)
{
    return PyModuleDef_Init(&module);
}
