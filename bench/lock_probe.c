/* Which thread holds the interpreter's lock, and how much of its processor time it spends so: interpreter.py builds
   this for the Python that runs it. A thread that never takes the lock looks every few microseconds. CPython only, and
   only what has the lock: up to 3.11 one for the process, from 3.12 one for each interpreter. */

#define _GNU_SOURCE
#define Py_BUILD_CORE 1
#include <Python.h>

#ifdef Py_GIL_DISABLED
#error "this Python has no lock that threads wait for"
#endif

#if PY_VERSION_HEX >= 0x030C0000
#include "internal/pycore_interp.h"
#else
#include "internal/pycore_runtime.h"
#endif

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { MOST_THREADS = 256 };

typedef struct {
    const void *state; /* of the interpreter for this thread; only compared */
    clockid_t clock;   /* of the thread's processor time */
    int64_t last, busy_ns, held_ns;
} Watched;

static struct _gil_runtime_state *lock_;
static Watched watched[MOST_THREADS];
static int watched_count, running, is_real_time;
static long samples, foreign;
static struct timespec period;
static pthread_t watcher;

#if PY_VERSION_HEX >= 0x030D0000
static int is_locked(void)
{
    return __atomic_load_n(&lock_->locked, __ATOMIC_RELAXED) > 0;
}

static const void *holder(void)
{
    return __atomic_load_n(&lock_->last_holder, __ATOMIC_RELAXED);
}
#else
static int is_locked(void)
{
    return _Py_atomic_load_relaxed(&lock_->locked) > 0;
}

static const void *holder(void)
{
    return (const void *)_Py_atomic_load_relaxed(&lock_->last_holder);
}
#endif

/* Linux's name for the clock of one thread; clock_gettime fails once the thread is gone. */
static clockid_t clock_of(pid_t thread)
{
    return (clockid_t)(~(unsigned)thread << 3 | 6);
}

static int64_t nanoseconds(clockid_t clock)
{
    struct timespec now;
    return clock_gettime(clock, &now) ? -1 : now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static void look(void)
{
    const void *const held_by = is_locked() ? holder() : NULL;
    const int count = __atomic_load_n(&watched_count, __ATOMIC_ACQUIRE);
    int known = held_by == NULL;
    /* From the newest on, for the state of a thread that ended may be another's by now. */
    for (int i = count - 1; i >= 0; i--) {
        Watched *const one = &watched[i];
        const int64_t now = nanoseconds(one->clock);
        const int holds = !known && one->state == held_by;
        known |= holds;
        if (now < 0)
            continue;
        one->busy_ns += now - one->last;
        one->held_ns += holds ? now - one->last : 0;
        one->last = now;
    }
    samples++;
    foreign += !known;
}

static void *watch(void *unused)
{
    const struct sched_param first = {.sched_priority = 1};
    (void)unused;
    /* A watcher that waits for a free processor sees the lock too seldom. */
    is_real_time = !pthread_setschedparam(pthread_self(), SCHED_FIFO, &first);
    prctl(PR_SET_TIMERSLACK, 1);
    while (__atomic_load_n(&running, __ATOMIC_RELAXED)) {
        nanosleep(&period, NULL);
        look();
    }
    return NULL;
}

/* start(microseconds): watch the threads that call `join` from now on. */
static PyObject *start(PyObject *module, PyObject *argument)
{
    const long microseconds = PyLong_AsLong(argument);
    (void)module;
    if (microseconds == -1 && PyErr_Occurred())
        return NULL;
    if (running || microseconds < 1 || microseconds > 999999)
        return PyErr_Format(PyExc_ValueError, "one probe at a time, of 1 to 999999 microseconds");
#if PY_VERSION_HEX >= 0x030C0000
    lock_ = PyInterpreterState_Get()->ceval.gil;
#else
    lock_ = &_PyRuntime.ceval.gil;
#endif
    period = (struct timespec){0, microseconds * 1000};
    watched_count = 0;
    samples = foreign = 0;
    running = 1;
    if ((errno = pthread_create(&watcher, NULL, watch, NULL))) {
        running = 0;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

/* join() -> int: the number of the calling thread. */
static PyObject *join(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    if (watched_count == MOST_THREADS)
        return PyErr_Format(PyExc_ValueError, "more than %d threads", MOST_THREADS);
    Watched *const one = &watched[watched_count];
    const clockid_t clock = clock_of((pid_t)syscall(SYS_gettid));
    *one = (Watched){PyThreadState_Get(), clock, nanoseconds(clock), 0, 0};
    __atomic_store_n(&watched_count, watched_count + 1, __ATOMIC_RELEASE);
    return PyLong_FromLong(watched_count - 1);
}

/* stop() -> (samples, those in which an unknown thread held the lock, whether the watcher went before all others,
   [(busy, held) nanoseconds of processor time a thread]) */
static PyObject *stop(PyObject *module, PyObject *unused)
{
    (void)module, (void)unused;
    if (!running)
        return PyErr_Format(PyExc_ValueError, "no probe was started");
    __atomic_store_n(&running, 0, __ATOMIC_RELAXED);
    Py_BEGIN_ALLOW_THREADS
    pthread_join(watcher, NULL);
    Py_END_ALLOW_THREADS
    PyObject *const threads = PyList_New(watched_count);
    for (int i = 0; threads && i < watched_count; i++) {
        PyObject *const pair = Py_BuildValue("(LL)", (long long)watched[i].busy_ns, (long long)watched[i].held_ns);
        if (!pair)
            return NULL;
        PyList_SET_ITEM(threads, i, pair);
    }
    return threads ? Py_BuildValue("(llON)", samples, foreign, is_real_time ? Py_True : Py_False, threads) : NULL;
}

static PyMethodDef methods[] = {
    {"start", start, METH_O, NULL}, {"join", join, METH_NOARGS, NULL}, {"stop", stop, METH_NOARGS, NULL}, {0}};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "lock_probe", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_lock_probe(void)
{
    return PyModule_Create(&module);
}
