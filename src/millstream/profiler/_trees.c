/* One pass over the rows of a span table for what NumPy takes many sorts to say: time shared out in call trees.
 *
 * Rows are sorted by trace and start. A parent is a row of the same trace, before or after its children, or -1; there
 * are no cycles. All arrays are contiguous int64 of one length, but flags, which are bytes. tree.py and
 * critical_path.py say the same in NumPy, where there was no compiler.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MOST 8 /* arrays a function takes */

typedef struct {
    Py_buffer views[MOST];
    int count;
    Py_ssize_t rows;
} Arrays;

static void
release(Arrays *arrays)
{
    for (int i = 0; i < arrays->count; i++) {
        PyBuffer_Release(&arrays->views[i]);
    }
    arrays->count = 0;
}

/* `kinds`: a letter for each argument: i int64 to read, o int64 to write, f flags to read, w flags to write. */
static int
take(Arrays *arrays, PyObject *const *args, Py_ssize_t count, const char *kinds)
{
    arrays->count = 0;
    arrays->rows = -1;
    if (count != (Py_ssize_t)strlen(kinds)) {
        PyErr_Format(PyExc_TypeError, "takes %zd arrays", (Py_ssize_t)strlen(kinds));
        return 0;
    }
    for (const char *kind = kinds; *kind; kind++) {
        Py_buffer *view = &arrays->views[arrays->count];
        if (PyObject_GetBuffer(*args++, view, *kind == 'o' || *kind == 'w' ? PyBUF_CONTIG : PyBUF_CONTIG_RO) < 0) {
            release(arrays);
            return 0;
        }
        arrays->count++;
        Py_ssize_t size = *kind == 'f' || *kind == 'w' ? 1 : (Py_ssize_t)sizeof(int64_t);
        if (view->itemsize != size || (arrays->rows >= 0 && view->len / size != arrays->rows)) {
            PyErr_SetString(PyExc_ValueError, "the arrays are not of one length, or not of the right type");
            release(arrays);
            return 0;
        }
        arrays->rows = view->len / size;
    }
    return 1;
}

#define INTS(i) ((int64_t *)arrays.views[i].buf)
#define FLAGS(i) ((uint8_t *)arrays.views[i].buf)

static int
has_parents(const int64_t *parent, Py_ssize_t rows)
{
    for (Py_ssize_t row = 0; row < rows; row++) {
        if (parent[row] >= rows) {
            PyErr_SetString(PyExc_ValueError, "a parent is no row");
            return 0;
        }
    }
    return 1;
}

/* Duration minus the union of the children clipped to the span; -1 for spans that are open. */
static PyObject *
self_time(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    Arrays arrays;
    if (!take(&arrays, args, count, "iiio")) {
        return NULL;
    }
    const int64_t *parent = INTS(0), *start = INTS(1), *end = INTS(2);
    int64_t *own = INTS(3);
    int64_t *until = has_parents(parent, arrays.rows) ? malloc(sizeof(int64_t) * (size_t)(arrays.rows + 1)) : NULL;
    if (until == NULL) {
        release(&arrays);
        return PyErr_Occurred() ? NULL : PyErr_NoMemory();
    }
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t row = 0; row < arrays.rows; row++) {
        own[row] = end[row] < 0 ? -1 : end[row] - start[row];
        until[row] = start[row];
    }
    for (Py_ssize_t row = 0; row < arrays.rows; row++) {
        int64_t above = parent[row];
        if (above < 0 || end[row] < 0 || end[above] < 0) {
            continue;
        }
        int64_t from = start[row] > until[above] ? start[row] : until[above];
        int64_t to = end[row] < end[above] ? end[row] : end[above];
        if (to > from) {
            own[above] -= to - from;
            until[above] = to;
        }
    }
    Py_END_ALLOW_THREADS
    free(until);
    release(&arrays);
    Py_RETURN_NONE;
}

/* Adds to each row what is in the rows below it; `total` is changed in place. */
static PyObject *
add_up(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    Arrays arrays;
    if (!take(&arrays, args, count, "io")) {
        return NULL;
    }
    const int64_t *parent = INTS(0);
    int64_t *total = INTS(1);
    int64_t *waiting =
        has_parents(parent, arrays.rows) ? calloc((size_t)(arrays.rows + 1), sizeof(int64_t)) : NULL;
    if (waiting == NULL) {
        release(&arrays);
        return PyErr_Occurred() ? NULL : PyErr_NoMemory();
    }
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t row = 0; row < arrays.rows; row++) {
        if (parent[row] >= 0) {
            waiting[parent[row]]++;
        }
    }
    for (Py_ssize_t row = 0; row < arrays.rows; row++) {
        /* From a leaf upwards, as long as nothing is waited for; a row is left at -1 when it was added. */
        int64_t at = row;
        while (at >= 0 && waiting[at] == 0) {
            waiting[at] = -1;
            int64_t above = parent[at];
            if (above >= 0) {
                total[above] += total[at];
                waiting[above]--;
            }
            at = above;
        }
    }
    Py_END_ALLOW_THREADS
    free(waiting);
    release(&arrays);
    Py_RETURN_NONE;
}

typedef struct {
    int64_t end, start, row;
} Child;

static int
by_end(const void *a, const void *b)
{
    const Child *one = a, *other = b;
    if (one->end != other->end) {
        return one->end < other->end ? -1 : 1;
    }
    if (one->start != other->start) {
        return one->start > other->start ? -1 : 1;
    }
    return one->row < other->row ? -1 : one->row > other->row;
}

#define UNSEEN 2

/* Clips every closed span to its parent, from the roots down: start and end are changed, `reached` set to 0 or 1. */
static PyObject *
clip(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    Arrays arrays;
    if (!take(&arrays, args, count, "ifoow")) { /* parent, is root, start, end, reached */
        return NULL;
    }
    const int64_t *parent = INTS(0);
    const uint8_t *is_root = FLAGS(1);
    int64_t *start = INTS(2), *end = INTS(3);
    uint8_t *reached = FLAGS(4);
    int64_t *path = has_parents(parent, arrays.rows) ? malloc(sizeof(int64_t) * (size_t)(arrays.rows + 1)) : NULL;
    if (path == NULL) {
        release(&arrays);
        return PyErr_Occurred() ? NULL : PyErr_NoMemory();
    }
    Py_BEGIN_ALLOW_THREADS
    memset(reached, UNSEEN, (size_t)arrays.rows);
    for (Py_ssize_t row = 0; row < arrays.rows; row++) {
        Py_ssize_t length = 0;
        for (int64_t at = row; at >= 0 && reached[at] == UNSEEN && length <= arrays.rows; at = parent[at]) {
            path[length++] = at;
        }
        while (length-- > 0) {
            int64_t at = path[length], above = parent[at];
            if (above < 0) {
                reached[at] = is_root[at] && end[at] >= 0;
                continue;
            }
            reached[at] = end[at] >= 0 && reached[above] == 1;
            int64_t last = end[above] > start[above] ? end[above] : start[above];
            int64_t from = start[at] > start[above] ? start[at] : start[above];
            start[at] = from < last ? from : last;
            int64_t to = end[at] < end[above] ? end[at] : end[above];
            end[at] = to > start[at] ? to : start[at];
        }
    }
    Py_END_ALLOW_THREADS
    free(path);
    release(&arrays);
    Py_RETURN_NONE;
}

/* Each span's own time on the critical path of its request, of spans that were clipped. */
static PyObject *
critical_path(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    Arrays arrays;
    if (!take(&arrays, args, count, "ifiio")) { /* parent, reached, start, end, own */
        return NULL;
    }
    const int64_t *parent = INTS(0), *start = INTS(2), *end = INTS(3);
    const uint8_t *reached = FLAGS(1);
    int64_t *own = INTS(4);
    Py_ssize_t rows = arrays.rows;
    int64_t *first = NULL, *waiting = NULL;
    Child *children = NULL;
    if (has_parents(parent, rows)) {
        first = calloc((size_t)rows + 2, sizeof(int64_t));
        waiting = malloc(sizeof(int64_t) * (size_t)(rows + 1));
        children = malloc(sizeof(Child) * (size_t)(rows + 1));
    }
    if (first == NULL || waiting == NULL || children == NULL) {
        free(first);
        free(waiting);
        free(children);
        release(&arrays);
        return PyErr_Occurred() ? NULL : PyErr_NoMemory();
    }
    Py_BEGIN_ALLOW_THREADS
    Py_ssize_t left = 0;
    for (Py_ssize_t row = 0; row < rows; row++) {
        own[row] = 0;
        if (reached[row] && parent[row] >= 0) {
            first[parent[row] + 2]++;
        } else if (reached[row]) {
            waiting[left++] = row;
        }
    }
    for (Py_ssize_t row = 0; row < rows; row++) {
        first[row + 2] += first[row + 1];
    }
    for (Py_ssize_t row = 0; row < rows; row++) { /* afterwards the children of a row end where first[row + 1] says */
        if (reached[row] && parent[row] >= 0) {
            children[first[parent[row] + 1]++] = (Child){end[row], start[row], row};
        }
    }
    while (left > 0) {
        int64_t row = waiting[--left], frontier = end[row], rest = end[row] - start[row];
        int64_t low = first[row], high = first[row + 1];
        if (high - low > 1) {
            qsort(children + low, (size_t)(high - low), sizeof(Child), by_end);
        }
        while (high-- > low) {
            const Child *child = &children[high];
            if (child->end <= frontier) {
                frontier = child->start;
                rest -= child->end - child->start;
                waiting[left++] = child->row;
            }
        }
        own[row] = rest;
    }
    Py_END_ALLOW_THREADS
    free(first);
    free(waiting);
    free(children);
    release(&arrays);
    Py_RETURN_NONE;
}

#define FAST(function) (PyCFunction)(void (*)(void))function, METH_FASTCALL

static PyMethodDef methods[] = {
    {"self_time", FAST(self_time),
     "self_time(parent, start, end, own)\n\nDuration minus the union of the children; -1 for open spans."},
    {"add_up", FAST(add_up), "add_up(parent, total)\n\nAdd to each row what is in the rows below it."},
    {"clip", FAST(clip), "clip(parent, is_root, start, end, reached)\n\nClip spans to their parents, from the roots down."},
    {"critical_path", FAST(critical_path),
     "critical_path(parent, reached, start, end, own)\n\nEach span's own time on the critical path."},
    {NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "millstream.profiler._trees",
    .m_doc = "Time shared out in call trees, in C.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__trees(void)
{
    return PyModuleDef_Init(&definition);
}
