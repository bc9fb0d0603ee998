/* BERT's word pieces for plain text: ASCII and general punctuation (U+2010 .. U+2027), lower-cased.
 *
 * Most headlines are plain; every other text is refused, and the caller takes the tokenizer proper for it. It does
 * what BertNormalizer, BertPreTokenizer and WordPiece do, and nothing for what they treat in a special way: control
 * characters, accents, wide scripts, and "[", which may begin a special token.
 */
#include <stdint.h>
#include <string.h>

#define LONGEST_WORD 100
#define FIRST 14695981039346656037ull
#define NEXT(hash, byte) (((hash) ^ (uint8_t)(byte)) * 1099511628211ull)

/* Open addressing; a slot holds a piece's id, or -1. `slots` is a power of two. */
struct pieces {
    const int32_t *starts, *inside; /* slots of pieces that begin a word, and of those that go on ("##" left off) */
    const char *text;               /* of all pieces, one behind the other */
    const int32_t *at, *length;     /* by id */
    int64_t slots;
    int32_t unknown;
};

static int32_t find(const struct pieces *v, const int32_t *table, uint64_t hash, const char *word, int64_t n) {
    for (uint64_t slot = (hash ^ hash >> 32) & (v->slots - 1);; slot = (slot + 1) & (v->slots - 1)) {
        int32_t id = table[slot];
        if (id < 0 || (v->length[id] == n && !memcmp(v->text + v->at[id], word, n))) return id;
    }
}

/* The longest piece first, again and again; a word that does not come out even is unknown as a whole. */
static int64_t split(const struct pieces *v, const char *word, int64_t n, int64_t characters, int32_t *ids) {
    uint64_t hashes[LONGEST_WORD * 3 + 1];
    int64_t count = 0;
    for (int64_t start = 0; start < n && characters <= LONGEST_WORD;) {
        const int32_t *table = start ? v->inside : v->starts;
        uint64_t hash = FIRST;
        for (int64_t end = start; end < n; end++) hashes[end] = hash = NEXT(hash, word[end]);
        int64_t end = n;
        int32_t id = -1;
        for (; end > start && (id = find(v, table, hashes[end - 1], word + start, end - start)) < 0; end--) {}
        if (id < 0) break;
        ids[count++] = id;
        start = end;
        if (start == n) return count;
    }
    ids[0] = v->unknown;
    return 1;
}

static int is_punctuation(unsigned char c) {
    return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) || (c >= 123 && c <= 126);
}

/* counts: the pieces of each text, or -1 where it is not plain. ids must have room for as many as there are bytes. */
void earlybell_word_pieces(const struct pieces *v, const char *bytes, const int64_t *ends, int64_t texts, int32_t *ids,
                           int32_t *counts) {
    int64_t i = 0;
    for (int64_t text = 0; text < texts; text++) {
        int32_t *begin = ids;
        char word[LONGEST_WORD + 1];
        int64_t n = 0, plain = 1;
        for (; i < ends[text]; i++) {
            unsigned char c = (unsigned char)bytes[i];
            int wide = c == 0xE2 && i + 2 < ends[text] && (unsigned char)bytes[i + 1] == 0x80 &&
                       (unsigned char)bytes[i + 2] >= 0x90 && (unsigned char)bytes[i + 2] <= 0xA7;
            if ((c >= 127 && !wide) || c < 32 || c == '[') {
                plain = 0;
                break;
            }
            if (c != ' ' && !wide && !is_punctuation(c)) {
                if (n <= LONGEST_WORD) word[n < LONGEST_WORD ? n : LONGEST_WORD] = c >= 'A' && c <= 'Z' ? (char)(c + 32) : (char)c;
                n += n <= LONGEST_WORD;
                continue;
            }
            if (n) ids += split(v, word, n, n, ids);
            n = 0;
            if (c != ' ') ids += split(v, bytes + i, wide ? 3 : 1, 1, ids);
            i += wide ? 2 : 0;
        }
        if (plain && n) ids += split(v, word, n, n, ids);
        if (!plain) ids = begin;
        counts[text] = plain ? (int32_t)(ids - begin) : -1;
        i = ends[text];
    }
}
