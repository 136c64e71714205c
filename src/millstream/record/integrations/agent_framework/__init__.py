"""Microsoft Agent Framework: agents, workflows, model calls, tools and embeddings.

Its own telemetry is left as it is, on or off. Its middleware is no place to record from: it belongs to one
client or agent, does not see the request as it is sent, and may answer a call that is then never made. So the
methods in which the work is done are wrapped, each when its module is imported.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any, Final

from millstream.record.integrations.agent_framework.hooks import (
    agent_made,
    agent_run,
    embeddings,
    get_response,
    stream_prepared,
    stream_stored,
    tool_invocation,
    workflow_run,
)
from millstream.record.integrations.calls import Patches
from millstream.record.integrations.on_import import forget, when_imported

_patches: Final = Patches()
_WRAPPED: Final[tuple[tuple[str, str, str, Callable[[Any], Any]], ...]] = (
    ("_clients", "BaseChatClient", "get_response", functools.partial(get_response, patches=_patches)),
    ("observability", "EmbeddingTelemetryLayer", "get_embeddings", embeddings),
    ("observability", "AgentTelemetryLayer", "run", agent_run),
    ("_middleware", "AgentMiddlewareLayer", "run", agent_run),
    ("_agents", "RawAgent", "run", agent_run),
    ("_agents", "BaseAgent", "__init__", functools.partial(agent_made, patches=_patches)),
    ("_agents", "RawAgent", "_parse_streaming_response", stream_prepared),
    ("_agents", "BaseAgent", "_run_after_providers", stream_stored),
    ("_tools", "FunctionTool", "invoke", tool_invocation),
    ("_workflows._workflow", "Workflow", "run", workflow_run),
    ("_workflows._functional", "FunctionalWorkflow", "run", workflow_run),
    ("_workflows._agent", "WorkflowAgent", "run", agent_run),
    ("_workflows._functional", "FunctionalWorkflowAgent", "run", agent_run),
)
"""Module, class and method; an agent's run passes through several of them and is one step."""


def _wrap(module: str) -> None:
    loaded = sys.modules[f"agent_framework.{module}"]
    for inside, owner, method, replace in _WRAPPED:
        if inside == module and (found := getattr(loaded, owner, None)) is not None:
            _patches.put(found, method, replace)


_actions: Final = {
    f"agent_framework.{module}": functools.partial(_wrap, module)
    for module in dict.fromkeys(module for module, *_ in _WRAPPED)
}


def install() -> None:
    """Record the framework's calls, in each of its modules that is or will be imported."""
    for module, action in _actions.items():
        when_imported(module, action)


def uninstall() -> None:
    """Put the framework back as it was; runs that have begun are recorded to their end."""
    for action in _actions.values():
        forget(action)
    _patches.undo()
