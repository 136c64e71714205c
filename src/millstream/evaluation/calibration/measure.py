"""From pairs of scores, the judge's and people's, to the figures of a calibration and what they mean."""

from collections.abc import Sequence

import msgspec
import numpy as np

from millstream.evaluation.calibration.agreement import (
    Estimate,
    agreement,
    kappa,
    mean_difference,
    rank_correlation,
    weighted_kappa,
)
from millstream.evaluation.judging.scale import NumberScale, Scale, point
from millstream.evaluation.statistics import interval_of
from millstream.profiler.estimate import LEVEL


class Pair(msgspec.Struct, frozen=True):
    """One answer that people and the judge have scored.

    Attributes:
        id: of the item.
        human: people's score, from 0 to 1.
        judge: the judge's, from 0 to 1.
        length: characters of the answer.
        first_places: of a comparison, for each verdict for one of the two, whether it was for the one that
            was shown first; verdicts of a tie are left out.
    """

    id: str
    human: float
    judge: float
    length: int
    first_places: list[bool] = []


class Figures(msgspec.Struct, frozen=True):
    """How a judge's scores lie beside people's. What cannot be known is null.

    Attributes:
        agreement: share of answers that both put on the same whole point of the scale.
        kappa: Cohen's, of these points.
        weighted_kappa: Cohen's with quadratic weights, of the scores; null on a scale of two points.
        correlation: Spearman's, of the scores.
        mean_difference: judge minus people, in points of the scale; of labels and comparisons from 0 to 1.
        length_bias: Spearman's correlation of judge minus people with the answer's length.
        position_bias: share of the verdicts for the first place, where each pair was shown in both orders;
            0.5 is none. Null for a judge that compares nothing.
    """

    agreement: Estimate
    kappa: Estimate
    weighted_kappa: Estimate | None
    correlation: Estimate
    mean_difference: Estimate
    length_bias: Estimate
    position_bias: Estimate | None


def figures_of(pairs: Sequence[Pair], scale: Scale, *, compares: bool, level: float = LEVEL) -> Figures:
    """All figures.

    Args:
        pairs: one an item.
        scale: of both scores.
        compares: whether the judge compares two answers.
        level: the confidence.
    """
    human, judge = [pair.human for pair in pairs], [pair.judge for pair in pairs]
    points = [point(scale, share) for share in human], [point(scale, share) for share in judge]
    apart = [round(pair.judge - pair.human, 10) for pair in pairs]
    span = scale.high - scale.low if isinstance(scale, NumberScale) else 1.0
    return Figures(
        agreement=agreement(*points, level),
        kappa=kappa(*points, level),
        weighted_kappa=weighted_kappa(human, judge, level) if scale.steps > 1 else None,
        correlation=rank_correlation(human, judge, level),
        mean_difference=mean_difference([x * span for x in human], [x * span for x in judge], level),
        length_bias=rank_correlation(apart, [float(pair.length) for pair in pairs], level),
        position_bias=position_bias([pair.first_places for pair in pairs], level) if compares else None,
    )


def position_bias(verdicts: Sequence[Sequence[bool]], level: float = LEVEL) -> Estimate:
    """The share of verdicts for the first place, with Wilson's interval.

    Verdicts of one item hang together: the interval is that of scores with repetitions.

    Args:
        verdicts: of each item; true for the first place.
        level: the confidence.
    """
    firsts = np.array([first for of_item in verdicts for first in of_item], np.float64)
    n = len(firsts)
    if n == 0:
        return Estimate(None, None, None, 0)
    value = float(firsts.mean())
    items = np.repeat(np.arange(len(verdicts)), [len(of_item) for of_item in verdicts])
    found = interval_of(firsts, items, shares=True, level=level)
    if found is None:
        return Estimate(value, None, None, n)
    return Estimate(value, found.low, found.high, n, found.method)
