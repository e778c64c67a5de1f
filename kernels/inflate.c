#include "inflate.h"
#include "machine.h"

enum {
    LITLEN_CODES = 288,
    DISTANCE_CODES = 32,
    LENGTH_CODES = 19, /* of the lengths of the other codes */
    END_OF_BLOCK = 256,
    LONGEST = 15,
    LENGTH_ROOT = 7,
    MARGIN = 32, /* bytes of a piece that must be left where it is read eight at a time */
    FILLED = 48  /* bits that the longest symbol takes: a length and a distance, each with its extra bits */
};

/* An entry of a table. Its lowest six bits say how many bits of the stream it takes; it is a literal, or a length or a
   distance, whose extra bits come after its code, or special. */
enum {
    BITS = 63,
    LITERAL = 1 << 6,
    OTHER = 1 << 7,
    CODE_SHIFT = 8, /* bits of the code alone */
    SPECIAL = 1 << 14,
    VALUE_SHIFT = 16 /* the literal, least length or distance; if special, where longer codes begin, or one of these: */
};
enum { INVALID, END };

/* An entry of joined codes is one of the above with OTHER, or literals in a row, or a run of the byte before. */
enum {
    RUN_SHIFT = 6,
    SIZE_SHIFT = 8, /* bytes that it stands for */
    LITERALS_SHIFT = 24,
    LAST_SHIFT = 56, /* the last of the literals once more */
    MOST_LITERALS = 4,
    LONGEST_RUN = 16
};

typedef enum { OF_LITLENS, OF_DISTANCES, OF_LENGTHS } Kind;

static const uint16_t length_base[29] = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                         31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
static const uint8_t length_extra[29] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2,
                                         2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
static const uint16_t distance_base[30] = {1,    2,    3,    4,    5,    7,    9,    13,    17,    25,
                                           33,   49,   65,   97,   129,  193,  257,  385,   513,   769,
                                           1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};

static uint32_t entry_of(Kind kind, unsigned symbol, unsigned length)
{
    if (kind == OF_LENGTHS)
        return symbol << VALUE_SHIFT | length;
    if (kind == OF_DISTANCES) {
        const unsigned extra = symbol < 4 ? 0 : symbol / 2 - 1;
        return symbol < 30 ? (uint32_t)distance_base[symbol] << VALUE_SHIFT | length << CODE_SHIFT | (length + extra)
                           : (uint32_t)(INVALID << VALUE_SHIFT | SPECIAL) | length;
    }
    if (symbol < END_OF_BLOCK)
        return symbol << VALUE_SHIFT | LITERAL | length;
    if (symbol == END_OF_BLOCK)
        return (uint32_t)(END << VALUE_SHIFT | SPECIAL) | length;
    symbol -= END_OF_BLOCK + 1;
    return symbol < 29
               ? (uint32_t)length_base[symbol] << VALUE_SHIFT | length << CODE_SHIFT | (length + length_extra[symbol])
               : (uint32_t)(INVALID << VALUE_SHIFT | SPECIAL) | length;
}

/* The table of a canonical code: 1 << root entries, by the stream's next bits, and 1 << (LONGEST - root) for each
   beginning that longer codes share. Returns 0 for lengths that zlib refuses: more codes than fit, or fewer than would
   be a whole set, but for one code of a bit, or none, which may stay unused. */
static int make_table(const uint8_t *lengths, unsigned symbols, Kind kind, uint32_t *table, unsigned root)
{
    unsigned counts[LONGEST + 1] = {0}, starts[LONGEST + 2];
    uint16_t sorted[LITLEN_CODES];
    for (unsigned symbol = 0; symbol < symbols; symbol++)
        counts[lengths[symbol]]++;
    int left = 1;
    unsigned longest = 0;
    starts[1] = 0;
    for (unsigned length = 1; length <= LONGEST; length++) {
        left = 2 * left - (int)counts[length];
        if (left < 0)
            return 0;
        starts[length + 1] = starts[length] + counts[length];
        if (counts[length])
            longest = length;
    }
    const unsigned codes = starts[LONGEST + 1];
    if (left > 0 && (kind == OF_LENGTHS || longest > 1))
        return 0;
    if (left > 0)
        for (unsigned i = 0; i < 1u << root; i++)
            table[i] = (uint32_t)(INVALID << VALUE_SHIFT | SPECIAL) | 1;
    for (unsigned symbol = 0; symbol < symbols; symbol++)
        if (lengths[symbol])
            sorted[starts[lengths[symbol]]++] = (uint16_t)symbol;

    /* The part of the table that tells codes of `width` bits apart is doubled with each bit. */
    uint32_t *longer = table, *next = table + ((size_t)1 << root);
    unsigned code = 0, width = 0, beginning = 1u << root; /* code: its first bit is the lowest */
    for (unsigned i = 0; i < codes; i++) {
        const unsigned symbol = sorted[i], length = lengths[symbol];
        const uint32_t entry = entry_of(kind, symbol, length);
        for (; width < length && width < root; width++)
            if (i > 0)
                memcpy(table + ((size_t)1 << width), table, sizeof *table << width);
        if (length <= root) {
            table[code] = entry;
        } else {
            if ((code & ((1u << root) - 1)) != beginning) {
                beginning = code & ((1u << root) - 1);
                table[beginning] = (uint32_t)(next - table) << VALUE_SHIFT | SPECIAL;
                longer = next;
                next += (size_t)1 << (LONGEST - root);
            }
            for (unsigned at = code >> root; at < 1u << (LONGEST - root); at += 1u << (length - root))
                longer[at] = entry;
        }
        unsigned bit = 1u << (length - 1);
        while (code & bit)
            bit >>= 1;
        code = bit ? (code & (bit - 1)) | bit : 0;
    }
    if (left == 0)
        for (; width < root; width++)
            memcpy(table + ((size_t)1 << width), table, sizeof *table << width);
    else if (codes)
        for (unsigned i = 0; i < 1u << root; i += 2)
            table[i] = table[0];
    return 1;
}

INLINE unsigned value_of(uint32_t entry, uint64_t bits)
{
    return (entry >> VALUE_SHIFT) +
           (unsigned)((bits & (((uint64_t)1 << (entry & BITS)) - 1)) >> (entry >> CODE_SHIFT & BITS));
}

/* Joined codes pay where two literals often fit into an entry, or runs of the byte before are all the matches. */
static int is_worth_joining(const uint32_t *litlen, unsigned nearest_bits)
{
    unsigned few = 0;
    for (unsigned i = 0; i < 1u << LITLEN_ROOT; i++)
        few += (litlen[i] & (LITERAL | BITS)) <= (LITERAL | LITLEN_ROOT / 2) && litlen[i] & LITERAL;
    return nearest_bits == 1 || few > (1u << LITLEN_ROOT) / 2;
}

static void join_codes(Inflater *inflater)
{
    const uint32_t *const litlen = inflater->litlen;
    const uint32_t nearest =
        inflater->distance[0]; /* the code of distance 1, if there is one, is the first, all zeros */
    const unsigned nearest_bits = nearest >> VALUE_SHIFT == 1 && !(nearest & SPECIAL) ? nearest & BITS : LONGEST;
    inflater->are_joined = is_worth_joining(litlen, nearest_bits);
    if (!inflater->are_joined)
        return;
    for (unsigned i = 0; i < 1u << LITLEN_ROOT; i++) {
        uint32_t entry = litlen[i];
        unsigned used = entry & BITS;
        uint64_t joined = entry | OTHER;
        if (entry & LITERAL) {
            uint64_t literals = 0, last = 0;
            unsigned n = 0, taken = 0;
            do {
                last = entry >> VALUE_SHIFT;
                literals |= last << 8 * n++;
                taken = used;
                entry = litlen[i >> used];
                used += entry & BITS;
            } while (n < MOST_LITERALS && entry & LITERAL && used <= LITLEN_ROOT);
            joined = last << LAST_SHIFT | literals << LITERALS_SHIFT | n << SIZE_SHIFT | taken;
        } else if (!(entry & SPECIAL) && used + nearest_bits <= LITLEN_ROOT) {
            const unsigned length = value_of(entry, i);
            if (length <= LONGEST_RUN && (i >> used & ((1u << nearest_bits) - 1)) == 0)
                joined = length << SIZE_SHIFT | 1u << RUN_SHIFT | (used + nearest_bits);
        }
        inflater->joined[i] = joined;
    }
}

/* Bits from eight bytes at `in`, 56 at least then. */
INLINE void refill(const uint8_t **in, uint64_t *bits, unsigned *count)
{
    *bits |= load_64(*in) << *count;
    *in += (63 - *count) >> 3;
    *count |= 56;
}

/* Whether there are so many bits; the stream is starved where there are not. */
static int has(Inflater *inflater, unsigned wanted)
{
    inflater->is_starved = wanted > inflater->count;
    return !inflater->is_starved;
}

/* Returns whether there are so many bits, 56 at most; if not, all that the stream has left. */
static int fill(Inflater *inflater, unsigned wanted)
{
    while (inflater->count < wanted) {
        if (inflater->in_end - inflater->in >= 8) {
            refill(&inflater->in, &inflater->bits, &inflater->count);
            break;
        }
        if (inflater->in == inflater->in_end) {
            size_t size;
            const uint8_t *const piece = inflater->pieces->next(inflater->pieces, &size);
            if (piece == NULL)
                return has(inflater, wanted);
            inflater->in = piece;
            inflater->in_end = piece + size;
        }
        inflater->bits |= (uint64_t)*inflater->in++ << inflater->count;
        inflater->count += 8;
    }
    return 1;
}

static unsigned take(Inflater *inflater, unsigned n)
{
    const unsigned value = (unsigned)(inflater->bits & ((1u << n) - 1));
    inflater->bits >>= n;
    inflater->count -= n;
    return value;
}

static int make_fixed_codes(Inflater *inflater)
{
    uint8_t lengths[LITLEN_CODES];
    for (unsigned symbol = 0; symbol < LITLEN_CODES; symbol++)
        lengths[symbol] = symbol < 144 ? 8 : symbol < 256 ? 9 : symbol < 280 ? 7 : 8;
    if (!make_table(lengths, LITLEN_CODES, OF_LITLENS, inflater->litlen, LITLEN_ROOT))
        return 0;
    memset(lengths, 5, DISTANCE_CODES);
    if (!make_table(lengths, DISTANCE_CODES, OF_DISTANCES, inflater->distance, DISTANCE_ROOT))
        return 0;
    join_codes(inflater);
    return 1;
}

static int read_codes(Inflater *inflater)
{
    static const uint8_t order[LENGTH_CODES] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    uint8_t lengths[LITLEN_CODES + DISTANCE_CODES] = {0};
    uint32_t table[1 << LENGTH_ROOT];
    if (!fill(inflater, 14))
        return 0;
    const unsigned litlens = take(inflater, 5) + 257, distances = take(inflater, 5) + 1, given = take(inflater, 4) + 4;
    if (litlens > 286 || distances > 30)
        return 0;
    for (unsigned i = 0; i < given; i++) {
        if (!fill(inflater, 3))
            return 0;
        lengths[order[i]] = (uint8_t)take(inflater, 3);
    }
    if (!make_table(lengths, LENGTH_CODES, OF_LENGTHS, table, LENGTH_ROOT))
        return 0;
    memset(lengths, 0, LENGTH_CODES);
    for (unsigned i = 0; i < litlens + distances;) {
        fill(inflater, 14);
        const uint32_t entry = table[inflater->bits & ((1u << LENGTH_ROOT) - 1)];
        const unsigned symbol = entry >> VALUE_SHIFT, extra = symbol < 16 ? 0 : symbol < 18 ? symbol - 14 : 7;
        if (!has(inflater, (entry & BITS) + extra))
            return 0;
        take(inflater, entry & BITS);
        if (symbol < 16) {
            lengths[i++] = (uint8_t)symbol;
            continue;
        }
        const unsigned times = take(inflater, extra) + (symbol == 18 ? 11 : 3);
        if (times > litlens + distances - i || (symbol == 16 && i == 0))
            return 0;
        memset(lengths + i, symbol == 16 ? lengths[i - 1] : 0, times);
        i += times;
    }
    if (lengths[END_OF_BLOCK] == 0 || !make_table(lengths, litlens, OF_LITLENS, inflater->litlen, LITLEN_ROOT) ||
        !make_table(lengths + litlens, distances, OF_DISTANCES, inflater->distance, DISTANCE_ROOT))
        return 0;
    join_codes(inflater);
    return 1;
}

static int read_header(Inflater *inflater)
{
    if (!fill(inflater, 3))
        return 0;
    inflater->is_last = (int)take(inflater, 1);
    switch (take(inflater, 2)) {
    case 0:
        take(inflater, inflater->count & 7);
        if (!fill(inflater, 32))
            return 0;
        inflater->stored = take(inflater, 16);
        inflater->block = STORED_BLOCK;
        return take(inflater, 16) == (inflater->stored ^ 0xffff);
    case 1:
        inflater->block = CODED_BLOCK;
        if (inflater->are_fixed)
            return 1;
        inflater->are_fixed = 1;
        return make_fixed_codes(inflater);
    case 2:
        inflater->block = CODED_BLOCK;
        inflater->are_fixed = 0;
        return read_codes(inflater);
    default:
        return 0;
    }
}

/* Bytes that lie in the bits already, then those of pieces. Returns 0 if the stream ends before the block does. */
static int copy_stored(Inflater *inflater, uint8_t **to, const uint8_t *stop)
{
    while (inflater->stored > 0 && *to < stop) {
        if (inflater->count > 0 || inflater->in == inflater->in_end) {
            if (!fill(inflater, 8))
                return 0;
            *(*to)++ = (uint8_t)take(inflater, 8);
            inflater->stored--;
            continue;
        }
        size_t size = (size_t)(stop - *to);
        if (size > inflater->stored)
            size = inflater->stored;
        if (size > (size_t)(inflater->in_end - inflater->in))
            size = (size_t)(inflater->in_end - inflater->in);
        inflater->bits = 0;
        memcpy(*to, inflater->in, size);
        *to += size;
        inflater->in += size;
        inflater->stored -= size;
    }
    return 1;
}

/* Writes up to 31 bytes past the match, which is 258 bytes long at most. */
INLINE uint8_t *copy_match(uint8_t *to, size_t distance, size_t length)
{
    static const uint8_t steps[8] = {8, 8, 8, 6, 8, 5, 6, 7}; /* whole repeats in eight bytes */
    const uint8_t *from = to - distance;
    uint8_t *const end = to + length;
    if (distance >= 16) {
        do {
            memcpy(to, from, 16);
            memcpy(to + 16, from + 16, 16);
            to += 32;
            from += 32;
        } while (to < end);
        return end;
    }
    if (distance >= 8) {
        do {
            memcpy(to, from, 8);
            memcpy(to + 8, from + 8, 8);
            to += 16;
            from += 16;
        } while (to < end);
        return end;
    }
    uint64_t repeat = 0;
    for (size_t i = 0; i < distance; i++)
        repeat |= (uint64_t)from[i] << 8 * i;
    for (size_t known = distance; known < 8; known *= 2)
        repeat |= repeat << 8 * known;
    const size_t step = steps[distance];
    do {
        store_64(to, repeat);
        store_64(to + step, repeat);
        to += 2 * step;
    } while (to < end);
    return end;
}

INLINE uint64_t eightfold(uint64_t byte)
{
    return byte * 0x0101010101010101;
}

/* Writes 16 bytes, of which so many count as the entry says. `before`: the byte before, eight times. */
INLINE void put(uint8_t **out, uint64_t entry, uint64_t *before)
{
    const uint64_t kept = *before & (0 - (entry >> RUN_SHIFT & 1)); /* no branch, which would often be mispredicted */
    store_64(*out, kept | entry >> LITERALS_SHIFT);
    store_64(*out + 8, kept);
    *before = kept | eightfold(entry >> LAST_SHIFT);
    *out += entry >> SIZE_SHIFT & 0xff;
}

#define TAKE(entry) (bits >>= (entry) & BITS, count -= (unsigned)(entry) & BITS)
#define NEXT() (are_joined ? joined[bits & root] : litlen[bits & root])
#define ARE_BYTES(entry) (are_joined ? !((entry) & OTHER) : ((entry) & LITERAL) != 0)
#define PUT(entry) (are_joined ? put(&out, entry, &before) : (void)(*out++ = (uint8_t)((entry) >> VALUE_SHIFT)))

/* As inflate(), within a block and a piece, as long as MARGIN bytes of that are left. A byte must have been written. */
INLINE Inflated inflate_fast(Inflater *inflater, const uint8_t *begin, uint8_t **to, const uint8_t *stop,
                             int are_joined)
{
    const uint64_t *const joined = inflater->joined;
    const uint32_t *const litlen = inflater->litlen, *const distances = inflater->distance;
    const uint64_t root = (1u << LITLEN_ROOT) - 1, longer = (1u << (LONGEST - LITLEN_ROOT)) - 1;
    const uint64_t distance_root = (1u << DISTANCE_ROOT) - 1, distance_longer = (1u << (LONGEST - DISTANCE_ROOT)) - 1;
    const uint8_t *in = inflater->in, *const in_stop = inflater->in_end - MARGIN;
    uint64_t bits = inflater->bits;
    unsigned count = inflater->count;
    uint8_t *out = *to;
    uint64_t before = eightfold(out[-1]);
    Inflated result = INFLATE_FULL;
    refill(&in, &bits, &count);
    uint64_t entry = NEXT();
    do { /* with 56 bits: a match takes up to FILLED of them, and those that four entries leave tell the next one */
        if (ARE_BYTES(entry)) {
            PUT(entry);
            TAKE(entry);
            entry = NEXT();
            if (ARE_BYTES(entry)) {
                PUT(entry);
                TAKE(entry);
                entry = NEXT();
                if (ARE_BYTES(entry)) {
                    PUT(entry);
                    TAKE(entry);
                    entry = NEXT();
                    if (ARE_BYTES(entry)) {
                        PUT(entry);
                        TAKE(entry);
                        entry = NEXT();
                        refill(&in, &bits, &count);
                        continue;
                    }
                }
            }
            refill(&in, &bits, &count);
        }
        uint32_t symbol = (uint32_t)entry;
        if (symbol & SPECIAL) {
            if (symbol >> VALUE_SHIFT > END) {
                symbol = litlen[(symbol >> VALUE_SHIFT) + (bits >> LITLEN_ROOT & longer)];
                if (symbol & LITERAL) {
                    *out++ = (uint8_t)(symbol >> VALUE_SHIFT);
                    before = eightfold(symbol >> VALUE_SHIFT);
                    TAKE(symbol);
                    refill(&in, &bits, &count);
                    entry = NEXT();
                    continue;
                }
            }
            if (symbol & SPECIAL) {
                TAKE(symbol);
                inflater->block = NO_BLOCK;
                result = symbol >> VALUE_SHIFT == END ? INFLATE_ENDED : INFLATE_DAMAGED;
                break;
            }
        }
        const unsigned length = value_of(symbol, bits);
        TAKE(symbol);
        symbol = distances[bits & distance_root];
        if (symbol & SPECIAL) {
            if (symbol >> VALUE_SHIFT > END)
                symbol = distances[(symbol >> VALUE_SHIFT) + (bits >> DISTANCE_ROOT & distance_longer)];
            if (symbol & SPECIAL) {
                result = INFLATE_DAMAGED;
                break;
            }
        }
        const size_t distance = value_of(symbol, bits);
        TAKE(symbol);
        if (distance > (size_t)(out - begin)) {
            result = INFLATE_DAMAGED;
            break;
        }
        refill(&in, &bits, &count);
        entry = NEXT();
        out = copy_match(out, distance, length);
        before = eightfold(out[-1]);
    } while (in <= in_stop && out < stop);
    inflater->in = in;
    inflater->bits = bits;
    inflater->count = count;
    *to = out;
    return result;
}

/* A symbol of a block, where a piece, or the stream, begins or ends. */
static Inflated inflate_step(Inflater *inflater, const uint8_t *begin, uint8_t **to)
{
    fill(inflater, FILLED);
    uint64_t bits = inflater->bits;
    uint32_t symbol = inflater->litlen[bits & ((1u << LITLEN_ROOT) - 1)];
    if (symbol & SPECIAL && symbol >> VALUE_SHIFT > END)
        symbol =
            inflater->litlen[(symbol >> VALUE_SHIFT) + (bits >> LITLEN_ROOT & ((1u << (LONGEST - LITLEN_ROOT)) - 1))];
    unsigned used = symbol & BITS;
    if (!has(inflater, used))
        return INFLATE_DAMAGED;
    Inflated result = INFLATE_FULL;
    if (symbol & LITERAL) {
        *(*to)++ = (uint8_t)(symbol >> VALUE_SHIFT);
    } else if (symbol & SPECIAL) {
        inflater->block = NO_BLOCK;
        result = symbol >> VALUE_SHIFT == END ? INFLATE_ENDED : INFLATE_DAMAGED;
    } else {
        const unsigned length = value_of(symbol, bits);
        bits >>= used;
        symbol = inflater->distance[bits & ((1u << DISTANCE_ROOT) - 1)];
        if (symbol & SPECIAL && symbol >> VALUE_SHIFT > END)
            symbol = inflater->distance[(symbol >> VALUE_SHIFT) +
                                        (bits >> DISTANCE_ROOT & ((1u << (LONGEST - DISTANCE_ROOT)) - 1))];
        used += symbol & BITS;
        const size_t distance = value_of(symbol, bits);
        if (!has(inflater, used) || symbol & SPECIAL || distance > (size_t)(*to - begin))
            return INFLATE_DAMAGED;
        *to = copy_match(*to, distance, length);
    }
    inflater->bits >>= used;
    inflater->count -= used;
    return result;
}

static Inflated fast_portable(Inflater *inflater, const uint8_t *begin, uint8_t **to, const uint8_t *stop)
{
    return inflater->are_joined ? inflate_fast(inflater, begin, to, stop, 1)
                                : inflate_fast(inflater, begin, to, stop, 0);
}

#if HAVE_AVX2
/* The same code: with BMI2 it shifts by a register, and masks, in one instruction. */
AVX2 static Inflated fast_avx2(Inflater *inflater, const uint8_t *begin, uint8_t **to, const uint8_t *stop)
{
    return inflater->are_joined ? inflate_fast(inflater, begin, to, stop, 1)
                                : inflate_fast(inflater, begin, to, stop, 0);
}
#endif

static Inflated inflate_block(Inflater *inflater, const uint8_t *begin, uint8_t **to, const uint8_t *stop)
{
    Inflated result = INFLATE_FULL;
    while (result == INFLATE_FULL && *to < stop) {
        if (inflater->in_end - inflater->in < MARGIN || *to == begin)
            result = inflate_step(inflater, begin, to);
#if HAVE_AVX2
        else if (inflater->level >= LEVEL_AVX2)
            result = fast_avx2(inflater, begin, to, stop);
#endif
        else
            result = fast_portable(inflater, begin, to, stop);
    }
    return result;
}

int inflate_begin(Inflater *inflater, Pieces *pieces, int level)
{
    inflater->pieces = pieces;
    inflater->in = inflater->in_end = NULL;
    inflater->bits = 0;
    inflater->count = 0;
    inflater->level = level;
    inflater->block = NO_BLOCK;
    inflater->is_last = inflater->are_fixed = inflater->is_starved = 0;
    if (!fill(inflater, 16))
        return 0;
    const unsigned method = take(inflater, 8), flags = take(inflater, 8);
    return (method & 15) == 8 && method >> 4 <= 7 && (method << 8 | flags) % 31 == 0 && !(flags & 0x20);
}

Inflated inflate(Inflater *inflater, const uint8_t *begin, uint8_t **to, const uint8_t *stop)
{
    while (*to < stop) {
        if (inflater->block == NO_BLOCK) {
            if (inflater->is_last)
                return INFLATE_ENDED;
            if (!read_header(inflater))
                return INFLATE_DAMAGED;
        }
        if (inflater->block == STORED_BLOCK) {
            if (!copy_stored(inflater, to, stop))
                return INFLATE_DAMAGED;
            if (inflater->stored == 0)
                inflater->block = NO_BLOCK;
        } else if (inflate_block(inflater, begin, to, stop) == INFLATE_DAMAGED) {
            return INFLATE_DAMAGED;
        }
    }
    return INFLATE_FULL;
}

int inflate_checksum(Inflater *inflater, uint32_t *adler)
{
    take(inflater, inflater->count & 7);
    if (!fill(inflater, 32))
        return 0;
    const uint32_t high = take(inflater, 8), middle = take(inflater, 8), low = take(inflater, 8);
    *adler = high << 24 | middle << 16 | low << 8 | take(inflater, 8);
    return 1;
}

int inflate_is_starved(const Inflater *inflater)
{
    return inflater->is_starved;
}

size_t inflate_left(const Inflater *inflater)
{
    return (size_t)(inflater->in_end - inflater->in) + inflater->count / 8;
}
