"""NumPy arrays as columns of Arrow and back, by their buffers.

`pa.array`, `to_numpy`, `fill_null` and `empty_table` import pandas where it is installed, which takes longer
than to read a journal.
"""

from typing import Any

import numpy as np
import pyarrow as pa

from millstream.store.arrays import Bools


def column_of(values: "np.ndarray[Any, Any]", unknown: Bools | None = None) -> pa.Array:
    """Numbers or truth values as a column.

    Args:
        values: shape (n,).
        unknown: where there is no value, shape (n,); everywhere is one without.
    """
    flags = values.dtype == np.bool_
    data = np.packbits(values, bitorder="little") if flags else np.ascontiguousarray(values)
    there = None if unknown is None else pa.py_buffer(np.packbits(~unknown, bitorder="little"))
    kind = pa.from_numpy_dtype(values.dtype)
    return pa.Array.from_buffers(kind, len(values), [there, pa.py_buffer(data)])


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
