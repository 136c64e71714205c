"""Does a table that was read from a file hold together? Analyses, those in C too, rely on it."""

from typing import Final

import numpy as np

from millstream.span import SpanKind
from millstream.store.arrays import UNKNOWN
from millstream.store.table import KIND_CODE, LATEST_NS, SpanTable

_MOST_EMPTY: Final = 1_000_000
"""Traces without a span, such as requests of an evaluation that never ran."""
_AT_ONCE: Final = 100_000
"""Rows: what is worked out of them stays near the processor."""


def holds_together(table: SpanTable) -> bool:
    """Whether a table is one that `SpanTable.from_spans` can have made, as far as its numbers tell.

    Rows are sorted by trace and start, parents are rows of the same trace one level up, times are within
    limits and not before their start, and every span has a name and a kind.
    """
    rows, traces = len(table), len(table.trace_ids)
    columns = (table.trace, table.parent, table.depth, table.kind, table.name, table.start_ns, table.end_ns)
    if rows == 0:
        return 0 <= traces <= _MOST_EMPTY
    return (
        traces <= rows + _MOST_EMPTY
        and all(len(column) == rows for column in columns)
        and bool((table.name >= 0).all() and (table.kind >= 0).all() and (table.status >= UNKNOWN).all())
        and bool((table.model >= 0)[table.kind == KIND_CODE[SpanKind.LLM.value]].all())
        and _is_sorted(table, traces)
        and _are_times(table)
        and _is_a_forest(table)
    )


def _is_sorted(table: SpanTable, traces: int) -> bool:
    trace, start = table.trace, table.start_ns
    if trace[0] < 0 or trace[-1] >= traces:
        return False
    return bool(((trace[1:] > trace[:-1]) | ((trace[1:] == trace[:-1]) & (start[1:] >= start[:-1]))).all())


def _are_times(table: SpanTable) -> bool:
    start, end, first_chunk_s = table.start_ns, table.end_ns, table.time_to_first_chunk_s
    closed = end != UNKNOWN
    return bool(
        start.min() >= 0
        and start.max() <= LATEST_NS
        and end.max() <= LATEST_NS
        and (end >= start)[closed].all()
        and (np.isnan(first_chunk_s) | ((first_chunk_s >= 0) & np.isfinite(first_chunk_s))).all()
    )


def _is_a_forest(table: SpanTable) -> bool:
    """Depths that grow by one from parent to child leave no room for a cycle."""
    parent, depth = table.parent, table.depth
    if parent.min() < UNKNOWN or parent.max() >= len(table):
        return False
    for begin in range(0, len(table), _AT_ONCE):
        some = slice(begin, begin + _AT_ONCE)
        above, is_root = parent[some], parent[some] < 0
        fits = (depth[some] == depth[above] + 1) & (table.trace[some] == table.trace[above])
        fits &= ~table.declared_root[some]
        if not np.where(is_root, depth[some] == 0, fits).all():
            return False
    return True
