/* BERT's WordPiece for plain text: ASCII and general punctuation (U+2010 to U+2027), lower-cased.
 *
 * Most headlines are plain. Any other text is declined, and the caller falls back to the tokenizers library. For plain
 * text this does what BertNormalizer, BertPreTokenizer and WordPiece do; it handles nothing that they treat specially:
 * control characters, accents, wide scripts, and "[", which may start a special token.
 */
#include "wordpiece.h"

#include <string.h>

#define LONGEST_WORD 100
#define FNV_BASIS 14695981039346656037ull
#define FNV(hash, byte) (((hash) ^ (uint8_t)(byte)) * 1099511628211ull)

static int32_t find(const struct vocabulary *v, const int32_t *table, uint64_t hash, const char *word, int64_t n) {
    for (uint64_t slot = (hash ^ hash >> 32) & (v->slots - 1);; slot = (slot + 1) & (v->slots - 1)) {
        int32_t id = table[slot];
        if (id < 0 || (v->length[id] == n && !memcmp(v->text + v->offset[id], word, n))) return id;
    }
}

/* Greedy longest match first; a word that cannot be split completely is one unknown token. */
static int64_t split(const struct vocabulary *v, const char *word, int64_t n, int64_t characters, int32_t *ids) {
    uint64_t hashes[LONGEST_WORD * 3 + 1];
    int64_t count = 0;
    for (int64_t start = 0; start < n && characters <= LONGEST_WORD;) {
        const int32_t *table = start ? v->continuations : v->starts;
        uint64_t hash = FNV_BASIS;
        for (int64_t end = start; end < n; end++) hashes[end] = hash = FNV(hash, word[end]);
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

/* counts: the pieces of each text, or -1 if it is not plain. ids needs space for one id per byte. */
void earlybell_wordpiece(const struct vocabulary *v, const char *bytes, const int64_t *ends, int64_t texts, int32_t *ids,
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
