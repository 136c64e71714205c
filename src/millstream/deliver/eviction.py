"""Room in a journal: what nobody writes any more removed, and what nobody had of it counted.

Segments that are in Parquet, too, go first: with them no span goes. Then the oldest go, segments and Parquet
files alike; a Parquet file stays as long as one of its segments, and as what is carried on from it.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from millstream.deliver.cursor import Cursor, SinkState, known_sinks, read_state
from millstream.deliver.undelivered import undelivered
from millstream.errors import InputError, MillstreamError, StorageError
from millstream.store.compacted import FOLDER, Compacted, CompactedFile, compacted
from millstream.store.segments import Segment, State, list_segments
from millstream.store.summaries import summarise


class Evicted(msgspec.Struct, frozen=True):
    """What was removed.

    Attributes:
        size: bytes.
        spans: that ended in the segments.
        undelivered: of them, by sink, those that it had not had.
        over_by: bytes that the journal still has too many, for they are being written or not delivered yet.
        compacted: of the spans, those that are kept in Parquet.
        files: Parquet files that were removed.
    """

    segments: int = 0
    size: int = 0
    spans: int = 0
    undelivered: dict[str, int] = {}
    over_by: int = 0
    compacted: int = 0
    files: int = 0


def evict(
    home: Path,
    *,
    max_bytes: int | None = None,
    max_age_s: float | None = None,
    only_delivered: bool = False,
    only_compacted: bool = False,
) -> Evicted:
    """Remove closed segments and Parquet files. Segments that a process writes stay.

    Args:
        home: the folder of recordings.
        max_bytes: remove until both together are no larger.
        max_age_s: remove what was written to last so many seconds ago, or earlier; a Parquet file, when its
            last span ended then.
        only_delivered: spare segments of which some sink has not had all; without limits, remove the others.
        only_compacted: spare all but segments that are in Parquet; without limits, remove these.

    Raises:
        InputError: `only_delivered`, and nothing was ever delivered from here.
        StorageError: something cannot be removed.
    """
    segments = list_segments(home)
    states = {name: _state(home, name) for name in known_sinks(home)}
    if only_delivered and not states:
        raise InputError(f"nothing was ever delivered from {home}: no sink is known there")
    known = compacted(home)
    left: dict[str, Counter[str]] | None = None
    chosen: list[Segment] = []
    files: list[CompactedFile] = []
    staying = {segment.path.stem for segment in segments}
    size = sum(segment.size for segment in segments) + sum(file.size for file in known.files)
    oldest_ns = None if max_age_s is None else time.time_ns() - max_age_s * 1e9
    every = max_bytes is None and max_age_s is None and (only_delivered or only_compacted)
    for time_ns, item in _in_turn(segments, known, only_compacted=only_compacted):
        is_old = oldest_ns is not None and time_ns <= oldest_ns
        is_over = max_bytes is not None and size > max_bytes
        if not (is_old or is_over or every):
            continue
        if isinstance(item, CompactedFile):
            if not every and known.can_spare(item, staying):
                files.append(item)
                known = known.without(item)
                size -= item.size
            continue
        if item.state is State.LIVE:
            continue
        left = left or {name: undelivered(home, state) for name, state in states.items()}
        if only_delivered and any(counts[item.path.stem] for counts in left.values()):
            continue
        chosen.append(item)
        staying.discard(item.path.stem)
        size -= item.size
    over_by = 0 if max_bytes is None else max(0, size - max_bytes)
    return _remove(home, chosen, files, left or {}, over_by) if chosen or files else Evicted(over_by=over_by)


def _in_turn(
    segments: list[Segment], known: Compacted, *, only_compacted: bool
) -> Iterator[tuple[float, Segment | CompactedFile]]:
    """What may go, in the order in which it goes, and when it was written to last (Unix nanoseconds)."""
    covered = known.segments
    yield from ((one.mtime_ns, one) for one in segments if one.path.stem in covered)
    if not only_compacted:
        others: list[tuple[float, Segment | CompactedFile]] = [
            (one.mtime_ns, one) for one in segments if one.path.stem not in covered
        ]
        others += ((file.covered.last_ns or 0, file) for file in known.files)
        yield from sorted(others, key=lambda pair: pair[0])


def _state(home: Path, name: str) -> SinkState:
    """What is kept of a sink; where that cannot be read, it has had nothing."""
    with contextlib.suppress(OSError, msgspec.DecodeError):
        return read_state(home, name)
    return SinkState()


def _remove(
    home: Path, chosen: list[Segment], files: list[CompactedFile], left: dict[str, Counter[str]], over_by: int
) -> Evicted:
    spans = {summary.name: summary.spans for summary in summarise(home)}
    covered = compacted(home).segments
    removed: list[Segment] = []
    try:
        for segment in chosen:
            segment.path.unlink(missing_ok=True)
            removed.append(segment)
        for file in files:
            for name in (*file.covered.replaces, file.name):
                (home / FOLDER / name).unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"{error.filename} cannot be removed: {error.strerror}") from error
    finally:
        for sink, waiting in left.items():
            _tell(home, sink, {segment.path.stem: waiting[segment.path.stem] for segment in removed})
    undelivered_ = {
        sink: n for sink, waiting in left.items() if (n := sum(waiting[one.path.stem] for one in removed))
    }
    gone = {name for file in files for name in file.covered.segments}
    told_of = {one.path.stem: spans.get(one.path.name, 0) for one in removed if one.path.stem not in gone}
    return Evicted(
        segments=len(removed),
        size=sum(one.size for one in removed) + sum(file.size for file in files),
        spans=sum(told_of.values()) + sum(file.spans for file in files),
        undelivered=undelivered_,
        over_by=over_by,
        compacted=sum(count for name, count in told_of.items() if name in covered),
        files=len(files),
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
    removed = [
        f"{count} {thing}{'s' * (count != 1)}"
        for count, thing in ((evicted.segments, "segment"), (evicted.files, "Parquet file"))
        if count or (thing == "segment" and not evicted.files)
    ]
    was = "was" if evicted.segments + evicted.files == 1 else "were"
    spans = f"{evicted.spans:,} span{'s' * (evicted.spans != 1)}"
    text = f"{' and '.join(removed)} {was} removed ({evicted.size / 1e6:,.1f} MB, {spans})"
    if evicted.compacted:
        are = "is" if evicted.compacted == 1 else "are"
        text += f"; {evicted.compacted:,} of the spans {are} kept in Parquet"
    for sink, count in evicted.undelivered.items():
        text += f"; {count:,} of the spans had not been delivered to {sink}"
    if evicted.over_by:
        over = f"{evicted.over_by / 1e6:,.1f} MB more than max_bytes stay"
        text += f"; {over}: they are being written, or not delivered"
    return text
