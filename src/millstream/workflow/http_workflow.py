"""A workflow behind HTTP: the message is posted, with the trace and the workflows around in its headers."""

import errno
import json
import socket
from collections.abc import Callable, Coroutine, Mapping
from http.client import HTTPException
from typing import Any, Final
from urllib.error import HTTPError
from urllib.parse import SplitResult, urlsplit
from urllib.request import Request, urlopen

import msgspec

from millstream.context import inject
from millstream.errors import InputError, UnreachableError, WorkflowError
from millstream.record.serialize import to_json
from millstream.workflow.functions import in_thread

CHAT: Final = "/chat/completions"
_TIMEOUT_S: Final = 600.0
_TRANSIENT: Final = (429, 502, 503, 504)
_ERROR: Final = 400
_SHOWN: Final = 500
_MOST_BYTES: Final = 1 << 28
_NO_WAY: Final = (errno.EHOSTUNREACH, errno.ENETUNREACH)


class Reply(msgspec.Struct, frozen=True):
    """What a server answered, good or bad; names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def shown(self) -> str:
        """The beginning of its body."""
        return self.body[:_SHOWN].decode(errors="replace")


class NoReplyError(Exception):
    """Nothing was answered, or not all of it.

    Args:
        reason: as the operating system says it.
        is_down: whether nothing took the connection.
    """

    def __init__(self, reason: str, *, is_down: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_down = is_down


def post(url: str, name: str) -> Callable[[Any], Coroutine[Any, Any, Any]]:
    """What posts a message to an endpoint and gives its answer.

    Args:
        url: of an endpoint that takes JSON; of one that ends in `/chat/completions`, OpenAI's protocol.
        name: the model of a chat where the message does not say one.

    Raises:
        InputError: it is no such URL.
    """
    is_chat = check_url(url, "workflow").path.rstrip("/").endswith(CHAT)

    async def call(message: Any) -> Any:
        answer = await in_thread(_send, request_of(url, _chat(message, name) if is_chat else message, {}))
        return said(answer, url) if is_chat else answer

    return call


def check_url(url: str, where: str) -> SplitResult:
    """The parts of an address of HTTP.

    Raises:
        InputError: it is none, or holds a password.
    """
    try:
        parts = urlsplit(url)
        is_http = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_http = False
    if not is_http:
        raise InputError(
            f"{where}: {url!r:.100} is not an http:// or https:// address (a text is taken for one)"
        )
    if parts.username is not None or parts.password is not None:
        raise InputError(
            f"{where}: the URL of {parts.hostname} holds a user or password, which would be recorded;"
            " give a function that sends the request instead"
        )
    return parts


def request_of(url: str, body: Any, headers: Mapping[str, str]) -> Request:
    """A request with the trace and the workflows around in its headers."""
    told = {"content-type": "application/json", "accept": "application/json", **headers}
    inject(told)
    return Request(url, to_json(body, 1 << 40), told, method="POST")  # noqa: S310  # it is http


def exchange(request: Request, timeout_s: float) -> Reply:
    """Send a request.

    Args:
        request: of `request_of`.
        timeout_s: for one reading of the connection.

    Raises:
        NoReplyError: nothing was answered, or not all of it.
        WorkflowError: it is more than anybody wants to read.
    """
    try:
        with urlopen(request, timeout=timeout_s) as response:  # noqa: S310  # it is http
            return _read(response.status, response, request)
    except HTTPError as error:
        with error:
            return _read(error.code, error, request)
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        is_down = isinstance(reason, ConnectionRefusedError | socket.gaierror) or (
            getattr(reason, "errno", None) in _NO_WAY
        )
        raise NoReplyError(str(reason) or type(reason).__name__, is_down=is_down) from None


def _read(status: int, response: Any, request: Request) -> Reply:
    try:
        body = response.read(_MOST_BYTES + 1)
    except (OSError, HTTPException) as error:
        raise NoReplyError(str(error) or type(error).__name__, is_down=False) from None
    if len(body) > _MOST_BYTES:
        raise WorkflowError(f"{request.full_url} answered more than {_MOST_BYTES >> 20} MiB")
    if missing := getattr(response, "length", None):  # http.client says it only where all is read at once
        raise NoReplyError(f"{missing} bytes of the answer did not come", is_down=False)
    return Reply(status, {name.lower(): value for name, value in response.headers.items()}, body)


def content_of(reply: Reply, url: str) -> Any:
    """The JSON of a reply, or its text where it does not say that it is JSON.

    Raises:
        WorkflowError: it cannot be read.
    """
    try:
        is_json = "json" in reply.headers.get("content-type", "")
        return msgspec.json.decode(reply.body) if is_json else reply.body.decode()
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WorkflowError(f"{url} answered what cannot be read: {error}") from None


def said(answer: Any, url: str) -> Any:
    """The text of a chat completion; the whole message where it calls tools.

    Raises:
        WorkflowError: it is none.
    """
    try:
        message = answer["choices"][0]["message"]
        return message if message.get("tool_calls") else message["content"]
    except (AttributeError, IndexError, KeyError, TypeError):
        raise WorkflowError(f"{url} did not answer with a chat completion") from None


def _send(request: Request) -> Any:
    try:
        reply = exchange(request, _TIMEOUT_S)
    except NoReplyError as error:
        raise UnreachableError(f"{request.full_url} does not answer: {error.reason}") from None
    if reply.status >= _ERROR:
        message = f"{request.full_url} answered {reply.status}: {reply.shown}"
        raise (UnreachableError if reply.status in _TRANSIENT else WorkflowError)(message)
    return content_of(reply, request.full_url)


def _chat(message: Any, name: str) -> Any:
    if isinstance(message, Mapping) and "messages" in message:
        return {"model": name, **message}
    text = message if isinstance(message, str) else json.dumps(msgspec.json.decode(to_json(message)))
    return {"model": name, "messages": [{"role": "user", "content": text}]}
