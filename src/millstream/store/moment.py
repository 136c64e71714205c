"""A journal at one moment, for those who read it while others compact and prune it."""

import contextlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from millstream.errors import StorageError
from millstream.store.compacted import Compacted, compacted
from millstream.store.segments import Segment, State, list_segments, may_not_be_read

T = TypeVar("T")

_TRIES: Final = 20
_MOST_HELD: Final = 256
"""Files that are held open; a process may have a thousand files or so."""
_DESCRIPTORS: Final = Path("/proc/self/fd")


class Left(NamedTuple):
    """What is in no Parquet file of one process.

    Attributes:
        carried: lines of its traces that were open where it was compacted last.
        segments: those that are not compacted, oldest first.
        lives: whether it was recording.
    """

    carried: bytes
    segments: list[Segment]
    lives: bool


class Moment(NamedTuple):
    """The files that a journal was compacted into, and what is left of it, by process."""

    known: Compacted
    left: dict[str, Left]


def moment(home: Path) -> Moment:
    """What a journal is made of now.

    Raises:
        FileNotFoundError: it has changed meanwhile; see `undisturbed`.
        InputError: it may not be read.
    """
    segments = list_segments(home)  # before the files: what is compacted and removed from here on is in them
    known = compacted(home)
    living = {segment.writer for segment in segments if segment.state is State.LIVE}
    of_writer: defaultdict[str, list[Segment]] = defaultdict(list)
    for segment in known.left(segments):
        of_writer[segment.writer].append(segment)
    for writer in known.writers:
        of_writer[writer] += []
    left = {writer: Left(known.carried(writer), some, writer in living) for writer, some in of_writer.items()}
    return Moment(known, left)


def undisturbed(home: Path, read: Callable[[], T]) -> T:
    """What is read of a journal; again, where files were removed meanwhile, for their spans are in others.

    Raises:
        StorageError: that happens again and again.
        InputError: it may not be read.
    """
    for _ in range(_TRIES):
        try:
            return read()
        except FileNotFoundError:
            continue
        except PermissionError as error:
            raise may_not_be_read(error, home) from error
    raise StorageError(f"{home}: files are removed again and again while it is read; try it later")


def held(paths: Sequence[Path], opened: contextlib.ExitStack) -> list[Path]:
    """The same files, by names under which they can be read later, even once they are removed.

    Args:
        paths: to be read.
        opened: lets go of them.

    Raises:
        FileNotFoundError: one is removed already.
    """
    if not _DESCRIPTORS.is_dir():  # another system
        return list(paths)
    files = [opened.enter_context(path.open("rb")) for path in paths[:_MOST_HELD]]
    return [*(_DESCRIPTORS / str(file.fileno()) for file in files), *paths[_MOST_HELD:]]
