"""How many LLM and TOOL calls run at once, when are there many, and does it cost latency?"""

import math

import msgspec
import numpy as np

from millstream.profiler.estimate import NS_PER_S
from millstream.profiler.requests import Pauses, pauses
from millstream.profiler.sweep import Levels, passed, sweep, weighted_percentiles
from millstream.span import SpanKind
from millstream.store.table import KIND_CODE, Bools, Floats, Ints, SpanTable


class Spike(msgspec.Struct, frozen=True, gc=False):
    """A maximal stretch at or above the threshold (Unix s); `concurrency` is its peak."""

    start_time: float
    end_time: float
    concurrency: int
    active_uuids: list[str]


class CorrelationStats(msgspec.Struct, frozen=True):
    """Mean tokens of the `n` LLM calls in any spike that know their usage, each counted once."""

    avg_prompt_tokens: float | None
    avg_total_tokens: float | None
    n: int


class Concurrency(msgspec.Struct, frozen=True):
    """Concurrency of LLM and TOOL calls that ended; those from the cache of an evaluation ran nowhere.

    Attributes:
        n: calls.
        max: the highest level.
        busy_s: seconds with at least one call running.
        idle_share: share of the time from the first start to the last end in which none ran, without the
            pauses between sessions.
        concurrency_distribution: seconds at each level, 0 included; likewise.
        p50_concurrency: and those after it: level not exceeded for that share of the busy time.
        spike_threshold: level at which a spike begins.
        spikes: maximal stretches at or above it; `spikes` lists them.
        average_latency_by_concurrency: mean duration (s) of calls by the level at their midpoint.
    """

    n: int
    max: int
    busy_s: float
    idle_share: float | None
    concurrency_distribution: dict[int, float]
    p50_concurrency: int | None
    p90_concurrency: int | None
    p95_concurrency: int | None
    p99_concurrency: int | None
    spike_threshold: int
    spikes: int
    correlation_stats: CorrelationStats
    average_latency_by_concurrency: dict[int, float]


def concurrency(table: SpanTable, spike_threshold: int | None = 1) -> Concurrency:
    """Concurrency over all requests.

    Args:
        table: the spans.
        spike_threshold: level at which a spike begins; None: the 90th percentile, rounded up.
    """
    rows = calls(table)
    start, end = table.start_ns[rows], table.end_ns[rows]
    levels = sweep(start, end)
    lasts = levels.lasts_ns
    spans_ns, busy_ns = _spans_ns(pauses(table), levels), int(lasts[1:].sum())
    has_level = lasts > 0
    lasts[:1] = spans_ns - busy_ns  # in a pause nothing runs
    busy: Floats = lasts.astype(np.float64)
    busy[:1] = 0
    percentiles = weighted_percentiles(busy, (0.50, 0.90, 0.95, 0.99))
    threshold = spike_threshold or max(1, math.ceil(percentiles[1] or 1))
    begin, finish = (levels.time_ns[edges] for edges in _edges(levels, threshold))
    in_spikes = _correlation(table, rows, _is_met(start, end, begin, finish))
    return Concurrency(
        n=len(rows),
        max=max(len(lasts) - 1, 0),
        busy_s=busy_ns / NS_PER_S,
        idle_share=1 - busy_ns / spans_ns if spans_ns else None,
        concurrency_distribution={
            at: float(lasts[at] / NS_PER_S) for at in np.flatnonzero(has_level).tolist()
        },
        p50_concurrency=percentiles[0],
        p90_concurrency=percentiles[1],
        p95_concurrency=percentiles[2],
        p99_concurrency=percentiles[3],
        spike_threshold=threshold,
        spikes=len(begin),
        correlation_stats=in_spikes,
        average_latency_by_concurrency=_latency_by_level(levels, start, end),
    )


def calls(table: SpanTable) -> Ints:
    """Rows of the LLM and TOOL calls that ended and were not answered from the cache of an evaluation."""
    return np.flatnonzero(table.of_kind(SpanKind.LLM, SpanKind.TOOL) & table.closed & ~table.cached)


def call_levels(table: SpanTable) -> Levels:
    """Concurrency of LLM and TOOL calls as steps over time."""
    rows = calls(table)
    return sweep(table.start_ns[rows], table.end_ns[rows])


def _spans_ns(quiet: Pauses, levels: Levels) -> int:
    """From the first start to the last end, without the pauses between."""
    ends = quiet.without(levels.time_ns[[0, -1]]) if len(levels.level) else np.zeros(2, np.int64)
    return int(ends[1] - ends[0])


def spikes(table: SpanTable, threshold: int) -> list[Spike]:
    """The maximal stretches with at least `threshold` calls at once, and the calls in each, by span id."""
    rows = calls(table)
    begin, finish, peak = _stretches(call_levels(table), threshold)
    inside: list[list[str]] = [[] for _ in range(len(begin))]
    first, stop = _met(table.start_ns[rows], table.end_ns[rows], begin, finish)
    met = np.flatnonzero(stop > first)
    for row, start, end in zip(rows[met].tolist(), first[met].tolist(), stop[met].tolist(), strict=True):
        for spike in range(start, end):
            inside[spike].append(table.span_ids[row])
    columns = ((begin / NS_PER_S).tolist(), (finish / NS_PER_S).tolist(), peak.tolist(), inside)
    return list(map(Spike, *columns))


def _stretches(levels: Levels, threshold: int) -> tuple[Ints, Ints, Ints]:
    """Begin, end (Unix ns) and peak of the maximal stretches at or above the threshold."""
    first, last = _edges(levels, threshold)
    if len(first) == 0:
        return first, first, first
    peak = np.maximum.reduceat(np.append(levels.level, 0), np.column_stack((first, last)).ravel())[::2]
    return levels.time_ns[first], levels.time_ns[last], peak


def _edges(levels: Levels, threshold: int) -> tuple[Ints, Ints]:
    """The steps with which these stretches begin, and those after them."""
    high = np.zeros(len(levels.level) + 2, bool)
    np.greater_equal(levels.level, threshold, out=high[1:-1])
    edges = np.flatnonzero(high[1:] != high[:-1])
    return edges[::2], edges[1::2]


def _met(start: Ints, end: Ints, begin: Ints, finish: Ints) -> tuple[Ints, Ints]:
    """Of each call: the first stretch that it is in, and the first after it that it is not in."""
    first = passed(finish, start)
    stop = passed(begin, end - 1)
    empty = np.flatnonzero(end <= start)
    stop[empty] = first[empty]
    return first, stop


def _is_met(start: Ints, end: Ints, begin: Ints, finish: Ints) -> Bools:
    """Which calls are in any stretch."""
    first, stop = _met(start, end, begin, finish)
    return stop > first


def _correlation(table: SpanTable, rows: Ints, counted: Bools) -> CorrelationStats:
    llm = rows[counted & (table.kind[rows] == KIND_CODE[SpanKind.LLM.value])]
    prompt, output = table.input_tokens[llm], table.output_tokens[llm]
    both = (prompt >= 0) & (output >= 0)
    return CorrelationStats(
        avg_prompt_tokens=float(prompt[prompt >= 0].mean()) if (prompt >= 0).any() else None,
        avg_total_tokens=float((prompt + output)[both].mean()) if both.any() else None,
        n=int((prompt >= 0).sum()),
    )


def _latency_by_level(levels: Levels, start: Ints, end: Ints) -> dict[int, float]:
    if len(start) == 0:
        return {}
    duration = end - start
    middle = duration >> 1
    middle += start
    at = levels.at(middle)
    del middle  # there may be many calls
    total = np.bincount(at, weights=duration / NS_PER_S)
    count = np.bincount(at)
    return {level: float(total[level] / count[level]) for level in np.flatnonzero(count).tolist()}
