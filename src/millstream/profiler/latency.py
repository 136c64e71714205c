"""How long do calls take? Durations per kind and name, failed calls included; open and cached ones apart."""

import msgspec
import numpy as np

from millstream.profiler import estimate
from millstream.profiler.groups import groups
from millstream.profiler.results import Statistic
from millstream.span import Status
from millstream.store.table import STATUS_CODE, Ints, SpanTable

_ERROR = STATUS_CODE[Status.ERROR.value]


class LatencyRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """Calls of one kind and name.

    Attributes:
        n: calls that ended; the statistics are over them, in seconds.
        errors: how many of the n ended with status `error`.
        open: calls without an end.
        cached: calls that ended and were answered from the cache of an evaluation; they are none of the
            n. JSON has it where there are any.
    """

    kind: str
    name: str
    n: int
    errors: int
    open: int
    mean: Statistic
    p50: Statistic
    p90: Statistic
    p95: Statistic
    p99: Statistic
    cached: int = 0


def latency(table: SpanTable) -> list[LatencyRow]:
    """Latency of each kind and name, the largest total time first."""
    found = []
    for kind, name, rows in groups(table):
        end_ns = table.end_ns[rows]
        closed = end_ns >= 0
        sent = closed & ~table.cached[rows]
        duration = (end_ns - table.start_ns[rows])[sent]
        errors = int((table.status[rows] == _ERROR).sum(where=sent))
        ended = int(closed.sum())
        row = statistics(kind, name, duration, errors, len(rows) - ended, ended - len(duration))
        found.append((-float(duration.sum()), kind, name, row))
    return [row for *_, row in sorted(found, key=lambda entry: entry[:3])]


def statistics(
    kind: str, name: str, duration_ns: Ints, errors: int, still_open: int, cached: int = 0
) -> LatencyRow:
    """The row of one group of calls that ended, durations in nanoseconds in any order."""
    ordered = np.sort(duration_ns) / estimate.NS_PER_S
    return LatencyRow(
        kind=kind,
        name=name,
        n=len(ordered),
        errors=errors,
        open=still_open,
        mean=estimate.mean(ordered),
        p50=estimate.quantile(ordered, 0.50),
        p90=estimate.quantile(ordered, 0.90),
        p95=estimate.quantile(ordered, 0.95),
        p99=estimate.quantile(ordered, 0.99),
        cached=cached,
    )
