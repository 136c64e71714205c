"""What the columns of a table are: arrays of one element a span, and what stands where nothing is known."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

UNKNOWN: Final = -1

Ints = NDArray[np.signedinteger[Any]]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

Place: Final = np.int32
"""Of a row, a trace, a name: positions, and how deep a span lies."""
Code: Final = np.int8
"""Of a kind or a status."""
