"""A chart of bars over time as a picture: text in FreeType's hinting, bars by the pixels they cover.

DejaVu Sans is in `fonts/`, so that a picture is the same wherever it is drawn; see decision 24.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Final, NamedTuple

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from millstream.profiler.estimate import Floats
from millstream.profiler.renderers import time_axis
from millstream.store.table import Ints

WIDTH: Final = 1440
FAILED: Final = "#c0392b"
_DPI = 120
_QUICK = 3
"""Of zlib's levels 1 to 9: two thirds of the time of the usual 6, a third more bytes."""
_FONTS = Path(__file__).parent / "fonts"
_TEXT = "#000000"
_FAINT = "#5b6470"
_GRID = "#e3e6ea"
_MARGIN = 18
_RIGHT = 26
_WIDEST_LABEL = 620
_GAP = 8
"""Between a bar and what is written beside it."""
_TITLE_AT, _SHOWN_AT, _LEGEND_AT = 30, 56, 82
"""Base lines; the legend's first."""
_LEGEND_LINE = 22
_SWATCH = 24
_BELOW = 66
"""Height of the axis with its numbers and its name."""
_DOT = 7
_FINE = 4
"""Parts of a pixel that narrow bars are painted in."""


@dataclass(frozen=True, slots=True, eq=False)
class Chart:
    """Bars over time in rows, and what is said around them.

    Attributes:
        title: the head line.
        shown: the line under it.
        since: what the time is counted from.
        kinds: of bars, each with its colour; the legend names those that are there.
        labels: one a row; "" is none.
        row_px: from one row to the next.
        bar_px: height of a bar.
        failed_rows: rows that have a red dot.
        row: of each bar; later bars are painted over earlier ones.
        kind: of each bar, its place in `kinds`.
        start_s: of each bar.
        end_s: of each bar.
        lengths: what is written beside each bar; empty where nothing is.
        failed_bars: bars that have a red edge.
    """

    title: str
    shown: str
    since: str
    kinds: Sequence[tuple[str, str]]
    labels: Sequence[str]
    row_px: int
    bar_px: int
    failed_rows: Ints
    row: Ints
    kind: Ints
    start_s: Floats
    end_s: Floats
    lengths: Sequence[str]
    failed_bars: Ints


class _Plot(NamedTuple):
    """Where the bars are drawn, pixels."""

    left: int
    top: int
    width: int
    height: int
    px_per_s: float

    def x(self, moment_s: float) -> int:
        return self.left + round(moment_s * self.px_per_s)


def draw(chart: Chart) -> Image.Image:
    """The picture of a chart."""
    kinds = [chart.kinds[kind] for kind in np.unique(chart.kind).tolist()]
    legend = _legend(kinds)
    labels = [_fitting(label) for label in chart.labels]
    plot = _plot(chart, labels, _LEGEND_AT + legend[-1].line * _LEGEND_LINE + 14)
    canvas = Image.new("RGB", (WIDTH, plot.top + plot.height + _BELOW), "white")
    pen = ImageDraw.Draw(canvas)
    canvas.paste(_bars(chart, plot), (plot.left, plot.top))
    pen.text((_MARGIN, _TITLE_AT), chart.title, _TEXT, font(23, bold=True), anchor="ls")
    pen.text((_MARGIN, _SHOWN_AT), chart.shown, _FAINT, font(15), anchor="ls")
    for entry in legend:
        y = _LEGEND_AT + entry.line * _LEGEND_LINE
        pen.rectangle((entry.x, y - 10, entry.x + _SWATCH - 1, y), entry.colour)
        pen.text((entry.x + _SWATCH + _GAP, y), entry.name, _TEXT, font(13), anchor="ls")
    middles = [plot.top + row * chart.row_px + chart.row_px // 2 for row in range(len(labels))]
    for middle, label in zip(middles, labels, strict=True):
        pen.text((plot.left - _GAP, middle), label, _TEXT, font(13), anchor="rm")
    _beside(chart, plot, pen)
    _axis(chart, plot, pen)
    dot = _dot()
    for row in chart.failed_rows.tolist():
        canvas.paste(FAILED, (plot.left - _DOT // 2, middles[row] - _DOT // 2), dot)
    return canvas


def draw_text(text: str) -> Image.Image:
    """A picture that says in one line why there is nothing else on it."""
    canvas = Image.new("RGB", (WIDTH, 276), "white")
    ImageDraw.Draw(canvas).text((WIDTH // 2, 138), text, _TEXT, font(20), anchor="mm")
    return canvas


def save(picture: Image.Image, file: IO[bytes]) -> None:
    """Write a picture as PNG."""
    picture.save(file, "PNG", dpi=(_DPI, _DPI), compress_level=_QUICK)


@cache
def font(size_px: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans; the bold one has ASCII only."""
    return ImageFont.truetype(_FONTS / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"), size_px)


def _fitting(label: str) -> str:
    """A label that is not wider than labels may be."""
    if font(13).getlength(label) <= _WIDEST_LABEL:
        return label
    fits = next(n for n in range(len(label), 0, -1) if font(13).getlength(label[:n] + "…") <= _WIDEST_LABEL)
    return label[:fits] + "…"


class _Entry(NamedTuple):
    name: str
    colour: str
    x: int
    line: int


def _legend(kinds: Sequence[tuple[str, str]]) -> list[_Entry]:
    """Where each name of the legend stands; what does not fit is on a further line."""
    entries, x, line = [], _MARGIN, 0
    for name, colour in kinds:
        width = _SWATCH + _GAP + round(font(13).getlength(name))
        if x > _MARGIN and x + width > WIDTH - _MARGIN:
            x, line = _MARGIN, line + 1
        entries.append(_Entry(name, colour, x, line))
        x += width + _SWATCH
    return entries


def _plot(chart: Chart, labels: Sequence[str], top: int) -> _Plot:
    left = _MARGIN + round(max(map(font(13).getlength, labels))) + _GAP
    width = WIDTH - _RIGHT - left
    end_s = float(chart.end_s.max())
    if end_s <= 0:
        px_per_s = width / 1.07
    elif chart.lengths:
        room = [width - 2 * _GAP - font(12).getlength(text) for text in chart.lengths]
        px_per_s = min(room / end for room, end in zip(room, chart.end_s.tolist(), strict=True) if end > 0)
    else:
        px_per_s = width / (1.02 * end_s)
    return _Plot(left, top, width, len(labels) * chart.row_px, px_per_s)


def _bars(chart: Chart, plot: _Plot) -> Image.Image:
    """The grid and the bars: whole pixels where each has a row of its own, else parts of pixels."""
    fine = 1 if chart.lengths else _FINE
    first, after = _reach(chart, plot, fine)
    colours = ["white", _GRID, *(colour for _, colour in chart.kinds)]
    rows = len(chart.labels)
    cells = np.zeros((rows + 1, plot.width * fine), np.uint8)  # the last one: what is between the bars
    for moment_s, _ in time_axis.ticks(plot.width / plot.px_per_s):
        x = (plot.x(moment_s) - plot.left) * fine
        cells[:, x : x + fine] = 1
    for row, colour, x, end in zip(
        chart.row.tolist(), (chart.kind + 2).tolist(), first.tolist(), after.tolist(), strict=True
    ):
        cells[row, x:end] = colour
    painted = Image.fromarray(cells)
    painted.putpalette([part for colour in colours for part in ImageColor.getrgb(colour)])
    lines = np.asarray(painted.convert("RGB").reduce((fine, 1)))
    pixels = np.empty((rows, chart.row_px, plot.width, 3), np.uint8)
    pixels[:] = lines[-1]
    above = (chart.row_px - chart.bar_px) // 2
    pixels[:, above : above + chart.bar_px] = lines[:-1, None]
    return Image.fromarray(pixels.reshape(plot.height, plot.width, 3))


def _reach(chart: Chart, plot: _Plot, fine: int) -> tuple[Ints, Ints]:
    """The first part of a pixel that each bar takes, and the first behind it; at least one is taken."""
    width = plot.width * fine
    first = np.clip(np.rint(chart.start_s * plot.px_per_s * fine), 0, width - 1).astype(np.int64)
    after = np.clip(np.rint(chart.end_s * plot.px_per_s * fine), first + 1, width).astype(np.int64)
    return first, after


def _beside(chart: Chart, plot: _Plot, pen: ImageDraw.ImageDraw) -> None:
    """Red edges, and the text beside each bar."""
    first, after = _reach(chart, plot, 1)
    top = plot.top + chart.row * chart.row_px + (chart.row_px - chart.bar_px) // 2
    for bar in chart.failed_bars.tolist():
        x, y, end = plot.left + int(first[bar]), int(top[bar]), plot.left + int(after[bar])
        pen.rectangle((x - 1, y - 1, end, y + chart.bar_px), outline=FAILED, width=3)
    for bar, text in enumerate(chart.lengths):
        at = plot.left + int(after[bar]) + _GAP, int(top[bar]) + chart.bar_px // 2
        pen.text(at, text, _FAINT, font(12), anchor="lm", stroke_width=2, stroke_fill="white")


def _axis(chart: Chart, plot: _Plot, pen: ImageDraw.ImageDraw) -> None:
    y, end_s = plot.top + plot.height, plot.width / plot.px_per_s
    pen.line((plot.left, y, plot.left + plot.width, y), _TEXT)
    for moment_s, number in time_axis.ticks(end_s):
        x = plot.x(moment_s)
        pen.line((x, y, x, y + 5), _TEXT)
        pen.text((x, y + 23), number, _TEXT, font(14), anchor="ms")
    name = f"{time_axis.unit(end_s).name} since {chart.since}"
    pen.text((plot.left + plot.width // 2, y + 48), name, _TEXT, font(14), anchor="ms")


def _dot() -> Image.Image:
    """A round mask with smooth edges."""
    large = Image.new("L", (_DOT * 8, _DOT * 8))
    ImageDraw.Draw(large).ellipse((0, 0, _DOT * 8 - 1, _DOT * 8 - 1), 255)
    return large.reduce(8)
