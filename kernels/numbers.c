/* Long lists of numbers in the code of a pickle: numbers.h has what is done. */

#include "numbers.h"

#include <string.h>

enum {
    MIN_NUMBERS = 16,
    MIN_POINTS = 4,
    BATCH = 1000, /* picklers append so many items at a time */
    FLOAT = 9,    /* bytes of a BINFLOAT */
};

double numbers_double(const uint8_t *at)
{
    /* Written out, compilers make one load and one swap of it. */
    const uint64_t bits = (uint64_t)at[0] << 56 | (uint64_t)at[1] << 48 | (uint64_t)at[2] << 40 |
                          (uint64_t)at[3] << 32 | (uint64_t)at[4] << 24 | (uint64_t)at[5] << 16 | (uint64_t)at[6] << 8 |
                          (uint64_t)at[7];
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static int is_at(const uint8_t *code, size_t size, size_t at, uint8_t op)
{
    return at < size && code[at] == op;
}

/* Whether a list's items are appended there, and were all. */
static int ends(const uint8_t *code, size_t size, size_t at)
{
    return is_at(code, size, at, 'e') && !is_at(code, size, at + 1, '(');
}

static NumbersKind find_points(const uint8_t *code, size_t size, size_t start, Numbers *found)
{
    const size_t first = found->memoized ? 3 : 2, unit = first + 2 * FLOAT + 1;
    size_t end = start;
    while (is_at(code, size, end, ']')) {
        const uint8_t *const at = code + end;
        if (size - end < unit || (found->memoized && at[1] != 0x94) || at[first - 1] != '(' || at[first] != 'G' ||
            at[first + FLOAT] != 'G' || at[unit - 1] != 'e')
            return NO_NUMBERS;
        end += unit;
    }
    const size_t count = (end - start) / unit;
    if (count < MIN_POINTS || !ends(code, size, end))
        return NO_NUMBERS;
    found->code = code + start + first;
    found->count = found->inner = count;
    found->unit = unit;
    found->end = end + 1;
    return POINTS;
}

static NumbersKind find_floats(const uint8_t *code, size_t size, size_t start, Numbers *found)
{
    size_t end = start;
    while (is_at(code, size, end, 'G'))
        end += FLOAT;
    const size_t count = (end - start) / FLOAT;
    if (count < MIN_NUMBERS || !ends(code, size, end))
        return NO_NUMBERS;
    found->code = code + start;
    found->count = count;
    found->unit = FLOAT;
    found->end = end + 1;
    return FLOATS;
}

/* Whether a small integer stands there that is appended on its own, as the one left over by full batches is. */
static int is_single(const uint8_t *code, size_t size, size_t at)
{
    return is_at(code, size, at, 'K') && is_at(code, size, at + 2, 'a');
}

static NumbersKind find_small_ints(const uint8_t *code, size_t size, size_t start, Numbers *found)
{
    size_t end = start, total = 0, count = BATCH;
    while (count == BATCH && is_at(code, size, end, '(')) {
        for (count = 0; count < BATCH && is_at(code, size, end + 1 + 2 * count, 'K'); count++)
            ;
        const size_t stop = end + 1 + 2 * count;
        if (count == 0 || !is_at(code, size, stop, 'e'))
            return OTHER_NUMBERS;
        total += count;
        end = stop + 1;
    }
    if (count == BATCH && is_single(code, size, end)) {
        total++;
        end += 3;
    }
    if (end - start < 2 * MIN_NUMBERS + 2 || is_at(code, size, end, '(') || is_single(code, size, end))
        return OTHER_NUMBERS;
    found->code = code + start;
    found->count = total;
    found->unit = 2;
    found->end = end;
    return SMALL_INTS;
}

static int is_integer(const uint8_t *code, size_t size, size_t at)
{
    return is_at(code, size, at, 'K') || is_at(code, size, at, 'M') || is_at(code, size, at, 'J');
}

NumbersKind numbers_find(const uint8_t *code, size_t size, Numbers *found)
{
    size_t at = 0;
    int numbered = 0;
    if (size == 0)
        return OTHER_NUMBERS;
    *found = (Numbers){.memoized = code[0] == 0x94};
    if (code[0] == 0x94) {
        at = 1;
    } else if (code[0] == 'q' || code[0] == 'r') {
        at = code[0] == 'q' ? 2 : 5;
        numbered = 1;
    }
    if (at + 12 > size || code[at] != '(')
        return NO_NUMBERS;
    const uint8_t kind = code[at + 1];
    if (numbered)
        return kind == ']' || is_integer(code, size, at + 1) ? OTHER_NUMBERS : NO_NUMBERS;
    if (kind == 'G')
        return found->kind = find_floats(code, size, at + 1, found);
    if (kind == 'K')
        return found->kind = find_small_ints(code, size, at, found);
    if (kind == ']' && is_integer(code, size, at + (found->memoized ? 4 : 3)))
        return OTHER_NUMBERS;
    if (kind == ']')
        return found->kind = find_points(code, size, at + 1, found);
    return is_integer(code, size, at + 1) ? OTHER_NUMBERS : NO_NUMBERS;
}

/* The i-th double of an item. */
static double number(const Numbers *found, size_t item, size_t i)
{
    return numbers_double(found->code + item * found->unit + i * FLOAT + 1);
}

static int write_float(double value, uint8_t *out)
{
    const float narrow = (float)value;
    memcpy(out, &narrow, sizeof narrow);
    return (double)narrow == value;
}

int numbers_write_floats(const Numbers *found, uint8_t *out)
{
    for (size_t k = 0; k < found->count; k++) {
        int exact = write_float(number(found, k, 0), out);
        out += sizeof(float);
        if (found->kind == POINTS) {
            exact &= write_float(number(found, k, 1), out);
            out += sizeof(float);
        }
        if (!exact)
            return 0;
    }
    return 1;
}

void numbers_write_doubles(const Numbers *found, uint8_t *out)
{
    const size_t doubles = found->kind == POINTS ? 2 : 1;
    for (size_t k = 0; k < found->count; k++)
        for (size_t i = 0; i < doubles; i++) {
            const double value = number(found, k, i);
            memcpy(out, &value, sizeof value);
            out += sizeof value;
        }
}

void numbers_write_bytes(const Numbers *found, uint8_t *out)
{
    const uint8_t *code = found->code;
    for (size_t k = 0; k < found->count; k++) {
        if (k % BATCH == 0 && *code == '(') /* else the one behind full batches */
            code++;
        *out++ = code[1];
        code += 2;
        if (k % BATCH == BATCH - 1)
            code++;
    }
}
