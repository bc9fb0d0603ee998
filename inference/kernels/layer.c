/* The arithmetic of an ELBERT in int8: embedding and layers over packed texts (`attention.c`, `exit_heads.c`: the rest).
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
 * Only the dot product of 8-bit integers and a few moves have AVX-512 forms of their own; the rest is `simd.h`.
 */
#include <math.h>

#include "int8.h"
#include "simd.h"

#define AHEAD 2 /* tokens whose embeddings are fetched before their turn */

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

void earlybell_multiply(const struct linear *w, const float *from, int64_t stride, int64_t rows, float *out,
                        struct scratch *s) {
    quantise(from, stride, rows, w->inputs, s);
    multiply_store(w, rows, s, out, w->outputs);
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
            earlybell_attention(qkv, n, l, s, pruning);
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
