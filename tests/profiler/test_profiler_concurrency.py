"""Levels, percentiles and spikes against counting cell by cell."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.profiler.bottlenecks import nested_stack, simple_stack
from millstream.profiler.concurrency import concurrency, spikes
from millstream.profiler.sweep import sweep
from millstream.span import SpanKind, Usage
from millstream.store.table import SpanTable
from tests.profiler.profiler_synthetic import small_forests, span

HORIZON = 12
CALLS = (SpanKind.LLM, SpanKind.TOOL)


def counted(calls):
    return [sum(c.start_ns <= t < c.end_ns for c in calls) for t in range(HORIZON)]


def calls_of(spans):
    return [s for s in spans if s.kind in CALLS and s.end_ns is not None]


@settings(max_examples=300)
@given(small_forests(horizon=HORIZON), st.integers(1, 4))
def test_distribution_percentiles_and_spikes_by_counting_cells(spans, threshold):
    calls = calls_of(spans)
    levels = counted(calls)
    busy = sorted(level for level in levels if level)
    table = SpanTable.from_spans(spans)
    found = concurrency(table, threshold)
    assert found.max == max(levels)
    assert round(found.busy_s * 1e9) == len(busy)
    used = [t for t in range(HORIZON) if levels[t]]
    inside = levels[used[0] : used[-1] + 1] if used else []
    assert {k: round(v * 1e9) for k, v in found.concurrency_distribution.items()} == {
        level: inside.count(level) for level in set(inside)
    }
    if busy:
        assert math.isclose(found.idle_share, inside.count(0) / len(inside), abs_tol=1e-12)
        for share, value in ((0.5, found.p50_concurrency), (0.9, found.p90_concurrency)):
            assert value == min(v for v in busy if sum(b <= v for b in busy) / len(busy) >= share - 1e-9)
    check_spikes(calls, levels, threshold, found, spikes(table, threshold))


def check_spikes(calls, levels, threshold, found, intervals):
    expected, t = [], 0
    while t < HORIZON:
        if levels[t] < threshold:
            t += 1
            continue
        begin = t
        while t < HORIZON and levels[t] >= threshold:
            t += 1
        active = {c.span_id for c in calls if c.start_ns < t and c.end_ns > begin and c.end_ns > c.start_ns}
        expected.append((begin, t, max(levels[begin:t]), active))
    got = [
        (round(s.start_time * 1e9), round(s.end_time * 1e9), s.concurrency, set(s.active_uuids))
        for s in intervals
    ]
    assert got == expected
    assert found.spikes == len(expected)


@settings(max_examples=200)
@given(small_forests(horizon=HORIZON))
def test_latency_by_level_at_the_midpoint(spans):
    calls = calls_of(spans)
    levels = [*counted(calls), 0]
    expected = {}
    for call in calls:
        middle = call.start_ns + (call.end_ns - call.start_ns) // 2
        expected.setdefault(levels[middle], []).append(call.end_ns - call.start_ns)
    found = concurrency(SpanTable.from_spans(spans)).average_latency_by_concurrency
    assert found.keys() == expected.keys()
    for level, durations in expected.items():
        assert math.isclose(found[level] * 1e9, np.mean(durations), abs_tol=1e-6)


def llm(span_id, start, end, usage=None, **fields):
    return span(span_id, start, end, kind=SpanKind.LLM, name="m", usage=usage, **fields)


def test_back_to_back_calls_do_not_overlap():
    table = SpanTable.from_spans([llm("b", 0, 5), llm("a", 5, 9)])
    assert concurrency(table).max == 1
    assert simple_stack(table)["LLM:m"].max_concurrency == 1


def test_a_spike_counts_each_call_once_and_only_known_tokens():
    spans = [
        llm("long", 0, 100, Usage(10, 30)),
        llm("x", 10, 20, Usage(20, None)),
        llm("y", 60, 70),
        llm("alone", 200, 300, Usage(1000, 1000)),
    ]
    table = SpanTable.from_spans(spans)
    found = concurrency(table, 2)
    assert [s.active_uuids for s in spikes(table, 2)] == [["long", "x"], ["long", "y"]]
    assert found.correlation_stats.avg_prompt_tokens == 15
    assert found.correlation_stats.avg_total_tokens == 40
    assert found.correlation_stats.n == 2


def test_without_a_threshold_it_is_the_90th_percentile():
    spans = [llm(str(i), i, 100) for i in range(5)]
    assert concurrency(SpanTable.from_spans(spans), None).spike_threshold == 5


def test_nested_stack_has_every_closed_call_and_ranks_by_self_time():
    spans = [
        span("w", 0, 100, kind=SpanKind.WORKFLOW, name="agent"),
        span("f", 10, 90, "w", name="function"),
        span("t", 20, 80, "f", kind=SpanKind.TOOL, name="tool"),
        span("open", 20, None, "f", kind=SpanKind.TOOL, name="tool"),
        llm("l", 30, 75, parent_id="t"),
    ]
    found = nested_stack(SpanTable.from_spans(spans))
    assert set(found.node_metrics) == {"f", "t", "l"}
    assert [node.uuid for node in found.top_bottlenecks] == ["l", "f", "t"]
    assert found.node_metrics["f"].self_time * 1e9 == 20
    assert round(found.node_metrics["f"].subtree_time * 1e9) == 80
    assert found.node_metrics["l"].concurrency_midpoint == 3
    area = sum((b - a) * level for a, b, level in found.concurrency.timeline_segments)
    assert round(area * 1e9) == 185


def test_the_same_span_id_in_two_traces_gives_two_nodes():
    spans = [llm("same", 0, 10), span("same", 100, 300, kind=SpanKind.LLM, name="m", trace_id="u")]
    nodes = nested_stack(SpanTable.from_spans(spans)).node_metrics
    assert {key: round(node.duration * 1e9) for key, node in nodes.items()} == {"same": 10, "u:same": 200}


def test_sweep_steps_never_repeat_a_level():
    levels = sweep(np.array([0, 5, 5, 9]), np.array([5, 9, 7, 9]))
    assert levels.time_ns.tolist() == [0, 5, 7, 9]
    assert levels.level.tolist() == [1, 2, 1]
    assert levels.at(np.array([-1, 0, 6, 8, 9])).tolist() == [0, 1, 2, 1, 0]
