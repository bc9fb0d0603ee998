/* The arithmetic of an ELBERT in int8: embedding, layer and exits over packed texts.
 *
 * Texts lie one behind the other without padding: x is (tokens, hidden) float32, lengths the tokens of each text.
 * Products take 8-bit integers on both sides, with one scale and zero point a token for activations and one scale a
 * column for weights. Everything else (attention, norms, GELU, residuals, exits) is float32.
 *
 * A text's numbers hang on nothing but the text: integer sums are exact in any order, and every float operation
 * works on one row or one text, in an order that its own length gives. So answers are the same to the last bit
 * whatever stands beside a text. Nothing here allocates, locks or keeps state: any number of threads may call,
 * each with its own scratch.
 *
 * GCC's vector extensions (which Clang has too) carry it to any processor; only the dot product of 8-bit integers
 * has an AVX-512 VNNI form of its own.
 */
#include <math.h>
#include <string.h>

#include "quantised.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VNNI__)
#include <immintrin.h>
#define WIDE 1
#else
#define WIDE 0
#endif

#define LANES 16
#define PANEL 64    /* columns of a weight panel: four vectors */
#define VECTORS 4
#define TERMS 9     /* of the polynomial that stands for the activation */
#define ROWS 6      /* 6 x 4 accumulators, 4 weights and a broadcast fill the 32 registers */
#define AHEAD 2       /* tokens whose embeddings are fetched before their turn */
#define EXIT_TEXTS 24 /* texts whose pooled states are kept at a time */
#define INLINE static inline __attribute__((always_inline))

typedef float Floats __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(64), aligned(4), may_alias));

/* out = in @ weight.T + bias; weight packed as (panels, inputs / 4, 64 columns, 4). */
struct linear {
    const int8_t *weight;
    const float *scale;   /* (outputs,) of the weights */
    const float *bias;    /* (outputs,) */
    const int32_t *sums;  /* (outputs,) of a column's weights: what a zero point of 1 adds */
    int64_t inputs, outputs;
};

struct norm {
    const float *weight, *bias;
    float epsilon;
};

struct layer {
    struct linear qkv, attention_out, feed_forward_in, feed_forward_out;
    struct norm attention_norm, feed_forward_norm;
    int64_t heads, head_size; /* padded to a multiple of 16 */
    float attention_scale;
    int64_t activation;       /* 0: relu; 1: x times a polynomial of x that stands for the normal distribution */
    float activation_clamp;
    float activation_terms[TERMS];
};

struct embedding {
    const float *token, *position, *type;
    struct norm norm;
    int64_t size;
    const struct linear *projection; /* NULL where the embedding is as wide as the model */
};

/* tanh(pooled @ pooler.T + bias) @ classifier.T + bias, in float32; pooler packed as (panels, inputs, 64). */
struct head {
    const float *pooler, *pooler_bias, *classifier, *classifier_bias;
    int64_t inputs, hidden, classes;
};

struct exit {
    struct head head;
    const struct linear *taps; /* of the features of three neighbouring tokens; NULL where it reads none */
    int64_t width;             /* of the model */
    int64_t mean;              /* whether it reads the mean over the text beside the first token */
};

struct scratch {
    float *wide;       /* (tokens, widest of qkv and feed forward) */
    uint8_t *bytes;    /* (tokens, widest input) */
    float *scale;      /* (tokens,) */
    int32_t *zero;     /* (tokens,) */
    float *queries;    /* (head_size, STRIP) */
    float *keys, *values; /* (longest text, head_size) of one head */
    float *scores;     /* (longest text, STRIP) */
    float *given;      /* (longest text, LANES) ACC's contributions */
    int32_t *chosen;   /* (longest text,) */
    float *pooled;     /* (EXIT_TEXTS, the most inputs of a head) */
    int64_t tokens;    /* that a tile may hold; a longer text than this must not come */
};

INLINE Floats all(float value) { return (Floats){} + value; }

INLINE Floats load(const float *from) { return *(const Floats *)from; }

INLINE void store(float *to, Floats value) { *(Floats *)to = value; }

INLINE Floats pick(Ints mask, Floats yes, Floats no) { return (Floats)(((Ints)yes & mask) | ((Ints)no & ~mask)); }

#if WIDE
INLINE Floats least(Floats a, Floats b) { return (Floats)_mm512_min_ps((__m512)a, (__m512)b); }
INLINE Floats most(Floats a, Floats b) { return (Floats)_mm512_max_ps((__m512)a, (__m512)b); }
#else
INLINE Floats least(Floats a, Floats b) { return pick(a < b, a, b); }
INLINE Floats most(Floats a, Floats b) { return pick(a > b, a, b); }
#endif

#if WIDE
INLINE float sum(Floats v) { return _mm512_reduce_add_ps((__m512)v); }
INLINE float highest(Floats v) { return _mm512_reduce_max_ps((__m512)v); }
#else
INLINE float sum(Floats v) {
    float part[LANES];
    memcpy(part, &v, sizeof part);
    for (int step = LANES / 2; step; step /= 2)
        for (int i = 0; i < step; i++) part[i] += part[i + step];
    return part[0];
}

INLINE float highest(Floats v) {
    float part[LANES];
    memcpy(part, &v, sizeof part);
    for (int step = LANES / 2; step; step /= 2)
        for (int i = 0; i < step; i++) part[i] = part[i] > part[i + step] ? part[i] : part[i + step];
    return part[0];
}
#endif

/* 2^t to about 2e-7, by 2^(whole + fraction), for t up to 126; far below it is 2^-126. */
INLINE Floats power(Floats t) {
    t = most(t, all(-126.0f));
    Floats whole = (t + 12582912.0f) - 12582912.0f;
    Floats f = t - whole;
    Floats p = all(1.540353039e-4f);
    p = p * f + 1.333355814e-3f;
    p = p * f + 9.618129107e-3f;
    p = p * f + 5.550410866e-2f;
    p = p * f + 2.402265069e-1f;
    p = p * f + 6.931471805e-1f;
    p = p * f + 1.0f;
    return (Floats)((Ints)p + (__builtin_convertvector(whole, Ints) << 23));
}

INLINE Floats exponential(Floats v) { return power(least(v * 1.44269504f, all(126.0f))); }

INLINE Ints dot4(Ints sums, int32_t four, const int8_t *weight) {
#if WIDE
    return (Ints)_mm512_dpbusd_epi32((__m512i)sums, _mm512_set1_epi32(four), _mm512_loadu_si512(weight));
#else
    const uint8_t *a = (const uint8_t *)&four;
    for (int lane = 0; lane < LANES; lane++)
        for (int k = 0; k < 4; k++) sums[lane] += (int32_t)a[k] * weight[4 * lane + k];
    return sums;
#endif
}

/* One token's values as 8-bit integers: value = scale * (byte - zero). */
INLINE void quantise_row(const float *from, int64_t n, uint8_t *to, float *scale, int32_t *zero) {
    Floats low = all(0.0f), high = all(0.0f);
    for (int64_t i = 0; i < n; i += LANES) {
        low = least(low, load(from + i));
        high = most(high, load(from + i));
    }
    float smallest = -highest(-low), range = highest(high) - smallest;
    float step = range > 0 ? range / 255.0f : 1.0f, inverse = 1.0f / step;
    int32_t shift = (int32_t)lrintf(-smallest * inverse);
    *scale = step;
    *zero = shift;
    for (int64_t i = 0; i < n; i += LANES) {
#if WIDE
        __m512i whole = _mm512_cvtps_epi32((__m512)(load(from + i) * inverse));
        whole = _mm512_max_epi32(_mm512_add_epi32(whole, _mm512_set1_epi32(shift)), _mm512_setzero_si512());
        _mm_storeu_si128((__m128i *)(to + i), _mm512_cvtusepi32_epi8(whole));
#else
        for (int lane = 0; lane < LANES; lane++) {
            long whole = lrintf(from[i + lane] * inverse) + shift;
            to[i + lane] = (uint8_t)(whole < 0 ? 0 : whole > 255 ? 255 : whole);
        }
#endif
    }
}

INLINE void quantise(const float *from, int64_t stride, int64_t rows, int64_t n, struct scratch *s) {
    for (int64_t row = 0; row < rows; row++)
        quantise_row(from + row * stride, n, s->bytes + row * n, s->scale + row, s->zero + row);
}

INLINE void normalise(float *x, int64_t n, const struct norm *norm) {
    Floats total = all(0.0f), spread = all(0.0f);
    for (int64_t i = 0; i < n; i += LANES) total += load(x + i);
    float mean = sum(total) / (float)n;
    for (int64_t i = 0; i < n; i += LANES) {
        Floats off = load(x + i) - mean;
        spread += off * off;
    }
    float inverse = 1.0f / sqrtf(sum(spread) / (float)n + norm->epsilon);
    for (int64_t i = 0; i < n; i += LANES)
        store(x + i, (load(x + i) - mean) * inverse * load(norm->weight + i) + load(norm->bias + i));
}

INLINE Floats activate(Floats v, const struct layer *l) {
    if (l->activation == 0) return most(v, all(0.0f));
    Floats z = least(most(v, all(-l->activation_clamp)), all(l->activation_clamp));
    Floats square = z * z, p = all(l->activation_terms[TERMS - 1]);
    for (int term = TERMS - 2; term >= 0; term--) p = p * square + l->activation_terms[term];
    return v * (z * p + 0.5f);
}

enum after { STORE, ADD, ACTIVATE };

/* `rows` (at most ROWS, a constant where this is expanded) tokens by one panel of 64 columns. */
INLINE void block(const int rows, enum after after, const struct linear *w, int64_t panel, const struct scratch *s,
                  int64_t first, float *out, int64_t stride, const struct layer *l) {
    const int64_t inputs = w->inputs;
    const uint8_t *a = s->bytes + first * inputs;
    const int8_t *weight = w->weight + panel * PANEL * inputs;
    Ints sums[ROWS][VECTORS];
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) sums[r][v] = (Ints){};
    for (int64_t k = 0; k < inputs; k += 4) {
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            int32_t four;
            memcpy(&four, a + r * inputs + k, 4);
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++) sums[r][v] = dot4(sums[r][v], four, weight + k * PANEL + v * 64);
        }
    }
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; v++) {
        int64_t column = panel * PANEL + v * LANES;
        if (column >= w->outputs) break;
        Ints adds = *(const Ints *)(w->sums + column);
        Floats scale = load(w->scale + column), bias = load(w->bias + column);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            Ints whole = sums[r][v] - adds * s->zero[first + r];
            Floats value = __builtin_convertvector(whole, Floats) * (scale * s->scale[first + r]) + bias;
            float *to = out + r * stride + column;
            if (after == ADD) value += load(to);
            if (after == ACTIVATE) value = activate(value, l);
            store(to, value);
        }
    }
}

/* The quantised rows in the scratch times a matrix. A panel stays in the nearest cache for all rows. */
INLINE void multiply(enum after after, const struct linear *w, int64_t rows, const struct scratch *s, float *out,
                     int64_t stride, const struct layer *l) {
    for (int64_t panel = 0; panel * PANEL < w->outputs; panel++) {
        int64_t row = 0;
        for (; row + ROWS <= rows; row += ROWS) block(ROWS, after, w, panel, s, row, out + row * stride, stride, l);
        float *to = out + row * stride;
        switch (rows - row) {
        case 5: block(5, after, w, panel, s, row, to, stride, l); break;
        case 4: block(4, after, w, panel, s, row, to, stride, l); break;
        case 3: block(3, after, w, panel, s, row, to, stride, l); break;
        case 2: block(2, after, w, panel, s, row, to, stride, l); break;
        case 1: block(1, after, w, panel, s, row, to, stride, l); break;
        }
    }
}

static void multiply_store(const struct linear *w, int64_t rows, const struct scratch *s, float *out, int64_t stride) {
    multiply(STORE, w, rows, s, out, stride, 0);
}

static void multiply_add(const struct linear *w, int64_t rows, const struct scratch *s, float *out, int64_t stride) {
    multiply(ADD, w, rows, s, out, stride, 0);
}

static void multiply_activate(const struct layer *l, int64_t rows, const struct scratch *s, float *out) {
    multiply(ACTIVATE, &l->feed_forward_in, rows, s, out, l->feed_forward_in.outputs, l);
}

#define STRIP 32 /* queries whose scores are computed together: two vectors, a query a lane */
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

static void attention_1(float *qkv, int64_t n, const struct layer *l, struct scratch *s, int pruning) {
    attention(1, qkv, n, l, s, pruning);
}

static void attention_2(float *qkv, int64_t n, const struct layer *l, struct scratch *s, int pruning) {
    attention(2, qkv, n, l, s, pruning);
}

static void attention_4(float *qkv, int64_t n, const struct layer *l, struct scratch *s, int pruning) {
    attention(4, qkv, n, l, s, pruning);
}

/* The first token and the keep - 1 others that give most, ties to the earlier, in the order of the text. */
static void strongest(int64_t n, int64_t keep, struct scratch *s) {
    memset(s->chosen, 0, n * sizeof(int32_t));
    s->chosen[0] = 1;
    for (int64_t taken = 1; taken < keep; taken++) {
        int64_t best = -1;
        for (int64_t j = 1; j < n; j++)
            if (!s->chosen[j] && (best < 0 || s->given[j] > s->given[best])) best = j;
        s->chosen[best] = 1;
    }
}

/* Apply a layer once to all texts, in place.
 *
 * keep: how many tokens of each text live on past the attention, or NULL for all; lengths is then brought up to date
 * and the texts move together. */
void earlybell_layer(const struct layer *l, float *x, int32_t *lengths, int64_t texts, const int32_t *keep,
                     struct scratch *s) {
    const int64_t h = l->attention_out.outputs, all_heads = l->heads * l->head_size;
    const int64_t stride = 3 * all_heads, wide = l->feed_forward_in.outputs;
    float *from = x, *to = x;
    for (int64_t text = 0; text < texts;) {
        int64_t stop = text, tokens = 0;
        while (stop < texts && (stop == text || tokens + lengths[stop] <= s->tokens)) tokens += lengths[stop++];
        quantise(from, h, tokens, h, s);
        multiply_store(&l->qkv, tokens, s, s->wide, stride);
        int64_t at = 0, rows = 0;
        for (; text < stop; text++) {
            int64_t n = lengths[text], left = keep ? keep[text] : n;
            int pruning = left < n;
            float *qkv = s->wide + at * stride;
            if (l->head_size == 2 * LANES) attention_2(qkv, n, l, s, pruning);
            else if (l->head_size == 4 * LANES) attention_4(qkv, n, l, s, pruning);
            else attention_1(qkv, n, l, s, pruning);
            if (pruning) strongest(n, left, s);
            for (int64_t j = 0; j < n; j++, at++) {
                if (pruning && !s->chosen[j]) continue;
                quantise_row(s->wide + at * stride, all_heads, s->bytes + rows * all_heads, s->scale + rows, s->zero + rows);
                if (to + rows * h != from + at * h) memmove(to + rows * h, from + at * h, h * sizeof(float));
                rows++;
            }
            lengths[text] = (int32_t)left;
        }
        multiply_add(&l->attention_out, rows, s, to, h);
        for (int64_t row = 0; row < rows; row++) {
            normalise(to + row * h, h, &l->attention_norm);
            quantise_row(to + row * h, h, s->bytes + row * h, s->scale + row, s->zero + row);
        }
        multiply_activate(l, rows, s, s->wide);
        quantise(s->wide, wide, rows, wide, s);
        multiply_add(&l->feed_forward_out, rows, s, to, h);
        for (int64_t row = 0; row < rows; row++) normalise(to + row * h, h, &l->feed_forward_norm);
        from += tokens * h;
        to += rows * h;
    }
}

/* Token ids, packed as the texts are -> x at depth 0. */
void earlybell_embed(const struct embedding *e, const int32_t *ids, const int32_t *lengths, int64_t texts, float *x,
                     struct scratch *s) {
    const int64_t n = e->size, h = e->projection ? e->projection->outputs : n;
    const int32_t *end = ids;
    for (int64_t text = 0; text < texts; text++) end += lengths[text];
    for (int64_t text = 0; text < texts; text++)
        for (int64_t place = 0; place < lengths[text]; place++, ids++, x += h) {
            const float *token = e->token + (int64_t)*ids * n, *position = e->position + place * n;
            /* The table is larger than any cache: fetch a token ahead while this one is computed. */
            if (end - ids > AHEAD)
                for (int64_t i = 0; i < n; i += LANES) __builtin_prefetch(e->token + (int64_t)ids[AHEAD] * n + i);
            float *row = e->projection ? s->wide : x;
            for (int64_t i = 0; i < n; i += LANES)
                store(row + i, load(token + i) + load(e->type + i) + load(position + i));
            normalise(row, n, &e->norm);
            if (!e->projection) continue;
            quantise(row, n, 1, n, s);
            multiply_store(e->projection, 1, s, x, h);
        }
}

/* The first token, and where the exit reads it the mean over the text, side by side. `inputs` floats lie from one
 * text's `pooled` to the next's. */
static void pool(const struct exit *e, const float *x, const int32_t *lengths, int64_t texts, float *pooled) {
    const int64_t h = e->width;
    for (int64_t text = 0; text < texts; text++, pooled += e->head.inputs) {
        memcpy(pooled, x, h * sizeof(float));
        float share = 1.0f / (float)lengths[text];
        for (int64_t i = 0; e->mean && i < h; i += LANES) {
            Floats total = all(0.0f);
            for (int64_t j = 0; j < lengths[text]; j++) total += load(x + j * h + i);
            store(pooled + h + i, total * share);
        }
        x += lengths[text] * h;
    }
}

/* What three neighbouring tokens say together: each feature's maximum over the text, then its mean.
 *
 * A token's taps are the features' shares of it as the left, the middle and the right one of three; the features' bias
 * is the middle's. Beyond a text's ends there is nobody. */
static void filter(const struct linear *taps, const float *x, const int32_t *lengths, int64_t texts, float *pooled,
                   int64_t stride, struct scratch *s) {
    const int64_t h = taps->inputs, wide = taps->outputs, features = wide / 3;
    for (int64_t text = 0; text < texts;) {
        int64_t stop = text, tokens = 0;
        while (stop < texts && (stop == text || tokens + lengths[stop] <= s->tokens)) tokens += lengths[stop++];
        quantise(x, h, tokens, h, s);
        multiply_store(taps, tokens, s, s->wide, wide);
        const float *row = s->wide;
        for (; text < stop; text++, pooled += stride) {
            const int64_t n = lengths[text];
            for (int64_t i = 0; i < features; i += LANES) {
                Floats top = all(0.0f), total = all(0.0f);
                for (int64_t j = 0; j < n; j++) {
                    const float *here = row + j * wide + features + i;
                    Floats found = load(here);
                    if (j) found += load(here - wide - features);
                    if (j + 1 < n) found += load(here + wide + features);
                    found = most(found, all(0.0f));
                    top = most(top, found);
                    total += found;
                }
                store(pooled + i, top);
                store(pooled + features + i, total * (1.0f / (float)n));
            }
            row += n * wide;
        }
        x += tokens * h;
    }
}

INLINE void head_block(const int rows, const struct head *e, const float *pooled, float *logits) {
    for (int64_t row = 0; row < rows; row++)
        for (int64_t c = 0; c < e->classes; c++) logits[row * e->classes + c] = e->classifier_bias[c];
    for (int64_t panel = 0; panel * PANEL < e->hidden; panel++) {
        const float *weight = e->pooler + panel * PANEL * e->inputs;
        Floats sums[ROWS][VECTORS];
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++) sums[r][v] = all(0.0f);
        for (int64_t k = 0; k < e->inputs; k++)
#pragma GCC unroll 6
            for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
                for (int v = 0; v < VECTORS; v++)
                    sums[r][v] += load(weight + k * PANEL + v * LANES) * pooled[r * e->inputs + k];
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) {
            int64_t column = panel * PANEL + v * LANES;
            if (column >= e->hidden) break;
#pragma GCC unroll 6
            for (int r = 0; r < rows; r++) {
                Floats z = sums[r][v] + load(e->pooler_bias + column);
                Floats bent = 1.0f - 2.0f / (exponential(z * 2.0f) + 1.0f);
                for (int64_t c = 0; c < e->classes; c++)
                    logits[r * e->classes + c] += sum(bent * load(e->classifier + c * e->hidden + column));
            }
        }
    }
}

static void head_rows(const struct head *e, const float *pooled, float *logits) { head_block(ROWS, e, pooled, logits); }

static void head_row(const struct head *e, const float *pooled, float *logits) { head_block(1, e, pooled, logits); }

/* What an exit says of each text: (texts, classes) logits. */
void earlybell_exit(const struct exit *e, const float *x, const int32_t *lengths, int64_t texts, float *logits,
                    struct scratch *s) {
    const int64_t inputs = e->head.inputs, classes = e->head.classes;
    for (int64_t first = 0; first < texts; first += EXIT_TEXTS) {
        int64_t here = texts - first < EXIT_TEXTS ? texts - first : EXIT_TEXTS, text = 0;
        pool(e, x, lengths, here, s->pooled);
        if (e->taps) filter(e->taps, x, lengths, here, s->pooled + e->width * (1 + e->mean), inputs, s);
        for (; text + ROWS <= here; text += ROWS) head_rows(&e->head, s->pooled + text * inputs, logits + text * classes);
        for (; text < here; text++) head_row(&e->head, s->pooled + text * inputs, logits + text * classes);
        for (text = 0; text < here; text++) x += lengths[text] * e->width;
        lengths += here;
        logits += here * classes;
    }
}

/* Keep the texts that are marked, in their order; returns how many. lengths is brought up to date. */
int64_t earlybell_select(float *x, int32_t *lengths, int64_t texts, int64_t h, const uint8_t *stays) {
    int64_t kept = 0;
    float *to = x;
    for (int64_t text = 0; text < texts; text++) {
        int64_t values = lengths[text] * h;
        if (stays[text]) {
            if (to != x) memmove(to, x, values * sizeof(float));
            to += values;
            lengths[kept++] = lengths[text];
        }
        x += values;
    }
    return kept;
}

/* Whether the fast dot product was compiled in. */
int64_t earlybell_wide(void) { return WIDE; }
