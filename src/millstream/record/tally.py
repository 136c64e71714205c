"""A count that threads, signal handlers and finalizers may raise without a lock."""

import itertools
import threading


class Tally:
    """Counts the calls of `add`."""

    __slots__ = ("_lock", "_reads", "add")

    def __init__(self) -> None:
        self.add = itertools.count().__next__
        self._reads = 0
        self._lock = threading.Lock()

    @property
    def value(self) -> int:
        """How often `add` was called."""
        with self._lock:
            self._reads += 1
            return self.add() - self._reads + 1
