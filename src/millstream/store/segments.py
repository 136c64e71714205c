"""The files of a journal, from the reader's side: which there are, who still writes them, what they hold."""

import fcntl
import os
import re
import time
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from millstream.errors import InputError

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike


class State(str, Enum):
    """Of a segment: whether more may come."""

    LIVE = "live"
    """A living process holds it."""
    CLOSED = "closed"
    """Its process ended it; its size and time stand."""
    ABANDONED = "abandoned"
    """Its process died; room that it had made, blank lines or NUL bytes, follows the last span."""


class Segment(msgspec.Struct, frozen=True):
    """One file of a journal."""

    path: Path
    writer: str
    """When its process began to record, and that process's id."""
    state: State
    size: int
    mtime_ns: int

    def may_hold_since(self, time_ns: int | None) -> bool:
        """Whether spans written after `time_ns` (Unix nanoseconds) may be here.

        Only a closed file's time says when it was last written: writes through a memory map do not move it.
        """
        return time_ns is None or self.state is not State.CLOSED or self.mtime_ns >= time_ns


def list_segments(home: Path) -> list[Segment]:
    """The segments of `<home>/journal`, oldest first; none where there is no journal.

    Raises:
        InputError: the folder may not be read.
    """
    found: dict[Path, Segment] = {}
    gone: set[Path] = set()
    try:
        while new := set(paths_in(home / "journal", ".jsonl")) - found.keys() - gone:
            for path in new:
                try:
                    found[path] = _describe(path)
                except FileNotFoundError:  # it was removed just now
                    gone.add(path)
            living = {segment.writer for segment in found.values() if segment.state is State.LIVE}
            # A process begins a segment before it lets go of the last: who seems dead may have done that.
            if all(segment.writer in living for segment in found.values()):
                break
        return [found[path] for path in sorted(found)]
    except PermissionError as error:
        raise may_not_be_read(error, home) from error


def may_not_be_read(error: PermissionError, home: Path) -> InputError:
    """What to say of that."""
    return InputError(
        f"{error.filename or home} may not be read: recordings belong to the user who made them"
    )


def paths_in(folder: Path, ending: str) -> list[Path]:
    """The files of a folder with this ending, sorted; none where there is no folder.

    Raises:
        PermissionError: it may not be read; `Path.glob` would find nothing.
    """
    try:
        return sorted(path for path in folder.iterdir() if path.name.endswith(ending))
    except (FileNotFoundError, NotADirectoryError):
        return []


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file that are not blank, without newline, and where each begins, in bounded memory.

    NUL bytes stand where room was made and not used; no JSON text holds one, so they end a line, too.
    """
    with path.open("rb") as file:
        yield from lines_of(file)


def lines_of(rows: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """The same of lines as they stand there."""
    start = 0
    for line in rows:
        if text := line.strip(_BLANK):
            offset = start + line.index(text)
            if b"\x00" in text:
                yield from texts(text, offset)
            else:
                yield offset, text
        start += len(line)


def texts(line: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    """What stands between the NUL bytes of a line, and where."""
    return ((offset + found.start(), found[0]) for found in _NO_NULS.finditer(line))


def is_written(file: "FileDescriptorLike") -> bool:
    """Whether a living process holds an open segment."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    fcntl.flock(file, fcntl.LOCK_UN)
    return False


def may_go_on(writer: str) -> bool:
    """Whether a process that holds no segment lives here, and may begin another.

    Args:
        writer: as its segments name it: when it began to record, and its id. A process of this id that
            started later is another one.
    """
    began_ns, _, process = writer.partition("-")
    try:
        status = Path(f"/proc/{int(process)}/stat").read_bytes().rpartition(b")")[2].split()
        up_s = float(Path("/proc/uptime").read_bytes().split()[0])
        started_s = time.time() - up_s + int(status[_START_TICKS]) / os.sysconf("SC_CLK_TCK")
        return status[0] not in _DEAD and started_s <= int(began_ns) / 1e9 + _CLOCK_S
    except (OSError, ValueError, IndexError):
        return False


_START_TICKS: Final = 19  # of what follows the name in the file
_DEAD: Final = (b"Z", b"X")
_CLOCK_S: Final = 2
_BLANK: Final = b" \t\r\n\x00"
_NO_NULS: Final = re.compile(rb"[^\x00]+")


def _describe(path: Path) -> Segment:
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        if is_written(file):
            state = State.LIVE
        else:
            file.seek(max(status.st_size - 2, 0))
            state = State.CLOSED if file.read(2) == b"}\n" else State.ABANDONED
    return Segment(path, path.stem.rpartition("-")[0], state, status.st_size, status.st_mtime_ns)
