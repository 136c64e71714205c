"""The figures of a finished evaluation: scores, run times, tokens, failures."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final

import msgspec
import numpy as np

from millstream.evaluation.evaluators.runtime import llm_calls, run_time_s
from millstream.evaluation.figures import Figure, figures_of, item_numbers
from millstream.evaluation.ranking import Ranking, worst_first
from millstream.evaluation.registry import Metric
from millstream.evaluation.results import ItemResult
from millstream.evaluation.scoring import ItemScore
from millstream.evaluation.slices import SliceFigures, Slices, slices_note, slices_of
from millstream.evaluation.statistics import Interval, percentile, percentile_interval
from millstream.evaluation.usage import NO_USAGE, CallFigures, Usage, together
from millstream.evaluation.values import Columns, Several, Value, columns
from millstream.profiler.estimate import LEVEL
from millstream.span import Span
from millstream.workflow.answers import answer_text

MAX_WORST: Final = 5
MAX_RANKED: Final = 2000
Ends = tuple[float | None, float | None]


class MetricSummary(msgspec.Struct, frozen=True):
    """One evaluator over all items.

    Attributes:
        name: of the evaluator.
        average: over the items that have a score; `None` when none has, or when the evaluator gives several
            values or categories: their averages are in `figures`.
        n: how many scores there are, those of failed items included.
        missing: how many scores, or values of several, are missing.
        missing_reason: why, for most of them, and for which item first.
        failed: how many of all items failed.
        interval: of the average; `None` with fewer than 2 items.
        lower_is_better: for latencies and counts.
        unit: of the average; empty for a share or a count.
        note: what the interval cannot say, in words.
        figures: of several values or categories; empty for one number.
        more_categories: how many categories are not among the figures.
        slices: the evaluator over parts of the dataset.
        slices_note: how many there are, and what chance does to so many; `None` without any.
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
    note: str | None = None
    figures: list[Figure] = []
    more_categories: int = 0
    slices: list[SliceFigures] = []
    slices_note: str | None = None

    @property
    def all_figures(self) -> list[Figure]:
        """The figures; one without a key for an evaluator of one number."""
        return self.figures or [Figure("", self.average, self.n, self.missing, self.interval, self.note)]


class FailedItem(msgspec.Struct, frozen=True):
    """An item that failed, and why."""

    id: str
    rep: int
    reason: str


class WorstItem(msgspec.Struct, frozen=True):
    """An answered item with which something went wrong: a missing score, or a low one.

    Attributes:
        id: of the item.
        rep: which repetition.
        scores: by evaluator.
        reasons: by evaluator, why, where somebody says so in words: of a missing score why it is missing.
    """

    id: str
    rep: int
    scores: dict[str, Value | Several | None]
    reasons: dict[str, str]


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
        level: the confidence of all intervals.
        runtime_p50_interval_s: of the median; an end that so few items cannot give is `None`.
        runtime_p95_interval_s: likewise.
        worst_first: numbers of the results, what went wrong most first; at most 2,000.
        worst: the answered items with which most went wrong, at most 5.
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
    level: float = LEVEL
    runtime_p50_interval_s: Ends = (None, None)
    runtime_p95_interval_s: Ends = (None, None)
    worst_first: list[int] = []
    worst: list[WorstItem] = []
    workflow: CallFigures = CallFigures()
    judges: CallFigures = CallFigures()
    currency: str = NO_USAGE.currency

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
    used: Usage = NO_USAGE,
    *,
    rows: Sequence[Mapping[str, Any]] = (),
    slices: Sequence[str] = (),
    level: float = LEVEL,
) -> EvalSummary:
    """The summary of finished items.

    Args:
        metrics: the evaluators.
        results: one an item and repetition.
        scores: by evaluator.
        spans: by trace id.
        used: what model calls used.
        rows: of the dataset, one a result; needed for slices.
        slices: fields of the dataset to look at apart.
        level: the confidence of all intervals.
    """
    figures = _Figures()
    for result in results:
        figures.take(result, spans.get(result.trace_id or "", []))
    times_s, timed = np.array(figures.runtimes, np.float64), item_numbers(figures.timed)
    given = {metric.name: columns(scores[metric.name]) for metric in metrics}
    ranking = worst_first(
        metrics,
        [result.error is not None for result in results],
        {name: found.columns for name, found in given.items()},
    )
    parts = slices_of(slices, rows) if slices else Slices([], [])
    return EvalSummary(
        items=len(results),
        failures=figures.failures,
        metrics=[
            _metric_summary(metric, scores[metric.name], given[metric.name], parts, level)
            for metric in metrics
        ],
        runtime_p50_s=percentile(times_s, 50),
        runtime_p95_s=percentile(times_s, 95),
        input_tokens=figures.tokens["input_tokens"],
        output_tokens=figures.tokens["output_tokens"],
        llm_calls=figures.llm_calls,
        llm_calls_without_usage=figures.without_usage,
        level=level,
        runtime_p50_interval_s=percentile_interval(times_s, timed, 50, level),
        runtime_p95_interval_s=percentile_interval(times_s, timed, 95, level),
        worst_first=ranking.order[:MAX_RANKED],
        worst=_worst(ranking, results, scores),
        workflow=together(used.workflow.values()),
        judges=together(used.judges.values()),
        currency=used.currency,
    )


class _Figures:
    """Adds up what was recorded of one item after the other."""

    def __init__(self) -> None:
        self.failures: list[FailedItem] = []
        self.runtimes: list[float] = []
        self.timed: list[str] = []
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
            self.timed.append(result.id)
        for call in llm_calls(spans):
            self.llm_calls += 1
            counts = {name: getattr(call.usage, name, None) for name in self.tokens}
            self.without_usage += all(count is None for count in counts.values())
            for name, count in counts.items():
                if count is not None:
                    self.tokens[name] = (self.tokens[name] or 0) + count


def _metric_summary(
    metric: Metric, scores: Sequence[ItemScore], found: Columns, slices: Slices, level: float
) -> MetricSummary:
    items = item_numbers([one.id for one in scores])
    failed = np.array([one.failed for one in scores], bool)
    shares = not metric.score_failed
    figures = figures_of(found.columns, items, shares=shares, level=level)
    whole = figures[0] if [one.key for one in figures] == [""] else None
    incomplete = np.any([np.isnan(column.values) for column in found.columns], axis=0)
    return MetricSummary(
        name=metric.name,
        average=whole.average if whole else None,
        n=int((~incomplete).sum()),
        missing=int(incomplete.sum()),
        missing_reason=_missing_reason([one for one, lacks in zip(scores, incomplete, strict=True) if lacks]),
        failed=int(failed.sum()),
        interval=whole.interval if whole else None,
        lower_is_better=metric.lower_is_better,
        unit=metric.unit,
        note=whole.note if whole else None,
        figures=[] if whole else figures,
        more_categories=found.more_categories,
        slices=[
            SliceFigures(
                field=one.field,
                value=one.value,
                items=len(one.members),
                failed=int(failed[one.members].sum()),
                figures=figures_of(found.columns, items, one.members, shares=shares, level=level),
            )
            for one in slices.slices
        ],
        slices_note=slices_note(slices, level),
    )


def _worst(
    ranking: Ranking, results: Sequence[ItemResult], scores: Mapping[str, Sequence[ItemScore]]
) -> list[WorstItem]:
    answered = (number for number in ranking.order[: ranking.wrong] if results[number].error is None)
    return [
        WorstItem(
            results[number].id,
            results[number].rep,
            {name: of_metric[number].score for name, of_metric in scores.items()},
            {name: reason for name, of_metric in scores.items() if (reason := _sentence(of_metric[number]))},
        )
        for number in islice(answered, MAX_WORST)
    ]


def _sentence(score: ItemScore) -> str:
    """The reason where it is said in words; figures that stand beside the words are in the files."""
    reasoning = score.reasoning
    if isinstance(reasoning, dict):
        told = (reasoning.get(name) for name in ("reasoning", "why"))
        reasoning = next((one for one in told if isinstance(one, str)), None)
    return reason_of(msgspec.structs.replace(score, reasoning=reasoning))


def reason_of(score: ItemScore) -> str:
    """Why a score is what it is, as text; of a missing one, why it is missing; empty where nobody says."""
    told = [] if score.reasoning is None else [answer_text(score.reasoning)]
    if score.error is not None and not (score.failed and score.score is not None):
        told.append(score.error)
    return "; ".join(told)


def _missing_reason(missing: Sequence[ItemScore]) -> str | None:
    """Of scores that are missing, or lack one of several values."""
    if not missing:
        return None
    reasons = [one.error or "it has not all of the values that others have" for one in missing]
    reason, n = Counter(reasons).most_common(1)[0]
    first = missing[reasons.index(reason)]
    more = f" and {n - 1} more" if n > 1 else ""
    return f"item {first.id!r}{more}: {reason}"


def _sum(counts: Iterable[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
