/* Plain C: compiles for every processor, and is as fast as its compiler makes it. See `simd.h`. */
#define FORM "portable"
#define ROWS 6
#define VECTORS 4

INLINE f32x16 select(i32x16 mask, f32x16 yes, f32x16 no) {
    return (f32x16)(((i32x16)yes & mask) | ((i32x16)no & ~mask));
}

INLINE f32x16 min(f32x16 a, f32x16 b) { return select(a < b, a, b); }

INLINE f32x16 max(f32x16 a, f32x16 b) { return select(a > b, a, b); }

INLINE float reduce_add(f32x16 v) {
    float part[LANES];
    memcpy(part, &v, sizeof part);
    for (int step = LANES / 2; step; step /= 2)
        for (int i = 0; i < step; i++) part[i] += part[i + step];
    return part[0];
}

INLINE float reduce_max(f32x16 v) {
    float part[LANES];
    memcpy(part, &v, sizeof part);
    for (int step = LANES / 2; step; step /= 2)
        for (int i = 0; i < step; i++) part[i] = part[i] > part[i + step] ? part[i] : part[i + step];
    return part[0];
}

INLINE i32x16 dot4(i32x16 sums, int32_t four, const int8_t *weight) {
    const uint8_t *a = (const uint8_t *)&four;
    for (int lane = 0; lane < LANES; lane++)
        for (int k = 0; k < 4; k++) sums[lane] += (int32_t)a[k] * weight[4 * lane + k];
    return sums;
}

INLINE void quantise16(const float *from, float factor, int32_t zero_point, uint8_t *to) {
    for (int lane = 0; lane < LANES; lane++) {
        long integer = lrintf(from[lane] * factor) + zero_point;
        to[lane] = (uint8_t)(integer < 0 ? 0 : integer > 255 ? 255 : integer);
    }
}

INLINE void transpose16(const float *from, int64_t stride, int64_t rows, float scale, float *to) {
    for (int64_t i = 0; i < LANES; i++)
        for (int64_t column = 0; column < LANES; column++)
            to[column * STRIP + i] = i < rows ? from[i * stride + column] * scale : 0.0f;
}
