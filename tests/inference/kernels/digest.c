/* Runs the kernels on a small made-up model and prints each form's name and a digest of its answers: always the same.
 *
 * It needs no Python, so that it runs under an emulator too. Linked with the library it runs every form that the
 * processor can; with ONLY defined, that form alone, whatever the processor. */
#include <stdio.h>
#include <stdlib.h>

#include "form.h"

enum { VOCABULARY = 64, HIDDEN = 64, WIDE = 160, HEADS = 4, HEAD = 16, LAYERS = 3, POOLER = 48, FILTERS = 16, CLASSES = 3, TEXTS = 30, LONGEST = 110 };

#ifdef ONLY
extern const struct form ONLY;

static const struct form *earlybell_form(int64_t place, int32_t *runs) {
    *runs = 1;
    return place ? 0 : &ONLY;
}
#else
const struct form *earlybell_form(int64_t place, int32_t *runs);
#endif

static uint64_t state = 1;

static uint32_t next(void) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(state >> 33);
}

/* Multiples of 2^-12 in [-size, size): exact in float32. */
static float number(float size) { return size * (float)((int32_t)(next() % 8192) - 4096) / 4096.0f; }

static void *space(size_t count, size_t size) { return calloc(count + 64, size); }

static float *numbers(int64_t count, float size, float offset) {
    float *values = space(count, sizeof(float));
    for (int64_t i = 0; i < count; i++) values[i] = offset + number(size);
    return values;
}

static struct linear linear(int64_t inputs, int64_t outputs, float size) {
    int8_t *weight = space(outputs * inputs, 1);
    int32_t *sums = space(outputs, sizeof(int32_t));
    for (int64_t c = 0; c < outputs; c++) {
        int left[2][2]; /* what the weights of a group may still add, by half and sign */
        for (int64_t k = 0; k < inputs; k++) {
            if (k % GROUP == 0) left[0][0] = left[0][1] = left[1][0] = left[1][1] = GROUP_LIMIT;
            int negative = next() % 2, *limit = &left[k / 2 % 2][negative], most = *limit < 127 ? *limit : 127;
            int w = next() % 4 ? (int)(next() % 33) : 127; /* extremes often: sums that would overflow */
            if (w > most) w = most;
            *limit -= w;
            if (negative) w = -w;
            weight[c / LANES * LANES * inputs + k / 4 * 4 * LANES + c % LANES * 4 + k % 4] = (int8_t)w;
            sums[c] += w;
        }
    }
    return (struct linear){weight, numbers(outputs, size / 128, size / 64), numbers(outputs, size, 0), sums, inputs, outputs};
}

static struct norm norm(int64_t n) { return (struct norm){numbers(n, 0.5f, 1), numbers(n, 0.25f, 0), 1e-12f}; }

int main(void) {
    struct embedding embedding = {numbers(VOCABULARY * HIDDEN, 1, 0), numbers(LONGEST * HIDDEN, 0.5f, 0),
                                  numbers(HIDDEN, 0.5f, 0), norm(HIDDEN), HIDDEN, 0};
    struct layer layers[LAYERS];
    const struct layer *layer_list[LAYERS];
    for (int i = 0; i < LAYERS; i++) {
        layers[i] = (struct layer){linear(HIDDEN, 3 * HIDDEN, 0.25f), linear(HIDDEN, HIDDEN, 0.25f), linear(HIDDEN, WIDE, 0.25f),
                                   linear(WIDE, HIDDEN, 0.25f), norm(HIDDEN), norm(HIDDEN), HEADS, HEAD, 0.25f, 1, 4.25f, {0}};
        for (int term = 0; term < TERMS; term++) layers[i].activation_terms[term] = number(0.25f) / (float)(1 << 2 * term);
        layer_list[i] = &layers[i];
    }
    struct linear taps = linear(HIDDEN, 3 * FILTERS, 0.25f);
    struct exit exits[LAYERS + 1];
    const struct exit *exit_list[LAYERS + 1];
    float temperatures[LAYERS + 1], sharpening[LAYERS + 1];
    for (int i = 0; i <= LAYERS; i++) {
        int64_t inputs = 2 * HIDDEN + (i ? 0 : 2 * FILTERS);
        exits[i] = (struct exit){{numbers(PANEL * inputs, 0.25f, 0), numbers(PANEL, 0.25f, 0), numbers(CLASSES * POOLER, 0.2f, 0),
                                  numbers(CLASSES, 0.25f, 0), inputs, POOLER, CLASSES}, i ? 0 : &taps, HIDDEN, 1};
        exit_list[i] = &exits[i];
        temperatures[i] = 1.0f + 0.25f * (float)i;
        sharpening[i] = 0.0625f * (float)i;
    }
    const struct model model = {&embedding, layer_list, exit_list, temperatures, sharpening, {0.9f, 0.25f, 1.09861229f, AGREEMENT, 2},
                                LAYERS, 1, HIDDEN, CLASSES, 200, 0};
    const int64_t most = 256, tokens = 160;
    struct batch batch = {space(most * HIDDEN, 4), space(most, 4), space(most, 4), space(most, 4),
                          {space(most, 4), space(most, 4), space(most, 4)}, space(most * CLASSES, 4), space(most, 1)};
    struct workspace s = {space(tokens * 3 * HIDDEN, 4), space(tokens * WIDE, 1), space(tokens, 4), space(tokens, 4),
                          space(HEAD * STRIP, 4), space(tokens * HEAD, 4), space(tokens * HEAD, 4), space(tokens * STRIP, 4),
                          space(tokens * LANES, 4), space(tokens, 4), space(EXIT_TEXTS * (2 * HIDDEN + 2 * FILTERS), 4), 96};
    int32_t lengths[TEXTS], keep[TEXTS * LAYERS], kept[TEXTS], *ids = space(TEXTS * LONGEST, 4), *end = ids;
    for (int i = 0; i < TEXTS; i++) {
        lengths[i] = i == 7 ? LONGEST : 2 + (int32_t)(next() % 24);
        for (int j = 0; j < lengths[i]; j++) *end++ = (int32_t)(next() % VOCABULARY);
        for (int depth = 0, n = lengths[i]; depth < LAYERS; depth++) keep[i * LAYERS + depth] = n = n > 4 ? n * 3 / 4 : n;
    }
    float probabilities[TEXTS * CLASSES];
    int16_t depth[TEXTS];
    const struct form *form;
    int32_t runs;
    for (int64_t place = 0; (form = earlybell_form(place, &runs)); place++) {
    if (!runs) continue;
    uint64_t digest = 14695981039346656037ull;
    for (int pruning = 0; pruning < 2; pruning++) {
        form->forward(&model, ids, lengths, TEXTS, pruning ? keep : 0, &batch, &s, probabilities, depth, kept);
        const void *answers[] = {probabilities, depth, kept};
        const size_t sizes[] = {sizeof probabilities, sizeof depth, sizeof kept};
        for (int part = 0; part < 3; part++)
            for (size_t i = 0; i < sizes[part]; i++) digest = (digest ^ ((const unsigned char *)answers[part])[i]) * 1099511628211ull;
        int counts[LAYERS + 1] = {0};
        for (int i = 0; i < TEXTS; i++) counts[depth[i]]++;
        for (int i = 0; i <= LAYERS; i++) fprintf(stderr, "%d ", counts[i]);
        fprintf(stderr, "%g %g %g\n", (double)probabilities[0], (double)probabilities[1], (double)probabilities[2]);
    }
    printf("%s %016llx\n", form->name, (unsigned long long)digest);
    }
    return 0;
}
