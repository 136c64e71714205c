"""All analyses over one set of spans; one that raises is reported in its place, the others are there."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from millstream.profiler.bottlenecks import (
    NestedStack,
    SelfTimeRow,
    SimpleOperation,
    nested_stack,
    self_time,
    simple_stack,
)
from millstream.profiler.concurrency import Concurrency, concurrency
from millstream.profiler.confidence import (
    ConfidenceIntervals,
    Percentiles,
    confidence_intervals,
    runtime_percentiles,
)
from millstream.profiler.config import ProfilerConfig
from millstream.profiler.critical_path import CriticalPath, critical_path
from millstream.profiler.latency import LatencyRow, latency
from millstream.profiler.requests import RequestCounts, request_counts
from millstream.profiler.results import Failure, Source
from millstream.profiler.tokens import ModelRow, tokens
from millstream.span import Span
from millstream.store.table import SpanTable

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """The spans as a table, and what the analyses found. None: switched off by the configuration.

    Attributes:
        table: the spans; `table.trace_ids` is the order of the requests.
        config: what was asked for.
        source: where the spans came from.
    """

    table: SpanTable
    config: ProfilerConfig
    source: Source
    requests: RequestCounts | Failure
    latency: list[LatencyRow] | Failure
    tokens: list[ModelRow] | Failure
    self_time: list[SelfTimeRow] | Failure
    critical_path: CriticalPath | Failure
    concurrency: Concurrency | Failure
    confidence: ConfidenceIntervals | Failure
    workflow_runtimes: Percentiles | Failure | None
    simple_stack: dict[str, SimpleOperation] | Failure | None
    nested_stack: NestedStack | Failure | None

    @property
    def order(self) -> list[str]:
        """Trace ids by request number."""
        return self.table.trace_ids

    @property
    def failures(self) -> dict[str, str]:
        """Analyses that raised, with their error."""
        found = {name: getattr(self, name) for name in self.__slots__}
        return {name: result.error for name, result in found.items() if isinstance(result, Failure)}


def profile(
    spans: Iterable[Span],
    config: ProfilerConfig | None = None,
    *,
    trace_order: Sequence[str] | None = None,
    source: Source | None = None,
) -> Profile:
    """Profile spans.

    Args:
        spans: any spans, in any order; each trace is a request.
        config: what to compute; all analyses when None.
        trace_order: trace ids by request number; by first start when None.
        source: where the spans came from, for the findings.

    Returns:
        The results. Analyses never raise: a `Failure` is in the place of one that did.
    """
    config = config or ProfilerConfig.everything()
    table = SpanTable.from_spans(spans, trace_order)
    bottlenecks = config.bottleneck_analysis
    spikes = config.concurrency_spike_analysis
    return Profile(
        table=table,
        config=config,
        source=source or Source("spans", len(table) + table.oddities.duplicate_span_ids),
        requests=_attempt(lambda: request_counts(table)),
        latency=_attempt(lambda: latency(table)),
        tokens=_attempt(lambda: tokens(table)),
        self_time=_attempt(lambda: self_time(table)),
        critical_path=_attempt(lambda: critical_path(table)),
        concurrency=_attempt(lambda: concurrency(table, spikes.spike_threshold)),
        confidence=_attempt(lambda: confidence_intervals(table)),
        workflow_runtimes=_attempt(lambda: runtime_percentiles(table))
        if config.workflow_runtime_forecast
        else None,
        simple_stack=_attempt(lambda: simple_stack(table)) if bottlenecks.enable_simple_stack else None,
        nested_stack=_attempt(lambda: nested_stack(table)) if bottlenecks.enable_nested_stack else None,
    )


def _attempt(analysis: Callable[[], T]) -> T | Failure:
    try:
        return analysis()
    except Exception as error:  # noqa: BLE001  # one analysis must not lose the others
        return Failure(f"{type(error).__name__}: {error}")
