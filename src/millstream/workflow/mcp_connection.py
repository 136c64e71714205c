"""A connection to an MCP server, by version 1 or 2 of the SDK: opened when needed, and again when it broke.

The SDK wants a connection to be opened and closed by one task, so each is held by a task of its own.
"""

import asyncio
import contextvars
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from threading import Thread
from typing import Any, Final

from millstream.errors import FunctionTimeoutError, MissingExtraError, UnreachableError, WorkflowError

try:
    import mcp
    from mcp.client.stdio import StdioServerParameters, stdio_client
    from mcp.client.streamable_http import streamable_http_client
    from mcp.shared._httpx_utils import create_mcp_http_client
except ImportError as missing:
    raise MissingExtraError("mcp_client", "mcp") from missing

Transport = Callable[[], AbstractAsyncContextManager[Any]]
"""Opens the two streams of a connection."""

_TWO: Final = not hasattr(mcp, "McpError")
_Refused: Final[type[Exception]] = getattr(mcp, "MCPError" if _TWO else "McpError")
_TIMED_OUT: Final = (408, -32001)
_CLOSED: Final = (-32000, 32600, -32600)
"""The connection closed; version 1 and 2: the server no longer knows our session, as after a restart."""
_IDLE_S: Final = 5.0
"""A connection that was not used for so long is tried out before a tool is called over it."""
_MARGIN_S: Final = 5.0
_CLOSING_S: Final = 15.0
_LONGEST: Final = 500


class Connection:
    """Calls the tools of one server. Calls may go on at the same time.

    Args:
        transport: opens the streams.
        where: path of the component in the workflow file, for errors.
        server: what the server is called in errors: its program or address.
        timeout_s: seconds for one call.
        connect_timeout_s: seconds until the server must be there.
        output: of the server's process, where it is one of ours.
    """

    def __init__(
        self,
        transport: Transport,
        where: str,
        server: str,
        timeout_s: float,
        connect_timeout_s: float,
        output: "ProcessOutput | None" = None,
    ) -> None:
        self._transport = transport
        self._where = where
        self._server = server
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._output = output
        self._lock = asyncio.Lock()
        self._live: _Live | None = None
        self._closing: set[asyncio.Task[None]] = set()

    async def tools(self) -> list[Any]:
        """The tools that the server offers.

        Raises:
            UnreachableError: it cannot be started or reached.
        """
        live = await self._connected()
        found: list[Any] = []
        cursor = None
        while True:
            page = await self._asked(live, "tools/list", _page(live.session, cursor))
            found += page.tools
            cursor = getattr(page, "nextCursor", None) or getattr(page, "next_cursor", None)
            if not cursor:
                return found

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> Any:
        """The result of a tool; the SDK's integration records it as one TOOL span.

        Raises:
            FunctionTimeoutError: it took too long.
            UnreachableError: the server cannot be started or reached.
            WorkflowError: the server ended, or refuses the call.
        """
        live = await self._connected()
        limit = self._timeout_s if _TWO else timedelta(seconds=self._timeout_s)
        return await self._asked(
            live, tool, live.session.call_tool(tool, dict(arguments), read_timeout_seconds=limit)
        )

    async def aclose(self) -> None:
        """Close the connection; a process that was started for it is ended."""
        if self._live is not None:
            self._drop(self._live)
        while self._closing:
            await asyncio.wait(self._closing)

    async def _connected(self) -> "_Live":
        async with self._lock:
            if self._live is not None and not await self._live.answers():
                self._drop(self._live)
            if self._live is None:
                live = _Live(self._transport)
                try:
                    await asyncio.wait_for(live.opened(), self._connect_timeout_s)
                except BaseException as error:
                    await live.close()
                    if not isinstance(error, Exception):
                        raise
                    raise UnreachableError(self._cannot_connect(error)) from None
                self._live = live
            return self._live

    async def _asked(self, live: "_Live", what: str, request: Awaitable[Any]) -> Any:
        try:
            return await live.ask(request, self._timeout_s + _MARGIN_S)
        except _Refused as error:
            code = _code(error)
            if code in _TIMED_OUT:
                failure: Exception = self._too_slow(what)
                if not live.asking:  # else others are being answered over it
                    self._drop(live)
            elif code in _CLOSED:
                failure = self._ended(what)
                self._drop(live)
            else:
                failure = WorkflowError(f"{self._where}: the MCP server refused {what}: {shown(error)}")
        except TimeoutError:
            failure = self._too_slow(what)
            self._drop(live)
        except RuntimeError as error:  # the SDK's, about an answer that is none
            failure = WorkflowError(
                f"{self._where}: the MCP server's answer to {what} is wrong: {shown(error)}"
            )
        except Exception as error:  # noqa: BLE001  # of the transport, of whatever kind
            failure = self._ended(what, error)
            self._drop(live)
        raise failure

    def _drop(self, live: "_Live") -> None:
        """Close a connection, while nobody waits for it; the next call opens another."""
        if self._live is live:
            self._live = None
            task = asyncio.get_running_loop().create_task(live.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _too_slow(self, what: str) -> FunctionTimeoutError:
        return FunctionTimeoutError(
            f"{what} did not finish within {self._timeout_s:g} s ({self._where}.timeout_s)"
        )

    def _ended(self, what: str, error: BaseException | None = None) -> WorkflowError:
        why = self._last_words or (shown(_first(error)) if error is not None else "")
        return WorkflowError(
            f"{self._where}: the MCP server {self._server} ended while it was asked for {what}"
            f"{': ' + why if why else ''}; it is connected to again at the next call"
        )

    def _cannot_connect(self, error: BaseException) -> str:
        cause, words = _first(error), self._last_words
        server = f"the MCP server {self._server}"
        if isinstance(error, TimeoutError):
            late = f"did not answer within {self._connect_timeout_s:g} s{': ' + words if words else ''}"
            return f"{self._where}: {server} {late}; see what it waits for, or raise connect_timeout_s"
        if self._output is None:
            why = shown(cause)
            return f"{self._where}: there is no MCP server at {self._server}: {why}; start it, or correct url"
        if isinstance(cause, OSError) and cause.errno and not words:
            return (
                f"{self._where}.command: the program {self._server} cannot be started: {cause.strerror};"
                " install it, or correct command (a path is relative to the working directory)"
            )
        why = words or ("" if _code(cause) in _CLOSED else shown(cause))
        return (
            f"{self._where}: {server} ended before it answered{': ' + why if why else ''};"
            " try its command with its args in a terminal, and correct them"
        )

    @property
    def _last_words(self) -> str:
        return "" if self._output is None else self._output.last_words()


class _Live:
    """One connection, and the task that holds it."""

    def __init__(self, transport: Transport) -> None:
        self.session: Any = None
        self.asking = 0
        self._transport = transport
        self._ready = asyncio.get_running_loop().create_future()
        self._stop = asyncio.Event()
        self._used_s = time.monotonic()
        # Its own context: what the SDK's tasks do is in none of the calls.
        self._task = asyncio.get_running_loop().create_task(self._hold(), context=contextvars.Context())

    async def opened(self) -> None:
        """Wait until it can be used."""
        await asyncio.shield(self._ready)

    async def answers(self) -> bool:
        """Whether it still works, as far as known."""
        if self._task.done():
            return False
        if self.asking or time.monotonic() - self._used_s < _IDLE_S:
            return True
        try:
            await self.ask(self.session.send_ping(), _MARGIN_S)
        except Exception as error:  # noqa: BLE001  # of whatever kind
            return _code(error) not in (None, *_CLOSED, *_TIMED_OUT)
        return True

    async def ask(self, request: Awaitable[Any], timeout_s: float) -> Any:
        """The answer to a request, which also ends when the connection does."""
        asked = asyncio.ensure_future(request)
        self.asking += 1
        try:
            await asyncio.wait({asked, self._task}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                return asked.result()
            if self._task.done():
                raise ConnectionError("the connection closed")
            raise TimeoutError
        finally:
            self.asking -= 1
            self._used_s = time.monotonic()
            if not asked.done():
                asked.cancel()
                await asyncio.wait({asked}, timeout=_MARGIN_S)

    async def close(self) -> None:
        """Close it; when the SDK takes too long, without it."""
        self._stop.set()
        if not self._ready.done():
            self._task.cancel()
        await asyncio.wait({self._task}, timeout=_CLOSING_S)
        if not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=_CLOSING_S)

    async def _hold(self) -> None:
        try:
            async with self._transport() as streams, mcp.ClientSession(*streams[:2]) as session:
                await session.initialize()
                self.session = session
                if not self._ready.done():
                    self._ready.set_result(None)
                await self._stop.wait()
        except BaseException as error:
            if not self._ready.done():
                self._ready.set_exception(
                    error if isinstance(error, Exception) else ConnectionError("the connection closed")
                )
                self._ready.exception()  # seen, also when nobody waits any more
            if not isinstance(error, Exception):
                raise
            # Of a connection that was open: who asks next is told by this task's end.


def shown(text: Any) -> str:
    """What a server says, for a message: without control characters, on one line, and short."""
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in str(text)).split())
    return line if len(line) <= _LONGEST else line[:_LONGEST] + "…"


def _code(error: BaseException | None) -> int | None:
    """The number of an error that came over a connection."""
    return getattr(getattr(error, "error", None), "code", None)


def _page(session: Any, cursor: str | None) -> Awaitable[Any]:
    from mcp.types import PaginatedRequestParams  # noqa: PLC0415

    asked: Awaitable[Any] = session.list_tools(
        params=None if cursor is None else PaginatedRequestParams(cursor=cursor)
    )
    return asked


def _first(error: BaseException | None) -> BaseException | None:
    """The exception that says why, inside of groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class ProcessOutput:
    """Takes in what a process writes to stderr and keeps its end."""

    def __init__(self) -> None:
        reading, writing = os.pipe()
        self._end: deque[bytes] = deque(maxlen=4)
        self.file = os.fdopen(writing, "w")
        Thread(target=self._read, args=(reading,), name="millstream MCP stderr", daemon=True).start()

    def _read(self, descriptor: int) -> None:
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            while data := file.read(1024):
                self._end.append(data)

    def last_words(self) -> str:
        """Its last line that says something."""
        lines = b"".join(self._end).decode(errors="replace").splitlines()
        return next((shown(line) for line in reversed(lines) if line.strip()), "")

    def close(self) -> None:
        """Stop taking in."""
        self.file.close()


def over_stdio(command: str, args: list[str], env: dict[str, str], output: ProcessOutput) -> Transport:
    """A server that is a process of ours, spoken to by its stdin and stdout."""
    parameters = StdioServerParameters(command=command, args=args, env=env or None)
    return lambda: stdio_client(parameters, errlog=output.file)


def over_http(url: str, headers: dict[str, str], timeout_s: float) -> Transport:
    """A server behind streamable HTTP."""

    @asynccontextmanager
    async def connect() -> AsyncIterator[Any]:
        async with create_mcp_http_client(headers=headers) as client:
            client.timeout = timeout_s + _MARGIN_S
            async with streamable_http_client(url, http_client=client) as streams:
                yield streams

    return connect
