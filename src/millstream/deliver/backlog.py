"""The spans of one sink that were read and are not settled: how many fit, and in which order they go."""

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec

from millstream.deliver.batch import Kept
from millstream.deliver.cursor import Place
from millstream.deliver.policy import Policy

_READ_AT_ONCE: Final = 32


class Held(msgspec.Struct, eq=False, gc=False):
    """A span that was read and is not settled.

    Attributes:
        size: bytes of its JSON; of one that is none, as many as a batch has: it goes alone.
        fault: what a processor did wrong with it, so that it goes without content.
        raised: how often the sink raised on it alone.
        failed: how often the sink took nothing where it was sent alone, others taken in between.
        worked: how often the sink had worked when that happened last.
    """

    kept: Kept
    place: Place
    size: int
    fault: str | None = None
    times_sent: int = 0
    raised: int = 0
    failed: int = 0
    worked: int = -1


class _Later(NamedTuple):
    due: float
    number: int
    held: Held


class Backlog:
    """Holds spans until they are settled, in flight or not, as many as the policy allows.

    Args:
        policy: how many and how large, together and in a batch.
        clock: seconds, monotonic.

    Attributes:
        items: how many are held.
        bytes: of their JSON.
    """

    def __init__(self, policy: Policy, clock: Callable[[], float]) -> None:
        self.items = 0
        self.bytes = 0
        self._policy = policy
        self._clock = clock
        self._ready: deque[Held] = deque()
        """To be sent next, in order."""
        self._later: list[_Later] = []
        """To be sent again; a heap."""
        self._parts: list[list[Held]] = []
        """Of a batch that was split, the next one last."""
        self._numbers = itertools.count()

    @property
    def has_room(self) -> bool:
        """Whether another span may be read."""
        return self.items < self._policy.queue_items and self.bytes < self._policy.queue_bytes

    @property
    def has_ready(self) -> bool:
        """Whether something is to be sent without waiting for its time."""
        return bool(self._ready or self._parts)

    def room(self, wanted: int) -> int:
        """How many of the spans that are wanted to read at once; one at least."""
        free = self._policy.queue_items - self.items
        usual = self.bytes // self.items if self.items else self._policy.batch_bytes // _READ_AT_ONCE
        fitting = (self._policy.queue_bytes - self.bytes) // max(usual, 1)
        return max(1, min(wanted, free, fitting, _READ_AT_ONCE))

    def next_due(self) -> float:
        """When a span is to be sent again that the sink did not take; far away where there is none."""
        return self._later[0].due if self._later else float("inf")

    def add(self, held: Held) -> None:
        """One that was read goes after those that are ready."""
        self._ready.append(held)
        self.items += 1
        self.bytes += held.size

    def settled(self, held: Held) -> None:
        """One that was taken out is not held any more."""
        self.items -= 1
        self.bytes -= held.size

    def next_batch(
        self, most: int, until: float, read: Callable[[int], object], *, probing: bool
    ) -> list[Held]:
        """Take out what to send next: what was not taken first, then what is new.

        Args:
            most: spans of it.
            until: what is to be sent again by then comes, too.
            read: adds some of so many spans that are wanted, where there are any.
            probing: whether it is only to see if the sink is there again: then another span each time, for
                perhaps it is only one that is not taken.
        """
        if self._parts:
            return self._parts.pop()
        batch: list[Held] = []
        size = 0
        while len(batch) < most:
            held = None if probing else self._pop_due(until, alone=not batch)
            if held is None and not self._ready:
                read(most - len(batch))
            if held is None and self._ready:
                held = self._ready.popleft()
            if held is None and probing:
                held = self._pop_due(until, alone=not batch)
            if held is None:
                break
            if batch and size + held.size > self._policy.batch_bytes:
                self._ready.appendleft(held)
                break
            batch.append(held)
            size += held.size
            if held.failed:
                break
        return batch

    def _pop_due(self, until: float, *, alone: bool) -> Held | None:
        """A span that is to be sent again now; one that may break connections only where it is alone."""
        if not self._later or self._later[0].due > until or (self._later[0].held.failed and not alone):
            return None
        return heapq.heappop(self._later).held

    def split(self, batch: list[Held]) -> None:
        """Its halves are the next batches."""
        middle = len(batch) // 2
        self._parts += [batch[middle:], batch[:middle]]

    def put_back(self, batch: Sequence[Held]) -> None:
        """It is to be sent first, in its order, and then what is left of one that was split."""
        for part in [*self._parts, batch]:
            self._ready.extendleft(reversed(part))
        self._parts = []

    def send_later(self, held: Held, pause_s: float, earliest: float = 0) -> None:
        """It is to be sent again after a pause, and not before a time."""
        due = max(self._clock() + pause_s, earliest)
        heapq.heappush(self._later, _Later(due, next(self._numbers), held))
