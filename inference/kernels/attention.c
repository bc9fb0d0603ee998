/* Attention within one text, in float32: a head at a time, 32 queries at a time, all keys at once.
 *
 * A query is a lane, so that the softmax's maxima and sums run down the vectors. ACC's contributions (`elbert.py`) are
 * added up on the way where tokens will be dropped. As everywhere in these kernels a text's numbers hang on nothing
 * but the text.
 */
#include <math.h>

#include "int8.h"
#include "simd.h"

#define MOST 8   /* keys, and queries, that are taken at a time: enough sums that none waits for the one before */
#define NEAR 64  /* tokens of a text whose keys and values fit the nearest cache where they lie */

/* `rows` (up to 16) rows of 16 values, times `scale`, to 16 rows of 16 of which the last columns are 0. */
INLINE void transpose(const float *from, int64_t stride, int64_t rows, float scale, float *to) {
#if WIDE
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
        store(to + i * STRIP, (Floats)_mm512_shuffle_f32x4(even, evens, 0x88));
        store(to + (4 + i) * STRIP, (Floats)_mm512_shuffle_f32x4(odd, odds, 0x88));
        store(to + (8 + i) * STRIP, (Floats)_mm512_shuffle_f32x4(even, evens, 0xdd));
        store(to + (12 + i) * STRIP, (Floats)_mm512_shuffle_f32x4(odd, odds, 0xdd));
    }
#else
    for (int64_t i = 0; i < LANES; i++)
        for (int64_t column = 0; column < LANES; column++)
            to[column * STRIP + i] = i < rows ? from[i * stride + column] * scale : 0.0f;
#endif
}

/* The products of a strip of queries with `keys` keys from `k` on. */
INLINE void scores(const int keys, const int vectors, const float *k, int64_t stride, int64_t size, const float *queries,
                   float *to, Floats *top) {
    Floats dots[MOST][2];
#pragma GCC unroll 8
    for (int i = 0; i < keys; i++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) dots[i][v] = all(0.0f);
    for (int64_t c = 0; c < size; c++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) {
            Floats query = load(queries + c * STRIP + v * LANES);
#pragma GCC unroll 8
            for (int i = 0; i < keys; i++) dots[i][v] += query * k[i * stride + c];
        }
#pragma GCC unroll 8
    for (int i = 0; i < keys; i++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) {
            store(to + i * STRIP + v * LANES, dots[i][v]);
            top[v] = most(top[v], dots[i][v]);
        }
}

/* What `queries` of a strip take from the values: shares[key * STRIP] are the first one's. */
INLINE void take(const int queries, const int parts, const float *v, int64_t stride, int64_t n, int64_t size,
                 const float *shares, const float *inverse, float *to, int64_t to_stride) {
    for (int64_t part = 0; part < size; part += parts * LANES) {
        Floats context[MOST][4];
#pragma GCC unroll 8
        for (int i = 0; i < queries; i++)
#pragma GCC unroll 4
            for (int p = 0; p < parts; p++) context[i][p] = all(0.0f);
        for (int64_t k = 0; k < n; k++)
#pragma GCC unroll 4
            for (int p = 0; p < parts; p++) {
                Floats value = load(v + k * stride + part + p * LANES);
#pragma GCC unroll 8
                for (int i = 0; i < queries; i++) context[i][p] += value * shares[k * STRIP + i];
            }
#pragma GCC unroll 8
        for (int i = 0; i < queries; i++)
#pragma GCC unroll 4
            for (int p = 0; p < parts; p++) store(to + i * to_stride + part + p * LANES, context[i][p] * inverse[i]);
    }
}

/* A strip of queries of one head, `live` of them real, against all n keys of their text. */
INLINE void attend(const int vectors, const int parts, int64_t live, const float *k, const float *v, int64_t stride,
                   int64_t n, int64_t size, struct scratch *s, float *to, int64_t to_stride, int contributions) {
    float inverse[STRIP];
    Floats top[2] = {all(-INFINITY), all(-INFINITY)};
    int64_t j = 0, i = 0;
#define SCORES(keys) \
    for (; j + keys <= n; j += keys) \
        scores(keys, vectors, k + j * stride, stride, size, s->queries, s->scores + j * STRIP, top)
    SCORES(MOST);
    SCORES(4);
    SCORES(2);
    SCORES(1);
#pragma GCC unroll 2
    for (int part = 0; part < vectors; part++) {
        Floats total = all(0.0f);
        for (j = 0; j < n; j++) {
            float *score = s->scores + j * STRIP + part * LANES;
            Floats share = power(load(score) - top[part]);
            store(score, share);
            total += share;
        }
        store(inverse + part * LANES, 1.0f / total);
    }
    if (contributions) {
        for (i = live; i < vectors * LANES; i++) inverse[i] = 0.0f; /* nobody asks there */
        for (j = 0; j < n; j++)
#pragma GCC unroll 2
            for (int part = 0; part < vectors; part++)
                store(s->given + j * LANES, load(s->given + j * LANES) +
                      load(s->scores + j * STRIP + part * LANES) * load(inverse + part * LANES));
    }
#define TAKE(queries) \
    for (; i + queries <= live; i += queries) \
        take(queries, parts, v, stride, n, size, s->scores + i, inverse + i, to + i * to_stride, to_stride)
    i = 0;
    if (parts <= 2) TAKE(MOST);
    TAKE(4);
    TAKE(2);
    TAKE(1);
}

/* The contexts of a text's tokens take the place of their queries. */
INLINE void attention(const int parts, float *qkv, int64_t n, const struct layer *l, struct scratch *s, int pruning) {
    const int64_t size = l->head_size, all_heads = l->heads * size, stride = 3 * all_heads;
    /* Two to the scores instead of e: the factor between them is the scale's. */
    const float scale = l->attention_scale * 1.44269504f;
    if (pruning) memset(s->given, 0, n * LANES * sizeof(float));
    for (int64_t head = 0; head < l->heads; head++) {
        const float *k = qkv + all_heads + head * size, *v = k + all_heads;
        int64_t from = stride;
        if (n > NEAR) { /* rows so far apart would push each other out of the cache */
            for (int64_t j = 0; j < n; j++) {
                memcpy(s->keys + j * size, k + j * stride, size * sizeof(float));
                memcpy(s->values + j * size, v + j * stride, size * sizeof(float));
            }
            k = s->keys, v = s->values, from = size;
        }
        for (int64_t first = 0; first < n; first += STRIP) {
            float *q = qkv + first * stride + head * size;
            int64_t live = n - first < STRIP ? n - first : STRIP;
            for (int64_t c = 0; c < size; c += LANES)
                for (int64_t i = 0; i < live; i += LANES)
                    transpose(q + i * stride + c, stride, live - i, scale, s->queries + c * STRIP + i);
            if (live > LANES) attend(2, parts, live, k, v, from, n, size, s, q, stride, pruning);
            else attend(1, parts, live, k, v, from, n, size, s, q, stride, pruning);
        }
    }
    if (pruning)
        for (int64_t j = 0; j < n; j++) s->given[j] = sum(load(s->given + j * LANES));
}

/* A head of 32 or 64 values takes its vectors side by side. */
static void attention_1(float *qkv, int64_t n, const struct layer *l, struct scratch *s, int pruning) {
    attention(1, qkv, n, l, s, pruning);
}

static void attention_2(float *qkv, int64_t n, const struct layer *l, struct scratch *s, int pruning) {
    attention(2, qkv, n, l, s, pruning);
}

static void attention_4(float *qkv, int64_t n, const struct layer *l, struct scratch *s, int pruning) {
    attention(4, qkv, n, l, s, pruning);
}

void earlybell_attention(float *qkv, int64_t n, const struct layer *l, struct scratch *s, int pruning) {
    if (l->head_size == 2 * LANES) attention_2(qkv, n, l, s, pruning);
    else if (l->head_size == 4 * LANES) attention_4(qkv, n, l, s, pruning);
    else attention_1(qkv, n, l, s, pruning);
}
