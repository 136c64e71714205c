/* Which calls are retries, among siblings of which one failed. retries.py says the same in Python, where there was no
 * compiler.
 */

#include "_arrays.h"

typedef struct {
    int64_t key, at; /* of siblings in order of their starts, the position; a key below 0 is not known */
} Input;

static int
by_key(const void *a, const void *b)
{
    const Input *one = a, *other = b;
    if (one->key != other->key) {
        return one->key < other->key ? -1 : 1;
    }
    return one->at < other->at ? -1 : one->at > other->at;
}

typedef struct {
    int64_t end, row;
    int failed;
} Ended;

/* A heap of calls by their ends; of those that end together a failed one is last. */
static inline int
is_before(const Ended *one, const Ended *other)
{
    return one->end != other->end ? one->end < other->end : one->failed < other->failed;
}

static void
push(Ended *heap, Py_ssize_t count, Ended call)
{
    Py_ssize_t at = count;
    for (; at > 0 && is_before(&call, &heap[(at - 1) / 2]); at = (at - 1) / 2) {
        heap[at] = heap[(at - 1) / 2];
    }
    heap[at] = call;
}

static Ended
pop(Ended *heap, Py_ssize_t count)
{
    Ended first = heap[0], last = heap[count - 1];
    Py_ssize_t at = 0;
    for (Py_ssize_t below = 1; below < count - 1; below = 2 * at + 1) {
        below += below + 1 < count - 1 && is_before(&heap[below + 1], &heap[below]);
        if (!is_before(&heap[below], &last)) {
            break;
        }
        heap[at] = heap[below];
        at = below;
    }
    heap[at] = last;
    return first;
}

typedef struct {
    const int64_t *start, *end, *key;
    const uint8_t *failed;
    uint8_t *is_retry, *retried, *may_be;
    int64_t *waited;
} Columns;

/* Calls of one known input. Those that ended before a call starts leave the heap: if one of them failed, it is a retry. */
static void
same_input(const Columns *columns, const int64_t *rows, const Input *inputs, Py_ssize_t count, Ended *heap)
{
    Py_ssize_t waiting = 0;
    int failed_before = 0;
    Ended latest = {-1, -1, 0};
    for (Py_ssize_t i = 0; i < count; i++) {
        int64_t row = rows[inputs[i].at];
        while (waiting > 0 && heap[0].end <= columns->start[row]) {
            Ended call = pop(heap, waiting--);
            if (call.failed) {
                failed_before = 1;
                columns->retried[call.row] = 1;
            }
            if (!is_before(&call, &latest)) {
                latest = call;
            }
        }
        if (failed_before) {
            columns->is_retry[row] = 1;
            columns->may_be[row] = 0;
            columns->waited[row] = latest.failed ? columns->start[row] - latest.end : 0;
        }
        if (columns->end[row] >= 0) {
            push(heap, waiting++, (Ended){columns->end[row], row, columns->failed[row] != 0});
        }
    }
}

/* Calls that follow a failed one, and of which an input is not known. */
static void
note_unknown(const Columns *columns, const int64_t *rows, Py_ssize_t count)
{
    int64_t any = INT64_MAX, unknown = INT64_MAX; /* when the first of them failed */
    for (Py_ssize_t i = 0; i < count; i++) {
        int64_t row = rows[i];
        columns->may_be[row] = (columns->key[row] < 0 ? any : unknown) <= columns->start[row];
        if (columns->failed[row]) {
            any = columns->end[row] < any ? columns->end[row] : any;
            if (columns->key[row] < 0) {
                unknown = columns->end[row] < unknown ? columns->end[row] : unknown;
            }
        }
    }
}

static void
siblings(const Columns *columns, const int64_t *rows, Py_ssize_t count, Input *inputs, Ended *heap)
{
    note_unknown(columns, rows, count);
    for (Py_ssize_t i = 0; i < count; i++) {
        inputs[i] = (Input){columns->key[rows[i]], (int64_t)i};
    }
    qsort(inputs, (size_t)count, sizeof(Input), by_key);
    for (Py_ssize_t first = 0, next; first < count; first = next) {
        for (next = first + 1; next < count && inputs[next].key == inputs[first].key; next++) {
        }
        if (inputs[first].key >= 0) {
            same_input(columns, rows, inputs + first, next - first, heap);
        }
    }
}

static int
is_inside(const int64_t *rows, Py_ssize_t listed, const int64_t *first, Py_ssize_t bounds, Py_ssize_t total)
{
    for (Py_ssize_t i = 0; i < listed; i++) {
        if (rows[i] < 0 || rows[i] >= total) {
            return 0;
        }
    }
    for (Py_ssize_t i = 0; i < bounds; i++) {
        if (first[i] < (i > 0 ? first[i - 1] : 0) || first[i] > listed) {
            return 0;
        }
    }
    return 1;
}

static PyObject *
note(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    Arrays arrays;
    if (!take(&arrays, args, count, "i i iiifwwwo")) { /* rows, first; start, end, input, failed; the four results */
        return NULL;
    }
    const int64_t *rows = INTS(0), *first = INTS(1);
    Columns columns = {INTS(2), INTS(3), INTS(4), FLAGS(5), FLAGS(6), FLAGS(7), FLAGS(8), INTS(9)};
    Py_ssize_t listed = arrays.rows[0], bounds = arrays.rows[1];
    if (!is_inside(rows, listed, first, bounds, arrays.rows[2])) {
        release(&arrays);
        PyErr_SetString(PyExc_ValueError, "a sibling is no row");
        return NULL;
    }
    Input *inputs = malloc(sizeof(Input) * (size_t)(listed + 1));
    Ended *heap = malloc(sizeof(Ended) * (size_t)(listed + 1));
    if (inputs != NULL && heap != NULL) {
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t i = 0; i + 1 < bounds; i++) {
            siblings(&columns, rows + first[i], (Py_ssize_t)(first[i + 1] - first[i]), inputs, heap);
        }
        Py_END_ALLOW_THREADS
    }
    int done = inputs != NULL && heap != NULL;
    free(inputs);
    free(heap);
    release(&arrays);
    if (!done) {
        return PyErr_NoMemory();
    }
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"note", FAST(note),
     "note(rows, first, start, end, input, failed, is_retry, retried, may_be, waited)\n\nNote the retries among "
     "siblings, in order of their starts, one group behind the other."},
    {NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "millstream.profiler._retries",
    .m_doc = "Which calls are retries, in C.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__retries(void)
{
    return PyModuleDef_Init(&definition);
}
