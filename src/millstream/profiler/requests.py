"""What is a request? One trace, with its root, its run time and how it ended."""

from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import numpy as np

from millstream import semconv
from millstream.profiler.groups import once_a_table
from millstream.span import Status
from millstream.store.table import STATUS_CODE, UNKNOWN, Bools, Ints, SpanTable

SHORTEST_PAUSE_NS = 60_000_000_000
_CANCELLED = STATUS_CODE[Status.CANCELLED.value]


class RequestCounts(msgspec.Struct, frozen=True):
    """How requests ended, and in how many sessions.

    Attributes:
        n: requests.
        failed: a root ended with status error.
        cancelled: a root ended with status cancelled.
        unfinished: a root has no end.
        sessions: parts of the record with a pause between them; see `pauses`.
    """

    n: int
    failed: int
    cancelled: int
    unfinished: int
    sessions: int


class Pauses(NamedTuple):
    """Stretches of time in which nothing was going on, ascending, Unix nanoseconds."""

    start_ns: Ints
    end_ns: Ints

    def without(self, moment_ns: Ints) -> Ints:
        """Moments outside the pauses as if the pauses had taken no time."""
        if len(self.end_ns) == 0:
            return moment_ns
        before = np.concatenate(([0], np.cumsum(self.end_ns - self.start_ns)))
        return moment_ns - before[np.searchsorted(self.end_ns, moment_ns, side="right")]


@dataclass(frozen=True, slots=True, eq=False)
class Requests:
    """One element a trace of the table, in its order.

    Attributes:
        recorded: the trace has spans.
        first_row: row of its first root, -1 without one.
        start_ns: start of the first root, else of the first span; -1 without spans.
        end_ns: end of the last root, else of the last closed span; -1 when there is none.
        run_time_ns: the root's duration; without a root, last end minus first start; -1 while open.
        failed: a root ended with status error.
        cancelled: a root ended with status cancelled.
        unfinished: a root has no end.
    """

    recorded: Bools
    first_row: Ints
    start_ns: Ints
    end_ns: Ints
    run_time_ns: Ints
    failed: Bools
    cancelled: Bools
    unfinished: Bools

    @property
    def bad(self) -> Bools:
        """Requests that did not end well."""
        return self.failed | self.cancelled | self.unfinished


@once_a_table
def requests(table: SpanTable) -> Requests:
    """The requests of a table. A trace with several roots lasts from the first start to the last end."""
    traces = len(table.trace_ids)
    recorded = np.zeros(traces, bool)
    recorded[table.trace] = True
    rooted = np.zeros(traces, bool)
    rooted[table.trace[table.declared_root]] = True
    counted = table.declared_root | ~rooted[table.trace]
    rows = np.flatnonzero(counted)
    of = table.trace[rows]
    first_row = np.full(traces, UNKNOWN, np.int64)
    first_row[of[::-1]] = rows[::-1]
    start = np.where(first_row >= 0, table.start_ns[first_row], UNKNOWN) if len(table) else first_row.copy()
    end = np.full(traces, UNKNOWN, np.int64)
    np.maximum.at(end, of, table.end_ns[rows])
    failed = np.zeros(traces, bool)
    cancelled = np.zeros(traces, bool)
    unfinished = np.zeros(traces, bool)
    roots = rows[rooted[of]] if len(rows) else rows
    np.logical_or.at(failed, table.trace[roots], table.failed[roots])
    np.logical_or.at(cancelled, table.trace[roots], table.status[roots] == _CANCELLED)
    np.logical_or.at(unfinished, table.trace[roots], ~table.closed[roots])
    usable = (end >= 0) & ~unfinished
    found = Requests(
        recorded=recorded,
        first_row=first_row,
        start_ns=start,
        end_ns=end,
        run_time_ns=np.where(usable, end - start, UNKNOWN),
        failed=failed,
        cancelled=cancelled,
        unfinished=unfinished,
    )
    for name in Requests.__slots__:
        getattr(found, name).flags.writeable = False
    return found


def request_counts(table: SpanTable) -> RequestCounts:
    """How many requests there are, and how they ended."""
    found = requests(table)
    return RequestCounts(
        n=int(found.recorded.sum()),
        failed=int(found.failed.sum()),
        cancelled=int(found.cancelled.sum()),
        unfinished=int(found.unfinished.sum()),
        sessions=len(pauses(table).start_ns) + 1 if len(table) else 0,
    )


@once_a_table
def pauses(table: SpanTable) -> Pauses:
    """Where one session ended and the next began, such as before an evaluation that was resumed.

    A pause is a stretch in which no request was open, longer than 60 s and than the longest request. A
    request that never ended was open until its last span that is known.
    """
    if len(table) == 0:
        return Pauses(np.zeros(0, np.int64), np.zeros(0, np.int64))
    bounds = table.bounds()
    used = bounds[:-1][np.diff(bounds) > 0]
    start = np.minimum.reduceat(table.start_ns, used)
    end = np.maximum.reduceat(np.maximum(table.start_ns, table.end_ns), used)
    order = np.argsort(start, kind="stable")
    quiet_from, busy_again = np.maximum.accumulate(end[order])[:-1], start[order][1:]
    is_pause = busy_again - quiet_from > max(SHORTEST_PAUSE_NS, int((end - start).max()))
    return Pauses(quiet_from[is_pause], busy_again[is_pause])


def item_id(table: SpanTable, found: Requests, request: int) -> str | None:
    """The item of an evaluation that a request was run for, as its root tells."""
    row = int(found.first_row[request])
    item = table.spans[row].attributes.get(semconv.EVAL_ITEM_ID) if row >= 0 else None
    return None if item is None else str(item)
