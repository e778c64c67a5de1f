/* SHA-1 (FIPS 180-4), with the processor's own instructions or in portable C. */

#ifndef SHA1_H
#define SHA1_H

#include <stddef.h>
#include <stdint.h>

enum { SHA1_BYTES = 20 };

/* Once, before anything else. */
void sha1_prepare(void);

/* fast: whether instructions that only some processors have may be used. */
void sha1(const uint8_t *data, size_t size, int fast, uint8_t digest[SHA1_BYTES]);
/* Of two messages of one size, in little more time than of one. */
void sha1_pair(const uint8_t *const data[2], size_t size, int fast, uint8_t digests[2][SHA1_BYTES]);

#endif
