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
    agent_run,
    embeddings,
    request,
    stream_prepared,
    stream_stored,
    tool_invocation,
    workflow_run,
)
from millstream.record.integrations.calls import Patches
from millstream.record.integrations.families import Family
from millstream.record.integrations.on_import import forget, when_imported

_patches: Final = Patches()
_WRAPPED: Final[tuple[tuple[str, str, str, Callable[[Any], Any]], ...]] = (
    ("observability", "EmbeddingTelemetryLayer", "get_embeddings", embeddings),
    ("observability", "AgentTelemetryLayer", "run", agent_run),
    ("_middleware", "AgentMiddlewareLayer", "run", agent_run),
    ("_agents", "RawAgent", "_parse_streaming_response", stream_prepared),
    ("_agents", "BaseAgent", "_run_after_providers", stream_stored),
    ("_tools", "FunctionTool", "invoke", tool_invocation),
    ("_workflows._workflow", "Workflow", "run", workflow_run),
    ("_workflows._functional", "FunctionalWorkflow", "run", workflow_run),
)
"""Module, class and method."""
_BELOW: Final[tuple[tuple[str, str, str, Callable[[Any], Any]], ...]] = (
    ("_clients", "BaseChatClient", "_inner_get_response", request),
    ("_agents", "BaseAgent", "run", agent_run),
)
"""The same, of all that inherit from the class: a run passes through several of them and is one step."""
_families: Final[list[Family]] = []


def _wrap(module: str) -> None:
    loaded = sys.modules[f"agent_framework.{module}"]
    for inside, owner, method, replace in _WRAPPED:
        if inside == module and (found := getattr(loaded, owner, None)) is not None:
            _patches.put(found, method, replace)
    for inside, owner, method, replace in _BELOW:
        if inside == module and (found := getattr(loaded, owner, None)) is not None:
            _families.append(Family(found, {method: replace}))
            _families[-1].put()


_actions: Final = {
    f"agent_framework.{module}": functools.partial(_wrap, module)
    for module in dict.fromkeys(module for module, *_ in (*_WRAPPED, *_BELOW))
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
    while _families:
        _families.pop().undo()
