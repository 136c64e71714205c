"""Reading on in a journal: every span that ended once, translated and merged, whoever recorded it."""

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from millstream.deliver.cursor import Cursor, Place
from millstream.span import Span


class Item(msgspec.Struct, frozen=True):
    """A span to be delivered, and what to say when it is settled."""

    span: Span
    place: Place


class Tail:
    """Gives the spans of a journal to one sink; those not settled when it ends are given by the next.

    Args:
        home: the folder of recordings.
        cursor: what is settled.
        between: called now and then in the middle of longer work, about every 64 KiB that are read, so that
            whoever reads can give up the interpreter.

    Attributes:
        rejected: counts, by reason, of lines that are no spans.
        merged: counts, by kind, of spans that were one call with another.
    """

    rejected: Counter[str]
    merged: Counter[str]

    def __init__(self, home: Path, cursor: Cursor, between: Callable[[], object] | None = None) -> None:
        raise NotImplementedError

    def read(self, limit: int) -> list[Item]:
        """Spans that are ready now and were not given yet, at most `limit`; none where nothing is new."""
        raise NotImplementedError

    def settle(self, places: Iterable[Place]) -> None:
        """These need not be given again: taken, rejected for good, or not for this sink."""
        raise NotImplementedError

    def save(self) -> None:
        """As `Cursor.save`."""
        raise NotImplementedError

    def left(self) -> int:
        """How many spans have ended, or were interrupted, and are not settled."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the files; the cursor stays open."""
        raise NotImplementedError
