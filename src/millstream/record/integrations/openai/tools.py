"""The SDK's own loop over tools, `openai.lib.responses_tool_runner`: the functions that it runs."""

import functools
import json
from collections.abc import Callable
from typing import Any, Final

from millstream.record.integrations.calls import Patches
from millstream.record.integrations.observed import Observed, quietly, tool_run
from millstream.record.integrations.openai.answers import read

_patches: Final = Patches()


def install() -> None:
    """Record the functions that runners run; called when their module has been imported."""
    from openai.lib import responses_tool_runner as runner  # noqa: PLC0415  # few programs use it

    _patches.put(getattr(runner, "ResponsesToolRunner", None), "_execute_function", _recording)
    _patches.put(getattr(runner, "AsyncResponsesToolRunner", None), "_execute_function", _recording_async)


def uninstall() -> None:
    """Put the runners back as they were."""
    _patches.undo()


def _recording(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def execute(runner: Any, run: Any, item: Any, *args: Any, **kwargs: Any) -> Any:
        with _begin(item) as step:
            output = method(runner, run, item, *args, **kwargs)
            _tell(step, output)
            return output

    return execute


def _recording_async(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    async def execute(runner: Any, run: Any, item: Any, *args: Any, **kwargs: Any) -> Any:
        with _begin(item) as step:
            output = await method(runner, run, item, *args, **kwargs)
            _tell(step, output)
            return output

    return execute


def _begin(item: Any) -> Observed:
    return tool_run(
        str(read(item, "name")),
        arguments_json(read(item, "arguments")),
        framework="openai",
        call_id=read(item, "call_id"),
    )


@quietly
def _tell(step: Observed, output: Any) -> None:
    step.answer(read(output, "output"))


def arguments_json(text: Any) -> Any:
    """The arguments of a call as an object; as they are where they are no JSON."""
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        return text
