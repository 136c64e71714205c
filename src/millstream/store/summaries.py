"""What each segment of a journal holds, counted once and kept in the manifest."""

import contextlib
from collections import Counter, defaultdict
from pathlib import Path

import msgspec

from millstream.store import manifest
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
    known = manifest.load(home, "segments", _Counted)
    counted: dict[str, _Counted] = {}
    for segment in segments:
        with contextlib.suppress(FileNotFoundError):  # it was removed just now
            counted[segment.path.name] = _count(segment, known.get(segment.path.name))
    segments = [segment for segment in segments if segment.path.name in counted]
    if counted != known:
        manifest.save(home, "segments", counted)
    ended: defaultdict[str, set[str]] = defaultdict(set)
    for segment, one in zip(segments, counted.values(), strict=True):
        ended[segment.writer] |= one.unopened
    return [
        msgspec.structs.replace(one.summary, open_spans=len(one.unended - ended[segment.writer]))
        for segment, one in zip(segments, counted.values(), strict=True)
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
