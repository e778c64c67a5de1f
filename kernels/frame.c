/* See frame.h. */

#define _GNU_SOURCE

#include "frame.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "png.h"
#include "positions.h"
#include "sharpness.h"

enum { CHANNELS = 3, MOST_NAME = 255, SLACK_BYTES = 64, AT_ONCE = 2 /* faces, whose hashes cost less together */ };

struct Arena {
    uint8_t *patch;
    size_t patch_bytes;
    uint8_t *crops; /* AT_ONCE */
    int32_t *table;
    uint32_t *sums; /* for sharpness(), where that is wanted */
    PngWriter *png;
    size_t text_bytes; /* that png has room for */
};

typedef struct {
    int32_t x0, y0, x1, y1;
} Box;

static uint64_t nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Adds the time since *since to a stage. */
static void spend(uint64_t *stage, uint64_t *since)
{
    const uint64_t now = nanoseconds();
    *stage += now - *since;
    *since = now;
}

Arena *arena_new(const Setup *setup)
{
    const size_t side = (size_t)setup->size;
    Arena *const arena = calloc(1, sizeof *arena);
    if (arena == NULL)
        return NULL;
    arena->crops = malloc(AT_ONCE * CHANNELS * side * side);
    arena->table = malloc(4 * side * sizeof *arena->table);
    arena->sums = setup->measures ? malloc(CHANNELS * side * sizeof *arena->sums) : NULL;
    arena->png = png_writer(side, side, 0);
    if (arena->crops == NULL || arena->table == NULL || arena->png == NULL ||
        (setup->measures && arena->sums == NULL)) {
        arena_free(arena);
        return NULL;
    }
    return arena;
}

void arena_free(Arena *arena)
{
    if (arena == NULL)
        return;
    free(arena->patch);
    free(arena->crops);
    free(arena->table);
    free(arena->sums);
    png_writer_free(arena->png);
    free(arena);
}

static int reserve_patch(Arena *arena, size_t bytes)
{
    if (bytes > arena->patch_bytes) {
        free(arena->patch);
        arena->patch = malloc(bytes + SLACK_BYTES);
        arena->patch_bytes = arena->patch != NULL ? bytes : 0;
    }
    return arena->patch != NULL;
}

static int reserve_text(Arena *arena, const Setup *setup, size_t bytes)
{
    if (bytes > arena->text_bytes || arena->png == NULL) {
        png_writer_free(arena->png);
        arena->png = png_writer((size_t)setup->size, (size_t)setup->size, bytes);
        arena->text_bytes = arena->png != NULL ? bytes : 0;
    }
    return arena->png != NULL;
}

/* Descriptors 0 to 2 are for standard streams even where these were closed: libraries write to them. */
static int beyond_standard(int descriptor)
{
    if (descriptor < 0 || descriptor > STDERR_FILENO)
        return descriptor;
    const int moved = fcntl(descriptor, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    const int error = errno;
    close(descriptor);
    errno = error;
    return moved;
}

/* All of a file or nothing: written under a temporary name beside its own, then renamed. Returns errno. */
static int store(int folder, const char *temporary, const char *name, const uint8_t *data, size_t size)
{
    int opened, error = 0;
    do
        opened = openat(folder, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    while (opened < 0 && errno == EINTR);
    const int file = beyond_standard(opened);
    if (file < 0)
        return errno;
    while (size > 0 && error == 0) {
        const ssize_t done = write(file, data, size);
        if (done >= 0) {
            data += done;
            size -= (size_t)done;
        } else if (errno != EINTR) {
            error = errno;
        }
    }
    if (close(file) != 0 && error == 0) /* some file systems tell only then what they could not write */
        error = errno;
    if (error == 0 && renameat(folder, temporary, folder, name) != 0)
        error = errno;
    if (error != 0)
        unlinkat(folder, temporary, 0);
    return error;
}

/* What a file system says of one name; any other error would meet every face. */
static int is_of_name(int error)
{
    return error == ENAMETOOLONG || error == EILSEQ || error == EINVAL;
}

static int is_of_one_colour(const uint8_t *crop, size_t pixels)
{
    /* each byte equals the one a pixel before; the middle tells it of nearly all crops */
    const size_t bytes = CHANNELS * pixels, middle = CHANNELS * (pixels / 2);
    if (memcmp(crop, crop + middle, CHANNELS) != 0)
        return 0;
    return memcmp(crop, crop + CHANNELS, bytes - CHANNELS) == 0;
}

/* Encode and store one crop. */
static void store_crop(const Setup *setup, Arena *arena, const uint8_t *pixels, const Faces *faces, size_t k,
                       Face *result, uint64_t spent[STAGES])
{
    const size_t side = (size_t)setup->size;
    const Crop crop = {pixels, (ptrdiff_t)(CHANNELS * side), side, side};
    const Text none = {NULL, 0}, text = faces->text != NULL ? faces->text[k] : none;
    char name[2 * MOST_NAME], temporary[2 * MOST_NAME];
    const uint8_t *file;
    uint64_t since = nanoseconds();
    if (!reserve_text(arena, setup, text.size)) {
        result->error = ENOMEM;
        return;
    }
    const size_t bytes = png_write(arena->png, &crop, (const uint8_t *)text.bytes, text.size, setup->level, &file);
    spend(&spent[ENCODE], &since);
    const int32_t index = faces->index[k];
    const int length = snprintf(name, sizeof name, "%s%s_%d%s", faces->folder, faces->stem, index, setup->extension);
    const int longer =
        snprintf(temporary, sizeof temporary, "%s.part-%s_%d%s", faces->folder, faces->stem, index, setup->extension);
    if (length < 0 || longer < 0 || (size_t)longer >= sizeof temporary)
        result->error = ENAMETOOLONG;
    else
        result->error = store(setup->folder, temporary, name, file, bytes);
    result->bytes = (uint32_t)bytes;
    spend(&spent[WRITE], &since);
}

/* Returns an error that is no single name's; the faces from k on are then not cut. */
static int ended(const Faces *faces, size_t k, int error, Face *results)
{
    for (; k < faces->count; k++)
        results[k].error = ECANCELED;
    return error;
}

static int is_set(const int *flag)
{
    return __atomic_load_n(flag, __ATOMIC_RELAXED);
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static size_t crop_bytes(const Setup *setup)
{
    return (size_t)CHANNELS * (size_t)setup->size * (size_t)setup->size;
}

/* Hashes, encodes and stores the crops, AT_ONCE at most, of the faces from `first` on. Returns whether others may
   follow; if not, they have ended and *error is what to return. */
static int finish(const Setup *setup, Arena *arena, const uint8_t *crops, const Faces *faces, size_t first,
                  size_t count, const int *abandoned, Face *results, uint64_t spent[STAGES], int *error)
{
    const size_t bytes = crop_bytes(setup);
    uint8_t digests[AT_ONCE][SHA1_BYTES];
    uint64_t since = nanoseconds();
    if (count == AT_ONCE)
        sha1_pair((const uint8_t *const[]){crops, crops + bytes}, bytes, setup->level, digests);
    else
        sha1(crops, bytes, setup->level, digests[0]);
    for (size_t i = 0; setup->measures && i < count; i++)
        results[first + i].sharpness =
            sharpness(crops + i * bytes, setup->size, setup->size, setup->level, arena->sums);
    spend(&spent[HASH], &since);
    for (size_t i = 0; i < count; i++) {
        Face *const result = &results[first + i];
        if (i > 0 && is_set(abandoned)) {
            *error = ended(faces, first + i, 0, results);
            return 0;
        }
        memcpy(result->sha1, digests[i], SHA1_BYTES);
        result->one_colour = (uint32_t)is_of_one_colour(crops + i * bytes, bytes / CHANNELS);
        store_crop(setup, arena, crops + i * bytes, faces, first + i, result, spent);
        if (result->error != 0 && !is_of_name(result->error)) {
            *error = ended(faces, first + i + 1, result->error, results);
            return 0;
        }
    }
    return 1;
}

static void warp(const Setup *setup, Arena *arena, const Source *source, const Faces *faces, size_t k, uint8_t *crop)
{
    const int32_t size = setup->size;
    const int cubic = faces->cubic[k] != 0;
    positions_of(faces->crop_from_frame + 6 * k, size, arena->table);
    const Positions at = {arena->table, arena->table + size, arena->table + 2 * (ptrdiff_t)size,
                          arena->table + 3 * (ptrdiff_t)size, size};
    sampler_warp(source, &at, setup->weights[cubic], cubic ? 4 : 2, setup->level, crop);
}

/* The part of a region inside the frame, at least one pixel. */
static Box clipped(const int64_t *region, int32_t width, int32_t height)
{
    const int64_t x0 = least(most(region[0], 0), width - 1), y0 = least(most(region[1], 0), height - 1);
    return (Box){(int32_t)x0, (int32_t)y0, (int32_t)most(least(region[2], width), x0 + 1),
                 (int32_t)most(least(region[3], height), y0 + 1)};
}

static int64_t area(Box box)
{
    return (int64_t)(box.x1 - box.x0) * (box.y1 - box.y0);
}

/* The rectangle around the regions of all faces, if it is no larger than their sum; else one without pixels. */
static Box shared_box(const Picture *picture, const Faces *faces)
{
    Box around = clipped(faces->region, picture->width, picture->height);
    int64_t sum = area(around);
    for (size_t k = 1; k < faces->count; k++) {
        const Box box = clipped(faces->region + 4 * k, picture->width, picture->height);
        sum += area(box);
        around = (Box){(int32_t)least(around.x0, box.x0), (int32_t)least(around.y0, box.y0),
                       (int32_t)most(around.x1, box.x1), (int32_t)most(around.y1, box.y1)};
    }
    return area(around) <= sum ? around : (Box){0, 0, 0, 0};
}

/* Converts a rectangle of a picture, and what makes its corners even. Returns whether there was memory for it. */
static int load(const Setup *setup, Arena *arena, const Picture *picture, Box box, Source *source)
{
    const int32_t x0 = box.x0 & ~1, y0 = box.y0 & ~1;
    const int32_t width = box.x1 + box.x1 % 2 - x0, height = box.y1 + box.y1 % 2 - y0;
    if (!reserve_patch(arena, (size_t)CHANNELS * (size_t)width * (size_t)height))
        return 0;
    const Conversion conversion = {
        {picture->planes[0], picture->strides[0]},
        {picture->planes[1], picture->strides[1]},
        {picture->planes[2], picture->strides[2]},
        picture->width,
        picture->height,
        x0,
        y0,
        width,
        height,
        arena->patch,
    };
    yuv_convert(&conversion, &picture->coefficients, &picture->layout, setup->level);
    *source = (Source){arena->patch, (ptrdiff_t)CHANNELS * width, width, height, x0, y0};
    return 1;
}

int frame_cut(const Setup *setup, Arena *arena, const Picture *picture, const Faces *faces, const int *abandoned,
              Face *results, uint64_t spent[STAGES])
{
    if (faces->count == 0)
        return 0;
    const Box shared = shared_box(picture, faces);
    const int is_shared = area(shared) > 0;
    Source source = {0};
    int error;
    for (size_t k = 0, ready = 0; k < faces->count; k += ready) {
        if (is_set(abandoned))
            return ended(faces, k, 0, results);
        uint64_t since = nanoseconds();
        for (ready = 0; ready < AT_ONCE && k + ready < faces->count; ready++) {
            const size_t face = k + ready;
            if (face == 0 || !is_shared) {
                const Box box = is_shared ? shared : clipped(faces->region + 4 * face, picture->width, picture->height);
                if (!load(setup, arena, picture, box, &source))
                    break;
            }
            spend(&spent[LOAD], &since);
            uint8_t *const crop = faces->crops != NULL ? faces->crops + face * crop_bytes(setup)
                                                       : arena->crops + ready * crop_bytes(setup);
            warp(setup, arena, &source, faces, face, crop);
            spend(&spent[WARP], &since);
        }
        if (ready == 0)
            return ended(faces, k, ENOMEM, results);
        if (faces->crops == NULL &&
            !finish(setup, arena, arena->crops, faces, k, ready, abandoned, results, spent, &error))
            return error;
    }
    return 0;
}

int frame_cut_patches(const Setup *setup, Arena *arena, const Patch *patches, const int64_t *patch_of,
                      const Faces *faces, const int *abandoned, Face *results, uint64_t spent[STAGES])
{
    int error;
    for (size_t k = 0, ready = 0; k < faces->count; k += ready) {
        if (is_set(abandoned))
            return ended(faces, k, 0, results);
        uint64_t since = nanoseconds();
        for (ready = 0; ready < AT_ONCE && k + ready < faces->count; ready++) {
            const Patch *const patch = &patches[patch_of[k + ready]];
            const Source source = {patch->pixels, patch->stride, patch->width, patch->height, patch->x0, patch->y0};
            warp(setup, arena, &source, faces, k + ready, arena->crops + ready * crop_bytes(setup));
        }
        spend(&spent[WARP], &since);
        if (!finish(setup, arena, arena->crops, faces, k, ready, abandoned, results, spent, &error))
            return error;
    }
    return 0;
}

int frame_finish(const Setup *setup, Arena *arena, const uint8_t *crops, const Faces *faces, const int *abandoned,
                 Face *results, uint64_t spent[STAGES])
{
    int error;
    for (size_t k = 0, ready = 0; k < faces->count; k += ready) {
        if (is_set(abandoned))
            return ended(faces, k, 0, results);
        ready = (size_t)least(AT_ONCE, (int64_t)(faces->count - k));
        if (!finish(setup, arena, crops + k * crop_bytes(setup), faces, k, ready, abandoned, results, spent, &error))
            return error;
    }
    return 0;
}
