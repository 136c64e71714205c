"""An answer while it comes: at once, in a stream, or as the bytes of a response that the program reads.

A stream keeps its type and attributes: what is wrapped is the iterator inside it, and the bytes of its
response. The step ends when the stream is used up, closed, broken, or when nobody holds it any more.
"""

import copy
import functools
import json
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

from openai import OpenAIError

from millstream.record import faults
from millstream.record.integrations.observed import (
    Observed,
    observe_async_stream,
    observe_stream,
    quietly,
)
from millstream.record.integrations.openai.answers import Answer


class Reply:
    """What comes back on one request.

    Attributes:
        step: the step of the request.
        followed: the generator that goes through a stream's pieces; dead when nobody holds the stream.
    """

    def __init__(self, step: Observed, answer: Answer) -> None:
        self.step = step
        self._answer = answer
        self._ended = False
        self.followed: weakref.ref[Any] | None = None

    def come(self, result: Any) -> None:
        """Record what `request` returned; the step goes on while something is to be read from it."""
        try:
            if self._is_left_to_read(result):
                return
        except Exception as fault:  # noqa: BLE001  # telemetry never breaks the user's program
            faults.swallow(fault, "an answer of OpenAI could not be recorded whole")
        self.end()

    def _is_left_to_read(self, result: Any) -> bool:
        if _is_stream(result):
            _tap(result.response, self)
            follow_stream(result)
            return True
        response = getattr(result, "http_response", result if hasattr(result, "is_stream_consumed") else None)
        if response is None:
            self._answer.whole(result)
        elif not response.is_closed:
            _tap(response, self)
            return True
        else:
            self._read(response)
        return False

    def fail(self, error: BaseException) -> None:
        """End the step of a request that raised; the SDK's parser raises with the answer at hand."""
        if (completion := getattr(error, "completion", None)) is not None:
            quietly(self._answer.whole)(completion)
        foreign = isinstance(error, Exception) and not isinstance(error, OpenAIError)
        if foreign and not self.step.span.recorder.capture_content:  # a parser's message quotes the answer
            error = type(type(error).__name__, (Exception,), {})()
        self.end(error)

    def see(self, piece: Any) -> None:
        """Take in a piece of a stream."""
        if self._answer.see(piece):
            self.step.piece()

    def finish(self) -> None:
        """Record what was seen of a stream, before its step ends."""
        if not self._ended:
            self._ended = True
            self._answer.finish()
            if self._answer.failure is not None:
                self.step.end(self._answer.failure)

    def end(self, error: BaseException | None = None) -> None:
        """End the step, if it has not ended."""
        quietly(self.finish)()
        self.step.end(error)

    def closed(self) -> None:
        """The response was closed: the end, unless its stream is just being read and knows more."""
        followed = self.followed() if self.followed is not None else None
        if not (getattr(followed, "gi_running", False) or getattr(followed, "ag_running", False)):
            self.end()

    @quietly
    def arrived(self, response: Any, body: bytes) -> None:
        """All bytes of a response came, which the program has read by itself."""
        self._read(type(response)(response.status_code, headers=response.headers, content=body))

    def _read(self, response: Any) -> None:
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            self._answer.whole(response.json())
            return
        for line in response.text.splitlines():
            name, _, data = line.partition(":")
            if name == "data" and not data.strip().startswith("[DONE]"):
                self._answer.see(json.loads(data))

    def __del__(self) -> None:
        if not self._ended:
            self.end()


def _is_stream(result: Any) -> bool:
    return hasattr(result, "__stream__") and hasattr(result, "response")


@quietly
def follow_stream(stream: Any) -> None:
    """Have the iterator of a stream show its pieces, if its response belongs to a request that is recorded.

    Its generator holds the stream that holds it. It is made anew from a copy, so that the stream itself is
    freed when the program lets go of it, which is when its step ends.
    """
    reply = getattr(stream.response.stream, "reply", None)
    if reply is None or reply.followed is not None:
        return
    twin = copy.copy(stream)
    twin._iterator = pieces = twin.__stream__()  # noqa: SLF001
    observe: Any = observe_async_stream if hasattr(pieces, "__anext__") else observe_stream
    stream._iterator = followed = observe(reply.step, pieces, reply.see, reply.finish)  # noqa: SLF001
    reply.followed = weakref.ref(followed)


# Bytes


def _tap(response: Any, reply: Reply) -> None:
    """Have a response tell when its bytes have come, and when it is closed."""
    stream = response.stream
    kind: Any = type(stream)
    response.stream = _tapped(kind)(stream, weakref.ref(response), reply)


@functools.cache
def _tapped(kind: Any) -> type:
    """A stream of bytes as the HTTP library wants them: of httpx, or of its successor."""
    base = next(base for base in kind.__mro__ if base.__name__ in ("SyncByteStream", "AsyncByteStream"))
    return type(base.__name__, (_AsyncBytes if hasattr(base, "__aiter__") else _Bytes, base), {})


class _Tapped:
    def __init__(self, stream: Any, response: weakref.ref[Any], reply: Reply) -> None:
        self._stream = stream
        self._response = response
        self.reply = reply

    def _came(self, chunks: list[bytes]) -> None:
        if (response := self._response()) is not None:
            self.reply.arrived(response, b"".join(chunks))
        self.reply.end()


class _Bytes(_Tapped):
    def __iter__(self) -> Iterator[bytes]:
        if self.reply.followed is not None:
            yield from self._stream
            return
        chunks: list[bytes] = []
        try:
            for chunk in self._stream:
                chunks.append(chunk)
                yield chunk
        except BaseException as error:
            self.reply.end(error)
            raise
        self._came(chunks)

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            self.reply.closed()


class _AsyncBytes(_Tapped):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self.reply.followed is not None:
            async for chunk in self._stream:
                yield chunk
            return
        chunks: list[bytes] = []
        try:
            async for chunk in self._stream:
                chunks.append(chunk)
                yield chunk
        except BaseException as error:
            self.reply.end(error)
            raise
        self._came(chunks)

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            self.reply.closed()
