"""Averages with their uncertainty, and percentiles. Nothing here reads a file or a clock."""

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean

import msgspec

from millstream.errors import MissingExtraError

try:
    import numpy as np
    from scipy.special import stdtrit

    from millstream.profiler.estimate import LEVEL, student_half_width
except ModuleNotFoundError as error:
    raise MissingExtraError("The evaluation", "profiling") from error


class Interval(msgspec.Struct, frozen=True):
    """A confidence interval of a mean.

    Attributes:
        level: the confidence, 0.95.
        low: the lower end.
        high: the upper end.
        method: `wilson`, `student_t`, `wilson_of_items`, or `student_t_of_item_means`.
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


def wilson_of_items(groups: Sequence[Sequence[float]], level: float = LEVEL) -> Interval:
    """Wilson's interval at the effective number of scores, where those of one item hang together.

    The effective size (Korn and Graubard, Survey Methodology 24, 1998) is `n / deff` times
    `(t(n - 1) / t(k - 1))²`, with `deff` the variance of the mean over items (ratio estimator, `k / (k - 1)
    Σ (y_i - p n_i)² / n²`) divided by the binomial `p (1 - p) / n`. It is at most `n`, as if all scores were
    independent, and at least `k`: independent items with scores from 0 to 1 vary no more than the binomial.
    Where all scores are 0 or all are 1, nothing is known of the variance, and it is `k`.

    Args:
        groups: the scores from 0 to 1 of each of `k` items, at least 2; no group is empty.
        level: the confidence.
    """
    sums = [math.fsum(group) for group in groups]
    k, n = len(groups), sum(map(len, groups))
    share = math.fsum(sums) / n
    binomial = share * (1 - share)
    spread = math.fsum((total - share * len(group)) ** 2 for total, group in zip(sums, groups, strict=True))
    variance = spread * k / (k - 1) / n**2
    if binomial <= 0:
        size = float(k)
    elif variance <= 0:
        size = float(n)
    else:
        quantiles = float(stdtrit(n - 1, 0.5 + level / 2)) / float(stdtrit(k - 1, 0.5 + level / 2))
        size = min(float(n), max(float(k), binomial / variance * quantiles**2))
    found = wilson(share * size, size, level)
    return Interval(level, min(found.low, share), max(found.high, share), "wilson_of_items")


def interval_of(groups: Sequence[Sequence[float]], *, shares: bool) -> Interval | None:
    """The interval of the mean of all scores; `None` with fewer than 2 items.

    Repetitions of one item are not independent of each other: with more than one a group, it is the items
    that count.

    Args:
        groups: the scores of each item, one a repetition; no group is empty.
        shares: whether scores from 0 to 1 are shares, which end there (a number of calls that is 1 is not).
    """
    if len(groups) < 2:  # noqa: PLR2004  # one value says nothing about spread
        return None
    bounded = shares and all(0 <= value <= 1 for group in groups for value in group)
    if any(len(group) > 1 for group in groups):
        if bounded:
            return wilson_of_items(groups)
        return student_t([fmean(group) for group in groups], method="student_t_of_item_means")
    values = [group[0] for group in groups]
    if bounded and all(value in (0, 1) for value in values):
        return wilson(math.fsum(values), len(values))
    found = student_t(values)
    return msgspec.structs.replace(found, high=min(1.0, found.high)) if bounded else found


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Linear interpolation between the two nearest ranks, NumPy's default; `None` without values.

    Args:
        values: in any order.
        percent: 0 to 100.
    """
    return float(np.percentile(values, percent)) if values else None
