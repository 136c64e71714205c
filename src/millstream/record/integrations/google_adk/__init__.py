"""Google's Agent Development Kit: runs, agents, model calls, tools.

Its plugins and callbacks do not reach what happens between the pieces of a stream, so the methods are wrapped
that every runner, agent, model and tool has. ADK is loaded piece by piece, and so are these hooks.
"""

import sys
from typing import Any, Final

from millstream.record.integrations.google_adk import calls, runs, streams
from millstream.record.integrations.on_import import forget, when_imported


def install() -> None:
    """Record ADK in this process, each part of it from its import on."""
    for module, hook in _HOOKS.items():
        when_imported(module, hook)


def uninstall() -> None:
    """Put ADK back as it was; what has begun is recorded to its end."""
    for hook in _HOOKS.values():
        forget(hook)
    streams.methods.undo()


def _known(module: str, name: str) -> Any:
    return getattr(sys.modules[module], name, type("Absent", (), {}))


def _hook_runners() -> None:
    runner = _known("google.adk.runners", "Runner")
    streams.methods.put(runner, ["run_async"], streams.recorded(runs.begin_run, runs.LastWord))


def _hook_agents() -> None:
    agent = _known("google.adk.agents.base_agent", "BaseAgent")
    streams.methods.put(agent, ["run_async"], streams.recorded(runs.begin_agent, runs.LastWord))


def _hook_models() -> None:
    model = _known("google.adk.models.base_llm", "BaseLlm")
    record = streams.recorded(calls.begin_model, calls.ModelAnswer)
    streams.methods.put(model, ["generate_content_async"], record, below=True)


def _hook_litellm() -> None:
    client = _known("google.adk.models.lite_llm", "LiteLLMClient")
    streams.methods.put(client, ["acompletion"], calls.note_response_id)


def _hook_tools() -> None:
    tool = _known("google.adk.tools.base_tool", "BaseTool")
    streams.methods.calls(
        tool, ["run_async"], calls.begin_tool, calls.tell_tool, pauses=streams.PAUSES, below=True
    )


_HOOKS: Final = {
    "google.adk.runners": _hook_runners,
    "google.adk.agents.base_agent": _hook_agents,
    "google.adk.models.base_llm": _hook_models,
    "google.adk.models.lite_llm": _hook_litellm,
    "google.adk.tools.base_tool": _hook_tools,
}
"""What is to be done once a module of ADK has been imported."""
