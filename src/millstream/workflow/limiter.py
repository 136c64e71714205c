"""Turns at one endpoint: so many calls at a time, and none while it says that it takes no more."""

import asyncio
import heapq
import itertools
import math
import time
from concurrent.futures import Future
from threading import Lock
from types import TracebackType
from typing import Final
from weakref import WeakValueDictionary


class Limiter:
    """Lets so many calls run at a time, in threads and event loops; the others wait in order of tickets.

    An endpoint that refuses calls is left alone for a while by everybody, and is then asked by half as many
    at a time; with each answer one more is let in. For that a call counts until it is answered, not until its
    stream is read: what reads it may be what asks next.

    Args:
        limit: calls at a time, at least 1; `None` is no limit.

    Attributes:
        running: calls that have their turn.
        has_answered: whether the endpoint ever did.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.running = 0
        self._unanswered = 0
        self.has_answered = False
        self._limit: float = math.inf if limit is None else limit
        self._width = math.inf
        self._lock = Lock()
        self._tickets = itertools.count()
        self._waiting: list[tuple[int, Future[None]]] = []
        self._closed_until_s = -math.inf
        self._narrowed_s = -math.inf

    def ticket(self) -> int:
        """A place in the queue: a call keeps it when it comes again."""
        return next(self._tickets)

    def wait(self, ticket: int) -> None:
        """Return when it is this call's turn.

        Code that blocks an event loop has it at once: it may be a call of that loop that it would wait for.
        """
        if asyncio._get_running_loop() is None:  # noqa: SLF001  # the only one that does not raise
            self._ask(ticket).result()
        else:
            with self._lock:
                self._take_turn()
        try:
            while (left_s := self._closed_until_s - time.monotonic()) > 0:
                time.sleep(left_s)
        except BaseException:
            self.give_back()
            raise

    async def wait_async(self, ticket: int) -> None:
        """Return when it is this call's turn."""
        place = self._ask(ticket)
        try:
            await asyncio.wrap_future(place)
        except asyncio.CancelledError:
            if not place.cancel() and place.done() and not place.cancelled():
                self.give_back()  # it was granted while the caller gave up
            raise
        try:
            while (left_s := self._closed_until_s - time.monotonic()) > 0:  # noqa: ASYNC110  # may grow meanwhile
                await asyncio.sleep(left_s)
        except BaseException:
            self.give_back()
            raise

    def give_back(self, *, answered: bool = False) -> None:
        """The call is over, or waits to come again.

        Args:
            answered: whether `answered` was told of it.
        """
        with self._lock:
            self.running -= 1
            self._unanswered -= not answered
            self._let_in()

    def answered(self) -> None:
        """The endpoint took a call."""
        with self._lock:
            self.has_answered = True
            self._unanswered -= 1
            self._width += 1
            self._let_in()

    def refused(self, began_s: float, pause_s: float) -> None:
        """The endpoint takes no more for now.

        Args:
            began_s: when the refused call had its turn, by `time.monotonic`; calls that were under way
                together narrow the endpoint once.
            pause_s: how long nobody is to ask.
        """
        now_s = time.monotonic()
        with self._lock:
            self.has_answered = True
            self._closed_until_s = max(self._closed_until_s, now_s + pause_s)
            if began_s >= self._narrowed_s:
                self._width = max(1.0, min(self._width, self._unanswered) // 2)
                self._narrowed_s = now_s

    def _ask(self, ticket: int) -> Future[None]:
        place: Future[None] = Future()
        with self._lock:
            heapq.heappush(self._waiting, (ticket, place))
            self._let_in()
        return place

    def _let_in(self) -> None:
        while self._waiting and self.running < self._limit and self._unanswered < self._width:
            _, place = heapq.heappop(self._waiting)
            if place.set_running_or_notify_cancel():  # false: it gave up waiting
                self._take_turn()
                place.set_result(None)

    def _take_turn(self) -> None:
        self.running += 1
        self._unanswered += 1

    def __enter__(self) -> None:
        self.wait(self.ticket())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.give_back()

    async def __aenter__(self) -> None:
        await self.wait_async(self.ticket())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.give_back()


_shared: Final[WeakValueDictionary[tuple[str, int | None], Limiter]] = WeakValueDictionary()


def limiter_of(base_url: str, limit: int | None) -> Limiter:
    """The one of an endpoint, for everybody in this process who asks it within the same limit."""
    return _shared.setdefault((base_url, limit), Limiter(limit))
