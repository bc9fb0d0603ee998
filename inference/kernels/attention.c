/* Attention within one text, in float32: one head at a time, 32 queries at a time, all keys at once.
 *
 * A query is a lane, so the softmax's maxima and sums need no reduction across lanes. ACC's contributions
 * (`elbert.py`) are accumulated on the way if tokens will be pruned.
 */
#include "int8.h"
#include "simd.h"

#define SHORT 64 /* tokens of a text whose keys and values fit into the L1 cache in place */

/* The products of a strip of queries with `keys` keys from `k` on. */
INLINE void scores(const int keys, const int vectors, const float *k, int64_t stride, int64_t size, const float *queries,
                   float *to, f32x16 *top) {
    f32x16 dots[UNROLL][2];
    UNROLLED
    for (int i = 0; i < keys; i++)
        UNROLLED
        for (int v = 0; v < vectors; v++) dots[i][v] = splat(0.0f);
    for (int64_t c = 0; c < size; c++)
        UNROLLED
        for (int v = 0; v < vectors; v++) {
            f32x16 query = load(queries + c * STRIP + v * LANES);
            UNROLLED
            for (int i = 0; i < keys; i++) dots[i][v] = fmadd(query, splat(k[i * stride + c]), dots[i][v]);
        }
    UNROLLED
    for (int i = 0; i < keys; i++)
        UNROLLED
        for (int v = 0; v < vectors; v++) {
            store(to + i * STRIP + v * LANES, dots[i][v]);
            top[v] = max(top[v], dots[i][v]);
        }
}

/* Weighted sums of the values for `queries` queries of a strip; weights[key * STRIP] are the first query's. */
INLINE void weighted_sum(const int queries, const int parts, const float *v, int64_t stride, int64_t n, int64_t size,
                 const float *weights, const float *inverse, float *to, int64_t to_stride) {
    for (int64_t part = 0; part < size; part += parts * LANES) {
        f32x16 context[UNROLL][4];
        UNROLLED
        for (int i = 0; i < queries; i++)
            UNROLLED
            for (int p = 0; p < parts; p++) context[i][p] = splat(0.0f);
        for (int64_t k = 0; k < n; k++)
            UNROLLED
            for (int p = 0; p < parts; p++) {
                f32x16 value = load(v + k * stride + part + p * LANES);
                UNROLLED
                for (int i = 0; i < queries; i++) context[i][p] = fmadd(value, splat(weights[k * STRIP + i]), context[i][p]);
            }
        UNROLLED
        for (int i = 0; i < queries; i++)
            UNROLLED
            for (int p = 0; p < parts; p++) store(to + i * to_stride + part + p * LANES, mul(context[i][p], splat(inverse[i])));
    }
}

/* Attention of one head for a strip of queries, of which `live` are real, over all n keys of their text. */
INLINE void attend(const int vectors, const int parts, int64_t live, const float *k, const float *v, int64_t stride,
                   int64_t n, int64_t size, struct workspace *s, float *to, int64_t to_stride, int contributions) {
    float inverse[STRIP];
    f32x16 top[2] = {splat(-INFINITY), splat(-INFINITY)};
    int64_t j = 0, i = 0;
#define SCORES(keys) \
    for (; j + keys <= n; j += keys) \
        scores(keys, vectors, k + j * stride, stride, size, s->queries, s->scores + j * STRIP, top)
    SCORES(UNROLL);
    SCORES(4);
    SCORES(2);
    SCORES(1);
    UNROLLED
    for (int part = 0; part < vectors; part++) {
        f32x16 total = splat(0.0f);
        for (j = 0; j < n; j++) {
            float *score = s->scores + j * STRIP + part * LANES;
            f32x16 weight = exp2_approx(sub(load(score), top[part]));
            store(score, weight);
            total = add(total, weight);
        }
        store(inverse + part * LANES, divide(splat(1.0f), total));
    }
    if (contributions) {
        for (i = live; i < vectors * LANES; i++) inverse[i] = 0.0f; /* no query there */
        for (j = 0; j < n; j++)
            UNROLLED
            for (int part = 0; part < vectors; part++)
                store(s->contribution + j * LANES, fmadd(load(s->scores + j * STRIP + part * LANES), load(inverse + part * LANES),
                                                       load(s->contribution + j * LANES)));
    }
#define WEIGHTED_SUM(queries) \
    for (; i + queries <= live; i += queries) \
        weighted_sum(queries, parts, v, stride, n, size, s->scores + i, inverse + i, to + i * to_stride, to_stride)
    i = 0;
    if (parts <= 2) WEIGHTED_SUM(UNROLL);
    WEIGHTED_SUM(4);
    WEIGHTED_SUM(2);
    WEIGHTED_SUM(1);
}

/* Attention of all heads; the results replace the queries. */
INLINE void attention(const int parts, float *qkv, int64_t n, const struct layer *l, struct workspace *s, int pruning) {
    const int64_t size = l->head_size, all_heads = l->heads * size, stride = 3 * all_heads;
    /* exp2 instead of exp: the scale takes the factor between them. */
    const float scale = l->attention_scale * 1.44269504f;
    if (pruning) memset(s->contribution, 0, n * LANES * sizeof(float));
    for (int64_t head = 0; head < l->heads; head++) {
        const float *k = qkv + all_heads + head * size, *v = k + all_heads;
        int64_t from = stride;
        if (n > SHORT) { /* rows this far apart would evict each other from the cache */
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
                    transpose16(q + i * stride + c, stride, live - i, scale, s->queries + c * STRIP + i);
            if (live > LANES) attend(2, parts, live, k, v, from, n, size, s, q, stride, pruning);
            else attend(1, parts, live, k, v, from, n, size, s, q, stride, pruning);
        }
    }
    if (pruning)
        for (int64_t j = 0; j < n; j++) s->contribution[j] = reduce_add(load(s->contribution + j * LANES));
}

/* A head of 32 or 64 values computes its vectors side by side. */
static void attention_1(float *qkv, int64_t n, const struct layer *l, struct workspace *s, int pruning) {
    attention(1, qkv, n, l, s, pruning);
}

static void attention_2(float *qkv, int64_t n, const struct layer *l, struct workspace *s, int pruning) {
    attention(2, qkv, n, l, s, pruning);
}

static void attention_4(float *qkv, int64_t n, const struct layer *l, struct workspace *s, int pruning) {
    attention(4, qkv, n, l, s, pruning);
}

static void earlybell_attention(float *qkv, int64_t n, const struct layer *l, struct workspace *s, int pruning) {
    if (l->head_size == 2 * LANES) attention_2(qkv, n, l, s, pruning);
    else if (l->head_size == 4 * LANES) attention_4(qkv, n, l, s, pruning);
    else attention_1(qkv, n, l, s, pruning);
}
