/* From text to the ids that the model reads, in one call: what `model/tokenizer.py` does through Python and the
 * tokenizers library, and to the same ids.
 *
 * In order: URLs are removed and white space collapses (`normalise`), of a very long text the middle is left out, and
 * the rest goes through BERT's normaliser, BertPreTokenizer and WordPiece. None of these steps writes its result down:
 * each character is classified as it is read (`characters.h`) and added to a word, and a word is looked up when it ends.
 * The few texts with a character that depends on its neighbours are refused, and left to the library.
 */
#include "wordpiece.h"

#include <string.h>

#include "characters.h"

typedef const unsigned char *bytes;

enum { LONGEST_WORD = 100 }; /* in characters; a longer one is unknown */

/* FNV-1a; a piece that continues a word starts from another value than one that starts it. */
#define STARTS 14695981039346656037ull
#define CONTINUES 1099511628211ull
#define ADD(hash, byte) (((hash) ^ (byte)) * 1099511628211ull)

/* What becomes of an ASCII character: a WORD of one in lower case, and what Python takes for white space is SPACE. The
 * characters beyond begin with other bytes. */
static const unsigned char ASCII[256] = {
    [0 ... 8] = GONE,      [9 ... 13] = SPACE,    [14 ... 27] = GONE,    [28 ... 32] = SPACE,
    [33 ... 47] = ALONE,   ['0' ... '9'] = WORD,  [58 ... 64] = ALONE,   ['A' ... 'Z'] = WORD,
    [91 ... 96] = ALONE,   ['a' ... 'z'] = WORD,  [123 ... 126] = ALONE, [127] = GONE,
    [128 ... 255] = REFUSED,
};
#define LOWER(c) ((c) | 32u) /* of a letter or digit */

/* What becomes of a character beyond ASCII; another character that it becomes is written to `c`. */
static enum action action_of(uint32_t *c) {
    int64_t low = 0, high = sizeof RANGES / sizeof *RANGES;
    while (low < high) { /* the first range that does not end before it */
        int64_t middle = (low + high) / 2;
        if (RANGES[middle].last < *c) low = middle + 1;
        else high = middle;
    }
    const struct range *r = &RANGES[low];
    if (low == sizeof RANGES / sizeof *RANGES || r->first > *c) return WORD;
    if (r->action == TO) *c = (uint32_t)r->value;
    else if (r->action == SHIFT || (r->action == ALTERNATE && (*c - r->first) % 2 == 0)) *c += (uint32_t)r->value;
    else return r->action == ALTERNATE ? WORD : (enum action)r->action;
    return *c < 128 ? (enum action)ASCII[*c] : action_of(c);
}

/* Decode one character beyond ASCII; returns its bytes, or 0 if they are not UTF-8. */
static int64_t decode(bytes p, bytes end, uint32_t *c) {
    int64_t n = *p >= 0xF0 ? 4 : *p >= 0xE0 ? 3 : 2;
    if (*p < 0xC2 || *p > 0xF4 || end - p < n) return 0;
    *c = *p & (0x7Fu >> n);
    for (int64_t i = 1; i < n; i++) {
        if ((p[i] & 0xC0) != 0x80) return 0;
        *c = *c << 6 | (p[i] & 0x3F);
    }
    return n;
}

/* The bytes of the white space at p, or 0. */
static int64_t space(bytes p, bytes end) {
    uint32_t c;
    if (*p < 128) return ASCII[*p] == SPACE;
    int64_t n = decode(p, end, &c);
    return n && action_of(&c) == SPACE ? n : 0;
}

/* Whether these letters follow, in upper or lower case. */
static int follows(bytes p, bytes end, const char *lower) {
    for (; *lower; lower++, p++)
        if (p >= end || (*p >= 'A' && *p <= 'Z' ? *p + 32 : *p) != (unsigned char)*lower) return 0;
    return 1;
}

enum { NO_URL = 0, UNCLEAR = -1 };

/* The bytes of the URL at p, which runs up to white space: "http://", "https://" or, not within a word, "www." and at
 * least one character. UNCLEAR: it depends on whether the character before it belongs to a word, which only Python
 * knows. As Python ignores case, a long s (U+017F) is an s. */
static int64_t url(bytes begin, bytes p, bytes end) {
    bytes rest = p;
    int unclear = 0;
    if (follows(p, end, "http")) {
        rest += 4;
        if (rest < end && (*rest | 32) == 's') rest++;
        else if (end - rest >= 2 && rest[0] == 0xC5 && rest[1] == 0xBF) rest += 2;
        if (!follows(rest, end, "://")) return NO_URL;
        rest += 3;
    } else if (follows(p, end, "www.")) {
        rest += 4;
        if (p > begin && p[-1] < 128) {
            if (ASCII[p[-1]] == WORD || p[-1] == '_') return NO_URL;
        } else if (p > begin) {
            bytes before = p - 1;
            while (before > begin && (*before & 0xC0) == 0x80) before--;
            unclear = !space(before, p);
        }
    } else return NO_URL;
    if (rest == end || space(rest, end)) return NO_URL;
    if (unclear) return UNCLEAR;
    while (rest < end && !space(rest, end)) rest++; /* white space never starts within a character */
    return rest - p;
}

/* A word so far; what is beyond its first LONGEST_WORD characters is only counted. */
struct word {
    unsigned char text[LONGEST_WORD * 4];
    int64_t bytes, characters;
    uint64_t hash;
};

static void add(struct word *w, uint32_t c) {
    if (w->characters++ >= LONGEST_WORD) return;
    unsigned char encoded[4] = {(unsigned char)c};
    int64_t n = 1;
    if (c >= 0x80) {
        n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
        for (int64_t i = n - 1; i > 0; i--, c >>= 6) encoded[i] = 0x80 | (c & 0x3F);
        encoded[0] = (unsigned char)(0xF00 >> n | c);
    }
    for (int64_t i = 0; i < n; i++) {
        w->text[w->bytes++] = encoded[i];
        w->hash = ADD(w->hash, encoded[i]);
    }
}

/* Add the plain letters and digits from p to stop, but no `except`; returns where they end. */
static bytes add_plain(struct word *w, bytes p, bytes stop, unsigned except) {
    int64_t room = LONGEST_WORD - w->characters, n = 0;
    unsigned char *to = w->text + w->bytes;
    uint64_t hash = w->hash;
    for (; n < room && p + n < stop && ASCII[p[n]] == WORD && LOWER(p[n]) != except; n++)
        hash = ADD(hash, to[n] = (unsigned char)LOWER(p[n]));
    if (n > 0) {
        w->characters += n;
        w->bytes += n;
        w->hash = hash;
        p += n;
    }
    return p;
}

static void clear(struct word *w) {
    w->bytes = w->characters = 0;
    w->hash = STARTS;
}

/* A slot of the index: half of a piece's hash, whether it continues a word, and its id. */
#define FREE UINT64_MAX
#define SLOT(hash, continues, id) ((hash) >> 32 << 32 | (uint64_t)(continues) << 31 | (uint64_t)(id))
#define ID(slot) ((int32_t)((slot) & 0x7FFFFFFF))

/* The slot that holds this piece, or the free one for it. */
static uint64_t *slot_of(const struct tokenizer *t, uint64_t hash, int continues, const void *piece, int64_t bytes) {
    uint64_t wanted = SLOT(hash, continues, 0);
    for (uint64_t i = hash ^ hash >> 32;; i++) {
        uint64_t *slot = &t->index[i & (uint64_t)(t->slots - 1)];
        if (*slot == FREE) return slot;
        if (*slot - wanted > 0x7FFFFFFF) continue;
        int32_t from = t->offset[ID(*slot)] + 2 * continues, to = t->offset[ID(*slot) + 1];
        if (to - from == bytes && !memcmp(t->text + from, piece, (size_t)bytes)) return slot;
    }
}

static int32_t find(const struct tokenizer *t, uint64_t hash, int continues, const void *piece, int64_t bytes) {
    uint64_t slot = *slot_of(t, hash, continues, piece, bytes);
    return slot == FREE ? -1 : ID(slot);
}

/* Fill the index; to be called once. */
void earlybell_index(const struct tokenizer *t) {
    for (int64_t i = 0; i < t->slots; i++) t->index[i] = FREE;
    for (int64_t id = 0; id < t->pieces; id++) {
        const char *piece = t->text + t->offset[id];
        int64_t bytes = t->offset[id + 1] - t->offset[id];
        int continues = bytes > 2 && piece[0] == '#' && piece[1] == '#';
        uint64_t hash = continues ? CONTINUES : STARTS;
        for (int64_t i = 2 * continues; i < bytes; i++) hash = ADD(hash, (unsigned char)piece[i]);
        if (bytes) *slot_of(t, hash, continues, piece + 2 * continues, bytes - 2 * continues) = SLOT(hash, continues, id);
    }
}

/* Write the pieces of a word, the longest first; a word that they do not make up is one unknown piece. */
static int32_t *finish(const struct tokenizer *t, struct word *w, int32_t *ids) {
    if (!w->characters) return ids;
    int64_t n = w->bytes, count = 0;
    if (w->characters > LONGEST_WORD) n = 0;
    else if ((ids[0] = find(t, w->hash, 0, w->text, n)) >= 0) {
        clear(w);
        return ids + 1;
    }
    for (int64_t start = 0; start < n;) {
        uint64_t hashes[LONGEST_WORD * 4], hash = start ? CONTINUES : STARTS;
        for (int64_t i = start; i < n; i++) hashes[i] = hash = ADD(hash, w->text[i]);
        int32_t id = -1;
        int64_t end = n;
        for (; end > start; end--)
            if ((id = find(t, hashes[end - 1], start > 0, w->text + start, end - start)) >= 0) break;
        if (id < 0) n = count = 0; /* and so unknown */
        else ids[count++] = id;
        start = end;
    }
    if (!count) ids[count++] = (int32_t)t->unknown;
    clear(w);
    return ids + count;
}

/* The longest special token at p, or -1. */
static int64_t special(const struct tokenizer *t, bytes p, bytes stop) {
    int64_t found = -1, longest = 0;
    for (int64_t i = 0; i < t->specials; i++) {
        int64_t n = t->special_offset[i + 1] - t->special_offset[i];
        if (n > longest && n <= stop - p && !memcmp(t->special + t->special_offset[i], p, (size_t)n)) found = i, longest = n;
    }
    return found;
}

/* Write the ids of a part of a text, from p to stop; returns where they end, or NULL to refuse the text. */
static int32_t *read_part(const struct tokenizer *t, bytes begin, bytes p, bytes stop, bytes end, int32_t *ids) {
    struct word word;
    clear(&word);
    /* Among plain letters a URL may begin with "http", but not with "www.". */
    unsigned h = memchr(begin, ':', (size_t)(end - begin)) ? 'h' : 0;
    while (p < stop) {
        if (p > begin && word.characters && ASCII[p[-1]] == WORD && (p = add_plain(&word, p, stop, h)) == stop) break;
        uint32_t c = *p;
        int64_t n = 1, found;
        enum action action;
        if (c < 128) {
            if (((c | 32) == 'h' || (c | 32) == 'w') && (n = url(begin, p, end)) != NO_URL) {
                if (n == UNCLEAR) return 0;
                action = SPACE;
            } else if (c == '[' && (found = special(t, p, stop)) >= 0) {
                ids = finish(t, &word, ids);
                *ids++ = t->special_id[found];
                n = t->special_offset[found + 1] - t->special_offset[found];
                action = GONE;
            } else {
                n = 1;
                action = (enum action)ASCII[c];
                if (action == WORD) c = LOWER(c);
            }
        } else {
            n = decode(p, end, &c);
            action = n ? action_of(&c) : REFUSED;
        }
        p += n;
        if (action == REFUSED) return 0;
        if (action == SPACE || action == ALONE) ids = finish(t, &word, ids);
        if (action == WORD || action == ALONE) add(&word, c);
        if (action == ALONE) ids = finish(t, &word, ids);
    }
    return finish(t, &word, ids);
}

/* Count the characters of a text as `normalise` leaves it, up to `most`, and set `at` to where it stopped; -1 if a URL is
 * UNCLEAR. */
static int64_t count(bytes begin, bytes end, int64_t most, bytes *at) {
    int64_t characters = 0, gap = 0;
    bytes p = begin;
    while (p < end && characters < most) {
        int64_t n = url(begin, p, end);
        if (n == UNCLEAR) return -1;
        if (n == NO_URL) n = space(p, end);
        if (n) gap = characters > 0;
        else if (gap) {
            characters++; /* the space; the character itself is next */
            gap = 0;
        } else {
            characters++;
            for (n = 1; p + n < end && (p[n] & 0xC0) == 0x80;) n++;
        }
        p += n;
    }
    *at = p;
    return characters;
}

/* Write the ids of a text, without those at either end; returns where they end, or NULL to refuse the text. */
static int32_t *read_text(const struct tokenizer *t, bytes begin, bytes end, int32_t *ids) {
    bytes head = end, tail = end;
    if (end - begin > 2 * t->max_characters) {
        int64_t characters = count(begin, end, INT64_MAX, &head);
        if (characters < 0) return 0;
        if (characters > 2 * t->max_characters) {
            count(begin, end, t->max_characters, &head);
            count(begin, end, characters - t->max_characters, &tail);
        }
    }
    int32_t *stop = read_part(t, begin, begin, head, end, ids);
    if (stop && tail < end) stop = read_part(t, begin, tail, end, end, stop);
    int64_t most = t->max_tokens - 2, from_end = most - t->head_tokens;
    if (!stop || stop - ids <= most) return stop;
    memmove(ids + t->head_tokens, stop - from_end, (size_t)from_end * sizeof *ids);
    return ids + most;
}

/* joined: the texts in UTF-8, one after the other, of which each has as many characters. ids needs space for
 * `max_tokens` or 2 ids more than the text has characters, whichever is less, for each text, and for twice
 * `max_characters` ids more. A text that is refused has no ids. */
void earlybell_read(const struct tokenizer *t, const char *joined, int64_t size, const int64_t *characters, int64_t texts,
                    int32_t *ids, int64_t *offsets, uint8_t *refused) {
    bytes begin = (bytes)joined, all = begin + size;
    offsets[0] = 0;
    for (int64_t text = 0; text < texts; text++) {
        bytes end = begin;
        for (int64_t left = characters[text]; end < all && (left || (*end & 0xC0) == 0x80); end++) left -= (*end & 0xC0) != 0x80;
        int32_t *first = ids + offsets[text], *stop = read_text(t, begin, end, first + 1);
        refused[text] = !stop;
        if (stop) {
            *first = (int32_t)t->first;
            *stop++ = (int32_t)t->last;
        }
        offsets[text + 1] = (stop ? stop : first) - ids;
        begin = end;
    }
}
