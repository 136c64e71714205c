"""What a sink is: takes batches of finished spans to somewhere else, and says of each what became of it.

A third party adds one by an entry point in the group `millstream.exporters`: a class, called with the options
of its section as keywords.

    class Print:
        def __init__(self, *, prefix: str = "") -> None:
            self._prefix = prefix

        def send(self, batch):
            for span in batch:
                print(self._prefix, span.name)
            return [None] * len(batch)

        def close(self) -> None: ...
"""

from collections.abc import Sequence
from typing import Final, Protocol, runtime_checkable

import msgspec

from millstream.span import Span


class Retry(msgspec.Struct, frozen=True):
    """Not taken now, perhaps later: the item is sent again.

    Attributes:
        reason: for people; the same words for the same cause, so that it can be counted.
        after_s: seconds that the receiver asked to wait.
    """

    reason: str
    after_s: float | None = None


class Rejected(msgspec.Struct, frozen=True):
    """Never to be taken: the item goes to the dead letters with the reason."""

    reason: str


class Skipped(msgspec.Struct, frozen=True):
    """Not for this sink: nothing was to be sent.

    Attributes:
        reason: where it is worth telling; the same words for the same cause.
    """

    reason: str = ""


SKIPPED: Final = Skipped()
Result = Retry | Rejected | Skipped | None
"""What became of one item; `None` where it was taken."""


@runtime_checkable
class Sink(Protocol):
    """Somewhere that spans are delivered to."""

    def send(self, batch: Sequence[Span]) -> Sequence[Result]:
        """Send spans; called again with those that are to be retried, so a span may come twice.

        Args:
            batch: finished spans, after the processors of this sink; no list: each is made when it is looked
                at, and `list(batch)` keeps them.

        Returns:
            One result a span, in their order.

        Raises:
            UnreachableError: nothing was taken, trying again can help; `retry_after_s` where the receiver
                says.
            RefusedError: nothing was taken, and a person has to mend something (credentials, certificate,
                mapping). The spans are kept and tried again, rarely.
        """
        ...

    def close(self) -> None:
        """Let go of connections and files."""
        ...
