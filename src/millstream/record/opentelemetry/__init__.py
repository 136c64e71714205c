"""Spans of an OpenTelemetry program, copied into our journal as they start and end.

Attributes are stored under their own names; what they mean in our vocabulary is found out when they are
read (`millstream.store.translate`), not on the thread that does the work.
"""

from typing import TYPE_CHECKING, Any, Final

import msgspec

from millstream.errors import MissingExtraError
from millstream.record import faults, recorder
from millstream.record.live import LiveSpan
from millstream.record.opening import open_span
from millstream.record.opentelemetry import structure
from millstream.span import SpanKind

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, Span

try:
    from opentelemetry.sdk.trace import SpanProcessor

    from millstream.record.opentelemetry import joining, telling
except ImportError:
    SpanProcessor = object  # type: ignore[assignment,misc]

_NOT_COPIED: Final = "a span of OpenTelemetry could not be copied"


class OTelSpanProcessor(SpanProcessor):
    """Copies every span of a tracer provider, and joins them with ours in one tree.

        provider.add_span_processor(millstream.OTelSpanProcessor())

    From then on a span of ours that starts inside a span of OpenTelemetry is its child, and the other way
    round. The spans of OpenTelemetry themselves stay as they are. Content of messages is copied only where
    content is captured.

    Raises:
        MissingExtraError: the SDK of OpenTelemetry is not installed.
    """

    def __init__(self) -> None:
        if SpanProcessor is object:
            raise MissingExtraError("OTelSpanProcessor", "opentelemetry")
        super().__init__()
        joining.begin(self)

    def on_start(self, span: "Span", parent_context: "Context | None" = None) -> None:
        """Write the line by which a reader knows of the span, should the process die in it."""
        try:
            _open(span, parent_context)
        except Exception as fault:  # noqa: BLE001  # telemetry never breaks the user's program
            faults.swallow(fault, _NOT_COPIED)

    def on_end(self, span: "ReadableSpan") -> None:
        """Write the span."""
        try:
            _close(span)
        except Exception as fault:  # noqa: BLE001  # telemetry never breaks the user's program
            faults.swallow(fault, _NOT_COPIED)

    def shutdown(self) -> None:
        """Join no longer; what is copied is on disk already."""
        joining.end(self)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002  # the SDK's signature
        """Nothing waits to be written."""
        return True


def _open(span: "Span", parent_context: "Context | None") -> None:
    active = recorder.get()
    if active is None or joining.copy_of(span.context) is not None:
        return
    parent = joining.parent_of(span, parent_context) or active.remote_parent
    joining.remember(span, _start(active, span, parent))


def _start(active: "recorder.Recorder", span: "ReadableSpan", parent: Any) -> LiveSpan:
    told = span.context
    live = open_span(
        active,
        span.name,
        structure.kind_at_start(telling.copied(span.attributes)),
        msgspec.UNSET,
        parent,
        trace_id=f"{told.trace_id:032x}" if parent is None else None,
        span_id=f"{told.span_id:016x}",
        start_ns=span.start_time,
    )
    # The same call seen by an integration of ours is merged when read, not here: each tells what it knows.
    if type(live) is LiveSpan:  # else it keeps nothing, and is everybody's
        live.kind = SpanKind.TASK
    return live


def _close(span: "ReadableSpan") -> None:
    attributes = telling.copied(span.attributes)
    copy = joining.copy_of(span.context)
    if copy is not None:
        live, handling = copy.live, copy.handling
    elif attributes.get("logfire.span_type") == "pending_span":  # says again that a span has started
        return
    else:  # it started before we listened
        active = recorder.get()
        if active is None:
            return
        live, handling = _start(active, span, joining.known(span.parent) or active.remote_parent), 0
    if type(live) is not LiveSpan or not live.is_open:
        return
    limit = live.recorder.content_limit
    keep = structure.everything if live.recorder.capture_content else structure.without_content
    kept = structure.without_vectors(keep(attributes))
    kept.update(telling.about(span, live, keep))
    live.attributes = telling.stored(kept, limit)
    live.events = telling.events(span, keep, limit)
    live.end(None, telling.outcome(span, handling), end_ns=span.end_time)
    live.attributes = live.events = None  # the copy itself stays, for children to come
