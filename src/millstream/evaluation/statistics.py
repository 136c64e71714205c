"""Averages with their uncertainty, and percentiles. Nothing here reads a file or a clock."""

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean

import msgspec

from millstream.errors import MissingExtraError

try:
    import numpy as np

    from millstream.profiler.estimate import LEVEL, student_half_width
except ModuleNotFoundError as error:
    raise MissingExtraError("The evaluation", "profiling") from error


class Interval(msgspec.Struct, frozen=True):
    """A confidence interval of a mean.

    Attributes:
        level: the confidence, 0.95.
        low: the lower end.
        high: the upper end.
        method: `wilson`, `student_t`, or `student_t_of_item_means`.
    """

    level: float
    low: float
    high: float
    method: str


def wilson(successes: float, n: int, level: float = LEVEL) -> Interval:
    """The score interval of a share (Wilson 1927), without continuity correction.

    Args:
        successes: how many of the `n` are 1.
        n: how many there are; at least 1.
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


def student_t(values: Sequence[float], level: float = LEVEL, method: str = "student_t") -> Interval:
    """Mean ± t · s / sqrt(n) with n - 1 degrees of freedom; the lower end is not below 0 where no value is.

    Args:
        values: at least 2 numbers.
        level: the confidence.
        method: what the interval is called.
    """
    mean = fmean(values)
    half = student_half_width(np.asarray(values, dtype=np.float64), level) or 0.0
    low = mean - half if min(values) < 0 else max(0.0, mean - half)
    return Interval(level, low, mean + half, method)


def interval_of(groups: Sequence[Sequence[float]], *, shares: bool) -> Interval | None:
    """The interval of the mean of all scores; `None` with fewer than 2 items.

    Repetitions of one item are not independent of each other: with more than one a group, the interval is
    that of the items' means.

    Args:
        groups: the scores of each item, one a repetition; no group is empty.
        shares: whether scores that are all 0 or 1 are successes (a number of calls that is 1 is not).
    """
    if len(groups) < 2:  # noqa: PLR2004  # one value says nothing about spread
        return None
    if any(len(group) > 1 for group in groups):
        return student_t([fmean(group) for group in groups], method="student_t_of_item_means")
    values = [group[0] for group in groups]
    if shares and all(value in (0, 1) for value in values):
        return wilson(math.fsum(values), len(values))
    return student_t(values)


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Linear interpolation between the two nearest ranks, NumPy's default; `None` without values.

    Args:
        values: in any order.
        percent: 0 to 100.
    """
    return float(np.percentile(values, percent)) if values else None
