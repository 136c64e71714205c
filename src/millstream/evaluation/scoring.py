"""Evaluators over answered items. An evaluator that fails on an item leaves that score missing, never 0."""

import asyncio
import copy
import inspect
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from millstream.evaluation.evaluators.base import EvalItem, Score, as_score
from millstream.evaluation.judged import evaluating
from millstream.evaluation.loop import StopSignal
from millstream.evaluation.registry import Metric
from millstream.evaluation.results import ItemError, ItemResult
from millstream.evaluation.runner import describe
from millstream.span import Span

NOT_ANSWERED = "NotAnswered"
"""Error type of an item that nobody asked: its scores are missing, not 0."""


class ItemScore(msgspec.Struct, frozen=True):
    """What one evaluator says of one item.

    Attributes:
        id: of the item.
        rep: which repetition.
        score: `None` where it is missing.
        reasoning: why it is what it is, as the evaluator says it.
        error: why the item has no answer, or why its score is missing.
        failed: whether the item failed.
        trace_id: of what the evaluator asked of models; `None` where it asks none.
    """

    id: str
    rep: int
    score: float | None
    reasoning: object
    error: str | None
    failed: bool
    trace_id: str | None = None


async def score_all(
    metrics: Sequence[Metric],
    results: Sequence[ItemResult],
    rows: Mapping[str, dict[str, object]],
    spans: Mapping[str, list[Span]],
    *,
    expected_trajectory_key: str,
    max_concurrency: int,
) -> dict[str, list[ItemScore]]:
    """Score every result with every evaluator.

    Args:
        metrics: the evaluators.
        results: finished items.
        rows: of the dataset, by item id.
        spans: by trace id.
        expected_trajectory_key: column of the right steps.
        max_concurrency: evaluators that run at the same time.

    Returns:
        By evaluator, in the order of `results`.
    """
    slots = asyncio.Semaphore(max_concurrency)

    async def one(metric: Metric, result: ItemResult) -> ItemScore:
        async with slots:
            row = copy.deepcopy(rows.get(result.id, {}))
            item = EvalItem(
                id=result.id,
                rep=result.rep,
                # Copies: what an evaluator does to them, no other one sees.
                question=copy.deepcopy(result.question),
                expected=copy.deepcopy(result.expected),
                output=copy.deepcopy(result.answer),
                spans=list(spans.get(result.trace_id or "", [])),
                row=row,
                expected_trajectory=copy.deepcopy(row.get(expected_trajectory_key)),
            )
            return await _score(metric, item, result.error, asked=result.trace_id is not None)

    return {
        metric.name: _of_evaluator(metric, await asyncio.gather(*(one(metric, result) for result in results)))
        for metric in metrics
    }


def commonest_reason(scores: Iterable[ItemScore]) -> tuple[str, list[ItemScore]] | None:
    """Why scores are missing: the reason that most of them have, and those; `None` where none is missing."""
    missing = [one for one in scores if one.score is None]
    if not missing:
        return None
    reason = Counter(one.error for one in missing).most_common(1)[0][0]
    return reason or "", [one for one in missing if one.error == reason]


def _of_evaluator(metric: Metric, scores: list[ItemScore]) -> list[ItemScore]:
    """Without any score of an answer, the zeros of failed items alone would pass for an average."""
    reason = commonest_reason(one for one in scores if not one.failed)
    if (
        metric.score_failed
        or reason is None
        or any(one.score is not None for one in scores if not one.failed)
    ):
        return scores
    why = f"no answered item has a score: {reason[0]}"
    return [
        ItemScore(one.id, one.rep, None, None, why, one.failed)
        if one.failed and one.score is not None
        else one
        for one in scores
    ]


async def _score(metric: Metric, item: EvalItem, error: ItemError | None, *, asked: bool) -> ItemScore:
    failed = error is not None
    if error is not None and (error.type == NOT_ANSWERED or (metric.score_failed and not asked)):
        return ItemScore(item.id, item.rep, None, None, str(error), failed)
    if metric.needs_expected and item.expected is None:
        return _missing(item, "the dataset has no expected answer for this item", failed=failed)
    if error is not None and not metric.score_failed:
        reason = metric.unscorable(item) if metric.unscorable else None
        if reason is not None:
            return _missing(item, reason, failed=True)
        return ItemScore(item.id, item.rep, 0.0, "the item failed", str(error), failed)
    trace_id = None
    try:
        with evaluating(metric, item) as trace_id:
            value = metric.call(item)
            score = as_score(await value if inspect.isawaitable(value) else value)
    except StopSignal:
        raise
    except (Exception, SystemExit, KeyboardInterrupt) as fault:  # noqa: BLE001  # an evaluator may be anybody's code
        found = _missing(item, f"the evaluator failed: {describe(fault)}", failed=failed)
    else:
        if score.score is None:
            found = _missing(item, str(score.reasoning), failed=failed)
        else:
            found = _scored(item, score, error)
    return msgspec.structs.replace(found, trace_id=trace_id)


def _scored(item: EvalItem, score: Score, error: ItemError | None) -> ItemScore:
    return ItemScore(
        item.id,
        item.rep,
        score.score,
        score.reasoning,
        None if error is None else str(error),
        error is not None,
    )


def _missing(item: EvalItem, reason: str, *, failed: bool) -> ItemScore:
    return ItemScore(item.id, item.rep, None, None, reason, failed)
