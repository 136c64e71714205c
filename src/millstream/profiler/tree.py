"""Time shared out in the call tree: self time, time of a subtree, spans clipped to their parents.

Compiled, one pass over the rows; without a compiler whole-column operations, O(n log n). No recursion, so
that a chain of thousands of spans is fine.
"""

from typing import Final

import numpy as np

from millstream.store.table import UNKNOWN, Bools, Ints, SpanTable

try:
    from millstream.profiler import _trees
except ImportError:  # built without a compiler
    _trees = None  # type: ignore[assignment]
COMPILED: Final = _trees is not None


def self_time_ns(table: SpanTable) -> Ints:
    """Duration minus the union of the children clipped to the span; -1 for open spans, shape (n,)."""
    if not COMPILED:
        return _self_time_ns(table)
    own = np.empty(len(table), np.int64)
    _trees.self_time(table.parent, table.start_ns, table.end_ns, own)
    return own


def _self_time_ns(table: SpanTable) -> Ints:
    duration = table.duration_ns
    child = np.flatnonzero((table.parent >= 0) & table.closed)
    child = child[table.closed[table.parent[child]]]
    parent = table.parent[child]
    start = np.maximum(table.start_ns[child], table.start_ns[parent])
    end = np.minimum(table.end_ns[child], table.end_ns[parent])
    inside = end > start
    covered = _union_ns(parent[inside], start[inside], end[inside], len(table))
    return np.where(table.closed, duration - covered, UNKNOWN)


def _union_ns(group: Ints, start: Ints, end: Ints, groups: int) -> Ints:
    """Length of the union of the intervals of each group, shape (groups,)."""
    order = np.lexsort((start, group))
    group, start, end = group[order], start[order], end[order]
    by_end = np.lexsort((end, group))
    rank = np.empty(len(end), np.int64)
    rank[by_end] = np.arange(len(end))
    latest = end[by_end[np.maximum.accumulate(rank)]] if len(end) else end
    before = np.concatenate((start[:1], latest[:-1]))
    first = np.concatenate(([True], group[1:] != group[:-1])) if len(group) else np.zeros(0, bool)
    before = np.where(first, start, before)
    union = np.zeros(groups, np.int64)
    np.add.at(union, group, np.maximum(end - np.maximum(start, before), 0))
    return union


def levels_down(table: SpanTable) -> list[Ints]:
    """Rows of each depth, roots first."""
    order = np.argsort(table.depth, kind="stable")
    deepest = int(table.depth.max()) + 1 if len(table) else 0
    return np.split(order, np.searchsorted(table.depth[order], np.arange(1, deepest)))


def subtree_time_ns(table: SpanTable, self_time: Ints) -> Ints:
    """Sum of self time over the span and everything below it; open spans add nothing, shape (n,)."""
    total = np.maximum(self_time, 0)
    if COMPILED:
        _trees.add_up(table.parent, total)
        return total
    for rows in reversed(levels_down(table)[1:]):
        np.add.at(total, table.parent[rows], total[rows])
    return total


def clipped(table: SpanTable) -> tuple[Bools, Ints, Ints]:
    """Spans clipped to their parents, from the roots down.

    Returns:
        Which spans hang by closed spans on a closed root, and their clipped starts and ends (Unix ns;
        meaningless where the first is false), each shape (n,).
    """
    start, end = table.start_ns.copy(), table.end_ns.copy()
    if COMPILED:
        hangs = np.empty(len(table), bool)
        _trees.clip(table.parent, table.roots(), start, end, hangs)
        return hangs, start, end
    reached = table.roots() & table.closed
    for rows in levels_down(table)[1:]:
        parent = table.parent[rows]
        reached[rows] = table.closed[rows] & reached[parent]
        start[rows] = np.clip(start[rows], start[parent], np.maximum(end[parent], start[parent]))
        end[rows] = np.maximum(np.minimum(end[rows], end[parent]), start[rows])
    return reached, start, end


def tree_order(table: SpanTable, rows: Ints) -> list[int]:
    """Rows of whole requests, each parent before its children, siblings in the order given."""
    children: dict[int, list[int]] = {}
    for row, parent in zip(rows.tolist(), table.parent[rows].tolist(), strict=True):
        children.setdefault(parent, []).append(row)
    found: list[int] = []
    waiting = children.get(UNKNOWN, [])[::-1]
    while waiting:
        row = waiting.pop()
        found.append(row)
        if row in children:
            waiting += reversed(children[row])
    return found
