/* Threads that cut pictures (frame.h), and the two queues between them and who gives and takes. Pure C: whoever has an
   interpreter calls none of these with its lock held, but for pool_wake, pool_close and pool_abandon. */

#ifndef POOL_H
#define POOL_H

#include <pthread.h>
#include <stdint.h>
#include <sys/types.h>

#include "frame.h"

/* What keeps a picture and the names of its faces alive; the first member of something larger. */
typedef struct Held {
    struct Held *next;
} Held;

/* A picture to be cut. */
typedef struct Job {
    struct Job *next;
    int64_t frame;
    Picture picture;
    Faces faces;
    Held *held; /* NULL once it was given back */
    uint64_t spent[STAGES];
    Text *text;
    Face results[]; /* one for each face */
} Job;

typedef struct {
    Job *first, **end;
    int count;
} Queue;

typedef struct {
    const Setup *setup;
    pthread_mutex_t lock;
    pthread_cond_t room, news; /* for who gives, for who takes */
    pthread_cond_t *enough;    /* for each thread */
    pthread_t *threads;
    int thread_count, started, per_thread;
    Queue waiting, done;
    Job *unreleased; /* the first of those done whose picture may still be held */
    int busy;        /* threads that cut */
    pid_t process;   /* whose the threads are */
    int closed, woken;
    int wanted;                            /* jobs done, for which pool_take waits */
    int abandoned;                         /* faces that are not begun are left out */
    uint64_t giver_waited, threads_waited; /* nanoseconds */
    Arena **idle;                          /* of callers that cut on their own threads */
    int idle_count, idle_room;
} Pool;

/* The n-th thread, from 0, takes a picture only while more than n * per_thread wait. Threads start with the first job.
   Returns 0 if there is no memory; the pool is then empty, and may be ended all the same. */
int pool_init(Pool *pool, const Setup *setup, int threads, int per_thread);

/* Ends the threads; jobs that nobody took are given to `drop`. */
void pool_end(Pool *pool, void (*drop)(Job *));

/* Gives a job to the threads, as soon as there is room for it, in so many milliseconds at most. Returns 1 if they have
   it, 0 if there was no room or after pool_abandon, or errno, negative: ESHUTDOWN after pool_close. *spent: what is no
   longer needed. */
int pool_give(Pool *pool, Job *job, int milliseconds, Held **spent);

/* Waits for `least` jobs that are done, for so many milliseconds at most or until pool_wake. Returns whether no more
   will come. */
int pool_take(Pool *pool, int least, int milliseconds, Queue *done, Held **spent);

void pool_wake(Pool *pool);

/* What is no longer needed, for whoever neither gives nor takes for a while. */
Held *pool_spent(Pool *pool);

/* Whether threads were started by the process that this one is a fork of: they are not here, and their lock may be
   taken for ever. */
int pool_is_inherited(const Pool *pool);

/* Nothing more will be given. */
void pool_close(Pool *pool);

/* As pool_close, and faces that are not begun get the error ECANCELED. */
void pool_abandon(Pool *pool);

/* As pool_close, and waits for the threads' end. */
void pool_join(Pool *pool);

void pool_waits(Pool *pool, uint64_t *giver_waited, uint64_t *threads_waited);

/* Memory for a caller that cuts by itself; NULL if there is none. */
Arena *pool_borrow(Pool *pool);
void pool_give_back(Pool *pool, Arena *arena);

/* Takes the first job; NULL where there is none. */
Job *queue_take(Queue *queue);

#endif
