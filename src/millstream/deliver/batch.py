"""What a sink is given: spans that are made of their JSON when they are looked at.

Spans in memory, of ten objects each, would have Python's garbage collector go through all objects of the
program now and then, which holds it up; texts do not.
"""

from collections.abc import Iterator, Sequence
from typing import Final, overload

import msgspec

from millstream.span import Span

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Span).decode

Kept = bytes | Span
"""A span as JSON; itself where a processor put something into it that is no JSON."""


def kept(span: Span) -> Kept:
    """What is kept of a span until it is sent."""
    try:
        return _encode(span)
    except Exception:  # noqa: BLE001  # a processor may put anything into it
        return span


class Batch(Sequence[Span]):
    """Spans, each made anew whenever it is looked at."""

    __slots__ = ("_kept",)

    def __init__(self, kept: Sequence[Kept]) -> None:
        self._kept = kept

    def __len__(self) -> int:
        return len(self._kept)

    @overload
    def __getitem__(self, index: int) -> Span: ...
    @overload
    def __getitem__(self, index: slice) -> "Batch": ...
    def __getitem__(self, index: int | slice) -> "Span | Batch":
        if isinstance(index, slice):
            return Batch(self._kept[index])
        one = self._kept[index]
        return _decode(one) if type(one) is bytes else one  # type: ignore[return-value]

    def __iter__(self) -> Iterator[Span]:
        for one in self._kept:
            yield _decode(one) if type(one) is bytes else one  # type: ignore[misc]
