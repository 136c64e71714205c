"""The six NOVA columns against counting forward from each event."""

import numpy as np
import pytest

from millstream.profiler.events import events, scopes
from millstream.profiler.nova import nova
from millstream.span import SpanKind, Usage
from millstream.store.table import SpanTable
from tests.profiler.profiler_synthetic import runs, span


def columns(spans):
    table = SpanTable.from_spans(spans)
    found, scope = events(table), scopes(table)
    return table, found, scope, nova(table, found, scope[found.row])


def test_every_event_by_counting_forward():
    table, found, scope, got = columns(runs(6, seed=4))
    run = [(int(table.trace[row]), int(scope[row])) for row in found.row.tolist()]
    start = [
        table.spans[row].kind is SpanKind.LLM and not end
        for row, end in zip(found.row, found.is_end, strict=True)
    ]
    for at in range(len(run)):
        same = [i for i in range(len(run)) if run[i] == run[at]]
        later = [i for i in same if i > at and start[i]]
        assert got.requests_remaining[at] == len(later)
        expected = (found.time_ns[later[0]] - found.time_ns[at]) / 1e6 if later else -1
        assert got.time_to_next_ms[at] == pytest.approx(expected)
        assert got.time_to_event_end_ms[at] == pytest.approx(
            (found.time_ns[same[-1]] - found.time_ns[at]) / 1e6
        )
        session = [i for i in range(len(run)) if run[i][0] == run[at][0]]
        assert got.time_to_session_end_ms[at] == pytest.approx(
            (found.time_ns[session[-1]] - found.time_ns[at]) / 1e6
        )
        known = table.output_tokens[found.row[at]] if start[at] else -1
        assert got.predicted_osl[at] == known


def test_two_runs_of_one_function_are_two_events():
    def function(span_id, start):
        call = span(f"l{span_id}", start + 1, start + 5, span_id, kind=SpanKind.LLM, usage=Usage(1, 2))
        return [span(span_id, start, start + 9, "w", workload_id="f"), call]

    spans = [span("w", 0, 100, kind=SpanKind.WORKFLOW), *function("a", 10), *function("b", 30)]
    table, found, _, got = columns(spans)
    first = next(i for i, row in enumerate(found.row) if table.spans[row].span_id == "a")
    assert got.requests_remaining[first] == 1
    assert got.time_to_event_end_ms[first] * 1e6 == 9


def test_without_spans_there_are_no_rows():
    *_, got = columns([])
    assert len(got.requests_remaining) == len(got.time_to_session_end_ms) == 0


def test_events_of_one_moment_keep_starts_before_their_own_ends():
    spans = [span("p", 5, 5), span("c", 5, 5, "p"), span("before", 1, 5), span("after", 5, 9)]
    table, found, *_ = columns(spans)
    order = [(table.spans[row].span_id, bool(end)) for row, end in zip(found.row, found.is_end, strict=True)]
    assert order[:2] == [("before", False), ("before", True)]
    assert (
        order.index(("p", False))
        < order.index(("c", False))
        < order.index(("c", True))
        < order.index(("p", True))
    )
    assert np.all(np.diff(found.time_ns) >= 0)
