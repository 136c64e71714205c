"""When a sink that did not take anything is tried again."""

from collections.abc import Callable
from random import Random
from typing import Final

from millstream.deliver.policy import Policy
from millstream.errors import RefusedError

_LONGEST_ASKED_S: Final = 3600.0


def asked(after_s: float | None) -> float:
    """The seconds that a receiver asked to wait, as far as that is sensible."""
    return min(after_s, _LONGEST_ASKED_S) if after_s is not None and after_s > 0 else 0.0


class Backoff:
    """Pauses after failures: random up to a limit that doubles, so that many processes do not come at once.

    Args:
        policy: of the sink.
        clock: seconds, monotonic.
        random: where chance comes from.

    Attributes:
        failures: in a row.
        error: the last of them; `None` while all is well.
        since: when the first of them began.
        retry_at: when to try again.
    """

    def __init__(self, policy: Policy, clock: Callable[[], float], random: Random) -> None:
        self.failures = 0
        self.error: Exception | None = None
        self.since = 0.0
        self.retry_at = 0.0
        self._policy = policy
        self._clock = clock
        self._random = random

    @property
    def is_open(self) -> bool:
        """Whether it failed so often that only one span is sent, to see whether the sink is there again."""
        return self.failures >= self._policy.breaker_after

    def worked(self) -> None:
        """The sink took what it was sent, or said of each span what is wrong with it."""
        self.failures, self.error, self.retry_at = 0, None, 0.0

    def failed(self, error: Exception, began: float) -> None:
        """The sink took nothing.

        Args:
            error: what it raised; may say how long to wait.
            began: when it was tried.
        """
        if not self.failures:
            self.since = began
        self.failures += 1
        self.error = error
        if isinstance(error, RefusedError):
            pause_s = self._random.uniform(0.5, 1) * self._policy.refused_s
        elif self.is_open:
            pause_s = self._random.uniform(0.5, 1) * self._policy.longest_backoff_s
        else:
            pause_s = self.pause_s(self.failures)
        asked_s = asked(getattr(error, "retry_after_s", None))
        self.retry_at = self._clock() + max(pause_s, asked_s)

    def pause_s(self, failures: int) -> float:
        """A pause, in seconds, after so many failures in a row."""
        most_s = min(self._policy.longest_backoff_s, self._policy.backoff_s * 2.0 ** min(failures - 1, 30))
        return self._random.uniform(0, most_s)
