"""What all endpoints with a model behind them share: a client that goes away, faults, server-sent events."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from millstream.simulate.stand_in import ConnectionFault, Exchange, StandIn
from millstream.simulate.wire import to_json

T = TypeVar("T")


class _ClientGoneError(Exception):
    """The client closed the connection before its answer was complete."""


class Endpoint(ABC):
    """A POST endpoint, as an ASGI application of its own: it must see the client go away.

    Args:
        stand_in: what answers.
        reset: breaks the TCP connection of a request.
    """

    def __init__(self, stand_in: StandIn, reset: Callable[[Scope], None]) -> None:
        self.stand_in = stand_in
        self._reset = reset

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, in the form that Starlette wants."""
        request = Request(scope, receive)
        try:
            self.stand_in.authorize(request.headers.get("authorization"))
            response = await _unless_gone(receive, self.respond(await request.body(), send))
        except (ClientDisconnect, _ClientGoneError):
            return
        except ConnectionFault as fault:
            if fault.kind == "reset":
                self._reset(scope)
            await _disconnect(receive)
            return
        if response is not None:
            await response(scope, receive, send)

    @abstractmethod
    async def respond(self, raw: bytes, send: Send) -> Response | None:
        """Answer one request.

        Args:
            raw: the body of the request.
            send: takes a stream, after which there is no response to return.

        Raises:
            ApiError: nothing was sent, and this is the answer.
            ConnectionFault: the connection is to be broken.
        """


class EventStream:
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
        """Send events; the last ones with `more=False`."""
        if not self.started:
            self.started = True
            headers = [(name.encode(), value.encode()) for name, value in self._headers.items()]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": data, "more_body": more})


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A response of JSON."""
    return Response(to_json(value), status, headers, media_type="application/json")


def headers_of(exchange: Exchange) -> dict[str, str]:
    """The headers of an answer."""
    return {"x-request-id": f"req_{exchange.answer.key}", "x-millstream-rule": exchange.answer.rule}


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
