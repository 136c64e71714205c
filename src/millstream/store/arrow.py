"""Columns of Arrow as NumPy arrays, from their buffers: `to_numpy` and `fill_null` import pandas."""

from typing import Any

import numpy as np
import pyarrow as pa

from millstream.store.arrays import Bools


def plain(column: pa.Array, missing: float) -> "np.ndarray[Any, Any]":
    """Numbers; the buffer itself where all are known."""
    kind = np.dtype(column.type.to_pandas_dtype())
    found = np.frombuffer(column.buffers()[1], kind, len(column), column.offset * kind.itemsize)
    return np.where(bits(column, 0), found, np.array(missing, kind)) if column.null_count else found


def bits(column: pa.Array, buffer: int) -> Bools:
    """One of a column's bitmaps: 0 says which values are known, 1 holds those of truth values."""
    packed = column.buffers()[buffer]
    if packed is None:
        return np.ones(len(column), bool)
    octets = np.frombuffer(packed, np.uint8)
    return np.unpackbits(octets, count=column.offset + len(column), bitorder="little")[column.offset :].view(
        bool
    )


def one(rows: pa.Table, name: str) -> pa.Array:
    """A column in one piece."""
    column = rows.column(name)
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
