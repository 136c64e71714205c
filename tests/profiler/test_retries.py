"""Retries against their definition, pair by pair; intervals against SciPy."""

import time

import msgspec
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.profiler.confidence import confidence_intervals
from millstream.profiler.retries import proportion, retries
from millstream.span import SpanError, SpanKind, Status
from millstream.store.table import SpanTable
from tests.profiler.profiler_synthetic import runs, span

S = 1_000_000_000


def call(span_id, start, end, value="x", error=None, *, parent="root", **fields):
    status = None if end is None else Status.OK if error is None else Status.ERROR
    fields = {"name": "search", "kind": SpanKind.TOOL, "input": value, "status": status, **fields}
    return span(span_id, start, end, parent, error=error and SpanError(error, ""), **fields)


def rows(spans):
    return {(row.kind, row.name): row for row in retries(SpanTable.from_spans(spans))}


@st.composite
def siblings(draw):
    spans = [span("root", 0, 100), span("other", 0, 100)]
    for number in range(draw(st.integers(0, 10))):
        start = draw(st.integers(0, 8))
        end = draw(st.sampled_from([None, start, start + 1, start + 3]))
        fields = {
            "parent": draw(st.sampled_from(["root", "root", "other", None])),
            "value": draw(st.sampled_from([{"a": 1, "b": 2}, {"b": 2, "a": 1}, 1, None, msgspec.UNSET])),
            "name": draw(st.sampled_from(["search", "search", "fetch"])),
            "trace_id": draw(st.sampled_from(["t", "t", "u"])),
        }
        error = draw(st.sampled_from([None, "Timeout"])) if end is not None else None
        spans.append(call(f"{number:02}", start, end, error=error, **fields))
    return spans


@settings(max_examples=500)
@given(siblings())
def test_a_retry_follows_a_failed_sibling_of_the_same_input(spans):
    found = retries(SpanTable.from_spans(spans))
    calls = [one for one in spans if one.kind is SpanKind.TOOL]

    def after(early, late):
        """Late is a later sibling of early, which had failed by then."""
        known = {one.span_id for one in spans if one.trace_id == early.trace_id}
        parents = [one.parent_id if one.parent_id in known else None for one in (early, late)]
        return (
            early.status is Status.ERROR
            and (early.trace_id, early.name, parents[0]) == (late.trace_id, late.name, parents[1])
            and (early.start_ns, early.span_id) < (late.start_ns, late.span_id)
            and early.end_ns <= late.start_ns
        )

    def same(one, two):
        return one.input is not msgspec.UNSET and two.input is not msgspec.UNSET and one.input == two.input

    for row in found:
        mine = [one for one in calls if (one.kind.value, one.name) == (row.kind, row.name)]
        if not mine:
            continue
        again = [late for late in mine if any(after(early, late) and same(early, late) for early in mine)]
        maybe = [
            late
            for late in mine
            if late not in again
            and any(after(early, late) and msgspec.UNSET in (early.input, late.input) for early in mine)
        ]
        failed = [one for one in mine if one.status is Status.ERROR]
        for_good = [one for one in failed if not any(after(one, late) and same(one, late) for late in mine)]
        assert row.retries == len(again)
        assert row.retries_unknown == len(maybe)
        assert row.failed_for_good == len(for_good)
        assert row.recovered == sum(one.status is Status.OK for one in again)
        assert row.lost_s * S == pytest.approx(sum(one.end_ns - one.start_ns for one in failed))
        assert (row.calls, row.errors) == (len(mine), len(failed))


def test_a_call_that_is_tried_three_times():
    spans = [
        span("root", 0, 100 * S),
        call("1", 0, 2 * S, error="Timeout"),
        call("2", 3 * S, 4 * S, error="RateLimit"),
        call("3", 8 * S, 9 * S),
        call("4", 10 * S, 11 * S, "y", error="Timeout"),
        call("5", 12 * S, None, "z"),
    ]
    row = rows(spans)["TOOL", "search"]
    assert row.errors_by_type == {"Timeout": 2, "RateLimit": 1}
    assert (row.calls, row.open, row.errors, row.retries, row.recovered, row.failed_for_good) == (
        5,
        1,
        3,
        2,
        1,
        1,
    )
    assert row.lost_s == pytest.approx(4)
    assert row.waited_s == pytest.approx(1 + 4)
    assert row.error_rate.value == pytest.approx(3 / 4)


def test_a_call_that_runs_at_the_same_time_is_no_retry():
    spans = [span("root", 0, 100), call("1", 0, 50, error="E"), call("2", 10, 40)]
    row = rows(spans)["TOOL", "search"]
    assert (row.retries, row.failed_for_good) == (0, 1)


def test_only_the_time_since_the_attempt_before_is_waited():
    spans = [
        span("root", 0, 100 * S),
        call("1", 0, S, error="E"),
        call("2", 2 * S, 3 * S),
        call("3", 90 * S, 91 * S),
    ]
    row = rows(spans)["TOOL", "search"]
    assert (row.retries, row.waited_s) == (2, 1)


def test_an_error_without_a_type_is_unknown():
    spans = [call("1", 0, 1, parent=None, status=Status.ERROR)]
    assert rows(spans)["TOOL", "search"].errors_by_type == {"unknown": 1}


def test_a_failed_call_without_an_end_is_open():
    spans = [call("1", 0, None, parent=None, status=Status.ERROR), call("2", 5, 6, parent=None)]
    row = rows(spans)["TOOL", "search"]
    assert (row.open, row.errors, row.retries, row.lost_s) == (1, 0, 0, 0)


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (1, 1), (0, 30), (3, 30), (30, 30), (499, 1000)])
def test_an_error_rate_has_the_exact_binomial_interval(hits, n):
    found = proportion(hits, n)
    exact = scipy.stats.binomtest(hits, n).proportion_ci(0.95, "exact")
    assert (found.value, found.low, found.high) == pytest.approx((hits / n, exact.low, exact.high))
    assert proportion(0, 0).value is None


def test_throughput_of_the_roots_is_that_of_the_requests():
    table = SpanTable.from_spans([one for one in runs(40, seed=2) if one.parent_id is None])
    of_requests = confidence_intervals(table).throughput_estimate_confidence_interval
    row = max(retries(table), key=lambda row: row.calls)
    assert row.throughput_per_s.value == pytest.approx(of_requests.mean)
    assert (row.throughput_per_s.low, row.throughput_per_s.high) == pytest.approx(
        of_requests.ninety_fifth_interval
    )


def test_throughput_leaves_out_the_pause_between_two_sessions():
    spans = [
        call(str(n), at, at + S, parent=None, trace_id=str(n))
        for n, at in enumerate([0, S, 1000 * S, 1001 * S])
    ]
    assert rows(spans)["TOOL", "search"].throughput_per_s.value == pytest.approx(1)


def test_many_siblings_that_fail_take_no_longer_than_they_should():
    spans = [span("root", 0, 10**9)]
    spans += [call(f"{n:05}", 2 * n, 2 * n + 1, error="E") for n in range(20_000)]
    row = rows(spans)["TOOL", "search"]
    assert (row.retries, row.failed_for_good) == (19_999, 1)


def test_many_groups_of_siblings_take_no_longer_than_they_should():
    spans = [span(f"r{n}", 0, 9, trace_id=f"{n:05}") for n in range(20_000)]
    spans += [
        call(
            f"c{n}{again}",
            again * 2,
            again * 2 + 1,
            parent=f"r{n}",
            trace_id=f"{n:05}",
            error="E" if not again else None,
        )
        for n in range(20_000)
        for again in (0, 1)
    ]
    table = SpanTable.from_spans(spans)
    before = time.process_time()
    row = next(row for row in retries(table) if row.kind == "TOOL")
    assert time.process_time() - before < 15
    assert (row.retries, row.recovered) == (20_000, 20_000)


def test_no_spans_are_no_rows():
    assert retries(SpanTable.from_spans([])) == []
    assert np.isfinite(rows([span("f", 0, 1)])["FUNCTION", "f"].lost_s)
