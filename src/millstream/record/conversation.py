"""The messages of a model call, taken at once and written as JSON only where they are new.

A conversation comes again with every call, a little longer. What its messages are made of is text that does
not change, and that Python hashes once: so it is known again without being written out.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from millstream.record.serialize import to_json

Part = tuple[str | bytes, ...] | bytes
"""A message: role and text, of a tool's also its call's id, of one that calls tools also these as JSON.

One of which there is more to tell is JSON."""


class Shape(NamedTuple):
    """How the messages of one class are read by their fields; those that are not so are read apart.

    Attributes:
        role: of all of them.
        empty: fields that hold nothing.
        call_id: a field with the id of a tool's call, if they have one.
        calls: a field with a list of calls, if they have one.
        encode_calls: the JSON of such a list, in OpenAI's form.
    """

    role: str
    empty: tuple[str, ...]
    call_id: str | None = None
    calls: str | None = None
    encode_calls: Callable[[list[Any]], bytes] | None = None


class Conversation:
    """A list of messages as it was when the call began.

    Args:
        parts: the messages.
        size: characters of their texts, and of those that are JSON.
    """

    __slots__ = ("parts", "size")

    def __init__(self, parts: Sequence[Part], size: int) -> None:
        self.parts = parts
        self.size = size

    @classmethod
    def read(
        cls, messages: list[Any], shapes: Mapping[type, Shape], other: Callable[[Any], bytes]
    ) -> "Conversation":
        """The messages as they are now.

        Args:
            messages: objects with a `content` and other fields.
            shapes: how those of a class are read.
            other: the JSON of any other, in OpenAI's form.
        """
        return cls(*_read(messages, shapes, other))

    def json(self, limit: int, start: int = 0) -> bytes:
        """The messages from one on, as a JSON list; cut where it is longer than `limit` bytes."""
        return to_json([_message(part) for part in self.parts[start:]], limit)

    def fits(self, limit: int) -> bool:
        """Whether its JSON is certainly not longer than `limit` bytes; a character takes six at most."""
        return (self.size + _AROUND * len(self.parts)) * 6 <= limit

    def marks(self) -> list[int]:
        """A hash of the first message, of the first two, and so on."""
        return _marks(self.parts)


_CONTAINERS: Final = frozenset({str, list, dict})
_AROUND: Final = 100
"""Characters of a message around its text; usually half as many."""


def _message(part: Part) -> Any:
    if type(part) is bytes:
        return msgspec.Raw(part)
    role, content, *more = part
    message: dict[str, Any] = {"role": role, "content": content}
    for value in more:
        if type(value) is bytes:
            message["tool_calls"] = msgspec.Raw(value)
        else:
            message["tool_call_id"] = value
    return message


def _read_slowly(
    messages: list[Any], shapes: Mapping[type, Shape], other: Callable[[Any], bytes]
) -> tuple[list[Part], int]:
    """The parts of messages, and their size in characters."""
    parts: list[Part] = []
    size = 0
    for message in messages:
        shape = shapes.get(type(message))
        part = None if shape is None else _part(vars(message), shape)
        parts.append(other(message) if part is None else part)
        size += len(parts[-1]) if part is None else sum(map(len, part[1:]))
    return parts, size


def _part(fields: dict[str, Any], shape: Shape) -> tuple[str | bytes, ...] | None:
    """A message by its fields; `None` where it has not the shape."""
    text = fields.get("content")
    if type(text) is not str or not all(_is_empty(fields.get(name, shape)) for name in shape.empty):
        return None
    if shape.call_id is not None:
        call_id = fields.get(shape.call_id)
        return (shape.role, text, call_id) if type(call_id) is str else None
    if shape.encode_calls is None or shape.calls is None:
        return shape.role, text
    calls = fields.get(shape.calls)
    if type(calls) is not list:
        return None
    if not calls:
        return shape.role, text
    try:
        return shape.role, text, shape.encode_calls(calls)
    except Exception:  # noqa: BLE001  # it will be read apart
        return None


def _is_empty(value: Any) -> bool:
    return value is None or (type(value) in _CONTAINERS and not value)


def _marks_slowly(parts: Sequence[Part]) -> list[int]:
    mark, marks = 0, []
    for part in parts:
        mark = hash((mark, part))
        marks.append(mark)
    return marks


try:
    from millstream.record import _messages
except ImportError:  # built without a compiler
    _read: Callable[..., tuple[list[Part], int]] = _read_slowly
    _marks: Callable[..., list[int]] = _marks_slowly
else:
    _read, _marks = _messages.read, _messages.marks
