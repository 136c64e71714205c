/* How many intervals are open at once, from their sorted starts and ends. sweep.py says the same in NumPy, where there
 * was no compiler.
 */

#include "_arrays.h"

/* Steps of one level over time: no two neighbours equal, the first and the last above 0; gives how many times. */
static Py_ssize_t
steps(const int64_t *start, const int64_t *end, Py_ssize_t count, int64_t *time, int32_t *level)
{
    Py_ssize_t opened = 0, closed = 0, found = 0;
    int64_t before = 0;
    while (closed < count) {
        int64_t now = opened < count && start[opened] < end[closed] ? start[opened] : end[closed];
        while (opened < count && start[opened] == now) {
            opened++;
        }
        while (closed < count && end[closed] == now) {
            closed++;
        }
        int64_t open = (int64_t)(opened - closed);
        if (open != before || found == 0) {
            time[found] = now;
            level[found++] = (int32_t)open;
            before = open;
        }
    }
    return found;
}

static PyObject *
sweep(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    Arrays arrays;
    if (!take(&arrays, args, count, "ii on")) {
        return NULL;
    }
    if (arrays.rows[2] < 2 * arrays.rows[0] || arrays.rows[0] > INT32_MAX) {
        release(&arrays);
        PyErr_SetString(PyExc_ValueError, "there is no room for all steps");
        return NULL;
    }
    Py_ssize_t found;
    Py_BEGIN_ALLOW_THREADS
    found = steps(INTS(0), INTS(1), arrays.rows[0], INTS(2), PLACES(3));
    Py_END_ALLOW_THREADS
    release(&arrays);
    return PyLong_FromSsize_t(found);
}

/* How long each level lasts, added up: time has one element more than level. */
static PyObject *
lasts(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    Arrays arrays;
    if (!take(&arrays, args, count, "i p o")) { /* time, level, lasts */
        return NULL;
    }
    const int64_t *time = INTS(0);
    const int32_t *level = PLACES(1);
    int64_t *length = INTS(2);
    Py_ssize_t levels = arrays.rows[1], most = arrays.rows[2];
    int fits = levels == 0 || arrays.rows[0] == levels + 1;
    Py_BEGIN_ALLOW_THREADS
    memset(length, 0, sizeof(int64_t) * (size_t)most);
    for (Py_ssize_t i = 0; fits && i < levels; i++) {
        fits = level[i] >= 0 && level[i] < most;
        if (fits) {
            length[level[i]] += time[i + 1] - time[i];
        }
    }
    Py_END_ALLOW_THREADS
    release(&arrays);
    if (!fits) {
        PyErr_SetString(PyExc_ValueError, "a level is higher than the highest");
        return NULL;
    }
    Py_RETURN_NONE;
}

/* A grid over ascending times: how many of them come before each cell. */
typedef struct {
    int64_t origin;
    int shift, cells; /* a cell is 2^shift ns */
    int64_t *before;  /* one more than cells */
} Grid;

#define MOST_CELLS_BITS 20

static int
grid_of(Grid *grid, const int64_t *time, Py_ssize_t count)
{
    uint64_t span = count > 0 ? (uint64_t)time[count - 1] - (uint64_t)time[0] : 0;
    grid->origin = count > 0 ? time[0] : 0;
    for (grid->shift = 0; (span >> grid->shift) >> MOST_CELLS_BITS != 0; grid->shift++) {
    }
    grid->cells = (int)(span >> grid->shift) + 1;
    grid->before = malloc(sizeof(int64_t) * ((size_t)grid->cells + 1));
    if (grid->before == NULL) {
        return 0;
    }
    Py_ssize_t at = 0;
    for (int cell = 0; cell <= grid->cells; cell++) {
        while (at < count && (int64_t)(((uint64_t)time[at] - (uint64_t)grid->origin) >> grid->shift) < cell) {
            at++;
        }
        grid->before[cell] = at;
    }
    return 1;
}

/* How many of the times are not after a moment. */
static Py_ssize_t
passed(const Grid *grid, const int64_t *time, Py_ssize_t count, int64_t moment)
{
    if (count == 0 || moment < time[0]) {
        return 0;
    }
    uint64_t cell = ((uint64_t)moment - (uint64_t)grid->origin) >> grid->shift;
    if (cell >= (uint64_t)grid->cells) {
        return count;
    }
    Py_ssize_t low = grid->before[cell], high = grid->before[cell + 1];
    while (low < high) {
        Py_ssize_t middle = low + (high - low) / 2;
        if (time[middle] <= moment) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* The level at each moment: time has one element more than level. */
static PyObject *
at(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    Arrays arrays;
    if (!take(&arrays, args, count, "i p io")) { /* time, level, moment, found */
        return NULL;
    }
    const int64_t *time = INTS(0), *moment = INTS(2);
    const int32_t *level = PLACES(1);
    int64_t *found = INTS(3);
    Py_ssize_t times = arrays.rows[0], levels = arrays.rows[1];
    Grid grid;
    int made;
    Py_BEGIN_ALLOW_THREADS
    made = grid_of(&grid, time, times);
    for (Py_ssize_t i = 0; made && i < arrays.rows[2]; i++) {
        Py_ssize_t before = passed(&grid, time, times, moment[i]);
        found[i] = before > 0 && before <= levels ? level[before - 1] : 0;
    }
    Py_END_ALLOW_THREADS
    free(grid.before);
    release(&arrays);
    if (!made) {
        return PyErr_NoMemory();
    }
    Py_RETURN_NONE;
}

/* How many of the ascending times are not after each moment. */
static PyObject *
all_passed(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    Arrays arrays;
    if (!take(&arrays, args, count, "i io")) { /* time, moment, found */
        return NULL;
    }
    const int64_t *time = INTS(0), *moment = INTS(1);
    int64_t *found = INTS(2);
    Grid grid;
    int made;
    Py_BEGIN_ALLOW_THREADS
    made = grid_of(&grid, time, arrays.rows[0]);
    for (Py_ssize_t i = 0; made && i < arrays.rows[1]; i++) {
        found[i] = passed(&grid, time, arrays.rows[0], moment[i]);
    }
    Py_END_ALLOW_THREADS
    free(grid.before);
    release(&arrays);
    if (!made) {
        return PyErr_NoMemory();
    }
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"sweep", FAST(sweep),
     "sweep(start, end, time, level) -> int\n\nFill in the steps of sorted starts and ends; gives how many."},
    {"lasts", FAST(lasts), "lasts(time, level, lasts)\n\nHow long each level lasts, added up."},
    {"at", FAST(at), "at(time, level, moment, found)\n\nThe level at each moment; 0 outside."},
    {"passed", FAST(all_passed),
     "passed(time, moment, found)\n\nHow many of the ascending times are not after each moment."},
    {NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "millstream.profiler._sweep",
    .m_doc = "How many intervals are open at once, in C.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__sweep(void)
{
    return PyModuleDef_Init(&definition);
}
