"""START and END events of the spans, in the order they happened, and the function each span ran in."""

from dataclasses import dataclass

import numpy as np

from millstream.profiler.tree import levels_down
from millstream.record.steps import ROOT, InvocationNode, invocation_node
from millstream.span import Span, SpanKind
from millstream.store.table import UNKNOWN, Bools, Ints, SpanTable


@dataclass(frozen=True, slots=True, eq=False)
class Events:
    """One element an event, ordered by trace and time.

    Attributes:
        row: row of the event's span.
        is_end: END, else START.
        time_ns: Unix nanoseconds.
    """

    row: Ints
    is_end: Bools
    time_ns: Ints


def events(table: SpanTable) -> Events:
    """A START of every span and an END of every closed one.

    At one moment: first the ends of spans that started earlier, children before parents; then starts,
    parents before children; then the ends of spans that took no time.
    """
    rows = np.arange(len(table))
    ended = np.flatnonzero(table.closed)
    row = np.concatenate((rows, ended))
    is_end = np.arange(len(row)) >= len(table)
    time = np.concatenate((table.start_ns, table.end_ns[ended]))
    instant = is_end & (table.end_ns[row] == table.start_ns[row])
    phase = np.where(is_end, np.where(instant, 2, 0), 1)
    depth = np.where(is_end, -table.depth[row], table.depth[row])
    order = np.lexsort((row, depth, phase, time, table.trace[row]))
    return Events(row[order], is_end[order], time[order])


def scopes(table: SpanTable) -> Ints:
    """Row of the function that each span ran in, its own if it is one; -1 without one, shape (n,).

    Functions are workflows and functions that open a workload scope.
    """
    own = np.array([_is_scope(span) for span in table.spans], bool)
    scope = np.where(own, np.arange(len(table)), UNKNOWN)
    for rows in levels_down(table)[1:]:
        scope[rows] = np.where(own[rows], rows, scope[table.parent[rows]])
    return scope


def ancestries(table: SpanTable, scope: Ints) -> dict[int, InvocationNode]:
    """The function ancestry for each value in `scope`."""
    found = {UNKNOWN: ROOT}
    for row in np.unique(scope[scope >= 0]).tolist():
        chain = [table.spans[row]]
        parent = int(table.parent[row])
        around = int(scope[parent]) if parent >= 0 else UNKNOWN
        if around >= 0:
            chain.append(table.spans[around])
        found[row] = invocation_node((span.kind, span.name, span.span_id, span.workload_id) for span in chain)
    return found


def _is_scope(span: Span) -> bool:
    return span.kind is SpanKind.WORKFLOW or (
        span.kind is SpanKind.FUNCTION and span.workload_id == span.name
    )
