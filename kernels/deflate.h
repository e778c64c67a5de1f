/* Deflate (RFC 1951) for bytes that are mostly small differences: a Huffman code made for each block, and runs of one
   byte; no search for other repetitions. A block that would not become smaller is stored. */

#ifndef DEFLATE_H
#define DEFLATE_H

#include "machine.h"

enum {
    BLOCK = 0xffff,     /* bytes of a block at most: what a stored one can hold, and 16 bits can count */
    BLOCK_OVERHEAD = 6, /* bytes that a block takes beside its own at most */
    MIN_RUN = 5,        /* README.md has what others give */
    MAX_RUN = 258,
    END_OF_BLOCK = 256,
    FIRST_LENGTH = 257, /* symbol of the shortest run, 3 */
    SYMBOLS = 286,
    LENGTHS = SYMBOLS - FIRST_LENGTH,
    LONGEST_CODE = 14, /* four codes and 7 bits before them fit into 64; the format allows 15 */
    ITEMS = 19,        /* symbols of the code in which code lengths are written */
    LONGEST_ITEM_CODE = 7,
    REPEAT = 16,
    ZEROS = 17,
    MANY_ZEROS = 18, /* items that are not a length */
    SLACK = 8,       /* bytes after the output that may be written to */
    WORDS = BLOCK / 64 + 2,
    VECTOR_LITERALS = 128, /* that are worth the lookups of 64 at once */
    AT_ONCE = 4,           /* positions that add_positions writes, of which the last ones may be too many */
    RUNS = BLOCK / (MIN_RUN + 1) + AT_ONCE /* there is a byte between two */
};

enum { STORED = 0, DYNAMIC = 2 }; /* blocks */

/* A Huffman code. */
typedef struct {
    uint16_t bits[SYMBOLS];  /* as they are written, the first one lowest */
    uint8_t length[SYMBOLS]; /* 0 for symbols that do not occur */
} Codes;

/* Working memory; nothing of it outlives a block. */
typedef struct {
    uint64_t repeats[WORDS];           /* a bit for each byte that equals the one before it */
    uint16_t starts[RUNS], ends[RUNS]; /* of runs, without the byte that they repeat */
    uint16_t tables[8][256];
    uint32_t counts[SYMBOLS];
    Codes codes;
    uint8_t low[256], high[256]; /* the two halves of the literals' codes */
} Deflater;

typedef struct {
    uint8_t *out;
    uint64_t bits; /* not yet written, the first one lowest */
    unsigned count;
} Writer;

static uint8_t length_symbol[MAX_RUN + 1]; /* of each length from 3 on, less FIRST_LENGTH */
static uint16_t length_base[LENGTHS];      /* the shortest length of each symbol */
static uint8_t length_bits[LENGTHS];       /* that say how much longer it is */

static void prepare_lengths(void)
{
    unsigned length = 3;
    for (unsigned symbol = 0; symbol < LENGTHS; symbol++) {
        if (symbol == LENGTHS - 1)
            length = MAX_RUN; /* has a symbol of its own, and would fit the one before it */
        length_base[symbol] = (uint16_t)length;
        length_bits[symbol] = (uint8_t)(symbol < 8 || symbol == LENGTHS - 1 ? 0 : symbol / 4 - 1);
        for (unsigned i = 0; i < 1u << length_bits[symbol]; i++)
            length_symbol[length++] = (uint8_t)symbol;
    }
}

INLINE void put(Writer *to, uint64_t bits, unsigned count)
{
    to->bits |= bits << to->count;
    to->count += count;
}

/* Leaves at most 7 bits unwritten. */
INLINE void flush(Writer *to)
{
    store_64(to->out, to->bits);
    to->out += to->count >> 3;
    to->bits >>= to->count & ~7u;
    to->count &= 7;
}

/* Fills order with the symbols that occur, the rarest first, and returns how many there are. */
static unsigned sort_symbols(const uint32_t *counts, unsigned symbols, uint16_t *order)
{
    uint16_t sorted[SYMBOLS];
    unsigned used = 0;
    for (unsigned symbol = 0; symbol < symbols; symbol++)
        if (counts[symbol] > 0)
            order[used++] = (uint16_t)symbol;
    for (unsigned shift = 0; BLOCK >> shift > 0; shift += 8) {
        unsigned starts[257] = {0};
        for (unsigned i = 0; i < used; i++)
            starts[(counts[order[i]] >> shift & 0xff) + 1]++;
        for (unsigned digit = 0; digit < 256; digit++)
            starts[digit + 1] += starts[digit];
        for (unsigned i = 0; i < used; i++)
            sorted[starts[counts[order[i]] >> shift & 0xff]++] = order[i];
        memcpy(order, sorted, used * sizeof *order);
    }
    return used;
}

/* Huffman's tree over at least two symbols that occur, whose counts sum to BLOCK + 1 at most.
   of_length: how many codes have each length, those over `longest` counted as `longest`. */
static void grow_tree(const uint32_t *counts, const uint16_t *order, unsigned used, unsigned longest,
                      unsigned *of_length)
{
    uint32_t weights[2 * SYMBOLS];
    uint16_t parents[2 * SYMBOLS];
    uint8_t depths[2 * SYMBOLS]; /* 24 at most: counts as of Fibonacci make the deepest tree */
    const unsigned root = 2 * used - 2;
    for (unsigned leaf = 0; leaf < used; leaf++)
        weights[leaf] = counts[order[leaf]];
    /* leaves lie in rising order and so do the nodes made of them: the lightest is at the front of either */
    unsigned leaf = 0, inner = used;
    for (unsigned node = used; node <= root; node++) {
        weights[node] = 0;
        for (int child = 0; child < 2; child++) {
            const int takes_leaf = leaf < used && (inner == node || weights[leaf] <= weights[inner]);
            const unsigned lightest = takes_leaf ? leaf++ : inner++;
            weights[node] += weights[lightest];
            parents[lightest] = (uint16_t)node;
        }
    }
    depths[root] = 0;
    for (unsigned node = root; node-- > 0;) {
        depths[node] = (uint8_t)(depths[parents[node]] + 1);
        if (node < used)
            of_length[depths[node] < longest ? depths[node] : longest]++;
    }
}

/* Codes that were cut to `longest` claim too much. Each time, one of them joins a shorter one, which grows by a bit. */
static void fit(unsigned longest, unsigned *of_length)
{
    unsigned claimed = 0;
    for (unsigned length = 1; length <= longest; length++)
        claimed += of_length[length] << (longest - length);
    for (; claimed > 1u << longest; claimed--) {
        unsigned length = longest - 1;
        while (of_length[length] == 0)
            length--;
        of_length[longest]--;
        of_length[length]--;
        of_length[length + 1] += 2;
    }
}

/* A code for at least two symbols that occur. */
static void make_codes(const uint32_t *counts, unsigned symbols, unsigned longest, Codes *codes)
{
    uint16_t order[SYMBOLS];
    unsigned of_length[LONGEST_CODE + 1] = {0}, next[LONGEST_CODE + 2] = {0};
    const unsigned used = sort_symbols(counts, symbols, order);
    grow_tree(counts, order, used, longest, of_length);
    fit(longest, of_length);
    memset(codes->length, 0, symbols);
    const uint16_t *rarest = order;
    for (unsigned length = longest; length > 0; length--)
        for (unsigned i = 0; i < of_length[length]; i++)
            codes->length[*rarest++] = (uint8_t)length;
    for (unsigned length = 1; length <= longest; length++)
        next[length + 1] = (next[length] + of_length[length]) << 1;
    for (unsigned symbol = 0; symbol < symbols; symbol++) {
        unsigned code = next[codes->length[symbol]]++, reversed = 0;
        for (unsigned bit = 0; bit < codes->length[symbol]; bit++, code >>= 1)
            reversed = reversed << 1 | (code & 1);
        codes->bits[symbol] = (uint16_t)reversed;
    }
}

/* What stands before a block's symbols: the lengths of their codes, themselves coded. */
typedef struct {
    unsigned symbols; /* whose lengths are given: literals and lengths, then two distances */
    unsigned items;
    uint8_t item[SYMBOLS + 2];  /* a length, or one of the items that stand for some */
    uint8_t extra[SYMBOLS + 2]; /* how many, in item_bits() */
    Codes codes;                /* of the ITEMS */
    unsigned item_codes;        /* whose lengths are given, in item_order */
    unsigned bits;              /* altogether */
} Header;

static const uint8_t item_order[ITEMS] = {REPEAT, ZEROS, MANY_ZEROS, 0, 8,  7, 9,  6, 10, 5,
                                          11,     4,     12,         3, 13, 2, 14, 1, 15};

INLINE unsigned item_bits(unsigned item)
{
    return item == REPEAT ? 2 : item == ZEROS ? 3 : item == MANY_ZEROS ? 7 : 0;
}

static void add_item(Header *header, unsigned item, unsigned extra)
{
    header->item[header->items] = (uint8_t)item;
    header->extra[header->items++] = (uint8_t)extra;
}

/* `same` times the same length. */
static void add_lengths(Header *header, unsigned length, unsigned same)
{
    const unsigned most = length == 0 ? 138 : 6;
    if (length != 0) {
        add_item(header, length, 0);
        same--;
    }
    while (same >= 3) {
        const unsigned part = same < most ? same : most;
        if (length != 0)
            add_item(header, REPEAT, part - 3);
        else if (part <= 10)
            add_item(header, ZEROS, part - 3);
        else
            add_item(header, MANY_ZEROS, part - 11);
        same -= part;
    }
    for (; same > 0; same--)
        add_item(header, length, 0);
}

static void make_header(const Codes *codes, Header *header)
{
    uint8_t lengths[SYMBOLS + 2];
    uint32_t counts[ITEMS] = {0};
    unsigned symbols = SYMBOLS;
    while (codes->length[symbols - 1] == 0)
        symbols--;
    memcpy(lengths, codes->length, symbols);
    lengths[symbols++] = 1; /* distance 1 is all that is used, but not every decoder takes a code of one symbol */
    lengths[symbols++] = 1;
    header->symbols = symbols;
    header->items = 0;
    for (unsigned first = 0, end = 0; first < symbols; first = end) {
        while (end < symbols && lengths[end] == lengths[first])
            end++;
        add_lengths(header, lengths[first], end - first);
    }
    for (unsigned i = 0; i < header->items; i++)
        counts[header->item[i]]++;
    make_codes(counts, ITEMS, LONGEST_ITEM_CODE, &header->codes);
    header->item_codes = ITEMS;
    while (header->codes.length[item_order[header->item_codes - 1]] == 0)
        header->item_codes--;
    header->bits = 3 + 5 + 5 + 4 + 3 * header->item_codes;
    for (unsigned item = 0; item < ITEMS; item++)
        header->bits += counts[item] * (header->codes.length[item] + item_bits(item));
}

static void put_header(Writer *to, const Header *header, int last)
{
    put(to, (unsigned)last | DYNAMIC << 1, 3);
    put(to, header->symbols - 2 - 257, 5);
    put(to, 2 - 1, 5);
    put(to, header->item_codes - 4, 4);
    for (unsigned i = 0; i < header->item_codes; i++) {
        flush(to);
        put(to, header->codes.length[item_order[i]], 3);
    }
    for (unsigned i = 0; i < header->items; i++) {
        const unsigned item = header->item[i];
        flush(to);
        put(to, header->codes.bits[item], header->codes.length[item]);
        put(to, header->extra[i], item_bits(item));
    }
    flush(to);
}

static void put_stored(Writer *to, const uint8_t *block, size_t n, int last)
{
    put(to, (unsigned)last | STORED << 1, 3);
    put(to, 0, (8 - to->count % 8) % 8);
    flush(to);
    put(to, n | (~n & 0xffff) << 16, 32);
    flush(to);
    memcpy(to->out, block, n);
    to->out += n;
}

/* A bit for each of eight bytes that equals the one before it. */
INLINE uint64_t repeats_8(const uint8_t *bytes)
{
    const uint64_t low = 0x7f7f7f7f7f7f7f7f, differences = load_64(bytes) ^ load_64(bytes - 1);
    const uint64_t same = ~(((differences & low) + low) | differences) & ~low; /* the upper bit of each byte */
    return (same >> 7) * 0x0102040810204080 >> 56;
}

static void mark_repeats_portable(const uint8_t *block, size_t words, uint64_t *repeats)
{
    for (size_t word = 0; word < words; word++) {
        repeats[word] = 0;
        for (size_t i = 0; i < 64; i += 8)
            repeats[word] |= repeats_8(block + 64 * word + i) << i;
    }
}

#if HAVE_AVX2
AVX2 static void mark_repeats_avx2(const uint8_t *block, size_t words, uint64_t *repeats)
{
    for (size_t word = 0; word < words; word++) {
        repeats[word] = 0;
        for (size_t i = 0; i < 64; i += 32) {
            const __m256i bytes = _mm256_loadu_si256((const __m256i *)(block + 64 * word + i));
            const __m256i before = _mm256_loadu_si256((const __m256i *)(block + 64 * word + i - 1));
            repeats[word] |= (uint64_t)(uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(bytes, before)) << i;
        }
    }
}
#endif

/* Reads 64 bytes after the block and one before it. The first byte repeats nothing: there may be nothing before it. */
INLINE void mark_repeats(const uint8_t *block, size_t n, int level, uint64_t *repeats)
{
    const size_t words = n / 64 + 1;
#if HAVE_AVX2
    if (level >= LEVEL_AVX2)
        mark_repeats_avx2(block, words, repeats);
    else
#endif
        mark_repeats_portable(block, words, repeats);
    (void)level;
    repeats[0] &= ~(uint64_t)1;
    repeats[words - 1] &= ((uint64_t)1 << n % 64) - 1;
    repeats[words] = 0;
}

/* Writes the positions of set bits and AT_ONCE or fewer of no meaning; returns where those begin. */
INLINE uint16_t *add_positions(uint64_t bits, size_t first, uint16_t *out)
{
    uint16_t *const end = out + ones(bits);
    do /* hardly ever again, so that the branch is foretold */
        for (int i = 0; i < AT_ONCE; i++) {
            *out++ = (uint16_t)(first + (size_t)trailing_zeros(bits | (uint64_t)1 << 63));
            bits &= bits - 1;
        }
    while (bits != 0);
    return end;
}

/* Fills starts and ends with the stretches of at least MIN_RUN set bits, and returns how many there are. */
INLINE size_t find_runs(const uint64_t *repeats, size_t n, uint16_t *starts, uint16_t *ends)
{
    const uint16_t *const first = starts;
    uint64_t whole = 0, run = 0; /* bits that MIN_RUN set ones begin at; bits of such stretches */
    for (size_t word = 0; word <= n / 64; word++) {
        const uint64_t bits = repeats[word], next = repeats[word + 1], whole_before = whole, run_before = run;
        whole = bits;
        for (int i = 1; i < MIN_RUN; i++)
            whole &= bits >> i | next << (64 - i);
        if ((whole | whole_before | run_before) == 0)
            continue; /* most words, where nothing is flat */
        run = whole;
        for (int i = 1; i < MIN_RUN; i++)
            run |= whole << i | whole_before >> (64 - i);
        const uint64_t run_left = run << 1 | run_before >> 63;
        starts = add_positions(run & ~run_left, word * 64, starts);
        ends = add_positions(run_left & ~run, word * 64, ends);
    }
    return (size_t)(starts - first);
}

INLINE void count_bytes(const uint8_t *block, size_t n, uint16_t tables[8][256], uint32_t *counts)
{
    memset(tables, 0, 8 * sizeof *tables);
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int table = 0; table < 8; table++) /* equal neighbours would wait for each other in one table */
            tables[table][block[i + (size_t)table]]++;
    for (; i < n; i++)
        tables[0][block[i]]++;
    memset(counts, 0, 256 * sizeof *counts);
    for (int table = 0; table < 8; table++)
        for (int byte = 0; byte < 256; byte++)
            counts[byte] += tables[table][byte];
}

/* What is left of a run of this length when it is cut into those of MAX_RUN. */
INLINE size_t rest_of(size_t length)
{
    while (length > MAX_RUN)
        length -= MAX_RUN;
    return length;
}

INLINE void count_symbols(const uint8_t *block, size_t n, size_t runs, Deflater *deflater)
{
    uint32_t *const counts = deflater->counts;
    count_bytes(block, n, deflater->tables, counts);
    memset(counts + 256, 0, (SYMBOLS - 256) * sizeof *counts);
    counts[END_OF_BLOCK] = 1;
    for (size_t i = 0; i < runs; i++) {
        const size_t start = deflater->starts[i], length = deflater->ends[i] - start, rest = rest_of(length);
        counts[SYMBOLS - 1] += (uint32_t)((length - rest) / MAX_RUN);
        if (rest >= 3) {
            counts[block[start]] -= (uint32_t)length;
            counts[FIRST_LENGTH + length_symbol[rest]]++;
        } else {
            counts[block[start]] -= (uint32_t)(length - rest);
        }
    }
}

INLINE void put_literals(Writer *to, const Codes *codes, const uint8_t *bytes, size_t n)
{
    for (; n >= 4; n -= 4, bytes += 4) {
        const unsigned a = codes->length[bytes[0]], b = codes->length[bytes[1]];
        const unsigned c = codes->length[bytes[2]], d = codes->length[bytes[3]];
        const uint64_t first = codes->bits[bytes[0]] | (uint64_t)codes->bits[bytes[1]] << a;
        const uint64_t second = codes->bits[bytes[2]] | (uint64_t)codes->bits[bytes[3]] << c;
        put(to, first | second << (a + b), a + b + c + d);
        flush(to);
    }
    for (size_t i = 0; i < 3; i++) { /* without a branch, which nothing would foretell; reads 3 bytes after the last */
        const unsigned keep = i < n ? ~0u : 0;
        put(to, codes->bits[bytes[i]] & keep, codes->length[bytes[i]] & keep);
    }
    flush(to);
}

#if HAVE_AVX512
/* A byte for each byte. */
typedef struct {
    __m512i quarters[4];
} Lookup;

INLINE_AVX512 Lookup lookup_in(const uint8_t *values)
{
    Lookup lookup;
    for (int i = 0; i < 4; i++)
        lookup.quarters[i] = _mm512_loadu_si512(values + 64 * i);
    return lookup;
}

INLINE_AVX512 __m512i looked_up(const Lookup *lookup, __m512i bytes)
{
    const __m512i *const quarters = lookup->quarters;
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(bytes), _mm512_permutex2var_epi8(quarters[0], bytes, quarters[1]),
                                  _mm512_permutex2var_epi8(quarters[2], bytes, quarters[3]));
}

/* Of each two neighbours of `width` bits the second is moved down to the end of the first. lengths: of the first. */
INLINE_AVX512 __m512i joined_16(__m512i codes, __m512i lengths)
{
    return _mm512_or_si512(_mm512_and_si512(codes, _mm512_set1_epi32(0xffff)),
                           _mm512_sllv_epi32(_mm512_srli_epi32(codes, 16), lengths));
}

INLINE_AVX512 __m512i joined_32(__m512i codes, __m512i lengths)
{
    const __m512i low = _mm512_set1_epi64(0xffffffff);
    return _mm512_or_si512(_mm512_and_si512(codes, low),
                           _mm512_sllv_epi64(_mm512_srli_epi64(codes, 32), _mm512_and_si512(lengths, low)));
}

/* Of each int32, the sum of those up to it. */
INLINE_AVX512 __m512i sums_up_to(__m512i values)
{
    const __m512i zero = _mm512_setzero_si512();
    values = _mm512_add_epi32(values, _mm512_alignr_epi32(values, zero, 15));
    values = _mm512_add_epi32(values, _mm512_alignr_epi32(values, zero, 14));
    values = _mm512_add_epi32(values, _mm512_alignr_epi32(values, zero, 12));
    return _mm512_add_epi32(values, _mm512_alignr_epi32(values, zero, 8));
}

/* 64 literals. The codes of four are joined, and moved to where they begin in a byte, all sixteen fours at once; what
   is left is to put one after another. */
INLINE_AVX512 void put_64(Writer *to, const Lookup *length_of, const Lookup *low_of, const Lookup *high_of,
                          const uint8_t *literals)
{
    /* lanes are 16 bytes and unpacking takes a half of each: so that the lower halves are the first 32 bytes */
    const __m512i halves = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
    const __m512i in_order = _mm512_setr_epi32(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    const __m512i zero = _mm512_setzero_si512();
    const __m512i bytes = _mm512_permutexvar_epi64(halves, _mm512_loadu_si512(literals));
    const __m512i lengths = looked_up(length_of, bytes), low = looked_up(low_of, bytes);
    const __m512i high = looked_up(high_of, bytes);
    const __m512i first = _mm512_and_si512(lengths, _mm512_set1_epi16(0xff));
    const __m512i of_two = _mm512_maddubs_epi16(lengths, _mm512_set1_epi8(1));
    const __m512i of_four = _mm512_permutexvar_epi32(in_order, _mm512_madd_epi16(of_two, _mm512_set1_epi16(1)));
    const __m512i twos[2] = {joined_16(_mm512_unpacklo_epi8(low, high), _mm512_unpacklo_epi16(first, zero)),
                             joined_16(_mm512_unpackhi_epi8(low, high), _mm512_unpackhi_epi16(first, zero))};
    const __m512i fours[2] = {joined_32(twos[0], _mm512_unpacklo_epi16(of_two, zero)),
                              joined_32(twos[1], _mm512_unpackhi_epi16(of_two, zero))};

    /* in bits from to->out on */
    const __m512i before = _mm512_set1_epi32((int32_t)to->count);
    const __m512i sums = sums_up_to(of_four), ends = _mm512_add_epi32(sums, before);
    const __m512i starts = _mm512_sub_epi32(ends, of_four), bytes_before = _mm512_srli_epi32(starts, 3);
    const __m512i whole_bytes = _mm512_sub_epi32(_mm512_srli_epi32(ends, 3), bytes_before);
    const __m512i shifts = _mm512_and_si512(starts, _mm512_set1_epi32(7));
    const __m512i shift[2] = {_mm512_cvtepu32_epi64(_mm512_castsi512_si256(shifts)),
                              _mm512_cvtepu32_epi64(_mm512_extracti64x4_epi64(shifts, 1))};
    _Alignas(64) uint64_t bits[16];
    _Alignas(64) uint32_t at[16], done[16];
    _mm512_store_si512(bits, _mm512_sllv_epi64(fours[0], shift[0]));
    _mm512_store_si512(bits + 8, _mm512_sllv_epi64(fours[1], shift[1]));
    _mm512_store_si512(at, bytes_before);
    _mm512_store_si512(done, _mm512_slli_epi32(whole_bytes, 3));
    uint64_t unwritten = to->bits;
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) {
        unwritten |= bits[i];
        store_64(to->out + at[i], unwritten);
        unwritten >>= done[i];
    }
    const unsigned end = to->count + (unsigned)_mm_extract_epi32(_mm512_extracti32x4_epi32(sums, 3), 3);
    *to = (Writer){to->out + (end >> 3), unwritten, end & 7};
}

AVX512 static void put_literals_avx512(Writer *to, const Deflater *deflater, const uint8_t *bytes, size_t n)
{
    const Lookup length_of = lookup_in(deflater->codes.length);
    const Lookup low_of = lookup_in(deflater->low), high_of = lookup_in(deflater->high);
    for (; n >= 64; n -= 64, bytes += 64)
        put_64(to, &length_of, &low_of, &high_of, bytes);
    put_literals(to, &deflater->codes, bytes, n);
}
#endif

INLINE void put_bytes(Writer *to, const Deflater *deflater, const uint8_t *bytes, size_t n, int level)
{
#if HAVE_AVX512
    if (level == LEVEL_AVX512 && n >= VECTOR_LITERALS) {
        put_literals_avx512(to, deflater, bytes, n);
        return;
    }
#endif
    (void)level;
    put_literals(to, &deflater->codes, bytes, n);
}

INLINE void put_run(Writer *to, const Codes *codes, size_t length)
{
    const unsigned symbol = length_symbol[length];
    put(to, codes->bits[FIRST_LENGTH + symbol], codes->length[FIRST_LENGTH + symbol]);
    put(to, length - length_base[symbol], length_bits[symbol] + 1u); /* and distance 1, whose code is a zero bit */
    flush(to);
}

INLINE void put_symbols(Writer *writer, const uint8_t *block, size_t n, size_t runs, const Deflater *deflater,
                        int level)
{
    const Codes *const codes = &deflater->codes;
    Writer to = *writer;
    size_t at = 0;
    for (size_t i = 0; i < runs; i++) {
        const size_t start = deflater->starts[i], end = deflater->ends[i], rest = rest_of(end - start);
        put_bytes(&to, deflater, block + at, start - at, level);
        for (size_t left = end - start; left > rest; left -= MAX_RUN)
            put_run(&to, codes, MAX_RUN);
        if (rest >= 3)
            put_run(&to, codes, rest);
        else
            put_literals(&to, codes, block + end - rest, rest);
        at = end;
    }
    put_bytes(&to, deflater, block + at, n - at, level);
    put(&to, codes->bits[END_OF_BLOCK], codes->length[END_OF_BLOCK]);
    flush(&to);
    *writer = to;
}

INLINE void deflate_as(Deflater *deflater, Writer *to, const uint8_t *block, size_t n, int last, int level)
{
    mark_repeats(block, n, level, deflater->repeats);
    const size_t runs = find_runs(deflater->repeats, n, deflater->starts, deflater->ends);
    count_symbols(block, n, runs, deflater);
    make_codes(deflater->counts, SYMBOLS, LONGEST_CODE, &deflater->codes);
    Header header;
    make_header(&deflater->codes, &header);
    uint64_t bits = header.bits;
    for (unsigned symbol = 0; symbol < SYMBOLS; symbol++)
        bits += (uint64_t)deflater->counts[symbol] * deflater->codes.length[symbol];
    for (unsigned symbol = 0; symbol < LENGTHS; symbol++)
        bits += (uint64_t)deflater->counts[FIRST_LENGTH + symbol] * (length_bits[symbol] + 1u);
    if (bits < 8 * (uint64_t)(n + 4)) {
        put_header(to, &header, last);
        for (int byte = 0; byte < 256; byte++) {
            deflater->low[byte] = (uint8_t)deflater->codes.bits[byte];
            deflater->high[byte] = (uint8_t)(deflater->codes.bits[byte] >> 8);
        }
        put_symbols(to, block, n, runs, deflater, level);
    } else {
        put_stored(to, block, n, last);
    }
}

static void deflate_portable(Deflater *deflater, Writer *to, const uint8_t *block, size_t n, int last)
{
    deflate_as(deflater, to, block, n, last, LEVEL_PORTABLE);
}

#if HAVE_AVX2
AVX2 static void deflate_avx2(Deflater *deflater, Writer *to, const uint8_t *block, size_t n, int last)
{
    deflate_as(deflater, to, block, n, last, LEVEL_AVX2);
    _mm256_zeroupper(); /* GCC 12 forgets it for blocks without runs, and all code without AVX is slow after that */
}
#endif

#if HAVE_AVX512
AVX512 static void deflate_avx512(Deflater *deflater, Writer *to, const uint8_t *block, size_t n, int last)
{
    deflate_as(deflater, to, block, n, last, LEVEL_AVX512);
    _mm256_zeroupper();
}
#endif

/* Adds a block of 1 to BLOCK bytes; one byte before them and 64 after them are read and make no difference. */
static void deflate(Deflater *deflater, Writer *to, const uint8_t *block, size_t n, int last, int level)
{
#if HAVE_AVX512
    if (level == LEVEL_AVX512) {
        deflate_avx512(deflater, to, block, n, last);
        return;
    }
#endif
#if HAVE_AVX2
    if (level >= LEVEL_AVX2) {
        deflate_avx2(deflater, to, block, n, last);
        return;
    }
#endif
    (void)level;
    deflate_portable(deflater, to, block, n, last);
}

#endif
