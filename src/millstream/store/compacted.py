"""Which Parquet files a journal was compacted into, and what of the journal is in them.

A file says in its footer which segments it covers, so that it is published, with what it covers, by one
rename. What was read of footers is kept in the manifest.
"""

import contextlib
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

import msgspec

from millstream.errors import MissingExtraError
from millstream.store import manifest
from millstream.store.segments import Segment, may_not_be_read, paths_in

FOLDER: Final = "spans"
_NAME: Final = re.compile(r"[\w.-]+\.\w+", re.ASCII)
_TRIES: Final = 20
METADATA: Final = b"millstream.compacted"
"""Of a file's footer: its `Covered`, as JSON."""


class Writer(msgspec.Struct, frozen=True):
    """How far one process's segments were read.

    Attributes:
        through: name of the last segment that was read.
        carried: name of the file with the lines of traces that were open there; `None` where there were none.
    """

    through: str
    carried: str | None = None

    def is_after(self, other: "Writer") -> bool:
        """Whether this was told later."""
        return (self.through, self.carried is None) > (other.through, other.carried is None)


class Covered(msgspec.Struct, frozen=True):
    """What of a journal is in a file.

    Attributes:
        segments: names of those whose ended spans are here, in earlier files, or among what is carried.
        writers: by the name of each process that recorded them.
        replaces: names of files whose spans are all here.
        rejected: lines that were no spans, by reason.
        merged: spans that went into others, by kind.
        last_ns: when a span began or ended last, Unix nanoseconds; `None` where there is none.
        memory: bytes of the rows before they were compressed.
    """

    segments: list[str] = []
    writers: dict[str, Writer] = {}
    replaces: list[str] = []
    rejected: dict[str, int] = {}
    merged: dict[str, int] = {}
    last_ns: int | None = None
    memory: int = 0

    def __post_init__(self) -> None:
        carried = (writer.carried for writer in self.writers.values() if writer.carried is not None)
        if not all(_NAME.fullmatch(name) for name in (*self.replaces, *carried)):
            raise ValueError("it names files of other folders")


class CompactedFile(msgspec.Struct, frozen=True):
    """A Parquet file of spans, in `<home>/spans`; `size` is in bytes, `mtime_ns` in Unix nanoseconds."""

    name: str
    size: int
    mtime_ns: int
    spans: int
    covered: Covered

    def is_of(self, status: os.stat_result) -> bool:
        """Whether a file of this name is this one: numbers come again where all files were removed."""
        return (self.size, self.mtime_ns) == (status.st_size, status.st_mtime_ns)


class Compacted(msgspec.Struct, frozen=True):
    """The files of a journal, oldest first.

    Attributes:
        home: the folder of recordings.
        broken: reasons, by name, of files that cannot be read; what they cover is read from the journal.
    """

    home: Path
    files: list[CompactedFile] = []
    broken: dict[str, str] = {}

    @property
    def complaints(self) -> list[str]:
        """What to say of the broken ones."""
        return [f"{name} is damaged; what is left of the journal was read instead" for name in self.broken]

    @property
    def paths(self) -> list[Path]:
        """Of the files."""
        return [self.home / FOLDER / file.name for file in self.files]

    @property
    def segments(self) -> set[str]:
        """Names of the segments that need not be read."""
        return {name for file in self.files for name in file.covered.segments}

    @property
    def writers(self) -> dict[str, Writer]:
        """How far each process was read."""
        found: dict[str, Writer] = {}
        for file in self.files:
            for name, writer in file.covered.writers.items():
                if name not in found or writer.is_after(found[name]):
                    found[name] = writer
        return found

    def carried(self, writer: str) -> bytes:
        """The lines of a process's traces that were open where it was read last."""
        known = self.writers.get(writer)
        if known is None or known.carried is None:
            return b""
        return (self.home / FOLDER / known.carried).read_bytes()

    def without(self, file: CompactedFile) -> "Compacted":
        """The same, once a file is removed."""
        return msgspec.structs.replace(self, files=[one for one in self.files if one is not file])

    def can_spare(self, file: CompactedFile, segments: Collection[str]) -> bool:
        """Whether a file may be removed: what it says of its processes is known without it, or nobody asks.

        Args:
            file: one of these.
            segments: names of those that stay in the journal; of what this covers, they would be read again.
        """
        known, rest = self.writers, self.without(file).writers
        return not any(name in segments for name in file.covered.segments) and all(
            rest.get(name) == known[name]
            or (known[name].carried is None and (name not in rest or rest[name].carried is None))
            for name in file.covered.writers
        )

    def left(self, segments: list[Segment]) -> Iterator[Segment]:
        """Segments that are not covered."""
        covered = self.segments
        return (segment for segment in segments if segment.path.stem not in covered)


def compacted(home: Path) -> Compacted:
    """The files that a journal was compacted into; none where it never was.

    Raises:
        MissingExtraError: there are some, and the extra that reads them is not installed.
        InputError: they may not be read.
    """
    try:
        for _ in range(_TRIES):
            with contextlib.suppress(FileNotFoundError):  # its spans are in a file that is listed now
                return _compacted(home)
        return _compacted(home)
    except PermissionError as error:
        raise may_not_be_read(error, home) from error


def _compacted(home: Path) -> Compacted:
    found = paths_in(home / FOLDER, ".parquet")
    if not found:
        return Compacted(home)
    known = manifest.load(home, "files", CompactedFile)
    files: dict[str, CompactedFile] = {}
    broken: dict[str, str] = {}
    for path in found:
        kept = known.get(path.name)
        try:
            files[path.name] = kept if kept and kept.is_of(path.stat()) else _read(path)
        except (MissingExtraError, PermissionError, FileNotFoundError):
            raise
        except (OSError, ValueError) as error:  # Arrow's errors are ValueErrors
            broken[path.name] = str(error)
    if files != known:
        manifest.save(home, "files", files)
    replaced = {name for file in files.values() for name in file.covered.replaces}
    return Compacted(home, [file for name, file in files.items() if name not in replaced], broken)


def _read(path: Path) -> CompactedFile:
    """What a file says of itself; raises ValueError where it is no file of ours."""
    try:
        import pyarrow.parquet as pq  # noqa: PLC0415  # needs an extra
    except ModuleNotFoundError as error:
        raise MissingExtraError("Reading a compacted journal", "profiling") from error
    about = pq.read_metadata(path)
    told = (about.metadata or {}).get(METADATA)
    if told is None:
        raise ValueError("it does not say which segments it covers")
    status = path.stat()
    covered = msgspec.json.decode(told, type=Covered)
    return CompactedFile(path.name, status.st_size, status.st_mtime_ns, about.num_rows, covered)
