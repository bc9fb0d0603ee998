/* An ELBERT in int8: the embedding and the layers (attention and exits have files of their own).
 *
 * Texts are packed one after the other without padding: x is (tokens, hidden) float32, lengths the tokens of each
 * text. Matrix products take 8-bit integers on both sides: a scale and a zero point per token for activations, a scale
 * per column for weights. Everything else (attention, norms, GELU, residuals, exits) is float32.
 *
 * A text's numbers depend on that text alone: integer sums are exact in any order, and every float operation works on
 * one row or one text, in an order that depends only on the text's length. So answers are the same to the last bit
 * whatever else is in the batch. Nothing here allocates, locks or keeps state: any number of threads may call, each
 * with a workspace of its own.
 */
#include "int8.h"
#include "simd.h"

#define PREFETCH 2 /* tokens whose embeddings are prefetched */

/* Quantise one token's values: value = scale * (byte - zero_point). The scale is NaN unless all of them are finite: bytes
 * would hide what overflowed. */
INLINE void quantise_row(const float *from, int64_t n, uint8_t *to, float *scale, int32_t *zero_point) {
    f32x16 low = splat(0.0f), high = splat(0.0f), zero = splat(0.0f);
    for (int64_t i = 0; i < n; i += LANES) {
        low = min(low, load(from + i));
        high = max(high, load(from + i));
        zero = fmadd(load(from + i), splat(0.0f), zero);
    }
    float smallest = -reduce_max(sub(splat(0.0f), low)), range = reduce_max(high) - smallest;
    float step = range > 0 ? range / 255.0f : 1.0f, inverse = 1.0f / step;
    int32_t shift = (int32_t)lrintf(-smallest * inverse);
    *scale = step + reduce_add(zero);
    *zero_point = shift;
    for (int64_t i = 0; i < n; i += LANES) quantise16(from + i, inverse, shift, to + i);
}

INLINE void quantise(const float *from, int64_t stride, int64_t rows, int64_t n, struct workspace *s) {
    for (int64_t row = 0; row < rows; row++)
        quantise_row(from + row * stride, n, s->bytes + row * n, s->scale + row, s->zero_point + row);
}

INLINE void normalise(float *x, int64_t n, const struct norm *norm) {
    f32x16 total = splat(0.0f), spread = splat(0.0f);
    for (int64_t i = 0; i < n; i += LANES) total = add(total, load(x + i));
    float mean = reduce_add(total) / (float)n;
    for (int64_t i = 0; i < n; i += LANES) {
        f32x16 offset = sub(load(x + i), splat(mean));
        spread = fmadd(offset, offset, spread);
    }
    float inverse = 1.0f / sqrtf(reduce_add(spread) / (float)n + norm->epsilon);
    for (int64_t i = 0; i < n; i += LANES) {
        f32x16 scaled = mul(sub(load(x + i), splat(mean)), splat(inverse));
        store(x + i, fmadd(scaled, load(norm->weight + i), load(norm->bias + i)));
    }
}

INLINE f32x16 activate(f32x16 v, const struct layer *l) {
    if (l->activation == 0) return max(v, splat(0.0f));
    f32x16 z = min(max(v, splat(-l->activation_clamp)), splat(l->activation_clamp));
    f32x16 square = mul(z, z), p = splat(l->activation_terms[TERMS - 1]);
    UNROLLED
    for (int term = TERMS - 2; term >= 0; term--) p = fmadd(p, square, splat(l->activation_terms[term]));
    return mul(v, fmadd(z, p, splat(0.5f)));
}

enum epilogue { STORE, ADD, ACTIVATE };

/* `rows` tokens (at most STEP_ROWS, a constant at each call) times STEP_VECTORS vectors of columns. */
INLINE void block(const int rows, enum epilogue epilogue, const struct linear *w, int64_t first_column,
                  const struct workspace *s, int64_t first, float *out, int64_t stride, const struct layer *l) {
    const int64_t inputs = w->inputs;
    const uint8_t *bytes = s->bytes + first * inputs;
    const int8_t *weight = w->weight + first_column * inputs;
    i32x16 sums[STEP_ROWS][STEP_VECTORS];
    int64_t panel[STEP_VECTORS]; /* columns beyond the last are not stored: any weights will do */
    UNROLLED
    for (int v = 0; v < STEP_VECTORS; v++) panel[v] = first_column + v * LANES < w->outputs ? v * LANES * inputs : 0;
    UNROLLED
    for (int r = 0; r < rows; r++)
        UNROLLED
        for (int v = 0; v < STEP_VECTORS; v++) sums[r][v] = zero_sums();
    for (int64_t k = 0; k < inputs; k += STEP) dot(rows, sums, bytes + k, inputs, weight + k * LANES, panel);
    settle(rows, sums);
    UNROLLED
    for (int v = 0; v < STEP_VECTORS; v++) {
        int64_t column = first_column + v * LANES;
        if (column >= w->outputs) break;
        f32x16 scale = load(w->scale + column), bias = load(w->bias + column);
        UNROLLED
        for (int r = 0; r < rows; r++) {
            i32x16 product = unbias(sums[r][v], w->column_sums + column, s->zero_point[first + r]);
            f32x16 value = fmadd(to_float(product), mul(scale, splat(s->scale[first + r])), bias);
            float *to = out + r * stride + column;
            if (epilogue == ADD) value = add(value, load(to));
            if (epilogue == ACTIVATE) value = activate(value, l);
            store(to, value);
        }
    }
}

/* The workspace's quantised rows times a matrix. Its columns go through the L1 cache once for all rows. */
INLINE void matmul(enum epilogue epilogue, const struct linear *w, int64_t rows, const struct workspace *s, float *out,
                   int64_t stride, const struct layer *l) {
    for (int64_t column = 0; column < w->outputs; column += STEP_VECTORS * LANES) {
        int64_t row = 0;
        for (; row + STEP_ROWS <= rows; row += STEP_ROWS)
            block(STEP_ROWS, epilogue, w, column, s, row, out + row * stride, stride, l);
        float *to = out + row * stride;
#define REST(n) \
    case n: \
        if (n < STEP_ROWS) block(n < STEP_ROWS ? n : 1, epilogue, w, column, s, row, to, stride, l); \
        break
        switch (rows - row) {
            REST(1);
            REST(2);
            REST(3);
            REST(4);
            REST(5);
        }
    }
}

static void matmul_store(const struct linear *w, int64_t rows, const struct workspace *s, float *out, int64_t stride) {
    matmul(STORE, w, rows, s, out, stride, 0);
}

static void matmul_add(const struct linear *w, int64_t rows, const struct workspace *s, float *out, int64_t stride) {
    matmul(ADD, w, rows, s, out, stride, 0);
}

static void matmul_activate(const struct layer *l, int64_t rows, const struct workspace *s, float *out) {
    matmul(ACTIVATE, &l->feed_forward_in, rows, s, out, l->feed_forward_in.outputs, l);
}

static void earlybell_matmul(const struct linear *w, const float *from, int64_t stride, int64_t rows, float *out,
                        struct workspace *s) {
    quantise(from, stride, rows, w->inputs, s);
    matmul_store(w, rows, s, out, w->outputs);
}

/* Select the first token and the keep - 1 others of highest contribution; ties go to the earlier token. */
static void select_tokens(int64_t n, int64_t keep, struct workspace *s) {
    memset(s->selected, 0, n * sizeof(int32_t));
    s->selected[0] = 1;
    for (int64_t taken = 1; taken < keep; taken++) {
        int64_t best = -1;
        for (int64_t j = 1; j < n; j++)
            if (!s->selected[j] && (best < 0 || s->contribution[j] > s->contribution[best])) best = j;
        s->selected[best] = 1;
    }
}

/* Apply a layer to all texts, in place.
 *
 * keep: how many tokens of each text to keep after attention, or NULL for all; lengths is then updated and the texts
 * stay packed. */
static void earlybell_layer(const struct layer *l, float *x, int32_t *lengths, int64_t texts, const int32_t *keep,
                     struct workspace *s) {
    const int64_t h = l->attention_out.outputs, all_heads = l->heads * l->head_size;
    const int64_t stride = 3 * all_heads, wide = l->feed_forward_in.outputs;
    float *from = x, *to = x;
    for (int64_t text = 0; text < texts;) {
        int64_t stop = text, tokens = 0;
        while (stop < texts && (stop == text || tokens + lengths[stop] <= s->tile_tokens)) tokens += lengths[stop++];
        quantise(from, h, tokens, h, s);
        matmul_store(&l->qkv, tokens, s, s->wide, stride);
        int64_t at = 0, rows = 0;
        for (; text < stop; text++) {
            int64_t n = lengths[text], left = keep ? keep[text] : n;
            int pruning = left < n;
            float *qkv = s->wide + at * stride;
            earlybell_attention(qkv, n, l, s, pruning);
            if (pruning) select_tokens(n, left, s);
            for (int64_t j = 0; j < n; j++, at++) {
                if (pruning && !s->selected[j]) continue;
                quantise_row(s->wide + at * stride, all_heads, s->bytes + rows * all_heads, s->scale + rows, s->zero_point + rows);
                if (to + rows * h != from + at * h) memmove(to + rows * h, from + at * h, h * sizeof(float));
                rows++;
            }
            lengths[text] = (int32_t)left;
        }
        matmul_add(&l->attention_out, rows, s, to, h);
        for (int64_t row = 0; row < rows; row++) {
            normalise(to + row * h, h, &l->attention_norm);
            quantise_row(to + row * h, h, s->bytes + row * h, s->scale + row, s->zero_point + row);
        }
        matmul_activate(l, rows, s, s->wide);
        quantise(s->wide, wide, rows, wide, s);
        matmul_add(&l->feed_forward_out, rows, s, to, h);
        for (int64_t row = 0; row < rows; row++) normalise(to + row * h, h, &l->feed_forward_norm);
        from += tokens * h;
        to += rows * h;
    }
}

/* Packed token ids -> x at depth 0. */
static void earlybell_embed(const struct embedding *e, const int32_t *ids, const int32_t *lengths, int64_t texts, float *x,
                     struct workspace *s) {
    const int64_t n = e->size, h = e->projection ? e->projection->outputs : n;
    const int32_t *end = ids;
    for (int64_t text = 0; text < texts; text++) end += lengths[text];
    for (int64_t text = 0; text < texts; text++)
        for (int64_t place = 0; place < lengths[text]; place++, ids++, x += h) {
            const float *token = e->token + (int64_t)*ids * n, *position = e->position + place * n;
            /* The table exceeds every cache: prefetch a token while this one is computed. */
            if (end - ids > PREFETCH)
                for (int64_t i = 0; i < n; i += LANES) __builtin_prefetch(e->token + (int64_t)ids[PREFETCH] * n + i);
            float *row = e->projection ? s->wide : x;
            for (int64_t i = 0; i < n; i += LANES)
                store(row + i, add(add(load(token + i), load(e->type + i)), load(position + i)));
            normalise(row, n, &e->norm);
            if (!e->projection) continue;
            quantise(row, n, 1, n, s);
            matmul_store(e->projection, 1, s, x, h);
        }
}

/* Keep the texts that stay, packed and in order; returns how many. Updates lengths. */
static int64_t earlybell_compact(float *x, int32_t *lengths, int64_t texts, int64_t h, const uint8_t *stays) {
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
