"""Spans that a sink will never take as they are: kept in a file, with the reason, and sent again on request."""

from pathlib import Path

import msgspec

from millstream.deliver.sink import Sink


class Retried(msgspec.Struct, frozen=True):
    """What became of dead letters that were sent again."""

    sent: int = 0
    rejected: dict[str, int] = {}
    left: int = 0


def retry_rejected(home: Path, name: str, sink: Sink, batch_size: int = 500) -> Retried:
    """Send the dead letters of a sink again; those that it takes are removed from the file.

    Raises:
        Busy: another process delivers to this sink.
        UnreachableError, RefusedError: the sink took nothing more; what it took before is removed.
    """
    raise NotImplementedError
