/* NEON with dot products (Armv8.2 and later: Graviton 2, Apple M1), or with products of 8-bit matrices as well (I8MM:
 * Graviton 3, Apple M2): a vector is four registers. */
#include <arm_neon.h>

#define ROWS 5 /* 5 x 4 accumulators, 4 weights and a broadcast fit the 32 registers */
#define VECTORS 1
#define STEP_VECTORS 1
#define UNROLL 4

typedef struct { float32x4_t v[4]; } f32x16;
typedef struct { int32x4_t v[4]; } i32x16;

#define EACH _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++)

INLINE f32x16 load(const float *from) {
    f32x16 r;
    EACH r.v[i] = vld1q_f32(from + 4 * i);
    return r;
}

INLINE void store(float *to, f32x16 x) { EACH vst1q_f32(to + 4 * i, x.v[i]); }

INLINE f32x16 splat(float value) {
    f32x16 r;
    EACH r.v[i] = vdupq_n_f32(value);
    return r;
}

#define LANEWISE(name, expression) \
    INLINE f32x16 name(f32x16 x, f32x16 y) { \
        f32x16 r; \
        EACH r.v[i] = expression; \
        return r; \
    }
LANEWISE(add, vaddq_f32(x.v[i], y.v[i]))
LANEWISE(sub, vsubq_f32(x.v[i], y.v[i]))
LANEWISE(mul, vmulq_f32(x.v[i], y.v[i]))
LANEWISE(divide, vdivq_f32(x.v[i], y.v[i]))
/* Not vminq and vmaxq: they answer NaN where x86 answers the second operand. */
LANEWISE(min, vbslq_f32(vcltq_f32(x.v[i], y.v[i]), x.v[i], y.v[i]))
LANEWISE(max, vbslq_f32(vcgtq_f32(x.v[i], y.v[i]), x.v[i], y.v[i]))
#undef LANEWISE

INLINE f32x16 fmadd(f32x16 x, f32x16 y, f32x16 z) {
    f32x16 r;
    EACH r.v[i] = vfmaq_f32(z.v[i], x.v[i], y.v[i]);
    return r;
}

INLINE float reduce_add(f32x16 x) {
    float32x4_t four = vaddq_f32(vaddq_f32(x.v[0], x.v[2]), vaddq_f32(x.v[1], x.v[3]));
    float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

INLINE float reduce_max(f32x16 x) {
    float part[LANES];
    store(part, x);
    for (int step = LANES / 2; step; step /= 2)
        for (int i = 0; i < step; i++) part[i] = part[i] > part[i + step] ? part[i] : part[i + step];
    return part[0];
}

INLINE i32x16 round_to_int(f32x16 x) {
    i32x16 r;
    EACH r.v[i] = vcvtnq_s32_f32(x.v[i]);
    return r;
}

INLINE f32x16 to_float(i32x16 x) {
    f32x16 r;
    EACH r.v[i] = vcvtq_f32_s32(x.v[i]);
    return r;
}

INLINE f32x16 scale2(f32x16 x, i32x16 n) {
    f32x16 r;
    EACH r.v[i] = vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(x.v[i]), vshlq_n_s32(n.v[i], 23)));
    return r;
}

INLINE i32x16 zero_sums(void) {
    i32x16 r;
    EACH r.v[i] = vdupq_n_s32(0);
    return r;
}

#ifdef __ARM_FEATURE_MATMUL_INT8
#define NEEDS (DOTPROD | I8MM)
#define STEP 8
#define STEP_ROWS 4 /* 2 pairs x 8 accumulators, 8 weights and 2 pairs of bytes */

/* Two rows by two columns at a time, so two rows' sums are interleaved until `settle`: in the registers of the first row,
 * then in those of the second, {row 0 column 0, row 0 column 1, row 1 column 0, row 1 column 1} for columns 0 and 1,
 * then for 2 and 3, and so on. A last row without a pair has its sums in order. */
INLINE void dot8(const int rows, i32x16 (*sums)[STEP_VECTORS], const uint8_t *bytes, int64_t stride,
                 const int8_t *weight, const int64_t *panel) {
    const int8_t *from = weight + panel[0]; /* 16 columns x 4 inputs, then the next 4 inputs */
    UNROLLED
    for (int i = 0; i < 4; i++) {
        int32x4_t first = vreinterpretq_s32_s8(vld1q_s8(from + 16 * i));
        int32x4_t second = vreinterpretq_s32_s8(vld1q_s8(from + 16 * i + 4 * LANES));
        int8x16_t low = vreinterpretq_s8_s32(vzip1q_s32(first, second)); /* 8 inputs of a column, 8 of the next */
        int8x16_t high = vreinterpretq_s8_s32(vzip2q_s32(first, second));
        UNROLLED
        for (int r = 0; r + 2 <= rows; r += 2) {
            uint8x16_t pair = vcombine_u8(vld1_u8(bytes + r * stride), vld1_u8(bytes + (r + 1) * stride));
            int32x4_t *tile = i < 2 ? &sums[r][0].v[2 * i] : &sums[r + 1][0].v[2 * i - 4];
            tile[0] = vusmmlaq_s32(tile[0], pair, low);
            tile[1] = vusmmlaq_s32(tile[1], pair, high);
        }
        if (rows % 2) {
            uint8x8_t last = vld1_u8(bytes + (rows - 1) * stride);
            int32x4_t *sum = &sums[rows - 1][0].v[i];
            *sum = vsudotq_lane_s32(*sum, vreinterpretq_s8_s32(first), last, 0);
            *sum = vsudotq_lane_s32(*sum, vreinterpretq_s8_s32(second), last, 1);
        }
    }
}

INLINE void settle(const int rows, i32x16 (*sums)[STEP_VECTORS]) {
    UNROLLED
    for (int r = 0; r + 2 <= rows; r += 2) {
        i32x16 tiles[2] = {sums[r][0], sums[r + 1][0]};
        EACH {
            int64x2_t a = vreinterpretq_s64_s32(tiles[i / 2].v[2 * i % 4]);
            int64x2_t b = vreinterpretq_s64_s32(tiles[i / 2].v[2 * i % 4 + 1]);
            sums[r][0].v[i] = vreinterpretq_s32_s64(vzip1q_s64(a, b));
            sums[r + 1][0].v[i] = vreinterpretq_s32_s64(vzip2q_s64(a, b));
        }
    }
}

#define BYTE_OFFSET 0
#else
#define NEEDS DOTPROD
#define STEP 4
#define STEP_ROWS 5
#define BYTE_OFFSET 128

/* Signed by signed: the bytes less 128, which `unbias` adds again through the zero point. */
INLINE i32x16 dot4(i32x16 sums, const uint8_t *bytes, const int8_t *weight) {
    uint32_t four;
    memcpy(&four, bytes, 4);
    int8x16_t signed_bytes = vreinterpretq_s8_u32(vdupq_n_u32(four ^ 0x80808080u));
    EACH sums.v[i] = vdotq_s32(sums.v[i], signed_bytes, vld1q_s8(weight + 16 * i));
    return sums;
}
#endif

INLINE i32x16 unbias(i32x16 sums, const int32_t *columns, int32_t zero_point) {
    EACH sums.v[i] = vmlsq_n_s32(sums.v[i], vld1q_s32(columns + 4 * i), zero_point - BYTE_OFFSET);
    return sums;
}

INLINE void quantise16(const float *from, float factor, int32_t zero_point, uint8_t *to) {
    i32x16 integers = round_to_int(mul(load(from), splat(factor)));
    int32x4_t zero = vdupq_n_s32(zero_point);
    EACH integers.v[i] = vaddq_s32(integers.v[i], zero);
    uint16x8_t low = vcombine_u16(vqmovun_s32(integers.v[0]), vqmovun_s32(integers.v[1]));
    uint16x8_t high = vcombine_u16(vqmovun_s32(integers.v[2]), vqmovun_s32(integers.v[3]));
    vst1q_u8(to, vcombine_u8(vqmovn_u16(low), vqmovn_u16(high)));
}

INLINE void transpose16(const float *from, int64_t stride, int64_t rows, float scale, float *to) {
    for (int64_t i = 0; i < LANES; i++)
        for (int64_t column = 0; column < LANES; column++)
            to[column * STRIP + i] = i < rows ? from[i * stride + column] * scale : 0.0f;
}
