/* Prompts without those that one of the next few begins with. prompt_blocks.py says the same in NumPy, where there was
 * no compiler.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define AHEAD 4

typedef struct {
    const uint64_t *hashes;
    const int64_t *length;
    int64_t *first;
    Py_ssize_t blocks, prompts;
} Prompts;

/* A prompt that has blocks. */
typedef struct {
    const uint64_t *hashes;
    int64_t size, place; /* where it is found in what is kept */
    Py_ssize_t holder;
} Prompt;

/* Lists the prompts that have blocks; gives how many, or -1 where there are other blocks than theirs. */
static Py_ssize_t
listed(const Prompts *given, Prompt *prompts)
{
    Py_ssize_t count = 0;
    int64_t at = 0;
    for (Py_ssize_t i = 0; i < given->prompts; i++) {
        int64_t size = given->length[i];
        if (size < 0 || size > given->blocks - at) {
            return -1;
        }
        if (size > 0) {
            prompts[count] = (Prompt){given->hashes + at, size, 0, count};
            count++;
        }
        at += size;
    }
    return at == given->blocks ? count : -1;
}

/* Finds the last of the prompts behind each, one beginning with the other; gives how many blocks are kept. */
static int64_t
held(Prompt *prompts, Py_ssize_t count)
{
    for (Py_ssize_t i = count - 1; i >= 0; i--) {
        int64_t last = prompts[i].size - 1;
        for (Py_ssize_t next = i + 1; next < count && next <= i + AHEAD; next++) {
            if (last < prompts[next].size && prompts[i].hashes[last] == prompts[next].hashes[last]) {
                prompts[i].holder = prompts[next].holder;
                break;
            }
        }
    }
    int64_t kept = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        if (prompts[i].holder == i) {
            prompts[i].place = kept;
            kept += prompts[i].size;
        }
    }
    return kept;
}

static PyObject *
without_held(const Prompts *given, Prompt *prompts)
{
    Py_ssize_t count = 0;
    int64_t kept = 0;
    Py_BEGIN_ALLOW_THREADS
    count = listed(given, prompts);
    kept = count < 0 ? -1 : held(prompts, count);
    Py_END_ALLOW_THREADS
    if (kept < 0) {
        PyErr_SetString(PyExc_ValueError, "the blocks are not those of the prompts");
        return NULL;
    }
    PyObject *found = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(kept * 8));
    if (found == NULL) {
        return NULL;
    }
    char *out = PyBytes_AS_STRING(found);
    Py_BEGIN_ALLOW_THREADS
    Py_ssize_t at = 0;
    for (Py_ssize_t i = 0; i < count; i++) {
        if (prompts[i].holder == i) {
            memcpy(out + prompts[i].place * 8, prompts[i].hashes, (size_t)prompts[i].size * 8);
        }
    }
    for (Py_ssize_t i = 0; i < given->prompts; i++) {
        given->first[i] = given->length[i] > 0 ? prompts[prompts[at++].holder].place : 0;
    }
    Py_END_ALLOW_THREADS
    return found;
}

static PyObject *
once(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "takes hashes, length and first");
        return NULL;
    }
    Py_buffer views[3];
    int taken = 0, fits = 1;
    while (taken < 3 && PyObject_GetBuffer(args[taken], &views[taken], taken < 2 ? PyBUF_CONTIG_RO : PyBUF_CONTIG) == 0) {
        fits = fits && views[taken++].itemsize == 8;
    }
    PyObject *found = NULL;
    if (taken == 3 && fits && views[1].len == views[2].len) {
        Prompts given = {views[0].buf, views[1].buf, views[2].buf, views[0].len / 8, views[1].len / 8};
        Prompt *prompts = malloc(sizeof(Prompt) * (size_t)(given.prompts + 1));
        found = prompts == NULL ? PyErr_NoMemory() : without_held(&given, prompts);
        free(prompts);
    } else if (taken == 3) {
        PyErr_SetString(PyExc_ValueError, "the arrays are not of 64 bit numbers, or not of one length");
    }
    while (taken > 0) {
        PyBuffer_Release(&views[--taken]);
    }
    return found;
}

static PyMethodDef methods[] = {
    {"once", (PyCFunction)(void (*)(void))once, METH_FASTCALL,
     "once(hashes, length, first) -> bytes\n\nThe hashes without prompts that one of the next few begins with; fills in "
     "where each prompt is found then."},
    {NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "millstream.store._prompts",
    .m_doc = "Prompts that others begin with, in C.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__prompts(void)
{
    return PyModuleDef_Init(&definition);
}
