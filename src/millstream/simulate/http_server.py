"""Running the stand-in under uvicorn: binding, saying when it is ready, stopping cleanly."""

import asyncio
import os
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import uvicorn
from starlette.types import Scope
from uvicorn.protocols.http.h11_impl import H11Protocol

from millstream.errors import ConfigError
from millstream.simulate.http_app import create_app
from millstream.simulate.rules import Rules
from millstream.simulate.stand_in import StandIn

_BACKLOG: Final = 2048
_GRACE_S: Final = 1
"""How long answers under way may still take after the signal to stop."""
_PARENT_CHECK_S: Final = 0.5


def serve(
    rules: Rules,
    *,
    host: str,
    port: int,
    seed: int,
    ready: Callable[[str], None],
    exit_with_parent: bool = False,
) -> None:
    """Answer requests until SIGTERM or SIGINT.

    Args:
        rules: what to answer.
        host: the address to listen on.
        port: the port; 0 takes a free one.
        seed: the seed of every draw.
        ready: called once with the base URL, when connections are accepted.
        exit_with_parent: stop also when the process that started this one is gone.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    with _bound(host, port) as listener:
        asyncio.run(_serve(rules, seed, listener, ready, os.getppid() if exit_with_parent else None))


async def _serve(
    rules: Rules, seed: int, listener: socket.socket, ready: Callable[[str], None], parent: int | None
) -> None:
    connections = _Connections()
    config = uvicorn.Config(
        create_app(StandIn(rules, seed), connections.reset),
        http=connections.protocol(),
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_keep_alive=60,
    )
    server = _Server(config, lambda: ready(_base_url(listener)))
    loop = asyncio.get_running_loop()

    def stop() -> None:
        server.should_exit = True
        loop.call_later(_GRACE_S, connections.abort)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    watcher = asyncio.create_task(_watch_parent(parent, stop)) if parent else None
    try:
        await server.serve(sockets=[listener])
    finally:
        if watcher:
            watcher.cancel()


class _Server(uvicorn.Server):
    """The server of uvicorn, but it tells when it is ready, and being stopped by a signal is no failure."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()


class _Connections:
    """The open connections by the client's address, so that they can be broken."""

    def __init__(self) -> None:
        self._transports: dict[tuple[str, int], asyncio.Transport] = {}

    def protocol(self) -> type[asyncio.Protocol]:
        """The HTTP protocol of uvicorn, which enters its connections here."""
        transports = self._transports

        class Protocol(H11Protocol):
            def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
                super().connection_made(transport)
                if self.client is not None:
                    transports[self.client] = transport

            def connection_lost(self, exc: Exception | None) -> None:
                super().connection_lost(exc)
                if self.client is not None:
                    transports.pop(self.client, None)

        return Protocol

    def abort(self) -> None:
        """Close all connections; their requests are given up."""
        for transport in list(self._transports.values()):
            transport.abort()

    def reset(self, scope: Scope) -> None:
        """Break a request's connection with a TCP reset: lingering for 0 s discards what was not sent."""
        transport = self._transports.get(tuple(scope["client"]))
        if transport is not None:
            connection: socket.socket = transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()


@contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"cannot listen on {host} port {port}: {reason}; choose another, or --port 0 for a free one"
        ) from None
    with listener:
        yield listener


def _base_url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"


async def _watch_parent(parent: int, stop: Callable[[], None]) -> None:
    with suppress(asyncio.CancelledError):
        while os.getppid() == parent:  # noqa: ASYNC110  # there is no event for this
            await asyncio.sleep(_PARENT_CHECK_S)
        stop()
