"""Small pictures for the report as inline SVG; colours come from the page's stylesheet by class."""

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from millstream.profiler.estimate import Floats
from millstream.profiler.sweep import Levels

_NS_PER_S = 1e9
_WIDTH = 1150.0
_HEIGHT = 160.0
_TOP = 22


def bar(share: float, css_class: str = "fill-accent") -> Markup:
    """A horizontal bar; the number stands beside it as text, so it is hidden from screen readers."""
    width = 100 * min(max(share, 0.0), 1.0)
    return Markup(
        '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="{}" x="0" y="0" width="{:.2f}" height="8"/></svg>'
    ).format(css_class, width)


def spread(p50: float | None, p95: float | None, p99: float | None, low: float, high: float) -> Markup:
    """p50 to p99 on a logarithmic axis from `low` to `high`: a tick at p50, thick to p95, thin to p99."""
    if p50 is None or p95 is None or p99 is None or not 0 < low < high:
        return Markup("")

    def x(value: float) -> float:
        at = (math.log(max(value, low)) - math.log(low)) / (math.log(high) - math.log(low))
        return 1 + 158 * min(at, 1.0)

    return Markup(
        '<svg class="spread" viewBox="0 0 160 12" aria-hidden="true">'
        '<line class="stroke-line" x1="1" y1="6" x2="159" y2="6"/>'
        '<line class="stroke-soft" x1="{0:.1f}" y1="6" x2="{2:.1f}" y2="6"/>'
        '<line class="stroke-thick" x1="{0:.1f}" y1="6" x2="{1:.1f}" y2="6"/>'
        '<line class="stroke-tick" x1="{0:.1f}" y1="1" x2="{0:.1f}" y2="11"/></svg>'
    ).format(x(p50), x(p95), x(p99))


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
    if value is None:
        return "–"  # noqa: RUF001  # the sign for "no value"
    for limit, factor, unit, digits in (
        (1e-3, 1e6, "µs", 0),
        (1, 1e3, "ms", 0),
        (10, 1, "s", 2),
        (100, 1, "s", 1),
    ):
        if value < limit and value > 0:
            return f"{value * factor:.{digits}f} {unit}"
    return "0 s" if value == 0 else f"{value:,.0f} s"
