"""How much of a request waits for an LLM call? The reference's automatic latency sensitivity, 0 to 1.

A weighted sum, scaled to 0..1 within each request: the call's share of the run time, the share of the steps
that are still to come, how near it is to the start or the end, less how much of it runs beside longer work.
Calls that overlap, also through others, are one step.
"""

import numpy as np

from millstream.profiler.config import PredictionTrie
from millstream.profiler.estimate import Floats
from millstream.span import SpanKind
from millstream.store.table import UNKNOWN, Ints, SpanTable

_EVEN = 0.5


def sensitivity(table: SpanTable, row: Ints, scope: Ints, config: PredictionTrie) -> Floats:
    """The score of closed LLM calls, shape (n,).

    Args:
        table: the spans.
        row: rows of the calls, ascending.
        scope: row of the function that each span ran in; see `events.scopes`.
        config: the weights.
    """
    if len(row) == 0:
        return np.zeros(0)
    trace = table.trace[row]
    first = np.flatnonzero(np.append(True, trace[1:] != trace[:-1]))
    length = np.diff(np.append(first, len(row)))
    took = (table.end_ns[row] - table.start_ns[row]).astype(np.float64)
    whole = _recorded_ns(table)[trace]
    share = np.where(whole > 0, np.minimum(took / np.maximum(whole, 1), 1.0), 1.0)
    step = _steps(table.start_ns[row], table.end_ns[row], first, length)
    last = np.repeat(np.maximum.reduceat(step, first), length)
    place = np.where(last > 0, step / np.maximum(last, 1), 0.0)
    to_come = np.where(last > 0, 1 - place, 0.0)
    score = config.w_critical * share + config.w_fanout * to_come
    score += config.w_position * np.maximum(place, 1 - place)
    if config.w_parallel:
        score -= config.w_parallel * _beside(table, row, scope, trace, step)
    low = np.repeat(np.minimum.reduceat(score, first), length)
    width = np.repeat(np.maximum.reduceat(score, first), length) - low
    return np.where(width > 0, (score - low) / np.where(width > 0, width, 1), _EVEN)


def _recorded_ns(table: SpanTable) -> Ints:
    """From the first to the last known moment of each trace, shape (traces,)."""
    bounds = table.bounds()
    used = np.flatnonzero(np.diff(bounds))
    found = np.zeros(len(table.trace_ids), np.int64)
    latest = np.maximum.reduceat(np.maximum(table.start_ns, table.end_ns), bounds[used])
    found[used] = latest - np.minimum.reduceat(table.start_ns, bounds[used])
    return found


def _steps(start: Ints, end: Ints, first: Ints, length: Ints) -> Ints:
    """The step of each call, from 0 in each trace; calls are ordered by trace and start."""
    of = np.repeat(np.arange(len(first)), length)
    by_end = np.lexsort((end, of))
    rank = np.empty(len(end), np.int64)
    rank[by_end] = np.arange(len(end))
    latest = end[by_end[np.maximum.accumulate(rank)]]
    new = np.append(True, start[1:] >= latest[:-1])
    new[first] = True
    count = np.cumsum(new)
    steps: Ints = count - count[first][of]
    return steps


def _beside(table: SpanTable, row: Ints, scope: Ints, trace: Ints, step: Ints) -> Floats:
    """How much of each call is beside longer work, 0 to 1; of a step of k calls at least (k - 1) / 2k."""
    slack = _slack(table, row, scope)
    _, of, size = np.unique(np.stack((trace, step)), axis=1, return_inverse=True, return_counts=True)
    together = size[of.reshape(-1)]
    return np.where(together > 1, (slack + (together - 1) / together) / 2, slack)


def _slack(table: SpanTable, row: Ints, scope: Ints) -> Floats:
    """1 - duration / the longest call beside it; 0 when it is the longest.

    Beside it are the siblings of its function, else its own: closed LLM, TOOL and FUNCTION spans that
    overlap it.
    """
    kinds = table.of_kind(SpanKind.LLM, SpanKind.TOOL, SpanKind.FUNCTION)
    candidates = np.flatnonzero(kinds & table.closed & (table.parent >= 0))
    candidates = candidates[np.argsort(table.parent[candidates], kind="stable")]
    parents = table.parent[candidates]

    def siblings(span: int) -> Ints:
        parent = table.parent[span] if span >= 0 else UNKNOWN
        if parent < 0:
            return candidates[:0]
        first, stop = np.searchsorted(parents, (parent, parent + 1))
        found: Ints = candidates[first:stop]
        return np.asarray(found[found != span], np.int64)

    slack = np.zeros(len(row))
    for at, call in enumerate(row.tolist()):
        others = siblings(int(scope[call]))
        others = others if len(others) else siblings(call)
        start, end = table.start_ns[call], table.end_ns[call]
        overlap = np.minimum(table.end_ns[others], end) > np.maximum(table.start_ns[others], start)
        longest = (table.end_ns[others] - table.start_ns[others])[overlap].max(initial=0)
        if end > start and longest > 0:
            slack[at] = max(1 - (end - start) / longest, 0.0)
    return slack
