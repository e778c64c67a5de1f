/* All that is done about the faces of one frame: regions to BGR, crops, hashes, files. Pure C: no thread, no Python. */

#ifndef FRAME_H
#define FRAME_H

#include <stddef.h>
#include <stdint.h>

#include "sampler.h"
#include "sha1.h"
#include "yuv.h"

enum { LOAD, WARP, HASH, ENCODE, WRITE, STAGES };

/* What all frames of a run share. */
typedef struct {
    int32_t size;              /* S, of the crops */
    const int16_t *weights[2]; /* of tables.weights: linear, cubic */
    int folder;                /* an open directory, in which the names begin */
    const char *extension;
    int level;    /* of this processor, or a lower one, as of machine.h */
    int measures; /* whether faces are wanted to tell their sharpness */
} Setup;

typedef struct {
    const char *bytes; /* NULL: none */
    size_t size;
} Text;

typedef struct {
    size_t count;
    const double *crop_from_frame; /* [count, 2, 3] */
    const uint8_t *cubic;          /* [count] */
    const int64_t *region;         /* [count, 4]: x0, y0, x1, y1, not clipped */
    const int32_t *index;          /* [count] */
    const char *folder;            /* of the files inside the setup's, empty or with a slash at its end */
    const char *stem;              /* files are called <stem>_<index><extension> */
    const Text *text;              /* [count], or NULL */
    uint8_t *crops;                /* [count, S, S, 3]: where the crops go, instead of files; or NULL */
} Faces;

/* What became of a face. */
typedef struct {
    uint8_t sha1[SHA1_BYTES];
    uint32_t bytes;      /* of its file */
    int32_t error;       /* errno; 0: it is there */
    uint32_t one_colour; /* whether all its pixels are the same */
    double sharpness;    /* of its crop; 0 where that is not measured */
} Face;

typedef struct {
    const uint8_t *planes[3]; /* Y, U, V */
    ptrdiff_t strides[3];
    int32_t width, height; /* of the frame, even */
    Coefficients coefficients;
    Layout layout;
} Picture;

/* Pixels of a frame, as of patch.Patch. */
typedef struct {
    const uint8_t *pixels;
    ptrdiff_t stride;
    int32_t width, height, x0, y0;
} Patch;

/* Memory for one frame at a time; grows with what it is asked for. */
typedef struct Arena Arena;
Arena *arena_new(const Setup *setup);
void arena_free(Arena *arena);

/* Each fills results [count], adds the nanoseconds of each stage to `spent` and ends early, the other results having
   the error ECANCELED, when *abandoned is set; then no file is left half-written. An error that speaks of no single
   name ends it as well, and is returned; 0 otherwise. */
/* Where faces->crops is set, frame_cut leaves the crops there and does no more. */
int frame_cut(const Setup *setup, Arena *arena, const Picture *picture, const Faces *faces, const int *abandoned,
              Face *results, uint64_t spent[STAGES]);
int frame_cut_patches(const Setup *setup, Arena *arena, const Patch *patches, const int64_t *patch_of,
                      const Faces *faces, const int *abandoned, Face *results, uint64_t spent[STAGES]);
/* The same for crops [count, S, S, 3] that are there already; crop_from_frame, cubic and region are not looked at. */
int frame_finish(const Setup *setup, Arena *arena, const uint8_t *crops, const Faces *faces, const int *abandoned,
                 Face *results, uint64_t spent[STAGES]);

#endif
