/* The whole forward pass in one call: packed token ids in, answers out, every text exiting by its own rule.
 *
 * Between two layers there is little to do per text, and an interpreter would take longer over it than the kernels take
 * over the layer, with its lock held; here no lock is held. When a text exits is CWB: `confidence_window.py` defines
 * the rules, and this is their int8 twin, tested against it. As everywhere in these kernels nothing allocates, locks or
 * keeps state, and a text's numbers depend on that text alone.
 */
#include "int8.h"
#include "simd.h"

/* exp and ln of one number, by the vectors' arithmetic: a C library's would differ from one system to the next. */
INLINE float exp_of(float v) {
    float lanes[LANES] = {v};
    store(lanes, exp_approx(load(lanes)));
    return lanes[0];
}

/* ln of a positive, normal number to about 1e-7: of the mantissa in [sqrt(1/2), sqrt(2)), by 2 artanh((m - 1) / (m + 1)). */
INLINE float ln_of(float v) {
    int32_t bits;
    memcpy(&bits, &v, 4);
    int32_t exponent = (bits - 0x3f3504f3) >> 23;
    bits -= exponent * (1 << 23);
    float m;
    memcpy(&m, &bits, 4);
    float s = (m - 1.0f) / (m + 1.0f), square = s * s;
    float lanes[LANES] = {0};
    f32x16 p = splat(0.2222222f);
    p = fmadd(p, splat(square), splat(0.2857143f));
    p = fmadd(p, splat(square), splat(0.4f));
    p = fmadd(p, splat(square), splat(0.6666667f));
    p = fmadd(p, splat(square), splat(2.0f));
    store(lanes, fmadd(p, splat(s), splat((float)exponent * 0.6931472f)));
    return lanes[0];
}

/* An answer with a larger lead is certain, to float's precision. */
#define LARGEST_LEAD 20.0f

/* Logits to probabilities, in place; all of them NaN unless they are numbers. A comparison with NaN is false, and the
 * vectors' exp bounds its argument: without this check NaN would turn into confidence. What the two numbers do, and the
 * twin of it in Python, is in `tempering.py`. */
static void earlybell_softmax(float *logits, int64_t texts, int64_t classes, float temperature, float sharpening) {
    for (int64_t text = 0; text < texts; text++, logits += classes) {
        float top = -INFINITY, second = -INFINITY, total = 0.0f;
        int undefined = 0;
        for (int64_t c = 0; c < classes; c++) {
            logits[c] /= temperature;
            if (logits[c] > top) {
                second = top;
                top = logits[c];
            } else if (logits[c] > second) {
                second = logits[c];
            }
        }
        float lead = top - second < LARGEST_LEAD ? top - second : LARGEST_LEAD, scale = 1.0f + sharpening * lead;
        for (int64_t c = 0; c < classes; c++) {
            logits[c] *= scale;
            undefined |= isnan(logits[c]);
        }
        top *= scale;
        if (undefined || isinf(top)) {
            for (int64_t c = 0; c < classes; c++) logits[c] = NAN;
            continue;
        }
        for (int64_t c = 0; c < classes; c++) total += logits[c] = exp_of(logits[c] - top);
        for (int64_t c = 0; c < classes; c++) logits[c] /= total;
    }
}

/* Update each text's window with one more depth and mark the texts that exit. A text whose probabilities are not
 * numbers exits with them, at once: the caller reports it. */
static void earlybell_decide(const struct exit_rule *rule, const float *probabilities, int64_t texts, int64_t classes,
                      int64_t depth, const struct window_state *window, uint8_t *exits) {
    for (int64_t text = 0; text < texts; text++, probabilities += classes) {
        float entropy = 0.0f, lead = -1.0f, second = -1.0f;
        int32_t label = 0, undefined = 0;
        for (int32_t c = 0; c < classes; c++) {
            float p = probabilities[c];
            undefined |= isnan(p);
            if (p > 0.0f) entropy -= p * ln_of(p);
            if (p > lead) {
                second = lead;
                lead = p;
                label = c;
            } else if (p > second) second = p;
        }
        exits[text] = undefined || entropy / rule->max_entropy < rule->threshold;
        if (undefined || rule->window_rule == OFF) continue;
        int same = label == window->label[text];
        int32_t run = same ? window->run[text] + 1 : 1;
        if (rule->window_rule == AGREEMENT && !(lead - second > rule->margin)) run = 0;
        if (rule->window_rule == TREND && lead < window->lead[text]) run = 1;
        int counts = depth >= 1;
        window->run[text] = counts ? run : 0;
        window->label[text] = counts ? label : -1;
        window->lead[text] = counts ? lead : 0.0f;
        exits[text] |= window->run[text] >= rule->window;
    }
}

/* Write the answers of the texts that exit and pack the others; returns how many those are. */
static int64_t retire(const struct model *m, struct batch *b, int64_t texts, int64_t depth, float *probabilities,
                      int16_t *exit_depth, int32_t *kept) {
    int64_t left = 0;
    for (int64_t text = 0; text < texts; text++) {
        int32_t origin = b->origin[text];
        if (!b->stays[text]) {
            memcpy(probabilities + origin * m->classes, b->probabilities + text * m->classes, m->classes * sizeof(float));
            exit_depth[origin] = (int16_t)depth;
            kept[origin] = b->lengths[text];
            continue;
        }
        b->origin[left] = origin;
        b->window.run[left] = b->window.run[text];
        b->window.label[left] = b->window.label[text];
        b->window.lead[left++] = b->window.lead[text];
    }
    if (left < texts) earlybell_compact(b->hidden, b->lengths, texts, m->hidden, b->stays);
    return left;
}

/* keep: (texts, depths) tokens to keep after attention at each depth, or NULL for all. */
static void earlybell_forward(const struct model *m, const int32_t *ids, const int32_t *lengths, int64_t texts,
                       const int32_t *keep, struct batch *b, struct workspace *s, float *probabilities,
                       int16_t *exit_depth, int32_t *kept) {
    for (int64_t first = 0, stop; first < texts; first = stop) {
        int64_t tokens = 0;
        for (stop = first; stop < texts && (stop == first || tokens + lengths[stop] <= m->batch_tokens); stop++) {
            int64_t text = stop - first;
            tokens += b->lengths[text] = lengths[stop];
            b->origin[text] = (int32_t)stop;
            b->window.run[text] = 0;
            b->window.label[text] = -1;
            b->window.lead[text] = 0.0f;
        }
        int64_t left = stop - first;
        earlybell_embed(m->embedding, ids, b->lengths, left, b->hidden, s);
        ids += tokens;
        for (int64_t depth = 0; left; depth++) {
            if (depth) {
                for (int64_t text = 0; keep && text < left; text++)
                    b->keep[text] = keep[b->origin[text] * m->depths + depth - 1];
                for (int64_t inner = 0; inner < m->inner_layers; inner++)
                    earlybell_layer(m->layers[(depth - 1) * m->inner_layers + inner], b->hidden, b->lengths, left,
                                    keep ? b->keep : 0, s);
            }
            if (depth < m->first_exit) continue;
            earlybell_exit(m->exits[depth], b->hidden, b->lengths, left, b->probabilities, s);
            earlybell_softmax(b->probabilities, left, m->classes, m->temperatures[depth], m->sharpening[depth]);
            earlybell_decide(&m->rule, b->probabilities, left, m->classes, depth, &b->window, b->stays);
            for (int64_t text = 0; text < left; text++) b->stays[text] = !b->stays[text] && depth < m->depths;
            left = retire(m, b, left, depth, probabilities, exit_depth, kept);
        }
    }
}
