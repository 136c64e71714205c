"""A file of lines that several processes append to: whole lines only, also when one is killed."""

import contextlib
import errno
import fcntl
import glob
import logging
import os
import re
import time
import weakref
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

_CHUNK: Final = 128 << 10
"""Bytes that are read or written by one call, so that no call takes long."""
_PATIENCE_S: Final = 10.0
"""How long another process may hold the file; it holds it while it writes a batch."""
_NO_LOCKS: Final = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_ROLLED: Final = re.compile(r"_\d{8}_\d{6}_\d{6}")
_LOGGER: Final = logging.getLogger("millstream")
_open_files: Final["weakref.WeakSet[JsonLines]"] = weakref.WeakSet()


class JsonLines:
    """Appends lines to a file, under a lock that other processes respect. Made readable by its owner only.

    Args:
        path: the file; it and its folder are made when they are needed.
        overwrite: begin with an empty file, unless somebody has written to it since this was made.
        max_bytes: before a line would make the file longer, it is renamed and another begun; `None`: never.
        max_rolled: renamed files to keep.
        beginnings: with what lines of ours begin: where such a one is torn at the end of the file, its
            writer was killed, and it is cut off.
    """

    def __init__(
        self,
        path: Path,
        *,
        overwrite: bool,
        max_bytes: int | None,
        max_rolled: int,
        beginnings: tuple[bytes, ...],
    ) -> None:
        self.path = path
        self._overwrite_before_ns = time.time_ns() if overwrite else 0
        self._max_bytes = max_bytes
        self._max_rolled = max_rolled
        self._beginnings = beginnings
        self._removal_said = False
        self._fd = -1
        _open_files.add(self)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the file, its end whole; nobody else appends meanwhile.

        Raises:
            OSError: it cannot be opened; `TimeoutError` where another process holds it.
        """
        self._take()
        try:
            yield
        finally:
            if self._fd >= 0:
                _flock(self._fd, fcntl.LOCK_UN)

    def append(self, lines: Iterable[bytes]) -> None:
        """Add lines, which end with a newline. What could not be written whole is taken back.

        Raises:
            OSError: they cannot be written; of lines before the last renaming, some may have been.
        """
        piece: list[bytes] = []
        size = os.fstat(self._fd).st_size
        for line in lines:
            if self._max_bytes is not None and size > 0 and size + len(line) > self._max_bytes:
                self._write(piece)
                self._roll()
                piece, size = [], os.fstat(self._fd).st_size
            piece.append(line)
            size += len(line)
        self._write(piece)

    def last_lines(self, limit: int) -> Iterator[bytes]:
        """The lines in the last `limit` bytes of this file and of those that it was before, the newest first.

        Within one file they come in their order, without newlines.
        """
        for path in [self.path, *reversed(self._rolled())]:
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                start = max(0, size - limit)
                limit -= size - start
                file.seek(start)
                rest, first = b"", start > 0
                while chunk := file.read(_CHUNK):
                    lines = (rest + chunk).split(b"\n")
                    rest = lines.pop()
                    yield from lines[1:] if first and lines else lines
                    first = first and not lines
            if limit <= 0:
                return

    def close(self) -> None:
        """Let go of the file; it is opened again when it is needed."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _take(self) -> None:
        """Open and lock the file that has the name now: another process may have renamed the one before."""
        while True:
            if self._fd < 0:
                self._open()
            _lock(self._fd)
            status = os.fstat(self._fd)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(status, self.path.stat()):
                    break
            self.close()
        if status.st_mtime_ns < self._overwrite_before_ns:
            os.ftruncate(self._fd, 0)
        self._overwrite_before_ns = 0
        self._repair(os.fstat(self._fd).st_size)

    def _open(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
        self._fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _repair(self, size: int) -> None:
        """See that the file ends with a newline: nobody writes now, so a line without one is torn."""
        if size == 0 or os.pread(self._fd, 1, size - 1) == b"\n":
            return
        start, last = size, b""
        while start > 0 and b"\n" not in last:
            start = max(0, start - _CHUNK)
            last = os.pread(self._fd, size - start, start)
        last = last[last.rfind(b"\n") + 1 :]
        if self._is_torn(last):
            os.ftruncate(self._fd, size - len(last))
        else:
            os.write(self._fd, b"\n")

    def _is_torn(self, line: bytes) -> bool:
        if not any(line.startswith(head) or head.startswith(line) for head in self._beginnings):
            return False
        try:
            msgspec.json.decode(line)
        except msgspec.DecodeError:
            return True
        return False

    def _write(self, piece: list[bytes]) -> None:
        start = os.fstat(self._fd).st_size
        data = memoryview(b"".join(piece))
        try:
            while data:
                data = data[os.write(self._fd, data[:_CHUNK]) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, start)
            raise

    def _roll(self) -> None:
        """Give the file another name and begin a new one."""
        now_ns = time.time_ns()
        while (target := self._rolled_path(now_ns)).exists():
            now_ns += 1_000
        self.path.rename(target)
        rolled = self._rolled()
        for old in rolled[: max(0, len(rolled) - self._max_rolled)]:
            old.unlink(missing_ok=True)
            if not self._removal_said:
                self._removal_said = True
                _LOGGER.warning(
                    "millstream: %s was removed: max_files keeps %d older files of %s; said once",
                    old,
                    self._max_rolled,
                    self.path,
                )
        self.close()
        self._take()

    def _rolled_path(self, now_ns: int) -> Path:
        stamp = datetime.fromtimestamp(now_ns / 1e9, UTC).strftime("%Y%m%d_%H%M%S_%f")
        return self.path.with_name(f"{self.path.stem}_{stamp}{self.path.suffix}")

    def _rolled(self) -> list[Path]:
        """The files that this one was before, oldest first."""
        if self._max_bytes is None:
            return []
        stem, suffix = self.path.stem, self.path.suffix
        found = self.path.parent.glob(f"{glob.escape(stem)}_*{glob.escape(suffix)}")
        return sorted(path for path in found if _ROLLED.fullmatch(path.stem.removeprefix(stem)))


def _lock(fd: int) -> None:
    end_s = time.monotonic() + _PATIENCE_S
    while not _flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB):
        if time.monotonic() > end_s:
            raise TimeoutError(errno.ETIMEDOUT, f"another process has held it for {_PATIENCE_S:g} s")
        time.sleep(0.005)


def _flock(fd: int, operation: int) -> bool:
    """Whether it is done; some network file systems have no locks, and there nobody waits."""
    try:
        fcntl.flock(fd, operation)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _after_fork() -> None:
    """In a forked child: a lock that the parent holds would live on in the copy of its file."""
    for file in list(_open_files):
        file.close()


os.register_at_fork(after_in_child=_after_fork)
