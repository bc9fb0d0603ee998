/* Plain C: compiles for every processor, and is as fast as its compiler makes it. */
#define NEEDS 0
#define ROWS 2
#define VECTORS 1
#define STEP 4
#define STEP_ROWS 2
#define STEP_VECTORS 1
#define UNROLL 4

/* The compiler's choice here: these vectors do not fit into registers anyhow, and all in line take it a minute. */
#undef INLINE
#undef UNROLLED
#define INLINE static inline
#define UNROLLED

typedef struct { float v[LANES]; } f32x16;
typedef struct { int32_t v[LANES]; } i32x16;

#define EACH for (int i = 0; i < LANES; i++)

INLINE f32x16 load(const float *from) {
    f32x16 r;
    memcpy(r.v, from, sizeof r.v);
    return r;
}

INLINE void store(float *to, f32x16 x) { memcpy(to, x.v, sizeof x.v); }

INLINE f32x16 splat(float value) {
    f32x16 r;
    EACH r.v[i] = value;
    return r;
}

#define LANEWISE(name, expression) \
    INLINE f32x16 name(f32x16 x, f32x16 y) { \
        f32x16 r; \
        EACH r.v[i] = expression; \
        return r; \
    }
LANEWISE(add, x.v[i] + y.v[i])
LANEWISE(sub, x.v[i] - y.v[i])
LANEWISE(mul, x.v[i] * y.v[i])
LANEWISE(divide, x.v[i] / y.v[i])
LANEWISE(min, x.v[i] < y.v[i] ? x.v[i] : y.v[i])
LANEWISE(max, x.v[i] > y.v[i] ? x.v[i] : y.v[i])
#undef LANEWISE

INLINE f32x16 fmadd(f32x16 x, f32x16 y, f32x16 z) {
    f32x16 r;
    EACH r.v[i] = fmaf(x.v[i], y.v[i], z.v[i]);
    return r;
}

INLINE float reduce_add(f32x16 x) {
    for (int step = LANES / 2; step; step /= 2)
        for (int i = 0; i < step; i++) x.v[i] += x.v[i + step];
    return x.v[0];
}

INLINE float reduce_max(f32x16 x) {
    for (int step = LANES / 2; step; step /= 2)
        for (int i = 0; i < step; i++) x.v[i] = x.v[i] > x.v[i + step] ? x.v[i] : x.v[i + step];
    return x.v[0];
}

INLINE i32x16 round_to_int(f32x16 x) {
    i32x16 r;
    EACH r.v[i] = (int32_t)lrintf(x.v[i]);
    return r;
}

INLINE f32x16 to_float(i32x16 x) {
    f32x16 r;
    EACH r.v[i] = (float)x.v[i];
    return r;
}

INLINE f32x16 scale2(f32x16 x, i32x16 n) {
    uint32_t bits[LANES];
    memcpy(bits, x.v, sizeof bits);
    EACH bits[i] += (uint32_t)n.v[i] << 23;
    memcpy(x.v, bits, sizeof bits);
    return x;
}

INLINE i32x16 zero_sums(void) { return (i32x16){{0}}; }

INLINE i32x16 dot4(i32x16 sums, const uint8_t *bytes, const int8_t *weight) {
    EACH for (int k = 0; k < 4; k++) sums.v[i] += (int32_t)bytes[k] * weight[4 * i + k];
    return sums;
}

INLINE i32x16 unbias(i32x16 sums, const int32_t *columns, int32_t zero_point) {
    EACH sums.v[i] -= columns[i] * zero_point;
    return sums;
}

INLINE void quantise16(const float *from, float factor, int32_t zero_point, uint8_t *to) {
    EACH {
        int32_t integer = (int32_t)lrintf(from[i] * factor) + zero_point;
        to[i] = (uint8_t)(integer < 0 ? 0 : integer > 255 ? 255 : integer);
    }
}

INLINE void transpose16(const float *from, int64_t stride, int64_t rows, float scale, float *to) {
    for (int64_t i = 0; i < LANES; i++)
        for (int64_t column = 0; column < LANES; column++)
            to[column * STRIP + i] = i < rows ? from[i * stride + column] * scale : 0.0f;
}
