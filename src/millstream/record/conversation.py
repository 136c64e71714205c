"""The messages of a model call, taken at once and written as JSON only where they are new.

A conversation comes again with every call, a little longer. What its messages are made of is text that does
not change, and that Python hashes once: so it is known again without being written out.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from millstream.record.serialize import to_json

Part = tuple[str, ...] | bytes
"""A message: role and text, of a tool's also its call's id; JSON where there is more to it."""
_NAMES: Final = ("role", "content", "tool_call_id")


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

    def json(self, limit: int, start: int = 0) -> bytes:
        """The messages from one on, as a JSON list; cut where it is longer than `limit` bytes."""
        return to_json([_message(part) for part in self.parts[start:]], limit)

    def fits(self, limit: int) -> bool:
        """Whether its JSON is certainly not longer than `limit` bytes; a character takes six at most."""
        return (self.size + _AROUND * len(self.parts)) * 6 <= limit

    def marks(self) -> list[int]:
        """A hash of the first message, of the first two, and so on."""
        mark, marks = 0, []
        for part in self.parts:
            mark = hash((mark, part))
            marks.append(mark)
        return marks


_AROUND: Final = 100
"""Characters of a message around its text; usually half as many."""


def _message(part: Part) -> Any:
    return msgspec.Raw(part) if type(part) is bytes else dict(zip(_NAMES, part, strict=False))
