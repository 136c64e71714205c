"""How many spans were written that nobody has read yet: counted, not taken apart."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from millstream.deliver.cursor import Place, Progress
from millstream.store.blobs import BLOB
from millstream.store.following import Lines

_HEAD: Final = re.compile(
    rb'\{"trace_id":"[^"]*","parent_id":(?:null|"[^"]*"),"span_id":"([^"]*)","name":"(?:[^"\\]|\\.)*+","kind":"'
)
_ENDS: Final = b',"end_ns":'
"""Stands in the line of a span that ended. In a line of one that began nothing but texts could hold it, and
there quotation marks are escaped."""
_DROPPED: Final = b',"dropped":true}'
_NOTHING: Final = Progress()


class Ahead:
    """Counts the spans of one process from some place on; what was counted before is not looked at again.

    Args:
        folder: of the segments.
        begin: the place.
        open_ids: the spans that are open there.
        between: called after each part of a file that is read.

    Attributes:
        at: up to where was counted.
        counts: spans that end between what was read and there, by segment.
        open_ids: the spans that are open there.
        is_written: whether more may come.
    """

    def __init__(
        self,
        folder: Path,
        begin: Place,
        open_ids: Iterable[str],
        between: Callable[[], object] | None = None,
    ) -> None:
        self.at = begin
        self.counts: Counter[str] = Counter()
        self.open_ids = {span_id.encode() for span_id in open_ids}
        self.is_written = False
        self._folder = folder
        self._between = between

    def passed(self, place: Place) -> None:
        """A span was read that may have been counted."""
        if place < self.at:
            self.counts[place.segment] -= 1

    def count(self, names: Iterable[str], known: Mapping[str, Progress]) -> None:
        """Count on.

        Args:
            names: of the segments, in order, from the one that is read at this moment on.
            known: how far they were read before; what ended there is not counted.
        """
        self.is_written = False
        for name in names:
            if name < self.at.segment:
                continue
            offset = self.at.offset if name == self.at.segment else 0
            lines = Lines(self._folder / f"{name}.jsonl", offset)
            try:
                self._count_segment(lines, name, known.get(name, _NOTHING))
            except OSError:  # it is said where it is read
                continue
            finally:
                lines.close()
            self.at = Place(name, lines.offset)

    def _count_segment(self, lines: Lines, name: str, known: Progress) -> None:
        self.is_written = lines.is_written()
        while batch := lines.take(live=self.is_written):
            for offset, line in batch:
                if not line.startswith(BLOB) and (head := _HEAD.match(line)):
                    if _ENDS in line:
                        self.open_ids.discard(head[1])
                        self.counts[name] += offset >= known.read
                    elif line.endswith(_DROPPED):
                        self.open_ids.discard(head[1])
                    elif offset not in known.closed:
                        self.open_ids.add(head[1])
            if self._between is not None:
                self._between()
