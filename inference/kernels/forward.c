/* Packed texts from their ids to their answers in one call: every text leaves at the first exit that suffices.
 *
 * Between two layers there are few numbers a text to look at. An interpreter takes longer over them than the kernels,
 * and nobody else can use it meanwhile; here nothing holds it. When a text leaves is CWB's matter
 * (`confidence_window.py` says what the rules are and why; this is their int8 form, tested against it). As in
 * `layer.c` nothing allocates, locks or keeps state, and a text's numbers hang on nothing but the text.
 */
#include <math.h>
#include <string.h>

#include "int8.h"

enum { OFF, AGREEMENT, TREND };

struct rule {
    float threshold;     /* leave when the normalised entropy is below it */
    float margin;        /* for AGREEMENT, by how much the class must lead */
    float uniform;       /* ln(classes), the entropy of knowing nothing */
    int64_t form, window;
};

/* What a text has said so far. */
struct said {
    int32_t *run, *label;
    float *lead;
};

struct journey {
    const struct embedding *embedding;
    const struct layer *const *layers; /* by depth from 1: `inner` of them each */
    const struct exit *const *exits;   /* by depth from 0; NULL where there is none */
    const float *temperatures;         /* by depth from 0 */
    struct rule rule;
    int64_t depths, inner, hidden, classes;
    int64_t batch_tokens;              /* that travel together; a longer text travels alone */
    int64_t asks_from;                 /* the first depth whose exit is asked */
};

/* For one batch. */
struct room {
    float *x;                 /* (batch_tokens or the longest text, hidden) */
    int32_t *lengths, *origin, *keep; /* (batch_tokens,) each, as many as there may be texts */
    struct said said;
    float *probabilities;     /* (batch_tokens, classes) */
    uint8_t *stays;
};

/* Logits to the exit's probabilities, in place. */
void earlybell_probabilities(float *logits, int64_t texts, int64_t classes, float temperature) {
    for (int64_t text = 0; text < texts; text++, logits += classes) {
        float top = -INFINITY, total = 0.0f;
        for (int64_t c = 0; c < classes; c++) {
            logits[c] /= temperature;
            if (logits[c] > top) top = logits[c];
        }
        for (int64_t c = 0; c < classes; c++) total += logits[c] = expf(logits[c] - top);
        for (int64_t c = 0; c < classes; c++) logits[c] /= total;
    }
}

/* Take in one more depth, and mark who leaves. */
void earlybell_decide(const struct rule *rule, const float *probabilities, int64_t texts, int64_t classes, int64_t depth,
                      const struct said *said, uint8_t *leaves) {
    for (int64_t text = 0; text < texts; text++, probabilities += classes) {
        float entropy = 0.0f, lead = -1.0f, second = -1.0f;
        int32_t label = 0;
        for (int32_t c = 0; c < classes; c++) {
            float p = probabilities[c];
            if (p > 0.0f) entropy -= p * logf(p);
            if (p > lead) {
                second = lead;
                lead = p;
                label = c;
            } else if (p > second) second = p;
        }
        leaves[text] = entropy / rule->uniform < rule->threshold;
        if (rule->form == OFF) continue;
        int same = label == said->label[text];
        int32_t run = same ? said->run[text] + 1 : 1;
        if (rule->form == AGREEMENT && !(lead - second > rule->margin)) run = 0;
        if (rule->form == TREND && lead < said->lead[text]) run = 1;
        int counts = depth >= 1;
        said->run[text] = counts ? run : 0;
        said->label[text] = counts ? label : -1;
        said->lead[text] = counts ? lead : 0.0f;
        leaves[text] |= said->run[text] >= rule->window;
    }
}

/* Put down who leaves, and move the others together; returns how many those are. */
static int64_t part(const struct journey *j, struct room *r, int64_t texts, int64_t depth, float *probabilities,
                    int16_t *exit_depth, int32_t *kept) {
    int64_t left = 0;
    for (int64_t text = 0; text < texts; text++) {
        int32_t from = r->origin[text];
        if (!r->stays[text]) {
            memcpy(probabilities + from * j->classes, r->probabilities + text * j->classes, j->classes * sizeof(float));
            exit_depth[from] = (int16_t)depth;
            kept[from] = r->lengths[text];
            continue;
        }
        r->origin[left] = from;
        r->said.run[left] = r->said.run[text];
        r->said.label[left] = r->said.label[text];
        r->said.lead[left++] = r->said.lead[text];
    }
    if (left < texts) earlybell_select(r->x, r->lengths, texts, j->hidden, r->stays);
    return left;
}

/* keep: (texts, depths) tokens that live on past each depth's layers, or NULL for all. */
void earlybell_carry(const struct journey *j, const int32_t *ids, const int32_t *lengths, int64_t texts,
                     const int32_t *keep, struct room *r, struct scratch *s, float *probabilities, int16_t *exit_depth,
                     int32_t *kept) {
    for (int64_t first = 0, stop; first < texts; first = stop) {
        int64_t tokens = 0;
        for (stop = first; stop < texts && (stop == first || tokens + lengths[stop] <= j->batch_tokens); stop++) {
            int64_t place = stop - first;
            tokens += r->lengths[place] = lengths[stop];
            r->origin[place] = (int32_t)stop;
            r->said.run[place] = 0;
            r->said.label[place] = -1;
            r->said.lead[place] = 0.0f;
        }
        int64_t here = stop - first;
        earlybell_embed(j->embedding, ids, r->lengths, here, r->x, s);
        ids += tokens;
        for (int64_t depth = 0; here; depth++) {
            if (depth) {
                for (int64_t text = 0; keep && text < here; text++)
                    r->keep[text] = keep[r->origin[text] * j->depths + depth - 1];
                for (int64_t inner = 0; inner < j->inner; inner++)
                    earlybell_layer(j->layers[(depth - 1) * j->inner + inner], r->x, r->lengths, here,
                                    keep ? r->keep : 0, s);
            }
            if (depth < j->asks_from) continue;
            earlybell_exit(j->exits[depth], r->x, r->lengths, here, r->probabilities, s);
            earlybell_probabilities(r->probabilities, here, j->classes, j->temperatures[depth]);
            earlybell_decide(&j->rule, r->probabilities, here, j->classes, depth, &r->said, r->stays);
            for (int64_t text = 0; text < here; text++) r->stays[text] = !r->stays[text] && depth < j->depths;
            here = part(j, r, here, depth, probabilities, exit_depth, kept);
        }
    }
}
