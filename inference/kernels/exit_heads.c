/* What the exits say of packed texts: their pooled states through a tanh layer and a classifier, in float32; only the
 * features of three neighbouring tokens begin with a product of 8-bit integers. */
#include <math.h>

#include "int8.h"
#include "simd.h"

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
        earlybell_multiply(taps, x, h, tokens, s->wide, s);
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
