"""What evaluators said of answered items. One that fails on an item leaves that score missing, never 0."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from millstream.evaluation.evaluators.base import EvalItem, Score
from millstream.evaluation.lazy import Lazy
from millstream.evaluation.registry import Metric
from millstream.evaluation.results import ItemError
from millstream.evaluation.values import Several, Value

NOT_ANSWERED = "NotAnswered"
"""Error type of an item that nobody asked: its scores are missing, not 0."""


class ItemScore(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one evaluator says of one item.

    Attributes:
        id: of the item.
        rep: which repetition.
        score: a number, a category, or several of them by name; `None` where it is missing.
        reasoning: why it is what it is, as the evaluator says it.
        error: why the item has no answer, or why its score, or one of several values, is missing.
        failed: whether the item failed.
        trace_id: of what the evaluator asked of models; `None` where it asks none.
        earlier: those of the times that it was asked before, whose scores do not count any more.
    """

    id: str
    rep: int
    score: Value | Several | None
    reasoning: object
    error: str | None
    failed: bool
    trace_id: str | None = None
    earlier: list[str] = []

    @property
    def traces(self) -> list[str]:
        """All of them."""
        return [*self.earlier, *([] if self.trace_id is None else [self.trace_id])]


def is_missing(score: ItemScore) -> bool:
    """Whether an evaluator has nothing to say of an item."""
    return score.score is None


class Commonest(NamedTuple):
    """The reason that most missing scores have, the first of them, and how many they are."""

    reason: str
    first: ItemScore
    n: int


def commonest_reason(scores: Iterable[ItemScore]) -> Commonest | None:
    """Why scores are missing; `None` where none is."""
    counts: Counter[str] = Counter()
    first: dict[str, ItemScore] = {}
    for one in scores:
        if is_missing(one):
            counts[one.error or ""] += 1
            first.setdefault(one.error or "", one)
    if not counts:
        return None
    reason, count = counts.most_common(1)[0]
    return Commonest(reason, first[reason], count)


def without_lonely_zeros(metric: Metric, scores: Sequence[ItemScore]) -> Sequence[ItemScore]:
    """Without any score of an answer, the zeros of failed items alone would pass for an average."""
    reason = commonest_reason(one for one in scores if not one.failed)
    if metric.score_failed or reason is None or any(not (one.failed or is_missing(one)) for one in scores):
        return scores
    why = f"no answered item has a score: {reason.reason}"

    def taken_away(place: int) -> ItemScore:
        one = scores[place]
        if one.failed and not is_missing(one):
            return ItemScore(one.id, one.rep, None, None, why, one.failed)
        return one

    return Lazy(len(scores), taken_away)


def scored(item: EvalItem, score: Score, error: ItemError | None) -> ItemScore:
    """What an evaluator said, as it is kept."""
    return ItemScore(
        item.id,
        item.rep,
        score.score,
        score.reasoning,
        score.incomplete if error is None else str(error),
        error is not None,
    )


def missing(item: EvalItem, reason: str, *, failed: bool) -> ItemScore:
    """A score that is missing, and why."""
    return ItemScore(item.id, item.rep, None, None, reason, failed)
