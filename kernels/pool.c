/* See pool.h. */

#define _GNU_SOURCE

#include "pool.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

/* By which conditions wait. Those of macOS know the time of day alone, which somebody may set meanwhile. */
#if defined(__APPLE__)
#define CONDITION_CLOCK CLOCK_REALTIME
#else
#define CONDITION_CLOCK CLOCK_MONOTONIC
#endif

static uint64_t nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* The time so many milliseconds from now, on the clock of the conditions. */
static struct timespec after(int milliseconds)
{
    struct timespec until;
    clock_gettime(CONDITION_CLOCK, &until);
    until.tv_nsec += milliseconds % 1000 * 1000000L;
    until.tv_sec += milliseconds / 1000 + until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    return until;
}

static void put_job(Queue *queue, Job *job)
{
    job->next = NULL;
    *queue->end = job;
    queue->end = &job->next;
    queue->count++;
}

Job *queue_take(Queue *queue)
{
    Job *const job = queue->first;
    if (job != NULL) {
        queue->first = job->next;
        if (queue->first == NULL)
            queue->end = &queue->first;
        queue->count--;
    }
    return job;
}

static int is_enough(const Pool *pool, int n)
{
    return pool->waiting.count > n * pool->per_thread;
}

static int has_room(const Pool *pool)
{
    return pool->waiting.count < pool->thread_count * pool->per_thread;
}

typedef struct {
    Pool *pool;
    int number;
} ThreadStart;

static void *cut_pictures(void *argument)
{
    const ThreadStart start = *(ThreadStart *)argument;
    Pool *const pool = start.pool;
    free(argument);
    pthread_setname_np(pthread_self(), "gpu-extract-cut"); /* as `top` shows it */
    Arena *const arena = arena_new(pool->setup);
    pthread_mutex_lock(&pool->lock);
    for (;;) {
        const uint64_t since = nanoseconds();
        while (!is_enough(pool, start.number) && !pool->closed)
            pthread_cond_wait(&pool->enough[start.number], &pool->lock);
        pool->threads_waited += nanoseconds() - since;
        Job *const job = queue_take(&pool->waiting);
        if (job == NULL)
            break;
        pool->busy++;
        pthread_cond_signal(&pool->room);
        pthread_mutex_unlock(&pool->lock);
        int error = ENOMEM;
        if (arena != NULL)
            error =
                frame_cut(pool->setup, arena, &job->picture, &job->faces, &pool->abandoned, job->results, job->spent);
        else
            for (size_t k = 0; k < job->faces.count; k++)
                job->results[k].error = ENOMEM;
        if (error != 0) /* all others would meet it, too */
            __atomic_store_n(&pool->abandoned, 1, __ATOMIC_RELAXED);
        pthread_mutex_lock(&pool->lock);
        pool->busy--;
        put_job(&pool->done, job);
        if (pool->unreleased == NULL)
            pool->unreleased = job;
        if (pool->done.count >= pool->wanted || pool->closed)
            pthread_cond_signal(&pool->news);
    }
    pthread_cond_signal(&pool->news);
    pthread_mutex_unlock(&pool->lock);
    arena_free(arena);
    return NULL;
}

/* Starts all threads, none of which ever takes a signal but for a fault of its own. Returns errno. */
static int start_threads(Pool *pool)
{
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
    sigset_t all, before;
    int error = 0;
    pool->process = getpid();
    sigfillset(&all);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        sigdelset(&all, faults[i]);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    while (pool->started < pool->thread_count && error == 0) {
        ThreadStart *const start = malloc(sizeof *start);
        if (start == NULL) {
            error = ENOMEM;
            break;
        }
        *start = (ThreadStart){pool, pool->started};
        error = pthread_create(&pool->threads[pool->started], NULL, cut_pictures, start);
        if (error == 0)
            pool->started++;
        else
            free(start);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

/* What is no longer needed of jobs that are done, in the order of completion: decoders take memory again in the order
   in which it is let go. The lock is held. */
static Held *take_spent(Pool *pool)
{
    Held *first = NULL, **end = &first;
    for (Job *job = pool->unreleased; job != NULL; job = job->next)
        if (job->held != NULL) {
            *end = job->held;
            end = &job->held->next;
            job->held = NULL;
        }
    *end = NULL;
    pool->unreleased = NULL;
    return first;
}

int pool_init(Pool *pool, const Setup *setup, int threads, int per_thread)
{
    pthread_condattr_t clock;
    *pool = (Pool){.setup = setup, .per_thread = per_thread, .wanted = INT_MAX};
    pool->waiting.end = &pool->waiting.first;
    pool->done.end = &pool->done.first;
    pool->idle = calloc((size_t)threads, sizeof *pool->idle);
    pool->threads = calloc((size_t)threads, sizeof *pool->threads);
    pool->enough = calloc((size_t)threads, sizeof *pool->enough);
    if (pool->idle == NULL || pool->threads == NULL || pool->enough == NULL) {
        free(pool->idle);
        free(pool->threads);
        free(pool->enough);
        *pool = (Pool){.setup = NULL};
        return 0;
    }
    pool->thread_count = pool->idle_room = threads;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_condattr_init(&clock);
#if !defined(__APPLE__)
    pthread_condattr_setclock(&clock, CONDITION_CLOCK);
#endif
    pthread_cond_init(&pool->room, &clock);
    pthread_cond_init(&pool->news, &clock);
    for (int n = 0; n < threads; n++)
        pthread_cond_init(&pool->enough[n], NULL);
    pthread_condattr_destroy(&clock);
    return 1;
}

void pool_end(Pool *pool, void (*drop)(Job *))
{
    if (pool->setup == NULL) /* never begun */
        return;
    for (Job *job; (job = queue_take(&pool->waiting)) != NULL || (job = queue_take(&pool->done)) != NULL;)
        drop(job);
    for (int n = 0; n < pool->thread_count; n++)
        pthread_cond_destroy(&pool->enough[n]);
    pthread_cond_destroy(&pool->room);
    pthread_cond_destroy(&pool->news);
    pthread_mutex_destroy(&pool->lock);
    while (pool->idle_count > 0)
        arena_free(pool->idle[--pool->idle_count]);
    free(pool->idle);
    free(pool->threads);
    free(pool->enough);
    *pool = (Pool){.setup = NULL};
}

int pool_give(Pool *pool, Job *job, int milliseconds, Held **spent)
{
    int taken = 0, late = 0, woken = 0;
    pthread_mutex_lock(&pool->lock);
    if (!has_room(pool)) {
        const uint64_t since = nanoseconds();
        const struct timespec until = after(milliseconds);
        while (!has_room(pool) && !late && !pool->closed)
            late = pthread_cond_timedwait(&pool->room, &pool->lock, &until) == ETIMEDOUT;
        pool->giver_waited += nanoseconds() - since;
    }
    if (pool->closed) {
        taken = __atomic_load_n(&pool->abandoned, __ATOMIC_RELAXED) ? 0 : -ESHUTDOWN;
    } else if (has_room(pool)) {
        const int error = pool->started < pool->thread_count ? start_threads(pool) : 0;
        taken = error != 0 ? -error : 1;
    }
    if (taken == 1) {
        put_job(&pool->waiting, job);
        while (woken < pool->thread_count && is_enough(pool, woken))
            woken++;
    }
    *spent = take_spent(pool);
    pthread_mutex_unlock(&pool->lock);
    while (woken > 0)
        pthread_cond_signal(&pool->enough[--woken]);
    return taken;
}

int pool_take(Pool *pool, int least, int milliseconds, Queue *done, Held **spent)
{
    const struct timespec until = after(milliseconds);
    int late = 0, ended;
    pthread_mutex_lock(&pool->lock);
    pool->wanted = least;
    for (;;) {
        ended = pool->closed && pool->waiting.count == 0 && pool->busy == 0;
        if (pool->done.count >= least || pool->woken || ended || late)
            break;
        late = pthread_cond_timedwait(&pool->news, &pool->lock, &until) == ETIMEDOUT;
    }
    pool->woken = 0;
    pool->wanted = INT_MAX;
    *spent = take_spent(pool);
    *done = pool->done;
    pool->done = (Queue){NULL, &pool->done.first, 0};
    pthread_mutex_unlock(&pool->lock);
    return ended;
}

void pool_wake(Pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    pool->woken = 1;
    pthread_cond_signal(&pool->news);
    pthread_mutex_unlock(&pool->lock);
}

Held *pool_spent(Pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    Held *const spent = take_spent(pool);
    pthread_mutex_unlock(&pool->lock);
    return spent;
}

int pool_is_inherited(const Pool *pool)
{
    return pool->started > 0 && pool->process != getpid();
}

void pool_close(Pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    pool->closed = 1;
    for (int n = 0; n < pool->thread_count; n++)
        pthread_cond_signal(&pool->enough[n]);
    pthread_cond_broadcast(&pool->room);
    pthread_cond_broadcast(&pool->news);
    pthread_mutex_unlock(&pool->lock);
}

void pool_abandon(Pool *pool)
{
    __atomic_store_n(&pool->abandoned, 1, __ATOMIC_RELAXED);
    pool_close(pool);
}

void pool_join(Pool *pool)
{
    pool_close(pool);
    while (pool->started > 0)
        pthread_join(pool->threads[--pool->started], NULL);
}

void pool_waits(Pool *pool, uint64_t *giver_waited, uint64_t *threads_waited)
{
    pthread_mutex_lock(&pool->lock);
    *giver_waited = pool->giver_waited;
    *threads_waited = pool->threads_waited;
    pthread_mutex_unlock(&pool->lock);
}

Arena *pool_borrow(Pool *pool)
{
    Arena *arena = NULL;
    pthread_mutex_lock(&pool->lock);
    if (pool->idle_count > 0)
        arena = pool->idle[--pool->idle_count];
    pthread_mutex_unlock(&pool->lock);
    return arena != NULL ? arena : arena_new(pool->setup);
}

void pool_give_back(Pool *pool, Arena *arena)
{
    pthread_mutex_lock(&pool->lock);
    const int fits = pool->idle_count < pool->idle_room;
    if (fits)
        pool->idle[pool->idle_count++] = arena;
    pthread_mutex_unlock(&pool->lock);
    if (!fits)
        arena_free(arena);
}
