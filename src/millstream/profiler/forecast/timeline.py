"""Ends of calls, starts of tools and moments of requests in one order: what is before, what after."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from millstream.span import SpanKind
from millstream.store.table import KIND_CODE, UNKNOWN, Bools, Ints, SpanTable

LLM, TOOL = KIND_CODE[SpanKind.LLM.value], KIND_CODE[SpanKind.TOOL.value]
_INSTANT_TOOL, _CALL_END, _MOMENT, _TOOL_START, _LAST = range(5)
Floats = NDArray[np.float64]


class Calls(NamedTuple):
    """Rows of LLM and TOOL calls of some traces.

    Attributes:
        ended: those with an end, by trace and end.
        tools: the TOOL calls, also open ones.
    """

    ended: Ints
    tools: Ints


def calls_of(table: SpanTable, traces: Ints) -> Calls:
    """The calls of some traces."""
    wanted = np.zeros(len(table.trace_ids), bool)
    wanted[traces] = True
    inside = wanted[table.trace]
    tools = np.flatnonzero(inside & np.equal(table.kind, TOOL))
    ended = np.flatnonzero(inside & table.closed & np.isin(table.kind, (LLM, TOOL)))
    return Calls(ended[np.lexsort((ended, table.end_ns[ended], table.trace[ended]))], tools)


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """Events and moments ordered by trace and time; a moment is after the calls that end at it.

    Attributes:
        row: of the span of each event, -1 at moments, shape (events + moments,).
        ended: which events are ends of calls.
        started: which events are starts of tools.
        at: positions of the moments, shape (moments,).
        first: position where the trace of each moment begins.
        stop: position after its end.
        trace: of each moment.
        moment_ns: Unix nanoseconds of each moment.
    """

    row: Ints
    ended: Bools
    started: Bools
    at: Ints
    first: Ints
    stop: Ints
    trace: Ints
    moment_ns: Ints

    @classmethod
    def of(cls, table: SpanTable, calls: Calls, of: Ints, moment_ns: Ints, *, last: bool) -> "Timeline":
        """Merge calls with moments.

        Args:
            table: the spans.
            calls: some of its calls.
            of: the trace of each moment.
            moment_ns: Unix nanoseconds.
            last: moments are after the tools that start at them, too.
        """
        row = np.concatenate((calls.ended, calls.tools, np.full(len(of), UNKNOWN)))
        trace = np.concatenate((table.trace[calls.ended], table.trace[calls.tools], of))
        time = np.concatenate((table.end_ns[calls.ended], table.start_ns[calls.tools], moment_ns))
        instant = table.end_ns[calls.tools] == table.start_ns[calls.tools]
        starts = np.where(instant, _INSTANT_TOOL, _TOOL_START)
        moments = np.full(len(of), _LAST if last else _MOMENT)
        phase = np.concatenate((np.full(len(calls.ended), _CALL_END), starts, moments))
        order = np.lexsort((row, phase, time, trace))
        row, trace, phase = row[order], trace[order], phase[order]
        at = np.flatnonzero(row < 0)
        return cls(
            row=row,
            ended=phase == _CALL_END,
            started=(phase == _INSTANT_TOOL) | (phase == _TOOL_START),
            at=at,
            first=np.searchsorted(trace, trace[at]),
            stop=np.searchsorted(trace, trace[at], side="right"),
            trace=trace[at],
            moment_ns=time[order][at],
        )

    def sums(self, values: Floats | Bools | Ints) -> tuple[Floats, Floats]:
        """Sums over the events before each moment, and after it, of its trace."""
        total = np.concatenate(([0.0], np.cumsum(np.asarray(values, np.float64))))
        return total[self.at] - total[self.first], total[self.stop] - total[self.at]

    def first_of(self, mark: Bools) -> Ints:
        """Position of the first mark before each moment; -1 when there is none."""
        return self._following(mark, self.first, self.at)

    def latest(self, mark: Bools) -> Ints:
        """Position of the last mark before each moment; -1 when there is none."""
        latest = np.maximum.accumulate(np.where(mark, np.arange(len(mark)), UNKNOWN))[self.at]
        return np.where(latest >= self.first, latest, UNKNOWN)

    def following(self, mark: Bools) -> Ints:
        """Position of the first mark after each moment; -1 when there is none."""
        return self._following(mark, self.at, self.stop)

    def values(self, column: Ints | Floats, position: Ints, otherwise: int) -> Floats:
        """A column of the table at positions; `otherwise` where there is none."""
        return np.where(position >= 0, column[self.row[position]], otherwise).astype(np.float64)

    def names(self, table: SpanTable, position: Ints) -> Ints:
        """Names of the spans at positions, as positions in the names of the table; -1 without one."""
        return self.values(table.name, position, UNKNOWN).astype(np.int64)

    @staticmethod
    def _following(mark: Bools, begin: Ints, stop: Ints) -> Ints:
        n = len(mark)
        following = np.minimum.accumulate(np.where(mark, np.arange(n), n)[::-1])[::-1][begin]
        return np.where(following < stop, following, UNKNOWN)
