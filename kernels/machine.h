/* What our C needs of the compiler and the machine. */

#ifndef MACHINE_H
#define MACHINE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

#if defined(__x86_64__) && defined(__GNUC__)
#define HAVE_AVX2 1
#include <immintrin.h>
#define AVX2 __attribute__((target("avx2,bmi,bmi2,pclmul")))
#define INLINE_AVX2 static inline __attribute__((target("avx2,bmi,bmi2,pclmul"), always_inline))
#else
#define HAVE_AVX2 0
#endif

#if HAVE_AVX2 && (defined(__clang__) || __GNUC__ >= 8)
#define HAVE_AVX512 1
#define AVX512 __attribute__((target("avx2,bmi,bmi2,pclmul,avx512f,avx512bw,avx512vbmi")))
#define INLINE_AVX512 \
    static inline __attribute__((target("avx2,bmi,bmi2,pclmul,avx512f,avx512bw,avx512vbmi"), always_inline))
#else
#define HAVE_AVX512 0
#endif

/* What a function may use of a processor. All give the same bytes; where there is no version for a level, the one below
   runs. */
enum { LEVEL_PORTABLE, LEVEL_AVX2, LEVEL_AVX512 };

/* Whether this processor has all that functions marked AVX2 use. */
static inline int has_avx2(void)
{
#if HAVE_AVX2
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
           __builtin_cpu_supports("pclmul");
#else
    return 0;
#endif
}

/* Whether it has all that functions marked AVX512 use. */
static inline int has_avx512(void)
{
#if HAVE_AVX512
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vbmi");
#else
    return 0;
#endif
}

/* This processor's level, `most` at most. */
static inline int level_up_to(int most)
{
    if (most >= LEVEL_AVX512 && has_avx512())
        return LEVEL_AVX512;
    return most >= LEVEL_AVX2 && has_avx2() ? LEVEL_AVX2 : LEVEL_PORTABLE;
}

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define IS_LITTLE_ENDIAN 1
#else
#define IS_LITTLE_ENDIAN 0
#endif

/* Little-endian, whatever the machine is; one instruction where it is that, of which compilers would not always make
   one. */
INLINE uint64_t load_64(const uint8_t *bytes)
{
    uint64_t value = 0;
    if (IS_LITTLE_ENDIAN)
        memcpy(&value, bytes, sizeof value);
    else
        for (int i = 0; i < 8; i++)
            value |= (uint64_t)bytes[i] << 8 * i;
    return value;
}

INLINE void store_64(uint8_t *bytes, uint64_t value)
{
    if (IS_LITTLE_ENDIAN)
        memcpy(bytes, &value, sizeof value);
    else
        for (int i = 0; i < 8; i++)
            bytes[i] = (uint8_t)(value >> 8 * i);
}

INLINE uint8_t *store_big_32(uint8_t *bytes, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        bytes[i] = (uint8_t)(value >> (24 - 8 * i));
    return bytes + 4;
}

INLINE int ones(uint64_t value)
{
#if defined(__GNUC__)
    return __builtin_popcountll(value);
#else
    int count = 0;
    for (; value != 0; value &= value - 1)
        count++;
    return count;
#endif
}

/* Of a value that is not 0; anything below 65 for 0. */
INLINE int trailing_zeros(uint64_t value)
{
#if defined(__GNUC__)
    return __builtin_ctzll(value);
#else
    int zeros = 0;
    for (; !(value & 1); value >>= 1)
        zeros++;
    return zeros;
#endif
}

#endif
