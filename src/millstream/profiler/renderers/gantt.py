"""`gantt_chart.png`: few requests with a labelled bar a call, many as one row a request.

Above `MAX_CALLS` calls the picture changes from calls to requests; of more than `MAX_REQUESTS` requests it
shows every k-th by run time, so that the shape of the distribution stays. A line on it says what is shown.
"""

import warnings
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from millstream.profiler.engine import Profile
from millstream.profiler.estimate import NS_PER_S
from millstream.profiler.renderers.files import replacing
from millstream.profiler.requests import Requests, item_id, requests
from millstream.span import Status
from millstream.store.table import KINDS, STATUS_CODE, UNKNOWN, Ints, SpanTable

MAX_CALLS = 60
MAX_REQUESTS = 120
_FEW_REQUESTS = 5
_COLOURS = {
    "LLM": "#3b6fb6",
    "TOOL": "#3d9a6c",
    "FUNCTION": "#d98c3f",
    "WORKFLOW": "#c3c9d2",
    "AGENT": "#8a6fc0",
    "CHAIN": "#a9a9c8",
    "RETRIEVER": "#3a9aa8",
}
_OTHER = "#9aa3ad"
_FAILED = "#c0392b"
_WIDTH_IN = 12.0
_LABEL_CHARS = 42
_ITEM_CHARS = 24
_WELL = (UNKNOWN, STATUS_CODE[Status.OK.value])


def write(profile: Profile, path: Path) -> None:
    """Draw and write the file."""
    figure = draw(profile.table)
    with replacing(path) as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a script that the font has not
        figure.savefig(file, format="png", dpi=120)


def draw(table: SpanTable) -> Figure:
    """The picture as a matplotlib figure."""
    closed = np.flatnonzero(table.closed)
    traces = np.unique(table.trace[closed])
    if len(closed) == 0:
        return _empty()
    if (
        len(closed) <= MAX_CALLS
        or len(traces) <= 1
        or (len(traces) <= _FEW_REQUESTS and len(closed) <= 2 * MAX_CALLS)
    ):
        return _calls(table, closed)
    return _requests(table)


def _figure(rows: int, inches_a_row: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH_IN, 1.9 + rows * inches_a_row), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", color="#e3e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0)
    return figure, axes


def _empty() -> Figure:
    figure, axes = _figure(1, 0.4)
    axes.set_axis_off()
    axes.text(
        0.5, 0.5, "No call has ended, so there is nothing to draw.", ha="center", va="center", fontsize=12
    )
    return figure


def _calls(table: SpanTable, closed: Ints) -> Figure:
    """One bar a call in order of start; of too many the longest."""
    limit = 2 * MAX_CALLS
    longest = np.argsort(-table.duration_ns[closed], kind="stable")[:limit]
    rows = np.sort(closed[longest])
    figure, axes = _figure(len(rows), 0.24)
    start_s = (table.start_ns[rows] - int(table.start_ns[rows].min())) / NS_PER_S
    length_s = table.duration_ns[rows] / NS_PER_S
    colours = [_colour(table, row) for row in rows.tolist()]
    edges = [_FAILED if status not in _WELL else "none" for status in table.status[rows].tolist()]
    axes.barh(
        np.arange(len(rows)),
        length_s,
        left=start_s,
        height=0.72,
        color=colours,
        edgecolor=edges,
        linewidth=1.6,
    )
    found = requests(table) if len(np.unique(table.trace[rows])) > 1 else None
    labels = [_label(table, row, found) for row in rows.tolist()]
    axes.set_yticks(np.arange(len(rows)), labels, fontsize=8)
    reach = float((start_s + length_s).max()) or 1.0
    for at, (start, length) in enumerate(zip(start_s.tolist(), length_s.tolist(), strict=True)):
        axes.text(
            start + length + reach * 0.006, at, _seconds(length), va="center", fontsize=7, color="#5b6470"
        )
    axes.set_xlim(0, reach * 1.07)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("seconds since the first start")
    shown = (
        f"{len(rows)} calls"
        if len(rows) == len(closed)
        else f"the {len(rows)} longest of {len(closed)} calls"
    )
    _explain(figure, axes, table, rows, f"{shown}, one row each; red edge: failed, cancelled or interrupted")
    return figure


def _requests(table: SpanTable) -> Figure:
    """One row a request, its calls from its own start, the slowest request at the top."""
    found = requests(table)
    ended = np.flatnonzero(found.run_time_ns >= 0)
    ended = ended[np.argsort(-found.run_time_ns[ended], kind="stable")]
    step = -(-len(ended) // MAX_REQUESTS) if len(ended) else 1
    shown = ended[::step]
    figure, axes = _figure(len(shown), 0.075 if len(shown) > MAX_CALLS else 0.14)
    place = np.full(len(table.trace_ids), -1, np.int64)
    place[shown] = np.arange(len(shown))
    rows = np.flatnonzero(table.closed & (place[table.trace] >= 0))
    rows = rows[np.argsort(table.depth[rows], kind="stable")]
    at = place[table.trace[rows]]
    left = (table.start_ns[rows] - found.start_ns[table.trace[rows]]) / NS_PER_S
    right = left + table.duration_ns[rows] / NS_PER_S
    corners = (left, at - 0.42), (left, at + 0.42), (right, at + 0.42), (right, at - 0.42)
    box = np.stack([np.stack(corner, axis=1) for corner in corners], axis=1)
    colours = to_rgba_array([_COLOURS.get(kind, _OTHER) for kind in KINDS])
    bars = PolyCollection(box, facecolors=colours[table.kind[rows]], linewidths=0)  # type: ignore[arg-type]
    axes.add_collection(bars)
    failed = found.bad[shown]
    axes.plot(
        np.full(int(failed.sum()), 0.0),
        np.flatnonzero(failed),
        "o",
        color=_FAILED,
        markersize=3,
        clip_on=False,
    )
    axes.set_xlim(0, float(right.max()) * 1.02 if len(right) else 1)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    labelled = len(shown) if len(shown) <= MAX_CALLS else 13
    ticks = np.unique(np.linspace(0, len(shown) - 1, labelled).round().astype(int))
    axes.set_yticks(ticks, [_request(table, found, int(shown[tick])) for tick in ticks], fontsize=8)
    axes.set_xlabel("seconds since the start of the request")
    what = (
        f"all {len(shown)} finished requests"
        if step == 1
        else f"{len(shown)} of {len(ended)} finished requests (every {_nth(step)} by run time)"
    )
    _explain(figure, axes, table, rows, f"{what}, slowest first, one row each; red dot: failed or cancelled")
    return figure


def _explain(figure: Figure, axes: Axes, table: SpanTable, rows: Ints, shown: str) -> None:
    kinds = [KINDS[kind] for kind in np.unique(table.kind[rows]).tolist()]
    figure.suptitle("Where the time goes", x=0.01, ha="left", fontsize=14, fontweight="bold")
    axes.set_title(shown, loc="left", fontsize=9, color="#5b6470")
    figure.legend(
        handles=[Patch(color=_COLOURS.get(kind, _OTHER), label=kind) for kind in kinds],
        loc="upper right",
        ncols=len(kinds),
        frameon=False,
        fontsize=8,
    )


def _colour(table: SpanTable, row: int) -> str:
    return _COLOURS.get(KINDS[table.kind[row]], _OTHER)


def _label(table: SpanTable, row: int, found: Requests | None) -> str:
    """A call's name, and of several requests which one it is of."""
    name = _plain(table.names[table.name[row]], _LABEL_CHARS)
    return name if found is None else f"{_request(table, found, int(table.trace[row]))}  {name}"


def _request(table: SpanTable, found: Requests, request: int) -> str:
    item = item_id(table, found, request)
    return f"request {request}" if item is None else f"request {request} · {_plain(item, _ITEM_CHARS)}"


def _plain(text: str, longest: int) -> str:
    """A text that matplotlib shows as it is: `$` would start a formula, control characters are boxes."""
    text = text if len(text) <= longest else text[: longest - 1] + "…"
    return "".join(c if c.isprintable() else "?" for c in text).replace("$", r"\$")


def _seconds(length_s: float) -> str:
    return f"{length_s:.2f} s" if length_s >= 1 else f"{length_s * 1000:.0f} ms"


def _nth(step: int) -> str:
    return {2: "2nd", 3: "3rd"}.get(step, f"{step}th")
