"""One span of OTLP as `OTelSpanProcessor` would have copied it: `translate` does the rest."""

from typing import Any, Final

from millstream import semconv
from millstream.span import Span, SpanEvent, SpanKind, SpanLink, Status
from millstream.store.readers.otlp_values import attributes, id_of, listed, named, under, whole

_TRACE_BYTES, _SPAN_BYTES = 16, 8
_KINDS: Final = {1: "INTERNAL", 2: "SERVER", 3: "CLIENT", 4: "PRODUCER", 5: "CONSUMER"}
_CODES: Final = {0: "UNSET", 1: "OK", 2: "ERROR"}


def read_span(told: Any, scope: Any) -> Span:
    """A span.

    Args:
        told: the object of the span.
        scope: the object of what recorded it.

    Raises:
        ValueError: it has no id or no start; says so.
    """
    trace_id, span_id = id_of(under(told, "traceId"), _TRACE_BYTES), id_of(under(told, "spanId"), _SPAN_BYTES)
    if trace_id is None or span_id is None:
        raise ValueError("span without a trace id or a span id")
    start_ns = whole(under(told, "startTimeUnixNano"))
    if not start_ns:
        raise ValueError("span without a start time")
    end_ns = whole(under(told, "endTimeUnixNano")) or None
    code = named(under(under(told, "status"), "code"), _CODES, "STATUS_CODE_")
    status = Status.ERROR if code == "ERROR" else Status.OK
    return Span(
        trace_id,
        span_id,
        id_of(under(told, "parentSpanId"), _SPAN_BYTES),
        str(under(told, "name") or ""),
        SpanKind.TASK,
        start_ns,
        end_ns,
        None if end_ns is None else status,
        attributes={**attributes(told), **_about(told, scope, code)},
        events=[
            SpanEvent(str(under(one, "name") or ""), whole(under(one, "timeUnixNano")) or 0, attributes(one))
            for one in listed(told, "events")
        ],
        links=_links(told),
    )


def without_content(told: dict[str, Any]) -> dict[str, Any]:
    """The object of a span without what is long in it."""
    return {key: value for key, value in told.items() if not isinstance(value, list)}


def _about(told: Any, scope: Any, code: str | None) -> dict[str, Any]:
    found = {
        semconv.OTEL_SCOPE_NAME: str(under(scope, "name") or ""),
        semconv.OTEL_SPAN_KIND: named(under(told, "kind"), _KINDS, "SPAN_KIND_") or "INTERNAL",
    }
    if version := under(scope, "version"):
        found[semconv.OTEL_SCOPE_VERSION] = str(version)
    if code is not None and code != "UNSET":
        found[semconv.OTEL_STATUS_CODE] = code
    if message := under(under(told, "status"), "message"):
        found[semconv.OTEL_STATUS_DESCRIPTION] = str(message)
    return found


def _links(told: Any) -> list[SpanLink]:
    links = []
    for one in listed(told, "links"):
        trace_id, span_id = (
            id_of(under(one, "traceId"), _TRACE_BYTES),
            id_of(under(one, "spanId"), _SPAN_BYTES),
        )
        if trace_id is not None and span_id is not None:
            links.append(SpanLink(trace_id, span_id, attributes(one)))
    return links
