/* The peak of a form: its own block of products (see `simd.h`) over data that stay in the L1 cache, and nothing else. */
#include "simd.h"

enum { INPUTS = 256 };

/* Return the number of operations done; a multiplication and an addition count as two. */
int64_t peak(int64_t turns, int32_t *out) {
    uint8_t bytes[STEP_ROWS * INPUTS];
    int8_t weight[STEP_VECTORS * LANES * INPUTS] __attribute__((aligned(64)));
    int64_t panel[STEP_VECTORS];
    i32x16 sums[STEP_ROWS][STEP_VECTORS];
    memset(bytes, (int)turns, sizeof bytes);
    memset(weight, 1, sizeof weight);
    for (int v = 0; v < STEP_VECTORS; v++) panel[v] = v * LANES * INPUTS;
    UNROLLED
    for (int r = 0; r < STEP_ROWS; r++)
        UNROLLED
        for (int v = 0; v < STEP_VECTORS; v++) sums[r][v] = zero_sums();
    for (int64_t turn = 0; turn < turns; turn++) {
        __asm__ volatile("" ::"r"(bytes), "r"(weight) : "memory"); /* they may have changed: multiply them again */
        for (int64_t k = 0; k < INPUTS; k += STEP) dot(STEP_ROWS, sums, bytes + k, INPUTS, weight + k * LANES, panel);
    }
    settle(STEP_ROWS, sums);
    float total = 0.0f;
    UNROLLED
    for (int r = 0; r < STEP_ROWS; r++)
        UNROLLED
        for (int v = 0; v < STEP_VECTORS; v++) total += reduce_add(to_float(sums[r][v]));
    *out = (int32_t)total;
    return turns * INPUTS * STEP_ROWS * STEP_VECTORS * LANES * 2;
}
