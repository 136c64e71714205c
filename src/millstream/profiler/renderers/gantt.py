"""`gantt_chart.png`: few requests with a labelled bar a call, many as one row a request.

Above `MAX_CALLS` calls the picture changes from calls to requests; of more than `MAX_REQUESTS` requests it
shows every k-th by run time, so that the shape of the distribution stays. A line on it says what is shown.
"""

from pathlib import Path

import numpy as np

from millstream.profiler.engine import Profile
from millstream.profiler.estimate import NS_PER_S
from millstream.profiler.renderers import chart, time_axis
from millstream.profiler.renderers.chart import Chart
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
_KINDS = [(kind, _COLOURS.get(kind, "#9aa3ad")) for kind in KINDS]
_TITLE = "Where the time goes"
_FEW_LABELS = 13
_LABEL_CHARS = 42
_ITEM_CHARS = 24
_WELL = (UNKNOWN, STATUS_CODE[Status.OK.value])
_NONE = np.zeros(0, np.int64)


def write(profile: Profile, path: Path) -> None:
    """Draw and write the file."""
    drawn = gantt(profile.table)
    with replacing(path) as file:
        chart.save(chart.draw_text(drawn) if isinstance(drawn, str) else chart.draw(drawn), file)


def gantt(table: SpanTable) -> Chart | str:
    """What is drawn, or why there is nothing to draw."""
    closed = np.flatnonzero(table.closed)
    traces = np.unique(table.trace[closed])
    if len(closed) == 0:
        return "No call has ended, so there is nothing to draw."
    if (
        len(closed) <= MAX_CALLS
        or len(traces) <= 1
        or (len(traces) <= _FEW_REQUESTS and len(closed) <= 2 * MAX_CALLS)
    ):
        return _calls(table, closed)
    return _requests(table)


def _calls(table: SpanTable, closed: Ints) -> Chart:
    """One bar a call in order of start; of too many the longest."""
    longest = np.argsort(-table.duration_ns[closed], kind="stable")[: 2 * MAX_CALLS]
    rows = np.sort(closed[longest])
    start_s = (table.start_ns[rows] - int(table.start_ns[rows].min())) / NS_PER_S
    length_s = table.duration_ns[rows] / NS_PER_S
    found = requests(table) if len(np.unique(table.trace[rows])) > 1 else None
    shown = (
        f"{len(rows)} call{'s' * (len(rows) > 1)}"
        if len(rows) == len(closed)
        else f"the {len(rows)} longest of {len(closed)} calls"
    )
    return Chart(
        title=_TITLE,
        shown=f"{shown}, one row each; red edge: failed, cancelled or interrupted",
        since="the first start",
        kinds=_KINDS,
        labels=[_label(table, row, found) for row in rows.tolist()],
        row_px=29,
        bar_px=21,
        failed_rows=_NONE,
        row=np.arange(len(rows)),
        kind=table.kind[rows],
        start_s=start_s,
        end_s=start_s + length_s,
        lengths=[time_axis.length(value_s) for value_s in length_s.tolist()],
        failed_bars=np.flatnonzero(~np.isin(table.status[rows], _WELL)),
    )


def _requests(table: SpanTable) -> Chart | str:
    """One row a request, its calls from its own start, the slowest request at the top."""
    found = requests(table)
    ended = np.flatnonzero(found.run_time_ns >= 0)
    ended = ended[np.argsort(-found.run_time_ns[ended], kind="stable")]
    if len(ended) == 0:
        return "No request has ended, so there is nothing to draw."
    step = -(-len(ended) // MAX_REQUESTS)
    shown = ended[::step]
    place = np.full(len(table.trace_ids), -1, np.int64)
    place[shown] = np.arange(len(shown))
    rows = np.flatnonzero(table.closed & (place[table.trace] >= 0))
    rows = rows[np.argsort(table.depth[rows], kind="stable")]
    start_s = (table.start_ns[rows] - found.start_ns[table.trace[rows]]) / NS_PER_S
    labels = [""] * len(shown)
    labelled = len(shown) if len(shown) <= MAX_CALLS else _FEW_LABELS
    for at in np.linspace(0, len(shown) - 1, labelled).round().astype(int).tolist():
        labels[at] = _request(table, found, int(shown[at]))
    what = (
        f"all {len(shown)} finished requests"
        if step == 1
        else f"{len(shown)} of {len(ended)} finished requests (every {_nth(step)} by run time)"
    )
    row_px, bar_px = (9, 7) if len(shown) > MAX_CALLS else (17, 14)
    return Chart(
        title=_TITLE,
        shown=f"{what}, slowest first, one row each; red dot: failed or cancelled",
        since="the start of the request",
        kinds=_KINDS,
        labels=labels,
        row_px=row_px,
        bar_px=bar_px,
        failed_rows=np.flatnonzero(found.bad[shown]),
        row=place[table.trace[rows]],
        kind=table.kind[rows],
        start_s=start_s,
        end_s=start_s + table.duration_ns[rows] / NS_PER_S,
        lengths=(),
        failed_bars=_NONE,
    )


def _label(table: SpanTable, row: int, found: Requests | None) -> str:
    """A call's name, and of several requests which one it is of."""
    name = _plain(table.names[table.name[row]], _LABEL_CHARS)
    return name if found is None else f"{_request(table, found, int(table.trace[row]))}  {name}"


def _request(table: SpanTable, found: Requests, request: int) -> str:
    item = item_id(table, found, request)
    return f"request {request}" if item is None else f"request {request} · {_plain(item, _ITEM_CHARS)}"


def _plain(text: str, longest: int) -> str:
    """A text of one line, with `?` for what has no shape."""
    text = text if len(text) <= longest else text[: longest - 1] + "…"
    return "".join(c if c.isprintable() else "?" for c in text)


def _nth(step: int) -> str:
    return {2: "2nd", 3: "3rd"}.get(step, f"{step}th")
