/* One pass over the rows of a span table for what NumPy takes many sorts to say: time shared out in call trees.
 *
 * Rows are sorted by trace and start. A parent is a row of the same trace, before or after its children, or -1; there
 * are no cycles. All arrays are contiguous and of one length: int64, but parents, which are int32, and flags, which are
 * bytes. tree.py and critical_path.py say the same in NumPy, where there was no compiler.
 */

#include "_arrays.h"

static int
has_parents(const int32_t *parent, Py_ssize_t rows)
{
    for (Py_ssize_t row = 0; row < rows; row++) {
        if (parent[row] >= rows || rows >= INT32_MAX) {
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
    if (!take(&arrays, args, count, "piio")) {
        return NULL;
    }
    Py_ssize_t rows = arrays.rows[0];
    const int32_t *parent = PLACES(0);
    const int64_t *start = INTS(1), *end = INTS(2);
    int64_t *own = INTS(3);
    int64_t *until = has_parents(parent, rows) ? room(sizeof(int64_t) * (size_t)(rows + 1)) : NULL;
    if (until == NULL) {
        release(&arrays);
        return PyErr_Occurred() ? NULL : PyErr_NoMemory();
    }
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t row = 0; row < rows; row++) {
        own[row] = end[row] < 0 ? -1 : end[row] - start[row];
        until[row] = start[row];
    }
    for (Py_ssize_t row = 0; row < rows; row++) {
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
    if (!take(&arrays, args, count, "po")) {
        return NULL;
    }
    Py_ssize_t rows = arrays.rows[0];
    const int32_t *parent = PLACES(0);
    int64_t *total = INTS(1);
    int64_t *waiting =
        has_parents(parent, rows) ? zeros((size_t)(rows + 1), sizeof(int64_t)) : NULL;
    if (waiting == NULL) {
        release(&arrays);
        return PyErr_Occurred() ? NULL : PyErr_NoMemory();
    }
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t row = 0; row < rows; row++) {
        if (parent[row] >= 0) {
            waiting[parent[row]]++;
        }
    }
    for (Py_ssize_t row = 0; row < rows; row++) {
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
    int64_t end, start;
    int32_t row;
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

#define FEW 24

/* Few children, as most spans have, come sorted by start: nearly by end, too. */
static void
sort_children(Child *children, size_t count)
{
    if (count > FEW) {
        qsort(children, count, sizeof(Child), by_end);
        return;
    }
    for (size_t i = 1; i < count; i++) {
        Child child = children[i];
        size_t at = i;
        for (; at > 0 && by_end(&children[at - 1], &child) > 0; at--) {
            children[at] = children[at - 1];
        }
        children[at] = child;
    }
}

#define UNSEEN 2

/* Clips every closed span to its parent, from the roots down: start and end are changed, `reached` set to 0 or 1. */
static PyObject *
clip(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    Arrays arrays;
    if (!take(&arrays, args, count, "pfoow")) { /* parent, is root, start, end, reached */
        return NULL;
    }
    Py_ssize_t rows = arrays.rows[0];
    const int32_t *parent = PLACES(0);
    const uint8_t *is_root = FLAGS(1);
    int64_t *start = INTS(2), *end = INTS(3);
    uint8_t *reached = FLAGS(4);
    int64_t *path = has_parents(parent, rows) ? malloc(sizeof(int64_t) * (size_t)(rows + 1)) : NULL;
    if (path == NULL) {
        release(&arrays);
        return PyErr_Occurred() ? NULL : PyErr_NoMemory();
    }
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t row = 0; row < rows; row++) {
        reached[row] = UNSEEN;
    }
    for (Py_ssize_t row = 0; row < rows; row++) {
        Py_ssize_t length = 0;
        for (int64_t at = row; at >= 0 && reached[at] == UNSEEN && length <= rows; at = parent[at]) {
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

/* Counts the children of each row that are on a path, two places behind it; gives the most that one has. */
static size_t
most_children(const int32_t *parent, const uint8_t *reached, Py_ssize_t rows, int32_t *count)
{
    int32_t most = 0;
    for (Py_ssize_t row = 0; row < rows; row++) {
        if (reached[row] && parent[row] >= 0 && ++count[parent[row] + 2] > most) {
            most = count[parent[row] + 2];
        }
    }
    return (size_t)most;
}

/* Each span's own time on the critical path of its request, of spans that were clipped. */
static PyObject *
critical_path(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    Arrays arrays;
    if (!take(&arrays, args, count, "pfiio")) { /* parent, reached, start, end, own */
        return NULL;
    }
    Py_ssize_t rows = arrays.rows[0];
    const int32_t *parent = PLACES(0);
    const int64_t *start = INTS(2), *end = INTS(3);
    const uint8_t *reached = FLAGS(1);
    int64_t *own = INTS(4);
    int32_t *first = NULL, *waiting = NULL, *listed = NULL;
    Child *children = NULL;
    size_t most = 0;
    if (has_parents(parent, rows)) {
        first = zeros((size_t)rows + 2, sizeof(int32_t));
        waiting = room(sizeof(int32_t) * (size_t)(rows + 1));
        listed = room(sizeof(int32_t) * (size_t)(rows + 1));
        most = first == NULL ? 0 : most_children(parent, reached, rows, first);
        children = malloc(sizeof(Child) * (most + 1));
    }
    int done = first != NULL && waiting != NULL && listed != NULL && children != NULL;
    if (done) {
        Py_BEGIN_ALLOW_THREADS
        Py_ssize_t left = 0;
        for (Py_ssize_t row = 0; row < rows; row++) {
            own[row] = 0;
            if (reached[row] && parent[row] < 0) {
                waiting[left++] = (int32_t)row;
            }
        }
        for (Py_ssize_t row = 0; row < rows; row++) {
            first[row + 2] += first[row + 1];
        }
        for (Py_ssize_t row = 0; row < rows; row++) { /* then the children of a row end where first[row + 1] says */
            if (reached[row] && parent[row] >= 0) {
                listed[first[parent[row] + 1]++] = (int32_t)row;
            }
        }
        while (left > 0) {
            int32_t row = waiting[--left];
            int64_t frontier = end[row], rest = end[row] - start[row];
            size_t count = 0;
            for (int32_t at = first[row]; at < first[row + 1]; at++) {
                children[count++] = (Child){end[listed[at]], start[listed[at]], listed[at]};
            }
            sort_children(children, count);
            while (count-- > 0) {
                const Child *child = &children[count];
                if (child->end <= frontier) {
                    frontier = child->start;
                    rest -= child->end - child->start;
                    waiting[left++] = child->row;
                }
            }
            own[row] = rest;
        }
        Py_END_ALLOW_THREADS
    }
    free(first);
    free(waiting);
    free(listed);
    free(children);
    release(&arrays);
    if (!done) {
        return PyErr_Occurred() ? NULL : PyErr_NoMemory();
    }
    Py_RETURN_NONE;
}

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
