"""By how much do paired values differ? The difference and the ratio of two means, with intervals.

The interval of the difference holds 0 exactly where that of the ratio holds 1: both then invert one test, the
paired t test for measured values, McNemar's for pairs of 0 and 1.
"""

import math
from collections.abc import Callable

import msgspec
import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtri, stdtrit

from millstream.profiler.estimate import LEVEL, Floats

End = float | None
_TINY = 1e-12
_DOUBLINGS = 200
_LEAST_SHARE = 1e-9
"""Below it a share is not told from 0, and nothing bounds a ratio to it."""


class Difference(msgspec.Struct, frozen=True):
    """Two means over the same items. What cannot be known is null.

    Attributes:
        n: items that have a value in both.
        a: mean of the first values.
        b: mean of the second values.
        difference: b - a; `low` and `high` are its interval.
        ratio: b / a, null where a is 0, a value is negative or b / a too large for a number; `ratio_low` and
            `ratio_high` are its interval.
        method: `student_t` (the ratio's is Fieller's) or `score` (Tango's, and Nam and Blackwelder's).
    """

    n: int
    a: float | None = None
    b: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    method: str | None = None


def difference(a: Floats, b: Floats, *, shares: bool = False, level: float = LEVEL) -> Difference:
    """How the means of two columns differ, one row an item.

    Args:
        a: values of the first run, finite.
        b: values of the second, in the same order of items.
        shares: whether all values are shares, from 0 to 1. Where they are all 0 or 1, or all differences
            alike, the intervals are those of proportions.
        level: the confidence.
    """
    n = len(a)
    if n == 0:
        return Difference(0)
    mean_a, mean_b = float(np.mean(a)), float(np.mean(b))
    both = np.concatenate((a, b))
    ratio = mean_b / mean_a if mean_a > 0 and float(both.min()) >= 0 else math.inf
    has_ratio = math.isfinite(ratio)  # a mean near the least that a number can be has none
    found = Difference(n, mean_a, mean_b, mean_b - mean_a, ratio=ratio if has_ratio else None)
    if n == 1:  # one item says nothing about the next
        return found
    if shares and (bool(np.all((both == 0) | (both == 1))) or float(np.ptp(b - a)) == 0):
        gained, lost = float(np.maximum(b - a, 0).sum()), float(np.maximum(a - b, 0).sum())
        kept = float(np.minimum(a, b).sum())
        low, high = tango(gained, lost, n, level)
        ends: tuple[End, End] = score_ratio(kept, gained, lost, n, level) if has_ratio else (None, None)
        method = "score"
    else:
        low, high = student(a, b, level)
        if shares:
            low, high = max(low, -1.0), min(high, 1.0)
        ends = fieller(a, b, level) if has_ratio else (None, None)
        method = "student_t"
    return msgspec.structs.replace(
        found, low=low, high=high, ratio_low=ends[0], ratio_high=ends[1], method=method
    )


def student(a: Floats, b: Floats, level: float = LEVEL) -> tuple[float, float]:
    """Mean of the paired differences b - a ± t · s / √n, n - 1 degrees of freedom; n of at least 2."""
    apart = b - a
    n = len(apart)
    half = float(stdtrit(n - 1, (1 + level) / 2)) * float(np.std(apart, ddof=1)) / math.sqrt(n)
    middle = float(np.mean(apart))
    return middle - half, middle + half


def fieller(a: Floats, b: Floats, level: float = LEVEL) -> tuple[End, End]:
    """Fieller's interval of mean(b) / mean(a) of paired values that are not negative.

    It holds the ratios r at which the paired t test does not reject that the mean of b - r a is 0 (Fieller,
    J. R. Statist. Soc. B 16, 1954). Null where mean(a) cannot be told from 0, for then nothing bounds it.
    """
    n = len(a)
    mean_a, mean_b = float(np.mean(a)), float(np.mean(b))
    t = float(stdtrit(n - 1, (1 + level) / 2))
    spread = np.cov(a, b) * t * t / n
    square = mean_a * mean_a - float(spread[0, 0])
    if square <= 0:
        return None, None
    middle = mean_a * mean_b - float(spread[0, 1])
    root = math.sqrt(max(0.0, middle * middle - square * (mean_b * mean_b - float(spread[1, 1]))))
    return max(0.0, (middle - root) / square), (middle + root) / square


def tango(gained: float, lost: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Score interval of the difference of two paired proportions (Tango, Statistics in Medicine 17, 1998).

    Args:
        gained: pairs that are 0 in the first run and 1 in the second.
        lost: pairs that are 1 in the first and 0 in the second.
        n: all pairs.
        level: the confidence.
    """
    z = float(ndtri((1 + level) / 2))

    def statistic(delta: float) -> float:
        # The likeliest share of lost pairs where the true difference is delta, from a quadratic equation.
        linear = (2 * n - gained + lost) * delta - gained - lost
        share = (math.sqrt(linear * linear + 8 * n * lost * delta * (1 - delta)) - linear) / (4 * n)
        return _standardised(gained - lost - n * delta, n * (2 * share + delta * (1 - delta)))

    seen = (gained - lost) / n
    low, high = _TINY - 1, 1 - _TINY
    return (
        float(brentq(lambda at: statistic(at) - z, low, seen)) if seen > low and statistic(low) > z else -1.0,
        float(brentq(lambda at: statistic(at) + z, seen, high))
        if seen < high and statistic(high) < -z
        else 1.0,
    )


def score_ratio(kept: float, gained: float, lost: float, n: int, level: float = LEVEL) -> tuple[End, End]:
    """Score interval of the ratio of two paired proportions, second by first.

    Nam and Blackwelder, Statistics in Medicine 21, 2002; the likeliest share of lost pairs in closed form by
    Tang, Tang and Chan, Statistics in Medicine 22, 2003.

    Args:
        kept: pairs that are 1 in both.
        gained: pairs that are 0 in the first run and 1 in the second.
        lost: pairs that are 1 in the first and 0 in the second.
        n: all pairs.
        level: the confidence.
    """
    z = float(ndtri((1 + level) / 2))
    some = kept + gained + lost
    if kept + lost < _LEAST_SHARE * n:
        return None, None

    def statistic(ratio: float) -> float:
        square = n * (1 + ratio)
        linear = (kept + lost) * ratio * ratio - (some + lost)
        constant = lost * (1 - ratio) * some / n
        share = (math.sqrt(max(0.0, linear * linear - 4 * square * constant)) - linear) / (2 * square)
        return _standardised(
            kept + gained - ratio * (kept + lost), n * (1 + ratio) * share + some * (ratio - 1)
        )

    low = 0.0 if kept + gained < _LEAST_SHARE * n else _falls_to(statistic, z)
    return low, _falls_to(statistic, -z)


def _standardised(distance: float, variance: float) -> float:
    return distance / max(math.sqrt(max(variance, 0.0)), _TINY)


def _falls_to(function: Callable[[float], float], value: float) -> float:
    """Where a function that falls from 0 to infinity has a value; 0 where it is lower everywhere."""
    high = 1.0
    for _ in range(_DOUBLINGS):
        if function(high) <= value:
            break
        high *= 2
    low = high / 2
    for _ in range(_DOUBLINGS):
        if function(low) >= value:
            return float(brentq(lambda at: function(at) - value, low, high))
        low /= 2
    return 0.0
