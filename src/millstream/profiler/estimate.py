"""Means and quantiles with intervals that assume no shape of the distribution of durations.

Quantile intervals are order statistics: of n sorted values, the ranks between which the quantile lies are
binomial (Conover, Practical Nonparametric Statistics, 3.2). An end is None where n is too small for one.
"""

from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, stdtrit

from millstream.profiler.results import Statistic

LEVEL = 0.95
NS_PER_S = 1e9
Floats = NDArray[np.float64]


def student_half_width(values: Floats, level: float = LEVEL) -> float | None:
    """Half the width of the Student t interval of the mean, n - 1 degrees of freedom; None for n < 2."""
    if len(values) < 2:  # noqa: PLR2004  # a spread needs two values
        return None
    quantile = float(stdtrit(len(values) - 1, (1 + level) / 2))
    return quantile * float(np.std(values, ddof=1)) / float(np.sqrt(len(values)))


def mean_interval(values: Floats, level: float = LEVEL) -> tuple[float, float] | None:
    """Student t interval of the mean of values that cannot be negative; None for n < 2."""
    half = student_half_width(values, level)
    if half is None:
        return None
    mean = float(np.mean(values))
    return max(mean - half, 0.0), mean + half


def mean(values: Floats) -> Statistic:
    """The mean and its 95 % Student t interval, the lower end not below 0."""
    if len(values) == 0:
        return Statistic(None, None, None)
    low, high = mean_interval(values) or (None, None)
    return Statistic(float(np.mean(values)), low, high)


def quantile_ranks(n: int, share: float, level: float = LEVEL) -> tuple[int, int]:
    """Ranks (from 1) of the sorted values that hold the quantile with at least `level` probability.

    Each side is left out with at most (1 - level) / 2. A rank of 0 or of n + 1 means that n values do not
    bound the quantile on that side.
    """
    tail = (1 - level) / 2

    def below(rank: int) -> float:
        return float(bdtr(rank, n, share))

    low = bisect_left(range(n + 1), tail, key=lambda rank: below(rank) if rank < n else 1.0)
    if low < n and below(low) == tail:
        low += 1
    high = bisect_left(range(n + 1), 1 - tail, key=lambda rank: below(rank) if rank < n else 1.0) + 1
    return low, high


def quantile(ordered: Floats, share: float) -> Statistic:
    """A quantile by linear interpolation and its 95 % interval by order statistics.

    Args:
        ordered: values in ascending order.
        share: between 0 and 1.
    """
    n = len(ordered)
    if n == 0:
        return Statistic(None, None, None)
    low, high = quantile_ranks(n, share)
    return Statistic(
        interpolated(ordered, share),
        float(ordered[low - 1]) if low >= 1 else None,
        float(ordered[high - 1]) if high <= n else None,
    )


def interpolated(ordered: Floats, share: float) -> float:
    """As `np.quantile`, to the last bit, of values in ascending order; that would sort them again."""
    place = (len(ordered) - 1) * share
    before = int(place)
    part = place - before
    low, high = float(ordered[before]), float(ordered[min(before + 1, len(ordered) - 1)])
    step = high - low
    return high - step * (1 - part) if part >= 0.5 else low + step * part  # noqa: PLR2004  # nearer to the higher
