"""Agents: components in which a model chooses among tools. They are registered like anyone's."""

from typing import Annotated, Any

from pydantic import Field

from millstream.errors import ConfigError, StepLimitError
from millstream.workflow.answers import answer_text
from millstream.workflow.components import FunctionBaseConfig, FunctionRef, LLMRef


class AgentConfig(FunctionBaseConfig):
    """The keys that agents share.

    Attributes:
        llm_name: a key under `llms`.
        tool_names: keys under `functions`.
        max_iterations: rounds of tool calls before the agent gives up with a `StepLimitError`.
        system_prompt: what the model is told first.
        description: what the agent does, for the models that use it as a tool.
        handle_tool_errors: tell the model about a tool that failed, instead of failing. A model server that
            fails inside a tool always fails the run.
    """

    llm_name: LLMRef
    tool_names: list[FunctionRef] = []
    max_iterations: Annotated[int, Field(ge=1)] = 15
    system_prompt: str | None = None
    description: str | None = None
    handle_tool_errors: bool = True


def as_messages(value: Any) -> list[Any]:
    """What an agent was given, as chat messages: a text is a user's; a list of messages is taken as it is."""
    if isinstance(value, dict) and isinstance(value.get("messages"), list):
        value = value["messages"]
    if isinstance(value, list):
        if not value:
            raise ConfigError("an agent needs a text or a list of messages; the list is empty")
        return value
    return [{"role": "user", "content": answer_text(value)}]


def step_limit(kind: str, limit: int) -> StepLimitError:
    """The error of an agent that went round too often."""
    times = "once" if limit == 1 else f"{limit} times"
    return StepLimitError(
        f"the {kind} called tools {times} without an answer; raise max_iterations, or look in the record at"
        " what it repeats"
    )
