"""OpenAI's Python SDK: chat completions, responses, completions and embeddings, of all its clients.

All of them send their requests by one method, `request`, which also retries: that is one call, one span. A
stream is recorded while it is read, whichever way: by its iterator, or by the bytes of its response.
"""

import functools
from collections.abc import Callable
from typing import Any, Final

from openai import AsyncStream, Stream
from openai._base_client import AsyncAPIClient, SyncAPIClient

from millstream.record.integrations.calls import Patches
from millstream.record.integrations.on_import import forget, when_imported
from millstream.record.integrations.openai import tools
from millstream.record.integrations.openai.in_place import Bodies
from millstream.record.integrations.openai.requests import begin_request
from millstream.record.integrations.openai.streams import follow_stream
from millstream.record.opening import current_span
from millstream.span import SpanKind

_bodies: Final = Bodies()
_patches: Final = Patches()
_users: Final[set[str]] = set()
"""Who has the calls recorded: we, or frameworks that want the details of their own calls."""
_MODEL_CALLS: Final = (SpanKind.LLM, SpanKind.EMBEDDING)


def install() -> None:
    """Record every call of the SDK, and the tools that its runner runs."""
    use("openai")
    when_imported("openai.lib.responses_tool_runner", tools.install)


def uninstall() -> None:
    """Put the SDK back as it was; streams that have begun are recorded to their end."""
    forget(tools.install)
    tools.uninstall()
    leave("openai")


def use(user: str) -> None:
    """Record calls on behalf of `user`; for others than "openai", those inside of a model call only."""
    _users.add(user)
    _bodies.put(SyncAPIClient, "request", _recording)
    _bodies.put(AsyncAPIClient, "request", _recording_async)
    _patches.put(Stream, "__init__", _followed)
    _patches.put(AsyncStream, "__init__", _followed)


def leave(user: str) -> None:
    """Record no longer on behalf of `user`."""
    _users.discard(user)
    if not _users:
        _bodies.undo()
        _patches.undo()


def _is_wanted() -> bool:
    return "openai" in _users or (bool(_users) and current_span().kind in _MODEL_CALLS)


def _recording(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def request(client: Any, *args: Any, **kwargs: Any) -> Any:
        reply = begin_request(client, args, kwargs) if _is_wanted() else None
        if reply is None:
            return method(client, *args, **kwargs)
        try:
            with reply.step.inside():
                result = method(client, *args, **kwargs)
        except BaseException as error:
            reply.fail(error)
            raise
        reply.come(result)
        return result

    return request


def _recording_async(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    async def request(client: Any, *args: Any, **kwargs: Any) -> Any:
        reply = begin_request(client, args, kwargs) if _is_wanted() else None
        if reply is None:
            return await method(client, *args, **kwargs)
        try:
            with reply.step.inside():
                result = await method(client, *args, **kwargs)
        except BaseException as error:
            reply.fail(error)
            raise
        reply.come(result)
        return result

    return request


def _followed(method: Callable[..., None]) -> Callable[..., None]:
    """A stream that the program itself makes of a raw response."""

    @functools.wraps(method)
    def init(stream: Any, *args: Any, **kwargs: Any) -> None:
        method(stream, *args, **kwargs)
        follow_stream(stream)

    return init
