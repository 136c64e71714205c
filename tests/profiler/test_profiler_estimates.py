"""Means, quantiles and intervals against SciPy, NumPy and simulation."""

import numpy as np
import pytest
import scipy.stats

from millstream.profiler import estimate
from millstream.profiler.bottlenecks import simple_stack
from millstream.profiler.cache_opportunity import cache_opportunity
from millstream.profiler.concurrency import concurrency
from millstream.profiler.confidence import confidence_intervals, runtime_percentiles
from millstream.profiler.latency import latency
from millstream.profiler.requests import request_counts
from millstream.profiler.retries import retries
from millstream.profiler.tokens import tokens
from millstream.semconv import CACHED, REQUEST_MODEL, TIME_TO_FIRST_CHUNK_S
from millstream.span import SpanKind, Status, Usage
from millstream.store.table import SpanTable
from tests.profiler.profiler_synthetic import span

S = 1_000_000_000


@pytest.mark.parametrize("n", [2, 3, 10, 500])
@pytest.mark.parametrize("level", [0.90, 0.95, 0.99])
def test_mean_interval_is_scipys_t_interval(n, level):
    values = np.random.default_rng(n).gamma(9, 1, n) + 50
    low, high = scipy.stats.t.interval(level, n - 1, values.mean(), scipy.stats.sem(values))
    assert estimate.mean_interval(values, level) == pytest.approx((low, high))


def test_mean_interval_is_cut_at_zero_and_undefined_for_one_value():
    assert estimate.mean_interval(np.array([0.01, 3.0]))[0] == 0
    assert estimate.mean_interval(np.array([1.0])) is None
    one = estimate.mean(np.array([1.5]))
    assert (one.value, one.low, one.high) == (1.5, None, None)
    assert estimate.mean(np.zeros(0)).value is None


@pytest.mark.parametrize("n", [1, 2, 5, 30, 73, 1000])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.95, 0.99])
def test_quantile_ranks_are_the_tightest_with_the_level_on_each_side(n, share):
    low, high = estimate.quantile_ranks(n, share)
    binomial = scipy.stats.binom(n, share)
    if low > 0:
        assert binomial.cdf(low - 1) <= 0.025 + 1e-12
    if low < n:
        assert binomial.cdf(low) > 0.025 - 1e-12
    if high <= n:
        assert binomial.sf(high - 1) <= 0.025 + 1e-12
        assert high == 1 or binomial.sf(high - 2) > 0.025 - 1e-12


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_quantile_intervals_hold_the_truth_as_often_as_they_say(share):
    rng = np.random.default_rng(7)
    truth = scipy.stats.lognorm(0.8).ppf(share)
    hits, tries = 0, 1000
    for _ in range(tries):
        found = estimate.quantile(np.sort(rng.lognormal(0, 0.8, 200)), share)
        hits += found.low <= truth <= found.high
    assert hits / tries >= 0.94


def test_quantile_value_is_numpys_and_small_samples_have_no_upper_end():
    values = np.sort(np.random.default_rng(1).random(20))
    found = estimate.quantile(values, 0.99)
    assert found.value == np.quantile(values, 0.99)
    assert found.high is None
    assert found.low == values[18]


def request(number, start_s, length_s, status=Status.OK):
    return span(str(number), round(start_s * S), round((start_s + length_s) * S), kind=SpanKind.WORKFLOW,
                trace_id=str(number), status=status)  # fmt: skip


def test_run_time_latency_and_throughput():
    spans = [request(0, 0, 10), request(1, 1, 12, Status.ERROR), request(2, 4, 4)]
    spans += [span("l1", S, 11 * S, "0", kind=SpanKind.LLM, trace_id="0")]
    spans += [span("l2", 2 * S, 5 * S, "0", kind=SpanKind.LLM, trace_id="0")]
    found = confidence_intervals(SpanTable.from_spans(spans))
    run_time = found.workflow_run_time_confidence_intervals
    assert (run_time.n, run_time.mean) == (3, pytest.approx(26 / 3))
    assert run_time.p90 == pytest.approx(np.quantile([10, 12, 4], 0.9))
    low, high = scipy.stats.t.interval(0.99, 2, np.mean([10, 12, 4]), scipy.stats.sem([10, 12, 4]))
    assert run_time.ninety_ninth_interval == (0, pytest.approx(high))
    assert low < 0
    llm = found.llm_latency_confidence_intervals
    assert (llm.n, llm.mean, llm.p99) == (2, 6.5, pytest.approx(9.93))
    throughput = found.throughput_estimate_confidence_interval
    assert throughput.mean == pytest.approx(3 / 13)
    gaps = [8, 2, 3]
    half = scipy.stats.t.ppf(0.95, 2) * scipy.stats.sem(gaps) / np.mean(gaps) * throughput.mean
    assert throughput.ninetieth_interval == pytest.approx(
        (max(throughput.mean - half, 0), throughput.mean + half)
    )
    assert throughput.p90 is None


def test_throughput_interval_follows_the_spread_of_the_gaps():
    even = [request(i, i, 1) for i in range(50)]
    uneven = [request(i, i**1.5 / 7, 1) for i in range(50)]

    def relative_width(spans):
        found = confidence_intervals(SpanTable.from_spans(spans)).throughput_estimate_confidence_interval
        low, high = found.ninety_fifth_interval
        return (high - low) / found.mean

    assert relative_width(even) == pytest.approx(0, abs=1e-6)
    assert relative_width(uneven) > 0.1


def test_undefined_is_null():
    empty = confidence_intervals(SpanTable.from_spans([]))
    assert empty.workflow_run_time_confidence_intervals.mean is None
    assert empty.throughput_estimate_confidence_interval.n == 0
    one = confidence_intervals(SpanTable.from_spans([request(0, 0, 3)]))
    assert one.workflow_run_time_confidence_intervals.ninetieth_interval is None
    assert one.workflow_run_time_confidence_intervals.p95 == 3
    assert runtime_percentiles(SpanTable.from_spans([])).p90 is None


def test_a_request_without_a_root_lasts_from_first_start_to_last_end():
    spans = [span("a", 2 * S, 5 * S, "gone"), span("b", 4 * S, 9 * S, "gone"), span("c", 5 * S, None, "gone")]
    assert runtime_percentiles(SpanTable.from_spans(spans)).p90 == 7


def test_latency_counts_failed_calls_and_leaves_open_ones_out():
    spans = [
        span("a", 0, 2 * S, kind=SpanKind.TOOL, name="x"),
        span("b", 0, 4 * S, kind=SpanKind.TOOL, name="x", status=Status.ERROR),
        span("c", 0, None, kind=SpanKind.TOOL, name="x"),
        span("d", 0, None, kind=SpanKind.TOOL, name="never"),
    ]
    row, never = latency(SpanTable.from_spans(spans))
    assert (row.n, row.errors, row.open, row.mean.value, row.p50.value) == (2, 1, 1, 3, 3)
    assert (never.n, never.open, never.mean.value, never.p99.value) == (0, 1, None, None)


def test_tokens_sum_what_is_known_and_are_null_when_nothing_is():
    def call(span_id, model, usage, **attributes):
        return span(
            span_id, 0, S, kind=SpanKind.LLM, usage=usage, attributes={REQUEST_MODEL: model} | attributes
        )

    spans = [
        call("1", "m", Usage(10, 5, 4), **{TIME_TO_FIRST_CHUNK_S: 0.25}),
        call("2", "m", Usage(20, None)),
        call("3", "m", None),
        call("4", "quiet", None, **{TIME_TO_FIRST_CHUNK_S: "soon"}),
        span("5", 0, S, kind=SpanKind.LLM, name="span name"),
    ]
    m, quiet, unnamed = tokens(SpanTable.from_spans(spans))
    assert (m.calls, m.calls_with_usage, m.input_tokens, m.output_tokens) == (3, 2, 30, 5)
    assert (m.cache_read_tokens, m.reasoning_tokens, m.output_tokens_per_s) == (4, None, 5)
    assert m.time_to_first_chunk_p50.value == 0.25
    assert (quiet.input_tokens, quiet.output_tokens, quiet.time_to_first_chunk_p50.value) == (
        None,
        None,
        None,
    )
    assert unnamed.name == "span name"


def test_calls_from_the_cache_are_in_no_figure_of_the_models_speed():
    def call(number, end, *, cached, kind=SpanKind.LLM):
        told = {
            REQUEST_MODEL: "m",
            TIME_TO_FIRST_CHUNK_S: (end or 0) / S,
            **({CACHED: True} if cached else {}),
        }
        usage = Usage(10, 6)
        return span(f"{number}", 0, end, kind=kind, name="m", usage=usage, attributes=told)

    sent = [call(1, 2 * S, cached=False), call(2, 4 * S, cached=False)]
    sent.append(call(3, S, cached=False, kind=SpanKind.TOOL))
    kept = [call(4, 10, cached=True), call(5, 20, cached=True), call(6, None, cached=True)]
    table, alone = SpanTable.from_spans([*sent, *kept]), SpanTable.from_spans(sent)
    row, _ = latency(table)
    assert (row.n, row.cached, row.open) == (2, 2, 1)
    assert row.mean == latency(alone)[0].mean
    (model,) = tokens(table)
    (was,) = tokens(alone)
    assert (model.calls, model.cached, model.input_tokens, model.output_tokens) == (5, 3, 50, 30)
    assert (model.latency_p50, model.total_s, model.output_tokens_per_s, model.time_to_first_chunk_p50) == (
        was.latency_p50,
        was.total_s,
        was.output_tokens_per_s,
        was.time_to_first_chunk_p50,
    )
    assert (
        confidence_intervals(table).llm_latency_confidence_intervals
        == confidence_intervals(alone).llm_latency_confidence_intervals
    )
    assert concurrency(table) == concurrency(alone)
    assert simple_stack(table) == simple_stack(alone)
    (of_calls, _), (of_sent, _) = retries(table), retries(alone)
    assert of_calls.calls == 5
    assert of_calls.throughput_per_s == of_sent.throughput_per_s
    (opportunity,), (of_those_sent,) = cache_opportunity(table), cache_opportunity(alone)
    assert opportunity == of_those_sent


def resumed(pause_s):
    """Two runs of ten requests of 2 s, one after the other, each with an LLM call of 1 s."""
    for number in range(20):
        start = 1_000 * S + number * 2 * S + (number >= 10) * pause_s * S
        trace = f"{number:032x}"
        yield span(f"r{number}", start, start + 2 * S, trace_id=trace, kind=SpanKind.WORKFLOW)
        yield span(f"c{number}", start, start + S, f"r{number}", trace_id=trace, kind=SpanKind.LLM, name="m")


def test_the_pause_between_two_sessions_is_in_no_rate():
    whole = SpanTable.from_spans(resumed(0))
    for pause_s, sessions in ((0, 1), (59, 1), (61, 2), (3600, 2)):
        table = SpanTable.from_spans(resumed(pause_s))
        assert request_counts(table).sessions == sessions
        rate = confidence_intervals(table).throughput_estimate_confidence_interval
        lost_s = pause_s if sessions == 1 else 0
        assert rate.mean == pytest.approx(20 / (40 + lost_s))
        assert concurrency(table).idle_share == pytest.approx((19 + lost_s) / (39 + lost_s), abs=0.03)
    expected = confidence_intervals(whole).throughput_estimate_confidence_interval
    assert rate.ninety_fifth_interval == pytest.approx(expected.ninety_fifth_interval)
    found = concurrency(table)
    idle_s = found.concurrency_distribution[0]
    assert found.idle_share == pytest.approx(idle_s / (idle_s + found.busy_s))


def test_a_pause_shorter_than_the_longest_request_is_part_of_the_session():
    spans = [
        span("a", 0, 500 * S, trace_id="a" * 32, kind=SpanKind.WORKFLOW),
        span("b", 900 * S, 901 * S, trace_id="b" * 32, kind=SpanKind.WORKFLOW),
        span("c", 1500 * S, 1501 * S, trace_id="c" * 32, kind=SpanKind.WORKFLOW),
    ]
    assert request_counts(SpanTable.from_spans(spans)).sessions == 2
