"""Room in a journal: segments that nobody writes any more removed, and what nobody had of them counted."""

import contextlib
import time
from collections import Counter
from pathlib import Path

import msgspec

from millstream.deliver.cursor import Cursor, SinkState, known_sinks, read_state
from millstream.deliver.undelivered import undelivered
from millstream.errors import InputError, MillstreamError, StorageError
from millstream.store.manifest import summarise
from millstream.store.segments import Segment, State, list_segments


class Evicted(msgspec.Struct, frozen=True):
    """What was removed.

    Attributes:
        spans: that ended in the segments.
        undelivered: of them, by sink, those that it had not had.
        over_by: bytes that the journal still has too many, for they are being written or not delivered yet.
    """

    segments: int = 0
    size: int = 0
    spans: int = 0
    undelivered: dict[str, int] = {}
    over_by: int = 0


def evict(
    home: Path,
    *,
    max_bytes: int | None = None,
    max_age_s: float | None = None,
    only_delivered: bool = False,
) -> Evicted:
    """Remove closed segments, the oldest first. Segments that a process writes stay.

    Args:
        home: the folder of recordings.
        max_bytes: remove until the journal is no larger.
        max_age_s: remove what was written to last so many seconds ago, or earlier.
        only_delivered: spare what some sink has not had; without limits, remove all that every sink has had.

    Raises:
        InputError: `only_delivered`, and nothing was ever delivered from here.
        StorageError: a segment cannot be removed.
    """
    segments = list_segments(home)
    states = {name: _state(home, name) for name in known_sinks(home)}
    if only_delivered and not states:
        raise InputError(f"nothing was ever delivered from {home}: no sink is known there")
    left: dict[str, Counter[str]] | None = None
    chosen: list[Segment] = []
    size = sum(segment.size for segment in segments)
    for segment in segments:
        is_old = max_age_s is not None and segment.mtime_ns <= time.time_ns() - max_age_s * 1e9
        is_over = max_bytes is not None and size > max_bytes
        wanted = is_old or is_over or (only_delivered and max_bytes is None and max_age_s is None)
        if not wanted or segment.state is State.LIVE:
            continue
        left = left or {name: undelivered(home, state) for name, state in states.items()}
        if only_delivered and any(counts[segment.path.stem] for counts in left.values()):
            continue
        chosen.append(segment)
        size -= segment.size
    if not chosen:
        return Evicted(over_by=0 if max_bytes is None else max(0, size - max_bytes))
    return _remove(home, chosen, left or {}, 0 if max_bytes is None else max(0, size - max_bytes))


def _state(home: Path, name: str) -> SinkState:
    """What is kept of a sink; where that cannot be read, it has had nothing."""
    with contextlib.suppress(OSError, msgspec.DecodeError):
        return read_state(home, name)
    return SinkState()


def _remove(home: Path, chosen: list[Segment], left: dict[str, Counter[str]], over_by: int) -> Evicted:
    spans = {summary.name: summary.spans for summary in summarise(home)}
    removed = []
    try:
        for segment in chosen:
            segment.path.unlink(missing_ok=True)
            removed.append(segment)
    except OSError as error:
        raise StorageError(f"{error.filename} cannot be removed: {error.strerror}") from error
    finally:
        for sink, counts in left.items():
            _tell(home, sink, {segment.path.stem: counts[segment.path.stem] for segment in removed})
    undelivered_ = {
        sink: n for sink, counts in left.items() if (n := sum(counts[one.path.stem] for one in removed))
    }
    return Evicted(
        segments=len(removed),
        size=sum(segment.size for segment in removed),
        spans=sum(spans.get(segment.path.name, 0) for segment in removed),
        undelivered=undelivered_,
        over_by=over_by,
    )


def _tell(home: Path, sink: str, gone: dict[str, int]) -> None:
    """Count what a sink will never have. Where somebody delivers now, he sees that they are gone."""
    try:
        cursor = Cursor.open(home, sink)
    except MillstreamError:
        return
    for name, count in gone.items():
        cursor.counts.evicted += count
        cursor.finish(name)
    cursor.close()


def told(evicted: Evicted) -> str:
    """What was removed, for people."""
    removed = f"{evicted.segments} segment{'s were' if evicted.segments != 1 else ' was'} removed"
    text = f"{removed} ({evicted.size / 1e6:,.1f} MB, {evicted.spans:,} span{'s' * (evicted.spans != 1)})"
    for sink, count in evicted.undelivered.items():
        text += f"; {count:,} of the spans had not been delivered to {sink}"
    if evicted.over_by:
        over = f"{evicted.over_by / 1e6:,.1f} MB more than max_bytes stay"
        text += f"; {over}: they are being written, or not delivered"
    return text
