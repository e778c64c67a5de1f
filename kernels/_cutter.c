/* Frames cut by threads that need no interpreter: cutter.py calls it; pool.h has the threads, frame.h what is done
   about a frame.

   Whoever holds the GIL submits decoded pictures and collects what became of them, many at once; between the two
   nothing of Python is touched. A picture is kept alive by buffers of its planes, which are let go by the next call
   after it was cut. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <stdlib.h>

#include "frame.h"
#include "machine.h"
#include "png.h"
#include "pool.h"
#include "sharpness.h"

enum {
    PLANES = 3,
    CHANNELS = 3,
    MOST_THREADS = 1024,
    MOST_EXTENSION = 16,
    MOST_SIDE = 1 << 15, /* of a crop; its bytes fit into 32 bits */
};

/* The arrays of a plan; see cutter.py. */
enum { LINEAR, CUBIC, MATRICES, IS_CUBIC, REGION, INDEX, STARTS, ARRAYS };

/* What keeps a picture and its names alive. */
typedef struct {
    Held held;
    Py_buffer planes[PLANES];
    int count; /* of planes */
    Py_buffer crops;
    int has_crops;
    PyObject *folder, *stem, *texts;
} Hold;

typedef struct {
    PyObject_HEAD Setup setup;
    char extension[MOST_EXTENSION];
    Py_buffer arrays[ARRAYS];
    int arrays_held;
    int64_t frames;
    Pool pool;
} Cutter;

typedef struct {
    int64_t frame;
    int32_t height, width;
} FrameRecord;

static void let_go(Hold *hold)
{
    while (hold->count > 0)
        PyBuffer_Release(&hold->planes[--hold->count]);
    if (hold->has_crops)
        PyBuffer_Release(&hold->crops);
    hold->has_crops = 0;
    Py_CLEAR(hold->folder);
    Py_CLEAR(hold->stem);
    Py_CLEAR(hold->texts);
}

static void release(Held *held)
{
    while (held != NULL) {
        Hold *const hold = (Hold *)held;
        held = held->next;
        let_go(hold);
        free(hold);
    }
}

static void free_job(Job *job)
{
    release(job->held);
    free(job->text);
    free(job);
}

/* Fills faces `first` .. `first + count` of a frame; 0 with an error set if there are none such. */
static int faces_of(const Cutter *cutter, Py_ssize_t frame, Py_ssize_t first, Py_ssize_t count, Faces *faces)
{
    if (frame < 0 || frame >= cutter->frames) {
        PyErr_Format(PyExc_ValueError, "frame %zd is none of %lld", frame, (long long)cutter->frames);
        return 0;
    }
    const int64_t *const starts = cutter->arrays[STARTS].buf;
    const int64_t all = starts[frame + 1] - starts[frame];
    if (count < 0)
        count = (Py_ssize_t)all - first;
    if (first < 0 || count < 0 || first + count > all) {
        PyErr_Format(PyExc_ValueError, "faces %zd to %zd are none of frame %zd, which has %lld", first, first + count,
                     frame, (long long)all);
        return 0;
    }
    const int64_t at = starts[frame] + first;
    *faces = (Faces){.count = (size_t)count,
                     .crop_from_frame = (const double *)cutter->arrays[MATRICES].buf + 6 * at,
                     .cubic = (const uint8_t *)cutter->arrays[IS_CUBIC].buf + at,
                     .region = (const int64_t *)cutter->arrays[REGION].buf + 4 * at,
                     .index = (const int32_t *)cutter->arrays[INDEX].buf + at};
    return 1;
}

/* The names and texts of faces, whose bytes `hold` keeps. *text is to be freed. */
static int name_faces(PyObject *folder, PyObject *stem, PyObject *texts, Faces *faces, Text **text, Hold *hold)
{
    char *folder_bytes, *stem_bytes;
    *text = NULL;
    if (PyBytes_AsStringAndSize(folder, &folder_bytes, NULL) != 0 ||
        PyBytes_AsStringAndSize(stem, &stem_bytes, NULL) != 0)
        return 0; /* a zero inside is refused, too */
    faces->folder = folder_bytes;
    faces->stem = stem_bytes;
    if (texts != Py_None) {
        if (!PyTuple_Check(texts) || (size_t)PyTuple_Size(texts) != faces->count) {
            PyErr_SetString(PyExc_ValueError, "texts must be a tuple, one for each face");
            return 0;
        }
        *text = calloc(faces->count + 1, sizeof **text);
        if (*text == NULL) {
            PyErr_NoMemory();
            return 0;
        }
        for (size_t k = 0; k < faces->count; k++) {
            PyObject *const one = PyTuple_GetItem(texts, (Py_ssize_t)k);
            char *bytes;
            Py_ssize_t size;
            if (one == Py_None)
                continue;
            if (PyBytes_AsStringAndSize(one, &bytes, &size) != 0)
                return 0;
            if (size > PNG_MOST_DATA) {
                PyErr_Format(PyExc_ValueError, "text of %zd bytes is too long for a PNG chunk", size);
                return 0;
            }
            (*text)[k] = (Text){bytes, (size_t)size};
        }
        faces->text = *text;
    }
    Py_INCREF(folder);
    Py_INCREF(stem);
    Py_INCREF(texts);
    hold->folder = folder;
    hold->stem = stem;
    hold->texts = texts;
    return 1;
}

/* Takes the buffers of three planes; 0 with an error set where one holds less than its samples. */
static int hold_planes(PyObject *const objects[PLANES], const Py_ssize_t strides[PLANES], Picture *picture, Hold *hold)
{
    if (picture->width < 2 || picture->height < 2 || (picture->width | picture->height) % 2 != 0) {
        PyErr_SetString(PyExc_ValueError, "a picture must have even sides");
        return 0;
    }
    if (!yuv_is_known(&picture->layout)) {
        PyErr_SetString(PyExc_ValueError, "no formula is known for this layout");
        return 0;
    }
    for (int i = 0; i < PLANES; i++) {
        const Py_ssize_t samples = i > 0 ? picture->width / 2 : picture->width;
        const Py_ssize_t width = picture->layout.bits > 8 ? 2 * samples : samples; /* bytes */
        const Py_ssize_t height = i > 0 ? picture->height >> picture->layout.halved : picture->height;
        if (PyObject_GetBuffer(objects[i], &hold->planes[i], PyBUF_SIMPLE) != 0)
            return 0;
        hold->count = i + 1;
        if (strides[i] < width || height > PY_SSIZE_T_MAX / strides[i] ||
            (height - 1) * strides[i] + width > hold->planes[i].len) {
            PyErr_SetString(PyExc_ValueError, "a plane is smaller than its picture");
            return 0;
        }
        picture->planes[i] = hold->planes[i].buf;
        picture->strides[i] = strides[i];
    }
    return 1;
}

static int is_array(const Py_buffer *view, const char *format, int ndim, const Py_ssize_t *shape)
{
    const char *const given = view->format;
    if (view->ndim != ndim || given == NULL || strchr(format, given[0]) == NULL || given[1] != '\0')
        return 0;
    for (int axis = 0; axis < ndim; axis++)
        if (shape[axis] >= 0 && view->shape[axis] != shape[axis])
            return 0;
    return 1;
}

/* Where crops go instead of files, unless that is None; 0 with an error set. */
static int hold_crops(const Cutter *cutter, PyObject *object, Faces *faces, Hold *hold)
{
    if (object == Py_None)
        return 1;
    const Py_ssize_t size = cutter->setup.size;
    if (PyObject_GetBuffer(object, &hold->crops, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE | PyBUF_FORMAT) != 0)
        return 0;
    hold->has_crops = 1;
    if (!is_array(&hold->crops, "B", 4, (Py_ssize_t[]){(Py_ssize_t)faces->count, size, size, CHANNELS})) {
        PyErr_Format(PyExc_ValueError, "crops must be [%zd, %zd, %zd, 3] uint8, contiguous", (Py_ssize_t)faces->count,
                     size, size);
        return 0;
    }
    faces->crops = hold->crops.buf;
    return 1;
}

static PyObject *submit(PyObject *self, PyObject *args)
{
    Cutter *const cutter = (Cutter *)self;
    PyObject *planes[PLANES], *folder, *stem, *texts, *crops = Py_None;
    Py_ssize_t strides[PLANES], frame;
    int milliseconds;
    Picture picture;
    Coefficients *const c = &picture.coefficients;
    Layout *const layout = &picture.layout;
    if (!PyArg_ParseTuple(args, "n(OOO)(nnn)ii(hhhhhhiiiiii)(ippip)OOOi|O", &frame, &planes[0], &planes[1], &planes[2],
                          &strides[0], &strides[1], &strides[2], &picture.height, &picture.width, &c->luma,
                          &c->luma_zero, &c->blue_u, &c->green_u, &c->green_v, &c->red_v, &c->scale, &c->zero,
                          &c->step_blue_u, &c->step_green_u, &c->step_green_v, &c->step_red_v, &layout->bits,
                          &layout->halved, &layout->left, &layout->down, &layout->cubic, &folder, &stem, &texts,
                          &milliseconds, &crops))
        return NULL;
    Faces faces;
    if (!faces_of(cutter, frame, 0, -1, &faces))
        return NULL;
    Job *const job = calloc(1, sizeof *job + faces.count * sizeof(Face));
    Hold *const hold = calloc(1, sizeof *hold);
    if (job == NULL || hold == NULL) {
        free(job);
        free(hold);
        return PyErr_NoMemory();
    }
    job->frame = frame;
    job->held = &hold->held;
    if (!hold_planes(planes, strides, &picture, hold) || !hold_crops(cutter, crops, &faces, hold) ||
        !name_faces(folder, stem, texts, &faces, &job->text, hold)) {
        free_job(job);
        return NULL;
    }
    job->picture = picture;
    job->faces = faces;
    Held *spent;
    int taken;
    Py_BEGIN_ALLOW_THREADS
    taken = pool_give(&cutter->pool, job, milliseconds, &spent);
    Py_END_ALLOW_THREADS
    release(spent);
    if (taken == 1)
        Py_RETURN_TRUE;
    free_job(job);
    if (taken == 0)
        Py_RETURN_FALSE;
    if (taken == -ESHUTDOWN) {
        PyErr_SetString(PyExc_ValueError, "the cutter is closed");
        return NULL;
    }
    errno = -taken;
    return PyErr_SetFromErrno(PyExc_OSError);
}

static PyObject *seconds_of(const uint64_t spent[STAGES])
{
    return Py_BuildValue("ddddd", (double)spent[LOAD] * 1e-9, (double)spent[WARP] * 1e-9, (double)spent[HASH] * 1e-9,
                         (double)spent[ENCODE] * 1e-9, (double)spent[WRITE] * 1e-9);
}

static PyObject *collect(PyObject *self, PyObject *args)
{
    Cutter *const cutter = (Cutter *)self;
    int least, milliseconds, ended;
    if (!PyArg_ParseTuple(args, "ii", &least, &milliseconds))
        return NULL;
    Queue done;
    Held *spent;
    Py_BEGIN_ALLOW_THREADS
    ended = pool_take(&cutter->pool, least, milliseconds, &done, &spent);
    Py_END_ALLOW_THREADS
    release(spent);
    if (done.count == 0 && ended)
        Py_RETURN_NONE;
    Py_ssize_t faces = 0;
    for (const Job *job = done.first; job != NULL; job = job->next)
        faces += (Py_ssize_t)job->faces.count;
    PyObject *const frame_bytes = PyBytes_FromStringAndSize(NULL, done.count * (Py_ssize_t)sizeof(FrameRecord));
    PyObject *const face_bytes = PyBytes_FromStringAndSize(NULL, faces * (Py_ssize_t)sizeof(Face));
    uint64_t stages[STAGES] = {0};
    if (frame_bytes != NULL && face_bytes != NULL) {
        char *frame_at = PyBytes_AsString(frame_bytes), *face_at = PyBytes_AsString(face_bytes);
        for (const Job *job = done.first; job != NULL; job = job->next) {
            const FrameRecord record = {job->frame, job->picture.height, job->picture.width};
            memcpy(frame_at, &record, sizeof record);
            frame_at += sizeof record;
            memcpy(face_at, job->results, job->faces.count * sizeof(Face));
            face_at += job->faces.count * sizeof(Face);
            for (int stage = 0; stage < STAGES; stage++)
                stages[stage] += job->spent[stage];
        }
    }
    for (Job *job = done.first, *next; job != NULL; job = next) {
        next = job->next;
        free_job(job);
    }
    if (frame_bytes == NULL || face_bytes == NULL) {
        Py_XDECREF(frame_bytes);
        Py_XDECREF(face_bytes);
        return NULL;
    }
    return Py_BuildValue("NNN", frame_bytes, face_bytes, seconds_of(stages));
}

/* What `cut` and `finish` return: the faces, and the seconds of each stage. */
static PyObject *told(const Face *results, size_t count, const uint64_t spent[STAGES])
{
    PyObject *const faces = PyBytes_FromStringAndSize((const char *)results, (Py_ssize_t)(count * sizeof(Face)));
    return faces != NULL ? Py_BuildValue("NN", faces, seconds_of(spent)) : NULL;
}

/* Fills a patch from (pixels, x0, y0); 0 with an error set. */
static int hold_patch(PyObject *object, Py_buffer *view, Patch *patch)
{
    const int limit = 1 << 20; /* see _sampler.c */
    PyObject *pixels;
    int x0, y0;
    if (!PyArg_ParseTuple(object, "Oii", &pixels, &x0, &y0) ||
        PyObject_GetBuffer(pixels, view, PyBUF_STRIDED_RO | PyBUF_FORMAT) != 0)
        return 0;
    if (!is_array(view, "B", 3, (Py_ssize_t[]){-1, -1, CHANNELS}) || view->strides[2] != 1 ||
        view->strides[1] != CHANNELS || view->strides[0] < CHANNELS * view->shape[1] || view->shape[0] > limit ||
        view->shape[1] > limit || x0 < 0 || y0 < 0 || x0 > limit || y0 > limit) {
        PyBuffer_Release(view);
        PyErr_SetString(PyExc_ValueError, "a patch must be [h, w, 3] uint8, rows contiguous, at a place in its frame");
        return 0;
    }
    *patch = (Patch){view->buf, view->strides[0], (int32_t)view->shape[1], (int32_t)view->shape[0], x0, y0};
    return 1;
}

static PyObject *cut(PyObject *self, PyObject *args)
{
    Cutter *const cutter = (Cutter *)self;
    PyObject *patches, *patch_of, *folder, *stem, *texts, *result = NULL;
    Py_ssize_t frame, first, count;
    Faces faces;
    if (!PyArg_ParseTuple(args, "nnnO!OOOO", &frame, &first, &count, &PyTuple_Type, &patches, &patch_of, &folder, &stem,
                          &texts) ||
        !faces_of(cutter, frame, first, count, &faces))
        return NULL;
    const Py_ssize_t patch_count = PyTuple_Size(patches);
    Hold hold = {0};
    Text *text = NULL;
    Py_buffer of, *const views = calloc((size_t)patch_count + 1, sizeof *views);
    Patch *const pieces = calloc((size_t)patch_count + 1, sizeof *pieces);
    Face *const results = calloc(faces.count + 1, sizeof *results);
    Py_ssize_t held_views = 0;
    uint64_t spent[STAGES] = {0};
    if (views == NULL || pieces == NULL || results == NULL)
        PyErr_NoMemory();
    else
        while (held_views < patch_count &&
               hold_patch(PyTuple_GetItem(patches, held_views), &views[held_views], &pieces[held_views]))
            held_views++;
    if (!PyErr_Occurred() && PyObject_GetBuffer(patch_of, &of, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) == 0) {
        int is_right = is_array(&of, "lq", 1, (Py_ssize_t[]){(Py_ssize_t)faces.count});
        for (size_t k = 0; is_right && k < faces.count; k++)
            is_right = ((const int64_t *)of.buf)[k] >= 0 && ((const int64_t *)of.buf)[k] < patch_count;
        if (!is_right) {
            PyErr_SetString(PyExc_ValueError, "patch_of must be [K] int64, each the number of a patch");
        } else if (name_faces(folder, stem, texts, &faces, &text, &hold)) {
            Arena *arena;
            Py_BEGIN_ALLOW_THREADS
            arena = pool_borrow(&cutter->pool);
            if (arena != NULL) {
                frame_cut_patches(&cutter->setup, arena, pieces, of.buf, &faces, &cutter->pool.abandoned, results,
                                  spent);
                pool_give_back(&cutter->pool, arena);
            }
            Py_END_ALLOW_THREADS
            result = arena != NULL ? told(results, faces.count, spent) : PyErr_NoMemory();
        }
        PyBuffer_Release(&of);
    }
    while (held_views > 0)
        PyBuffer_Release(&views[--held_views]);
    let_go(&hold);
    free(views);
    free(pieces);
    free(results);
    free(text);
    return result;
}

static PyObject *finish(PyObject *self, PyObject *args)
{
    Cutter *const cutter = (Cutter *)self;
    PyObject *crops, *folder, *stem, *texts, *result = NULL;
    Py_ssize_t frame, first;
    Py_buffer view;
    if (!PyArg_ParseTuple(args, "nnOOOO", &frame, &first, &crops, &folder, &stem, &texts) ||
        PyObject_GetBuffer(crops, &view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) != 0)
        return NULL;
    const Py_ssize_t size = cutter->setup.size;
    Hold hold = {0};
    Text *text = NULL;
    Faces faces;
    if (!is_array(&view, "B", 4, (Py_ssize_t[]){-1, size, size, CHANNELS})) {
        PyErr_Format(PyExc_ValueError, "crops must be [K, %zd, %zd, 3] uint8, contiguous", size, size);
    } else if (faces_of(cutter, frame, first, view.shape[0], &faces) &&
               name_faces(folder, stem, texts, &faces, &text, &hold)) {
        Face *const results = calloc(faces.count + 1, sizeof *results);
        uint64_t spent[STAGES] = {0};
        Arena *arena = NULL;
        if (results != NULL) {
            Py_BEGIN_ALLOW_THREADS
            arena = pool_borrow(&cutter->pool);
            if (arena != NULL) {
                frame_finish(&cutter->setup, arena, view.buf, &faces, &cutter->pool.abandoned, results, spent);
                pool_give_back(&cutter->pool, arena);
            }
            Py_END_ALLOW_THREADS
        }
        result = arena != NULL ? told(results, faces.count, spent) : PyErr_NoMemory();
        free(results);
    }
    PyBuffer_Release(&view);
    let_go(&hold);
    free(text);
    return result;
}

static PyObject *wake(PyObject *self, PyObject *Py_UNUSED(args))
{
    pool_wake(&((Cutter *)self)->pool);
    Py_RETURN_NONE;
}

static PyObject *let_pictures_go(PyObject *self, PyObject *Py_UNUSED(args))
{
    Held *spent;
    Py_BEGIN_ALLOW_THREADS
    spent = pool_spent(&((Cutter *)self)->pool);
    Py_END_ALLOW_THREADS
    release(spent);
    Py_RETURN_NONE;
}

static PyObject *close_cutter(PyObject *self, PyObject *Py_UNUSED(args))
{
    pool_close(&((Cutter *)self)->pool);
    Py_RETURN_NONE;
}

static PyObject *abandon(PyObject *self, PyObject *Py_UNUSED(args))
{
    pool_abandon(&((Cutter *)self)->pool);
    Py_RETURN_NONE;
}

static PyObject *join(PyObject *self, PyObject *Py_UNUSED(args))
{
    Py_BEGIN_ALLOW_THREADS
    pool_join(&((Cutter *)self)->pool);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *waits(PyObject *self, PyObject *Py_UNUSED(args))
{
    uint64_t giver_waited, threads_waited;
    pool_waits(&((Cutter *)self)->pool, &giver_waited, &threads_waited);
    return Py_BuildValue("dd", (double)giver_waited * 1e-9, (double)threads_waited * 1e-9);
}

static void dealloc(PyObject *self)
{
    Cutter *const cutter = (Cutter *)self;
    PyTypeObject *const type = Py_TYPE(self);
    if (pool_is_inherited(&cutter->pool))
        return; /* with all that it holds, as the process ends that it was forked for */
    if (cutter->pool.setup != NULL) {
        pool_abandon(&cutter->pool);
        Py_BEGIN_ALLOW_THREADS
        pool_join(&cutter->pool);
        Py_END_ALLOW_THREADS
    }
    pool_end(&cutter->pool, free_job);
    while (cutter->arrays_held > 0)
        PyBuffer_Release(&cutter->arrays[--cutter->arrays_held]);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static int check_arrays(Cutter *cutter)
{
    static const char *const formats[ARRAYS] = {"h", "h", "d", "?B", "lq", "i", "lq"};
    static const int ndims[ARRAYS] = {3, 3, 3, 1, 2, 1, 1};
    const Py_buffer *const arrays = cutter->arrays;
    const Py_ssize_t faces = arrays[INDEX].ndim == 1 ? arrays[INDEX].shape[0] : -1;
    const Py_ssize_t shapes[ARRAYS][3] = {{1 << 2 * FRACTION_BITS, 2, 2},
                                          {1 << 2 * FRACTION_BITS, 4, 4},
                                          {faces, 2, 3},
                                          {faces},
                                          {faces, 4},
                                          {faces},
                                          {-1}};
    for (int i = 0; i < ARRAYS; i++)
        if (faces < 0 || !is_array(&arrays[i], formats[i], ndims[i], shapes[i])) {
            PyErr_Format(PyExc_ValueError, "array %d of the plan has another shape or dtype", i);
            return 0;
        }
    const int64_t *const starts = arrays[STARTS].buf;
    cutter->frames = arrays[STARTS].shape[0] - 1;
    int is_right = cutter->frames >= 0 && starts[0] >= 0 && starts[cutter->frames] <= faces;
    for (int64_t i = 0; is_right && i < cutter->frames; i++)
        is_right = starts[i] <= starts[i + 1];
    if (!is_right)
        PyErr_SetString(PyExc_ValueError, "starts must rise from 0 to the number of faces at most");
    return is_right;
}

static PyObject *new_cutter(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    PyObject *objects[ARRAYS];
    int threads, per_thread, size, folder, portable, measures;
    const char *extension;
    if (keywords != NULL && PyDict_Size(keywords) > 0) {
        PyErr_SetString(PyExc_TypeError, "Cutter takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "iiiispp(OOOOOOO)", &threads, &per_thread, &size, &folder, &extension, &portable,
                          &measures, &objects[0], &objects[1], &objects[2], &objects[3], &objects[4], &objects[5],
                          &objects[6]))
        return NULL;
    if (threads < 1 || threads > MOST_THREADS || per_thread < 1 || per_thread > MOST_THREADS || size < 1 ||
        size > MOST_SIDE || png_most_data((size_t)size, (size_t)size) == SIZE_MAX ||
        strlen(extension) >= MOST_EXTENSION) {
        PyErr_SetString(PyExc_ValueError, "threads, pictures a thread, size or extension is out of range");
        return NULL;
    }
    Cutter *const cutter = (Cutter *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (cutter == NULL)
        return NULL;
    while (cutter->arrays_held < ARRAYS &&
           PyObject_GetBuffer(objects[cutter->arrays_held], &cutter->arrays[cutter->arrays_held],
                              PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) == 0)
        cutter->arrays_held++;
    if (cutter->arrays_held < ARRAYS || !check_arrays(cutter)) {
        Py_DECREF(cutter);
        return NULL;
    }
    strcpy(cutter->extension, extension);
    cutter->setup = (Setup){.size = size,
                            .weights = {cutter->arrays[LINEAR].buf, cutter->arrays[CUBIC].buf},
                            .folder = folder,
                            .extension = cutter->extension,
                            .level = level_up_to(portable ? LEVEL_PORTABLE : LEVEL_AVX512),
                            .measures = measures};
    if (!pool_init(&cutter->pool, &cutter->setup, threads, per_thread)) {
        Py_DECREF(cutter);
        return PyErr_NoMemory();
    }
    return (PyObject *)cutter;
}

static PyMethodDef cutter_methods[] = {
    {"submit", submit, METH_VARARGS,
     "submit(frame, planes, strides, height, width, coefficients, layout, folder, stem, texts, milliseconds, "
     "crops=None)\n\nTake a picture; False if there was no room for it that long, or after abandon()."},
    {"collect", collect, METH_VARARGS,
     "collect(least, milliseconds)\n\nWhat is done: (frames, faces, seconds), or None when all is and it was closed."},
    {"cut", cut, METH_VARARGS,
     "cut(frame, first, count, patches, patch_of, folder, stem, texts)\n\nCut faces on this thread: (faces, seconds)."},
    {"finish", finish, METH_VARARGS,
     "finish(frame, first, crops, folder, stem, texts)\n\nHash, encode and store crops on this thread: (faces, seconds)."},
    {"wake", wake, METH_NOARGS, "Have collect() return, now or when it is next called."},
    {"let_go", let_pictures_go, METH_NOARGS, "Let go of pictures that were cut, as submit() and collect() do."},
    {"close", close_cutter, METH_NOARGS, "No more pictures come."},
    {"abandon", abandon, METH_NOARGS, "As close(); faces that are not begun get the error ECANCELED."},
    {"join", join, METH_NOARGS, "As close(), and wait for the threads to end."},
    {"waits", waits, METH_NOARGS, "Seconds that submit() waited for threads, and threads for pictures."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot cutter_slots[] = {
    {Py_tp_new, (void *)new_cutter},
    {Py_tp_dealloc, (void *)dealloc},
    {Py_tp_methods, cutter_methods},
    {Py_tp_doc, "Threads that cut the faces of pictures; see cutter.py."},
    {0, NULL},
};

static PyType_Spec cutter_spec = {
    "gpu_extract.kernels._cutter.Cutter", sizeof(Cutter), 0, Py_TPFLAGS_DEFAULT, cutter_slots,
};

static PyObject *hashed(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer data;
    int portable = 0;
    uint8_t digest[SHA1_BYTES];
    if (!PyArg_ParseTuple(args, "y*|p", &data, &portable))
        return NULL;
    sha1(data.buf, (size_t)data.len, !portable && has_avx2(), digest);
    PyBuffer_Release(&data);
    return PyBytes_FromStringAndSize((const char *)digest, SHA1_BYTES);
}

static PyObject *measured(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer data;
    int height, width, portable = 0;
    if (!PyArg_ParseTuple(args, "y*ii|p", &data, &height, &width, &portable))
        return NULL;
    PyObject *found = NULL;
    uint32_t *sums = NULL;
    if (height < 1 || width < 1 || height > SHARPNESS_MOST_SIDE || width > SHARPNESS_MOST_SIDE ||
        data.len != (Py_ssize_t)CHANNELS * height * width)
        PyErr_SetString(PyExc_ValueError, "pixels must be [H, W, 3] bytes, of no side more than 32768");
    else if ((sums = malloc((size_t)CHANNELS * (size_t)width * sizeof *sums)) == NULL)
        PyErr_NoMemory();
    if (sums != NULL) {
        double value;
        Py_BEGIN_ALLOW_THREADS
        value = sharpness(data.buf, height, width, level_up_to(portable ? LEVEL_PORTABLE : LEVEL_AVX2), sums);
        Py_END_ALLOW_THREADS
        found = PyFloat_FromDouble(value);
    }
    free(sums);
    PyBuffer_Release(&data);
    return found;
}

static int add_contents(PyObject *module)
{
    png_prepare();
    sha1_prepare();
    PyObject *const type = PyType_FromModuleAndSpec(module, &cutter_spec, NULL);
    if (type == NULL)
        return -1;
    const int added = PyModule_AddObjectRef(module, "Cutter", type);
    Py_DECREF(type);
    return added;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)add_contents}, {0, NULL}};

static PyMethodDef methods[] = {
    {"hashed", hashed, METH_VARARGS, "hashed(data, portable=False)\n\nThe SHA-1 of bytes, 20 of them."},
    {"sharpness", measured, METH_VARARGS,
     "sharpness(pixels, height, width, portable=False)\n\nHow sharp [H, W, 3] bytes are, as of sharpness.py."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_cutter", "Frames cut without the interpreter.", 0, methods, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__cutter(void)
{
    return PyModuleDef_Init(&module);
}
