/* Reads the lines of a journal segment into columns: numbers, and where each text stands. See scan.py.
 *
 * A line that is not as the recorder writes them is left to Python, which says what is wrong with it.
 */

#include "_json.h"

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
    Reader json; /* first: what reads JSON is given this, and what reads a field finds the rest by LINE */
    const unsigned char *line;
    const Words *kinds, *statuses, *names;
    Row *row;
} LineReader;

#define LINE(in) ((LineReader *)(in))

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
    set_text(LINE(in)->row, LINE(in)->line, place, start, size, escaped);
    return 1;
}

static int
read_text_or_null(Reader *in, int place)
{
    LINE(in)->row->at[place] = -1;
    return in->at < in->end && *in->at == 'n' ? skip_word(in, "null") : read_text(in, place);
}

static int
read_json(Reader *in, int place)
{
    const unsigned char *start = in->at;
    if (!skip_value(in)) {
        return 0;
    }
    set_text(LINE(in)->row, LINE(in)->line, place, start, in->at - start, 0);
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
    int64_t *tokens = LINE(in)->row->numbers + TOKENS;
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
    for (Py_ssize_t i = 0; i < LINE(in)->names->count; i++) {
        const Word *name = &LINE(in)->names->words[i];
        if (name->size == size && memcmp(name->at, key, (size_t)size) == 0) {
            const unsigned char *start = in->at;
            if (!skip_value(in)) {
                return 0;
            }
            Py_ssize_t told = in->at - start;
            set_text(LINE(in)->row, LINE(in)->line, TOLD + (int)i, start, told, memchr(start, '\\', (size_t)told) != NULL);
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
    Row *row = LINE(in)->row;
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
        return read_code(in, LINE(in)->kinds, &row->numbers[KIND]);
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
        return read_code(in, LINE(in)->statuses, &row->numbers[STATUS]);
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
        set_text(row, LINE(in)->line, ATTRIBUTES, start, in->at - start, 0);
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
read_line(LineReader *in, int64_t place)
{
    Row *row = in->row;
    Py_ssize_t size = in->json.end - in->line;
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
    int whole = size < INT32_MAX && read_object(&in->json, line_field) && in->json.at == in->json.end;
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
add_line(Rows *rows, LineReader *in, const unsigned char *data, const unsigned char *start, const unsigned char *end)
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
    in->line = in->json.at = start;
    in->json.end = end;
    in->row = &rows->rows[rows->count++];
    read_line(in, start - data);
    return add_codes(rows, start, in->row);
}

/* NUL bytes are room that was made and not used: they end a line, too. */
static int
read_lines(Rows *rows, LineReader *in, const unsigned char *data, Py_ssize_t size)
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
    LineReader in = {.kinds = &kinds, .statuses = &statuses, .names = &names};
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

#define FAST(function) (PyCFunction)(void (*)(void))function, METH_FASTCALL

static PyMethodDef methods[] = {
    {"scan", FAST(scan),
     "scan(data, kinds, statuses, names)\n\nThe columns of the lines of a segment: numbers, where texts begin, their sizes; how many"
     " traces and spans."},
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
