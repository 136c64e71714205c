"""The rows of each kind and name, and of each model: worked out once, for several analyses look at them."""

from collections.abc import Callable, Iterator
from functools import wraps
from itertools import pairwise
from threading import Lock
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from millstream.store.arrays import Place
from millstream.store.table import KINDS, Bools, Ints, SpanTable

T = TypeVar("T")


def once_a_table(work: Callable[[SpanTable], T]) -> Callable[[SpanTable], T]:
    """What is worked out of a table, kept as long as the table: it must not be changed."""
    known: WeakKeyDictionary[SpanTable, T] = WeakKeyDictionary()
    lock = Lock()

    @wraps(work)
    def remembered(table: SpanTable) -> T:
        with lock:  # a second analysis that asks waits for the first
            found = known.get(table)
            if found is None:
                found = known[table] = work(table)
        return found

    return remembered


class _Groups(NamedTuple):
    """Rows group by group, ascending in each.

    Attributes:
        keys: of the groups that have rows, ascending.
        rows: of all of them.
        bounds: where each starts in `rows` and, last, their number.
    """

    keys: list[int]
    rows: Ints
    bounds: list[int]


def groups(table: SpanTable, wanted: Bools | None = None) -> Iterator[tuple[str, str, Ints]]:
    """Each kind and name with its rows, ordered by kind and name.

    Args:
        table: the spans.
        wanted: which rows count, shape (n,); all when None.
    """
    found, names = _of_names(table), len(table.names) + 1
    for key, (begin, end) in zip(found.keys, pairwise(found.bounds), strict=True):
        rows = found.rows[begin:end]
        if wanted is not None:
            rows = rows[wanted[rows]]
        if len(rows):
            kind, name = divmod(key, names)
            yield KINDS[kind], table.names[name], rows


def of_models(table: SpanTable) -> Iterator[tuple[str, Ints]]:
    """Each model with the rows of its calls, ascending."""
    found = _of_models(table)
    rows = {
        key: found.rows[begin:end]
        for key, (begin, end) in zip(found.keys, pairwise(found.bounds), strict=True)
    }
    for code, name in enumerate(table.models, 1):
        yield name, rows.get(code, found.rows[:0])


@once_a_table
def _of_names(table: SpanTable) -> _Groups:
    names = len(table.names) + 1
    if names * len(KINDS) <= np.iinfo(np.uint16).max:
        key = table.kind.astype(np.uint16)
        key *= np.uint16(names)
        key += table.name.astype(np.uint16)
        return _grouped(key)
    return _grouped(table.kind.astype(np.int64) * names + table.name)


@once_a_table
def _of_models(table: SpanTable) -> _Groups:
    """By 1 + the model; 0 has none."""
    if len(table.models) < np.iinfo(np.uint16).max:
        key = table.model.astype(np.uint16)
        key += np.uint16(1)
        return _grouped(key)
    return _grouped(table.model.astype(np.int64) + 1)


def _grouped(key: "np.ndarray[Any, np.dtype[np.integer[Any]]]") -> _Groups:
    order = np.argsort(key, kind="stable")  # 16 bits: by their digits
    if key.dtype == np.uint16:
        counts = np.bincount(key)
        keys: list[int] = np.flatnonzero(counts).tolist()
        first: list[int] = (np.cumsum(counts[keys]) - counts[keys]).tolist()
    else:
        ordered = key[order]
        starts = np.flatnonzero(np.append(len(key) > 0, ordered[1:] != ordered[:-1]))
        keys, first = ordered[starts].tolist(), starts.tolist()
    return _Groups(keys, order.astype(Place), [*first, len(key)])
