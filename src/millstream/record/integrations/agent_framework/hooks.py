"""What the wrapped methods of the framework record."""

import copy
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final
from weakref import WeakKeyDictionary

import msgspec

from millstream import semconv
from millstream.record.integrations.agent_framework.messages import (
    contents_json,
    messages_json,
    plain,
    result_json,
    tell_answer,
    tools_json,
    usage_of,
)
from millstream.record.integrations.agent_framework.runs import observe
from millstream.record.integrations.observed import Observed, begin, model_call, quietly, tool_run
from millstream.record.live import LiveSpan
from millstream.record.opening import current_span
from millstream.span import SpanKind

_NAME: Final = "agent-framework"
_PAUSES: Final = ("UserInputRequiredException", "MiddlewareTermination")
"""What a tool raises to have its agent wait for somebody, or stop: no failure."""
_storing: Final[WeakKeyDictionary[Any, LiveSpan]] = WeakKeyDictionary()
"""The agent's span, by the context of a streamed run whose answer is still to be stored."""

# Model calls


def request(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a client's `_inner_get_response`, which is given the messages as they are to be sent.

    A long conversation has been made shorter by then, for which a model may have been called.
    """

    @functools.wraps(original)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        options = kwargs.get("options") or {}
        start = functools.partial(_begin_request, self, kwargs.get("messages"), options)
        tell = functools.partial(tell_answer, choices=options.get("n") or 1)
        return observe(result, start, tell, see=_see, join=_join)

    return wrapper


def _begin_request(client: Any, messages: Any, options: Mapping[str, Any]) -> Observed:
    model = options.get("model") or getattr(client, "model", None)
    step = model_call(model, messages_json(messages, options.get("instructions")), framework=_NAME)
    provider = getattr(client, "otel_provider_name", None) or getattr(client, "OTEL_PROVIDER_NAME", None)
    parameters = {**options, "tools": tools_json(options.get("tools"))}
    step.request(model=model, provider=provider, parameters=parameters)
    return step


def _see(step: Observed, piece: Any) -> None:
    # what comes again, whole, at the end is no piece
    news = [content for content in piece.contents if getattr(content, "merge_mode", None) != "replace"]
    if any(content.type == "function_call" or content.text for content in news):
        step.piece("".join(content.text or "" for content in news if content.type == "text"))


def _join(pieces: list[Any]) -> Any:
    from agent_framework import ChatResponse  # noqa: PLC0415  # loaded by now

    copies = [copy.copy(piece) for piece in pieces]  # joining them changes them
    for piece in copies:
        piece.contents = [copy.copy(content) for content in piece.contents]
    return ChatResponse.from_updates(copies)


def embeddings(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps an embedding client's `get_embeddings`."""

    @functools.wraps(original)
    async def wrapper(self: Any, values: Any, *args: Any, **kwargs: Any) -> Any:
        model = (kwargs.get("options") or {}).get("model") or getattr(self, "model", None)
        attributes = {
            semconv.OPERATION_NAME: "embeddings",
            semconv.REQUEST_MODEL: model,
            semconv.PROVIDER_NAME: getattr(self, "otel_provider_name", None),
        }
        with begin(
            SpanKind.EMBEDDING, model or "embeddings", values, framework=_NAME, attributes=attributes
        ) as step:
            result = await original(self, values, *args, **kwargs)
            quietly(_tell_embeddings)(step, result)
            return result

    return wrapper


def _tell_embeddings(step: Observed, result: Any) -> None:
    size = result[0].dimensions if result else None
    step.know({semconv.EMBEDDINGS_COUNT: len(result), semconv.EMBEDDINGS_DIMENSIONS: size})
    step.answer(
        {"embeddings": len(result), "dimensions": size},
        usage=usage_of(result.usage),
        model=getattr(result[0], "model", None) if result else None,
    )


# Tools


def tool_invocation(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps `FunctionTool.invoke`; the framework tells the model what it raises."""

    @functools.wraps(original)
    async def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        with tool_run(
            self.name,
            _arguments(kwargs),
            framework=_NAME,
            call_id=kwargs.get("tool_call_id"),
            description=self.description or None,
        ) as step:
            try:
                result = await original(self, *args, **kwargs)
            except Exception as error:
                if type(error).__name__ in _PAUSES:
                    step.end()
                raise
            quietly(lambda: step.answer(contents_json(result)))()
            return result

    return wrapper


def _arguments(given: Mapping[str, Any]) -> Any:
    arguments = given.get("arguments")
    if arguments is None:
        known = ("context", "tool_call_id", "skip_parsing", "arguments")
        direct = {key: value for key, value in given.items() if key not in known}
        arguments = direct or getattr(given.get("context"), "arguments", None) or {}
    return arguments


# Agents


def agent_run(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps an agent's `run`, on each of the classes that a call passes through."""

    @functools.wraps(original)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        messages = args[0] if args else kwargs.get("messages")
        start = functools.partial(_begin_agent, self, messages, kwargs.get("session"))
        return observe(result, start, _tell_agent)

    if not inspect.iscoroutinefunction(original):
        return wrapper

    @functools.wraps(original)
    async def asynchronous(self: Any, *args: Any, **kwargs: Any) -> Any:
        return await wrapper(self, *args, **kwargs)

    return asynchronous


def _begin_agent(agent: Any, messages: Any, session: Any) -> Observed:
    name = getattr(agent, "name", None) or type(agent).__name__
    above = current_span()
    if above.kind is SpanKind.AGENT and above.name == name and above.is_open:
        return Observed(above, inner=True)
    attributes = {
        semconv.OPERATION_NAME: "invoke_agent",
        semconv.AGENT_NAME: name,
        semconv.AGENT_ID: getattr(agent, "id", None),
        semconv.CONVERSATION_ID: getattr(session, "session_id", None),
    }
    content = msgspec.UNSET if messages is None else messages_json(messages)
    return begin(SpanKind.AGENT, name, content, framework=_NAME, attributes=attributes)


def _tell_agent(step: Observed, response: Any) -> None:
    step.answer(result_json(response))


def stream_prepared(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps `RawAgent._parse_streaming_response`: remembers in which span an answer is to be stored."""

    @functools.wraps(original)
    def wrapper(self: Any, context: Any, *args: Any, **kwargs: Any) -> Any:
        quietly(_remember)(context)
        return original(self, context, *args, **kwargs)

    return wrapper


def _remember(context: Mapping[str, Any]) -> None:
    span = current_span()
    if span.kind is SpanKind.AGENT:
        _storing[context["session_context"]] = span


def stream_stored(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps `BaseAgent._run_after_providers`, which stores an answer after the last pull of its stream."""

    @functools.wraps(original)
    async def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        context = kwargs.get("context")
        span = None if context is None else _storing.pop(context, None)
        if span is None:
            return await original(self, *args, **kwargs)
        step = Observed(span, inner=False)
        with step.inside():
            try:
                return await original(self, *args, **kwargs)
            except BaseException as error:
                step.end(error)
                raise

    return wrapper


# Workflows


def workflow_run(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a workflow's `run`."""

    @functools.wraps(original)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        message = args[0] if args else kwargs.get("message")
        start = functools.partial(
            _begin_workflow, self, kwargs.get("responses") if message is None else message
        )
        return observe(result, start, _tell_workflow)

    return wrapper


def _begin_workflow(workflow: Any, message: Any) -> Observed:
    content = msgspec.UNSET if message is None else plain(message)
    return begin(
        SpanKind.WORKFLOW,
        getattr(workflow, "name", None) or type(workflow).__name__,
        content,
        framework=_NAME,
    )


def _tell_workflow(step: Observed, result: Any) -> None:
    outputs = [plain(output) for output in result.get_outputs()]
    step.answer(outputs[0] if len(outputs) == 1 else outputs)
