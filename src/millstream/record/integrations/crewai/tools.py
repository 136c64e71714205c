"""Tools: run by an agent that calls functions, by one that writes its calls as text, or by the program."""

import functools
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, Final

import msgspec
from crewai.utilities.string_utils import sanitize_tool_name

from millstream import semconv
from millstream.record import recorder
from millstream.record.integrations.crewai.wrapping import NAME, as_step
from millstream.record.integrations.observed import Observed, quietly, tool_run

"""Whether a tool was not run, because its result for these arguments was known."""
_requested: Final[ContextVar[list[str] | None]] = ContextVar("millstream_crewai_requested", default=None)
"""The id that the model gave its call, until the tool takes it."""


class ToolFailure(Exception):  # noqa: N818  # CrewAI's own name for what it reports
    """A tool that ran and said that it has failed."""


def tool_run_method(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps `run` and `arun` of a tool."""
    return as_step(original, _start_run, _tell)


def _start_run(tool: Any, arguments: Mapping[str, Any]) -> Observed:
    given = arguments.get("args", ())
    names = getattr(tool.args_schema, "model_fields", None) or () if given else ()
    by_name = {**dict(zip(names, given, strict=False)), **arguments.get("kwargs", {})}
    return _start(tool, by_name or list(given) or {})


def tool_invocation(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps `invoke` of a tool whose calls an agent reads from text."""
    return as_step(original, lambda tool, arguments: _start(tool, arguments["input"]), _tell)


def _start(tool: Any, arguments: Any) -> Observed:
    pending = _requested.get()
    call_id = pending.pop() if pending else None
    original = getattr(tool, "_original_tool", None) or tool
    return tool_run(
        _name(original), arguments, framework=NAME, call_id=call_id, description=_description(original)
    )


def _name(tool: Any) -> str:
    """The name that the model knows; that on its server, where they have nothing in common."""
    name: str = sanitize_tool_name(tool.name)
    served = getattr(tool, "original_tool_name", None)
    return served if served and not name.endswith(served) else name


def _description(tool: Any) -> str | None:
    """What the tool says of itself; CrewAI puts its name and arguments before."""
    return str(tool.description).rpartition("Tool Description: ")[2] or None


def _tell(step: Observed, result: Any) -> None:
    step.answer(result)
    if type(result).__name__ == "ToolFailure":
        active = recorder.get()
        told = active is not None and active.capture_content
        step.end(ToolFailure(result.message if told else ""))


def requested_tool(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps where an agent runs a tool that the model asked for: there its call's id is known."""

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        call = kwargs if "call_id" in kwargs else kwargs.get("tool_call", args[-1] if args else None)
        token = _requested.set(_id_of(call))
        try:
            result = original(*args, **kwargs)
        finally:
            _requested.reset(token)
        quietly(_tell_cached)(result)
        return result

    return wrapper


def _id_of(call: Any) -> list[str]:
    if isinstance(call, Mapping):
        found = call.get("call_id") or call.get("id") or call.get("toolUseId")
    else:
        found = getattr(call, "id", None)
    return [found] if isinstance(found, str) else []


def _tell_cached(result: Any) -> None:
    told = result if isinstance(result, Mapping) else vars(result)
    if told.get("from_cache"):
        _cached(told["func_name"], told.get("tool_args", msgspec.UNSET), told["result"], told.get("call_id"))


def used_tool(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps `ToolUsage.on_tool_use_finished`, which says whether the result was known."""

    @functools.wraps(original)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("from_cache"):
            quietly(_tell_known)(kwargs)
        return original(self, *args, **kwargs)

    return wrapper


def _tell_known(told: Mapping[str, Any]) -> None:
    calling = told["tool_calling"]
    _cached(sanitize_tool_name(calling.tool_name), calling.arguments, told.get("result"), None)


def _cached(name: str, arguments: Any, result: Any, call_id: str | None) -> None:
    with tool_run(name, arguments, framework=NAME, call_id=call_id) as step:
        step.know({semconv.TOOL_FROM_CACHE: True})
        step.answer(result)
