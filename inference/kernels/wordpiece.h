/* The vocabulary as `wordpiece.c` looks it up; `structs.py` declares it too. */
#ifndef EARLYBELL_WORDPIECE_H
#define EARLYBELL_WORDPIECE_H

#include <stdint.h>

/* Two hash tables with open addressing: a slot holds a piece's id, or -1. `slots` is a power of two. */
struct vocabulary {
    const int32_t *starts, *continuations; /* of pieces that start a word, and of those that continue one (without "##") */
    const char *text;                      /* of all pieces, one after the other */
    const int32_t *offset, *length;        /* by id */
    int64_t slots;
    int32_t unknown;
};

#endif
