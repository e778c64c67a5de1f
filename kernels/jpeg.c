/* See jpeg.h. */

#include "jpeg.h"

#include <stdlib.h>

#include "jpeg_codes.h"
#include "jpeg_samples.h"
#include "machine.h"

enum {
    COMPONENTS = 3,
    TABLES = 4,
    MOST_IN_UNIT = 10,                     /* blocks, the standard's bound */
    MARGIN = 16,                           /* bytes around samples */
    PAST_END = MOST_IN_UNIT * BLOCK_BYTES, /* bytes, more than a damaged unit can take */
    NO_MARKER = -1,
    LONGEST_SIDE = 65500, /* libjpeg's bound */
    MOST_PREDICTED = 1 << 24,
};

enum {
    START_OF_FRAME = 0xC0, /* baseline; the next one is sequential too */
    HUFFMAN_TABLES = 0xC4,
    FIRST_RESTART = 0xD0,
    START = 0xD8,
    FINISH = 0xD9,
    START_OF_SCAN = 0xDA,
    FACTORS = 0xDB,
    RESTART_INTERVAL = 0xDD,
    APPLICATION = 0xE0,
    EXIF = 0xE1,
    ADOBE = 0xEE,
    LAST_APPLICATION = 0xEF,
    COMMENT = 0xFE,
};

typedef struct {
    int id, across, down;    /* blocks a unit */
    int factors, dc, ac;     /* tables */
    ptrdiff_t width, height; /* samples */
    uint8_t *samples;        /* of the units from job->left and job->top on */
    ptrdiff_t stride;
} Component;

/* A block of a unit. */
typedef struct {
    Component *component;
    int *prediction;
    const Code *dc, *ac;
    const uint16_t *factors;
    int x, y; /* in blocks */
} Block;

typedef int Transform(int16_t *block, uint8_t *out, ptrdiff_t stride);

typedef struct {
    const uint8_t *data, *end;
    ptrdiff_t width, height;
    int components;
    Component component[COMPONENTS];
    int across, down; /* the most blocks of a component a unit */
    uint16_t factors[TABLES][COEFFICIENTS];
    int has_factors[TABLES];
    const uint8_t *code[2][TABLES]; /* counts and symbols: DC, AC */
    Code *codes;                    /* those of the components: DC, AC, DC … */
    int has_jfif, adobe;            /* adobe: which transform it tells, NO_MARKER without */
    int interval;                   /* units from one restart to the next, or 0 */

    const Rectangle *rectangles;
    size_t count;
    int halved_x, halved_y;                    /* whether chroma has half the samples */
    int replicated;                            /* and too few columns for libjpeg to blend them */
    ptrdiff_t units, left, right, top, bottom; /* units a row, and those that the samples are kept of */
    uint8_t *memory, *is_wanted;               /* is_wanted: of a row's units */

    const uint8_t *scan; /* what follows of it in the file */
    uint8_t *bytes;      /* of the current interval, without stuffing */
    size_t size;
    int marker; /* that ends it */
} Job;

static int big_16(const uint8_t *bytes)
{
    return bytes[0] << 8 | bytes[1];
}

static int read_factors(Job *job, const uint8_t *body, ptrdiff_t size)
{
    while (size > 0) {
        const int wide = body[0] >> 4, table = body[0] & 15, bytes = 1 + (COEFFICIENTS << wide);
        if (wide > 1 || table >= TABLES || size < bytes)
            return 0;
        for (int i = 0; i < COEFFICIENTS; i++)
            job->factors[table][i] = (uint16_t)(wide ? big_16(body + 1 + 2 * i) : body[1 + i]);
        job->has_factors[table] = 1;
        body += bytes;
        size -= bytes;
    }
    return 1;
}

static int read_codes(Job *job, const uint8_t *body, ptrdiff_t size)
{
    while (size > 0) {
        const int kind = body[0] >> 4, table = body[0] & 15;
        if (kind > 1 || table >= TABLES || size < 1 + LONGEST_CODE)
            return 0;
        ptrdiff_t bytes = 1 + LONGEST_CODE;
        for (int i = 0; i < LONGEST_CODE; i++)
            bytes += body[1 + i];
        if (bytes > 1 + LONGEST_CODE + SYMBOLS || size < bytes)
            return 0;
        job->code[kind][table] = body + 1;
        body += bytes;
        size -= bytes;
    }
    return 1;
}

static int read_frame(Job *job, const uint8_t *body, ptrdiff_t size)
{
    if (job->components != 0 || size < 6 || body[0] != 8)
        return 0;
    job->height = big_16(body + 1);
    job->width = big_16(body + 3);
    job->components = body[5];
    if (job->height == 0 || job->width == 0 || job->height > LONGEST_SIDE || job->width > LONGEST_SIDE ||
        (job->components != 1 && job->components != COMPONENTS) || size != 6 + 3 * job->components)
        return 0;
    for (int i = 0; i < job->components; i++) {
        const uint8_t *const from = body + 6 + 3 * i;
        Component *const to = &job->component[i];
        *to = (Component){.id = from[0], .across = from[1] >> 4, .down = from[1] & 15, .factors = from[2]};
        if (to->across < 1 || to->down < 1 || to->across > 2 || to->down > 2 || to->factors >= TABLES)
            return 0;
    }
    if (job->components == 1) /* a scan of one component goes block by block */
        job->component[0].across = job->component[0].down = 1;
    const Component *const luma = job->component, *const blue = luma + 1, *const red = luma + 2;
    job->across = luma->across;
    job->down = luma->down;
    if (job->components == COMPONENTS) {
        if (blue->across != red->across || blue->down != red->down || blue->across > luma->across ||
            blue->down > luma->down)
            return 0;
        job->halved_x = blue->across < luma->across;
        job->halved_y = blue->down < luma->down;
    }
    for (int i = 0; i < job->components; i++) {
        const int halved_x = i > 0 && job->halved_x, halved_y = i > 0 && job->halved_y;
        job->component[i].width = (job->width + halved_x) >> halved_x;
        job->component[i].height = (job->height + halved_y) >> halved_y;
    }
    job->replicated = job->halved_x && blue->width <= 2;
    return 1;
}

static int read_scan(Job *job, const uint8_t *body, ptrdiff_t size)
{
    const int n = job->components;
    if (n == 0 || size != 4 + 2 * n || body[0] != n)
        return 0;
    for (int i = 0; i < n; i++) {
        Component *const component = &job->component[i];
        component->dc = body[2 + 2 * i] >> 4;
        component->ac = body[2 + 2 * i] & 15;
        if (body[1 + 2 * i] != component->id || component->dc >= TABLES || component->ac >= TABLES ||
            !job->has_factors[component->factors] || job->code[0][component->dc] == NULL ||
            job->code[1][component->ac] == NULL)
            return 0;
        for (int k = 0; k < i; k++)
            if (job->component[k].id == component->id)
                return 0;
    }
    const uint8_t *const rest = body + 1 + 2 * n;
    return rest[0] == 0 && rest[1] == COEFFICIENTS - 1 && rest[2] == 0;
}

/* Whether libjpeg takes the components for Y, Cb and Cr, or for grey. */
static int is_known_colour(const Job *job)
{
    if (job->components == 1 || job->has_jfif)
        return 1;
    if (job->adobe != NO_MARKER)
        return job->adobe == 1;
    return job->component[0].id == 1 && job->component[1].id == 2 && job->component[2].id == 3;
}

/* All segments up to the scan. 0 where one of them is not plain. */
static int read_header(Job *job, int as_stored)
{
    const uint8_t *at = job->data;
    if (job->end - at < 4 || at[0] != 0xFF || at[1] != START)
        return 0;
    for (at += 2; job->end - at >= 4;) {
        const int marker = at[1], length = big_16(at + 2);
        const uint8_t *const body = at + 4;
        const ptrdiff_t size = length - 2;
        if (at[0] != 0xFF || size < 0 || size > job->end - body)
            return 0;
        at = body + size;
        int is_plain = 1;
        if (marker == START_OF_FRAME || marker == START_OF_FRAME + 1) {
            is_plain = read_frame(job, body, size);
        } else if (marker == HUFFMAN_TABLES) {
            is_plain = read_codes(job, body, size);
        } else if (marker == FACTORS) {
            is_plain = read_factors(job, body, size);
        } else if (marker == RESTART_INTERVAL) {
            is_plain = size == 2;
            job->interval = is_plain ? big_16(body) : 0;
        } else if (marker == EXIF) {
            is_plain = as_stored || size < 6 || memcmp(body, "Exif\0\0", 6) != 0;
        } else if (marker == APPLICATION) {
            job->has_jfif = job->has_jfif || (size >= 14 && memcmp(body, "JFIF\0", 5) == 0);
        } else if (marker == ADOBE) {
            if (size >= 12 && memcmp(body, "Adobe", 5) == 0)
                job->adobe = body[11];
        } else if (marker == START_OF_SCAN) {
            job->scan = at;
            return read_scan(job, body, size) && is_known_colour(job);
        } else {
            is_plain = marker == COMMENT || (marker > APPLICATION && marker <= LAST_APPLICATION);
        }
        if (!is_plain)
            return 0;
    }
    return 0;
}

/* The bytes up to the next marker, which is passed over too. 0 where the file ends before one. */
static int next_interval(Job *job)
{
    const uint8_t *from = job->scan;
    uint8_t *to = job->bytes;
    for (;;) {
        const uint8_t *const stop = memchr(from, 0xFF, (size_t)(job->end - from));
        if (stop == NULL || job->end - stop < 2)
            return 0;
        const size_t n = (size_t)(stop - from);
        memcpy(to, from, n);
        to += n;
        from = stop + 2;
        if (stop[1] != 0) {
            job->marker = stop[1];
            break;
        }
        *to++ = 0xFF;
    }
    job->scan = from;
    job->size = (size_t)(to - job->bytes);
    memset(to, 0, PAST_END);
    return 1;
}

/* Whether nothing but restarts in their order stands between here and the file's end marker. */
static int ends_well(Job *job, int restart)
{
    while (job->marker != FINISH) {
        if (job->interval == 0 || job->marker != FIRST_RESTART + (restart++ & 7) || !next_interval(job))
            return 0;
    }
    return 1;
}

static ptrdiff_t least(ptrdiff_t a, ptrdiff_t b)
{
    return a < b ? a : b;
}

static ptrdiff_t most(ptrdiff_t a, ptrdiff_t b)
{
    return a > b ? a : b;
}

/* The units that a rectangle's pixels need; where chroma is halved, that of the samples next to its own too. */
static Rectangle units_of(const Job *job, const Rectangle *pixels)
{
    const ptrdiff_t width = SIDE * job->across, height = SIDE * job->down;
    const ptrdiff_t beside = 2 * job->halved_x, above = 2 * job->halved_y;
    return (Rectangle){most(pixels->x0 - beside, 0) / width, most(pixels->y0 - above, 0) / height,
                       least(pixels->x1 - 1 + beside, job->width - 1) / width + 1,
                       least(pixels->y1 - 1 + above, job->height - 1) / height + 1};
}

/* Which units of a row are wanted at all. */
static void mark_wanted(const Job *job, ptrdiff_t row)
{
    memset(job->is_wanted, 0, (size_t)job->units);
    for (size_t i = 0; i < job->count; i++) {
        const Rectangle units = units_of(job, &job->rectangles[i]);
        if (row >= units.y0 && row < units.y1)
            memset(job->is_wanted + units.x0, 1, (size_t)(units.x1 - units.x0));
    }
}

/* Memory for the samples of all units that rectangles lie in, for an interval and for two rows of chroma. */
static int allocate(Job *job)
{
    job->units = (job->width + SIDE * job->across - 1) / (SIDE * job->across);
    job->left = job->top = PTRDIFF_MAX;
    for (size_t i = 0; i < job->count; i++) {
        const Rectangle units = units_of(job, &job->rectangles[i]);
        job->left = least(job->left, units.x0);
        job->top = least(job->top, units.y0);
        job->right = most(job->right, units.x1);
        job->bottom = most(job->bottom, units.y1);
    }
    size_t room = 0, start[COMPONENTS];
    for (int i = 0; i < job->components; i++) {
        Component *const component = &job->component[i];
        component->stride = SIDE * component->across * (job->right - job->left);
        start[i] = room + MARGIN;
        room = start[i] + (size_t)component->stride * (size_t)(SIDE * component->down * (job->bottom - job->top));
    }
    room += MARGIN;
    const size_t bytes = room, wanted = bytes + (size_t)(job->end - job->scan) + PAST_END;
    job->memory = malloc(wanted + (size_t)job->units);
    job->codes = malloc(2 * (size_t)job->components * sizeof *job->codes);
    if (job->memory == NULL || job->codes == NULL)
        return 0;
    for (int i = 0; i < job->components; i++)
        job->component[i].samples = job->memory + start[i];
    job->bytes = job->memory + bytes;
    job->is_wanted = job->memory + wanted;
    return 1;
}

/* The blocks of a unit, in the order that they are coded in, with their tables. Their number, 0 if a table is none. */
static int list_blocks(Job *job, int *predictions, Block *blocks)
{
    int n = 0;
    const Code *made[2][TABLES] = {{NULL}};
    for (int i = 0; i < job->components; i++) {
        Component *const component = &job->component[i];
        const int table[2] = {component->dc, component->ac};
        for (int kind = 0; kind < 2; kind++) {
            Code *const code = &job->codes[2 * i + kind];
            const uint8_t *const counts = job->code[kind][table[kind]];
            if (made[kind][table[kind]] == NULL) {
                if (!make_code(code, counts, counts + LONGEST_CODE, kind == 0))
                    return 0;
                made[kind][table[kind]] = code;
            }
        }
        for (int k = 0; k < component->across * component->down; k++) {
            if (n == MOST_IN_UNIT)
                return 0;
            blocks[n++] = (Block){component,
                                  &predictions[i],
                                  made[0][component->dc],
                                  made[1][component->ac],
                                  job->factors[component->factors],
                                  k % component->across,
                                  k / component->across};
        }
    }
    return n;
}

/* Reads a wanted unit's blocks, the unit (x, y) of those that samples are kept of. */
INLINE int read_unit(const Block *blocks, int n, Bits *in, ptrdiff_t x, ptrdiff_t y, Transform *transform)
{
    int16_t values[COEFFICIENTS] = {0};
    for (int i = 0; i < n; i++) {
        const Block *const block = &blocks[i];
        const Component *const component = block->component;
        int difference;
        if (!read_dc(block->dc, in, &difference))
            return 0;
        *block->prediction += difference;
        const int64_t first = (int64_t)*block->prediction * block->factors[0];
        uint32_t wide = 0;
        const int places = read_ac(block->ac, in, block->factors, values, &wide);
        if (places == 0 || wide > 2 * MOST_DEQUANTISED + 1 || first > MOST_DEQUANTISED || first < -MOST_DEQUANTISED)
            return 0;
        uint8_t *const out = component->samples + SIDE * (y * component->down + block->y) * component->stride +
                             SIDE * (x * component->across + block->x);
        if (places == 1) {
            if (!transform_flat((int)first, out, component->stride))
                return 0;
            continue;
        }
        values[0] = (int16_t)first;
        if (!transform(values, out, component->stride))
            return 0;
    }
    return 1;
}

INLINE int walk_unit(const Block *blocks, int n, Bits *in)
{
    for (int i = 0; i < n; i++) {
        int difference;
        if (!read_dc(blocks[i].dc, in, &difference) || !walk_ac(blocks[i].ac, in))
            return 0;
        *blocks[i].prediction += difference;
    }
    return 1;
}

/* Whether what was consumed lies in the interval. */
INLINE int is_inside(const Job *job, const Bits *in)
{
    return 8 * (in->next - job->bytes) - (ptrdiff_t)in->left <= 8 * (ptrdiff_t)job->size;
}

/* The samples of all wanted units. 0 where the scan is damaged as far down as it is needed, or is cut off. */
INLINE int read_scan_data(Job *job, Transform *transform)
{
    Block blocks[MOST_IN_UNIT];
    int predictions[COMPONENTS] = {0}, restart = 0, units_left = job->interval;
    const int n = list_blocks(job, predictions, blocks);
    if (n == 0 || !next_interval(job))
        return 0;
    Bits in = {.next = job->bytes};
    for (ptrdiff_t y = 0; y < job->bottom; y++) {
        mark_wanted(job, y);
        for (ptrdiff_t x = 0; x < job->units; x++) {
            if (job->interval != 0 && units_left-- == 0) {
                if (job->marker != FIRST_RESTART + (restart++ & 7) || !next_interval(job))
                    return 0;
                in = (Bits){.next = job->bytes};
                memset(predictions, 0, sizeof predictions);
                units_left = job->interval - 1;
            }
            const int is_unit = job->is_wanted[x] ? read_unit(blocks, n, &in, x - job->left, y - job->top, transform)
                                                  : walk_unit(blocks, n, &in);
            if (!is_unit || !is_inside(job, &in))
                return 0;
        }
        for (int i = 0; i < job->components; i++)
            if (predictions[i] > MOST_PREDICTED || predictions[i] < -MOST_PREDICTED)
                return 0;
    }
    return ends_well(job, restart);
}

/* Where a sample of the picture is kept, and those to its right. */
static const uint8_t *sample_at(const Job *job, const Component *component, ptrdiff_t x, ptrdiff_t y)
{
    const ptrdiff_t left = SIDE * component->across * job->left, top = SIDE * component->down * job->top;
    return component->samples + (y - top) * component->stride + (x - left);
}

/* Row y of chroma, x0 <= x < x1, one sample a pixel. sums and out have room for a row of the picture, and some more.
   Returns where x0 is. */
INLINE const uint8_t *chroma_row(const Job *job, const Component *component, ptrdiff_t x0, ptrdiff_t x1, ptrdiff_t y,
                                 uint16_t *sums, uint8_t *out)
{
    const ptrdiff_t own = y >> job->halved_y;
    const ptrdiff_t other = job->halved_y ? least(most(own + (y & 1 ? 1 : -1), 0), component->height - 1) : own;
    if (!job->halved_x) {
        const ChromaRows rows = {sample_at(job, component, x0, own), sample_at(job, component, x0, other)};
        if (!job->halved_y)
            return rows.near;
        blend_rows(&rows, x1 - x0, y & 1 ? 2 : 1, out);
        return out;
    }
    const ptrdiff_t from = x0 >> 1, n = ((x1 - 1) >> 1) + 1 - from;
    if (job->replicated) {
        double_columns(sample_at(job, component, from, own), n, out);
        return out + (x0 & 1);
    }
    const ptrdiff_t first = most(from - 1, 0), end = least(from + n + 1, component->width);
    const ChromaRows rows = {sample_at(job, component, first, own), sample_at(job, component, first, other)};
    uint16_t *const own_sums = sums + 1, *const written = first == from ? own_sums : sums;
    if (job->halved_y)
        sum_rows(&rows, end - first, 1, written);
    else
        sum_rows(&rows, end - first, 0, written);
    if (first == from)
        own_sums[-1] = own_sums[0];
    if (end == from + n)
        own_sums[n] = own_sums[n - 1];
    if (job->halved_y)
        blend_columns(own_sums, n, 8, 7, 4, out);
    else
        blend_columns(own_sums, n, 1, 2, 2, out);
    return out + (x0 & 1);
}

typedef void ColourRow(const uint8_t *y, const uint8_t *blue, const uint8_t *red, ptrdiff_t n, uint8_t *bgr);

static void colour_row_portable(const uint8_t *y, const uint8_t *blue, const uint8_t *red, ptrdiff_t n, uint8_t *bgr)
{
    colour_row(y, blue, red, 0, n, bgr);
}

INLINE int write_pixels(const Job *job, ColourRow *colour, uint8_t *out)
{
    const size_t width = (size_t)job->width + 2 * MARGIN;
    uint16_t *const sums = malloc(width * (sizeof *sums + 2));
    if (sums == NULL)
        return 0;
    uint8_t *const rows = (uint8_t *)(sums + width);
    for (size_t i = 0; i < job->count; i++) {
        const Rectangle *const wanted = &job->rectangles[i];
        const ptrdiff_t x0 = wanted->x0, x1 = wanted->x1;
        for (ptrdiff_t y = wanted->y0; y < wanted->y1; y++, out += 3 * (x1 - x0)) {
            const uint8_t *const luma = sample_at(job, &job->component[0], x0, y);
            if (job->components == 1)
                grey_row(luma, x1 - x0, out);
            else
                colour(luma, chroma_row(job, &job->component[1], x0, x1, y, sums, rows),
                       chroma_row(job, &job->component[2], x0, x1, y, sums, rows + width), x1 - x0, out);
        }
    }
    free(sums);
    return 1;
}

static int run_portable(Job *job, uint8_t *out)
{
    return read_scan_data(job, transform_portable) && write_pixels(job, colour_row_portable, out);
}

#if HAVE_AVX2
AVX2 static int run_avx2(Job *job, uint8_t *out)
{
    return read_scan_data(job, transform_avx2) && write_pixels(job, colour_row_avx2, out);
}
#endif

static int are_inside(const Job *job)
{
    for (size_t i = 0; i < job->count; i++) {
        const Rectangle *const one = &job->rectangles[i];
        if (one->x0 < 0 || one->y0 < 0 || one->x0 >= one->x1 || one->y0 >= one->y1 || one->x1 > job->width ||
            one->y1 > job->height)
            return 0;
    }
    return job->count > 0;
}

int jpeg_rectangles(const uint8_t *data, size_t size, const Rectangle *rectangles, size_t count, int as_stored,
                    int level, uint8_t *out)
{
    Job job = {.data = data, .end = data + size, .rectangles = rectangles, .count = count, .adobe = NO_MARKER};
    if (!read_header(&job, as_stored) || !are_inside(&job))
        return 0;
    int is_done = allocate(&job);
#if HAVE_AVX2
    if (is_done)
        is_done = level >= LEVEL_AVX2 ? run_avx2(&job, out) : run_portable(&job, out);
#else
    (void)level;
    is_done = is_done && run_portable(&job, out);
#endif
    free(job.memory);
    free(job.codes);
    return is_done;
}
