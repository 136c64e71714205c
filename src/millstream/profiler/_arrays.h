/* Arrays that Python hands to a function in C: contiguous, of known types, and released together. */

#ifndef MILLSTREAM_ARRAYS_H
#define MILLSTREAM_ARRAYS_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

#define MOST_ARRAYS 12
#define LARGE (1u << 22)
#define PAGE 4096u

/* Memory for an array; where it is large, in large pages if the system has them: it is touched much faster then. */
static inline void *
in_large_pages(void *memory, size_t size)
{
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (memory != NULL && size >= LARGE) {
        size_t skipped = PAGE - (size_t)((uintptr_t)memory % PAGE);
        madvise((char *)memory + skipped, size - skipped, MADV_HUGEPAGE); /* a hint */
    }
#else
    (void)size;
#endif
    return memory;
}

static inline void *
room(size_t size)
{
    return in_large_pages(malloc(size), size);
}

static inline void *
zeros(size_t count, size_t size)
{
    return in_large_pages(calloc(count, size), count * size);
}

typedef struct {
    Py_buffer views[MOST_ARRAYS];
    int count;
    Py_ssize_t rows[MOST_ARRAYS]; /* how many numbers each has */
} Arrays;

static inline void
release(Arrays *arrays)
{
    for (int i = 0; i < arrays->count; i++) {
        PyBuffer_Release(&arrays->views[i]);
    }
    arrays->count = 0;
}

/* `kinds`: a letter for each argument: p int32 to read, n int32 to write, i int64 to read, o int64 to write, f flags to
 * read, w flags to write. A blank: the arrays before it are of one length, and so are those behind it. */
static inline int
take(Arrays *arrays, PyObject *const *args, Py_ssize_t count, const char *kinds)
{
    arrays->count = 0;
    int first = 0;
    for (; *kinds; kinds++) {
        if (*kinds == ' ') {
            first = arrays->count;
            continue;
        }
        int at = arrays->count, writes = *kinds == 'o' || *kinds == 'w' || *kinds == 'n';
        if (at >= count || at >= MOST_ARRAYS) {
            break;
        }
        Py_buffer *view = &arrays->views[at];
        if (PyObject_GetBuffer(args[at], view, writes ? PyBUF_CONTIG : PyBUF_CONTIG_RO) < 0) {
            release(arrays);
            return 0;
        }
        arrays->count++;
        Py_ssize_t size = *kinds == 'f' || *kinds == 'w' ? 1 : *kinds == 'p' || *kinds == 'n' ? 4 : 8;
        arrays->rows[at] = view->len / size;
        if (view->itemsize != size || arrays->rows[at] != arrays->rows[first]) {
            PyErr_SetString(PyExc_ValueError, "the arrays are not of one length, or not of the right type");
            release(arrays);
            return 0;
        }
    }
    if (*kinds || arrays->count != count) {
        PyErr_SetString(PyExc_TypeError, "another number of arrays is wanted");
        release(arrays);
        return 0;
    }
    return 1;
}

#define INTS(i) ((int64_t *)arrays.views[i].buf)
#define PLACES(i) ((int32_t *)arrays.views[i].buf)
#define FLAGS(i) ((uint8_t *)arrays.views[i].buf)

#define FAST(function) (PyCFunction)(void (*)(void))function, METH_FASTCALL

#endif
