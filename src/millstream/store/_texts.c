/* Texts that stand in the lines of a journal, one after the other, and the hashes of prompts. See scan.py. */

#include "_json.h"

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

/* What a pass has put together and an array of numbers, or the error of one that came to its end too early. */
static PyObject *
given(const Buffer *made, PyObject *numbers, int inside, int room)
{
    PyObject *bytes, *found = NULL;
    if (!inside) {
        PyErr_SetString(PyExc_IndexError, "a text outside of the data");
    } else if (!room) {
        PyErr_NoMemory();
    } else if ((bytes = PyBytes_FromStringAndSize((const char *)made->at, made->size)) != NULL) {
        found = PyTuple_Pack(2, bytes, numbers);
        Py_DECREF(bytes);
    }
    return found;
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
        found = given(&text, ends, inside, room);
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
            if (role.at != NULL || !skip_value(in)) { /* told twice: Python knows which counts */
                return 0;
            }
            role.at = start;
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
    if (role.at != NULL && *role.at != 'n') {
        if (!read_string(&role, &start, &size, &escaped) || !put_unescaped(to, start, size, 1)) {
            return 0;
        }
    }
    if (content != NULL && *content != 'n') {
        Reader inner = {.at = content, .end = in->end};
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
        found = given(&hashes, lengths, inside, room);
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
    {"gather", FAST(gather), "gather(data, at, size, escaped)\n\nTexts one after the other, and where each ends."},
    {"prompts", FAST(prompts),
     "prompts(data, at, size, tools_at, tools_size)\n\nThe chained hashes of prompts, and how many each has."},
    {NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "millstream.store._texts",
    .m_doc = "Texts of lines put together, and the hashes of prompts, in C.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__texts(void)
{
    return PyModuleDef_Init(&definition);
}
