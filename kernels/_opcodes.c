/* Frequent instructions of pickles in C: opcodes.py calls it. What is rare, damaged or forbidden stays where it was. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <string.h>

#include "numbers.h"

enum {
    PACKED_COST = 4,
    MOST_DIMENSIONS = 3,
    MOST_TYPES = 64,
    MOST_SHAPES = 10000,
    MOST_TAKEN = 64 /* values, and marks, of a stack: each rare instruction would cost all of a deep one */
};

/* A pickle machine in the middle of its stream. Its Python objects are borrowed, but for what its stack holds. */
typedef struct {
    const uint8_t *code;
    Py_ssize_t size, at, values, max_string;
    PyObject **stack;
    Py_ssize_t below; /* values that stayed where they were, under those here */
    Py_ssize_t depth, room;
    Py_ssize_t *marks, mark_count, mark_room; /* marks count those below, too */
    PyObject *memo, *shapes;
    PyObject *hole, *reconstruct, *ndarray, *dtype_type, *array_type, *list_type;
    PyObject *narrow, *wide, *bytes; /* dtypes: float32, float64, uint8 */
    PyObject *raw_name, *dtype_name, *shape_name, *fortran_name, *pair_name;
    PyObject *holes;      /* a list of holes, NULL before the first is needed; owned */
    PyObject *list_shape; /* of the last list of numbers, NULL before the first; owned */
    size_t list_count;
    NumbersKind list_kind;
} Machine;

/* How an instruction went: carried out; not begun, so that all is as before; or a Python error is set. */
typedef enum { DONE, LEFT, FAILED } Outcome;

static int holds(const Machine *m, Py_ssize_t at, Py_ssize_t count)
{
    return count >= 0 && at <= m->size && count <= m->size - at;
}

static uint32_t word(const uint8_t *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

/* Room for one more item of `size` bytes behind `count`; 0 where there is no memory. */
static int make_room(void **items, Py_ssize_t count, Py_ssize_t *room, size_t size)
{
    if (count < *room)
        return 1;
    const Py_ssize_t more = *room < 128 ? 256 : 2 * *room;
    void *const moved = PyMem_Realloc(*items, (size_t)more * size);
    if (moved == NULL) {
        PyErr_NoMemory();
        return 0;
    }
    *items = moved;
    *room = more;
    return 1;
}

/* Takes over the reference to `value`, which may be NULL after an error. */
static Outcome push(Machine *m, PyObject *value, Py_ssize_t next)
{
    if (value == NULL || !make_room((void **)&m->stack, m->depth, &m->room, sizeof *m->stack)) {
        Py_XDECREF(value);
        return FAILED;
    }
    m->stack[m->depth++] = value;
    m->at = next;
    return DONE;
}

static Outcome push_mark(Machine *m, Py_ssize_t depth)
{
    if (!make_room((void **)&m->marks, m->mark_count, &m->mark_room, sizeof *m->marks))
        return FAILED;
    m->marks[m->mark_count++] = depth;
    return DONE;
}

static Outcome remember(Machine *m, PyObject *value)
{
    return PyList_Append(m->memo, value) == 0 ? DONE : FAILED;
}

/* Entries of the memo for what is inside of a packed value. */
static Outcome remember_holes(Machine *m, Py_ssize_t count)
{
    if (count == 0)
        return DONE;
    if (m->holes != NULL && PyList_Size(m->holes) != count)
        Py_CLEAR(m->holes);
    if (m->holes == NULL) {
        if ((m->holes = PyList_New(count)) == NULL)
            return FAILED;
        for (Py_ssize_t k = 0; k < count; k++)
            PyList_SetItem(m->holes, k, Py_NewRef(m->hole));
    }
    const Py_ssize_t size = PyList_Size(m->memo);
    return PyList_SetSlice(m->memo, size, size, m->holes) == 0 ? DONE : FAILED;
}

/* Where the values behind the last mark begin; negative where some are not here, or that makes no sense. */
static Py_ssize_t marked(const Machine *m)
{
    if (m->mark_count == 0)
        return -1;
    const Py_ssize_t start = m->marks[m->mark_count - 1] - m->below;
    return start <= m->depth ? start : -1;
}

static void drop(Machine *m, Py_ssize_t from, int with_mark)
{
    while (m->depth > from)
        Py_DECREF(m->stack[--m->depth]);
    m->mark_count -= with_mark;
}

static int is_key(PyObject *key)
{
    if (PyUnicode_CheckExact(key))
        return 1;
    if (!PyLong_CheckExact(key))
        return 0;
    int overflow;
    const long long value = PyLong_AsLongLongAndOverflow(key, &overflow);
    return !overflow && value >= INT32_MIN && value <= INT32_MAX;
}

static Outcome set_items(Machine *m, PyObject *target, Py_ssize_t from, int with_mark)
{
    const Py_ssize_t end = m->depth;
    if (!PyDict_CheckExact(target) || (end - from) % 2 != 0)
        return LEFT;
    for (Py_ssize_t k = from; k < end; k += 2)
        if (!is_key(m->stack[k]))
            return LEFT;
    for (Py_ssize_t k = from; k < end; k += 2)
        if (PyDict_SetItem(target, m->stack[k], m->stack[k + 1]) != 0)
            return FAILED;
    m->values += end - from;
    m->at += 1;
    drop(m, from, with_mark);
    return DONE;
}

static Outcome append_items(Machine *m, Py_ssize_t from, int with_mark)
{
    const Py_ssize_t end = m->depth;
    PyObject *const target = m->stack[from - 1];
    if (!PyList_CheckExact(target))
        return LEFT;
    for (Py_ssize_t k = from; k < end; k++)
        if (PyList_Append(target, m->stack[k]) != 0)
            return FAILED;
    m->values += end - from;
    m->at += 1;
    drop(m, from, with_mark);
    return DONE;
}

static Outcome make_tuple(Machine *m, Py_ssize_t from, int with_mark)
{
    const Py_ssize_t count = m->depth - from;
    PyObject *const tuple = PyTuple_New(count);
    if (tuple == NULL)
        return FAILED;
    for (Py_ssize_t k = 0; k < count; k++)
        PyTuple_SetItem(tuple, k, Py_NewRef(m->stack[from + k]));
    m->values += count;
    drop(m, from, with_mark);
    return push(m, tuple, m->at + 1);
}

/* A text in UTF-8; LEFT where it is none. */
static Outcome push_text(Machine *m, Py_ssize_t at, Py_ssize_t count)
{
    if (!holds(m, at, count))
        return LEFT;
    PyObject *const text = PyUnicode_DecodeUTF8((const char *)m->code + at, count, "surrogatepass");
    if (text == NULL) {
        PyErr_Clear();
        return LEFT;
    }
    return push(m, text, at + count);
}

static Outcome push_bytes(Machine *m, Py_ssize_t at, Py_ssize_t count)
{
    if (!holds(m, at, count) || count > m->max_string)
        return LEFT;
    return push(m, PyBytes_FromStringAndSize((const char *)m->code + at, count), at + count);
}

/* A packed value without a call of its __init__, which would set the same four attributes; `last` is the fourth. */
static PyObject *packed(PyObject *type, const Machine *m, PyObject *raw, PyObject *dtype, PyObject *shape,
                        PyObject *last_name, PyObject *last)
{
    const allocfunc allocate = (allocfunc)PyType_GetSlot((PyTypeObject *)type, Py_tp_alloc);
    PyObject *const value = allocate((PyTypeObject *)type, 0);
    if (value != NULL && PyObject_SetAttr(value, m->raw_name, raw) == 0 &&
        PyObject_SetAttr(value, m->dtype_name, dtype) == 0 && PyObject_SetAttr(value, m->shape_name, shape) == 0 &&
        PyObject_SetAttr(value, last_name, last) == 0)
        return value;
    Py_XDECREF(value);
    return NULL;
}

/* The memo's entry that a BINGET or LONG_BINGET at `*at` fetches, NULL where there is none; steps over it. */
static PyObject *fetched(const Machine *m, Py_ssize_t *at)
{
    if (!holds(m, *at, 2) || (m->code[*at] == 0x6A && !holds(m, *at, 5)))
        return NULL;
    Py_ssize_t index;
    if (m->code[*at] == 0x68) {
        index = m->code[*at + 1];
        *at += 2;
    } else if (m->code[*at] == 0x6A) {
        index = word(m->code + *at + 1);
        *at += 5;
    } else {
        return NULL;
    }
    return index < PyList_Size(m->memo) ? PyList_GetItem(m->memo, index) : NULL;
}

static int follows(const Machine *m, Py_ssize_t *at, const char *code, Py_ssize_t count)
{
    if (!holds(m, *at, count) || memcmp(m->code + *at, code, (size_t)count) != 0)
        return 0;
    *at += count;
    return 1;
}

/* The integers of an array's shape at `*at`: their product, or -1 where that is none or too large for a buffer. */
static Py_ssize_t shape_at(const Machine *m, Py_ssize_t *at, uint32_t *sizes, int *dimensions)
{
    Py_ssize_t count = 1;
    for (*dimensions = 0; *dimensions < MOST_DIMENSIONS && holds(m, *at, 5); ++*dimensions) {
        const uint8_t op = m->code[*at];
        if (op == 0x4B) {
            sizes[*dimensions] = m->code[*at + 1];
            *at += 2;
        } else if (op == 0x4D) {
            sizes[*dimensions] = word(m->code + *at + 1) & 0xFFFF;
            *at += 3;
        } else if (op == 0x4A) {
            sizes[*dimensions] = word(m->code + *at + 1);
            *at += 5;
        } else {
            break;
        }
        if (sizes[*dimensions] > INT32_MAX || (count *= sizes[*dimensions]) > INT32_MAX)
            return -1;
    }
    const int fits = *dimensions > 0 && holds(m, *at, 1) && m->code[*at] == 0x84 + *dimensions;
    *at += 1;
    return fits ? count : -1;
}

/* Keeps a shape, where not too many are kept already; 0 with an error set. */
static int keep_shape(Machine *m, PyObject *key, PyObject *shape)
{
    return PyDict_Size(m->shapes) >= MOST_SHAPES || PyDict_SetItem(m->shapes, key, shape) == 0;
}

/* A new reference to the tuple that an array's shape is; the same one for all that are written alike. */
static PyObject *shape_of(Machine *m, Py_ssize_t start, Py_ssize_t end, const uint32_t *sizes, int dimensions)
{
    PyObject *const code = PyBytes_FromStringAndSize((const char *)m->code + start, end - start);
    PyObject *shape = code == NULL ? NULL : PyDict_GetItemWithError(m->shapes, code);
    if (shape != NULL) {
        Py_INCREF(shape);
    } else if (code != NULL && !PyErr_Occurred() && (shape = PyTuple_New(dimensions)) != NULL) {
        for (int k = 0; k < dimensions; k++)
            PyTuple_SetItem(shape, k, PyLong_FromUnsignedLong(sizes[k]));
        if (PyErr_Occurred() || !keep_shape(m, code, shape))
            Py_CLEAR(shape);
    }
    Py_XDECREF(code);
    return shape;
}

/* The array behind a fetched `_reconstruct`, as picklers of protocols 4 and 5 write it; else LEFT. */
static Outcome push_array(Machine *m, Py_ssize_t at)
{
    uint32_t sizes[MOST_DIMENSIONS];
    int dimensions;
    if (fetched(m, &at) != m->ndarray || !follows(m, &at, "K\0\x85\x94", 4))
        return LEFT;
    if (!holds(m, at, 5) || (m->code[at] != 0x68 && m->code[at] != 0x6A))
        return LEFT;
    at += m->code[at] == 0x68 ? 2 : 5;
    if (!follows(m, &at, "\x87\x94R\x94(K\x01", 7))
        return LEFT;
    const Py_ssize_t shape_start = at;
    const Py_ssize_t count = shape_at(m, &at, sizes, &dimensions);
    const Py_ssize_t shape_end = at;
    if (count < 0 || !follows(m, &at, "\x94", 1))
        return LEFT;
    PyObject *const described = fetched(m, &at);
    if (described == NULL || (PyObject *)Py_TYPE(described) != m->dtype_type || !holds(m, at, 6) ||
        (m->code[at] != 0x88 && m->code[at] != 0x89))
        return LEFT;
    PyObject *const fortran = m->code[at] == 0x88 ? Py_True : Py_False;
    Py_ssize_t nbytes;
    if (m->code[at + 1] == 'C') {
        nbytes = m->code[at + 2];
        at += 3;
    } else if (m->code[at + 1] == 'B') {
        nbytes = word(m->code + at + 2);
        at += 6;
    } else {
        return LEFT;
    }
    Py_ssize_t end = at + nbytes;
    if (!holds(m, at, nbytes) || !follows(m, &end,
                                          "\x94t\x94"
                                          "b",
                                          4))
        return LEFT;
    PyObject *const dtype = PyObject_GetAttr(described, m->dtype_name);
    PyObject *const size = dtype == NULL ? NULL : PyObject_GetAttrString(dtype, "itemsize");
    const Py_ssize_t itemsize = size == NULL ? -1 : PyLong_AsSsize_t(size);
    Py_XDECREF(size);
    Outcome outcome = PyErr_Occurred() ? FAILED : LEFT;
    if (outcome == LEFT && count * itemsize == nbytes) {
        PyObject *const shape = shape_of(m, shape_start, shape_end, sizes, dimensions);
        PyObject *const raw = PyBytes_FromStringAndSize((const char *)m->code + at, nbytes);
        PyObject *const array =
            shape == NULL || raw == NULL ? NULL : packed(m->array_type, m, raw, dtype, shape, m->fortran_name, fortran);
        /* The memo entries of (0,), the three arguments, the array, its shape, its bytes, its state. */
        outcome = array == NULL || remember(m, m->hole) != DONE || remember(m, m->hole) != DONE ||
                          remember(m, array) != DONE || remember(m, m->hole) != DONE || remember(m, m->hole) != DONE ||
                          remember(m, m->hole) != DONE
                      ? FAILED
                      : DONE;
        if (outcome == DONE) {
            m->values += PACKED_COST;
            outcome = push(m, array, end);
        } else {
            Py_XDECREF(array);
        }
        Py_XDECREF(raw);
        Py_XDECREF(shape);
    }
    Py_XDECREF(dtype);
    return outcome;
}

/* Bytes for so many numbers of a size, not written yet. */
static PyObject *room_for(const Numbers *found, size_t size, uint8_t **out)
{
    const size_t numbers = found->count * (found->kind == POINTS ? 2 : 1);
    PyObject *const raw = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(numbers * size));
    *out = raw == NULL ? NULL : (uint8_t *)PyBytes_AsString(raw);
    return raw;
}

/* The numbers of a list, and their dtype: the narrowest that has them all exactly. */
static PyObject *raw_numbers(const Machine *m, const Numbers *found, PyObject **dtype)
{
    uint8_t *out;
    PyObject *raw = room_for(found, found->kind == SMALL_INTS ? 1 : sizeof(float), &out);
    if (raw != NULL && found->kind == SMALL_INTS) {
        *dtype = m->bytes;
        numbers_write_bytes(found, out);
    } else if (raw != NULL && numbers_write_floats(found, out)) {
        *dtype = m->narrow;
    } else if (raw != NULL) {
        *dtype = m->wide;
        Py_DECREF(raw);
        if ((raw = room_for(found, sizeof(double), &out)) != NULL)
            numbers_write_doubles(found, out);
    }
    return raw;
}

/* The tuple that a list's shape is, the same one for all of that shape; a borrowed reference. */
static PyObject *shape_of_list(Machine *m, const Numbers *found)
{
    if (m->list_shape != NULL && found->count == m->list_count && found->kind == m->list_kind)
        return m->list_shape;
    Py_CLEAR(m->list_shape);
    const Py_ssize_t count = (Py_ssize_t)found->count;
    PyObject *const shape =
        found->kind == POINTS ? Py_BuildValue("(nn)", count, (Py_ssize_t)2) : Py_BuildValue("(n)", count);
    PyObject *const known = shape == NULL ? NULL : PyDict_GetItemWithError(m->shapes, shape);
    if (known != NULL)
        m->list_shape = Py_NewRef(known);
    else if (shape != NULL && !PyErr_Occurred() && keep_shape(m, shape, shape))
        m->list_shape = Py_NewRef(shape);
    Py_XDECREF(shape);
    m->list_count = found->count;
    m->list_kind = found->kind;
    return m->list_shape;
}

/* The list behind an EMPTY_LIST: all of it packed if it is a long one of numbers. LEFT if its numbers may be integers
 * of another form. */
static Outcome push_list(Machine *m)
{
    const Py_ssize_t start = m->at + 1;
    Numbers found;
    const NumbersKind kind = numbers_find(m->code + start, (size_t)(m->size - start), &found);
    if (kind == OTHER_NUMBERS)
        return LEFT;
    if (kind == NO_NUMBERS)
        return push(m, PyList_New(0), start);
    PyObject *dtype = NULL, *const shape = shape_of_list(m, &found);
    PyObject *const raw = shape == NULL ? NULL : raw_numbers(m, &found, &dtype);
    PyObject *list = NULL;
    if (raw != NULL)
        list = packed(m->list_type, m, raw, dtype, shape, m->pair_name, (PyObject *)&PyList_Type);
    Py_XDECREF(raw);
    if (list == NULL)
        return FAILED;
    if (found.memoized && (remember(m, list) != DONE || remember_holes(m, (Py_ssize_t)found.inner) != DONE)) {
        Py_DECREF(list);
        return FAILED;
    }
    m->values += PACKED_COST;
    return push(m, list, start + (Py_ssize_t)found.end);
}

static Outcome get(Machine *m)
{
    Py_ssize_t next = m->at;
    PyObject *const value = fetched(m, &next);
    if (value == NULL || value == m->hole)
        return LEFT;
    return value == m->reconstruct ? push_array(m, next) : push(m, Py_NewRef(value), next);
}

/* Only entries that come in turn, as every pickler numbers them. */
static Outcome put(Machine *m, Py_ssize_t index, Py_ssize_t next)
{
    if (m->depth == 0 || index != PyList_Size(m->memo))
        return LEFT;
    m->at = next;
    return remember(m, m->stack[m->depth - 1]);
}

/* The instruction at `m->at`. */
static Outcome step(Machine *m)
{
    const uint8_t *const code = m->code + m->at;
    const Py_ssize_t left = m->size - m->at, next = m->at + 1, depth = m->depth;
    Py_ssize_t start;
    switch (code[0]) {
    case 0x68: /* BINGET */
    case 0x6A: /* LONG_BINGET */
        return get(m);
    case 0x4B: /* BININT1 */
        return left < 2 ? LEFT : push(m, PyLong_FromLong(code[1]), next + 1);
    case 0x4D: /* BININT2 */
        return left < 3 ? LEFT : push(m, PyLong_FromLong(code[1] | code[2] << 8), next + 2);
    case 0x4A: /* BININT */
        return left < 5 || m->max_string < 4 ? LEFT : push(m, PyLong_FromLong((int32_t)word(code + 1)), next + 4);
    case 0x47: /* BINFLOAT */
        return left < 9 ? LEFT : push(m, PyFloat_FromDouble(numbers_double(code + 1)), next + 8);
    case 0x4E: /* NONE */
        return push(m, Py_NewRef(Py_None), next);
    case 0x88: /* NEWTRUE */
    case 0x89: /* NEWFALSE */
        return push(m, PyBool_FromLong(code[0] == 0x88), next);
    case 0x94: /* MEMOIZE */
        return put(m, PyList_Size(m->memo), next);
    case 0x71: /* BINPUT */
        return left < 2 ? LEFT : put(m, code[1], next + 1);
    case 0x72: /* LONG_BINPUT */
        return left < 5 ? LEFT : put(m, word(code + 1), next + 4);
    case 0x8C: /* SHORT_BINUNICODE */
        return left < 2 ? LEFT : push_text(m, next + 1, code[1]);
    case 0x58: /* BINUNICODE */
        return left < 5 || word(code + 1) > m->max_string ? LEFT : push_text(m, next + 4, word(code + 1));
    case 0x43: /* SHORT_BINBYTES */
        return left < 2 ? LEFT : push_bytes(m, next + 1, code[1]);
    case 0x42: /* BINBYTES */
        return left < 5 ? LEFT : push_bytes(m, next + 4, word(code + 1));
    case 0x28: /* MARK */
        m->at = next;
        return push_mark(m, m->below + depth);
    case 0x7D: /* EMPTY_DICT */
        return push(m, PyDict_New(), next);
    case 0x5D: /* EMPTY_LIST */
        return push_list(m);
    case 0x29: /* EMPTY_TUPLE */
        return push(m, PyTuple_New(0), next);
    case 0x75: /* SETITEMS */
        start = marked(m);
        return start < 1 ? LEFT : set_items(m, m->stack[start - 1], start, 1);
    case 0x73: /* SETITEM */
        return depth < 3 ? LEFT : set_items(m, m->stack[depth - 3], depth - 2, 0);
    case 0x65: /* APPENDS */
        start = marked(m);
        return start < 1 ? LEFT : append_items(m, start, 1);
    case 0x61: /* APPEND */
        return depth < 2 ? LEFT : append_items(m, depth - 1, 0);
    case 0x74: /* TUPLE */
        start = marked(m);
        return start < 0 ? LEFT : make_tuple(m, start, 1);
    case 0x85: /* TUPLE1 */
    case 0x86: /* TUPLE2 */
    case 0x87: /* TUPLE3 */
        return depth < code[0] - 0x84 ? LEFT : make_tuple(m, depth - (code[0] - 0x84), 0);
    default:
        return LEFT;
    }
}

/* How many items of a list stay where they are. */
static Py_ssize_t kept_by(PyObject *list)
{
    const Py_ssize_t size = PyList_Size(list);
    return size > MOST_TAKEN ? size - MOST_TAKEN : 0;
}

/* What the two lists have at their ends goes over to the machine. */
static Outcome take_over(Machine *m, PyObject *stack, PyObject *marks)
{
    const Py_ssize_t depth = PyList_Size(stack), mark_count = PyList_Size(marks), marks_below = kept_by(marks);
    m->below = kept_by(stack);
    for (Py_ssize_t k = m->below; k < depth; k++)
        if (push(m, Py_NewRef(PyList_GetItem(stack, k)), m->at) != DONE)
            return FAILED;
    for (Py_ssize_t k = marks_below; k < mark_count; k++)
        if (push_mark(m, PyLong_AsSsize_t(PyList_GetItem(marks, k))) != DONE)
            return FAILED;
    return PyErr_Occurred() || PyList_SetSlice(stack, m->below, depth, NULL) != 0 ||
                   PyList_SetSlice(marks, marks_below, mark_count, NULL) != 0
               ? FAILED
               : DONE;
}

/* And back. */
static Outcome hand_back(const Machine *m, PyObject *stack, PyObject *marks)
{
    for (Py_ssize_t k = 0; k < m->depth; k++)
        if (PyList_Append(stack, m->stack[k]) != 0)
            return FAILED;
    for (Py_ssize_t k = 0; k < m->mark_count; k++) {
        PyObject *const mark = PyLong_FromSsize_t(m->marks[k]);
        const int failed = mark == NULL || PyList_Append(marks, mark) != 0;
        Py_XDECREF(mark);
        if (failed)
            return FAILED;
    }
    return DONE;
}

static PyObject *run(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *buffer, *stack, *marks;
    Py_ssize_t safe;
    Machine m = {.values = 0};
    if (!PyArg_ParseTuple(args, "O!nnnO!O!O!O!(OOOOOO)(OOO)", &PyBytes_Type, &buffer, &m.at, &safe, &m.max_string,
                          &PyList_Type, &stack, &PyList_Type, &marks, &PyList_Type, &m.memo, &PyDict_Type, &m.shapes,
                          &m.hole, &m.reconstruct, &m.ndarray, &m.dtype_type, &m.array_type, &m.list_type, &m.narrow,
                          &m.wide, &m.bytes))
        return NULL;
    m.code = (const uint8_t *)PyBytes_AsString(buffer);
    m.size = PyBytes_Size(buffer);
    m.raw_name = PyUnicode_InternFromString("raw");
    m.dtype_name = PyUnicode_InternFromString("dtype");
    m.shape_name = PyUnicode_InternFromString("shape");
    m.fortran_name = PyUnicode_InternFromString("fortran");
    m.pair_name = PyUnicode_InternFromString("pair");
    Outcome outcome = PyErr_Occurred() ? FAILED : take_over(&m, stack, marks);
    while (outcome == DONE && m.at >= 0 && m.at <= safe && m.at < m.size)
        outcome = step(&m);
    if (outcome != FAILED && hand_back(&m, stack, marks) != DONE)
        outcome = FAILED;
    drop(&m, 0, 0);
    PyMem_Free(m.stack);
    PyMem_Free(m.marks);
    Py_XDECREF(m.raw_name);
    Py_XDECREF(m.dtype_name);
    Py_XDECREF(m.shape_name);
    Py_XDECREF(m.fortran_name);
    Py_XDECREF(m.pair_name);
    Py_XDECREF(m.holes);
    Py_XDECREF(m.list_shape);
    return outcome == FAILED ? NULL : Py_BuildValue("(nn)", m.at, m.values);
}

/* What `check_tree` of alignments/limits.py counts, or more: what a dict has for keys is counted whatever they are. */
typedef struct {
    PyTypeObject *types[MOST_TYPES];
    Py_ssize_t type_count, left;
} Census;

static int is_modest(PyObject *value, Census *census, Py_ssize_t depth);

static int is_allowed(PyObject *value, Census *census, Py_ssize_t depth)
{
    PyTypeObject *const type = Py_TYPE(value);
    if (--census->left < 0)
        return 0;
    if (type == &PyDict_Type || type == &PyList_Type || type == &PyTuple_Type)
        return is_modest(value, census, depth - 1);
    for (Py_ssize_t k = 0; k < census->type_count; k++)
        if (census->types[k] == type)
            return 1;
    return 0;
}

/* Whether a dict, list or tuple, and all in it, keeps to the census. */
static int is_modest(PyObject *value, Census *census, Py_ssize_t depth)
{
    if (depth < 1)
        return 0;
    if (PyDict_CheckExact(value)) {
        PyObject *key, *item;
        Py_ssize_t position = 0;
        while (PyDict_Next(value, &position, &key, &item))
            if (!is_allowed(key, census, depth) || !is_allowed(item, census, depth))
                return 0;
        return 1;
    }
    const int is_list = PyList_CheckExact(value);
    const Py_ssize_t size = is_list ? PyList_Size(value) : PyTuple_Size(value);
    for (Py_ssize_t k = 0; k < size; k++)
        if (!is_allowed(is_list ? PyList_GetItem(value, k) : PyTuple_GetItem(value, k), census, depth))
            return 0;
    return 1;
}

static PyObject *modest(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *root, *types;
    Py_ssize_t depth;
    Census census;
    if (!PyArg_ParseTuple(args, "O!O!nn", &PyDict_Type, &root, &PyTuple_Type, &types, &census.left, &depth))
        return NULL;
    census.type_count = PyTuple_Size(types);
    if (census.type_count > MOST_TYPES) {
        PyErr_SetString(PyExc_ValueError, "at most 64 types may be allowed");
        return NULL;
    }
    for (Py_ssize_t k = 0; k < census.type_count; k++)
        census.types[k] = (PyTypeObject *)PyTuple_GetItem(types, k);
    return PyBool_FromLong(is_modest(root, &census, depth));
}

static PyMethodDef methods[] = {
    {"run", run, METH_VARARGS,
     "run(buffer, at, safe, max_string, stack, marks, memo, shapes, (hole, reconstruct, ndarray, Dtype, PackedArray,\n"
     "    PackedList), (float32, float64, uint8))\n\n"
     "Carry out instructions from `at` on, as long as one begins no later than `safe` and is one of the frequent.\n"
     "Returns where the first one stands that is not carried out, and how many values were made."},
    {"modest", modest, METH_VARARGS,
     "modest(root, types, values, depth)\n\n"
     "Whether a dict nests at most `depth` containers, whose `values` at most are containers or of `types`."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_opcodes", "Frequent instructions of pickles in C.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__opcodes(void)
{
    return PyModuleDef_Init(&module);
}
