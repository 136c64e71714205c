"""The sinks of one process: started, waited for and ended together."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import msgspec

from millstream.deliver.policy import Policy
from millstream.deliver.sink import Sink
from millstream.record.policy import Processor

Exporter = tuple[str, Sink, Policy, Sequence[Processor]]
"""Name, sink, policy and processors; `exporters.Configured` is one."""


class Flushed(msgspec.Struct, frozen=True):
    """What became of spans, counted once for each sink.

    Attributes:
        sent: that a sink took since the flush before, or since delivery began.
        left: that ended and are not settled; they stay in the journal.
        rejected: since the flush before, by reason; they are in the dead letters.
        sinks: the same for each sink, by name.
    """

    sent: int = 0
    left: int = 0
    rejected: dict[str, int] = {}
    sinks: "dict[str, Flushed]" = {}


class Delivery:
    """Delivers what is recorded into a home, in the background, one thread a sink.

    Args:
        home: the folder of recordings.
        exporters: of a workflow file, from `exporters.build_all`.
        begin: where a sink begins that was never delivered to from this home: with all that is there, or
            with what ends after `start`. One that is known goes on where it was.
        config_file: named in messages, as what `millstream ship` takes.
    """

    def __init__(
        self,
        home: Path,
        exporters: Sequence[Exporter],
        begin: Literal["all", "now"] = "now",
        *,
        config_file: Path | None = None,
    ) -> None: ...

    def start(self) -> None:
        """Begin; at exit of the program `close` is called."""

    def flush(self, timeout_s: float = 30.0) -> Flushed:
        """Wait until what has ended is settled: taken, or rejected for good.

        It ends early where every sink with something left is refused until a person mends something.
        """
        raise NotImplementedError

    def stats(self) -> dict[str, Any]:
        """What became of the spans: `{sent, retried, rejected: {reason: n}, dropped: {reason: n}, sinks}`."""
        raise NotImplementedError

    def close(self, timeout_s: float | None = None) -> Flushed:
        """Send what is left, as long as that goes well, then end the threads and say what is left.

        Never longer than 45 s where a sink does not take anything.

        Args:
            timeout_s: instead of what each sink's policy says.
        """
        raise NotImplementedError

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def flush(timeout_s: float = 30.0) -> Flushed:
    """Wait until every delivery of this process has settled what has ended; see `Delivery.flush`."""
    raise NotImplementedError


def deliver_to(exporters: Mapping[str, Mapping[str, Any] | Sink], home: Path | None = None) -> Delivery:
    """Deliver what this program records, without a workflow file; `millstream.deliver_to` (the name
    `millstream.deliver` is taken by this package).

    Args:
        exporters: by name: a section as under `general.telemetry.tracing`, or a sink.
        home: the folder of recordings; default that of this process.
    """
    raise NotImplementedError
