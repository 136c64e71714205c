"""What fails, what is tried again, and what does it cost? Calls, errors and retries of each kind and name.

A retry is a call with the same parent, kind, name and input as an earlier sibling that failed; it starts when
that one has ended. Calls whose input was not captured cannot be told to be retries and are counted apart.
"""

import math
from bisect import bisect_right, insort
from collections import Counter
from typing import Final, NamedTuple

import msgspec
import numpy as np
from scipy.special import betaincinv

from millstream.profiler import estimate
from millstream.profiler.estimate import LEVEL, NS_PER_S
from millstream.profiler.groups import groups
from millstream.profiler.requests import Pauses, pauses
from millstream.profiler.results import Statistic
from millstream.store.retried import siblings_of_failed
from millstream.store.table import Bools, Ints, SpanTable

try:
    from millstream.profiler import _retries
except ImportError:  # built without a compiler
    _retries = None  # type: ignore[assignment]
COMPILED: Final = _retries is not None


class RetryRow(msgspec.Struct, frozen=True):
    """Calls of one kind and name. Rows do not add up: a call that fails often fails what called it.

    Attributes:
        calls: all calls, open ones included.
        open: calls without an end.
        errors: calls that ended with status `error`.
        error_rate: errors / calls that ended, with its Clopper-Pearson interval.
        errors_by_type: how many of each type of error, the most frequent first.
        retries: calls that are retries.
        retries_unknown: calls that follow a failed sibling of the same name whose input, or their own, is not
            known: they may be retries.
        recovered: retries that ended without an error.
        failed_for_good: calls that failed and were not tried again.
        lost_s: seconds that failed calls took.
        waited_s: seconds between the end of a failed call and the retry that came next.
        throughput_per_s: calls ended per second from the first start to the last end, pauses between sessions
            left out; its interval follows the spread of the gaps between ends. Calls that an evaluation
            answered from its cache do not count.
    """

    kind: str
    name: str
    calls: int
    open: int
    errors: int
    error_rate: Statistic
    errors_by_type: dict[str, int]
    retries: int
    retries_unknown: int
    recovered: int
    failed_for_good: int
    lost_s: float
    waited_s: float
    throughput_per_s: Statistic


class _Attempts(NamedTuple):
    """One element a call.

    Attributes:
        failed: it ended with status `error`.
        is_retry: it is a retry.
        retried: it failed, and was tried again.
        may_be: it follows a failed sibling, and an input is not known.
        waited_ns: of a retry, since the attempt before it failed.
    """

    failed: Bools
    is_retry: Bools
    retried: Bools
    may_be: Bools
    waited_ns: Ints


def retries(table: SpanTable) -> list[RetryRow]:
    """One row for each kind and name, the one with the most errors first, then the most calls."""
    attempts = _attempts(table)
    quiet = pauses(table)
    rows = [_row(table, kind, name, members, attempts, quiet) for kind, name, members in groups(table)]
    return sorted(rows, key=lambda row: (-row.errors, -row.calls, row.kind, row.name))


def proportion(hits: int, n: int, level: float = LEVEL) -> Statistic:
    """A share of n and its Clopper-Pearson interval, which holds the truth at least as often as it says."""
    if n == 0:
        return Statistic(None, None, None)
    tail = (1 - level) / 2
    low = float(betaincinv(hits, n - hits + 1, tail)) if hits else 0.0
    high = float(betaincinv(hits + 1, n - hits, 1 - tail)) if hits < n else 1.0
    return Statistic(hits / n, low, high)


def _row(table: SpanTable, kind: str, name: str, rows: Ints, attempts: _Attempts, quiet: Pauses) -> RetryRow:
    ended = rows[table.end_ns[rows] >= 0]
    failed = rows[attempts.failed[rows]]
    again = rows[attempts.is_retry[rows]]
    sent = ended[~table.cached[ended]]
    return RetryRow(
        kind=kind,
        name=name,
        calls=len(rows),
        open=len(rows) - len(ended),
        errors=len(failed),
        error_rate=proportion(len(failed), len(ended)),
        errors_by_type=_by_type(table, failed),
        retries=len(again),
        retries_unknown=int(attempts.may_be[rows].sum()),
        recovered=int(((table.end_ns[again] >= 0) & ~attempts.failed[again]).sum()),
        failed_for_good=int((~attempts.retried[failed]).sum()),
        lost_s=float((table.end_ns[failed] - table.start_ns[failed]).sum()) / NS_PER_S,
        waited_s=float(attempts.waited_ns[again].sum()) / NS_PER_S,
        throughput_per_s=throughput(quiet.without(table.start_ns[sent]), quiet.without(table.end_ns[sent])),
    )


def throughput(start_ns: Ints, end_ns: Ints) -> Statistic:
    """Calls ended per second: n / (last end - first start).

    The gaps between one end and the next (the first: since the first start) have the mean 1 / throughput, so
    that the relative error of the throughput is that of the mean gap.
    """
    n = len(end_ns)
    span_s = (int(end_ns.max()) - int(start_ns.min())) / NS_PER_S if n else 0.0
    if span_s <= 0:
        return Statistic(None, None, None)
    rate = n / span_s
    gaps_s = np.diff(np.sort(end_ns), prepend=start_ns.min()) / NS_PER_S
    half = estimate.student_half_width(np.asarray(gaps_s, np.float64))
    if half is None:
        return Statistic(rate, None, None)
    return Statistic(rate, max(rate * (1 - half * rate), 0.0), rate * (1 + half * rate))


def _by_type(table: SpanTable, failed: Ints) -> dict[str, int]:
    """How many of each type of error, the most frequent first."""
    counts = Counter[str]()
    for code, count in zip(*np.unique(table.error_type[failed], return_counts=True), strict=True):
        counts[(table.error_types[code] if code >= 0 else "") or "unknown"] += int(count)
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))


def _attempts(table: SpanTable) -> _Attempts:
    """Which calls are retries. Only the siblings of calls that failed are looked at one by one."""
    is_retry, retried, may_be = np.zeros((3, len(table)), bool)
    failed = table.failed & table.closed
    found = _Attempts(failed, is_retry, retried, may_be, np.zeros(len(table), np.int64))
    rows, first = siblings_of_failed(table.trace, table.parent, table.kind, table.name, failed)
    if COMPILED:
        columns = (table.start_ns, table.end_ns, table.input_hash)
        _retries.note(rows, first, *columns, failed, is_retry, retried, may_be, found.waited_ns)
    else:
        for siblings in np.split(rows, first[1:-1]):
            _note(table, siblings, found)
    return found


class _SameInput:
    """Siblings of one input, met in order of their starts."""

    def __init__(self) -> None:
        self.first_failure: float = math.inf
        self.failed: list[tuple[int, int]] = []
        self.ended: list[tuple[int, bool]] = []


def _note(table: SpanTable, siblings: Ints, found: _Attempts) -> None:
    """Note the retries among siblings, in order of their starts. Times are nanoseconds."""
    by_input: dict[int | None, _SameInput] = {}
    first_failure = math.inf
    columns = (siblings, table.start_ns[siblings], table.end_ns[siblings], found.failed[siblings])
    hashes = table.input_hash[siblings]
    for row, start, end, failed, told in zip(*(one.tolist() for one in (*columns, hashes)), strict=True):
        key = None if told < 0 else told
        same = by_input.setdefault(key, _SameInput())
        if key is None:
            found.may_be[row] = first_failure <= start
        elif same.first_failure <= start:
            found.is_retry[row] = True
            before = same.ended[bisect_right(same.ended, (start, True)) - 1]
            found.waited_ns[row] = start - before[0] if before[1] else 0
            found.retried[[earlier for ended, earlier in same.failed if ended <= start]] = True
            same.failed = [(ended, earlier) for ended, earlier in same.failed if ended > start]
        else:
            found.may_be[row] = by_input[None].first_failure <= start if None in by_input else False
        if end >= 0:
            insort(same.ended, (end, failed))
        if failed:
            same.failed.append((end, row))
            same.first_failure = min(same.first_failure, end)
            first_failure = min(first_failure, end)
