"""What each segment of a journal holds, kept in SQLite so that it is counted once.

The manifest is a cache: deleting it loses nothing, and only readers write it.
"""

import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

from millstream.store.segments import Segment, State, list_segments, read_lines
from millstream.store.spans import SpanReader


class SegmentSummary(msgspec.Struct, frozen=True):
    """One segment's contents. Times are Unix nanoseconds, null where there is no span."""

    name: str
    state: State
    size: int
    spans: int
    open_spans: int
    rejected: int
    first_start_ns: int | None
    last_end_ns: int | None


def summarise(home: Path) -> list[SegmentSummary]:
    """A summary of every segment of a journal, oldest first. Only new and changed segments are read."""
    segments = list_segments(home)
    if not segments:
        return []
    with closing(_connect(home)) as connection, connection:
        known = _load(connection)
        summaries = [_summary(segment, known.get(segment.path.name)) for segment in segments]
        connection.execute("DELETE FROM segments")
        connection.executemany(
            "INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [(one.name, one.state.value, *msgspec.structs.astuple(one)[2:]) for one in summaries],
        )
    return summaries


def _summary(segment: Segment, known: SegmentSummary | None) -> SegmentSummary:
    if known is not None and segment.state is known.state is State.CLOSED and segment.size == known.size:
        return known
    rejected: Counter[str] = Counter()
    reader = SpanReader(None, rejected)
    count, first, last = 0, None, None
    for span in reader.read(read_lines(segment.path)):
        count += 1
        first = span.start_ns if first is None else min(first, span.start_ns)
        if span.end_ns is not None:
            last = span.end_ns if last is None else max(last, span.end_ns)
    unfinished = sum(1 for _ in reader.still_open(interrupted=segment.state is not State.LIVE))
    return SegmentSummary(
        segment.path.name,
        segment.state,
        segment.size,
        count,
        unfinished,
        rejected.total(),
        first,
        last,
    )


def _load(connection: sqlite3.Connection) -> dict[str, SegmentSummary]:
    rows = connection.execute("SELECT * FROM segments")
    return {row[0]: SegmentSummary(row[0], State(row[1]), *row[2:]) for row in rows}


def _connect(home: Path) -> sqlite3.Connection:
    path = home / "manifest.sqlite"
    path.touch(mode=0o600)
    connection = sqlite3.connect(path, timeout=30)
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    for number, migrate in enumerate(_MIGRATIONS[version:], version + 1):
        migrate(connection)
        connection.execute(f"PRAGMA user_version = {number:d}")
    return connection


def _m001_segments(connection: sqlite3.Connection) -> None:
    connection.execute(
        "CREATE TABLE IF NOT EXISTS segments (name TEXT PRIMARY KEY, state TEXT, size INTEGER, spans INTEGER,"
        " open_spans INTEGER, rejected INTEGER, first_start_ns INTEGER, last_end_ns INTEGER)"
    )


_MIGRATIONS: Final[list[Callable[[sqlite3.Connection], None]]] = [_m001_segments]
