"""A time axis: the unit that fits, and ticks in steps of 1, 2 or 5."""

import math
from collections.abc import Iterator
from typing import NamedTuple

from millstream.profiler.units import duration

_MOST_TICKS = 11
_LONG_S = 120.0


class Unit(NamedTuple):
    """One unit of time: its name on an axis, its sign behind a number, its length in seconds."""

    name: str
    sign: str
    length_s: float


_UNITS = (
    (2 * 86400.0, Unit("days", "d", 86400.0)),
    (2 * 3600.0, Unit("hours", "h", 3600.0)),
    (_LONG_S, Unit("minutes", "min", 60.0)),
    (1.0, Unit("seconds", "s", 1.0)),
    (1e-3, Unit("milliseconds", "ms", 1e-3)),
    (0.0, Unit("microseconds", "us", 1e-6)),
)


def unit(longest_s: float) -> Unit:
    """The unit for times up to `longest_s`."""
    return next(unit for least_s, unit in _UNITS if longest_s >= least_s)


def ticks(end_s: float) -> Iterator[tuple[float, str]]:
    """Places on an axis from 0 to `end_s`, seconds, and the numbers there in `unit(end_s)`."""
    length_s = unit(end_s).length_s
    step, decimals = _step(end_s / length_s / (_MOST_TICKS - 1))
    for number in range(math.floor(end_s / length_s / step * (1 + 1e-12)) + 1):
        yield number * step * length_s, f"{number * step:,.{decimals}f}"


def _step(least: float) -> tuple[float, int]:
    """The smallest of 1, 2 and 5 times a power of ten that is not below `least`, and its decimals."""
    power = math.floor(math.log10(least))
    factor = next((factor for factor in (1, 2, 5) if factor * 10.0**power >= least * (1 - 1e-9)), 10)
    step = float(f"{factor}e{power}")
    return step, max(0, -math.floor(math.log10(step) + 1e-9))


def length(value_s: float) -> str:
    """A duration as the report writes it; from two minutes on in minutes, hours or days."""
    if value_s < _LONG_S:
        return duration(value_s)
    _, sign, length_s = unit(value_s)
    number = value_s / length_s
    digits = 2 if number < 9.995 else 1 if number < 99.95 else 0  # noqa: PLR2004  # three digits
    return f"{number:,.{digits}f} {sign}"
