"""What a program assigned to the fields of an open span, made what the span's own methods would have set."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from millstream.record import faults
from millstream.record.conversation import Conversation
from millstream.record.outcome import whole_counts
from millstream.record.serialize import to_json, to_text
from millstream.span import SpanEvent, Usage

if TYPE_CHECKING:
    from millstream.record.live import LiveSpan

INPUTS: Final = frozenset({bytes, Conversation, type(None)})
OUTPUTS: Final = frozenset({bytes, type(None)})
_EVENT: Final = frozenset({SpanEvent})
_PLAIN: Final = frozenset({str, int, float, bool, type(None), msgspec.Raw})


def settle(span: "LiveSpan") -> None:
    """Settle all fields."""
    settle_content(span)
    settle_rest(span)
    if not is_plain(span):
        settle_values(span)


def is_plain(span: "LiveSpan") -> bool:
    """Whether the attributes are such as the methods of a span set."""
    return span.attributes is None or _PLAIN.issuperset(map(type, span.attributes.values()))


def settle_content(span: "LiveSpan") -> None:
    """Make input and output JSON, as `set_output` does; without content where none is captured."""
    if type(span.input) not in INPUTS:
        span.input = _json(span, span.input)
    if type(span.output) not in OUTPUTS:
        span.output = _json(span, span.output)


def _json(span: "LiveSpan", value: Any) -> bytes | None:
    active = span.recorder
    return to_json(value, active.content_limit) if active.capture_content else None


def settle_rest(span: "LiveSpan") -> None:
    """See that usage, attributes and events are of their types; what cannot be is left out, and counted."""
    if span.usage is not None:
        span.usage = _usage(span.usage)
    if span.attributes is not None and type(span.attributes) is not dict:
        span.attributes = _attributes(span.attributes)
    if span.events is not None and not (
        type(span.events) is list and _EVENT.issuperset(map(type, span.events))
    ):
        span.events = _events(span.events)


def settle_values(span: "LiveSpan") -> None:
    """Make all values of attributes and events JSON."""
    if span.attributes is not None:
        span.attributes = _values(span.attributes)
    if span.events is not None:
        span.events = [
            SpanEvent(to_text(one.name), one.time_ns, _values(one.attributes)) for one in span.events
        ]


def _usage(usage: Any) -> Usage | None:
    try:
        return whole_counts(usage)
    except Exception as fault:  # noqa: BLE001  # telemetry never breaks the user's program
        faults.swallow(fault, "the usage of a model call could not be recorded")
        return None


def _attributes(attributes: Any) -> dict[str, Any] | None:
    if isinstance(attributes, Mapping):
        return _values(attributes)
    faults.swallow(
        TypeError(f"a {type(attributes).__name__}"), "attributes that are no mapping were not recorded"
    )
    return None


def _events(events: Any) -> list[SpanEvent] | None:
    known = [one for one in events if type(one) is SpanEvent] if isinstance(events, list | tuple) else []
    if not isinstance(events, list | tuple) or len(known) < len(events):
        faults.swallow(TypeError(f"{events!r:.100}"), "events that are no SpanEvent were not recorded")
    return known or None


def _values(attributes: Mapping[Any, Any]) -> dict[str, Any]:
    return {to_text(key): msgspec.Raw(to_json(value)) for key, value in attributes.items()}
