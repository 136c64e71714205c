"""The spans of one process, read from its segments one after another, and what of them is settled."""

import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import msgspec

from millstream.deliver.ahead import Ahead
from millstream.deliver.cursor import Cursor, Place
from millstream.record import faults
from millstream.span import Span
from millstream.store.blobs import BLOB, BlobReader
from millstream.store.following import Lines
from millstream.store.merge import Merger
from millstream.store.segments import may_go_on
from millstream.store.spans import NotWholeError, Opening, SpanReader

_LOGFIRE: Final = b"logfire"
"""Stands in spans whose inputs are compared where duplicates are merged."""
_BEGINNING_S: Final = 60
"""A segment without content that nobody holds may be one that was begun just now; not for so long."""
_UNREADABLE: Final = "a recording cannot be read; it is delivered when it can"


class Item(msgspec.Struct, frozen=True, gc=False):
    """A span to be delivered, and what to say when it is settled."""

    span: Span
    place: Place


class _Segment:
    """One of those that were read, and are not done.

    Attributes:
        known: up to where it was read before this process; what is not owed there is settled.
        open: spans that began here and have not ended.
        awaited: spans that began here, ended in a later segment, and are not settled.
        endings: of earlier segments that spans began in which ended here: which, and where.
    """

    __slots__ = ("awaited", "endings", "known", "name", "open", "path", "progress")

    def __init__(self, folder: Path, name: str, cursor: Cursor) -> None:
        self.name = name
        self.path = folder / f"{name}.jsonl"
        self.progress = cursor.progress(name)
        self.known = self.progress.read
        self.open = 0
        self.awaited = 0
        self.endings: list[tuple[_Segment, int]] = []


class Stream:
    """Reads on in the segments of one process.

    After a restart all segments that are not done are read again from their beginnings, so that what is
    merged, and into what, is decided as before; what is settled already is passed over then, and its large
    values are not looked for.

    Args:
        writer: the process, as its segments name it.
        folder: of the segments.
        cursor: what is settled.
        newer: looks for new segments, and tells this stream of them by `add`.
        between: called after each part of a file that is read.
        rejected: counts, by reason, of lines that are no spans; added to.
        merged: counts, by kind, of spans that were one call with another; added to.

    Attributes:
        ended: whether the process is dead, and all its spans were given.
    """

    def __init__(
        self,
        writer: str,
        folder: Path,
        cursor: Cursor,
        *,
        newer: Callable[[], object],
        between: Callable[[], object],
        rejected: Counter[str],
        merged: Counter[str],
    ) -> None:
        self.ended = False
        self._writer = writer
        self._folder = folder
        self._cursor = cursor
        self._newer = newer
        self._between = between
        self._rejected = rejected
        self._merged = merged
        self._new_rejected: Counter[str] = Counter()
        self._merger = Merger(Counter(), gone=self._gone)
        self._blobs = BlobReader(self._new_rejected)
        self._reader = SpanReader(None, self._new_rejected, watcher=self, blobs=self._blobs)
        self._next: deque[str] = deque()
        """Segments that were not begun."""
        self._segments: dict[str, _Segment] = {}
        self._current: _Segment | None = None
        self._before: _Segment | None = None
        self._lines: Lines | None = None
        """Of the current segment."""
        self._batch: deque[tuple[int, bytes]] = deque()
        """Lines that were taken from it."""
        self._offset = 0
        """Of the line that is read."""
        self._live = False
        self._began: dict[str, tuple[_Segment, int]] = {}
        """Where the open spans began, by id."""
        self._pending: dict[int, tuple[Place, list[Place]]] = {}
        """Of the spans that the merger holds, by their `id()`: where they are, and what is owed of them and
        of those that went into them."""
        self._ready: deque[Item] = deque()
        self._given: dict[Place, list[Place]] = {}
        """What is settled with the spans that were given."""
        self._awaiting: dict[Place, _Segment] = {}
        """Of spans that began in another segment than they ended in: the former."""
        self._ahead: Ahead | None = None

    def add(self, name: str) -> None:
        """There is a segment that follows those that are known."""
        self._next.append(name)
        self.ended = False

    def read(self, limit: int) -> list[Item]:
        """The next spans, at most so many."""
        ready, batch = self._ready, self._batch
        while len(ready) < limit and (batch or self._more()):
            offset, line = batch.popleft()
            if line.startswith(BLOB):
                self._blobs.note(offset, line)
                continue
            try:
                self._take(offset, line)
            except NotWholeError:
                batch.clear()
                self._lines.go_back(offset)  # type: ignore[union-attr]  # the batch is of it
                break
        return [ready.popleft() for _ in range(min(limit, len(ready)))]

    def settle(self, place: Place) -> None:
        """A span that was given need not be given again."""
        self._settle(self._given.pop(place, ()))

    def keep_progress(self) -> None:
        """Tell the cursor how far this came."""
        if (segment := self._current) is not None and self._lines is not None:
            segment.progress.read = max(segment.progress.read, self._here(self._lines))
        for segment in list(self._segments.values()):
            if segment is not self._current and not (
                segment.open or segment.awaited or segment.progress.owed
            ):
                self._finish(segment)

    def _finish(self, segment: _Segment) -> None:
        """A segment is not read again; others are, in which began what ended here, or what is open."""
        del self._segments[segment.name]
        self._cursor.finish(segment.name)
        for earlier, offset in segment.endings:
            earlier.progress.closed.add(offset)
        for opening in self._reader.openings:
            began, _ = self._began[opening.span_id]
            began.progress.parents.update(self._merger.gone_parents([opening]))

    def left(self) -> int:
        """How many spans have ended, or were interrupted, and are not settled."""
        owed = sum(len(segment.progress.owed) for segment in self._segments.values())
        owed += sum(len(known.owed) for name in self._next if (known := self._cursor.segments.get(name)))
        if self.ended:
            return owed
        return owed + self._count_ahead()

    def _here(self, lines: Lines) -> int:
        return self._batch[0][0] if self._batch else lines.offset

    @property
    def is_done(self) -> bool:
        """Whether nothing of it is left."""
        return self.ended and not self._segments

    def close(self) -> None:
        """Let go of the files."""
        if self._lines is not None:
            self._lines.close()
        self._blobs.close()

    # Told by the reader

    def opened(self, span: Opening | Span) -> None:
        """A span began in the line that is being read."""
        if span.span_id in self._began:
            self._forget_opening(span)
        segment = self._current
        assert segment is not None  # noqa: S101  # for mypy
        segment.open += 1
        self._began[span.span_id] = (segment, self._offset)
        self._merger.opened(span)

    def dropped(self, span: Span) -> None:
        """A span that began will not come."""
        self._forget_opening(span)
        self._merger.dropped(span)
        self._give(self._merger.released())

    def _forget_opening(self, span: Opening | Span) -> _Segment | None:
        """A span is no longer open; the segment that it began in, if that was another than this one."""
        began = self._began.pop(span.span_id, None)
        if began is None:
            return None
        segment, _ = began
        segment.open -= 1
        if segment is self._current:
            return None
        if self._current is not None:
            self._current.endings.append(began)
        return segment

    # Reading

    def _more(self) -> bool:
        """Take lines of the current segment, or of those after it; whether there are any now."""
        while True:
            if self._current is None and not self._begin_next():
                return False
            lines = self._lines
            assert lines is not None  # noqa: S101  # for mypy
            try:
                live = lines.is_written()  # first: what is written in between belongs to what is read
                batch = lines.take(live=live)
                waits = not batch and (self._is_beginning(lines) if not live else not self._is_sealed(lines))
            except FileNotFoundError:
                self._evicted()
                continue
            except OSError as error:
                faults.swallow(error, _UNREADABLE)
                return False
            if batch:
                self._batch.extend(batch)
                self._live = live
                self._between()
                return True
            self.close()
            if waits:
                return False
            self._leave()

    def _begin_next(self) -> bool:
        if not self._next:
            if self.ended:
                return False
            self._newer()
        if not self._next:
            if not may_go_on(self._writer):
                self._end()
            return False
        segment = _Segment(self._folder, self._next.popleft(), self._cursor)
        self._segments[segment.name] = self._current = segment
        self._lines = Lines(segment.path)
        self._blobs.begin(segment.path)
        self._merger.remember(segment.progress.parents)
        return True

    def _leave(self) -> None:
        """The current segment was read to its end."""
        self.keep_progress()
        if self._before is not None:  # a span may refer to the blobs of the segment before, not to older ones
            self._blobs.forget(self._before.path)
        self._before, self._current, self._lines = self._current, None, None

    def _is_sealed(self, lines: Lines) -> bool:
        """Whether a segment that seems to be held was cut to its end: some file systems have no locks."""
        return bool(self._next) and lines.offset >= lines.size()

    def _is_beginning(self, lines: Lines) -> bool:
        if lines.size() or self._next:
            return False
        return lines.age_s(time.time()) < _BEGINNING_S or may_go_on(self._writer)

    def _evicted(self) -> None:
        """The current segment was removed; what was not read of it is gone."""
        segment = self._current
        assert segment is not None  # noqa: S101  # for mypy
        kept = [*(owed for _, owed in self._pending.values()), *self._given.values()]
        here = {place for owed in kept for place in owed}
        gone = {offset for offset in segment.progress.owed if Place(segment.name, offset) not in here}
        segment.progress.owed -= gone
        unread = 0 if self._ahead is None else self._ahead.counts.pop(segment.name, 0)
        self._cursor.counts.evicted += len(gone) + unread
        self.close()
        self._leave()

    def _take(self, offset: int, line: bytes) -> None:
        segment = self._current
        assert segment is not None  # noqa: S101  # for mypy
        is_new = offset >= segment.known
        is_owed = is_new or offset in segment.progress.owed
        if offset in segment.progress.closed:
            return
        self._offset = offset
        span = self._reader.take(line, growing=self._live, whole=is_owed or _LOGFIRE in line)
        if span is not None:
            began = self._forget_opening(span)
            place = Place(segment.name, offset)
            if is_new and self._ahead is not None:
                self._ahead.passed(place)
            if is_owed:
                segment.progress.owed.add(offset)
                if began is not None:
                    began.awaited += 1
                    self._awaiting[place] = began
            self._ended(span, place, is_owed=is_owed)
        if self._new_rejected:
            if is_new:
                self._rejected.update(self._new_rejected)
            self._new_rejected.clear()

    def _ended(self, span: Span, place: Place, *, is_owed: bool) -> None:
        self._pending[id(span)] = (place, [place] if is_owed else [])
        self._give(self._merger.ended(span))

    def _end(self) -> None:
        """The process is dead: give what was open in it, and what was held."""
        for span in self._reader.still_open(interrupted=True):
            segment, offset = self._began.pop(span.span_id)
            segment.open -= 1
            owed = segment.progress.owed
            if not segment.progress.over:
                owed.add(offset)
            self._ended(span, Place(segment.name, offset), is_owed=offset in owed)
        self._give(self._merger.rest())
        for segment in self._segments.values():
            segment.progress.over = True
        self.ended = True

    # Settling

    def _gone(self, inner: Span, outer: Span | None) -> None:
        """A span went into another, or into one that was given: it is settled with it, or now."""
        _, owed = self._pending.pop(id(inner))
        if owed:
            self._merged[inner.kind.value] += 1
        if outer is not None:
            self._pending[id(outer)][1].extend(owed)
        else:
            self._settle(owed)

    def _give(self, spans: Iterable[Span]) -> None:
        for span in spans:
            place, owed = self._pending.pop(id(span))
            if owed:
                self._given[place] = owed
                self._ready.append(Item(span, place))

    def _settle(self, places: Iterable[Place]) -> None:
        for place in places:
            segment = self._segments.get(place.segment)
            if segment is not None:
                segment.progress.owed.discard(place.offset)
            if self._awaiting and (began := self._awaiting.pop(place, None)) is not None:
                began.awaited -= 1

    # Counting

    def _count_ahead(self) -> int:
        self.keep_progress()
        here, names = Place("", 0), list(self._next)
        if self._current is not None and self._lines is not None:
            here = Place(self._current.name, self._here(self._lines))
            names.insert(0, here.segment)
        elif self._before is not None:
            here = Place(self._before.name, sys.maxsize)
        if self._ahead is None or self._ahead.at < here:
            self._ahead = Ahead(self._folder, here, self._reader.open_ids, self._between)
        known = self._cursor.segments
        self._ahead.count(names, known)
        count = self._ahead.counts.total()
        if self._ahead.is_written or may_go_on(self._writer):
            return count
        is_over = any(known[name].over for name in (*self._segments, *self._next) if name in known)
        return count + (0 if is_over else len(self._ahead.open_ids))
