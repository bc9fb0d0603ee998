/* A form of the kernels: its functions, and what they need of the processor. The library holds several (`library.c`). */
#ifndef EARLYBELL_FORM_H
#define EARLYBELL_FORM_H

#include <stdint.h>

#include "int8.h"

/* Instructions that a form may need, beyond those that every processor of its architecture has. */
enum {
    AVX2 = 1 << 0, /* with FMA */
    AVX_VNNI = 1 << 1,
    AVX512 = 1 << 2, /* F and BW */
    AVX512_VNNI = 1 << 3,
    DOTPROD = 1 << 4,
    I8MM = 1 << 5,
};

struct form {
    const char *name;
    int64_t needs; /* a set of the above */
    void (*forward)(const struct model *m, const int32_t *ids, const int32_t *lengths, int64_t texts,
                    const int32_t *keep, struct batch *b, struct workspace *s, float *probabilities,
                    int16_t *exit_depth, int32_t *kept);
    void (*embed)(const struct embedding *e, const int32_t *ids, const int32_t *lengths, int64_t texts, float *x,
                  struct workspace *s);
    void (*layer)(const struct layer *l, float *x, int32_t *lengths, int64_t texts, const int32_t *keep,
                  struct workspace *s);
    void (*exit)(const struct exit *e, const float *x, const int32_t *lengths, int64_t texts, float *logits,
                 struct workspace *s);
    void (*softmax)(float *logits, int64_t texts, int64_t classes, float temperature, float sharpening);
    void (*decide)(const struct exit_rule *rule, const float *probabilities, int64_t texts, int64_t classes,
                   int64_t depth, const struct window_state *window, uint8_t *exits);
    int64_t (*compact)(float *x, int32_t *lengths, int64_t texts, int64_t h, const uint8_t *stays);
};

#endif
