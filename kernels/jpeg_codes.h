/* Huffman codes of a baseline JPEG: bits, tables to look them up in, and the coefficients of a block, read or walked
   over. */

#ifndef JPEG_CODES_H
#define JPEG_CODES_H

#include "machine.h"

enum {
    COEFFICIENTS = 64,
    LOOKUP = 12, /* bits that a table is entered with */
    LONGEST_CODE = 16,
    LONGEST_VALUE = 11, /* bits; 8-bit samples need no more */
    SYMBOLS = 256,
    BLOCK_BYTES = 256, /* no block takes as many */
    MOST_DEQUANTISED = 4095,
};

/* Bits that are not consumed yet, the next one on top. */
typedef struct {
    uint64_t bits;
    unsigned left; /* of them, those that were counted; more may stand below */
    const uint8_t *next;
} Bits;

/* How a code is looked up by the LOOKUP bits that come next. An entry of `values` has
     0-7    bits: of the code, and of the value where the entry has it
     8-14   places that it goes on in the block: zeros and the value; END for the end of the block
     15     whether the value is still to be read, and 16-31 says in how many bits
     16-31  the value otherwise, 0 for a run of zeros and for the end of the block
   and is 0 where the code is longer, or none. An entry of `steps` is for all codes, with their values, that lie whole
   in those bits, but ends with a block: 0-7    bits 8-15   places that they go on in the block; ENDED more where its
   end is the last of them, which counts as a place and is 0 where `values` has 0. */
typedef struct {
    uint32_t values[1 << LOOKUP];
    uint16_t steps[1 << LOOKUP];
    uint32_t limit[LONGEST_CODE + 1]; /* first code of 16 bits that is longer than so many */
    int32_t offset[LONGEST_CODE + 1]; /* from a code of so many bits to its symbol's index */
    uint8_t symbols[SYMBOLS];
} Code;

enum { END = COEFFICIENTS, ENDED = 128, TO_READ = 1 << 15 };

/* Place in a block, row by row, of the coefficient that comes k-th. */
static const uint8_t natural_order[COEFFICIENTS] = {0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,
                                                    12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6,  7,  14, 21, 28,
                                                    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
                                                    58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63};

INLINE uint64_t load_big_64(const uint8_t *bytes)
{
    uint64_t value = 0;
    for (int i = 0; i < 8; i++)
        value = value << 8 | bytes[i];
    return value;
}

/* At least 56 bits, of which those after the data are what stands behind it; reads 8 bytes from `next` on. */
INLINE void refill(Bits *in)
{
    in->bits |= load_big_64(in->next) >> in->left;
    in->next += (63 - in->left) >> 3;
    in->left |= 56;
}

INLINE uint32_t peek(const Bits *in, unsigned n)
{
    return (uint32_t)(in->bits >> (64 - n));
}

INLINE void take(Bits *in, unsigned n)
{
    in->bits <<= n;
    in->left -= n;
}

/* A value from its bits: those that begin with 0 are negative. n at least 1. */
INLINE int signed_value(uint32_t bits, unsigned n)
{
    return bits >> (n - 1) ? (int)bits : (int)bits - (1 << n) + 1;
}

/* What `values` has for a symbol, without its value's bits; 0 if a baseline JPEG has none such. */
INLINE uint32_t entry_of(unsigned symbol, unsigned length, int is_dc)
{
    const unsigned run = symbol >> 4, size = symbol & 15;
    if (size > LONGEST_VALUE || (is_dc && run != 0))
        return 0;
    if (size != 0)
        return length | (run + 1) << 8 | TO_READ | size << 16;
    if (is_dc || run == 15)
        return length | (run + 1) << 8;
    return run == 0 ? length | END << 8 : 0;
}

/* The entry for the code that comes next, of whatever length; needs as many bits as the longest code has. */
INLINE uint32_t find_entry(const Code *code, const Bits *in, int is_dc)
{
    const uint32_t entry = code->values[peek(in, LOOKUP)];
    if (entry != 0)
        return entry;
    const uint32_t bits = peek(in, LONGEST_CODE);
    if (bits < code->limit[LOOKUP])
        return 0;
    for (unsigned length = LOOKUP + 1; length <= LONGEST_CODE; length++)
        if (bits < code->limit[length])
            return entry_of(code->symbols[(int32_t)(bits >> (LONGEST_CODE - length)) + code->offset[length]], length,
                            is_dc);
    return 0;
}

/* Entries that hold values, and for AC coefficients steps. */
static void complete(Code *code, int is_dc)
{
    for (uint32_t i = 0; i < 1 << LOOKUP; i++) {
        const uint32_t entry = code->values[i], length = entry & 255, size = entry >> 16;
        if (entry & TO_READ && length + size <= LOOKUP) {
            const uint32_t bits = i >> (LOOKUP - length - size) & ((1U << size) - 1);
            code->values[i] = (length + size) | (entry & 0x7f00) | (uint32_t)(uint16_t)signed_value(bits, size) << 16;
        }
    }
    for (uint32_t i = 0; !is_dc && i < 1 << LOOKUP; i++) {
        uint32_t entry = code->values[i], bits = entry & 255, places = entry >> 8 & 127;
        if (entry & TO_READ)
            bits += entry >> 16;
        while (entry != 0 && places < END) {
            entry = bits < LOOKUP ? code->values[i << bits & ((1 << LOOKUP) - 1)] : TO_READ;
            const uint32_t more = entry & 255, further = entry >> 8 & 127;
            if (entry & TO_READ || bits + more > LOOKUP || (further < END && places + further >= END))
                break;
            bits += more;
            places += further;
        }
        if (places >= END)
            places += ENDED + 1 - END;
        code->steps[i] = (uint16_t)(places << 8 | bits);
    }
}

/* Makes the table of `counts` codes of 1 to 16 bits and their symbols. 0 if they are no code: none is all ones. */
static int make_code(Code *code, const uint8_t *counts, const uint8_t *symbols, int is_dc)
{
    uint32_t next = 0; /* code, in 16 bits */
    int32_t index = 0;
    memset(code->values, 0, sizeof code->values);
    for (unsigned length = 1; length <= LONGEST_CODE; length++) {
        const uint32_t apart = 1U << (LONGEST_CODE - length);
        code->offset[length] = index - (int32_t)(next / apart);
        for (int i = 0; i < counts[length - 1]; i++, index++, next += apart) {
            if (next >= (1 << LONGEST_CODE) - apart || index >= SYMBOLS)
                return 0;
            const uint32_t entry = entry_of(symbols[index], length, is_dc);
            if (entry == 0 && is_dc)
                return 0;
            code->symbols[index] = symbols[index];
            for (uint32_t k = 0; length <= LOOKUP && k < 1U << (LOOKUP - length); k++)
                code->values[(next >> (LONGEST_CODE - LOOKUP)) + k] = entry;
        }
        code->limit[length] = next;
    }
    complete(code, is_dc);
    return 1;
}

/* The difference of a DC coefficient to the one before. 0 if there is no such code. */
INLINE int read_dc(const Code *code, Bits *in, int *difference)
{
    refill(in);
    const uint32_t entry = find_entry(code, in, 1), size = entry >> 16;
    take(in, entry & 63);
    *difference = (int32_t)entry >> 16;
    if (entry & TO_READ) {
        *difference = signed_value(peek(in, size), size);
        take(in, size);
    }
    return entry != 0;
}

/* The AC coefficients of a block, times their factors, into places that hold 0. `wide` gets bits that no sum of such a
   product and MOST_DEQUANTISED + 1 has unless the product is larger than that. Returns how many places there are to the
   last one, 1 if none; 0 for what is no block. */
INLINE int read_ac(const Code *code, Bits *in, const uint16_t *factors, int16_t *block, uint32_t *wide)
{
    unsigned k = 1;
    while (k < COEFFICIENTS) {
        refill(in);
        const uint32_t entry = find_entry(code, in, 0), size = entry >> 16;
        if (entry == 0)
            return 0;
        take(in, entry & 63);
        const unsigned places = entry >> 8 & 127;
        if (places == END)
            return (int)k;
        k += places;
        if (k > COEFFICIENTS)
            return 0;
        int value = (int32_t)entry >> 16;
        if (entry & TO_READ) {
            value = signed_value(peek(in, size), size);
            take(in, size);
        }
        value *= factors[k - 1];
        *wide |= (uint32_t)(value + MOST_DEQUANTISED + 1);
        block[natural_order[k - 1]] = (int16_t)value;
    }
    return COEFFICIENTS;
}

/* One code and its value; the place after it, as `steps` has it, or 0 for what is no block. */
INLINE unsigned walk_one(const Code *code, Bits *in, unsigned k)
{
    refill(in);
    const uint32_t entry = find_entry(code, in, 0);
    if (entry == 0)
        return 0;
    take(in, entry & 63);
    if (entry & TO_READ)
        take(in, entry >> 16);
    const unsigned places = entry >> 8 & 127;
    if (places == END)
        return COEFFICIENTS + ENDED;
    return k + places <= COEFFICIENTS ? k + places : 0;
}

/* Passes over the AC coefficients of a block. 0 for what is no block. */
INLINE int walk_ac(const Code *code, Bits *in)
{
    unsigned k = 1;
    do {
        refill(in);
        uint32_t step = code->steps[peek(in, LOOKUP)];
        unsigned next = k + (step >> 8);
        if (step != 0 && next < COEFFICIENTS) { /* what was refilled is enough for two */
            take(in, step & 31);
            k = next;
            step = code->steps[peek(in, LOOKUP)];
            next = k + (step >> 8);
        }
        if (step != 0 && (next <= COEFFICIENTS || (next > ENDED && next <= ENDED + COEFFICIENTS))) {
            take(in, step & 31);
            k = next;
        } else {
            k = walk_one(code, in, k); /* long, or its last codes are of the next block */
        }
    } while (k - 1 < COEFFICIENTS - 1);
    return k != 0;
}

#endif
