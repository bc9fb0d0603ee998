/* AVX-512 with VNNI (Ice Lake, Sapphire Rapids, Zen 4 and later): a vector is one register. See `simd.h`. */
#include <immintrin.h>

#define FORM "avx512_vnni"
#define ROWS 6 /* 6 x 4 accumulators, 4 weights and a broadcast fill the 32 registers */
#define VECTORS 4

INLINE f32x16 min(f32x16 a, f32x16 b) { return (f32x16)_mm512_min_ps((__m512)a, (__m512)b); }

INLINE f32x16 max(f32x16 a, f32x16 b) { return (f32x16)_mm512_max_ps((__m512)a, (__m512)b); }

INLINE float reduce_add(f32x16 v) { return _mm512_reduce_add_ps((__m512)v); }

INLINE float reduce_max(f32x16 v) { return _mm512_reduce_max_ps((__m512)v); }

INLINE i32x16 dot4(i32x16 sums, int32_t four, const int8_t *weight) {
    return (i32x16)_mm512_dpbusd_epi32((__m512i)sums, _mm512_set1_epi32(four), _mm512_loadu_si512(weight));
}

INLINE void quantise16(const float *from, float factor, int32_t zero_point, uint8_t *to) {
    __m512i integers = _mm512_cvtps_epi32((__m512)(load(from) * factor));
    integers = _mm512_max_epi32(_mm512_add_epi32(integers, _mm512_set1_epi32(zero_point)), _mm512_setzero_si512());
    _mm_storeu_si128((__m128i *)to, _mm512_cvtusepi32_epi8(integers));
}

INLINE void transpose16(const float *from, int64_t stride, int64_t rows, float scale, float *to) {
    __m512 a[LANES], b[LANES];
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) a[i] = i < rows ? (__m512)(load(from + i * stride) * scale) : _mm512_setzero_ps();
#pragma GCC unroll 4
    for (int i = 0; i < LANES; i += 4) {
        b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
        b[i + 2] = _mm512_unpacklo_ps(a[i + 2], a[i + 3]);
        b[i + 3] = _mm512_unpackhi_ps(a[i + 2], a[i + 3]);
        a[i] = (__m512)_mm512_unpacklo_pd((__m512d)b[i], (__m512d)b[i + 2]);
        a[i + 1] = (__m512)_mm512_unpackhi_pd((__m512d)b[i], (__m512d)b[i + 2]);
        a[i + 2] = (__m512)_mm512_unpacklo_pd((__m512d)b[i + 1], (__m512d)b[i + 3]);
        a[i + 3] = (__m512)_mm512_unpackhi_pd((__m512d)b[i + 1], (__m512d)b[i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        __m512 even = _mm512_shuffle_f32x4(a[i], a[4 + i], 0x88), odd = _mm512_shuffle_f32x4(a[i], a[4 + i], 0xdd);
        __m512 evens = _mm512_shuffle_f32x4(a[8 + i], a[12 + i], 0x88);
        __m512 odds = _mm512_shuffle_f32x4(a[8 + i], a[12 + i], 0xdd);
        store(to + i * STRIP, (f32x16)_mm512_shuffle_f32x4(even, evens, 0x88));
        store(to + (4 + i) * STRIP, (f32x16)_mm512_shuffle_f32x4(odd, odds, 0x88));
        store(to + (8 + i) * STRIP, (f32x16)_mm512_shuffle_f32x4(even, evens, 0xdd));
        store(to + (12 + i) * STRIP, (f32x16)_mm512_shuffle_f32x4(odd, odds, 0xdd));
    }
}
