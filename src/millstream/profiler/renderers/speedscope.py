"""`trace.speedscope.json`: for https://www.speedscope.app, as evented profiles of its file format.

A request is a profile. Events of a profile must nest: what overlaps its siblings is in further profiles of
the request, named as its lanes. A call without an end lasts until the last known moment of its request.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
    frames, end_ns = _Frames(table), _ends(table)
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
            for one in _profiles(table, rows, name, end_ns, frames):
                file.write((b",\n" if written else b"\n") + json_bytes(one, indent=0))
                written += 1
        rest = {
            "shared": {"frames": [{"name": text} for text in frames.names]},
            "activeProfileIndex": shown_first,
            "name": "millstream",
            "exporter": "millstream",
        }
        file.write(b"\n]," + json_bytes(rest, indent=0)[1:] + b"\n")


class _Frames:
    """Distinct calls by number: kind and name, and how they ended where that was not well."""

    def __init__(self, table: SpanTable) -> None:
        self.names: list[str] = []
        self._table = table
        self._place: dict[tuple[int, int, int, bool], int] = {}

    def __call__(self, row: int) -> int:
        table = self._table
        key = (int(table.kind[row]), int(table.name[row]), int(table.status[row]), bool(table.closed[row]))
        place = self._place.setdefault(key, len(self.names))
        if place == len(self.names):
            kind, name, status, closed = key
            ended = STATUSES[status] if status >= 0 and status != _OK else "" if closed else "open"
            self.names.append(f"{KINDS[kind]} {table.names[name]}{f' [{ended}]' if ended else ''}")
        return place


def _ends(table: SpanTable) -> Ints:
    """When each call ends: one without an end at the last known moment of its request, shape (n,)."""
    last = np.full(len(table.trace_ids), -1, np.int64)
    np.maximum.at(last, table.trace, np.maximum(table.start_ns, table.end_ns))
    return np.where(table.closed, table.end_ns, last[table.trace])


def _profiles(
    table: SpanTable, rows: slice, name: str, end_ns: Ints, frames: _Frames
) -> Iterator[dict[str, Any]]:
    """One profile for each lane of a request."""
    start_ns = int(table.start_ns[rows].min())
    in_lane: dict[int, list[int]] = {}
    for row, lane in enumerate(lanes(table, rows, end_ns), rows.start):
        in_lane.setdefault(lane, []).append(row)
    for lane, members in in_lane.items():
        yield {
            "type": "evented",
            "name": f"{name} lane {lane + 1}" if lane else name,
            "unit": "nanoseconds",
            "startValue": 0,
            "endValue": int(end_ns[rows].max()) - start_ns,
            "events": _events(table, members, end_ns, start_ns, frames),
        }


def _events(
    table: SpanTable, rows: list[int], end_ns: Ints, zero_ns: int, frames: _Frames
) -> list[dict[str, Any]]:
    """Opening and closing of the calls of one lane, in order."""
    events: list[dict[str, Any]] = []
    running: list[tuple[int, int, int]] = []  # row, frame and end

    def close() -> None:
        _, frame, end = running.pop()
        events.append({"type": "C", "frame": frame, "at": end - zero_ns})

    for row in rows:
        while running and not (running[-1][0] == table.parent[row] and end_ns[row] <= running[-1][2]):
            close()
        frame = frames(row)
        events.append({"type": "O", "frame": frame, "at": int(table.start_ns[row]) - zero_ns})
        running.append((row, frame, int(end_ns[row])))
    while running:
        close()
    return events
