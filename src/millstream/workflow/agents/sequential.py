"""`sequential_executor`: functions one after another, each given what the one before it gave."""

from collections.abc import AsyncGenerator
from typing import Annotated, Any

from pydantic import AliasChoices, Field

from millstream.errors import InputError
from millstream.workflow.builder import Builder
from millstream.workflow.components import FunctionBaseConfig, FunctionInfo, FunctionRef
from millstream.workflow.registry import register_function


class SequentialExecutorConfig(FunctionBaseConfig, name="sequential_executor"):
    """The keys of `sequential_executor`.

    Attributes:
        tool_names: keys under `functions`, in their order; `tool_list` is the same.
        description: what it does, for the models that use it as a tool.
    """

    tool_names: Annotated[
        list[FunctionRef], Field(min_length=1, validation_alias=AliasChoices("tool_names", "tool_list"))
    ]
    description: str | None = None


@register_function(config_type=SequentialExecutorConfig)
async def sequential_executor(
    config: SequentialExecutorConfig, builder: Builder
) -> AsyncGenerator[FunctionInfo, None]:
    """Calls functions one after another; the answer is what the last one gives."""
    steps = [await builder.get_function(name) for name in config.tool_names]

    async def run(message: Any) -> Any:
        value = message
        for number, step in enumerate(steps, 1):
            try:
                args, kwargs = step.checked_arguments_of(value)
            except InputError as error:
                from_where = f"what {steps[number - 2].name} gave" if number > 1 else "the input"
                raise InputError(
                    f"step {number} of {len(steps)} ({step.name}) cannot take {from_where}: {error}"
                ) from error
            value = await step(*args, **kwargs)
        return value

    yield FunctionInfo.from_fn(
        run, description=config.description or f"Does {', then '.join(config.tool_names)}."
    )
