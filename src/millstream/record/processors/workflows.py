"""What a recorded span says of the workflows that it is in."""

from typing import Annotated, Any

import msgspec

from millstream import semconv
from millstream.span import Span, SpanKind


class Place(msgspec.Struct, gc=False):
    """The workflows around a span.

    Attributes:
        chain: name and span id of each, the root first.
        start_time: of the innermost, Unix seconds.
        custom: its custom attributes.
    """

    chain: Annotated[list[tuple[str, str]], msgspec.Meta(min_length=1)]
    start_time: float | None = None
    custom: dict[str, Any] = {}


def place_of(span: Span) -> Place | None:
    """The workflows that a span is in; a root of kind WORKFLOW that was run without a context is in itself.

    Returns:
        `None` where it is in none, or says so in a way that cannot be read.
    """
    recorded = span.attributes.get(semconv.WORKFLOW)
    if recorded is None:
        is_root = span.kind is SpanKind.WORKFLOW and span.parent_id is None
        return Place([(span.name, span.span_id)]) if is_root else None
    try:
        if isinstance(recorded, msgspec.Raw):
            return msgspec.json.decode(recorded, type=Place)
        return msgspec.convert(recorded, Place)
    except msgspec.ValidationError:
        return None
