"""Small pictures for the report as inline SVG; colours come from the page's stylesheet by class."""

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from millstream.profiler.estimate import Floats
from millstream.profiler.sweep import Levels
from millstream.profiler.units import duration

_NS_PER_S = 1e9
_WIDTH = 1150.0
_HEIGHT = 160.0
_TOP = 22
PLOT_WIDTH = 300.0
_PLOT_HEIGHT = 34.0
_PARTS = 60
_TICK = 24
"""Half the width of a label on the axis of a plot."""
_MOST_DECADES = 6


def bar(share: float, css_class: str = "fill-accent") -> Markup:
    """A horizontal bar; the number stands beside it as text, so it is hidden from screen readers."""
    width = 100 * min(max(share, 0.0), 1.0)
    return Markup(
        '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="{}" x="0" y="0" width="{:.2f}" height="8"/></svg>'
    ).format(css_class, width)


def distribution(values_s: Floats, low: float, high: float, marks: Sequence[float], label: str) -> Markup:
    """How values lie on a logarithmic axis from `low` to `high`: 60 equal parts, and a line at each mark."""
    if len(values_s) == 0 or not 0 < low < high:
        return Markup("")
    width, height = PLOT_WIDTH, _PLOT_HEIGHT
    at = _log_place(np.clip(values_s, low, high), low, high)
    count = np.bincount(np.minimum((at * _PARTS).astype(np.int64), _PARTS - 1), minlength=_PARTS)
    step, unit = width / _PARTS, (height - 2) / int(count.max())
    parts = [
        Markup('<line class="stroke-line" x1="{0:.1f}" y1="0" x2="{0:.1f}" y2="{1}"/>').format(x, height)
        for x, _ in _decades(low, high)
    ]
    parts += [
        Markup('<rect class="fill-accent" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
            place * step, height - n * unit, step - 0.5, n * unit
        )
        for place, n in enumerate(count.tolist())
        if n
    ]
    parts += [
        Markup('<line class="stroke-mark-{2}" x1="{0:.1f}" y1="0" x2="{0:.1f}" y2="{1}"/>').format(
            float(_log_place(np.clip(mark, low, high), low, high)) * width, height, place
        )
        for place, mark in enumerate(marks)
    ]
    head = Markup('<svg class="plot" role="img" viewBox="0 0 {} {}" aria-label="{}">')
    return head.format(width, height, label) + Markup("").join(parts) + Markup("</svg>")


def log_axis(low: float, high: float) -> Markup:
    """The powers of ten of a `distribution`'s axis, as text over the plots."""
    if not 0 < low < high:
        return Markup("")
    ticks = [
        Markup('<text class="tick" x="{:.1f}" y="11" text-anchor="{}">{}</text>').format(
            x, "start" if x < _TICK else "end" if x > PLOT_WIDTH - _TICK else "middle", _power(value)
        )
        for x, value in _decades(low, high)
    ]
    head = Markup('<svg class="plot axis" viewBox="0 0 {} 14">').format(PLOT_WIDTH)
    return head + Markup("").join(ticks) + Markup("</svg>")


def _power(value_s: float) -> str:
    """A power of ten as people write it."""
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
        if round(value_s * factor):
            return f"{value_s * factor:,.0f} {unit}"
    return f"{value_s * 1e9:,.0f} ns"


def _decades(low: float, high: float) -> list[tuple[float, float]]:
    """Where powers of ten are on the axis; every second one where there are many."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    powers = range(first, last + 1, 1 if last - first <= _MOST_DECADES else 2)
    return [
        (float(_log_place(np.array(10.0**power), low, high)) * PLOT_WIDTH, 10.0**power) for power in powers
    ]


def _log_place(values: Floats, low: float, high: float) -> Floats:
    """0 at `low`, 1 at `high`."""
    place: Floats = (np.log(values) - math.log(low)) / (math.log(high) - math.log(low))
    return place


def curve(points: Sequence[tuple[float, float]], label: str, start: str, end: str) -> Markup:
    """Shares (0 to 1) by size on a logarithmic axis, with the names of its ends."""
    if not points:
        return Markup("")
    width, height, left = _WIDTH, _HEIGHT, 44.0
    top = max(math.log2(points[-1][0]), 1.0)
    line = "L".join(
        f"{left + math.log2(size) / top * (width - left):.1f} {8 + height * (1 - share):.1f}"
        for size, share in points
    )
    parts = [
        Markup(
            '<line class="stroke-line" x1="{0}" y1="{1:.1f}" x2="{2}" y2="{1:.1f}"/>'
            '<text class="tick" x="{3}" y="{4:.1f}" text-anchor="end">{5} %</text>'
        ).format(left, 8 + height * (1 - part), width, left - 6, 12 + height * (1 - part), round(100 * part))
        for part in (0, 0.5, 1)
    ]
    parts.append(Markup('<path class="line-accent thick" d="M{}"/>').format(line))
    parts += [
        Markup('<text class="tick" x="{}" y="{}" text-anchor="{}">{}</text>').format(
            x, height + 24, anchor, text
        )
        for x, anchor, text in ((left, "start", start), (width, "end", end))
    ]
    return _figure(label, width, height + 30, parts)


def histogram(values_s: Floats, marks: Sequence[tuple[str, float]], bins: int = 40) -> Markup:
    """How many values fall in each of `bins` equal parts of [0, max], with labelled vertical marks."""
    top = float(values_s.max()) if len(values_s) else 0.0
    if top <= 0:
        return Markup("")
    count, _ = np.histogram(values_s, bins=bins, range=(0, top))
    width, height = _WIDTH, _HEIGHT
    step, unit = width / bins, height / max(int(count.max()), 1)
    parts = [
        Markup('<rect class="fill-accent" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
            at * step + 0.75, 24 + height - n * unit, step - 1.5, n * unit
        )
        for at, n in enumerate(count.tolist())
        if n
    ]
    parts += [_mark(text, value / top * width, height, row) for row, (text, value) in enumerate(marks)]
    axis = Markup('<line class="stroke-axis" x1="0" y1="{0}" x2="{1}" y2="{0}"/>').format(24 + height, width)
    ticks = [
        Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="{}">{}</text>').format(
            part * width, 24 + height + 16, _anchor(part), seconds(part * top)
        )
        for part in (0, 0.25, 0.5, 0.75, 1)
    ]
    label = (
        f"Histogram of {len(values_s)} run times from 0 to {seconds(top)}, at most {count.max()} in a part"
    )
    return _figure(label, width, height + 46, [*parts, axis, *ticks])


def _mark(text: str, x: float, height: float, row: int) -> Markup:
    anchor = "end" if x > 0.8 * _WIDTH else "start"
    return Markup(
        '<line class="stroke-mark" x1="{0:.1f}" y1="{1}" x2="{0:.1f}" y2="{2}"/>'
        '<text class="mark" x="{3:.1f}" y="{4}" text-anchor="{5}">{6}</text>'
    ).format(x, 14, 24 + height, x + (-5 if anchor == "end" else 5), 12 + 13 * row, anchor, text)


def level_chart(levels: Levels, threshold: int | None, columns: int = 380) -> Markup:
    """Level over time: the mean in each column as an area, the peak as a line; the threshold dashed."""
    if len(levels.level) == 0:
        return Markup("")
    mean, peak = _columns(levels, columns)
    width, height = _WIDTH, _HEIGHT
    top = float(peak.max())
    x = np.linspace(0, width, columns + 1)

    def y(level: float) -> float:
        return _TOP + height * (1 - level / top)

    area = " ".join(f"L{x[i]:.1f} {y(v):.1f}L{x[i + 1]:.1f} {y(v):.1f}" for i, v in enumerate(mean.tolist()))
    line = "".join(f"L{x[i]:.1f} {y(v):.1f}L{x[i + 1]:.1f} {y(v):.1f}" for i, v in enumerate(peak.tolist()))
    foot = _TOP + height
    parts = [
        Markup('<path class="fill-accent-soft" d="M0 {0} {1} L{2} {0}Z"/>').format(foot, area, width),
        Markup('<path class="line-accent" d="M{}"/>').format(line[1:]),
        Markup('<line class="stroke-axis" x1="0" y1="{0}" x2="{1}" y2="{0}"/>').format(foot, width),
        Markup('<text class="tick" x="0" y="12">{}</text>').format(f"at most {top:.0f} at once"),
    ]
    if threshold is not None and threshold <= top:
        parts.append(
            Markup('<line class="stroke-mark" x1="0" y1="{0:.1f}" x2="{1}" y2="{0:.1f}"/>').format(
                y(threshold), width
            )
        )
    total_s = float(levels.time_ns[-1] - levels.time_ns[0]) / _NS_PER_S
    parts += [
        Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="{}">{}</text>').format(
            part * width, foot + 16, _anchor(part), seconds(part * total_s)
        )
        for part in (0, 0.25, 0.5, 0.75, 1)
    ]
    label = f"LLM and TOOL calls running at once over {seconds(total_s)}, at most {top:.0f}"
    return _figure(label, width, foot + 22, parts)


def _columns(levels: Levels, columns: int) -> tuple[Floats, Floats]:
    """Mean and highest level in equal parts of the time, each shape (columns,)."""
    time = (levels.time_ns - levels.time_ns[0]).astype(float)
    border = np.linspace(0, time[-1], columns + 1)
    area = np.concatenate(([0.0], np.cumsum(np.diff(time) * levels.level)))
    mean = np.diff(np.interp(border, time, area)) / (time[-1] / columns)
    first = np.clip(np.searchsorted(time, border[:-1], side="right") - 1, 0, len(levels.level) - 1)
    last = np.clip(np.searchsorted(time, border[1:], side="left") - 1, first, len(levels.level) - 1)
    edges = np.column_stack((first, last + 1)).ravel()
    peak = np.maximum.reduceat(np.append(levels.level, 0), edges)[::2]
    return mean, peak.astype(float)


def _figure(label: str, width: float, height: float, parts: Sequence[Markup]) -> Markup:
    head = Markup('<svg class="chart" role="img" viewBox="0 0 {} {}" aria-label="{}">').format(
        width, height, label
    )
    return head + Markup("").join(parts) + Markup("</svg>")


def _anchor(part: float) -> str:
    return "start" if part == 0 else "end" if part == 1 else "middle"


def seconds(value: float | None) -> str:
    """A duration for people: three digits with the unit that fits."""
    return "–" if value is None else duration(value).replace(" us", " µs")  # noqa: RUF001  # the sign for "no value"
