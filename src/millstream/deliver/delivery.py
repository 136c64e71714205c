"""The sinks of one process: started, waited for and ended together."""

import atexit
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

import msgspec

from millstream.deliver import totals
from millstream.deliver.cursor import Counts
from millstream.deliver.others import left_in_all
from millstream.deliver.policy import Policy, policy_for
from millstream.deliver.shipper import Shipper
from millstream.deliver.sink import Sink
from millstream.deliver.waiting import Waiting
from millstream.errors import ConfigError, InputError
from millstream.record import recorder
from millstream.record.policy import Processor

Exporter = tuple[str, Sink, Policy, Sequence[Processor]]
"""Name, sink, policy and processors; `exporters.Configured` is one."""
_JOIN_S: Final = 2.0
_FOR_EVER_S: Final = 1e9


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
        make_room: where the journal has limits, removes what is over them and says whether anything was;
            called at the end, once all was sent that can be, and before it is said what is left.
    """

    def __init__(
        self,
        home: Path,
        exporters: Iterable[Exporter],
        begin: Literal["all", "now"] = "now",
        *,
        config_file: Path | None = None,
        make_room: Callable[[], bool] | None = None,
    ) -> None:
        self.home = home
        self._config_file = config_file
        self._make_room = make_room
        self._shippers = [
            Shipper(home, name, sink, policy, processors, begin=begin, may_be_removed=make_room is not None)
            for name, sink, policy, processors in exporters
        ]
        self._told = {shipper.name: Counts() for shipper in self._shippers}
        """What was told by flushes."""
        self._state: Literal["new", "running", "closed"] = "new"

    def start(self) -> None:
        """Begin; at exit of the program `close` is called."""
        if self._state != "new":
            return
        self._state = "running"
        _running.append(self)
        atexit.register(self._at_exit)
        for shipper in self._shippers:
            totals.begin(self.home, shipper.name, shipper.counts)
            shipper.start()

    @property
    def names(self) -> list[str]:
        """Of the sinks."""
        return [shipper.name for shipper in self._shippers]

    def flush(self, timeout_s: float = 30.0) -> Flushed:
        """Wait until what has ended is settled: taken, or rejected for good.

        It ends early where every sink with something left is refused until a person mends something.

        Raises:
            InputError: that is no time.
        """
        return self.settled(self.ask(timeout_s))

    def ask(self, timeout_s: float) -> list[Waiting]:
        """The first half of `flush`, which does not wait."""
        timeout_s = _seconds("flush", timeout_s)
        if self._state != "running":
            return []
        return [shipper.ask(timeout_s) for shipper in self._shippers]

    def settled(self, asked: Sequence[Waiting]) -> Flushed:
        """The second half."""
        if not asked:
            return Flushed()
        for shipper, waiting in zip(self._shippers, asked, strict=True):
            shipper.wait(waiting)
        return self._tell(asked)

    def stats(self) -> dict[str, Any]:
        """What became of the spans: `{sent, retried, rejected: {reason: n}, dropped: {reason: n}, sinks}`."""
        return totals.told({shipper.name: shipper.counts for shipper in self._shippers})

    def close(self, timeout_s: float | None = None) -> Flushed:
        """Send what is left, as long as that goes well, then end the threads and say what is left.

        Never longer than 45 s where a sink does not take anything.

        Args:
            timeout_s: instead of what each sink's policy says.

        Raises:
            InputError: that is no time.
        """
        if timeout_s is not None:
            timeout_s = _seconds("close", timeout_s)
        if self._state != "running":
            return Flushed()
        self._state = "closed"
        _running.remove(self)
        atexit.unregister(self._at_exit)
        if any(shipper.is_inherited for shipper in self._shippers):  # the parent process sees to it
            return Flushed()
        asked = [
            shipper.ask(shipper.policy.shutdown_timeout_s if timeout_s is None else timeout_s, closing=True)
            for shipper in self._shippers
        ]
        try:
            self._end(asked)
        except KeyboardInterrupt:
            for waiting in asked:
                waiting.until = 0
            self._end(asked)
            raise
        return self._tell(asked)

    def _end(self, asked: Sequence[Waiting]) -> None:
        for shipper, waiting in zip(self._shippers, asked, strict=True):
            shipper.wait(waiting)
        until = time.monotonic() + _JOIN_S
        for shipper in self._shippers:
            shipper.join(until - time.monotonic())
            totals.end(self.home, shipper.name, shipper.counts)
        is_less = self._make_room is not None and self._make_room()
        for shipper, waiting in zip(self._shippers, asked, strict=True):
            if waiting.left and is_less:
                waiting.left = left_in_all(self.home, shipper.name)
            shipper.announcing.last_words(waiting.left or 0, waiting.why, shipper.counts, self._config_file)

    def _at_exit(self) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            self.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _tell(self, asked: Sequence[Waiting]) -> Flushed:
        sinks = {}
        for shipper, waiting in zip(self._shippers, asked, strict=True):
            now, before = shipper.counts, self._told[shipper.name]
            rejected = Counter(now.rejected) - Counter(before.rejected)
            sinks[shipper.name] = Flushed(now.sent - before.sent, waiting.left or 0, dict(rejected))
            self._told[shipper.name] = Counts(now.sent, rejected=dict(now.rejected))
        return _sum(sinks)


_running: Final[list[Delivery]] = []


def flush(timeout_s: float = 30.0) -> Flushed:
    """Wait until every delivery of this process has settled what has ended; see `Delivery.flush`.

    It blocks: in async code, `await asyncio.to_thread(millstream.flush, 30)`.

    Raises:
        InputError: that is no time.
    """
    timeout_s = _seconds("flush", timeout_s)
    asked = [(delivery, delivery.ask(timeout_s)) for delivery in list(_running)]
    flushed: dict[str, Flushed] = {}
    for delivery, waiting in asked:
        for name, one in delivery.settled(waiting).sinks.items():
            flushed[name] = _sum({name: flushed.get(name, Flushed()), "": one}) if name in flushed else one
    return _sum(flushed)


def deliver_to(exporters: Mapping[str, Mapping[str, Any] | Sink], home: Path | str | None = None) -> Delivery:
    """Deliver what this program records from now on, without a workflow file.

        millstream.deliver_to({"search": {"_type": "elasticsearch", "endpoint": url, "index": "spans"}})

    Args:
        exporters: by name: a section as under `general.telemetry.tracing`, or a sink. The name is that of
            its place in the journal: the same name goes on where it was.
        home: the folder of recordings; default that of this process.

    Returns:
        The delivery, which has begun. It ends with the program, or as a block or by `close`.

    Raises:
        ConfigError: a section is wrong; all that is, one problem a line.
        MissingExtraError: something that one needs is not installed.
    """
    from millstream.deliver.exporters import build_all  # noqa: PLC0415  # which loads what few need
    from millstream.deliver.options import raise_all  # noqa: PLC0415

    if not isinstance(exporters, Mapping):
        raise ConfigError(
            f"deliver_to takes a mapping of names to sections or sinks, not a {type(exporters).__name__}"
        )
    home = recorder.journal_home() if home is None else Path(home).absolute()
    in_use = {name for one in _running if one.home == home for name in one.names}
    problems = [
        f"deliver_to.{name}: this program delivers under this name already"
        for name in exporters
        if name in in_use
    ]
    problems += [
        f"deliver_to.{name}: a section, such as {{'_type': 'file', 'path': 'spans.jsonl'}}, or a sink is "
        f"needed here, not a {type(one).__name__}"
        for name, one in exporters.items()
        if not isinstance(one, Mapping) and not callable(getattr(one, "send", None))
    ]
    raise_all(problems)
    sections = {name: one for name, one in exporters.items() if isinstance(one, Mapping)}
    built: dict[str, Exporter] = {one.name: one for one in build_all(sections, where="deliver_to")}
    for name, one in exporters.items():
        if not isinstance(one, Mapping):
            built[name] = (name, one, policy_for(one), ())
    delivery = Delivery(home, built.values())
    delivery.start()
    return delivery


def _seconds(function: str, timeout_s: Any) -> float:
    """A time that was given, as a number."""
    is_number = isinstance(timeout_s, Real) and not isinstance(timeout_s, bool)
    if is_number and timeout_s >= 0:
        return float(min(timeout_s, _FOR_EVER_S))
    raise InputError(
        f"{function}({timeout_s!r}): give the seconds to wait at most, a number that is 0 or more, such as 30"
    )


def _sum(sinks: dict[str, Flushed]) -> Flushed:
    rejected: Counter[str] = Counter()
    for one in sinks.values():
        rejected.update(one.rejected)
    sent = sum(one.sent for one in sinks.values())
    return Flushed(sent, sum(one.left for one in sinks.values()), dict(rejected), sinks)
