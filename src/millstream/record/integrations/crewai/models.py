"""Model calls: `call` and `acall` of every class of models, native providers, LiteLLM and the user's own."""

import functools
import inspect
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, Final

from millstream import context
from millstream.record.integrations.crewai.messages import answer_json, is_call, messages_json, usage_of
from millstream.record.integrations.crewai.wrapping import NAME
from millstream.record.integrations.observed import (
    Observed,
    model_call,
    quietly,
    tool_run,
    usage_from_openai,
)
from millstream.record.opening import current_span

_FUNCTIONS: Final = 3
"""The place of the functions among the arguments of a call."""


class _Call:
    """A model call that is being made.

    Attributes:
        llm: the model.
        step: its step.
        asked: functions that the model asked for and that are run within the call.
    """

    __slots__ = ("asked", "llm", "step")

    def __init__(self, llm: Any, step: Observed) -> None:
        self.llm = llm
        self.step = step
        self.asked: list[dict[str, Any]] = []


_calling: Final[ContextVar[_Call | None]] = ContextVar("millstream_crewai_call", default=None)


def model_method(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps `call` or `acall` of a class of models."""
    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def asynchronous(self: Any, *args: Any, **kwargs: Any) -> Any:
            if _is_inside(self):
                return await original(self, *args, **kwargs)
            call = _begin(self, args, kwargs)
            args, kwargs = _with_functions(call, args, kwargs)
            with call.step:
                token = _calling.set(call)
                try:
                    result = await original(self, *args, **kwargs)
                finally:
                    _calling.reset(token)
                quietly(_tell_result)(call, result)
                return result

        return asynchronous

    @functools.wraps(original)
    def plain(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _is_inside(self):
            return original(self, *args, **kwargs)
        call = _begin(self, args, kwargs)
        args, kwargs = _with_functions(call, args, kwargs)
        with call.step:
            token = _calling.set(call)
            try:
                result = original(self, *args, **kwargs)
            finally:
                _calling.reset(token)
            quietly(_tell_result)(call, result)
            return result

    return plain


def _is_inside(llm: Any) -> bool:
    """Whether this is what a class calls of the one that it inherits from."""
    call = _calling.get()
    return call is not None and call.llm is llm and call.step.span is current_span()


def _begin(llm: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> _Call:
    messages = args[0] if args else kwargs.get("messages")
    model = getattr(llm, "model", None)
    step = model_call(model, messages_json(messages), framework=NAME)
    quietly(_tell_request)(step, llm, args[1] if len(args) > 1 else kwargs.get("tools"))
    return _Call(llm, step)


def _tell_request(step: Observed, llm: Any, tools: Any) -> None:
    names = ("temperature", "top_p", "seed", "frequency_penalty", "presence_penalty", "n")
    parameters = {name: getattr(llm, name, None) for name in names}
    limit = getattr(llm, "_effective_max_tokens", None)
    parameters["max_tokens"] = limit() if limit is not None else getattr(llm, "max_tokens", None)
    parameters["stop"] = getattr(llm, "stop_sequences", None) or None
    parameters["tools"] = list(tools) if tools else None
    step.request(provider=getattr(llm, "provider", None), parameters=parameters)


def emission(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps the event bus's `emit`, for what a model call tells of itself, on the thread that makes it."""

    @functools.wraps(original)
    def wrapper(self: Any, source: Any, event: Any, *args: Any, **kwargs: Any) -> Any:
        call = _calling.get()
        if call is not None and source is call.llm:
            quietly(_look_at)(call, event)
        return original(self, source, event, *args, **kwargs)

    return wrapper


def outside(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps where the bus starts its threads, which outlive the run that is the first to need them."""

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        tokens = context.current.set(None), _calling.set(None)
        try:
            return original(*args, **kwargs)
        finally:
            context.current.reset(tokens[0])
            _calling.reset(tokens[1])

    return wrapper


def _look_at(call: _Call, event: Any) -> None:
    kind = getattr(event, "type", None)
    if kind in ("llm_stream_chunk", "llm_thinking_chunk"):
        if event.chunk or getattr(event, "tool_call", None):
            call.step.piece(event.chunk)
    elif kind == "llm_call_completed":
        answer = event.response
        if call.asked and not (isinstance(answer, list) and all(is_call(part) for part in answer)):
            answer = call.asked  # else the answer of the function that was run
        reason = getattr(event, "finish_reason", None)
        _fill(
            call,
            answer_json(answer),
            usage=usage_of(event.usage),
            response_id=getattr(event, "response_id", None),
            finish_reasons=[reason] if reason else None,
        )


def _tell_result(call: _Call, result: Any) -> None:
    """Of a model of the user's own, which emits nothing."""
    _fill(call, answer_json(call.asked or result))


def _fill(call: _Call, answer: dict[str, Any], **told: Any) -> None:
    """Record what is not known: the client library, if it is recorded, has told more exactly."""
    Observed(call.step.span, inner=True).answer(answer, **told)


def openai_usage(original: Any) -> Any:
    """Wraps where the native OpenAI models read the tokens of a response, or of a stream's last piece."""

    @functools.wraps(original)
    def wrapper(self: Any, response: Any, *args: Any, **kwargs: Any) -> Any:
        call = _calling.get()
        if call is not None and call.llm is self:
            quietly(_tell_response)(call, response)
        return original(self, response, *args, **kwargs)

    return wrapper


def _tell_response(call: _Call, response: Any) -> None:
    Observed(call.step.span, inner=True).answer(
        usage=usage_from_openai(getattr(response, "usage", None)), model=getattr(response, "model", None)
    )


def _with_functions(
    call: _Call, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call, whose functions are tools: those that the model asks for run within it."""
    given = args[_FUNCTIONS] if len(args) > _FUNCTIONS else kwargs.get("available_functions")
    if not isinstance(given, dict) or not given:
        return args, kwargs
    tools = {name: _as_tool(call, name, function) for name, function in given.items()}
    if len(args) > _FUNCTIONS:
        return (*args[:_FUNCTIONS], tools, *args[_FUNCTIONS + 1 :]), kwargs
    return args, {**kwargs, "available_functions": tools}


def _as_tool(call: _Call, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(*args: Any, **arguments: Any) -> Any:
        call.asked.append({"name": name, "arguments": arguments})
        with tool_run(name, arguments, framework=NAME) as step:
            result = function(*args, **arguments)
            step.answer(result)
            return result

    return run
