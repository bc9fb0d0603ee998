/* Reads texts with `wordpiece.c`, without Python, so that a sanitizer sees every array with no space to spare.
 *
 * In, as 64-bit integers and bytes: the numbers of pieces, special tokens and texts, the id of an unknown word, and how
 * much is read; each piece by length; each special token by id and length; each text by characters and length. Out, as
 * 32-bit integers: whether each text is refused, how many ids it has, and the ids. */
#include <stdio.h>
#include <stdlib.h>

#include "wordpiece.h"

void earlybell_index(const struct tokenizer *t);
void earlybell_read(const struct tokenizer *t, const char *joined, int64_t size, const int64_t *characters, int64_t texts,
                    int32_t *ids, int64_t *offsets, uint8_t *refused);

static int64_t number(void) {
    int64_t value;
    if (fread(&value, sizeof value, 1, stdin) != 1) abort();
    return value;
}

static void *space(int64_t count, size_t size) {
    void *array = malloc((size_t)count * size);
    if (!array) abort();
    return array;
}

/* Append the bytes of one more text to `joined`, in space of just that size. */
static char *append(char *joined, int64_t size, int64_t more) {
    char *longer = realloc(joined, (size_t)(size + more) + !(size + more));
    if (!longer || (int64_t)fread(longer + size, 1, (size_t)more, stdin) != more) abort();
    return longer;
}

int main(void) {
    int64_t pieces = number(), specials = number(), texts = number(), unknown = number(), max_tokens = number(),
            head_tokens = number(), max_characters = number(), slots = 1;
    while (slots < 2 * pieces) slots *= 2;
    int32_t *offset = space(pieces + 1, 4), *special_offset = space(specials + 1, 4), *special_id = space(specials, 4);
    char *text = 0, *special = 0, *joined = 0;
    offset[0] = special_offset[0] = 0;
    for (int64_t i = 0, n; i < pieces; i++) {
        text = append(text, offset[i], n = number());
        offset[i + 1] = offset[i] + (int32_t)n;
    }
    for (int64_t i = 0, n; i < specials; i++) {
        special_id[i] = (int32_t)number();
        special = append(special, special_offset[i], n = number());
        special_offset[i + 1] = special_offset[i] + (int32_t)n;
    }
    int64_t *characters = space(texts, 8), size = 0, most = 2 * max_characters;
    for (int64_t i = 0, n; i < texts; i++, size += n) {
        characters[i] = number();
        joined = append(joined, size, n = number());
        most += characters[i] + 2 < max_tokens ? characters[i] + 2 : max_tokens;
    }
    const struct tokenizer t = {text, offset, space(slots, 8), special, special_id, special_offset, pieces, slots, specials,
                                unknown, 2, 3, max_tokens, head_tokens, max_characters};
    earlybell_index(&t);
    int32_t *ids = space(most, 4);
    int64_t *offsets = space(texts + 1, 8);
    uint8_t *refused = space(texts, 1);
    earlybell_read(&t, joined, size, characters, texts, ids, offsets, refused);
    for (int64_t i = 0; i < texts; i++) fwrite(&(int32_t){refused[i]}, 4, 1, stdout);
    for (int64_t i = 0; i < texts; i++) fwrite(&(int32_t){(int32_t)(offsets[i + 1] - offsets[i])}, 4, 1, stdout);
    fwrite(ids, 4, (size_t)offsets[texts], stdout);
    free(offset), free(special_offset), free(special_id), free(text), free(special), free(joined), free(characters);
    free(t.index), free(ids), free(offsets), free(refused);
    return 0;
}
