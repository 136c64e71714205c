"""Figures of agreement between two raters, each with its interval. Nothing here reads a file or a clock."""

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from scipy.special import ndtri, stdtrit
from scipy.stats import spearmanr

from millstream.evaluation.statistics import wilson
from millstream.profiler.estimate import LEVEL, Floats
from millstream.profiler.paired import student

_MIN_RANKS = 4
_NOTHING = 1e-18
"""A variance that is rounding."""


class Estimate(msgspec.Struct, frozen=True):
    """A figure with its interval; null where it cannot be known.

    Attributes:
        value: the figure.
        low: the lower end.
        high: the upper end.
        n: how many values it comes from.
        method: of the interval.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    method: str | None = None


def agreement(first: Sequence[int], second: Sequence[int], level: float = LEVEL) -> Estimate:
    """The share of pairs that are the same category, with Wilson's interval."""
    n = len(first)
    if n == 0:
        return Estimate(None, None, None, 0)
    same = sum(a == b for a, b in zip(first, second, strict=True))
    found = wilson(same, n, level)
    return Estimate(same / n, found.low, found.high, n, "wilson")


def kappa(first: Sequence[int], second: Sequence[int], level: float = LEVEL) -> Estimate:
    """Cohen's kappa of categories (Educational and Psychological Measurement 20, 1960).

    It is (p - e) / (1 - e), with p the share of pairs that agree and e the share that would by chance: the
    sum over categories of the product of both raters' shares. The interval is Wilson's of p, moved in the
    same way, at the effective number of pairs p (1 - p) / (v (1 - e)²), as Korn and Graubard (Survey
    Methodology 24, 1998) have it: v is the jackknife variance of kappa, so that the uncertainty of e counts.
    It is held between n / 2 and 2 n, for v itself is uncertain where n is small.

    Args:
        first: a category, 0 or more, for each item.
        second: those of the other rater, in the same order.
        level: the confidence.

    Returns:
        Null where both raters know one category alone: chance agrees as well.
    """
    a, b = np.asarray(first, dtype=np.int64), np.asarray(second, dtype=np.int64)
    n = len(a)
    if n == 0:
        return Estimate(None, None, None, 0)
    categories = int(max(a.max(), b.max())) + 1
    rows, columns = np.bincount(a, minlength=categories), np.bincount(b, minlength=categories)
    same = float((a == b).sum())
    chance = float(rows @ columns) / n**2
    if chance >= 1:
        return Estimate(None, None, None, n)
    share = same / n
    value = (share - chance) / (1 - chance)
    size = float(n)
    if n > 2 and 0 < share < 1:  # noqa: PLR2004  # leaving one out must leave two
        equal = (a == b).astype(np.float64)
        chance_without = (float(rows @ columns) - columns[a] - rows[b] + equal) / (n - 1) ** 2
        with np.errstate(divide="ignore", invalid="ignore"):
            without = ((same - equal) / (n - 1) - chance_without) / (1 - chance_without)
        variance = _jackknife_variance(without)
        if math.isfinite(variance) and variance > 0:
            size = min(max(share * (1 - share) / (variance * (1 - chance) ** 2), n / 2), 2.0 * n)
    found = wilson(share * size, size, level)
    low, high = ((end - chance) / (1 - chance) for end in (found.low, found.high))
    return Estimate(value, min(low, value), max(high, value), n, "wilson_of_kappa")


def weighted_kappa(first: Sequence[float], second: Sequence[float], level: float = LEVEL) -> Estimate:
    """Cohen's kappa with quadratic weights, of scores on an ordered scale (Psychological Bulletin 70, 1968).

    It is 1 - d / e, with d the mean squared difference of the pairs and e that of all scores of the one with
    all of the other; scores need not be whole numbers. The interval is Student's t with the jackknife's
    standard error under Fisher's transformation, after Feng, Baumgartner and Svetnik (Statistics in Medicine
    33, 2014) for the concordance correlation coefficient, which this is.

    Args:
        first: a score for each item.
        second: those of the other rater, in the same order.
        level: the confidence.

    Returns:
        Null where all scores are one number; without an interval where all pairs agree or one rater gives one
        score to all, for then nothing tells how much it varies.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    n = len(a)
    if n == 0:
        return Estimate(None, None, None, 0)
    middle = float(np.mean(np.concatenate((a, b))))
    a, b = a - middle, b - middle  # squares of large numbers would lose the small differences

    distances, squares = (a - b) ** 2, a**2 + b**2
    expected = float(squares.sum()) / n - 2 * float(a.sum()) * float(b.sum()) / n**2
    if expected <= 0:
        return Estimate(None, None, None, n)
    value = 1 - float(distances.sum()) / n / expected
    if n <= 2 or not -1 < value < 1:  # noqa: PLR2004  # leaving one out must leave two
        return Estimate(value, None, None, n)
    m = n - 1
    expected_without = (squares.sum() - squares) / m - 2 * (a.sum() - a) * (b.sum() - b) / m**2
    with np.errstate(divide="ignore", invalid="ignore"):
        without = 1 - (distances.sum() - distances) / m / expected_without
    variance = _jackknife_variance(without)
    if not variance > _NOTHING:
        return Estimate(value, None, None, n)
    half = float(stdtrit(n - 1, (1 + level) / 2)) * math.sqrt(variance) / (1 - value**2)
    low, high = math.tanh(math.atanh(value) - half), math.tanh(math.atanh(value) + half)
    return Estimate(value, low, high, n, "jackknife_fisher_z")


def rank_correlation(first: Sequence[float], second: Sequence[float], level: float = LEVEL) -> Estimate:
    """Spearman's rank correlation.

    The interval is under Fisher's transformation with the variance (1 + r² / 2) / (n - 3) (Bonett and Wright,
    Psychometrika 65, 2000).

    Args:
        first: a value for each item.
        second: other values, in the same order.
        level: the confidence.

    Returns:
        Null where one of the two never changes; without an interval below 4 items or where r is 1 or -1.
    """
    n = len(first)
    if n < 2 or len(set(first)) < 2 or len(set(second)) < 2:  # noqa: PLR2004  # nothing to rank
        return Estimate(None, None, None, n)
    value = float(spearmanr(first, second).statistic)
    if n < _MIN_RANKS or abs(value) >= 1 - 1e-12:
        return Estimate(value, None, None, n)
    half = float(ndtri((1 + level) / 2)) * math.sqrt((1 + value**2 / 2) / (n - 3))
    low, high = math.tanh(math.atanh(value) - half), math.tanh(math.atanh(value) + half)
    return Estimate(value, low, high, n, "bonett_wright")


def mean_difference(first: Sequence[float], second: Sequence[float], level: float = LEVEL) -> Estimate:
    """The mean of second minus first, with Student's t of the paired differences."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    n = len(a)
    if n == 0:
        return Estimate(None, None, None, 0)
    value = float(np.mean(b - a))
    if n == 1:
        return Estimate(value, None, None, n)
    low, high = student(a, b, level)
    return Estimate(value, low, high, n, "student_t")


def _jackknife_variance(without: Floats) -> float:
    """The variance of a figure, from its values with each of the n items left out: (n - 1) / n Σ (x - x̄)²."""
    n = len(without)
    return float((n - 1) / n * np.sum((without - np.mean(without)) ** 2))
