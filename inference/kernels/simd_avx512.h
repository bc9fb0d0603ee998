/* AVX-512 BW (Skylake and later), and with VNNI (Ice Lake, Zen 4 and later): a vector is one register. */
#include <immintrin.h>

#define ROWS 6 /* 6 x 4 accumulators, 4 weights and a broadcast fill the 32 registers */
#define VECTORS 4
#define STEP_VECTORS 4
#define UNROLL 8

/* Keeps a value in a register and a chain of sums in its order, which a compiler might widen until registers run out. */
#ifndef PIN
#define PIN(value) __asm__("" : "+v"(value))
#endif

typedef struct { __m512 a; } f32x16;
typedef struct { __m512i a; } i32x16;

INLINE f32x16 load(const float *from) { return (f32x16){_mm512_loadu_ps(from)}; }

INLINE void store(float *to, f32x16 v) { _mm512_storeu_ps(to, v.a); }

INLINE f32x16 splat(float value) { return (f32x16){_mm512_set1_ps(value)}; }

#define LANEWISE(name, instruction) \
    INLINE f32x16 name(f32x16 x, f32x16 y) { return (f32x16){instruction(x.a, y.a)}; }
LANEWISE(add, _mm512_add_ps)
LANEWISE(sub, _mm512_sub_ps)
LANEWISE(mul, _mm512_mul_ps)
LANEWISE(divide, _mm512_div_ps)
LANEWISE(min, _mm512_min_ps)
LANEWISE(max, _mm512_max_ps)
#undef LANEWISE

INLINE f32x16 fmadd(f32x16 x, f32x16 y, f32x16 z) { return (f32x16){_mm512_fmadd_ps(x.a, y.a, z.a)}; }

INLINE __m256 upper_half(__m512 v) { return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v), 1)); }

INLINE float reduce_add(f32x16 v) {
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v.a), upper_half(v.a));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

INLINE float reduce_max(f32x16 v) {
    __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(v.a), upper_half(v.a));
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

INLINE i32x16 round_to_int(f32x16 v) { return (i32x16){_mm512_cvtps_epi32(v.a)}; }

INLINE f32x16 to_float(i32x16 v) { return (f32x16){_mm512_cvtepi32_ps(v.a)}; }

INLINE f32x16 scale2(f32x16 v, i32x16 n) {
    return (f32x16){_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(v.a), _mm512_slli_epi32(n.a, 23)))};
}

INLINE i32x16 zero_sums(void) { return (i32x16){_mm512_setzero_si512()}; }

#if defined(__AVX512VNNI__) || defined(EMULATE_VNNI)
#define NEEDS (AVX2 | AVX512 | AVX512_VNNI)
#define STEP 4
#define STEP_ROWS 6

INLINE i32x16 dot4(i32x16 sums, const uint8_t *bytes, const int8_t *weight) {
    int32_t four;
    memcpy(&four, bytes, 4);
    return (i32x16){_mm512_dpbusd_epi32(sums.a, _mm512_set1_epi32(four), _mm512_loadu_si512(weight))};
}
#else
#define NEEDS (AVX2 | AVX512)
#define STEP 16
#define STEP_ROWS 3 /* 3 x 4 sums of 32 bits, as many of 16 bits, 4 weights, a broadcast, a product and ones */

INLINE void dot16(const int rows, i32x16 (*sums)[STEP_VECTORS], const uint8_t *bytes, int64_t stride,
                  const int8_t *weight, const int64_t *panel) {
    const __m512i ones = _mm512_set1_epi16(1);
    __m512i words[STEP_ROWS][STEP_VECTORS]; /* 16-bit sums */
    UNROLLED
    for (int k = 0; k < STEP; k += 4) {
        __m512i weights[STEP_VECTORS];
        UNROLLED
        for (int v = 0; v < STEP_VECTORS; v++) weights[v] = _mm512_loadu_si512(weight + panel[v] + k * LANES);
        UNROLLED
        for (int r = 0; r < rows; r++) {
            int32_t four;
            memcpy(&four, bytes + r * stride + k, 4);
            __m512i broadcast = _mm512_set1_epi32(four);
            UNROLLED
            for (int v = 0; v < STEP_VECTORS; v++) {
                __m512i pairs = _mm512_maddubs_epi16(broadcast, weights[v]);
                words[r][v] = k ? _mm512_add_epi16(words[r][v], pairs) : pairs;
                PIN(words[r][v]);
            }
        }
    }
    UNROLLED
    for (int r = 0; r < rows; r++)
        UNROLLED
        for (int v = 0; v < STEP_VECTORS; v++)
            sums[r][v].a = _mm512_add_epi32(sums[r][v].a, _mm512_madd_epi16(words[r][v], ones));
}
#endif

INLINE i32x16 unbias(i32x16 sums, const int32_t *columns, int32_t zero_point) {
    __m512i product = _mm512_mullo_epi32(_mm512_loadu_si512(columns), _mm512_set1_epi32(zero_point));
    return (i32x16){_mm512_sub_epi32(sums.a, product)};
}

INLINE void quantise16(const float *from, float factor, int32_t zero_point, uint8_t *to) {
    __m512i integers = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(from), _mm512_set1_ps(factor)));
    integers = _mm512_max_epi32(_mm512_add_epi32(integers, _mm512_set1_epi32(zero_point)), _mm512_setzero_si512());
    _mm_storeu_si128((__m128i *)to, _mm512_cvtusepi32_epi8(integers));
}

INLINE void transpose16(const float *from, int64_t stride, int64_t rows, float scale, float *to) {
    __m512 a[LANES], b[LANES];
    const __m512 factor = _mm512_set1_ps(scale);
UNROLLED
    for (int i = 0; i < LANES; i++)
        a[i] = i < rows ? _mm512_mul_ps(_mm512_loadu_ps(from + i * stride), factor) : _mm512_setzero_ps();
UNROLLED
    for (int i = 0; i < LANES; i += 4) {
        b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
        b[i + 2] = _mm512_unpacklo_ps(a[i + 2], a[i + 3]);
        b[i + 3] = _mm512_unpackhi_ps(a[i + 2], a[i + 3]);
        a[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(b[i]), _mm512_castps_pd(b[i + 2])));
        a[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(b[i]), _mm512_castps_pd(b[i + 2])));
        a[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(b[i + 1]), _mm512_castps_pd(b[i + 3])));
        a[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(b[i + 1]), _mm512_castps_pd(b[i + 3])));
    }
UNROLLED
    for (int i = 0; i < 4; i++) {
        __m512 even = _mm512_shuffle_f32x4(a[i], a[4 + i], 0x88), odd = _mm512_shuffle_f32x4(a[i], a[4 + i], 0xdd);
        __m512 evens = _mm512_shuffle_f32x4(a[8 + i], a[12 + i], 0x88);
        __m512 odds = _mm512_shuffle_f32x4(a[8 + i], a[12 + i], 0xdd);
        _mm512_storeu_ps(to + i * STRIP, _mm512_shuffle_f32x4(even, evens, 0x88));
        _mm512_storeu_ps(to + (4 + i) * STRIP, _mm512_shuffle_f32x4(odd, odds, 0x88));
        _mm512_storeu_ps(to + (8 + i) * STRIP, _mm512_shuffle_f32x4(even, evens, 0xdd));
        _mm512_storeu_ps(to + (12 + i) * STRIP, _mm512_shuffle_f32x4(odd, odds, 0xdd));
    }
}
