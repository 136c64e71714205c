"""Somebody who waits until what is recorded has been settled, and how long that makes sense."""

import threading
from collections.abc import Mapping
from typing import Final

from millstream.deliver.backoff import Backoff
from millstream.errors import RefusedError

HUNG_S: Final = 30.0
"""At the end of a program nobody waits longer for a sink that does nothing."""
_LAST_TRIES: Final = 3
"""Failures that are waited out then, where there was none before."""


class Waiting:
    """One who waits.

    Attributes:
        since: when that began; seconds, monotonic.
        until: when it ends.
        closing: whether it is the end of delivery.
        began: whether the sink was tried since.
        marks: up to where there was something then, by segment.
        left: spans that are not settled; `None` while that is not known.
        why: why they are not.
    """

    def __init__(self, since: float, until: float, *, closing: bool) -> None:
        self.since = since
        self.until = until
        self.closing = closing
        self.began = False
        self.marks: Mapping[str, int] = {}
        self.left: int | None = None
        self.why: Exception | None = None
        self._tries = _LAST_TRIES
        self._done = threading.Event()

    def begin(self, backoff: Backoff, marks: Mapping[str, int]) -> None:
        """The sink is tried now; where it took nothing lately, only once."""
        self.began = True
        self.marks = marks
        if backoff.failures:
            self._tries = 1

    def gives_up(self, backoff: Backoff) -> bool:
        """Whether it makes no sense to wait longer, after the sink took nothing."""
        if isinstance(backoff.error, RefusedError):
            return True
        if not self.closing:
            return False
        if not getattr(backoff.error, "retry_after_s", None):
            self._tries -= 1
        return self._tries <= 0 or backoff.retry_at >= min(self.until, self.since + HUNG_S)

    def done(self, left: int, why: Exception | None) -> None:
        """It is settled, or will not be soon."""
        self.left, self.why = left, why
        self._done.set()

    def wait(self, timeout_s: float) -> bool:
        """Whether it is done."""
        return self._done.wait(max(timeout_s, 0))
