/* Long lists of numbers in the code of a pickle, recognised whole; alignments/pickles/number_lists.py is the truth. */

#ifndef GPU_EXTRACT_NUMBERS_H
#define GPU_EXTRACT_NUMBERS_H

#include <stddef.h>
#include <stdint.h>

typedef enum {
    NO_NUMBERS,    /* a list of anything else */
    OTHER_NUMBERS, /* perhaps a list of numbers of a form that is not known here */
    POINTS,        /* pairs of doubles */
    FLOATS,        /* doubles */
    SMALL_INTS,    /* integers of a byte */
} NumbersKind;

typedef struct {
    NumbersKind kind;
    const uint8_t *code; /* of its first item; of small integers, of the first MARK */
    size_t count, unit;  /* items, and bytes of an item's code */
    size_t end;          /* where the list ends, counted from where it was looked for */
    size_t inner;        /* entries of the memo behind its own */
    int memoized;
} Numbers;

/* The list whose EMPTY_LIST stands before `code`, if all of it lies in `size` bytes. */
NumbersKind numbers_find(const uint8_t *code, size_t size, Numbers *found);

/* Its doubles as floats; `out` need not be aligned. Returns whether they are exactly these; it wrote some if not.
 */
int numbers_write_floats(const Numbers *found, uint8_t *out);

/* Its doubles as they are. */
void numbers_write_doubles(const Numbers *found, uint8_t *out);

/* Its integers, of SMALL_INTS. */
void numbers_write_bytes(const Numbers *found, uint8_t *out);

/* The big-endian double at `at`. */
double numbers_double(const uint8_t *at);

#endif
