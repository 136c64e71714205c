"""A long sequence that lies in a file: its members are read when they are looked at."""

import json
import os
import tempfile
import weakref
from array import array
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeVar, overload

from millstream.errors import StorageError

T = TypeVar("T")

_BLOCK: Final = 1 << 18


class Stored(Sequence[T], Generic[T]):
    """Members made of JSON values that lie in a file without a name; 8 bytes a member are in memory.

    There is no file before there is a block to write.

    Args:
        make: gives the member of a place and its value.
    """

    def __init__(self, make: Callable[[int, Any], T]) -> None:
        self._make = make
        self._ends = array("Q", [0])
        self._file: int | None = None
        self._written = 0
        self._waiting = bytearray()

    def append(self, value: Any) -> None:
        """Put a value at the end.

        Raises:
            StorageError: the disk is full.
        """
        data = json.dumps(value).encode()
        self._waiting += data
        self._ends.append(self._ends[-1] + len(data))
        if len(self._waiting) >= _BLOCK:
            self._write()

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, at: int) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> list[T]: ...
    def __getitem__(self, at: int | slice) -> T | list[T]:
        if isinstance(at, slice):
            return [self[place] for place in range(*at.indices(len(self)))]
        place = at + len(self) if at < 0 else at
        if not 0 <= place < len(self):
            raise IndexError(f"there is no member {at}")
        begin, end = self._ends[place], self._ends[place + 1]
        if self._file is not None and begin < self._written:
            data = _read(self._file, begin, end)
        else:
            data = bytes(self._waiting[begin - self._written : end - self._written])
        return self._make(place, json.loads(data))

    def _write(self) -> None:
        try:
            if self._file is None:
                with tempfile.TemporaryFile() as file:
                    self._file = os.dup(file.fileno())
                weakref.finalize(self, os.close, self._file).atexit = False
            while self._waiting:
                count = os.write(self._file, self._waiting)
                del self._waiting[:count]
                self._written += count
        except OSError as error:
            raise _cannot_store(error) from error


def _read(file: int, begin: int, end: int) -> bytes:
    data = os.pread(file, end - begin, begin)
    while len(data) < end - begin:
        data += os.pread(file, end - begin - len(data), begin + len(data))
    return data


def _cannot_store(error: OSError) -> StorageError:
    return StorageError(
        f"the rows of the dataset cannot be put into {tempfile.gettempdir()}: {error.strerror}; make room "
        "there, or set TMPDIR to another folder"
    )
