"""How long do calls take? Durations per kind and name, failed calls included, open ones counted apart."""

from collections.abc import Iterator
from itertools import pairwise

import msgspec
import numpy as np

from millstream.profiler import estimate
from millstream.profiler.results import Statistic
from millstream.store.table import KINDS, Bools, Ints, SpanTable


class LatencyRow(msgspec.Struct, frozen=True):
    """Calls of one kind and name.

    Attributes:
        n: calls that ended; the statistics are over them, in seconds.
        errors: how many of the n ended with status `error`.
        open: calls without an end.
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


def latency(table: SpanTable) -> list[LatencyRow]:
    """Latency of each kind and name, the largest total time first."""
    duration = table.duration_ns
    closed, failed = table.closed, table.failed
    found = []
    for kind, name, rows in groups(table, np.ones(len(table), bool)):
        ended = rows[closed[rows]]
        row = statistics(kind, name, duration[ended], int(failed[ended].sum()), len(rows) - len(ended))
        found.append((-float(duration[ended].sum()), kind, name, row))
    return [row for *_, row in sorted(found, key=lambda entry: entry[:3])]


def statistics(kind: str, name: str, duration_ns: Ints, errors: int, still_open: int) -> LatencyRow:
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
    )


def groups(table: SpanTable, wanted: Bools) -> Iterator[tuple[str, str, Ints]]:
    """Each kind and name among the wanted spans with its rows, ordered by kind and name."""
    rows = np.flatnonzero(wanted)
    names = len(table.names) + 1
    key = table.kind[rows].astype(np.int64) * names + table.name[rows]
    if names * len(KINDS) <= np.iinfo(np.uint16).max:
        key = key.astype(np.uint16)  # sorted by its digits
    order = np.argsort(key, kind="stable")
    key, rows = key[order], rows[order]
    first = np.flatnonzero(np.append(len(key) > 0, key[1:] != key[:-1]))
    for at, end in pairwise([*first.tolist(), len(key)]):
        kind, name = divmod(int(key[at]), names)
        yield KINDS[kind], table.names[name], rows[at:end]
