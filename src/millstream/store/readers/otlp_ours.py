"""Spans that our own exporter sent by OTLP, put back: kind, workload, status, content, tokens."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from millstream import semconv
from millstream.span import Span, SpanError, SpanEvent, SpanKind, Status, Usage
from millstream.store.readers.otlp_values import listed, under
from millstream.store.translate import messages, translate

_KIND: Final = "millstream.span.kind"
_KIND_ELSEWHERE: Final = "openinference.span.kind"
_WORKLOAD: Final = "millstream.workload_id"
_STATUS: Final = "millstream.status"
_SDK: Final = "telemetry.sdk.name"
_NAME: Final = "millstream"
_JSON: Final = "application/json"
_DOCUMENTS: Final = "retrieval.documents."
_USAGE: Final = {
    "input_tokens": ("gen_ai.usage.input_tokens", "llm.token_count.prompt"),
    "output_tokens": ("gen_ai.usage.output_tokens", "llm.token_count.completion"),
    "cache_read_tokens": (
        "gen_ai.usage.cache_read.input_tokens",
        "llm.token_count.prompt_details.cache_read",
    ),
    "reasoning_tokens": (
        "gen_ai.usage.reasoning.output_tokens",
        "llm.token_count.completion_details.reasoning",
    ),
}
_DERIVED: Final = frozenset(
    {
        "llm.token_count.total",
        "llm.model_name",
        "embedding.model_name",
        "gen_ai.retrieval.query.text",
        "gen_ai.tool.call.arguments",
        "gen_ai.tool.call.result",
        "gen_ai.input.messages",
        "gen_ai.output.messages",
    }
)
_OF_OTEL: Final = (
    semconv.OTEL_SCOPE_NAME,
    semconv.OTEL_SCOPE_VERSION,
    semconv.OTEL_SPAN_KIND,
    semconv.OTEL_STATUS_CODE,
)
_NO_TYPE: Final = "_OTHER"
"""What `error.type` is of a failed span that tells no error."""
_ERROR_ATTRIBUTES: Final = ("exception.type", "exception.message")


def told_kind(told: Any) -> SpanKind | None:
    """The kind of a span of ours or of OpenInference's, found quickly; `None` of any other.

    Args:
        told: the object of the span.
    """
    found = {}
    for pair in listed(told, "attributes"):
        if isinstance(pair, dict) and pair.get("key") in (_KIND, _KIND_ELSEWHERE):
            found[pair["key"]] = under(pair.get("value"), "stringValue")
    kind = found.get(_KIND) or found.get(_KIND_ELSEWHERE)
    return None if kind is None else SpanKind.__members__.get(str(kind), SpanKind.CHAIN)


def telling(span: Span, resource: Mapping[str, Any]) -> bool:
    """Whether our exporter sent a span.

    Args:
        span: as OpenTelemetry's, not yet translated.
        resource: the attributes of what sent it.
    """
    attributes = span.attributes
    return (
        resource.get(_SDK) == _NAME or attributes.get(semconv.OTEL_SCOPE_NAME) == _NAME or _KIND in attributes
    )


def restored(span: Span) -> Span:
    """The span itself, as it was before it was sent, as far as OTLP holds it."""
    raw = span.attributes
    kind = SpanKind.__members__.get(str(raw.pop(_KIND, None) or raw.get(_KIND_ELSEWHERE)), span.kind)
    span.workload_id = raw.pop(_WORKLOAD, None)
    span.input, span.output = _content(raw, "input"), _content(raw, "output")
    usage = _usage(raw)
    ended = raw.pop(_STATUS, None)
    for key in [key for key in raw if key in _DERIVED or key.startswith(_DOCUMENTS)]:
        del raw[key]
    if raw.get(semconv.OTEL_SCOPE_NAME) == _NAME:
        raw.pop(_KIND_ELSEWHERE, None)
        _own(span)
    else:  # it had been copied from OpenTelemetry
        translate(span)
    span.kind, span.usage = kind, usage
    _end(span, ended)
    return span


def _own(span: Span) -> None:
    """What `translate` finds out of a span of others."""
    raw = span.attributes
    description = str(raw.pop(semconv.OTEL_STATUS_DESCRIPTION, ""))
    for key in _OF_OTEL:
        raw.pop(key, None)
    if offered := messages.tools(raw.get(semconv.TOOL_DEFINITIONS)):
        raw[semconv.TOOL_DEFINITIONS] = offered
    if span.status is Status.ERROR and (kind := raw.get("error.type", _NO_TYPE)) != _NO_TYPE:
        message = description.removeprefix(str(kind)).removeprefix(": ")
        span.error = SpanError(str(kind), message)


def _content(raw: dict[str, Any], side: str) -> Any:
    value, mime_type = raw.pop(f"{side}.value", msgspec.UNSET), raw.pop(f"{side}.mime_type", None)
    if mime_type != _JSON:
        return value
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, TypeError):
        return value


def _end(span: Span, ended: Any) -> None:
    """How the span ended, where that has no place in OTLP, and the error without the event that told it."""
    added = next((event for event in span.events if _is_of_the_error(event, span)), None)
    if ended == Status.CANCELLED.value:
        span.status = Status.CANCELLED
        if added is not None:
            span.error = SpanError(*(str(added.attributes[name]) for name in _ERROR_ATTRIBUTES))
    elif ended == Status.INTERRUPTED.value:  # it has no end; one had to be told
        span.status, span.error, span.end_ns = Status.INTERRUPTED, None, None
    if added is not None:
        span.events = [event for event in span.events if event is not added]
    span.attributes.pop("error.type", None)


def _usage(raw: dict[str, Any]) -> Usage | None:
    counts = {}
    for field, names in _USAGE.items():
        told = [value for value in (raw.pop(name, None) for name in names) if type(value) is int]
        if told:
            counts[field] = told[0]
    return Usage(**counts) if counts else None


def _is_of_the_error(event: SpanEvent, span: Span) -> bool:
    """Whether the exporter added it, to tell the error."""
    return (
        event.name == "exception"
        and event.time_ns == span.end_ns
        and event.attributes.keys() == set(_ERROR_ATTRIBUTES)
    )
