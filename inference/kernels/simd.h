/* Vectors of 16 numbers, by the vector extensions of GCC and Clang, and the one place that picks a form of them.
 *
 * A form is a header that holds everything that differs between kinds of processor; nothing else in this directory
 * looks at the processor. Each must define
 *
 *   FORM                        its name
 *   ROWS, VECTORS               tokens and vectors of columns that a block of a matrix product keeps in registers
 *   min, max                    of two f32x16, lane by lane
 *   reduce_add, reduce_max      of the lanes of an f32x16
 *   dot4                        adds, to each of 16 sums, 4 unsigned bytes (the same for all lanes) times 4 signed ones
 *   quantise16                  16 floats times a factor, rounded to even, plus a zero point, clamped to a byte
 *   transpose16                 up to 16 rows of 16 floats, scaled, to columns that are STRIP apart
 */
#ifndef EARLYBELL_SIMD_H
#define EARLYBELL_SIMD_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define LANES 16
#define STRIP 32 /* queries whose attention scores are computed together: two vectors, a query a lane */
#define INLINE static inline __attribute__((always_inline))

typedef float f32x16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t i32x16 __attribute__((vector_size(64), aligned(4), may_alias));

INLINE f32x16 splat(float value) { return (f32x16){} + value; }

INLINE f32x16 load(const float *from) { return *(const f32x16 *)from; }

INLINE void store(float *to, f32x16 value) { *(f32x16 *)to = value; }

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VNNI__)
#include "simd_avx512_vnni.h"
#else
#include "simd_portable.h"
#endif

/* 2^t to about 2e-7, as 2^(integer + fraction), for t up to 126; below -126 it is 2^-126. */
INLINE f32x16 exp2_approx(f32x16 t) {
    t = max(t, splat(-126.0f));
    f32x16 integer = (t + 12582912.0f) - 12582912.0f;
    f32x16 f = t - integer;
    f32x16 p = splat(1.540353039e-4f);
    p = p * f + 1.333355814e-3f;
    p = p * f + 9.618129107e-3f;
    p = p * f + 5.550410866e-2f;
    p = p * f + 2.402265069e-1f;
    p = p * f + 6.931471805e-1f;
    p = p * f + 1.0f;
    return (f32x16)((i32x16)p + (__builtin_convertvector(integer, i32x16) << 23));
}

INLINE f32x16 exp_approx(f32x16 v) { return exp2_approx(min(v * 1.44269504f, splat(126.0f))); }

#endif
