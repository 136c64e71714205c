"""What users say of a span, made fit to be stored: how it ended, counts, kinds; what cannot be is counted."""

import operator
import re
from enum import Enum
from typing import Any, Final, TypeVar

import msgspec

from millstream.record import faults
from millstream.record.serialize import to_text
from millstream.span import SpanError, Status, Usage

_E = TypeVar("_E", bound=Enum)
_TRACE_ID: Final = re.compile(r"(?!0{32})[0-9a-f]{32}")
WHOLE: Final = frozenset({int, type(None)})
"""Types of counts that need not be seen to."""
_CANCELLED: Final = frozenset({"CancelledError", "Cancelled", "KeyboardInterrupt"})


def outcome(error: BaseException | None, status: Status) -> tuple[Status, SpanError | None]:
    """The status of a span that an exception ended, or none did, and what is kept of the exception."""
    if error is None or isinstance(error, GeneratorExit):  # a consumer that stops early is no error
        return member(Status, status, Status.OK), None
    if isinstance(error, SystemExit) and error.code in (None, 0):  # a program that ends as it should
        return Status.OK, None
    kind = type(error)
    cancelled = any(base.__name__ in _CANCELLED for base in kind.__mro__)
    try:
        message = to_text(str(error)[:10_000])
    except Exception:  # noqa: BLE001  # a user's __str__ may raise anything
        message = "(its message could not be read)"
    return (Status.CANCELLED if cancelled else Status.ERROR), SpanError(to_text(kind.__name__), message)


def member(kind: type[_E], value: Any, default: _E) -> _E:
    """The member of an enumeration that a user named by its value."""
    try:
        return kind(value)
    except ValueError as fault:
        faults.swallow(fault, f"an unknown {kind.__name__} was not used")
        return default


def known_trace_id(trace_id: Any) -> str | None:
    """A trace id that a user gave, if it can be one."""
    text = str(trace_id).lower()
    if _TRACE_ID.fullmatch(text):
        return text
    faults.swallow(
        ValueError(f"{trace_id!r:.100} is not 32 hex digits"), "a trace_id that cannot be one was not used"
    )
    return None


def whole_counts(usage: Usage) -> Usage:
    """The usage with counts that are whole numbers; others become unknown."""
    counts = msgspec.structs.astuple(usage)
    return usage if WHOLE.issuperset(map(type, counts)) else Usage(*map(_whole, counts))


def _whole(count: Any) -> int | None:
    if count is None:
        return None
    try:
        return int(operator.index(count))
    except TypeError as fault:
        faults.swallow(fault, "a token count that is no whole number was not recorded")
        return None
