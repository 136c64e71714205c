"""Where time and ids come from. Tests and replays put their own in place with `recording(clock=, ids=)`.

A clock has `wall_ns()` (Unix nanoseconds) and `monotonic_ns()` (nanoseconds that never run backwards);
an id source has `trace_id()` (32 hex digits) and `span_id()` (16 hex digits).
"""

import os
import time
from random import Random
from typing import Protocol


class Clock(Protocol):
    """Two readings of time, in nanoseconds."""

    def wall_ns(self) -> int:
        """Unix time."""
        ...

    def monotonic_ns(self) -> int:
        """Time since some fixed moment; never runs backwards."""
        ...


class Ids(Protocol):
    """Ids of traces and spans, as lower-case hex."""

    def trace_id(self) -> str:
        """32 hex digits, not all zero."""
        ...

    def span_id(self) -> str:
        """16 hex digits, not all zero."""
        ...


class SystemClock:
    """The clocks of the operating system."""

    wall_ns = staticmethod(time.time_ns)
    monotonic_ns = staticmethod(time.perf_counter_ns)


class SteppingClock:
    """A clock for tests: both readings advance by `step_ns` at every monotonic reading.

    Args:
        start_ns: the first wall reading.
        step_ns: nanoseconds between two monotonic readings.
    """

    def __init__(self, start_ns: int = 1_700_000_000_000_000_000, step_ns: int = 1_000_000) -> None:
        self._start_ns = start_ns
        self._step_ns = step_ns
        self._elapsed_ns = 0

    def wall_ns(self) -> int:
        """The start and what has elapsed since."""
        return self._start_ns + self._elapsed_ns

    def monotonic_ns(self) -> int:
        """What has elapsed; then one step elapses."""
        now_ns = self._elapsed_ns
        self._elapsed_ns += self._step_ns
        return now_ns


class RandomIds:
    """Random ids, made many at a time: one then costs a pop from a list, which threads may share.

    A forked child draws anew, so that two processes never share a sequence.

    Args:
        seed: the same ids for the same seed; default, others each time.
    """

    _MADE_AT_ONCE = 256

    def __init__(self, seed: int | None = None) -> None:
        self._random = Random(seed)  # noqa: S311  # ids are not secrets
        self.ready_traces: list[str] = []
        """Trace ids, to be taken from the end by who finds a call too dear."""
        self.ready_spans: list[str] = []
        """Likewise span ids."""
        if seed is None:
            os.register_at_fork(after_in_child=self._start_anew)

    def trace_id(self) -> str:
        """32 hex digits from 128 random bits."""
        try:
            return self.ready_traces.pop()
        except IndexError:
            return self._make(self.ready_traces, 32)

    def span_id(self) -> str:
        """16 hex digits from 64 random bits."""
        try:
            return self.ready_spans.pop()
        except IndexError:
            return self._make(self.ready_spans, 16)

    def _make(self, ready: list[str], length: int) -> str:
        digits = self._random.randbytes(self._MADE_AT_ONCE * length // 2).hex(" ", length // 2)  # split in C
        first, *others = digits.split(" ")
        ready += others
        return first

    def _start_anew(self) -> None:
        self._random.seed()
        self.ready_traces.clear()
        self.ready_spans.clear()


class CountingIds:
    """Ids for tests: 1, 2, 3, … for traces and for spans."""

    def __init__(self) -> None:
        self._traces = 0
        self._spans = 0

    def trace_id(self) -> str:
        """The next trace number."""
        self._traces += 1
        return f"{self._traces:032x}"

    def span_id(self) -> str:
        """The next span number."""
        self._spans += 1
        return f"{self._spans:016x}"


class _Sources:
    clock: Clock = SystemClock()
    ids: Ids = RandomIds()


active = _Sources()
"""The sources in use; `recording()` swaps them."""


def new_trace_id() -> str:
    """A trace id from the source in use."""
    return active.ids.trace_id()
