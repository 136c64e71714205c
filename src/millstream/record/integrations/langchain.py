"""LangChain and LangGraph: model calls, tools and retrievers.

A callback handler that LangChain adds to every run by itself, by its configure hook. It runs inline, so a
tool's body sees the TOOL span as its current span. Chains and graph nodes are not recorded; they are followed
only to find the parent of a call whose thread lost its context.
"""

import asyncio
import functools
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any, Final
from uuid import UUID

import msgspec
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel, BaseLLM
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.tools import ToolException
from langchain_core.tracers import context as tracer_context

from millstream import context, semconv
from millstream.record import recorder
from millstream.record.live import LiveSpan, leave, open_span
from millstream.span import SpanKind, Status, Usage

_ROLES: Final = {
    "human": "user",
    "ai": "assistant",
    "AIMessageChunk": "assistant",
    "HumanMessageChunk": "user",
}
_PARAMETERS: Final = {
    "temperature": semconv.REQUEST_TEMPERATURE,
    "top_p": semconv.REQUEST_TOP_P,
    "max_tokens": semconv.REQUEST_MAX_TOKENS,
    "max_completion_tokens": semconv.REQUEST_MAX_TOKENS,
    "stop": semconv.REQUEST_STOP_SEQUENCES,
    "seed": semconv.REQUEST_SEED,
    "frequency_penalty": semconv.REQUEST_FREQUENCY_PENALTY,
    "presence_penalty": semconv.REQUEST_PRESENCE_PENALTY,
    "n": semconv.REQUEST_CHOICE_COUNT,
    "tools": semconv.TOOL_DEFINITIONS,
}


_MODELS: Final[tuple[Any, ...]] = (BaseChatModel, BaseLLM)


class Integration:
    """Adds the handler to every LangChain run of this process, in every thread."""

    def __init__(self) -> None:
        self._hook: Any = None
        self._handler = _Handler()

    def install(self) -> None:
        """Begin to record."""
        if self._hook is None:
            # A context variable's default is seen in every thread and task; a value set here would not be.
            variable: ContextVar[Any] = ContextVar("millstream_langchain", default=self._handler)
            tracer_context.register_configure_hook(variable, inheritable=True)
            self._hook = tracer_context._configure_hooks[-1]  # noqa: SLF001  # there is no public way back
            for model in _MODELS:
                model.agenerate = _ending_cancelled(model.agenerate, self._handler)

    def uninstall(self) -> None:
        """Put LangChain back as it was; runs that have begun are recorded to their end."""
        if self._hook in tracer_context._configure_hooks:  # noqa: SLF001
            tracer_context._configure_hooks.remove(self._hook)  # noqa: SLF001
            for model in _MODELS:
                model.agenerate = model.agenerate.__wrapped__
        self._hook = None


_called: Final[ContextVar[list[UUID] | None]] = ContextVar("millstream_langchain_called", default=None)


def _ending_cancelled(agenerate: Callable[..., Any], handler: "_Handler") -> Callable[..., Any]:
    """`agenerate` that ends its spans when it is cancelled, of which LangChain tells no callback."""

    @functools.wraps(agenerate)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        runs: list[UUID] = []
        token = _called.set(runs)
        try:
            return await agenerate(*args, **kwargs)
        except asyncio.CancelledError as error:
            for run_id in runs:
                handler.on_llm_error(error, run_id=run_id)
            raise
        finally:
            _called.reset(token)

    return wrapper


class _Run:
    """A run that has begun: its own span, or for a chain the span that it began in."""

    __slots__ = ("parent_run_id", "span", "tools")

    def __init__(self, span: context.SpanContext | None, parent_run_id: UUID | None) -> None:
        self.span = span
        self.parent_run_id = parent_run_id
        self.tools: set[UUID] | None = None
        """Tools of a chain that have not ended; LangChain does not say when one is cancelled."""


class _Handler(BaseCallbackHandler):
    """Turns LangChain's callbacks into spans. Keeps nothing of a run that has ended."""

    run_inline = True
    ignore_custom_event = True

    def __init__(self) -> None:
        self._runs: dict[UUID, _Run] = {}

    # Model calls

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
        content = [message_json(message) for batch in messages for message in batch]
        self._model_start(serialized, content, run_id, parent_run_id, metadata or {}, kwargs)

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
        messages: list[dict[str, Any]],
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
        if (called := _called.get()) is not None:
            called.append(run_id)
        span.set_attribute(semconv.OPERATION_NAME, "chat")
        if model:
            span.set_attribute(semconv.REQUEST_MODEL, str(model))
        if provider := metadata.get("ls_provider"):
            span.set_attribute(semconv.PROVIDER_NAME, provider)
        for key, attribute in _PARAMETERS.items():
            if (value := parameters.get(key)) is not None:
                span.set_attribute(attribute, value)

    def on_llm_new_token(self, token: Any, *, chunk: Any = None, run_id: UUID, **kwargs: Any) -> None:
        """A piece of a streamed answer came; pieces that carry nothing are not counted."""
        run = self._runs.get(run_id)
        if run is None or not isinstance(run.span, LiveSpan):
            return
        message = getattr(chunk, "message", None)
        if token or getattr(message, "content", None) or getattr(message, "tool_call_chunks", None):
            run.span.add_chunk(token, new_token=True)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """A model answered."""
        if (span := self._close(run_id)) is None:
            return
        generation = response.generations[0][0] if response.generations and response.generations[0] else None
        message = generation.message if isinstance(generation, ChatGeneration) else None
        if message is not None:
            span.set_output(message_json(message))
        elif generation is not None:
            span.set_output({"role": "assistant", "content": generation.text})
        _describe_answer(span, message, response.llm_output or {})
        span.end()

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """A model call failed or was cancelled."""
        if span := self._close(run_id):
            span.end(error)

    # Tools

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
        span.set_attribute(semconv.OPERATION_NAME, "execute_tool")
        span.set_attribute(semconv.TOOL_NAME, name)
        if call_id := kwargs.get("tool_call_id"):
            span.set_attribute(semconv.TOOL_CALL_ID, call_id)
        span.__enter__()
        if parent_run_id is not None and (parent := self._runs.get(parent_run_id)):
            parent.tools = parent.tools or set()
            parent.tools.add(run_id)

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A tool returned; a `ToolMessage` of status error is a failure that the framework handled."""
        if (span := self._close(run_id)) is None:
            return
        failed = isinstance(output, ToolMessage) and output.status == "error"
        span.set_output(output.content if isinstance(output, ToolMessage) else output)
        span.end(ToolException(str(output.content)) if failed else None)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """A tool raised."""
        if span := self._close(run_id):
            span.end(error)

    # Retrievers

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
        self._open(name, SpanKind.RETRIEVER, query, run_id, parent_run_id)

    def on_retriever_end(self, documents: Sequence[Document], *, run_id: UUID, **kwargs: Any) -> None:
        """A retriever answered."""
        if span := self._close(run_id):
            span.set_output(
                [{"content": found.page_content, "metadata": found.metadata} for found in documents]
            )
            span.end()

    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """A retriever failed."""
        if span := self._close(run_id):
            span.end(error)

    # Chains and graph nodes: followed, not recorded

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
        self._runs[run_id] = _Run(self._parent(parent_run_id), parent_run_id)

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A chain or a graph node is done."""
        self._close(run_id)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """A chain or a graph node failed."""
        self._close(run_id)

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
        span = open_span(active, name, kind, content, parent=self._parent(parent_run_id))
        span.set_attribute(semconv.FRAMEWORK, "langchain")
        self._runs[run_id] = _Run(span, parent_run_id)
        return span

    def _close(self, run_id: UUID) -> LiveSpan | None:
        """Forget a run that has ended and give its own span, if it has one, no longer current."""
        run = self._runs.pop(run_id, None)
        if run is None:
            return None
        for tool in run.tools or ():
            if span := self._close(tool):
                span.end(None, Status.CANCELLED)
        if run.parent_run_id is not None and (parent := self._runs.get(run.parent_run_id)) and parent.tools:
            parent.tools.discard(run_id)
        if not isinstance(run.span, LiveSpan) or run.span.kind not in _RECORDED:
            return None
        leave(run.span)
        return run.span


_RECORDED: Final = frozenset({SpanKind.LLM, SpanKind.TOOL, SpanKind.RETRIEVER})


def message_json(message: BaseMessage) -> dict[str, Any]:
    """A LangChain message as an OpenAI chat message."""
    role = _ROLES.get(message.type) or getattr(message, "role", None) or message.type
    extra = message.additional_kwargs
    result: dict[str, Any] = {"role": extra.get("__openai_role__", role), "content": message.content}
    if message.name:
        result["name"] = message.name
    if isinstance(message, AIMessage):
        calls = [*message.tool_calls, *message.invalid_tool_calls]
        if calls:
            result["tool_calls"] = [
                {
                    "id": call["id"],
                    "type": "function",
                    "function": {"name": call["name"], "arguments": _arguments(call["args"])},
                }
                for call in calls
            ]
    elif isinstance(message, ToolMessage):
        result["tool_call_id"] = message.tool_call_id
    return result


def _arguments(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()


def _describe_answer(span: LiveSpan, message: BaseMessage | None, llm_output: dict[str, Any]) -> None:
    metadata = message.response_metadata if message is not None else {}
    if model := metadata.get("model_name") or llm_output.get("model_name"):
        span.set_attribute(semconv.RESPONSE_MODEL, model)
    if (
        response_id := metadata.get("id")
        or llm_output.get("id")
        or (message.id if message is not None else None)
    ):
        span.set_attribute(semconv.RESPONSE_ID, response_id)
    if reason := metadata.get("finish_reason"):
        span.set_attribute(semconv.RESPONSE_FINISH_REASONS, [reason])
    if usage := _usage(message, llm_output):
        span.set_usage(usage)


def _usage(message: BaseMessage | None, llm_output: dict[str, Any]) -> Usage | None:
    """Tokens as the provider told them; what it did not tell stays unknown."""
    if isinstance(message, AIMessage) and (told := message.usage_metadata):
        return Usage(
            told["input_tokens"],
            told["output_tokens"],
            told.get("input_token_details", {}).get("cache_read"),
            told.get("output_token_details", {}).get("reasoning"),
        )
    if counted := llm_output.get("token_usage"):
        return Usage(counted.get("prompt_tokens"), counted.get("completion_tokens"))
    return None
