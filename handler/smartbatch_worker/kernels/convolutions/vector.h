/* Vectors of the processor's own width, and arrays of float or bf16. */
#pragma once

#include <stdint.h>
#include <string.h>

/* One step of the matrix product keeps ROWS x 2 vectors of sums in registers. More than 10 of AVX-512's fit, but then
 * gcc's code is a tenth slower; 8 were the fastest. */
#if defined(__AVX512F__)
#define LANES 16
#define ROWS 8
#elif defined(__AVX__)
#define LANES 8
#define ROWS 6
#else
#define LANES 4
#define ROWS 6
#endif
#define PANEL (2 * LANES)
/* Vectors of channels that a tile's transforms take at a time: half a KiB of each pixel, so that memory is read and
 * written in runs, and what is between their two passes stays in the first cache. */
#define STRIPE (128 / LANES)

#if defined(__AVX512BF16__) && defined(__AVX512F__)
#include <immintrin.h>
#define HAS_BF16 1
#else
#define HAS_BF16 0
#endif

#define INLINE static inline __attribute__((always_inline))

typedef float vector __attribute__((vector_size(4 * LANES)));
typedef int32_t bits __attribute__((vector_size(4 * LANES)));
typedef float memory __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE vector load(const float *from) { return *(const memory *)from; }
INLINE void store(float *to, vector x) { *(memory *)to = x; }

/* Where number `index` stands in an array of float or bf16. */
INLINE void *at(const void *array, int64_t index, const int bf16) { return (char *)array + index * (bf16 ? 2 : 4); }

/* LANES numbers to an array of float or bf16. */
INLINE void put(void *array, int64_t index, vector x, const int bf16) {
#if HAS_BF16
    if (bf16) {
        _mm256_storeu_si256(at(array, index, 1), (__m256i)_mm512_cvtneps_pbh((__m512)x));
        return;
    }
#endif
    store(at(array, index, bf16), x);
}

/* NaN stays NaN. */
INLINE vector clipped(vector x) { return (vector)((bits)x & ~(x < (vector){0})); }
INLINE vector larger(vector a, vector b) {
    const bits take_b = (a < b) | (b != b);
    return (vector)(((bits)b & take_b) | ((bits)a & ~take_b));
}

INLINE int64_t larger_of(int64_t a, int64_t b) { return a > b ? a : b; }
INLINE int64_t smaller_of(int64_t a, int64_t b) { return a < b ? a : b; }

static size_t bytes(int64_t numbers, int bf16) { return numbers * (bf16 ? 2 : 4); }
