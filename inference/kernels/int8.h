/* The structures that cross from Python into the int8 kernels.
 *
 * `structs.py` declares the same structures; their sizes are compared when the library is loaded (`library.py`). */
#ifndef EARLYBELL_INT8_H
#define EARLYBELL_INT8_H

#include <stdint.h>

#define LANES 16      /* numbers of a vector */
#define STRIP 32      /* queries whose attention scores are computed together: two vectors, a query a lane */
#define PANEL 64      /* columns of a panel of a pooler: four vectors */
#define GROUP 16      /* inputs whose weights are limited together: see `dot` in simd.h */
#define GROUP_LIMIT 128
#define TERMS 9       /* of the polynomial that approximates the activation */
#define EXIT_TEXTS 24 /* texts whose pooled states are kept at a time */

/* out = in @ weight.T + bias; weight packed as (outputs / 16, inputs / 4, 16 outputs, 4 inputs). */
struct linear {
    const int8_t *weight;
    const float *scale;         /* (outputs,) of the weights */
    const float *bias;          /* (outputs,) */
    const int32_t *column_sums; /* (outputs,) sum of a column's weights: what a zero point of 1 adds */
    int64_t inputs, outputs;
};

struct norm {
    const float *weight, *bias;
    float epsilon;
};

struct layer {
    struct linear qkv, attention_out, feed_forward_in, feed_forward_out;
    struct norm attention_norm, feed_forward_norm;
    int64_t heads, head_size; /* head_size padded to a multiple of 16 */
    float attention_scale;
    int64_t activation;       /* 0: relu; 1: x times a polynomial of x that approximates the normal distribution */
    float activation_clamp;
    float activation_terms[TERMS];
};

struct embedding {
    const float *token, *position, *type;
    struct norm norm;
    int64_t size;
    const struct linear *projection; /* NULL if the embedding is as wide as the model */
};

/* tanh(pooled @ pooler.T + bias) @ classifier.T + bias, in float32; pooler packed as (panels, inputs, 64). */
struct head {
    const float *pooler, *pooler_bias, *classifier, *classifier_bias;
    int64_t inputs, hidden, classes;
};

struct exit {
    struct head head;
    const struct linear *taps; /* of the features of three neighbouring tokens; NULL if the exit reads none */
    int64_t width;             /* hidden size of the model */
    int64_t mean;              /* whether it reads the mean over the text beside the first token */
};

/* When a text exits; `confidence_window.py` defines the rules. */
enum window_rule { OFF, AGREEMENT, TREND };

struct exit_rule {
    float threshold;   /* exit below this normalised entropy */
    float margin;      /* AGREEMENT: by how much the class must lead */
    float max_entropy; /* ln(classes) */
    int64_t window_rule, window;
};

/* What each text's confidence window remembers. */
struct window_state {
    int32_t *run, *label;
    float *lead;
};

/* A model, its exits and the rule that texts exit by. */
struct model {
    const struct embedding *embedding;
    const struct layer *const *layers; /* by depth from 1: `inner_layers` of them each */
    const struct exit *const *exits;   /* by depth from 0; NULL where there is none */
    const float *temperatures, *sharpening; /* by depth from 0 */
    struct exit_rule rule;
    int64_t depths, inner_layers, hidden, classes;
    int64_t batch_tokens;              /* of a batch; a longer text is a batch of its own */
    int64_t first_exit;                /* exits at lower depths are not evaluated */
};

/* The state of one batch, with space for `batch_tokens` tokens or the longest text, and as many texts. */
struct batch {
    float *hidden;                    /* (tokens, hidden) */
    int32_t *lengths, *origin, *keep; /* (texts,) each */
    struct window_state window;
    float *probabilities;             /* (texts, classes) */
    uint8_t *stays;                   /* (texts,) */
};

/* Intermediate values of one thread. */
struct workspace {
    float *wide;          /* (tokens, the widest of qkv and feed forward) */
    uint8_t *bytes;       /* (tokens, the widest input) */
    float *scale;         /* (tokens,) */
    int32_t *zero_point;  /* (tokens,) */
    float *queries;       /* (head_size, STRIP) */
    float *keys, *values; /* (longest text, head_size) of one head */
    float *scores;        /* (longest text, STRIP) */
    float *contribution;  /* (longest text, LANES) of ACC */
    int32_t *selected;    /* (longest text,) */
    float *pooled;        /* (EXIT_TEXTS, the most inputs of a head) */
    int64_t tile_tokens;  /* tokens that go through a layer together; a longer text goes alone */
};

#endif
