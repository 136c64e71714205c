"""What tells whether a call is a retry: its siblings, of which one failed, and a hash of its input.

Only of such calls is the input looked at; most calls have no sibling that failed.
"""

from hashlib import blake2b
from typing import Any, Final

import msgspec
import numpy as np

from millstream.store.arrays import UNKNOWN, Bools, Ints
from millstream.store.strict_json import json_bytes

_BYTES: Final = 8
_MOST_BITS: Final = 22
_MULTIPLIER: Final = np.uint64(0x9E3779B97F4A7C15)


def siblings_of_failed(trace: Ints, parent: Ints, kind: Ints, name: Ints, failed: Bools) -> tuple[Ints, Ints]:
    """Rows of the same parent, kind and name, of which at least one failed; several at least.

    Args:
        trace: number of the trace, shape (n,).
        parent: row of the parent, negative for roots, shape (n,).
        kind: shape (n,).
        name: shape (n,).
        failed: shape (n,).

    Returns:
        The rows, one group behind the other, ascending in each; where each group starts and, last, their
        number.
    """
    rows = _candidates(trace, parent, kind, name, failed)
    if len(rows) == 0:
        return rows, np.zeros(1, np.int64)
    columns = [_above(trace[rows], parent[rows]), kind[rows], name[rows]]
    order = np.lexsort(columns[::-1])
    rows, columns = rows[order], [column[order] for column in columns]
    differs = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    first = np.flatnonzero(np.append(True, differs))
    size = np.diff(np.append(first, len(rows)))
    wanted = np.logical_or.reduceat(failed[rows], first) & (size > 1)
    return rows[np.repeat(wanted, size)], np.append(0, np.cumsum(size[wanted]))


def _above(trace: Ints, parent: Ints) -> Ints:
    """What siblings have in common: their parent or, for roots, their trace."""
    return np.where(parent >= 0, parent, -1 - trace)


def _candidates(trace: Ints, parent: Ints, kind: Ints, name: Ints, failed: Bools) -> Ints:
    """Siblings of the rows that failed, and some others: those whose hashes meet."""
    wrong = int(failed.sum())
    bits = min(max(wrong, 1).bit_length() + 4, _MOST_BITS)
    mixed = (_above(trace, parent).astype(np.int64) << 16) ^ (name.astype(np.int64) << 5) ^ kind
    slot = (mixed.view(np.uint64) * _MULTIPLIER) >> np.uint64(64 - bits)
    marked = np.zeros(1 << bits, bool)
    marked[slot[failed]] = True
    return np.flatnonzero(marked[slot])


def input_hash(value: Any) -> int:
    """63 bits that are the same for equal inputs; -1 where the input was not captured."""
    if value is msgspec.UNSET:
        return UNKNOWN
    if isinstance(value, msgspec.Raw):
        value = msgspec.json.decode(value)
    told = json_bytes(value, order="deterministic")
    return int.from_bytes(blake2b(told, digest_size=_BYTES).digest(), "big") >> 1
