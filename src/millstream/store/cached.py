"""Which spans are calls that were answered from a cache, by the text of their attributes.

Lines of a journal have no column of it, nor have files that were written before there was one.
"""

from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millstream import semconv
from millstream.store.arrays import Bools
from millstream.store.arrow import bits, column_of

_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode


def cached_column(attributes: pa.Array) -> pa.Array:
    """As `table.is_cached`, of attributes as JSON: only texts with the attribute's name in them are read."""
    named = pc.match_substring(attributes, semconv.CACHED)
    found: Bools = np.zeros(len(attributes), bool)
    for row in np.flatnonzero(bits(named, 0) & bits(named, 1)).tolist():
        found[row] = _decode(attributes[row].as_py()).get(semconv.CACHED) is True
    return column_of(found)
