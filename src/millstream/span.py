"""The vocabulary: what one recorded step of a workflow is.

Everything else in millstream makes `Span`s, moves them or asks questions of them. A span is one JSON
object a line in the journal; its fields are the columns of every table. Times are Unix nanoseconds.
"""

from enum import Enum
from typing import Any

import msgspec


class SpanKind(str, Enum):
    """What a span does: the kinds of OpenInference, and WORKFLOW, FUNCTION and TASK."""

    LLM = "LLM"
    TOOL = "TOOL"
    AGENT = "AGENT"
    CHAIN = "CHAIN"
    RETRIEVER = "RETRIEVER"
    EMBEDDING = "EMBEDDING"
    RERANKER = "RERANKER"
    GUARDRAIL = "GUARDRAIL"
    EVALUATOR = "EVALUATOR"
    WORKFLOW = "WORKFLOW"
    FUNCTION = "FUNCTION"
    TASK = "TASK"


class Status(str, Enum):
    """How a span ended."""

    OK = "ok"
    ERROR = "error"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    """Its process died while it was open."""


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens of one model call; `None` is unknown, never 0.

    `input_tokens` includes `cache_read_tokens`; `output_tokens` includes `reasoning_tokens`.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    reasoning_tokens: int | None = None


class SpanError(msgspec.Struct, frozen=True, gc=False):
    """What went wrong: the exception's type name and its message."""

    type: str
    message: str


class SpanEvent(msgspec.Struct, frozen=True):
    """Something that happened at one moment of a span."""

    name: str
    time_ns: int
    attributes: dict[str, Any] = {}


class SpanLink(msgspec.Struct, frozen=True):
    """A span of another trace that this one belongs with."""

    trace_id: str
    span_id: str
    attributes: dict[str, Any] = {}


class Span(msgspec.Struct):
    """One step of a workflow, as it is stored.

    Attributes:
        trace_id: 32 hex digits, shared by all spans of one request.
        span_id: 16 hex digits.
        parent_id: `span_id` of the step it ran in; recorded at the start, never inferred.
        start_ns: Unix nanoseconds.
        end_ns: Unix nanoseconds; `None` while the span is open.
        status: `None` while the span is open in a living process.
        input: any JSON value; unset when content was not captured. Of a function: its arguments by
            name. Of an LLM call: the messages in OpenAI's form.
        output: any JSON value; unset when content was not captured. Of an LLM call: the answer as an
            OpenAI message.
        usage: `None` for spans that use no tokens.
        workload_id: name of the nearest registered or `track_unregistered_function` scope.
        attributes: names from `millstream.semconv` and the user's own.
    """

    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    kind: SpanKind
    start_ns: int
    end_ns: int | None = None
    status: Status | None = None
    error: SpanError | None = None
    input: Any = msgspec.UNSET
    output: Any = msgspec.UNSET
    usage: Usage | None = None
    workload_id: str | None = None
    attributes: dict[str, Any] = {}
    events: list[SpanEvent] = []
    links: list[SpanLink] = []

    @property
    def duration_s(self) -> float | None:
        """Seconds from start to end; `None` while the span is open."""
        return None if self.end_ns is None else (self.end_ns - self.start_ns) / 1e9
