"""The append-only files that spans are written to, on the caller's thread.

One segment is one file of JSON lines that one process appends to. Room is made ahead of need, and lines are
copied into it through a memory map: a copy costs a tenth of a system call and is kept by the kernel when the
process is killed. So `kill -9` loses at most the line that each thread was copying, and a full disk is met
while room is made, never while copying. What is not written yet reads as blank. A living process holds a
lock on its segment; readers tell by it who still writes.

A window's `write` is one call into C that takes room and copies, so threads, signal handlers and finalizers
that record in the middle of anything need no lock until the window is full.
"""

import atexit
import contextlib
import errno
import fcntl
import mmap
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from millstream.record import faults
from millstream.record.tally import Tally

DEFAULT_SEGMENT_BYTES: Final = 64 << 20
_FIRST_WINDOW: Final = 64 << 10
_LAST_WINDOW: Final = 1 << 20
BLOBS: Final = b'"blobs":{"/'
"""Stands in a line that refers to large values: these are in the same segment."""
_POPULATE: Final = getattr(mmap, "MAP_POPULATE", 0)  # Linux: one fault now instead of one a page
_NO_FALLOCATE: Final = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


class _NoRoom:
    """A window that is always full: the first line, and whoever comes while the next window is made, wait."""

    def write(self, line: bytes) -> None:
        raise ValueError(line)

    def seal(self) -> None:
        pass


class _Window:
    """A part of the file that lines are copied into, one after another."""

    def __init__(self, map: mmap.mmap) -> None:  # noqa: A002  # what it is
        self._map = map
        self.write = map.write

    def seal(self) -> None:
        """From here on nothing fits."""
        self._map.seek(0, os.SEEK_END)


try:
    from millstream.record import _lane
except ImportError:  # built without a compiler
    _new_window: Callable[[mmap.mmap], "_Window | _lane.Window"] = _Window
else:
    _new_window = _lane.Window


class Journal:
    """Appends lines to `<home>/journal/`. Files and folders are readable by their owner only.

    Args:
        home: the folder of recordings; made when the first line is written.
        segment_bytes: a segment that has grown past this is followed by a new one.
    """

    def __init__(self, home: Path, segment_bytes: int = DEFAULT_SEGMENT_BYTES) -> None:
        self.home = home
        self.lost = 0
        """Ended spans that could not be written."""
        self.forks = 0
        """How often this process, or one before it, was forked from one that had this journal."""
        self.error: OSError | None = None
        """Why a line could not be written, the last time one could not."""
        self._segment_bytes = segment_bytes
        self._ended = Tally()
        self.count = self._ended.add
        """Counts an ended span; with `write`, what `finish` does without a call of Python's."""
        self._lock = threading.RLock()
        self._busy = False
        self._waiting: list[tuple[bytes, bool]] = []
        self._writer = ""
        self._number = 0
        self._fd = -1
        self._map: mmap.mmap | None = None
        self.window: _Window | _lane.Window | _NoRoom = _NoRoom()
        """The part of the file that lines are copied into now."""
        self.write: Callable[[bytes], object] = self.window.write
        """Copies a line into the file; raises ValueError where there is no room, and then `begin` or
        `finish_after_growing` makes some."""
        self.segment = ""
        """The name of the file that is written to; empty while there is none."""
        self._window_start = 0  # in the file
        self._window_size = 0

    @property
    def ended(self) -> int:
        """Spans that ended."""
        return self._ended.value

    def begin(self, opening: bytes) -> None:
        """Write the line by which a reader knows of a span whose process died in it.

        Args:
            opening: the first fields of the span's line, as a JSON object and its newline.
        """
        try:
            self.write(opening)
        except ValueError:
            self._write_after_growing(opening, ends=False)

    def append(self, line: bytes) -> str | None:
        """Write any other line.

        Returns:
            The name of the segment that it is in, empty where that is not certain; `None` where there was no
            room for it.
        """
        segment = self.segment
        try:
            self.write(line)
        except ValueError:
            return self._write_after_growing(line, ends=False)
        return segment if segment == self.segment else ""

    def finish(self, line: bytes) -> None:
        """Write the whole line of an ended span, its newline included."""
        self.count()
        try:
            self.write(line)
        except ValueError:
            self.finish_after_growing(line)

    def finish_after_growing(self, line: bytes) -> None:
        """Write the line of an ended span that was counted, and for which `write` had no room."""
        self._write_after_growing(line, ends=True)

    def close(self) -> None:
        """Cut off what is blank and let go of the segment; the next line opens another."""
        waiting: list[tuple[bytes, bool]] = []
        with self._alone():
            if self._busy:
                return
            self._busy = True
            try:
                self._close()
            finally:
                waiting, self._waiting, self._busy = self._waiting, [], False
        for line, ends in waiting:
            self._write_after_growing(line, ends=ends)

    def forget_parent(self) -> None:
        """In a forked child: leave the parent's segment alone and write to one of our own."""
        fd = self._fd
        self.forks += 1
        self._lock = threading.RLock()  # another thread of the parent may have held it
        self._busy = False
        self._waiting = []
        self._ended = Tally()
        self.count = self._ended.add
        self.lost = 0
        self.error = None
        self._writer = ""
        self._number = 0
        self._forget()
        if fd >= 0:
            with contextlib.suppress(OSError):
                os.close(fd)

    def _write_after_growing(self, line: bytes, *, ends: bool) -> str | None:
        """Make room and write. A line for which there is none is counted and said once, never raised.

        Returns:
            As `append`.
        """
        error = None
        waiting: list[tuple[bytes, bool]] = []
        try:
            with self._alone():
                if self._busy:  # this thread is in the lines below: a signal handler or a finalizer records
                    self._waiting.append((line, ends))
                    return ""
                self._busy = True
                try:
                    self._grow(line)
                    segment = self.segment
                except OSError as full:
                    error = self.error = full
                    self.lost += ends
                finally:  # in one piece: a signal handler may raise between two calls
                    waiting, self._waiting, self._busy = self._waiting, [], False
        finally:
            for later, ends_too in waiting:
                self._write_after_growing(later, ends=ends_too)
        if error is None:
            return segment
        # Said without the lock: whoever logs may record.
        reason = f"the journal in {self.home / 'journal'} cannot be written; spans are lost until it can"
        faults.swallow(error, reason)
        return None

    def _alone(self) -> threading.RLock:
        """The lock, to be taken.

        When the interpreter shuts down, daemon threads stop where they are and never let go of it: then what
        they were at is left as it is, and another segment is begun.
        """
        if sys.is_finalizing():
            if self._lock.acquire(blocking=False):
                self._lock.release()
            else:
                self._lock = threading.RLock()
                self._busy = False
                self._forget()
        return self._lock

    def _grow(self, line: bytes) -> None:
        """Write a line, after mapping the next window, of the next segment when this one is full."""
        try:
            self.window.write(line)
        except ValueError:
            pass
        else:
            return  # another thread made room while this one waited
        start = self._window_start + self._window_size
        if self._fd >= 0 and (
            (start > self._segment_bytes and BLOBS not in line) or os.fstat(self._fd).st_nlink == 0
        ):
            self._begin_segment()
            start = 0
        if self._fd < 0:
            self._begin_segment()
        needed = -(-len(line) // mmap.PAGESIZE) * mmap.PAGESIZE
        size = max(min(max(_FIRST_WINDOW, self._window_size * 2), _LAST_WINDOW), needed)
        try:
            self._reserve(start, size)
        except OSError:  # perhaps there is room for this line, if not for the next hundred
            size = needed
            self._reserve(start, size)
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        map_ = mmap.mmap(self._fd, size, flags=mmap.MAP_SHARED | _POPULATE, prot=protection, offset=start)
        window = _new_window(map_)
        window.write(line)
        self._map, self._window_start, self._window_size = map_, start, size
        self.window, self.write = window, window.write

    def _reserve(self, start: int, size: int) -> None:
        """See that the disk has room for `size` bytes from `start` of the file."""
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(self._fd, start, size)
            except OSError as error:
                if error.errno not in _NO_FALLOCATE:
                    raise
            else:
                return
        end = start + size
        while start < end:  # blank lines
            written = os.pwrite(self._fd, b"\n" * (end - start), start)
            if written == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            start += written

    def _begin_segment(self) -> None:
        """Open a segment, and let go of the one before: a process that holds none is taken for dead."""
        fd, name = self._open_segment()
        self._close()
        self._fd, self.segment = fd, name
        atexit.register(self.close)

    def _open_segment(self) -> tuple[int, str]:
        folder = self.home / "journal"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The time keeps apart two processes that were given one id, as first processes of containers are.
        self._writer = self._writer or f"{time.time_ns():020d}-{os.getpid()}"
        self._number += 1
        path = folder / f"{self._writer}-{self._number:04d}.jsonl"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with contextlib.suppress(
            OSError
        ):  # some network file systems have no locks: then nobody is told living
            fcntl.flock(fd, fcntl.LOCK_EX)
        return fd, path.stem

    def _close(self) -> None:
        fd, map_, window, start = self._fd, self._map, self.window, self._window_start
        self._forget()
        if fd < 0:
            return
        if map_ is not None:
            window.seal()  # the file may shrink under the map
            end = start + map_.rfind(b"}\n", 0) + 2
            with contextlib.suppress(OSError):
                os.ftruncate(fd, end)
        os.close(fd)

    def _forget(self) -> None:
        atexit.unregister(self.close)
        self._fd = -1
        self.segment = ""
        self._map = None
        self.window = _NoRoom()
        self.write = self.window.write
        self._window_start = self._window_size = 0
