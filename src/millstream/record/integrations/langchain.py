"""LangChain and LangGraph: model calls, tools and retrievers.

A callback handler that LangChain adds to every run by itself, by its configure hook. It runs inline, so the
body of a tool or a retriever sees its span as the current one. Chains and graph nodes are followed to find
the parent of a call; one that begins outside of any span is recorded, so that one request is one trace.
"""

import asyncio
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, ParamSpec
from uuid import UUID

import msgspec
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel, BaseLLM
from langchain_core.messages import BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableSequence
from langchain_core.tools import BaseTool, ToolException
from langchain_core.tracers import context as tracer_context

from millstream import context, semconv
from millstream.record import faults, recorder
from millstream.record.integrations.calls import Patches, current_call, wrap
from millstream.record.integrations.langchain_messages import describe_answer, message_json, messages_json
from millstream.record.integrations.observed import PARAMETERS
from millstream.record.integrations.on_import import forget, when_imported
from millstream.record.live import LiveSpan, leave, open_span
from millstream.span import SpanKind, Status

_P = ParamSpec("_P")

_WRAPPED: Final[tuple[tuple[Any, SpanKind, tuple[str, ...]], ...]] = (
    (BaseChatModel, SpanKind.LLM, ("agenerate",)),
    (BaseLLM, SpanKind.LLM, ("agenerate",)),
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
_CANCELLATIONS: Final = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt)
_MAX_PLAIN_BYTES: Final = 10_000


_hooks: Final[list[Any]] = []
"""Our entry in LangChain's list of hooks, while installed."""


def install() -> None:
    """Add the handler to every LangChain run of this process, in every thread."""
    if not _hooks:
        tracer_context.register_configure_hook(_variable, inheritable=True)
        _hooks.append(tracer_context._configure_hooks[-1])  # noqa: SLF001  # there is no public way back
        _wrap_methods(_WRAPPED)
        when_imported("langgraph.pregel", _wrap_graphs)


def uninstall() -> None:
    """Put LangChain back as it was; runs that have begun are recorded to their end."""
    forget(_wrap_graphs)
    for hook in _hooks:
        if hook in tracer_context._configure_hooks:  # noqa: SLF001
            tracer_context._configure_hooks.remove(hook)  # noqa: SLF001
    _hooks.clear()
    _patches.undo()


def _wrap_methods(wrapped: Iterable[tuple[Any, SpanKind, tuple[str, ...]]]) -> None:
    for owner, kind, names in wrapped:
        replace = functools.partial(wrap, kind=kind, end_run=_handler.end_run)
        for name in names:
            _patches.put(owner, name, replace)


def _wrap_graphs() -> None:
    from langgraph.pregel import Pregel  # noqa: PLC0415  # LangChain works without it

    _wrap_methods([(Pregel, SpanKind.CHAIN, _GRAPH)])


class _Run:
    """A run that has begun: the span that it is in, which it may own."""

    __slots__ = ("children", "owned", "parent_run_id", "span")

    def __init__(
        self, span: context.SpanContext | None, owned: LiveSpan | None, parent_run_id: UUID | None
    ) -> None:
        self.span = span
        self.owned = owned
        self.parent_run_id = parent_run_id
        self.children: set[UUID] = set()


def _guarded(callback: Callable[_P, None]) -> Callable[_P, None]:
    """A callback whose own faults are counted; LangChain would only log them."""

    @functools.wraps(callback)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            callback(*args, **kwargs)
        except Exception as fault:  # noqa: BLE001  # telemetry never breaks the user's program
            faults.swallow(fault, "a LangChain callback could not be recorded")

    return wrapper


class _Handler(BaseCallbackHandler):
    """Turns LangChain's callbacks into spans. Keeps nothing of a run that has ended."""

    run_inline = True
    ignore_custom_event = True

    def __init__(self) -> None:
        self._runs: dict[UUID, _Run] = {}

    # Model calls

    @_guarded
    def on_chat_model_start(
        self,
        serialized: dict[str, Any] | None,
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """A chat model is called."""
        content = messages_json(messages)
        self._model_start(serialized, content, run_id, parent_run_id, metadata or {}, kwargs)

    @_guarded
    def on_llm_start(
        self,
        serialized: dict[str, Any],
        prompts: list[str],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """A text completion model is called."""
        content = [{"role": "user", "content": prompt} for prompt in prompts]
        self._model_start(serialized, content, run_id, parent_run_id, metadata or {}, kwargs)

    def _model_start(
        self,
        serialized: dict[str, Any] | None,
        messages: Any,
        run_id: UUID,
        parent_run_id: UUID | None,
        metadata: dict[str, Any],
        kwargs: dict[str, Any],
    ) -> None:
        parameters = kwargs.get("invocation_params") or {}
        model = parameters.get("model") or parameters.get("model_name") or metadata.get("ls_model_name")
        name = model or (serialized or {}).get("name") or kwargs.get("name") or "llm"
        span = self._open(str(name), SpanKind.LLM, messages, run_id, parent_run_id)
        if span is None:
            return
        span.set_attribute(semconv.OPERATION_NAME, "chat")
        if model:
            span.set_attribute(semconv.REQUEST_MODEL, str(model))
        if provider := metadata.get("ls_provider"):
            span.set_attribute(semconv.PROVIDER_NAME, provider)
        for key, attribute in PARAMETERS.items():
            if (value := parameters.get(key)) is not None:
                span.set_attribute(attribute, value)

    @_guarded
    def on_llm_new_token(self, token: Any, *, chunk: Any = None, run_id: UUID, **kwargs: Any) -> None:
        """A piece of a streamed answer came; pieces that carry nothing are not counted."""
        run = self._runs.get(run_id)
        if run is None or run.owned is None:
            return
        message = getattr(chunk, "message", None)
        if token or getattr(message, "content", None) or getattr(message, "tool_call_chunks", None):
            run.owned.add_chunk(token, new_token=True)

    @_guarded
    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """A model answered."""
        with self._ending(run_id) as span:
            if span is None:
                return
            generation = (
                response.generations[0][0] if response.generations and response.generations[0] else None
            )
            message = generation.message if isinstance(generation, ChatGeneration) else None
            describe_answer(span, message, response.llm_output or {})
            if message is not None:
                span.set_output(message_json(message))
            elif generation is not None:
                span.set_output({"role": "assistant", "content": generation.text})

    @_guarded
    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """A model call failed or was cancelled."""
        self.end_run(run_id, error)

    # Tools

    @_guarded
    def on_tool_start(
        self,
        serialized: dict[str, Any] | None,
        input_str: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        inputs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """A tool runs; what it calls becomes its children."""
        name = (serialized or {}).get("name") or kwargs.get("name") or "tool"
        span = self._open(name, SpanKind.TOOL, input_str if inputs is None else inputs, run_id, parent_run_id)
        if span is None:
            return
        span.__enter__()
        span.set_attribute(semconv.OPERATION_NAME, "execute_tool")
        span.set_attribute(semconv.TOOL_NAME, name)
        if call_id := kwargs.get("tool_call_id"):
            span.set_attribute(semconv.TOOL_CALL_ID, call_id)

    @_guarded
    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A tool returned; a `ToolMessage` of status error is a failure that the framework handled."""
        failure = None
        if isinstance(output, ToolMessage):
            output, failed = output.content, output.status == "error"
            if failed:
                failure = ToolException(str(output) if _content_is_captured(self._runs.get(run_id)) else "")
        with self._ending(run_id, failure) as span:
            if span is not None:
                span.set_output(output)

    @_guarded
    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """A tool raised."""
        self.end_run(run_id, error)

    # Retrievers

    @_guarded
    def on_retriever_start(
        self,
        serialized: dict[str, Any] | None,
        query: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """A retriever is asked."""
        name = kwargs.get("name") or (serialized or {}).get("name") or "retriever"
        if span := self._open(name, SpanKind.RETRIEVER, query, run_id, parent_run_id):
            span.__enter__()

    @_guarded
    def on_retriever_end(self, documents: Sequence[Document], *, run_id: UUID, **kwargs: Any) -> None:
        """A retriever answered."""
        with self._ending(run_id) as span:
            if span is not None:
                span.set_output(
                    [{"content": found.page_content, "metadata": found.metadata} for found in documents]
                )

    @_guarded
    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """A retriever failed."""
        self.end_run(run_id, error)

    # Chains and graph nodes: the outermost is recorded where nothing else is around it

    @_guarded
    def on_chain_start(
        self,
        serialized: dict[str, Any] | None,
        inputs: Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """A chain or a graph node begins."""
        span = self._parent(parent_run_id)
        call = current_call.get()
        restored = call is not None and call.kind is SpanKind.CHAIN and not call.runs
        if span is not None:
            self._begin(run_id, parent_run_id, span, None)
        else:
            name = kwargs.get("name") or (serialized or {}).get("name") or "chain"
            span = self._open(name, SpanKind.CHAIN, _plain(inputs), run_id, parent_run_id)
        if restored and span is not None and context.current.get() is None:
            context.current.set(span)

    @_guarded
    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A chain or a graph node is done."""
        with self._ending(run_id) as span:
            if span is not None and (plain := _plain(outputs)) is not msgspec.UNSET:
                span.set_output(plain)

    @_guarded
    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """A chain or a graph node failed, was cancelled, or its stream was left."""
        self.end_run(run_id, error)

    # The tree of runs

    def _parent(self, parent_run_id: UUID | None) -> context.SpanContext | None:
        """The current span; where a thread has none, the span that the parent run is in."""
        span = context.current.get()
        if span is None and parent_run_id is not None and (parent := self._runs.get(parent_run_id)):
            return parent.span
        return span

    def _open(
        self, name: str, kind: SpanKind, content: Any, run_id: UUID, parent_run_id: UUID | None
    ) -> LiveSpan | None:
        active = recorder.get()
        if active is None:
            return None
        span = open_span(active, str(name), kind, content, parent=self._parent(parent_run_id))
        self._begin(run_id, parent_run_id, span, span)
        span.set_attribute(semconv.FRAMEWORK, "langchain")
        return span

    def _begin(
        self,
        run_id: UUID,
        parent_run_id: UUID | None,
        span: context.SpanContext | None,
        owned: LiveSpan | None,
    ) -> None:
        self._runs[run_id] = _Run(span, owned, parent_run_id)
        if parent_run_id is not None and (parent := self._runs.get(parent_run_id)):
            parent.children.add(run_id)
        call = current_call.get()
        kind = SpanKind.CHAIN if owned is None else owned.kind
        if call is not None and call.kind is kind:
            call.runs.append(run_id)

    def _close(self, run_id: UUID) -> LiveSpan | None:
        """Forget a run that has ended and give its own span, if it has one, no longer current.

        Chains below it that were left without a word are forgotten, too; calls that go on end by themselves.
        """
        run = self._runs.pop(run_id, None)
        if run is None:
            return None
        if run.parent_run_id is not None and (parent := self._runs.get(run.parent_run_id)):
            parent.children.discard(run_id)
        for child in tuple(run.children):
            if (below := self._runs.get(child)) and below.owned is None:
                self._close(child)
        if run.owned is not None:
            leave(run.owned)
        return run.owned

    @contextmanager
    def _ending(self, run_id: UUID, error: BaseException | None = None) -> Iterator[LiveSpan | None]:
        """A block that describes how a run ended; its span ends, whatever happens in it."""
        span = self._close(run_id)
        try:
            yield span
        finally:
            if span is not None:
                span.end(error)

    @_guarded
    def end_run(self, run_id: UUID, error: BaseException) -> None:
        """End a run that an exception left; one that has ended stays as it is."""
        if isinstance(error, _CANCELLATIONS):
            self._cancel_below(run_id)
        if type(error) is asyncio.CancelledError:
            error = asyncio.CancelledError()  # its message is at best an object's address
        if span := self._close(run_id):
            span.end(error)

    def _cancel_below(self, run_id: UUID) -> None:
        """Who is cancelled cancels what runs below, of which LangChain does not always tell."""
        run = self._runs.get(run_id)
        for child in tuple(run.children) if run else ():
            self._cancel_below(child)
            if span := self._close(child):
                span.end(None, Status.CANCELLED)


_handler: Final = _Handler()
"""One for the process: a run keeps the handlers that it began with, and LangChain adds each object once."""
_variable: Final[ContextVar[Any]] = ContextVar("millstream_langchain", default=_handler)
"""A default is seen in every thread and task; a value that is set would not be."""
_patches: Final = Patches()


def _content_is_captured(run: _Run | None) -> bool:
    return run is not None and run.owned is not None and run.owned.recorder.capture_content


def _plain(value: Any) -> Any:
    """What a chain takes or gives, where it is small and plain JSON; else unset: its calls say it."""
    if isinstance(value, str):
        value = str(value)  # LangChain has kinds of its own
    try:
        return value if len(msgspec.json.encode(value)) <= _MAX_PLAIN_BYTES else msgspec.UNSET
    except Exception:  # noqa: BLE001  # an object of the user's
        return msgspec.UNSET
