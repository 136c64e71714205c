"""HTTP to a model's server: in turn, patient with what passes, within time, from a cache where there is one.

Clients of the OpenAI SDK's own HTTP library, which is httpx up to version 2 of it and httpx2 from version 3:
one code for both. All calls of a model go through here: streamed or not, chats or embeddings, sync or async.
"""

import asyncio
import functools
import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import msgspec

from millstream import semconv
from millstream.context import current
from millstream.errors import MissingExtraError, WorkflowError
from millstream.record.live import LiveSpan
from millstream.span import SpanKind
from millstream.workflow.call_cache import CachedCall, cached_call
from millstream.workflow.limiter import Limiter
from millstream.workflow.retries import Attempts, Failure, Kind, Retries, failure_of_answer

try:
    from openai import DefaultAsyncHttpxClient, DefaultHttpxClient
except ImportError as missing:
    raise MissingExtraError("this workflow", "langchain") from missing

_LIBRARY: Any = sys.modules[
    next(
        root
        for base in DefaultHttpxClient.__mro__
        if (root := base.__module__.partition(".")[0]) in ("httpx", "httpx2")
    )
]
_MODEL_CALLS: Final = (SpanKind.LLM, SpanKind.EMBEDDING)
_FINAL: Final = frozenset({"LocalProtocolError", "UnsupportedProtocol", "ProxyError"})


class Calls(msgspec.Struct, frozen=True):
    """How the calls of one model are made.

    Attributes:
        limiter: of the endpoint.
        retries: how patient they are.
        timeout_s: the most one try may take; `None` is no limit.
        late: what to say of one that took longer.
    """

    limiter: Limiter
    retries: Retries = Retries()
    timeout_s: float | None = None
    late: str = "the model did not finish in time"


class _Call:
    """One call: its turn, its tries, its time and its place in the cache."""

    def __init__(self, calls: Calls, request: Any) -> None:
        self.limiter = calls.limiter
        self.attempts = Attempts(calls.retries, calls.limiter)
        self.cached: CachedCall | None = cached_call(str(request.url), request.read)
        self._calls = calls
        self._request = request
        self._has_turn = False
        self._is_answered = False

    def begin(self) -> None:
        """It is the call's turn."""
        self._has_turn, self._is_answered = True, False
        self.attempts.begin()

    def end(self) -> None:
        """Give the turn back; once is enough."""
        if self._has_turn:
            self._has_turn = False
            self.limiter.give_back(answered=self._is_answered)

    def kept(self, kind: type[Any] | None) -> Any:
        """The answer that is in the cache; `None` where there is none.

        Args:
            kind: of the stream that it is to be read from; `None`: it is read already.
        """
        found = None if self.cached is None else self.cached.get()
        if found is None:
            return None
        span = current.get()
        if isinstance(span, LiveSpan) and span.kind in _MODEL_CALLS:
            span.set_attribute(semconv.CACHED, value=True)
        body = {"content": found.body} if kind is None else {"stream": kind(found.body)}
        headers = {"content-type": found.content_type}
        return _LIBRARY.Response(200, headers=headers, request=self._request, **body)

    def again_after_error(self, error: BaseException) -> float | None:
        """Seconds until the next try; `None` when this was the last."""
        failure = _failure_of(error)
        return None if failure is None else self.attempts.again_in(failure)

    def again_after_answer(self, response: Any) -> float | None:
        """Seconds until the next try; `None` where the answer stays.

        A good one keeps its turn until its body is closed.
        """
        if response.is_success:
            self._is_answered = True
            self.limiter.answered()
            return None
        self.limiter.has_answered = True
        failure = failure_of_answer(response.status_code, response.headers, response.content)
        wait_s = None if failure is None else self.attempts.again_in(failure)
        self.end()
        return wait_s

    def check_time(self) -> None:
        """Raise where a try takes too long.

        Raises:
            WorkflowError: it does. LangChain would take a `TimeoutError` for one of its own.
        """
        timeout_s = self._calls.timeout_s
        if timeout_s is not None and self.attempts.ran_s() > timeout_s:
            raise WorkflowError(self._calls.late)


class _Body(_LIBRARY.SyncByteStream):  # type: ignore[misc]
    """The body of a good answer: the call has its turn until it is closed."""

    def __init__(self, call: _Call, response: Any) -> None:
        self._call, self._inner = call, response.stream
        self._kept = _Keeping(call.cached, response.headers)

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._inner:
            self._call.check_time()
            self._kept.add(piece)
            yield piece

    def close(self) -> None:
        """Give the turn back."""
        try:
            self._inner.close()
        finally:
            self._call.end()
        self._kept.close()


class _AsyncBody(_LIBRARY.AsyncByteStream):  # type: ignore[misc]
    """As `_Body`."""

    def __init__(self, call: _Call, response: Any) -> None:
        self._call, self._inner = call, response.stream
        self._kept = _Keeping(call.cached, response.headers)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._inner:
            self._call.check_time()
            self._kept.add(piece)
            yield piece

    async def aclose(self) -> None:
        """Give the turn back."""
        try:
            await self._inner.aclose()
        finally:
            self._call.end()
        self._kept.close()


class _Kept(_LIBRARY.SyncByteStream):  # type: ignore[misc]
    """The body of an answer from the cache."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        yield self._body


class _AsyncKept(_LIBRARY.AsyncByteStream):  # type: ignore[misc]
    """As `_Kept`."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._body


class _Keeping:
    """Puts what comes into the cache, when it was all."""

    def __init__(self, cached: CachedCall | None, headers: Any) -> None:
        self._cached = cached
        names = ("content-type", "content-encoding")
        self._headers = {name: headers[name] for name in names if name in headers}
        self._pieces: list[bytes] = []

    def add(self, piece: bytes) -> None:
        if self._cached is not None:
            self._pieces.append(piece)

    def close(self) -> None:
        cached, self._cached = self._cached, None
        if cached is None:
            return
        try:
            body = _LIBRARY.Response(200, headers=self._headers, content=b"".join(self._pieces)).content
        except _LIBRARY.DecodingError:  # it broke off
            return
        cached.put(self._headers.get("content-type", ""), body)


class BlockingClient(DefaultHttpxClient):
    """For callers that block.

    Args:
        calls: how they are made.
    """

    def __init__(self, calls: Calls) -> None:
        super().__init__(verify=_certificates())
        self._calls = calls

    def send(self, request: Any, *, stream: bool = False, **options: Any) -> Any:
        """Send a request, in turn, as often as it is worth it."""
        call = _Call(self._calls, request)
        if (kept := call.kept(_Kept if stream else None)) is not None:
            return kept
        while True:
            call.limiter.wait(call.attempts.ticket)
            call.begin()
            response = None
            try:
                response = super().send(request, stream=True, **options)
                if response.is_success:
                    response.stream = _Body(call, response)
                if not (stream and response.is_success):
                    response.read()
                wait_s = call.again_after_answer(response)
                if wait_s is None:
                    return response
            except BaseException as error:
                wait_s = call.again_after_error(error)
                if response is not None:
                    response.close()
                call.end()
                if wait_s is None:
                    raise
            time.sleep(wait_s)


class AwaitingClient(DefaultAsyncHttpxClient):
    """For callers in an event loop.

    Args:
        calls: how they are made.
    """

    def __init__(self, calls: Calls) -> None:
        super().__init__(verify=_certificates())
        self._calls = calls

    async def send(self, request: Any, *, stream: bool = False, **options: Any) -> Any:
        """Send a request, in turn, as often as it is worth it."""
        call = _Call(self._calls, request)
        if (kept := call.kept(_AsyncKept if stream else None)) is not None:
            return kept
        while True:
            await call.limiter.wait_async(call.attempts.ticket)
            call.begin()
            response = None
            try:
                response = await super().send(request, stream=True, **options)
                if response.is_success:
                    response.stream = _AsyncBody(call, response)
                if not (stream and response.is_success):
                    await response.aread()
                wait_s = call.again_after_answer(response)
                if wait_s is None:
                    return response
            except BaseException as error:
                wait_s = call.again_after_error(error)
                if response is not None:
                    await response.aclose()
                call.end()
                if wait_s is None:
                    raise
            await asyncio.sleep(wait_s)


@functools.cache
def _certificates() -> Any:
    """Read once: it takes longer than all else that makes a client."""
    return _LIBRARY.create_ssl_context()


def _failure_of(error: BaseException) -> Failure | None:
    """An exception of the HTTP library that may pass; `None` for every other."""
    if not isinstance(error, _LIBRARY.TransportError) or type(error).__name__ in _FINAL:
        return None
    down = isinstance(error, _LIBRARY.ConnectError | _LIBRARY.ConnectTimeout)
    return Failure(Kind.DOWN if down else Kind.FAILED, type(error).__name__)
