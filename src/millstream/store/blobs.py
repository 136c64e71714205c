"""Large values, put back into the lines of the spans that refer to them.

`record.blobs` says how they are stored. What is kept in memory is where each blob stands, not what it holds.
"""

from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

from millstream.store.segments import read_lines

_BLOB: Final = b'{"blob":"'
_ID: Final = slice(len(_BLOB), len(_BLOB) + 32)
_MARK: Final = b'"blobs":{"/'
_TRACE_ID: Final = slice(13, 45)
_KEPT: Final = 16
"""Values kept, for the next span often goes on from the last."""
_LARGEST_KEPT: Final = 1 << 20
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_ids: Final = msgspec.json.Decoder(dict[str, str]).decode


class _Blob(msgspec.Struct):
    """A blob's line."""

    blob: str
    after: str | None = None
    value: msgspec.Raw = msgspec.Raw()
    items: msgspec.Raw = msgspec.Raw()


_decode_blob: Final = msgspec.json.Decoder(_Blob).decode


class BlobReader:
    """Reads the segments of one process, one after another, and gives the lines of its spans, whole.

    Args:
        trace_ids: only spans of these traces need be whole; `None` for all.
        rejected: counts, by reason, what could not be put back; added to.
    """

    def __init__(self, trace_ids: Collection[str] | None, rejected: Counter[str]) -> None:
        self._wanted = None if trace_ids is None else {trace_id.encode() for trace_id in trace_ids}
        self._rejected = rejected
        self._places: dict[bytes, tuple[Path, int, int]] = {}
        self._values: dict[str, bytes] = {}
        self._file: tuple[Path, BinaryIO] | None = None

    def read(self, path: Path) -> Iterator[bytes]:
        """The lines of a segment's spans."""
        try:
            for offset, line in read_lines(path):
                if line.startswith(_BLOB):
                    self._places[line[_ID]] = (path, offset, len(line))
                elif _MARK in line and (self._wanted is None or line[_TRACE_ID] in self._wanted):
                    yield self._whole(line)
                else:
                    yield line
        finally:
            self._close()

    def _whole(self, line: bytes) -> bytes:
        """A span's line with its large values in their places; one that is not there is left out."""
        try:
            fields = _decode(line)
            blobs = _decode_ids(fields.pop("blobs"))
        except (msgspec.DecodeError, KeyError):  # torn, or the mark stood in the user's words
            return line
        for pointer, blob in blobs.items():
            value = self._value(blob)
            if value is None:
                self._rejected["a large value is missing, span kept without it"] += 1
                continue
            _, name, *inner = pointer.split("/", 2)
            if inner:
                outer = _decode(fields[name])
                outer[inner[0].replace("~1", "/").replace("~0", "~")] = msgspec.Raw(value)
                fields[name] = msgspec.Raw(_encode(outer))
            else:
                fields[name] = msgspec.Raw(value)
        return _encode(fields)

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

    def _load(self, blob: str) -> Any:
        place = self._places.get(blob.encode())
        if place is None:
            return None
        path, offset, length = place
        if self._file is None or self._file[0] != path:
            self._close()
            try:
                self._file = (path, path.open("rb"))
            except OSError:  # removed meanwhile
                return None
        file = self._file[1]
        file.seek(offset)
        try:
            return _decode_blob(file.read(length))
        except msgspec.DecodeError:
            return None

    def _close(self) -> None:
        if self._file is not None:
            self._file[1].close()
            self._file = None


def span_lines(path: Path) -> Iterator[bytes]:
    """The lines of a segment's spans as they stand there, for who only counts them."""
    return (line for _, line in read_lines(path) if not line.startswith(_BLOB))
