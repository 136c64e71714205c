"""START and END events of the spans, in the order they happened, and the function each span ran in."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from millstream.record.steps import ROOT, InvocationNode, invocation_node
from millstream.span import Span, SpanKind
from millstream.store.table import UNKNOWN, Bools, Ints, SpanTable

ROWS_AT_ONCE: Final = 2000
_ALL: Final = slice(None)


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


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Whole requests with their events.

    Attributes:
        first: row of the first span.
        spans: of these requests, in row order.
        events: theirs.
        scope: row of the function that each span ran in, as `scopes` gives it.
        nodes: the function ancestry for each value in `scope`.
    """

    first: int
    spans: Sequence[Span]
    events: Events
    scope: Ints
    nodes: dict[int, InvocationNode]

    @property
    def at(self) -> Ints:
        """The position in `spans` of the span of each event."""
        return self.events.row - self.first


def blocks(table: SpanTable) -> Iterator[Block]:
    """The requests in order, some `ROWS_AT_ONCE` spans at a time; a longer one is a block of its own.

    So that files with a row an event are written in the memory of a block.
    """
    start = 0
    while start < len(table):
        stop = min(start + ROWS_AT_ONCE, len(table))
        if stop < len(table):
            whole = int(np.searchsorted(table.trace, table.trace[stop]))
            stop = whole if whole > start else int(np.searchsorted(table.trace, table.trace[start], "right"))
        rows = slice(start, stop)
        spans = table.spans[rows]
        scope = _scopes(table, rows, spans)
        yield Block(start, spans, events(table, rows), scope, _ancestries(table, rows, spans, scope))
        start = stop


def events(table: SpanTable, rows: slice = _ALL) -> Events:
    """A START of every span and an END of every closed one.

    At one moment: first the ends of spans that started earlier, children before parents; then starts,
    parents before children; then the ends of spans that took no time.

    Args:
        table: the spans.
        rows: those of whole requests.
    """
    started = np.arange(*rows.indices(len(table)))
    ended = started[table.end_ns[rows] >= 0]
    row = np.concatenate((started, ended))
    is_end = np.arange(len(row)) >= len(started)
    time = np.concatenate((table.start_ns[started], table.end_ns[ended]))
    instant = is_end & (table.end_ns[row] == table.start_ns[row])
    phase = np.where(is_end, np.where(instant, 2, 0), 1)
    depth = np.where(is_end, -table.depth[row], table.depth[row])
    order = np.lexsort((row, depth, phase, time, table.trace[row]))
    return Events(row[order], is_end[order], time[order])


def scopes(table: SpanTable) -> Ints:
    """Row of the function that each span ran in, its own if it is one; -1 without one, shape (n,).

    Functions are workflows and functions that open a workload scope.
    """
    return _scopes(table, _ALL, table.spans)


def _scopes(table: SpanTable, rows: slice, spans: Sequence[Span]) -> Ints:
    """`scopes` of the rows of whole requests."""
    first = rows.indices(len(table))[0]
    parent = (table.parent[rows] - first).tolist()
    own = [_is_scope(span) for span in spans]
    scope = [UNKNOWN] * len(own)
    for at in np.argsort(table.depth[rows], kind="stable").tolist():
        if own[at]:
            scope[at] = first + at
        elif parent[at] >= 0:
            scope[at] = scope[parent[at]]
    return np.array(scope, np.int64)


def _ancestries(
    table: SpanTable, rows: slice, spans: Sequence[Span], scope: Ints
) -> dict[int, InvocationNode]:
    """The function ancestry for each value in `scope`."""
    found = {UNKNOWN: ROOT}
    for row in np.unique(scope[scope >= 0]).tolist():
        chain = [spans[row - rows.start]]
        parent = int(table.parent[row])
        around = int(scope[parent - rows.start]) if parent >= 0 else UNKNOWN
        if around >= 0:
            chain.append(spans[around - rows.start])
        found[row] = invocation_node((span.kind, span.name, span.span_id, span.workload_id) for span in chain)
    return found


def _is_scope(span: Span) -> bool:
    return span.kind is SpanKind.WORKFLOW or (
        span.kind is SpanKind.FUNCTION and span.workload_id == span.name
    )
