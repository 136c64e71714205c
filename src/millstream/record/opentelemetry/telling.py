"""What a span of OpenTelemetry tells, as it is stored: quickly, on the thread that ends it."""

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from millstream import semconv
from millstream.record.live import LiveSpan
from millstream.record.opentelemetry import joining
from millstream.record.serialize import to_json, to_text
from millstream.span import SpanEvent, Status

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

Keep = Callable[[dict[str, Any]], dict[str, Any]]
"""What of some attributes is to be stored."""

_SHORT: Final = 1_000
_CANCELLED: Final = frozenset({"CancelledError", "Cancelled", "KeyboardInterrupt"})
_encode: Final = msgspec.json.Encoder().encode


def copied(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    """A dict of them; that of OpenTelemetry's own mapping is slow to walk."""
    if not attributes:
        return {}
    copy = getattr(attributes, "copy", None)
    found = copy() if copy is not None else None
    return found if type(found) is dict else dict(attributes)


def stored(values: dict[str, Any], limit: int) -> dict[str, Any]:
    """Attributes as they go into the line.

    Args:
        values: scalars and lists of them; bytes.
        limit: bytes of JSON above which one is cut. Messages are texts of JSON: what is cut cannot be read.
    """
    ready: dict[str, Any] = {}
    for key, value in values.items():
        kind = type(value)
        if kind is str and len(value) >= _SHORT:
            encoded = _encode(to_text(value))
            value = msgspec.Raw(encoded if len(encoded) <= limit else to_json(value, limit))  # noqa: PLW2901
        elif not (kind is bool or kind is float or (kind is str and value.isascii())):
            value = msgspec.Raw(to_json(value))  # noqa: PLW2901
        ready[key if key.isascii() else to_text(key)] = value
    return ready


def about(span: "ReadableSpan", live: LiveSpan, keep: Keep) -> dict[str, Any]:
    """What OpenTelemetry does not keep among the attributes, under names for it."""
    scope, status = span.instrumentation_scope, span.status
    told: dict[str, Any] = {
        semconv.OTEL_SCOPE_NAME: scope.name if scope else "",
        semconv.OTEL_SPAN_KIND: span.kind._name_,  # `name` is slow
    }
    if scope and scope.version:
        told[semconv.OTEL_SCOPE_VERSION] = scope.version
    if (code := status.status_code._name_) != "UNSET":
        told[semconv.OTEL_STATUS_CODE] = code
    if status.description:
        told[semconv.OTEL_STATUS_DESCRIPTION] = status.description
    if span.name != live.name:
        told[semconv.OTEL_SPAN_NAME] = span.name
    if span.parent is None or span.parent.is_remote:
        trace_id = f"{span.context.trace_id:032x}"
        if trace_id != live.trace_id:
            told[semconv.OTEL_TRACE_ID] = trace_id
    if links := span.links:
        told[semconv.OTEL_LINKS] = [_link(link, keep) for link in links]
    return told


def events(span: "ReadableSpan", keep: Keep, limit: int) -> list[SpanEvent] | None:
    """Its events; `None` without any."""
    return [
        SpanEvent(to_text(event.name), event.timestamp, stored(keep(copied(event.attributes)), limit))
        for event in span.events
    ] or None


def outcome(span: "ReadableSpan", handling: int) -> Status:
    """How it ended.

    Args:
        span: that ends now.
        handling: the identity of the exception that was being handled when it started, else 0.
    """
    if span.status.status_code._name_ == "ERROR":
        return Status.ERROR
    error = sys.exception()
    if error is None or id(error) == handling:
        return Status.OK
    # A cancellation is not recorded by OpenTelemetry, but ends the span on its way out.
    cancelled = any(base.__name__ in _CANCELLED for base in type(error).__mro__)
    return Status.CANCELLED if cancelled else Status.OK


def _link(link: Any, keep: Keep) -> dict[str, Any]:
    other = joining.known(link.context)
    return {
        "trace_id": other.trace_id if other else f"{link.context.trace_id:032x}",
        "span_id": f"{link.context.span_id:016x}",
        "attributes": keep(copied(link.attributes)),
    }
