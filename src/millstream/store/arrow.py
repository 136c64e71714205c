"""Columns of a Parquet file as NumPy arrays, from their buffers."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from millstream.store.arrays import UNKNOWN, Bools, Ints


def column(file: pq.ParquetFile, name: str) -> pa.Array:
    """One column of a file, in one piece."""
    found = file.read([name]).column(0)
    if pa.types.is_dictionary(found.type):
        found = found.unify_dictionaries()
    return found.combine_chunks() if found.num_chunks != 1 else found.chunk(0)


def numbers(file: pq.ParquetFile, name: str) -> Ints:
    """Whole numbers, -1 where there is none."""
    return filled(column(file, name))


def filled(column: pa.Array) -> Ints:
    """The same of a column that was read."""
    return plain(column, UNKNOWN).astype(np.int64, copy=False)


def plain(column: pa.Array, missing: float) -> "np.ndarray[Any, Any]":
    """Numbers from their buffers: `to_numpy` and `fill_null` import pandas if they can, in seconds."""
    kind = np.dtype(column.type.to_pandas_dtype())
    found = np.frombuffer(column.buffers()[1], kind, len(column), column.offset * kind.itemsize)
    return np.where(bits(column, 0), found, np.array(missing, kind)) if column.null_count else found


def bits(column: pa.Array, buffer: int) -> Bools:
    """One of a column's bitmaps: 0 says which values are known, 1 holds those of truth values."""
    packed = column.buffers()[buffer]
    if packed is None:
        return np.ones(len(column), bool)
    unpacked = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little")
    return unpacked[column.offset : column.offset + len(column)].astype(bool)
