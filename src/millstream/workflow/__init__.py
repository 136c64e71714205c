"""From a YAML file to a running workflow: configuration, registered components, models, agents, runs."""

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
