"""Whether two spans are of the same call, and what the one takes from the other."""

from typing import Any, Final

import msgspec

from millstream import choices, semconv
from millstream.span import Span, SpanKind, Status, Usage

_UNSET: Final = msgspec.UNSET
_OWN: Final = ("otel.", "logfire.", "code.", "thread.")
"""Attributes that are true of one span only."""


def is_same(outer: Span, inner: Span) -> bool:
    """Whether a span directly inside another is of the same call."""
    if outer.kind is not inner.kind:
        return False
    if outer.kind is SpanKind.TOOL:
        return _tool(outer) == _tool(inner) and not _differ(outer, inner, semconv.TOOL_CALL_ID)
    return not _differ(outer, inner, semconv.RESPONSE_ID)


def may_be_one(one: Span, other: Span) -> bool:
    """Whether two model calls of one trace are the same: they tell the same response, and overlap.

    A response that comes again, later, was kept in a cache.
    """
    told = one.attributes.get(semconv.RESPONSE_ID)
    return (
        told is not None
        and one.kind is other.kind
        and told == other.attributes.get(semconv.RESPONSE_ID)
        and _overlap(one, other)
    )


def _overlap(one: "Span | Given", other: Span) -> bool:
    return (one.end_ns is None or other.start_ns <= one.end_ns) and (
        other.end_ns is None or one.start_ns <= other.end_ns
    )


def take_of(outer: Span, inside: list[Span]) -> list[Span]:
    """Those of the same-looking spans directly inside a span that are its call; each counts once.

    Of several that were answered, each is a call of its own, unless the outer one has counted their tokens.
    """
    answered = [inner for inner in inside if is_answered(inner)]
    if len(answered) > 1 and outer.usage is None:
        return []
    if outer.kind is SpanKind.TOOL and len(inside) > 1:
        return []
    return inside


def is_answered(span: Span) -> bool:
    """Whether it tells of an answer."""
    return span.usage is not None or semconv.RESPONSE_ID in span.attributes


class Given(msgspec.Struct, frozen=True, gc=False):
    """A model call that was given: what tells whether another, with the same response, is the same.

    Attributes:
        counted: whether it told of tokens.
    """

    span_id: str
    start_ns: int
    end_ns: int | None
    counted: bool

    def may_be(self, other: Span) -> bool:
        """Whether a call adds nothing to this one."""
        return _overlap(self, other) and (self.counted or not other.usage)


def absorb(outer: Span, inner: Span) -> None:
    """The outer span takes what it does not know."""
    if outer.input is _UNSET:
        outer.input = inner.input
    if _tells_more(inner, outer):
        outer.output = inner.output
        if semconv.RESPONSE_FINISH_REASONS in inner.attributes:
            outer.attributes.pop(semconv.RESPONSE_FINISH_REASONS, None)
    outer.usage = _usage(outer.usage, inner.usage)
    outer.workload_id = outer.workload_id or inner.workload_id
    outer.links = outer.links or inner.links
    outer.events = outer.events or inner.events
    told = {key: value for key, value in inner.attributes.items() if not key.startswith(_OWN)}
    first_chunk_s = told.get(semconv.TIME_TO_FIRST_CHUNK_S)
    if isinstance(first_chunk_s, int | float):
        told[semconv.TIME_TO_FIRST_CHUNK_S] = first_chunk_s + (inner.start_ns - outer.start_ns) / 1e9
    outer.attributes = {**told, **outer.attributes}
    if outer.status is Status.ERROR and outer.error is None:
        outer.error = inner.error
    outer.start_ns = min(outer.start_ns, inner.start_ns)
    if outer.end_ns is not None and inner.end_ns is not None:
        outer.end_ns = max(outer.end_ns, inner.end_ns)


def _tells_more(inner: Span, outer: Span) -> bool:
    """Whether the inner span holds the output, or more of its choices: some tell the first one only."""
    if outer.kind is SpanKind.LLM:
        return choices.count(inner.output) > choices.count(outer.output)
    return outer.output is _UNSET


def _usage(outer: Usage | None, inner: Usage | None) -> Usage | None:
    if outer is None or inner is None:
        return outer or inner
    known: dict[str, Any] = {
        name: value for name, value in msgspec.structs.asdict(outer).items() if value is not None
    }
    return Usage(**{**msgspec.structs.asdict(inner), **known})


def _tool(span: Span) -> Any:
    return span.attributes.get(semconv.TOOL_NAME) or span.name


def _differ(one: Span, other: Span, name: str) -> bool:
    told, also = one.attributes.get(name), other.attributes.get(name)
    return told is not None and also is not None and told != also
