/* AVX2 with FMA (Haswell, Zen and later), and AVX-VNNI (Alder Lake and later): a vector is two registers. */
#include <immintrin.h>

#define ROWS 6 /* 6 x 2 accumulators, 2 weights and a broadcast fit the 16 registers */
#define VECTORS 1
#define STEP_VECTORS 1
#define UNROLL 4

/* Keeps a value in a register and a chain of sums in its order, which a compiler might widen until registers run out. */
#ifndef PIN
#define PIN(value) __asm__("" : "+x"(value))
#endif

typedef struct { __m256 a, b; } f32x16;
typedef struct { __m256i a, b; } i32x16;

INLINE f32x16 load(const float *from) { return (f32x16){_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }

INLINE void store(float *to, f32x16 v) {
    _mm256_storeu_ps(to, v.a);
    _mm256_storeu_ps(to + 8, v.b);
}

INLINE f32x16 splat(float value) { return (f32x16){_mm256_set1_ps(value), _mm256_set1_ps(value)}; }

#define LANEWISE(name, instruction) \
    INLINE f32x16 name(f32x16 x, f32x16 y) { return (f32x16){instruction(x.a, y.a), instruction(x.b, y.b)}; }
LANEWISE(add, _mm256_add_ps)
LANEWISE(sub, _mm256_sub_ps)
LANEWISE(mul, _mm256_mul_ps)
LANEWISE(divide, _mm256_div_ps)
LANEWISE(min, _mm256_min_ps)
LANEWISE(max, _mm256_max_ps)
#undef LANEWISE

INLINE f32x16 fmadd(f32x16 x, f32x16 y, f32x16 z) {
    return (f32x16){_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}

INLINE float reduce_add(f32x16 v) {
    __m256 eight = _mm256_add_ps(v.a, v.b);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

INLINE float reduce_max(f32x16 v) {
    __m256 eight = _mm256_max_ps(v.a, v.b);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

INLINE i32x16 round_to_int(f32x16 v) { return (i32x16){_mm256_cvtps_epi32(v.a), _mm256_cvtps_epi32(v.b)}; }

INLINE f32x16 to_float(i32x16 v) { return (f32x16){_mm256_cvtepi32_ps(v.a), _mm256_cvtepi32_ps(v.b)}; }

INLINE f32x16 scale2(f32x16 v, i32x16 n) {
    return (f32x16){_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(v.a), _mm256_slli_epi32(n.a, 23))),
                    _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(v.b), _mm256_slli_epi32(n.b, 23)))};
}

INLINE i32x16 zero_sums(void) { return (i32x16){_mm256_setzero_si256(), _mm256_setzero_si256()}; }

#if defined(__AVXVNNI__) || defined(EMULATE_VNNI)
#define STEP 4
#define STEP_ROWS 6

#if defined(EMULATE_VNNI) /* by tests, on a processor without it */
#define NEEDS AVX2
INLINE __m256i dot4_half(__m256i sums, __m256i bytes, const int8_t *weight) {
    uint8_t a[32];
    int32_t totals[8];
    _mm256_storeu_si256((__m256i *)a, bytes);
    _mm256_storeu_si256((__m256i *)totals, sums);
    for (int i = 0; i < 32; i++) totals[i / 4] += (int32_t)a[i] * weight[i];
    return _mm256_loadu_si256((const __m256i *)totals);
}
#else
#define NEEDS (AVX2 | AVX_VNNI)
INLINE __m256i dot4_half(__m256i sums, __m256i bytes, const int8_t *weight) {
    return _mm256_dpbusd_avx_epi32(sums, bytes, _mm256_loadu_si256((const __m256i *)weight));
}
#endif

INLINE i32x16 dot4(i32x16 sums, const uint8_t *bytes, const int8_t *weight) {
    int32_t four;
    memcpy(&four, bytes, 4);
    __m256i broadcast = _mm256_set1_epi32(four);
    return (i32x16){dot4_half(sums.a, broadcast, weight), dot4_half(sums.b, broadcast, weight + 32)};
}
#else
#define NEEDS AVX2
#define STEP 16
#define STEP_ROWS 3 /* 3 x 2 sums of 32 bits, as many of 16 bits, 2 weights, a broadcast and a product */

INLINE void dot16(const int rows, i32x16 (*sums)[STEP_VECTORS], const uint8_t *bytes, int64_t stride,
                  const int8_t *weight, const int64_t *panel) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i a[STEP_ROWS], b[STEP_ROWS]; /* 16-bit sums of the lower and the upper columns */
    UNROLLED
    for (int k = 0; k < STEP; k += 4) {
        const int8_t *from = weight + panel[0] + k * LANES;
        __m256i low = _mm256_loadu_si256((const __m256i *)from), high = _mm256_loadu_si256((const __m256i *)(from + 32));
        UNROLLED
        for (int r = 0; r < rows; r++) {
            int32_t four;
            memcpy(&four, bytes + r * stride + k, 4);
            __m256i broadcast = _mm256_set1_epi32(four);
            __m256i pairs_a = _mm256_maddubs_epi16(broadcast, low), pairs_b = _mm256_maddubs_epi16(broadcast, high);
            a[r] = k ? _mm256_add_epi16(a[r], pairs_a) : pairs_a;
            b[r] = k ? _mm256_add_epi16(b[r], pairs_b) : pairs_b;
            PIN(a[r]);
            PIN(b[r]);
        }
    }
    UNROLLED
    for (int r = 0; r < rows; r++) {
        sums[r][0].a = _mm256_add_epi32(sums[r][0].a, _mm256_madd_epi16(a[r], ones));
        sums[r][0].b = _mm256_add_epi32(sums[r][0].b, _mm256_madd_epi16(b[r], ones));
    }
}
#endif

INLINE i32x16 unbias(i32x16 sums, const int32_t *columns, int32_t zero_point) {
    __m256i zero = _mm256_set1_epi32(zero_point);
    return (i32x16){
        _mm256_sub_epi32(sums.a, _mm256_mullo_epi32(_mm256_loadu_si256((const __m256i *)columns), zero)),
        _mm256_sub_epi32(sums.b, _mm256_mullo_epi32(_mm256_loadu_si256((const __m256i *)(columns + 8)), zero))};
}

INLINE void quantise16(const float *from, float factor, int32_t zero_point, uint8_t *to) {
    i32x16 integers = round_to_int(mul(load(from), splat(factor)));
    __m256i zero = _mm256_set1_epi32(zero_point);
    __m256i words = _mm256_packs_epi32(_mm256_add_epi32(integers.a, zero), _mm256_add_epi32(integers.b, zero));
    words = _mm256_permute4x64_epi64(words, 0xd8);
    _mm_storeu_si128((__m128i *)to,
                     _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}

/* Transposes 8 x 8. */
INLINE void transpose8(__m256 r[8]) {
    __m256 t[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x20);
        t[i + 4] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x31);
    }
    for (int i = 0; i < 8; i++) r[i] = t[i];
}

INLINE void transpose16(const float *from, int64_t stride, int64_t rows, float scale, float *to) {
    const __m256 factor = _mm256_set1_ps(scale);
    for (int64_t row = 0; row < LANES; row += 8)
        for (int64_t column = 0; column < LANES; column += 8) {
            __m256 block[8];
UNROLLED
            for (int64_t i = 0; i < 8; i++)
                block[i] = row + i < rows ? _mm256_mul_ps(_mm256_loadu_ps(from + (row + i) * stride + column), factor)
                                          : _mm256_setzero_ps();
            transpose8(block);
UNROLLED
            for (int64_t i = 0; i < 8; i++) _mm256_storeu_ps(to + (column + i) * STRIP + row, block[i]);
        }
}
