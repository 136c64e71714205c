"""The append-only files that spans are written to, on the caller's thread.

One segment is one file of JSON lines that one process appends to. The file is grown ahead of need by blank
lines, and lines are copied over them through a memory map: a copy costs a tenth of a system call and is kept
by the kernel when the process is killed. So `kill -9` loses at most the line that each thread was copying, a
torn line ends at the next blank one, and a full disk is met while growing, never while copying. A living
process holds a lock on its segment; readers tell by it who still writes.
"""

import atexit
import contextlib
import errno
import fcntl
import mmap
import os
import threading
import time
from pathlib import Path
from typing import Final

from millstream.record import faults

DEFAULT_SEGMENT_BYTES: Final = 64 << 20
_FIRST_WINDOW: Final = 64 << 10
_LAST_WINDOW: Final = 1 << 20
_POPULATE: Final = getattr(mmap, "MAP_POPULATE", 0)  # Linux: one fault now instead of one a page


class Journal:
    """Appends lines to `<home>/journal/`. Files and folders are readable by their owner only.

    Room is taken before anything is copied, and without a call between: a signal handler or a finalizer that
    records a span of its own in the middle of a write finds the next room free.

    Args:
        home: the folder of recordings; made when the first line is written.
        segment_bytes: a segment that has grown past this is followed by a new one.
    """

    def __init__(self, home: Path, segment_bytes: int = DEFAULT_SEGMENT_BYTES) -> None:
        self.home = home
        self.ended = 0
        """Spans that ended."""
        self.lost = 0
        """Ended spans that could not be written."""
        self.error: OSError | None = None
        """Why a line could not be written, the last time one could not."""
        self._segment_bytes = segment_bytes
        self._lock = threading.RLock()
        self._waiting: list[bytes] | None = None
        self._fd = -1
        self._window: mmap.mmap | None = None
        self._window_start = 0  # in the file
        self._position = 0  # in the window
        self._window_size = 0
        self._last_opening: bytes | None = None
        self._writer = ""
        self._number = 0

    def begin(self, line: bytes) -> None:
        """Write the line by which a reader knows of a span whose process died in it.

        Args:
            line: the first fields of the span's line, as a JSON object and its newline.
        """
        size = len(line)
        with self._lock:
            start = self._position
            if start + size <= self._window_size:
                self._position = start + size
                self._last_opening = line
                self._window[start : start + size] = line  # type: ignore[index]  # it has a size
            else:
                self._write_grown(line, line)

    def finish(self, opening: bytes, tail: bytes) -> None:
        """Write the line of an ended span: over its first line while that is still the last, else anew.

        Args:
            opening: as given to `begin`, the same object.
            tail: the fields that follow, from the comma to the newline.
        """
        size = len(tail)
        with self._lock:
            self.ended += 1
            if self._last_opening is opening:
                start = self._position - 2  # over the brace and the newline
                if start + size <= self._window_size:
                    self._position = start + size
                    self._last_opening = None
                    self._window[start : start + size] = tail  # type: ignore[index]  # it has a size
                    return
            if not self._write(opening[:-2] + tail):
                self.lost += 1

    def _write(self, line: bytes, opening: bytes | None = None) -> bool:
        """Whether the line was written; the reason why not is kept and said once, never raised."""
        size = len(line)
        with self._lock:
            start = self._position
            if start + size <= self._window_size:
                self._position = start + size
                self._last_opening = opening
                self._window[start : start + size] = line  # type: ignore[index]
                return True
            return self._write_grown(line, opening)

    def _write_grown(self, line: bytes, opening: bytes | None) -> bool:
        if self._waiting is not None:  # called from within the growing below
            self._waiting.append(line)
            return True
        self._waiting = []
        try:
            self._grow(len(line))
        except OSError as error:
            self.lost += len(self._waiting)
            self._complain(error)
            return False
        finally:
            waiting, self._waiting = self._waiting, None
        return all([self._write(line, opening), *map(self._write, waiting)])

    def close(self) -> None:
        """Cut the blank lines off and let go of the segment; the next line opens another."""
        with self._lock:
            self._close()

    def forget_parent(self) -> None:
        """In a forked child: leave the parent's segment alone and write to one of our own."""
        self._lock = threading.RLock()  # another thread of the parent may have held it
        self.ended = self.lost = 0
        self.error = None
        self._writer = ""
        self._number = 0
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.close(self._fd)
        self._reset()

    def _grow(self, needed: int) -> None:
        """Map room for `needed` bytes at least, in the next segment when this one is full."""
        position = self._window_start + self._position
        if self._fd >= 0 and position > self._segment_bytes:
            self._close()
            position = 0
        if self._fd < 0:
            self._fd = self._open_segment()
            atexit.register(self.close)
        start = position - position % mmap.ALLOCATIONGRANULARITY
        usual = min(max(_FIRST_WINDOW, self._window_size * 2), _LAST_WINDOW)
        size = max(usual, -(-(position - start + needed) // mmap.PAGESIZE) * mmap.PAGESIZE)
        try:
            self._pad(start + size)
        except OSError:  # perhaps there was room for this line, if not for the next hundred
            size = os.fstat(self._fd).st_size - start
            if size < position - start + needed:
                raise
        window = mmap.mmap(
            self._fd,
            size,
            flags=mmap.MAP_SHARED | _POPULATE,
            prot=mmap.PROT_READ | mmap.PROT_WRITE,
            offset=start,
        )
        # Read again: a signal handler may have written into what was left of the window before.
        self._position += self._window_start - start
        self._window, self._window_start, self._window_size = window, start, size

    def _pad(self, until: int) -> None:
        """Fill the file with blank lines up to `until`; the disk has room for what is copied there later."""
        size = os.fstat(self._fd).st_size
        while size < until:
            written = os.pwrite(self._fd, b"\n" * (until - size), size)
            if written == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            size += written

    def _open_segment(self) -> int:
        folder = self.home / "journal"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The time keeps apart two processes that were given one id, as first processes of containers are.
        self._writer = self._writer or f"{time.time_ns():020d}-{os.getpid()}"
        self._number += 1
        path = folder / f"{self._writer}-{self._number:04d}.jsonl"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        return fd

    def _close(self) -> None:
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._window_start + self._position)
            os.close(self._fd)
        self._reset()

    def _reset(self) -> None:
        atexit.unregister(self.close)
        self._fd = -1
        self._window = None
        self._window_start = self._position = self._window_size = 0

    def _complain(self, error: OSError) -> None:
        self.error = error
        where = self.home / "journal"
        faults.swallow(error, f"the journal in {where} cannot be written; spans are lost until it can")
