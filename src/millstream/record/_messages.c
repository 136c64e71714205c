/* Reads the messages of a conversation by their fields, as conversation.py does, and knows them by their hashes. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

static PyObject *s_dict, *s_content;

/* The parts of a `Shape`, in its order. */
enum place { ROLE, EMPTY, ALSO, CALLS, ENCODE_CALLS, PLACES };

static int
is_empty(PyObject *value)
{
    return value == Py_None || (PyUnicode_CheckExact(value) && PyUnicode_GET_LENGTH(value) == 0) ||
           (PyList_CheckExact(value) && PyList_GET_SIZE(value) == 0) ||
           (PyDict_CheckExact(value) && PyDict_GET_SIZE(value) == 0);
}

/* A new reference to a field of one of the exact types `str` and `list`; NULL, without an error, where it is not. */
static PyObject *
field(PyObject *fields, PyObject *name, PyTypeObject *type)
{
    PyObject *value = PyDict_GetItemWithError(fields, name);
    if (value == NULL || Py_TYPE(value) != type) {
        PyErr_Clear();
        return NULL;
    }
    return Py_NewRef(value);
}

/* The message as a tuple of a role, a text, and what else the shape has.
 *
 * NULL where it is not of the shape, perhaps with the error of `encode_calls`.
 */
static PyObject *
part_of(PyObject *fields, PyObject *shape, Py_ssize_t *size)
{
    PyObject *empty = PyTuple_GET_ITEM(shape, EMPTY);
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(empty); i++) {
        PyObject *value = PyDict_GetItemWithError(fields, PyTuple_GET_ITEM(empty, i));
        if (value == NULL || !is_empty(value)) {
            PyErr_Clear();
            return NULL;
        }
    }
    PyObject *text = field(fields, s_content, &PyUnicode_Type), *more = NULL, *part = NULL;
    if (text == NULL) {
        return NULL;
    }
    *size = PyUnicode_GET_LENGTH(text);
    if (PyTuple_GET_ITEM(shape, ALSO) != Py_None) {
        more = field(fields, PyTuple_GET_ITEM(shape, ALSO), &PyUnicode_Type);
        if (more != NULL) {
            *size += PyUnicode_GET_LENGTH(more);
            part = PyTuple_Pack(3, PyTuple_GET_ITEM(shape, ROLE), text, more);
        }
    } else if (PyTuple_GET_ITEM(shape, CALLS) != Py_None) {
        PyObject *calls = field(fields, PyTuple_GET_ITEM(shape, CALLS), &PyList_Type);
        if (calls != NULL && PyList_GET_SIZE(calls) == 0) {
            part = PyTuple_Pack(2, PyTuple_GET_ITEM(shape, ROLE), text);
        } else if (calls != NULL) {
            more = PyObject_CallOneArg(PyTuple_GET_ITEM(shape, ENCODE_CALLS), calls);
            if (more != NULL && PyBytes_CheckExact(more)) {
                *size += PyBytes_GET_SIZE(more);
                part = PyTuple_Pack(3, PyTuple_GET_ITEM(shape, ROLE), text, more);
            }
        }
        Py_XDECREF(calls);
    } else {
        part = PyTuple_Pack(2, PyTuple_GET_ITEM(shape, ROLE), text);
    }
    Py_DECREF(text);
    Py_XDECREF(more);
    return part;
}

static PyObject *
read_message(PyObject *message, PyObject *shapes, PyObject *other, Py_ssize_t *size)
{
    PyObject *part = NULL, *shape = PyDict_GetItemWithError(shapes, (PyObject *)Py_TYPE(message));
    if (shape != NULL) {
        PyObject *fields = PyObject_GetAttr(message, s_dict);
        if (fields != NULL && PyDict_CheckExact(fields) && PyTuple_Check(shape) &&
            PyTuple_GET_SIZE(shape) == PLACES && PyTuple_Check(PyTuple_GET_ITEM(shape, EMPTY))) {
            part = part_of(fields, shape, size);
        }
        Py_XDECREF(fields);
    }
    if (part != NULL) {
        return part;
    }
    if (PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_Exception)) { /* KeyboardInterrupt */
            return NULL;
        }
        PyErr_Clear();
    }
    part = PyObject_CallOneArg(other, message);
    if (part != NULL && !PyBytes_CheckExact(part)) {
        Py_DECREF(part);
        PyErr_SetString(PyExc_TypeError, "a message that is read apart has to be bytes");
        return NULL;
    }
    *size = part == NULL ? 0 : PyBytes_GET_SIZE(part);
    return part;
}

static PyObject *
read_messages(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 3 || !PyList_Check(args[0]) || !PyDict_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "read(messages, shapes, other)");
        return NULL;
    }
    PyObject *parts = PyList_New(0);
    Py_ssize_t total = 0;
    /* The list may change while Python code runs in between. */
    for (Py_ssize_t i = 0; parts != NULL && i < PyList_GET_SIZE(args[0]); i++) {
        Py_ssize_t size = 0;
        PyObject *message = Py_NewRef(PyList_GET_ITEM(args[0], i));
        PyObject *part = read_message(message, args[1], args[2], &size);
        if (part == NULL || PyList_Append(parts, part) < 0) {
            Py_CLEAR(parts);
        }
        total += size;
        Py_XDECREF(part);
        Py_DECREF(message);
    }
    if (parts == NULL) {
        return NULL;
    }
    return Py_BuildValue("(Nn)", parts, total);
}

/* splitmix64: https://prng.di.unimi.it/splitmix64.c */
static inline uint64_t
mix(uint64_t z)
{
    z += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

static PyObject *
marks(PyObject *Py_UNUSED(module), PyObject *parts)
{
    if (!PyList_Check(parts)) {
        PyErr_SetString(PyExc_TypeError, "marks(parts)");
        return NULL;
    }
    PyObject *result = PyList_New(0);
    uint64_t mark = 0;
    for (Py_ssize_t i = 0; result != NULL && i < PyList_GET_SIZE(parts); i++) {
        Py_hash_t hash = PyObject_Hash(PyList_GET_ITEM(parts, i)); /* of texts: no Python code runs */
        PyObject *number = NULL;
        if (hash != -1) {
            mark = mix(mark ^ (uint64_t)hash);
            number = PyLong_FromUnsignedLongLong(mark);
        }
        if (number == NULL || PyList_Append(result, number) < 0) {
            Py_CLEAR(result);
        }
        Py_XDECREF(number);
    }
    return result;
}

static PyMethodDef methods[] = {
    {"read", (PyCFunction)(void (*)(void))read_messages, METH_FASTCALL,
     "read(messages, shapes, other) -> tuple[list[Part], int]\n\nThe parts of messages, and their size in characters."},
    {"marks", marks, METH_O,
     "marks(parts) -> list[int]\n\nA hash of the first part, of the first two, and so on."},
    {NULL},
};

static int
module_exec(PyObject *Py_UNUSED(module))
{
    static int is_loaded = 0;
    if (is_loaded) { /* what is static here belongs to one interpreter; another does without */
        PyErr_SetString(PyExc_ImportError, "the messages are loaded once a process");
        return -1;
    }
    is_loaded = 1;
    s_dict = PyUnicode_InternFromString("__dict__");
    s_content = PyUnicode_InternFromString("content");
    return s_dict == NULL || s_content == NULL ? -1 : 0;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, module_exec}, {0, NULL}};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "millstream.record._messages",
    .m_doc = "The messages of a conversation, read in C.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__messages(void)
{
    return PyModuleDef_Init(&definition);
}
