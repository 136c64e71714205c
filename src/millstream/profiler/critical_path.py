"""Which calls made the requests take as long as they did?

Every span is clipped to its parent. Walking back from a root's end, the child with the latest end that is
not after the frontier is on the path and the frontier moves to its start; time that no child holds is the
span's own. So the seconds add up to the durations of the roots. Children that end together: the longest.
"""

from bisect import bisect_right

import msgspec
import numpy as np

from millstream.profiler.estimate import NS_PER_S
from millstream.profiler.groups import groups
from millstream.profiler.tree import COMPILED, clipped
from millstream.store.table import Bools, Ints, SpanTable

if COMPILED:
    from millstream.profiler import _trees


class PathRow(msgspec.Struct, frozen=True):
    """Time on the critical path of one kind and name; `n` spans have a part in it."""

    kind: str
    name: str
    n: int
    seconds: float
    share: float


class CriticalPath(msgspec.Struct, frozen=True):
    """`total_s` is the sum of the durations of the roots that ended."""

    total_s: float
    by_name: list[PathRow]


def critical_path(table: SpanTable) -> CriticalPath:
    """The critical path of all requests, by kind and name, the most seconds first."""
    own = critical_path_ns(table)
    total_s = float(own.sum()) / NS_PER_S
    rows = []
    for kind, name, members in groups(table, own > 0):
        seconds = float(own[members].sum()) / NS_PER_S
        rows.append(PathRow(kind, name, len(members), seconds, seconds / total_s))
    return CriticalPath(total_s, sorted(rows, key=lambda row: (-row.seconds, row.kind, row.name)))


def critical_path_ns(table: SpanTable) -> Ints:
    """Each span's own time on the critical path of its request, shape (n,)."""
    reached, start, end = clipped(table)
    if not COMPILED:
        return _critical_path_ns(table, reached, start, end)
    own = np.empty(len(table), np.int64)
    _trees.critical_path(table.parent, reached, start, end, own)
    return own


def _critical_path_ns(table: SpanTable, reached: Bools, start: Ints, end: Ints) -> Ints:
    child = np.flatnonzero(reached & (table.parent >= 0))
    child = child[np.lexsort((-start[child], end[child], table.parent[child]))]
    first = np.searchsorted(table.parent[child], np.arange(len(table) + 1)).tolist()
    children, ends = child.tolist(), end[child].tolist()
    starts_at, ends_at = start.tolist(), end.tolist()
    own = [0] * len(table)
    waiting = np.flatnonzero(reached & table.roots()).tolist()
    while waiting:
        row = waiting.pop()
        left, at, frontier = ends_at[row] - starts_at[row], first[row + 1], ends_at[row]
        while (at := bisect_right(ends, frontier, first[row], at) - 1) >= first[row]:
            on_path = children[at]
            frontier = starts_at[on_path]
            left -= ends_at[on_path] - frontier
            waiting.append(on_path)
        own[row] = left
    return np.array(own, np.int64)
