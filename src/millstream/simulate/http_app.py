"""The endpoints of the stand-in, in Starlette: JSON and server-sent events; nothing of the rules."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from millstream.simulate.answer import Piece
from millstream.simulate.api_error import ApiError
from millstream.simulate.stand_in import ConnectionFault, Exchange, StandIn
from millstream.simulate.wire import ChunkWriter, completion, event, to_json

T = TypeVar("T")


class _ClientGoneError(Exception):
    """The client closed the connection before its answer was complete."""


def create_app(stand_in: StandIn, reset: Callable[[Scope], None]) -> Starlette:
    """The ASGI application.

    Args:
        stand_in: what answers.
        reset: breaks the TCP connection of a request.
    """
    pages = _Pages(stand_in)
    return Starlette(
        routes=[
            Route("/v1/chat/completions", _Chat(stand_in, reset), methods=["POST"]),
            Route("/v1/models", pages.models),
            Route("/v1/models/{name:path}", pages.model),
            Route("/health", pages.health),
            Route("/stats", pages.stats),
        ],
        exception_handlers={ApiError: _api_error, HTTPException: _http_error},
    )


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(to_json(value), status, headers, media_type="application/json")


async def _api_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101  # registered for this type
    return _json(error.body, error.status, error.headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  # registered for this type
    message = f"Invalid URL ({request.method} {request.url.path})"
    if error.status_code == 405:  # noqa: PLR2004  # method not allowed
        message = f"Not allowed to {request.method} on {request.url.path}."
    headers = dict(error.headers or {})
    return _json(ApiError(error.status_code, message).body, error.status_code, headers)


class _Pages:
    """The endpoints that answer at once."""

    def __init__(self, stand_in: StandIn) -> None:
        self._stand_in = stand_in
        self._created_s = int(time.time())

    async def models(self, request: Request) -> Response:
        self._stand_in.authorize(request.headers.get("authorization"))
        return _json({"object": "list", "data": [self._described(name) for name in self._stand_in.models]})

    async def model(self, request: Request) -> Response:
        self._stand_in.authorize(request.headers.get("authorization"))
        name = request.path_params["name"]
        self._stand_in.model(name)
        return _json(self._described(name))

    async def health(self, _request: Request) -> Response:
        return _json({"status": "ok"})

    async def stats(self, _request: Request) -> Response:
        return _json(self._stand_in.stats())

    def _described(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._created_s, "owned_by": "millstream"}


class _Chat:
    """POST /v1/chat/completions, as an ASGI application of its own: it must see the client go away."""

    def __init__(self, stand_in: StandIn, reset: Callable[[Scope], None]) -> None:
        self._stand_in = stand_in
        self._reset = reset

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            self._stand_in.authorize(request.headers.get("authorization"))
            exchange = self._stand_in.open(await request.body())
            answer = self._stream if exchange.request.stream else self._whole
            await _unless_gone(receive, answer(exchange, scope, receive, send))
        except (ClientDisconnect, _ClientGoneError):
            return
        except ConnectionFault as fault:
            if fault.kind == "reset":
                self._reset(scope)
            await _disconnect(receive)

    async def _whole(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        usage = await self._stand_in.answer(exchange, None)
        answer = exchange.answer
        body = completion(answer, exchange.request.model, usage, int(time.time()))
        await _json(body, headers=_headers(exchange))(scope, receive, send)

    async def _stream(self, exchange: Exchange, _scope: Scope, _receive: Receive, send: Send) -> None:
        request, answer = exchange.request, exchange.answer
        writer = ChunkWriter(answer, request.model, int(time.time()), include_usage=request.include_usage)
        stream = _EventStream(send, _headers(exchange))

        async def emit(piece: Piece) -> None:
            if not stream.started:
                await stream.write(writer.first())
            await stream.write(writer.piece(piece))

        try:
            usage = await self._stand_in.answer(exchange, emit)
        except ApiError as error:
            if not stream.started:
                raise
            await stream.write(event(error.body), more=False)
            return
        if not stream.started:
            await stream.write(writer.first())
        await stream.write(b"".join(writer.last(usage)), more=False)


class _EventStream:
    """A response of server-sent events; nothing is sent before the first one."""

    def __init__(self, send: Send, headers: dict[str, str]) -> None:
        self._send = send
        self._headers = {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache",
            **headers,
        }
        self.started = False

    async def write(self, data: bytes, *, more: bool = True) -> None:
        if not self.started:
            self.started = True
            headers = [(name.encode(), value.encode()) for name, value in self._headers.items()]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": data, "more_body": more})


def _headers(exchange: Exchange) -> dict[str, str]:
    return {
        "x-request-id": f"req_{exchange.answer.id.removeprefix('chatcmpl-')}",
        "x-millstream-rule": exchange.answer.rule,
    }


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Do the work; stop it and raise `_ClientGoneError` when the client goes away first."""
    task = asyncio.create_task(work)
    watcher = asyncio.create_task(_disconnect(receive))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise _ClientGoneError
        return task.result()
    finally:
        for part in (task, watcher):
            part.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)
