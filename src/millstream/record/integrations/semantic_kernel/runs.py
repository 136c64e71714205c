"""Functions of a kernel, and agents."""

import json
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from millstream import context, semconv
from millstream.record.integrations.methods import argument
from millstream.record.integrations.observed import Observed, begin, tool_run
from millstream.record.integrations.semantic_kernel.models import NAME
from millstream.span import SpanKind

_PLAIN: Final = (str, int, float, bool, dict)


def begin_function(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Observed | None:
    """A function runs: as a tool where a model asked for it, else recorded where nothing is around it."""
    call = argument(args, kwargs, 2, "metadata")
    asked = call.get("function") if isinstance(call, Mapping) else None
    if isinstance(asked, Mapping) and call.get("type") == "function":
        return tool_run(
            function.fully_qualified_name,
            _arguments(asked.get("arguments")),
            framework=NAME,
            call_id=call.get("id"),
            description=function.description or None,
        )
    if context.current.get() is not None:
        return None
    # A prompt that is invoked as it stands is a function of a random name.
    unnamed = function.is_prompt and not function.plugin_name
    name = "prompt" if unnamed else function.fully_qualified_name
    given = argument(args, kwargs, 1, "arguments")
    return begin(SpanKind.CHAIN, name, dict(given) if given else msgspec.UNSET, framework=NAME)


def tell_function(step: Observed, result: Any) -> None:
    """A function returned."""
    value = getattr(result, "value", None)
    step.answer(value if value is None or isinstance(value, _PLAIN) else str(result))


class Outcome:
    """What a streamed function gave; one that fails says so in its last piece."""

    def __init__(self, step: Observed) -> None:
        self._step = step
        self._texts: list[str] = []
        self._error: BaseException | None = None

    def see(self, piece: Any) -> None:
        """Take in a piece: messages, or a result."""
        metadata = getattr(piece, "metadata", None) or {}
        if isinstance(error := metadata.get("exception"), BaseException):
            self._error = error
        else:
            self._texts.append("".join(map(str, piece)) if isinstance(piece, list) else str(piece))

    def finish(self) -> None:
        """Tell what came."""
        self._step.answer("".join(self._texts))
        if self._error is not None:
            self._step.end(self._error)


def begin_agent(agent: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Observed | None:
    """An agent runs; a method of it that calls another one is the same run."""
    around = context.current.get()
    name = str(agent.name)
    if getattr(around, "kind", None) is SpanKind.AGENT and getattr(around, "name", None) == name:
        return None
    attributes = {
        semconv.OPERATION_NAME: "invoke_agent",
        semconv.AGENT_NAME: name,
        semconv.AGENT_ID: agent.id,
    }
    messages = argument(args, kwargs, 0, "messages")
    content = msgspec.UNSET if messages is None else _said(messages)
    return begin(SpanKind.AGENT, name, content, framework=NAME, attributes=attributes)


def tell_agent(step: Observed, response: Any) -> None:
    """An agent answered."""
    step.answer(str(response))


class Said:
    """What came piece by piece, as text."""

    def __init__(self, step: Observed) -> None:
        self._step = step
        self._texts: list[str] = []

    def see(self, piece: Any) -> None:
        """Take in a message, or a piece of it."""
        self._texts.append(str(piece))

    def finish(self) -> None:
        """Tell what came."""
        self._step.answer("".join(self._texts))


def begin_group_chat(chat: Any, _args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Observed | None:
    """Several agents talk, recorded where nothing else is around them."""
    if context.current.get() is not None:
        return None
    return begin(SpanKind.CHAIN, type(chat).__name__, framework=NAME)


def _arguments(arguments: Any) -> Any:
    if not isinstance(arguments, str):
        return arguments if arguments is not None else {}
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


def _said(messages: Any) -> Any:
    return [str(message) for message in messages] if isinstance(messages, list) else str(messages)
