"""Tools that Pydantic AI runs: a span each run, whatever toolset the tool is from.

A call whose arguments are not valid runs no tool, nor does one that is left to somebody outside. Of the
output tools, by which a model gives a structured answer, only a function of the user's is a tool that runs.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any, Final

import msgspec
from pydantic_ai import exceptions

from millstream.record.integrations.methods import Begin, Methods, argument, started
from millstream.record.integrations.observed import Observed, quietly, tool_run
from millstream.record.integrations.pydantic_ai.messages import result_json
from millstream.record.integrations.pydantic_ai.runs import FRAMEWORK, inside

_LEFT: Final = (exceptions.CallDeferred, exceptions.ApprovalRequired)
"""Raised by a tool to leave its call to somebody else, or until it is approved."""
_TOLD: Final = tuple(
    kind for name in ("ToolRetryError", "ToolFailedError") if (kind := getattr(exceptions, name, None))
)
"""What the framework makes of a tool's `ModelRetry` and `ToolFailed`."""
_methods: Final = Methods()


def install() -> None:
    """Record the tools of every agent."""
    if manager := getattr(sys.modules.get("pydantic_ai.tool_manager"), "ToolManager", None):  # since 2
        _methods.put(manager, ["execute_tool_call"], functools.partial(_record, begin=_begin_tool))
        _methods.put(manager, ["execute_output_tool_call"], functools.partial(_record, begin=_begin_function))


def uninstall() -> None:
    """Put the methods back."""
    _methods.undo()


def _record(execute: Callable[..., Any], begin: Begin) -> Callable[..., Any]:
    begin = _methods.while_on(begin)

    @functools.wraps(execute)
    async def recording(self: Any, *args: Any, **kwargs: Any) -> Any:
        step = started(begin, self, args, kwargs)
        if step is None:
            return await execute(self, *args, **kwargs)
        failure: BaseException | None = None
        try:
            with step.inside():
                result = await execute(self, *args, **kwargs)
            _tell(step, result)
        except BaseException as error:
            failure = _cause(error)
            raise
        else:
            return result
        finally:
            step.end(failure)
            del self, failure  # the error's traceback holds this frame

    return recording


def _begin_tool(_manager: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Observed | None:
    validated = argument(args, kwargs, 0, "validated")
    tool = validated.tool
    if tool is None or not validated.args_valid or getattr(validated, "deferral", None) is not None:
        return None
    if tool.tool_def.kind in ("external", "output"):
        return None
    return _begin(validated)


def _begin_function(_manager: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Observed | None:
    validated = argument(args, kwargs, 0, "validated")
    processor = validated.tool.toolset.processors.get(validated.call.tool_name)
    partial = getattr(validated.ctx, "partial_output", False)
    if partial or getattr(processor, "_function_schema", None) is None:
        return None
    return _begin(validated)


def _begin(validated: Any) -> Observed:
    call = validated.call
    arguments = msgspec.UNSET if validated.validated_args is None else validated.validated_args
    with inside(validated.ctx.run_id):
        return tool_run(
            call.tool_name,
            arguments,
            framework=FRAMEWORK,
            call_id=call.tool_call_id,
            description=validated.tool.tool_def.description,
        )


@quietly
def _tell(step: Observed, result: Any) -> None:
    step.answer(result_json(result))


def _cause(error: BaseException) -> BaseException | None:
    """What the tool raised; nothing where it left the call to somebody else."""
    if isinstance(error, _LEFT):
        return None
    return error.__cause__ or error if isinstance(error, _TOLD) else error
