"""Large values, put back into the lines of the spans that refer to them.

`record.blobs` says how they are stored. What is kept in memory is where each blob stands, not what it holds.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from millstream.span import Span
from millstream.store.segments import read_lines

BLOB: Final = b'{"blob":"'
"""A line that begins so is one."""
_ID: Final = slice(len(BLOB), len(BLOB) + 32)
MARK: Final = b'"blobs":{"/'
"""Stands in the line of a span that refers to some; a user's words may hold it, too."""
_KEPT: Final = 16
"""Values kept, for the next span often goes on from the last."""
_LARGEST_KEPT: Final = 1 << 20
_MOST_PASSED: Final = 1 << 20
"""Bytes."""
_decode: Final = msgspec.json.Decoder().decode


class _Blob(msgspec.Struct):
    """A blob's line."""

    blob: str
    after: str | None = None
    value: msgspec.Raw = msgspec.Raw()
    items: msgspec.Raw = msgspec.Raw()


class _References(msgspec.Struct):
    """Of a span's line: the ids of its blobs by JSON pointer."""

    blobs: dict[str, str] = {}


_decode_references: Final = msgspec.json.Decoder(_References).decode
_decode_blob: Final = msgspec.json.Decoder(_Blob).decode


class BlobReader:
    """Reads the segments of one process, one after another, and puts the large values of its spans back.

    Args:
        rejected: counts, by reason, what could not be put back; added to.
    """

    def __init__(self, rejected: Counter[str]) -> None:
        self._rejected = rejected
        self._places: dict[Path, dict[bytes, tuple[int, int]]] = {}
        self._passed: dict[bytes, bytes] = {}
        """Lines of blobs that were just read, for the span that refers to them is near."""
        self._passed_size = 0
        self._values: dict[str, bytes] = {}
        self._file: tuple[Path, BinaryIO] | None = None

    def read(self, path: Path) -> Iterator[bytes]:
        """The lines of a segment's spans."""
        try:
            for offset, line in read_lines(path):
                if line.startswith(BLOB):
                    self.note(path, offset, line)
                else:
                    yield line
        finally:
            self.close()

    def note(self, path: Path, offset: int, line: bytes) -> None:
        """A blob's line stands here."""
        blob = line[_ID]
        self._places.setdefault(path, {})[blob] = (offset, len(line))
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
        try:
            blobs = _decode_references(line).blobs
        except msgspec.DecodeError:  # the mark stood in the user's words
            return
        for pointer, blob in blobs.items():
            value = self._value(blob)
            if value is None:
                self._rejected["a large value is missing, span kept without it"] += 1
                continue
            _, name, *inner = pointer.split("/", 2)
            if inner:
                getattr(span, name)[inner[0].replace("~1", "/").replace("~0", "~")] = _decode(value)
            else:
                setattr(span, name, _decode(value))

    def _value(self, blob: str) -> bytes | None:
        """The JSON of a blob, put together from the blobs that it goes on from."""
        parts: list[bytes] = []
        wanted: str | None = blob
        while wanted is not None:
            if (kept := self._values.get(wanted)) is not None:
                parts.append(kept)
                break
            found = self._load(wanted)
            if found is None:
                return None
            parts.append(bytes(found.items or found.value))
            wanted = found.after
        value = parts[0] if len(parts) == 1 else b"[%b]" % b",".join(part[1:-1] for part in reversed(parts))
        if len(value) <= _LARGEST_KEPT:
            if len(self._values) >= _KEPT:
                del self._values[next(iter(self._values))]
            self._values[blob] = value
        return value

    def _load(self, blob: str) -> _Blob | None:
        key = blob.encode()
        line = self._passed.get(key) or self._line(key)
        if line is None:
            return None
        try:
            return _decode_blob(line)
        except msgspec.DecodeError:
            return None

    def _line(self, blob: bytes) -> bytes | None:
        found = next(((path, at[blob]) for path, at in self._places.items() if blob in at), None)
        if found is None:
            return None
        path, (offset, length) = found
        if self._file is None or self._file[0] != path:
            self.close()
            try:
                self._file = (path, path.open("rb"))
            except OSError:  # removed meanwhile
                return None
        file = self._file[1]
        file.seek(offset)
        return file.read(length)

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file[1].close()
            self._file = None


def span_lines(path: Path) -> Iterator[bytes]:
    """The lines of a segment's spans as they stand there, for who only counts them."""
    return (line for _, line in read_lines(path) if not line.startswith(BLOB))
