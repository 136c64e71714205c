"""One tree of two libraries' spans: which of our current span and OpenTelemetry's is the innermost.

OpenTelemetry keeps its current span in a context of its own, we keep ours in another; nobody says which was
entered last. The tree of spans says it: of two current spans, one that was started inside the other is
the inner one.
"""

import sys
import weakref
from typing import Any, Final

from opentelemetry.context import Context, get_current
from opentelemetry.sdk.trace import ReadableSpan, Span
from opentelemetry.trace import SpanContext as OTelSpanContext
from opentelemetry.trace import get_current_span

from millstream import context
from millstream.context import SpanContext
from millstream.record import faults
from millstream.record.live import LiveSpan

_Key = tuple[int, int]


class Copy(weakref.ref[Span]):
    """A span of OpenTelemetry, as long as that lives, and its copy.

    Attributes:
        key: trace id and span id.
        live: the copy; ended with the span, and the parent of what starts in the span later.
        started_in: our current span when it started; another than its parent, where that was told.
        opened_ns: the monotonic clock when it started.
        handling: the identity of the exception that was being handled when it started, else 0.
    """

    __slots__ = ("handling", "key", "live", "opened_ns", "started_in")

    key: _Key
    live: LiveSpan
    started_in: SpanContext | None
    opened_ns: int
    handling: int


_copies: Final[dict[_Key, Copy]] = {}
_processors: Final["weakref.WeakSet[Any]"] = weakref.WeakSet()


def begin(processor: object) -> None:
    """Join from now on."""
    _processors.add(processor)
    context.joined = _join


def end(processor: object) -> None:
    """Join no longer, unless another processor is there."""
    _processors.discard(processor)
    if not _processors:
        context.joined = None


def copy_of(told: OTelSpanContext) -> Copy | None:
    """What is kept of a span that was copied, or is being."""
    return _copies.get((told.trace_id, told.span_id))


def remember(span: Span, live: LiveSpan) -> None:
    """Keep the copy for as long as the span lives: in it, or after its end, others may start."""
    copy = Copy(span, _forget)
    told = span.context
    copy.key = (told.trace_id, told.span_id)
    copy.live = live
    copy.started_in = context.current.get()
    copy.opened_ns = live.recorder.monotonic_ns()
    error = sys.exception()
    copy.handling = 0 if error is None else id(error)
    _copies[copy.key] = copy


def _forget(copy: Any) -> None:
    _copies.pop(copy.key, None)


def known(told: OTelSpanContext | None) -> SpanContext | None:
    """The copy of the span that is told of, or what is told, as a span of another process."""
    if told is None or not told.is_valid:
        return None
    copy = copy_of(told)
    if copy is not None:
        return copy.live
    sampled = bool(told.trace_flags & 1)
    return SpanContext.remote(f"{told.trace_id:032x}", f"{told.span_id:016x}", sampled=sampled)


def parent_of(span: ReadableSpan, parent_context: Context | None) -> SpanContext | None:
    """The span that a starting span of OpenTelemetry belongs in; `None` for the root of a trace."""
    here = get_current()
    if (
        parent_context is None
        or parent_context is here
        or get_current_span(parent_context) is get_current_span(here)
    ):
        return _innermost(context.current.get(), here) or known(span.parent)
    return known(span.parent)  # it was told where to start


def _join(ours: SpanContext | None) -> tuple[SpanContext | None, Any]:
    """See `context.joined`."""
    try:
        here = get_current()
        if ours is not None and ours is not context.current.get():  # it was told where to start
            copy = copy_of(get_current_span(here).get_span_context())
            return (copy.live if copy is not None and _is_inside(copy.live, ours) else ours), here
        return _innermost(ours, here), here
    except Exception as fault:  # noqa: BLE001  # telemetry never breaks the user's program
        faults.swallow(fault, "the current span of OpenTelemetry could not be told")
        return ours, None


def _innermost(ours: SpanContext | None, here: Context) -> SpanContext | None:
    """The innermost of our current span and the one of OpenTelemetry's context."""
    if not here or (ours is not None and ours.opened_in is here):  # nothing was entered there, or since
        return ours
    span = get_current_span(here)
    told = span.get_span_context()
    if not told.is_valid:
        return ours
    copy = copy_of(told)
    if copy is None:
        return _or_uncopied(ours, told, recording=span.is_recording())
    live = copy.live
    if ours is None or _is_inside(live, ours):
        return live
    if _is_inside(ours, live):
        return ours
    return live if _entered_inside(copy, ours, span) else ours


def _entered_inside(copy: Copy, ours: SpanContext, span: Any) -> bool:
    """Which is the inner of two current spans of which neither is the other's ancestor, if it is theirs.

    It is, if it was started while ours was current, by a parent that it was told; and if it was started
    before ours, aside, and entered later. It is not, if it was started elsewhere after ours: then ours is a
    generator that goes on inside a span of its consumer.
    """
    if copy.started_in is not None and _is_inside(copy.started_in, ours):
        return True
    if not isinstance(ours, LiveSpan) or (ours.opened_in and get_current_span(ours.opened_in) is span):
        return False
    return not ours.is_open or copy.opened_ns <= ours.start_ns - ours.anchor_ns


def _or_uncopied(ours: SpanContext | None, told: OTelSpanContext, *, recording: bool) -> SpanContext | None:
    """Of a span that is not in our journal: of another process, of another provider, or not sampled."""
    if told.is_remote:
        theirs = known(told)
        return ours if ours is not None and theirs is not None and _is_inside(ours, theirs) else theirs
    return known(told) if ours is None and recording else ours


def _is_inside(span: SpanContext, other: SpanContext) -> bool:
    """Whether `span` is `other` or was started in it, at any depth."""
    above: SpanContext | None = span
    while above is not None:
        if above is other or (above.span_id == other.span_id and above.trace_id == other.trace_id):
            return True
        above = getattr(above, "parent", None)
    return False
