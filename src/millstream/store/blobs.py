"""Large values, put back into the lines of the spans that refer to them.

`record.blobs` says how they are stored. What is kept in memory is where each blob stands, not what it holds.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from millstream.span import Span
from millstream.store.segments import read_lines

BLOB: Final = b'{"blob":"'
"""A line that begins so is one."""
_ID: Final = slice(len(BLOB), len(BLOB) + 32)
_KEY_AT: Final = _ID.stop
_KEY: Final = b'","value":'
_LINK: Final = b'","after":"'
_VALUE: Final = slice(_KEY_AT + len(_KEY), -1)
_AFTER: Final = slice(_KEY_AT + len(_LINK), _KEY_AT + len(_LINK) + 32)
_ITEMS: Final = slice(_AFTER.stop + len('","items":'), -1)
MARK: Final = b'"blobs":{"/'
"""Stands in the line of a span that refers to some; a user's words may hold it, too."""
_KEPT: Final = 16
"""Lists kept, for the next span often goes on from the last."""
_LARGEST_KEPT: Final = 1 << 20
_MOST_PASSED: Final = 1 << 20
"""Bytes."""
_decode: Final = msgspec.json.Decoder().decode
_check: Final = msgspec.json.Decoder(msgspec.Raw).decode


class _References(msgspec.Struct):
    """Of a span's line: the ids of its blobs by JSON pointer."""

    blobs: dict[str, str] = {}


_decode_references: Final = msgspec.json.Decoder(_References).decode


class BlobReader:
    """Reads the segments of one process, one after another, and puts the large values of its spans back.

    Args:
        rejected: counts, by reason, what could not be put back; added to.
    """

    def __init__(self, rejected: Counter[str]) -> None:
        self._rejected = rejected
        self._places: dict[Path, dict[bytes, int]] = {}
        self._here: dict[bytes, int] = {}
        self._passed: dict[bytes, bytes] = {}
        """Lines of blobs that were just read, for the span that refers to them is near."""
        self._passed_size = 0
        self._lists: dict[bytes, bytes] = {}
        self._file: tuple[Path, BinaryIO] | None = None

    def read(self, path: Path, lines: Iterable[tuple[int, bytes]]) -> Iterator[bytes]:
        """The lines of a segment's spans.

        Args:
            path: of the segment.
            lines: all that it has, and where each begins.
        """
        self.begin(path)
        try:
            for offset, line in lines:
                if line.startswith(BLOB):
                    self.note(offset, line)
                else:
                    yield line
        finally:
            self.close()

    def begin(self, path: Path) -> None:
        """What is noted from here on stands in this segment."""
        self._here = self._places.setdefault(path, {})

    def note(self, offset: int, line: bytes) -> None:
        """A blob's line stands here."""
        blob = line[_ID]
        self._here[blob] = offset
        if self._passed_size > _MOST_PASSED:
            self._passed.clear()
            self._passed_size = 0
        self._passed[blob] = line
        self._passed_size += len(line)

    def forget(self, path: Path) -> None:
        """Nothing refers to the blobs of this segment any more."""
        self._places.pop(path, None)

    def fill(self, span: Span, line: bytes) -> None:
        """Put a span's large values in their places; one that is not there is left out."""
        for name, key, text in self.values(line):
            if key is None:
                setattr(span, name, _decode(text))
            else:
                getattr(span, name)[key] = _decode(text)

    def values(self, line: bytes) -> Iterator[tuple[str, str | None, bytes]]:
        """The large values of a span's line: the field they are, or are in; by which key; and their JSON."""
        try:
            blobs = _decode_references(line).blobs
        except msgspec.DecodeError:  # the mark stood in the user's words
            return
        for pointer, blob in blobs.items():
            try:
                text = bytes(_check(self._value(blob.encode())))
            except (msgspec.DecodeError, LookupError, OSError):
                self._rejected["a large value is missing, span kept without it"] += 1
                continue
            _, name, *inner = pointer.split("/", 2)
            yield name, inner[0].replace("~1", "/").replace("~0", "~") if inner else None, text

    def _value(self, blob: bytes) -> bytes:
        """The JSON of a blob, put together from the blobs that it goes on from.

        Raises:
            LookupError: one of them is not there.
            OSError: its file is not.
        """
        line = self._line(blob)
        if line.startswith(_KEY, _KEY_AT):
            return line[_VALUE]
        wanted, parts = blob, []
        while (known := self._lists.get(blob)) is None and line.startswith(_LINK, _KEY_AT):
            parts.append(line[_ITEMS])
            blob = line[_AFTER]
            line = self._line(blob)
        value = line[_VALUE] if known is None else known
        if parts:
            value = b"[%b]" % b",".join(part[1:-1] for part in (value, *reversed(parts)))
            if len(value) <= _LARGEST_KEPT:
                if len(self._lists) >= _KEPT:
                    del self._lists[next(iter(self._lists))]
                self._lists[wanted] = value
        return value

    def _line(self, blob: bytes) -> bytes:
        passed = self._passed.get(blob)
        if passed is not None:
            return passed
        # The latest first: the same value may lie in an earlier segment, which may be removed by now.
        path = next((path for path in reversed(self._places) if blob in self._places[path]), None)
        if path is None:
            raise LookupError(blob)
        if self._file is None or self._file[0] != path:
            self.close()
            self._file = (path, path.open("rb"))
        file = self._file[1]
        file.seek(self._places[path][blob])
        return file.readline().rstrip(b"\n\x00")

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file[1].close()
            self._file = None


def span_lines(path: Path) -> Iterator[bytes]:
    """The lines of a segment's spans as they stand there, for who only counts them."""
    return (line for _, line in read_lines(path) if not line.startswith(BLOB))
