"""`router_agent`: a model chooses exactly one of several functions, and that one answers."""

import re
from collections.abc import AsyncGenerator, Collection, Mapping
from typing import Annotated, Any

from pydantic import AliasChoices, Field

from millstream.errors import WorkflowError
from millstream.workflow.agents import as_messages
from millstream.workflow.answers import message_text
from millstream.workflow.builder import Builder
from millstream.workflow.components import (
    FunctionBaseConfig,
    FunctionInfo,
    FunctionRef,
    LLMFrameworkEnum,
    LLMRef,
)
from millstream.workflow.functions import Function
from millstream.workflow.registry import register_function

_FORMAT = """Choose which one of these shall answer the request:

{branches}

Do not answer the request yourself. Write the name of exactly one of them, and nothing else."""
_AGAIN = "That is none of them. Write exactly one of these names, and nothing else: {names}"
_SHOWN = 200


class RouterAgentConfig(FunctionBaseConfig, name="router_agent"):
    """The keys of `router_agent`.

    Attributes:
        llm_name: a key under `llms`.
        tool_names: keys under `functions` to choose from; `branches` is the same.
        system_prompt: what the model is told first, before the list of them.
        description: what it does, for the models that use it as a tool.
    """

    llm_name: LLMRef
    tool_names: Annotated[
        list[FunctionRef], Field(min_length=1, validation_alias=AliasChoices("tool_names", "branches"))
    ]
    system_prompt: str | None = None
    description: str | None = None


@register_function(config_type=RouterAgentConfig, framework_wrappers=[LLMFrameworkEnum.LANGCHAIN], agent=True)
async def router_agent(config: RouterAgentConfig, builder: Builder) -> AsyncGenerator[FunctionInfo, None]:
    """A model that hands the request on to the one function that it chooses."""
    llm = await builder.get_llm(config.llm_name)
    branches: dict[str, Function] = {name: await builder.get_function(name) for name in config.tool_names}
    system = {"role": "system", "content": _system_prompt(config, branches)}

    async def answer(message: str) -> Any:
        name = await _choice(llm, [system, *as_messages(message)], branches)
        return await branches[name].ainvoke(message)

    yield FunctionInfo.from_fn(
        answer, description=config.description or "Hands a request on to the function that fits it."
    )


async def _choice(llm: Any, messages: list[Any], names: Collection[str]) -> str:
    """The name that the model chooses; it is told once that its answer is none.

    Raises:
        WorkflowError: its second answer is none, either.
    """
    said = message_text(await llm.ainvoke(messages)) or ""
    chosen = chosen_name(said, names)
    if chosen is None:
        again = {"role": "user", "content": _AGAIN.format(names=", ".join(names))}
        said = (
            message_text(await llm.ainvoke([*messages, {"role": "assistant", "content": said}, again])) or ""
        )
        chosen = chosen_name(said, names)
    if chosen is None:
        raise WorkflowError(
            f"the router_agent's model chose {said[:_SHOWN]!r}, which is not exactly one of"
            f" {', '.join(names)}; describe them better, or use a larger model"
        )
    return chosen


def chosen_name(text: str, names: Collection[str]) -> str | None:
    """The one name that a text is, or that is in it as a word; `None` where there is none, or several.

    Case makes no difference, unless two names differ in nothing else.
    """
    bare = text.strip().strip("*_`'\"[]().: \n")
    if bare in names:
        return bare
    found = [
        name
        for name in names
        if re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-]|\.\w)", text, re.IGNORECASE)
    ]
    return found[0] if len(found) == 1 else None


def _system_prompt(config: RouterAgentConfig, branches: Mapping[str, Function]) -> str:
    lines = [f"{name}: {branch.description or name}" for name, branch in branches.items()]
    text = _FORMAT.format(branches="\n".join(lines))
    return f"{config.system_prompt}\n\n{text}" if config.system_prompt else text
