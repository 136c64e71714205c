"""Loose rows in order, with what only all of them tell: who is whose parent, and what is odd.

The same as `SpanTable.from_spans` of the same spans, by operations on whole columns; a test compares them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream.span import Status
from millstream.store.arrays import UNKNOWN, Bools, Ints
from millstream.store.arrow import bits, column_of, one, plain
from millstream.store.parquet import SCHEMA, known, texts
from millstream.store.retried import input_hash, siblings_of_failed
from millstream.store.table import LATEST_NS, MOST_TOKENS, TOKENS, Oddities

_ERROR: Final = texts([Status.ERROR.value])


@dataclass(slots=True, eq=False)
class Arrangement:
    """The order of a table's rows, and its columns that tell of other rows, as in `SpanTable`.

    Attributes:
        order: position of each row among those that were given, shape (n,).
        traces: how many there are.
    """

    order: Ints
    traces: int
    trace: Ints
    parent: Ints
    depth: Ints
    start_ns: Ints
    end_ns: Ints
    declared_root: Bools
    oddities: Oddities


def arrangement(
    trace_id: pa.Array, span_id: pa.Array, parent_id: pa.Array, start_ns: pa.Array, end_ns: pa.Array
) -> Arrangement:
    """Put spans in the order of a table; of two of one id the last that is closed is kept."""
    began, ended, is_open = plain(start_ns, 0), plain(end_ns, 0), ~bits(end_ns, 0)
    traces, spans = trace_id.dictionary_encode(), span_id.dictionary_encode()
    trace = _numbered(traces, began)
    key = trace * len(spans.dictionary) + plain(spans.indices, UNKNOWN)
    kept = _distinct(key, ~is_open, many=len(spans.dictionary) < len(key))
    duplicates = len(key) - len(kept)
    begin = np.clip(began[kept], 0, LATEST_NS)
    limited = np.clip(ended[kept], 0, LATEST_NS)
    is_open, trace = is_open[kept], trace[kept]
    end = np.where(is_open, UNKNOWN, np.maximum(limited, begin))
    moved = (begin != began[kept]).sum() + (~is_open & (limited != ended[kept])).sum()
    named = plain(pc.index_in(parent_id, value_set=spans.dictionary), UNKNOWN)[kept]
    declared_root = ~bits(parent_id, 0)[kept]
    parent = _found(trace * len(spans.dictionary) + named, key[kept])
    parent[named < 0] = UNKNOWN
    missing = int((~declared_root & (parent < 0)).sum())
    depth, cycles = _depths(parent, begin)
    order = np.lexsort((depth, begin, trace))
    place = np.empty(len(order) + 1, np.int64)
    place[order], place[-1] = np.arange(len(order)), UNKNOWN
    parent, begin, end = place[parent[order]], begin[order], end[order]
    child = np.flatnonzero(parent >= 0)
    above = parent[child]
    oddities = Oddities(
        open_spans=int((end < 0).sum()),
        duplicate_span_ids=duplicates,
        missing_parents=missing,
        parent_cycles=cycles,
        negative_durations=int((~is_open & (limited < np.clip(began[kept], 0, LATEST_NS))).sum()),
        starts_before_parent=int((begin[child] < begin[above]).sum()),
        outlives_parent=int(((end[above] >= 0) & (end[child] > end[above])).sum()),
        impossible_times=int(moved),
    )
    return Arrangement(
        order=kept[order],
        traces=len(traces.dictionary),
        trace=trace[order],
        parent=parent,
        depth=depth[order],
        start_ns=begin,
        end_ns=end,
        declared_root=declared_root[order],
        oddities=oddities,
    )


def arrange(rows: pa.Table) -> tuple[pa.Table, Arrangement]:
    """Loose rows with the columns of `parquet.SCHEMA`, in the order of a table.

    Args:
        rows: with the columns of `loose.SCHEMA`.
    """
    rows = rows.combine_chunks()
    ids = (one(rows, name) for name in ("trace_id", "span_id", "parent_id", "start_ns", "end_ns"))
    found = arrangement(*ids)
    sorted_rows = rows.take(column_of(found.order))
    columns = {name: one(sorted_rows, name) for name in sorted_rows.column_names}
    found.oddities = msgspec.structs.replace(found.oddities, impossible_tokens=impossible_tokens(columns))
    columns |= {
        "trace": column_of(found.trace.astype(np.int32)),
        "parent": known(found.parent.astype(np.int32)),
        "depth": column_of(found.depth.astype(np.int32)),
        "table_start_ns": column_of(found.start_ns),
        "table_end_ns": known(found.end_ns),
        "declared_root": column_of(found.declared_root),
        "input_hash": known(_input_hashes(found, columns)),
    }
    return pa.Table.from_arrays([columns[field.name] for field in SCHEMA], schema=SCHEMA), found


def impossible_tokens(columns: Mapping[str, pa.Array]) -> int:
    """How many counts of tokens cannot be."""
    counts = (plain(columns[name], 0) for name in TOKENS)
    return sum(int(((count < 0) | (count > MOST_TOKENS)).sum()) for count in counts)


def _input_hashes(found: Arrangement, columns: dict[str, pa.Array]) -> Ints:
    hashes = np.full(len(found.order), UNKNOWN, np.int64)
    is_error = pc.is_in(columns["status"], value_set=_ERROR)
    failed = bits(is_error, 1) & (found.end_ns >= 0)
    kind, name = (plain(columns[one].dictionary_encode().indices, UNKNOWN) for one in ("kind", "name"))
    for row in siblings_of_failed(found.trace, found.parent, kind, name, failed)[0].tolist():
        text = columns["input"][row].as_py()
        hashes[row] = input_hash(msgspec.UNSET if text is None else msgspec.Raw(text.encode()))
    return hashes


def _numbered(traces: pa.DictionaryArray, start_ns: Ints) -> Ints:
    """The number of each row's trace: by first start, then by id, shape (n,)."""
    code = plain(traces.indices, UNKNOWN)
    first = np.full(len(traces.dictionary), np.iinfo(np.int64).max)
    np.minimum.at(first, code, start_ns)
    by_id = np.empty(len(first), np.int64)
    by_id[plain(pc.sort_indices(traces.dictionary), UNKNOWN)] = np.arange(len(first))
    number = np.empty(len(first), np.int64)
    number[np.lexsort((by_id, first))] = np.arange(len(first))
    found: Ints = number[code]
    return found


def _distinct(key: Ints, closed: Bools, *, many: bool) -> Ints:
    """The rows that are kept, one a key, in the order in which the keys came first.

    Args:
        key: shape (n,).
        closed: shape (n,).
        many: whether keys may come again.
    """
    if not many:
        return np.arange(len(key))
    order = np.argsort(key, kind="stable")
    first = np.flatnonzero(np.append(True, key[order][1:] != key[order][:-1])[: len(key)])
    last_closed = np.maximum.reduceat(np.where(closed[order], order, UNKNOWN), first)
    last = np.maximum.reduceat(order, first)
    kept = np.where(last_closed >= 0, last_closed, last)
    return kept[np.argsort(order[first])]


def _found(wanted: Ints, keys: Ints) -> Ints:
    """Where each wanted key stands, -1 where it does not, shape (wanted,)."""
    order = np.argsort(keys, kind="stable")
    at = np.minimum(np.searchsorted(keys, wanted, sorter=order), max(len(keys) - 1, 0))
    return np.where(keys[order[at]] == wanted, order[at], UNKNOWN) if len(keys) else wanted


def _depths(parent: Ints, start_ns: Ints) -> tuple[Ints, int]:
    """How many spans are above each, and how many cycles were cut; `parent` is changed where one was."""
    cycles = 0
    while True:
        depth, above = (parent >= 0).astype(np.int64), parent.copy()
        rows = np.flatnonzero(above >= 0)
        for _ in range(len(parent).bit_length() + 1):  # each round looks twice as far
            if not len(rows):
                return depth, cycles
            depth[rows] += depth[above[rows]]
            above[rows] = above[above[rows]]
            rows = rows[above[rows] >= 0]
        cycles += _cut(parent, rows, start_ns)


def _cut(parent: Ints, rows: Ints, start_ns: Ints) -> int:
    """Cut the cycles that rows lead to, each at the span that starts first; how many there were."""
    seen: dict[int, int] = {}
    cut = 0
    for begin in rows.tolist():
        path, at = [], begin
        while at >= 0 and at not in seen:
            seen[at] = begin
            path.append(at)
            at = int(parent[at])
        if at >= 0 and seen[at] == begin:
            cycle = path[path.index(at) :]
            parent[min(cycle, key=lambda member: (start_ns[member], member))] = UNKNOWN
            cut += 1
    return cut
