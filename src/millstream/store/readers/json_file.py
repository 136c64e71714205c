"""A file of JSON objects: one a line, in one array, or one after another; plain or compressed by gzip."""

import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from io import BufferedReader
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec

from millstream.store.readers.json_split import first_keys, objects
from millstream.store.segments import read_lines

TORN: Final = "torn or not JSON"
DAMAGED: Final = "compressed file that is damaged; its rest is not read"
_GZIP: Final = b"\x1f\x8b"
_BLANK: Final = b" \t\r\n\x00"
_MARK: Final = b"\xef\xbb\xbf"
"""By which some editors say that a text is UTF-8."""
_HEAD: Final = 1 << 20
_CHUNK: Final = 1 << 22
_LINES: Final = 20
_LINE: Final = re.compile(rb"^\{.*\}[ \t\r]*$", re.MULTILINE)
_NOT_NUMBERS: Final = re.compile(rb"NaN|Infinity")
_BROKEN: Final = (EOFError, gzip.BadGzipFile, zlib.error)
_decode: Final = msgspec.json.Decoder().decode


class JsonFile:
    """The objects of a file.

    Attributes:
        path: of the file.
        lines: whether there is one a line: then one that is torn does not hide the next.
        keys: of the objects at its beginning; none where there is no object.
        empty: nothing is in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            self._compressed = file.read(len(_GZIP)) == _GZIP
        head = self._head().strip(_BLANK)
        self.empty = not head and not self._compressed
        whole = [line for line in islice(_LINE.findall(head), _LINES) if _is_object(line)]
        is_array = head.startswith(b"[")
        self.lines = not is_array and (bool(whole) or not head.startswith(b"{"))
        found = whole if self.lines else [head]
        self.keys = list(dict.fromkeys(key for text in found for key in first_keys(text)))

    def objects(self, rejected: Counter[str]) -> Iterator[bytes]:
        """Each of them, not yet decoded, and what is none; a file that cannot be read on is counted."""
        if self.lines and not self._compressed:
            yield from (line.removeprefix(_MARK) for _, line in read_lines(self.path))
            return
        try:
            yield from (
                _lines(self._chunks()) if self.lines else objects(self._chunks(), next(iter(self.keys), None))
            )
        except _BROKEN:
            rejected[DAMAGED] += 1

    def _chunks(self) -> Iterator[bytes]:
        with self._open() as file:
            mark = _MARK
            while chunk := file.read1(_CHUNK):
                yield chunk.removeprefix(mark)
                mark = b""

    def _head(self) -> bytes:
        head = b""
        try:
            for chunk in self._chunks():
                head += chunk
                if len(head) >= _HEAD:
                    break
        except _BROKEN:
            pass
        return head

    def _open(self) -> BufferedReader | gzip.GzipFile:
        return gzip.open(self.path) if self._compressed else self.path.open("rb")


def decoded(text: bytes) -> Any:
    """A JSON value; NaN and Infinity, which Python writes, are taken for what they are.

    Raises:
        ValueError: it is none.
    """
    try:
        return _decode(text)
    except (ValueError, RecursionError) as error:
        if isinstance(error, RecursionError) or not _NOT_NUMBERS.search(text):
            raise ValueError(str(error)) from error
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(str(error)) from error


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from filter(None, (line.strip(_BLANK) for line in whole))
    if rest := rest.strip(_BLANK):
        yield rest


def _is_object(text: bytes) -> bool:
    try:
        return isinstance(decoded(text), dict)
    except ValueError:
        return False
