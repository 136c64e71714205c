"""How far one sink has come in a journal: durable, and held by one process at a time."""

from collections import Counter
from pathlib import Path
from typing import Literal, NamedTuple, Self

import msgspec

from millstream.errors import MillstreamError


class Busy(MillstreamError):  # noqa: N818  # no fault: another process sees to this sink
    """Another process delivers to this sink from this home."""

    exit_code = 4
    transient = True


class Place(NamedTuple):
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
        rejected: by reason.
        dropped: by reason.
        evicted: that were removed from the journal before they were settled.
    """

    sent: int = 0
    retried: int = 0
    rejected: Counter[str] = msgspec.field(default_factory=Counter)
    skipped: int = 0
    dropped: Counter[str] = msgspec.field(default_factory=Counter)
    evicted: int = 0


class Cursor:
    """The state of one sink, in `<home>/delivery/<name>.json`.

    Attributes:
        counts: may be added to at any time; kept by `save`.
    """

    home: Path
    name: str
    counts: Counts

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
        raise NotImplementedError

    def save(self) -> None:
        """Keep what is settled and counted. Never raises: what cannot be kept is sent again, another day."""
        raise NotImplementedError

    def close(self) -> None:
        """Save, and let go of it."""
        raise NotImplementedError
