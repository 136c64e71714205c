"""Which failures of a call are worth another try, when, and for how long."""

import random
import time
from collections.abc import Mapping
from enum import Enum
from typing import Final

import msgspec

from millstream import semconv
from millstream.context import current
from millstream.deliver.http import parse_retry_after
from millstream.record.live import LiveSpan
from millstream.workflow.limiter import Limiter

FIRST_WAIT_S: Final = 0.5
LONGEST_WAIT_S: Final = 30.0
SHORTEST_WAIT_S: Final = 0.05
"""However little a server asks for: no call comes again and again without end in its budget."""
DEFAULT_BUDGET_S: Final = 120.0
_TOO_MANY: Final = 429
_SERVER_FAULT: Final = 500
_TRANSIENT: Final = frozenset({408, 409, _TOO_MANY})
_NO_USE: Final = (b"insufficient_quota", b"billing_hard_limit_reached", b"billing_not_active")
"""What OpenAI answers 429 for though it is not about how many calls there are now."""


class Kind(Enum):
    """What a failure is about, and how many repeats it is worth where nothing else was said."""

    LATER = None
    """The server says that it takes no more now."""
    FAILED = 5
    """The call broke, or the server could not answer it."""
    DOWN = 2
    """Nothing answers there, and never did since the program began."""

    @property
    def most(self) -> float:
        """Repeats."""
        return float("inf") if self.value is None else self.value


class Failure(msgspec.Struct, frozen=True):
    """A failure that may pass.

    Attributes:
        kind: what it is about.
        reason: a status, or the name of an exception.
        asked_s: seconds that the server asked to wait; `None` where it said nothing.
    """

    kind: Kind
    reason: str
    asked_s: float | None = None


class Retries(msgspec.Struct, frozen=True):
    """How patient the calls of one model are.

    Attributes:
        most: repeats of one call; `None`: what `Kind` says.
        budget_s: seconds that failed tries and the waits after them may take together. Waiting for a turn at
            the endpoint is not counted.
    """

    most: int | None = None
    budget_s: float = DEFAULT_BUDGET_S


class Attempts:
    """The tries of one call.

    Args:
        retries: how patient it is.
        limiter: of the endpoint.

    Attributes:
        ticket: its place in the queue of the endpoint.
        repeats: tries after the first.
    """

    def __init__(self, retries: Retries, limiter: Limiter) -> None:
        self.ticket = limiter.ticket()
        self.repeats = 0
        self._retries = retries
        self._limiter = limiter
        self._spent_s = 0.0
        self._began_s = 0.0

    def begin(self) -> None:
        """A try begins: the call has its turn."""
        self._began_s = time.monotonic()

    def ran_s(self) -> float:
        """Seconds since the try began."""
        return time.monotonic() - self._began_s

    def again_in(self, failure: Failure) -> float | None:
        """What to do after a failed try, which is recorded on the current span where it is tried again.

        Returns:
            Seconds to wait before asking for a turn again; `None` when the failure is final.
        """
        kind = failure.kind
        if kind is Kind.DOWN and self._limiter.has_answered:
            kind = Kind.FAILED
        self._spent_s += self.ran_s()
        wait_s = self._wait_s(failure.asked_s)
        most = kind.most if self._retries.most is None else self._retries.most
        if self.repeats >= most or self._spent_s + wait_s > self._retries.budget_s:
            return None
        self.repeats += 1
        self._spent_s += wait_s
        _record(failure.reason, self.repeats, wait_s)
        if kind is Kind.LATER:
            self._limiter.refused(self._began_s, wait_s)
            return 0.0  # it waits with all others
        return wait_s

    def _wait_s(self, asked_s: float | None) -> float:
        """As long as asked and a little more, for not all to come at once; else a part of a growing wait."""
        if asked_s:
            return max(SHORTEST_WAIT_S, asked_s + random.uniform(0, min(1.0, asked_s / 10)))  # noqa: S311  # no secret
        longest_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(self.repeats, 30))
        return max(SHORTEST_WAIT_S, random.uniform(0, longest_s))  # noqa: S311


def failure_of_answer(status: int, headers: Mapping[str, str], body: bytes) -> Failure | None:
    """An answer that is worth another try; `None` for every other.

    Args:
        status: HTTP's.
        headers: with names that do not mind case, or in lower case.
        body: of the answer.
    """
    said = headers.get("x-should-retry")
    transient = status in _TRANSIENT or status >= _SERVER_FAULT or said == "true"
    if not transient or said == "false" or (status == _TOO_MANY and any(one in body for one in _NO_USE)):
        return None
    asked_s = _asked_s(headers)
    kind = Kind.LATER if status == _TOO_MANY or asked_s is not None else Kind.FAILED
    return Failure(kind, str(status), asked_s)


def _asked_s(headers: Mapping[str, str]) -> float | None:
    exact = parse_retry_after(headers.get("retry-after-ms"))
    return parse_retry_after(headers.get("retry-after")) if exact is None else exact / 1000


def _record(reason: str, repeats: int, wait_s: float) -> None:
    span = current.get()
    if isinstance(span, LiveSpan):
        span.set_attribute(semconv.RESEND_COUNT, repeats)
        span.add_event(semconv.RETRY, {"reason": reason, "wait_s": round(wait_s, 6)})
