"""Long texts cut: for receivers that take so much a field, and where the beginning says enough."""

from typing import Any, Final

import msgspec

from millstream.errors import ConfigError
from millstream.record.serialize import cut_at
from millstream.span import Span, SpanError, SpanEvent, SpanLink

_CUT: Final = "… [cut: {} characters in all]"
_MAX_DEPTH: Final = 100


class TruncationProcessor:
    """Cuts every text of a span's input, output, attributes, events, links and error message.

    What is no text keeps its form, so that messages stay messages. A text that was cut ends with a note of
    its length, which is not counted.

    Args:
        max_length: characters that a text may have.

    Raises:
        ConfigError: `max_length` is not at least 1.
    """

    def __init__(self, *, max_length: int) -> None:
        if isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < 1:
            raise ConfigError(f"max_length: characters that a text may have, at least 1, not {max_length!r}")
        self._max_length = max_length

    def __call__(self, span: Span) -> Span:
        """The span with its long texts cut."""
        if span.input is not msgspec.UNSET:
            span.input = self._cut(span.input, 0)
        if span.output is not msgspec.UNSET:
            span.output = self._cut(span.output, 0)
        span.attributes = self._cut(span.attributes, 0)
        span.events = [
            SpanEvent(event.name, event.time_ns, self._cut(event.attributes, 0)) for event in span.events
        ]
        span.links = [
            SpanLink(link.trace_id, link.span_id, self._cut(link.attributes, 0)) for link in span.links
        ]
        if span.error is not None:
            span.error = SpanError(span.error.type, self._cut(span.error.message, 0))
        return span

    def _cut(self, value: Any, depth: int) -> Any:
        if isinstance(value, str):
            return self._cut_text(value)
        if depth > _MAX_DEPTH:
            return _CUT.format(len(msgspec.json.encode(value)))
        if isinstance(value, dict):
            return {key: self._cut(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list):
            return [self._cut(item, depth + 1) for item in value]
        return value

    def _cut_text(self, text: str) -> str:
        """A text that was cut before keeps the note of its true length."""
        end = cut_at(text)
        length = len(text) if end is None else end
        if length <= self._max_length:
            return text
        return text[: self._max_length] + (_CUT.format(length) if end is None else text[end:])
