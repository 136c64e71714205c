/* Looks for the marks of secrets, as redaction.py does with regular expressions, in one pass over the text. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>

typedef unsigned char byte;

/* Bytes at which a mark is recognised; the last begins the one sign that is no ASCII and whose small letter is k. */
static const byte is_rare[256] = {['z'] = 1, ['Z'] = 1, ['-'] = 1, ['b'] = 1, ['B'] = 1, ['k'] = 1, ['K'] = 1,
                                  ['_'] = 1, [0xe2] = 1};

static inline byte
small(byte letter)
{
    return letter >= 'A' && letter <= 'Z' ? (byte)(letter + 32) : letter;
}

static int
is_at(const byte *at, const char *word, Py_ssize_t size)
{
    for (Py_ssize_t i = 0; i < size; i++) {
        if (small(at[i]) != (byte)word[i]) {
            return 0;
        }
    }
    return 1;
}

#define BEFORE(word) (at - text >= (Py_ssize_t)sizeof(word) - 1 && is_at(at - (sizeof(word) - 1), word, sizeof(word) - 1))
#define AFTER(word) (end - at > (Py_ssize_t)sizeof(word) - 1 && is_at(at + 1, word, sizeof(word) - 1))
#define ONE_BACK(distance, letters) \
    (at - text >= (distance) && small(at[-(distance)]) != 0 && strchr(letters, small(at[-(distance)])) != NULL)

static int
is_mark(const byte *text, const byte *at, const byte *end)
{
    switch (small(*at)) {
    case 'z':
        return (BEFORE("authori") && AFTER("ation")) || (BEFORE("ai") && AFTER("a"));
    case '-':
        return BEFORE("sk") || BEFORE("nvapi") || BEFORE("glpat") ||
               (at - text >= 4 && is_at(at - 4, "xox", 3) && ONE_BACK(1, "abeoprs"));
    case 'b': /* whatever follows basic and is no letter may be a blank */
        return AFTER("earer") || (AFTER("asic") && end - at > 5 && (at[5] <= ' ' || at[5] >= 0x7f));
    case 'k':
        return (AFTER("ey") && (BEFORE("api") || (at - text >= 4 && is_at(at - 4, "api", 3) && ONE_BACK(1, "-_ ")))) ||
               (AFTER("ie") && BEFORE("coo")) || (AFTER("ia") && BEFORE("a"));
    case '_':
        return BEFORE("hf") || BEFORE("gsk") || BEFORE("github_pat") ||
               (at - text >= 3 && is_at(at - 3, "gh", 2) && ONE_BACK(1, "pousr"));
    default: /* U+212A */
        return end - at > 2 && at[1] == 0x84 && at[2] == 0xaa;
    }
}

static PyObject *
has_mark(PyObject *Py_UNUSED(module), PyObject *argument)
{
    Py_ssize_t size;
    const byte *text = (const byte *)PyUnicode_AsUTF8AndSize(argument, &size);
    if (text == NULL) {
        return NULL;
    }
    const byte *end = text + size;
    for (const byte *at = text; at < end; at++) {
        if (is_rare[*at] && is_mark(text, at, end)) {
            Py_RETURN_TRUE;
        }
    }
    Py_RETURN_FALSE;
}

static PyMethodDef methods[] = {
    {"has_mark", has_mark, METH_O, "has_mark(text) -> bool\n\nWhether a text may hold one of the marks of secrets."},
    {NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "millstream.record._marks",
    .m_doc = "The marks of secrets, found in C.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__marks(void)
{
    return PyModuleDef_Init(&definition);
}
