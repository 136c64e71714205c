"""What the columns of a table are: arrays of one element a span, and what stands where nothing is known."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

UNKNOWN: Final = -1

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
