"""The figures of a finished evaluation: scores, run times, tokens, failures."""

from collections.abc import Mapping, Sequence
from statistics import fmean

import msgspec

from millstream.evaluation.evaluators.runtime import llm_calls, run_time_s
from millstream.evaluation.registry import Metric
from millstream.evaluation.results import ItemResult
from millstream.evaluation.scoring import ItemScore, commonest_reason
from millstream.evaluation.statistics import Interval, interval_of, percentile
from millstream.span import Span


class MetricSummary(msgspec.Struct, frozen=True):
    """One evaluator over all items.

    Attributes:
        name: of the evaluator.
        average: over the items that have a score; `None` when none has.
        n: how many scores there are, those of failed items included.
        missing: how many have no score.
        missing_reason: why, for most of them, and for which item first.
        failed: how many of all items failed.
        interval: of the average; `None` with fewer than 2 items.
        lower_is_better: for latencies and counts.
        unit: of the average; empty for a share or a count.
    """

    name: str
    average: float | None
    n: int
    missing: int
    missing_reason: str | None
    failed: int
    interval: Interval | None
    lower_is_better: bool
    unit: str = ""


class FailedItem(msgspec.Struct, frozen=True):
    """An item that failed, and why."""

    id: str
    rep: int
    reason: str


class EvalSummary(msgspec.Struct, frozen=True):
    """The whole evaluation.

    Attributes:
        items: finished items, repetitions counted.
        failures: those that failed.
        metrics: in the order of the workflow file.
        runtime_p50_s: median run time of an item, failed ones included; `None` without any.
        runtime_p95_s: 95th percentile of the same.
        input_tokens: sum of what is known; `None` when nothing is.
        output_tokens: likewise.
        llm_calls: how many model calls were recorded.
        llm_calls_without_usage: how many of them do not say their tokens.
    """

    items: int
    failures: list[FailedItem]
    metrics: list[MetricSummary]
    runtime_p50_s: float | None
    runtime_p95_s: float | None
    input_tokens: int | None
    output_tokens: int | None
    llm_calls: int
    llm_calls_without_usage: int

    @property
    def missing(self) -> int:
        """Scores that are missing, over all evaluators."""
        return sum(metric.missing for metric in self.metrics)

    def metric(self, name: str) -> MetricSummary:
        """The evaluator of this name."""
        return next(metric for metric in self.metrics if metric.name == name)


def summarise(
    metrics: Sequence[Metric],
    results: Sequence[ItemResult],
    scores: Mapping[str, Sequence[ItemScore]],
    spans: Mapping[str, list[Span]],
) -> EvalSummary:
    """The summary of finished items.

    Args:
        metrics: the evaluators.
        results: one an item and repetition.
        scores: by evaluator.
        spans: by trace id.
    """
    figures = _Figures()
    for result in results:
        figures.take(result, spans.get(result.trace_id or "", []))
    return EvalSummary(
        items=len(results),
        failures=figures.failures,
        metrics=[_metric_summary(metric, scores[metric.name]) for metric in metrics],
        runtime_p50_s=percentile(figures.runtimes, 50),
        runtime_p95_s=percentile(figures.runtimes, 95),
        input_tokens=figures.tokens["input_tokens"],
        output_tokens=figures.tokens["output_tokens"],
        llm_calls=figures.llm_calls,
        llm_calls_without_usage=figures.without_usage,
    )


class _Figures:
    """Adds up what was recorded of one item after the other."""

    def __init__(self) -> None:
        self.failures: list[FailedItem] = []
        self.runtimes: list[float] = []
        self.tokens: dict[str, int | None] = {"input_tokens": None, "output_tokens": None}
        self.llm_calls = 0
        self.without_usage = 0

    def take(self, result: ItemResult, spans: list[Span]) -> None:
        """One more item."""
        if result.error is not None:
            self.failures.append(FailedItem(result.id, result.rep, str(result.error)))
        time_s = run_time_s(spans) or result.runtime_s
        if time_s is not None:
            self.runtimes.append(time_s)
        for call in llm_calls(spans):
            self.llm_calls += 1
            counts = {name: getattr(call.usage, name, None) for name in self.tokens}
            self.without_usage += all(count is None for count in counts.values())
            for name, count in counts.items():
                if count is not None:
                    self.tokens[name] = (self.tokens[name] or 0) + count


def _metric_summary(metric: Metric, scores: Sequence[ItemScore]) -> MetricSummary:
    groups: dict[str, list[float]] = {}
    for one in scores:
        if one.score is not None:
            groups.setdefault(one.id, []).append(one.score)
    values = [value for group in groups.values() for value in group]
    return MetricSummary(
        name=metric.name,
        average=fmean(values) if values else None,
        n=len(values),
        missing=len(scores) - len(values),
        missing_reason=_missing_reason(scores),
        failed=sum(one.failed for one in scores),
        interval=interval_of(list(groups.values()), shares=not metric.score_failed),
        lower_is_better=metric.lower_is_better,
        unit=metric.unit,
    )


def _missing_reason(scores: Sequence[ItemScore]) -> str | None:
    found = commonest_reason(scores)
    if found is None:
        return None
    more = f" and {found.n - 1} more" if found.n > 1 else ""
    return f"item {found.first.id!r}{more}: {found.reason}"
