"""Function tools, those of MCP servers among them: the span is current in the tool's body."""

import functools
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final

import agents.tool

from millstream.record.integrations.observed import Observed, tool_run
from millstream.record.integrations.openai.answers import read
from millstream.record.integrations.openai.tools import arguments_json
from millstream.record.integrations.openai_agents.runs import FRAMEWORK

FAILURES: Final[Any] = agents.tool
"""Where the SDK makes answers out of the exceptions of tools."""


class _ToolRun:
    """A tool that runs, and what its body raised."""

    __slots__ = ("error", "step")

    def __init__(self, step: Observed) -> None:
        self.step = step
        self.error: BaseException | None = None


_current: Final[ContextVar[_ToolRun | None]] = ContextVar("millstream_openai_agents_tool", default=None)


def recording(is_on: Callable[[], bool]) -> Callable[[Any], Any]:
    """Record the runs of function tools, once they have been approved."""

    def replace(method: Any) -> Any:
        @functools.wraps(method)
        async def invoke(executor: Any, *args: Any, **kwargs: Any) -> Any:
            if not is_on():
                return await method(executor, *args, **kwargs)
            run = _ToolRun(_begin(kwargs))
            token = _current.set(run)
            try:
                with run.step.inside():
                    output = await method(executor, *args, **kwargs)
            except BaseException as error:
                run.step.end(run.error or error)
                raise
            finally:
                _current.reset(token)
            run.step.answer(output)
            run.step.end(run.error)
            return output

        return invoke

    return replace


def _begin(kwargs: dict[str, Any]) -> Observed:
    tool, call = kwargs.get("func_tool"), kwargs.get("tool_call")
    return tool_run(
        str(read(tool, "name")),
        arguments_json(read(call, "arguments")),
        framework=FRAMEWORK,
        call_id=read(call, "call_id"),
        description=read(tool, "description") or None,
    )


def noting_failure(method: Any) -> Any:
    """What a tool's body raised, before it becomes an answer to the model."""

    @functools.wraps(method)
    async def noted(*args: Any, **kwargs: Any) -> Any:
        if (run := _current.get()) is not None:
            run.error = kwargs.get("error")
        return await method(*args, **kwargs)

    return noted
