/* The bytes of a zlib stream (RFC 1950, 1951) that lies in pieces, as far as they are wanted. There are versions for
   each level of machine.h. Pure C. */

#ifndef INFLATE_H
#define INFLATE_H

#include <stddef.h>
#include <stdint.h>

enum {
    INFLATE_WINDOW = 32768, /* how far back a match may reach, whatever the stream's header says */
    INFLATE_SLACK = 384,    /* bytes past `stop` that may be written */
    LITLEN_ROOT = 10,       /* bits that a table is asked by at once */
    DISTANCE_ROOT = 9,
    LITLEN_ENTRIES = (1 << LITLEN_ROOT) + (288 / 2 << (15 - LITLEN_ROOT)), /* a longer code never comes alone */
    DISTANCE_ENTRIES = (1 << DISTANCE_ROOT) + (32 / 2 << (15 - DISTANCE_ROOT))
};

/* Where a stream lies; the first member of something larger. `next` gives a further piece of at least one byte, or NULL
   after the last one. */
typedef struct Pieces {
    const uint8_t *(*next)(struct Pieces *pieces, size_t *size);
} Pieces;

typedef enum { NO_BLOCK, STORED_BLOCK, CODED_BLOCK } Block;

typedef struct {
    Pieces *pieces;
    const uint8_t *in, *in_end; /* what is left of a piece */
    uint64_t bits;              /* the stream's next ones; those from `count` on are zeros, or right as well */
    unsigned count;
    int level;
    Block block;
    int is_last;    /* the block is */
    size_t stored;  /* bytes that are left of a stored block */
    int are_fixed;  /* the tables are those of fixed codes */
    int are_joined; /* `joined` has the codes */
    int is_starved; /* more bits are needed than there were */
    uint32_t litlen[LITLEN_ENTRIES], distance[DISTANCE_ENTRIES];
    uint64_t joined[1 << LITLEN_ROOT]; /* what `litlen` says, several symbols an entry */
} Inflater;

typedef enum { INFLATE_FULL, INFLATE_ENDED, INFLATE_DAMAGED } Inflated;

/* At the beginning of a stream. Returns whether its header is right. level: of this processor, or a lower one. */
int inflate_begin(Inflater *inflater, Pieces *pieces, int level);

/* Writes at *to, and moves it, until it has reached `stop` or the stream's last block has ended. What was written from
   `begin` to *to is all of the stream so far, or INFLATE_WINDOW bytes of it at least. */
Inflated inflate(Inflater *inflater, const uint8_t *begin, uint8_t **to, const uint8_t *stop);

/* Reads the Adler-32 after the last block. Returns whether it is there. */
int inflate_checksum(Inflater *inflater, uint32_t *adler);

/* Whether what was damaged is only cut off: the pieces ended where more bits were needed. */
int inflate_is_starved(const Inflater *inflater);

/* Bytes of the pieces so far that were not needed yet. */
size_t inflate_left(const Inflater *inflater);

#endif
