"""MCP, the Python SDK, client and server: a tool that a client calls is one TOOL span.

The trace travels in the request's `_meta`, as the protocol says (SEP-414), in both directions: what a
server's tool does is recorded below the client's span, and so is what a client does when a server asks it.
A server records no span of its own. Listing, prompts and the handshake are no steps of a workflow.
"""

import functools
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, Final

from mcp.client.session import ClientSession

from millstream import context, semconv
from millstream.record import faults
from millstream.record.integrations.calls import Patches
from millstream.record.integrations.observed import Observed, begin, quietly, tool_run
from millstream.span import SpanKind

_Method = Callable[..., Awaitable[Any]]

_CARRIER: Final = "millstream/traceparent"
"""Carries our span where the SDK's OpenTelemetry, or the user, has put another into `traceparent`."""
_SEPARATORS: Final = frozenset("_-./: ")
_patches: Final = Patches()


def install() -> None:
    """Record the calls of clients, and continue their traces in servers."""
    put = _patches.put
    put(ClientSession, "call_tool", _recording_tool)
    put(ClientSession, "read_resource", _recording_resource)
    put(_known("mcp.client.client", "Client"), "call_tool", _recording_tool)  # may ask more than once
    # Version 2
    put(_known("mcp.shared.jsonrpc_dispatcher", "JSONRPCDispatcher"), "send_raw_request", _carrying_params)
    put(_known("mcp.shared.direct_dispatcher", "DirectDispatcher"), "send_raw_request", _carrying_params)
    put(_known("mcp.server.runner", "ServerRunner"), "_on_request", _continuing_params)
    put(ClientSession, "_on_request", _continuing_params)
    # Version 1
    put(_known("mcp.shared.session", "BaseSession"), "send_request", _carrying_model)
    put(_known("mcp.server.lowlevel.server", "Server"), "_handle_request", _continuing_model)
    put(ClientSession, "_received_request", _continuing_model)


def uninstall() -> None:
    """Put the SDK back as it was; calls that have begun are recorded to their end."""
    _patches.undo()


def _known(module: str, name: str) -> Any:
    """A class of the SDK, if this version has it: importing `mcp` has loaded them all."""
    return getattr(sys.modules.get(module), name, type("Absent", (), {}))


# Calls


class tool_error(Exception):  # noqa: N801, N818  # the `error.type` that OpenTelemetry's conventions ask for
    """A tool answered that it failed."""


def _recording_tool(method: _Method) -> _Method:
    @functools.wraps(method)
    async def call_tool(client: Any, *args: Any, **kwargs: Any) -> Any:
        name = str(args[0] if args else kwargs.get("name"))
        arguments = args[1] if len(args) > 1 else kwargs.get("arguments")
        step = tool_run(_name_around(name), arguments or {}, framework="mcp")
        step.know({semconv.MCP_METHOD_NAME: "tools/call"})
        if (report := kwargs.get("progress_callback")) is not None:
            kwargs["progress_callback"] = _inside(step, report)
        elif len(args) > 3 and args[3] is not None:  # noqa: PLR2004  # its place in the signature
            args = (*args[:3], _inside(step, args[3]), *args[4:])
        return await _recorded(step, functools.partial(method, client, *args, **kwargs), _tell_result)

    return call_tool


def _recording_resource(method: _Method) -> _Method:
    @functools.wraps(method)
    async def read_resource(client: Any, *args: Any, **kwargs: Any) -> Any:
        content = {"uri": str(args[0] if args else kwargs.get("uri"))}
        step = begin(SpanKind.RETRIEVER, "resources/read", content, framework="mcp")
        step.know({semconv.MCP_METHOD_NAME: "resources/read"})
        return await _recorded(step, functools.partial(method, client, *args, **kwargs), _tell_contents)

    return read_resource


async def _recorded(step: Observed, call: _Method, tell: Callable[[Observed, Any], None]) -> Any:
    with step:
        try:
            result = await call()
        except Exception as error:
            step.end(_without_content(step, error))
            raise
        tell(step, result)
        return result


@quietly
def _tell_result(step: Observed, result: Any) -> None:
    """Record a tool's answer in the protocol's own form; other answers of version 2 ask for more."""
    failed = getattr(result, "isError", getattr(result, "is_error", None))
    if failed is None:
        return
    fields = {"content", "structuredContent", "structured_content"}
    step.answer(result.model_dump(mode="json", by_alias=True, exclude_none=True, include=fields))
    if failed:
        text = "\n".join(part.text for part in result.content if hasattr(part, "text"))
        step.end(tool_error(text if _content_is_captured(step) else ""))


@quietly
def _tell_contents(step: Observed, result: Any) -> None:
    fields = {"contents"}
    step.answer(result.model_dump(mode="json", by_alias=True, exclude_none=True, include=fields))


def _content_is_captured(step: Observed) -> bool:
    return step.span.recorder.capture_content


def _without_content(step: Observed, error: Exception) -> Exception:
    """The error as it may be recorded: what a result's validation says repeats the result."""
    if _content_is_captured(step) or hasattr(error, "error"):  # the protocol's own errors
        return error
    bare: type[Exception] = type(type(error).__name__, (Exception,), {})
    return bare()


def _name_around(name: str) -> str:
    """The name under which a framework is running this tool, which may have put the server's before it."""
    above = context.current.get()
    around = above.name if getattr(above, "kind", None) is SpanKind.TOOL else ""  # type: ignore[union-attr]
    prefix = around.removesuffix(name)
    return around if prefix != around and prefix[-1:] in _SEPARATORS else name


def _inside(step: Observed, report: _Method) -> _Method:
    """A callback for progress that runs in the step; the SDK calls it from where the session was opened."""

    async def progress(*args: Any, **kwargs: Any) -> Any:
        token = context.current.set(step.span if step.span.is_open else context.current.get())
        try:
            return await report(*args, **kwargs)
        finally:
            with suppress(ValueError):
                context.current.reset(token)

    return progress


# The trace, out and in


def _carrying_params(method: _Method) -> _Method:
    @functools.wraps(method)
    async def send(dispatcher: Any, name: str, params: Any, *args: Any, **kwargs: Any) -> Any:
        return await method(dispatcher, name, _carried(_into_params, params), *args, **kwargs)

    return send


def _carrying_model(method: _Method) -> _Method:
    @functools.wraps(method)
    async def send_request(session: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        return await method(session, _carried(_into_model, request), *args, **kwargs)

    return send_request


def _carried(put: Callable[[Any, dict[str, str]], Any], message: Any) -> Any:
    """A message with the current span in its `_meta`; the caller's own object stays as it is."""
    headers: dict[str, str] = {}
    context.inject(headers)
    if not headers:
        return message
    try:
        return put(message, headers)
    except Exception as fault:  # noqa: BLE001  # telemetry never breaks the user's program
        faults.swallow(fault, "a request over MCP does not carry its trace")
        return message


def _into_params(params: Mapping[str, Any] | None, headers: dict[str, str]) -> dict[str, Any]:
    params = params or {}
    return {**params, "_meta": _meta(headers, params.get("_meta") or {})}


def _into_model(request: Any, headers: dict[str, str]) -> Any:
    root = request.root
    if root.params is None:
        return request
    own = root.params.meta
    known = {} if own is None else own.model_dump(by_alias=True)
    kind = type(root.params).Meta if own is None else type(own)
    params = root.params.model_copy(update={"meta": kind(**_meta(headers, known))})
    return request.model_copy(update={"root": root.model_copy(update={"params": params})})


def _meta(headers: dict[str, str], own: Mapping[str, Any]) -> dict[str, Any]:
    if "traceparent" in own or "opentelemetry.sdk.trace" in sys.modules:
        headers[_CARRIER] = headers["traceparent"]
    if "traceparent" in own:
        headers = {_CARRIER: headers[_CARRIER]}
    return {**headers, **own}


def _continuing_params(method: _Method) -> _Method:
    @functools.wraps(method)
    async def on_request(side: Any, dispatch: Any, name: str, params: Any, *args: Any, **kwargs: Any) -> Any:
        with _continued(params.get("_meta") if isinstance(params, Mapping) else None):
            return await method(side, dispatch, name, params, *args, **kwargs)

    return on_request


def _continuing_model(method: _Method) -> _Method:
    @functools.wraps(method)
    async def handle(side: Any, responder: Any, *args: Any, **kwargs: Any) -> Any:
        with _continued(getattr(getattr(responder, "request_meta", None), "model_extra", None)):
            return await method(side, responder, *args, **kwargs)

    return handle


def _continued(meta: Any) -> AbstractContextManager[Any]:
    """A block that continues the trace which a request carries; in one task with its sender it is there."""
    if not isinstance(meta, Mapping):
        return nullcontext()
    traceparent = meta.get(_CARRIER) or meta.get("traceparent")
    if not isinstance(traceparent, str):
        return nullcontext()
    remote = context.parse_traceparent(traceparent)
    here = context.current.get()
    if remote is None or (here is not None and here.span_id == remote.span_id):
        return nullcontext()
    return context.extract({**meta, "traceparent": traceparent})
