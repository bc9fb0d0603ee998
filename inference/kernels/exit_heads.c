/* The exits: pooled states of packed texts through a tanh layer and a classifier, in float32.
 *
 * Only the features of three neighbouring tokens start with a product of 8-bit integers.
 */
#include "int8.h"
#include "simd.h"

/* The first token's state and, if the exit reads it, the mean over the text. Rows of `pooled` are `inputs` apart. */
static void pool(const struct exit *e, const float *x, const int32_t *lengths, int64_t texts, float *pooled) {
    const int64_t h = e->width;
    for (int64_t text = 0; text < texts; text++, pooled += e->head.inputs) {
        memcpy(pooled, x, h * sizeof(float));
        float share = 1.0f / (float)lengths[text];
        for (int64_t i = 0; e->mean && i < h; i += LANES) {
            f32x16 total = splat(0.0f);
            for (int64_t j = 0; j < lengths[text]; j++) total = add(total, load(x + j * h + i));
            store(pooled + h + i, mul(total, splat(share)));
        }
        x += lengths[text] * h;
    }
}

/* Features of three neighbouring tokens (`elbert.Filters`): each one's maximum over the text, then its mean.
 *
 * A token's taps are its contributions to the features as the left, the middle and the right of three tokens; the
 * middle one includes the bias. */
static void convolve(const struct linear *taps, const float *x, const int32_t *lengths, int64_t texts, float *pooled,
                   int64_t stride, struct workspace *s) {
    const int64_t h = taps->inputs, wide = taps->outputs, features = wide / 3;
    for (int64_t text = 0; text < texts;) {
        int64_t stop = text, tokens = 0;
        while (stop < texts && (stop == text || tokens + lengths[stop] <= s->tile_tokens)) tokens += lengths[stop++];
        earlybell_matmul(taps, x, h, tokens, s->wide, s);
        const float *row = s->wide;
        for (; text < stop; text++, pooled += stride) {
            const int64_t n = lengths[text];
            for (int64_t i = 0; i < features; i += LANES) {
                f32x16 top = splat(0.0f), total = splat(0.0f);
                for (int64_t j = 0; j < n; j++) {
                    const float *middle = row + j * wide + features + i;
                    f32x16 feature = load(middle);
                    if (j) feature = add(feature, load(middle - wide - features));
                    if (j + 1 < n) feature = add(feature, load(middle + wide + features));
                    feature = max(feature, splat(0.0f));
                    top = max(top, feature);
                    total = add(total, feature);
                }
                store(pooled + i, top);
                store(pooled + features + i, mul(total, splat(1.0f / (float)n)));
            }
            row += n * wide;
        }
        x += tokens * h;
    }
}

/* Whether all of them are numbers, and finite. */
static int all_finite(const float *values, int64_t n) {
    f32x16 zero = splat(0.0f);
    for (int64_t i = 0; i < n; i += LANES) zero = fmadd(load(values + i), splat(0.0f), zero);
    return reduce_add(zero) == 0.0f;
}

INLINE void head_block(const int rows, const struct head *e, const float *pooled, float *logits) {
    for (int64_t row = 0; row < rows; row++)
        for (int64_t c = 0; c < e->classes; c++) logits[row * e->classes + c] = e->classifier_bias[c];
    for (int64_t first = 0; first < e->hidden; first += VECTORS * LANES) {
        const float *weight = e->pooler + first / PANEL * PANEL * e->inputs + first % PANEL;
        f32x16 sums[ROWS][VECTORS];
        UNROLLED
        for (int r = 0; r < rows; r++)
            UNROLLED
            for (int v = 0; v < VECTORS; v++) sums[r][v] = splat(0.0f);
        for (int64_t k = 0; k < e->inputs; k++)
            UNROLLED
            for (int r = 0; r < rows; r++)
                UNROLLED
                for (int v = 0; v < VECTORS; v++)
                    sums[r][v] =
                        fmadd(load(weight + k * PANEL + v * LANES), splat(pooled[r * e->inputs + k]), sums[r][v]);
        UNROLLED
        for (int v = 0; v < VECTORS; v++) {
            int64_t column = first + v * LANES;
            if (column >= e->hidden) break;
            UNROLLED
            for (int r = 0; r < rows; r++) {
                f32x16 z = add(sums[r][v], load(e->pooler_bias + column));
                f32x16 two = splat(2.0f), one = splat(1.0f);
                f32x16 tanh_z = sub(one, divide(two, add(exp_approx(mul(z, two)), one)));
                for (int64_t c = 0; c < e->classes; c++)
                    logits[r * e->classes + c] += reduce_add(mul(tanh_z, load(e->classifier + c * e->hidden + column)));
            }
        }
    }
}

static void head_rows(const struct head *e, const float *pooled, float *logits) { head_block(ROWS, e, pooled, logits); }

static void head_row(const struct head *e, const float *pooled, float *logits) { head_block(1, e, pooled, logits); }

/* Logits of an exit: (texts, classes); NaN for a text with a state that is not finite, which tanh would hide. */
static void earlybell_exit(const struct exit *e, const float *x, const int32_t *lengths, int64_t texts, float *logits,
                    struct workspace *s) {
    const int64_t inputs = e->head.inputs, classes = e->head.classes;
    for (int64_t first = 0; first < texts; first += EXIT_TEXTS) {
        int64_t count = texts - first < EXIT_TEXTS ? texts - first : EXIT_TEXTS, text = 0;
        pool(e, x, lengths, count, s->pooled);
        if (e->taps) convolve(e->taps, x, lengths, count, s->pooled + e->width * (1 + e->mean), inputs, s);
        for (; text + ROWS <= count; text += ROWS) head_rows(&e->head, s->pooled + text * inputs, logits + text * classes);
        for (; text < count; text++) head_row(&e->head, s->pooled + text * inputs, logits + text * classes);
        for (text = 0; text < count; x += lengths[text++] * e->width) {
            /* The mean depends on every state. */
            if (e->mean ? all_finite(s->pooled + text * inputs, inputs) : all_finite(x, lengths[text] * e->width)) continue;
            for (int64_t c = 0; c < classes; c++) logits[text * classes + c] = NAN;
        }
        lengths += count;
        logits += count * classes;
    }
}
