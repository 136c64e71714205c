"""Spans as columns: the relation that every analysis reads.

A `SpanTable` is built once from spans in any order and never changes. Numbers live in NumPy arrays, one
element a span, so that analyses are whole-column operations; the spans themselves stay at hand for text.
What is odd in the input (a parent that is not there, a cycle, a clock that ran backwards) is mended in
one stated way and counted in `oddities`, never an exception.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from millstream import semconv
from millstream.span import Span, SpanKind, Status
from millstream.store.arrays import UNKNOWN, Bools, Code, Floats, Ints, Place
from millstream.store.retried import input_hash, siblings_of_failed

__all__ = [
    "KINDS",
    "KIND_CODE",
    "LATEST_NS",
    "STATUSES",
    "STATUS_CODE",
    "UNKNOWN",
    "Bools",
    "Floats",
    "Ints",
    "Oddities",
    "SpanTable",
]

KINDS: tuple[str, ...] = tuple(kind.value for kind in SpanKind)
STATUSES: tuple[str, ...] = tuple(status.value for status in Status)
KIND_CODE: dict[str, int] = {kind: code for code, kind in enumerate(KINDS)}
STATUS_CODE: dict[str, int] = {status: code for code, status in enumerate(STATUSES)}
LATEST_NS = 2**62
MOST_TOKENS = 2**40
"""Of one call: sums of all spans that fit into memory stay within 64 bits."""
TOKENS = ("input_tokens", "output_tokens", "cache_read_tokens", "reasoning_tokens")
_CYCLE_MARK = -2


class Oddities(msgspec.Struct, frozen=True):
    """What was odd in the spans, by reason, and what was done about it.

    Attributes:
        open_spans: without an end; they have no duration and are counted apart.
        duplicate_span_ids: the last closed one was kept.
        missing_parents: the parent is not among the spans; the span became a root of its trace.
        parent_cycles: the span of the cycle that started first became a root.
        negative_durations: the end is before the start; the duration became 0.
        starts_before_parent: clipped to the parent where time is shared out.
        outlives_parent: likewise.
        impossible_times: before 1970 or after 2116; moved to that limit.
        impossible_tokens: counts below 0 or above 2**40 tokens of a call; unknown.
    """

    open_spans: int = 0
    duplicate_span_ids: int = 0
    missing_parents: int = 0
    parent_cycles: int = 0
    negative_durations: int = 0
    starts_before_parent: int = 0
    outlives_parent: int = 0
    impossible_times: int = 0
    impossible_tokens: int = 0


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class SpanTable:
    """Spans sorted by trace and start, a parent before its children where they start together.

    Positions and depths are `arrays.Place`, kinds and statuses `arrays.Code`, other whole numbers int64.

    Attributes:
        spans: the spans themselves, in row order.
        span_ids: theirs.
        trace_ids: one a trace; a trace named in `trace_order` is there even without spans.
        names: the distinct span names; `name` holds positions in it.
        models: the distinct models of LLM spans; `model` holds positions in it.
        error_types: the distinct types of errors; `error_type` holds positions in it.
        trace: position in `trace_ids`, shape (n,).
        parent: row of the parent, -1 for roots, shape (n,).
        depth: 0 for roots, shape (n,).
        kind: position in `KINDS`, shape (n,).
        status: position in `STATUSES`, -1 when there is none, shape (n,).
        error_type: -1 where there is none, shape (n,).
        input_hash: the same for equal inputs, shape (n,); -1 where the input was not captured, and of calls
            that no sibling of the same kind and name failed beside.
        start_ns: Unix nanoseconds, shape (n,).
        end_ns: Unix nanoseconds, never before the start; -1 while open, shape (n,).
        input_tokens: and the three columns after it: -1 is unknown, shape (n,).
        time_to_first_chunk_s: seconds, of streamed answers; NaN is unknown, shape (n,).
        cached: the answer came from the cache of an evaluation, and no server was asked, shape (n,).
        declared_root: the span names no parent, shape (n,).
        oddities: what was odd, counted.
    """

    spans: Sequence[Span]
    span_ids: Sequence[str]
    trace_ids: Sequence[str]
    names: list[str]
    models: list[str]
    error_types: list[str]
    trace: Ints
    parent: Ints
    depth: Ints
    kind: Ints
    name: Ints
    model: Ints
    status: Ints
    error_type: Ints
    input_hash: Ints
    start_ns: Ints
    end_ns: Ints
    input_tokens: Ints
    output_tokens: Ints
    cache_read_tokens: Ints
    reasoning_tokens: Ints
    time_to_first_chunk_s: Floats
    cached: Bools
    declared_root: Bools
    oddities: Oddities

    def __len__(self) -> int:
        return len(self.spans)

    @property
    def closed(self) -> Bools:
        """Which spans have an end, shape (n,)."""
        return self.end_ns >= 0

    @property
    def duration_ns(self) -> Ints:
        """End minus start; -1 for open spans, shape (n,)."""
        return np.where(self.closed, self.end_ns - self.start_ns, UNKNOWN)

    @property
    def failed(self) -> Bools:
        """Which spans ended with status `error`, shape (n,)."""
        return np.equal(self.status, STATUS_CODE[Status.ERROR.value])

    def of_kind(self, *kinds: SpanKind) -> Bools:
        """Which spans are of one of the kinds, shape (n,)."""
        wanted = np.zeros(len(self), bool)
        for kind in kinds:
            wanted |= self.kind == KIND_CODE[kind.value]
        return wanted

    def bounds(self) -> Ints:
        """First row of each trace and, last, the number of rows, shape (traces + 1,)."""
        return np.searchsorted(self.trace, np.arange(len(self.trace_ids) + 1))

    def roots(self) -> Bools:
        """Which spans are roots of their trace, shape (n,).

        Those that name no parent; where a trace has none of these, those whose parent is missing.
        """
        has_root = np.zeros(len(self.trace_ids), bool)
        has_root[self.trace[self.declared_root]] = True
        return self.declared_root | ((self.parent < 0) & ~has_root[self.trace])

    @classmethod
    def from_spans(cls, spans: Iterable[Span], trace_order: Sequence[str] | None = None) -> "SpanTable":
        """Build the table.

        Args:
            spans: in any order.
            trace_order: trace ids in the order wanted; traces not named follow by their first start.
        """
        kept, duplicates = _distinct(spans)
        trace_ids, trace = _traces(kept, trace_order)
        start, end, moved, negative = _times(kept)
        parent, depth, missing, cycles = _tree(kept, start)
        order = np.lexsort((np.arange(len(kept)), depth, start, trace))
        place = np.empty(len(kept), np.int64)
        place[order] = np.arange(len(kept))
        parent = np.where(parent < 0, UNKNOWN, place[parent])[order]
        rows = [kept[at] for at in order.tolist()]
        start, end = start[order], end[order]
        names, name = _codes([span.name for span in rows])
        models, model = _codes([model_of(span) for span in rows])
        errors, error = _codes([None if span.error is None else span.error.type for span in rows])
        usage, impossible_tokens = _usage(rows)
        trace, parent = trace[order].astype(Place), parent.astype(Place)
        kind = np.array([KIND_CODE[span.kind.value] for span in rows], Code)
        status = np.array([UNKNOWN if s.status is None else STATUS_CODE[s.status.value] for s in rows], Code)
        failed = (status == STATUS_CODE[Status.ERROR.value]) & (end >= 0)
        return cls(
            spans=rows,
            span_ids=[span.span_id for span in rows],
            trace_ids=trace_ids,
            names=names,
            models=models,
            error_types=errors,
            trace=trace,
            parent=parent,
            depth=depth[order].astype(Place),
            kind=kind,
            name=name,
            model=model,
            status=status,
            error_type=error,
            input_hash=_input_hashes(rows, siblings_of_failed(trace, parent, kind, name, failed)[0]),
            start_ns=start,
            end_ns=end,
            input_tokens=usage[0],
            output_tokens=usage[1],
            cache_read_tokens=usage[2],
            reasoning_tokens=usage[3],
            time_to_first_chunk_s=np.array([first_chunk_s(span) for span in rows], np.float64),
            cached=np.array([is_cached(span) for span in rows], bool),
            declared_root=np.array([span.parent_id is None for span in rows], bool),
            oddities=msgspec.structs.replace(
                _outside_parents(parent, start, end),
                open_spans=int(np.sum(end < 0)),
                duplicate_span_ids=duplicates,
                missing_parents=missing,
                parent_cycles=cycles,
                negative_durations=negative,
                impossible_times=moved,
                impossible_tokens=impossible_tokens,
            ),
        )


def _ints(values: Sequence[int]) -> Ints:
    return np.array(values, np.int64)


def _input_hashes(spans: list[Span], compared: Ints) -> Ints:
    hashes = np.full(len(spans), UNKNOWN, np.int64)
    hashes[compared] = [input_hash(spans[row].input) for row in compared.tolist()]
    return hashes


def _distinct(spans: Iterable[Span]) -> tuple[list[Span], int]:
    kept: dict[tuple[str, str], Span] = {}
    duplicates = 0
    for span in spans:
        key = (span.trace_id, span.span_id)
        before = kept.get(key)
        if before is not None:
            duplicates += 1
            if before.end_ns is not None and span.end_ns is None:
                continue
        kept[key] = span
    return list(kept.values()), duplicates


def _traces(spans: list[Span], trace_order: Sequence[str] | None) -> tuple[list[str], Ints]:
    first: dict[str, int] = {}
    for span in spans:
        first[span.trace_id] = min(first.get(span.trace_id, span.start_ns), span.start_ns)
    named = list(dict.fromkeys(trace_order or ()))
    others = sorted(first.keys() - set(named), key=lambda trace_id: (first[trace_id], trace_id))
    trace_ids = named + others
    place = {trace_id: at for at, trace_id in enumerate(trace_ids)}
    return trace_ids, _ints([place[span.trace_id] for span in spans])


def _times(spans: list[Span]) -> tuple[Ints, Ints, int, int]:
    """Starts, ends (-1 open), how many times were out of range, how many ends were before their start."""
    starts, ends, moved, negative = [], [], 0, 0
    for span in spans:
        start = min(max(span.start_ns, 0), LATEST_NS)
        end = UNKNOWN
        if span.end_ns is not None:
            end = min(max(span.end_ns, 0), LATEST_NS)
            moved += end != span.end_ns
            negative += end < start
            end = max(end, start)
        moved += start != span.start_ns
        starts.append(start)
        ends.append(end)
    return _ints(starts), _ints(ends), moved, negative


def _tree(spans: list[Span], start: Ints) -> tuple[Ints, Ints, int, int]:
    """Parents (-1 roots), depths, how many parents were missing, how many cycles were cut."""
    place = {(span.trace_id, span.span_id): at for at, span in enumerate(spans)}
    parent = [UNKNOWN] * len(spans)
    missing = 0
    for at, span in enumerate(spans):
        if span.parent_id is not None:
            parent[at] = place.get((span.trace_id, span.parent_id), UNKNOWN)
            missing += parent[at] < 0
    depth = [UNKNOWN] * len(spans)
    starts = start.tolist()
    cycles = 0
    for at in range(len(spans)):
        while not _descend(at, parent, depth, starts):
            cycles += 1
    return _ints(parent), _ints(depth), missing, cycles


def _descend(row: int, parent: list[int], depth: list[int], starts: list[int]) -> bool:
    """Fill the depths from `row` up to its root; on a cycle cut it, fill nothing and return False."""
    path = []
    at = row
    while at >= 0 and depth[at] == UNKNOWN:
        depth[at] = _CYCLE_MARK
        path.append(at)
        at = parent[at]
    if at >= 0 and depth[at] == _CYCLE_MARK:
        cycle = path[path.index(at) :]
        parent[min(cycle, key=lambda member: (starts[member], member))] = UNKNOWN
        for member in path:
            depth[member] = UNKNOWN
        return False
    level = depth[at] if at >= 0 else UNKNOWN
    for member in reversed(path):
        level += 1
        depth[member] = level
    return True


def _outside_parents(parent: Ints, start: Ints, end: Ints) -> Oddities:
    child = np.flatnonzero(parent >= 0)
    above = parent[child]
    return Oddities(
        starts_before_parent=int(np.sum(start[child] < start[above])),
        outlives_parent=int(np.sum((end[above] >= 0) & (end[child] > end[above]))),
    )


def _codes(values: Sequence[str | None]) -> tuple[list[str], Ints]:
    """Distinct values in sorted order, and the position of each value (-1 for None)."""
    distinct = sorted({value for value in values if value is not None})
    place: dict[str | None, int] = {value: at for at, value in enumerate(distinct)}
    place[None] = UNKNOWN
    return distinct, np.array([place[value] for value in values], Place)


def model_of(span: Span) -> str | None:
    """The model of an LLM span: as requested, else as answered, else the span's name."""
    if span.kind is not SpanKind.LLM:
        return None
    for key in (semconv.REQUEST_MODEL, semconv.RESPONSE_MODEL):
        model = span.attributes.get(key)
        if isinstance(model, str) and model:
            return model
    return span.name


def first_chunk_s(span: Span) -> float:
    value = span.attributes.get(semconv.TIME_TO_FIRST_CHUNK_S)
    known = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
    return float(value) if known else math.nan  # type: ignore[arg-type]  # it is a number where it is known


def is_cached(span: Span) -> bool:
    """Whether the answer came from the cache of an evaluation, and no server was asked."""
    return span.attributes.get(semconv.CACHED) is True


def possible_tokens(column: Ints) -> Ints:
    """Counts of tokens, -1 where they are unknown or impossible."""
    if column.min(initial=UNKNOWN) == UNKNOWN and column.max(initial=UNKNOWN) <= MOST_TOKENS:
        return column
    return np.where((column < 0) | (column > MOST_TOKENS), UNKNOWN, column)


def _usage(spans: list[Span]) -> tuple[Ints, int]:
    """Input, output, cache read and reasoning, shape (4, n), -1 unknown; and how many are impossible."""
    columns = np.full((4, len(spans)), UNKNOWN, np.int64)
    impossible = 0
    for at, span in enumerate(spans):
        if span.usage is None:
            continue
        known = (
            span.usage.input_tokens,
            span.usage.output_tokens,
            span.usage.cache_read_tokens,
            span.usage.reasoning_tokens,
        )
        for column, tokens in enumerate(known):
            if tokens is None:
                continue
            if 0 <= tokens <= MOST_TOKENS:
                columns[column, at] = tokens
            else:
                impossible += 1
    return columns, impossible
