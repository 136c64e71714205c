"""A comparison in one plain sentence: "B is 1.8x faster (1.6 to 2.0) and 3 points less accurate (1 to 7)"."""

from typing import NamedTuple

from millstream.profiler.compare import COST, LATENCY, Comparison
from millstream.profiler.paired import Difference

_CLOSE = 1.05
"""Below this ratio one decimal does not tell it from 1."""
_SAME = 1e-9
_LARGE = 10
_LESS_THAN_A_POINT = 0.5


class _Part(NamedTuple):
    """What is said of one metric; `unsure` where its interval holds no change."""

    text: str
    noun: str
    n: int
    unsure: bool


def verdict(comparison: Comparison, name: str = "B", other: str = "A") -> str:
    """The sentence: latency, cost, then the scores of answers, and what of it may be no difference at all.

    Args:
        comparison: of at least one item.
        name: what the second run is called.
        other: what the first run is called.
    """
    metrics = comparison.metrics
    said = [
        _times(metrics[LATENCY], "latency", ("faster", "slower", "fast")),
        _times(metrics[COST], "cost", ("cheaper", "dearer", "cheap")),
        *(_points(metrics[metric], metric) for metric in comparison.shares),
    ]
    parts = [part for part in said if part is not None]
    if not parts:
        return f"{other} and {name} have no latency, no cost and no score of answers in common."
    text = f"{name} is {_listed([part.text for part in parts])}"
    unsure = [part for part in parts if part.unsure]
    if unsure:
        n = max(part.n for part in unsure)
        items = "1 item" if n == 1 else f"{n:,} items"
        text += f"; no difference in {_listed([part.noun for part in unsure], 'or')} can be seen from {items}"
    return f"{text}."


def _times(found: Difference, noun: str, words: tuple[str, str, str]) -> _Part | None:
    """`1.8x faster (…)`: how many times less of a metric of which less is better."""
    if not found.ratio:
        return None
    better, worse, alike = words
    ratio, low, high = found.ratio, found.ratio_low, found.ratio_high
    if ratio < 1:
        ratio, low, high = 1 / ratio, 1 / high if high else None, 1 / low if low else None
        word = better
    else:
        word = worse
    unsure = low is None or low <= 1 or (high is not None and high <= 1)
    if low is not None and high is not None and max(abs(low - 1), abs(high - 1)) < _SAME:
        return _Part(f"as {alike}", noun, found.n, unsure=False)  # the same for each item
    close = not unsure and low is not None and low < _CLOSE
    digits = 2 if close else 0 if ratio >= _LARGE else 1
    shown = f"{ratio:.{digits}f}x {word}"
    if unsure and ratio < _CLOSE:
        shown = f"as {alike}"
    if low is None and high is None:
        return _Part(shown, noun, found.n, unsure=True)
    ends = ["?" if end is None else f"{end:.{digits}f}" for end in (low, high)]
    return _Part(f"{shown} ({'–'.join(ends)})", noun, found.n, unsure)  # noqa: RUF001  # a range


def _points(found: Difference, metric: str) -> _Part | None:
    """`3 points less accurate (…)`: hundredths of a score from 0 to 1 of which more is better."""
    if found.a is None or found.difference is None:
        return None
    lower = found.difference < 0
    sign = -1 if lower else 1
    points = abs(found.difference) * 100
    ends = None
    if found.low is not None and found.high is not None:
        ends = sorted((sign * found.low * 100, sign * found.high * 100))
    unsure = ends is None or ends[0] <= 0 <= ends[1]
    digits = 0 if points >= _LESS_THAN_A_POINT or unsure else 1
    about_accuracy = "accura" in metric.lower()
    noun = "accuracy" if about_accuracy else metric
    unit = "point" if f"{points:.{digits}f}" == "1" else "points"
    if points < _LESS_THAN_A_POINT and unsure:
        shown = "as accurate" if about_accuracy else f"as high in {metric}"
        unit_in_ends = " points"
    else:
        word = ("less" if lower else "more") if about_accuracy else ("lower" if lower else "higher")
        shown = f"{points:.{digits}f} {unit} {word} {'accurate' if about_accuracy else f'in {metric}'}"
        unit_in_ends = ""
    if ends is None:
        return _Part(shown, noun, found.n, unsure)
    low, high = (_signed(end, digits) for end in ends)
    return _Part(f"{shown} ({low} to {high}{unit_in_ends})", noun, found.n, unsure)


def _signed(value: float, digits: int) -> str:
    text = f"{abs(value):.{digits}f}"
    return f"−{text}" if value < 0 and float(text) else text  # noqa: RUF001  # a minus sign


def _listed(words: list[str], last: str = "and") -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"
