"""Which traces are recorded: decided where one begins, and again where it fails or is slow."""

import os
from collections.abc import Mapping
from typing import Final

import msgspec

from millstream.context import SpanContext
from millstream.errors import ConfigError
from millstream.record import faults
from millstream.record.journal import Journal
from millstream.span import Status

_TRACE_RANGE: Final = 2**64
MAX_HELD_BYTES: Final = 4 << 20
"""Of one trace that is held back; what was held is given up when there is more."""


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How many traces are recorded, and which always.

    Attributes:
        rate: share of traces, 0 to 1.
        workflows: rates of traces whose root has this name, in place of `rate`.
        keep_errors: record traces in which a span failed, too. Those that are not sampled are then held in
            memory until their root ends.
        slower_than_s: record traces with a span that lasted at least so many seconds, too.
        by_parent: do as the caller of this process did, where it says so (W3C trace flags).

    Raises:
        ConfigError: a rate is not from 0 to 1.
    """

    rate: float = 1.0
    workflows: Mapping[str, float] = {}
    keep_errors: bool = False
    slower_than_s: float | None = None
    by_parent: bool = True

    def __post_init__(self) -> None:
        for name, rate in (("rate", self.rate), *self.workflows.items()):
            if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1:
                raise ConfigError(f"sampling: {name} must be a share from 0 to 1, not {rate!r}")

    @property
    def keeps_some(self) -> bool:
        """Whether a trace that is not sampled may be recorded in the end."""
        return self.keep_errors or self.slower_than_s is not None

    def bounds(self) -> dict[str | None, str]:
        """By root name, and under `None` for others: traces whose id ends below this are sampled.

        The last 16 hex digits of an id decide, as in OpenTelemetry's TraceIdRatioBased, so that all processes
        of a trace decide alike.
        """
        return {None: _bound(self.rate), **{name: _bound(rate) for name, rate in self.workflows.items()}}


def _bound(rate: float) -> str:
    return f"{round(rate * _TRACE_RANGE):016x}" if rate < 1 else "g"


def from_environment() -> Sampling | None:
    """What `OTEL_TRACES_SAMPLER` says; `None` where all is recorded, as where it makes no sense."""
    name = os.environ.get("OTEL_TRACES_SAMPLER", "").strip().lower()
    if name in ("", "always_on"):
        return None
    kind = name.removeprefix("parentbased_")
    argument = os.environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip() or "1"
    try:
        rate = {"always_on": 1.0, "always_off": 0.0}.get(kind)
        if rate is None and kind != "traceidratio":
            raise ConfigError(f"there is no sampler {name}")
        return Sampling(rate=float(argument) if rate is None else rate, by_parent=kind != name)
    except ValueError as error:
        faults.swallow(error, "OTEL_TRACES_SAMPLER was not understood; every trace is recorded")
        return None


class Held:
    """Stands in for the journal of a trace that is not sampled, until it is known whether it is kept.

    Args:
        journal: where the lines go if it is.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._lines: list[bytes] = []
        self._size = 0
        self._over = False
        self._given_up = 0
        self._forks = journal.forks
        self.root: SpanContext | None = None
        """The span with which it ends."""
        self.kept = False

    def begin(self, opening: bytes) -> None:
        """Nothing: a trace that is held is lost with its process."""
        if self.kept:
            self._journal.begin(opening)

    def finish(self, line: bytes) -> None:
        """Hold the line of an ended span."""
        if self.kept:
            self._journal.finish(line)
            return
        if self._forks != self._journal.forks:  # what was held before the fork is the parent's
            self._forks = self._journal.forks
            self._give_up()
        if self._over or self._size > MAX_HELD_BYTES:
            self._given_up += 0 if self._over else len(self._lines)
            self._give_up()
        self._lines.append(line)
        self._size += len(line)

    def ended(self, span: SpanContext, status: Status | None, duration_s: float, sampling: Sampling) -> bool:
        """Decide, after `span` has ended and its line was held.

        Returns:
            Whether the trace was given up: its root ended, and nothing spoke for it.
        """
        slow = sampling.slower_than_s is not None and duration_s >= sampling.slower_than_s
        if not self.kept and (slow or (sampling.keep_errors and status is Status.ERROR)):
            self.kept = True
            if self._given_up:
                faults.counts["spans of a kept trace that was too large to hold"] += self._given_up
            for line in self._lines:
                self._journal.finish(line)
            self._give_up()
        if span is not self.root:
            return False
        self._over = True  # what ends later is kept only for its own sake
        self._give_up()
        return not self.kept

    def _give_up(self) -> None:
        self._lines = []
        self._size = 0
