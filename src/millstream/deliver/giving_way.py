"""Background work that does not hold up others: Python lets a thread run for 5 ms while others wait."""

import time
from typing import Final

_OWN_S: Final = 0.0005


class GivingWay:
    """Called in the middle of longer work; now and then lets other threads run. For one thread."""

    def __init__(self) -> None:
        self._since = 0.0

    def __call__(self) -> None:
        """Let others run, where this thread ran for half a millisecond."""
        if time.perf_counter() - self._since > _OWN_S:
            time.sleep(0)
            self._since = time.perf_counter()
