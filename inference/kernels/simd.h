/* Vectors of 16 numbers, and the one place that knows which form of them is compiled.
 *
 * A form is a header that holds everything that differs between kinds of processor (`build.py` lists the forms and
 * compiles `form.c` for each); nothing else here looks at the processor. Every form computes the same bits: no operation is left to the compiler's choice (no contraction: a
 * multiply-add is `fma`, in one rounding), reductions have one order, and rounding is to nearest even. A form defines
 *
 *   NEEDS                       the instructions that it needs (see `form.h`)
 *   ROWS, VECTORS               tokens and vectors of columns that a block of a matrix product keeps in registers
 *   UNROLL                      keys or queries that attention takes at a time
 *   f32x16, i32x16              16 floats, 16 signed integers of 32 bits, by value
 *   load, store, splat          of floats; nothing need be aligned
 *   add, sub, mul, divide        lane by lane
 *   fmadd(a, b, c)              a * b + c with one rounding
 *   min, max                    a < b ? a : b and a > b ? a : b, so that b is the result if either is not a number
 *   reduce_add, reduce_max      of the lanes: 8 apart first, then 4, 2, 1
 *   round_to_int, to_float      to nearest even, and back
 *   scale2(v, n)                v * 2^n by adding n to the exponent
 *   zero_sums                   an i32x16 of zeros
 *   dot4(sums, bytes, weight)   adds, to each of 16 sums, 4 unsigned bytes (the same in all lanes) times 4 signed ones,
 *                               which lie in [-64, 64], so that two products fit into 16 bits with a sign
 *   unbias(sums, columns, zero) sums - zero * the integers at `columns`
 *   quantise16                  16 floats times a factor, rounded, plus a zero point, clamped to a byte
 *   transpose16                 up to 16 rows of 16 floats, scaled, to columns that are STRIP apart
 */
#ifndef EARLYBELL_SIMD_H
#define EARLYBELL_SIMD_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "form.h"
#include "int8.h"

#define INLINE static inline __attribute__((always_inline))

#include FORM_HEADER

/* 2^t to about 2e-7, as 2^(integer + fraction), for t up to 126; below -126 it is 2^-126. */
INLINE f32x16 exp2_approx(f32x16 t) {
    t = max(t, splat(-126.0f));
    i32x16 integer = round_to_int(t);
    f32x16 f = sub(t, to_float(integer)), p = splat(1.540353039e-4f);
    p = fmadd(p, f, splat(1.333355814e-3f));
    p = fmadd(p, f, splat(9.618129107e-3f));
    p = fmadd(p, f, splat(5.550410866e-2f));
    p = fmadd(p, f, splat(2.402265069e-1f));
    p = fmadd(p, f, splat(6.931471805e-1f));
    p = fmadd(p, f, splat(1.0f));
    return scale2(p, integer);
}

INLINE f32x16 exp_approx(f32x16 v) { return exp2_approx(min(mul(v, splat(1.44269504f)), splat(126.0f))); }

#endif
