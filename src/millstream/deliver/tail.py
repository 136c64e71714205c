"""Reading on in a journal: every span that ended once, translated and merged, whoever recorded it."""

import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from millstream.deliver.cursor import Cursor, Place
from millstream.deliver.stream import Item, Stream
from millstream.record import faults

__all__ = ["Item", "Tail"]

_SUFFIX: Final = ".jsonl"
_SURE_S: Final = 2.0
"""A folder that was changed less than so long ago may have changed twice in one tick of its clock."""
_UNREADABLE: Final = "the folder of recordings cannot be read; they are delivered when it can"


def _nothing() -> None:
    pass


class Tail:
    """Gives the spans of a journal to one sink; those not settled when it ends are given by the next.

    One thread at a time may use it.

    Args:
        home: the folder of recordings.
        cursor: what is settled.
        between: called now and then in the middle of longer work, about every 64 KiB that are read, so that
            whoever reads can give up the interpreter.

    Attributes:
        rejected: counts, by reason, of lines that are no spans.
        merged: counts, by kind, of spans that were one call with another.
    """

    def __init__(self, home: Path, cursor: Cursor, between: Callable[[], object] = _nothing) -> None:
        self.rejected: Counter[str] = Counter()
        self.merged: Counter[str] = Counter()
        self._folder = home / "journal"
        self._cursor = cursor
        self._between = between
        self._streams: dict[str, Stream] = {}
        self._names: set[str] = set()
        """Segments that streams were told of, and those that are done."""
        self._listed: tuple[int, bool] = (-1, False)
        """When the folder was changed last, and whether that was long ago."""
        self._look(force=True)
        for name in cursor.segments.keys() - self._names:
            cursor.counts.evicted += len(cursor.segments[name].owed)
            cursor.finish(name)

    def read(self, limit: int) -> list[Item]:
        """Spans that are ready now and were not given yet, at most `limit`; none where nothing is new."""
        self._look()
        items: list[Item] = []
        for writer, stream in list(self._streams.items()):
            items += stream.read(limit - len(items))
            if len(items) >= limit:  # the others first, next time
                self._streams[writer] = self._streams.pop(writer)
                break
        return items

    def settle(self, places: Iterable[Place]) -> None:
        """These need not be given again: taken, rejected for good, or not for this sink."""
        segment, stream = "", None
        for place in places:
            if place.segment != segment:
                segment = place.segment
                stream = self._streams.get(_writer(segment))
            if stream is not None:
                stream.settle(place)

    def save(self) -> None:
        """As `Cursor.save`."""
        for writer, stream in list(self._streams.items()):
            stream.keep_progress()
            if stream.is_done:
                del self._streams[writer]
        self._cursor.save()

    def left(self) -> int:
        """How many spans have ended, or were interrupted, and are not settled.

        Spans that will turn out to be one call with another count, too, until these are settled.
        """
        self._look()
        return sum(stream.left() for stream in self._streams.values())

    def close(self) -> None:
        """Let go of the files; the cursor stays open."""
        for stream in self._streams.values():
            stream.close()

    def _look(self, *, force: bool = False) -> None:
        """Tell the streams of new segments."""
        try:
            changed_ns = self._folder.stat().st_mtime_ns
            is_sure = time.time() - changed_ns / 1e9 > _SURE_S
            if not force and self._listed == (changed_ns, True):
                return
            with os.scandir(self._folder) as files:
                found = {file.name.removesuffix(_SUFFIX) for file in files if file.name.endswith(_SUFFIX)}
        except FileNotFoundError:  # nothing is recorded yet
            return
        except OSError as error:
            faults.swallow(error, _UNREADABLE)
            return
        self._listed = (changed_ns, is_sure)
        of_writer: defaultdict[str, list[str]] = defaultdict(list)
        for name in sorted(found - self._names):
            if not self._cursor.is_done(name):
                of_writer[_writer(name)].append(name)
        self._names = found
        for writer, names in of_writer.items():
            stream = self._streams.get(writer)
            if stream is None:
                stream = self._streams[writer] = self._new_stream(writer)
            for name in names:
                stream.add(name)

    def _new_stream(self, writer: str) -> Stream:
        return Stream(
            writer,
            self._folder,
            self._cursor,
            newer=lambda: self._look(force=True),
            between=self._between,
            rejected=self.rejected,
            merged=self.merged,
        )


def _writer(segment: str) -> str:
    return segment.rpartition("-")[0]
