/* NEON with dot products (Armv8.2 and later: Graviton 2, Apple M1): a vector is four registers. */
#include <arm_neon.h>

#define NEEDS DOTPROD
#define ROWS 5 /* 5 x 4 accumulators, 4 weights and a broadcast fit the 32 registers */
#define VECTORS 1
#define STEP 4
#define STEP_ROWS 5
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

/* Signed by signed: the bytes less 128, which `unbias` adds again through the zero point. */
INLINE i32x16 dot4(i32x16 sums, const uint8_t *bytes, const int8_t *weight) {
    uint32_t four;
    memcpy(&four, bytes, 4);
    int8x16_t signed_bytes = vreinterpretq_s8_u32(vdupq_n_u32(four ^ 0x80808080u));
    EACH sums.v[i] = vdotq_s32(sums.v[i], signed_bytes, vld1q_s8(weight + 16 * i));
    return sums;
}

INLINE i32x16 unbias(i32x16 sums, const int32_t *columns, int32_t zero_point) {
    EACH sums.v[i] = vmlsq_n_s32(sums.v[i], vld1q_s32(columns + 4 * i), zero_point - 128);
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
