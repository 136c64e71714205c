"""From a YAML file to a running workflow: configuration, registered components, models, agents, runs.

The names load their modules when first used: others need only a small one of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from millstream.workflow.builder import Builder
    from millstream.workflow.components import (
        EmbedderRef,
        FunctionBaseConfig,
        FunctionGroup,
        FunctionInfo,
        FunctionRef,
        LLMFrameworkEnum,
        LLMRef,
    )
    from millstream.workflow.config import WorkflowConfig, load_config
    from millstream.workflow.registry import register_function
    from millstream.workflow.runner import Workflow, open_workflow

__all__ = [
    "Builder",
    "EmbedderRef",
    "FunctionBaseConfig",
    "FunctionGroup",
    "FunctionInfo",
    "FunctionRef",
    "LLMFrameworkEnum",
    "LLMRef",
    "Workflow",
    "WorkflowConfig",
    "load_config",
    "open_workflow",
    "register_function",
]

_HOMES = {
    "Builder": "millstream.workflow.builder",
    "EmbedderRef": "millstream.workflow.components",
    "FunctionBaseConfig": "millstream.workflow.components",
    "FunctionGroup": "millstream.workflow.components",
    "FunctionInfo": "millstream.workflow.components",
    "FunctionRef": "millstream.workflow.components",
    "LLMFrameworkEnum": "millstream.workflow.components",
    "LLMRef": "millstream.workflow.components",
    "Workflow": "millstream.workflow.runner",
    "WorkflowConfig": "millstream.workflow.config",
    "load_config": "millstream.workflow.config",
    "open_workflow": "millstream.workflow.runner",
    "register_function": "millstream.workflow.registry",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
