"""How sure are run time, LLM latency and throughput? The intervals of `inference_optimization.json`."""

import msgspec
import numpy as np

from millstream.profiler import estimate
from millstream.profiler.estimate import NS_PER_S, Floats
from millstream.profiler.requests import pauses, requests
from millstream.span import SpanKind
from millstream.store.table import Ints, SpanTable

Interval = tuple[float, float]


class Confidence(msgspec.Struct, frozen=True):
    """A mean with its Student t intervals, and percentiles of the values; null where undefined."""

    n: int
    mean: float | None
    ninetieth_interval: Interval | None
    ninety_fifth_interval: Interval | None
    ninety_ninth_interval: Interval | None
    p90: float | None
    p95: float | None
    p99: float | None


class ConfidenceIntervals(msgspec.Struct, frozen=True):
    """Run time of a request (s), latency of an LLM call (s), requests finished per second."""

    workflow_run_time_confidence_intervals: Confidence
    llm_latency_confidence_intervals: Confidence
    throughput_estimate_confidence_interval: Confidence


class Percentiles(msgspec.Struct, frozen=True):
    """Percentiles of observed run times, in seconds."""

    p90: float | None
    p95: float | None
    p99: float | None


def confidence_intervals(table: SpanTable) -> ConfidenceIntervals:
    """The three intervals. The latency of an LLM call is the time from its own start to its own end.

    Calls that an evaluation answered from its cache have none.
    """
    found = requests(table)
    ended = found.run_time_ns >= 0
    start, end = (pauses(table).without(moment[ended]) for moment in (found.start_ns, found.end_ns))
    calls = table.of_kind(SpanKind.LLM) & table.closed & ~table.cached
    return ConfidenceIntervals(
        workflow_run_time_confidence_intervals=_of_mean(found.run_time_ns[ended] / NS_PER_S),
        llm_latency_confidence_intervals=_of_mean(table.duration_ns[calls] / NS_PER_S),
        throughput_estimate_confidence_interval=_of_throughput(start, end),
    )


def runtime_percentiles(table: SpanTable) -> Percentiles:
    """Percentiles of the run times of requests that ended, by linear interpolation."""
    run_time_ns = requests(table).run_time_ns
    return Percentiles(*_percentiles(run_time_ns[run_time_ns >= 0] / NS_PER_S))


def _percentiles(values: Floats) -> tuple[float | None, float | None, float | None]:
    if len(values) == 0:
        return None, None, None
    p90, p95, p99 = (float(value) for value in np.quantile(values, [0.90, 0.95, 0.99]))
    return p90, p95, p99


def _of_mean(values: Floats) -> Confidence:
    p90, p95, p99 = _percentiles(values)
    return Confidence(
        n=len(values),
        mean=float(np.mean(values)) if len(values) else None,
        ninetieth_interval=estimate.mean_interval(values, 0.90),
        ninety_fifth_interval=estimate.mean_interval(values, 0.95),
        ninety_ninth_interval=estimate.mean_interval(values, 0.99),
        p90=p90,
        p95=p95,
        p99=p99,
    )


def _of_throughput(start_ns: Ints, end_ns: Ints) -> Confidence:
    """Requests finished per second: n / (last end - first start), on a clock that stands in pauses.

    The gaps between one end and the next (the first: since the first start) have the mean 1 / throughput.
    The relative error of the throughput is that of the mean gap: t * s / (mean gap * sqrt(n)).
    """
    n = len(end_ns)
    span_s = (int(end_ns.max()) - int(start_ns.min())) / NS_PER_S if n else 0.0
    if span_s <= 0:
        return Confidence(n, None, None, None, None, None, None, None)
    gaps_s: Floats = np.asarray(np.diff(np.sort(end_ns), prepend=start_ns.min()) / NS_PER_S, np.float64)
    throughput = n / span_s

    def interval(level: float) -> Interval | None:
        half = estimate.student_half_width(gaps_s, level)
        if half is None:
            return None
        return max(throughput * (1 - half * throughput), 0.0), throughput * (1 + half * throughput)

    return Confidence(n, throughput, interval(0.90), interval(0.95), interval(0.99), None, None, None)
