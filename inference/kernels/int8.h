/* The structures of the int8 kernels and what computes with them; `int8_weights.py` declares the same ones. */
#ifndef EARLYBELL_QUANTISED_H
#define EARLYBELL_QUANTISED_H

#include <stdint.h>

#define PANEL 64      /* columns of a weight panel: four vectors */
#define VECTORS 4
#define ROWS 6        /* 6 x 4 accumulators, 4 weights and a broadcast fill the 32 registers */
#define STRIP 32      /* queries whose scores are computed together: two vectors, a query a lane */
#define TERMS 9       /* of the polynomial that stands for the activation */
#define EXIT_TEXTS 24 /* texts whose pooled states are kept at a time */

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

/* out (rows, outputs): rows of `from`, `stride` apart, as 8-bit integers times a matrix. */
void earlybell_multiply(const struct linear *w, const float *from, int64_t stride, int64_t rows, float *out,
                        struct scratch *s);
void earlybell_attention(float *qkv, int64_t n, const struct layer *l, struct scratch *s, int pruning);
void earlybell_embed(const struct embedding *e, const int32_t *ids, const int32_t *lengths, int64_t texts, float *x,
                     struct scratch *s);
void earlybell_layer(const struct layer *l, float *x, int32_t *lengths, int64_t texts, const int32_t *keep,
                     struct scratch *s);
void earlybell_exit(const struct exit *e, const float *x, const int32_t *lengths, int64_t texts, float *logits,
                    struct scratch *s);
int64_t earlybell_select(float *x, int32_t *lengths, int64_t texts, int64_t h, const uint8_t *stays);

#endif
