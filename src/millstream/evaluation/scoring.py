"""Evaluators over answered items. An evaluator that fails on an item leaves that score missing, never 0."""

import asyncio
import inspect
from collections.abc import Mapping, Sequence

import msgspec

from millstream.evaluation.evaluators.base import EvalItem, Score, as_score
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
    """

    id: str
    rep: int
    score: float | None
    reasoning: object
    error: str | None
    failed: bool


async def score_all(
    metrics: Sequence[Metric],
    results: Sequence[ItemResult],
    rows: Mapping[str, dict[str, object]],
    spans: Mapping[str, list[Span]],
    max_concurrency: int,
) -> dict[str, list[ItemScore]]:
    """Score every result with every evaluator.

    Args:
        metrics: the evaluators.
        results: finished items.
        rows: of the dataset, by item id.
        spans: by trace id.
        max_concurrency: evaluators that run at the same time.

    Returns:
        By evaluator, in the order of `results`.
    """
    slots = asyncio.Semaphore(max_concurrency)

    async def one(metric: Metric, result: ItemResult) -> ItemScore:
        async with slots:
            item = EvalItem(
                id=result.id,
                rep=result.rep,
                question=result.question,
                expected=result.expected,
                output=result.answer,
                spans=spans.get(result.trace_id or "", []),
                row=dict(rows.get(result.id, {})),
            )
            return await _score(metric, item, result.error)

    return {
        metric.name: await asyncio.gather(*(one(metric, result) for result in results)) for metric in metrics
    }


async def _score(metric: Metric, item: EvalItem, error: ItemError | None) -> ItemScore:
    failed = error is not None
    if error is not None and error.type == NOT_ANSWERED:
        return ItemScore(item.id, item.rep, None, None, str(error), failed)
    if metric.needs_expected and item.expected is None:
        return _missing(item, "the dataset has no expected answer for this item", failed=failed)
    if error is not None and not metric.score_failed:
        return ItemScore(item.id, item.rep, 0.0, "the item failed", str(error), failed)
    try:
        value = metric.call(item)
        score = as_score(await value if inspect.isawaitable(value) else value)
    except Exception as fault:  # noqa: BLE001  # an evaluator may be anybody's code
        return _missing(item, f"the evaluator failed: {describe(fault)}", failed=failed)
    if score.score is None:
        return _missing(item, str(score.reasoning), failed=failed)
    return _scored(item, score, error)


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
