"""What tells whether a call is a retry: its siblings, of which one failed, and a hash of its input.

Only of such calls is the input looked at; most calls have no sibling that failed.
"""

from collections.abc import Iterator
from hashlib import blake2b
from typing import Any, Final

import msgspec
import numpy as np

from millstream.store.arrays import UNKNOWN, Bools, Ints

_BYTES: Final = 8


def siblings_of_failed(trace: Ints, parent: Ints, kind: Ints, name: Ints, failed: Bools) -> Iterator[Ints]:
    """Rows of the same parent, kind and name, ascending, of which at least one failed; several at least.

    Args:
        trace: number of the trace, shape (n,).
        parent: row of the parent, negative for roots, shape (n,).
        kind: shape (n,).
        name: shape (n,).
        failed: shape (n,).
    """
    if not failed.any():
        return
    above = np.where(parent >= 0, parent, -1 - trace)
    order = np.lexsort((name, kind, above))
    columns = np.stack((above, kind, name))[:, order]
    first = np.flatnonzero(np.append(True, (columns[:, 1:] != columns[:, :-1]).any(axis=0)))
    ends = np.append(first[1:], len(order))
    several = np.logical_or.reduceat(failed[order], first) & (ends - first > 1)
    for start, end in zip(first[several].tolist(), ends[several].tolist(), strict=True):
        yield np.sort(order[start:end])


def input_hash(value: Any) -> int:
    """63 bits that are the same for equal inputs; -1 where the input was not captured."""
    if value is msgspec.UNSET:
        return UNKNOWN
    if isinstance(value, msgspec.Raw):
        value = msgspec.json.decode(value)
    told = msgspec.json.encode(value, enc_hook=str, order="deterministic")
    return int.from_bytes(blake2b(told, digest_size=_BYTES).digest(), "big") >> 1
