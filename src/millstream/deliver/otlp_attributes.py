"""A span's attributes as receivers read them: OpenTelemetry's conventions for GenAI, and OpenInference.

Who reads what, as of 2026-11: Arize Phoenix takes messages, tools and parameters from `gen_ai.*`, and only
where they are texts of JSON; kind, input and output from OpenInference. MLflow and Langfuse take kind, input,
output and tokens from OpenInference first. Others know `gen_ai.*` alone. So names and numbers are told in
both, and the content of model and tool calls, too.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from millstream import semconv
from millstream.deliver import otlp_messages
from millstream.span import Span, SpanKind, Status, Usage

Content = bytes
"""A text in UTF-8."""

_OPERATIONS: Final = {
    SpanKind.LLM: "chat",
    SpanKind.EMBEDDING: "embeddings",
    SpanKind.TOOL: "execute_tool",
    SpanKind.AGENT: "invoke_agent",
    SpanKind.WORKFLOW: "invoke_workflow",
    SpanKind.RETRIEVER: "retrieval",
}
_NAMES: Final = {
    SpanKind.TOOL: semconv.TOOL_NAME,
    SpanKind.AGENT: semconv.AGENT_NAME,
    SpanKind.WORKFLOW: "gen_ai.workflow.name",
}
"""Where the conventions want the name of what a span is about."""
_OURS: Final = frozenset({SpanKind.WORKFLOW, SpanKind.FUNCTION, SpanKind.TASK})
"""Kinds that OpenInference does not have."""
_MODEL_NAMES: Final = {SpanKind.LLM: "llm.model_name", SpanKind.EMBEDDING: "embedding.model_name"}
_ELSEWHERE: Final = frozenset({semconv.OTEL_SCOPE_NAME, semconv.OTEL_SCOPE_VERSION})
"""Attributes that have fields of their own in OTLP."""
_PLAIN: Final = "text/plain"
_JSON: Final = "application/json"
_DOCUMENTS: Final = 100
"""Documents of a retriever that are told one by one; all are in its output."""
_SLICE: Final = 32_000
"""Characters, or items, that one call into C makes JSON of."""
_LARGE: Final = frozenset({str, dict, list})
_encode: Final = msgspec.json.Encoder(enc_hook=str).encode


def told(span: Span, *, once: bool = False) -> dict[str, Any]:
    """The attributes of a finished span; what it was given itself comes before what is derived.

    Args:
        span: as it was recorded.
        once: leave out what tells the content a second time.
    """
    attributes: dict[str, Any] = dict(_identity(span))
    if span.usage is not None:
        attributes.update(_tokens(span.usage))
    attributes.update(_content(span))
    if not once:
        attributes.update(_CONVENTIONAL.get(span.kind, _nothing)(span))
    given = span.attributes.items()
    attributes.update({key: value for key, value in given if value is not None and key not in _ELSEWHERE})
    if (tools := otlp_messages.tools(span.attributes.get(semconv.TOOL_DEFINITIONS))) is not None:
        attributes[semconv.TOOL_DEFINITIONS] = _json(tools)
    return attributes


def _identity(span: Span) -> Iterator[tuple[str, Any]]:
    """What the span is, and how it ended."""
    kind = span.kind
    if kind not in _OURS:
        yield "openinference.span.kind", kind.value
    else:
        yield "millstream.span.kind", kind.value
        if (
            kind is not SpanKind.TASK or semconv.SPAN_KIND not in span.attributes
        ):  # any span of OpenTelemetry's
            yield "openinference.span.kind", SpanKind.CHAIN.value
    if kind in _OPERATIONS:
        yield semconv.OPERATION_NAME, _OPERATIONS[kind]
    if kind in _NAMES:
        yield _NAMES[kind], span.name
    if span.workload_id is not None:
        yield "millstream.workload_id", span.workload_id
    if span.status in (Status.CANCELLED, Status.INTERRUPTED):
        yield "millstream.status", span.status.value
    if span.status is Status.INTERRUPTED:
        yield "error.type", span.status.value
    elif span.status is Status.ERROR:
        yield "error.type", span.error.type if span.error is not None else "_OTHER"
    model = span.attributes.get(semconv.RESPONSE_MODEL) or span.attributes.get(semconv.REQUEST_MODEL)
    if model and kind in _MODEL_NAMES:
        yield _MODEL_NAMES[kind], model


def _tokens(usage: Usage) -> Iterator[tuple[str, int]]:
    whole = None
    if usage.input_tokens is not None and usage.output_tokens is not None:
        whole = usage.input_tokens + usage.output_tokens
    for name, count in (
        ("gen_ai.usage.input_tokens", usage.input_tokens),
        ("gen_ai.usage.output_tokens", usage.output_tokens),
        ("gen_ai.usage.cache_read.input_tokens", usage.cache_read_tokens),
        ("gen_ai.usage.reasoning.output_tokens", usage.reasoning_tokens),
        ("llm.token_count.prompt", usage.input_tokens),
        ("llm.token_count.completion", usage.output_tokens),
        ("llm.token_count.total", whole),
        ("llm.token_count.prompt_details.cache_read", usage.cache_read_tokens),
        ("llm.token_count.completion_details.reasoning", usage.reasoning_tokens),
    ):
        if count is not None:
            yield name, count


def _content(span: Span) -> Iterator[tuple[str, Any]]:
    for side, value in (("input", span.input), ("output", span.output)):
        if value is not msgspec.UNSET and value is not None:
            yield f"{side}.value", as_text(value)
            yield f"{side}.mime_type", _PLAIN if isinstance(value, str) else _JSON


def _nothing(_span: Span) -> Iterator[tuple[str, Any]]:
    yield from ()


def _messages(span: Span) -> Iterator[tuple[str, Any]]:
    if messages := otlp_messages.given(span.input):
        yield "gen_ai.input.messages", _json(messages)
    if messages := otlp_messages.made(span.output, span.attributes.get(semconv.RESPONSE_FINISH_REASONS)):
        yield "gen_ai.output.messages", _json(messages)


def _tool_call(span: Span) -> Iterator[tuple[str, Any]]:
    if span.input is not msgspec.UNSET:
        yield "gen_ai.tool.call.arguments", as_text(span.input)
    if span.output is not msgspec.UNSET:
        yield "gen_ai.tool.call.result", as_text(span.output)


def _retrieval(span: Span) -> Iterator[tuple[str, Any]]:
    if isinstance(span.input, str):
        yield "gen_ai.retrieval.query.text", span.input
    yield from _documents(span.output)


def _documents(output: Any) -> Iterator[tuple[str, Any]]:
    """What a retriever found, in OpenInference's form; the conventions want an id and a score of each."""
    if not isinstance(output, list | tuple):
        return
    for number, found in enumerate(output[:_DOCUMENTS]):
        if not isinstance(found, Mapping):
            continue
        document = f"retrieval.documents.{number}.document"
        for key in ("id", "content", "score"):
            if found.get(key) is not None:
                yield f"{document}.{key}", found[key]
        if found.get("metadata"):
            yield f"{document}.metadata", _encode(found["metadata"])


def as_text(value: Any) -> str | Content:
    """A text as it is, any other value as JSON."""
    return value if isinstance(value, str) else _json(value)


def _json(value: Any) -> Content:
    """JSON, made piece by piece: a long call into C would keep other threads from running."""
    kind = type(value)
    if kind is str:
        if len(value) < _SLICE:
            return _encode(value)
        return b'"%b"' % b"".join([_encode(part)[1:-1] for part in _slices(value)])
    if kind is dict:
        return b"{%b}" % b",".join([b"%b:%b" % (_encode(str(key)), _json(value[key])) for key in value])
    if kind is not list or not value:
        return _encode(value)
    if type(value[0]) in _LARGE:
        return b"[%b]" % b",".join([_json(item) for item in value])
    return b"[%b]" % b",".join([_encode(part)[1:-1] for part in _slices(value)])


def _slices(value: Any) -> Iterator[Any]:
    return (value[start : start + _SLICE] for start in range(0, len(value), _SLICE))


_CONVENTIONAL: Final = {SpanKind.LLM: _messages, SpanKind.TOOL: _tool_call, SpanKind.RETRIEVER: _retrieval}
"""The content once more, where there are conventions for it."""
