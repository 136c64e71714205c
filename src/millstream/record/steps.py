"""START, CHUNK and END events: a view of spans for live subscribers and for files that other tools read.

The shape is the one that the reference's `IntermediateStep` has, so that its readers read ours.
"""

from collections.abc import Callable, Iterable
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from millstream import semconv
from millstream.record import faults
from millstream.span import Span, SpanKind, Usage

_CATEGORIES: Final = {
    SpanKind.LLM: "LLM",
    SpanKind.TOOL: "TOOL",
    SpanKind.WORKFLOW: "WORKFLOW",
    SpanKind.TASK: "TASK",
}


class InvocationNode(msgspec.Struct, frozen=True):
    """The function a step ran in, and the function around that."""

    function_id: str
    function_name: str
    parent_id: str | None
    parent_name: str | None


ROOT: Final = InvocationNode("root", "root", None, None)


class StreamEventData(msgspec.Struct, frozen=True):
    """What went in, came out, or came by."""

    input: Any = None
    output: Any = None
    chunk: Any = None


class TokenUsage(msgspec.Struct, frozen=True):
    """Tokens under the reference's names; what is unknown is null."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    total_tokens: int | None = None


class UsageInfo(msgspec.Struct, frozen=True):
    """Tokens of one call."""

    token_usage: TokenUsage
    num_llm_calls: int = 1
    seconds_between_calls: int = 0


class StepPayload(msgspec.Struct, frozen=True):
    """The event itself. Times are Unix seconds; `span_event_timestamp` is the start, on END events."""

    event_type: str
    event_timestamp: float
    span_event_timestamp: float | None
    framework: str | None
    name: str
    tags: list[str] | None
    metadata: dict[str, Any]
    data: StreamEventData | None
    usage_info: UsageInfo | None
    UUID: str


class IntermediateStep(msgspec.Struct, frozen=True):
    """One event of a span. `payload.UUID` is the span's id and `parent_id` its parent's, or "root"."""

    parent_id: str
    function_ancestry: InvocationNode
    payload: StepPayload

    @property
    def event_type(self) -> str:
        """For instance `LLM_START`."""
        return self.payload.event_type

    @property
    def event_category(self) -> str:
        """LLM, TOOL, WORKFLOW, FUNCTION, TASK, CUSTOM or SPAN."""
        return self.payload.event_type.partition("_")[0]

    @property
    def event_state(self) -> str:
        """START, CHUNK or END."""
        state = self.payload.event_type.rpartition("_")[2]
        return "CHUNK" if state == "TOKEN" else state

    @property
    def UUID(self) -> str:  # noqa: N802  # the reference's name
        """The span's id."""
        return self.payload.UUID

    @property
    def name(self) -> str:
        """The span's name."""
        return self.payload.name


def category(span: Span) -> str:
    """LLM, TOOL, …: a function that opens a workload scope is a FUNCTION, another a SPAN."""
    if span.kind is SpanKind.FUNCTION:
        return "FUNCTION" if span.workload_id == span.name else "SPAN"
    return _CATEGORIES.get(span.kind, "CUSTOM")


def invocation_node(chain: Iterable[tuple[SpanKind, str, str, str | None]]) -> InvocationNode:
    """The enclosing function of a span.

    Workflows, and functions that open a workload scope, count as functions.

    Args:
        chain: `(kind, name, span_id, workload_id)` of the span itself and of its ancestors, upwards.
    """
    scopes: list[tuple[str, str]] = []
    for kind, name, span_id, workload_id in chain:
        if kind is SpanKind.WORKFLOW or (kind is SpanKind.FUNCTION and workload_id == name):
            scopes.append((span_id, name))
            if len(scopes) == 2:  # noqa: PLR2004  # itself and its parent
                break
    if not scopes:
        return ROOT
    parent_id, parent_name = scopes[1] if len(scopes) > 1 else ("root", "root")
    return InvocationNode(scopes[0][0], scopes[0][1], parent_id, parent_name)


def start_step(span: Span, ancestry: InvocationNode) -> IntermediateStep:
    """The START event of a span."""
    data = StreamEventData(input=_value(span.input))
    return _step(span, ancestry, f"{category(span)}_START", span.start_ns, data)


def chunk_step(
    span: Span, ancestry: InvocationNode, time_ns: int, chunk: Any, *, new_token: bool = False
) -> IntermediateStep:
    """A CHUNK event; of an LLM call it is `LLM_NEW_TOKEN`."""
    event = "LLM_NEW_TOKEN" if new_token else f"{category(span)}_CHUNK"
    return _step(span, ancestry, event, time_ns, StreamEventData(chunk=_value(chunk)))


def end_step(span: Span, ancestry: InvocationNode) -> IntermediateStep:
    """The END event of a span that has ended; a failed one carries its error in the metadata."""
    if span.end_ns is None:
        raise ValueError(f"span {span.span_id} has not ended")
    data = StreamEventData(input=_value(span.input), output=_value(span.output))
    return _step(span, ancestry, f"{category(span)}_END", span.end_ns, data)


def _step(
    span: Span, ancestry: InvocationNode, event_type: str, time_ns: int, data: StreamEventData
) -> IntermediateStep:
    ended = event_type.endswith("_END")
    metadata = {key: _value(value) for key, value in span.attributes.items()}
    if span.error is not None:
        metadata["error"] = {"type": span.error.type, "message": span.error.message}
    if ended and span.status is not None:
        metadata["status"] = span.status.value
    payload = StepPayload(
        event_type=event_type,
        event_timestamp=time_ns / 1e9,
        span_event_timestamp=span.start_ns / 1e9 if ended else None,
        framework=_text(span.attributes.get(semconv.FRAMEWORK)),
        name=step_name(span),
        tags=None,
        metadata=metadata,
        data=data,
        usage_info=usage_info(span.usage) if ended and span.usage is not None else None,
        UUID=span.span_id,
    )
    return IntermediateStep(span.parent_id or "root", ancestry, payload)


def step_name(span: Span) -> str:
    """The model of an LLM call where it is known, else the span's name."""
    model = _text(span.attributes.get(semconv.REQUEST_MODEL)) if span.kind is SpanKind.LLM else None
    return model or span.name


def usage_info(usage: Usage) -> UsageInfo:
    """Tokens of a call; the total is of what is known."""
    known = [count for count in (usage.input_tokens, usage.output_tokens) if count is not None]
    tokens = TokenUsage(
        prompt_tokens=usage.input_tokens,
        completion_tokens=usage.output_tokens,
        cached_tokens=usage.cache_read_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        total_tokens=sum(known) if known else None,
    )
    return UsageInfo(tokens)


def _text(value: Any) -> str | None:
    plain = _value(value)
    return plain if isinstance(plain, str) else None


def _value(value: Any) -> Any:
    """The JSON value behind what a span keeps encoded."""
    if value is msgspec.UNSET:
        return None
    return msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else value


subscribers: Final[list[Callable[[IntermediateStep], object]]] = []
"""Who is told of every event; empty, it costs nothing."""


class subscribe:  # noqa: N801  # used as a function and as a block
    """Call `callback` with every `IntermediateStep` of this process, as and on the thread it happens.

    Also a context manager. A callback that raises is counted in `stats()` and called again next time. What a
    callback does itself is recorded, and no subscriber hears of it.
    """

    def __init__(self, callback: Callable[[IntermediateStep], object]) -> None:
        self._callback = callback
        subscribers.append(callback)

    def unsubscribe(self) -> None:
        """Call no more."""
        if self._callback in subscribers:
            subscribers.remove(self._callback)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.unsubscribe()


def publish_start(span: Span, ancestry: InvocationNode) -> None:
    """Tell the subscribers that a span started."""
    _publish(start_step(span, ancestry))


def publish_chunk(span: Span, ancestry: InvocationNode, time_ns: int, chunk: Any, *, new_token: bool) -> None:
    """Tell the subscribers of a piece of a stream."""
    _publish(chunk_step(span, ancestry, time_ns, chunk, new_token=new_token))


def publish_end(span: Span, ancestry: InvocationNode) -> None:
    """Tell the subscribers that a span ended."""
    _publish(end_step(span, ancestry))


publishing: Final[ContextVar[bool]] = ContextVar("millstream_publishing", default=False)
"""Whether a subscriber is being called: what it does itself is recorded, and published to nobody."""


def _publish(step: IntermediateStep) -> None:
    token = publishing.set(True)
    try:
        for callback in tuple(subscribers):  # one of them may unsubscribe
            try:
                callback(step)
            except Exception as error:  # noqa: BLE001  # a subscriber never breaks the user's program
                faults.swallow(error, "a subscriber raised")
    finally:
        publishing.reset(token)
