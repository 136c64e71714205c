"""How long one call of a function may take."""

import asyncio
import contextvars
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotDone
from threading import Thread
from typing import Any, TypeVar

from millstream.errors import FunctionTimeoutError

T = TypeVar("T")


class TimeLimit:
    """Ends calls that take too long. Async code is cancelled; a sync function's thread is left behind.

    Args:
        name: what is called, for the error.
        where: path of the component in the workflow file.
        timeout_s: seconds for one call; `None`: no limit.
    """

    def __init__(self, name: str, where: str, timeout_s: float | None) -> None:
        self._name = name
        self._where = where
        self._timeout_s = timeout_s

    async def of(self, call: Awaitable[T]) -> T:
        """The result of a call.

        Raises:
            FunctionTimeoutError: it took too long.
        """
        if self._timeout_s is None:
            return await call
        try:
            async with asyncio.timeout(self._timeout_s) as limit:
                return await call
        except TimeoutError:
            if limit.expired():
                raise self._error() from None
            raise  # the function's own

    async def of_pieces(self, pieces: AsyncIterator[T]) -> AsyncGenerator[T, None]:
        """The pieces of a call, which all must have come in time.

        Raises:
            FunctionTimeoutError: they took too long.
        """
        if self._timeout_s is None:
            async for piece in pieces:
                yield piece
            return
        left_s = self._timeout_s
        while True:
            started_s = time.monotonic()
            try:
                async with asyncio.timeout(max(left_s, 0)) as limit:
                    piece = await anext(pieces)
            except StopAsyncIteration:
                return
            except TimeoutError:
                if limit.expired():
                    raise self._error() from None
                raise
            left_s -= time.monotonic() - started_s  # what the consumer does between two is its own
            yield piece

    def of_sync(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """The result of a sync function, called from sync code.

        Raises:
            FunctionTimeoutError: it took too long.
        """
        if self._timeout_s is None:
            return function(*args, **kwargs)
        future: Future[T] = Future()
        context = contextvars.copy_context()

        def work() -> None:
            try:
                future.set_result(context.run(function, *args, **kwargs))
            except BaseException as error:  # noqa: BLE001  # the caller raises it
                future.set_exception(error)

        Thread(target=work, name=f"millstream {self._name}", daemon=True).start()
        try:
            return future.result(self._timeout_s)
        except NotDone:
            if future.done():
                raise  # the function's own
            raise self._error() from None

    def _error(self) -> FunctionTimeoutError:
        return FunctionTimeoutError(
            f"{self._name} did not finish within {self._timeout_s:g} s ({self._where}.timeout_s)"
        )
