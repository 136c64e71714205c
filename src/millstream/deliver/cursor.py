"""How far one sink has come in a journal: durable, and held by one process at a time.

Each line of `<home>/delivery/<name>.jsonl` is the whole state, the last whole one holds: of each segment that
is not done, how far it was read and which spans before that are still owed. It is small, for what is owed is
what is in flight or held. Names of segments that are done go to `<name>.done`, some at a time. A process that
dies between two saves sends again what it had settled since.

A line is appended, for that takes a microsecond; to replace a file takes a file system half a millisecond.
"""

import contextlib
import errno
import fcntl
import os
import weakref
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal, Self
from urllib.parse import quote, unquote

import msgspec

from millstream.errors import MillstreamError, StorageError
from millstream.record import faults
from millstream.store.following import end_of_content
from millstream.store.segments import State, list_segments

_MOST_DONE: Final = 16
"""Names of done segments in the state itself."""
_MOST_BYTES: Final = 1 << 20
"""Of a file of states, before it is begun anew."""
_NOT_SAVED: Final = "the state of delivery cannot be written; what is sent now may be sent again"
_NOT_READ: Final = "the state of delivery was not readable; it begins anew, and sends again what it sent"
_NO_LOCKS: Final = "the folder of recordings has no file locks; two processes may send the same"


class Busy(MillstreamError):  # noqa: N818  # no fault: another process sees to this sink
    """Another process delivers to this sink from this home."""

    exit_code = 4
    transient = True


class Place(msgspec.Struct, frozen=True, order=True, gc=False):
    """Where a span ended in the journal; one whose process died in it, where it began.

    Attributes:
        segment: name of the file, without its ending.
        offset: of the line, in bytes.
    """

    segment: str
    offset: int


class Counts(msgspec.Struct):
    """What became of the spans for one sink, since it was first configured.

    Attributes:
        rejected: by reason; a Counter.
        skipped_reasons: of those skipped where the sink said why, by reason; a Counter.
        dropped: by reason; a Counter.
        evicted: that were removed from the journal before they were settled.
        processor_faults: that are told of above and had no content, for a processor raised; by which one
            raised what; a Counter.
    """

    sent: int = 0
    retried: int = 0
    rejected: dict[str, int] = {}
    skipped: int = 0
    skipped_reasons: dict[str, int] = {}
    dropped: dict[str, int] = {}
    evicted: int = 0
    processor_faults: dict[str, int] = {}

    def __post_init__(self) -> None:
        self.rejected = Counter(self.rejected)
        self.skipped_reasons = Counter(self.skipped_reasons)
        self.dropped = Counter(self.dropped)
        self.processor_faults = Counter(self.processor_faults)


class Progress(msgspec.Struct, omit_defaults=True):
    """How far one segment that is not done was read.

    Attributes:
        read: bytes; what ended before is settled, except for what is owed.
        owed: where spans ended that are not settled; of those that died, where they began.
        over: whether the process has died, and those open in it are among the owed.
        closed: where spans began that ended in later segments, which are done.
        parents: spans of segments that are done which went into others, and have open children here: the id
            of each, and what it went into.
    """

    read: int = 0
    owed: set[int] = set()
    over: bool = False
    closed: set[int] = set()
    parents: dict[str, str] = {}


class SinkState(msgspec.Struct):
    """All that is kept of a sink.

    Attributes:
        segments: those that are not done, by name; one that is not here was not begun.
        done: those that need not be opened again.
    """

    segments: dict[str, Progress] = {}
    done: set[str] = set()
    counts: Counts = msgspec.field(default_factory=Counts)


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(SinkState).decode


def known_sinks(home: Path) -> list[str]:
    """Names of the sinks that were ever delivered to from a home."""
    return sorted(unquote(path.stem) for path in (home / "delivery").glob("*.jsonl"))


def read_state(home: Path, name: str) -> SinkState:
    """What is kept of a sink at this moment, whoever holds it; nothing is changed.

    Raises:
        OSError: it cannot be read; FileNotFoundError where there is none.
        msgspec.DecodeError: it is broken.
    """
    state = _last_state(_file(home, name, "jsonl"))
    with contextlib.suppress(FileNotFoundError):
        state.done.update(_file(home, name, "done").read_text().split())
    return state


class Cursor:
    """The state of one sink, held until it is closed; made by `Cursor.open`."""

    def __init__(self, home: Path, name: str, lock_fd: int) -> None:
        self.home = home
        self.name = name
        self._lock_fd = lock_fd
        self._state = SinkState()
        self._done: set[str] = set()
        """All that are done; those of the state are the latest of them."""
        self._saved = b""
        self._fd = -1
        """Of the file of states; negative where it is to be begun anew."""
        self._size = 0
        _open_cursors.add(self)

    @classmethod
    def open(cls, home: Path, name: str, begin: Literal["all", "now"] = "all") -> Self:
        """Take hold of it.

        Args:
            home: the folder of recordings.
            name: the sink's.
            begin: where a sink that is not known yet begins: with all that is there, or with what ends
                from now on. One that is known goes on where it was.

        Raises:
            Busy: another process, or another cursor of this one, holds it.
            StorageError: it cannot be made.
        """
        path = _file(home, name, "lock")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock_fd = _lock(path, home, name)
        except OSError as error:
            raise StorageError(
                f"{path.parent} cannot be written: {error.strerror}. Delivery keeps there what it has sent"
            ) from error
        cursor = cls(home, name, lock_fd)
        try:
            cursor._load(begin)
        except BaseException:
            cursor._let_go()
            raise
        return cursor

    @property
    def counts(self) -> Counts:
        """What became of the spans; to be added to, and kept by `save`."""
        return self._state.counts

    @property
    def segments(self) -> dict[str, Progress]:
        """Progress in segments that are not done, by name."""
        return self._state.segments

    def progress(self, segment: str) -> Progress:
        """Progress in a segment that is not done."""
        found = self._state.segments.get(segment)
        if found is None:
            found = self._state.segments[segment] = Progress()
        return found

    def is_done(self, segment: str) -> bool:
        """Whether a segment need not be opened again."""
        return segment in self._done

    def finish(self, segment: str) -> None:
        """A segment need not be opened again."""
        self._state.segments.pop(segment, None)
        self._state.done.add(segment)
        self._done.add(segment)

    def save(self) -> None:
        """Keep what is settled and counted. Never raises: what cannot be kept is sent again, another day."""
        if self._lock_fd < 0:
            return
        try:
            if len(self._state.done) > _MOST_DONE:
                _append(_file(self.home, self.name, "done"), self._state.done)
                self._state.done = set()
            state = _encode(self._state)
            if state != self._saved:
                self._append(state + b"\n")
                self._saved = state
        except OSError as error:
            self._close_file()
            faults.swallow(error, _NOT_SAVED)

    def close(self) -> None:
        """Save, and let go of it."""
        self.save()
        self._let_go()

    def _append(self, line: bytes) -> None:
        if self._fd >= 0 and self._size < _MOST_BYTES and os.fstat(self._fd).st_nlink:
            _write(self._fd, line)
        else:
            self._close_file()
            path = _file(self.home, self.name, "jsonl")
            _replace(path, line)
            self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            self._size = 0
        self._size += len(line)

    def _close_file(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _let_go(self) -> None:
        self._close_file()
        fd, self._lock_fd = self._lock_fd, -1
        if fd >= 0:
            os.close(fd)

    def _load(self, begin: Literal["all", "now"]) -> None:
        try:
            self._state = _last_state(_file(self.home, self.name, "jsonl"))
        except FileNotFoundError:
            if begin == "now":
                self._begin_now()
        except (OSError, msgspec.DecodeError) as error:
            faults.swallow(error, _NOT_READ)
        self._done = self._state.done | self._done_before()
        for name in self._state.segments.keys() & self._done:  # it died between two files
            del self._state.segments[name]
        self.save()

    def _begin_now(self) -> None:
        """Leave out what is there. What is open in living processes comes when it ends."""
        segments = list_segments(self.home)
        living = {segment.writer for segment in segments if segment.state is State.LIVE}
        for segment in segments:
            name = segment.path.stem
            if segment.writer in living:
                self._state.segments[name] = Progress(end_of_content(segment.path))
            elif segment.size:  # else it may have been begun just now
                self._state.done.add(name)

    def _done_before(self) -> set[str]:
        """The names in the file of done segments, which is cut to those that are still there."""
        path = _file(self.home, self.name, "done")
        try:
            done = set(path.read_text().split())
            there = {file.stem for file in (self.home / "journal").iterdir()}
            if len(done - there) > _MOST_DONE:
                done &= there
                _replace(path, "".join(f"{name}\n" for name in sorted(done)).encode())
        except FileNotFoundError:
            return set()
        except (OSError, UnicodeDecodeError) as error:
            faults.swallow(error, _NOT_READ)
            return set()
        return done


_open_cursors: Final["weakref.WeakSet[Cursor]"] = weakref.WeakSet()


def _after_fork() -> None:
    """A forked child holds nothing: else a sink would stay taken when its parent ends."""
    for cursor in list(_open_cursors):
        cursor._let_go()  # noqa: SLF001  # ours


os.register_at_fork(after_in_child=_after_fork)


def _file(home: Path, name: str, ending: str) -> Path:
    """Of a sink; names are a user's, and may hold anything."""
    return home / "delivery" / f"{quote(name, safe=' ')}.{ending}"


def _last_state(path: Path) -> SinkState:
    """The last line that is whole: a disk may have been full, or power gone, while one was written."""
    lines = path.read_bytes().splitlines() or [b""]
    for line in reversed(lines[1:]):
        with contextlib.suppress(msgspec.DecodeError):
            return _decode(line)
    return _decode(lines[0])


def _lock(path: Path, home: Path, name: str) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 20, 0).decode(errors="replace").strip() or "another process"
        os.close(fd)
        raise Busy(f"Process {holder} delivers to {name} from {home} already") from None
    except OSError as error:
        faults.swallow(error, _NO_LOCKS)
    with contextlib.suppress(OSError):  # for messages only
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def _append(path: Path, names: Iterable[str]) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        lines = [f"{name}\n" for name in sorted(names)]
        _write(fd, "".join(["\n", *lines]).encode())  # the last line there may be torn
    finally:
        os.close(fd)


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        _write(fd, data)
    finally:
        os.close(fd)
    new.replace(path)


def _write(fd: int, data: bytes) -> None:
    if os.write(fd, data) < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
