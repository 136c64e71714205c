"""How many intervals are open at once: one sweep over their ends. Intervals are half open, [start, end)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from millstream.store.arrays import UNKNOWN, Floats, Ints, Place

try:
    from millstream.profiler import _sweep
except ImportError:  # built without a compiler
    _sweep = None  # type: ignore[assignment]
COMPILED: Final = _sweep is not None


@dataclass(frozen=True, slots=True, eq=False)
class Levels:
    """The number of open intervals as steps over time.

    Attributes:
        time_ns: k + 1 ascending times; the step i lasts from time i to time i + 1.
        level: k levels (`arrays.Place`), no two neighbours equal, the first and the last above 0; gaps are 0.
    """

    time_ns: Ints
    level: Ints

    @property
    def length_ns(self) -> Ints:
        """How long each step lasts, shape (k,)."""
        return np.diff(self.time_ns)

    @property
    def lasts_ns(self) -> Ints:
        """How long each level lasts, all its steps together, shape (highest level + 1,)."""
        found = np.zeros(int(self.level.max(initial=UNKNOWN)) + 1, np.int64)
        if COMPILED:
            _sweep.lasts(self.time_ns, self.level, found)
        else:
            np.add.at(found, self.level, self.length_ns)
        return found

    def at(self, moment_ns: Ints) -> Ints:
        """The level at each moment; 0 outside."""
        if COMPILED:
            found = np.empty(len(moment_ns), np.int64)
            _sweep.at(self.time_ns, self.level, moment_ns, found)
            return found
        step = np.searchsorted(self.time_ns, moment_ns, side="right") - 1
        inside = (step >= 0) & (step < len(self.level))
        found = np.zeros(len(moment_ns), np.int64)
        found[inside] = self.level[step[inside]]
        return found


def sweep(start_ns: Ints, end_ns: Ints) -> Levels:
    """Levels of the intervals; empty intervals (start = end) open nothing."""
    lasting = end_ns > start_ns
    starts, ends = start_ns[lasting], end_ns[lasting]
    del lasting
    starts.sort()
    ends.sort()
    return _merged(starts, ends) if COMPILED else _merged_slowly(starts, ends)


def _merged(starts: Ints, ends: Ints) -> Levels:
    times, level = np.empty(2 * len(starts), np.int64), np.empty(2 * len(starts), Place)
    steps = _sweep.sweep(starts, ends, times, level)
    times.resize(steps, refcheck=False)  # in place, for there may be many
    level.resize(max(steps - 1, 0), refcheck=False)
    return Levels(times, level)


def _merged_slowly(starts: Ints, ends: Ints) -> Levels:
    times = np.concatenate((starts, ends))
    order = np.argsort(times, kind="stable")  # of two ascending runs: a merge
    times = times[order]
    level = np.cumsum(np.where(order < len(starts), 1, -1), dtype=Place)
    last = np.concatenate((times[1:] != times[:-1], [True])) if len(times) else np.zeros(0, bool)
    times, level = times[last], level[last]
    steps = np.concatenate(([True], level[1:] != level[:-1])) if len(level) else np.zeros(0, bool)
    return Levels(times[steps], level[steps][:-1])


def passed(times: Ints, moments: Ints) -> Ints:
    """How many of the ascending times are not after each moment."""
    if not COMPILED:
        return np.searchsorted(times, moments, side="right")
    found = np.empty(len(moments), np.int64)
    _sweep.passed(times, moments, found)
    return found


def weighted_percentiles(at_level: Floats, shares: Sequence[float]) -> list[int | None]:
    """The smallest level at or below which at least each share of the weight lies; None without weight.

    Args:
        at_level: the weight of level 0, 1, 2, …
        shares: between 0 and 1.
    """
    if len(at_level) == 0 or at_level.sum() <= 0:
        return [None] * len(shares)
    below = np.cumsum(at_level) / at_level.sum()
    return [min(int(np.searchsorted(below, share - 1e-12)), len(at_level) - 1) for share in shares]
