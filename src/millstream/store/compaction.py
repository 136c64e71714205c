"""Journal to Parquet: the segments that nobody writes any more, in files sorted by trace and start.

A file appears under its name when it is whole and on disk; until then, and where it cannot be written, the
journal is read as before. Compaction removes nothing of the journal, and those who record never wait for it.
"""

import contextlib
import fcntl
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import IO, Final

import msgspec

from millstream.errors import InputError, MissingExtraError, StorageError
from millstream.span import Status
from millstream.store.compacted import FOLDER, METADATA, Compacted, Covered, Writer, compacted
from millstream.store.segments import Segment, State, list_segments, may_go_on

try:
    import pyarrow as pa
    import pyarrow.compute as pc

    from millstream.store import loose
    from millstream.store.arrange import arrange
    from millstream.store.journal_rows import JournalRows
    from millstream.store.parquet import write_rows
    from millstream.store.parquet_spans import StoredSpans
    from millstream.store.parquet_table import about_of
except ModuleNotFoundError as error:
    raise MissingExtraError("Compacting a journal", "profiling") from error

BYTES_A_FILE: Final = 128 << 20
"""Of rows in memory, before they are compressed."""
SMALL_ROWS: Final = 50_000
MANY_SMALL: Final = 8
"""So many files become one that have fewer than `SMALL_ROWS` spans and that fit into memory together."""
_BEGINNING_NS: Final = 60 * 10**9
_LOCK: Final = "lock"
_CARRIED: Final = ".carried.jsonl"
_UNFINISHED: Final = ".tmp"


class Compaction(msgspec.Struct, frozen=True):
    """What was done.

    Attributes:
        spans: that were written.
        files: that they were written to, by name.
        segments: that were read.
        joined: small files that became part of others.
        left: segments that are being written, or whose process lives and may go on in them.
        rejected: lines that were no spans, by reason.
        merged: spans that went into others, by kind.
    """

    spans: int = 0
    files: list[str] = []
    segments: int = 0
    joined: int = 0
    left: int = 0
    rejected: dict[str, int] = {}
    merged: dict[str, int] = {}


def compact(home: Path, *, bytes_a_file: int = BYTES_A_FILE) -> Compaction:
    """Write the segments that are not in Parquet yet.

    Args:
        home: the folder of recordings.
        bytes_a_file: of rows in memory, after which a file is written.

    Raises:
        StorageError: a file cannot be written, or somebody else compacts this journal now.
        InputError: the journal may not be read, or this is no folder.
    """
    if home.exists() and not home.is_dir():
        raise InputError(
            f"{home} is no folder. Give the folder that was recorded into, by default .millstream"
        )
    if not (home / "journal").is_dir() and not (home / FOLDER).is_dir():
        return Compaction()
    try:
        with _alone(home):
            work = _Work(home, bytes_a_file)
            work.read()
            joined = work.join_small()
            work.tidy()
            return msgspec.structs.replace(work.done, joined=joined)
    except BlockingIOError as error:
        raise StorageError(f"{home} is being compacted by another process; wait for it") from error
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"{error.filename or home / FOLDER} cannot be written: {error.strerror or error}. "
            "The journal is as it was"
        ) from error


@contextlib.contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Raises BlockingIOError where another process is at it."""
    folder = home / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    fd = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)


@dataclass(slots=True)
class _Batch:
    """What is to be one file.

    Attributes:
        tables: of loose rows.
        size: bytes of them.
        segments: names of those that were read.
        carried: the last of them, and the lines that are left to carry, by process.
    """

    tables: list[pa.Table] = field(default_factory=list)
    size: int = 0
    segments: list[str] = field(default_factory=list)
    carried: dict[str, tuple[str, bytes]] = field(default_factory=dict)

    def add(self, rows: pa.Table) -> None:
        if len(rows):
            self.tables.append(rows)
            self.size += rows.nbytes


class _Work:
    """One compaction of a journal."""

    def __init__(self, home: Path, bytes_a_file: int) -> None:
        self.done = Compaction()
        self._folder = home / FOLDER
        self._home = home
        self._bytes_a_file = bytes_a_file
        self._known = compacted(home)
        numbers = [int(path.stem) for path in self._folder.glob("*.parquet") if path.stem.isdecimal()]
        self._number = max(numbers, default=0)
        self._batch = _Batch()
        self._rejected: Counter[str] = Counter()
        self._merged: Counter[str] = Counter()
        """Of the batch."""

    def read(self) -> None:
        """Write what is not in Parquet yet."""
        of_writer: defaultdict[str, list[Segment]] = defaultdict(list)
        for segment in self._known.left(list_segments(self._home)):
            of_writer[segment.writer].append(segment)
        for writer, known in self._known.writers.items():
            if known.carried is not None:
                of_writer[writer] += []  # it may have ended since
        for writer, segments in of_writer.items():
            self._read_writer(writer, segments)
        self._flush()

    def _read_writer(self, writer: str, segments: list[Segment]) -> None:
        goes_on = any(segment.state is State.LIVE for segment in segments) or may_go_on(writer)
        before = self._known.writers.get(writer)
        through = "" if before is None else before.through
        segments = [one for one in segments if one.path.stem > through]  # earlier ones: of a damaged file
        segments = [one for one in segments if one.size or not _may_begin(one)]
        final = list(takewhile(lambda one: one.state is State.CLOSED or not goes_on, segments))
        self.done = msgspec.structs.replace(self.done, left=self.done.left + len(segments) - len(final))
        if not final and (goes_on or before is None):
            return
        rows = JournalRows(self._rejected, self._merged, self._known.carried(writer))
        for segment in final:
            try:
                for table in rows.read(segment.path):
                    self._batch.add(table)
            except FileNotFoundError:  # it was removed just now
                continue
            through = segment.path.stem
            self._batch.segments.append(through)
            self._batch.carried[writer] = (through, rows.carried)
            if self._batch.size > self._bytes_a_file:
                self._flush()
        if not goes_on:
            self._batch.add(rows.finish(Status.INTERRUPTED))
            self._batch.carried[writer] = (through, b"")

    def _flush(self) -> None:
        """Write what was read; nothing where nothing was."""
        batch, self._batch = self._batch, _Batch()
        if not batch.carried:
            return
        covered = Covered(
            segments=batch.segments,
            writers={writer: self._carry(*left) for writer, left in batch.carried.items()},
            rejected=dict(self._rejected),
            merged=dict(self._merged),
        )
        name, spans = self._write(batch.tables, covered)
        self.done = Compaction(
            spans=self.done.spans + spans,
            files=[*self.done.files, name],
            segments=self.done.segments + len(batch.segments),
            left=self.done.left,
            rejected=dict(Counter(self.done.rejected) + self._rejected),
            merged=dict(Counter(self.done.merged) + self._merged),
        )
        self._rejected.clear()
        self._merged.clear()

    def _carry(self, through: str, lines: bytes) -> Writer:
        if not lines:
            return Writer(through)
        name = f"{through}{_CARRIED}"
        _publish(self._folder / name, lambda file: file.write(lines))
        return Writer(through, name)

    def _write(self, tables: list[pa.Table], covered: Covered, duplicates: int = 0) -> tuple[str, int]:
        """Write a file; its name, and how many spans it has."""
        rows, found = arrange(pa.concat_tables(tables) if tables else loose.NO_ROWS)
        times = [pc.max(rows.column(name)).as_py() for name in ("start_ns", "end_ns")]
        last_ns = max((time_ns for time_ns in times if time_ns is not None), default=None)
        covered = msgspec.structs.replace(covered, last_ns=last_ns, memory=rows.nbytes)
        more = {METADATA: msgspec.json.encode(covered)}
        oddities = msgspec.structs.replace(
            found.oddities, duplicate_span_ids=found.oddities.duplicate_span_ids + duplicates
        )
        self._number += 1
        name = f"{self._number:08d}.parquet"
        _publish(self._folder / name, lambda file: write_rows(rows, file, found.traces, oddities, more))
        return name, len(rows)

    def join_small(self) -> int:
        """Make one of many small files; how many there were."""
        known = compacted(self._home)
        small, duplicates, room = [], 0, BYTES_A_FILE
        for file in (one for one in known.files if one.spans < SMALL_ROWS):
            about = about_of(StoredSpans(self._folder / file.name))
            if about is not None and file.covered.memory <= room:
                small.append(file)
                duplicates += about.oddities.duplicate_span_ids
                room -= file.covered.memory
        if len(small) < MANY_SMALL:
            return 0
        paths = [self._folder / file.name for file in small]
        self._write(
            [StoredSpans(path).columns(loose.SCHEMA.names) for path in paths],
            Covered(
                segments=[name for file in small for name in file.covered.segments],
                writers={name: known.writers[name] for name in Compacted(self._home, small).writers},
                replaces=[name for file in small for name in (file.name, *file.covered.replaces)],
                rejected=dict(sum((Counter(file.covered.rejected) for file in small), Counter())),
                merged=dict(sum((Counter(file.covered.merged) for file in small), Counter())),
            ),
            duplicates,
        )
        return len(small)

    def tidy(self) -> None:
        """Remove files that others replace, carried lines that are written now, and what is half-written."""
        known = compacted(self._home)
        unwanted = {name for file in known.files for name in file.covered.replaces}
        unwanted |= {path.name for path in self._folder.glob(f"*{_UNFINISHED}")}
        if not known.broken:  # which may ask for some that no other file asks for
            carried = {path.name for path in self._folder.glob(f"*{_CARRIED}")}
            unwanted |= carried - {writer.carried for writer in known.writers.values()}
        for path in self._folder.iterdir():
            if path.name in unwanted:
                path.unlink(missing_ok=True)


def _may_begin(segment: Segment) -> bool:
    """Whether its process may be about to take hold of it: the file is made first."""
    return time.time_ns() - segment.mtime_ns < _BEGINNING_NS


def _publish(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file, and give it its name when it is on disk."""
    unfinished = path.with_name(f"{path.name}{_UNFINISHED}")
    try:
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
