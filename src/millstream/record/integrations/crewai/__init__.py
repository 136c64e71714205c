"""CrewAI: crews, flows, tasks, agents, model calls and tools.

Its event bus runs what listens in threads of its own, after the fact, so that no span can be open there while
the work is done. The methods in which the work is done are wrapped instead, on the thread that does it; of
the bus only `emit` is looked at, which is called there, too. CrewAI's own telemetry is left as it is.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any, Final

from millstream.record.integrations.calls import Patches
from millstream.record.integrations.crewai.models import (
    emission,
    model_method,
    openai_usage,
    outside,
)
from millstream.record.integrations.crewai.runs import (
    agent_kickoff,
    agent_task,
    crew_run,
    flow_run,
    lite_agent_run,
    task_run,
)
from millstream.record.integrations.crewai.tools import (
    requested_tool,
    tool_invocation,
    tool_run_method,
    used_tool,
)
from millstream.record.integrations.families import Family
from millstream.record.integrations.on_import import forget, when_imported

_patches: Final = Patches()
_WRAPPED: Final[tuple[tuple[str, str, str, Callable[[Any], Any]], ...]] = (
    ("crew", "Crew", "kickoff", crew_run),
    ("crew", "Crew", "akickoff", crew_run),
    ("crew", "Crew", "replay", crew_run),
    ("flow.runtime", "Flow", "kickoff_async", flow_run),
    ("flow.runtime", "Flow", "resume_async", flow_run),
    ("task", "Task", "_execute_core", task_run),
    ("task", "Task", "_aexecute_core", task_run),
    ("agent.core", "Agent", "execute_task", agent_task),
    ("agent.core", "Agent", "aexecute_task", agent_task),
    ("agent.core", "Agent", "kickoff", agent_kickoff),
    ("agent.core", "Agent", "kickoff_async", agent_kickoff),
    ("lite_agent", "LiteAgent", "kickoff", lite_agent_run),
    ("tools.base_tool", "BaseTool", "run", tool_run_method),
    ("tools.base_tool", "BaseTool", "arun", tool_run_method),
    ("tools.base_tool", "Tool", "run", tool_run_method),
    ("tools.base_tool", "Tool", "arun", tool_run_method),
    ("tools.structured_tool", "CrewStructuredTool", "invoke", tool_invocation),
    ("tools.structured_tool", "CrewStructuredTool", "ainvoke", tool_invocation),
    ("tools.tool_usage", "ToolUsage", "on_tool_use_finished", used_tool),
    ("agents.agent_executor", "AgentExecutor", "_execute_single_native_tool_call", requested_tool),
    ("experimental.agent_executor", "AgentExecutor", "_execute_single_native_tool_call", requested_tool),
    ("agents.crew_agent_executor", "CrewAgentExecutor", "_execute_single_native_tool_call", requested_tool),
    ("agents.step_executor", "", "execute_single_native_tool_call", requested_tool),
    ("llms.providers.openai.completion", "OpenAICompletion", "_extract_openai_token_usage", openai_usage),
    ("llms.providers.openai.completion", "OpenAICompletion", "_extract_responses_token_usage", openai_usage),
    ("events.event_bus", "CrewAIEventsBus", "emit", emission),
    ("events.event_bus", "CrewAIEventsBus", "_ensure_executor_initialized", outside),
)
"""Module, class (none: a function of the module) and method."""
_MODELS: Final = "llms.base_llm"
_families: Final[list[Family]] = []
"""The classes of models: native providers, imported when they are first used, and the user's own."""


def _wrap(module: str) -> None:
    loaded = sys.modules[f"crewai.{module}"]
    for inside, name, method, replace in _WRAPPED:
        owner = getattr(loaded, name, None) if name else loaded
        if inside == module and owner is not None:
            _patches.put(owner, method, replace)
    if module == _MODELS:
        _families.append(Family(loaded.BaseLLM, {"call": model_method, "acall": model_method}))
        _families[-1].put()


_actions: Final = {
    f"crewai.{module}": functools.partial(_wrap, module)
    for module in dict.fromkeys((_MODELS, *(module for module, *_ in _WRAPPED)))
}


def install() -> None:
    """Record CrewAI's calls, in each of its modules that is or will be imported."""
    for module, action in _actions.items():
        when_imported(module, action)


def uninstall() -> None:
    """Put CrewAI back as it was; runs that have begun are recorded to their end."""
    for action in _actions.values():
        forget(action)
    _patches.undo()
    while _families:
        _families.pop().undo()
