"""`trace.speedscope.json`: for https://www.speedscope.app, as evented profiles of its file format.

A request is a profile. Events of a profile must nest: what overlaps its siblings is in further profiles of
the request, named as its lanes. A call without an end lasts until the last known moment of its request.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from millstream.profiler.engine import Profile
from millstream.profiler.renderers.files import json_bytes, replacing
from millstream.profiler.renderers.lanes import lanes
from millstream.profiler.requests import item_id, requests
from millstream.store.table import KINDS, STATUS_CODE, STATUSES, Ints, SpanTable

_SCHEMA = "https://www.speedscope.app/file-format-schema.json"
_OK = STATUS_CODE["ok"]


def write(profile: Profile, path: Path) -> None:
    """Write the file. Times are nanoseconds since the request's first span; the slowest is shown first."""
    table = profile.table
    found = requests(table)
    end_ns = _ends(table)
    names, frame = _frames(table)
    calls = _Calls(table.parent.tolist(), table.start_ns.tolist(), end_ns.tolist(), frame)
    bounds = table.bounds().tolist()
    slowest = int(found.run_time_ns.argmax()) if len(table) else -1
    written, shown_first = 0, 0
    with replacing(path) as file:
        file.write(b'{"$schema":"%s","profiles":[' % _SCHEMA.encode())
        for request in np.flatnonzero(found.recorded).tolist():
            shown_first = written if request == slowest else shown_first
            item = item_id(table, found, request)
            name = f"request {request}{f' · {item}' if item else ''} ({table.trace_ids[request]})"
            rows = slice(bounds[request], bounds[request + 1])
            for one in _profiles(rows, lanes(table, rows, end_ns), name, calls):
                file.write((b",\n" if written else b"\n") + json_bytes(one, indent=0))
                written += 1
        rest = {
            "shared": {"frames": [{"name": text} for text in names]},
            "activeProfileIndex": shown_first,
            "name": "millstream",
            "exporter": "millstream",
        }
        file.write(b"\n]," + json_bytes(rest, indent=0)[1:] + b"\n")


class _Calls(NamedTuple):
    """Columns of the table as lists, by row; `frame` is a position in the names of `_frames`."""

    parent: list[int]
    start_ns: list[int]
    end_ns: list[int]
    frame: list[int]


def _frames(table: SpanTable) -> tuple[list[str], list[int]]:
    """Distinct calls: kind and name, and how they ended where that was not well; and which each row is."""
    sizes = (len(KINDS), len(STATUSES) + 1, 2, len(table.names) + 1)
    columns = (table.kind, table.status + 1, table.closed.astype(np.int64), table.name)
    distinct, frame = np.unique(np.ravel_multi_index(columns, sizes), return_inverse=True)
    names = []
    for kind, status, closed, name in zip(*np.unravel_index(distinct, sizes), strict=True):
        ended = STATUSES[status - 1] if status and status - 1 != _OK else "" if closed else "open"
        names.append(f"{KINDS[kind]} {table.names[name]}{f' [{ended}]' if ended else ''}")
    return names, frame.tolist()


def _ends(table: SpanTable) -> Ints:
    """When each call ends: one without an end at the last known moment of its request, shape (n,)."""
    last = np.full(len(table.trace_ids), -1, np.int64)
    np.maximum.at(last, table.trace, np.maximum(table.start_ns, table.end_ns))
    return np.where(table.closed, table.end_ns, last[table.trace])


def _profiles(rows: slice, lane: list[int], name: str, calls: _Calls) -> Iterator[dict[str, Any]]:
    """One profile for each lane of a request."""
    zero_ns, last_ns = min(calls.start_ns[rows]), max(calls.end_ns[rows])
    in_lane: dict[int, list[int]] = {}
    for row, number in enumerate(lane, rows.start):
        in_lane.setdefault(number, []).append(row)
    for number, members in in_lane.items():
        yield {
            "type": "evented",
            "name": f"{name} lane {number + 1}" if number else name,
            "unit": "nanoseconds",
            "startValue": 0,
            "endValue": last_ns - zero_ns,
            "events": _events(members, zero_ns, calls),
        }


def _events(rows: list[int], zero_ns: int, calls: _Calls) -> list[dict[str, Any]]:
    """Opening and closing of the calls of one lane, in order."""
    events: list[dict[str, Any]] = []
    running: list[int] = []

    def close() -> None:
        row = running.pop()
        events.append({"type": "C", "frame": calls.frame[row], "at": calls.end_ns[row] - zero_ns})

    for row in rows:
        while running and not (
            running[-1] == calls.parent[row] and calls.end_ns[row] <= calls.end_ns[running[-1]]
        ):
            close()
        events.append({"type": "O", "frame": calls.frame[row], "at": calls.start_ns[row] - zero_ns})
        running.append(row)
    while running:
        close()
    return events
