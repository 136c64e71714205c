"""Spans copied from OpenTelemetry, put into our vocabulary as they are read.

Each instrumentation library tells the same in names of its own. What a dialect understands is taken out of
the attributes and put where our own integrations put it: kind, messages in OpenAI's form, usage, `gen_ai.*`.
The rest of the attributes stays as it is.
"""

from typing import Any, Final

import msgspec

from millstream import semconv
from millstream.span import Span, SpanError, SpanLink, Status
from millstream.store.translate import gen_ai, logfire, openinference, openllmetry
from millstream.store.translate.told import Told

_DIALECTS: Final = (openinference.read, logfire.read, openllmetry.read, gen_ai.read)
_PROVIDERS: Final = {
    "aws": "aws.bedrock",
    "aws_bedrock": "aws.bedrock",
    "az.ai.openai": "azure.ai.openai",
    "azure": "azure.ai.openai",
    "azure_openai": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "bedrock_converse": "aws.bedrock",
    "gemini": "gcp.gemini",
    "google": "gcp.gemini",
    "google-gla": "gcp.gemini",
    "google-vertex": "gcp.vertex_ai",
    "google_genai": "gcp.gemini",
    "google_vertexai": "gcp.vertex_ai",
    "mistral": "mistral_ai",
    "mistralai": "mistral_ai",
    "vertex_ai": "gcp.vertex_ai",
    "vertexai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}
"""What is not `gen_ai.provider.name` in OpenTelemetry's conventions, by its name in small letters."""
UNREADABLE: Final = "millstream.untranslated"
"""Why a span stayed in the words of its instrumentation."""
_EXCEPTION: Final = "exception"
_CANCELLED: Final = frozenset({"CancelledError", "Cancelled", "KeyboardInterrupt"})


def translate(span: Span) -> Span:
    """The span itself, changed where it is a copy of a span of OpenTelemetry; twice is once."""
    if semconv.OTEL_SPAN_KIND not in span.attributes:
        return span
    told = Told(span)
    try:
        _read(told)
    except Exception as fault:  # noqa: BLE001  # one span that somebody wrote wrongly does not hide the others
        span.attributes = {**span.attributes, UNREADABLE: f"{type(fault).__name__}: {fault}"}
    return span


def _read(told: Told) -> None:
    span = told.span
    told.raw[semconv.SPAN_KIND] = told.take(semconv.OTEL_SPAN_KIND)
    for read in _DIALECTS:
        read(told)
    span.name = told.take(semconv.OTEL_SPAN_NAME) or span.name
    span.kind = told.kind or span.kind
    span.input, span.output = told.input, told.output
    span.usage = span.usage or told.usage
    if (provider := told.known.get(semconv.PROVIDER_NAME)) is not None:
        name = str(provider).lower()
        told.known[semconv.PROVIDER_NAME] = _PROVIDERS.get(name, name)
    span.links = span.links or _links(told.take(semconv.OTEL_LINKS))
    _outcome(told)
    span.attributes = {**told.raw, **dict(sorted(told.known.items()))}
    span.events = told.events


def _outcome(told: Told) -> None:
    span = told.span
    told.take(semconv.OTEL_STATUS_CODE)
    description = told.take(semconv.OTEL_STATUS_DESCRIPTION)
    if span.error is not None or span.status is not Status.ERROR:
        return
    raised = next((event for event in reversed(told.events) if event.name == _EXCEPTION), None)
    kind, message = told.raw.get("error.type"), description
    if raised is not None:
        kind = raised.attributes.get("exception.type") or kind
        message = raised.attributes.get("exception.message") or message
    kind = str(kind or "Error").rpartition(".")[2]
    span.error = SpanError(kind, str(message or ""))
    if told.raw.get("error.type") == kind:
        told.take("error.type")
    if kind in _CANCELLED:
        span.status = Status.CANCELLED


def _links(told: Any) -> list[SpanLink]:
    try:
        return msgspec.convert(told or [], list[SpanLink])
    except msgspec.ValidationError:
        return []
