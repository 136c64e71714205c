"""The callback handler that LangChain adds to every run: callbacks into steps."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Final, ParamSpec
from uuid import UUID

import msgspec
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.messages import BaseMessage, ToolMessage
from langchain_core.outputs import ChatGenerationChunk, LLMResult
from langchain_core.tools import ToolException

from millstream import context, semconv
from millstream.record import faults, recorder
from millstream.record.integrations.calls import current_call
from millstream.record.integrations.langchain.messages import conversation, tell_answer
from millstream.record.integrations.langchain.runs import Runs
from millstream.record.integrations.observed import PARAMETERS
from millstream.span import SpanKind

_P = ParamSpec("_P")
_FAULT: Final = "a LangChain callback could not be recorded"
_state: Final = recorder.state
_MAX_PLAIN_BYTES: Final = 10_000
_LANGSMITH: Final = (
    ("ls_temperature", semconv.REQUEST_TEMPERATURE),
    ("ls_max_tokens", semconv.REQUEST_MAX_TOKENS),
    ("ls_stop", semconv.REQUEST_STOP_SEQUENCES),
)
"""Where models tell their parameters, too; some, such as ChatNVIDIA, only there."""


def _guarded(callback: Callable[_P, None]) -> Callable[_P, None]:
    """A callback whose own faults are counted; LangChain would only log them."""

    @functools.wraps(callback)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            callback(*args, **kwargs)
        except Exception as fault:  # noqa: BLE001  # telemetry never breaks the user's program
            faults.swallow(fault, _FAULT)

    return wrapper


class Handler(BaseCallbackHandler):
    """Turns LangChain's callbacks into steps.

    It runs inline, so that the body of a tool or a retriever sees its span as the current one.

    Attributes:
        runs: those that have begun and not ended.
    """

    run_inline = True
    ignore_custom_event = True

    def __init__(self) -> None:
        self.runs = Runs()

    # Model calls

    def on_chat_model_start(
        self,
        serialized: dict[str, Any] | None,
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """A chat model is called."""
        try:
            active = _state.recorder or recorder.get()
            if active is not None:
                content = conversation(messages) if active.capture_content else msgspec.UNSET
                self._start_model("chat", content, serialized, run_id, parent_run_id, kwargs)
        except Exception as fault:  # noqa: BLE001  # as `_guarded`, which would be felt here
            faults.swallow(fault, _FAULT)

    @_guarded
    def on_llm_start(
        self,
        serialized: dict[str, Any],
        prompts: list[str],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        **kwargs: Any,
    ) -> None:
        """A text completion model is called."""
        content = [{"role": "user", "content": prompt} for prompt in prompts]
        self._start_model("text_completion", content, serialized, run_id, parent_run_id, kwargs)

    def _start_model(
        self,
        operation: str,
        content: Any,
        serialized: dict[str, Any] | None,
        run_id: UUID,
        parent_run_id: UUID | None,
        kwargs: dict[str, Any],
    ) -> None:
        parameters = kwargs.get("invocation_params") or {}
        metadata = kwargs.get("metadata") or {}
        model = parameters.get("model") or parameters.get("model_name") or metadata.get("ls_model_name")
        name = model or (serialized or {}).get("name") or kwargs.get("name") or "llm"
        attributes = {semconv.OPERATION_NAME: operation, semconv.REQUEST_MODEL: model}
        if (provider := metadata.get("ls_provider")) is not None:
            attributes[semconv.PROVIDER_NAME] = provider
        for key in parameters:
            if key in PARAMETERS and (value := parameters[key]) is not None:
                attributes[PARAMETERS[key]] = value
        for key, attribute in _LANGSMITH:
            if attribute not in attributes and key in metadata:
                attributes[attribute] = metadata[key]
        step = self.runs.start(SpanKind.LLM, str(name), content, run_id, parent_run_id, attributes)
        call = current_call.get()
        if step is None or call is None or call.kind is not SpanKind.LLM:
            return
        if call.streams or (kwargs.get("batch_size") == 1 and len(call.runs) == 1):
            step.__enter__()  # until the wrapped method returns, or hands out a piece

    @_guarded
    def on_llm_new_token(self, token: Any, *, chunk: Any = None, run_id: UUID, **kwargs: Any) -> None:
        """A piece of a streamed answer came; pieces that carry nothing are not counted."""
        step = self.runs.step(run_id)
        message = getattr(chunk, "message", None)
        carries = token or getattr(message, "content", None) or getattr(message, "tool_call_chunks", None)
        if step is not None and carries:
            step.piece(token)

    @_guarded
    def on_stream_event(self, event: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A piece of an answer that is streamed as events came."""
        step = self.runs.step(run_id)
        if step is not None and event["event"] == "content-block-delta":
            step.piece(event["delta"])

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """A model answered."""
        try:
            step = self.runs.close(run_id)
            if step is not None:
                try:
                    tell_answer(step, response)
                finally:
                    step.end()
        except Exception as fault:  # noqa: BLE001  # as `_guarded`, which would be felt here
            faults.swallow(fault, _FAULT)

    @_guarded
    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """A model call failed, was cancelled, or its stream was left: what had come by then is known."""
        response, step = kwargs.get("response"), self.runs.step(run_id)
        try:
            if step is not None and response is not None and _is_partial(response):
                tell_answer(step, response)
        finally:
            self.runs.end(run_id, error)

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
        name = str((serialized or {}).get("name") or kwargs.get("name") or "tool")
        attributes = {
            semconv.OPERATION_NAME: "execute_tool",
            semconv.TOOL_NAME: name,
            semconv.TOOL_DESCRIPTION: (serialized or {}).get("description"),
            semconv.TOOL_CALL_ID: kwargs.get("tool_call_id"),
        }
        content = input_str if inputs is None else inputs
        if step := self.runs.start(SpanKind.TOOL, name, content, run_id, parent_run_id, attributes):
            step.__enter__()

    @_guarded
    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A tool returned; a `ToolMessage` of status error is a failure that the framework handled."""
        step = self.runs.close(run_id)
        if step is None:
            return
        failure = None
        if isinstance(output, ToolMessage):
            output, failed = output.content, output.status == "error"
            if failed:
                failure = ToolException(str(output) if step.span.recorder.capture_content else "")
        step.answer(output)
        step.end(failure)

    @_guarded
    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """A tool raised."""
        self.runs.end(run_id, error)

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
        name = str(kwargs.get("name") or (serialized or {}).get("name") or "retriever")
        if step := self.runs.start(SpanKind.RETRIEVER, name, query, run_id, parent_run_id):
            step.__enter__()

    @_guarded
    def on_retriever_end(self, documents: Sequence[Document], *, run_id: UUID, **kwargs: Any) -> None:
        """A retriever answered."""
        step = self.runs.close(run_id)
        if step is not None:
            try:
                step.answer(
                    [{"content": found.page_content, "metadata": found.metadata} for found in documents]
                )
            finally:
                step.end()

    @_guarded
    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """A retriever failed."""
        self.runs.end(run_id, error)

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
        span = self.runs.around(parent_run_id)
        call = current_call.get()
        restored = call is not None and call.kind is SpanKind.CHAIN and not call.runs
        if span is not None:
            self.runs.follow(run_id, parent_run_id, span)
        else:
            name = str(kwargs.get("name") or (serialized or {}).get("name") or "chain")
            step = self.runs.start(SpanKind.CHAIN, name, _plain(inputs), run_id, parent_run_id)
            span = None if step is None else step.span
        if restored and span is not None and context.current.get() is None:
            context.current.set(span)

    @_guarded
    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A chain or a graph node is done."""
        if step := self.runs.close(run_id):
            step.answer(_plain(outputs))
            step.end()

    @_guarded
    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """A chain or a graph node failed, was cancelled, or its stream was left."""
        self.runs.end(run_id, error)


def _is_partial(response: LLMResult) -> bool:
    """Whether this is the beginning of a streamed answer, and not the body of an error."""
    first = response.generations[0] if response.generations else []
    return bool(first) and isinstance(first[0], ChatGenerationChunk)


def _plain(value: Any) -> Any:
    """What a chain takes or gives, where it is small and plain JSON; else unset: its calls say it."""
    if isinstance(value, str):
        value = str(value)  # LangChain has kinds of its own
    try:
        return value if len(msgspec.json.encode(value)) <= _MAX_PLAIN_BYTES else msgspec.UNSET
    except Exception:  # noqa: BLE001  # an object of the user's
        return msgspec.UNSET
