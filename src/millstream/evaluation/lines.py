"""JSON values in a file, one a line: appended whole, found again by their offsets."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

from millstream.evaluation.files import cannot_write, json_bytes

NOWHERE: Final = -1
"""In place of an offset: there is no such line."""
_BLOCK: Final = 1 << 16


class Lines:
    """Appends values, each in one whole line."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    def append(self, value: Any) -> int:
        """Write one line.

        Returns:
            Its offset.

        Raises:
            StorageError: it cannot be written; the lines before it stay.
        """
        line = json_bytes(value) + b"\n"
        size = os.fstat(self._descriptor).st_size
        written = 0
        try:
            while written < len(line):
                written += os.write(self._descriptor, line[written:])
        except OSError as error:
            if written:
                os.ftruncate(self._descriptor, size)
            raise cannot_write(self._path, error) from error
        return size


@contextmanager
def open_lines(path: Path) -> Iterator[Lines]:
    """Open a file for appending; half a line at its end, of a killed run, is taken away."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        os.ftruncate(descriptor, _end_of_lines(descriptor))
        yield Lines(path, descriptor)
    finally:
        os.close(descriptor)


def _end_of_lines(descriptor: int) -> int:
    """Where the last whole line ends."""
    end = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - _BLOCK)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def read_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """The values of a file with their offsets. Lines that are not whole are passed over."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        offset = 0
        for line in file:
            here, offset = offset, offset + len(line)
            if not line.endswith(b"\n"):
                return
            try:
                value = json.loads(line)
            except ValueError:
                continue
            yield here, value


def line_at(file: BinaryIO, offset: int) -> Any:
    """The value of the line that starts there."""
    file.seek(offset)
    return json.loads(file.readline())
