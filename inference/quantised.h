/* What `quantised.c` computes, for those that only pass its structures on. */
#ifndef EARLYBELL_QUANTISED_H
#define EARLYBELL_QUANTISED_H

#include <stdint.h>

struct embedding;
struct layer;
struct exit;
struct scratch;

void earlybell_embed(const struct embedding *e, const int32_t *ids, const int32_t *lengths, int64_t texts, float *x,
                     struct scratch *s);
void earlybell_layer(const struct layer *l, float *x, int32_t *lengths, int64_t texts, const int32_t *keep,
                     struct scratch *s);
void earlybell_exit(const struct exit *e, const float *x, const int32_t *lengths, int64_t texts, float *logits,
                    struct scratch *s);
int64_t earlybell_select(float *x, int32_t *lengths, int64_t texts, int64_t h, const uint8_t *stays);

#endif
