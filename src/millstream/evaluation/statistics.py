"""Averages with their uncertainty, and percentiles. Nothing here reads a file or a clock.

An item asked several times has several scores, which are not independent of each other: it is the items that
count. docs/decisions/0025-intervals-of-scores.md says what each interval was measured to cover.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Final, NamedTuple

import msgspec

from millstream.errors import MissingExtraError

try:
    import numpy as np
    from numpy.typing import NDArray
    from scipy.special import stdtrit

    from millstream.profiler.estimate import LEVEL, Floats, student_half_width
except ModuleNotFoundError as error:
    raise MissingExtraError("The evaluation", "profiling") from error

LEAST_ITEMS: Final = 10
"""With fewer items no interval was found that holds for every kind of score."""
_SKEW_LOST: Final = 1.3
"""The skewness of small samples of skewed values is smaller than that of what they come from."""
_SPREAD_UNSURE: Final = 0.5
"""How much less is known of the spread of values with a long tail."""


class Interval(msgspec.Struct, frozen=True):
    """A confidence interval of a mean.

    Attributes:
        level: the confidence, such as 0.95.
        low: the lower end.
        high: the upper end.
        method: `wilson` for scores of 0 and 1, `wilson_of_scores` for those between as well,
            `skew_corrected_t` for measures that are never negative, `student_t` for others; with repetitions
            `wilson_of_items`, `skew_corrected_t_of_items` and `student_t_of_items`.
    """

    level: float
    low: float
    high: float
    method: str


def wilson(successes: float, n: float, level: float = LEVEL) -> Interval:
    """The score interval of a share (Wilson 1927), without continuity correction.

    Args:
        successes: how many of the `n` are 1.
        n: how many there are; at least 1, and not whole where it is an effective size.
        level: the confidence.
    """
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share = successes / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At 0 and 1 the formula gives the bound itself, but for rounding.
    low = 0.0 if successes == 0 else max(0.0, middle - half)
    high = 1.0 if successes == n else min(1.0, middle + half)
    return Interval(level, low, high, "wilson")


class Items(NamedTuple):
    """The scores of each item, as far as means need them."""

    sums: Floats
    counts: Floats

    @classmethod
    def of(cls, values: Floats, items: NDArray[np.int64]) -> "Items":
        """Those of `values`, of which each belongs to the item with that number."""
        counts = np.bincount(items, weights=np.ones(len(items))).astype(np.float64)
        there = counts > 0
        sums = np.bincount(items, weights=values).astype(np.float64)
        return cls(sums[there], counts[there])

    def points(self) -> Floats:
        """One value an item, with the same mean as all scores and the spread that this mean has.

        Where items have different numbers of scores the mean is a ratio, and these are its linearisation.
        """
        mean = self.sums.sum() / self.counts.sum()
        points: Floats = mean + (self.sums - mean * self.counts) / self.counts.mean()
        return points


def student_t(points: Floats, level: float = LEVEL, method: str = "student_t") -> Interval:
    """Mean ± t · s / sqrt(n) with n - 1 degrees of freedom.

    Args:
        points: at least 2.
        level: the confidence.
        method: what the interval is called.
    """
    mean = float(points.mean())
    half = student_half_width(points, level) or 0.0
    return Interval(level, mean - half, mean + half, method)


def skew_corrected_t(points: Floats, level: float = LEVEL, method: str = "skew_corrected_t") -> Interval:
    """Of the mean of values with a long tail above, such as times and counts; the lower end is not below 0.

    Hall's cubic transformation (Journal of the Royal Statistical Society B 54, 1992) of the studentised mean
    takes its skewness away. Two corrections make it hold for few values: the skewness, at least 0, is taken
    1.3 times, and the degrees of freedom are those of a variance whose kurtosis is that of a gamma
    distribution of a third of the skewness squared: 2 / (g² / 2n + 2 / (n - 1)).

    Args:
        points: at least 2.
        level: the confidence.
        method: what the interval is called.
    """
    n = len(points)
    mean = float(points.mean())
    error = float(points.std(ddof=1)) / math.sqrt(n)
    skewness = max(_skewness(points), 0.0)
    freedom = 2 / (_SPREAD_UNSURE * skewness**2 / n + 2 / (n - 1))
    quantile = float(stdtrit(freedom, 0.5 + level / 2))
    skewness *= _SKEW_LOST
    high = mean - _skewed_back(-quantile, skewness, n) * error
    return Interval(level, max(0.0, mean - _skewed_back(quantile, skewness, n) * error), high, method)


def _skewness(points: Floats) -> float:
    """Adjusted Fisher-Pearson, as SciPy's `skew(bias=False)`; 0 where it is not defined."""
    n = len(points)
    deviations = points - points.mean()
    spread = float(points.std(ddof=1))
    if n < 3 or spread <= 1e-12 * float(np.abs(points).max(initial=0.0)):  # noqa: PLR2004  # needs three values
        return 0.0
    return n / ((n - 1) * (n - 2)) * float(((deviations / spread) ** 3).sum())


def _skewed_back(quantile: float, skewness: float, n: int) -> float:
    """The inverse of Hall's transformation."""
    by = skewness / math.sqrt(n)
    if by < 1e-9:  # noqa: PLR2004  # no skewness, and 0 / 0 below
        return quantile
    return 3 / by * (math.cbrt(1 + by * (quantile - by / 6)) - 1)


def wilson_of(items: Items, level: float = LEVEL, *, whole: bool, method: str) -> Interval:
    """Wilson's interval at the effective number of scores from 0 to 1.

    The effective size (Korn and Graubard, Survey Methodology 24, 1998) is the binomial `p (1 - p)` divided by
    the variance of the mean over `k` items (ratio estimator, `k / (k - 1) Σ (y_i - p n_i)² / n²`), times
    `(t(n - 1) / t(k - 1))²`. It is at least `k`: independent items with scores from 0 to 1 vary no more than
    the binomial. Scores that are all 0 or 1 vary no less than it were they independent, and for them it is
    at most `n`; others may, and for them the normal quantile takes the place of `t(n - 1)`. Where nothing is
    known of the variance it is `k`.

    Args:
        items: at least 2, with scores from 0 to 1.
        level: the confidence.
        whole: whether all scores are 0 or 1.
        method: what the interval is called.
    """
    size = _size(items, level, whole=whole)
    share = min(max(float(items.sums.sum() / items.counts.sum()), 0.0), 1.0)
    found = wilson(share * size, size, level)
    return Interval(level, min(found.low, share), max(found.high, share), method)


def _size(items: Items, level: float, *, whole: bool) -> float:
    k, n = len(items.sums), float(items.counts.sum())
    share = min(max(float(items.sums.sum()) / n, 0.0), 1.0)
    binomial = share * (1 - share)
    variance = float(((items.sums - share * items.counts) ** 2).sum()) * k / (k - 1) / n**2
    known = variance > 1e-24  # noqa: PLR2004  # the rest of a subtraction
    if binomial <= 0 or (not known and not whole):
        return float(k)
    if not known:
        return n
    normal = NormalDist().inv_cdf(0.5 + level / 2)
    wide = float(stdtrit(n - 1, 0.5 + level / 2)) if whole else normal
    size = binomial / variance * (wide / float(stdtrit(k - 1, 0.5 + level / 2))) ** 2
    return max(float(k), min(n, size) if whole else size)


def interval_of(
    values: Floats, items: NDArray[np.int64], *, shares: bool, level: float = LEVEL
) -> Interval | None:
    """The interval of the mean of all scores; `None` with fewer than 2 items.

    Args:
        values: the scores.
        items: the number of the item that each is of.
        shares: whether scores from 0 to 1 are shares, which end there (a number of calls that is 1 is not).
        level: the confidence.
    """
    of_items = Items.of(values, items)
    k = len(of_items.sums)
    if k < 2:  # noqa: PLR2004  # one value says nothing about spread
        return None
    repeated = len(values) > k
    if shares and values.min() >= 0 and values.max() <= 1:
        whole = bool(((values == 0) | (values == 1)).all())
        if whole and not repeated:
            return wilson(float(values.sum()), k, level)
        method = "wilson_of_items" if repeated else "wilson_of_scores"
        return wilson_of(of_items, level, whole=whole, method=method)
    kind = student_t if values.min() < 0 else skew_corrected_t
    return kind(of_items.points(), level, kind.__name__ + ("_of_items" if repeated else ""))


def note_on(items: NDArray[np.int64], interval: Interval | None) -> str | None:
    """What an interval cannot say, in words; `None` where there is nothing to add.

    Args:
        items: the number of the item that each score is of.
        interval: of their mean.
    """
    k = len(np.unique(items))
    if k < LEAST_ITEMS:
        an = "an interval" if k == 1 else "an interval that holds"
        return f"{k} {'item' if k == 1 else 'items'}: too few for {an}" if k else None
    if interval is not None and interval.low == interval.high:
        return f"all {len(items)} scores are the same: how far others may lie from them is not known"
    return None


def percentile(values: Sequence[float] | Floats, percent: float) -> float | None:
    """Linear interpolation between the two nearest ranks, NumPy's default; `None` without values.

    Args:
        values: in any order.
        percent: 0 to 100.
    """
    return float(np.percentile(values, percent)) if len(values) else None


def percentile_interval(
    values: Floats, items: NDArray[np.int64], percent: float, level: float = LEVEL
) -> tuple[float | None, float | None]:
    """The interval of a percentile; an end that so few values cannot give is `None`.

    Woodruff's (Journal of the American Statistical Association 47, 1952): the interval of the share of values
    below the percentile, at the effective number of values (see `wilson_of`), read off the values.

    Args:
        values: in any order.
        items: the number of the item that each is of.
        percent: above 0 and below 100.
        level: the confidence.
    """
    share = percent / 100
    below = (
        Items.of((values <= np.percentile(values, percent)).astype(np.float64), items)
        if len(values)
        else None
    )
    if below is None or len(below.sums) < 2:  # noqa: PLR2004  # one value says nothing about spread
        return None, None
    half = NormalDist().inv_cdf(0.5 + level / 2) * math.sqrt(
        share * (1 - share) / _size(below, level, whole=True)
    )
    low = float(np.quantile(values, share - half)) if share > half else None
    return low, float(np.quantile(values, share + half)) if share + half < 1 else None
