"""LangChain and LangGraph: model calls, tools, retrievers and embeddings.

A callback handler that LangChain adds to every run by itself, by its configure hook. Chains and graph nodes
are followed to find the parent of a call; one that begins outside of any span is recorded, so that one
request is one trace. Methods are wrapped where the callbacks cannot make a span current without leaking it to
the caller, and where they do not tell of an end.
"""

import functools
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any, Final

from langchain_core.language_models import BaseChatModel, BaseLLM
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableSequence
from langchain_core.tools import BaseTool
from langchain_core.tracers import context as tracer_context

from millstream import context
from millstream.record.integrations.calls import Patches, wrap
from millstream.record.integrations.langchain import embeddings
from millstream.record.integrations.langchain.handler import Handler
from millstream.record.integrations.methods import Methods
from millstream.record.integrations.on_import import forget, when_imported
from millstream.span import SpanKind

_WRAPPED: Final[tuple[tuple[Any, SpanKind, tuple[str, ...]], ...]] = (
    (BaseChatModel, SpanKind.LLM, ("generate", "agenerate", "stream", "astream")),
    (BaseLLM, SpanKind.LLM, ("generate", "agenerate", "stream", "astream")),
    (BaseTool, SpanKind.TOOL, ("run", "arun")),
    (BaseRetriever, SpanKind.RETRIEVER, ("invoke", "ainvoke")),
    (RunnableSequence, SpanKind.CHAIN, ("invoke", "ainvoke")),
    (
        Runnable,
        SpanKind.CHAIN,
        (
            "_call_with_config",
            "_acall_with_config",
            "_transform_stream_with_config",
            "_atransform_stream_with_config",
        ),
    ),
)
_GRAPH: Final = ("stream", "astream")  # `invoke` reads the stream
_REQUESTING: Final = (
    (BaseChatModel, "_generate_with_cache"),
    (BaseChatModel, "_agenerate_with_cache"),
    (BaseChatModel, "_iter_v2_events"),
    (BaseChatModel, "_aiter_v2_events"),
    (BaseLLM, "_generate_helper"),
    (BaseLLM, "_agenerate_helper"),
)
"""Where a client library is called; the model call's run manager is an argument."""
_RUN_MANAGER: Final = 3
"""Its place among the arguments where it has no name."""

_hooks: Final[list[Any]] = []
"""Our entry in LangChain's list of hooks, while installed."""
_handler: Final = Handler()
"""One for the process: a run keeps the handlers that it began with, and LangChain adds each object once."""
_variable: Final[ContextVar[Any]] = ContextVar("millstream_langchain", default=_handler)
"""A default is seen in every thread and task; a value that is set would not be."""
_libraries: Final[list[Any]] = []
"""Integrations of client libraries that we use."""
_patches: Final = Patches()
_methods: Final = Methods()


def install() -> None:
    """Add the handler to every LangChain run of this process, in every thread."""
    if _hooks:
        return
    tracer_context.register_configure_hook(_variable, inheritable=True)
    _hooks.append(tracer_context._configure_hooks[-1])  # noqa: SLF001  # there is no public way back
    _wrap_methods(_WRAPPED)
    inside = functools.partial(wrap, kind=SpanKind.LLM, end_run=_handler.runs.end, span_of=_span_of)
    for owner, name in _REQUESTING:
        _patches.put(owner, name, inside)
    embeddings.record(_methods)
    when_imported("langgraph.pregel", _wrap_graphs)
    when_imported("openai", _use_openai)


def uninstall() -> None:
    """Put LangChain back as it was; runs that have begun are recorded to their end."""
    forget(_wrap_graphs)
    forget(_use_openai)
    while _libraries:
        _libraries.pop().leave("langchain")
    for hook in _hooks:
        if hook in tracer_context._configure_hooks:  # noqa: SLF001
            tracer_context._configure_hooks.remove(hook)  # noqa: SLF001
    _hooks.clear()
    _methods.undo()
    _patches.undo()


def _wrap_methods(wrapped: Iterable[tuple[Any, SpanKind, tuple[str, ...]]]) -> None:
    for owner, kind, names in wrapped:
        replace = functools.partial(wrap, kind=kind, end_run=_handler.runs.end)
        for name in names:
            _patches.put(owner, name, replace)


def _wrap_graphs() -> None:
    from langgraph.pregel import Pregel  # noqa: PLC0415  # LangChain works without it

    _wrap_methods([(Pregel, SpanKind.CHAIN, _GRAPH)])


def _span_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> context.SpanContext | None:
    """The span of the model call that a method is part of; of several calls in one, the first."""
    manager = kwargs.get("run_manager") or kwargs.get("run_managers")
    if manager is None and len(args) > _RUN_MANAGER:
        manager = args[_RUN_MANAGER]
    if isinstance(manager, list):
        manager = manager[0] if manager else None
    step = None if manager is None else _handler.runs.step(manager.run_id)
    return None if step is None or step.inner else step.span


def _use_openai() -> None:
    """Have OpenAI's SDK tell the usage of embeddings, of which LangChain knows nothing."""
    from millstream.record.integrations import openai  # noqa: PLC0415  # needs the SDK

    openai.use("langchain")
    _libraries.append(openai)
