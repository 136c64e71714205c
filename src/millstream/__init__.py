"""millstream: observability, profiling and the data flywheel for LLM workflows.

    import millstream

    millstream.instrument()          # record the frameworks that are installed

    @millstream.track_function       # and your own functions
    def answer(question): ...

What is recorded lies in `.millstream`; `millstream profile .millstream` says where the time and tokens went.
Names are loaded when first used, so that `import millstream` costs almost nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from millstream.context import extract, inject, inject_environment
    from millstream.deliver.delivery import deliver_to, flush
    from millstream.errors import MillstreamError
    from millstream.profiler import profile
    from millstream.record import (
        IntermediateStep,
        Redaction,
        Sampling,
        current_span,
        instrument,
        recording,
        start_span,
        stats,
        subscribe,
        track_function,
        track_unregistered_function,
        uninstrument,
    )
    from millstream.record.observability import ObservabilityContext
    from millstream.record.opentelemetry import OTelSpanProcessor
    from millstream.record.processors.cross_workflow import CrossWorkflowProcessor
    from millstream.record.processors.workflow_relationship import WorkflowRelationshipProcessor
    from millstream.span import Span, SpanKind, Status, Usage
    from millstream.store import open_store
    from millstream.workflow import (
        Builder,
        FunctionBaseConfig,
        FunctionInfo,
        LLMFrameworkEnum,
        register_function,
    )
    from millstream.workflow.invoker import ObservabilityWorkflowInvoker

__version__: Final = "0.1.0"

_HOMES: Final = {
    "Builder": "millstream.workflow",
    "CrossWorkflowProcessor": "millstream.record.processors.cross_workflow",
    "FunctionBaseConfig": "millstream.workflow",
    "FunctionInfo": "millstream.workflow",
    "IntermediateStep": "millstream.record",
    "LLMFrameworkEnum": "millstream.workflow",
    "MillstreamError": "millstream.errors",
    "OTelSpanProcessor": "millstream.record.opentelemetry",
    "ObservabilityContext": "millstream.record.observability",
    "ObservabilityWorkflowInvoker": "millstream.workflow.invoker",
    "Redaction": "millstream.record",
    "Sampling": "millstream.record",
    "Span": "millstream.span",
    "SpanKind": "millstream.span",
    "Status": "millstream.span",
    "Usage": "millstream.span",
    "WorkflowRelationshipProcessor": "millstream.record.processors.workflow_relationship",
    "current_span": "millstream.record",
    "deliver_to": "millstream.deliver.delivery",
    "extract": "millstream.context",
    "flush": "millstream.deliver.delivery",
    "inject": "millstream.context",
    "inject_environment": "millstream.context",
    "instrument": "millstream.record",
    "open_store": "millstream.store",
    "profile": "millstream.profiler",
    "recording": "millstream.record",
    "register_function": "millstream.workflow",
    "start_span": "millstream.record",
    "stats": "millstream.record",
    "subscribe": "millstream.record",
    "track_function": "millstream.record",
    "track_unregistered_function": "millstream.record",
    "uninstrument": "millstream.record",
}

__all__ = [  # kept beside the table above by a test
    "Builder",
    "CrossWorkflowProcessor",
    "FunctionBaseConfig",
    "FunctionInfo",
    "IntermediateStep",
    "LLMFrameworkEnum",
    "MillstreamError",
    "OTelSpanProcessor",
    "ObservabilityContext",
    "ObservabilityWorkflowInvoker",
    "Redaction",
    "Sampling",
    "Span",
    "SpanKind",
    "Status",
    "Usage",
    "WorkflowRelationshipProcessor",
    "__version__",
    "current_span",
    "deliver_to",
    "extract",
    "flush",
    "inject",
    "inject_environment",
    "instrument",
    "open_store",
    "profile",
    "recording",
    "register_function",
    "start_span",
    "stats",
    "subscribe",
    "track_function",
    "track_unregistered_function",
    "uninstrument",
]


def __getattr__(name: str) -> Any:
    if home := _HOMES.get(name):
        module = import_module(home)
        # All its names at once: when the interpreter shuts down none can be imported any more.
        also = {other for other, at in _HOMES.items() if at == home and other in vars(module)}
        globals().update({other: getattr(module, other) for other in also | {name}})
        return globals()[name]
    raise AttributeError(f"module 'millstream' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
