/* Goes through JSON without making anything of it: what _scan.c and _texts.c have in common.
 *
 * Each function goes past what it reads, and gives 0 where that is not what it should be.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define DEEPEST 512
#define LONGEST_NUMBER 200 /* with such an exponent it is below 1e300 */
#define LONGEST_EXPONENT 2 /* digits */

typedef struct {
    const unsigned char *at, *end;
} Reader;

static inline void
skip_blank(Reader *in)
{
    while (in->at < in->end && (*in->at == ' ' || *in->at == '\t' || *in->at == '\r' || *in->at == '\n')) {
        in->at++;
    }
}

static inline int
take(Reader *in, unsigned char sign)
{
    if (in->at < in->end && *in->at == sign) {
        in->at++;
        return 1;
    }
    return 0;
}

static inline int
skip_utf8(Reader *in)
{
    const unsigned char *at = in->at;
    Py_ssize_t left = in->end - at;
    unsigned char low = 0x80, high = 0xBF;
    int more;
    if (at[0] >= 0xC2 && at[0] <= 0xDF) {
        more = 1;
    } else if (at[0] >= 0xE0 && at[0] <= 0xEF) {
        more = 2;
        low = at[0] == 0xE0 ? 0xA0 : low;
        high = at[0] == 0xED ? 0x9F : high;
    } else if (at[0] >= 0xF0 && at[0] <= 0xF4) {
        more = 3;
        low = at[0] == 0xF0 ? 0x90 : low;
        high = at[0] == 0xF4 ? 0x8F : high;
    } else {
        return 0;
    }
    if (left <= more || at[1] < low || at[1] > high) {
        return 0;
    }
    for (int i = 2; i <= more; i++) {
        if (at[i] < 0x80 || at[i] > 0xBF) {
            return 0;
        }
    }
    in->at += more + 1;
    return 1;
}

static inline int
hex_value(const unsigned char *at)
{
    int value = 0;
    for (int i = 0; i < 4; i++) {
        int sign = at[i], digit;
        if (sign >= '0' && sign <= '9') {
            digit = sign - '0';
        } else if ((sign | 32) >= 'a' && (sign | 32) <= 'f') {
            digit = (sign | 32) - 'a' + 10;
        } else {
            return -1;
        }
        value = value * 16 + digit;
    }
    return value;
}

/* Past the signs of a text that stand for themselves. */
static inline void
skip_plain_signs(Reader *in)
{
    const unsigned char *at = in->at, *end = in->end;
#ifdef __SSE2__
    const __m128i quote = _mm_set1_epi8('"'), escape = _mm_set1_epi8('\\'), least = _mm_set1_epi8(0x20);
    while (end - at >= 16) {
        __m128i signs = _mm_loadu_si128((const __m128i *)at);
        __m128i stops = _mm_or_si128(_mm_cmpeq_epi8(signs, quote), _mm_cmpeq_epi8(signs, escape));
        /* as signed bytes, those of 0x80 and more are below 0x20, too */
        int found = _mm_movemask_epi8(_mm_or_si128(stops, _mm_cmplt_epi8(signs, least)));
        if (found != 0) {
            in->at = at + __builtin_ctz((unsigned)found);
            return;
        }
        at += 16;
    }
#endif
    while (at < end && *at >= 0x20 && *at < 0x80 && *at != '"' && *at != '\\') {
        at++;
    }
    in->at = at;
}

/* The text between the quotes, and whether it has escapes. Halves of surrogate pairs are left to Python. */
static inline int
read_string(Reader *in, const unsigned char **start, Py_ssize_t *size, int *escaped)
{
    if (!take(in, '"')) {
        return 0;
    }
    *start = in->at;
    *escaped = 0;
    for (;;) {
        skip_plain_signs(in);
        if (in->at >= in->end) {
            return 0;
        }
        unsigned char sign = *in->at;
        if (sign == '"') {
            *size = in->at - *start;
            in->at++;
            return 1;
        }
        if (sign >= 0x80) {
            if (!skip_utf8(in)) {
                return 0;
            }
        } else if (sign == '\\') {
            *escaped = 1;
            if (in->end - in->at < 2) {
                return 0;
            }
            if (in->at[1] == 'u') {
                int value = in->end - in->at < 6 ? -1 : hex_value(in->at + 2);
                if (value < 0 || (value >= 0xDC00 && value <= 0xDFFF)) {
                    return 0;
                }
                if (value >= 0xD800 && value <= 0xDBFF) {
                    if (in->end - in->at < 12 || in->at[6] != '\\' || in->at[7] != 'u') {
                        return 0;
                    }
                    value = hex_value(in->at + 8);
                    if (value < 0xDC00 || value > 0xDFFF) {
                        return 0;
                    }
                    in->at += 6;
                }
                in->at += 6;
            } else if (strchr("\"\\/bfnrt", in->at[1]) != NULL && in->at[1] != 0) {
                in->at += 2;
            } else {
                return 0;
            }
        } else {
            return 0;
        }
    }
}

static inline int
skip_string(Reader *in)
{
    const unsigned char *start;
    Py_ssize_t size;
    int escaped;
    return read_string(in, &start, &size, &escaped);
}

static inline int
skip_word(Reader *in, const char *word)
{
    size_t size = strlen(word);
    if ((size_t)(in->end - in->at) < size || memcmp(in->at, word, size) != 0) {
        return 0;
    }
    in->at += size;
    return 1;
}

static inline int
skip_digits(Reader *in)
{
    const unsigned char *start = in->at;
    while (in->at < in->end && *in->at >= '0' && *in->at <= '9') {
        in->at++;
    }
    return in->at > start;
}

/* One that may be too large for a double, or too long, is left to Python, which may refuse it. */
static inline int
skip_number(Reader *in)
{
    const unsigned char *start = in->at;
    take(in, '-');
    if (!take(in, '0') && !skip_digits(in)) {
        return 0;
    }
    if (take(in, '.') && !skip_digits(in)) {
        return 0;
    }
    if (in->at - start > LONGEST_NUMBER) {
        return 0;
    }
    if (in->at < in->end && (*in->at | 32) == 'e') {
        in->at++;
        if (!take(in, '-')) {
            take(in, '+');
        }
        start = in->at;
        return skip_digits(in) && in->at - start <= LONGEST_EXPONENT;
    }
    return 1;
}

static inline int
skip_plain(Reader *in)
{
    if (in->at >= in->end) {
        return 0;
    }
    switch (*in->at) {
    case '"': return skip_string(in);
    case 't': return skip_word(in, "true");
    case 'f': return skip_word(in, "false");
    case 'n': return skip_word(in, "null");
    default: return skip_number(in);
    }
}

static inline int
skip_key(Reader *in)
{
    skip_blank(in);
    if (!skip_string(in)) {
        return 0;
    }
    skip_blank(in);
    return take(in, ':');
}

/* Any value. */
static inline int
skip_value(Reader *in)
{
    unsigned char closes[DEEPEST];
    int depth = 0;
    for (;;) { /* a value begins here */
        skip_blank(in);
        if (in->at >= in->end) {
            return 0;
        }
        unsigned char sign = *in->at;
        if (sign == '{' || sign == '[') {
            if (depth == DEEPEST) {
                return 0;
            }
            in->at++;
            closes[depth++] = sign == '{' ? '}' : ']';
            skip_blank(in);
            if (!take(in, closes[depth - 1])) {
                if (sign == '{' && !skip_key(in)) {
                    return 0;
                }
                continue;
            }
            depth--;
        } else if (!skip_plain(in)) {
            return 0;
        }
        for (;;) { /* a value has ended here */
            if (depth == 0) {
                return 1;
            }
            skip_blank(in);
            if (take(in, ',')) {
                if (closes[depth - 1] == '}' && !skip_key(in)) {
                    return 0;
                }
                break;
            }
            if (!take(in, closes[depth - 1])) {
                return 0;
            }
            depth--;
        }
    }
}
