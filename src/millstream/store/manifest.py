"""What each segment of a journal holds, kept in SQLite so that it is counted once.

The manifest is a cache: deleting it loses nothing, only readers write it, and where it cannot be read or
written they count anew.
"""

import contextlib
import sqlite3
from collections import Counter, defaultdict
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

from millstream.store.blobs import span_lines
from millstream.store.segments import Segment, State, list_segments
from millstream.store.spans import SpanReader


class SegmentSummary(msgspec.Struct, frozen=True):
    """One segment's contents. Times are Unix nanoseconds, null where there is no span.

    Attributes:
        spans: that ended here.
        open_spans: that began here and have ended nowhere.
    """

    name: str
    state: State
    size: int
    spans: int
    open_spans: int
    rejected: int
    first_start_ns: int | None
    last_end_ns: int | None


class _Counted(msgspec.Struct, frozen=True):
    """What is kept of a segment: its summary on its own, and what ties it to others of its process.

    `unended` are ids of spans that began here and did not end here, `unopened` of those that only ended here.
    """

    summary: SegmentSummary
    unended: frozenset[str]
    unopened: frozenset[str]


def summarise(home: Path) -> list[SegmentSummary]:
    """A summary of every segment of a journal, oldest first. Only new and changed segments are read."""
    segments = list_segments(home)
    if not segments:
        return []
    path = home / "manifest.sqlite"
    known = _load(path)
    counted = [_count(segment, known.get(segment.path.name)) for segment in segments]
    if counted != list(known.values()):
        _save(path, counted)
    ended: defaultdict[str, set[str]] = defaultdict(set)
    for segment, one in zip(segments, counted, strict=True):
        ended[segment.writer] |= one.unopened
    return [
        msgspec.structs.replace(one.summary, open_spans=len(one.unended - ended[segment.writer]))
        for segment, one in zip(segments, counted, strict=True)
    ]


def _count(segment: Segment, known: _Counted | None) -> _Counted:
    if (
        known is not None
        and segment.state is known.summary.state is State.CLOSED
        and segment.size == known.summary.size
    ):
        return known
    rejected: Counter[str] = Counter()
    unopened: set[str] = set()
    reader = SpanReader(None, rejected, unopened)
    count, first, last = 0, None, None
    for span in reader.read(span_lines(segment.path), growing=segment.state is State.LIVE):
        count += 1
        first = span.start_ns if first is None else min(first, span.start_ns)
        if span.end_ns is not None:
            last = span.end_ns if last is None else max(last, span.end_ns)
    unended = frozenset(reader.open_ids)
    summary = SegmentSummary(
        segment.path.name,
        segment.state,
        segment.size,
        count,
        len(unended),
        rejected.total(),
        first,
        last,
    )
    return _Counted(summary, unended, frozenset(unopened))


# The cache

_VERSION: Final = 2
"""Of the table below; one of another version is made anew."""
_TABLE: Final = "CREATE TABLE segments (name TEXT PRIMARY KEY, counted BLOB NOT NULL)"
_decode: Final = msgspec.json.Decoder(_Counted).decode


def _load(path: Path) -> dict[str, _Counted]:
    """What was kept, in order; nothing where it cannot be read."""
    if not path.is_file():
        return {}
    try:
        with closing(_connect(path)) as connection:
            rows = connection.execute("SELECT name, counted FROM segments ORDER BY rowid").fetchall()
        return {name: _decode(counted) for name, counted in rows}
    except (sqlite3.Error, OSError, msgspec.DecodeError):
        return {}


def _save(path: Path, counted: list[_Counted]) -> None:
    try:
        try:
            _write(path, counted)
        except sqlite3.OperationalError:
            return  # somebody else holds it, the disk is full, or it may not be written
        except sqlite3.DatabaseError:  # it is broken
            path.unlink()
            _write(path, counted)
    except (sqlite3.Error, OSError):
        return


def _write(path: Path, counted: list[_Counted]) -> None:
    path.touch(mode=0o600)
    with closing(_connect(path)) as connection, connection:
        connection.execute("DELETE FROM segments")
        connection.executemany(
            "INSERT INTO segments VALUES (?, ?)",
            [(one.summary.name, msgspec.json.encode(one)) for one in counted],
        )


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=5)
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version != _VERSION:
            with connection:
                connection.execute("DROP TABLE IF EXISTS segments")
                connection.execute(_TABLE)
                connection.execute(f"PRAGMA user_version = {_VERSION:d}")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.close()
        raise
    return connection
