/* Vectors of 16 numbers, on any processor by GCC's vector extensions (which Clang has too). */
#ifndef EARLYBELL_VECTORS_H
#define EARLYBELL_VECTORS_H

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VNNI__)
#include <immintrin.h>
#define WIDE 1
#else
#define WIDE 0
#endif

#define LANES 16
#define INLINE static inline __attribute__((always_inline))

typedef float Floats __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(64), aligned(4), may_alias));

INLINE Floats all(float value) { return (Floats){} + value; }

INLINE Floats load(const float *from) { return *(const Floats *)from; }

INLINE void store(float *to, Floats value) { *(Floats *)to = value; }

INLINE Floats pick(Ints mask, Floats yes, Floats no) { return (Floats)(((Ints)yes & mask) | ((Ints)no & ~mask)); }

#if WIDE
INLINE Floats least(Floats a, Floats b) { return (Floats)_mm512_min_ps((__m512)a, (__m512)b); }
INLINE Floats most(Floats a, Floats b) { return (Floats)_mm512_max_ps((__m512)a, (__m512)b); }
#else
INLINE Floats least(Floats a, Floats b) { return pick(a < b, a, b); }
INLINE Floats most(Floats a, Floats b) { return pick(a > b, a, b); }
#endif

#if WIDE
INLINE float sum(Floats v) { return _mm512_reduce_add_ps((__m512)v); }
INLINE float highest(Floats v) { return _mm512_reduce_max_ps((__m512)v); }
#else
INLINE float sum(Floats v) {
    float part[LANES];
    memcpy(part, &v, sizeof part);
    for (int step = LANES / 2; step; step /= 2)
        for (int i = 0; i < step; i++) part[i] += part[i + step];
    return part[0];
}

INLINE float highest(Floats v) {
    float part[LANES];
    memcpy(part, &v, sizeof part);
    for (int step = LANES / 2; step; step /= 2)
        for (int i = 0; i < step; i++) part[i] = part[i] > part[i + step] ? part[i] : part[i + step];
    return part[0];
}
#endif

/* 2^t to about 2e-7, by 2^(whole + fraction), for t up to 126; far below it is 2^-126. */
INLINE Floats power(Floats t) {
    t = most(t, all(-126.0f));
    Floats whole = (t + 12582912.0f) - 12582912.0f;
    Floats f = t - whole;
    Floats p = all(1.540353039e-4f);
    p = p * f + 1.333355814e-3f;
    p = p * f + 9.618129107e-3f;
    p = p * f + 5.550410866e-2f;
    p = p * f + 2.402265069e-1f;
    p = p * f + 6.931471805e-1f;
    p = p * f + 1.0f;
    return (Floats)((Ints)p + (__builtin_convertvector(whole, Ints) << 23));
}

INLINE Floats exponential(Floats v) { return power(least(v * 1.44269504f, all(126.0f))); }

#endif
