"""At each place in the tree of functions, what comes after an LLM call? The reference's prediction trie.

A place is the path of functions around the call, from the outermost, and the number of the call in its run
of the innermost function, in order of starts: what a client knows when it makes the call. The reference
learns the innermost two functions and the order of ends, so that its clients do not find what it learned.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec
import numpy as np

from millstream.profiler.config import PredictionTrie
from millstream.profiler.estimate import Floats
from millstream.profiler.events import scopes
from millstream.profiler.sensitivity import sensitivity
from millstream.span import SpanKind
from millstream.store.table import UNKNOWN, Bools, Ints, SpanTable

NS_PER_MS = 1e6
DEEPEST = 64


class Metrics(msgspec.Struct, frozen=True):
    """A sample and its percentiles by linear interpolation; zeros when it is empty."""

    sample_count: int = 0
    mean: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p95: float = 0.0


class Prediction(msgspec.Struct, frozen=True):
    """What came after LLM calls of one place.

    Attributes:
        remaining_calls: LLM calls of the request that started after it.
        interarrival_ms: from its end to the next start of an LLM call in the request.
        output_tokens: of the call; only of calls that know theirs.
        latency_sensitivity: from 1 to `sensitivity_scale`; null when `auto_sensitivity` is off.
    """

    remaining_calls: Metrics
    interarrival_ms: Metrics
    output_tokens: Metrics
    latency_sensitivity: int | None


class TrieNode(msgspec.Struct, frozen=True):
    """A function on a path. Calls count in every node from the root to their function."""

    name: str
    predictions_by_call_index: dict[int, Prediction]
    predictions_any_index: Prediction | None
    children: dict[str, "TrieNode"]


@dataclass(frozen=True, slots=True, eq=False)
class _Calls:
    """One element a closed LLM call; NaN is unknown.

    Attributes:
        row: of its span, ascending.
        index: its number, from 1, in its run of a function.
        remaining: and the columns after it: see `Prediction`; the sensitivity is a score from 0 to 1.
    """

    row: Ints
    index: Ints
    remaining: Floats
    interarrival_ms: Floats
    output_tokens: Floats
    sensitivity: Floats | None


@dataclass(slots=True, eq=False)
class _Place:
    """A node that is being built: positions of its calls, in parts, and the nodes below."""

    calls: list[Ints] = field(default_factory=list)
    children: dict[str, "_Place"] = field(default_factory=dict)


def prediction_trie(table: SpanTable, config: PredictionTrie | None = None) -> TrieNode:
    """Learn the trie from the closed LLM calls of all requests; open ones only count as calls.

    Of functions more than `DEEPEST` below one another, the calls count at the last of these.
    """
    config = config or PredictionTrie(enable=True)
    scope = scopes(table)
    calls = _calls(table, scope, config)
    root = _Place()
    for function, members in _grouped(scope[calls.row]):
        place = root
        place.calls.append(members)
        for name in _path(table, scope, function):
            place = place.children.setdefault(name, _Place())
            place.calls.append(members)
    return _node("root", root, calls, config.sensitivity_scale)


def _calls(table: SpanTable, scope: Ints, config: PredictionTrie) -> _Calls:
    llm = np.flatnonzero(table.of_kind(SpanKind.LLM))
    trace = table.trace[llm]
    after = np.searchsorted(trace, trace, side="right") - np.arange(len(llm)) - 1
    index = np.zeros(len(llm), np.int64)
    for _, members in _grouped(np.where(scope[llm] >= 0, scope[llm], UNKNOWN - 1 - trace)):
        index[members] = np.arange(1, len(members) + 1)
    closed = table.closed[llm]
    row = llm[closed]
    tokens = table.output_tokens[row]
    return _Calls(
        row=row,
        index=index[closed],
        remaining=after[closed].astype(np.float64),
        interarrival_ms=_until_next_ms(table, llm, row),
        output_tokens=np.where(tokens >= 0, tokens, np.nan),
        sensitivity=sensitivity(table, row, scope, config) if config.auto_sensitivity else None,
    )


def _until_next_ms(table: SpanTable, llm: Ints, row: Ints) -> Floats:
    """From the end of each call to the next start of another in its request; NaN when none follows."""
    trace = np.concatenate((table.trace[llm], table.trace[row]))
    time = np.concatenate((table.start_ns[llm], table.end_ns[row]))
    instant = table.end_ns[llm] == table.start_ns[llm]
    phase = np.concatenate((np.where(instant, 0, 2), np.ones(len(row), np.int64)))
    is_end: Bools = np.arange(len(trace)) >= len(llm)
    order = np.lexsort((phase, time, trace))
    n = len(order)
    starts = np.where(is_end[order], n, np.arange(n))
    following = np.minimum.accumulate(starts[::-1])[::-1] if n else starts
    found = np.full(n, np.nan)
    there = np.flatnonzero(following < n)
    there = there[trace[order[following[there]]] == trace[order[there]]]
    found[order[there]] = (time[order[following[there]]] - time[order[there]]) / NS_PER_MS
    return found[len(llm) :]


def _grouped(keys: Ints) -> Iterator[tuple[int, Ints]]:
    """Each key with the positions that have it, ascending."""
    order = np.argsort(keys, kind="stable")
    found, first = np.unique(keys[order], return_index=True)
    yield from zip(found.tolist(), np.split(order, first[1:]), strict=False)


def _path(table: SpanTable, scope: Ints, function: int) -> list[str]:
    """Names of the functions around a call, from the outermost, at most `DEEPEST`."""
    names = []
    while function >= 0:
        names.append(table.names[table.name[function]])
        parent = int(table.parent[function])
        function = int(scope[parent]) if parent >= 0 else UNKNOWN
    return names[::-1][:DEEPEST]


def _node(name: str, place: _Place, calls: _Calls, scale: int) -> TrieNode:
    members = np.concatenate(place.calls) if place.calls else np.zeros(0, np.int64)
    by_index = {index: _prediction(calls, members[at], scale) for index, at in _grouped(calls.index[members])}
    children = {child: _node(child, below, calls, scale) for child, below in sorted(place.children.items())}
    return TrieNode(name, by_index, _prediction(calls, members, scale) if len(members) else None, children)


def _prediction(calls: _Calls, members: Ints, scale: int) -> Prediction:
    waits = None
    if calls.sensitivity is not None:
        waits = min(max(round(float(calls.sensitivity[members].mean()) * (scale - 1)) + 1, 1), scale)
    return Prediction(
        _metrics(calls.remaining[members]),
        _metrics(calls.interarrival_ms[members]),
        _metrics(calls.output_tokens[members]),
        waits,
    )


def _metrics(values: Floats) -> Metrics:
    known = values[~np.isnan(values)]
    if len(known) == 0:
        return Metrics()
    p50, p90, p95 = np.quantile(known, [0.50, 0.90, 0.95]).tolist()
    return Metrics(len(known), float(known.mean()), p50, p90, p95)
