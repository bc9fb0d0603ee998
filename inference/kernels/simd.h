/* Vectors of 16 numbers, and the one place that knows which form of them is compiled.
 *
 * A form is a header that holds everything that differs between kinds of processor (`build.py` lists the forms and
 * compiles `form.c` for each); nothing else here looks at the processor. Every form computes the same bits: no operation
 * is left to the compiler's choice (no contraction: a multiply-add is `fma`, in one rounding), reductions have one order,
 * and rounding is to nearest even. A form defines
 *
 *   NEEDS                       the instructions that it needs (see `form.h`)
 *   ROWS, VECTORS               texts and vectors of columns that a block of a product of floats keeps in registers
 *   STEP                        inputs that a product of integers takes at a time: 4, 8, or 16 = GROUP
 *   STEP_ROWS, STEP_VECTORS     tokens and vectors of columns that a block of such a product keeps in registers
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
 *   dot4(sums, bytes, weight)   if STEP is 4: adds, to each of 16 sums, 4 unsigned bytes (the same in all lanes) times
 *                               4 signed ones
 *   dot8(rows, sums, ...)       if STEP is 8: adds the products of 8 inputs, in any order of the rows' sums, which
 *   settle(rows, sums)          puts back: each row's own, by column
 *   dot16(rows, sums, ...)      if STEP is 16: adds the products of 16 inputs (see `dot`)
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

/* Before a loop of few, constant turns: all of them in line, so that arrays of vectors stay in registers. */
#ifdef __clang__
#define UNROLLED _Pragma("clang loop unroll(full)")
#else
#define UNROLLED _Pragma("GCC unroll 16")
#endif

#include FORM_HEADER

/* Adds to the sums of `rows` tokens, `stride` bytes apart, and STEP_VECTORS vectors of columns, `panel` bytes apart, the
 * products of STEP inputs.
 *
 * In a form without a dot product of its own, pairs of products are added in 16 bits, and four such pairs to one
 * another before they are widened: of 16 inputs the eight whose number leaves 0 or 1 when divided by 4, and the other
 * eight. They fit, since the positive weights of such eight sum to at most GROUP_LIMIT, and the negative ones too:
 * 255 * 128 < 2^15 (`model/weights.py` sees to it). */
INLINE void dot(const int rows, i32x16 (*sums)[STEP_VECTORS], const uint8_t *bytes, int64_t stride,
                const int8_t *weight, const int64_t *panel) {
#if STEP == 4
    UNROLLED
    for (int r = 0; r < rows; r++)
        UNROLLED
        for (int v = 0; v < STEP_VECTORS; v++) sums[r][v] = dot4(sums[r][v], bytes + r * stride, weight + panel[v]);
#elif STEP == 8
    dot8(rows, sums, bytes, stride, weight, panel);
#else
    dot16(rows, sums, bytes, stride, weight, panel);
#endif
}

#if STEP != 8
INLINE void settle(const int rows, i32x16 (*sums)[STEP_VECTORS]) { (void)rows, (void)sums; }
#endif

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
