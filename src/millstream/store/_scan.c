/* Reads the lines of a journal segment into columns: numbers, and where each text stands. See scan.py.
 *
 * A line that is not as the recorder writes them is left to Python, which says what is wrong with it.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

/* As in scan.py. */
enum what { ENDED, OPENED, DROPPED, OTHER, BLOB };
enum number { LINE_AT, LINE_SIZE, WHAT, FLAGS, START, END, KIND, STATUS, TRACE_CODE, SPAN_CODE, PARENT_CODE, TOKENS, NUMBERS = TOKENS + 4 };
enum text {
    TRACE, SPAN, PARENT, NAME, ERROR_TYPE, ERROR_MESSAGE, WORKLOAD, INPUT, OUTPUT, ATTRIBUTES,
    TOLD, /* attributes by name, in the order given */
    TEXTS = TOLD + 6
};
enum flag { HAS_BLOBS = 1, FIRST_ESCAPED = 1 };

#define NONE INT64_MIN
#define MOST_WORDS 32
#define DEEPEST 512
#define LONGEST_NUMBER 200 /* with such an exponent it is below 1e300 */
#define LONGEST_EXPONENT 2 /* digits */
#define FEW 128 /* rows */

typedef struct {
    const char *at;
    Py_ssize_t size;
} Word;

typedef struct {
    Word words[MOST_WORDS];
    Py_ssize_t count;
} Words;

typedef struct {
    int64_t numbers[NUMBERS];
    int32_t at[TEXTS]; /* from the start of the line; -1 where there is none */
    int32_t size[TEXTS];
} Row;

typedef struct {
    const unsigned char *line, *at, *end;
    const Words *kinds, *statuses, *names;
    Row *row;
} Reader;

/* ---- JSON. Each function goes past what it reads, and gives 0 where that is not what it should be. */

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

static int
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

static int
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
static int
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

static int
skip_string(Reader *in)
{
    const unsigned char *start;
    Py_ssize_t size;
    int escaped;
    return read_string(in, &start, &size, &escaped);
}

static int
skip_word(Reader *in, const char *word)
{
    size_t size = strlen(word);
    if ((size_t)(in->end - in->at) < size || memcmp(in->at, word, size) != 0) {
        return 0;
    }
    in->at += size;
    return 1;
}

static int
skip_digits(Reader *in)
{
    const unsigned char *start = in->at;
    while (in->at < in->end && *in->at >= '0' && *in->at <= '9') {
        in->at++;
    }
    return in->at > start;
}

/* One that may be too large for a double, or too long, is left to Python, which may refuse it. */
static int
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

static int
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

static int
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
static int
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

/* ---- The fields of a line. */

static void
set_text(Row *row, const unsigned char *line, int place, const unsigned char *start, Py_ssize_t size, int escaped)
{
    row->at[place] = (int32_t)(start - line);
    row->size[place] = (int32_t)size;
    if (escaped) {
        row->numbers[FLAGS] |= (int64_t)1 << (FIRST_ESCAPED + place);
    }
}

static int
read_text(Reader *in, int place)
{
    const unsigned char *start;
    Py_ssize_t size;
    int escaped;
    if (!read_string(in, &start, &size, &escaped)) {
        return 0;
    }
    set_text(in->row, in->line, place, start, size, escaped);
    return 1;
}

static int
read_text_or_null(Reader *in, int place)
{
    in->row->at[place] = -1;
    return in->at < in->end && *in->at == 'n' ? skip_word(in, "null") : read_text(in, place);
}

static int
read_json(Reader *in, int place)
{
    const unsigned char *start = in->at;
    if (!skip_value(in)) {
        return 0;
    }
    set_text(in->row, in->line, place, start, in->at - start, 0);
    return 1;
}

/* A whole number of up to 18 digits, or null. */
static int
read_whole(Reader *in, int64_t *number)
{
    if (in->at < in->end && *in->at == 'n') {
        *number = NONE;
        return skip_word(in, "null");
    }
    int negative = take(in, '-');
    const unsigned char *start = in->at;
    int64_t value = 0;
    while (in->at < in->end && *in->at >= '0' && *in->at <= '9' && in->at - start < 18) {
        value = value * 10 + (*in->at++ - '0');
    }
    if (in->at == start || (*start == '0' && in->at - start > 1)) {
        return 0;
    }
    if (in->at < in->end && (*in->at == '.' || (*in->at | 32) == 'e' || (*in->at >= '0' && *in->at <= '9'))) {
        /* 19 digits hold the nanoseconds of our time; what is larger is Python's */
        if (*in->at < '0' || *in->at > '9' || value > (INT64_MAX - 9) / 10) {
            return 0;
        }
        value = value * 10 + (*in->at++ - '0');
        if (in->at < in->end && (*in->at == '.' || (*in->at | 32) == 'e' || (*in->at >= '0' && *in->at <= '9'))) {
            return 0;
        }
    }
    *number = negative ? -value : value;
    return 1;
}

static int
read_code(Reader *in, const Words *words, int64_t *code)
{
    const unsigned char *start;
    Py_ssize_t size;
    int escaped;
    if (!read_string(in, &start, &size, &escaped)) {
        return 0;
    }
    for (Py_ssize_t i = 0; i < words->count; i++) {
        if (words->words[i].size == size && memcmp(words->words[i].at, start, (size_t)size) == 0) {
            *code = i;
            return 1;
        }
    }
    return 0;
}

#define IS(word) (size == sizeof(word) - 1 && memcmp(key, word, sizeof(word) - 1) == 0)

/* One field after the other; `field` reads its value. */
static int
read_object(Reader *in, int (*field)(Reader *, const unsigned char *, Py_ssize_t))
{
    if (!take(in, '{')) {
        return 0;
    }
    skip_blank(in);
    if (take(in, '}')) {
        return 1;
    }
    for (;;) {
        const unsigned char *key;
        Py_ssize_t size;
        int escaped;
        skip_blank(in);
        if (!read_string(in, &key, &size, &escaped) || escaped) {
            return 0;
        }
        skip_blank(in);
        if (!take(in, ':')) {
            return 0;
        }
        skip_blank(in);
        if (!field(in, key, size)) {
            return 0;
        }
        skip_blank(in);
        if (take(in, '}')) {
            return 1;
        }
        if (!take(in, ',')) {
            return 0;
        }
    }
}

static int
usage_field(Reader *in, const unsigned char *key, Py_ssize_t size)
{
    int64_t *tokens = in->row->numbers + TOKENS;
    if (IS("input_tokens")) {
        return read_whole(in, tokens);
    }
    if (IS("output_tokens")) {
        return read_whole(in, tokens + 1);
    }
    if (IS("cache_read_tokens")) {
        return read_whole(in, tokens + 2);
    }
    if (IS("reasoning_tokens")) {
        return read_whole(in, tokens + 3);
    }
    return skip_value(in);
}

static int
error_field(Reader *in, const unsigned char *key, Py_ssize_t size)
{
    if (IS("type")) {
        return read_text(in, ERROR_TYPE);
    }
    if (IS("message")) {
        return read_text(in, ERROR_MESSAGE);
    }
    return skip_value(in);
}

static int
attribute_field(Reader *in, const unsigned char *key, Py_ssize_t size)
{
    for (Py_ssize_t i = 0; i < in->names->count; i++) {
        const Word *name = &in->names->words[i];
        if (name->size == size && memcmp(name->at, key, (size_t)size) == 0) {
            const unsigned char *start = in->at;
            if (!skip_value(in)) {
                return 0;
            }
            Py_ssize_t told = in->at - start;
            set_text(in->row, in->line, TOLD + (int)i, start, told, memchr(start, '\\', (size_t)told) != NULL);
            return 1;
        }
    }
    return skip_value(in);
}

static int
empty_list(Reader *in)
{
    if (!take(in, '[')) {
        return 0;
    }
    skip_blank(in);
    return take(in, ']');
}

static int
line_field(Reader *in, const unsigned char *key, Py_ssize_t size)
{
    Row *row = in->row;
    if (IS("trace_id")) {
        return read_text(in, TRACE);
    }
    if (IS("span_id")) {
        return read_text(in, SPAN);
    }
    if (IS("parent_id")) {
        row->numbers[FLAGS] |= (int64_t)1 << 62; /* it is told, if only as null */
        return read_text_or_null(in, PARENT);
    }
    if (IS("name")) {
        return read_text(in, NAME);
    }
    if (IS("kind")) {
        return read_code(in, in->kinds, &row->numbers[KIND]);
    }
    if (IS("start_ns")) {
        return read_whole(in, &row->numbers[START]);
    }
    if (IS("end_ns")) {
        return read_whole(in, &row->numbers[END]);
    }
    if (IS("status")) {
        row->numbers[STATUS] = -1;
        if (in->at < in->end && *in->at == 'n') {
            return skip_word(in, "null");
        }
        return read_code(in, in->statuses, &row->numbers[STATUS]);
    }
    if (IS("error")) {
        row->at[ERROR_TYPE] = row->at[ERROR_MESSAGE] = -1;
        if (in->at < in->end && *in->at == 'n') {
            return skip_word(in, "null");
        }
        return read_object(in, error_field) && row->at[ERROR_TYPE] >= 0 && row->at[ERROR_MESSAGE] >= 0;
    }
    if (IS("input")) {
        return read_json(in, INPUT);
    }
    if (IS("output")) {
        return read_json(in, OUTPUT);
    }
    if (IS("usage")) {
        for (int i = 0; i < 4; i++) {
            row->numbers[TOKENS + i] = NONE;
        }
        if (in->at < in->end && *in->at == 'n') {
            return skip_word(in, "null");
        }
        return read_object(in, usage_field);
    }
    if (IS("workload_id")) {
        return read_text_or_null(in, WORKLOAD);
    }
    if (IS("attributes")) {
        const unsigned char *start = in->at;
        for (int i = TOLD; i < TEXTS; i++) {
            row->at[i] = -1;
        }
        if (!read_object(in, attribute_field)) {
            return 0;
        }
        set_text(row, in->line, ATTRIBUTES, start, in->at - start, 0);
        return 1;
    }
    if (IS("events") || IS("links")) {
        return empty_list(in);
    }
    if (IS("blobs")) {
        row->numbers[FLAGS] |= HAS_BLOBS;
    }
    if (IS("dropped") && in->end - in->at >= 4 && memcmp(in->at, "true", 4) == 0) {
        row->numbers[WHAT] = DROPPED;
    }
    return skip_value(in);
}

static void
read_line(Reader *in, int64_t place)
{
    Row *row = in->row;
    Py_ssize_t size = in->end - in->line;
    memset(row->at, 0xFF, sizeof row->at);
    memset(row->size, 0, sizeof row->size);
    row->numbers[LINE_AT] = place;
    row->numbers[LINE_SIZE] = size;
    row->numbers[WHAT] = ENDED;
    row->numbers[FLAGS] = 0;
    row->numbers[KIND] = row->numbers[STATUS] = -1;
    row->numbers[START] = row->numbers[END] = NONE;
    for (int i = 0; i < 4; i++) {
        row->numbers[TOKENS + i] = NONE;
    }
    if (size >= 9 && memcmp(in->line, "{\"blob\":\"", 9) == 0) {
        row->numbers[WHAT] = BLOB;
        return;
    }
    int whole = size < INT32_MAX && read_object(in, line_field) && in->at == in->end;
    if (!whole || row->at[TRACE] < 0 || row->at[SPAN] < 0 || row->at[NAME] < 0 || row->numbers[KIND] < 0 ||
        row->numbers[START] == NONE || !(row->numbers[FLAGS] >> 62)) {
        row->numbers[WHAT] = OTHER;
    } else if (row->numbers[END] == NONE && row->numbers[STATUS] < 0) {
        row->numbers[WHAT] = row->numbers[WHAT] == DROPPED ? DROPPED : OPENED;
    } else {
        row->numbers[WHAT] = ENDED;
    }
    row->numbers[FLAGS] &= ~((int64_t)1 << 62);
}

/* ---- Ids as small numbers: the same text is the same number, in the order in which they come. */

typedef struct {
    const unsigned char *at; /* NULL where there is none */
    int64_t size, code;
} Entry;

typedef struct {
    Entry *entries;
    size_t room; /* a power of two */
    int64_t count;
    Entry last; /* the one that was asked for before: lines of one trace, and children of one span, lie together */
} Codes;

static uint64_t
hash_of(const unsigned char *at, int64_t size)
{
    uint64_t hash = (uint64_t)size, word;
    for (; size >= 8; at += 8, size -= 8) {
        memcpy(&word, at, 8);
        hash = (hash ^ word) * 0x9E3779B97F4A7C15u;
        hash ^= hash >> 32;
    }
    for (; size > 0; at++, size--) {
        hash = (hash ^ *at) * 0x9E3779B97F4A7C15u;
    }
    return hash ^ hash >> 29;
}

static Entry *
entry_of(const Codes *codes, const unsigned char *at, int64_t size)
{
    size_t place = hash_of(at, size) & (codes->room - 1);
    Entry *entry = &codes->entries[place];
    while (entry->at != NULL && (entry->size != size || memcmp(entry->at, at, (size_t)size) != 0)) {
        place = (place + 1) & (codes->room - 1);
        entry = &codes->entries[place];
    }
    return entry;
}

/* The number of a text; -1 where there is no memory. */
static int64_t
code_of(Codes *codes, const unsigned char *at, int64_t size)
{
    if (codes->last.at != NULL && codes->last.size == size && memcmp(codes->last.at, at, (size_t)size) == 0) {
        return codes->last.code;
    }
    if ((size_t)codes->count * 2 >= codes->room) {
        Codes more = {.room = codes->room ? codes->room * 2 : 4096, .count = codes->count};
        more.entries = PyMem_RawCalloc(more.room, sizeof(Entry));
        if (more.entries == NULL) {
            return -1;
        }
        for (size_t i = 0; i < codes->room; i++) {
            const Entry *entry = &codes->entries[i];
            if (entry->at != NULL) {
                *entry_of(&more, entry->at, entry->size) = *entry;
            }
        }
        PyMem_RawFree(codes->entries);
        *codes = more;
    }
    Entry *entry = entry_of(codes, at, size);
    if (entry->at == NULL) {
        *entry = (Entry){at, size, codes->count++};
    }
    codes->last = *entry;
    return entry->code;
}

/* ---- A file's lines. */

typedef struct {
    Row *rows;
    Py_ssize_t count, room;
    Codes traces, spans;
} Rows;

static int
add_codes(Rows *rows, const unsigned char *line, Row *row)
{
    row->numbers[TRACE_CODE] = row->numbers[SPAN_CODE] = row->numbers[PARENT_CODE] = -1;
    if (row->numbers[WHAT] > DROPPED) {
        return 1;
    }
    row->numbers[TRACE_CODE] = code_of(&rows->traces, line + row->at[TRACE], row->size[TRACE]);
    row->numbers[SPAN_CODE] = code_of(&rows->spans, line + row->at[SPAN], row->size[SPAN]);
    if (row->at[PARENT] >= 0) {
        row->numbers[PARENT_CODE] = code_of(&rows->spans, line + row->at[PARENT], row->size[PARENT]);
    }
    return row->numbers[TRACE_CODE] >= 0 && row->numbers[SPAN_CODE] >= 0 &&
           (row->at[PARENT] < 0 || row->numbers[PARENT_CODE] >= 0);
}

static int
add_line(Rows *rows, Reader *in, const unsigned char *data, const unsigned char *start, const unsigned char *end)
{
    while (start < end && (*start == ' ' || *start == '\t' || *start == '\r')) {
        start++;
    }
    while (end > start && (end[-1] == ' ' || end[-1] == '\t' || end[-1] == '\r')) {
        end--;
    }
    if (start == end) {
        return 1;
    }
    if (rows->count == rows->room) {
        Py_ssize_t room = rows->room + rows->room / 2 + 1024;
        Row *more = PyMem_RawRealloc(rows->rows, (size_t)room * sizeof(Row));
        if (more == NULL) {
            return 0;
        }
        rows->rows = more;
        rows->room = room;
    }
    in->line = in->at = start;
    in->end = end;
    in->row = &rows->rows[rows->count++];
    read_line(in, start - data);
    return add_codes(rows, start, in->row);
}

/* NUL bytes are room that was made and not used: they end a line, too. */
static int
read_lines(Rows *rows, Reader *in, const unsigned char *data, Py_ssize_t size)
{
    const unsigned char *at = data, *end = data + size;
    while (at < end) {
        const unsigned char *line_end = memchr(at, '\n', (size_t)(end - at));
        if (line_end == NULL) {
            line_end = end;
        }
        while (at < line_end) {
            const unsigned char *nul = memchr(at, 0, (size_t)(line_end - at));
            const unsigned char *stop = nul == NULL ? line_end : nul;
            if (!add_line(rows, in, data, at, stop)) {
                return 0;
            }
            at = stop;
            while (at < line_end && *at == 0) {
                at++;
            }
        }
        at = line_end + 1;
    }
    return 1;
}

static int
words_of(PyObject *given, Words *words, Py_ssize_t most)
{
    if (!PyTuple_Check(given) || PyTuple_GET_SIZE(given) > most) {
        PyErr_SetString(PyExc_TypeError, "words are a short tuple of bytes");
        return 0;
    }
    words->count = PyTuple_GET_SIZE(given);
    for (Py_ssize_t i = 0; i < words->count; i++) {
        char *at;
        if (PyBytes_AsStringAndSize(PyTuple_GET_ITEM(given, i), &at, &words->words[i].size) < 0) {
            return 0;
        }
        words->words[i].at = at;
    }
    return 1;
}

static PyObject *
columns_of(const Rows *rows)
{
    PyObject *numbers = PyBytes_FromStringAndSize(NULL, rows->count * NUMBERS * (Py_ssize_t)sizeof(int64_t));
    PyObject *at = PyBytes_FromStringAndSize(NULL, rows->count * TEXTS * (Py_ssize_t)sizeof(int32_t));
    PyObject *size = PyBytes_FromStringAndSize(NULL, rows->count * TEXTS * (Py_ssize_t)sizeof(int32_t));
    PyObject *found = NULL;
    if (numbers != NULL && at != NULL && size != NULL) {
        int64_t *to_numbers = (int64_t *)PyBytes_AS_STRING(numbers);
        int32_t *to_at = (int32_t *)PyBytes_AS_STRING(at), *to_size = (int32_t *)PyBytes_AS_STRING(size);
        for (Py_ssize_t first = 0; first < rows->count; first += FEW) { /* so that they stay in the cache */
            Py_ssize_t end = first + FEW < rows->count ? first + FEW : rows->count;
            for (int column = 0; column < NUMBERS; column++) {
                for (Py_ssize_t i = first; i < end; i++) {
                    to_numbers[column * rows->count + i] = rows->rows[i].numbers[column];
                }
            }
            for (int column = 0; column < TEXTS; column++) {
                for (Py_ssize_t i = first; i < end; i++) {
                    to_at[column * rows->count + i] = rows->rows[i].at[column];
                    to_size[column * rows->count + i] = rows->rows[i].size[column];
                }
            }
        }
        found = Py_BuildValue("OOOLL", numbers, at, size, rows->traces.count, rows->spans.count);
    }
    Py_XDECREF(numbers);
    Py_XDECREF(at);
    Py_XDECREF(size);
    return found;
}

static PyObject *
scan(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    Words kinds, statuses, names;
    Py_buffer data;
    Rows rows = {0};
    if (count != 4) {
        PyErr_SetString(PyExc_TypeError, "scan takes data, kinds, statuses and names of attributes");
        return NULL;
    }
    if (!words_of(args[1], &kinds, MOST_WORDS) || !words_of(args[2], &statuses, MOST_WORDS) ||
        !words_of(args[3], &names, TEXTS - TOLD) || PyObject_GetBuffer(args[0], &data, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    Reader in = {.kinds = &kinds, .statuses = &statuses, .names = &names};
    int room;
    Py_BEGIN_ALLOW_THREADS
    room = read_lines(&rows, &in, data.buf, data.len);
    Py_END_ALLOW_THREADS
    PyObject *found = room ? columns_of(&rows) : PyErr_NoMemory();
    PyMem_RawFree(rows.rows);
    PyMem_RawFree(rows.traces.entries);
    PyMem_RawFree(rows.spans.entries);
    PyBuffer_Release(&data);
    return found;
}

/* ---- Texts put one after the other. */

typedef struct {
    unsigned char *at;
    Py_ssize_t size, room;
} Buffer;

static int
reserve(Buffer *buffer, Py_ssize_t more)
{
    if (buffer->size + more > buffer->room) {
        Py_ssize_t room = (buffer->size + more) * 3 / 2 + 1024;
        unsigned char *at = PyMem_RawRealloc(buffer->at, (size_t)room);
        if (at == NULL) {
            return 0;
        }
        buffer->at = at;
        buffer->room = room;
    }
    return 1;
}

static inline void
put_code(Buffer *to, int code)
{
    unsigned char *at = to->at + to->size;
    if (code < 0x80) {
        at[0] = (unsigned char)code;
        to->size += 1;
    } else if (code < 0x800) {
        at[0] = (unsigned char)(0xC0 | code >> 6);
        at[1] = (unsigned char)(0x80 | (code & 0x3F));
        to->size += 2;
    } else if (code < 0x10000) {
        at[0] = (unsigned char)(0xE0 | code >> 12);
        at[1] = (unsigned char)(0x80 | (code >> 6 & 0x3F));
        at[2] = (unsigned char)(0x80 | (code & 0x3F));
        to->size += 3;
    } else {
        at[0] = (unsigned char)(0xF0 | code >> 18);
        at[1] = (unsigned char)(0x80 | (code >> 12 & 0x3F));
        at[2] = (unsigned char)(0x80 | (code >> 6 & 0x3F));
        at[3] = (unsigned char)(0x80 | (code & 0x3F));
        to->size += 4;
    }
}

/* The text of a string that `read_string` has read; `marks`: with the signs that prompts are cut at escaped. */
static int
put_unescaped(Buffer *to, const unsigned char *at, Py_ssize_t size, int marks)
{
    const unsigned char *end = at + size;
    if (!reserve(to, size + 8)) { /* an escape is never shorter than what it stands for */
        return 0;
    }
    while (at < end) {
        const unsigned char *escape = memchr(at, '\\', (size_t)(end - at));
        Py_ssize_t plain = (escape == NULL ? end : escape) - at;
        memcpy(to->at + to->size, at, (size_t)plain);
        to->size += plain;
        at += plain;
        if (escape == NULL) {
            break;
        }
        int code;
        switch (at[1]) {
        case 'b': code = '\b'; break;
        case 'f': code = '\f'; break;
        case 'n': code = '\n'; break;
        case 'r': code = '\r'; break;
        case 't': code = '\t'; break;
        case 'u':
            code = hex_value(at + 2);
            at += 4;
            if (code >= 0xD800 && code <= 0xDBFF) {
                code = 0x10000 + ((code - 0xD800) << 10) + (hex_value(at + 4) - 0xDC00);
                at += 6;
            }
            break;
        default: code = at[1];
        }
        at += 2;
        if (marks && code >= 0x1B && code <= 0x1F) {
            put_code(to, 0x1B);
            code += 0x40;
        }
        put_code(to, code);
    }
    return 1;
}

static int
arrays_of(PyObject *const *args, Py_buffer *buffers, int count, Py_ssize_t *rows, const int *widths)
{
    for (int i = 0; i < count; i++) {
        if (PyObject_GetBuffer(args[i], &buffers[i], PyBUF_SIMPLE) < 0) {
            while (i-- > 0) {
                PyBuffer_Release(&buffers[i]);
            }
            return 0;
        }
    }
    *rows = count > 1 ? buffers[1].len / widths[1] : 0;
    for (int i = 1; i < count; i++) {
        if (buffers[i].len != *rows * widths[i]) {
            for (int j = 0; j < count; j++) {
                PyBuffer_Release(&buffers[j]);
            }
            PyErr_SetString(PyExc_ValueError, "arrays of different lengths");
            return 0;
        }
    }
    return 1;
}

/* gather(data, at: int64, size: int32, escaped: uint8) -> (text, ends: int64). */
static PyObject *
gather(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    static const int widths[] = {1, 8, 4, 1};
    Py_buffer in[4];
    Py_ssize_t rows;
    if (count != 4) {
        PyErr_SetString(PyExc_TypeError, "gather takes data and three arrays");
        return NULL;
    }
    if (!arrays_of(args, in, 4, &rows, widths)) {
        return NULL;
    }
    const int64_t *at = in[1].buf;
    const int32_t *size = in[2].buf;
    const unsigned char *escaped = in[3].buf, *data = in[0].buf;
    Buffer text = {NULL, 0, 0};
    PyObject *ends = PyBytes_FromStringAndSize(NULL, rows * 8), *found = NULL;
    if (ends != NULL) {
        int64_t *end = (int64_t *)PyBytes_AS_STRING(ends);
        int room = 1, inside = 1;
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t i = 0; room && inside && i < rows; i++) {
            if (at[i] >= 0) {
                inside = size[i] >= 0 && at[i] <= in[0].len - size[i];
                if (inside && escaped[i]) {
                    room = put_unescaped(&text, data + at[i], size[i], 0);
                } else if (inside && (room = reserve(&text, size[i]))) {
                    memcpy(text.at + text.size, data + at[i], (size_t)size[i]);
                    text.size += size[i];
                }
            }
            end[i] = text.size;
        }
        Py_END_ALLOW_THREADS
        if (!inside) {
            PyErr_SetString(PyExc_IndexError, "a text outside of the data");
        } else if (!room) {
            PyErr_NoMemory();
        } else {
            PyObject *bytes = PyBytes_FromStringAndSize((const char *)text.at, text.size);
            if (bytes != NULL) {
                found = PyTuple_Pack(2, bytes, ends);
                Py_DECREF(bytes);
            }
        }
    }
    Py_XDECREF(ends);
    PyMem_RawFree(text.at);
    for (int i = 0; i < 4; i++) {
        PyBuffer_Release(&in[i]);
    }
    return found;
}

/* ---- Prompts, in the form and with the hashes of prompt_blocks.py. */

#define MESSAGE 0x1e
#define TEXT 0x1f
#define JSON 0x1d
#define MORE 0x1c
#define BLOCK 64

static int
put_sign(Buffer *to, unsigned char sign)
{
    if (!reserve(to, 1)) {
        return 0;
    }
    to->at[to->size++] = sign;
    return 1;
}

static int
put_raw(Buffer *to, const void *at, Py_ssize_t size)
{
    if (!reserve(to, size)) {
        return 0;
    }
    memcpy(to->at + to->size, at, (size_t)size);
    to->size += size;
    return 1;
}

/* Whether JSON is as msgspec writes it: then it need not be read and written anew. */
static int
is_canonical(const unsigned char *at, Py_ssize_t size)
{
    const unsigned char *end = at + size;
    int inside = 0;
    for (; at < end; at++) {
        if (inside) {
            if (*at == '\\') {
                at++;
                if (*at == '/' || (*at == 'u' && (at[1] != '0' || at[2] != '0' || at[3] > '1'))) {
                    return 0;
                }
            } else if (*at == '"') {
                inside = 0;
            }
        } else if (*at == '"') {
            inside = 1;
        } else if (*at == ' ' || *at == '\t' || *at == 'E' || *at == 'e') {
            if (*at != 'e' || at[-1] == '.' || (at[-1] >= '0' && at[-1] <= '9')) { /* not of true or false */
                return 0;
            }
        }
    }
    return 1;
}

/* A value as it stands in a prompt: text without its quotes, else JSON. */
static int
put_value(Buffer *to, Reader *in)
{
    const unsigned char *start = in->at;
    Py_ssize_t size;
    int escaped;
    if (in->at < in->end && *in->at == '"') {
        return read_string(in, &start, &size, &escaped) && put_unescaped(to, start, size, 1);
    }
    return skip_value(in) && is_canonical(start, in->at - start) && put_raw(to, start, in->at - start);
}

#define IS_KEY(word) (key_size == sizeof(word) - 1 && memcmp(key, word, sizeof(word) - 1) == 0)

static int
put_message(Buffer *to, Buffer *more, Reader *in)
{
    const unsigned char *content = NULL, *key, *start;
    Py_ssize_t key_size, size;
    int escaped;
    if (!put_sign(to, MESSAGE)) {
        return 0;
    }
    if (in->at >= in->end || *in->at != '{') {
        return put_value(to, in);
    }
    Reader role = {0};
    more->size = 0;
    in->at++;
    int first = !take(in, '}');
    while (first) {
        const unsigned char *entry = in->at;
        if (!read_string(in, &key, &key_size, &escaped) || escaped || !take(in, ':')) {
            return 0;
        }
        start = in->at;
        if (IS_KEY("role")) {
            if (role.line != NULL || !skip_value(in)) { /* told twice: Python knows which counts */
                return 0;
            }
            role.line = role.at = start;
            role.end = in->at;
        } else if (IS_KEY("content")) {
            if (content != NULL || !skip_value(in)) {
                return 0;
            }
            content = start;
        } else {
            if (!skip_value(in)) {
                return 0;
            }
            if (in->at - start != 4 || memcmp(start, "null", 4) != 0) {
                if (!put_sign(more, more->size ? ',' : '{') || !is_canonical(entry, in->at - entry) ||
                    !put_raw(more, entry, in->at - entry)) {
                    return 0;
                }
            }
        }
        if (take(in, '}')) {
            break;
        }
        if (!take(in, ',')) {
            return 0;
        }
    }
    if (role.line != NULL && *role.at != 'n') {
        if (!read_string(&role, &start, &size, &escaped) || !put_unescaped(to, start, size, 1)) {
            return 0;
        }
    }
    if (content != NULL && *content != 'n') {
        Reader inner = {.line = content, .at = content, .end = in->end};
        if (!put_sign(to, *content == '"' ? TEXT : JSON) || !put_value(to, &inner)) {
            return 0;
        }
    }
    return more->size == 0 || (put_sign(to, MORE) && put_raw(to, more->at, more->size) && put_sign(to, '}'));
}

/* Each of a list's values, or the one that is no list. */
static int
put_each(Buffer *to, Buffer *more, Reader *in, int messages)
{
    int listed = take(in, '[');
    if (listed && take(in, ']')) {
        return in->at == in->end;
    }
    do {
        if (messages ? !put_message(to, more, in) : !(put_sign(to, MORE) && put_value(to, in))) {
            return 0;
        }
    } while (listed && take(in, ','));
    return (!listed || take(in, ']')) && in->at == in->end;
}

static inline uint64_t
mixed(uint64_t value)
{
    value ^= value >> 30;
    value *= 0xBF58476D1CE4E5B9u;
    value ^= value >> 27;
    value *= 0x94D049BB133111EBu;
    return value ^ value >> 31;
}

static int
put_hashes(Buffer *to, const Buffer *prompt, Py_ssize_t *blocks)
{
    uint64_t sum = 0;
    *blocks = prompt->size / BLOCK;
    if (!reserve(to, *blocks * 8)) {
        return 0;
    }
    for (Py_ssize_t block = 0; block < *blocks; block++) {
        uint64_t hash = mixed((uint64_t)block + 1) | 1;
        for (int word = 0; word < BLOCK / 8; word++) {
            const unsigned char *at = prompt->at + block * BLOCK + word * 8;
            uint64_t folded = 0;
            for (int byte = 7; byte >= 0; byte--) { /* little endian */
                folded = folded << 8 | at[byte];
            }
            folded ^= folded >> 32;
            folded *= 0xBF58476D1CE4E5B9u;
            folded ^= folded >> 29;
            hash += folded * (mixed((uint64_t)word + 1) | 1);
        }
        sum += mixed(hash);
        uint64_t chained = mixed(sum);
        memcpy(to->at + to->size, &chained, 8);
        to->size += 8;
    }
    return 1;
}

/* prompts(data, at: int64, size: int32, tools_at: int64, tools_size: int32) -> (hashes, length: int64).
 *
 * A length of -1: Python is to look at it; -2: there is none.
 */
static PyObject *
prompts(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    static const int widths[] = {1, 8, 4, 8, 4};
    Py_buffer in[5];
    Py_ssize_t rows;
    if (count != 5) {
        PyErr_SetString(PyExc_TypeError, "prompts takes data and four arrays");
        return NULL;
    }
    if (!arrays_of(args, in, 5, &rows, widths)) {
        return NULL;
    }
    const int64_t *at = in[1].buf, *tools_at = in[3].buf;
    const int32_t *size = in[2].buf, *tools_size = in[4].buf;
    const unsigned char *data = in[0].buf;
    Buffer hashes = {NULL, 0, 0}, prompt = {NULL, 0, 0}, more = {NULL, 0, 0};
    PyObject *lengths = PyBytes_FromStringAndSize(NULL, rows * 8), *found = NULL;
    if (lengths != NULL) {
        int64_t *length = (int64_t *)PyBytes_AS_STRING(lengths);
        int room = 1, inside = 1;
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t i = 0; room && inside && i < rows; i++) {
            int has_tools = tools_at[i] >= 0;
            if (at[i] < 0) {
                length[i] = -2;
                continue;
            }
            inside = size[i] > 0 && at[i] <= in[0].len - size[i] &&
                     (!has_tools || (tools_size[i] > 0 && tools_at[i] <= in[0].len - tools_size[i]));
            if (!inside) {
                break;
            }
            Reader input = {.at = data + at[i], .end = data + at[i] + size[i]};
            Reader tools = {.at = data + tools_at[i], .end = data + tools_at[i] + tools_size[i]};
            if (*input.at == 'n') {
                length[i] = -2;
                continue;
            }
            prompt.size = 0;
            int read = (!has_tools || *tools.at == 'n' || put_each(&prompt, &more, &tools, 0)) &&
                       put_each(&prompt, &more, &input, 1);
            Py_ssize_t blocks = -1;
            room = !read || put_hashes(&hashes, &prompt, &blocks);
            length[i] = blocks;
        }
        Py_END_ALLOW_THREADS
        if (!inside) {
            PyErr_SetString(PyExc_IndexError, "a text outside of the data");
        } else if (!room) {
            PyErr_NoMemory();
        } else {
            PyObject *bytes = PyBytes_FromStringAndSize((const char *)hashes.at, hashes.size);
            if (bytes != NULL) {
                found = PyTuple_Pack(2, bytes, lengths);
                Py_DECREF(bytes);
            }
        }
    }
    Py_XDECREF(lengths);
    PyMem_RawFree(hashes.at);
    PyMem_RawFree(prompt.at);
    PyMem_RawFree(more.at);
    for (int i = 0; i < 5; i++) {
        PyBuffer_Release(&in[i]);
    }
    return found;
}

#define FAST(function) (PyCFunction)(void (*)(void))function, METH_FASTCALL

static PyMethodDef methods[] = {
    {"scan", FAST(scan),
     "scan(data, kinds, statuses, names)\n\nThe columns of the lines of a segment: numbers, where texts begin, their sizes; how many"
     " traces and spans."},
    {"gather", FAST(gather), "gather(data, at, size, escaped)\n\nTexts one after the other, and where each ends."},
    {"prompts", FAST(prompts),
     "prompts(data, at, size, tools_at, tools_size)\n\nThe chained hashes of prompts, and how many each has."},
    {NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "millstream.store._scan",
    .m_doc = "Lines of a journal into columns, in C.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__scan(void)
{
    return PyModuleDef_Init(&definition);
}
