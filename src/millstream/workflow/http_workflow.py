"""A workflow behind HTTP: the message is posted, with the trace and the workflows around in its headers."""

import json
from collections.abc import Callable, Coroutine, Mapping
from http.client import HTTPException
from typing import Any, Final
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import msgspec

from millstream.context import inject
from millstream.errors import InputError, UnreachableError, WorkflowError
from millstream.record.serialize import to_json
from millstream.workflow.functions import in_thread

_CHAT: Final = "/chat/completions"
_TIMEOUT_S: Final = 600.0
_TRANSIENT: Final = (429, 502, 503, 504)
_SHOWN: Final = 500


def post(url: str, name: str) -> Callable[[Any], Coroutine[Any, Any, Any]]:
    """What posts a message to an endpoint and gives its answer.

    Args:
        url: of an endpoint that takes JSON; of one that ends in `/chat/completions`, OpenAI's protocol.
        name: the model of a chat where the message does not say one.

    Raises:
        InputError: it is no such URL.
    """
    try:
        parts = urlsplit(url)
        is_http = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_http = False
    if not is_http:
        raise InputError(f"workflow: a text is taken for a URL, and {url!r:.100} is none of http or https")
    if parts.username is not None or parts.password is not None:
        raise InputError(
            f"workflow: the URL of {parts.hostname} holds a user or password, which would be recorded;"
            " give a function that sends the request instead"
        )
    is_chat = parts.path.rstrip("/").endswith(_CHAT)

    async def call(message: Any) -> Any:
        body = to_json(_chat(message, name)) if is_chat else to_json(message, 1 << 40)
        headers = {"content-type": "application/json", "accept": "application/json"}
        inject(headers)
        answer = await in_thread(_send, Request(url, body, headers, method="POST"))  # noqa: S310  # it is http
        return _said(answer, url) if is_chat else answer

    return call


def _send(request: Request) -> Any:
    try:
        with urlopen(request, timeout=_TIMEOUT_S) as response:  # noqa: S310  # it is http
            body: bytes = response.read()
            is_json = "json" in response.headers.get("content-type", "")
    except HTTPError as error:
        with error:
            said = error.read(_SHOWN).decode(errors="replace")
        message = f"{request.full_url} answered {error.code}: {said}"
        raise (UnreachableError if error.code in _TRANSIENT else WorkflowError)(message) from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise UnreachableError(f"{request.full_url} does not answer: {reason}") from None
    try:
        return msgspec.json.decode(body) if is_json else body.decode()
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WorkflowError(f"{request.full_url} answered what cannot be read: {error}") from None


def _chat(message: Any, name: str) -> Any:
    if isinstance(message, Mapping) and "messages" in message:
        return {"model": name, **message}
    text = message if isinstance(message, str) else json.dumps(msgspec.json.decode(to_json(message)))
    return {"model": name, "messages": [{"role": "user", "content": text}]}


def _said(answer: Any, url: str) -> Any:
    """The text of a chat completion; the whole message where it calls tools."""
    try:
        message = answer["choices"][0]["message"]
        return message if message.get("tool_calls") else message["content"]
    except (AttributeError, IndexError, KeyError, TypeError):
        raise WorkflowError(f"{url} did not answer with a chat completion") from None
