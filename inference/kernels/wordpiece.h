/* A tokenizer as `wordpiece.c` runs it; `structs.py` declares it too. */
#ifndef EARLYBELL_WORDPIECE_H
#define EARLYBELL_WORDPIECE_H

#include <stdint.h>

struct tokenizer {
    const char *text;          /* of all pieces by id, one after the other */
    const int32_t *offset;     /* (pieces + 1,) */
    uint64_t *index;           /* (slots,) hash table with open addressing; `earlybell_index` fills it */
    const char *special;       /* text of the tokens that are found before anything is normalised, such as "[SEP]" */
    const int32_t *special_id, *special_offset; /* (specials,), (specials + 1,) */
    int64_t pieces, slots, specials;            /* slots: a power of two */
    int64_t unknown, first, last;               /* ids: of an unknown word, and of what stands at either end of a text */
    int64_t max_tokens, head_tokens; /* read of a text, and how many of them at its start; the rest at its end */
    int64_t max_characters;          /* read at either end of a text */
};

#endif
