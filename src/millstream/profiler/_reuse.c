/* Which request used each block of a prompt last, and how much else was used since: one pass over all requests.
 *
 * Blocks are chained hashes: equal hashes are equal prefixes. A request touches its prompt tail to head, so a block
 * is never older than those behind it, and what a request was the last to use is always the tail of its prompt: from
 * `from[request]` on. A prompt is thus made of few stretches with one last user each (as in a link-cut tree, O(log n)
 * amortised), and only the first block of each stretch is looked up. reuse.py says the same in Python, where there
 * was no compiler.
 */

#include "_arrays.h"

typedef struct {
    uint64_t key;
    int64_t value; /* -1: no entry */
} Entry;

typedef struct {
    Entry *entries;
    size_t mask, used;
} Table;

static int
table_new(Table *table, size_t capacity)
{
    table->entries = room(sizeof(Entry) * capacity);
    if (table->entries == NULL) {
        return 0;
    }
    for (size_t i = 0; i < capacity; i++) {
        table->entries[i].value = -1;
    }
    table->mask = capacity - 1;
    table->used = 0;
    return 1;
}

/* The entry of a key, or the empty one where it belongs. */
static inline Entry *
table_find(const Table *table, uint64_t key)
{
    uint64_t mixed = (key ^ (key >> 32)) * 0x9e3779b97f4a7c15u;
    size_t at = (size_t)(mixed ^ (mixed >> 29)) & table->mask;
    while (table->entries[at].value >= 0 && table->entries[at].key != key) {
        at = (at + 1) & table->mask;
    }
    return &table->entries[at];
}

static int
table_set(Table *table, uint64_t key, int64_t value)
{
    Entry *entry = table_find(table, key);
    if (entry->value < 0 && ++table->used * 3 > table->mask * 2) {
        Table larger;
        if (!table_new(&larger, (table->mask + 1) * 2)) {
            return 0;
        }
        for (size_t i = 0; i <= table->mask; i++) {
            if (table->entries[i].value >= 0) {
                *table_find(&larger, table->entries[i].key) = table->entries[i];
            }
        }
        larger.used = table->used;
        free(table->entries);
        *table = larger;
        entry = table_find(table, key);
    }
    *entry = (Entry){key, value};
    return 1;
}

typedef struct {
    Py_buffer views[3];
    int count;
    const uint64_t *blocks;
    const int64_t *start, *length;
    Py_ssize_t requests;
} Prompts;

static void
release_prompts(Prompts *prompts)
{
    for (int i = 0; i < prompts->count; i++) {
        PyBuffer_Release(&prompts->views[i]);
    }
    prompts->count = 0;
}

/* blocks, start, length: request i has blocks[start[i]] and those behind it, length[i] in all. */
static int
take_prompts(Prompts *prompts, PyObject *const *args, Py_ssize_t count)
{
    prompts->count = 0;
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "takes blocks, start and length");
        return 0;
    }
    for (int i = 0; i < 3; i++) {
        if (PyObject_GetBuffer(args[i], &prompts->views[i], PyBUF_CONTIG_RO) < 0) {
            release_prompts(prompts);
            return 0;
        }
        prompts->count++;
        if (prompts->views[i].itemsize != 8) {
            PyErr_SetString(PyExc_ValueError, "the arrays are not of 64 bit numbers");
            release_prompts(prompts);
            return 0;
        }
    }
    Py_ssize_t blocks = prompts->views[0].len / 8;
    prompts->blocks = prompts->views[0].buf;
    prompts->start = prompts->views[1].buf;
    prompts->length = prompts->views[2].buf;
    prompts->requests = prompts->views[1].len / 8;
    int fits = prompts->views[2].len / 8 == prompts->requests && prompts->requests < INT32_MAX;
    for (Py_ssize_t i = 0; fits && i < prompts->requests; i++) {
        int64_t start = prompts->start[i], length = prompts->length[i];
        fits = start >= 0 && length >= 0 && length < INT32_MAX && start <= blocks && length <= blocks - start;
    }
    if (!fits) {
        PyErr_SetString(PyExc_ValueError, "a request lies outside the blocks");
        release_prompts(prompts);
    }
    return fits;
}

typedef struct {
    int64_t rank;
    int32_t request, owner, end, unused;
} Stretch;

typedef struct {
    PyObject *bytes; /* a bytearray */
    size_t count, capacity;
} Stretches;

/* Needs the GIL. */
static int
grow(Stretches *found)
{
    size_t capacity = found->capacity * 2;
    if (PyByteArray_Resize(found->bytes, (Py_ssize_t)(sizeof(Stretch) * capacity)) < 0) {
        return 0;
    }
    in_large_pages(PyByteArray_AS_STRING(found->bytes), sizeof(Stretch) * capacity);
    found->capacity = capacity;
    return 1;
}

/* Sums of the first numbers of a row that grows (Fenwick, 1994): what is near its end takes few steps. */
static inline void
append(int64_t *sums, Py_ssize_t count, int64_t value)
{
    Py_ssize_t at = count + 1;
    for (Py_ssize_t back = 1; back < (at & -at); back <<= 1) {
        value += sums[at - back];
    }
    sums[at] = value;
}

static inline void
add(int64_t *sums, Py_ssize_t count, Py_ssize_t at, int64_t value)
{
    for (at++; at <= count; at += at & -at) {
        sums[at] += value;
    }
}

static inline int64_t
sum_behind(const int64_t *sums, Py_ssize_t count, Py_ssize_t at)
{
    int64_t sum = 0;
    for (at++; count > at; count -= count & -count) {
        sum += sums[count];
    }
    for (; at > count; at -= at & -at) {
        sum -= sums[at];
    }
    return sum;
}

/* How many blocks of two prompts, of which the first `same` are equal, are equal. Most prompts have as many in common
 * as the two before them. */
static inline int64_t
common(const uint64_t *one, const uint64_t *other, int64_t same, int64_t most, int64_t guess)
{
    if (one == other || one[most - 1] == other[most - 1]) {
        return most;
    }
    if (guess > same && guess < most) {
        if (one[guess - 1] == other[guess - 1]) {
            same = guess;
            if (one[guess] != other[guess]) {
                return guess;
            }
        } else {
            most = guess;
        }
    }
    while (most - same > 1) {
        int64_t middle = same + (most - same) / 2;
        if (one[middle - 1] == other[middle - 1]) {
            same = middle;
        } else {
            most = middle;
        }
    }
    return same;
}

/* A request, and where the stretch begins that it was the last to use. */
typedef struct {
    const uint64_t *blocks;
    int32_t length, from;
} Used;

typedef struct {
    Table owners;  /* by first block of a stretch, the last request that used it */
    Used *used;    /* by request */
    int64_t *sums; /* of the lengths of these stretches */
    int64_t guess; /* how many blocks the last two that were compared had in common */
} Past;

#define FAILED -1

/* Adds the stretches of a request that were used before; gives how many blocks that are, or FAILED. */
static int64_t
stretches_of(const Prompts *prompts, Py_ssize_t request, Past *past, Stretches *found, PyThreadState **state)
{
    const uint64_t *block = prompts->blocks + prompts->start[request];
    int64_t length = prompts->length[request], depth = 0;
    while (depth < length) {
        int64_t owner = table_find(&past->owners, block[depth])->value;
        if (owner < 0 || past->used[owner].from != depth || past->used[owner].length <= depth) {
            break;
        }
        const uint64_t *other = past->used[owner].blocks;
        int64_t whole = past->used[owner].length;
        if (other[depth] != block[depth]) {
            break;
        }
        int64_t end = common(block, other, depth + 1, whole < length ? whole : length, past->guess);
        past->guess = end < whole && end < length ? end : past->guess;
        if (found->count == found->capacity) {
            PyEval_RestoreThread(*state);
            int grown = grow(found);
            *state = PyEval_SaveThread();
            if (!grown) {
                return FAILED;
            }
        }
        /* Later requests hold less than they did by what was taken from them just now: the first `depth` blocks. */
        int64_t rank = sum_behind(past->sums, request, (Py_ssize_t)owner) + depth;
        ((Stretch *)PyByteArray_AS_STRING(found->bytes))[found->count++] =
            (Stretch){rank, (int32_t)request, (int32_t)owner, (int32_t)end, 0};
        add(past->sums, request, (Py_ssize_t)owner, depth - end);
        past->used[owner].from = (int32_t)end;
        if (end < whole && !table_set(&past->owners, other[end], owner)) {
            return FAILED;
        }
        depth = end;
    }
    return depth;
}

/* Whether a request is chained with those before it: what was used before is equal, and the rest was never seen. */
static int
follows(const Prompts *prompts, Py_ssize_t request, const Stretches *found, size_t first, int64_t known, Table *seen,
        int *failed)
{
    const uint64_t *block = prompts->blocks + prompts->start[request];
    const Stretch *stretches = (const Stretch *)PyByteArray_AS_STRING(found->bytes);
    int64_t at = 0;
    for (size_t i = first; i < found->count; i++) {
        const uint64_t *other = prompts->blocks + prompts->start[stretches[i].owner];
        if (memcmp(block + at, other + at, sizeof(uint64_t) * (size_t)(stretches[i].end - at)) != 0) {
            return 0;
        }
        at = stretches[i].end;
    }
    for (at = known; at < prompts->length[request]; at++) {
        if (table_find(seen, block[at])->value >= 0) {
            return 0;
        }
        if (!table_set(seen, block[at], 0)) {
            *failed = 1;
            return 0;
        }
    }
    return 1;
}

/* `seen`: empty, to find out whether the blocks are chained; NULL where they are. */
static int
run(const Prompts *prompts, Past *past, Stretches *found, Table *seen, int *chained)
{
    int failed = 0;
    PyThreadState *state = PyEval_SaveThread();
    for (Py_ssize_t request = 0; request < prompts->requests && *chained && !failed; request++) {
        int64_t length = prompts->length[request];
        past->used[request] = (Used){prompts->blocks + prompts->start[request], (int32_t)length, 0};
        if (length == 0) {
            append(past->sums, request, 0);
            continue;
        }
        size_t first = found->count;
        int64_t known = stretches_of(prompts, request, past, found, &state);
        failed = known == FAILED || !table_set(&past->owners, prompts->blocks[prompts->start[request]], request);
        append(past->sums, request, length);
        if (seen != NULL && !failed) {
            *chained = follows(prompts, request, found, first, known, seen, &failed);
        }
    }
    PyEval_RestoreThread(state);
    return !failed;
}

static PyObject *
stretches(PyObject *const *args, Py_ssize_t count, int trusted)
{
    Prompts prompts;
    if (!take_prompts(&prompts, args, count)) {
        return NULL;
    }
    size_t rows = (size_t)prompts.requests + 1;
    Stretches found = {PyByteArray_FromStringAndSize(NULL, (Py_ssize_t)(sizeof(Stretch) * rows)), 0, rows};
    Past past = {{NULL, 0, 0}, room(sizeof(Used) * rows), zeros(rows, sizeof(int64_t)), 0};
    Table seen = {NULL, 0, 0};
    int chained = 1;
    int done = found.bytes != NULL && past.used != NULL && past.sums != NULL && table_new(&past.owners, 1024) &&
               (trusted || table_new(&seen, 1024)) && run(&prompts, &past, &found, trusted ? NULL : &seen, &chained) &&
               PyByteArray_Resize(found.bytes, (Py_ssize_t)(sizeof(Stretch) * found.count)) == 0;
    free(past.used);
    free(past.sums);
    free(past.owners.entries);
    free(seen.entries);
    release_prompts(&prompts);
    if (done && chained) {
        return found.bytes;
    }
    Py_XDECREF(found.bytes);
    if (done) {
        Py_RETURN_NONE;
    }
    return PyErr_Occurred() ? NULL : PyErr_NoMemory();
}

static PyObject *
reuse(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    return stretches(args, count, 1);
}

static PyObject *
reuse_if_chained(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    return stretches(args, count, 0);
}

/* How many blocks each prompt begins with that were used at most `within` ns ago. A stretch was never used later than
 * the one before it. */
static PyObject *
depth(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    Arrays arrays;
    if (!take(&arrays, args, count, "f io i")) { /* stretches, start_ns, depth, within */
        return NULL;
    }
    const Stretch *found = arrays.views[0].buf;
    Py_ssize_t stretches = arrays.rows[0] / (Py_ssize_t)sizeof(Stretch), requests = arrays.rows[1];
    const int64_t *start_ns = INTS(1), within = arrays.rows[3] == 1 ? INTS(3)[0] : -1;
    int64_t *deepest = INTS(2);
    int fits = arrays.rows[3] == 1;
    Py_BEGIN_ALLOW_THREADS
    memset(deepest, 0, sizeof(int64_t) * (size_t)requests);
    for (Py_ssize_t i = 0; fits && i < stretches; i++) {
        int32_t request = found[i].request, owner = found[i].owner;
        fits = request >= 0 && request < requests && owner >= 0 && owner < requests;
        if (fits && start_ns[request] - start_ns[owner] <= within) {
            deepest[request] = found[i].end;
        }
    }
    Py_END_ALLOW_THREADS
    release(&arrays);
    if (!fits) {
        PyErr_SetString(PyExc_ValueError, "a stretch is of no request");
        return NULL;
    }
    Py_RETURN_NONE;
}

/* Input tokens of what each prompt begins with and was used at most `within` ns ago: in proportion to its blocks, of
 * which the last is half full. Stretches come in the order of their requests. */
static PyObject *
tokens(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    Arrays arrays;
    if (!take(&arrays, args, count, "f iiio i")) { /* stretches, start_ns, length, input_tokens, tokens, within */
        return NULL;
    }
    const Stretch *found = arrays.views[0].buf;
    Py_ssize_t stretches = arrays.rows[0] / (Py_ssize_t)sizeof(Stretch), requests = arrays.rows[1], at = 0;
    const int64_t *start_ns = INTS(1), *length = INTS(2), *input = INTS(3);
    const int64_t within = arrays.rows[5] == 1 ? INTS(5)[0] : -1;
    int64_t *told = INTS(4);
    int fits = arrays.rows[5] == 1;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t request = 0; fits && request < requests; request++) {
        int32_t deepest = 0;
        for (; fits && at < stretches && found[at].request == request; at++) {
            int32_t owner = found[at].owner;
            fits = owner >= 0 && owner < requests;
            if (fits && start_ns[request] - start_ns[owner] <= within) {
                deepest = found[at].end;
            }
        }
        double share = (double)deepest / ((double)length[request] + 0.5);
        told[request] = (int64_t)(share * (double)(input[request] > 0 ? input[request] : 0));
    }
    Py_END_ALLOW_THREADS
    release(&arrays);
    if (!fits || at < stretches) {
        PyErr_SetString(PyExc_ValueError, "a stretch is of no request");
        return NULL;
    }
    Py_RETURN_NONE;
}

/* Tokens as a provider counts them: in steps, and from a minimum on. */
static PyObject *
rounded(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    Arrays arrays;
    if (!take(&arrays, args, count, "io i")) { /* tokens, rounded; step and minimum */
        return NULL;
    }
    int fits = arrays.rows[2] == 2 && INTS(2)[0] > 0;
    if (fits) {
        const int64_t *told = INTS(0), step = INTS(2)[0], minimum = INTS(2)[1];
        int64_t *counted = INTS(1);
        Py_BEGIN_ALLOW_THREADS
        if ((step & (step - 1)) == 0) { /* tokens are not negative */
            for (Py_ssize_t i = 0; i < arrays.rows[0]; i++) {
                int64_t whole = told[i] & ~(step - 1);
                counted[i] = whole >= minimum ? whole : 0;
            }
        } else {
            for (Py_ssize_t i = 0; i < arrays.rows[0]; i++) {
                int64_t whole = told[i] - told[i] % step;
                counted[i] = whole >= minimum ? whole : 0;
            }
        }
        Py_END_ALLOW_THREADS
    }
    release(&arrays);
    if (!fits) {
        PyErr_SetString(PyExc_ValueError, "a step and a minimum are wanted");
        return NULL;
    }
    Py_RETURN_NONE;
}

#define REASONS 5

/* Tokens that were not read, by reason, then the calls that have the most of theirs there, then the tokens that were
 * read beyond what could be; as _not_read in cache_opportunity.py has it. */
static PyObject *
not_read(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    Arrays arrays;
    if (!take(&arrays, args, count, "iiiii i o")) { /* input, shared, fresh, readable, read; step; sums */
        return NULL;
    }
    int fits = arrays.rows[5] == 1 && arrays.rows[6] == 2 * REASONS + 1;
    if (fits) {
        const int64_t *input = INTS(0), *shared = INTS(1), *fresh = INTS(2), *readable = INTS(3), *read = INTS(4);
        const int64_t step = INTS(5)[0];
        int64_t *sums = INTS(6);
        Py_BEGIN_ALLOW_THREADS
        memset(sums, 0, sizeof(int64_t) * (2 * REASONS + 1));
        for (Py_ssize_t i = 0; i < arrays.rows[0]; i++) {
            int64_t below = fresh[i] - readable[i], left = readable[i] - read[i];
            int is_rounded = readable[i] > 0 && below < step;
            int64_t told[REASONS] = {input[i] - shared[i], shared[i] - fresh[i], is_rounded ? 0 : below,
                                     is_rounded ? below : 0, left > 0 ? left : 0};
            int most = 0, any = told[0] != 0;
            sums[0] += told[0];
            for (int reason = 1; reason < REASONS; reason++) {
                any |= told[reason] != 0;
                sums[reason] += told[reason];
                most = told[reason] > told[most] ? reason : most;
            }
            sums[REASONS + most] += any;
            sums[2 * REASONS] += left < 0 ? -left : 0;
        }
        Py_END_ALLOW_THREADS
    }
    release(&arrays);
    if (!fits) {
        PyErr_SetString(PyExc_ValueError, "a step and room for the sums are wanted");
        return NULL;
    }
    Py_RETURN_NONE;
}

/* Adds, by how many others were used since, where blocks begin and where they end. */
static PyObject *
ranks(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    Arrays arrays;
    if (!take(&arrays, args, count, "f o")) { /* stretches, change */
        return NULL;
    }
    const Stretch *found = arrays.views[0].buf;
    Py_ssize_t stretches = arrays.rows[0] / (Py_ssize_t)sizeof(Stretch), most = arrays.rows[1];
    int64_t *change = INTS(1);
    int fits = 1;
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t i = 0; fits && i < stretches; i++) {
        int64_t begin = i > 0 && found[i - 1].request == found[i].request ? found[i - 1].end : 0;
        int64_t rank = found[i].rank, again = found[i].end - begin;
        fits = rank >= 0 && rank < most && again >= 0 && again < most - rank;
        if (fits) {
            change[rank]++;
            change[rank + again]--;
        }
    }
    Py_END_ALLOW_THREADS
    release(&arrays);
    if (!fits) {
        PyErr_SetString(PyExc_ValueError, "more was used than there is");
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"reuse", FAST(reuse),
     "reuse(blocks, start, length) -> bytearray\n\nThe stretches of all requests that were used before, in order."},
    {"reuse_if_chained", FAST(reuse_if_chained),
     "reuse_if_chained(blocks, start, length) -> bytearray | None\n\nThe same, None where equal blocks are not equal "
     "prefixes."},
    {"depth", FAST(depth),
     "depth(stretches, start_ns, depth, within)\n\nHow many blocks each prompt begins with that were used so long ago."},
    {"tokens", FAST(tokens),
     "tokens(stretches, start_ns, length, input_tokens, tokens, within)\n\nInput tokens of what was used so long ago."},
    {"rounded", FAST(rounded), "rounded(tokens, rounded, step_and_minimum)\n\nTokens as a provider counts them."},
    {"not_read", FAST(not_read),
     "not_read(input, shared, fresh, readable, read, step, sums)\n\nTokens that were not read, and calls, by reason."},
    {"ranks", FAST(ranks),
     "ranks(stretches, change)\n\nHow many more blocks have 0, 1, 2, ... others used since than one less."},
    {NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "millstream.profiler._reuse",
    .m_doc = "The last use of each block of a prompt, found in C.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__reuse(void)
{
    return PyModuleDef_Init(&definition);
}
