/* Columns of the faces of an alignments file, gathered from their dicts in one pass: columns.py calls it. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <string.h>

#include "machine.h"

enum { MOST_KEYS = 64, BOX = 4, POINTS = BOX, OTHER, ALL_BOX = 15 };

static const char *const roles[OTHER] = {"x", "y", "w", "h", "landmarks_xy"};

/* What the faces up to now have. References are borrowed, but those of `keys`, `box` and the points. */
typedef struct {
    Py_ssize_t count;
    PyObject *keys;            /* a set, of all faces */
    PyObject *last[MOST_KEYS]; /* of the face before, in order: in most files those of all faces are the same objects */
    int role[MOST_KEYS];
    PyObject *box; /* bytes of count x 4 doubles; NULL once a face has no plain one */
    int has_points;
    PyTypeObject *kind; /* of all points, and what else they have in common */
    PyObject *dtype, *shape, *raw;
    Py_ssize_t nbytes; /* of a face */
    int finite;
    PyObject *array_type, *list_type, *narrow, *wide;
    PyObject *dtype_name, *shape_name, *raw_name, *fortran_name;
} Survey;

static int role_of(PyObject *key)
{
    if (PyUnicode_CheckExact(key))
        for (int k = 0; k < OTHER; k++)
            if (PyUnicode_CompareWithASCIIString(key, roles[k]) == 0)
                return k;
    return OTHER;
}

/* What the key at a place of a face is for; -1 with an error set. */
static int role_at(Survey *s, PyObject *key, Py_ssize_t place)
{
    if (place < MOST_KEYS && s->last[place] == key)
        return s->role[place];
    if (PySet_Add(s->keys, key) != 0)
        return -1;
    const int role = role_of(key);
    if (place < MOST_KEYS) {
        s->last[place] = key;
        s->role[place] = role;
    }
    return role;
}

static void add_number(Survey *s, PyObject *value, Py_ssize_t row, int column)
{
    double number = 0;
    int is_plain = 1;
    if (s->box == NULL)
        return;
    if (PyFloat_CheckExact(value)) {
        number = PyFloat_AsDouble(value);
    } else if (PyLong_CheckExact(value)) {
        number = PyLong_AsDouble(value);
        is_plain = number != -1.0 || !PyErr_Occurred();
        PyErr_Clear(); /* it was too large for a double */
    } else {
        is_plain = 0;
    }
    if (is_plain)
        memcpy(PyBytes_AsString(s->box) + 8 * (BOX * row + column), &number, 8);
    else
        Py_CLEAR(s->box);
}

static int are_finite(const char *raw, Py_ssize_t nbytes, int width)
{
    uint32_t carried = 0; /* the top bit, where an exponent of ones carries into it */
    if (width == 4) {
        for (Py_ssize_t k = 0; k < nbytes; k += 4) {
            uint32_t bits;
            memcpy(&bits, raw + k, 4);
            carried |= (bits & 0x7F800000u) + 0x00800000u;
        }
        return (carried & 0x80000000u) == 0;
    }
    uint64_t carried_wide = 0;
    for (Py_ssize_t k = 0; k < nbytes; k += 8) {
        uint64_t bits;
        memcpy(&bits, raw + k, 8);
        carried_wide |= (bits & 0x7FF0000000000000u) + 0x0010000000000000u;
    }
    return (carried_wide & 0x8000000000000000u) == 0;
}

/* 1 where both are the same or equal, -1 with an error set. */
static int are_equal(PyObject *one, PyObject *other)
{
    return one == other ? 1 : PyObject_RichCompareBool(one, other, Py_EQ);
}

/* Add the points of a face; -1 with an error set. Where they are of another sort than those before, none are kept. */
static int add_points(Survey *s, PyObject *value, Py_ssize_t row)
{
    PyTypeObject *const type = Py_TYPE(value);
    int fits = (PyObject *)type == s->array_type || (PyObject *)type == s->list_type;
    if (!fits || (row > 0 && (!s->has_points || type != s->kind))) {
        s->has_points = 0;
        return 0;
    }
    PyObject *const dtype = PyObject_GetAttr(value, s->dtype_name);
    PyObject *const shape = dtype == NULL ? NULL : PyObject_GetAttr(value, s->shape_name);
    PyObject *const raw = shape == NULL ? NULL : PyObject_GetAttr(value, s->raw_name);
    if (raw != NULL && (PyObject *)type == s->array_type) {
        PyObject *const fortran = PyObject_GetAttr(value, s->fortran_name);
        fits = fortran == NULL ? -1 : fortran == Py_False;
        Py_XDECREF(fortran);
    }
    if (raw == NULL)
        fits = -1;
    else if (fits == 1 && !PyBytes_CheckExact(raw))
        fits = 0;
    if (fits == 1 && row == 0) {
        s->kind = type;
        s->dtype = Py_NewRef(dtype);
        s->shape = Py_NewRef(shape);
        s->nbytes = PyBytes_Size(raw);
        s->raw = s->nbytes > PY_SSIZE_T_MAX / s->count ? NULL : PyBytes_FromStringAndSize(NULL, s->nbytes * s->count);
        fits = s->raw != NULL ? 1 : PyErr_Occurred() ? -1 : 0;
    } else if (fits == 1) {
        fits = PyBytes_Size(raw) == s->nbytes ? are_equal(dtype, s->dtype) : 0;
        fits = fits == 1 ? are_equal(shape, s->shape) : fits;
    }
    if (fits == 1) {
        const int width = s->dtype == s->narrow ? 4 : s->dtype == s->wide ? 8 : 0;
        const char *const bytes = PyBytes_AsString(raw);
        memcpy(PyBytes_AsString(s->raw) + row * s->nbytes, bytes, (size_t)s->nbytes);
        s->finite = s->finite && width != 0 && s->nbytes % width == 0 && are_finite(bytes, s->nbytes, width);
    }
    s->has_points = fits == 1;
    Py_XDECREF(dtype);
    Py_XDECREF(shape);
    Py_XDECREF(raw);
    return fits < 0 ? -1 : 0;
}

/* Add a face; -1 with an error set. */
static int add_face(Survey *s, PyObject *face, Py_ssize_t row)
{
    PyObject *key, *value;
    Py_ssize_t position = 0, place = 0;
    int numbers = 0, points = 0;
    while (PyDict_Next(face, &position, &key, &value)) {
        const int role = role_at(s, key, place++);
        if (role < 0)
            return -1;
        if (role < BOX) {
            numbers |= 1 << role;
            add_number(s, value, row, role);
        } else if (role == POINTS) {
            points = 1;
            if (add_points(s, value, row) != 0)
                return -1;
        }
    }
    if (numbers != ALL_BOX)
        Py_CLEAR(s->box);
    s->has_points = s->has_points && points;
    return 0;
}

static int prepare(Survey *s)
{
    s->keys = PySet_New(NULL);
    s->box = PyBytes_FromStringAndSize(NULL, s->count * BOX * 8);
    s->dtype_name = PyUnicode_InternFromString("dtype");
    s->shape_name = PyUnicode_InternFromString("shape");
    s->raw_name = PyUnicode_InternFromString("raw");
    s->fortran_name = PyUnicode_InternFromString("fortran");
    return PyErr_Occurred() ? -1 : 0;
}

static void release(Survey *s)
{
    Py_XDECREF(s->keys);
    Py_XDECREF(s->box);
    Py_XDECREF(s->dtype);
    Py_XDECREF(s->shape);
    Py_XDECREF(s->raw);
    Py_XDECREF(s->dtype_name);
    Py_XDECREF(s->shape_name);
    Py_XDECREF(s->raw_name);
    Py_XDECREF(s->fortran_name);
}

static PyObject *survey(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *faces;
    Survey s = {.finite = 1};
    if (!PyArg_ParseTuple(args, "O!(OO)(OO)", &PyList_Type, &faces, &s.array_type, &s.list_type, &s.narrow, &s.wide))
        return NULL;
    s.count = PyList_Size(faces);
    int are_dicts = s.count > 0;
    int failed = prepare(&s);
    for (Py_ssize_t row = 0; row < s.count && are_dicts && !failed; row++) {
        PyObject *const face = PyList_GetItem(faces, row);
        are_dicts = PyDict_CheckExact(face);
        failed = are_dicts && add_face(&s, face, row) != 0;
    }
    PyObject *found = NULL;
    if (!failed && !are_dicts)
        found = Py_NewRef(Py_None);
    else if (!failed && s.has_points)
        found = Py_BuildValue("(OO(OOOOO))", s.keys, s.box == NULL ? Py_None : s.box, (PyObject *)s.kind, s.dtype,
                              s.shape, s.raw, s.finite ? Py_True : Py_False);
    else if (!failed)
        found = Py_BuildValue("(OOO)", s.keys, s.box == NULL ? Py_None : s.box, Py_None);
    release(&s);
    return found;
}

static PyObject *most_references(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *objects;
    if (!PyArg_ParseTuple(args, "O!", &PyList_Type, &objects))
        return NULL;
    Py_ssize_t most = 0;
    for (Py_ssize_t k = 0; k < PyList_Size(objects); k++) {
        const Py_ssize_t references = (Py_ssize_t)Py_REFCNT(PyList_GetItem(objects, k));
        most = references > most ? references : most;
    }
    return PyLong_FromSsize_t(most);
}

enum { MOST_POINTS = 128, LANES = 4 };

/* Of one face: where its points lie; points are counted in whole lanes, and those behind the n-th stay 0. */
INLINE void unpack(const char *points, int is_wide, Py_ssize_t n, double *x, double *y)
{
    for (Py_ssize_t k = 0; k < n; k++)
        if (is_wide) {
            memcpy(&x[k], points + 16 * k, 8);
            memcpy(&y[k], points + 16 * k + 8, 8);
        } else {
            float pair[2];
            memcpy(pair, points + 8 * k, 8);
            x[k] = pair[0];
            y[k] = pair[1];
        }
}

INLINE double largest(double a, double b)
{
    return a > b ? a : b;
}

/* In lanes, for no compiler may reorder what is done with doubles by itself. */
INLINE double reach_of(const double *values, Py_ssize_t padded)
{
    double lanes[LANES] = {0};
    for (Py_ssize_t k = 0; k < padded; k += LANES)
        for (Py_ssize_t lane = 0; lane < LANES; lane++)
            lanes[lane] = largest(lanes[lane], largest(values[k + lane], -values[k + lane]));
    return largest(largest(lanes[0], lanes[1]), largest(lanes[2], lanes[3]));
}

INLINE double weighted(const double *weights, const double *values, Py_ssize_t padded)
{
    double lanes[LANES] = {0};
    for (Py_ssize_t k = 0; k < padded; k += LANES)
        for (Py_ssize_t lane = 0; lane < LANES; lane++)
            lanes[lane] += weights[k + lane] * values[k + lane];
    return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
}

/* Faces, and where what is said of them goes. */
typedef struct {
    const char *points;
    int is_wide;
    Py_ssize_t count, n, anchor, kinds;
    const double *weights;
    double *sums, *squares, *reach;
} Summed;

INLINE void sum_up(const Summed *of)
{
    double x[MOST_POINTS] = {0}, y[MOST_POINTS] = {0}, squared[MOST_POINTS] = {0};
    const Py_ssize_t padded = (of->n + LANES - 1) / LANES * LANES;
    for (Py_ssize_t face = 0; face < of->count; face++) {
        unpack(of->points + face * of->n * (of->is_wide ? 16 : 8), of->is_wide, of->n, x, y);
        of->reach[face] = largest(reach_of(x, padded), reach_of(y, padded));
        const double x0 = x[of->anchor], y0 = y[of->anchor];
        for (Py_ssize_t k = 0; k < of->n; k++) {
            x[k] -= x0;
            y[k] -= y0;
            squared[k] = x[k] * x[k] + y[k] * y[k];
        }
        double *sum = of->sums + face;
        for (Py_ssize_t kind = 0; kind < of->kinds; kind++, sum += 2 * of->count) {
            sum[0] = weighted(of->weights + MOST_POINTS * kind, x, padded);
            sum[of->count] = weighted(of->weights + MOST_POINTS * kind, y, padded);
        }
        of->squares[face] = weighted(of->weights, squared, padded);
    }
}

static void sum_up_portable(const Summed *of)
{
    sum_up(of);
}

#if HAVE_AVX2
/* The same code, four doubles at a time. */
AVX2 static void sum_up_avx2(const Summed *of)
{
    sum_up(of);
}
#else
#define sum_up_avx2 sum_up_portable
#endif

static PyObject *sums(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer points, weights, out, squares, reach;
    Py_ssize_t n, anchor;
    int is_wide;
    if (!PyArg_ParseTuple(args, "y*pnny*w*w*w*", &points, &is_wide, &n, &anchor, &weights, &out, &squares, &reach))
        return NULL;
    const Py_ssize_t count = reach.len / 8, kinds = weights.len / (8 * MOST_POINTS);
    const int fits = n > 0 && n <= MOST_POINTS && anchor >= 0 && anchor < n && kinds > 0 &&
                     points.len == count * n * (is_wide ? 16 : 8) && squares.len == 8 * count &&
                     out.len == 16 * count * kinds && weights.len == kinds * 8 * MOST_POINTS && reach.len % 8 == 0;
    if (fits) {
        const Summed of = {points.buf, is_wide, count, n, anchor, kinds, weights.buf, out.buf, squares.buf, reach.buf};
        Py_BEGIN_ALLOW_THREADS(has_avx2() ? sum_up_avx2 : sum_up_portable)
        (&of);
        Py_END_ALLOW_THREADS
    } else {
        PyErr_SetString(PyExc_ValueError, "the buffers do not go together");
    }
    PyBuffer_Release(&points);
    PyBuffer_Release(&weights);
    PyBuffer_Release(&out);
    PyBuffer_Release(&squares);
    PyBuffer_Release(&reach);
    return fits ? Py_NewRef(Py_None) : NULL;
}

static PyMethodDef methods[] = {
    {"survey", survey, METH_VARARGS,
     "survey(faces, (PackedArray, PackedList), (float32, float64))\n\n"
     "The keys of all faces; x, y, w, h of all as bytes of doubles, or None; and their points, as (type, dtype, shape,\n"
     "bytes of all, whether all are finite floats) or None. None where a face is no dict, or there is none."},
    {"most_references", most_references, METH_VARARGS,
     "most_references(objects)\n\n"
     "How often the one of a list's objects that is referred to most often is, this list included; 0 of none."},
    {"sums", sums, METH_VARARGS,
     "sums(points, is_wide, n, anchor, weights, sums, squares, reach)\n\n"
     "See columns.py; weights are doubles [c, 128], zeros behind the n-th, and of their first kind are `squares`."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    "_columns",
    "Columns of the faces of an alignments file.",
    0,
    methods,
    NULL,
    NULL,
    NULL,
    NULL,
};

PyMODINIT_FUNC PyInit__columns(void)
{
    return PyModuleDef_Init(&module);
}
