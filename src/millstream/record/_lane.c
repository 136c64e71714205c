/* The fast lane: opens and ends the commonest spans, byte for byte as opening.py and live.py do.
 *
 * It decides nothing. Whatever is not common (another tracing library, sampling, processors, large values,
 * attributes, workflows with a context, text that is not ASCII, a full window, any error) it declines, and the
 * Python code does the whole of it, with the same ids and times. So this module may be absent: the same lines are then written, more slowly.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <limits.h>
#include <stddef.h>
#include <string.h>
#include <structmember.h>
#include <time.h>

#ifdef Py_GIL_DISABLED
#error "the lane relies on the GIL; without it, the Python code does the same"
#endif

/* A piece of a mapped file that lines are copied into, one after another. */
typedef struct {
    PyObject_HEAD
    Py_buffer view;
    Py_ssize_t used;
} Window;

static PyTypeObject *window_type;

static int
window_init(Window *self, PyObject *args, PyObject *options)
{
    PyObject *map;
    if (options != NULL || self->view.obj != NULL || !PyArg_ParseTuple(args, "O", &map)) {
        PyErr_SetString(PyExc_TypeError, "Window(map)");
        return -1;
    }
    return PyObject_GetBuffer(map, &self->view, PyBUF_WRITABLE);
}

static void
window_dealloc(Window *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyBuffer_Release(&self->view);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

/* Copies and takes the room in one piece: nothing else of Python runs meanwhile. */
static int
window_take(Window *self, const char *line, Py_ssize_t size)
{
    if (self->view.obj == NULL || size > self->view.len - self->used) {
        return 0;
    }
    memcpy((char *)self->view.buf + self->used, line, (size_t)size);
    self->used += size;
    return 1;
}

static PyObject *
window_write(Window *self, PyObject *line)
{
    if (!PyBytes_Check(line)) {
        PyErr_SetString(PyExc_TypeError, "a line is bytes");
        return NULL;
    }
    if (!window_take(self, PyBytes_AS_STRING(line), PyBytes_GET_SIZE(line))) {
        PyErr_SetString(PyExc_ValueError, "no room");
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyObject *
window_seal(Window *self, PyObject *Py_UNUSED(unused))
{
    self->used = self->view.len;
    Py_RETURN_NONE;
}

static PyMethodDef window_methods[] = {
    {"write", (PyCFunction)window_write, METH_O,
     "write(line)\n\nCopy a line into the map. Raises ValueError where there is no room for it."},
    {"seal", (PyCFunction)window_seal, METH_NOARGS, "seal()\n\nFrom here on nothing fits."},
    {NULL},
};

static PyType_Slot window_slots[] = {
    {Py_tp_doc, "Window(map): lines are copied into a memory map, one after another."},
    {Py_tp_init, window_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, window_dealloc},
    {Py_tp_methods, window_methods},
    {0, NULL},
};

static PyType_Spec window_spec = {
    .name = "millstream.record._lane.Window",
    .basicsize = sizeof(Window),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = window_slots,
};

enum field {
    TRACE_ID, SPAN_ID, WORKLOAD_ID, ANCHOR_NS, RECORDER, SINK, HEAD, INPUT, OUTPUT, USAGE, ATTRIBUTES, EVENTS,
    CHUNK_COUNT, WORKFLOW,
    FIELDS
};
static const char *const field_names[FIELDS] = {
    "trace_id", "span_id", "workload_id", "anchor_ns", "recorder", "sink", "head", "input", "output", "usage",
    "attributes", "events", "chunk_count", "workflow",
};

/* What a lane is made with, in this order; kept alive by it. */
enum part {
    OWNER,        /* the Recorder */
    JOURNAL,
    SPAN_TYPE,    /* LiveSpan */
    CURRENT,      /* the context variable of the current span */
    CONTEXT,      /* the names of millstream.context, for `joined` */
    SUBSCRIBERS,  /* a list */
    SCOPE,        /* a workload_id to `,"workload_id":"…"` */
    OTEL,         /* the name of OpenTelemetry's module */
    LARGE,        /* bytes from which a value is stored apart */
    TO_JSON,      /* a value and a limit to bytes */
    TAIL,         /* a span and no error to what follows its status, without secrets */
    UNSET,        /* stands for no output */
    PARTS
};

typedef struct {
    PyObject_HEAD
    PyObject *parts[PARTS];
    PyObject *ready_traces, *ready_spans, *wall_ns, *monotonic_ns, *workload_id, *suspects, *bounds, *remote_parent;
    PyObject *content_limit, *modules;
    Py_ssize_t offsets[FIELDS];
    Py_ssize_t large;
    int is_made; /* else there is nothing above */
    int is_system_clock, captures_content;
    long long dropped; /* roots, since the process began or was forked */
} Lane;

static PyObject *s_window, *s_count, *s_generation, *s_joined, *s_output;

static inline PyObject *
get(const Lane *self, PyObject *span, enum field field)
{
    PyObject *value = *(PyObject **)((char *)span + self->offsets[field]);
    return value == NULL ? Py_None : value; /* borrowed */
}

/* Takes the last of a list that other threads take from, too; NULL without an error where it is empty. */
static PyObject *
pop(PyObject *list)
{
    Py_ssize_t size = PyList_GET_SIZE(list);
    if (size == 0) {
        return NULL;
    }
    PyObject *last = PyList_GET_ITEM(list, size - 1);
    Py_INCREF(last);
    if (PyList_SetSlice(list, size - 1, size, NULL) < 0) {
        Py_CLEAR(last);
    }
    return last;
}

static int
is_ascii(PyObject *text)
{
    return PyUnicode_Check(text) && PyUnicode_IS_COMPACT_ASCII(text);
}

static inline char *
put(char *at, const char *text, Py_ssize_t size)
{
    memcpy(at, text, (size_t)size);
    return at + size;
}

#define PUT(at, literal) put(at, literal, sizeof(literal) - 1)

static inline char *
put_text(char *at, PyObject *ascii)
{
    return put(at, (const char *)PyUnicode_1BYTE_DATA(ascii), PyUnicode_GET_LENGTH(ascii));
}

#define DIGITS 20 /* of the longest 64-bit number with its sign */

static const char pairs[] = "00010203040506070809101112131415161718192021222324252627282930313233343536373839"
                            "40414243444546474849505152535455565758596061626364656667686970717273747576777879"
                            "8081828384858687888990919293949596979899";

static char *
put_number(char *at, long long number)
{
    char digits[DIGITS], *first = digits + DIGITS;
    unsigned long long rest = number < 0 ? 0ULL - (unsigned long long)number : (unsigned long long)number;
    while (rest >= 100) {
        first -= 2;
        memcpy(first, pairs + 2 * (rest % 100), 2);
        rest /= 100;
    }
    if (rest >= 10) {
        first -= 2;
        memcpy(first, pairs + 2 * rest, 2);
    }
    else {
        *--first = (char)('0' + rest);
    }
    if (number < 0) {
        *--first = '-';
    }
    return put(at, first, digits + DIGITS - first);
}

/* 0, with an error, where the call failed or gave no 64-bit number. */
static int
call_clock(PyObject *clock, long long *ns)
{
    PyObject *reading = PyObject_CallNoArgs(clock);
    if (reading == NULL) {
        return 0;
    }
    *ns = PyLong_AsLongLong(reading);
    Py_DECREF(reading);
    return !(*ns == -1 && PyErr_Occurred());
}

static int
read_system(clockid_t clock, long long *ns)
{
    struct timespec now;
    if (clock_gettime(clock, &now) != 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return 0;
    }
    *ns = (long long)now.tv_sec * 1000000000 + now.tv_nsec;
    return 1;
}

static int
read_wall(const Lane *self, long long *ns)
{
    return self->is_system_clock ? read_system(CLOCK_REALTIME, ns) : call_clock(self->wall_ns, ns);
}

static int
read_monotonic(const Lane *self, long long *ns)
{
    return self->is_system_clock ? read_system(CLOCK_MONOTONIC, ns) : call_clock(self->monotonic_ns, ns);
}

static int
add(long long a, long long b, long long *sum)
{
    if (__builtin_add_overflow(a, b, sum)) {
        PyErr_SetString(PyExc_OverflowError, "a time of more than 64 bits");
        return 0;
    }
    return 1;
}

/* Whether a function tells what a clock of the system tells: a reading of it lies between two of the other. */
static int
tells(PyObject *clock, clockid_t system)
{
    long long before, reading, after;
    return PyCFunction_Check(clock) && read_system(system, &before) && call_clock(clock, &reading) &&
           read_system(system, &after) && before <= reading && reading <= after;
}

/* An ordinary error is forgotten: the Python code meets it again. KeyboardInterrupt and the like stay: 0. */
static int
forget_error(void)
{
    if (PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_Exception)) {
            return 0;
        }
        PyErr_Clear();
    }
    return 1;
}

/* None for "do it in Python". */
static PyObject *
decline(void)
{
    return forget_error() ? Py_NewRef(Py_None) : NULL;
}

static int
has_room(const Lane *self, Py_ssize_t size)
{
    PyObject *window = PyObject_GetAttr(self->parts[JOURNAL], s_window);
    int fits = window != NULL && Py_TYPE(window) == window_type &&
               size <= ((Window *)window)->view.len - ((Window *)window)->used;
    Py_XDECREF(window);
    return fits;
}

static int
write_line(const Lane *self, const char *line, Py_ssize_t size)
{
    PyObject *window = PyObject_GetAttr(self->parts[JOURNAL], s_window);
    int written = window != NULL && Py_TYPE(window) == window_type && window_take((Window *)window, line, size);
    Py_XDECREF(window);
    return written;
}

#define IDS 256 /* bytes of an opening line beside its label and scope, at most */

/* The span's line up to and with its start. */
static PyObject *
head_of(PyObject *trace_id, PyObject *parent_id, PyObject *span_id, PyObject *label, long long start_ns,
        PyObject *scope)
{
    if (!is_ascii(trace_id) || !is_ascii(span_id) || !is_ascii(label) || (scope && !is_ascii(scope)) ||
        (parent_id && !is_ascii(parent_id))) {
        return NULL;
    }
    char number[DIGITS];
    Py_ssize_t digits = put_number(number, start_ns) - number;
    Py_ssize_t size = (Py_ssize_t)(sizeof("{\"trace_id\":\"\",\"parent_id\":,\"span_id\":\"\",") - 1) +
                      PyUnicode_GET_LENGTH(trace_id) +
                      (parent_id ? PyUnicode_GET_LENGTH(parent_id) + 2 : 4) + PyUnicode_GET_LENGTH(span_id) +
                      PyUnicode_GET_LENGTH(label) + digits + (scope ? PyUnicode_GET_LENGTH(scope) : 0);
    PyObject *head = PyUnicode_New(size, 127);
    if (head == NULL) {
        return NULL;
    }
    char *at = (char *)PyUnicode_1BYTE_DATA(head);
    at = PUT(at, "{\"trace_id\":\"");
    at = put_text(at, trace_id);
    at = PUT(at, "\",\"parent_id\":");
    if (parent_id) {
        *at++ = '"';
        at = put_text(at, parent_id);
        *at++ = '"';
    }
    else {
        at = PUT(at, "null");
    }
    at = PUT(at, ",\"span_id\":\"");
    at = put_text(at, span_id);
    at = PUT(at, "\",");
    at = put_text(at, label);
    at = put(at, number, digits);
    if (scope) {
        at = put_text(at, scope);
    }
    return head;
}

#define ON_STACK 4096

static char *
buffer_of(Py_ssize_t size, char *stack)
{
    return size <= ON_STACK ? stack : PyMem_Malloc((size_t)size);
}

static void
free_buffer(char *buffer, const char *stack)
{
    if (buffer != stack) {
        PyMem_Free(buffer);
    }
}

/* Nothing is taken, no id and no time, before it is as good as sure that the line will be written here. */
static PyObject *
lane_open(Lane *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 5 && count != 6) {
        PyErr_SetString(PyExc_TypeError, "open(name, kind, label, workload_id, input[, parent])");
        return NULL;
    }
    PyObject *name = args[0], *kind = args[1], *label = args[2], *workload_id = Py_NewRef(args[3]), *input = args[4];
    PyObject *span = NULL, *parent = NULL, *trace_id = NULL, *span_id = NULL, *scope = NULL, *head = NULL;
    PyObject *anchor = NULL, *start = NULL, *generation = NULL, *parent_id = NULL;
    char stack[ON_STACK], *opening = NULL;
    long long monotonic_ns, anchor_ns, start_ns;

    if (!self->is_made || PyList_GET_SIZE(self->parts[SUBSCRIBERS]) || !is_ascii(label) ||
        PyDict_GetItemWithError(self->parts[CONTEXT], s_joined) != Py_None) {
        goto done;
    }
    if (count == 6) {
        parent = Py_NewRef(args[5]);
    }
    else if (PyContextVar_Get(self->parts[CURRENT], NULL, &parent) < 0 || parent == NULL) {
        goto done;
    }
    if (parent == Py_None) {
        if (self->bounds != Py_None || self->remote_parent != Py_None ||
            PyDict_Contains(self->modules, self->parts[OTEL]) != 0) {
            goto done;
        }
    }
    else {
        if (Py_TYPE(parent) != (PyTypeObject *)self->parts[SPAN_TYPE] ||
            get(self, parent, RECORDER) != self->parts[OWNER] || get(self, parent, SINK) != self->parts[JOURNAL] ||
            get(self, parent, WORKFLOW) != Py_None) {
            goto done;
        }
        anchor = Py_NewRef(get(self, parent, ANCHOR_NS));
        trace_id = Py_NewRef(get(self, parent, TRACE_ID));
        parent_id = Py_NewRef(get(self, parent, SPAN_ID));
        if (workload_id == Py_None) {
            Py_SETREF(workload_id, Py_NewRef(get(self, parent, WORKLOAD_ID)));
        }
    }
    if (workload_id == Py_None) {
        Py_SETREF(workload_id, Py_NewRef(self->workload_id));
    }
    if (workload_id != Py_None &&
        ((scope = PyObject_CallOneArg(self->parts[SCOPE], workload_id)) == NULL || !is_ascii(scope))) {
        goto done;
    }
    if (!has_room(self, PyUnicode_GET_LENGTH(label) + (scope ? PyUnicode_GET_LENGTH(scope) : 0) + IDS) ||
        PyList_GET_SIZE(self->ready_spans) == 0 ||
        (parent == Py_None && (trace_id = pop(self->ready_traces)) == NULL) ||
        (span_id = pop(self->ready_spans)) == NULL) {
        goto done;
    }
    if (parent == Py_None) {
        if (!read_wall(self, &start_ns) || !read_monotonic(self, &monotonic_ns) ||
            monotonic_ns == LLONG_MIN || !add(start_ns, -monotonic_ns, &anchor_ns) ||
            (anchor = PyLong_FromLongLong(anchor_ns)) == NULL) {
            goto done;
        }
    }
    else {
        anchor_ns = PyLong_AsLongLong(anchor);
        if ((anchor_ns == -1 && PyErr_Occurred()) || !read_monotonic(self, &monotonic_ns) ||
            !add(anchor_ns, monotonic_ns, &start_ns)) {
            goto done;
        }
    }
    if ((generation = PyObject_GetAttr(self->parts[OWNER], s_generation)) == NULL ||
        (start = PyLong_FromLongLong(start_ns)) == NULL ||
        (head = head_of(trace_id, parent_id, span_id, label, start_ns, scope)) == NULL) {
        goto done;
    }
    Py_ssize_t size = PyUnicode_GET_LENGTH(head) + 2;
    if ((opening = buffer_of(size, stack)) == NULL) {
        goto done;
    }
    PUT(put_text(opening, head), "}\n");
    PyObject *fields[] = {
        trace_id, span_id, workload_id, anchor, self->parts[OWNER], self->parts[JOURNAL], generation, parent,
        name, kind, start, head, input,
    };
    span = PyObject_Vectorcall(self->parts[SPAN_TYPE], fields, sizeof(fields) / sizeof(*fields), NULL);
    if (span != NULL && !write_line(self, opening, size)) {
        Py_CLEAR(span);
    }
done:
    Py_DECREF(workload_id);
    Py_XDECREF(parent);
    Py_XDECREF(parent_id);
    Py_XDECREF(trace_id);
    Py_XDECREF(span_id);
    Py_XDECREF(scope);
    Py_XDECREF(head);
    Py_XDECREF(anchor);
    Py_XDECREF(start);
    Py_XDECREF(generation);
    free_buffer(opening, stack);
    return span ? span : decline();
}

#define NOTHING_IS_BELOW "0000000000000000"

/* Whether the trace is sampled: its last 16 digits, as text, are below the bound of the root's name. */
static int
is_below(PyObject *trace_id, PyObject *bound)
{
    const char *digits = (const char *)PyUnicode_1BYTE_DATA(trace_id) + 16;
    Py_ssize_t size = PyUnicode_GET_LENGTH(trace_id) - 16, bound_size = PyUnicode_GET_LENGTH(bound);
    int order = memcmp(digits, PyUnicode_1BYTE_DATA(bound), (size_t)(size < bound_size ? size : bound_size));
    return order < 0 || (order == 0 && size < bound_size);
}

static PyObject *
lane_drop_root(Lane *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "drop_root(name, marker)");
        return NULL;
    }
    PyObject *name = args[0], *marker = args[1], *current = NULL;
    if (!self->is_made || PyContextVar_Get(self->parts[CURRENT], NULL, &current) < 0 || current == NULL) {
        return decline();
    }
    Py_DECREF(current); /* another reference is in the context */
    if (current == marker) {
        Py_RETURN_FALSE;
    }
    if (current != Py_None || self->bounds == Py_None || self->remote_parent != Py_None ||
        PyDict_Contains(self->modules, self->parts[OTEL]) != 0) {
        return decline();
    }
    PyObject *bound = PyDict_GetItemWithError(self->bounds, name);
    if (bound == NULL && !PyErr_Occurred()) {
        bound = PyDict_GetItemWithError(self->bounds, Py_None);
    }
    if (bound == NULL || !is_ascii(bound)) {
        return decline();
    }
    if (strcmp((const char *)PyUnicode_1BYTE_DATA(bound), NOTHING_IS_BELOW) != 0) {
        PyObject *trace_id = pop(self->ready_traces);
        int known = trace_id != NULL && is_ascii(trace_id) && PyUnicode_GET_LENGTH(trace_id) >= 16;
        int is_sampled = known && is_below(trace_id, bound);
        if (is_sampled) {
            PyList_Append(self->ready_traces, trace_id); /* decided once: the root opened next takes it */
        }
        Py_XDECREF(trace_id);
        if (!known || is_sampled) {
            return decline();
        }
    }
    PyObject *token = PyContextVar_Set(self->parts[CURRENT], marker);
    if (token == NULL) {
        return decline();
    }
    self->dropped++;
    return token;
}

/* Whether it is text, and redaction lets it be written as it is. */
static int
is_clean(const Lane *self, const char *content, Py_ssize_t size)
{
    if (size == 0) {
        return 1;
    }
    PyObject *text = PyUnicode_DecodeUTF8(content, size, NULL);
    if (text == NULL || self->suspects == Py_None) {
        Py_XDECREF(text);
        return text != NULL;
    }
    PyObject *answer = PyObject_CallOneArg(self->suspects, text);
    int suspect = answer ? PyObject_IsTrue(answer) : -1;
    Py_DECREF(text);
    Py_XDECREF(answer);
    return suspect == 0;
}

/* What follows the status in the line of a span with input or output of common size and nothing else; its size.
 *
 * Written where it is not NULL.
 */
static Py_ssize_t
put_content(char *at, PyObject *input, PyObject *output)
{
    Py_ssize_t size = 0;
    if (input != Py_None) {
        size += (Py_ssize_t)(sizeof(",\"input\":") - 1) + PyBytes_GET_SIZE(input);
    }
    if (output != Py_None) {
        size += (Py_ssize_t)(sizeof(",\"output\":") - 1) + PyBytes_GET_SIZE(output);
    }
    if (at == NULL) {
        return size;
    }
    if (input != Py_None) {
        at = PUT(at, ",\"input\":");
        at = put(at, PyBytes_AS_STRING(input), PyBytes_GET_SIZE(input));
    }
    if (output != Py_None) {
        at = PUT(at, ",\"output\":");
        put(at, PyBytes_AS_STRING(output), PyBytes_GET_SIZE(output));
    }
    return size;
}

static int
is_common(const Lane *self, PyObject *value)
{
    return value == Py_None || (PyBytes_Check(value) && PyBytes_GET_SIZE(value) < self->large);
}

/* Writes and counts the line of a span that ended well; 0 where that is not for this lane. */
static int
write_end(const Lane *self, PyObject *span, long long end_ns)
{
    PyObject *head = get(self, span, HEAD), *chunk_count = get(self, span, CHUNK_COUNT);
    PyObject *input = get(self, span, INPUT), *output = get(self, span, OUTPUT), *tail = NULL;
    if (get(self, span, SINK) != self->parts[JOURNAL] || !is_ascii(head) || !PyLong_CheckExact(chunk_count) ||
        PyObject_IsTrue(chunk_count) || PyList_GET_SIZE(self->parts[SUBSCRIBERS])) {
        return 0;
    }
    const char *more = NULL;
    Py_ssize_t content_size;
    Py_INCREF(head); /* the tail is made in Python, which might change the span */
    if (is_common(self, input) && is_common(self, output) && get(self, span, USAGE) == Py_None &&
        get(self, span, ATTRIBUTES) == Py_None && get(self, span, EVENTS) == Py_None) {
        content_size = put_content(NULL, input, output);
    } else {
        PyObject *given[] = {span, Py_None};
        tail = PyObject_Vectorcall(self->parts[TAIL], given, 2, NULL);
        more = tail && PyUnicode_Check(tail) ? PyUnicode_AsUTF8AndSize(tail, &content_size) : NULL;
        if (more == NULL) {
            Py_XDECREF(tail);
            Py_DECREF(head);
            return 0;
        }
    }
    char number[DIGITS];
    Py_ssize_t digits = put_number(number, end_ns) - number;
    Py_ssize_t times_size = (Py_ssize_t)(sizeof(",\"end_ns\":,\"status\":\"ok\"") - 1) + digits;
    Py_ssize_t size = PyUnicode_GET_LENGTH(head) + times_size + content_size + 2;
    char stack[ON_STACK], *line = buffer_of(size, stack);
    int written = 0, counted_there = 0;
    if (line != NULL) {
        char *at = put_text(line, head);
        at = PUT(at, ",\"end_ns\":");
        at = put(at, number, digits);
        at = PUT(at, ",\"status\":\"ok\"");
        char *content = at;
        if (more != NULL) {
            put(at, more, content_size);
        } else {
            put_content(at, input, output);
        }
        PUT(at + content_size, "}\n");
        written = (more != NULL || is_clean(self, content, content_size)) && write_line(self, line, size);
        if (!written && more != NULL) { /* no room; a tail is not made twice, since it counts what is lost */
            PyObject *finished = PyObject_CallMethod(self->parts[JOURNAL], "finish", "y#", line, size);
            written = counted_there = finished != NULL;
            Py_XDECREF(finished);
        }
        free_buffer(line, stack);
    }
    Py_XDECREF(tail);
    Py_DECREF(head);
    if (written && !counted_there) {
        PyObject *add = PyObject_GetAttr(self->parts[JOURNAL], s_count);
        PyObject *counted = add ? PyObject_CallNoArgs(add) : NULL;
        Py_XDECREF(add);
        Py_XDECREF(counted);
        PyErr_Clear(); /* the line is there: only its count could be missing */
    }
    return written;
}

static PyObject *
lane_finish(Lane *self, PyObject *const *args, Py_ssize_t count)
{
    PyObject *span = count == 2 ? args[0] : NULL, *output = count == 2 ? args[1] : NULL;
    if (!self->is_made || span == NULL || Py_TYPE(span) != (PyTypeObject *)self->parts[SPAN_TYPE]) {
        PyErr_SetString(PyExc_TypeError, "finish(span, output)");
        return NULL;
    }
    long long anchor_ns = PyLong_AsLongLong(get(self, span, ANCHOR_NS)), monotonic_ns, end_ns;
    if ((anchor_ns == -1 && PyErr_Occurred()) || !read_monotonic(self, &monotonic_ns) ||
        !add(anchor_ns, monotonic_ns, &end_ns)) {
        return NULL;
    }
    if (output != self->parts[UNSET] && self->captures_content) {
        PyObject *given[] = {output, self->content_limit};
        PyObject *json = PyObject_Vectorcall(self->parts[TO_JSON], given, 2, NULL);
        int set = json ? PyObject_SetAttr(span, s_output, json) : -1;
        Py_XDECREF(json);
        if (set < 0) {
            return NULL;
        }
    }
    if (write_end(self, span, end_ns)) {
        Py_RETURN_NONE;
    }
    return forget_error() ? PyLong_FromLongLong(end_ns) : NULL;
}

static int
keep(PyObject **at, PyObject *owner, const char *name, PyTypeObject *type)
{
    Py_XSETREF(*at, PyObject_GetAttrString(owner, name));
    if (*at != NULL && type != NULL && Py_TYPE(*at) != type) {
        PyErr_Format(PyExc_TypeError, "%s must be a %s", name, type->tp_name);
        return 0;
    }
    return *at != NULL;
}

static int
lane_init(Lane *self, PyObject *args, PyObject *options)
{
    if (options != NULL || PyTuple_GET_SIZE(args) != PARTS || self->parts[OWNER] != NULL) {
        PyErr_Format(PyExc_TypeError, "Lane takes %d arguments", PARTS);
        return -1;
    }
    for (int part = 0; part < PARTS; part++) {
        PyObject *value = PyTuple_GET_ITEM(args, part);
        self->parts[part] = Py_NewRef(value);
    }
    PyObject *owner = self->parts[OWNER];
    if (!PyType_Check(self->parts[SPAN_TYPE]) || !PyContextVar_CheckExact(self->parts[CURRENT]) ||
        !PyDict_CheckExact(self->parts[CONTEXT]) || !PyList_CheckExact(self->parts[SUBSCRIBERS]) ||
        !PyUnicode_CheckExact(self->parts[OTEL])) {
        PyErr_SetString(PyExc_TypeError, "an argument of Lane is of the wrong type");
        return -1;
    }
    self->large = PyLong_AsSsize_t(self->parts[LARGE]);
    if (PyErr_Occurred() || !keep(&self->ready_traces, owner, "ready_traces", &PyList_Type) ||
        !keep(&self->ready_spans, owner, "ready_spans", &PyList_Type) ||
        !keep(&self->wall_ns, owner, "wall_ns", NULL) || !keep(&self->monotonic_ns, owner, "monotonic_ns", NULL) ||
        !keep(&self->workload_id, owner, "workload_id", NULL) ||
        !keep(&self->suspects, owner, "suspects", NULL) || !keep(&self->bounds, owner, "bounds", NULL) ||
        !keep(&self->remote_parent, owner, "remote_parent", NULL) ||
        !keep(&self->content_limit, owner, "content_limit", NULL)) {
        return -1;
    }
    PyObject *captures = PyObject_GetAttrString(owner, "capture_content");
    self->captures_content = captures ? PyObject_IsTrue(captures) : -1;
    Py_XDECREF(captures);
    PyObject *modules = PySys_GetObject("modules"); /* borrowed */
    if (self->captures_content < 0 || modules == NULL || !PyDict_Check(modules)) {
        PyErr_SetString(PyExc_TypeError, "capture_content or sys.modules is of the wrong type");
        return -1;
    }
    self->modules = Py_NewRef(modules);
    self->is_system_clock = tells(self->wall_ns, CLOCK_REALTIME) && tells(self->monotonic_ns, CLOCK_MONOTONIC);
    if (!forget_error()) { /* of a clock that tells no time: each span meets it again */
        return -1;
    }
    if (self->bounds != Py_None && !PyDict_CheckExact(self->bounds)) {
        PyErr_SetString(PyExc_TypeError, "bounds must be a dict");
        return -1;
    }
    for (int field = 0; field < FIELDS; field++) {
        PyObject *member = PyObject_GetAttrString(self->parts[SPAN_TYPE], field_names[field]);
        if (member == NULL) {
            return -1;
        }
        int known = Py_TYPE(member) == &PyMemberDescr_Type;
        PyMemberDef *definition = known ? ((PyMemberDescrObject *)member)->d_member : NULL;
        if (known) {
            known = definition->type == T_OBJECT_EX || definition->type == T_OBJECT;
            self->offsets[field] = definition->offset;
        }
        Py_DECREF(member);
        if (!known) {
            PyErr_Format(PyExc_TypeError, "where %s lies in a span is not known", field_names[field]);
            return -1;
        }
    }
    self->is_made = 1;
    return 0;
}

static int
lane_traverse(Lane *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    for (int part = 0; part < PARTS; part++) {
        Py_VISIT(self->parts[part]);
    }
    Py_VISIT(self->ready_traces);
    Py_VISIT(self->ready_spans);
    Py_VISIT(self->wall_ns);
    Py_VISIT(self->monotonic_ns);
    Py_VISIT(self->workload_id);
    Py_VISIT(self->suspects);
    Py_VISIT(self->bounds);
    Py_VISIT(self->remote_parent);
    Py_VISIT(self->content_limit);
    Py_VISIT(self->modules);
    return 0;
}

static int
lane_clear(Lane *self)
{
    self->is_made = 0;
    for (int part = 0; part < PARTS; part++) {
        Py_CLEAR(self->parts[part]);
    }
    Py_CLEAR(self->ready_traces);
    Py_CLEAR(self->ready_spans);
    Py_CLEAR(self->wall_ns);
    Py_CLEAR(self->monotonic_ns);
    Py_CLEAR(self->workload_id);
    Py_CLEAR(self->suspects);
    Py_CLEAR(self->bounds);
    Py_CLEAR(self->remote_parent);
    Py_CLEAR(self->content_limit);
    Py_CLEAR(self->modules);
    return 0;
}

static void
lane_dealloc(Lane *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    lane_clear(self);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static PyMethodDef lane_methods[] = {
    {"open", (PyCFunction)(void (*)(void))lane_open, METH_FASTCALL,
     "open(name, kind, label, workload_id, input[, parent]) -> LiveSpan | None\n\n"
     "Start a span, in the current one if no other is told, and write its opening line; None where that is not\n"
     "for this lane."},
    {"drop_root", (PyCFunction)(void (*)(void))lane_drop_root, METH_FASTCALL,
     "drop_root(name, marker) -> Token | False | None\n\n"
     "Make `marker` the current span if a root of this name is of a trace that is not sampled, and count it.\n"
     "False where the marker is current; None where a span is to be opened."},
    {"finish", (PyCFunction)(void (*)(void))lane_finish, METH_FASTCALL,
     "finish(span, output) -> int | None\n\n"
     "Take the output, write and count the line of a span that ends well now. The time, in Unix nanoseconds, where\n"
     "the line is still to be written."},
    {NULL},
};

static PyMemberDef lane_members[] = {
    {"dropped", T_LONGLONG, offsetof(Lane, dropped), 0, "Roots of traces that were not sampled."},
    {NULL},
};

static PyType_Slot lane_slots[] = {
    {Py_tp_doc, "Opens and ends the commonest spans of one recorder."},
    {Py_tp_init, lane_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_traverse, lane_traverse},
    {Py_tp_clear, lane_clear},
    {Py_tp_dealloc, lane_dealloc},
    {Py_tp_methods, lane_methods},
    {Py_tp_members, lane_members},
    {0, NULL},
};

static PyType_Spec lane_spec = {
    .name = "millstream.record._lane.Lane",
    .basicsize = sizeof(Lane),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = lane_slots,
};

static int
module_exec(PyObject *module)
{
    static int is_loaded = 0;
    if (is_loaded) { /* what is static here belongs to one interpreter; another does without */
        PyErr_SetString(PyExc_ImportError, "the lane is loaded once a process");
        return -1;
    }
    is_loaded = 1;
    if ((s_window = PyUnicode_InternFromString("window")) == NULL ||
        (s_count = PyUnicode_InternFromString("count")) == NULL ||
        (s_generation = PyUnicode_InternFromString("generation")) == NULL ||
        (s_joined = PyUnicode_InternFromString("joined")) == NULL ||
        (s_output = PyUnicode_InternFromString("output")) == NULL) {
        return -1;
    }
    PyObject *lane_type = PyType_FromSpec(&lane_spec);
    int added = lane_type ? PyModule_AddObjectRef(module, "Lane", lane_type) : -1;
    Py_XDECREF(lane_type);
    if (added < 0 || (window_type = (PyTypeObject *)PyType_FromSpec(&window_spec)) == NULL) {
        return -1;
    }
    return PyModule_AddObjectRef(module, "Window", (PyObject *)window_type);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "millstream.record._lane",
    .m_doc = "The commonest spans, opened and ended in C.",
    .m_slots = module_slots,
};

PyMODINIT_FUNC
PyInit__lane(void)
{
    return PyModuleDef_Init(&module_definition);
}
