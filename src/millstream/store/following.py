"""Reading on in a segment, in bounded memory, while it may be being written."""

import os
import time
from collections.abc import Iterator
from io import BytesIO
from itertools import accumulate
from pathlib import Path
from typing import Final

import msgspec

from millstream.store.blobs import BLOB
from millstream.store.segments import is_written, texts

_CHUNK: Final = 64 << 10
_BEGINNING_S: Final = 60
"""An empty file that nobody holds may have been made just now; not for so long."""
_PAGE: Final = 4096
"""Room is made in multiples of it, everywhere."""
_NUL: Final = b"\x00"
_BLANKS: Final = b"\n\x00"
_check: Final = msgspec.json.Decoder(msgspec.Raw).decode


class Lines:
    """The lines of a segment from some place on, as they come.

    Args:
        path: of the segment.
        offset: where to begin, in bytes.

    Attributes:
        offset: where the next line begins.
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path = path
        self.offset = offset
        self._fd = -1
        self._dead = False
        self._blank_to = -1
        """The size that the file had when nothing but blank room was found from `offset` on."""

    def is_written(self) -> bool:
        """Whether more may come: a living process holds the file.

        Ask before the lines are taken: what comes between would be missed.

        Raises:
            OSError: the file cannot be opened; FileNotFoundError where it was removed.
        """
        if not self._dead:
            self._dead = not is_written(self._open()) and not self._may_begin()
        return not self._dead

    def _may_begin(self) -> bool:
        """Whether its process may be about to take hold of it: the file is made first."""
        return self.size() == 0 and self.age_s(time.time()) < _BEGINNING_S

    def size(self) -> int:
        """Bytes, room that was made included."""
        return os.fstat(self._open()).st_size

    def age_s(self, now_s: float) -> float:
        """Seconds since it was written to by other means than a memory map, or made."""
        return now_s - os.fstat(self._open()).st_mtime

    def take(self, *, live: bool) -> list[tuple[int, bytes]]:
        """The next lines, without their newlines, and where each begins; none at the end.

        Args:
            live: whether the file is being written at this moment: then only lines that are whole are given.

        Raises:
            OSError: as `is_written`.
        """
        fd, size = self._open(), _CHUNK
        while chunk := os.pread(fd, size, self.offset):
            lines, used = self._whole(chunk) if live else _last(chunk, self.offset, at_end=len(chunk) < size)
            self.offset += used
            if lines:
                return lines
            if used:
                size = _CHUNK
            elif chunk[0] in _BLANKS:  # only where it is live
                if not self._skip_room(chunk):
                    return []
            elif len(chunk) < size or (live and (_NUL in chunk or b"\n" in chunk)):
                return []  # the writer is in this line
            else:
                size *= 2
        return []

    def go_back(self, offset: int) -> None:
        """The line that begins there is to be taken again."""
        self.offset = offset

    def close(self) -> None:
        """Let go of the file; it is opened again where it is needed."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> int:
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        return self._fd

    def _whole(self, chunk: bytes) -> tuple[list[tuple[int, bytes]], int]:
        """The whole lines at the beginning of a chunk of a live segment, and their length.

        They end at the first room that is not written yet: NUL bytes, or blank lines. A line that is being
        copied has such room in it, and may have what follows it, too.
        """
        end = chunk.find(_NUL)
        rows = BytesIO(chunk if end < 0 else chunk[:end]).readlines()
        if rows and rows[-1][-1:] != b"\n":
            rows.pop()
        if b"\n" in rows:
            del rows[rows.index(b"\n") :]
        if rows and rows[-1].startswith(BLOB) and not _is_json(rows[-1]):
            rows.pop()
        return _placed(rows, self.offset), sum(map(len, rows))

    def _skip_room(self, chunk: bytes) -> bool:
        """Go to where the next window begins, if one was begun: the last has room that will stay blank."""
        size = self.size()
        if size == self._blank_to:
            return False
        at = self.offset
        while chunk and not (text := chunk.lstrip(_BLANKS)):
            at += len(chunk)
            chunk = os.pread(self._open(), _CHUNK, at)
        if not chunk:
            self._blank_to = size
            return False
        at += len(chunk) - len(text)
        if at % _PAGE or text[:1] != b"{":
            return False
        # The next window was begun after the last line of this one: that is to be seen by now.
        if os.pread(self._open(), at - self.offset, self.offset).strip(_BLANKS):
            return True
        self.offset = at
        return True


def whole_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a segment that is being written, as many as are whole now, and where each begins."""
    end = end_of_content(path)  # else a reader that is slower than the writer would never be done
    lines = Lines(path)
    try:
        while lines.offset < end and (some := lines.take(live=True)):
            yield from some
    finally:
        lines.close()


def stable(path: Path) -> bytes:
    """What stands in a segment that is being written, as far as it is whole now."""
    end = end_of_content(path)
    lines = Lines(path)
    try:
        while lines.offset < end and lines.take(live=True):
            pass
        with path.open("rb") as file:
            return file.read(lines.offset)
    finally:
        lines.close()


def _last(chunk: bytes, offset: int, *, at_end: bool) -> tuple[list[tuple[int, bytes]], int]:
    """The lines of a chunk that nobody writes any more, and how much of it they are."""
    used = len(chunk) if at_end else max(chunk.rfind(b"\n"), chunk.rfind(_NUL)) + 1
    if not chunk[:1].strip(_BLANKS) and not chunk[:used].strip(_BLANKS):
        return [], used
    return _split(chunk[:used], offset), used


def _split(chunk: bytes, offset: int) -> list[tuple[int, bytes]]:
    """The lines of a chunk, without what is blank around them, and where each begins."""
    rows = BytesIO(chunk).readlines()
    if _NUL not in chunk and chunk[-1:] == b"\n":
        return _placed(rows, offset)
    lines: list[tuple[int, bytes]] = []
    for row in rows:
        if text := row.strip(_BLANKS + b" \t\r"):
            lines += texts(text, offset + row.index(text))
        offset += len(row)
    return lines


def _placed(rows: list[bytes], offset: int) -> list[tuple[int, bytes]]:
    """Rows without their newlines, and where each begins; a loop would take three times as long."""
    starts = accumulate(map(len, rows), initial=offset)
    return [(start, row[:-1]) for start, row in zip(starts, rows, strict=False) if not row.isspace()]


def _is_json(line: bytes) -> bool:
    try:
        _check(line)
    except msgspec.DecodeError:
        return False
    return True


def end_of_content(path: Path) -> int:
    """Where what is written of a segment ends: behind its last whole line; 0 where there is none.

    Raises:
        OSError: as `Lines.is_written`.
    """
    with path.open("rb") as file:
        at = os.fstat(file.fileno()).st_size
        after = b""
        while at > 0:
            start = max(at - _CHUNK, 0)
            file.seek(start)
            chunk = file.read(at - start)
            found = (chunk + after[:1]).rfind(b"}\n")
            if found >= 0:
                return start + found + 2
            at, after = start, chunk
    return 0
