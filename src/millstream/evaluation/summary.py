"""The figures of a finished evaluation: scores, run times, tokens, failures."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

import msgspec

from millstream.evaluation.evaluators.runtime import llm_calls, run_time_s
from millstream.evaluation.registry import Metric
from millstream.evaluation.results import ItemResult
from millstream.evaluation.scoring import ItemScore, commonest_reason
from millstream.evaluation.statistics import Interval, interval_of, percentile
from millstream.evaluation.usage import CallFigures, Usage, together
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
        workflow: what the model calls of all items used.
        judges: what those of the evaluators used, which are in no figure above.
        currency: of the costs.
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
    workflow: CallFigures
    judges: CallFigures
    currency: str

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
    used: Usage,
) -> EvalSummary:
    """The summary of finished items.

    Args:
        metrics: the evaluators.
        results: one an item and repetition.
        scores: by evaluator.
        spans: by trace id.
        used: by trace id.
    """
    recorded = [spans.get(result.trace_id or "", []) for result in results]
    usages = [call.usage for of_item in recorded for call in llm_calls(of_item)]
    known = [usage for usage in usages if usage is not None]
    runtimes = [
        time_s
        for result, of_item in zip(results, recorded, strict=True)
        if (time_s := run_time_s(of_item) or result.runtime_s) is not None
    ]
    return EvalSummary(
        items=len(results),
        failures=[FailedItem(one.id, one.rep, str(one.error)) for one in results if one.error is not None],
        metrics=[_metric_summary(metric, scores[metric.name]) for metric in metrics],
        runtime_p50_s=percentile(runtimes, 50),
        runtime_p95_s=percentile(runtimes, 95),
        input_tokens=_sum(usage.input_tokens for usage in known),
        output_tokens=_sum(usage.output_tokens for usage in known),
        llm_calls=len(usages),
        llm_calls_without_usage=sum(
            usage is None or (usage.input_tokens is None and usage.output_tokens is None) for usage in usages
        ),
        workflow=together(used.workflow.values()),
        judges=together(used.judges.values()),
        currency=used.currency,
    )


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
    reason, alike = found
    more = f" and {len(alike) - 1} more" if len(alike) > 1 else ""
    return f"item {alike[0].id!r}{more}: {reason}"


def _sum(counts: Iterable[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
