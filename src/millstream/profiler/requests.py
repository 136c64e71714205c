"""What is a request? One trace, with its root, its run time and how it ended."""

from dataclasses import dataclass

import msgspec
import numpy as np

from millstream.store.table import UNKNOWN, Bools, Ints, SpanTable


class RequestCounts(msgspec.Struct, frozen=True):
    """How requests ended: `failed` has a root with status error, `unfinished` a root without end."""

    n: int
    failed: int
    unfinished: int


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
        unfinished: a root has no end.
    """

    recorded: Bools
    first_row: Ints
    start_ns: Ints
    end_ns: Ints
    run_time_ns: Ints
    failed: Bools
    unfinished: Bools


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
    unfinished = np.zeros(traces, bool)
    roots = rows[rooted[of]] if len(rows) else rows
    np.logical_or.at(failed, table.trace[roots], table.failed[roots])
    np.logical_or.at(unfinished, table.trace[roots], ~table.closed[roots])
    usable = (end >= 0) & ~unfinished
    return Requests(
        recorded=recorded,
        first_row=first_row,
        start_ns=start,
        end_ns=end,
        run_time_ns=np.where(usable, end - start, UNKNOWN),
        failed=failed,
        unfinished=unfinished,
    )


def request_counts(table: SpanTable) -> RequestCounts:
    """How many requests there are, and how they ended."""
    found = requests(table)
    return RequestCounts(
        n=int(found.recorded.sum()), failed=int(found.failed.sum()), unfinished=int(found.unfinished.sum())
    )
