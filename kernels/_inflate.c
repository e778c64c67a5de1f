/* A zlib stream inflated without the GIL, piece by piece: inflate.py calls it. inflate.h has what is done. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "checksums.h"
#include "inflate.h"
#include "machine.h"

enum {
    FRESH = 1 << 18, /* bytes that are inflated at once; with their window they stay in a cache of the second level */
    ROOM = INFLATE_WINDOW + FRESH + INFLATE_SLACK
};

typedef enum { NOT_BEGUN, BEGUN, ENDED, DAMAGED, TRUNCATED, FAILED } State;

typedef struct {
    PyObject_HEAD Pieces pieces;
    PyObject *read, *piece; /* what gives pieces, and the last of them */
    PyThreadState *thread;  /* that inflates, while it does not have the GIL */
    int is_busy, is_all_read, level;
    State state;
    uint32_t adler;
    size_t end, given; /* bytes in the room, and how many of them are known outside; before them lies the window */
    Inflater inflater;
    uint8_t room[ROOM];
} Stream;

/* Calls `read` with the GIL, which is let go again. */
static const uint8_t *next_piece(Pieces *pieces, size_t *size)
{
    Stream *const stream = (Stream *)((char *)pieces - offsetof(Stream, pieces));
    if (stream->is_all_read)
        return NULL;
    PyEval_RestoreThread(stream->thread);
    Py_XDECREF(stream->piece);
    stream->piece = PyObject_CallNoArgs(stream->read);
    char *bytes = NULL;
    Py_ssize_t count = 0;
    if (stream->piece == NULL || PyBytes_AsStringAndSize(stream->piece, &bytes, &count) != 0)
        stream->state = FAILED;
    stream->is_all_read = stream->state == FAILED || count == 0;
    *size = (size_t)count;
    stream->thread = PyEval_SaveThread();
    return stream->is_all_read ? NULL : (const uint8_t *)bytes;
}

/* How it goes on after a step that could not be made. */
static State fault(const Stream *stream)
{
    return stream->state == FAILED ? FAILED : inflate_is_starved(&stream->inflater) ? TRUNCATED : DAMAGED;
}

/* Fills the room behind the window with what comes next. */
static void inflate_more(Stream *stream)
{
    if (stream->state == NOT_BEGUN)
        stream->state = inflate_begin(&stream->inflater, &stream->pieces, stream->level) ? BEGUN : fault(stream);
    if (stream->state != BEGUN)
        return;
    if (stream->end > INFLATE_WINDOW) {
        memmove(stream->room, stream->room + stream->end - INFLATE_WINDOW, INFLATE_WINDOW);
        stream->end = stream->given = INFLATE_WINDOW;
    }
    uint8_t *const fresh = stream->room + stream->end, *to = fresh;
    const Inflated result = inflate(&stream->inflater, stream->room, &to, fresh + FRESH);
    if (stream->state == FAILED) /* also where what came before was enough */
        return;
    stream->adler = adler32(stream->adler, fresh, (size_t)(to - fresh), stream->level);
    stream->end = (size_t)(to - stream->room);
    uint32_t adler;
    if (result == INFLATE_DAMAGED)
        stream->state = fault(stream);
    else if (result == INFLATE_ENDED)
        stream->state = !inflate_checksum(&stream->inflater, &adler) ? fault(stream)
                        : adler == stream->adler                     ? ENDED
                                                                     : DAMAGED;
}

/* Fills `out`, as far as the stream goes; returns how many bytes it got. */
static size_t inflate_to(Stream *stream, uint8_t *out, size_t size)
{
    size_t done = 0;
    while (done < size) {
        if (stream->given == stream->end)
            inflate_more(stream);
        if (stream->given == stream->end)
            break;
        const size_t left = stream->end - stream->given, count = left < size - done ? left : size - done;
        memcpy(out + done, stream->room + stream->given, count);
        stream->given += count;
        done += count;
    }
    return done;
}

static PyObject *nothing_more(const Stream *stream)
{
    if (stream->state == ENDED)
        return PyBytes_FromStringAndSize(NULL, 0);
    if (!PyErr_Occurred())
        PyErr_SetString(stream->state == TRUNCATED ? PyExc_EOFError : PyExc_ValueError,
                        stream->state == TRUNCATED ? "the stream ends too early" : "the stream is damaged");
    return NULL;
}

static PyObject *inflated(PyObject *self, PyObject *args)
{
    Stream *const stream = (Stream *)self;
    Py_ssize_t size;
    if (!PyArg_ParseTuple(args, "n", &size))
        return NULL;
    if (size < 1 || stream->is_busy) {
        PyErr_SetString(PyExc_ValueError, size < 1 ? "size must be positive" : "another thread inflates this stream");
        return NULL;
    }
    PyObject *const bytes = PyBytes_FromStringAndSize(NULL, size);
    if (bytes == NULL)
        return NULL;
    uint8_t *const out = (uint8_t *)PyBytes_AsString(bytes);
    stream->is_busy = 1;
    stream->thread = PyEval_SaveThread();
    const size_t done = inflate_to(stream, out, (size_t)size);
    PyEval_RestoreThread(stream->thread);
    stream->is_busy = 0;
    if (done == (size_t)size && stream->state != FAILED)
        return bytes;
    PyObject *const fewer = done > 0 && stream->state != FAILED
                                ? PyBytes_FromStringAndSize((const char *)out, (Py_ssize_t)done)
                                : nothing_more(stream);
    Py_DECREF(bytes);
    return fewer;
}

static PyObject *left(PyObject *self, PyObject *Py_UNUSED(none))
{
    return PyLong_FromSize_t(inflate_left(&((Stream *)self)->inflater));
}

static void dealloc(PyObject *self)
{
    PyTypeObject *const type = Py_TYPE(self);
    Py_XDECREF(((Stream *)self)->read);
    Py_XDECREF(((Stream *)self)->piece);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyObject *new_stream(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(words))
{
    PyObject *read;
    int most = LEVEL_AVX512;
    if (!PyArg_ParseTuple(args, "O|i", &read, &most))
        return NULL;
    Stream *const stream = (Stream *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (stream == NULL)
        return NULL;
    stream->pieces.next = next_piece;
    stream->read = Py_NewRef(read);
    stream->level = level_up_to(most);
    stream->adler = 1;
    return (PyObject *)stream;
}

static PyMethodDef stream_methods[] = {
    {"inflated", inflated, METH_VARARGS,
     "inflated(size)\n\nThe next bytes, fewer than size only at the end, and none behind it."},
    {"left", left, METH_NOARGS, "How many bytes were read that the stream does not have."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot stream_slots[] = {
    {Py_tp_new, (void *)new_stream},
    {Py_tp_dealloc, (void *)dealloc},
    {Py_tp_methods, stream_methods},
    {Py_tp_doc, "Stream(read, level=2)\n\nSee inflate.py. level: 0 leaves out what is particular to a processor."},
    {0, NULL},
};

static PyType_Spec stream_spec = {
    "gpu_extract.kernels._inflate.Stream", sizeof(Stream), 0, Py_TPFLAGS_DEFAULT, stream_slots,
};

static int execute(PyObject *module)
{
    PyObject *const type = PyType_FromSpec(&stream_spec);
    const int failed = type == NULL || PyModule_AddObjectRef(module, "Stream", type) != 0;
    Py_XDECREF(type);
    return failed ? -1 : 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)execute},
    {0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_inflate", "zlib streams in C.", 0, NULL, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__inflate(void)
{
    return PyModuleDef_Init(&module);
}
