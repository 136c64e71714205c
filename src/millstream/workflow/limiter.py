"""At most so many at a time, for callers in threads and in event loops alike."""

import asyncio
from collections import deque
from concurrent.futures import Future
from threading import Lock
from types import TracebackType


class Limiter:
    """Lets `limit` blocks run at a time; the others wait in order of arrival. `with` and `async with`.

    Args:
        limit: blocks at a time; at least 1.
    """

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._lock = Lock()
        self._waiting: deque[Future[None]] = deque()

    def _ask(self) -> Future[None]:
        place: Future[None] = Future()
        with self._lock:
            if self._free:
                self._free -= 1
                place.set_result(None)
            else:
                self._waiting.append(place)
        return place

    def _give_back(self) -> None:
        with self._lock:
            while self._waiting:
                place = self._waiting.popleft()
                if place.set_running_or_notify_cancel():  # false: it gave up waiting
                    place.set_result(None)
                    return
            self._free += 1

    def __enter__(self) -> None:
        self._ask().result()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._give_back()

    async def __aenter__(self) -> None:
        place = self._ask()
        try:
            await asyncio.wrap_future(place)
        except asyncio.CancelledError:
            if not place.cancel() and place.done() and not place.cancelled():
                self._give_back()  # it was granted while the caller gave up
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._give_back()
